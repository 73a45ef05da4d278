//! Says which case it was, however it ends.
//!
//! ```text
//!   panic ──► drop of the case ──► numbers, and the files in the target's folder
//!   fault ──► signal handler ────► numbers
//! ```

use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

static RUN: AtomicU64 = AtomicU64::new(0);
static CASE: AtomicU64 = AtomicU64::new(0);

/// The case that runs now.
pub struct Running<'f> {
    run: u64,
    case: u64,
    files: &'f [Vec<Vec<u8>>],
}

impl<'f> Running<'f> {
    pub fn new(run: u64, case: u64, files: &'f [Vec<Vec<u8>>]) -> Self {
        RUN.store(run, Ordering::Relaxed);
        CASE.store(case, Ordering::Relaxed);
        Self { run, case, files }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let Self { run, case, files } = self;
        eprintln!("case {case} of run {run}");
        for (number, file) in files.iter().flatten().enumerate() {
            let name = format!("fuzz-{run}-{case}-{number}");
            let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
            if std::fs::write(&path, file).is_ok() {
                eprintln!("  {}", path.display());
            }
        }
    }
}

/// Says which case it was, and ends the process, in a signal handler.
pub fn say(signal: c_int) -> ! {
    let numbers = [signal as u64, CASE.load(Ordering::Relaxed), RUN.load(Ordering::Relaxed)];
    for (text, number) in ["signal ", ", case ", " of run "].into_iter().zip(numbers) {
        write(text.as_bytes());
        let mut digits = [b'0'; 20];
        let mut at = digits.len() - 1;
        let mut rest = number;
        while rest >= 10 {
            digits[at] += (rest % 10) as u8;
            (rest, at) = (rest / 10, at - 1);
        }
        digits[at] += rest as u8;
        write(&digits[at..]);
    }
    write(b"\n");
    // SAFETY: ends the process without anything else.
    unsafe { libc::_exit(128 + signal) }
}

fn write(bytes: &[u8]) {
    // SAFETY: the bytes are there.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}
