//! Programs that must not survive: each says why on the console and exits with code 101.
//!
//! ```text
//! unspool-suites die:NAME ──► std's words for it, in this order ──► exit code 101
//! ```
//!
//! The programs are in `tests/suites/src/deaths.rs`. To add one, add a [`Death`]; one that std has, too, is
//! better a scenario (see `said`).
#![forbid(unsafe_code)]

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::build::Image;
use crate::command::{self, End};
use crate::libtest::tail;
use crate::place::Ran;
use crate::qemu::{Order, Outcome};

/// What a program that panicked for good exits with, as std's do.
const PANICKED: i32 = 101;
/// How many lines of a wrong death are shown.
const TAIL: usize = 40;

/// One of them.
pub struct Death {
    /// What follows `die:`; or, with an equals sign in it, a word for the kernel itself.
    pub name: &'static str,
    /// What the console must show, in this order.
    pub words: &'static [&'static str],
}

/// All of them.
pub const DEATHS: &[Death] = &[
    Death {
        name: "drop_faults_during_cleanup",
        words: &[
            "page fault: read of 0x8",
            "fatal runtime error: fault in a destructor during cleanup, aborting",
        ],
    },
    Death {
        name: "panic_leaves_extern_c",
        words: &[
            "against the wall",
            "panic in a function that cannot unwind",
            "thread caused non-unwinding panic. aborting.",
        ],
    },
    Death {
        name: "kill_leaves_extern_c",
        words: &["dropped by a kill", "panic in a function that cannot unwind"],
    },
    Death {
        name: "console_panics",
        words: &[
            "thread 'dies'",
            "heard",
            "in the console\nthread panicked while processing panic. aborting.\n",
            "heard panicked at",
        ],
    },
    Death {
        name: "trace_panics",
        words: &[
            "to be traced\nstack backtrace:\n",
            "in the trace\nthread panicked while processing panic. aborting.\n",
        ],
    },
    Death {
        name: "panic-at=console",
        words: &[
            "thread 'boot' (0) panicked at",
            "the boot has come to the console, and was to panic here\n",
            "no module contains 0x",
            "fatal runtime error: failed to initiate panic, error 3, aborting\n",
        ],
    },
    Death {
        name: "panic-at=heap",
        words: &[
            "thread 'boot' (0) panicked at",
            "the boot has come to the heap, and was to panic here\n",
            "no module contains 0x",
            "fatal runtime error: failed to initiate panic, error 3, aborting\n",
        ],
    },
    Death {
        name: "panic-at=tables",
        words: &[
            "the boot has come to the tables, and was to panic here\nstack backtrace:\n",
            "unspool_kernel::boot::",
            "fatal runtime error: failed to initiate panic, error 5, aborting\n",
        ],
    },
    Death {
        name: "foreign_exception",
        words: &["fatal runtime error: Rust cannot catch foreign exceptions, aborting"],
    },
    Death {
        name: "panic_dropped_by_others",
        words: &["fatal runtime error: Rust panics must be rethrown, aborting"],
    },
    Death {
        name: "stack_smash",
        words: &["stack smashing detected", "panic in a function that cannot unwind"],
    },
    Death {
        name: "policy_faults",
        words: &[
            "fatal: invalid opcode",
            "cannot unwind: it happened in a handler (Fault)",
            "deaths::policy_faults",
            "[... interrupted, on another stack ...]",
            "deaths::reads_nothing",
        ],
    },
    Death {
        name: "policy_stops",
        words: &[
            "fatal: page fault: read of 0x8",
            "the kernel's policy is to stop",
            "deaths::reads_nothing",
        ],
    },
    Death {
        name: "hook_faults",
        words: &["CPU fault at", "while processing panic: page fault: read of 0x8"],
    },
    Death {
        name: "hook_panics_when_it_goes",
        words: &["a hook goes\nthread panicked while processing panic. aborting.\n"],
    },
    Death {
        name: "nmi_panics_in_the_console",
        words: &[
            "thread 'dies' (2) panicked at tests/suites/src/deaths.rs:",
            "in the middle of a line\n",
            "stack backtrace:\n",
            "[... interrupted, on another stack ...]",
            "deaths::nmi_panics_in_the_console",
            "panic in a function that cannot unwind",
            "thread caused non-unwinding panic. aborting.\n",
        ],
    },
    Death {
        name: "task_hook_panics_on_drop",
        words: &[
            "thread 'dies' (2) panicked at",
            "a hook is dropped\n",
            "fatal runtime error: task hook panicked on drop, aborting\n",
        ],
    },
    Death {
        name: "deadlock",
        words: &["fatal: deadlock, no task can run:\n", "'dies' (2) is parked\n"],
    },
    Death { name: "stack_overflow", words: &["stack overflow: all 65536 bytes", "deeper"] },
];

/// A death that takes several CPUs: one of them is idle.
pub const OF_MANY: Death = Death {
    name: "idle_panics",
    words: &[
        "thread 'idle' (",
        ") panicked at tests/suites/src/deaths.rs:",
        "nothing to do\nstack backtrace:\n",
        "[... interrupted",
        "unspool_kernel::scheduler::idle\n",
        "panic in a function that cannot unwind",
        "thread caused non-unwinding panic. aborting.\n",
    ],
};

/// A death where the console has a lock of the kernel's.
pub const OF_PORTS: Death = Death {
    name: "console_faults",
    words: &["fatal: debug", "cannot unwind: the console is in the middle of a change\n"],
};

/// The death of a process that begins with all signals blocked: its parent blocks them.
pub const BLOCKED: Death =
    Death { name: "stack_overflow", words: &["stack overflow: all 65536 bytes", "deeper"] };

/// Runs it so.
///
/// # Errors
/// It cannot be started.
pub fn run_blocked(image: &Image, limit: Duration, sink: &mut dyn FnMut(&[u8])) -> Result<Ran> {
    let mut command = Command::new("env");
    command.arg("--block-signal").arg(&image.elf).arg(&image.modules).arg(BLOCKED.word());
    let finished = command::run(command, limit, sink)?;
    let outcome = match finished.end {
        End::Code(code) => Outcome::Exit(code),
        end => Outcome::Broken(end),
    };
    Ok(Ran { outcome, output: finished.output })
}

/// A word that is for the kernel and makes no sense, and what a kernel that does not boot says of it.
pub const BAD_WORD: (&str, &str) =
    ("surplus=64k", "cannot boot: no number, or none that is possible: `surplus=64k`");

/// What QEMU's monitor does to a machine: an uncorrected error in bank 0 of CPU 0, valid, with the
/// processor's context corrupt (Intel SDM volume 3, §15.3.2.2).
pub const MACHINE_CHECK: Order =
    Order { after: "ready for a machine check", command: "mce 0 0 0xb200000000000000 4 0 0" };

/// The death of it.
pub const BY_MONITOR: Death = Death {
    name: "machine_check",
    words: &[
        "fatal: machine check at 0x",
        "cannot unwind: the kernel's policy is to stop\n",
        "[... interrupted ...]\n",
        "deaths::machine_check\n",
    ],
};

/// The death of the kernel on stable Rust: a trace, through the frames of the task.
pub const ON_STABLE: Death = Death {
    name: "panic",
    words: &[
        "thread 'doomed'",
        "panicked at",
        "nothing was counted here",
        "stack backtrace:",
        "unspool_stable_kernel::doomed",
    ],
};

impl Death {
    /// The word of the command line that asks for it.
    pub fn word(&self) -> String {
        if self.name.contains('=') { self.name.to_owned() } else { format!("die:{}", self.name) }
    }
}

/// What was wrong with a death, if anything was.
pub fn judge(death: &Death, ran: &Ran) -> Option<String> {
    let mut rest = ran.output.as_str();
    for word in death.words {
        match rest.split_once(word) {
            Some((_, after)) => rest = after,
            None => return Some(complain(death, ran, &format!("did not say `{word}`"))),
        }
    }
    let right = matches!(&ran.outcome, Outcome::Exit(code) if *code == PANICKED);
    (!right).then(|| complain(death, ran, "ended in another way"))
}

fn complain(death: &Death, ran: &Ran, what: &str) -> String {
    let console = tail(&ran.output, TAIL);
    format!("{} {what}, got {}. Console:\n{console}", death.word(), ran.outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(output: &str, code: i32) -> Ran {
        Ran { output: output.to_owned(), outcome: Outcome::Exit(code) }
    }

    const DEATH: Death = Death { name: "sample", words: &["first", "second"] };

    #[test]
    fn the_words_must_come_in_order_and_the_code_must_be_101() {
        assert_eq!(judge(&DEATH, &ran("first, then second", 101)), None);
        let order = judge(&DEATH, &ran("second, then first", 101)).unwrap();
        assert!(order.starts_with("die:sample did not say `second`"), "{order}");
        let code = judge(&DEATH, &ran("first, then second", 1)).unwrap();
        assert!(code.starts_with("die:sample ended in another way"), "{code}");
    }
}
