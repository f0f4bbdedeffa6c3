//! Names that lead nowhere.

use serde_json::json;

use crate::support::{Expect, Worker, requires};

#[test]
fn a_scan_of_unknown_names_is_answered_and_forgotten() {
    requires!(Root);
    let worker = Worker::with("echo", &[("f.py", "def f(event): return event")]).start();
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
    let mut connection = worker.connect();
    for batch in 0..100 {
        for n in 0..20 {
            connection
                .send(format!("GET /run/nobody-{batch}-{n} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes());
        }
        for n in 0..20 {
            let answer = connection.read_until(&format!("no function is called 'nobody-{batch}-{n}'"));
            assert_eq!(answer.matches("HTTP/1.1 404 ").count(), 1, "{answer}");
        }
    }
    let reply = worker.call("nobody", "");
    assert_eq!(
        reply.expect(404),
        "no function is called 'nobody': put its code into the registry, or see GET /registry/ for what is there\n"
    );
    let status = worker.status_json();
    let lambdas = status["lambdas"].as_array().unwrap();
    assert_eq!(lambdas.len(), 1, "{status}");
    assert_eq!(lambdas[0]["name"], "echo");
    assert!(!worker.get("/debug").expect(200).contains("nobody"));
}

#[test]
fn what_is_no_name_is_a_bad_request() {
    requires!(Root);
    let worker = Worker::start();
    let long = "x".repeat(300);
    for name in
        [".", "..", ".hidden", "a%2fb", "%2e%2e", "..%2f..%2fetc", "a%20b", "a+b", "a%00", "%C3%A9", &long]
    {
        for path in [format!("/run/{name}"), format!("/run/{name}/below")] {
            let text = worker.request("POST", &path, &[], "").expect(400);
            assert!(text.contains("a function's name"), "{path}: {text}");
        }
        for method in ["POST", "GET", "DELETE"] {
            worker.request(method, &format!("/registry/{name}"), &[], "").expect(400);
        }
    }
    assert_eq!(worker.get("/run/").expect(400), "expected invocation format: /run/<lambda-name>\n");
    assert_eq!(worker.get("/run").expect(400), "expected invocation format: /run/<lambda-name>\n");
    // Names of the same characters are names: these are merely unknown.
    for name in ["a.b", "a-b_c.D9", "a..b", &"x".repeat(200)] {
        worker.request("POST", &format!("/run/{name}"), &[], "").expect(404);
    }
    worker.get("/nothing").expect(404);
}

const SEEN_BY_WSGI: &str = "
import json
def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'application/json')])
    return [json.dumps([environ['SCRIPT_NAME'], environ['PATH_INFO']]).encode()]
";
const SEEN_BY_ASGI: &str = "
import json
async def app(scope, receive, send):
    if scope['type'] != 'http':
        raise RuntimeError('only http')
    seen = [scope['root_path'], scope['path'], scope['raw_path'].decode()]
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': json.dumps(seen).encode()})
";

#[test]
fn a_name_may_be_percent_encoded_at_every_path() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", "def f(event): return event");
    for path in ["/run/e%63ho", "/run/%65%63%68%6F", "/%72un/echo", "/runLambda/e%63ho", "/run/e%63ho/%63"] {
        assert_eq!(worker.request("POST", path, &[], "1").ok(), json!(1), "{path}");
    }
    worker.get("/registry/e%63ho").expect(200);
    worker.get("/registry/e%63ho/config").expect(200);
    // What is below the name is the app's: decoded once for what is decoded, and as it was sent.
    worker.install("wsgi", &[("f.py", SEEN_BY_WSGI)]);
    worker.install("asgi", &[("f.py", SEEN_BY_ASGI)]);
    for (below, decoded) in
        [("/e%63ho", "/echo"), ("/a%2Fb", "/a/b"), ("/%2563", "/%63"), ("/%2e%2e/x", "/../x")]
    {
        assert_eq!(worker.get(&format!("/run/w%73gi{below}")).ok(), json!(["/run/wsgi", decoded]), "{below}");
        assert_eq!(
            worker.get(&format!("/run/a%73gi{below}")).ok(),
            json!(["/run/asgi", format!("/run/asgi{decoded}"), format!("/run/asgi{below}")]),
            "{below}"
        );
    }
}

#[test]
fn nothing_encoded_leads_to_another_function_or_file() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", "def f(event): return event");
    let names = [
        "echo%2f",
        "%2fecho",
        "x%2f..%2fecho",
        "..%2fregistry%2fecho",
        "%2e%2e%2fecho",
        "%2e%2e",
        "%2e",
        "%2eecho",
        "echo%00",
        "e%2563ho",
        "echo%25",
        "echo%",
        "echo%6",
        "echo%zz",
        "echo%0d%0aX: y",
        "%ff",
        "echo%3fa",
        "echo%20",
    ];
    for name in names {
        let mut answers = Vec::new();
        for path in ["/run/", "/runLambda/", "/registry/", "/kafka/register/"] {
            let method = if path.starts_with("/registry") { "GET" } else { "POST" };
            // By hand: a client would not send some of them.
            let mut connection = worker.connect();
            connection.send(
                format!(
                    "{method} {path}{} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    name.replace(": ", ":")
                )
                .as_bytes(),
            );
            answers.push((path, connection.read_to_end()));
        }
        for (path, answer) in answers {
            assert!(answer.starts_with("HTTP/1.1 400 "), "{path}{name}: {answer}");
            assert!(answer.contains("is not a function's name"), "{path}{name}: {answer}");
        }
    }
    // Nor does it hide the word in front.
    for path in ["/run%2fecho", "/%2frun/echo", "/run%00/echo", "/x/%2e%2e/run/echo"] {
        worker.request("POST", path, &[], "1").expect(404);
    }
}
