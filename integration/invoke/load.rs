//! Many calls at once: each gets the answer to its own question.

use std::thread;

use openlambda::client::Method;
use serde_json::{Value, json};

use crate::support::{Worker, block_on, requires};

const N_CONNECTIONS: usize = 32;
const N_CALLS: usize = 40;
const N_FUNCTIONS: usize = 4;

#[test]
fn every_answer_is_that_of_its_question() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 3}})).start();
    for n in 0..N_FUNCTIONS {
        worker.install_f(&format!("f{n}"), &format!("def f(event): return [{n}, event]"));
    }
    thread::scope(|scope| {
        for id in 0..N_CONNECTIONS {
            let worker = &worker;
            scope.spawn(move || block_on(ask_on(worker, id)));
        }
    });
    let status = worker.status_json();
    let lambdas = status["lambdas"].as_array().unwrap();
    let sum = |field: &str| lambdas.iter().map(|lambda| lambda[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("invocations"), (N_CONNECTIONS * N_CALLS) as u64, "{status}");
    assert_eq!(sum("errors") + sum("refused") + sum("busy") + sum("queue"), 0, "{status}");
    assert!(
        lambdas
            .iter()
            .all(|lambda| lambda["warm"].as_u64().unwrap() + lambda["frozen"].as_u64().unwrap() <= 3),
        "{status}"
    );
}

/// One connection, kept open; bodies of many lengths.
async fn ask_on(worker: &Worker, id: usize) {
    let mut connection = worker.client().connect().await.expect("the worker listens");
    for n in 0..N_CALLS {
        let function = (id + n) % N_FUNCTIONS;
        let event = json!({"id": id, "n": n, "filling": "x".repeat(id * n * 7)});
        let path = format!("/run/f{function}");
        let reply = connection.request(Method::POST, &path, &[], event.to_string()).await.expect("an answer");
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        let answer: Value = reply.json().expect("it is JSON");
        assert_eq!(answer, json!([function, event]));
    }
}

#[test]
fn requests_that_do_not_wait_for_each_other_are_answered_in_order() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", "def f(event): return ['answer', event]");
    let mut connection = worker.connect();
    let requests: String = (1000..1050)
        .map(|n| format!("POST /run/echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\n{n}"))
        .collect();
    connection.send(requests.as_bytes());
    for n in 1000..1050 {
        let answer = connection.read_until(&format!("[\"answer\", {n}]"));
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1, "{answer}");
    }
}
