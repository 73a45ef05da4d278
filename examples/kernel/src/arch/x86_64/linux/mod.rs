//! A Linux process without a C library: what is below the kernel there.
//!
//! ```text
//!   _start (assembly) ─► start ─► signals ─► windows ─► heap ─► arguments, archive ─► boot::start
//!   initial stack: │ argc │ argv… │ 0 │ environment… │ 0 │ auxiliary vector │   psABI §3.4.1
//!                                                     start_cpus: a thread for each CPU
//! ```
//!
//! The image, its permissions and the thread pointer are as on the bare machine; the kernel's
//! loader and page tables do what `bare` does there.

mod maps;
mod signal;
mod syscall;
mod threads;

use core::arch::global_asm;
use core::ffi::CStr;
use core::ops::Range;
use core::sync::atomic::AtomicU32;

use alloc::vec::Vec;

use self::syscall::{Errno, File, MapFlags, Protection};
use super::extended_state;
use crate::boot::{self, Input};
use crate::cpu::Cpu;
use crate::error::Error;
use crate::heap;
use crate::machine::{Access, ExitCode, Machine, MapError, Mapping, Pages, Stream};
use crate::memory::{OBJECTS, STACKS};
use crate::reserve::RUNTIMES;

global_asm!(
    ".pushsection .text.start, \"ax\", @progbits",
    ".globl _start",
    ".type _start, @function",
    "_start:",
    ".cfi_startproc",
    ".cfi_undefined rip",
    "xor ebp, ebp",
    "mov rdi, rsp",
    // The same stack as on the bare machine.
    "lea rsp, [rip + __boot_stack_top]",
    "call {start}",
    "ud2",
    ".cfi_endproc",
    ".size _start, . - _start",
    ".popsection",
    start = sym start,
);

/// The first argument that means: no archive.
const NO_ARCHIVE: &CStr = c"-";

struct Process;

extern "C" fn start(stack: *const usize) -> ! {
    threads::set_block(Cpu::prepare(0));
    boot::begin(&Process);
    extended_state::measure();
    // SAFETY: the entry point passes the initial stack pointer.
    match unsafe { prepare(stack) } {
        Ok(input) => boot::start(input),
        Err(error) => boot::fail(&error),
    }
}

/// # Safety
///
/// To be called once, with the initial stack pointer.
unsafe fn prepare(stack: *const usize) -> Result<Input, Error> {
    // SAFETY: the caller passes the initial stack pointer.
    boot::reached("console", unsafe { arguments(stack) }.skip(2).map(CStr::to_bytes));
    let system = |call| move |Errno(errno)| MapError::System { call, errno };
    signal::install().map_err(|(call, errno)| system(call)(errno))?;
    signal::use_stack(0).map_err(system("sigaltstack"))?;
    for window in [OBJECTS, STACKS, RUNTIMES] {
        reserve(&window).map_err(system("mmap"))?;
    }
    // SAFETY: nothing is replaced.
    let heap = unsafe {
        syscall::mmap(0, heap::SIZE, Protection::READ_WRITE, MapFlags::ANYWHERE, File::NONE)
    };
    let heap = heap.map_err(system("mmap"))?;
    // SAFETY: fresh, writable memory of the right size.
    unsafe { heap::init(core::ptr::with_exposed_provenance_mut(heap as usize)) };

    // SAFETY: the caller passes the initial stack pointer.
    let arguments: Vec<_> = unsafe { arguments(stack) }.collect();
    let archive = match arguments.get(1) {
        Some(&path) if path != NO_ARCHIVE => open(path)?,
        _ => &[],
    };
    let text = |argument: &CStr| -> &'static str { argument.to_string_lossy().into_owned().leak() };
    Ok(Input { args: arguments.into_iter().skip(2).map(text).collect(), archive })
}

/// Keeps the system from putting anything into a window.
fn reserve(window: &Range<u64>) -> Result<(), Errno> {
    let size = (window.end - window.start) as usize;
    // SAFETY: nothing is replaced: the call fails if something is there.
    let start = unsafe {
        syscall::mmap(window.start, size, Protection::NONE, MapFlags::RESERVE, File::NONE)
    }?;
    // Before Linux 4.17 the address was only a wish.
    const EEXIST: Errno = Errno(17);
    if start == window.start { Ok(()) } else { Err(EEXIST) }
}

/// # Safety
///
/// `stack` is the initial stack pointer.
unsafe fn arguments(stack: *const usize) -> impl Iterator<Item = &'static CStr> {
    // SAFETY: the initial stack starts with the number of arguments.
    let count = unsafe { *stack };
    let pointer = move |index| {
        // SAFETY: so many pointers follow.
        let place = unsafe { stack.add(1 + index) };
        // SAFETY: as above.
        core::ptr::with_exposed_provenance(unsafe { *place })
    };
    // SAFETY: each points to a string that ends with a NUL and stays as long as the process.
    (0..count).map(move |index| unsafe { CStr::from_ptr(pointer(index)) })
}

/// The contents of a file.
fn open(path: &CStr) -> Result<&'static [u8], Error> {
    let failed = |call| {
        move |Errno(errno)| Error::Archive {
            path: path.to_string_lossy().into_owned(),
            call,
            errno,
        }
    };
    let file = syscall::open(path).map_err(failed("open"))?;
    let size = syscall::size(file).map_err(failed("fstat"))?;
    if size == 0 {
        return Ok(&[]);
    }
    // SAFETY: nothing is replaced.
    let start = unsafe { syscall::mmap(0, size, Protection::READ, MapFlags::FILE, file) };
    let start = core::ptr::with_exposed_provenance(start.map_err(failed("mmap"))? as usize);
    // SAFETY: just mapped for as long as the process lives; a private mapping of a file that whoever
    // started the process leaves alone.
    Ok(unsafe { core::slice::from_raw_parts(start, size) })
}

impl Machine for Process {
    fn write(&self, stream: Stream, text: &[u8]) {
        syscall::write(stream, text);
    }

    fn writes_here(&self) -> bool {
        // The system's locks are not ours.
        false
    }

    fn exit(&self, code: ExitCode) -> ! {
        syscall::exit_group(code.get())
    }

    fn random(&self) -> u64 {
        syscall::getrandom().unwrap_or_else(super::random::hardware)
    }

    unsafe fn map(&self, pages: Pages) -> Result<(), MapError> {
        let (start, size) = (pages.start(), pages.size());
        // SAFETY: the caller owns the pages, which `reserve` keeps free of all else.
        let mapped = unsafe {
            syscall::mmap(start, size, Protection::READ_WRITE, MapFlags::REPLACE, File::NONE)
        };
        mapped.map(drop).map_err(|Errno(errno)| MapError::System { call: "mmap", errno })
    }

    unsafe fn protect(&self, pages: Pages, access: Access) -> Result<(), MapError> {
        let protection = match access {
            Access::None => Protection::NONE,
            Access::Read => Protection::READ,
            Access::ReadWrite => Protection::READ_WRITE,
            Access::ReadExecute => Protection::READ_EXECUTE,
        };
        // SAFETY: the caller's promise.
        unsafe { syscall::mprotect(pages.start(), pages.size(), protection) }
            .map_err(|Errno(errno)| MapError::System { call: "mprotect", errno })
    }

    unsafe fn unmap(&self, pages: Pages) {
        let (start, size) = (pages.start(), pages.size());
        // SAFETY: the caller gives the pages up; the window stays reserved.
        let unmapped =
            unsafe { syscall::mmap(start, size, Protection::NONE, MapFlags::REPLACE, File::NONE) };
        if let Err(Errno(errno)) = unmapped {
            panic!("pages at {start:#x} cannot be given back, errno {errno}");
        }
    }

    fn mappings(&self, visit: &mut dyn FnMut(Mapping)) -> Result<(), MapError> {
        maps::visit(visit).map_err(|(call, Errno(errno))| MapError::System { call, errno })
    }

    fn start_cpus(&self) {
        threads::start(boot::cpus());
    }

    fn wait(&self, word: &AtomicU32) {
        // Awake early is fine.
        let _ = syscall::futex_wait(word, 0);
    }

    fn wake(&self, _: usize, word: &AtomicU32) {
        syscall::futex_wake(word);
    }

    fn forget_pages(&self) {
        // The system keeps the threads' views of memory the same.
    }

    fn interrupt(&self, cpu: usize) {
        threads::interrupt(cpu);
    }

    fn now(&self) -> u64 {
        syscall::nanoseconds()
    }

    fn tick_hertz(&self) -> u32 {
        threads::TICK_HERTZ
    }

    fn set_timer(&self, hertz: u32) {
        threads::set_ticks(hertz);
    }

    fn interrupt_always(&self, cpu: usize) {
        threads::interrupt_always(cpu);
    }

    unsafe fn set_thread_pointer(&self, pointer: u64) {
        // SAFETY: the caller's promise.
        if let Err(Errno(errno)) = unsafe { syscall::set_fs(pointer) } {
            panic!("the thread pointer cannot be set, errno {errno}");
        }
    }
}
