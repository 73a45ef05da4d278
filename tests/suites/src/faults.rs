//! CPU exceptions in tasks: the task ends, its callers' drops run, the others go on.

use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};

use unspool::panic::{catch_unwind, platform};
use unspool_kernel::fault::{FaultInfo, FaultKind, PageAccess};
use unspool_kernel::task;

crate::tests![
    a_read_of_page_zero_ends_the_task_and_drops_its_callers,
    a_call_that_cannot_unwind_is_passed_over,
    a_load_between_two_calls_with_one_landing_pad_does_not_run_it,
    a_call_of_what_is_no_code_runs_its_landing_pad,
    a_fault_can_be_caught_like_a_panic,
    text_and_constants_cannot_be_written,
    data_cannot_be_executed,
    other_exceptions_are_told_apart,
    the_trace_of_a_fault_starts_at_the_instruction,
    a_drop_that_runs_after_a_fault_may_panic_and_catch,
    other_tasks_go_on_after_a_fault,
];

/// Runs `body`, which must fault.
fn fault_of(body: fn()) -> FaultInfo {
    task::spawn("faults", body).join().faulted().expect("a fault and not a panic")
}

/// Reads a byte of memory that the compiler knows nothing of.
#[inline(never)]
fn read(address: usize) -> u8 {
    let byte = core::ptr::with_exposed_provenance::<u8>(black_box(address));
    // SAFETY: not at all: the access faults, which is what is tested.
    unsafe { byte.read_volatile() }
}

/// As `read`.
#[inline(never)]
fn write(address: usize) {
    let byte = core::ptr::with_exposed_provenance_mut::<u8>(black_box(address));
    // SAFETY: as in `read`.
    unsafe { byte.write_volatile(1) };
}

static DROPS: AtomicU32 = AtomicU32::new(0);

struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

#[inline(never)]
fn caller_with_drop(depth: u32) -> u8 {
    let _counted = Counted;
    // Through a pointer: the compiler must take the call for one that may unwind.
    let read = black_box(read as fn(usize) -> u8);
    let byte = if depth == 0 { read(8) } else { caller_with_drop(depth - 1) };
    black_box(byte)
}

/// The compiler knows that `read` never unwinds, and makes no landing pad.
#[inline(never)]
fn caller_without_landing_pad() -> u8 {
    let _counted = Counted;
    black_box(read(8))
}

fn a_read_of_page_zero_ends_the_task_and_drops_its_callers() {
    let before = DROPS.load(Ordering::Relaxed);
    let info = fault_of(|| {
        caller_with_drop(4);
    });
    let expected = FaultKind::PageFault { address: 8, access: PageAccess::Read, present: false };
    assert_eq!(info.kind, expected);
    assert_eq!(DROPS.load(Ordering::Relaxed) - before, 5);
}

fn a_call_that_cannot_unwind_is_passed_over() {
    let before = DROPS.load(Ordering::Relaxed);
    let info = fault_of(|| {
        let _counted = Counted;
        black_box(caller_without_landing_pad as fn() -> u8)();
    });
    assert!(matches!(info.kind, FaultKind::PageFault { address: 8, .. }));
    let drops = DROPS.load(Ordering::Relaxed) - before;
    assert!((1..=2).contains(&drops), "the outer value is dropped: {drops}");
}

/// Neighbours with the same landing pad share a range of addresses in the table, and the load with them.
fn a_load_between_two_calls_with_one_landing_pad_does_not_run_it() {
    fn nothing() {}
    #[inline(never)]
    fn owner(call: fn(), byte: *const u8) -> u8 {
        let _counted = Counted;
        call();
        // SAFETY: faults.
        let byte = unsafe { byte.read_volatile() };
        call();
        byte
    }
    let before = DROPS.load(Ordering::Relaxed);
    let info = fault_of(|| {
        let _counted = Counted;
        let byte = black_box(core::ptr::with_exposed_provenance::<u8>(8));
        black_box(owner as fn(fn(), *const u8) -> u8)(black_box(nothing), byte);
    });
    let symbol = platform().symbols().symbolize(info.registers.ip()).expect("a function");
    assert!(symbol.name.contains("owner"), "the load is part of it: {}", symbol.name);
    assert!(info.skips_cleanups, "and it is said");
    assert_eq!(DROPS.load(Ordering::Relaxed) - before, 1, "the caller's");
}

/// At a call all is where the tables say.
fn a_call_of_what_is_no_code_runs_its_landing_pad() {
    #[inline(never)]
    fn calls(function: fn()) {
        let _counted = Counted;
        function();
    }
    let before = DROPS.load(Ordering::Relaxed);
    let info = fault_of(|| {
        let nothing = core::ptr::with_exposed_provenance::<()>(black_box(16));
        // SAFETY: as in `read`: the call faults.
        let function = unsafe { core::mem::transmute::<*const (), fn()>(nothing) };
        black_box(calls as fn(fn()))(function);
    });
    let expected =
        FaultKind::PageFault { address: 16, access: PageAccess::Execute, present: false };
    assert_eq!(info.kind, expected);
    let symbol = platform().symbols().symbolize(info.registers.ip()).expect("a function");
    assert!(symbol.name.contains("calls"), "{}", symbol.name);
    assert!(!info.skips_cleanups);
    assert_eq!(DROPS.load(Ordering::Relaxed) - before, 1);
}

fn a_fault_can_be_caught_like_a_panic() {
    let payload = catch_unwind(|| caller_with_drop(0)).unwrap_err();
    assert!(payload.is::<FaultInfo>());
    let again = catch_unwind(|| caller_with_drop(1)).unwrap_err();
    assert!(again.is::<FaultInfo>(), "and again, on the same stack");
    let byte = black_box(core::ptr::with_exposed_provenance::<u8>(8));
    // SAFETY: as in `read`.
    let inner = catch_unwind(|| unsafe { byte.read_volatile() }).unwrap_err();
    assert!(
        inner.is::<FaultInfo>(),
        "in the closure itself, which is no part of the frame that catches"
    );
}

fn page_fault(info: &FaultInfo) -> (usize, PageAccess, bool) {
    match info.kind {
        FaultKind::PageFault { address, access, present } => (address as usize, access, present),
        other => panic!("{other}"),
    }
}

fn text_and_constants_cannot_be_written() {
    static CONSTANT: [u8; 64] = [7; 64];
    let text = fault_of(|| write(read as *const () as usize));
    assert_eq!(page_fault(&text), (read as *const () as usize, PageAccess::Write, true));
    let constant = fault_of(|| write((&raw const CONSTANT).expose_provenance()));
    let address = (&raw const CONSTANT).expose_provenance();
    assert_eq!(page_fault(&constant), (address, PageAccess::Write, true));
    assert_eq!(CONSTANT[0], 7);
}

fn data_cannot_be_executed() {
    static mut CODE: [u8; 16] = [0xc3; 16];
    let info = fault_of(|| {
        let code = &raw const CODE;
        // SAFETY: as in `read`: the call faults.
        let function = unsafe { core::mem::transmute::<*const [u8; 16], fn()>(code) };
        black_box(function)();
    });
    let (address, access, _) = page_fault(&info);
    assert_eq!((address, access), ((&raw const CODE).expose_provenance(), PageAccess::Execute));
}

fn other_exceptions_are_told_apart() {
    let invalid = fault_of(|| {
        // SAFETY: as in `read`.
        unsafe { asm!("ud2") }
    });
    assert_eq!(invalid.kind, FaultKind::InvalidOpcode);
    let divide = fault_of(|| {
        // SAFETY: as in `read`.
        unsafe { asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _) }
    });
    assert_eq!(divide.kind, FaultKind::DivideError);
    let general = fault_of(|| {
        // SAFETY: as in `read`; the address is not canonical.
        unsafe { asm!("mov {0}, [{0}]", inout(reg) 0x8000_0000_0000_0000_u64 => _) }
    });
    assert!(matches!(general.kind, FaultKind::GeneralProtection { .. }), "{}", general.kind);
}

fn the_trace_of_a_fault_starts_at_the_instruction() {
    let info = fault_of(|| {
        read(16);
    });
    let ip = info.registers.ip();
    let symbol = platform().symbols().symbolize(ip).expect("a function of this program");
    assert!(symbol.name.contains("faults") && symbol.name.contains("read"), "{}", symbol.name);
}

fn a_drop_that_runs_after_a_fault_may_panic_and_catch() {
    struct Catches;
    impl Drop for Catches {
        fn drop(&mut self) {
            let caught = catch_unwind(|| panic!("after the fault")).map(|(): ()| ());
            assert!(caught.is_err());
            DROPS.fetch_add(100, Ordering::Relaxed);
        }
    }
    let before = DROPS.load(Ordering::Relaxed);
    let info = fault_of(|| {
        let _catches = Catches;
        caller_with_drop(0);
    });
    assert!(matches!(info.kind, FaultKind::PageFault { .. }));
    assert_eq!(DROPS.load(Ordering::Relaxed) - before, 101);
}

fn other_tasks_go_on_after_a_fault() {
    let other = task::spawn("other", || {
        let mut rounds = 0;
        for _ in 0..10 {
            task::yield_now();
            rounds += 1;
        }
        rounds
    });
    fault_of(|| write(32));
    assert_eq!(other.join().unwrap(), 10);
}
