//! Ordinary calls: from JSON to JSON, and what else a function may know.

use serde_json::{Value, json};

use crate::support::{Expect, Worker, requires};

#[test]
fn both_kinds_of_handler_are_found() {
    requires!(Root);
    let worker = Worker::start();
    worker.install("new", &[("f.py", "def f(event): return ['f', event]")]);
    worker.install("old", &[("lambda_func.py", "def handler(event): return ['handler', event]")]);
    worker.install(
        "named",
        &[
            ("app.py", "import other\ndef f(event): return other.answer(event)"),
            ("other.py", "def answer(event): return ['other', event]"),
            ("ol.yaml", "environment: {OL_ENTRY_FILE: app.py}"),
        ],
    );
    assert_eq!(worker.call("new", "1").ok(), json!(["f", 1]));
    assert_eq!(worker.call("old", "1").ok(), json!(["handler", 1]));
    assert_eq!(worker.call("named", "1").ok(), json!(["other", 1]));
}

#[test]
fn an_empty_body_is_an_empty_object() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", "def f(event): return event");
    for method in ["POST", "GET", "PUT", "DELETE", "PATCH"] {
        assert_eq!(worker.request(method, "/run/echo", &[], "").ok(), json!({}), "{method}");
    }
    let reply = worker.call("echo", "");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("content-length"), Some("2"));
}

#[test]
fn a_function_with_a_second_argument_sees_the_request() {
    requires!(Root);
    let worker = Worker::start();
    let code = "
def f(event, context):
    return {'event': event, 'method': context.method, 'path': context.path, 'target': context.target,
            'query': context.query, 'headers': context.headers, 'left': context.remaining_ms()}
";
    worker.install_f("look", code);
    let headers =
        [("x-colour", "blue"), ("x-colour", "red"), ("connection", "x-hop"), ("x-request-id", "r1")];
    let seen = worker.request("PUT", "/run/look/items/%C3%A9?a=1&b=%20", &headers, "[1]").ok();
    let expected = json!({"event": [1], "method": "PUT", "path": "/items/é", "target": "/items/%C3%A9?a=1&b=%20", "query": "a=1&b=%20"});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&seen[name], value, "{seen}");
    }
    assert_eq!(seen["headers"]["x-colour"], "blue, red");
    assert_eq!(seen["headers"]["x-request-id"], "r1");
    // What is about the connection is not the function's.
    assert_eq!(seen["headers"]["connection"], Value::Null);
    let left_ms = seen["left"].as_u64().unwrap();
    assert!(left_ms > 0 && left_ms <= 30_000, "{left_ms}");
    assert_eq!(worker.request("GET", "/run/look", &[], "").ok()["path"], "/");
}

#[test]
fn only_the_methods_of_ol_yaml_are_served() {
    requires!(Root);
    let worker = Worker::start();
    let yaml = "triggers:\n  http:\n    - method: GET\n    - method: POST\n";
    worker.install("picky", &[("f.py", "def f(event): return 1"), ("ol.yaml", yaml)]);
    for method in ["GET", "POST"] {
        assert_eq!(worker.request(method, "/run/picky", &[], "").ok(), json!(1));
    }
    let refused = worker.request("PUT", "/run/picky", &[], "");
    assert_eq!(refused.header("allow"), Some("GET, POST"));
    assert_eq!(refused.expect(405), "HTTP method not allowed. Sent: PUT, Allowed: [GET POST]\n");
    assert_eq!(worker.lambda("picky")["invocations"], 2);
}

#[test]
fn a_page_of_any_origin_may_call_in_the_classic_way() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", "def f(event): return event");
    let cors = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "GET, PUT, POST, DELETE, OPTIONS"),
        (
            "access-control-allow-headers",
            "Content-Type, Content-Range, Content-Disposition, Content-Description, X-Requested-With",
        ),
    ];
    let asked = worker.request("OPTIONS", "/runLambda/echo", &[], "");
    let called = worker.request("POST", "/runLambda/echo", &[], "[1]");
    let failed = worker.request("POST", "/runLambda/nobody", &[], "");
    let [unnamed, unended] = ["/runLambda/", "/runLambda"].map(|path| worker.request("POST", path, &[], ""));
    for (name, value) in cors {
        for reply in [&asked, &called, &failed, &unnamed, &unended] {
            assert_eq!(reply.header(name), Some(value), "{name}");
        }
        // The other way is not for pages of other origins.
        assert_eq!(worker.call("echo", "").header(name), None, "{name}");
    }
    assert_eq!(asked.expect(200), "");
    assert_eq!(called.ok(), json!([1]));
    failed.expect(404);
    let text = unnamed.expect(400);
    assert_eq!(text, "Name of image to run required: expected invocation format: /runLambda/<lambda-name>\n");
    assert_eq!(unended.expect(400), text);
    for path in ["/run/", "/run"] {
        let unnamed = worker.request("POST", path, &[], "");
        assert_eq!(unnamed.header("access-control-allow-origin"), Some("*"), "{path}");
        assert!(unnamed.expect(400).starts_with("expected invocation format: /run/<lambda-name>"));
    }
}

#[test]
fn a_sandbox_serves_many_calls_and_keeps_what_the_module_remembers() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("count", "n = 0\ndef f(event):\n    global n\n    n += 1\n    return n");
    for n in 1..=20 {
        assert_eq!(worker.call("count", "").ok(), json!(n));
    }
    let lambda = worker.lambda("count");
    assert_eq!((&lambda["invocations"], &lambda["errors"]), (&json!(20), &json!(0)));
}
