//! Connections that are not as a decent client has them: requests that are none, that are sent ahead, or that do not come.

use serde_json::json;

use crate::support::{Expect, RawConnection, Worker, requires};

/// An answer, taken apart.
struct Answer {
    status: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    /// The next one on this connection. `has_body`: one to a HEAD has none.
    #[track_caller]
    fn read(connection: &mut RawConnection, has_body: bool) -> Self {
        let head = connection.read_until("\r\n\r\n");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").expect(&head).to_owned();
        let headers: Vec<_> = lines
            .map(|line| line.split_once(": ").expect(line))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Self { status, headers, body: String::new() };
        if has_body {
            let length = answer.header("content-length").expect(&head).parse().unwrap();
            answer.body = connection.read_exactly(length);
        }
        answer
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn is_last(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

/// The one answer to this, after which the connection ends.
#[track_caller]
fn refused(worker: &Worker, bytes: &[u8]) -> Answer {
    let mut connection = worker.connect();
    connection.send(bytes);
    let answer = Answer::read(&mut connection, true);
    assert!(answer.is_last(), "{:?}", answer.headers);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")), "{:?}", answer.headers);
    assert_eq!(connection.read_to_end(), "", "nothing comes after it");
    answer
}

fn with_headers(n: usize, length: usize) -> Vec<u8> {
    let mut request = "GET /status HTTP/1.1\r\nhost: localhost\r\n".to_owned();
    for n in 1..n {
        request += &format!("x-{n}: {}\r\n", "v".repeat(length));
    }
    (request + "\r\n").into_bytes()
}

#[test]
fn what_cannot_be_read_as_a_request_is_told_why() {
    requires!(Root);
    let worker = Worker::start();
    let malformed = "400 Bad Request";
    let too_large = "431 Request Header Fields Too Large";
    let head = |line: &str| format!("GET /status HTTP/1.1\r\nhost: localhost\r\n{line}\r\n\r\n").into_bytes();
    for (bytes, status, words) in [
        (b"nonsense\r\n\r\n".to_vec(), malformed, "this cannot be read as a request of HTTP/1.1: "),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), malformed, "HTTP/1.1 or HTTP/1.0"),
        (b"GET /status HTTP/1.1\r\n\r\n".to_vec(), malformed, "no Host"),
        (head("no colon"), malformed, "a header, or the first line"),
        (head("na me: x"), malformed, "a header, or the first line"),
        (head("content-length: 1\r\ncontent-length: 2"), malformed, "a header, or the first line"),
        (
            format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(70_000)).into_bytes(),
            malformed,
            "its path",
        ),
        (with_headers(97, 1), too_large, "at most 96 headers"),
        // More than is read: the answer comes all the same.
        (with_headers(50, 40_000), too_large, "128 KiB"),
    ] {
        let answer = refused(&worker, &bytes);
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(words) && answer.body.ends_with('\n'), "{words}: {}", answer.body);
    }
    let mut connection = worker.connect();
    connection.send(&with_headers(96, 1000));
    assert_eq!(Answer::read(&mut connection, true).body, "ready\n");
    // Not only the first of a connection.
    connection
        .send(b"GET /status HTTP/1.1\r\nhost: localhost\r\n\r\nGET /status HTTP/1.1\r\nhost: localhost\r\nno colon\r\n\r\n");
    assert_eq!(Answer::read(&mut connection, true).body, "ready\n");
    let answer = Answer::read(&mut connection, true);
    assert!(answer.status == malformed && answer.is_last() && answer.body.contains("a header"));
    assert_eq!(connection.read_to_end(), "");
}

#[test]
fn a_body_that_cannot_be_read_is_answered_once() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", "def f(event): return event");
    let answer = refused(
        &worker,
        b"POST /run/echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[1\r\nnonsense\r\n\r\n",
    );
    assert_eq!(answer.status, "400 Bad Request");
    assert!(answer.body.starts_with("the request body cannot be read"), "{}", answer.body);
}

#[test]
fn an_answer_of_a_function_is_never_taken_for_a_refusal() {
    requires!(Root);
    let worker = Worker::start();
    let code = r#"
REFUSAL = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
def app(environ, start):
    path = environ["PATH_INFO"]
    if path == "/empty":
        start("400 Bad Request", [])
        return []
    start("200 OK", [])
    if path == "/whole":
        return [REFUSAL]
    return iter([b"some", REFUSAL])
"#;
    worker.install_f("app", code);
    let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for _ in 0..3 {
        assert_eq!(worker.get("/run/app/whole").expect(200), refusal);
        assert_eq!(worker.get("/run/app/streamed").expect(200), format!("some{refusal}"));
        assert_eq!(worker.get("/run/app/empty").expect(400), "");
    }
    let mut connection = worker.connect();
    connection.send(b"GET /run/app/whole HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(Answer::read(&mut connection, true).body, refusal);
    connection.send(b"GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(Answer::read(&mut connection, true).body, "ready\n");
}

#[test]
fn requests_that_are_sent_ahead_get_each_its_own_answer() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", "def f(event): return event");
    let body = r#"["\r\n\r\n", 1]"#.replace(r"\r\n\r\n", "x") + "\r\n\r\n";
    let post =
        format!("POST /run/echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for n_rounds in 1..=3 {
        let mut connection = worker.connect();
        for _ in 0..n_rounds {
            connection.send(
                format!(
                    "GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n{post}HEAD /status HTTP/1.1\r\nhost: localhost\r\n\r\n{post}GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n"
                )
                .as_bytes(),
            );
        }
        connection.send(b"HEAD /registry/ HTTP/1.1\r\nhost: localhost\r\n\r\nGET /status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        for _ in 0..n_rounds {
            for (has_body, body) in [
                (true, "ready\n"),
                (true, r#"["x", 1]"#),
                (false, ""),
                (true, r#"["x", 1]"#),
                (true, "ready\n"),
            ] {
                let answer = Answer::read(&mut connection, has_body);
                assert_eq!((answer.status.as_str(), answer.body.as_str()), ("200 OK", body));
                assert!(!answer.is_last(), "{:?}", answer.headers);
            }
        }
        assert!(!Answer::read(&mut connection, false).is_last());
        let last = Answer::read(&mut connection, true);
        assert!(last.is_last() && last.body == "ready\n", "{:?}", last.headers);
        assert_eq!(connection.read_to_end(), "");
    }
}

#[test]
fn nothing_that_is_sent_behind_a_last_request_is_done() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("count", "n = 0\ndef f(event):\n    global n\n    n += 1\n    return n");
    let post = "POST /run/count HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n";
    let mut connection = worker.connect();
    connection.send(format!("{post}connection: close\r\n\r\n{post}\r\n{post}\r\n").as_bytes());
    let answer = Answer::read(&mut connection, true);
    assert!(answer.is_last() && answer.body == "1", "{:?} {}", answer.headers, answer.body);
    assert_eq!(connection.read_to_end(), "");
    assert_eq!(worker.call("count", "").ok(), json!(2));
}

#[test]
fn a_head_that_does_not_come_is_waited_for_only_so_long() {
    requires!(Root);
    let worker = Worker::start();
    // A connection on which nothing comes, one with half a request, and one with half of a second one; the time of all runs at once.
    let mut connections: Vec<_> =
        ["", "GET /status HTTP/1.1\r\nhost", "GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n\r\nGET /st"]
            .into_iter()
            .map(|sent| {
                let mut connection = worker.connect();
                connection.send(sent.as_bytes());
                connection
            })
            .collect();
    assert_eq!(Answer::read(&mut connections[2], true).body, "ready\n");
    for mut connection in connections {
        let answer = Answer::read(&mut connection, true);
        assert_eq!(answer.status, "408 Request Timeout");
        assert_eq!(answer.body, "the request's path and headers did not arrive within 10 s\n");
        assert!(answer.is_last());
        assert_eq!(connection.read_to_end(), "");
    }
}

#[test]
fn an_upload_of_which_nothing_more_comes_is_ended_and_leaves_nothing() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", "def f(event): return event");
    // The time of both runs at once.
    let mut upload = worker.connect();
    upload.announce("POST", "/registry/half", 1000);
    upload.send(&[0x1f, 0x8b]);
    let mut call = worker.connect();
    call.announce("POST", "/run/echo", 1000);
    call.send(b"[");
    let answer = Answer::read(&mut upload, true);
    assert_eq!(answer.status, "408 Request Timeout");
    assert_eq!(answer.body, "the upload was silent for 30 s, or brought less than 8 KiB/s\n");
    assert!(answer.is_last());
    assert_eq!(upload.read_to_end(), "");
    let answer = Answer::read(&mut call, true);
    assert_eq!(answer.status, "408 Request Timeout");
    assert_eq!(answer.body, "the request body did not arrive within 30 s\n");
    assert!(answer.is_last());
    worker.call("half", "").expect(404);
    let left: Vec<_> =
        std::fs::read_dir(worker.registry()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["echo.tar.gz"]);
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
}

#[test]
fn a_client_that_reads_slowly_gets_all_that_came_before_an_app_failed() {
    requires!(Root);
    let worker = Worker::start();
    let asgi = r#"
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(64):
        await send({"type": "http.response.body", "body": b"~" * int(scope["query_string"]), "more_body": True})
    raise RuntimeError("on purpose")
"#;
    let wsgi = r#"
def app(environ, start):
    start("200 OK", [])
    for _ in range(64):
        yield b"~" * int(environ["QUERY_STRING"])
    raise RuntimeError("on purpose")
"#;
    for (name, code) in [("asgi", asgi), ("wsgi", wsgi)] {
        worker.install_f(name, code);
        let sizes = [40_000, 65_536, 100_000];
        for size in sizes {
            let mut connection = worker.connect();
            connection.send(format!("GET /run/{name}?{size} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes());
            let mut n_bytes = 0;
            connection.read_slowly(|piece| n_bytes += piece.iter().filter(|&&byte| byte == b'~').count());
            assert_eq!(n_bytes, 64 * size, "{name}");
        }
        assert_eq!(worker.lambda(name)["errors"], sizes.len());
    }
}

#[test]
fn what_follows_an_answer_that_has_no_body_is_the_next_answer() {
    requires!(Root);
    let worker = Worker::start();
    // What would be taken for the answer to the next one who uses the connection.
    let app = r#"
FORGED = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    status, how = scope["path"].split("/")[-2:]
    await send({"type": "http.response.start", "status": int(status), "headers": []})
    for _ in range(3 if how == "pieces" else 0):
        await send({"type": "http.response.body", "body": FORGED, "more_body": True})
    await send({"type": "http.response.body", "body": FORGED})
"#;
    worker.install("asgi", &[("f.py", app)]);
    let wsgi = r#"
def app(environ, start_response):
    status, how = environ["PATH_INFO"].strip("/").split("/")
    start_response(status + " x", [])
    forged = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"
    return iter([forged] * (3 if how == "pieces" else 1))
"#;
    worker.install("wsgi", &[("f.py", wsgi)]);
    worker.install_f("next", "def f(event): return event");
    for function in ["asgi", "wsgi"] {
        let mut connection = worker.connect();
        for status in ["204", "205", "304"] {
            for how in ["whole", "pieces"] {
                let path = format!("/run/{function}/{status}/{how}");
                connection.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes());
                let answer = Answer::read(&mut connection, false);
                assert!(answer.status.starts_with(status), "{path}: {}", answer.status);
                assert_eq!(answer.header("transfer-encoding"), None, "{path}");
                assert!(matches!(answer.header("content-length"), None | Some("0")), "{path}");
                connection
                    .send(b"POST /run/next HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\ntrue");
                assert_eq!(Answer::read(&mut connection, true).body, "true", "{path}");
            }
        }
        // It has read what was thrown away to its end, and serves on.
        let lambda = worker.lambda_until("nothing runs", function, |lambda| lambda["busy"] == 0);
        assert_eq!(lambda["errors"], 0);
        assert_ne!(lambda["warm"], 0);
    }
    worker.finish();
}
