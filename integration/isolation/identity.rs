//! Who a function is: nobody, with nothing of its own but what it was given.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::probes::{IDENTITY, SUSPECT, Stage};
use crate::support::{Expect, Process, requires};

/// `statvfs(3)`.
const READ_ONLY: u64 = 1;
const NO_SET_UID: u64 = 2;

#[test]
fn a_function_has_no_privileges_and_no_way_to_get_them() {
    requires!(Root);
    let stage = Stage::of(IDENTITY);
    let said = stage.ask(json!({}));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(said["status"][set], "0000000000000000", "{set}");
    }
    assert_eq!((&said["status"]["NoNewPrivs"], &said["status"]["Seccomp"]), (&json!("1"), &json!("2")));
    assert_eq!(
        (&said["groups"], &said["session"], &said["terminal"]),
        (&json!([]), &json!(true), &json!(false))
    );
    assert_ne!(said["uid"], json!(0));
    for (path, flags) in said["mount_flags"].as_object().unwrap() {
        let flags = flags.as_u64().unwrap();
        assert_eq!(flags & NO_SET_UID, NO_SET_UID, "{path}");
        assert_eq!(flags & READ_ONLY == 0, path == "/tmp", "{path}");
    }
    for (name, limits) in said["limits"].as_object().unwrap() {
        let most = match name.as_str() {
            "RLIMIT_RTPRIO" | "RLIMIT_NICE" => 0,
            "RLIMIT_SIGPENDING" | "RLIMIT_NOFILE" => 1024,
            _ => 128 << 10,
        };
        assert!(limits[1].as_u64().is_some_and(|limit| limit <= most), "{name}: {limits}");
    }
    stage.finish();
}

#[test]
fn a_function_is_given_nothing_but_its_descriptors_and_its_environment() {
    requires!(Root);
    let stage = Stage::of(IDENTITY);
    let said = stage.ask(json!({}));
    let descriptors = said["descriptors"].as_object().unwrap();
    assert_eq!(descriptors.keys().collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
    assert_eq!(descriptors["0"], "/dev/null");
    assert_eq!(descriptors["1"], descriptors["2"]);
    assert!(descriptors["1"].as_str().unwrap().starts_with("pipe:"));
    for protocol in ["3", "4"] {
        assert!(descriptors[protocol].as_str().unwrap().starts_with("socket:"));
    }
    assert_eq!(said["child_descriptors"], json!([0, 1, 2]), "a program that it starts cannot speak for it");
    let names: Vec<_> = said["environment"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["HOME", "LANG", "OPENBLAS_NUM_THREADS", "PATH", "TMPDIR", "TZ", "USER"]);
    assert_eq!((&said["directory"], &said["host_name"]), (&json!("/handler"), &json!("sandbox")));
    // Memory that it shared with its zygote it would share with all others.
    let shared = said["shared_memory"].as_array().unwrap();
    assert!(shared.iter().all(|line| line.as_str().unwrap().contains(" r--s ")), "{shared:?}");
    assert!(said["cgroups"].as_array().unwrap().iter().all(|path| path == "/"), "{}", said["cgroups"]);
    stage.finish();
}

#[test]
fn every_sandbox_is_another_user_of_the_machine_in_namespaces_of_its_own() {
    requires!(Root);
    let stage = Stage::of(IDENTITY);
    stage.cast("other", IDENTITY);
    let worker = stage.worker();
    let mut host_uids = BTreeSet::new();
    let mut seen: Vec<Value> = Vec::new();
    for name in [SUSPECT, "other"] {
        let reply = worker.call(name, json!({}));
        let processes = worker.sandbox_processes(reply.sandbox());
        assert!(processes.len() >= 2, "an init and an interpreter: {processes:?}");
        for process in processes {
            let uids = uids(process);
            assert!(uids.iter().all(|&uid| uid >= 2_000_000_000), "{}: {uids:?}", process.describe());
            host_uids.extend(uids);
            let groups = status(process, "Groups:");
            assert_eq!(groups.trim(), "", "{}", process.describe());
        }
        seen.push(reply.ok());
    }
    // One for all inits, one for each function.
    assert_eq!(host_uids.len(), 3, "{host_uids:?}");
    let mine = Process::of(std::process::id().cast_signed()).unwrap().namespaces();
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let (one, other) = (&seen[0]["namespaces"][name], &seen[1]["namespaces"][name]);
        assert_ne!(one, other, "{name}");
        assert!(!mine.contains(one.as_str().unwrap()), "{name}: {one}");
    }
    assert!(!mine.contains(seen[0]["namespaces"]["user"].as_str().unwrap()));
    stage.finish();
}

fn uids(process: Process) -> Vec<u32> {
    status(process, "Uid:").split_whitespace().map(|word| word.parse().unwrap()).collect()
}

fn status(process: Process, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    text.lines().find_map(|line| line.strip_prefix(field)).unwrap().to_owned()
}
