//! What the kernel offers to the crates below it: panics, loading, names.
//!
//! ```text
//!   unspool::panic  ◄─ Platform: console, halt, stack, task, names
//!   unspool::loader ◄─ Memory (memory.rs), Symbols: the embedded table by name
//!   unspool::tls    ◄─ one Registry
//! ```

use spin::Once;
use unspool::backtrace::table::{SymbolTable, TableError};
use unspool::backtrace::{Function, Named, Place, Symbol, Symbolize};
use unspool::loader::{Loader, Symbols};
use unspool::panic::{BacktraceStyle, Platform, TaskName, TaskState, get_backtrace_style};
use unspool::tls::{Registry, Template};
use unspool::unwind::table::{self as frames, FrameTable};
use unspool::unwind::{Module, StackBounds};

use crate::arch::{self, InterruptStack};
use crate::console;
use crate::cpu::{self, MAX_CPUS};
use crate::eprintln;
use crate::error::Error;
use crate::lines::Lines;
use crate::machine::{ExitCode, Pages, Stream, machine};
use crate::memory::ObjectMemory;
use crate::scheduler;
use crate::task::Task;

/// The kernel, as the panic runtime sees it.
pub(crate) struct Kernel;

impl Platform for Kernel {
    fn write(&self, text: &str) {
        machine().write(Stream::Errors, text.as_bytes());
        console::tell(text);
    }

    fn halt(&self) -> ! {
        machine().exit(ExitCode::PANIC)
    }

    fn stack(&self) -> StackBounds {
        stack_around(arch::stack_pointer())
    }

    fn interrupted(&self, address: u64) -> StackBounds {
        match InterruptStack::containing(arch::stack_pointer()) {
            Some(_) => stack_around(address),
            None => StackBounds::EMPTY,
        }
    }

    fn task(&self) -> TaskName<'_> {
        match running() {
            Some(task) => {
                let name = Some(task.name()).filter(|name| !name.is_empty());
                TaskName { name, id: task.id() }
            }
            None if cpu::this().is_online() => {
                TaskName { name: Some("idle"), id: cpu::current() as u64 }
            }
            None => TaskName { name: Some("boot"), id: 0 },
        }
    }

    fn state(&self) -> &TaskState {
        /// For each CPU, while it runs no task.
        static NO_TASK: [TaskState; MAX_CPUS] = [const { TaskState::new() }; MAX_CPUS];
        running().map_or_else(|| &NO_TASK[cpu::current()], Task::panics)
    }

    fn symbols(&self) -> &dyn Symbolize {
        &Names
    }
}

/// The stack that `sp` points into, of those that can be in use; empty if it is none of them.
pub(crate) fn stack_around(sp: u64) -> StackBounds {
    // The nearest first: a walk asks this for every word that it reads.
    let task = || running().map(Task::stack).filter(|stack| stack.contains(&sp));
    let interrupts = || InterruptStack::containing(sp).map(|(_, range)| range);
    let others = || {
        let left = [cpu::this().left_stack(), arch::boot_stack()];
        left.into_iter().chain(cpu::idle_stacks()).find(|stack| stack.contains(&sp))
    };
    match task().or_else(interrupts).or_else(others) {
        // SAFETY: mapped as long as code runs on it, or was interrupted on it.
        Some(stack) => unsafe { StackBounds::new(stack.start, stack.end) },
        None => StackBounds::EMPTY,
    }
}

/// The running task, for as long as a panic of that task lasts.
pub(crate) fn running<'a>() -> Option<&'a Task> {
    // SAFETY: only used for answers to the panic runtime, which asks again for each panic.
    unsafe { scheduler::running() }
}

/// How much of a trace is printed: as panics do it.
pub(crate) fn trace_style() -> BacktraceStyle {
    get_backtrace_style().unwrap_or(BacktraceStyle::Off)
}

static TABLE: Once<SymbolTable<'static>> = Once::new();
/// The program's code. A symbol without a size would reach beyond it.
static TEXT: Once<Pages> = Once::new();
static REGISTRY: Once<Registry> = Once::new();
static LOADER: Once<Loader<'static>> = Once::new();

/// The names of the program and of all that was loaded.
pub(crate) struct Names;

impl Symbolize for Names {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        if is_text(address) {
            return TABLE.get()?.symbolize(address);
        }
        let loaded = LOADER.get().and_then(|loader| loader.symbolize(address));
        loaded.or_else(|| Named.symbolize(address))
    }

    fn functions(&self, address: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
        (Lines, Tables).functions(address, each)
    }

    /// The program is linked to the addresses that it has: they say it all.
    fn place(&self, address: u64) -> Option<Place<'_>> {
        LOADER.get()?.place(address)
    }

    fn directory(&self) -> Option<&str> {
        Lines.directory()
    }
}

/// The same names, and none of the lines.
struct Tables;

impl Symbolize for Tables {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        Names.symbolize(address)
    }
}

/// Whether this is an address of the program's code.
pub(crate) fn is_text(address: u64) -> bool {
    TEXT.get().is_some_and(|text| (text.start()..text.end()).contains(&address))
}

/// What loaded objects may refer to.
struct Program;

impl Symbols for Program {
    fn address_of(&self, name: &str) -> Option<u64> {
        Some(TABLE.get()?.by_name(name)?.address)
    }
}

/// All modules with thread-local variables, and all tasks' areas.
///
/// It has a lock of its own, which a task may hold while it is preempted: do not call it while
/// preemption is off.
///
/// # Panics
///
/// Before the kernel is up, which no code of a program can see.
pub fn tls_registry() -> &'static Registry {
    REGISTRY.get().expect("the registry is made at boot")
}

/// The loader of this kernel; not to be used while preemption is off, as [`tls_registry`].
///
/// # Panics
///
/// Before the kernel is up, which no code of a program can see.
pub fn loader() -> &'static Loader<'static> {
    LOADER.get().expect("the loader is made at boot")
}

/// The running program's own symbols; `None` if the build put no table into the image.
pub fn symbols() -> Option<&'static SymbolTable<'static>> {
    TABLE.get()
}

/// The table of frames that the build put into the image; none if there is none.
fn frames_of(module: &Module<'_>) -> FrameTable<'static> {
    match FrameTable::parse(arch::frame_bytes(), &module.eh_frame) {
        Ok(table) => table,
        // The build put none in, or the linker script has no place for one.
        Err(frames::TableError::Absent | frames::TableError::Truncated { available: 0, .. }) => {
            FrameTable::NONE
        }
        // First walks take longer: go on without.
        Err(error) => {
            eprintln!("unspool-kernel: {error}");
            FrameTable::NONE
        }
    }
}

/// Makes what tasks and panics need. Every TLS area keeps `surplus` bytes for the modules that are
/// loaded later. Needs the heap.
pub(crate) fn init(surplus: usize) -> Result<(), Error> {
    let text = arch::Image::from_linker()?.text;
    TEXT.call_once(|| text);
    // SAFETY: the linker script of this kernel delimits its sections; the image stays as it is.
    let module = unsafe { Module::from_linker() }?;
    let module = module.with_table(frames_of(&module));
    // SAFETY: the unwind tables are those that the compiler made for this code.
    let registration = unsafe { unspool::unwind::register(module) }?;
    // The program is never unloaded.
    core::mem::forget(registration);
    let registry = Registry::new(Template::from_linker()?, surplus)?;
    let registry = REGISTRY.call_once(|| registry);
    match SymbolTable::parse(arch::symbol_bytes()) {
        Ok(table) => drop(TABLE.call_once(|| table)),
        // The build put none in, or the linker script has no place for one.
        Err(TableError::Absent | TableError::Truncated { available: 0, .. }) => {}
        // Names are a comfort: go on without.
        Err(error) => eprintln!("unspool-kernel: {error}"),
    }
    LOADER.call_once(|| Loader::new(&ObjectMemory, &Program, registry));
    Ok(())
}
