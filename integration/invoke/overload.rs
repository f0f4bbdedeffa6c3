//! More calls than there is room for: some wait, some are refused, and all are told.

use serde_json::{Value, json};

use crate::support::{Expect, RawConnection, Worker, requires};

const SLOW: &str = "
import time
def f(event):
    if event == 'wait':
        time.sleep(10000)
    return 'fine'
";

fn one_place(queue: Value) -> Worker {
    let limits = json!({"runtime_sec": 600, "max_instances": 1});
    let worker = Worker::with_config(json!({"limits": limits, "queue": queue})).start();
    worker.install_f("slow", SLOW);
    assert_eq!(worker.call("slow", "").ok(), json!("fine"));
    worker
}

/// A call that takes the one place.
fn occupy(worker: &Worker) -> RawConnection {
    let connection = post(worker, br#""wait""#);
    worker.lambda_until("the place is taken", "slow", |lambda| lambda["busy"] == 1);
    connection
}

fn post(worker: &Worker, body: &[u8]) -> RawConnection {
    let mut connection = worker.connect();
    connection.announce("POST", "/run/slow", body.len());
    connection.send(body);
    connection
}

#[test]
fn one_more_than_may_wait_is_refused_and_told_when_to_come_back() {
    requires!(Root);
    let worker = one_place(json!({"length": 2, "wait_ms": 600_000}));
    let first = occupy(&worker);
    let mut waiting = [post(&worker, b"1"), post(&worker, b"2")];
    worker.lambda_until("two wait", "slow", |lambda| lambda["queue"] == 2);
    let refused = worker.call("slow", "");
    let seconds: u64 = refused.header("retry-after").expect("it says when").parse().unwrap();
    assert!(seconds >= 1);
    assert_eq!(refused.expect(429), "too many requests wait for this function already\n");
    // Those who wait get the place when it is free.
    first.abandon();
    for connection in &mut waiting {
        assert!(connection.read_until("\"fine\"").starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(worker.lambda("slow")["refused"], 1);
}

#[test]
fn who_has_waited_long_enough_is_told() {
    requires!(Root);
    let worker = one_place(json!({"length": 10, "wait_ms": 300}));
    let first = occupy(&worker);
    let refused = worker.call("slow", "");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(
        refused.expect(429),
        "no sandbox became free in time: all are busy, or still load the code of the function\n"
    );
    assert_eq!(worker.lambda("slow")["queue"], 0);
    first.abandon();
    worker.lambda_until("the place is free", "slow", |lambda| lambda["busy"] == 0);
    assert_eq!(worker.call("slow", "").ok(), json!("fine"));
}

#[test]
fn who_gives_up_waiting_does_not_keep_others_waiting() {
    requires!(Root);
    let worker = one_place(json!({"length": 1, "wait_ms": 600_000}));
    let first = occupy(&worker);
    for _ in 0..5 {
        let waiting = post(&worker, b"1");
        worker.lambda_until("one waits", "slow", |lambda| lambda["queue"] == 1);
        waiting.abandon();
        worker.lambda_until("nobody waits", "slow", |lambda| lambda["queue"] == 0);
    }
    first.abandon();
    assert_eq!(worker.call("slow", "").ok(), json!("fine"));
}

#[test]
fn a_function_that_is_busy_does_not_keep_another_one_waiting() {
    requires!(Root);
    let worker = one_place(json!({"length": 10, "wait_ms": 600_000}));
    worker.install_f("other", "def f(event): return event");
    let first = occupy(&worker);
    let waiting = post(&worker, b"1");
    worker.lambda_until("one waits", "slow", |lambda| lambda["queue"] == 1);
    for n in 0..20 {
        assert_eq!(worker.call("other", json!(n)).ok(), json!(n));
    }
    waiting.abandon();
    first.abandon();
}
