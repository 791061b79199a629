//! Counting libtest's result lines, and the table at the end. Pure.

use std::fmt;
use std::time::Duration;

use crate::ui::elapsed;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
}

impl Tally {
    /// A suite that is one check and has no tests in it.
    pub(super) const CHECK: Self = Self { passed: 1, failed: 0, ignored: 0 };

    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// `test result: ok. 12 passed; 0 failed; 0 ignored; …`
pub(super) fn parse(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| counts.split("; ").find_map(|part| part.strip_suffix(word)?.trim().parse().ok());
    Some(Tally { passed: count(" passed")?, failed: count(" failed")?, ignored: count(" ignored").unwrap_or_default() })
}

pub(super) struct Line {
    pub(super) suite: &'static str,
    pub(super) tally: Tally,
    pub(super) time: Duration,
    /// Seconds.
    pub(super) budget: u64,
}

#[derive(Default)]
pub(super) struct Report {
    pub(super) lines: Vec<Line>,
    /// Some suites were left out, so that one of the others had to build what they would have built.
    pub(super) partial: bool,
}

impl Report {
    /// A suite may overrun its own budget (it is told); all of them together may not.
    pub(super) fn is_good(&self) -> bool {
        let in_time = self.partial || self.time() <= Duration::from_secs(self.budget());
        self.total().failed == 0 && self.total().ignored == 0 && in_time
    }

    fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.lines.iter().for_each(|line| total.add(line.tally));
        total
    }

    fn time(&self) -> Duration {
        self.lines.iter().map(|line| line.time).sum()
    }

    fn budget(&self) -> u64 {
        self.lines.iter().map(|line| line.budget).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:12} {:>7} {:>7} {:>13} {:>13}", "suite", "passed", "failed", "time", "budget")?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, tally: Tally, time: Duration, budget: u64| {
            let limit = Duration::from_secs(budget);
            let over = if time > limit { "  over budget" } else { "" };
            writeln!(f, "{name:12} {:>7} {:>7} {:>13} {:>13}{over}", tally.passed, tally.failed, elapsed(time), elapsed(limit))
        };
        for line in &self.lines {
            row(f, line.suite, line.tally, line.time, line.budget)?;
        }
        row(f, "all", self.total(), self.time(), self.budget())?;
        let Tally { passed, failed, ignored } = self.total();
        if ignored > 0 {
            writeln!(f, "{ignored} ignored: a test that does not run shows nothing, so this counts as failure")?;
        }
        write!(f, "{passed} passed, {failed} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(suite: &'static str, failed: u64, seconds: u64, budget: u64) -> Line {
        Line { suite, tally: Tally { passed: 2, failed, ignored: 0 }, time: Duration::from_secs(seconds), budget }
    }

    #[test]
    fn libtests_lines_are_counted() {
        let parsed = parse("test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.02s");
        assert_eq!(parsed, Some(Tally { passed: 12, failed: 3, ignored: 1 }));
        assert_eq!(parse("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured").unwrap(), Tally::default());
        for other in ["", "running 3 tests", "test a ... ok", "test result: strange"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn one_suite_may_overrun_but_not_the_sum() {
        let report = Report { lines: vec![line("a", 0, 30, 20), line("b", 0, 5, 20)], partial: false };
        assert!(report.is_good());
        let text = report.to_string();
        assert_eq!(text.matches("over budget").count(), 1);
        assert!(text.ends_with("4 passed, 0 failed"), "{text}");
        let overrun = |partial| Report { lines: vec![line("a", 0, 30, 20)], partial }.is_good();
        assert!(!overrun(false) && overrun(true));
    }

    #[test]
    fn a_failed_or_ignored_test_fails_the_run() {
        assert!(!Report { lines: vec![line("a", 1, 1, 20)], partial: false }.is_good());
        let ignored = Line { tally: Tally { passed: 9, failed: 0, ignored: 1 }, ..line("a", 0, 1, 20) };
        assert!(!Report { lines: vec![ignored], partial: false }.is_good());
    }
}
