//! Panics at the worst moment: another CPU holds the console, and an NMI comes inside the raise.
//!
//! ```text
//!   CPU 0: println! ─ single steps ─► the port is held ─► stays there ─────────────► goes on
//!   others: panic ─► report ─► raise ─► personality ─ NMI ─► trace, a word ─► caught ─┘
//! ```

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use unspool::backtrace::End;
use unspool::panic::{catch_unwind, platform};
use unspool::unwind::{Actions, Context, Exception, Reason};
use unspool_kernel::fault::{Decision, Fault, FaultKind};
use unspool_kernel::machine::machine;
use unspool_kernel::{cpu, eprint, nmi, println, task};

use crate::heard::heard_in_turns;
use crate::reports::{panics_deep, whole_report};
use crate::storm::step_through;
use crate::support::PATIENCE;

crate::tests![reports_come_through_while_a_cpu_holds_the_console_and_nmis_hit_the_raise];

/// Whether a step is in the middle of writing to the console: in QEMU, with the port's lock held.
pub fn writes_to_the_console(fault: &Fault<'_>) -> bool {
    if fault.kind() != FaultKind::Debug {
        return false;
    }
    let name = platform().symbols().symbolize(fault.registers().ip());
    let name = name.map(|symbol| symbol.name.to_string()).unwrap_or_default();
    let to_the_port = name.contains("uart_16550") && name.contains("send_bytes_exact");
    to_the_port || (name.contains("linux") && name.contains("Machine") && name.contains("write"))
}

/// A CPU is in the middle of writing.
static HELD: AtomicBool = AtomicBool::new(false);
/// Tasks that are still to panic and be caught.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// Stays where the console is held until all have panicked.
fn hold(fault: &mut Fault<'_>) -> Decision {
    if !HELD.load(Ordering::Relaxed) && writes_to_the_console(fault) {
        HELD.store(true, Ordering::Release);
        let begin = machine().now();
        // One CPU cannot do both: there, the NMIs come alone. Who is stuck in the end is stuck because of
        // this.
        while cpu::count() > 1
            && LEFT.load(Ordering::Acquire) != 0
            && machine().now() - begin < PATIENCE
        {
            core::hint::spin_loop();
        }
    }
    Decision::Resume
}

/// Those that each CPU had.
static NMIS: [AtomicU32; MOST_CPUS] = [const { AtomicU32::new(0) }; MOST_CPUS];
const MOST_CPUS: usize = 64;

/// What each writes.
const NMI: &str = "an NMI inside a raise\n";

/// Of them, those whose traces are whole.
static WHOLE: AtomicU32 = AtomicU32::new(0);

fn trace_and_write(interrupted: &nmi::Interrupted<'_>) {
    let (mut trace, mut raises) = (interrupted.trace(), false);
    for frame in trace.by_ref() {
        let symbol = platform().symbols().symbolize(frame.pc.lookup());
        raises |= symbol.is_some_and(|symbol| symbol.name.contains("panics_deep"));
    }
    let whole = raises && trace.end() == Some(End::Outermost);
    WHOLE.fetch_add(u32::from(whole), Ordering::Relaxed);
    eprint!("{NMI}");
    NMIS[interrupted.cpu()].fetch_add(1, Ordering::Release);
}

/// The personality of [`with_nmis`]: called by the unwinder, in both phases.
extern "C" fn send(_: i32, _: Actions, _: u64, _: *mut Exception, _: &mut Context) -> Reason {
    let here = cpu::NoPreemption::new();
    let nmis = &NMIS[cpu::current()];
    let before = nmis.load(Ordering::Acquire);
    nmi::send(cpu::current());
    while nmis.load(Ordering::Acquire) == before {
        core::hint::spin_loop();
    }
    drop(here);
    Reason::CONTINUE_UNWIND
}

/// Calls a function in a frame with that personality.
#[unsafe(naked)]
extern "C-unwind" fn with_nmis(call: extern "C-unwind" fn(usize), number: usize) {
    naked_asm!(
        ".cfi_startproc",
        // DW_EH_PE_pcrel | DW_EH_PE_sdata4
        ".cfi_personality 0x1b, {send}",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
        send = sym send,
    )
}

extern "C-unwind" fn panics(number: usize) {
    core::hint::black_box(panics_deep(5, number));
}

fn reports_come_through_while_a_cpu_holds_the_console_and_nmis_hit_the_raise() {
    let count = (cpu::count() - 1).max(1);
    assert!(nmi::set_handler(Some(trace_and_write)).is_none());
    let text = heard_in_turns(|| {
        HELD.store(false, Ordering::Relaxed);
        LEFT.store(count as u32, Ordering::Relaxed);
        NMIS.iter().for_each(|nmis| nmis.store(0, Ordering::Relaxed));
        WHOLE.store(0, Ordering::Relaxed);
        let body = |number| {
            move || {
                while !HELD.load(Ordering::Acquire) {
                    task::yield_now();
                }
                assert!(catch_unwind(|| with_nmis(panics, number)).is_err());
                LEFT.fetch_sub(1, Ordering::Release);
            }
        };
        let tasks: Vec<_> = (0..count)
            .map(|number| task::spawn(&format!("reports-{number}"), body(number)))
            .collect();
        step_through(hold, || println!("the console is held, and let go"));
        assert!(HELD.load(Ordering::Relaxed));
        // Nobody was waited for in vain.
        assert!(cpu::count() == 1 || LEFT.load(Ordering::Acquire) == 0);
        tasks.into_iter().for_each(|task| task.join().unwrap());
    });
    nmi::set_handler(None);
    // Written whole, also within a report.
    assert_eq!(text.matches(NMI).count(), 2 * count);
    let text = text.replace(NMI, "");
    let mut rest = text.as_str();
    for _ in 0..count {
        rest = whole_report(rest);
    }
    assert_eq!(rest, "");
    // In both phases of each.
    let nmis = NMIS.iter().map(|nmis| nmis.load(Ordering::Relaxed)).sum::<u32>();
    assert_eq!(nmis, 2 * count as u32);
    assert_eq!(WHOLE.load(Ordering::Relaxed), 2 * count as u32);
}
