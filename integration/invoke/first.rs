//! First calls: of functions that have no sandbox yet.

use std::collections::BTreeSet;
use std::thread;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Expect, Worker, requires, until};

const ECHO: &str = "def f(event): return event";
/// Takes as long to load as the test likes.
const SLOW: &str = "
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print('loading', flush=True)
signal.sigwait([signal.SIGUSR1])
n = 0
def f(event):
    global n
    n += 1
    return [event, n]
";

fn wait_for_standbys(worker: &Worker) {
    until("standbys lie ready", || worker.status_json()["worker"]["standbys"].as_u64() > Some(0));
}

fn go_on(worker: &Worker, sandbox: u64) {
    worker.sandbox_processes(sandbox).iter().for_each(|process| process.signal(Signal::SIGUSR1));
}

/// How the call's sandbox came to be, and the names of the parts that its time went into.
#[track_caller]
fn timing(reply: &openlambda::client::Reply) -> (String, Vec<String>) {
    let text = reply.header("server-timing").expect("each answer of a function has it");
    let mut parts = text.split(", ");
    let start =
        parts.next().and_then(|part| part.strip_prefix("start;desc=")).expect("the start comes first");
    let names = parts.map(|part| {
        let (name, took) = part.split_once(";dur=").expect("a part has its time");
        assert!(took.parse::<f64>().is_ok_and(|ms| ms >= 0.0), "{text}");
        name.to_owned()
    });
    (start.to_owned(), names.collect())
}

#[test]
fn a_first_call_takes_a_standby_and_the_next_one_its_sandbox() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", ECHO);
    wait_for_standbys(&worker);
    let first = worker.call("echo", "1");
    assert_eq!(timing(&first), ("standby".into(), vec!["import".into(), "queue".into(), "handler".into()]));
    let sandbox = first.sandbox();
    assert_eq!(first.ok(), json!(1));
    let second = worker.call("echo", "2");
    assert_eq!(timing(&second), ("warm".into(), vec!["handler".into()]));
    assert_eq!(second.sandbox(), sandbox);
    assert_eq!(second.ok(), json!(2));
    let lambda = worker.lambda("echo");
    assert_eq!(
        (&lambda["cold_starts"], &lambda["invocations"], &lambda["warm"]),
        (&json!(1), &json!(2), &json!(1))
    );
    let stats: Value = worker.get("/stats").ok();
    assert_eq!((&stats["start-standby.cnt"], &stats["start-warm.cnt"]), (&json!(1), &json!(1)));
    assert_eq!((&stats["part-import.cnt"], &stats["part-handler.cnt"]), (&json!(1), &json!(2)));
    assert!(stats["part-import.us-avg"].as_u64() > Some(0), "{stats}");
}

#[test]
fn without_a_standby_one_is_forked() {
    requires!(Root);
    let worker = Worker::with_config(json!({"standbys": 0})).start();
    worker.install_f("echo", ECHO);
    let first = worker.call("echo", "1");
    let (start, parts) = timing(&first);
    assert_eq!(start, "forked");
    for part in ["shell", "fork", "import", "handler"] {
        assert!(parts.contains(&part.to_owned()), "{parts:?}");
    }
    assert_eq!(first.ok(), json!(1));
    assert_eq!(worker.get("/stats").ok()["start-forked.cnt"], 1);
}

#[test]
fn forks_that_are_waited_for_find_shells_ready_and_dead_ones_harm_nobody() {
    requires!(Root);
    let worker = Worker::with_config(json!({"standbys": 0})).start();
    for name in ["a", "b", "c"] {
        worker.install_f(name, ECHO);
    }
    // In a shell there is its init alone.
    let shells = || -> BTreeSet<String> {
        worker.sandbox_groups().into_iter().filter(|(_, n)| *n == 1).map(|(name, _)| name).collect()
    };
    let wait_for_shells = || {
        until("two shells wait", || worker.status_json()["worker"]["shells"] == 2 && shells().len() == 2);
    };
    worker.call("a", "1").ok();
    wait_for_shells();
    let before = shells();
    worker.call("b", "1").ok();
    let full = worker.sandbox_groups().into_iter().filter(|(_, n)| *n == 2).map(|(name, _)| name);
    assert_eq!(before.intersection(&full.collect()).count(), 1, "one of them is b's sandbox now");
    wait_for_shells();
    let dead = shells();
    for (group, process) in worker.processes_by_group() {
        if group.file_name().is_some_and(|name| dead.contains(&*name.to_string_lossy())) {
            process.signal(Signal::SIGKILL);
        }
    }
    assert_eq!(worker.call("c", "2").ok(), json!(2));
    until("the dead ones are gone", || shells().intersection(&dead).count() == 0);
    worker.finish();
}

#[test]
fn tmp_has_the_size_that_its_function_asks_for_whatever_the_standby_had() {
    requires!(Root);
    let worker = Worker::start();
    let code = "import os\ndef f(event):\n    of = os.statvfs('/tmp')\n    return [of.f_blocks * of.f_frsize >> 20, of.f_files]";
    for (name, mb) in [("small", 3), ("large", 300)] {
        worker.install(name, &[("f.py", code), ("ol.yaml", &format!("limits: {{tmp_mb: {mb}}}"))]);
        wait_for_standbys(&worker);
        let first = worker.call(name, "{}");
        assert_eq!(timing(&first).0, "standby");
        assert_eq!(first.ok(), json!([mb, (mb * 256).max(1024)]));
    }
    worker.finish();
}

#[test]
fn code_that_does_not_load_is_told_to_its_first_caller_and_mended_code_is_served() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("frail", "import sys\nprint('before')\nraise RuntimeError('not ready')");
    wait_for_standbys(&worker);
    for _ in 0..2 {
        let text = worker.call("frail", "1").expect(500);
        assert!(text.starts_with("f.py could not be imported: RuntimeError"), "{text}");
        assert!(text.ends_with("RuntimeError: not ready\n\n") || text.contains("not ready"), "{text}");
    }
    let lambda = worker.lambda("frail");
    assert_eq!(
        (&lambda["state"], &lambda["refused"], &lambda["cold_starts"]),
        (&json!("rejected"), &json!(2), &json!(0))
    );
    assert_eq!((&lambda["starting"], &lambda["busy"], &lambda["warm"]), (&json!(0), &json!(0), &json!(0)));
    worker.logged("frail", "before");
    worker.install_f("frail", ECHO);
    until("the new code is served", || worker.call("frail", "2").status.as_u16() == 200);
    assert_eq!(worker.lambda("frail")["state"], "ready");
}

#[test]
fn a_client_that_leaves_while_the_code_is_loaded_does_not_end_the_loading() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("slow", SLOW);
    wait_for_standbys(&worker);
    let mut client = worker.connect();
    client.send(b"POST /run/slow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n1");
    let sandbox = worker.sandbox_that_said("slow", "loading");
    client.abandon();
    go_on(&worker, sandbox);
    let lambda = worker.lambda_until("its call is over", "slow", |lambda| lambda["invocations"] == 1);
    assert_eq!((&lambda["busy"], &lambda["warm"], &lambda["starting"]), (&json!(0), &json!(1), &json!(0)));
    let next = worker.call("slow", "2");
    assert_eq!(next.sandbox(), sandbox);
    assert_eq!(next.ok(), json!([2, 2]));
}

#[test]
fn those_who_come_while_the_code_is_loaded_wait_for_it() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("slow", SLOW);
    wait_for_standbys(&worker);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|n| {
                let worker = &worker;
                scope.spawn(move || worker.call("slow", json!(n)))
            })
            .collect();
        // The first makes it itself, and does not wait in the queue, unless the lambda was quicker.
        let waits = |lambda: &Value| lambda["queue"].as_u64().is_some_and(|n| n >= 3);
        worker.lambda_until("one is made, the others wait", "slow", waits);
        assert_eq!(worker.lambda("slow")["starting"], 1);
        let sandbox = worker.sandbox_that_said("slow", "loading");
        go_on(&worker, sandbox);
        for (n, caller) in callers.into_iter().enumerate() {
            let answer = caller.join().unwrap().ok();
            assert_eq!(answer[0], json!(n));
        }
    });
}

#[test]
fn the_time_for_loading_is_not_taken_from_the_request() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"runtime_sec": 1}})).start();
    let code = "
import time
time.sleep(1.5)
def f(event, context):
    return context.remaining_ms() > 500
";
    worker.install_f("late", code);
    wait_for_standbys(&worker);
    assert_eq!(worker.call("late", "").ok(), json!(true));
}

#[test]
fn a_burst_of_first_calls_is_served_each_by_a_sandbox_of_its_own() {
    requires!(Root);
    const N: usize = 24;
    let worker = Worker::start();
    let name = |n: usize| format!("burst-{n}");
    for n in 0..N {
        worker.drop_in(&name(n), &[("f.py", ECHO)]);
    }
    until("all are known", || worker.status_json()["lambdas"].as_array().is_some_and(|all| all.len() == N));
    let mut sandboxes: Vec<u64> = thread::scope(|scope| {
        let worker = &worker;
        let callers: Vec<_> = (0..8)
            .map(|at| {
                scope.spawn(move || {
                    let calls = (at..N).step_by(8).map(|n| {
                        let reply = worker.call(&name(n), json!(n));
                        assert!(["standby", "forked"].contains(&&timing(&reply).0[..]));
                        let sandbox = reply.sandbox();
                        assert_eq!(reply.ok(), json!(n));
                        sandbox
                    });
                    calls.collect::<Vec<_>>()
                })
            })
            .collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    sandboxes.sort_unstable();
    sandboxes.dedup();
    assert_eq!(sandboxes.len(), N);
    for n in 0..N {
        let lambda = worker.lambda(&name(n));
        assert_eq!(
            (&lambda["cold_starts"], &lambda["invocations"], &lambda["errors"]),
            (&json!(1), &json!(1), &json!(0))
        );
    }
}

#[test]
fn a_sandbox_for_each_call_is_made_by_each_call() {
    requires!(Root);
    let worker = Worker::start();
    worker.install("fresh", &[("f.py", ECHO), ("ol.yaml", "reuse-sandbox: false\n")]);
    wait_for_standbys(&worker);
    let mut sandboxes = Vec::new();
    for n in 0..10 {
        let reply = worker.call("fresh", json!(n));
        // On a machine that is so slow that this import is worth a zygote, forks of it wait for calls.
        let zygotes = &worker.status_json()["worker"]["counters"]["lambda_zygotes_started"];
        assert!(timing(&reply).0 != "warm" || zygotes == 1, "sandbox {}", reply.sandbox());
        sandboxes.push(reply.sandbox());
        assert_eq!(reply.ok(), json!(n));
    }
    sandboxes.dedup();
    assert_eq!(sandboxes.len(), 10);
    assert!(worker.lambda("fresh")["cold_starts"].as_u64() >= Some(10));
}

#[test]
fn the_first_request_may_be_long_and_may_want_its_head() {
    requires!(Root);
    let worker = Worker::start();
    let app = "
def app(environ, start_response):
    start_response('200 OK', [('content-type', 'application/json')])
    n = 0
    while True:
        piece = environ['wsgi.input'].read(100_000)
        if not piece:
            break
        n += len(piece)
    return [('[\"%s\", \"%s\", %d]' % (environ['REQUEST_METHOD'], environ['PATH_INFO'], n)).encode()]
";
    for (n, n_bytes) in [1_usize, 33 << 10, 200 << 10, 2 << 20].into_iter().enumerate() {
        wait_for_standbys(&worker);
        let body = format!("\"{}\"", "x".repeat(n_bytes));
        worker.install_f(&format!("length-{n}"), "def f(event): return len(event)");
        assert_eq!(worker.call(&format!("length-{n}"), body.clone()).ok(), json!(n_bytes));
        worker.install_f(&format!("app-{n}"), app);
        let reply = worker.request("POST", &format!("/run/app-{n}/below?x=1"), &[], body);
        assert_eq!(reply.ok(), json!(["POST", "/below", n_bytes + 2]));
    }
    worker.install_f(
        "context",
        "def f(event, context): return [context.method, context.target, context.request_id]",
    );
    let reply = worker.request("PUT", "/run/context/a?b=c", &[], "1");
    let id = format!("{}-1", reply.sandbox());
    assert_eq!(reply.ok(), json!(["PUT", "/a?b=c", id]));
}
