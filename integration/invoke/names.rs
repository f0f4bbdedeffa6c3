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
            connection.send(format!("GET /run/nobody-{batch}-{n} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes());
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
