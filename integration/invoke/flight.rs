//! Requests in flight in one sandbox: what one of them does to the others.

use serde_json::json;

use crate::support::{Expect, RawConnection, Worker, requires, until};

/// How often each thing is tried: whether requests meet in a sandbox is for the moment to decide, what becomes of them is not.
const N_ROUNDS: usize = 15;
/// Requests that come together.
const N_TOGETHER: usize = 8;

const CODE: &str = "
import os, socket, struct, sys, time
def f(event):
    print('ran', event, flush=True)
    if event.startswith('stay'):
        time.sleep(10000)
    if event.startswith('die'):
        os._exit(3)
    if event.startswith('drone'):
        drone(event)
    return event

def drone(event):
    # Reads who stands behind, and answers with empty pieces without end.
    frame = sys._getframe(1)
    while not any(type(value).__name__ == 'Invocation' for value in frame.f_locals.values()):
        frame = frame.f_back
    call = next(value for value in frame.f_locals.values() if type(value).__name__ == 'Invocation')
    with socket.socket(fileno=os.dup(4)) as requests:
        try:
            requests.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
    print('drones', event, flush=True)
    header = struct.Struct('<IBBHI')
    os.write(3, header.pack(4, 17, 1, 4, call.number) + b'200\\n')
    while True:
        os.write(3, header.pack(0, 18, 1, 0, call.number) * 1000)
";

/// One HTTP thread, so that requests meet; and its function is known to be quick.
fn worker(limits: serde_json::Value) -> Worker {
    let worker = Worker::with_config(json!({"http_threads": 1, "limits": limits})).start();
    worker.install_f("f", CODE);
    warm(&worker, "first");
    worker
}

/// So many short calls that the worker puts several into one sandbox.
fn warm(worker: &Worker, name: &str) {
    for n in 0..30 {
        assert_eq!(worker.call("f", json!(format!("{name} {n}"))).ok(), json!(format!("{name} {n}")));
    }
}

fn send(worker: &Worker, event: &str) -> RawConnection {
    let mut connection = worker.connect();
    let body = json!(event).to_string();
    let head = format!("POST /run/f HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    connection.send((head + &body).as_bytes());
    connection
}

fn short(round: usize) -> Vec<String> {
    (0..N_TOGETHER).map(|n| format!("short {round}.{n}")).collect()
}

#[track_caller]
fn expect_all(connections: &mut [RawConnection], events: &[String]) {
    for (connection, event) in connections.iter_mut().zip(events) {
        let answer = connection.read_until(&format!("\"{event}\""));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

/// Nothing was run twice, and nothing was left out.
#[track_caller]
fn ran_once(worker: &Worker, events: &[String]) {
    for event in events {
        worker.logged("f", &format!("ran {event}"));
    }
    let log = worker.function_log("f");
    for event in events {
        let n = log.lines().filter(|line| line.ends_with(&format!("ran {event}"))).count();
        assert_eq!(n, 1, "{event} ran {n} times");
    }
}

#[test]
fn requests_that_come_together_meet_in_one_sandbox() {
    requires!(Root);
    let worker = Worker::with_config(json!({"http_threads": 1, "limits": {"max_instances": 2}})).start();
    // Whether the next request lies in the socket already.
    let code = "
import os, socket
def f(event):
    with socket.socket(fileno=os.dup(4)) as requests:
        try:
            return event if not requests.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) else event + ' met'
        except BlockingIOError:
            return event
";
    worker.install_f("f", code);
    warm(&worker, "first");
    let mut round = 0;
    until("one lies in the socket while another runs", || {
        round += 1;
        let events = short(round);
        let mut connections: Vec<_> = events.iter().map(|event| send(&worker, event)).collect();
        let mut has_met = false;
        for (connection, event) in connections.iter_mut().zip(&events) {
            assert!(connection.read_until(&format!("\"{event}")).starts_with("HTTP/1.1 200 "));
            has_met |= connection.read_until("\"") == " met\"";
        }
        has_met
    });
    worker.finish();
}

#[test]
fn many_sandboxes_at_work_at_once_push_nobody_aside_and_a_single_one_does() {
    requires!(Root);
    let worker = Worker::with_config(json!({"http_threads": 1})).start();
    let code = "import os, time\ndef f(event):\n    time.sleep(event)\n    return os.sched_getscheduler(0)\n";
    let names: Vec<String> = (0..6).map(|n| format!("f{n}")).collect();
    for name in &names {
        worker.install_f(name, code);
        assert_eq!(worker.call(name, "0").ok(), json!(libc::SCHED_OTHER));
    }
    until("one of many is told", || {
        let together: Vec<_> = names.iter().map(|name| worker.call_aside(name, "0.05")).collect();
        let said = together.into_iter().map(|call| call.join().unwrap().expect("it is answered").ok());
        // All of them, so that none is left for the next round.
        said.filter(|said| *said == json!(libc::SCHED_BATCH)).count() > 0
    });
    for name in &names {
        until("it is alone again", || worker.call(name, "0").ok() == json!(libc::SCHED_OTHER));
    }
    worker.finish();
}

#[test]
fn when_a_sandbox_dies_only_the_request_that_ran_is_lost() {
    requires!(Root);
    let worker = worker(json!({"max_instances": 4}));
    for round in 0..N_ROUNDS {
        let events = short(round);
        let mut before: Vec<_> = events[..2].iter().map(|event| send(&worker, event)).collect();
        let mut fatal = send(&worker, &format!("die {round}"));
        let mut after: Vec<_> = events[2..].iter().map(|event| send(&worker, event)).collect();
        let answer = fatal.read_until("exit code 3");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        expect_all(&mut before, &events[..2]);
        expect_all(&mut after, &events[2..]);
        ran_once(&worker, &events);
    }
    let lambda = worker.lambda("f");
    assert_eq!(lambda["errors"], N_ROUNDS);
    assert_eq!(lambda["invocations"], 30 + N_ROUNDS * (N_TOGETHER + 1));
    worker.finish();
}

#[test]
fn a_call_that_turns_out_long_does_not_keep_those_behind_it_waiting() {
    requires!(Root);
    let worker = worker(json!({"max_instances": 8, "runtime_sec": 600}));
    for round in 0..N_ROUNDS {
        let events = short(round);
        let long = send(&worker, &format!("stay {round}"));
        let mut others: Vec<_> = events.iter().map(|event| send(&worker, event)).collect();
        // All of them, while the one in front never ends.
        expect_all(&mut others, &events);
        ran_once(&worker, &events);
        worker.logged("f", &format!("ran stay {round}"));
        long.abandon();
        worker.lambda_until("the long call is over", "f", |lambda| lambda["busy"] == 0);
        warm(&worker, &format!("round {round}"));
    }
    assert_eq!(worker.lambda("f")["errors"], 0);
    worker.finish();
}

#[test]
fn at_a_deadline_only_the_request_that_ran_is_ended() {
    requires!(Root);
    let worker = worker(json!({"max_instances": 2, "runtime_sec": 1}));
    let events = short(0);
    let mut long = send(&worker, "stay 0");
    let mut others: Vec<_> = events.iter().map(|event| send(&worker, event)).collect();
    let answer = long.read_until("its sandbox was ended");
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    expect_all(&mut others, &events);
    ran_once(&worker, &events);
    let lambda = worker.lambda("f");
    assert_eq!((&lambda["timeouts"], &lambda["errors"]), (&json!(1), &json!(1)));
    worker.finish();
}

#[test]
fn a_client_that_goes_away_takes_nobodys_answer_along() {
    requires!(Root);
    let worker = worker(json!({"max_instances": 2}));
    for round in 0..N_ROUNDS {
        let events = short(round);
        let mut connections: Vec<_> = events.iter().map(|event| send(&worker, event)).collect();
        // Before its turn, while it runs, or after it: as it comes.
        connections.remove(round % N_TOGETHER).abandon();
        let stay: Vec<_> = events
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != round % N_TOGETHER)
            .map(|(_, e)| e.clone())
            .collect();
        expect_all(&mut connections, &stay);
        ran_once(&worker, &stay);
    }
    until("nothing is under way", || worker.lambda("f")["busy"] == 0);
    assert_eq!(worker.lambda("f")["errors"], 0);
    worker.finish();
}

#[test]
fn answers_of_any_length_find_their_requests() {
    requires!(Root);
    let worker = Worker::with_config(json!({"http_threads": 1, "limits": {"max_instances": 2}})).start();
    let code = "
def app(environ, start_response):
    n = int(environ['QUERY_STRING'])
    start_response('200 OK', [('content-type', 'text/plain')])
    if n % 3 == 0:
        return [b'[%d]' % n]
    # In pieces, of which the worker does not know beforehand how many come.
    return (piece for piece in (b'[', b'x' * (n * n), b'%d]' % n))
";
    worker.install_f("f", code);
    let get = |n: usize| {
        let mut connection = worker.connect();
        connection.send(format!("GET /run/f?{n} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes());
        connection
    };
    for round in 0..N_ROUNDS {
        let numbers: Vec<_> = (0..3 * N_TOGETHER).map(|n| (n * 37 + round) % 600).collect();
        let mut connections: Vec<_> = numbers.iter().map(|n| get(*n)).collect();
        for (connection, n) in connections.iter_mut().zip(numbers) {
            let answer = connection.read_until(&format!("{n}]"));
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let body = answer.split_once("\r\n\r\n").expect("it has a head").1;
            let n_expected = if n % 3 == 0 { 0 } else { n * n };
            assert_eq!(body.matches('x').count(), n_expected, "{n}");
        }
    }
    assert_eq!(worker.lambda("f")["errors"], 0);
    worker.finish();
}

#[test]
fn an_answer_of_empty_pieces_without_end_is_not_kept_in_memory() {
    requires!(Root);
    let worker = worker(json!({"max_instances": 4, "runtime_sec": 1000}));
    let mut round = 0;
    until("somebody behind one that drones on", || {
        round += 1;
        warm(&worker, &format!("warm {round}"));
        let events = short(round);
        let mut drone = send(&worker, &format!("drone {round}"));
        let _others: Vec<_> = events.iter().map(|event| send(&worker, event)).collect();
        // Its sandbox is ended long before its time is over.
        let answer = drone.read_until("\r\n\r\n");
        worker.function_log("f").contains("drones") && answer.starts_with("HTTP/1.1 502 ")
    });
    worker.finish();
}
