//! The description that the worker serves of itself, held against what it does.

use serde_json::{Value, json};

use crate::support::{Archive, Worker, requires};

/// Nobody is there to read from, which is no error.
const KAFKA: &str = "triggers: {kafka: [{bootstrap_servers: ['127.0.0.1:9'], topics: [none]}]}";

#[test]
fn the_worker_answers_as_its_description_says() {
    requires!(Root);
    let worker = Worker::with_config(json!({ "server_mode": "sock" })).start();
    let reply = worker.get("/openapi.json");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let document: Value = reply.json().expect("it is JSON");
    assert_eq!(document["openapi"], "3.1.0");
    let archive = Archive::of(&[("f.py", "def f(event): return event")]);
    let mut n_asked = 0;
    for (path, item) in document["paths"].as_object().expect("there are paths") {
        for (method, operation) in item.as_object().expect("there are methods") {
            // It may have been deleted by the call before.
            worker.install("echo", &[("f.py", "def f(event): return event"), ("ol.yaml", KAFKA)]);
            let body = match operation["operationId"].as_str() {
                Some("upload") => archive.clone(),
                _ if path == "/create" => br#"{"code": "echo"}"#.to_vec(),
                _ => b"{}".to_vec(),
            };
            let id = if path.contains("{id}") {
                worker.request("POST", "/create", &[], r#"{"code": "echo", "leaf": true}"#).text()
            } else {
                String::new()
            };
            let asked = path.replace("{name}", "echo").replace("{path}", "a/b").replace("{id}", &id);
            let reply = worker.request(&method.to_uppercase(), &asked, &[], body);
            let responses = operation["responses"].as_object().expect("there are responses");
            let what = format!("{method} {asked}: {} {}", reply.status, reply.text());
            let response =
                responses.get(reply.status.as_str()).unwrap_or_else(|| panic!("not described: {what}"));
            // One that has begun cannot begin again.
            assert!(reply.status.is_success() || path.starts_with("/pprof/"), "{what}");
            let kinds = response["content"].as_object();
            let kind = reply.header("content-type").unwrap_or_default();
            let is_described =
                |described: &String| described == "*/*" || kind.starts_with(described.as_str());
            assert!(kinds.is_none_or(|kinds| kinds.keys().any(is_described)), "{kind}: {what}");
            n_asked += 1;
        }
    }
    assert!(n_asked > 30, "{n_asked}");
    worker.finish();
}

#[test]
fn the_pid_is_told_on_the_workers_own_socket_only() {
    requires!(Root);
    let worker = Worker::start();
    let said = crate::support::block_on(worker.private_client().get("/pid")).expect("it answers");
    assert_eq!(said.text(), worker.process().pid.to_string());
    assert_eq!(worker.get("/pid").status.as_u16(), 404);
    worker.finish();
}
