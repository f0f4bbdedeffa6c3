//! Processes: a function sees its own, and can signal and look into no other.

use serde_json::json;

use crate::probes::{PROCESSES, SUSPECT, Stage, all_end_in};
use crate::support::{Expect, Process, requires};

#[test]
fn the_processes_of_the_machine_cannot_be_seen_signalled_or_looked_into() {
    requires!(Root);
    let stage = Stage::of(PROCESSES);
    stage.cast("other", PROCESSES);
    let worker = stage.worker();
    let nothing = json!({"pids": []});
    let mut theirs = vec![worker.process(), Process::of(std::process::id().cast_signed()).unwrap()];
    theirs.extend(worker.process().descendants());
    let others = worker.call("other", nothing.clone()).sandbox();
    theirs.extend(worker.sandbox_processes(others));
    // Small numbers mean somebody of the sandbox's own there.
    let pids: Vec<_> = theirs.iter().map(|process| process.pid).filter(|&pid| pid > 100).collect();
    assert!(pids.len() > 5, "{theirs:?}");

    let reply = worker.call(SUSPECT, json!({"pids": pids}));
    let sandbox = reply.sandbox();
    let said = reply.ok();
    assert_eq!(said["seen"], said["mine"]);
    assert_eq!(said["parent"], json!(0));
    all_end_in(&said["signal"], &["ESRCH"]);
    all_end_in(&said["look_into"], &["ENOENT"]);
    all_end_in(&said["init"], &["EPERM"]);
    all_end_in(&said["inside_init"], &["EACCES", "EPERM"]);
    // What is one's own can be signalled and looked into.
    assert_eq!((&said["child"], &said["inside_child"]), (&json!("ok"), &json!("ok")));
    assert!(
        theirs.iter().filter(|process| process.pid == worker.process().pid).all(|process| process.is_alive())
    );
    assert!(worker.sandbox_processes(sandbox).len() >= 2, "its init and itself go on");
    stage.finish();
}
