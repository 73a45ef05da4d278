//! What the [scenarios](crate::scenarios) use, on the kernel; `on_std.rs` has the same of std.
//!
//! ```text
//!   said:NAME:STYLE ─► style of traces ─► the scenario ─► what it says, as errors
//! ```

use core::sync::atomic::{AtomicBool, Ordering};

use unspool::panic::{BacktraceStyle, set_backtrace_style};
use unspool_kernel::{ExitCode, println, task};

pub use unspool::panic::{
    always_abort, catch_unwind, panic_any, panicking, resume_unwind, set_hook, take_hook,
    update_hook,
};
pub use unspool::thread_local;
pub use unspool_kernel::{eprint, eprintln};

/// Runs `body` in a task of its own, to its end.
pub fn thread(name: Option<&str>, body: fn()) {
    drop(task::spawn(name.unwrap_or_default(), body).join());
}

/// Starts a task that nobody joins, and lets it run: what it returns or panics with is its own to drop.
pub fn leave<T: Send + 'static>(body: fn() -> T) {
    static LEFT: AtomicBool = AtomicBool::new(false);
    let started = task::spawn("left", move || {
        while !LEFT.load(Ordering::Acquire) {
            task::yield_now();
        }
        body()
    });
    drop(started);
    LEFT.store(true, Ordering::Release);
    loop {
        task::yield_now();
    }
}

/// Runs the scenarios that `word` asks for.
pub fn run(word: &str) -> ExitCode {
    let (name, style) = word.split_once(':').unwrap_or((word, "short"));
    set_backtrace_style(match style {
        "off" => BacktraceStyle::Off,
        "short" => BacktraceStyle::Short,
        "full" => BacktraceStyle::Full,
        _ => {
            println!("no such style: {style}");
            return ExitCode::FAILURE;
        }
    });
    crate::scenarios::run(name);
    ExitCode::SUCCESS
}
