//! Reads what `cargo test` says.
//!
//! ```text
//! test layout::tests::a ... ok
//! test layout::tests::b ... FAILED
//! test result: FAILED. 1 passed; 1 failed; 0 ignored; …     one for each binary, and for doctests
//! ```
#![forbid(unsafe_code)]

use crate::command::Finished;
use crate::report::Tally;

/// How many lines of a failed run are shown.
const TAIL: usize = 80;

/// What the run came to. A run that ended badly without a failed test counts as one failure.
pub fn tally(finished: &Finished) -> Tally {
    let mut tally = Tally::default();
    let mut results = 0;
    for line in finished.output.lines() {
        if let Some(counts) = line.strip_prefix("test result: ") {
            results += 1;
            tally.passed += count(counts, "passed");
            tally.failed += count(counts, "failed");
        } else if let Some(name) = failed(line) {
            tally.failures.push(name.to_owned());
        }
    }
    if finished.end.success() && results > 0 && tally.failed == 0 {
        return tally;
    }
    if tally.failed == 0 {
        tally.failed = 1;
    }
    let why = if results == 0 { "no test ran" } else { "failed" };
    tally.complaints.push(format!(
        "{why} ({}):\n{}",
        finished.end,
        tail(&finished.messages(), TAIL)
    ));
    tally
}

/// The name of the test that a line says has failed.
pub fn failed(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// The number before `word` in `ok. 3 passed; 0 failed; …`.
fn count(counts: &str, word: &str) -> u64 {
    let before = counts.split([';', '.']).find_map(|part| part.trim().strip_suffix(word));
    before.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// The last `count` lines, without those of tests that passed.
pub fn tail(output: &str, count: usize) -> String {
    let telling = |line: &&str| !(line.starts_with("test ") && line.ends_with(" ok"));
    let lines: Vec<_> = output.lines().filter(telling).collect();
    let mut text = lines[lines.len().saturating_sub(count)..].join("\n");
    if lines.len() > count {
        text.insert_str(0, "…\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::command::End;

    fn finished(end: End, output: &str) -> Finished {
        Finished { end, output: output.to_owned() }
    }

    const GOOD: &str = "running 2 tests\ntest a ... ok\ntest b ... ok\n\n\
        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n";
    const BAD: &str = "test c ... FAILED\n---- c stdout ----\nboom\n\
        test result: FAILED. 5 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";

    #[test]
    fn several_binaries_add_up() {
        let all = format!("{GOOD}   Doc-tests x\n{GOOD}");
        let expected = Tally { passed: 4, ..Tally::default() };
        assert_eq!(tally(&finished(End::Code(0), &all)), expected);
    }

    #[test]
    fn a_failed_test_is_counted_and_shown() {
        let found = tally(&finished(End::Code(101), &format!("{GOOD}{BAD}")));
        assert_eq!((found.passed, found.failed), (7, 1));
        assert_eq!(found.failures, ["c"]);
        assert!(found.complaints[0].contains("boom") && !found.complaints[0].contains("test a"));
    }

    #[test]
    fn a_build_failure_is_a_failure() {
        let found = tally(&finished(End::Code(101), "error[E0425]: cannot find value `x`\n"));
        assert_eq!((found.passed, found.failed), (0, 1));
        assert!(found.complaints[0].contains("E0425"));
    }

    #[test]
    fn a_crash_or_a_timeout_after_good_results_is_a_failure() {
        for end in [End::Code(101), End::Signal(11), End::TimedOut(Duration::from_secs(9))] {
            let found = tally(&finished(end, GOOD));
            assert_eq!((found.passed, found.failed), (2, 1));
        }
    }

    #[test]
    fn a_run_without_results_is_no_success() {
        assert_eq!(tally(&finished(End::Code(0), "")).failed, 1);
    }
}
