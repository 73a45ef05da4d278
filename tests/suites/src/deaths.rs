//! Programs that must not survive: each ends with a reason on the console and exit code 101. Those that std
//! has, too, are among the `scenarios`.
//!
//! The test runner starts the suites with `die:NAME` and compares what was said.

use alloc::boxed::Box;
use core::arch::asm;
use core::hint::black_box;
use core::ptr::with_exposed_provenance;
use core::sync::atomic::{AtomicBool, Ordering};

use unspool::panic::{catch_unwind, platform, resume_unwind, set_hook, set_task_hook, take_hook};
use unspool::unwind::{Exception, catch, delete_exception, raise};
use unspool_kernel::console::listen;
use unspool_kernel::fault::{Decision, Fault, set_policy};
use unspool_kernel::{ExitCode, cpu, eprintln, loader, nmi, println, task};

use crate::held::writes_to_the_console;
use crate::storm::step_through;
use crate::support::module;

/// Dies as `name` says. Returns only if there is no such death, or if it was survived.
pub fn run(name: &str) -> ExitCode {
    let die: fn() = match name {
        "panic_leaves_extern_c" => panic_leaves_extern_c,
        "kill_leaves_extern_c" => kill_leaves_extern_c,
        "console_panics" => console_panics,
        "trace_panics" => trace_panics,
        "drop_faults_during_cleanup" => drop_faults_during_cleanup,
        "foreign_exception" => foreign_exception,
        "panic_dropped_by_others" => panic_dropped_by_others,
        "stack_overflow" => stack_overflow,
        "policy_faults" => policy_faults,
        "policy_stops" => policy_stops,
        "hook_faults" => hook_faults,
        "hook_panics_when_it_goes" => hook_panics_when_it_goes,
        "stack_smash" => stack_smash,
        "idle_panics" => idle_panics,
        "nmi_panics_in_the_console" => nmi_panics_in_the_console,
        "console_faults" => console_faults,
        "task_hook_panics_on_drop" => task_hook_panics_on_drop,
        "deadlock" => task::park,
        "machine_check" => machine_check,
        _ => {
            println!("no such death: {name}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = task::spawn("dies", die).join();
    println!("survived: {}", outcome.is_completed());
    ExitCode::FAILURE
}

/// The compiler knows that a load does not unwind: no landing pad stands between the fault and
/// the frames above the one that cleans up.
fn drop_faults_during_cleanup() {
    struct FaultsOnDrop(usize);
    impl Drop for FaultsOnDrop {
        #[inline(always)]
        fn drop(&mut self) {
            let byte = core::ptr::with_exposed_provenance::<u8>(self.0);
            // SAFETY: none: the fault is what is tested.
            unsafe { byte.read_volatile() };
        }
    }
    let _ = catch_unwind(|| {
        let _bad = FaultsOnDrop(black_box(8));
        resume_unwind(Box::new(()));
    });
}

fn panic_leaves_extern_c() {
    extern "C" fn wall() {
        panic!("against the wall");
    }
    let _ = catch_unwind(|| black_box(wall as extern "C" fn())());
}

/// As a panic: that the function may not unwind is found at the end of its cleanup.
fn kill_leaves_extern_c() {
    struct Says;
    impl Drop for Says {
        fn drop(&mut self) {
            println!("dropped by a kill");
        }
    }
    extern "C" fn wall() {
        let _says = Says;
        task::current().kill();
        task::yield_now();
    }
    black_box(wall as extern "C" fn())();
}

/// A console that panics at every piece: also at the words about that.
fn console_panics() {
    let _listening = listen(|text| {
        println!("heard {}", text.trim());
        panic!("in the console");
    });
    panic!("for the console");
}

/// What prints the trace panics, once.
fn trace_panics() {
    let _listening = listen(|text| assert!(!text.contains("trace_panics"), "in the trace"));
    panic!("to be traced");
}

fn foreign_exception() {
    let _ = catch_unwind(|| {
        let exception = Box::leak(Box::new(Exception::new(u64::from_be_bytes(*b"ELSEELSE"), None)));
        // SAFETY: the exception is never freed; the kernel has registered its tables and knows
        // this stack.
        let error = unsafe { raise(exception, platform().stack()) };
        println!("not raised: {error}");
    });
}

/// As a `catch (...)` of C++ that throws nothing again.
fn panic_dropped_by_others() {
    unsafe extern "C-unwind" fn panics(_: *mut u8) -> *mut Exception {
        resume_unwind(Box::new(()))
    }
    // SAFETY: the function takes any pointer.
    let exception = unsafe { catch(panics, core::ptr::null_mut()) };
    // SAFETY: just caught, and used no more.
    unsafe { delete_exception(exception) };
}

fn stack_overflow() {
    #[inline(never)]
    fn deeper(n: u64) -> u64 {
        let numbers = black_box([n; 64]);
        if n == u64::MAX {
            return n;
        }
        deeper(n + 1) + numbers[(n % 64) as usize]
    }
    black_box(deeper(0));
}

#[inline(never)]
fn reads_nothing() {
    let nothing = core::ptr::with_exposed_provenance::<u8>(black_box(8));
    // SAFETY: none: the fault is what is tested.
    unsafe { nothing.read_volatile() };
}

/// The trace goes from the second fault through the handler to the first.
fn policy_faults() {
    set_policy(Some(|_| {
        // SAFETY: none, as above.
        unsafe { asm!("ud2") };
        Decision::Resume
    }));
    black_box(reads_nothing as fn())();
}

fn policy_stops() {
    set_policy(Some(|_| Decision::Stop));
    black_box(reads_nothing as fn())();
}

fn hook_faults() {
    set_hook(Box::new(|_| black_box(reads_nothing as fn())()));
    panic!("the hook is told");
}

/// The last who has the hook is the panic that it was called for.
fn hook_panics_when_it_goes() {
    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("a hook goes");
        }
    }
    let bad = PanicsOnDrop;
    set_hook(Box::new(move |_| {
        black_box(&bad);
        drop(task::spawn("takes", || drop(take_hook())).join());
    }));
    let _ = catch_unwind(|| panic!("the hook is told"));
}

/// The handler of an NMI that hits a CPU in its idle loop: one of them soon is.
fn idle_panics() {
    static ONE_DOES: AtomicBool = AtomicBool::new(false);
    fn is_the_loop(pc: u64) -> bool {
        let symbol = platform().symbols().symbolize(pc);
        symbol.is_some_and(|symbol| symbol.name.contains("scheduler4idle"))
    }
    nmi::set_handler(Some(|interrupted| {
        let is_idle = platform().task().name == Some("idle")
            && interrupted.trace().any(|frame| is_the_loop(frame.pc.lookup()));
        if is_idle && !ONE_DOES.swap(true, Ordering::Relaxed) {
            panic!("nothing to do");
        }
    }));
    let here = cpu::NoPreemption::new();
    for number in 0.. {
        if number % cpu::count() != cpu::current() {
            nmi::send(number % cpu::count());
        }
        (0..100_000).for_each(|_| core::hint::spin_loop());
    }
    drop(here);
}

/// Nobody else can write meanwhile, and this one does not wait for itself.
fn nmi_panics_in_the_console() {
    nmi::set_handler(Some(|_| panic!("in the middle of a line")));
    step_through(
        |fault| {
            if writes_to_the_console(fault) {
                nmi::send(cpu::current());
            }
            Decision::Resume
        },
        || println!("a line"),
    );
}

/// What has the port's lock is not unwound: nobody would ever unlock it.
fn console_faults() {
    let unwind = |fault: &mut Fault<'_>| {
        if writes_to_the_console(fault) { Decision::Unwind } else { Decision::Resume }
    };
    let _ = catch_unwind(|| step_through(unwind, || println!("a line")));
    println!("the console was left");
}

/// It goes with the task, not with whoever frees that, perhaps in an idle loop.
fn task_hook_panics_on_drop() {
    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("a hook is dropped");
        }
    }
    let bad = PanicsOnDrop;
    set_task_hook(Box::new(move |info| {
        black_box(&bad);
        eprintln!("hook: {info}");
    }));
}

/// Waits for the emulator to break the machine.
#[inline(never)]
fn machine_check() {
    println!("ready for a machine check");
    (0..u64::MAX).for_each(|_| core::hint::spin_loop());
}

/// A C function that writes past its array.
fn stack_smash() {
    let object = loader().load("protected.o", module("protected.pic.o")).unwrap();
    let sum = with_exposed_provenance::<()>(object.symbol("protected_sum").unwrap() as usize);
    // SAFETY: the function of `tests/objects/protected.c`, with its type; that it goes wrong is
    // what is tested.
    let sum =
        unsafe { core::mem::transmute::<*const (), extern "C" fn(*const u8, i32) -> i32>(sum) };
    println!("survived with {}", sum([1; 64].as_ptr(), 64));
}
