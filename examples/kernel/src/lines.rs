//! Lines and inlined functions in traces, where debug information came with the kernel.
//!
//! ```text
//!   boot archive ─┬─ kernel.debug ─► DebugFile ─┬─► DebugInfo ─► inlined functions, file:line:column
//!                 └─ m.o, loaded as that name ──┘    ▲
//!   a trace ─► Turn: one task at a time ─► arena ────┘  read when it is first asked for
//! ```
//!
//! Promise: nobody waits, and the heap is not used. Who finds another one reading, has too little
//! stack left, runs no task, or handles an NMI gets the names of the symbol table instead, as does
//! everyone if there is no `kernel.debug`, or no memory left in the arena.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use spin::{Mutex, MutexGuard, Once};
use unspool::backtrace::{DebugFile, DebugInfo, Function, NameBuffer, Symbol, Symbolize};
use unspool::panic::{NoUnwind, no_unwind};

use crate::arch::{self, InterruptStack};
use crate::arena::{self, Filled, Lent};
use crate::boot::{boot, program_main};
use crate::cpio::Archive;
use crate::eprintln;
use crate::nmi;
use crate::platform;
use crate::task::Task;

/// The module with the kernel's debug information: its ELF file, or one with nothing but the sections
/// `.debug_*`, not compressed, and the build ID.
pub const FILE: &str = "kernel.debug";

/// So many bytes are set aside for what is made of a byte of debug information. All of it takes half
/// of that.
const ARENA_SHARE: usize = 3;
/// And so many for what is made of that of loaded objects.
const ARENA_REST: usize = 4 << 20;
/// Reading is not begun with less than this part of the arena left: no unit of the debug information
/// takes as much.
const ARENA_LEFT: usize = 8;
/// Reading is not begun with fewer bytes than these left of the stack: enough for all of this kernel's,
/// as the suites show.
pub const ROOM: u64 = 24 * 1024;

/// The kernel's file, checked; of those who have one.
static PROGRAM: Once<DebugFile<'static>> = Once::new();
static READ: Mutex<Read> = Mutex::new(Read { files: Vec::new(), rest: ARENA_REST });
/// Where the program was compiled.
static DIRECTORY: Once<&'static str> = Once::new();

/// What has been read so far; all in the arena, and kept there.
struct Read {
    /// By the names of the modules; `None` if there is no use in asking again.
    files: Vec<(String, Option<Known>)>,
    /// What of [`ARENA_REST`] nobody is promised yet.
    rest: usize,
}

struct Known {
    file: &'static DebugFile<'static>,
    info: DebugInfo<'static>,
}

/// Looks whether debug information came with the kernel, and sets memory aside for it. Needs the heap.
pub(crate) fn init(archive: &Archive<'static>) {
    let Some(module) = archive.modules().find(|module| module.name == FILE) else { return };
    let file = match DebugFile::parse(module.bytes) {
        Ok(file) => file,
        Err(error) => return eprintln!("unspool-kernel: {FILE}: {error}"),
    };
    // Lines of another build would be wrong ones.
    if file.build_id().is_none() || file.build_id() != arch::build_id() {
        return eprintln!("unspool-kernel: {FILE} is not of this build of the kernel");
    }
    let size = module.bytes.len() * ARENA_SHARE + ARENA_REST;
    match arena::init(size) {
        true => drop(PROGRAM.call_once(|| file)),
        false => eprintln!("unspool-kernel: {FILE}: no {size} bytes of memory to read it with"),
    }
}

/// Bytes of memory that lines have taken so far, and bytes set aside for them.
pub fn memory() -> (usize, usize) {
    arena::used()
}

/// Takes what is left of that memory until the result is dropped, for tests of what happens then.
pub fn exhaust() -> Filled {
    arena::fill()
}

/// Does something in the middle of an allocation from that memory, for tests of who waits for it.
pub fn in_allocation<T>(other: impl FnOnce() -> T) -> T {
    arena::locked(other)
}

/// Has inlined functions and lines, and no symbols.
pub(crate) struct Lines;

impl Symbolize for Lines {
    fn symbolize(&self, _address: u64) -> Option<Symbol<'_>> {
        None
    }

    fn functions(&self, address: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
        Turn::take().is_some_and(|mut turn| turn.functions(address, each))
    }

    fn directory(&self) -> Option<&str> {
        DIRECTORY.get().copied()
    }
}

/// The right to read, of the running task. Fields are dropped in this order.
struct Turn {
    read: MutexGuard<'static, Read>,
    arena: Lent,
    /// Nor can it be killed: the next one would find what it left half done.
    _whole: NoUnwind,
}

impl Turn {
    fn take() -> Option<Self> {
        PROGRAM.get()?;
        if nmi::is_handled_here() || room(arch::stack_pointer()) < ROOM {
            return None;
        }
        // Nor is it begun while somebody has its lock: this task, if it panics there.
        let (used, size) = arena::used();
        if size - used <= size / ARENA_LEFT {
            return None;
        }
        let arena = arena::lend()?;
        Some(Self { read: READ.try_lock()?, arena, _whole: no_unwind() })
    }

    fn functions(&mut self, address: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
        let (read, arena) = (&mut *self.read, &self.arena);
        let Some((known, address)) = read.find(address) else { return false };
        known.info.functions(address, &mut |function| arena.paused(|| each(function)))
    }
}

impl Read {
    /// The file that an address is in, and the address that it has there.
    fn find(&mut self, address: u64) -> Option<(&Known, u64)> {
        if platform::is_text(address) {
            return Some((self.file(FILE)?, address));
        }
        let place = platform::loader().place(address)?;
        let (mut name, mut section) = (NameBuffer::new(), NameBuffer::new());
        let known = self.file(place.module.read(&mut name))?;
        let section = place.section.map(|name| name.read(&mut section));
        Some((known, known.file.address_of(section, place.offset)?))
    }

    fn file(&mut self, name: &str) -> Option<&Known> {
        let at = self.files.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            let known = Known::read(name, &mut self.rest);
            self.files.push((name.into(), known));
            self.files.len() - 1
        });
        self.files[at].1.as_ref()
    }
}

impl Known {
    /// Reads a file; a loaded one if there is as much of `rest` as it may come to.
    fn read(name: &str, rest: &mut usize) -> Option<Self> {
        let file = match name {
            FILE => PROGRAM.get()?,
            _ => {
                let bytes = boot().module(name)?;
                *rest = rest.checked_sub(bytes.len() * ARENA_SHARE)?;
                Box::leak(Box::new(DebugFile::parse(bytes).ok()?))
            }
        };
        let info = (!file.is_empty()).then(|| file.info().ok())??;
        if name == FILE {
            let main = program_main as *const () as u64;
            info.directory(main).map(|directory| DIRECTORY.call_once(|| directory));
        }
        Some(Self { file, info })
    }
}

/// How much is left of the stack that the caller runs on, in bytes.
fn room(sp: u64) -> u64 {
    let interrupts = || InterruptStack::containing(sp).map(|(_, range)| range);
    let task = platform::running().map(Task::stack).filter(|stack| stack.contains(&sp));
    task.or_else(interrupts).map_or(0, |stack| sp - stack.start)
}
