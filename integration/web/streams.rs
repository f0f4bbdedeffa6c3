//! Answers that come in pieces, long bodies, and clients that go away amid them.

use std::fs;

use serde_json::json;

use super::apps::APP;
use super::with_clients;
use crate::support::{Expect, Program, Worker, requires, until};

/// Pieces, and then nothing for longer than any test takes.
const GENERATOR: &str = r#"
import time
def app(environ, start):
    if environ["PATH_INFO"] == "/count":
        n = 0
        while piece := environ["wsgi.input"].read(65536):
            n += len(piece)
        start("200 OK", [])
        return [b"%d" % n]
    if environ["PATH_INFO"] == "/long":
        start("200 OK", [])
        return (bytes(1 << 16) for _ in range(int(environ["QUERY_STRING"]) << 4))
    start("200 OK", [("content-type", "text/event-stream")])
    return pieces()
def pieces():
    yield b"data: first\n\n"
    time.sleep(600)
"#;

const LONG: &str = r#"
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"].endswith("/long"):
        for _ in range(int(scope["query_string"]) << 4):
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        return await send({"type": "http.response.body"})
    n = 0
    while True:
        message = await receive()
        n += len(message["body"])
        if not message["more_body"]:
            return await send({"type": "http.response.body", "body": b"%d" % n})
"#;

/// Two pieces; then it ends, or fails.
const PIECES: &str = r#"
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"one\n", "more_body": True})
    assert not scope["path"].endswith("/fails"), "on purpose"
    await send({"type": "http.response.body", "body": b"two\n"})
"#;

/// What is sent each way, in MiB: five times what a function may use. By hand: `OL_TEST_STREAM_MB=1024`.
const STREAM_MB: u64 = 256;

#[test]
fn a_piece_arrives_when_it_is_yielded() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("wsgi", GENERATOR).install_f("asgi", APP);
    for (path, piece) in [("/run/wsgi/", "data: first\n\n"), ("/run/asgi/stream", "first\n")] {
        let mut connection = worker.connect();
        connection.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes());
        let head = connection.read_until("\r\n\r\n");
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        // The next one never comes.
        assert!(connection.read_until(piece).ends_with(piece));
        connection.abandon();
    }
    worker.finish();
}

#[test]
fn what_came_before_an_app_failed_reaches_its_client_and_then_the_connection_is_cut() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("web", PIECES);
    // Whether the failure is seen with the piece before, or later, is a matter of luck.
    for n in 0..100 {
        let mut connection = worker.connect();
        connection.send(b"GET /run/web/fails HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let answer = connection.read_to_end();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{n}: {answer:?}");
        assert!(answer.ends_with("\r\n\r\n4\r\none\n\r\n"), "{n}: {answer:?}");
    }
    worker.finish();
}

#[test]
fn a_client_of_http_1_0_gets_a_streamed_answer_without_chunks_until_the_connection_ends() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("web", PIECES);
    for more in ["", "connection: keep-alive\r\n"] {
        let mut connection = worker.connect();
        connection.send(format!("GET /run/web/ HTTP/1.0\r\n{more}\r\n").as_bytes());
        let answer = connection.read_to_end();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
        for header in ["transfer-encoding", "content-length", "keep-alive"] {
            assert!(!head.contains(header), "{head}");
        }
        assert_eq!(body, "one\ntwo\n");
    }
    worker.finish();
}

#[test]
fn an_app_is_told_when_its_client_has_gone_and_its_sandbox_stays() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 1}})).start();
    worker.install_f("web", APP);
    let sandbox = worker.call("web", "").sandbox();
    let mut connection = worker.connect();
    connection.send(b"GET /run/web/stream HTTP/1.1\r\nhost: localhost\r\n\r\n");
    connection.read_until("first\n");
    connection.abandon();
    worker.logged("web", "nobody listens");
    assert_eq!(worker.call("web", "").sandbox(), sandbox);
    // Before it has answered.
    let mut connection = worker.connect();
    connection.send(b"GET /run/web/wait HTTP/1.1\r\nhost: localhost\r\n\r\n");
    worker.logged("web", " waits");
    connection.abandon();
    worker.logged("web", "nobody waits");
    assert_eq!(worker.call("web", "").sandbox(), sandbox);
    // Amid its request.
    let mut connection = worker.connect();
    connection.announce("POST", "/run/web/", 1_000_000);
    connection.send(&[b'x'; 500_000]);
    until("it has begun", || worker.lambda("web")["busy"] == 1);
    connection.abandon();
    until("it is over", || worker.lambda("web")["busy"] == 0);
    assert_eq!(worker.call("web", "").sandbox(), sandbox);
    assert_eq!(worker.lambda("web")["errors"], 0);
    worker.finish();
}

#[test]
fn a_client_that_stops_reading_keeps_no_sandbox() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 1, "runtime_sec": 2}})).start();
    worker.install_f("wsgi", GENERATOR).install_f("asgi", LONG);
    for name in ["wsgi", "asgi"] {
        let mut connection = worker.connect();
        connection.send(format!("GET /run/{name}/long?1000 HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes());
        connection.read_until("\r\n\r\n");
        // There is no other one.
        until("its sandbox is free, or gone", || worker.lambda(name)["busy"] == 0);
        assert_eq!(worker.lambda(name)["queue"], 0);
        drop(connection);
    }
    worker.finish();
}

#[test]
fn an_app_that_does_not_mind_that_its_client_has_gone_is_ended() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 1}})).start();
    let code = "
import asyncio
async def app(scope, receive, send):
    assert scope['type'] == 'http'
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    if scope['path'].endswith('/quick'):
        return await send({'type': 'http.response.body'})
    while True:
        await send({'type': 'http.response.body', 'body': b'first', 'more_body': True})
        await asyncio.sleep(0.01)
";
    worker.install_f("web", code);
    let sandbox = worker.get("/run/web/quick").sandbox();
    let mut connection = worker.connect();
    connection.send(b"GET /run/web/ HTTP/1.1\r\nhost: localhost\r\n\r\n");
    connection.read_until("first");
    connection.abandon();
    assert_ne!(worker.get("/run/web/quick").sandbox(), sandbox);
    worker.finish();
}

#[test]
fn long_bodies_go_through_while_memory_stays_flat() {
    requires!(Root, Program("curl"));
    let mb = crate::support::number_from("OL_TEST_STREAM_MB", STREAM_MB);
    let config = json!({"max_body_mb": mb + 1, "limits": {"mem_mb": 50, "runtime_sec": 120}});
    let worker = Worker::with_config(config).start();
    worker.install_f("wsgi", GENERATOR).install_f("asgi", LONG);
    let sh = |line: String| Program::at("sh").arg("-c").arg(line).run_within(150).stdout;
    let peak_kb = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", worker.process().pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    // What it takes at all, the first time.
    for name in ["wsgi", "asgi"] {
        sh(format!("curl -s 'localhost:{}/run/{name}/long?8' | wc -c", worker.port()));
    }
    let before = peak_kb();
    for name in ["wsgi", "asgi"] {
        let url = format!("localhost:{}/run/{name}", worker.port());
        let n = sh(format!("curl -s '{url}/long?{mb}' | wc -c"));
        assert_eq!(n.trim(), (mb << 20).to_string(), "{name}, down");
        let n = sh(format!("head -c {mb}M /dev/zero | curl -s -T - -X POST {url}/count"));
        assert_eq!(n.trim(), (mb << 20).to_string(), "{name}, up");
    }
    let grown = peak_kb() - before;
    assert!(grown < 32 << 10, "the worker has grown by {grown} KB");
    let lambda = worker.lambda("asgi");
    assert_eq!(lambda["errors"], 0, "{lambda}");
    worker.finish();
}

#[test]
fn clients_of_the_world_read_streams() {
    requires!(Root, Clients);
    let worker = Worker::start();
    worker.install_f("wsgi", GENERATOR).install_f("asgi", APP);
    let said = with_clients(
        &worker,
        r#"
import httpx, requests
for path, first in (("wsgi/", b"data: first\n\n"), ("asgi/stream", b"first\n")):
    url = f"http://localhost:{PORT}/run/{path}"
    with httpx.stream("GET", url, timeout=30) as response:
        assert next(response.iter_raw()) == first
    with requests.get(url, stream=True, timeout=30) as response:
        assert next(response.iter_content(None)) == first
def pieces():
    for _ in range(20): yield bytes(100_000)
for name in ("wsgi/count", "asgi/"):
    assert int(httpx.post(f"http://localhost:{PORT}/run/{name}", content=pieces()).text) == 2_000_000
print("all went well")
"#,
    );
    assert_eq!(said, "all went well\n");
    worker.finish();
}
