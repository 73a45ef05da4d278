//! Adds up what passed and what failed, and shows it.
//!
//! ```text
//! suite                      passed  failed    time
//! host: unspool-tls              31       0    1.2 s
//! suites: process                57       1    0.4 s  ◄
//!
//! suites: process: …             ◄── what there is to say about it
//!
//! failed: suites: process: tls::late_block
//!
//! 88 passed, 1 failed            ◄── always the last line, alone
//! ```
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

/// What one suite came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed; a suite that could not run counts as one.
    pub failed: u64,
    /// The names of those that failed, as far as they have one.
    pub failures: Vec<String>,
    /// What there is to say about the failures.
    pub complaints: Vec<String>,
}

impl Tally {
    /// A suite that could not do what it is for.
    pub fn failure(complaint: impl Into<String>) -> Self {
        Self { failed: 1, complaints: vec![complaint.into()], ..Self::default() }
    }

    /// One more failure.
    pub fn fail(&mut self, complaint: impl Into<String>) {
        self.failed += 1;
        self.complaints.push(complaint.into());
    }

    /// What another run came to, too.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.complaints.extend(other.complaints);
    }
}

impl fmt::Display for Tally {
    /// In a line: `3 passed, 1 failed: late_block`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if !self.failures.is_empty() {
            write!(f, ": {}", self.failures.join(", "))?;
        }
        Ok(())
    }
}

struct Row {
    name: String,
    tally: Tally,
    time: Duration,
}

impl Row {
    /// A line for each failed test with a name; one for those that have none.
    fn failed(&self) -> Option<String> {
        let Self { name, tally, .. } = self;
        let of_name = |test: &String| format!("failed: {name}: {test}");
        match (tally.failed, &tally.failures[..]) {
            (0, _) => None,
            (_, []) => Some(format!("failed: {name}")),
            (_, failures) => Some(failures.iter().map(of_name).collect::<Vec<_>>().join("\n")),
        }
    }
}

/// All suites so far.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a suite that took `time`.
    pub fn add(&mut self, name: impl Into<String>, tally: Tally, time: Duration) {
        self.rows.push(Row { name: name.into(), tally, time });
    }

    /// Tests that passed.
    pub fn passed(&self) -> u64 {
        self.rows.iter().map(|row| row.tally.passed).sum()
    }

    /// Tests that failed.
    pub fn failed(&self) -> u64 {
        self.rows.iter().map(|row| row.tally.failed).sum()
    }

    /// The table, the complaints, the names of what failed, and the last line.
    pub fn text(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(5);
        let mut text = format!("\n{:<width$}  passed  failed      time\n", "suite");
        for Row { name, tally, time } in &self.rows {
            let mark = if tally.failed == 0 { "" } else { "  ◄" };
            text.push_str(&format!(
                "{name:<width$}  {:>6}  {:>6}  {:>6.1} s{mark}\n",
                tally.passed,
                tally.failed,
                time.as_secs_f32()
            ));
        }
        for row in &self.rows {
            for complaint in &row.tally.complaints {
                text.push_str(&format!("\n{}: {}\n", row.name, complaint.trim_end()));
            }
        }
        let failed: Vec<_> = self.rows.iter().filter_map(Row::failed).collect();
        if !failed.is_empty() {
            text.push_str(&format!("\n{}\n", failed.join("\n")));
        }
        text.push_str(&format!("\n{} passed, {} failed\n", self.passed(), self.failed()));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_last_line() {
        let mut report = Report::default();
        let good = Tally { passed: 31, ..Tally::default() };
        report.add("host: a", good, Duration::from_millis(1200));
        report.add("suites", Tally::failure("it did not start\n"), Duration::ZERO);
        let text = report.text();
        assert_eq!(text.lines().last(), Some("31 passed, 1 failed"));
        assert!(text.contains("\nsuites: it did not start\n"));
        assert!(text.ends_with("\n\nfailed: suites\n\n31 passed, 1 failed\n"));
        assert!(text.contains("host: a      31       0     1.2 s\n"));
    }

    #[test]
    fn what_failed_is_named_right_before_the_sum() {
        let mut report = Report::default();
        let mut tally = Tally { passed: 2, ..Tally::default() };
        tally.fail("console:\nmany lines");
        tally.failed += 1;
        tally.failures = vec!["a::b".into(), "a::c".into()];
        assert_eq!(tally.to_string(), "2 passed, 2 failed: a::b, a::c");
        report.add("suites", tally, Duration::ZERO);
        let end =
            "many lines\n\nfailed: suites: a::b\nfailed: suites: a::c\n\n2 passed, 2 failed\n";
        assert!(report.text().ends_with(end), "{}", report.text());
    }

    #[test]
    fn nothing_is_nothing() {
        assert!(Report::default().text().ends_with("\n0 passed, 0 failed\n"));
    }
}
