//! What a function may use: as much as it was given, and when it takes more, it harms itself alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::probes::{APPETITE, PRINTER, SUSPECT, Stage};
use crate::support::{Expect, Worker, patience, requires, until};

/// Limits of a function whose end is waited for.
fn short() -> Value {
    json!({"runtime_sec": patience(2).as_secs()})
}

#[test]
fn a_fork_bomb_stays_within_its_limit() {
    requires!(Root);
    let stage = Stage::with_limits(APPETITE, json!({"procs": 10, "runtime_sec": patience(60).as_secs()}));
    for of in ["processes", "threads"] {
        let said = stage.ask(json!({"of": of, "n": 20}));
        let n = said["n"].as_u64().unwrap();
        assert!((1..=10).contains(&n) && !said["error"].is_null(), "{of}: {said}");
        // Nothing was used up by that.
        assert_eq!(stage.ask(json!({"of": of, "n": 20}))["n"], n, "{of}");
    }
    // Orphans are buried, so they use up nothing either.
    assert_eq!(stage.ask(json!({"of": "zombies", "n": 50})), "ok");
    assert_eq!(stage.ask(json!({"of": "processes", "n": 3}))["n"], 3);
    stage.finish();
}

#[test]
fn a_fork_bomb_that_does_not_stop_is_ended_at_its_deadline() {
    requires!(Root);
    let stage = Stage::with_limits(APPETITE, short());
    let worker = stage.worker();
    let bomb = worker.call_aside(SUSPECT, json!({"of": "endless_processes"}));
    let sandbox = worker.sandbox_that_said(SUSPECT, "it begins");
    let mut processes = Vec::new();
    until("it is at its limit", || {
        processes = worker.sandbox_processes(sandbox);
        processes.len() >= 9
    });
    stage.is_undisturbed();
    bomb.join().unwrap().unwrap().expect(504);
    until("all of it is gone", || {
        worker.sandbox_processes(sandbox).is_empty() && processes.iter().all(|process| !process.is_alive())
    });
    stage.finish();
}

#[test]
fn a_function_gets_the_memory_of_its_limit_and_not_more() {
    requires!(Root);
    let stage = Stage::with_limits(APPETITE, json!({"mem_mb": 50, "runtime_sec": patience(60).as_secs()}));
    let reply = stage.provoke(json!({"of": "memory", "mb": 200}));
    let said = reply.expect(502);
    assert!(said.contains("out of memory") && said.contains("50 MB"), "{said}");
    stage.is_undisturbed();
    // Its last words came through a pipe that was read to its end.
    stage.worker().logged(SUSPECT, "34 MB");
    let log = stage.worker().function_log(SUSPECT);
    let got: u32 = log
        .lines()
        .rev()
        .find_map(|line| line.strip_suffix(" MB")?.rsplit(' ').next()?.parse().ok())
        .unwrap();
    assert!((34..=50).contains(&got), "{got} MB");
    assert_eq!(stage.ask(json!({"of": "memory", "mb": 20})), 20, "the next call finds a sandbox");
    stage.finish();
}

#[test]
fn all_that_a_function_fills_is_its_own_memory() {
    requires!(Root);
    let stage = Stage::with_limits(
        APPETITE,
        json!({"mem_mb": 50, "tmp_mb": 256, "runtime_sec": patience(60).as_secs()}),
    );
    for event in [
        json!({"of": "shared_memory"}),
        json!({"of": "file_in_memory"}),
        json!({"of": "disk"}),
        json!({"of": "pipes"}),
        json!({"of": "sockets", "kind": "unix"}),
    ] {
        let said = stage.provoke(with(&event, 120)).expect(502);
        assert!(said.contains("out of memory"), "{event}: {said}");
        stage.is_undisturbed();
        // The same in moderation.
        let said = stage.ask(with(&event, 4));
        let got = said.as_f64().or_else(|| said["mb"].as_f64()).unwrap();
        assert!(got >= 4.0, "{event}: {said}");
    }
    stage.finish();
}

#[test]
fn buffers_of_connections_are_limited_as_memory_is() {
    requires!(Root);
    let stage = Stage::with_limits(APPETITE, json!({"mem_mb": 50, "runtime_sec": patience(60).as_secs()}));
    let worker = stage.worker();
    for kind in ["tcp", "udp"] {
        stage.cast(kind, APPETITE);
        let some = worker.call(kind, json!({"of": "sockets", "kind": kind, "mb": 1})).ok();
        assert!(some["mb"].as_u64() >= Some(1), "{kind}: {some}");
        let before = pages_of(kind);
        let reply = worker.call(kind, json!({"of": "sockets", "kind": kind, "mb": 400}));
        // As the kernel has it: refused, lost, or out of memory. What they occupy is what counts; other programs of
        // the machine have some, too.
        assert!(matches!(reply.status.as_u16(), 200 | 502), "{kind}: {}", reply.text());
        let mb = pages_of(kind).saturating_sub(before) / 256;
        assert!(mb < 70, "{mb} MB for {kind}: {}", reply.text());
        stage.is_undisturbed();
    }
    stage.finish();
}

#[test]
fn tmp_has_an_end_in_bytes_and_in_files() {
    requires!(Root);
    let stage = Stage::with_limits(
        APPETITE,
        json!({"mem_mb": 100, "tmp_mb": 16, "runtime_sec": patience(60).as_secs()}),
    );
    for _ in 0..2 {
        let said = stage.ask(json!({"of": "disk", "mb": 64}));
        assert_eq!((&said["mb"], &said["error"]), (&json!(16.0), &json!("ENOSPC")));
    }
    assert_eq!(stage.ask(json!({"of": "hole", "mb": 64}))["allocate"], "ENOSPC");
    let said = stage.ask(json!({"of": "inodes", "n": 100_000}));
    assert_eq!(said["error"], "ENOSPC");
    assert!((1000..10_000).contains(&said["n"].as_u64().unwrap()), "{said}");
    stage.finish();
}

#[test]
fn reading_much_is_not_using_much() {
    requires!(Root);
    let stage = Stage::with_limits(APPETITE, json!({"mem_mb": 50, "runtime_sec": patience(60).as_secs()}));
    let read = stage.ask(json!({"of": "page_cache", "mb": 80})).as_u64().unwrap();
    assert!(read >= 60, "{read} MB");
    let memory = stage.worker().lambda(SUSPECT)["memory_bytes"].as_u64();
    assert!(memory.is_none_or(|bytes| bytes <= 50 << 20), "{memory:?}");
    stage.finish();
}

#[test]
fn descriptors_and_priorities_are_not_to_be_had_without_end() {
    requires!(Root);
    let stage = Stage::of(APPETITE);
    let said = stage.ask(json!({"of": "descriptors", "n": 100_000}));
    assert_eq!(said["error"], "EMFILE");
    assert!((900..=1024).contains(&said["n"].as_u64().unwrap()), "{said}");
    assert_eq!(
        stage.ask(json!({"of": "priority"})),
        json!({"nice": "EACCES", "fifo": "EPERM", "round robin": "EPERM", "lower": "ok"})
    );
    stage.finish();
}

#[test]
fn a_function_that_does_not_come_to_an_end_is_given_one() {
    requires!(Root);
    let stage = Stage::with_limits(APPETITE, short());
    for of in ["processor", "deaf_processor", "standstill"] {
        let began = stage.worker().lambda(SUSPECT)["invocations"].clone();
        let running = stage.worker().call_aside(SUSPECT, json!({"of": of}));
        stage.is_undisturbed();
        let said = running.join().unwrap().unwrap().expect(504);
        assert!(said.contains("runtime_sec"), "{of}: {said}");
        assert!(began.is_number(), "it was counted before");
        // The next call gets another sandbox.
        assert_eq!(stage.ask(json!({"of": "memory", "mb": 1})), 1, "after {of}");
        until("what ran is gone", || !processes_that(&stage, |state, _| state == "T"));
    }
    stage.finish();
}

#[test]
fn a_function_that_kills_itself_is_told_how() {
    requires!(Root);
    let stage = Stage::of(APPETITE);
    for signal in [Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGTERM] {
        let said = stage.provoke(json!({"of": "suicide", "signal": signal as i32})).expect(502);
        assert!(said.contains(signal.as_str()), "{said}");
        assert_eq!(stage.ask(json!({"of": "memory", "mb": 1})), 1, "after {signal}");
    }
    stage.finish();
}

#[test]
fn a_daemon_lives_no_longer_than_its_sandbox() {
    requires!(Root);
    let stage = Stage::of(APPETITE);
    let reply = stage.provoke(json!({"of": "daemon"}));
    let sandbox = reply.sandbox();
    assert_eq!(reply.ok(), "ok");
    let worker = stage.worker();
    until("init, interpreter and daemon are there", || worker.sandbox_processes(sandbox).len() == 3);
    let processes = worker.sandbox_processes(sandbox);
    worker.request("DELETE", &format!("/registry/{SUSPECT}"), &[], "").expect(200);
    until("all three are gone", || processes.iter().all(|process| !process.is_alive()));
    stage.finish();
}

#[test]
fn a_flooded_log_stays_within_its_bound_and_holds_up_nobody_else() {
    requires!(Root);
    let log_max_mb = 4;
    let stage = Stage::with_config(
        PRINTER,
        json!({"log_max_mb": log_max_mb, "log_output": false, "limits": {"runtime_sec": patience(120).as_secs()}}),
    );
    stage.cast("other", PRINTER);
    for (way, mb) in [("flood", 6), ("empty_lines", 1), ("endless_line", 6)] {
        let flood = stage.worker().call_aside(SUSPECT, json!({"way": way, "mb": mb}));
        stage.is_undisturbed();
        // One thread reads the logs of all.
        assert_eq!(stage.worker().call("other", json!({"way": "streams"})).ok(), "ok");
        stage.worker().logged("other", "the last word of streams");
        assert_eq!(flood.join().unwrap().unwrap().ok(), "ok", "{way}");
        stage.worker().logged(SUSPECT, &format!("the last word of {way}"));
        let logs = stage.worker().worker_dir().join("logs");
        for file in ["suspect.log", "suspect.log.1"] {
            let n_bytes = std::fs::metadata(logs.join(file)).map_or(0, |file| file.len());
            // What was read at once is not divided between two files.
            assert!(n_bytes <= (log_max_mb + 4) << 20, "{way}: {n_bytes} bytes in {file}");
        }
    }
    stage.finish();
}

#[test]
fn the_sandboxes_of_a_function_share_what_it_may_print() {
    requires!(Root);
    let runtime = patience(6);
    let limits = json!({"runtime_sec": runtime.as_secs()});
    let stage = Stage::with_config(PRINTER, json!({"log_max_mb": 64, "log_output": false, "limits": limits}));
    let worker = stage.worker();
    stage.cast("other", PRINTER);
    let began = Instant::now();
    let flood: Vec<_> =
        (0..10).map(|_| worker.call_aside(SUSPECT, json!({"way": "endless_empty_lines"}))).collect();
    worker.logged(SUSPECT, "it begins");
    assert_eq!(worker.call("other", json!({"way": "many"})).ok(), "ok");
    worker.logged("other", "the last word of many");
    for flood in flood {
        flood.join().unwrap().unwrap().expect(504);
    }
    let logs = worker.worker_dir().join("logs");
    let files = ["suspect.log", "suspect.log.1"].map(|file| std::fs::metadata(logs.join(file)));
    let n_bytes: u64 = files.into_iter().flatten().map(|file| file.len()).sum();
    // 4 MB in a second, and those of one second at once.
    let n_seconds = began.elapsed().as_secs() + 2;
    assert!(n_bytes <= (4 << 20) * n_seconds + (1 << 20), "{n_bytes} bytes in {n_seconds} seconds");
    stage.finish();
}

fn with(event: &Value, mb: u64) -> Value {
    let mut event = event.clone();
    event["mb"] = json!(mb);
    event
}

/// Pages that the buffers of such connections take on the whole machine: of sandboxes, too.
fn pages_of(kind: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with(&kind.to_uppercase())).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Whether the worker has a process of which this is true: state, and name.
fn processes_that(stage: &Stage, is_so: impl Fn(&str, &str) -> bool) -> bool {
    stage.worker().process().descendants().iter().any(|process| {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
        let Some((name, rest)) = text.rsplit_once(") ") else { return false };
        is_so(rest.split(' ').next().unwrap_or_default(), name)
    })
}

/// The `pids.max` of the group of all sandboxes.
fn processes_max(worker: &Worker) -> PathBuf {
    let footprint = worker.footprint();
    let file = footprint.cgroups().map(|root| root.join("pids.max")).find(|path| path.exists());
    file.expect("the group of all sandboxes has a limit of processes")
}

#[test]
fn all_sandboxes_together_leave_the_machine_half_of_its_processes() {
    requires!(Root);
    let config = json!({ "standbys": 0, "queue": { "wait_ms": 1_000 } });
    let worker = Worker::with_config(config).start();
    let code = "
import os
def f(event):
    try:
        pid = os.fork()
    except OSError as error:
        return error.strerror
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return 'forked'
";
    worker.install_f("forks", code).install_f("other", "def f(event):\n    return event\n");
    assert_eq!(worker.call("forks", "").ok(), json!("forked"));
    let file = processes_max(&worker);
    let number = |path: &Path| fs::read_to_string(path).unwrap().trim().parse::<u64>().unwrap();
    let of_machine =
        ["kernel/pid_max", "kernel/threads-max"].map(|name| number(&Path::new("/proc/sys").join(name)));
    let most = number(&file);
    assert_eq!(most, of_machine.into_iter().min().unwrap() / 2);
    // As if others of this worker's had all of them.
    fs::write(&file, "1").unwrap();
    assert_eq!(worker.call("forks", "").ok(), json!("Resource temporarily unavailable"));
    let said = worker.call("other", "1").expect(503);
    assert!(
        said.contains("as many processes as this worker's sandboxes, or the machine, may have"),
        "{said}"
    );
    worker.get("/status").expect(200);
    fs::write(&file, most.to_string()).unwrap();
    until("a sandbox can be made again", || worker.call("other", "1").status.as_u16() == 200);
    assert_eq!(worker.call("forks", "").ok(), json!("forked"));
    worker.finish();
}
