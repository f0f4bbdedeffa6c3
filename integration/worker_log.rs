//! What the worker writes of itself: its log, the traces that `config.json` can switch on, and `dep-trace.json`.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Expect, Place, Program, Setup, Worker, requires, until, write_folder};

const CHATTY: &str = "
import sys
def f(event):
    for n in range(event):
        print('printed', n)
    print('complained', file=sys.stderr)
";

#[test]
fn what_a_function_prints_comes_up_in_the_workers_log_unless_that_is_switched_off() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("chatty", CHATTY);
    let reply = worker.call("chatty", "1");
    let id = reply.header("x-ol-invocation").expect("it was called").to_owned();
    until("the worker's log has both", || {
        let log = worker.log();
        let said = |words: &str, stream: &str| {
            log.lines().any(|line| {
                [words, "lambda: chatty", &format!("invocation: {id}"), &format!("stream: {stream}")]
                    .iter()
                    .all(|part| line.contains(part))
            })
        };
        said("printed 0", "o") && said("complained", "e")
    });
    worker.finish();

    let worker = Worker::with_config(json!({"log_output": false})).start();
    worker.install_f("chatty", CHATTY);
    worker.call("chatty", "1").ok();
    worker.logged("chatty", "complained");
    let log = worker.log();
    assert!(!log.contains("printed 0") && !log.contains("complained"), "{log}");
    worker.finish();
}

#[test]
fn a_function_that_prints_without_end_leaves_the_workers_own_words_in_its_log() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("chatty", CHATTY);
    worker.call("chatty", "20000").ok();
    worker.logged("chatty", "complained");
    // What comes after it says how much is missing.
    until("the rest is counted", || {
        worker.call("chatty", "0").ok();
        worker.log().contains("n_left_out_before: ")
    });
    let log = worker.log();
    let n_repeated =
        log.lines().filter(|line| line.contains("lambda: chatty") && line.contains("printed ")).count();
    assert!((1..1000).contains(&n_repeated), "{n_repeated}");
    assert!(log.contains("the worker is ready"), "{log}");
    worker.finish();
}

/// Records that only one part writes, and only in detail.
const DETAILS: [(&str, &str); 4] = [
    ("cgroups", "a cgroup has limits"),
    ("memory", "memory was promised"),
    ("evictor", "more memory is in use than should be"),
    ("package", "packages are wanted"),
];

/// A worker of which every part has something to say: three idle functions hold more than the pool is to hold.
fn pressed(trace: &Value) -> Worker {
    let limits = json!({"mem_mb": 60, "tmp_mb": 40, "max_instances": 1});
    let setup: Setup = Worker::with_config(json!({
        "trace": trace, "installer": "/nowhere/uv", "mem_pool_mb": 130, "installer_limits": {"mem_mb": 64}, "limits": limits,
    }));
    put(&setup.ol_dir(), "small==1.0");
    let worker = setup.start();
    let code = "
import small
held = []
def f(event):
    held.append(bytearray(b'x') * (45 << 20))
    return small.__name__
";
    for name in ["one", "two", "three"] {
        worker.install(name, &[("f.py", code), ("requirements.txt", "small==1.0\n")]);
        worker.call(name, "{}").ok();
    }
    until("somebody had to go", || {
        worker.status_json()["worker"]["counters"]["released_under_pressure"].as_u64() > Some(0)
    });
    worker
}

fn put(ol_dir: &Path, package: &str) {
    let name = package.split_once("==").expect("a pin").0;
    let text = format!("Metadata-Version: 2.1\nName: {name}\nRequires-Dist: Other>=1\n");
    let metadata = format!("{}.dist-info/METADATA", package.replace("==", "-"));
    let module = format!("{name}.py");
    write_folder(&ol_dir.join("packages").join(package).join("files"), &[(&module, ""), (&metadata, &text)]);
}

#[test]
fn each_trace_tells_what_its_part_does_and_nothing_of_the_others() {
    requires!(Root);
    for (traced, own) in DETAILS {
        let worker = pressed(&json!({ traced: true }));
        worker.log_says(own);
        let log = worker.log();
        for (other, words) in DETAILS {
            assert_eq!(log.contains(words), other == traced, "{other} with trace.{traced}: {log}");
        }
        worker.finish();
    }
}

#[test]
fn the_trace_of_dependencies_names_packages_functions_and_calls_in_their_order() {
    requires!(Root);
    let setup = Worker::with_config(json!({"trace": {"package": true}, "installer": "/nowhere/uv"}));
    put(&setup.ol_dir(), "small==1.0");
    let mut worker = setup.start();
    let trace = worker.worker_dir().join("dep-trace.json");
    worker.install("needs", &[("f.py", "def f(event): return 1"), ("requirements.txt", "small==1.0\n")]);
    worker.install_f("plain", "def f(event): return 2");
    for name in ["needs", "plain", "needs"] {
        worker.call(name, "{}").ok();
    }
    // New code is described anew, and what it needs is known already.
    worker.install("needs", &[("f.py", "def f(event): return 3"), ("requirements.txt", "small==1.0\n")]);
    worker.call("needs", "{}").ok();
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait_for_end().success());
    let text = fs::read_to_string(trace).expect("it was written");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let call = |name: &str| json!({"type": "invocation", "name": name});
    let needs = json!({"type": "function", "name": "needs", "deps": ["small==1.0"]});
    assert_eq!(
        lines,
        [
            json!({"type": "package", "name": "small==1.0", "deps": ["other"], "top": ["small"]}),
            needs.clone(),
            call("needs"),
            json!({"type": "function", "name": "plain", "deps": []}),
            call("plain"),
            call("needs"),
            needs,
            call("needs"),
        ]
    );
}

#[test]
fn without_a_trace_of_packages_no_call_is_noted() {
    requires!(Root);
    let mut worker = Worker::start();
    worker.install_f("plain", "def f(event): return 2");
    worker.call("plain", "{}").ok();
    // Whoever writes it does so before the end.
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait_for_end().success());
    assert!(!worker.worker_dir().join("dep-trace.json").exists());
}

#[test]
fn the_log_of_a_worker_in_the_background_has_a_bound() {
    requires!(Root);
    let place = Place::new();
    let name = format!("{}-myworker", place.token());
    let dir = place.join(&name);
    let ol = |words: &str| Program::ol().words(words).within(place.path()).env("TMPDIR", place.tmp());
    ol(&format!("worker init -p {name}")).succeed();
    // A worker of yesterday has nearly filled it.
    let log = dir.join("worker.out");
    let full = "x".repeat((1 << 20) - 10);
    fs::write(&log, &full).unwrap();
    let started = ol(&format!("worker up -p {name} -d -o worker_port=0,log_max_mb=1")).succeed();
    let pid: i32 =
        started.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("it says its pid");
    let worker = Worker::in_background(place, dir.clone(), pid);
    worker.log_says("the worker is ready");
    let aside = fs::read_to_string(dir.join("worker.out.1")).expect("the full one was put aside");
    assert!(aside.starts_with(&full) && aside.len() < full.len() + 1000, "{}", aside.len());
    assert!(fs::metadata(&log).unwrap().len() < 100_000);
    // A panic's words, too, go where somebody looks for them.
    for fd in [1, 2] {
        assert_eq!(fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap(), log.canonicalize().unwrap());
    }
    worker.finish();
}
