//! Outcomes as lines for people, and as JSON for programs.

use std::fmt;

use serde::Serialize;

use super::{Finding, Listed};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// It was tried, and is as it should be.
    Pass,
    /// It was tried, and is not.
    Fail,
    /// It could not be tried here, or is not needed.
    Unsupported,
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// `escape.mount`.
    pub id: &'static str,
    /// `escape`.
    pub group: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was tried.
    pub tried: &'static str,
    /// What happened.
    pub happened: String,
}

/// All of them.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Outcome>,
    /// How many passed.
    pub n_passed: usize,
    /// How many failed.
    pub n_failed: usize,
    /// How many could not be tried.
    pub n_unsupported: usize,
}

impl Outcome {
    /// Of what was found.
    #[must_use]
    pub fn of(listed: Listed, finding: Finding) -> Self {
        let (verdict, happened) = match finding {
            Finding::Contained(text) => (Verdict::Pass, text),
            Finding::Escaped(text) => (Verdict::Fail, text),
            Finding::Untried(text) => (Verdict::Unsupported, text),
        };
        // What a probe says is a function's word: nothing of it may steer a terminal.
        let happened = happened.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { id: listed.id, group: listed.group(), verdict, tried: listed.tries, happened }
    }
}

impl Report {
    /// Takes one more in.
    pub fn add(&mut self, outcome: Outcome) {
        match outcome.verdict {
            Verdict::Pass => self.n_passed += 1,
            Verdict::Fail => self.n_failed += 1,
            Verdict::Unsupported => self.n_unsupported += 1,
        }
        self.checks.push(outcome);
    }

    /// The last line.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{} passed, {} failed, {} unsupported", self.n_passed, self.n_failed, self.n_unsupported)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Unsupported => "UNSUPPORTED",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<11}  {:<23}  {}: {}", self.verdict, self.id, self.tried, self.happened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_tried_and_what_happened_and_steers_no_terminal() {
        let listed = Listed { id: "escape.mount", tries: "mount something" };
        let outcome = Outcome::of(listed, Finding::Escaped("mount: ok\x1b[2J\nx".into()));
        assert_eq!(
            outcome.to_string(),
            "FAIL         escape.mount             mount something: mount: ok [2J x"
        );
        let mut report = Report::default();
        report.add(outcome);
        report.add(Outcome::of(listed, Finding::Contained(String::new())));
        assert_eq!(report.summary(), "1 passed, 1 failed, 0 unsupported");
    }
}
