//! Counts and mean times of what the worker does, under the names that OpenLambda's tools read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often something was done, and how long it took in all.
#[derive(Debug, Default)]
pub struct Timer {
    n: AtomicU64,
    total_us: AtomicU64,
}

impl Timer {
    /// One more.
    pub fn add(&self, took: Duration) {
        self.n.fetch_add(1, Ordering::Relaxed);
        self.total_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }
}

/// All of the worker's.
#[derive(Debug, Default)]
pub struct Stats {
    /// An invocation over HTTP, from its first byte to the head of its answer.
    pub web_request: Timer,
    /// A call of a record from Kafka, with the answer to its end.
    pub kafka: Timer,
    /// A call by the clock.
    pub cron: Timer,
    /// The part of it that was spent waiting for a sandbox.
    pub wait_sandbox: Timer,
    /// A standby made: shell, fork, confinement, warming.
    pub fork: Timer,
    /// A function put into a standby.
    pub create: Timer,
    /// A function's code taken over from the registry by an upload.
    pub pull: Timer,
    /// Calls that found a sandbox; from asking for one to the head of the answer, as the next two.
    pub warm: Timer,
    /// Calls whose sandbox was made from a standby that lay ready.
    pub standby: Timer,
    /// Calls whose sandbox was forked for them.
    pub forked: Timer,
    /// The parts of these, of those calls that had them: looking the function up in the registry.
    pub lookup: Timer,
    /// Waiting, for a sandbox or in turns for what makes one.
    pub queue: Timer,
    /// Installing packages.
    pub install: Timer,
    /// Making a shell.
    pub shell: Timer,
    /// Forking an interpreter into it.
    pub birth: Timer,
    /// Loading the function's code.
    pub import: Timer,
    /// The function: from handing the request to its sandbox to the head of the answer.
    pub handler: Timer,
}

impl Stats {
    /// `<name>.cnt` and `<name>.ms-avg`, as `GET /stats` gives them.
    #[must_use]
    pub fn to_map(&self) -> BTreeMap<String, u64> {
        let timers = [
            ("web-request", &self.web_request),
            ("LambdaFunc.Invoke", &self.web_request),
            ("kafka-message-processing", &self.kafka),
            ("cron-run", &self.cron),
            ("LambdaInstance-WaitSandbox", &self.wait_sandbox),
            ("LambdaInstance-RoundTrip", &self.handler),
            ("fork()", &self.fork),
            ("Create()", &self.create),
            ("pull-lambda", &self.pull),
        ];
        let mut map = BTreeMap::new();
        for (name, timer) in timers {
            let n = timer.n.load(Ordering::Relaxed);
            if n > 0 {
                map.insert(format!("{name}.cnt"), n);
                map.insert(format!("{name}.ms-avg"), timer.total_us.load(Ordering::Relaxed) / n / 1000);
            }
        }
        // Most of these are far below a millisecond.
        let parts = [
            ("start-warm", &self.warm),
            ("start-standby", &self.standby),
            ("start-forked", &self.forked),
            ("part-pull", &self.lookup),
            ("part-queue", &self.queue),
            ("part-install", &self.install),
            ("part-shell", &self.shell),
            ("part-fork", &self.birth),
            ("part-import", &self.import),
            ("part-handler", &self.handler),
        ];
        for (name, timer) in parts {
            let n = timer.n.load(Ordering::Relaxed);
            if n > 0 {
                map.insert(format!("{name}.cnt"), n);
                map.insert(format!("{name}.us-avg"), timer.total_us.load(Ordering::Relaxed) / n);
            }
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_done_is_not_listed() {
        let stats = Stats::default();
        assert!(stats.to_map().is_empty());
        stats.web_request.add(Duration::from_millis(3));
        stats.web_request.add(Duration::from_millis(5));
        assert_eq!(stats.to_map()["web-request.cnt"], 2);
        assert_eq!(stats.to_map()["web-request.ms-avg"], 4);
    }

    #[test]
    fn what_is_measured_once_is_listed_under_both_names() {
        let stats = Stats::default();
        stats.handler.add(Duration::from_millis(7));
        let map = stats.to_map();
        assert_eq!((map["LambdaInstance-RoundTrip.cnt"], map["part-handler.cnt"]), (1, 1));
        assert_eq!((map["LambdaInstance-RoundTrip.ms-avg"], map["part-handler.us-avg"]), (7, 7000));
    }
}
