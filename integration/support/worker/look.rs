//! What can be seen of a worker: its status, its logs, its sandboxes, its processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::Worker;
use crate::support::Process;
use crate::support::footprint;
use crate::support::wait::{eventually, seen, until};

impl Worker {
    /// What `GET /lambdas` says.
    #[track_caller]
    pub(crate) fn status_json(&self) -> Value {
        let reply = self.get("/lambdas");
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        reply.json().expect("it is JSON")
    }

    /// What it says of one function; null if there is none of that name.
    #[track_caller]
    pub(crate) fn lambda(&self, name: &str) -> Value {
        let status = self.status_json();
        let lambdas = status["lambdas"].as_array().expect("it is a list");
        lambdas.iter().find(|lambda| lambda["name"] == name).cloned().unwrap_or_default()
    }

    /// Waits until the status of a function is so.
    #[track_caller]
    pub(crate) fn lambda_until(&self, what: &str, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        seen(&format!("{name}: {what}"), || self.lambda(name), is_so)
    }

    /// What a function has printed.
    pub(crate) fn function_log(&self, name: &str) -> String {
        fs::read_to_string(self.worker_dir().join("logs").join(format!("{name}.log"))).unwrap_or_default()
    }

    /// The line of a function's log that holds these words, as soon as there is one.
    #[track_caller]
    pub(crate) fn logged(&self, name: &str, words: &str) -> String {
        eventually(&format!("{words:?} in the log of {name}"), || {
            self.function_log(name).lines().find(|line| line.contains(words)).map(str::to_owned)
        })
    }

    /// The sandbox whose function has printed these words.
    #[track_caller]
    pub(crate) fn sandbox_that_said(&self, name: &str, words: &str) -> u64 {
        let line = self.logged(name, words);
        let id = line.split(' ').nth(1).and_then(|word| word.split('-').next()?.parse().ok());
        id.unwrap_or_else(|| panic!("no sandbox in {line:?}"))
    }

    /// What the worker itself has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until the worker has said these words.
    #[track_caller]
    pub(crate) fn log_says(&self, words: &str) {
        until(&format!("{words:?} in the worker's log"), || self.log().contains(words));
    }

    fn log_path(&self) -> PathBuf {
        self.ol_dir.join("worker.out")
    }

    /// The processes of one sandbox.
    pub(crate) fn sandbox_processes(&self, id: u64) -> Vec<Process> {
        self.processes_in(&|group| group == format!("sandbox-{id}"))
    }

    /// The processes of all zygotes of lambdas.
    pub(crate) fn zygote_processes(&self) -> Vec<Process> {
        self.processes_in(&|group| group.starts_with("zygote-"))
    }

    /// The groups of sandboxes and standbys, with how many processes are in each.
    pub(crate) fn sandbox_groups(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for root in self.footprint().cgroups() {
            for group in footprint::groups_below(root) {
                let name = group.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if name.starts_with("sandbox-") {
                    let n = found.entry(name.to_owned()).or_insert(0);
                    *n = footprint::pids_below(&group).len().max(*n);
                }
            }
        }
        found
    }

    /// Every process in the groups of the worker's sandboxes, zygotes and families, with its group. No other group: who
    /// asks for these means them no good.
    pub(crate) fn processes_by_group(&self) -> Vec<(PathBuf, Process)> {
        let footprint = self.footprint();
        let is_meant =
            |name: &str| ["sandbox-", "zygote-", "family-"].iter().any(|kind| name.starts_with(kind));
        let groups = footprint.cgroups().flat_map(footprint::groups_below);
        let groups =
            groups.filter(|group| group.file_name().and_then(|name| name.to_str()).is_some_and(is_meant));
        groups
            .flat_map(|path| {
                let pids = footprint::pids_below(&path);
                pids.into_iter()
                    .filter_map(Process::of)
                    .map(move |process| (path.clone(), process))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// How many descriptors and threads the worker itself has.
    pub(crate) fn n_descriptors_and_threads(&self) -> (usize, usize) {
        let n = |what| fs::read_dir(format!("/proc/{}/{what}", self.process.pid)).map_or(0, Iterator::count);
        (n("fd"), n("task"))
    }

    fn processes_in(&self, is_wanted: &dyn Fn(&str) -> bool) -> Vec<Process> {
        let footprint = self.footprint();
        let groups = footprint.cgroups().flat_map(footprint::groups_below);
        let mut found: Vec<Process> = groups
            .filter(|group| group.file_name().and_then(|name| name.to_str()).is_some_and(is_wanted))
            .flat_map(|group| footprint::pids_below(&group))
            .filter_map(Process::of)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}
