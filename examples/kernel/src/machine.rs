//! The seam: everything a kernel asks of what is below it.
//!
//! ```text
//!   tasks · stacks · heap · loader memory · faults · console      common code
//!   ───────────────────── Machine ─────────────────────────────
//!   Bare: page tables, UART, MSRs       Process: Linux system calls
//! ```
//!
//! Which side it is depends on the entry that was used; nothing above this line asks.

use core::fmt;
use core::sync::atomic::AtomicU32;

use spin::Once;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// What a program tells whoever started it; 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(u8);

impl ExitCode {
    /// All went well.
    pub const SUCCESS: Self = Self(0);
    /// The program says that something went wrong.
    pub const FAILURE: Self = Self(1);
    /// A panic or a fault that nobody could handle, as `std` has it.
    pub const PANIC: Self = Self(101);

    /// The exit code with this number.
    pub const fn new(code: u8) -> Self {
        Self(code)
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Where text goes, as with `std`: what a program produces, and what is said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// What `print!` writes. The first serial port; standard output.
    Output,
    /// Panics, faults, remarks of the kernel, what `eprint!` writes. The second serial port if the
    /// machine has one, else the first; standard error.
    Errors,
}

/// What the code of a program may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: a guard page.
    None,
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

/// Whole pages of the address space; never empty, never wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    start: u64,
    count: usize,
}

impl Pages {
    /// The pages that hold `size` bytes from `start`, which must be page-aligned.
    pub const fn new(start: u64, size: usize) -> Option<Self> {
        if size == 0 || !start.is_multiple_of(PAGE as u64) {
            return None;
        }
        // Also the size in whole pages must be a number.
        let Some(whole) = size.checked_next_multiple_of(PAGE) else { return None };
        match start.checked_add(whole as u64) {
            Some(_) => Some(Self { start, count: whole / PAGE }),
            None => None,
        }
    }

    /// The same pages, at most `most` at a time.
    pub(crate) fn parts(self, most: usize) -> impl Iterator<Item = Self> {
        (0..self.count).step_by(most).map(move |first| Self {
            start: self.start + (first * PAGE) as u64,
            count: most.min(self.count - first),
        })
    }

    /// The address of the first byte.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The address after the last byte.
    pub const fn end(self) -> u64 {
        self.start + self.size() as u64
    }

    /// How many pages.
    pub const fn count(self) -> usize {
        self.count
    }

    /// How many bytes.
    pub const fn size(self) -> usize {
        self.count * PAGE
    }
}

/// Addresses that are mapped in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Where the memory is that is shown there, if this kernel decides that.
    pub memory: Option<u64>,
    /// Whether code can write there.
    pub writable: bool,
    /// Whether it can be executed.
    pub executable: bool,
}

/// Why pages could not be mapped or protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The window has no gap of this size (bytes).
    WindowFull {
        /// What was asked for.
        needed: usize,
        /// The largest gap.
        largest: usize,
    },
    /// The heap has no room for a record of what is mapped.
    OutOfRecords,
    /// Not enough physical memory is left (pages).
    OutOfFrames {
        /// What was asked for.
        needed: usize,
        /// What is left.
        free: usize,
    },
    /// The memory for page tables is used up.
    OutOfTables,
    /// A page in the range is not mapped (or is, where it must not be).
    Unexpected {
        /// Its address.
        page: u64,
    },
    /// The operating system refused.
    System {
        /// Which call.
        call: &'static str,
        /// Its error number.
        errno: i32,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::WindowFull { needed, largest } => {
                write!(f, "no gap of {needed:#x} bytes in the window, the largest has {largest:#x}")
            }
            Self::OutOfRecords => f.write_str("no memory left to note what is mapped"),
            Self::OutOfFrames { needed, free } => {
                write!(f, "{needed} pages of memory needed, {free} left")
            }
            Self::OutOfTables => f.write_str("no memory left for page tables"),
            Self::Unexpected { page } => write!(f, "page {page:#x} is in the wrong state"),
            Self::System { call, errno } => write!(f, "{call} failed with errno {errno}"),
        }
    }
}

impl core::error::Error for MapError {}

/// The machine (or process) below the kernel.
pub trait Machine: Sync {
    /// Writes to the console, at once, every byte as it is; no heap, no panic, usable from any
    /// handler.
    fn write(&self, stream: Stream, text: &[u8]);

    /// Whether this CPU was in the middle of a [`write`](Self::write) when it was interrupted, and has a
    /// lock that others wait for.
    fn writes_here(&self) -> bool;

    /// Ends the machine (or process).
    fn exit(&self, code: ExitCode) -> !;

    /// A word that is hard to guess: the CPU's or the system's randomness, else the time stamp
    /// counter.
    fn random(&self) -> u64;

    /// Backs `pages` with fresh, zeroed memory: readable, writable, not executable.
    ///
    /// # Errors
    ///
    /// Out of memory, or a page is mapped already; nothing is mapped then.
    ///
    /// # Safety
    ///
    /// The pages must lie in a [window](crate::memory) and belong to the caller alone.
    unsafe fn map(&self, pages: Pages) -> Result<(), MapError>;

    /// Changes what may be done with mapped pages.
    ///
    /// # Errors
    ///
    /// A page is not mapped, or the system refuses; pages before it may have changed.
    ///
    /// # Safety
    ///
    /// The caller must own the pages, and nothing may rely on what `access` takes away.
    unsafe fn protect(&self, pages: Pages, access: Access) -> Result<(), MapError>;

    /// Takes away pages and their memory.
    ///
    /// # Safety
    ///
    /// [`map`](Self::map) backed exactly these pages, and nothing uses them any more.
    unsafe fn unmap(&self, pages: Pages);

    /// Shows everything that is mapped, as the page tables (or the system) have it, from low to high
    /// addresses. What changes meanwhile is shown as it was or as it is.
    ///
    /// # Errors
    ///
    /// The system does not tell.
    fn mappings(&self, visit: &mut dyn FnMut(Mapping)) -> Result<(), MapError>;

    /// Makes `pointer` the base of `fs` on this CPU.
    ///
    /// # Safety
    ///
    /// `pointer` must be the thread pointer of a TLS area that lives until the next call.
    unsafe fn set_thread_pointer(&self, pointer: u64);

    /// Starts the ticks of this CPU, and the other CPUs, each in the scheduler's idle loop.
    fn start_cpus(&self);

    /// Puts this CPU to sleep until `word` may no longer be 0. It answers others meanwhile. In a
    /// handler, returns at once.
    fn wait(&self, word: &AtomicU32);

    /// Ends the sleep of a CPU, whose `word` is no longer 0.
    fn wake(&self, cpu: usize, word: &AtomicU32);

    /// Makes this CPU forget what it has cached of the page tables.
    fn forget_pages(&self);

    /// Makes another CPU answer what it was asked, whatever it does.
    fn interrupt(&self, cpu: usize);

    /// Nanoseconds since some moment before boot; the same clock on all CPUs.
    fn now(&self) -> u64;

    /// How often a second the scheduler wants this machine's ticks.
    fn tick_hertz(&self) -> u32;

    /// Makes this CPU's timer interrupt so often a second from now on, first after a whole period.
    /// For who stays on this CPU, and once its ticks have begun.
    fn set_timer(&self, hertz: u32);

    /// Interrupts a CPU, which may be the caller's, also where it takes no interrupts; see
    /// [`nmi`](crate::nmi).
    fn interrupt_always(&self, cpu: usize);
}

/// Set by the entry that was used, before anything else.
static MACHINE: Once<&'static dyn Machine> = Once::new();

/// Decides which machine this is; the first call counts.
pub(crate) fn set_machine(machine: &'static dyn Machine) {
    MACHINE.call_once(|| machine);
}

/// The machine this program runs on.
///
/// # Panics
///
/// If called before an entry has set it, which no code of a program can.
pub fn machine() -> &'static dyn Machine {
    *MACHINE.get().expect("the entry point sets the machine first")
}
