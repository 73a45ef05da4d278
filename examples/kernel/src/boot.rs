//! From a machine with a heap to the program's `main`.
//!
//! ```text
//!   begin ─► memory (arch) ─► start ─► guard pages ─► unwind tables, TLS, symbols ─► main task
//!    └─ panics speak                                   └─ what is missing is named ─► fail
//! ```

use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Once;
use unspool::panic::set_platform;

use crate::arch::{self, InterruptStack};
use crate::cpio::{Archive, Module};
use crate::cpu::MAX_CPUS;
use crate::eprintln;
use crate::error::Error;
use crate::lines;
use crate::machine::{Access, ExitCode, Machine, machine, set_machine};
use crate::platform;
use crate::profile;
use crate::scheduler;
use crate::task::{self, Task};

/// Bytes of the main task's stack.
const MAIN_STACK: usize = 256 * 1024;

/// What an entry point found.
pub(crate) struct Input {
    /// The words of the command line.
    pub args: Vec<&'static str>,
    /// A cpio archive, or nothing.
    pub archive: &'static [u8],
}

/// What the program was started with.
#[derive(Debug)]
pub struct Boot {
    args: Vec<&'static str>,
    archive: Archive<'static>,
}

static BOOT: Once<Boot> = Once::new();

/// The word of the command line that says how many CPUs to use.
const CPUS: &str = "cpus=";
/// The word that says how many bytes every TLS area keeps for modules that are loaded later.
const SURPLUS: &str = "surplus=";
/// The word that says how many samples a second of what the CPUs do to take; see [`profile`].
const PROFILE: &str = "profile=";
/// The word that says how many bytes there are for the samples of each CPU.
const PROFILE_MEMORY: &str = "profile-memory=";
/// So many, if it says nothing.
const DEFAULT_SURPLUS: usize = 32 * 1024;

/// The word that says where the boot is to panic, to show what a panic does there: `console`, `heap`
/// or `tables`, the last thing that there is.
const PANIC_AT: &str = "panic-at=";

static CPU_COUNT: Once<usize> = Once::new();
static PROFILE_RATE: Once<u32> = Once::new();

/// How many CPUs to use, if the command line says so.
pub(crate) fn cpus() -> Option<usize> {
    CPU_COUNT.get().copied()
}

impl Boot {
    /// The words of the command line: QEMU's `-append`, or a process's arguments from the second
    /// on; without those that are for the kernel: `cpus=N`, how many CPUs to use (else: all of the
    /// machine's, or as many threads as the process may use CPUs; at most [`MAX_CPUS`]);
    /// `surplus=N`, the bytes that each task's TLS area keeps for modules that are loaded later;
    /// `profile=N`, to take so many samples a second of what the CPUs do (see
    /// [`profile`]), and `profile-memory=N`, the bytes for those of each CPU.
    pub fn args(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.args.iter().copied()
    }

    /// The files of the archive that came with the kernel, in its order: QEMU's `-initrd`, or the
    /// file that a process's first argument names (`-` for none).
    pub fn modules(&self) -> impl Iterator<Item = Module<'static>> + Clone {
        self.archive.modules()
    }

    /// The contents of the first module with this name.
    pub fn module(&self, name: &str) -> Option<&'static [u8]> {
        self.modules().find(|module| module.name == name).map(|module| module.bytes)
    }
}

/// What the program was started with.
///
/// # Panics
///
/// Before the kernel is up, which no code of a program can see.
pub fn boot() -> &'static Boot {
    BOOT.get().expect("main runs after boot")
}

/// As [`Boot::args`].
pub fn args() -> impl Iterator<Item = &'static str> + Clone {
    boot().args()
}

unsafe extern "Rust" {
    /// Defined by [`entry!`](crate::entry).
    #[link_name = "unspool_kernel_main"]
    pub(crate) safe fn program_main(boot: &Boot) -> ExitCode;
}

/// Notes that there is `stage` now. Panics if one of `words`, the command line's, wants it there.
pub(crate) fn reached<'w>(stage: &str, mut words: impl Iterator<Item = &'w [u8]>) {
    let here = |word: &[u8]| word.strip_prefix(PANIC_AT.as_bytes()) == Some(stage.as_bytes());
    assert!(!words.any(here), "the boot has come to the {stage}, and was to panic here");
}

/// What an entry point calls first: from here on there is a console, and panics speak.
pub(crate) fn begin(machine: &'static dyn Machine) {
    set_machine(machine);
    set_platform(&platform::Kernel);
}

/// Brings the kernel up and runs the program; on the boot stack.
pub(crate) fn start(input: Input) -> ! {
    match up(input) {
        Ok(main) => scheduler::start(main),
        Err(error) => fail(&error),
    }
}

fn up(input: Input) -> Result<Arc<Task>, Error> {
    let mut args = input.args;
    reached("heap", args.iter().map(|word| word.as_bytes()));
    take_guard_pages()?;
    let surplus = number(&args, SURPLUS)?.unwrap_or(DEFAULT_SURPLUS);
    platform::init(surplus)?;
    reached("tables", args.iter().map(|word| word.as_bytes()));
    let archive = match input.archive {
        [] => Archive::EMPTY,
        bytes => Archive::parse(bytes)?,
    };
    if let Some(count) = number(&args, CPUS)? {
        CPU_COUNT.call_once(|| MAX_CPUS.min(count).max(1));
    }
    if let Some(bytes) = number(&args, PROFILE_MEMORY)? {
        profile::set_memory(bytes);
    }
    if let Some(hertz) = number(&args, PROFILE)? {
        PROFILE_RATE.call_once(|| u32::try_from(hertz).unwrap_or(u32::MAX));
    }
    let ours = [CPUS, SURPLUS, PROFILE, PROFILE_MEMORY];
    args.retain(|word| !ours.iter().any(|prefix| word.starts_with(prefix)));
    lines::init(&archive);
    BOOT.call_once(|| Boot { args, archive });
    task::main(MAIN_STACK, || match PROFILE_RATE.get() {
        Some(&hertz) => profile::whole(hertz, || program_main(boot())),
        None => program_main(boot()),
    })
}

/// The number that the last word that begins with `prefix` ends in, if there is such a word.
fn number(words: &[&'static str], prefix: &str) -> Result<Option<usize>, Error> {
    let Some(word) = words.iter().rfind(|word| word.starts_with(prefix)) else { return Ok(None) };
    word[prefix.len()..].parse().map(Some).map_err(|_| Error::NoNumber(word))
}

/// Makes the pages below the boot stack and the interrupt stacks inaccessible.
fn take_guard_pages() -> Result<(), Error> {
    for page in InterruptStack::guards().chain(arch::boot_stack_guard()) {
        // SAFETY: the image keeps these pages free for this.
        unsafe { machine().protect(page, Access::None) }?;
    }
    Ok(())
}

/// Says why the kernel cannot boot, and ends.
pub(crate) fn fail(error: &Error) -> ! {
    eprintln!("unspool-kernel: cannot boot: {error}");
    machine().exit(ExitCode::FAILURE)
}
