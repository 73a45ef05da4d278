//! What the panic runtime asks of the program it runs in.
//!
//! ```text
//!   console · halt · stack bounds        required: without these nothing can be said or done
//!   task · state · symbols · style       have defaults that work before tasks exist
//! ```

use core::fmt;

use spin::Once;
use unspool_stack_trace::{Host, NoSymbols, OwnStacks, Style, Symbolize, Trace, set_host};
use unspool_unwind::{
    Cursor, Environment, Modules, Pc, RaiseError, Registers, StackBounds, global, set_environment,
};

use crate::personality::rust_eh_personality;
use crate::report::{self, Report, fatal};
use crate::state::TaskState;

/// How a task is called in messages: `thread 'name' (id) panicked at …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskName<'a> {
    /// Its name, if it has one.
    pub name: Option<&'a str>,
    /// Its number.
    pub id: u64,
}

impl fmt::Display for TaskName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "'{name}' ({})", self.id),
            None => write!(f, "<unnamed> ({})", self.id),
        }
    }
}

/// The program's side of the panic runtime.
///
/// All methods are called during panics: they must not panic, and must not wait for anything
/// that the panicking code may hold.
pub trait Platform: Sync {
    /// Writes to the console.
    fn write(&self, text: &str);

    /// Stops the program: nothing more can be done, and the reason has been written.
    fn halt(&self) -> !;

    /// The stack that the caller runs on.
    fn stack(&self) -> StackBounds;

    /// If the caller runs on a handler's stack: the stack with this address, if what was interrupted ran
    /// there. Traces then go on; exceptions never do. None by default.
    fn interrupted(&self, address: u64) -> StackBounds {
        let _ = address;
        StackBounds::EMPTY
    }

    /// The task that the caller belongs to.
    fn task(&self) -> TaskName<'_> {
        TaskName { name: Some("main"), id: 0 }
    }

    /// Where the panic runtime keeps what it knows of the caller's task. The default serves
    /// programs with one task, and the time before there are tasks.
    fn state(&self) -> &TaskState {
        &NO_TASK
    }

    /// Names for addresses.
    fn symbols(&self) -> &dyn Symbolize {
        &NoSymbols
    }

    /// How much of a trace panics print.
    fn backtrace_style(&self) -> Style {
        Style::Short
    }

    /// How the user gets a trace when the style is [`Style::Off`]; printed after the first panic.
    fn backtrace_note(&self) -> &str {
        "note: set the platform's backtrace style to display a backtrace"
    }
}

static NO_TASK: TaskState = TaskState::new();
static PLATFORM: Once<&'static dyn Platform> = Once::new();

/// The platform of a program that has not set one.
struct Unset;

impl Platform for Unset {
    fn write(&self, _text: &str) {}

    fn halt(&self) -> ! {
        loop {
            core::hint::spin_loop();
        }
    }

    fn stack(&self) -> StackBounds {
        StackBounds::EMPTY
    }
}

/// Sets the program's platform. The first call counts; later ones change nothing.
pub fn set_platform(platform: &'static dyn Platform) {
    PLATFORM.call_once(|| platform);
    set_environment(&ENVIRONMENT);
    set_host(&Traced);
}

/// The platform, as traces that are kept see it.
struct Traced;

impl Host for Traced {
    fn stack(&self) -> StackBounds {
        platform().stack()
    }

    fn interrupted(&self, address: u64) -> StackBounds {
        platform().interrupted(address)
    }

    fn symbols(&self) -> &dyn Symbolize {
        platform().symbols()
    }

    fn style(&self) -> Style {
        report::style()
    }
}

/// How exceptions of other languages are raised here, too.
static ENVIRONMENT: Environment = Environment::new(|_| platform().stack(), unwinding_stuck)
    .with_plain_personality(rust_eh_personality);

/// The program's platform; one that is silent and knows nothing if none is set.
pub fn platform() -> &'static dyn Platform {
    PLATFORM.get().copied().unwrap_or(&Unset)
}

fn unwinding_stuck(error: RaiseError) -> ! {
    fatal(format_args!("unwinding cannot go on: {error}"))
}

/// A trace of the caller's stack, by the program's unwind tables.
pub type StackTrace = Trace<'static, OwnStacks, Modules>;

/// The frames of the caller's stack; the first one is the caller's own.
///
/// They are read when the iterator is asked for them: use it before the calling function returns.
#[inline(always)]
pub fn trace() -> StackTrace {
    let registers = Registers::here();
    trace_from(&registers, Pc::Return(registers.ip()))
}

/// The frames from one with these registers.
pub(crate) fn trace_from(registers: &Registers, pc: Pc) -> StackTrace {
    let stack = platform().stack().above(registers.sp());
    Trace::new(Cursor::new(*registers, pc, OwnStacks::new(stack), global()))
}

/// Prints a trace of the caller's stack to the platform's console.
#[inline(never)]
pub fn backtrace(style: Style) {
    print_trace(&mut Report::begin(), trace(), style);
}

pub(crate) fn print_trace(report: &mut Report, trace: StackTrace, style: Style) {
    // The console cannot fail.
    let _ = unspool_stack_trace::print(report, trace, style, platform().symbols());
}
