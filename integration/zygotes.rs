//! Zygotes of lambdas: forks of an interpreter that has the function's module imported.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::probes::{IMPORTED, OUTLAW, SUSPECT, Stage, all_end_in};
use crate::support::{Expect, Worker, eventually, requires, until};

const STARTED: &str = "started a lambda's zygote";

/// A fresh sandbox for each call, and an import that is worth a zygote.
const FRESH: &str = "reuse-sandbox: false";
const COSTLY: &str = "
import os, random, time
time.sleep(0.05)
STATE = {'calls': 0, 'imported_by': os.getpid(), 'drawn': random.random()}
print('imported')
def f(event):
    STATE['calls'] += 1
    here = sorted(os.listdir('/tmp'))
    open('/tmp/trace', 'w').close()
    return {**STATE, 'tmp': here, 'random': random.random(), 'urandom': os.urandom(8).hex(), 'zygote': event.get('x')}
";

fn forks(worker: &Worker) -> u64 {
    worker.status_json()["worker"]["counters"]["lambda_zygote_forks"].as_u64().expect("it is counted")
}

#[test]
fn a_costly_import_is_paid_once_and_every_call_still_gets_a_sandbox_of_its_own() {
    requires!(Root);
    let worker = Worker::start();
    worker.install("costly", &[("f.py", COSTLY), ("ol.yaml", FRESH)]);
    worker.call("costly", "{}").ok();
    worker.log_says(STARTED);
    let before = forks(&worker);
    let mut seen = BTreeSet::new();
    let mut drawn_at_import = BTreeSet::new();
    let mut sandboxes = BTreeSet::new();
    let n = 20;
    for _ in 0..n {
        let reply = worker.call("costly", "{}");
        sandboxes.insert(reply.sandbox());
        let said = reply.ok();
        assert_eq!(
            (&said["calls"], &said["tmp"]),
            (&json!(1), &json!([])),
            "somebody was here before: {said}"
        );
        seen.insert(said["random"].to_string());
        seen.insert(said["urandom"].to_string());
        drawn_at_import.insert(said["drawn"].to_string());
    }
    assert_eq!(sandboxes.len(), n);
    assert_eq!(seen.len(), 2 * n, "siblings draw the same numbers");
    assert!(drawn_at_import.len() < n, "the module was imported for each call");
    assert!(forks(&worker) > before);
    worker.finish();
}

#[test]
fn a_function_that_comes_back_after_its_removal_has_nothing_of_the_old_ones_zygote() {
    requires!(Root);
    let worker = Worker::start();
    let code = |version: u32| format!("import time\ntime.sleep(0.05)\ndef f(event): return {version}");
    for version in 1..4 {
        worker.install("again", &[("f.py", &code(version)), ("ol.yaml", FRESH)]);
        let before = forks(&worker);
        until("it is forked from its zygote", || {
            assert_eq!(worker.call("again", "").ok(), json!(version));
            forks(&worker) > before + 1
        });
        worker.request("DELETE", "/registry/again", &[], "").expect(200);
    }
    worker.finish();
}

#[test]
fn what_a_module_does_in_its_zygote_reaches_nobody_else() {
    requires!(Root);
    let stage = Stage::of(IMPORTED);
    stage
        .worker()
        .install(SUSPECT, &[("f.py", IMPORTED), ("raw.py", crate::probes::RAW), ("ol.yaml", FRESH)]);
    let said = eventually("an answer of a fork", || {
        let said = stage.ask(json!({}));
        (said["import"]["capabilities"] != "0000000000000000").then_some(said)
    });
    // Of the fork: nothing.
    assert_eq!((&said["now"], &said["count"]), (&json!("0000000000000000"), &json!(1)));
    let import = &said["import"];
    // setgid, setuid, setpcap, sys_chroot, sys_admin; in a user namespace of its own.
    assert_eq!(import["capabilities"], "00000000002401c0", "exactly what forking into shells takes");
    assert_eq!((&import["no_new_privs"], &import["seccomp"]), (&json!("1"), &json!("2")));
    assert_ne!(import["uid"], json!(0));
    assert_eq!(import["processes"], json!(["1"]), "it sees its own init, and nobody");
    all_end_in(&import["refused"], &["EPERM"]);
    all_end_in(&import["init"], &["EACCES", "EPERM"]);
    assert_eq!(import["init_memory"], "EACCES");
    assert_eq!(import["init_memory_as_its_user"], format!("({}, 'EACCES')", import["uid"]));
    all_end_in(&import["read_only"], &["EROFS", "EACCES"]);
    stage.finish();
}

#[test]
fn a_module_that_must_not_be_forked_is_imported_each_time_and_status_says_why() {
    requires!(Root);
    let worker = Worker::start();
    let reasons = [
        (
            "threads",
            "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
            "threads",
        ),
        ("sockets", "import socket\nKEPT = socket.socket()", "socket"),
        ("children", "import subprocess\nKEPT = subprocess.Popen(['sleep', '1000'])", "process"),
        ("files", "open('/tmp/mine', 'w').close()", "/tmp"),
        ("descriptors", "KEPT = open('/handler/f.py')", "/handler/f.py"),
        ("memory", "import mmap\nKEPT = mmap.mmap(-1, 4096)", "as shared"),
        ("locks", "import multiprocessing\nKEPT = multiprocessing.Lock()", "as shared"),
        // What it says of itself is not all that is asked.
        (
            "hides_threads",
            "import threading\nfrom _ol_runtime import sprout\nsprout.unforkable = lambda: None\n\
             threading.Thread(target=threading.Event().wait, daemon=True).start()",
            "threads",
        ),
        (
            "hides_children",
            "import subprocess\nfrom _ol_runtime import sprout\nsprout.unforkable = lambda: None\n\
             KEPT = subprocess.Popen(['sleep', '1000'])",
            "process",
        ),
    ];
    for (name, import, reason) in reasons {
        let told = if name == "descriptors" { "KEPT.read(6)" } else { "event" };
        let code = format!("import time\ntime.sleep(0.05)\n{import}\ndef f(event): return {told}");
        let expected = |event: u32| if name == "descriptors" { json!("import") } else { json!(event) };
        worker.install(name, &[("f.py", &code), ("ol.yaml", FRESH)]);
        assert_eq!(worker.call(name, "1").ok(), expected(1));
        let said = worker.lambda_until("why it is not forked", name, |lambda| lambda["message"] != "");
        let message = said["message"].as_str().unwrap();
        assert!(
            message.starts_with("loaded anew in each sandbox") && message.contains(reason),
            "{name}: {message}"
        );
        assert_eq!(worker.call(name, "2").ok(), expected(2));
    }
    assert_eq!(forks(&worker), 0);
    worker.finish();
}

#[test]
fn a_zygote_that_is_killed_is_missed_by_nobody_and_comes_back() {
    requires!(Root);
    let worker = Worker::start();
    worker.install("costly", &[("f.py", COSTLY), ("ol.yaml", FRESH)]);
    worker.call("costly", "{}").ok();
    worker.log_says(STARTED);
    for process in worker.zygote_processes() {
        process.signal(nix::sys::signal::Signal::SIGKILL);
    }
    let before = forks(&worker);
    for _ in 0..5 {
        worker.call("costly", "{}").ok();
    }
    until("forks of a new zygote", || {
        worker.call("costly", "{}").ok();
        forks(&worker) > before
    });
    worker.finish();
}

#[test]
fn after_a_reload_nobody_is_forked_from_the_old_code() {
    requires!(Root);
    let worker = Worker::start();
    let code = |version: u32| format!("import time\ntime.sleep(0.05)\ndef f(event): return {version}");
    for version in 1..=4 {
        worker.install("changing", &[("f.py", &code(version)), ("ol.yaml", FRESH)]);
        for _ in 0..6 {
            assert_eq!(worker.call("changing", "{}").ok(), json!(version));
        }
    }
    worker.finish();
}

#[test]
fn further_sandboxes_of_a_busy_function_are_forks_too() {
    requires!(Root);
    let worker = Worker::start();
    let code = "
import os, random, time
time.sleep(0.05)
IMPORTED = random.random()
def f(event):
    time.sleep(0.3)
    return IMPORTED
";
    worker.install_f("busy", code);
    let call = |_| worker.call("busy", "{}").ok();
    let imports: Vec<Value> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|at| scope.spawn(move || call(at))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(imports.len(), 8);
    // Whoever comes after the second import is a fork of one that was made then.
    worker.log_says(STARTED);
    let lambda = worker.lambda("busy");
    let n_before = lambda["cold_starts"].as_u64().unwrap();
    until("more sandboxes", || {
        std::thread::scope(|scope| {
            for at in 0..12 {
                scope.spawn(move || call(at));
            }
        });
        worker.lambda("busy")["cold_starts"].as_u64().unwrap() > n_before
    });
    assert!(forks(&worker) > 0);
    worker.finish();
}

/// A function whose zygote misbehaves in this way has been called until it had one, and then once more.
fn with_outlaw(way: &str) -> Worker {
    let worker = Worker::start();
    let config = format!("{FRESH}\nenvironment:\n  WAY: {way}\n");
    worker.install(SUSPECT, &[("f.py", OUTLAW), ("ol.yaml", &config)]);
    assert_eq!(worker.call(SUSPECT, "1").ok(), json!(1));
    worker.log_says(STARTED);
    assert_eq!(worker.call(SUSPECT, "2").ok(), json!(2), "without a zygote that is of any use");
    worker
}

#[test]
fn a_zygote_that_tells_of_failures_without_end_does_not_fill_the_log() {
    requires!(Root);
    let worker = with_outlaw("complain");
    worker.logged(SUSPECT, "done");
    worker.log_says("failed to fork a lambda's zygote");
    let log = worker.log();
    assert!(!log.contains("a new sandbox gave up"), "{} bytes of it", log.len());
    worker.finish();
}

#[test]
fn a_zygote_is_given_nothing_to_leave_its_limits_with() {
    requires!(Root);
    let worker = with_outlaw("look");
    let said = worker.logged(SUSPECT, "given:");
    assert!(said.contains("pid:[") && !said.contains("cgroup.procs"), "{said}");
    worker.finish();
}

#[test]
fn a_zygote_that_leaves_its_dead_unburied_is_ended() {
    requires!(Root);
    let worker = with_outlaw("leave_unburied");
    worker.log_says("a zygote does not bury what was forked from it");
    worker.finish();
}

#[test]
fn what_a_zygote_keeps_of_its_forks_costs_the_worker_no_descriptors() {
    requires!(Root);
    let worker = with_outlaw("keep_logs");
    let before = worker.n_descriptors_and_threads().0;
    for call in 0..60 {
        assert_eq!(worker.call(SUSPECT, call.to_string()).ok(), json!(call));
    }
    assert!(forks(&worker) >= 60, "none was made otherwise");
    // Standbys and shells come and go meanwhile, with a few each.
    until("the logs of those that are gone are closed", || {
        worker.n_descriptors_and_threads().0 <= before + 30
    });
    worker.finish();
}

#[test]
fn a_fork_has_the_memory_limit_of_a_sandbox_for_itself() {
    requires!(Root);
    let worker = Worker::start();
    let code = "
import time
time.sleep(0.05)
def f(event): return len(bytearray(event << 20))
";
    worker.install("hungry", &[("f.py", code), ("ol.yaml", FRESH)]);
    worker.call("hungry", "1").ok();
    worker.log_says(STARTED);
    let before = forks(&worker);
    worker.call("hungry", "30").ok();
    let reply = worker.call("hungry", "200");
    assert_eq!(reply.status.as_u16(), 502);
    assert!(reply.text().contains("out of memory"), "{}", reply.text());
    assert!(!worker.zygote_processes().is_empty(), "it is not the zygote that died of it");
    assert!(forks(&worker) > before);
    worker.finish();
}

#[test]
fn forks_that_take_no_requests_are_not_made_without_end() {
    requires!(Root);
    let worker = Worker::start();
    let code = "
import os, socket, sys, time
time.sleep(0.05)
identity = sys.modules['_ol_runtime.identity']
renew = identity.renew
def renew_and_close(seed):
    renew(seed)
    with socket.socket(fileno=os.dup(4)) as requests:
        requests.shutdown(socket.SHUT_RD)
identity.renew = renew_and_close
def f(event): return event
";
    worker.install("deaf", &[("f.py", code), ("ol.yaml", FRESH)]);
    worker.call("deaf", "1").ok();
    worker.log_says(STARTED);
    let reply = worker.call("deaf", "2");
    assert_eq!(reply.status.as_u16(), 502, "{}", reply.text());
    assert!(forks(&worker) < 20, "{} sandboxes for one call", forks(&worker));
    worker.finish();
}

/// Each fork fills another part of what the module has mapped as shared: what one has filled stays when it ends. A module that
/// has done so when it is imported has no zygote; this one does it later.
const SHARED: &str = "
import mmap, os, time
time.sleep(0.05)
PART = 20 << 20
SHARED = None
def share():
    global SHARED
    SHARED = SHARED or mmap.mmap(-1, 15 * PART)
os.register_at_fork(before=share)
def f(event):
    if event is None:
        return 'empty'
    share()
    for page in range(event * PART, (event + 1) * PART, 4096):
        SHARED[page] = 1
    return event
";

#[test]
fn what_forks_leave_in_memory_that_their_module_shares_is_limited_and_is_the_functions_own() {
    requires!(Root);
    let worker = Worker::start();
    let limits = "reuse-sandbox: false\nlimits:\n  mem_mb: 50\n  max_instances: 1\n";
    worker.install("shares", &[("f.py", SHARED), ("ol.yaml", limits)]);
    worker.call("shares", "null").ok();
    worker.log_says(STARTED);
    worker.call("shares", "null").ok();
    let used =
        || worker.status_json()["worker"]["memory"]["used_bytes"].as_u64().expect("it is measured") >> 20;
    let before = used();
    let mut n_refused = 0;
    for part in 0..15 {
        let reply = worker.call("shares", json!(part));
        match reply.status.as_u16() {
            200 => assert_eq!(reply.ok(), json!(part)),
            502 => n_refused += 1,
            other => panic!("{other}: {}", reply.text()),
        }
        // Of the zygote and one sandbox; the rest of the worker goes on growing a little.
        assert!(used() < before + 130, "{} MB after {before} MB", used());
    }
    assert!(n_refused > 0, "300 MB went into 100");
    // It is nobody else's trouble, and its own only until then.
    worker.install("echo", &[("f.py", "def f(event): return event")]);
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
    until("it is answered again", || worker.call("shares", "null").status.as_u16() == 200);
    worker.finish();
}
