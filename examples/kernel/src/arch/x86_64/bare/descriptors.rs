//! Segments, the task state segment and the interrupt descriptor table.
//!
//! ```text
//!   GDT: null │ code │ data │ TSS ─► interrupt stack table ─► stacks.rs      one for each CPU
//!   IDT: 256 gates, each with a stub of its own and a stack from the table    one for all
//! ```

use core::cell::UnsafeCell;
use core::sync::atomic::{Ordering, compiler_fence};

use lazy_static::lazy_static;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::GsBase;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::idt::{Entry, InterruptDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use super::interrupts::{VECTORS, stub};
use crate::arch::x86_64::stacks::InterruptStack;
use crate::cpu::{self, Cpu, MAX_CPUS};

struct Segments {
    table: GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    tss: SegmentSelector,
}

/// The task state segment of a CPU, which reads it whenever it is interrupted.
struct TaskState(UnsafeCell<TaskStateSegment>);

// SAFETY: filled before its CPU loads it, and from then on used on that CPU alone, one word at a time.
unsafe impl Sync for TaskState {}

static TASK_STATES: [TaskState; MAX_CPUS] =
    [const { TaskState(UnsafeCell::new(TaskStateSegment::new())) }; MAX_CPUS];
static SEGMENTS: [Once<Segments>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// Bytes of an interrupt stack that one interrupt has for itself; another one that comes while it is
/// dealt with, on the same stack, starts below.
const LEVEL: u64 = 12 * 1024;

/// Where the next interrupt on `stack` of a CPU starts.
fn top(cpu: usize, stack: InterruptStack) -> *mut VirtAddr {
    let tss = TASK_STATES[cpu].0.get();
    // SAFETY: in bounds of a static; no reference is made.
    let table = unsafe { &raw mut (*tss).interrupt_stack_table };
    // SAFETY: the table has seven places, and there are six stacks.
    unsafe { table.cast::<VirtAddr>().add(usize::from(stack.index())) }
}

/// From now on, what interrupts the handler of `vector` on this CPU, the caller, on the same stack
/// leaves the handler's frames alone.
pub(super) fn begin_handler(vector: u64) {
    move_top(vector, |top| top - LEVEL);
}

/// Takes that back, at the end of the handler.
pub(super) fn end_handler(vector: u64) {
    move_top(vector, |top| top + LEVEL);
}

fn move_top(vector: u64, change: impl FnOnce(VirtAddr) -> VirtAddr) {
    let stack = stack_of(vector as usize);
    if stack == InterruptStack::External {
        // Nothing interrupts their handlers on that stack.
        return;
    }
    let top = top(cpu::current(), stack);
    // SAFETY: a place of this CPU's table; the TSS is packed.
    let now = unsafe { top.read_unaligned() };
    // SAFETY: as above; volatile would need alignment, and a handler's calls come between.
    unsafe { top.write_unaligned(change(now)) };
    compiler_fence(Ordering::SeqCst);
}

fn segments(tss: *const TaskStateSegment) -> Segments {
    let mut table = GlobalDescriptorTable::new();
    let code = table.append(Descriptor::kernel_code_segment());
    let data = table.append(Descriptor::kernel_data_segment());
    // SAFETY: a static, which is there for ever.
    let tss = table.append(unsafe { Descriptor::tss_segment_unchecked(tss) });
    Segments { table, code, data, tss }
}

lazy_static! {
    /// Made after the segments are loaded: gates take the code segment in use.
    static ref INTERRUPTS: InterruptDescriptorTable = interrupts();
}

/// Makes `cpu` the block of this CPU.
pub(super) fn set_block(cpu: &'static Cpu) {
    GsBase::write(VirtAddr::from_ptr(cpu));
}

/// Loads all tables into this CPU, whose block is `cpu`.
pub(super) fn load(cpu: &'static Cpu) {
    for stack in InterruptStack::ALL {
        let start = VirtAddr::new(stack.range(cpu.index()).end);
        // SAFETY: a place of the table of this CPU, which has not loaded it yet; packed.
        unsafe { top(cpu.index(), stack).write_unaligned(start) };
    }
    let tss = TASK_STATES[cpu.index()].0.get().cast_const();
    let segments = SEGMENTS[cpu.index()].call_once(|| segments(tss));
    segments.table.load();
    // SAFETY:
    // 1. The selectors are those of the table just loaded, which stays loaded.
    // 2. Code and data are flat, as those of the boot table were.
    unsafe {
        CS::set_reg(segments.code);
        SS::set_reg(segments.data);
        DS::set_reg(segments.data);
        ES::set_reg(segments.data);
    }
    // SAFETY: null is allowed for both in long mode; their bases are MSRs.
    unsafe {
        FS::set_reg(SegmentSelector::NULL);
        GS::set_reg(SegmentSelector::NULL);
    }
    set_block(cpu);
    // SAFETY: the selector is that of a TSS that lives forever and is loaded only here, by one CPU.
    unsafe { load_tss(segments.tss) };
    INTERRUPTS.load();
    // SAFETY: machine checks have a handler now; without this they reset the machine.
    unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION)) };
}

fn interrupts() -> InterruptDescriptorTable {
    let mut table = InterruptDescriptorTable::new();
    let set = |vector: usize| (VirtAddr::new(stub(vector)), stack_of(vector).index());
    macro_rules! gate {
        ($entry:expr, $vector:expr) => {{
            let (address, stack) = set($vector);
            fill(&mut $entry, address, stack);
        }};
    }
    // By name, because their handlers have different types.
    gate!(table.double_fault, 8);
    gate!(table.invalid_tss, 10);
    gate!(table.segment_not_present, 11);
    gate!(table.stack_segment_fault, 12);
    gate!(table.general_protection_fault, 13);
    gate!(table.page_fault, 14);
    gate!(table.alignment_check, 17);
    gate!(table.machine_check, 18);
    gate!(table.cp_protection_exception, 21);
    gate!(table.vmm_communication_exception, 29);
    gate!(table.security_exception, 30);
    for vector in [0, 1, 2, 3, 4, 5, 6, 7, 9, 16, 19, 20, 28] {
        gate!(table[vector], usize::from(vector));
    }
    for vector in 32..VECTORS {
        // `VECTORS` is 256.
        gate!(table[vector as u8], vector);
    }
    table
}

fn fill<F>(entry: &mut Entry<F>, stub: VirtAddr, stack: u16) {
    // SAFETY: the stub of this vector knows whether the CPU pushes an error code, and returns
    // with `iretq`.
    let options = unsafe { entry.set_handler_addr(stub) };
    // SAFETY: the TSS has a stack of its own for each index that `InterruptStack` has.
    unsafe { options.set_stack_index(stack) };
}

const fn stack_of(vector: usize) -> InterruptStack {
    match vector {
        1 | 3 => InterruptStack::Debug,
        2 => InterruptStack::NonMaskable,
        8 => InterruptStack::DoubleFault,
        18 => InterruptStack::MachineCheck,
        0..32 => InterruptStack::Fault,
        _ => InterruptStack::External,
    }
}
