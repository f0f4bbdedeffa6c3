//! Long bodies, both ways.

use serde_json::json;

use crate::support::{Expect, Worker, requires, until};

const LENGTH: &str = "def f(event): return len(event)";
const MB: usize = 1 << 20;

#[test]
fn a_body_that_is_announced_too_long_is_refused_before_it_is_sent() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("length", LENGTH);
    let mut connection = worker.connect();
    connection.announce("POST", "/run/length", 6 * MB + 1);
    // Not one byte of the body: who waits for it would wait for ever.
    let answer = connection.read_to_end();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.ends_with("the request body is longer than 6 MB, the worker's max_body_mb\n"), "{answer}");
    assert_eq!(worker.lambda("length")["invocations"], 0);
    // One that is as long as may be is taken.
    let body = format!("\"{}\"", "x".repeat(6 * MB - 2));
    assert_eq!(worker.call("length", body).ok(), json!(6 * MB - 2));
}

#[test]
fn a_body_that_turns_out_too_long_is_cut_off() {
    requires!(Root);
    let worker = Worker::with_config(json!({"max_body_mb": 1})).start();
    worker.install_f("length", LENGTH);
    let mut connection = worker.connect();
    connection.send(b"POST /run/length HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; MB], b"\r\n"].concat();
    // There is no end to what this client would send.
    until("the worker ends the connection", || connection.send_what_is_taken(&chunk).is_err());
    worker.lambda_until("nothing runs", "length", |lambda| lambda["busy"] == 0 && lambda["queue"] == 0);
    assert_eq!(worker.call("length", "[1, 2]").ok(), json!(2));
    assert_eq!(worker.get("/status").expect(200), "ready\n");
}

#[test]
fn a_body_that_nobody_wants_is_not_read_to_its_end() {
    requires!(Root);
    let worker = Worker::start();
    for path in ["/run/nobody", "/run/..", "/registry/..", "/registry/evil"] {
        let mut connection = worker.connect();
        connection.send(
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
                .as_bytes(),
        );
        let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; MB], b"\r\n"].concat();
        until("the worker ends the connection", || connection.send_what_is_taken(&chunk).is_err());
    }
}

#[test]
fn a_body_in_chunks_arrives_whole() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", "def f(event): return event");
    let mut connection = worker.connect();
    connection.send(b"POST /run/echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    for piece in ["[1", ", \"two\"", ", 3]"] {
        connection.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes());
    }
    connection.send(b"0\r\n\r\n");
    let answer = connection.read_until("\r\n\r\n[1, \"two\", 3]");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn long_bodies_go_through_in_both_directions() {
    requires!(Root);
    let worker = Worker::with_config(json!({"max_body_mb": 16, "limits": {"mem_mb": 300}})).start();
    worker.install_f("length", LENGTH);
    worker.install_f("repeat", "def f(event): return event['text'] * event['times']");
    let up = format!("\"{}\"", "0123456789".repeat(MB));
    assert_eq!(worker.call("length", up).ok(), json!(10 * MB));
    let down = worker.call("repeat", json!({"text": "0123456789", "times": 2 * MB}));
    assert_eq!(down.status.as_u16(), 200);
    assert_eq!(down.body.len(), 20 * MB + 2);
    let is_whole = down.body[1..=20 * MB].chunks(10).all(|piece| piece == b"0123456789");
    assert!(is_whole, "the answer is not what was sent");
    // Of both at once, on one sandbox, and then something short.
    assert_eq!(worker.call("length", "[]").ok(), json!(0));
}

#[test]
fn a_client_that_goes_away_amid_its_body_leaves_no_sandbox_with_half_of_it() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 1}})).start();
    worker.install_f("length", LENGTH);
    assert_eq!(worker.call("length", "[1]").ok(), json!(1));
    let mut connection = worker.connect();
    connection.announce("POST", "/run/length", 4 * MB);
    connection.send(&vec![b'x'; 2 * MB]);
    worker.lambda_until("it has begun", "length", |lambda| lambda["busy"] == 1);
    connection.abandon();
    worker.lambda_until("its place is free", "length", |lambda| lambda["busy"] == 0);
    assert_eq!(worker.call("length", "[1, 2]").ok(), json!(2));
}
