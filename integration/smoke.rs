//! The shortest way through: make a worker, give it a function, call it, look at it, stop it.

use serde_json::json;

use crate::support::{Expect, Worker, requires};

const ECHO: &str = "def f(event):\n    return event\n";

#[test]
fn a_function_answers_with_what_it_was_sent() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", ECHO);
    for event in [json!({"hello": "world"}), json!([1, 2.5, null]), json!("é"), json!(0)] {
        assert_eq!(worker.call("echo", event.clone()).ok(), event);
    }
    worker.finish();
}
