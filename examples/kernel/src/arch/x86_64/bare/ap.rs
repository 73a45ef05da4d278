//! Starts the other CPUs.
//!
//! ```text
//!   INIT, start-up ─► page below 1 MiB: real mode ─► long mode, this kernel's page tables
//!     ─► ap_start (image): idle stack ─► enter: descriptors, APIC, XSAVE ─► idle loop
//! ```
//!
//! One at a time: the stack is handed over in one variable. The code below 1 MiB is copied there
//! while everything is still mapped one to one; from then on its page is read and executed only.

use core::arch::global_asm;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::interrupts;

use super::entry::{CR0_CLEAR, CR0_SET, CR4, EFER, EFER_BITS};
use super::madt::Apics;
use super::{apic, descriptors};
use crate::arch::x86_64::extended_state;
use crate::cpu::{self, Cpu, MAX_CPUS};
use crate::machine::PAGE;
use crate::memory::Stack;
use crate::{eprintln, scheduler};

/// Where a CPU starts in real mode; what the BIOS leaves free.
pub(super) const START: u64 = 0x8000;

/// Bytes of the stack of an idle loop: it also frees tasks.
const IDLE_STACK: usize = 32 * 1024;

/// Waits for a CPU to start, of [`PAUSE`] microseconds each: before it is told a second time, and after
/// that. An emulated one may have to wait for a processor itself.
const PATIENCE: [u32; 2] = [10_000, 500_000];
const PAUSE: u32 = 20;

/// Offset in the trampoline of the root of the page tables.
const ROOT: usize = 8;

/// The stack of the CPU that starts next.
static STACK_TOP: AtomicU64 = AtomicU64::new(0);
/// Its number.
static NEXT: AtomicU64 = AtomicU64::new(0);

global_asm!(
    ".pushsection .rodata.ap_start, \"a\", @progbits",
    ".balign 8",
    ".globl unspool_kernel_ap_trampoline",
    ".hidden unspool_kernel_ap_trampoline",
    "unspool_kernel_ap_trampoline:",
    ".code16",
    "cli",
    "cld",
    "jmp 2f",
    ".balign 8",
    // The root of the page tables.
    ".quad 0",
    // For lgdt.
    ".short 3 * 8 - 1",
    ".long unspool_kernel_boot_gdt",
    "2:",
    // The code segment is this page; so is the data segment then.
    "mov ax, cs",
    "mov ds, ax",
    "mov eax, {cr4}",
    "mov cr4, eax",
    "mov bx, {root}",
    "mov eax, dword ptr [bx]",
    "mov cr3, eax",
    "mov ecx, {efer}",
    "rdmsr",
    "or eax, {efer_bits}",
    "wrmsr",
    // lgdt [{root} + 8], with a 32-bit base.
    ".byte 0x66, 0x0f, 0x01, 0x16",
    ".short {root} + 8",
    // Protection and paging together: from real mode straight to long mode.
    "mov eax, cr0",
    "and eax, {cr0_keep}",
    "or eax, {cr0_set}",
    "mov cr0, eax",
    // A far jump with a 32-bit offset, to the code segment of the boot table.
    ".byte 0x66, 0xea",
    ".long unspool_kernel_ap_start",
    ".short 8",
    ".code64",
    ".globl unspool_kernel_ap_trampoline_end",
    ".hidden unspool_kernel_ap_trampoline_end",
    "unspool_kernel_ap_trampoline_end:",
    ".popsection",
    ".pushsection .text.ap_start, \"ax\", @progbits",
    ".type unspool_kernel_ap_start, @function",
    "unspool_kernel_ap_start:",
    ".cfi_startproc",
    ".cfi_undefined rip",
    "mov eax, 16",
    "mov ss, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov rsp, [rip + {stack}]",
    "xor ebp, ebp",
    "call {enter}",
    "ud2",
    ".cfi_endproc",
    ".size unspool_kernel_ap_start, . - unspool_kernel_ap_start",
    ".popsection",
    cr4 = const CR4,
    root = const ROOT,
    efer = const EFER,
    efer_bits = const EFER_BITS,
    cr0_keep = const !(CR0_CLEAR | CR0_CACHE_OFF),
    cr0_set = const CR0_SET,
    stack = sym STACK_TOP,
    enter = sym enter,
);

/// CR0 after a reset: caches off, not write-through.
const CR0_CACHE_OFF: u32 = 1 << 30 | 1 << 29;

unsafe extern "C" {
    #[link_name = "unspool_kernel_ap_trampoline"]
    safe static TRAMPOLINE: u8;
    #[link_name = "unspool_kernel_ap_trampoline_end"]
    safe static TRAMPOLINE_END: u8;
}

/// Copies the trampoline to [`START`], for page tables whose root is at `root`.
///
/// # Safety
///
/// Memory is mapped one to one and writable, and the boot loader is done with the page.
pub(super) unsafe fn install(root: u64) {
    let start = (&raw const TRAMPOLINE).expose_provenance();
    let length = (&raw const TRAMPOLINE_END).expose_provenance() - start;
    debug_assert!(length <= PAGE);
    let source = core::ptr::with_exposed_provenance::<u8>(start);
    let place = core::ptr::with_exposed_provenance_mut::<u8>(START as usize);
    // SAFETY: the caller's promise; the source is a constant of the image.
    unsafe { place.copy_from_nonoverlapping(source, length) };
    let place = core::ptr::with_exposed_provenance_mut::<u64>(START as usize + ROOT);
    // SAFETY: as above; the trampoline keeps this word free.
    unsafe { place.write(root) };
}

/// Starts the CPUs of `apics` other than this one, whose APIC has number `own`, up to `limit` in
/// all; returns when they run.
pub(super) fn start(apics: &Apics, own: u8, limit: usize) {
    let others = apics.ids().iter().filter(|&&id| id != own);
    for (index, &id) in (1..limit.min(MAX_CPUS)).zip(others) {
        let stack = match Stack::new(IDLE_STACK) {
            Ok(stack) => stack,
            Err(error) => return eprintln!("unspool-kernel: no stack for CPU {index}: {error}"),
        };
        let starts = start_one(index, id, &stack.range());
        // Its idle loop never ends.
        core::mem::forget(stack);
        if !starts {
            // It may still come, and find its stack and its number: they are no other's.
            return eprintln!("unspool-kernel: CPU {index} (APIC {id}) does not start");
        }
    }
}

/// Starts a CPU on this stack; whether it takes part in time.
fn start_one(index: usize, id: u8, stack: &Range<u64>) -> bool {
    let cpu = Cpu::prepare(index);
    cpu.set_idle_stack(stack);
    apic::set_id(index, id);
    STACK_TOP.store(stack.end, Ordering::SeqCst);
    NEXT.store(index as u64, Ordering::SeqCst);
    apic::init(id);
    apic::wait(PAUSE);
    // Twice, as Intel SDM volume 3, §9.4.4 has it; the second only if the first was not enough.
    for patience in PATIENCE {
        apic::start_up(id, START);
        for _ in 0..patience {
            if cpu.is_online() {
                return true;
            }
            apic::wait(PAUSE);
        }
    }
    false
}

/// The first Rust code of another CPU: on the stack of its idle loop.
extern "C" fn enter() -> ! {
    let cpu = cpu::get(NEXT.load(Ordering::SeqCst) as usize);
    descriptors::load(cpu);
    extended_state::enable();
    apic::enable();
    cpu.enter();
    interrupts::enable();
    apic::start_ticks();
    scheduler::idle()
}
