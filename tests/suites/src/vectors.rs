//! Every exception that can be raised, and what a policy makes of it: resume, unwind.
//!
//! Ring 0 and ring 3 (the bare process) differ in what the CPU allows, and say so: an `int n` that ring
//! 3 may not execute is a #GP with the vector in its error code (Intel SDM volume 3, §6.12.1.2).
//!
//! Brought about for real, here, in `provoked` (ring 0) and in `deaths`:
//!
//! | | by |
//! |---|---|
//! | #DE #UD #BP #OF #DB | `div`, `ud2`, `int3`, `int 4` (`into` is #UD in long mode), the trap flag |
//! | #NP #SS #GP #PF | selectors, addresses |
//! | #DF #TS | an IDT that is too short, a TSS that is too short |
//! | #NM | CR0.TS, CR0.EM |
//! | #MF #XM | unmasked exceptions; for #XM, QEMU's TCG computes on, so only ring 3 has it |
//! | #AC | ring 3 with EFLAGS.AC; ring 0 is never checked (Intel SDM volume 3, §6.15, interrupt 17) |
//! | #MC | QEMU's monitor, among the deaths |
//!
//! By `int n` alone, which brings the vector without an error code and so only where the CPU pushes
//! none:
//!
//! | | because |
//! |---|---|
//! | #BR | `bound` is no instruction of long mode |
//! | 9 | no CPU since the 80386 raises it |
//! | #VE (20) | only a guest of VT-x gets it; TCG is none |
//! | 28 | only a guest of Hyper-V or SVM gets #HV |
//!
//! Not at all, as they have an error code, which `int n` does not push (the stub would take the frame for
//! another): #CP (21), since TCG has no shadow stacks nor indirect branch tracking; #VC (29), which needs
//! an encrypted guest (SEV-ES); #SX (30), which needs SVM's redirection of INIT. Their gates and stubs are
//! made by the same macro, from the same list of vectors with error codes, as those above.

use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use alloc::string::ToString;
use spin::Mutex;
use unspool::backtrace::{Captured, End, FrameKind};
use unspool::panic::{catch_unwind, platform, set_hook, take_hook};
use unspool::unwind::Register;
use unspool_kernel::fault::{Decision, Fault, FaultInfo, FaultKind, Policy, set_policy};
use unspool_kernel::{cpu, nmi, task};

crate::tests![
    every_vector_without_an_error_code_is_told_apart_and_resumed,
    vectors_with_an_error_code_are_told_apart,
    floating_point_exceptions_unwind_with_exceptions_masked,
    a_single_step_is_a_debug_exception,
    misaligned_accesses_are_reported_in_ring_3,
    a_breakpoint_is_passed_over,
    a_policy_changes_registers_and_resumes,
    a_policy_unwinds_or_resumes_as_it_likes,
    flags_are_as_before_the_fault,
    a_fault_in_a_handler_can_be_resumed,
    a_fault_in_a_panic_hook_can_be_resumed,
    a_fault_has_a_backtrace,
    a_function_that_faults_itself_says_that_its_values_are_not_dropped,
    a_policy_sees_a_trace_across_stacks,
];

/// What the policy of a test saw.
pub static SEEN: Mutex<Option<FaultKind>> = Mutex::new(None);

/// Where a policy goes on, and with which stack pointer and `rbx`.
pub static GO_ON: AtomicU64 = AtomicU64::new(0);

/// Runs `body` with a policy. Other tests do not run meanwhile.
pub fn with_policy<R>(policy: Policy, body: impl FnOnce() -> R) -> R {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            set_policy(None);
        }
    }
    assert!(set_policy(Some(policy)).is_none());
    let _restore = Restore;
    body()
}

/// Notes the kind, and goes on where the test says: at [`GO_ON`], with the stack as it is.
pub fn note_and_go_on(fault: &mut Fault<'_>) -> Decision {
    *SEEN.lock() = Some(fault.kind());
    let registers = fault.registers().with(Register::RA, GO_ON.load(Ordering::Relaxed));
    // SAFETY: the test's assembly expects to go on there, with all registers as they are.
    unsafe { fault.set_registers(&registers) };
    Decision::Resume
}

/// Executes instructions that fault somewhere; goes on after them.
macro_rules! seen {
    ($($line:expr),* ; $($operand:tt)*) => {{
        *$crate::vectors::SEEN.lock() = None;
        $crate::vectors::with_policy($crate::vectors::note_and_go_on, || {
            // SAFETY: the policy goes on at the label; the instructions change what they declare, and
            // the red zone is not used.
            unsafe {
                asm!(
                    "lea {scratch}, [rip + 22f]",
                    "mov [rip + {go_on}], {scratch}",
                    $($line,)*
                    "22:",
                    scratch = out(reg) _,
                    go_on = sym $crate::vectors::GO_ON,
                    $($operand)*
                )
            }
        });
        $crate::vectors::SEEN.lock().take()
    }};
}
pub(crate) use seen;

/// Whether this code may do everything (Intel SDM volume 3, §5.5).
pub fn in_ring_0() -> bool {
    let selector: u64;
    // SAFETY: only reads a register.
    unsafe { asm!("mov {}, cs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector & 3 == 0
}

/// The error code of an `int` that ring 3 may not execute.
fn denied(vector: u64) -> FaultKind {
    FaultKind::GeneralProtection { error: vector << 3 | 2 }
}

fn every_vector_without_an_error_code_is_told_apart_and_resumed() {
    macro_rules! check {
        ($($vector:literal $kind:expr),* $(,)?) => {
            $({
                let expected = match $vector {
                    // These two may be raised by anybody.
                    3 | 4 => $kind,
                    _ if in_ring_0() => $kind,
                    vector => denied(vector),
                };
                assert_eq!(seen!(concat!("int ", $vector) ;), Some(expected), "int {}", $vector);
            })*
        };
    }
    check![
        0 FaultKind::DivideError,
        1 FaultKind::Debug,
        3 FaultKind::Breakpoint,
        4 FaultKind::Overflow,
        5 FaultKind::BoundRange,
        6 FaultKind::InvalidOpcode,
        7 FaultKind::DeviceNotAvailable,
        9 FaultKind::Other { vector: 9, error: 0 },
        16 FaultKind::X87,
        18 FaultKind::MachineCheck,
        19 FaultKind::Simd,
        20 FaultKind::Virtualization,
        28 FaultKind::Other { vector: 28, error: 0 },
    ];
    assert_eq!(seen!("ud2" ;), Some(FaultKind::InvalidOpcode));
    // `into`
    assert_eq!(seen!(".byte 0xce" ;), Some(FaultKind::InvalidOpcode));
    let divide =
        seen!("xor edx, edx", "div {zero:e}" ; zero = in(reg) 0, out("rax") _, out("rdx") _);
    assert_eq!(divide, Some(FaultKind::DivideError));
}

/// Where a table of descriptors is, as `lgdt` and `lidt` have it.
#[repr(C, packed)]
pub struct TablePointer {
    /// Bytes of the table, minus 1.
    pub limit: u16,
    /// Where it is.
    pub base: u64,
}

/// Runs `body` with the selector of a data segment that is not present, on this CPU.
fn with_absent_segment(body: impl FnOnce(u64)) {
    const ENTRIES: usize = 16;
    /// Writable data, not present, ring 0 (Intel SDM volume 3, §3.4.5).
    const ABSENT: u64 = 0x00cf_1200_0000_ffff;
    let _here = cpu::NoPreemption::new();
    let mut old = TablePointer { limit: 0, base: 0 };
    // SAFETY: stores ten bytes.
    unsafe { asm!("sgdt [{}]", in(reg) &raw mut old, options(nostack, preserves_flags)) };
    let used = (usize::from(old.limit) + 1) / size_of::<u64>();
    assert!(used < ENTRIES);
    let mut table = [0_u64; ENTRIES];
    for (index, entry) in table.iter_mut().enumerate().take(used) {
        let place = core::ptr::with_exposed_provenance::<u64>(old.base as usize);
        // SAFETY: the table in use, inside its limit.
        *entry = unsafe { place.add(index).read_volatile() };
    }
    table[used] = ABSENT;
    let base = table.as_ptr().expose_provenance() as u64;
    let new = TablePointer { limit: size_of_val(&table) as u16 - 1, base };
    // SAFETY: all selectors in use mean the same in the copy, which stays until the end of this
    // function; the task keeps its CPU.
    unsafe { asm!("lgdt [{}]", in(reg) &raw const new, options(nostack, preserves_flags)) };
    body((used * size_of::<u64>()) as u64);
    // SAFETY: the table that was loaded before.
    unsafe { asm!("lgdt [{}]", in(reg) &raw const old, options(nostack, preserves_flags)) };
}

fn vectors_with_an_error_code_are_told_apart() {
    let general = seen!("mov {bad}, [{bad}]" ; bad = inout(reg) 1_u64 << 63 => _);
    assert_eq!(general, Some(FaultKind::GeneralProtection { error: 0 }));
    let stack = seen!(
        "mov {kept}, rbp", "mov rbp, {bad}", "mov {bad}, [rbp]", "nop", "22:", "mov rbp, {kept}" ;
        kept = out(reg) _, bad = inout(reg) 1_u64 << 63 => _
    );
    // QEMU calls it a #GP.
    assert!(stack == Some(FaultKind::StackSegment { error: 0 }) || stack == general, "{stack:?}");
    let page = seen!("mov {bad:e}, [{bad}]" ; bad = inout(reg) 8_u64 => _);
    assert!(matches!(page, Some(FaultKind::PageFault { address: 8, .. })), "{page:?}");
    let load_data = |selector: u64| seen!("mov ds, {selector:e}" ; selector = in(reg) selector);
    // A selector beyond the table.
    assert_eq!(load_data(0xfff8), Some(FaultKind::GeneralProtection { error: 0xfff8 }));
    if in_ring_0() {
        with_absent_segment(|error| {
            assert_eq!(load_data(error), Some(FaultKind::SegmentNotPresent { error }));
            let stack = seen!("mov ss, {error:e}" ; error = in(reg) error);
            assert_eq!(stack, Some(FaultKind::StackSegment { error }));
        });
    }
}

/// The control word of SSE.
fn mxcsr() -> u32 {
    let mut value = 0_u32;
    // SAFETY: stores four bytes.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
    value
}

/// All SSE exceptions are masked, as at the start of a program.
static MASKS: u32 = 0x1f80;

fn floating_point_exceptions_unwind_with_exceptions_masked() {
    static DROPPED: AtomicU32 = AtomicU32::new(0);
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            assert_eq!(mxcsr() & MASKS, MASKS);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
    let fault = |body: fn()| {
        DROPPED.store(0, Ordering::Relaxed);
        let outcome = task::spawn("computes", move || {
            let _counted = Counted;
            black_box(body)();
        });
        let info = outcome.join().faulted();
        (info.map(|info| info.kind), DROPPED.load(Ordering::Relaxed))
    };
    // All exceptions unmasked, 1 / 0, and the next instruction waits for the result.
    let x87 = fault(|| {
        let control = 0x340_u16;
        // SAFETY: as all of these: that it faults is what is tested.
        unsafe {
            asm!("fldcw [{}]", "fld1", "fldz", "fdivp", "fwait", in(reg) &raw const control);
        }
    });
    assert_eq!(x87, (Some(FaultKind::X87), 1));
    let simd = fault(|| {
        let (control, one) = (0_u32, 1.0_f64);
        // SAFETY: as above.
        unsafe {
            asm!(
                "ldmxcsr [{}]", "divsd {}, {}", "ldmxcsr [{}]",
                in(reg) &raw const control, inout(xmm_reg) one => _, in(xmm_reg) 0.0_f64,
                in(reg) &raw const MASKS,
            );
        }
    });
    // QEMU without hardware's help computes on.
    assert!(matches!(simd, (Some(FaultKind::Simd) | None, 1)), "{simd:?}");
    assert!(simd.0.is_some() || in_ring_0());
}

fn a_single_step_is_a_debug_exception() {
    static STEPS: AtomicU32 = AtomicU32::new(0);
    STEPS.store(0, Ordering::Relaxed);
    let steps = |fault: &mut Fault<'_>| {
        STEPS.fetch_add(u32::from(fault.kind() == FaultKind::Debug), Ordering::Relaxed);
        Decision::Resume
    };
    with_policy(steps, || {
        // SAFETY: leaves flags and stack as they were; the red zone is stepped over.
        unsafe {
            asm!(
                "sub rsp, 128",
                "pushfq",
                "pushfq",
                "or qword ptr [rsp], 0x100",
                "popfq",
                "nop",
                "nop",
                "popfq",
                "lea rsp, [rsp + 128]"
            );
        }
    });
    // After each of the two, and after the `popfq` that ends it.
    assert_eq!(STEPS.load(Ordering::Relaxed), 3);
}

fn misaligned_accesses_are_reported_in_ring_3() {
    let words = [0_u64; 2];
    let odd = (&raw const words).addr() + 1;
    let kind = seen!(
        "sub rsp, 128", "pushfq", "or qword ptr [rsp], 0x40000", "popfq",
        "mov {odd}, [{odd}]", "22:",
        "pushfq", "and qword ptr [rsp], ~0x40000", "popfq", "add rsp, 128" ;
        odd = inout(reg) odd => _
    );
    // A system may not check at all, ring 0 never does.
    assert!(matches!(kind, Some(FaultKind::AlignmentCheck) | None), "{kind:?}");
    assert!(!in_ring_0() || kind.is_none());
}

fn a_breakpoint_is_passed_over() {
    let after: u32;
    // SAFETY: the default policy goes on after the breakpoint.
    unsafe { asm!("mov {0:e}, 1", "int3", "inc {0:e}", out(reg) after) };
    assert_eq!(after, 2);
}

fn a_policy_changes_registers_and_resumes() {
    /// Makes a division by zero one by `rbx`.
    fn divide_by_rbx(fault: &mut Fault<'_>) -> Decision {
        let registers = fault.registers();
        let divisor = registers.get(Register::R8);
        // SAFETY: the instruction in the test divides by `rcx`, and by nothing else.
        unsafe { fault.set_registers(&registers.with(Register::RCX, divisor)) };
        Decision::Resume
    }
    let quotient = with_policy(divide_by_rbx, || {
        let quotient: u64;
        // SAFETY: the policy mends the divisor.
        unsafe {
            asm!(
                "div rcx", inout("rcx") 0_u64 => _, inout("rax") 84_u64 => quotient,
                inout("rdx") 0_u64 => _, in("r8") 2_u64
            );
        }
        quotient
    });
    assert_eq!(quotient, 42);
}

fn a_policy_unwinds_or_resumes_as_it_likes() {
    fn every_other(fault: &mut Fault<'_>) -> Decision {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return Decision::Unwind;
        }
        let registers = fault.registers();
        let after = registers.with(Register::RA, registers.ip() + 2);
        // SAFETY: `ud2` has two bytes.
        unsafe { fault.set_registers(&after) };
        Decision::Resume
    }
    #[inline(never)]
    fn undefined() {
        // SAFETY: the policy decides.
        unsafe { asm!("ud2") };
    }
    let unwound = with_policy(every_other, || {
        let call = || catch_unwind(|| black_box(undefined as fn())()).is_err();
        [call(), call(), call(), call()]
    });
    assert_eq!(unwound, [true, false, true, false]);
}

/// The flags of the caller.
fn flags() -> u64 {
    let flags: u64;
    // SAFETY: uses the stack, and says so.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    flags
}

fn flags_are_as_before_the_fault() {
    const INTERRUPTS: u64 = 1 << 9;
    const DIRECTION: u64 = 1 << 10;
    static IN_DROP: AtomicU64 = AtomicU64::new(0);
    struct Looks;
    impl Drop for Looks {
        fn drop(&mut self) {
            IN_DROP.store(flags(), Ordering::Relaxed);
            if in_ring_0() {
                // SAFETY: as the task began.
                unsafe { asm!("sti") };
            }
        }
    }
    #[inline(never)]
    fn backwards() {
        // SAFETY: faults.
        unsafe { asm!("std", "ud2") };
    }
    #[inline(never)]
    fn silent() {
        // SAFETY: faults; ring 3 faults at once.
        unsafe { asm!("cli", "ud2") };
    }
    for (body, interrupts) in [(backwards as fn(), true), (silent as fn(), !in_ring_0())] {
        let caught = catch_unwind(|| {
            let _looks = Looks;
            black_box(body)();
        });
        assert!(caught.unwrap_err().is::<FaultInfo>());
        let flags = IN_DROP.load(Ordering::Relaxed);
        assert_eq!(flags & INTERRUPTS != 0, interrupts);
        assert_eq!(flags & DIRECTION, 0, "psABI x86-64 §3.2.1");
    }
}

/// Passes over a `ud2`.
fn pass_over(fault: &mut Fault<'_>) -> Decision {
    let registers = fault.registers();
    // SAFETY: the test's `ud2` has two bytes.
    unsafe { fault.set_registers(&registers.with(Register::RA, registers.ip() + 2)) };
    PASSED.fetch_add(1, Ordering::Relaxed);
    Decision::Resume
}

static PASSED: AtomicU32 = AtomicU32::new(0);

/// Sends this CPU an NMI, and waits for it.
fn interrupt_here(handler: nmi::Handler, done: &AtomicU32) {
    done.store(0, Ordering::Relaxed);
    assert!(nmi::set_handler(Some(handler)).is_none());
    let here = cpu::NoPreemption::new();
    nmi::send(cpu::current());
    while done.load(Ordering::Acquire) == 0 {
        core::hint::spin_loop();
    }
    drop(here);
    nmi::set_handler(None);
}

fn a_fault_in_a_handler_can_be_resumed() {
    static DONE: AtomicU32 = AtomicU32::new(0);
    fn handler(_: &nmi::Interrupted<'_>) {
        // SAFETY: the policy passes over it.
        unsafe { asm!("ud2") };
        DONE.fetch_add(1, Ordering::Release);
    }
    PASSED.store(0, Ordering::Relaxed);
    with_policy(pass_over, || {
        for _ in 0..3 {
            interrupt_here(handler, &DONE);
        }
    });
    assert_eq!(PASSED.load(Ordering::Relaxed), 3);
}

fn a_fault_in_a_panic_hook_can_be_resumed() {
    PASSED.store(0, Ordering::Relaxed);
    set_hook(alloc::boxed::Box::new(|_| {
        // SAFETY: the policy passes over it.
        unsafe { asm!("ud2") };
    }));
    let caught = with_policy(pass_over, || catch_unwind(|| panic!("hooked")).map(|(): ()| ()));
    drop(take_hook());
    assert!(caught.is_err());
    assert_eq!(PASSED.load(Ordering::Relaxed), 1);
}

#[inline(never)]
fn reads_nothing() {
    let nothing = core::ptr::with_exposed_provenance::<u8>(black_box(24));
    // SAFETY: faults.
    unsafe { nothing.read_volatile() };
}

fn a_fault_has_a_backtrace() {
    let payload = catch_unwind(|| black_box(reads_nothing as fn())()).unwrap_err();
    let info = payload.downcast_ref::<FaultInfo>().unwrap();
    let backtrace = info.backtrace.as_ref().expect("there is memory");
    assert_eq!(backtrace.frames()[0].pc.address(), info.registers.ip());
    assert_eq!(backtrace.end(), Some(End::Outermost));
    let text = backtrace.to_string();
    let first = "      [... interrupted ...]\n   0: unspool_suites::vectors::reads_nothing\n";
    assert!(text.starts_with(first), "{text}");
    assert!(text.contains("vectors::a_fault_has_a_backtrace"), "{text}");
}

fn a_function_that_faults_itself_says_that_its_values_are_not_dropped() {
    static DROPPED: AtomicU32 = AtomicU32::new(0);
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
    #[inline(never)]
    fn owns() {
        let _counted = Counted;
        // A call that may unwind, so that there is a landing pad.
        black_box(task::yield_now as fn())();
        // SAFETY: faults.
        unsafe { asm!("ud2") };
    }
    let fault = |body: fn()| {
        let payload = catch_unwind(|| black_box(body)()).unwrap_err();
        payload.downcast_ref::<FaultInfo>().unwrap().skips_cleanups
    };
    assert!(fault(owns));
    assert_eq!(DROPPED.load(Ordering::Relaxed), 0);
    assert!(!fault(reads_nothing));
}

/// A handler's own trace goes on in what it interrupted, and says that this is another stack.
fn a_policy_sees_a_trace_across_stacks() {
    static TRACE: Mutex<Option<[Captured<48>; 2]>> = Mutex::new(None);
    fn look(fault: &mut Fault<'_>) -> Decision {
        let own = Captured::take(unspool::backtrace::trace());
        *TRACE.lock() = Some([own, Captured::take(fault.trace())]);
        Decision::Unwind
    }
    let caught = with_policy(look, || catch_unwind(|| black_box(reads_nothing as fn())()));
    assert!(caught.is_err());
    let [own, interrupted] = TRACE.lock().take().unwrap();
    for trace in [&own, &interrupted] {
        assert_eq!(trace.end(), End::Outermost, "{trace:?}");
    }
    let name = |frame: &unspool::backtrace::Frame| {
        let symbol = platform().symbols().symbolize(frame.pc.lookup());
        symbol.map(|symbol| symbol.name.to_string()).unwrap_or_default()
    };
    assert!(name(&interrupted.frames()[0]).contains("reads_nothing"));
    let other: alloc::vec::Vec<_> =
        own.frames().iter().filter(|frame| frame.kind == FrameKind::OtherStack).collect();
    assert_eq!(other.len(), 1, "{own:?}");
    assert!(name(other[0]).contains("reads_nothing"));
    let mut text = alloc::string::String::new();
    own.print(&mut text, unspool::backtrace::Style::Full, platform().symbols()).unwrap();
    assert!(text.contains("[... interrupted, on another stack ...]"), "{text}");
}
