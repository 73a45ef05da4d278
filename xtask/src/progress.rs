//! Says what is going on: a spinner on a terminal, a few plain lines elsewhere.
//!
//! ```text
//! ⠙ building unspool-demo: Compiling unspool-kernel v0.1.0
//! ```
//!
//! Everything goes to stderr; stdout belongs to the programs and to the results.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal, one line of a running step is shown this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Something that takes a while. Fed with a subprocess's output, it shows the latest line.
pub struct Step {
    title: String,
    started: Instant,
    shown: Instant,
    partial: Vec<u8>,
    spinner: Option<ProgressBar>,
}

impl Step {
    /// Announces the step.
    pub fn start(title: impl Into<String>) -> Self {
        let title = title.into();
        let spinner = std::io::stderr().is_terminal().then(|| spinner(&title));
        if spinner.is_none() {
            eprintln!("{title} …");
        }
        let now = Instant::now();
        Self { title, started: now, shown: now, partial: Vec::new(), spinner }
    }

    /// Takes a piece of output, not necessarily whole lines.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.partial);
                self.line(String::from_utf8_lossy(&line).trim());
            } else {
                self.partial.push(byte);
            }
        }
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() || line.starts_with('{') {
            return; // cargo's machine-readable messages are not for people
        }
        if let Some(spinner) = &self.spinner {
            spinner.set_message(format!("{}: {line}", self.title));
        } else if self.shown.elapsed() >= PLAIN_INTERVAL {
            eprintln!("  … {line}");
            self.shown = Instant::now();
        }
    }

    /// Ends the step with a line that stays.
    pub fn end(mut self, outcome: &str) {
        let seconds = self.started.elapsed().as_secs_f32();
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
            eprintln!("{}: {outcome} ({seconds:.1} s)", self.title);
        } else {
            eprintln!("  {outcome} ({seconds:.1} s)");
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// Writes a result to stdout. A reader that went away (`| head`) has seen enough.
pub fn show(text: &str) {
    let mut output = std::io::stdout();
    let _ = writeln!(output, "{}", text.strip_suffix('\n').unwrap_or(text));
}

fn spinner(title: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let spinner = ProgressBar::new_spinner().with_style(style).with_message(title.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
