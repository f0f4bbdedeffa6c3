//! A worker on which one function misbehaves while another minds its business.
//!
//! What misbehaves is in `src/selftest/probes/`, which `ol selftest` carries as well: functions that really try, and say what came of it.

use openlambda::client::Reply;
use serde_json::{Value, json};

use crate::support::{Expect, Worker, patience};

pub(crate) const APPETITE: &str = include_str!("../src/selftest/probes/appetite.py");
pub(crate) const FILES: &str = include_str!("../src/selftest/probes/files.py");
pub(crate) const IDENTITY: &str = include_str!("../src/selftest/probes/identity.py");
pub(crate) const IMPORTED: &str = include_str!("../src/selftest/probes/imported.py");
pub(crate) const NETWORK: &str = include_str!("../src/selftest/probes/network.py");
pub(crate) const OUTLAW: &str = include_str!("../src/selftest/probes/outlaw.py");
pub(crate) const PRINTER: &str = include_str!("../src/selftest/probes/printer.py");
pub(crate) const PROCESSES: &str = include_str!("../src/selftest/probes/processes.py");
pub(crate) const SOCKET_ABUSE: &str = include_str!("../src/selftest/probes/socket_abuse.py");
pub(crate) const SYSCALLS: &str = include_str!("../src/selftest/probes/syscalls.py");
pub(crate) const TENANT: &str = include_str!("../src/selftest/probes/tenant.py");
/// What the others import.
pub(crate) const RAW: &str = include_str!("../src/selftest/probes/raw.py");

/// The name of the function that misbehaves.
pub(crate) const SUSPECT: &str = "suspect";
const NEIGHBOUR: &str = "neighbour";

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Stage {
    worker: Worker,
}

impl Stage {
    /// For a probe that is given all the time it wants.
    #[track_caller]
    pub(crate) fn of(probe: &str) -> Self {
        Self::with_limits(probe, json!({"runtime_sec": patience(60).as_secs()}))
    }

    /// For a probe under these limits.
    #[track_caller]
    pub(crate) fn with_limits(probe: &str, limits: Value) -> Self {
        Self::with_config(probe, json!({"limits": limits}))
    }

    #[track_caller]
    pub(crate) fn with_config(probe: &str, config: Value) -> Self {
        let stage = Self { worker: Worker::with_config(config).start() };
        stage.cast(SUSPECT, probe);
        stage.worker.install_f(NEIGHBOUR, "def f(event):\n    return event\n");
        stage.is_undisturbed();
        stage
    }

    /// Puts a probe on the stage under another name.
    #[track_caller]
    pub(crate) fn cast(&self, name: &str, probe: &str) {
        self.worker.install(name, &[("f.py", probe), ("raw.py", RAW)]);
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Lets the suspect try; gives what it says.
    #[track_caller]
    pub(crate) fn ask(&self, event: Value) -> Value {
        self.provoke(event).ok()
    }

    /// Lets the suspect try; gives how its call ended.
    #[track_caller]
    pub(crate) fn provoke(&self, event: Value) -> Reply {
        self.worker.call(SUSPECT, event)
    }

    /// The worker is ready, and the neighbour answers.
    #[track_caller]
    pub(crate) fn is_undisturbed(&self) {
        assert_eq!(self.worker.get("/status").expect(200), "ready\n");
        let event = json!({"what": "an ordinary call"});
        assert_eq!(self.worker.call(NEIGHBOUR, event.clone()).ok(), event);
    }

    /// So it is at the end, and nothing is left.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.is_undisturbed();
        self.worker.finish();
    }
}

/// The outcomes of attempts, by what was tried.
#[track_caller]
pub(crate) fn outcomes(said: &Value) -> Vec<(&str, &str)> {
    let map = said.as_object().unwrap_or_else(|| panic!("not outcomes: {said}"));
    map.iter().map(|(name, outcome)| (name.as_str(), outcome.as_str().unwrap_or("no text"))).collect()
}

/// Every attempt has ended in one of these errors.
#[track_caller]
pub(crate) fn all_end_in(said: &Value, errors: &[&str]) {
    let outcomes = outcomes(said);
    assert!(!outcomes.is_empty(), "nothing was tried");
    let others: Vec<_> = outcomes
        .into_iter()
        .filter(|(_, outcome)| !outcome.split(' ').all(|word| errors.contains(&word)))
        .collect();
    assert!(others.is_empty(), "not refused with {errors:?}: {others:?}");
}
