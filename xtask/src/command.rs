//! Runs a subprocess to its end, or to its deadline, and keeps what it said.
//!
//! ```text
//! child ──stdout─┐
//!       ──stderr─┴─► pipe ─► reader thread ─► sink (live) + kept output
//! ```
//!
//! Both streams share one pipe, so lines stay in the order they were written; or each has its own.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{fmt, fs, thread};

use anyhow::{Context, Result};

/// How often a silent child is looked at.
const POLL: Duration = Duration::from_millis(50);
/// For how long the output of an ended child is read on.
const DRAIN: Duration = Duration::from_secs(10);

/// How cargo's lines of progress begin, after blanks.
const CARGO_VERBS: &[&str] = &[
    "Adding",
    "Blocking",
    "Checking",
    "Compiling",
    "Documenting",
    "Downloaded",
    "Downloading",
    "Finished",
    "Fresh",
    "Generated",
    "Locking",
    "Running",
    "Scraping",
    "Updating",
];

/// How a subprocess ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It was still running after this time, and was killed.
    TimedOut(Duration),
}

impl End {
    /// Whether it exited with status 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}{}", signal_name(*signal)),
            Self::TimedOut(limit) => write!(f, "still running after {} s", limit.as_secs()),
        }
    }
}

/// The name of the signals a stray kernel program gets.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        5 => " (SIGTRAP)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        31 => " (SIGSYS)",
        _ => "",
    }
}

/// A subprocess that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub end: End,
    /// stdout and stderr, in the order they were written.
    pub output: String,
}

impl Finished {
    /// What a person needs of cargo's output: not which crates it went through, nor the messages
    /// meant for programs.
    pub fn messages(&self) -> String {
        let routine = |line: &&str| {
            let verb = line.trim_start().split(' ').next().unwrap_or_default();
            line.starts_with('{') || (line.starts_with(' ') && CARGO_VERBS.contains(&verb))
        };
        let lines: Vec<_> = self.output.lines().filter(|line| !routine(line)).collect();
        lines.join("\n").trim().to_owned()
    }
}

/// Runs `command` for at most `limit`, without stdin. `sink` sees the output as it comes.
///
/// Takes the command by value: it holds the write end of the pipe, which must be closed here for
/// the end of the output to be seen.
///
/// # Errors
/// The program cannot be started.
pub fn run(mut command: Command, limit: Duration, sink: &mut dyn FnMut(&[u8])) -> Result<Finished> {
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut output = Vec::new();
    let end = follow(command, limit, vec![(Stream::Output, reader)], &mut |_, chunk| {
        sink(chunk);
        output.extend_from_slice(chunk);
    })?;
    Ok(Finished { end, output: String::from_utf8_lossy(&output).into_owned() })
}

/// Which stream something was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// stdout, or both if they are not kept apart.
    Output,
    /// stderr.
    Errors,
}

/// As [`run`], but tells the streams apart, and keeps neither.
///
/// # Errors
/// The program cannot be started.
pub fn run_apart(
    mut command: Command,
    limit: Duration,
    sink: &mut dyn FnMut(Stream, &[u8]),
) -> Result<End> {
    let (output, to_output) = io::pipe()?;
    let (errors, to_errors) = io::pipe()?;
    command.stdout(to_output).stderr(to_errors);
    follow(command, limit, vec![(Stream::Output, output), (Stream::Errors, errors)], sink)
}

/// Starts `command`, which writes to the other ends of `pipes`, and hands on what it writes.
fn follow(
    mut command: Command,
    limit: Duration,
    pipes: Vec<(Stream, io::PipeReader)>,
    sink: &mut dyn FnMut(Stream, &[u8]),
) -> Result<End> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start `{name}`"))?;
    drop(command);

    let chunks = read_on_threads(pipes);
    // None: a limit that the clock cannot show will not be reached.
    let deadline = Instant::now().checked_add(limit);
    let status = loop {
        match chunks.recv_timeout(POLL) {
            Ok((stream, chunk)) => sink(stream, &chunk),
            // Nothing more to read: it has ended, or closed its output and goes on.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(1)),
            // Silent. An ended child whose own children keep the pipe open stops here, too.
            Err(RecvTimeoutError::Timeout) => {}
        }
        // First: one that has ended is not late because its end was seen late.
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break None;
        }
    };
    let end = match status {
        Some(status) => End::from(status),
        None => {
            kill_tree(&mut child);
            End::TimedOut(limit)
        }
    };
    // What was still in the pipe. An orphan may keep writing; it is not ours to wait for.
    let enough = Instant::now() + DRAIN;
    // On a busy machine, the threads that read may be late, by seconds.
    while let left = enough.saturating_duration_since(Instant::now())
        && let Ok((stream, chunk)) = chunks.recv_timeout(left)
    {
        sink(stream, &chunk);
    }
    Ok(end)
}

/// The first line a program prints, if it starts and succeeds: `id -u`, `rustc --version`.
pub fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

fn read_on_threads(pipes: Vec<(Stream, io::PipeReader)>) -> Receiver<(Stream, Vec<u8>)> {
    let (sender, receiver) = mpsc::channel();
    for (stream, mut reader) in pipes {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send((stream, buffer[..count].to_vec())).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

/// Kills the child and what it started: `cargo test` dying alone would leave the test running.
fn kill_tree(child: &mut Child) {
    for pid in descendants(child.id()) {
        // It may have ended by itself; there is nothing to do about a failure.
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).output();
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Processes below `pid`, children before parents.
fn descendants(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let mut found = Vec::new();
    for child in children.unwrap_or_default().split_whitespace() {
        if let Ok(child) = child.parse() {
            found.extend(descendants(child));
            found.push(child);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Finished {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, limit, &mut |_| {}).unwrap()
    }

    #[test]
    fn both_streams_are_kept_in_order() {
        let ended = shell("echo one; echo two >&2; echo three; exit 7", Duration::from_secs(100));
        assert_eq!(ended.output, "one\ntwo\nthree\n");
        assert_eq!(ended.end, End::Code(7));
    }

    #[test]
    fn streams_can_be_kept_apart() {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'a\\n\\0b'; echo c >&2; exit 200"]);
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let end = run_apart(command, Duration::from_secs(100), &mut |stream, chunk| match stream {
            Stream::Output => output.extend_from_slice(chunk),
            Stream::Errors => errors.extend_from_slice(chunk),
        });
        assert_eq!(end.unwrap(), End::Code(200));
        assert_eq!((&output[..], &errors[..]), (&b"a\n\0b"[..], &b"c\n"[..]));
    }

    #[test]
    fn messages_are_for_people() {
        let output = "   Compiling a v0.1.0\n{\"reason\":\"x\"}\nerror: no\n  Running late\n";
        let finished = Finished { end: End::Code(101), output: output.to_owned() };
        assert_eq!(finished.messages(), "error: no");
    }

    #[test]
    fn a_signal_is_not_an_exit_code() {
        let ended = shell("kill -SEGV $$", Duration::from_secs(100));
        assert_eq!(ended.end.to_string(), "killed by signal 11 (SIGSEGV)");
    }

    #[test]
    fn a_deadline_ends_the_grandchildren_too() {
        // Long enough for the shell to say who it is.
        let limits = [300, 3000, 30_000, 300_000].map(Duration::from_millis);
        let said_who = |limit| {
            let ended = shell("sleep 3600 & echo $!; wait", limit);
            assert_eq!(ended.end, End::TimedOut(limit));
            ended.output.trim().parse::<u32>().ok()
        };
        let grandchild = limits.into_iter().find_map(said_who).unwrap();
        // Killed, but perhaps not yet gone; whoever waits for it has no command line.
        let command_line = || fs::read(format!("/proc/{grandchild}/cmdline")).unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !command_line().is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(command_line().is_empty());
    }

    #[test]
    fn a_limit_may_be_as_long_as_one_likes() {
        assert_eq!(shell("exit 3", Duration::from_secs(u64::MAX)).end, End::Code(3));
    }

    #[test]
    fn an_orphan_that_keeps_the_pipe_does_not_keep_us() {
        let started = Instant::now();
        let ended = shell("sleep 120 & echo done", Duration::from_secs(110));
        assert_eq!(ended.end, End::Code(0));
        assert!(started.elapsed() < Duration::from_secs(100));
    }

    #[test]
    fn a_missing_program_is_named() {
        let missing = Command::new("no-such-program-here");
        let error = run(missing, Duration::from_secs(1), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("no-such-program-here"));
    }
}
