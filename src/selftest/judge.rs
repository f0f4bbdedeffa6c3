//! From what a probe says to what it means.

use std::collections::BTreeMap;

use serde_json::Value;

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It was made and came to nothing; how.
    Contained(String),
    /// It came to something; to what.
    Escaped(String),
    /// It was not made; why.
    Untried(String),
}

/// What a call of a probe gave.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code; 200 for what was not asked over HTTP.
    pub status: u16,
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body as JSON, null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// The first line of the body, for people.
    pub(super) fn line(&self) -> String {
        let line = self.text.lines().next().unwrap_or_default();
        format!("{} {}", self.status, line.chars().take(160).collect::<String>())
    }

    /// What it says, if it is a success.
    pub(super) fn said(&self) -> Result<Value, Finding> {
        match self.status {
            200 => Ok(self.json()),
            _ => Err(Finding::Untried(format!("the probe failed: {}", self.line()))),
        }
    }
}

impl Finding {
    /// The worst of several, with what all of that kind say.
    pub(super) fn all(findings: impl IntoIterator<Item = Self>) -> Self {
        let (mut contained, mut escaped, mut untried) = (Vec::new(), Vec::new(), Vec::new());
        for finding in findings {
            match finding {
                Self::Contained(text) => contained.push(text),
                Self::Escaped(text) => escaped.push(text),
                Self::Untried(text) => untried.push(text),
            }
        }
        match (escaped.is_empty(), untried.is_empty()) {
            (false, _) => Self::Escaped(escaped.join("; ")),
            (true, false) => Self::Untried(untried.join("; ")),
            (true, true) => Self::Contained(contained.join("; ")),
        }
    }
}

/// Either side of a yes-or-no question.
pub(super) fn holds(is_so: bool, contained: impl Into<String>, escaped: impl Into<String>) -> Finding {
    if is_so { Finding::Contained(contained.into()) } else { Finding::Escaped(escaped.into()) }
}

/// Attempts by name, each of which has to have ended in one of these errors (several words: in these only).
pub(super) fn refused(attempts: &Value, errors: &[&str]) -> Finding {
    let Some(attempts) = attempts.as_object().filter(|attempts| !attempts.is_empty()) else {
        return Finding::Untried("nothing was tried".into());
    };
    let mut ends = BTreeMap::<&str, Vec<&str>>::new();
    let mut escaped = Vec::new();
    for (name, end) in attempts {
        let end = end.as_str().unwrap_or("no text");
        if end.split(' ').all(|word| errors.contains(&word)) {
            ends.entry(end).or_default().push(name);
        } else {
            escaped.push(format!("{name}: {end}"));
        }
    }
    if !escaped.is_empty() {
        return Finding::Escaped(shortened(&escaped));
    }
    let ends: Vec<String> = ends
        .into_iter()
        .map(|(end, names)| {
            if names.len() == 1 {
                format!("{}: {end}", names[0])
            } else {
                format!("{end} ({} attempts)", names.len())
            }
        })
        .collect();
    Finding::Contained(shortened(&ends))
}

/// As `escape.py` says it: what was tried, and beside it what has to work for the attempt to be one.
pub(super) fn tried_and_control(answer: &Answer, errors: &[&str]) -> Finding {
    let said = match answer.said() {
        Ok(said) => said,
        Err(untried) => return untried,
    };
    let controls = said["control"].as_object();
    if let Some((name, end)) = controls.into_iter().flatten().find(|(_, end)| *end != "ok") {
        return Finding::Untried(format!("what should work does not: {name}: {end}"));
    }
    refused(&said["tried"], errors)
}

fn shortened(parts: &[String]) -> String {
    const N_MAX: usize = 4;
    let mut text = parts.iter().take(N_MAX).cloned().collect::<Vec<_>>().join(", ");
    if parts.len() > N_MAX {
        text += &format!(", and {} more", parts.len() - N_MAX);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_attempt_that_came_to_something_is_an_escape() {
        let finding = refused(&json!({"a": "EPERM", "b": "ok", "c": "EACCES EPERM"}), &["EPERM", "EACCES"]);
        assert_eq!(finding, Finding::Escaped("b: ok".into()));
        let finding = refused(&json!({"a": "EPERM", "c": "EACCES EPERM"}), &["EPERM", "EACCES"]);
        assert_eq!(finding, Finding::Contained("c: EACCES EPERM, a: EPERM".into()));
    }

    #[test]
    fn nothing_tried_is_nothing_contained() {
        assert!(matches!(refused(&json!({}), &["EPERM"]), Finding::Untried(_)));
        assert!(matches!(refused(&json!(null), &["EPERM"]), Finding::Untried(_)));
        let answer = Answer {
            status: 200,
            text: json!({"tried": {"a": "EPERM"}, "control": {"b": "EPERM"}}).to_string(),
        };
        assert!(matches!(tried_and_control(&answer, &["EPERM"]), Finding::Untried(_)));
        let answer = Answer { status: 500, text: "Traceback".into() };
        assert_eq!(
            tried_and_control(&answer, &[]),
            Finding::Untried("the probe failed: 500 Traceback".into())
        );
    }

    #[test]
    fn the_worst_of_several_findings_is_that_of_all() {
        let [good, bad, none] =
            [Finding::Contained("a".into()), Finding::Escaped("b".into()), Finding::Untried("c".into())];
        assert_eq!(Finding::all([good.clone(), bad.clone(), none.clone()]), bad);
        assert_eq!(Finding::all([good.clone(), none.clone()]), none);
        assert_eq!(Finding::all([good.clone(), good]), Finding::Contained("a; a".into()));
    }
}
