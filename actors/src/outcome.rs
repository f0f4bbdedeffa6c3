//! How a call ended that no client has made: what a trigger has to know of it.

use serde::Serialize;

/// How a call by a trigger ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// The function answered, with a status below 400.
    Done {
        /// Which.
        status: u16,
    },
    /// The function, or the worker for it, will not have this call however often it is made: 4xx.
    Rejected {
        /// Which.
        status: u16,
        /// The beginning of the answer.
        text: String,
    },
    /// The function failed: 5xx of its own, no answer in time, a sandbox that died, code that cannot be loaded.
    Failed {
        /// What a client would have been answered.
        status: u16,
        /// The beginning of the answer.
        text: String,
    },
    /// The worker had no room for the call, or is ending: nothing was run, and nobody has failed.
    NoRoom {
        /// Why.
        text: String,
    },
    /// There is no such function any more.
    Gone,
}

impl Outcome {
    /// What a function's answer comes to.
    #[must_use]
    pub fn of_answer(status: u16, text: String) -> Self {
        match status {
            ..400 => Self::Done { status },
            400..500 => Self::Rejected { status, text },
            500.. => Self::Failed { status, text },
        }
    }

    /// Whether it is what the trigger is there for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }

    /// One line for a log or a table.
    #[must_use]
    pub fn line(&self) -> String {
        let first = |text: &str| text.lines().next_back().unwrap_or_default().trim().to_owned();
        match self {
            Self::Done { status } => status.to_string(),
            Self::Rejected { status, text } | Self::Failed { status, text } if text.trim().is_empty() => {
                status.to_string()
            }
            Self::Rejected { status, text } | Self::Failed { status, text } => {
                format!("{status}: {}", first(text.trim_end()))
            }
            Self::NoRoom { text } => format!("no room: {text}"),
            Self::Gone => "the function is gone".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_status() {
        let of = |status| Outcome::of_answer(status, "x".into());
        assert_eq!(of(204), Outcome::Done { status: 204 });
        assert_eq!(of(302), Outcome::Done { status: 302 });
        assert_eq!(of(429), Outcome::Rejected { status: 429, text: "x".into() });
        assert_eq!(of(503), Outcome::Failed { status: 503, text: "x".into() });
    }

    #[test]
    fn of_a_traceback_the_last_line_is_told() {
        let text = "Traceback (most recent call last):\n  File f.py\nValueError: no\n";
        assert_eq!(Outcome::of_answer(500, text.into()).line(), "500: ValueError: no");
        assert_eq!(Outcome::of_answer(500, "\n".into()).line(), "500");
    }
}
