//! The bare machine: what is below the kernel in QEMU.
//!
//! ```text
//!   entry (assembly) ─► start ─► UART ─► descriptors ─► pvh ─► plan ─► paging ─► heap ─► boot::start
//!                                              ─► start_cpus: ticks here, and the other CPUs
//! ```
//!
//! Interrupts are off until tasks can run, and on from then on, except in handlers.

mod ap;
mod apic;
mod descriptors;
mod entry;
mod frames;
mod interrupts;
mod madt;
mod paging;
mod plan;
mod pvh;
mod tables;
mod uart;

use alloc::string::String;
use alloc::vec::Vec;

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU32, Ordering};

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts as flag, tlb};
use x86_64::registers::model_specific::FsBase;

use self::frames::FramePool;
use self::madt::Apics;
use self::paging::{AddressSpace, BATCH, Skeleton};
use self::plan::Plan;
use self::pvh::BootInfo;
use super::extended_state;
use super::image::Image;
use crate::boot::{self, Input};
use crate::cpu::{self, Cpu, MAX_CPUS, Request};
use crate::error::Error;
use crate::heap;
use crate::lock::{Guard, Lock};
use crate::machine::{Access, ExitCode, Machine, MapError, Mapping, Pages, Stream};
use crate::scheduler;

/// QEMU's isa-debugcon device: whoever started the machine reads the exit code there.
const DEBUG_CONSOLE: u16 = 0xe9;
/// QEMU's isa-debug-exit device: ends the machine. QEMU's own exit status has seven bits of what is
/// written there.
const DEBUG_EXIT: u16 = 0xf4;
/// What is added to exit codes, so that no usual one looks like a failure of QEMU itself.
const EXIT_BIAS: u32 = 0x10;
/// The data ports of the two interrupt controllers.
const INTERRUPT_MASKS: [u16; 2] = [0x21, 0xa1];
/// The longest command line.
const COMMAND_LINE: usize = 4096;

/// `rflags`: interrupts are on.
const INTERRUPTS: u64 = 1 << 9;

/// The flags, with tables for each instruction: an NMI may come at any of them.
#[unsafe(naked)]
unsafe extern "C" fn flags() -> u64 {
    naked_asm!(
        ".cfi_startproc",
        "pushfq",
        ".cfi_adjust_cfa_offset 8",
        "pop rax",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
    )
}

struct Bare;

static SPACE: Once<Lock<AddressSpace>> = Once::new();
static APICS: Once<Apics> = Once::new();

/// The first Rust code: on the boot stack, in the boot loader's address space.
extern "C" fn start(start_info: u64) -> ! {
    let cpu = Cpu::prepare(0);
    descriptors::set_block(cpu);
    uart::init();
    boot::begin(&Bare);
    descriptors::load(cpu);
    extended_state::enable();
    extended_state::measure();
    mask_interrupts();
    // SAFETY: the entry point passes what the boot loader passed, in its address space.
    match unsafe { prepare(start_info) } {
        Ok(input) => boot::start(input),
        Err(error) => boot::fail(&error),
    }
}

/// Memory, from the boot loader's information to a heap and an address space of our own.
///
/// # Safety
///
/// To be called once, with the boot loader's `start_info`, in its address space.
unsafe fn prepare(start_info: u64) -> Result<Input, Error> {
    let image = Image::from_linker()?;
    // SAFETY: the caller's promise.
    let info = unsafe { BootInfo::read(start_info) }?;
    let mut line = [0; COMMAND_LINE];
    // SAFETY: memory is still mapped one to one, and the line is copied at once.
    let given = unsafe { info.cmdline() };
    let too_long = Error::CommandLineTooLong { length: given.len(), limit: COMMAND_LINE };
    line.get_mut(..given.len()).ok_or(too_long)?.copy_from_slice(given);
    let line = &line[..given.len()];
    boot::reached("console", line.split(u8::is_ascii_whitespace));

    if info.rsdp != 0 {
        // SAFETY: memory is still mapped one to one.
        APICS.call_once(|| unsafe { Apics::read(info.rsdp) });
    }

    let plan = Plan::new(info.ram(), image.end(), info.initrd.clone())?;
    // SAFETY:
    // 1. The boot loader's tables are in use, and the plan is made of its information.
    // 2. The command line is copied; nothing but the image, tables and heap is used from here.
    let mut skeleton = unsafe {
        ap::install(plan.tables.start);
        Skeleton::enter(&plan, &image)
    }?;
    skeleton.show_code(ap::START)?;
    skeleton.show_device(apic::page())?;
    apic::set_page(apic::page());
    let heap = core::ptr::with_exposed_provenance_mut(plan.heap.start as usize);
    // SAFETY: the plan sets this memory aside for the heap, and it is mapped writable.
    unsafe { heap::init(heap) };

    let archive = match &info.initrd {
        Some(initrd) => {
            let start = skeleton.show_initrd(initrd)?;
            let start = core::ptr::with_exposed_provenance(start as usize);
            // SAFETY: just mapped, for as long as the kernel runs, and nobody can write to it.
            unsafe { core::slice::from_raw_parts(start, (initrd.end - initrd.start) as usize) }
        }
        None => &[],
    };
    let pool = FramePool::new(plan.pool());
    SPACE.call_once(|| Lock::new(skeleton.finish(pool)));
    let line: &'static str = String::from_utf8_lossy(line).into_owned().leak();
    Ok(Input { args: line.split_ascii_whitespace().collect::<Vec<_>>(), archive })
}

/// Keeps the legacy interrupt controllers from ever interrupting.
fn mask_interrupts() {
    for port in INTERRUPT_MASKS {
        // SAFETY: the mask register of the controller; all ones mask all its lines.
        unsafe { Port::<u8>::new(port).write(0xff) };
    }
}

/// Has all CPUs forget what they cached of the tables.
///
/// With the scheduler's lock, so that others rest as soon as they want to switch: where CPUs take
/// turns on fewer processors, those who have answered leave them to those who have not. This CPU
/// forgets once it is the one that asks: before, the caller may still be moved to another.
fn forget_everywhere() {
    scheduler::with_all(|_| {
        tlb::flush_all();
        cpu::ask_others(Request::Flush);
    });
}

fn space() -> Guard<'static, AddressSpace> {
    SPACE.get().expect("the address space is made before windows are used").lock()
}

impl Machine for Bare {
    fn write(&self, stream: Stream, text: &[u8]) {
        uart::write(stream, text);
    }

    fn writes_here(&self) -> bool {
        uart::is_held_here()
    }

    fn exit(&self, code: ExitCode) -> ! {
        // SAFETY: the port of QEMU's debug console; nothing else is there.
        unsafe { Port::<u8>::new(DEBUG_CONSOLE).write(code.get()) };
        // SAFETY: the port of QEMU's exit device; nothing else is there.
        unsafe { Port::<u32>::new(DEBUG_EXIT).write(u32::from(code.get()) + EXIT_BIAS) };
        // There is no such device: stop here.
        loop {
            hlt();
        }
    }

    fn random(&self) -> u64 {
        super::random::hardware()
    }

    unsafe fn map(&self, pages: Pages) -> Result<(), MapError> {
        // SAFETY: the caller's promise is the same.
        unsafe { space().map(pages) }
    }

    unsafe fn protect(&self, pages: Pages, access: Access) -> Result<(), MapError> {
        // SAFETY: the caller's promise is the same.
        let (changed, result) = unsafe { space().protect(pages, access) };
        if changed {
            forget_everywhere();
        }
        result
    }

    unsafe fn unmap(&self, pages: Pages) {
        for part in pages.parts(BATCH) {
            let mut frames = [None; BATCH];
            // SAFETY: the caller's promise is the same.
            unsafe { space().unmap(part, &mut frames) };
            forget_everywhere();
            space().give_back(&frames);
        }
    }

    fn mappings(&self, visit: &mut dyn FnMut(Mapping)) -> Result<(), MapError> {
        tables::visit(visit);
        Ok(())
    }

    unsafe fn set_thread_pointer(&self, pointer: u64) {
        FsBase::write(VirtAddr::new(pointer));
    }

    fn start_cpus(&self) {
        let own = apic::enable();
        apic::set_id(0, own);
        apic::measure();
        flag::enable();
        apic::start_ticks();
        ap::start(APICS.get().unwrap_or(&Apics::NONE), own, boot::cpus().unwrap_or(MAX_CPUS));
    }

    fn wait(&self, word: &AtomicU32) {
        // SAFETY: only reads the flags.
        if unsafe { flags() } & INTERRUPTS == 0 {
            return core::hint::spin_loop();
        }
        loop {
            flag::disable();
            if word.load(Ordering::SeqCst) != 0 {
                return flag::enable();
            }
            // Interrupts are on again only once the CPU sleeps: none is missed.
            flag::enable_and_hlt();
        }
    }

    fn wake(&self, cpu: usize, _: &AtomicU32) {
        apic::call(cpu);
    }

    fn forget_pages(&self) {
        tlb::flush_all();
    }

    fn interrupt(&self, cpu: usize) {
        apic::call(cpu);
    }

    fn now(&self) -> u64 {
        apic::now()
    }

    fn tick_hertz(&self) -> u32 {
        apic::TICK_HERTZ
    }

    fn set_timer(&self, hertz: u32) {
        apic::set_ticks(hertz);
    }

    fn interrupt_always(&self, cpu: usize) {
        apic::interrupt_always(cpu);
    }
}
