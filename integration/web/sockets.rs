//! WebSocket: real clients, clients that behave badly, and ends of all kinds.

use nix::sys::signal::Signal;
use serde_json::json;

use super::with_clients;
use crate::support::{Expect, RawConnection, Worker, patience, requires, until};

/// What is asked for is in the path.
const APP: &str = r#"
import asyncio, os

async def app(scope, receive, send):
    assert scope["type"] in ("http", "websocket")
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        return await send({"type": "http.response.body", "body": b"http"})
    path = scope["path"][len("/run/web"):]
    assert await receive() == {"type": "websocket.connect"}
    if path == "/refuse":
        return await send({"type": "websocket.close"})
    if path == "/deny":
        await send({"type": "websocket.http.response.start", "status": 418, "headers": [(b"a", b"b")]})
        return await send({"type": "websocket.http.response.body", "body": b"a teapot\n"})
    if path == "/raise-first":
        raise ValueError("on purpose")
    if path == "/wait":
        print("waits", flush=True)
        print(await receive(), flush=True)
        return
    accept = {"type": "websocket.accept", "headers": [(b"a", b"b")]}
    if scope["subprotocols"]:
        accept["subprotocol"] = scope["subprotocols"][-1]
    await send(accept)
    if path == "/echo":
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        print(message, flush=True)
    elif path == "/close":
        await send({"type": "websocket.close", "code": 3001, "reason": "enough"})
        print(await receive(), flush=True)
    elif path == "/raise":
        raise ValueError("on purpose")
    elif path == "/die":
        os._exit(7)
    elif path == "/big":
        for _ in range(4):
            await send({"type": "websocket.send", "bytes": bytes(8 << 20)})
            await send({"type": "websocket.send", "text": "é" * (1 << 20)})
    elif path == "/flood":
        n = 0
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(1 << 16)})
                n += 1
                if n % 100 == 0: print("sent", n, flush=True)
        except OSError as error:
            print("flood ends", type(error).__name__, flush=True)
    elif path == "/deaf":
        print("deaf", flush=True)
        await asyncio.sleep(600)
    elif path == "/silent":
        print(await receive(), flush=True)
"#;

const KEY: &str = "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn worker() -> Worker {
    let worker = Worker::with_config(json!({"limits": {"max_instances": 2}})).start();
    worker.install_f("web", APP);
    worker
}

/// A socket by hand.
#[track_caller]
fn open(worker: &Worker, path: &str) -> RawConnection {
    let mut connection = worker.connect();
    connection.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{KEY}\r\n").as_bytes());
    let head = connection.read_until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    connection
}

/// A frame of a client, masked with zeros.
fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let n = body.len();
    let mut bytes = vec![first];
    if n < 126 {
        bytes.push(0x80 | n as u8);
    } else {
        bytes.push(0x80 | 127);
        bytes.extend_from_slice(&(n as u64).to_be_bytes());
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn a_real_client_talks_with_an_app() {
    requires!(Root, Clients);
    let worker = worker();
    let said = with_clients(
        &worker,
        r#"
import asyncio, websockets
from websockets.sync.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
url = f"ws://localhost:{PORT}/run/web"
with connect(url + "/echo", subprotocols=["x", "y"]) as socket:
    assert socket.subprotocol == "y" and socket.response.headers["a"] == "b"
    for message in ("", "é", b"", b"\xff", "x" * 100_000, bytes(1 << 20), ["in ", "three ", "pieces"]):
        socket.send(message)
        assert socket.recv() == (message if isinstance(message, (str, bytes)) else "".join(message))
    socket.ping().wait(30)
    for n in range(1000): socket.send(str(n))
    for n in range(1000): assert socket.recv() == str(n)
    socket.close(4000, "bye")
with connect(url + "/close") as socket:
    try: socket.recv()
    except ConnectionClosed as closed: assert (closed.rcvd.code, closed.rcvd.reason) == (3001, "enough"), closed
with connect(url + "/raise") as socket:
    try: socket.recv()
    except ConnectionClosed as closed: assert (closed.rcvd.code, closed.rcvd.reason) == (1011, "the function failed"), closed
with connect(url + "/other") as socket:
    try: socket.recv()
    except ConnectionClosed as closed: assert closed.rcvd.code == 1000, closed
with connect(url + "/big", max_size=None) as socket:
    for _ in range(4):
        assert socket.recv() == bytes(8 << 20)
        assert socket.recv() == "é" * (1 << 20)
with connect(url + "/echo") as socket:
    socket.send(bytes((1 << 20) + 1))
    try: socket.recv()
    except ConnectionClosed as closed: assert (closed.rcvd.code, closed.rcvd.reason) == (1009, "a message is longer than 1024 KiB"), closed
for path, status in (("/refuse", 403), ("/deny", 418), ("/raise-first", 500)):
    try: connect(url + path)
    except InvalidStatus as refused: assert refused.response.status_code == status, refused
    else: raise AssertionError(path)
async def many():
    async def one(n):
        async with websockets.connect(url + "/echo") as socket:
            for i in range(20):
                await socket.send(f"{n} {i}")
                assert await socket.recv() == f"{n} {i}"
    await asyncio.gather(*map(one, range(8)))
asyncio.run(many())
print("all went well")
"#,
    );
    assert_eq!(said, "all went well\n");
    worker.logged("web", "{'type': 'websocket.disconnect', 'code': 4000, 'reason': 'bye'}");
    worker.logged("web", "{'type': 'websocket.disconnect', 'code': 3001, 'reason': 'enough'}");
    worker.logged("web", "{'type': 'websocket.disconnect', 'code': 1009,");
    // Raised before and after it was accepted.
    assert_eq!(worker.lambda("web")["errors"], 2);
    assert_eq!(worker.get("/run/web/").expect(200), "http");
    worker.finish();
}

#[test]
fn who_cannot_speak_websocket_says_so() {
    requires!(Root);
    let worker = worker();
    worker.install_f("f", "def f(event): return 'f'");
    worker.install_f("wsgi", "def app(environ, start):\n    start('200 OK', [])\n    return [b'wsgi']");
    let ask = |target: &str, headers: &str| {
        let mut connection = worker.connect();
        connection.send(format!("{target} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").as_bytes());
        connection.read_to_end()
    };
    for name in ["f", "wsgi"] {
        let said = ask(&format!("GET /run/{name}"), KEY);
        assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
        assert!(said.contains(&format!("'{name}' does not speak WebSocket: only ASGI apps do")), "{said}");
    }
    let said = ask("GET /run/web/echo", &KEY.replace(": 13", ": 8"));
    assert!(said.starts_with("HTTP/1.1 426 ") && said.contains("sec-websocket-version: 13"), "{said}");
    for (target, headers) in [
        ("GET /run/web/echo", KEY.replace("sec-websocket-key", "x")),
        ("GET /run/web/echo", KEY.replace("sec-websocket-version", "x")),
        ("POST /run/web/echo", KEY.to_owned()),
    ] {
        let said = ask(target, &headers);
        assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("no request for a WebSocket"), "{said}");
    }
    assert!(ask("GET /run/nonesuch", KEY).starts_with("HTTP/1.1 404 "));
    // Another protocol is no matter.
    let said = ask("GET /run/web/", "upgrade: h2c\r\nconnection: upgrade, close\r\n");
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    worker.finish();
}

#[test]
fn who_does_not_keep_to_the_protocol_is_told_with_which_code() {
    requires!(Root);
    let worker = worker();
    for (bytes, code) in
        [(frame(0x81, b"\xff"), 1007u16), (frame(0x83, b"x"), 1002), (vec![0x82, 1, 0], 1002)]
    {
        let mut connection = open(&worker, "/run/web/echo");
        connection.send(&bytes);
        connection.send(&frame(0x88, &[3, 232]));
        let said = connection.read_to_end();
        assert!(!said.is_empty());
        worker.logged("web", &format!("'code': {code}"));
    }
    // A ping amid a message in pieces.
    let mut connection = open(&worker, "/run/web/echo");
    connection.send(&[frame(0x01, b"ab"), frame(0x89, b"?"), frame(0x80, b"cd")].concat());
    assert_eq!(connection.read_bytes(9), b"\x8a\x01?\x81\x04abcd");
    connection.abandon();
    worker.logged("web", "'code': 1006");
    assert_eq!(worker.lambda("web")["errors"], 0);
    worker.finish();
}

#[test]
fn a_client_that_goes_away_is_a_disconnect_and_the_sandbox_stays() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 1}})).start();
    worker.install_f("web", APP);
    let sandbox = worker.get("/run/web/").sandbox();
    for _ in 0..3 {
        let connection = open(&worker, "/run/web/silent");
        connection.abandon();
        assert_eq!(worker.get("/run/web/").sandbox(), sandbox);
    }
    worker.logged("web", "{'type': 'websocket.disconnect', 'code': 1006, 'reason': ''}");
    // Before he was accepted.
    let mut connection = worker.connect();
    connection.send(format!("GET /run/web/wait HTTP/1.1\r\nhost: localhost\r\n{KEY}\r\n").as_bytes());
    worker.logged("web", " waits");
    connection.abandon();
    assert_eq!(worker.get("/run/web/").sandbox(), sandbox);
    worker.finish();
}

#[test]
fn the_end_of_a_sandbox_closes_its_sockets_with_a_reason() {
    requires!(Root);
    let worker = worker();
    let mut connection = open(&worker, "/run/web/die");
    // A close with code 1011.
    let head = connection.read_bytes(4);
    assert_eq!((head[0], &head[2..]), (0x88, &[3, 243][..]));
    let said = connection.read_exactly(usize::from(head[1]) - 2);
    assert_eq!(said, "the function's sandbox died: its interpreter ended: exit code 7");
    connection.abandon();
    assert_eq!(worker.get("/run/web/").expect(200), "http");
    worker.finish();
}

#[test]
fn a_worker_that_ends_closes_sockets_and_says_that_it_will_be_back() {
    requires!(Root);
    let mut worker = worker();
    let mut connection = open(&worker, "/run/web/echo");
    connection.send(&frame(0x81, b"hello"));
    connection.read_until("hello");
    worker.signal(Signal::SIGTERM);
    let said = connection.read_until("the worker ends");
    assert_eq!(said.chars().count(), 4 + "the worker ends".len(), "a close, and nothing else: {said:?}");
    connection.send(&frame(0x88, &[3, 232]));
    assert!(worker.wait_for_end().success());
    assert!(worker.function_log("web").contains("'code': 1012, 'reason': 'the worker ends'"));
    worker.finish();
}

#[test]
fn a_socket_on_which_nobody_says_anything_is_closed_and_one_that_is_used_is_not() {
    requires!(Root);
    let runtime = patience(2).as_secs();
    let worker = Worker::with_config(json!({"limits": {"runtime_sec": runtime}})).start();
    worker.install_f("web", APP);
    // What is used is the older one: if that did not matter, it would be closed first.
    let mut used = open(&worker, "/run/web/echo");
    let mut exchange = || {
        used.send(&frame(0x81, b"hello"));
        assert_eq!(used.read_bytes(7), b"\x81\x05hello");
    };
    let mut silent = open(&worker, "/run/web/silent");
    // A ping says nothing.
    silent.send(&frame(0x89, b""));
    assert_eq!(silent.read_bytes(2), [0x8a, 0]);
    until("the silent one is closed", || {
        exchange();
        silent.has_come()
    });
    exchange();
    let said = silent.read_until("runtime_sec)");
    assert!(said.contains(&format!("nothing was said for {runtime} s")), "{said:?}");
    silent.send(&frame(0x88, &[3, 233]));
    silent.read_to_end();
    worker.logged("web", "'code': 1001");
    assert_eq!(worker.lambda("web")["errors"], 0);
    worker.finish();
}

#[test]
fn nobody_is_sent_more_than_he_takes() {
    requires!(Root);
    let worker = worker();
    worker.get("/run/web/").expect(200);
    // A client that does not read: the app comes to a halt.
    let mut connection = open(&worker, "/run/web/flood");
    let n_sent = || worker.function_log("web").matches("sent").count();
    let mut last = (0, std::time::Instant::now());
    until("it sends no more", || {
        if n_sent() != last.0 {
            last = (n_sent(), std::time::Instant::now());
        }
        last.1.elapsed().as_millis() > 500
    });
    assert!(n_sent() < 20, "so many hundred pieces of 64 KiB: {}", n_sent());
    connection.read_exactly(4 << 20);
    connection.abandon();
    worker.logged("web", "flood ends ClientGone");
    // An app that does not read: the client comes to a halt.
    let mut connection = open(&worker, "/run/web/deaf");
    worker.logged("web", "deaf");
    connection.limit_writes();
    let piece = frame(0x82, &[0; 60_000]);
    let n_taken = (0..2_000).take_while(|_| connection.send_what_is_taken(&piece).is_ok()).count();
    assert!(n_taken < 500, "{n_taken} messages of 60 KB were taken");
    connection.abandon();
    assert_eq!(worker.get("/run/web/").expect(200), "http");
    worker.finish();
}
