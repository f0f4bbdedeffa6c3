//! How schedules and Kafka triggers fare, in lines for people.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

/// A schedule, as `GET /lambdas` has it. A field that a worker does not know is shown as nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Cron {
    schedule: String,
    timezone: String,
    next_unix_ms: Option<u64>,
    running: bool,
    runs: u64,
    failed: u64,
    overlapping: u64,
    missed: u64,
    last_missed_unix_ms: Option<u64>,
    last: Option<LastRun>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LastRun {
    scheduled_unix_ms: u64,
    took_ms: f64,
    text: String,
}

/// A Kafka trigger, as `GET /lambdas` has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Kafka {
    topics: Vec<String>,
    state: String,
    message: String,
    partitions: u64,
    done: u64,
    failed: u64,
    given_up: u64,
    dead_letters: u64,
    seeks: u64,
    lag: Option<i64>,
    last_error: Option<String>,
}

/// The time in UTC, to the second.
fn time(unix_ms: u64) -> String {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

impl Cron {
    /// One line: when next, how it went last, and what did not happen.
    pub(super) fn line(&self) -> String {
        let mut line = format!("'{}' ({})", self.schedule, self.timezone);
        line += &match (self.running, self.next_unix_ms) {
            (true, _) => ", running".to_owned(),
            (false, Some(next)) => format!(", next {}", time(next)),
            (false, None) => ", never again".to_owned(),
        };
        if let Some(last) = &self.last {
            line += &format!(
                ", last {} took {:.0} ms: {}",
                time(last.scheduled_unix_ms),
                last.took_ms,
                last.text
            );
        }
        line += &format!("; {} runs, {} failed", self.runs, self.failed);
        if self.overlapping > 0 {
            line += &format!(", {} skipped because the one before still ran", self.overlapping);
        }
        if self.missed > 0 {
            let last = self.last_missed_unix_ms.map(time).unwrap_or_default();
            line += &format!(", {} missed, the last one of {last}", self.missed);
        }
        line
    }
}

impl Kafka {
    /// One line: what it does, how the records fared, and what is wrong.
    pub(super) fn line(&self) -> String {
        let mut line = format!(
            "{}: {}, {} partitions; {} records done, {} calls failed",
            self.topics.join(" "),
            self.state,
            self.partitions,
            self.done,
            self.failed
        );
        if self.given_up > 0 {
            line += &format!(", {} given up ({} to dead letters)", self.given_up, self.dead_letters);
        }
        if self.seeks > 0 {
            line += &format!(", {} seeks", self.seeks);
        }
        if let Some(lag) = self.lag {
            line += &format!(", {lag} to come");
        }
        if !self.message.is_empty() {
            line += &format!("; {}", self.message);
        }
        if let Some(error) = &self.last_error {
            line += &format!("; last failure: {error}");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_told_in_a_line() {
        let cron: Cron = serde_json::from_value(serde_json::json!({
            "schedule": "@daily", "timezone": "UTC", "next_unix_ms": 1_800_000_000_000_u64, "running": false,
            "runs": 3, "failed": 1, "overlapping": 2, "missed": 4, "last_missed_unix_ms": 1_700_000_000_000_u64,
            "last": {"scheduled_unix_ms": 1_790_000_000_000_u64, "took_ms": 12.4, "ok": false, "text": "500: ValueError"},
        }))
        .unwrap();
        assert_eq!(
            cron.line(),
            "'@daily' (UTC), next 2027-01-15T08:00:00Z, last 2026-09-21T14:13:20Z took 12 ms: 500: ValueError; \
             3 runs, 1 failed, 2 skipped because the one before still ran, 4 missed, the last one of 2023-11-14T22:13:20Z"
        );
    }

    #[test]
    fn a_kafka_trigger_is_told_in_a_line() {
        let kafka: Kafka = serde_json::from_value(serde_json::json!({
            "topics": ["a", "b"], "state": "trouble", "message": "no broker answers", "partitions": 2, "done": 7,
            "failed": 3, "given_up": 1, "dead_letters": 1, "seeks": 0, "lag": 5, "last_error": "500",
        }))
        .unwrap();
        assert_eq!(
            kafka.line(),
            "a b: trouble, 2 partitions; 7 records done, 3 calls failed, 1 given up (1 to dead letters), 5 to come; \
             no broker answers; last failure: 500"
        );
    }
}
