//! `server_mode: sock`: sandboxes that are made, paused and destroyed by whoever asks.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Archive, Expect, Program, Worker, patience, requires, until};

fn worker() -> Worker {
    Worker::with_config(json!({ "server_mode": "sock", "mem_pool_mb": 600 })).start()
}

#[track_caller]
fn create(worker: &Worker, order: &Value) -> String {
    worker.request("POST", "/create", &[], order.to_string()).expect(200)
}

#[track_caller]
fn post(worker: &Worker, path: &str, status: u16) -> String {
    worker.request("POST", path, &[], "").expect(status)
}

#[test]
fn a_sandbox_is_made_paused_and_destroyed_by_hand() {
    requires!(Root);
    let worker = worker();
    worker.install_f("echo", "print('loaded')\ndef f(event): return event\n");
    let before = worker.sandbox_groups().len();
    let id = create(&worker, &json!({ "code": worker.registry().join("echo"), "leaf": true, "parent": "" }));
    assert_eq!(id, "1");
    worker.logged("echo", "loaded");
    assert!(worker.get("/debug").expect(200).contains("SANDBOX 1: leaf of echo"));
    post(&worker, "/pause/1", 200);
    post(&worker, "/pause/1", 200);
    let debug = worker.request("POST", "/debug", &[], "").expect(200);
    assert!(debug.contains("FREEZE STATE: FROZEN"), "{debug}");
    post(&worker, "/unpause/1", 200);
    assert!(worker.get("/debug").expect(200).contains("FREEZE STATE: THAWED"));
    post(&worker, "/pause/1", 200);
    post(&worker, "/destroy/1", 200);
    assert!(post(&worker, "/destroy/1", 404).contains("'1'"));
    // Besides shells that wait for the next one.
    let n_shells = || worker.status_json()["worker"]["shells"].as_u64().unwrap_or_default() as usize;
    until("nothing is left of it", || worker.sandbox_groups().len() <= before + n_shells());
    let stats: Value = worker.get("/stats").json().expect("it is JSON");
    for name in ["Create()", "Destroy()", "Pause()", "Unpause()", "fork-proc", "make-root-fs", "fresh-cgroup"]
    {
        assert!(stats[format!("{name}.cnt")].as_u64().is_some_and(|n| n > 0), "{name}: {stats}");
    }
    // No request has waited for it.
    assert_eq!(stats["LambdaInstance-WaitSandbox-Unpause.cnt"], Value::Null, "{stats}");
    // Everything else is there as well.
    assert_eq!(worker.call("echo", "5").ok(), json!(5));
    let file = worker.registry().join("short.py");
    std::fs::write(&file, "def f(event): return event\n").unwrap();
    // What is not said to be no leaf is one.
    let id = create(&worker, &json!({ "code": file }));
    assert!(worker.get("/debug").expect(200).contains(&format!("SANDBOX {id}: leaf of short")));
    post(&worker, &format!("/destroy/{id}"), 200);
    worker.finish();
}

#[test]
fn a_parent_goes_with_all_that_come_from_it() {
    requires!(Root);
    let worker = worker();
    worker.install_f("echo", "def f(event): return event\n");
    let root = create(&worker, &json!({ "code": "", "leaf": false }));
    let inner = create(&worker, &json!({ "code": "", "leaf": false, "parent": root }));
    let loaded = create(&worker, &json!({ "code": "echo", "leaf": false, "parent": root }));
    let forked = create(&worker, &json!({ "code": "echo", "leaf": true, "parent": inner }));
    let spawned = create(&worker, &json!({ "code": "echo", "leaf": true, "parent": loaded }));
    let other = create(&worker, &json!({ "code": "echo", "leaf": true }));
    assert_eq!([root, inner, loaded, forked, spawned, other.clone()], ["1", "2", "3", "4", "5", "6"]);
    let debug = worker.get("/debug").expect(200);
    assert_eq!(debug.matches("ALIVE: true").count(), 6, "{debug}");
    post(&worker, "/pause/2", 200);
    let refused = worker.request("POST", "/create", &[], r#"{"code": "echo", "leaf": true, "parent": "2"}"#);
    assert!(refused.expect(400).contains("paused"));
    post(&worker, "/destroy/1", 200);
    let debug = worker.get("/debug").expect(200);
    assert_eq!(debug.matches("SANDBOX ").count(), 1, "{debug}");
    assert!(debug.contains("SANDBOX 6: leaf of echo"), "{debug}");
    // What is left ends with the worker.
    worker.finish();
}

#[test]
fn what_cannot_be_meant_by_hand_is_refused_and_makes_nothing() {
    requires!(Root);
    let worker = worker();
    worker.install_f("echo", "def f(event): return event\n");
    worker.drop_in("broken", &[("f.py", "1 / 0\n")]);
    let refused = |order: Value, status: u16, words: &str| {
        let text = worker.request("POST", "/create", &[], order.to_string()).expect(status);
        assert!(text.contains(words), "{order}: {text}");
    };
    refused(json!([]), 400, "\"leaf\"");
    refused(json!({ "leaf": true }), 400, "needs code");
    refused(json!({ "code": "/etc", "leaf": true }), 400, "registry");
    refused(json!({ "code": "../echo", "leaf": true }), 400, "registry");
    refused(json!({ "code": "none", "leaf": true }), 404, "none");
    refused(json!({ "code": "echo", "leaf": true, "parent": "77" }), 404, "'77'");
    refused(json!({ "code": "echo", "leaf": true, "runtime": "wasm" }), 400, "python");
    refused(json!({ "code": "echo", "leaf": true, "packages": ["a"] }), 400, "unknown field `packages`");
    refused(json!({ "code": "broken", "leaf": true }), 500, "ZeroDivisionError");
    let id = create(&worker, &json!({ "code": "echo", "leaf": true }));
    refused(json!({ "code": "echo", "leaf": true, "parent": id }), 400, "leaf");
    worker.request("POST", "/create", &[("origin", "http://evil.example")], r#"{"leaf": false}"#).expect(403);
    let text = worker.request("POST", "/create", &[], vec![b' '; 70_000]).expect(413);
    assert!(text.contains("64 KiB"), "{text}");
    for path in ["/create", "/destroy/1", "/pause/1", "/unpause/1"] {
        let reply = worker.get(path);
        assert_eq!(reply.header("allow"), Some("POST"), "{path}");
        reply.expect(405);
    }
    post(&worker, "/pause/x", 404);
    assert_eq!(worker.get("/debug").expect(200).matches("SANDBOX ").count(), 1);
    worker.finish();
    let other = Worker::start();
    assert!(post(&other, "/create", 404).starts_with("nothing is at "));
    other.get("/create").expect(404);
    other.finish();
}

#[test]
fn no_more_sandboxes_are_made_by_hand_than_there_is_room_for() {
    requires!(Root);
    let worker = worker();
    let fills = "data = bytearray(40 << 20)\ndef f(event): return 1\n";
    worker.install_f("fills", fills);
    let mut n_made = 0;
    let refused = loop {
        let reply = worker.request("POST", "/create", &[], r#"{"code": "fills", "leaf": true}"#);
        if reply.status.as_u16() != 200 {
            break reply;
        }
        n_made += 1;
        assert!(n_made < 20, "600 MB hold no 20 of 40");
    };
    assert!(n_made >= 8, "{n_made}");
    assert!(refused.expect(503).contains("mem_pool_mb"));
    post(&worker, "/destroy/1", 200);
    until("there is room again", || {
        worker.request("POST", "/create", &[], r#"{"code": "fills", "leaf": true}"#).status.as_u16() == 200
    });
    worker.finish();
}

#[test]
fn the_python_client_makes_sandboxes_by_hand() {
    requires!(Root);
    let worker = worker();
    worker.upload("echo", Archive::of(&[("f.py", "def f(event): return event\n")])).expect(201);
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("quickstart/python-client");
    Program::at("/usr/bin/python3")
        .words("-B -W error -m unittest -q test_by_hand")
        .within(&client.join("tests"))
        .env("PYTHONPATH", client.join("src"))
        .env("OL_ADDRESS", format!("localhost:{}", worker.port()))
        .env("OL_CODE", worker.registry().join("echo"))
        .env("OL_PATIENCE_S", patience(30).as_secs().to_string())
        .succeed();
    worker.finish();
}
