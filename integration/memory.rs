//! Memory that is short: what goes first, and that it is not the worker.

use std::cell::Cell;
use std::fs;

use serde_json::{Value, json};

use crate::support::{Expect, Process, Setup, Worker, eventually, requires, until};

/// Holds so many MB, reads a file of its code with pauses, and stays for so long.
const HUNGRY: &str = "
import os, time
HELD = []
def f(event):
    HELD.append(b'x' * (event.get('hold', 0) << 20))
    n = 0
    if event.get('read'):
        with open(os.path.join(os.path.dirname(__file__), 'large.bin'), 'rb') as large:
            while piece := large.read(1 << 20):
                n += len(piece)
                time.sleep(event.get('pause', 0))
    print('has', event, flush=True)
    time.sleep(event.get('seconds', 0))
    return n
";

const MB: u64 = 1 << 20;

/// One that believes what is written into a file about the machine's memory.
fn on_a_machine_of_our_own(config: Value) -> Setup {
    Worker::with_config(config)
        .after("cp /proc/meminfo \"$OL/meminfo\"\nmount --bind \"$OL/meminfo\" /proc/meminfo")
}

fn says_available(worker: &Worker, mb: u64) {
    // Written in one go, to the file that is mounted.
    let text = format!("MemTotal: 99999999 kB\nMemAvailable: {} kB\n", mb << 10);
    fs::write(worker.ol_dir().join("meminfo"), text).unwrap();
}

/// What is charged to a group below the worker's ("": to all of them) at this moment.
fn charged(worker: &Worker, group: &str) -> Option<u64> {
    let files = ["memory.usage_in_bytes", "memory.current"];
    let footprint = worker.footprint();
    let paths = footprint.cgroups().flat_map(|root| files.map(|file| root.join(group).join(file)));
    paths.into_iter().find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
}

/// Lays a file beside a function's code, as its sandboxes see it. The worker has read the code before: this it need not look at, which
/// takes an unoptimised one long. The file's pages are counted to nobody until somebody reads them.
fn lay_beside_code(worker: &Worker, function: &str, name: &str, bytes: &[u8]) {
    let copies = fs::read_dir(worker.worker_dir().join("generations")).unwrap().flatten();
    let of_function = format!("{function}@");
    let mut n = 0;
    for copy in copies.filter(|copy| copy.file_name().to_string_lossy().starts_with(&of_function)) {
        let path = copy.path().join(name);
        fs::write(&path, bytes).unwrap();
        let file = fs::File::open(path).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        n += 1;
    }
    assert_eq!(n, 1);
}

#[test]
fn the_kernel_would_end_every_sandbox_before_the_worker() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("hello", "def f(event):\n    return event\n");
    assert_eq!(worker.call("hello", "1").ok(), json!(1));
    let score = |process: Process| -> i32 {
        let path = format!("/proc/{}/oom_score_adj", process.pid);
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(i32::MAX)
    };
    let workers = score(worker.process());
    assert!(workers <= 0, "{workers}");
    let inside = worker.processes_by_group();
    assert!(inside.len() >= 4, "{inside:?}");
    for (group, process) in inside {
        assert!(score(process) >= 500 && score(process) > workers, "{} in {group:?}", process.describe());
    }
    worker.finish();
}

#[test]
fn a_busy_sandbox_is_ended_only_when_the_machine_is_out_of_memory_and_its_caller_is_told() {
    requires!(Root);
    let config = json!({
        "grace_sec": 1, "limits": {"mem_mb": 100, "runtime_sec": 600, "max_instances": 2}, "standbys": 0,
    });
    let worker = on_a_machine_of_our_own(config).start();
    for name in ["large", "small"] {
        worker.install_f(name, HUNGRY);
    }
    let large = worker.call_aside("large", json!({"hold": 60, "seconds": 1000}));
    let small = worker.call_aside("small", json!({"hold": 1, "seconds": 1000}));
    worker.logged("large", "has");
    worker.logged("small", "has");
    says_available(&worker, 4);
    let said = large.join().unwrap().unwrap().expect(502);
    assert!(said.contains("the machine was out of memory"), "{said}");
    says_available(&worker, 99_999);
    until("it is well again", || {
        let reply = worker.try_request("POST", "/run/large", &[], "{}");
        reply.is_ok_and(|reply| reply.status.as_u16() == 200)
    });
    assert_eq!(worker.status_json()["worker"]["counters"]["ended_under_pressure"], 1);
    assert!(!small.is_finished(), "one was enough");
    worker.request("DELETE", "/registry/small", &[], "").expect(200);
    drop(small);
    worker.finish();
}

#[test]
fn who_gets_no_sandbox_for_want_of_memory_is_told_that() {
    requires!(Root);
    let config = json!({"limits": {"mem_mb": 100}, "queue": {"wait_ms": 1500}, "standbys": 0});
    let worker = on_a_machine_of_our_own(config).start();
    worker.install_f("hello", HUNGRY);
    says_available(&worker, 1_000);
    let reply = eventually("there is no memory", || {
        let reply = worker.call("hello", "{}");
        (reply.status.as_u16() == 503).then_some(reply)
    });
    assert!(reply.header("retry-after").is_some());
    let said = reply.text();
    assert!(said.contains("memory is full") && said.contains("are left on the machine"), "{said}");
    says_available(&worker, 99_999);
    until("there is again", || worker.call("hello", "{}").status.as_u16() == 200);
    worker.finish();
}

/// Files that it has read are counted to the sandbox that has read them first, and can be read again.
#[test]
fn what_a_frozen_sandbox_has_read_is_taken_back_before_the_sandbox_is() {
    requires!(Root);
    let config = json!({
        "grace_sec": 1, "limits": {"mem_mb": 250, "runtime_sec": 600}, "mem_pool_mb": 500, "standbys": 0, "freeze_after_ms": 50,
        "features": {"import_cache": ""},
    });
    let worker = Worker::with_config(config).start();
    worker.install_f("reader", HUNGRY);
    let eaters = ["eater", "another-eater"];
    for name in eaters {
        worker.install_f(name, HUNGRY);
    }
    worker.call("reader", "{}").ok();
    lay_beside_code(&worker, "reader", "large.bin", &vec![7u8; 40 << 20]);
    // Together up to 20 MB below the mark.
    let mark = 500 * MB * 8 / 10;
    let hold = (mark - charged(&worker, "").expect("the worker has a group") - 20 * MB) / MB / 2;
    let eaten = eaters.map(|name| worker.call_aside(name, json!({"hold": hold, "seconds": 1000})));
    eaters.iter().for_each(|name| drop(worker.logged(name, "has")));
    let sandbox = {
        // It is still at it when memory has been tight for longer than idle sandboxes have to give back what they can.
        let reply = worker.call("reader", json!({"read": true, "pause": 0.06}));
        let id = reply.sandbox();
        assert_eq!(reply.ok(), json!(40u64 << 20));
        id
    };
    worker.log_says("memory is tight");
    until("what it has read is taken back", || {
        charged(&worker, &format!("sandbox-{sandbox}")).is_some_and(|bytes| bytes < 25 * MB)
    });
    assert_eq!(worker.call("reader", "{}").sandbox(), sandbox, "it is still there");
    assert_eq!(worker.status_json()["worker"]["counters"]["released_under_pressure"], 0);
    eaters
        .iter()
        .for_each(|name| drop(worker.request("DELETE", &format!("/registry/{name}"), &[], "").expect(200)));
    drop(eaten);
    worker.finish();
}

/// Needs more pages of a file than its limit lets it have: each that it reads pushes out one that it needs next.
const THRASHER: &str = "
import mmap, os, time
def f(event):
    end = time.monotonic() + event
    with open(os.path.join(os.path.dirname(__file__), 'large.bin'), 'rb') as large:
        pages = mmap.mmap(large.fileno(), 0, prot=mmap.PROT_READ)
        while time.monotonic() < end:
            for at in range(0, len(pages), 4096):
                pages[at]
    return 'done'
";

#[test]
fn the_kernels_word_that_programs_wait_for_memory_is_heard_and_takes_nobodys_sandbox() {
    requires!(Root);
    let config = json!({
        "grace_sec": 1, "limits": {"mem_mb": 16, "runtime_sec": 600, "cpu_percent": 400}, "freeze_after_ms": 600_000,
    });
    let worker = Worker::with_config(config).start();
    worker.install_f("thrasher", THRASHER);
    worker.install_f("idle", HUNGRY);
    let sandbox = worker.call("idle", "{}").sandbox();
    lay_beside_code(&worker, "thrasher", "large.bin", &vec![1u8; 32 << 20]);
    let heard = || worker.status_json()["worker"]["counters"]["memory_pressure"].as_u64().expect("a number");
    let running = worker.call_aside("thrasher", "60");
    until("the kernel says so", || heard() > 0 || running.is_finished());
    assert!(heard() > 0, "{}", fs::read_to_string("/proc/pressure/memory").unwrap_or_default());
    // What is idle is frozen, which costs it nothing, and it is still there.
    worker.lambda_until("it is frozen", "idle", |lambda| lambda["frozen"] == 1);
    assert_eq!(worker.call("idle", "{}").sandbox(), sandbox);
    assert_eq!(worker.status_json()["worker"]["counters"]["released_under_pressure"], 0);
    worker.request("DELETE", "/registry/thrasher", &[], "").expect(200);
    drop(running);
    worker.finish();
}

#[test]
fn whoever_wants_ever_so_many_kept_warm_takes_what_is_free_and_keeps_nobody_else_waiting() {
    requires!(Root);
    let worker = Worker::with_config(json!({ "mem_pool_mb": 500, "release_after_s": 0 })).start();
    worker.install(
        "other",
        &[("f.py", "def f(event):\n    return event\n"), ("ol.yaml", "reuse-sandbox: false\n")],
    );
    let greedy = "limits: {mem_mb: 16, max_instances: 10000, min_warm: 10000}\n";
    worker.install("greedy", &[("f.py", "def f(event):\n    return event\n"), ("ol.yaml", greedy)]);
    let n_of = |lambda: &Value, field: &str| lambda[field].as_u64().unwrap_or_default();
    let n_turns = (std::thread::available_parallelism().unwrap().get() / 2).max(1) as u64;
    worker.lambda_until("some are kept warm", "greedy", |greedy| n_of(greedy, "cold_starts") >= 20);
    // Every call of the other is a cold start, while more are made, and when memory has no room for more.
    for n in 0..40 {
        assert_eq!(worker.call("other", n.to_string()).ok(), json!(n));
        let starting = n_of(&worker.lambda("greedy"), "starting");
        assert!(starting <= n_turns, "{starting} at once");
    }
    let before = Cell::new(0);
    worker.lambda_until("no more are made", "greedy", |greedy| {
        let now = n_of(greedy, "cold_starts");
        before.replace(now) == now && n_of(greedy, "starting") == 0
    });
    for n in 0..40 {
        assert_eq!(worker.call("other", n.to_string()).ok(), json!(n));
    }
    let greedy = worker.lambda("greedy");
    let (n_made, n_live) = (n_of(&greedy, "cold_starts"), n_of(&greedy, "warm") + n_of(&greedy, "frozen"));
    assert!(n_live >= 20 && n_made < 500, "{greedy}");
    let n_released = worker.log().matches("released idle sandboxes").count();
    assert!(n_released <= 3 && n_made <= 2 * n_live, "released {n_released} times: {greedy}");
    worker.finish();
}
