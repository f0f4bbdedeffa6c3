//! Calls that fail: whose fault it was is said, and the next call is served.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Expect, Worker, requires, until};

#[test]
fn an_exception_is_answered_with_its_traceback_and_the_sandbox_stays_warm() {
    requires!(Root);
    let worker = Worker::start();
    let code = "
n = 0
def f(event):
    global n
    n += 1
    if event == 'fail':
        raise ValueError('not my day')
    if event == 'exit':
        raise SystemExit(3)
    return n
";
    worker.install_f("moody", code);
    let first = worker.call("moody", "1");
    let sandbox = first.sandbox();
    assert_eq!(first.ok(), json!(1));

    let failed = worker.call("moody", r#""fail""#);
    assert_eq!(failed.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(failed.sandbox(), sandbox);
    let text = failed.expect(500);
    assert!(text.starts_with("Traceback (most recent call last):\n"), "{text}");
    assert!(text.ends_with("ValueError: not my day\n"), "{text}");
    assert!(text.contains("f.py\", line 7, in f") && !text.contains("/runtime/"), "{text}");

    assert!(worker.call("moody", r#""exit""#).expect(500).contains("sys.exit(3)"));

    let next = worker.call("moody", "1");
    assert_eq!(next.sandbox(), sandbox);
    assert_eq!(next.ok(), json!(4));
    let lambda = worker.lambda("moody");
    assert_eq!((&lambda["invocations"], &lambda["errors"]), (&json!(4), &json!(2)));
}

#[test]
fn a_body_that_is_not_json_is_refused_with_the_place() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", "def f(event): return event");
    for (body, place) in
        [("x", "line 1 column 1"), ("{\n  \"a\": }", "line 2 column 8"), ("1 2", "line 1 column 3")]
    {
        let text = worker.call("echo", body).expect(400);
        let beginning = format!("bad POST data: \"{body}\": the request body is not JSON: ");
        assert!(text.starts_with(&beginning) && text.contains(place), "{text}");
    }
    assert!(
        worker.call("echo", vec![b'"', 0xff, b'"']).expect(400).contains(": the request body is not JSON: ")
    );
    assert!(worker.call("echo", "[".repeat(100_000)).expect(400).contains("nested too deep"));
    assert_eq!(worker.call("echo", "[1]").ok(), json!([1]));
}

#[test]
fn a_result_that_is_not_json_names_the_type() {
    requires!(Root);
    let worker = Worker::start();
    let code = "
class Thing: pass
def f(event):
    return {'set': {1}, 'thing': {'a': [0, Thing()]}, 'nan': float('nan'), 'bytes': b'x'}[event]
";
    worker.install_f("odd", code);
    for (event, fault) in
        [("set", "set"), ("thing", r#"Thing at result["a"][1]"#), ("nan", "nan"), ("bytes", "bytes")]
    {
        let text = worker.call("odd", json!(event)).expect(500);
        assert_eq!(text, format!("the function returned an object that is not JSON: {fault}\n"));
    }
}

#[test]
fn a_call_that_takes_too_long_is_ended_with_its_sandbox() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"runtime_sec": 2}})).start();
    let code = "
import os
def f(event):
    if event == 'spin':
        os.fork()
        print('spinning', flush=True)
        while True:
            pass
    return 'fine'
";
    worker.install_f("slow", code);
    let call = worker.call_aside("slow", r#""spin""#);
    let sandbox = worker.sandbox_that_said("slow", "spinning");
    let processes = worker.sandbox_processes(sandbox);
    assert!(processes.len() >= 2, "{processes:?}");
    let reply = call.join().unwrap().unwrap();
    assert_eq!(
        reply.expect(504),
        "the function did not answer within 2 s (its runtime_sec); its sandbox was ended\n"
    );
    until("its processes are gone", || processes.iter().all(|process| !process.is_alive()));
    let next = worker.call("slow", "1");
    assert_ne!(next.sandbox(), sandbox);
    assert_eq!(next.ok(), json!("fine"));
    assert_eq!(worker.lambda("slow")["timeouts"], 1);
}

#[test]
fn a_sandbox_that_dies_is_reported_with_the_cause_and_replaced() {
    requires!(Root);
    let worker = Worker::start();
    let code = "
import os, signal
def f(event):
    if event == 'exit':
        os._exit(3)
    if event == 'segfault':
        os.kill(os.getpid(), signal.SIGSEGV)
        import time; time.sleep(1000)
    if event == 'memory':
        hog = bytearray(1 << 30)
        hog[::4096] = b'x' * (1 << 18)
    return 'fine'
";
    worker.install_f("frail", code);
    assert_eq!(worker.call("frail", "1").ok(), json!("fine"));
    for (event, cause) in [("exit", "exit code 3"), ("segfault", "SIGSEGV"), ("memory", "memory")] {
        let reply = worker.call("frail", json!(event));
        let text = reply.expect(502);
        assert!(text.starts_with("the function's sandbox died: ") && text.contains(cause), "{event}: {text}");
        assert_eq!(worker.call("frail", "1").ok(), json!("fine"), "after {event}");
    }
    assert_eq!(worker.get("/status").expect(200), "ready\n");
    assert_eq!(worker.lambda("frail")["errors"], 3);
}

#[test]
fn a_sandbox_that_is_killed_between_calls_is_not_noticed_by_the_next_one() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", "def f(event): return event");
    let first = worker.call("echo", "1");
    let processes = worker.sandbox_processes(first.sandbox());
    assert!(!processes.is_empty());
    processes.iter().for_each(|process| process.signal(Signal::SIGKILL));
    until("they are gone", || processes.iter().all(|process| !process.is_alive()));
    let next = worker.call("echo", "2");
    assert_ne!(next.sandbox(), first.sandbox());
    assert_eq!(next.ok(), json!(2));
}

#[test]
fn code_that_cannot_be_imported_is_answered_with_its_traceback() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("broken", "import nothing_of_this_name\ndef f(event): return 1");
    let text = worker.call("broken", "").expect(500);
    assert!(text.contains("ModuleNotFoundError: No module named 'nothing_of_this_name'"), "{text}");
    let said = worker.lambda_until("it says so", "broken", |lambda| lambda["state"] == "rejected");
    assert!(said["message"].as_str().unwrap().contains("nothing_of_this_name"), "{said}");
    worker.install_f("broken", "def f(event): return 1");
    assert_eq!(worker.call("broken", "").ok(), json!(1));
}

#[test]
fn a_client_that_goes_away_leaves_no_work_behind() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"runtime_sec": 600, "max_instances": 1}})).start();
    let code = "
import time
def f(event):
    if event == 'wait':
        print('waiting', flush=True)
        time.sleep(10000)
    return 'fine'
";
    worker.install_f("slow", code);
    let mut connection = worker.connect();
    connection.announce("POST", "/run/slow", 6);
    connection.send(br#""wait""#);
    let sandbox = worker.sandbox_that_said("slow", "waiting");
    let processes = worker.sandbox_processes(sandbox);
    assert!(!processes.is_empty());
    assert_eq!(worker.lambda("slow")["busy"], 1);
    connection.abandon();
    until("its processes are gone", || processes.iter().all(|process| !process.is_alive()));
    worker.lambda_until("its place is free", "slow", |lambda| lambda["busy"] == 0);
    // There is one place only.
    assert_eq!(worker.call("slow", "1").ok(), json!("fine"));
}
