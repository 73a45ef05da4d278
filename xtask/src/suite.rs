//! Judges what a kernel wrote to its console, and how it ended.
//!
//! ```text
//! test area_is_aligned ... ok        one line for each test
//! test late_block ... FAILED
//! 1 passed, 1 failed                 the last line; then exit code 0 if and only if none failed
//! ```
//!
//! The lines, the last line and the exit code must agree; a kernel that stops halfway has failed.
#![forbid(unsafe_code)]

use crate::libtest::{failed, tail};
use crate::place::Ran;
use crate::qemu::Outcome;
use crate::report::Tally;

/// How many lines of a failed kernel are shown.
const TAIL: usize = 60;
/// What the demo's last line begins with.
const COMPLETE: &str = "journey complete:";

/// What a run of the suites came to. Without a filter it must have run at least one test.
pub fn suites(ran: &Ran, filtered: bool) -> Tally {
    let mut tally = Tally::default();
    // What was written since the last test ended.
    let mut lines = Vec::new();
    for line in ran.output.lines().map(str::trim_end) {
        lines.push(line);
        if line.starts_with("test ") && line.ends_with(" ... ok") {
            tally.passed += 1;
            lines.clear();
        } else if let Some(name) = failed(line) {
            tally.fail(format!("{name}:\n{}", tail(&lines.join("\n"), TAIL)));
            tally.failures.push(name.to_owned());
            lines.clear();
        }
    }
    let seen = (tally.passed, tally.failed);
    match last_line(&ran.output).and_then(summary) {
        None => tally
            .fail(format!("stopped halfway, {}: no last line `N passed, N failed`", ran.outcome)),
        Some(said) if said != seen => tally.fail(format!(
            "its last line says {} passed, {} failed; its lines say {}, {}",
            said.0, said.1, seen.0, seen.1
        )),
        Some((0, 0)) if !filtered => tally.fail("ran no test"),
        Some((_, failed)) if (ran.outcome == Outcome::Exit(0)) != (failed == 0) => {
            tally.fail(format!("{failed} tests failed, but it ended with {}", ran.outcome));
        }
        Some(_) => {}
    }
    if tally.failed > tally.failures.len() as u64 {
        tally.complaints.push(format!("console:\n{}", tail(&ran.output, TAIL)));
    }
    tally
}

/// What a run of the specification's tests came to: `N files, N directives, N passed, N failed`.
pub fn specification(ran: &Ran) -> Tally {
    let numbers = last_line(&ran.output).and_then(|line| {
        let mut words = line.split(", ");
        let mut number = |what| words.next()?.strip_suffix(what)?.parse::<u64>().ok();
        Some((number(" files")?, number(" directives")?, number(" passed")?, number(" failed")?))
    });
    let console = || format!("console:\n{}", tail(&ran.output, TAIL));
    match numbers {
        Some((1.., directives @ 1.., passed, failed))
            if directives == passed + failed
                && (ran.outcome == Outcome::Exit(0)) == (failed == 0) =>
        {
            let complaints = if failed > 0 { vec![console()] } else { vec![] };
            Tally { passed, failed, complaints, ..Tally::default() }
        }
        _ => Tally::failure(format!(
            "{}; no sound last line `N files, N directives, N passed, N failed`. {}",
            ran.outcome,
            console()
        )),
    }
}

/// What a run of the demo came to: one test.
pub fn demo(ran: &Ran) -> Tally {
    let complete = last_line(&ran.output).is_some_and(|line| line.starts_with(COMPLETE));
    if complete && ran.outcome == Outcome::Exit(0) {
        return Tally { passed: 1, ..Tally::default() };
    }
    let last = if complete { "is there" } else { "is missing" };
    Tally::failure(format!(
        "{}; the last line `{COMPLETE} …` {last}. Console:\n{}",
        ran.outcome,
        tail(&ran.output, TAIL)
    ))
}

/// What the start of a broken kernel came to: it must name `expected` and exit, not with 0.
pub fn refusal(ran: &Ran, expected: &str) -> Tally {
    let exited = matches!(ran.outcome, Outcome::Exit(code) if code != 0);
    if exited && ran.output.contains(expected) {
        return Tally { passed: 1, ..Tally::default() };
    }
    Tally::failure(format!(
        "expected a message with `{expected}` and an exit code other than 0, got {}. Console:\n{}",
        ran.outcome,
        tail(&ran.output, TAIL)
    ))
}

fn last_line(output: &str) -> Option<&str> {
    output.lines().map(str::trim).rfind(|line| !line.is_empty())
}

/// `3 passed, 0 failed` as numbers.
fn summary(line: &str) -> Option<(u64, u64)> {
    let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
    Some((passed.parse().ok()?, failed.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::command::End;

    fn ran(outcome: Outcome, output: &str) -> Ran {
        Ran { outcome, output: output.to_owned() }
    }

    const GOOD: &str =
        "boot\r\ntest a ... ok\r\npanicked at x\r\ntest b ... ok\r\n2 passed, 0 failed\r\n";

    fn counts(outcome: Outcome, output: &str) -> (u64, u64) {
        let tally = suites(&ran(outcome, output), false);
        assert_eq!(tally.failed == 0, tally.complaints.is_empty());
        (tally.passed, tally.failed)
    }

    #[test]
    fn a_good_run_counts_its_tests() {
        assert_eq!(counts(Outcome::Exit(0), GOOD), (2, 0));
        let one = "test a ... ok\ntest b ... FAILED\n1 passed, 1 failed\n";
        assert_eq!(counts(Outcome::Exit(1), one), (1, 1));
    }

    #[test]
    fn a_failed_test_is_shown_with_what_it_wrote_however_much_others_write_after_it() {
        let others = "much\n".repeat(TAIL);
        let output = format!(
            "of a\ntest a ... ok\nof b\ntest b ... FAILED\n{others}test c ... ok\n2 passed, 1 failed\n"
        );
        let tally = suites(&ran(Outcome::Exit(1), &output), false);
        assert_eq!(tally.failures, ["b"]);
        assert_eq!(tally.complaints, ["b:\nof b\ntest b ... FAILED"]);
    }

    #[test]
    fn a_kernel_that_stops_halfway_has_failed() {
        let late = Outcome::Broken(End::TimedOut(Duration::from_secs(5)));
        for outcome in [Outcome::Reset, late, Outcome::Exit(0)] {
            assert_eq!(counts(outcome, "test a ... ok\ntest b"), (1, 1));
        }
        assert_eq!(counts(Outcome::Reset, ""), (0, 1));
    }

    #[test]
    fn lines_last_line_and_exit_code_must_agree() {
        assert_eq!(counts(Outcome::Exit(1), GOOD), (2, 1));
        assert_eq!(counts(Outcome::Reset, GOOD), (2, 1));
        assert_eq!(counts(Outcome::Exit(0), "test a ... ok\n2 passed, 0 failed"), (1, 1));
        let hidden = "test a ... FAILED\n0 passed, 1 failed";
        assert_eq!(counts(Outcome::Exit(0), hidden), (0, 2));
    }

    #[test]
    fn no_test_at_all_is_a_failure_unless_asked_for() {
        let none = ran(Outcome::Exit(0), "0 passed, 0 failed\n");
        assert_eq!(suites(&none, false).failed, 1);
        assert_eq!(suites(&none, true).failed, 0);
    }

    #[test]
    fn the_specification_counts_its_directives() {
        let good = "2 files, 30 directives, 30 passed, 0 failed\r\n";
        let tally = specification(&ran(Outcome::Exit(0), good));
        assert_eq!((tally.passed, tally.failed, tally.complaints.len()), (30, 0, 0));
        let bad = "a:1: trap\n2 files, 30 directives, 29 passed, 1 failed\n";
        assert_eq!(specification(&ran(Outcome::Exit(1), bad)).failed, 1);
        let none = "0 files, 0 directives, 0 passed, 0 failed";
        for (exit, text) in [(1, good), (0, bad), (0, none), (0, "2 files, 30 directives")] {
            let tally = specification(&ran(Outcome::Exit(exit), text));
            assert_eq!((tally.passed, tally.failed), (0, 1));
        }
    }

    #[test]
    fn the_demo_must_reach_its_last_line() {
        let whole = "step 5\r\njourney complete: 5 steps, 3 drops\r\n\r\n";
        assert_eq!(demo(&ran(Outcome::Exit(0), whole)).passed, 1);
        assert_eq!(demo(&ran(Outcome::Exit(3), whole)).failed, 1);
        assert_eq!(demo(&ran(Outcome::Exit(0), "step 4\n")).failed, 1);
    }

    #[test]
    fn a_refusal_names_what_is_missing_and_exits() {
        let text = "the linker script does not define __tdata_start\n";
        assert_eq!(refusal(&ran(Outcome::Exit(1), text), "__tdata_start").passed, 1);
        assert_eq!(refusal(&ran(Outcome::Exit(0), text), "__tdata_start").failed, 1);
        assert_eq!(refusal(&ran(Outcome::Reset, text), "__tdata_start").failed, 1);
        assert_eq!(refusal(&ran(Outcome::Exit(1), text), "__eh_frame_start").failed, 1);
    }
}
