//! Clients that go away at any moment, many at once: what they had is there again afterwards, and nothing of theirs stays.

use std::thread;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::{Expect, RawConnection, Worker, requires, until};

const N_CLIENTS: u64 = 6;
const N_ROUNDS: usize = 40;
/// Never-called functions, each called by as many clients at once.
const N_COLD: usize = 30;
const N_TOGETHER: usize = 3;

/// Some calls are so short that many are put into one sandbox, some so long that they are noticed, and some print, so that
/// their sandbox is written to while it ends.
const CODE: &str = "
import time
def f(event):
    if event % 13 == 0:
        time.sleep(0.02)
    if event % 5 == 0:
        print('ran', event, flush=True)
    return event
";

fn send(worker: &Worker, name: &str, event: u64) -> RawConnection {
    let mut connection = worker.connect();
    let body = event.to_string();
    let head =
        format!("POST /run/{name} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    connection.send((head + &body).as_bytes());
    connection
}

#[track_caller]
fn answered(connection: &mut RawConnection, event: u64) {
    let head = connection.read_until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(connection.read_until(&event.to_string()), event.to_string());
}

/// Each sandbox that there is has its group, each group its two processes, and each is counted.
fn settled(worker: &Worker) -> Value {
    let mut status = Value::Null;
    until("nothing is under way, and each sandbox is counted", || {
        status = worker.status_json();
        let lambdas = status["lambdas"].as_array().expect("it is a list");
        let sum = |field: &str| lambdas.iter().map(|lambda| lambda[field].as_u64().unwrap()).sum::<u64>();
        let n_counted = sum("warm") + sum("frozen") + status["worker"]["standbys"].as_u64().unwrap();
        let groups = worker.sandbox_groups();
        // In a shell there is its init alone.
        let (shells, full): (Vec<usize>, Vec<usize>) =
            groups.values().copied().partition(|n_processes| *n_processes == 1);
        sum("busy") + sum("queue") + sum("starting") == 0
            && full.len() as u64 == n_counted
            && shells.len() as u64 == status["worker"]["shells"].as_u64().unwrap()
            && full.into_iter().all(|n_processes| n_processes == 2)
    });
    status
}

#[test]
fn clients_that_go_away_at_any_moment_take_no_sandbox_along() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 4}})).start();
    worker.install_f("f", CODE);
    for event in 1..30 {
        assert_eq!(worker.call("f", json!(event)).ok(), json!(event));
    }
    thread::scope(|scope| {
        for client in 0..N_CLIENTS {
            let worker = &worker;
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(client);
                for round in 0..N_ROUNDS {
                    let events: Vec<u64> = (0..random.random_range(1..6))
                        .map(|n| client * 1_000_000 + round as u64 * 100 + n + 1)
                        .collect();
                    let mut connections: Vec<_> =
                        events.iter().map(|event| Some(send(worker, "f", *event))).collect();
                    // Before an answer, after some, amid one: as it comes.
                    for (connection, event) in connections.iter_mut().zip(&events) {
                        match random.random_range(0..3) {
                            0 => drop(connection.take().map(RawConnection::abandon)),
                            1 => drop(connection.as_mut().map(|connection| connection.read_until("HTTP"))),
                            _ => answered(connection.as_mut().expect("it is there"), *event),
                        }
                    }
                    connections.into_iter().flatten().for_each(RawConnection::abandon);
                }
            });
        }
    });
    let status = settled(&worker);
    let lambda = worker.lambda("f");
    assert_eq!(lambda["errors"], 0, "{status}");
    assert!(lambda["warm"].as_u64().unwrap() + lambda["frozen"].as_u64().unwrap() <= 4, "{status}");
    for event in 1..100 {
        assert_eq!(worker.call("f", json!(event)).ok(), json!(event));
    }
    worker.finish();
}

#[test]
fn first_calls_that_nobody_waits_for_leave_nothing_half_made() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 2}})).start();
    let names: Vec<String> = (0..N_COLD).map(|n| format!("f{n}")).collect();
    for name in &names {
        worker.install_f(name, CODE);
    }
    thread::scope(|scope| {
        for part in names.chunks(N_COLD / N_CLIENTS as usize) {
            let worker = &worker;
            scope.spawn(move || {
                for (n, name) in part.iter().enumerate() {
                    let mut together: Vec<_> =
                        (1..=N_TOGETHER as u64).map(|event| send(worker, name, event)).collect();
                    // Of every other function somebody stays.
                    if n % 2 == 0 {
                        answered(&mut together[N_TOGETHER - 1], N_TOGETHER as u64);
                    }
                    together.into_iter().for_each(RawConnection::abandon);
                }
            });
        }
    });
    settled(&worker);
    for name in &names {
        assert_eq!(worker.call(name, json!(7)).ok(), json!(7), "{name}");
    }
    let status = settled(&worker);
    let lambdas = status["lambdas"].as_array().unwrap();
    assert!(lambdas.iter().all(|lambda| lambda["errors"] == 0), "{status}");
    worker.finish();
}

#[test]
fn a_client_that_leaves_before_its_call_has_begun_costs_no_sandbox() {
    requires!(Root);
    // What is frozen takes no signals.
    let config = json!({"limits": {"max_instances": 1}, "freeze_after_ms": 600_000});
    let worker = Worker::with_config(config).start();
    worker.install_f("f", "def f(event): return event");
    let sandbox = |event: u64| -> u64 {
        let reply = worker.call("f", json!(event));
        let invocation = reply.header("x-ol-invocation").expect("it is told").to_owned();
        assert_eq!(reply.ok(), json!(event));
        invocation.split_once('-').and_then(|(sandbox, _)| sandbox.parse().ok()).expect("a number")
    };
    let before = sandbox(1);
    let processes = worker.sandbox_processes(before);
    processes.iter().for_each(|process| process.stop());
    let mut client = worker.connect();
    client.announce("POST", "/run/f", 1);
    client.send(b"2");
    until("it has been sent", || worker.lambda("f")["busy"] == 1);
    drop(client);
    until("nobody waits for it", || worker.lambda("f")["busy"] == 0);
    processes.iter().for_each(|process| process.signal(Signal::SIGCONT));
    assert_eq!(sandbox(3), before);
    worker.finish();
}
