//! The system calls of a process without a C library.
//!
//! ```text
//!   rax: number, then result (−errno)    rdi rsi rdx r10 r8 r9: arguments     rcx r11: clobbered
//! ```
//!
//! psABI x86-64, appendix A.2.1; numbers and structures: linux/arch/x86.

use core::arch::{asm, naked_asm};
use core::ffi::CStr;
use core::mem::offset_of;
use core::sync::atomic::AtomicU32;

use static_assertions::const_assert_eq;

use crate::machine::Stream;

/// An error number of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Errno(pub i32);

/// The largest error number that a result can be.
const MAX_ERRNO: usize = 4095;

const READ: usize = 0;
const WRITE: usize = 1;
const OPEN: usize = 2;
const CLOSE: usize = 3;
const FSTAT: usize = 5;
const MMAP: usize = 9;
const MPROTECT: usize = 10;
const RT_SIGACTION: usize = 13;
const RT_SIGPROCMASK: usize = 14;
pub(super) const RT_SIGRETURN: usize = 15;
const SIGALTSTACK: usize = 131;
const ARCH_PRCTL: usize = 158;
const EXIT_GROUP: usize = 231;
const GETPID: usize = 39;
const CLONE: usize = 56;
const GETTID: usize = 186;
const FUTEX: usize = 202;
const SCHED_GETAFFINITY: usize = 204;
const TIMER_CREATE: usize = 222;
const TIMER_SETTIME: usize = 223;
const CLOCK_GETTIME: usize = 228;
const TGKILL: usize = 234;
const GETRANDOM: usize = 318;

const ARCH_SET_GS: usize = 0x1001;
const ARCH_SET_FS: usize = 0x1002;
/// File descriptors of standard output and standard error.
const STDOUT: usize = 1;
const STDERR: usize = 2;

/// What may be done with memory.
#[derive(Clone, Copy)]
pub(super) struct Protection(usize);

impl Protection {
    pub(super) const NONE: Self = Self(0);
    pub(super) const READ: Self = Self(1);
    pub(super) const READ_WRITE: Self = Self(1 | 2);
    pub(super) const READ_EXECUTE: Self = Self(1 | 4);
}

/// How memory is mapped.
#[derive(Clone, Copy)]
pub(super) struct MapFlags(usize);

impl MapFlags {
    const PRIVATE: usize = 0x02;
    const ANONYMOUS: usize = 0x20;
    /// A file, for this process alone.
    pub(super) const FILE: Self = Self(Self::PRIVATE);
    /// Zeroed memory anywhere.
    pub(super) const ANYWHERE: Self = Self(Self::PRIVATE | Self::ANONYMOUS);
    /// Zeroed memory here, in place of what is there (`MAP_FIXED`).
    pub(super) const REPLACE: Self = Self(Self::PRIVATE | Self::ANONYMOUS | 0x10);
    /// Address space here, if nothing is there (`MAP_NORESERVE`, `MAP_FIXED_NOREPLACE`).
    pub(super) const RESERVE: Self = Self(Self::PRIVATE | Self::ANONYMOUS | 0x4000 | 0x10_0000);
}

/// An open file.
#[derive(Clone, Copy)]
pub(super) struct File(usize);

impl File {
    /// For mappings without one.
    pub(super) const NONE: Self = Self(usize::MAX);
}

/// `struct kernel_sigaction`.
#[repr(C)]
pub(super) struct SigAction {
    pub handler: usize,
    pub flags: u64,
    pub restorer: usize,
    pub mask: u64,
}

/// `stack_t`.
#[repr(C)]
pub(super) struct SigStack {
    pub start: u64,
    pub flags: i32,
    pub size: u64,
}

/// The beginning of `struct stat`, and room for the rest.
#[repr(C)]
struct Stat {
    before: [u64; 6],
    size: i64,
    after: [u64; 11],
}

const_assert_eq!(size_of::<SigAction>(), 32);
const_assert_eq!(size_of::<SigStack>(), 24);
const_assert_eq!(offset_of!(Stat, size), 48);
const_assert_eq!(size_of::<Stat>(), 144);

/// # Safety
///
/// As the system call's.
unsafe fn syscall(number: usize, arguments: [usize; 6]) -> Result<usize, Errno> {
    let result: usize;
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the caller vouches for the call; the registers are those that it clobbers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    let errno = result.wrapping_neg();
    if (1..=MAX_ERRNO).contains(&errno) { Err(Errno(errno as i32)) } else { Ok(result) }
}

/// Writes all of `text`, or as much as the stream takes.
pub(super) fn write(stream: Stream, mut text: &[u8]) {
    const EINTR: Errno = Errno(4);
    let file = match stream {
        Stream::Output => STDOUT,
        Stream::Errors => STDERR,
    };
    while !text.is_empty() {
        let arguments = [file, text.as_ptr().expose_provenance(), text.len(), 0, 0, 0];
        // SAFETY: the buffer is a slice.
        match unsafe { syscall(WRITE, arguments) } {
            Ok(written) => text = &text[written..],
            Err(EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Ends the process.
pub(super) fn exit_group(code: u8) -> ! {
    loop {
        // SAFETY: has no precondition; does not return.
        let _ = unsafe { syscall(EXIT_GROUP, [code.into(), 0, 0, 0, 0, 0]) };
    }
}

/// Random bytes of the system.
pub(super) fn getrandom() -> Option<u64> {
    let mut word = 0u64;
    let place = (&raw mut word).expose_provenance();
    // SAFETY: the buffer is a word.
    let got = unsafe { syscall(GETRANDOM, [place, size_of::<u64>(), 0, 0, 0, 0]) };
    (got == Ok(size_of::<u64>())).then_some(word)
}

/// Opens a file for reading.
pub(super) fn open(path: &CStr) -> Result<File, Errno> {
    // SAFETY: the path ends with a NUL; flags 0 are read-only.
    unsafe { syscall(OPEN, [path.as_ptr().expose_provenance(), 0, 0, 0, 0, 0]) }.map(File)
}

/// Reads what comes next, as much as is there; nothing at the end.
pub(super) fn read(file: File, buffer: &mut [u8]) -> Result<usize, Errno> {
    let arguments = [file.0, buffer.as_mut_ptr().expose_provenance(), buffer.len(), 0, 0, 0];
    // SAFETY: the buffer is a slice.
    unsafe { syscall(READ, arguments) }
}

/// Closes a file that was only read.
pub(super) fn close(file: File) {
    // SAFETY: nothing is mapped anew under this number meanwhile. Fails for bad numbers only.
    let _ = unsafe { syscall(CLOSE, [file.0, 0, 0, 0, 0, 0]) };
}

/// Bytes of an open file.
pub(super) fn size(file: File) -> Result<usize, Errno> {
    let mut stat = Stat { before: [0; 6], size: 0, after: [0; 11] };
    let place = (&raw mut stat).expose_provenance();
    // SAFETY: the structure is the one of this call.
    unsafe { syscall(FSTAT, [file.0, place, 0, 0, 0, 0]) }?;
    Ok(usize::try_from(stat.size).unwrap_or(0))
}

/// Maps memory.
///
/// # Safety
///
/// If `flags` replace what is mapped at `start`, nobody may be using that.
pub(super) unsafe fn mmap(
    start: u64,
    size: usize,
    protection: Protection,
    flags: MapFlags,
    file: File,
) -> Result<u64, Errno> {
    let arguments = [start as usize, size, protection.0, flags.0, file.0, 0];
    // SAFETY: the caller's promise.
    unsafe { syscall(MMAP, arguments) }.map(|address| address as u64)
}

/// Changes what may be done with mapped memory.
///
/// # Safety
///
/// Nobody relies on what is taken away.
pub(super) unsafe fn mprotect(
    start: u64,
    size: usize,
    protection: Protection,
) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { syscall(MPROTECT, [start as usize, size, protection.0, 0, 0, 0]) }.map(drop)
}

/// Sets the FS base.
///
/// # Safety
///
/// As [`Machine::set_thread_pointer`](crate::machine::Machine::set_thread_pointer).
pub(super) unsafe fn set_fs(pointer: u64) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { syscall(ARCH_PRCTL, [ARCH_SET_FS, pointer as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Sets the GS base of this thread.
///
/// # Safety
///
/// `pointer` is the address of a [`Cpu`](crate::cpu::Cpu) that no other thread has.
pub(super) unsafe fn set_gs(pointer: u64) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { syscall(ARCH_PRCTL, [ARCH_SET_GS, pointer as usize, 0, 0, 0, 0]) }.map(drop)
}

/// `FUTEX_WAIT` and `FUTEX_WAKE`, each with `FUTEX_PRIVATE_FLAG`.
const FUTEX_WAIT: usize = 128;
const FUTEX_WAKE: usize = 1 | 128;

/// Sleeps until `word` is woken, if it is still `expected`, or until a signal comes.
pub(super) fn futex_wait(word: &AtomicU32, expected: u32) -> Result<(), Errno> {
    let arguments = [word.as_ptr().expose_provenance(), FUTEX_WAIT, expected as usize, 0, 0, 0];
    // SAFETY: the word is an aligned one.
    unsafe { syscall(FUTEX, arguments) }.map(drop)
}

/// Wakes one thread that sleeps on `word`.
pub(super) fn futex_wake(word: &AtomicU32) {
    let arguments = [word.as_ptr().expose_provenance(), FUTEX_WAKE, 1, 0, 0, 0];
    // SAFETY: as above. Fails for bad addresses only.
    let _ = unsafe { syscall(FUTEX, arguments) };
}

/// How many CPUs this process may use.
pub(super) fn usable_cpus() -> usize {
    let mut set = [0u64; 128];
    let arguments = [0, size_of_val(&set), (&raw mut set).expose_provenance(), 0, 0, 0];
    // SAFETY: the buffer has the length that is passed.
    match unsafe { syscall(SCHED_GETAFFINITY, arguments) } {
        Ok(_) => set.iter().map(|word| word.count_ones() as usize).sum(),
        Err(_) => 1,
    }
}

/// The number of this thread.
pub(super) fn thread_id() -> usize {
    // SAFETY: has no precondition, and cannot fail.
    unsafe { syscall(GETTID, [0; 6]) }.unwrap_or(0)
}

/// Sends a signal to a thread of this process.
pub(super) fn send(thread: usize, signal: i32) {
    // SAFETY: has no precondition, and cannot fail.
    let process = unsafe { syscall(GETPID, [0; 6]) }.unwrap_or(0);
    // SAFETY: this process has a handler for it.
    let _ = unsafe { syscall(TGKILL, [process, thread, signal as usize, 0, 0, 0]) };
}

/// `struct sigevent`, for `SIGEV_THREAD_ID`.
#[repr(C)]
struct SigEvent {
    value: u64,
    signal: i32,
    notify: i32,
    thread: i32,
    free: [i32; 11],
}

const_assert_eq!(size_of::<SigEvent>(), 64);

const CLOCK_MONOTONIC: usize = 1;

/// What the clock shows that nobody sets.
pub(super) fn nanoseconds() -> u64 {
    let mut time = [0u64; 2];
    let place = time.as_mut_ptr().expose_provenance();
    // SAFETY: the structure (`timespec`) is that of this call, which then cannot fail.
    let _ = unsafe { syscall(CLOCK_GETTIME, [CLOCK_MONOTONIC, place, 0, 0, 0, 0]) };
    time[0] * 1_000_000_000 + time[1]
}

/// A timer that sends `signal` to this thread, once it is [set](set_timer).
pub(super) fn new_timer(signal: i32) -> Result<i32, Errno> {
    const SIGEV_THREAD_ID: i32 = 4;
    let thread = thread_id() as i32;
    let event = SigEvent { value: 0, signal, notify: SIGEV_THREAD_ID, thread, free: [0; 11] };
    let mut timer = 0i32;
    let places = [(&raw const event).expose_provenance(), (&raw mut timer).expose_provenance()];
    // SAFETY: the structures are those of this call.
    unsafe { syscall(TIMER_CREATE, [CLOCK_MONOTONIC, places[0], places[1], 0, 0, 0]) }?;
    Ok(timer)
}

/// Makes a timer expire again and again, every so many nanoseconds, fewer than a second.
pub(super) fn set_timer(timer: i32, nanoseconds: u64) -> Result<(), Errno> {
    // Interval and first expiry, in seconds and nanoseconds.
    let spec = [0, nanoseconds, 0, nanoseconds];
    let place = (&raw const spec).expose_provenance();
    // SAFETY: the structure is that of this call.
    unsafe { syscall(TIMER_SETTIME, [timer as usize, 0, place, 0, 0, 0]) }.map(drop)
}

/// `CLONE_VM`, `FS`, `FILES`, `SIGHAND`, `THREAD`, `SYSVSEM`.
const THREAD: usize = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000;

/// Starts a thread in `entry`, on the stack that ends at `top`.
///
/// # Safety
///
/// The stack is mapped, writable, `top` a multiple of 16, and the stack is the thread's forever.
pub(super) unsafe fn start_thread(
    top: u64,
    argument: usize,
    entry: extern "C" fn(usize) -> !,
) -> Result<(), Errno> {
    let result: usize;
    // SAFETY:
    // 1. The new thread has registers as this one, but its own stack; it calls `entry` and uses
    //    nothing of this frame.
    // 2. For this thread it is a system call as any other.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jz {begin}",
            inlateout("rax") CLONE => result,
            in("rdi") THREAD,
            in("rsi") top,
            in("rdx") 0,
            in("r10") 0,
            in("r8") 0,
            in("r12") argument,
            in("r13") entry,
            begin = sym begin_thread,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    let errno = result.wrapping_neg();
    if (1..=MAX_ERRNO).contains(&errno) { Err(Errno(errno as i32)) } else { Ok(()) }
}

/// The outermost frame of a thread: where a walk ends.
#[unsafe(naked)]
unsafe extern "C" fn begin_thread() -> ! {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined rip",
        "xor ebp, ebp",
        "mov rdi, r12",
        "call r13",
        "ud2",
        ".cfi_endproc",
    )
}

/// Installs a signal handler.
///
/// # Safety
///
/// The handler and the restorer in `action` are functions made for this.
pub(super) unsafe fn sigaction(signal: i32, action: &SigAction) -> Result<(), Errno> {
    let place = core::ptr::from_ref(action).expose_provenance();
    // SAFETY: the structure is the one of this call, and the caller vouches for its functions.
    unsafe { syscall(RT_SIGACTION, [signal as usize, place, 0, size_of::<u64>(), 0, 0]) }.map(drop)
}

/// Blocks no signal in this thread, nor in those that it starts.
pub(super) fn unblock_signals() -> Result<(), Errno> {
    const SIG_SETMASK: usize = 2;
    let none = 0u64;
    let place = (&raw const none).expose_provenance();
    // SAFETY: the set is the one of this call; what may come has a handler, or ends the process.
    unsafe { syscall(RT_SIGPROCMASK, [SIG_SETMASK, place, 0, size_of::<u64>(), 0, 0]) }.map(drop)
}

/// Sets the stack for signal handlers.
///
/// # Safety
///
/// The stack is memory that nobody else uses.
pub(super) unsafe fn sigaltstack(stack: &SigStack) -> Result<(), Errno> {
    let place = core::ptr::from_ref(stack).expose_provenance();
    // SAFETY: the structure is the one of this call, and the caller vouches for the stack.
    unsafe { syscall(SIGALTSTACK, [place, 0, 0, 0, 0, 0]) }.map(drop)
}
