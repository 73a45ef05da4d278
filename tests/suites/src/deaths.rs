//! Programs that must not survive: each ends with a reason on the console and exit code 101.
//!
//! The test runner starts the suites with `die:NAME` and compares what was said.

use alloc::boxed::Box;
use core::hint::black_box;
use core::ptr::with_exposed_provenance;

use unspool::panic::{always_abort, catch_unwind, platform, resume_unwind};
use unspool::thread_local;
use unspool::unwind::{Exception, raise};
use unspool_kernel::{ExitCode, loader, println, task};

use crate::support::module;

/// Dies as `name` says. Returns only if there is no such death, or if it was survived.
pub fn run(name: &str) -> ExitCode {
    let die: fn() = match name {
        "drop_panics_during_cleanup" => drop_panics_during_cleanup,
        "panic_leaves_extern_c" => panic_leaves_extern_c,
        "thread_local_panics_on_drop" => thread_local_panics_on_drop,
        "kill_leaves_extern_c" => kill_leaves_extern_c,
        "always_abort" => abort_always,
        "display_panics" => display_panics,
        "drop_faults_during_cleanup" => drop_faults_during_cleanup,
        "foreign_exception" => foreign_exception,
        "stack_overflow" => stack_overflow,
        "stack_smash" => stack_smash,
        _ => {
            println!("no such death: {name}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = task::spawn("dies", die).join();
    println!("survived: {}", outcome.is_completed());
    ExitCode::FAILURE
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("while dropping");
    }
}

fn drop_panics_during_cleanup() {
    let _ = catch_unwind(|| {
        let _bad = PanicsOnDrop;
        resume_unwind(Box::new(()));
    });
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

fn thread_local_panics_on_drop() {
    thread_local! {
        static BAD: PanicsOnDrop = const { PanicsOnDrop };
    }
    BAD.with(|_| ());
}

fn abort_always() {
    always_abort();
    let _ = catch_unwind(|| panic!("the last words"));
}

/// A message that panics while it is being printed.
fn display_panics() {
    struct Worse;
    impl core::fmt::Display for Worse {
        fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            panic!("while formatting")
        }
    }
    panic!("{Worse}");
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
