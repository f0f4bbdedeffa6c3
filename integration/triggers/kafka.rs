//! Calls from Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    Archive, Broker, Collector, Expect, Setup, Worker, eventually, number_from, requires, until,
};

/// Says of each record where it stood and what was in it.
const TELLER: &str = "
import json, time

def f(event, context):
    h = context.headers
    print(time.monotonic_ns(), 'got', h['x-kafka-topic'], h['x-kafka-partition'], h['x-kafka-offset'], h['x-kafka-group-id'],
          h.get('x-kafka-key'), 'x-kafka-timestamp' in h, context.method, context.path, json.dumps(event), flush=True)
";
/// Members of a group that are killed are missed soon.
fn impatient() -> Setup {
    Worker::with_config(json!({ "kafka": { "session_timeout_sec": 3, "heartbeat_interval_sec": 1 } }))
}

/// What a function has printed of each of its records, word by word. If it says when that was, in the order in which it got them: in its
/// log those of one sandbox are in order, and those of several need not be.
fn got(worker: &Worker, name: &str) -> Vec<Vec<String>> {
    let log = worker.function_log(name);
    let mut said: Vec<(u64, Vec<String>)> = log
        .lines()
        .filter_map(|line| line.split_once(" got "))
        .map(|(before, words)| {
            let at = before.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default();
            (at, words.split(' ').map(str::to_owned).collect())
        })
        .collect();
    said.sort_by_key(|(at, _)| *at);
    said.into_iter().map(|(_, words)| words).collect()
}

fn kafka(worker: &Worker, name: &str) -> Value {
    worker.lambda(name)["kafka"][0].clone()
}

#[track_caller]
fn kafka_until(worker: &Worker, what: &str, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut told = Instant::now();
    eventually(&format!("{name}: {what}"), || {
        let status = kafka(worker, name);
        // Shown if the test fails.
        if told.elapsed() > Duration::from_secs(2) {
            told = Instant::now();
            println!("{status}");
        }
        is_so(&status).then_some(status)
    })
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_default()
}

#[test]
fn records_reach_a_function_that_nobody_calls_in_their_order_and_say_where_they_stood() {
    requires!(Root);
    let broker = Broker::start(&[("orders", 3)]);
    for n in 0..30 {
        broker.send("orders", n % 3, Some(&format!("key {n}")), &json!({ "n": n }).to_string());
    }
    broker.flush();
    let worker = Worker::with("f", &[("f.py", TELLER), ("ol.yaml", &broker.yaml("orders", ""))]).start();
    until("all records", || got(&worker, "f").len() == 30);
    let mut next: BTreeMap<String, i64> = BTreeMap::new();
    for words in got(&worker, "f") {
        let (partition, offset): (i64, i64) = (words[1].parse().unwrap(), words[2].parse().unwrap());
        let n = 3 * offset + partition;
        let expected = format!("orders {partition} {offset} lambda-f key%20{n} True POST / {{\"n\": {n}}}");
        assert_eq!(words.join(" "), expected);
        let due = next.entry(words[1].clone()).or_default();
        assert_eq!(offset, *due, "in order");
        *due += 1;
    }
    let status = kafka_until(&worker, "all is done", "f", |status| number(status, "done") == 30);
    assert_eq!((&status["state"], &status["group"]), (&json!("reading"), &json!("lambda-f")), "{status}");
    assert_eq!((number(&status, "partitions"), number(&status, "failed")), (3, 0), "{status}");
    until("it is committed", || broker.committed("f", "orders", 2) == Some(10));
    assert!(
        worker
            .ol("worker status")
            .succeed()
            .contains("f: from Kafka orders: reading, 3 partitions; 30 records done")
    );
    assert!(worker.ol("admin show").arg("f").succeed().contains("from Kafka"));
    assert_eq!(worker.get("/stats").ok()["kafka-message-processing.cnt"], 30);
    worker.finish();
}

#[test]
fn a_record_that_fails_is_called_again_and_then_goes_to_the_dead_letters() {
    requires!(Root);
    let code = "
import json
tries = {}

def f(event, context):
    n = event['n']
    tries[n] = tries.get(n, 0) + 1
    print('try', n, tries[n], flush=True)
    if event['how'] == 'always' or (event['how'] == 'twice' and tries[n] <= 2):
        raise ValueError('no good: ' + str(n))
";
    let broker = Broker::start(&[("jobs", 1), ("dead", 1)]);
    for (n, how) in ["fine", "twice", "always", "fine"].iter().enumerate() {
        broker.send("jobs", 0, Some("k"), &json!({ "n": n, "how": how }).to_string());
    }
    broker.send("jobs", 0, None, "this is not JSON");
    broker.send("jobs", 0, None, &json!({ "n": 5, "how": "fine" }).to_string());
    broker.flush();
    let yaml = broker.yaml("jobs", "dead_letter_topic: dead\nmax_attempts: 3");
    let worker = Worker::with("f", &[("f.py", code), ("ol.yaml", &yaml)]).start();
    let letters = broker.read("dead", 2);
    assert_eq!(
        (letters[0].key.as_deref(), letters[0].value.as_str()),
        (Some("k"), r#"{"how":"always","n":2}"#)
    );
    let header = |n: usize, name: &str| letters[n].headers.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!((header(0, "x-ol-function"), header(0, "x-ol-topic")), ("f", "jobs"));
    assert_eq!((header(0, "x-ol-partition"), header(0, "x-ol-offset")), ("0", "2"));
    assert_eq!((header(0, "x-ol-calls"), header(0, "x-ol-status")), ("3", "500"));
    assert!(header(0, "x-ol-error").ends_with("ValueError: no good: 2"), "{letters:?}");
    // What it cannot take at all is not tried again: 400.
    assert_eq!((letters[1].value.as_str(), header(1, "x-ol-calls")), ("this is not JSON", "1"));
    assert_eq!(header(1, "x-ol-status"), "400");
    let status = kafka_until(&worker, "all is done", "f", |status| number(status, "done") == 4);
    assert_eq!((number(&status, "failed"), number(&status, "given_up")), (2 + 3 + 1, 2), "{status}");
    assert_eq!(number(&status, "dead_letters"), 2);
    // Those behind waited.
    let log = worker.function_log("f");
    let tries: Vec<_> =
        log.lines().filter_map(|line| line.split_once(" try ")).map(|(_, words)| words).collect();
    assert_eq!(tries, ["0 1", "1 1", "1 2", "1 3", "2 1", "2 2", "2 3", "3 1", "5 1"]);
    until("all is committed", || broker.committed("f", "jobs", 0) == Some(6));
    worker.finish();
}

#[test]
fn without_a_dead_letter_topic_a_record_that_fails_is_told_and_left_behind() {
    requires!(Root);
    let broker = Broker::start(&[("jobs", 1)]);
    for body in ["{\"n\": 1}", "nonsense", "{\"n\": 2}"] {
        broker.send("jobs", 0, None, body);
    }
    broker.flush();
    let worker = Worker::with("f", &[("f.py", TELLER), ("ol.yaml", &broker.yaml("jobs", ""))]).start();
    let status = kafka_until(&worker, "two are done", "f", |status| number(status, "done") == 2);
    assert_eq!((number(&status, "given_up"), number(&status, "dead_letters")), (1, 0));
    assert!(status["last_error"].as_str().is_some_and(|text| text.starts_with("400")), "{status}");
    worker.log_says("a record is given up");
    // A function that will have none of them does not fill the worker's log: 10 lines a minute, and all are counted.
    for _ in 0..300 {
        broker.send("jobs", 0, None, "nonsense");
    }
    broker.flush();
    kafka_until(&worker, "all are given up", "f", |status| number(status, "given_up") == 301);
    let n_lines = worker.log().matches("a record is given up").count();
    assert!((10..100).contains(&n_lines), "{n_lines} lines");
    worker.finish();
}

#[test]
fn a_function_can_have_records_replayed() {
    requires!(Root);
    // A WSGI app, which sets the header of its answer. With a failure it may ask for its own record.
    let code = "
seen = []

def app(environ, start_response):
    offset = int(environ['HTTP_X_KAFKA_OFFSET'])
    seen.append(offset)
    print('got', offset, flush=True)
    if seen.count(3) == 1 and offset == 3:
        start_response('200 OK', [('X-Kafka-Seek-Offset', '1')])
    elif offset == 5 and seen.count(5) == 1:
        start_response('500 Oops', [('X-Kafka-Seek-Offset', '5')])
    else:
        start_response('200 OK', [])
    return [b'']
";
    let broker = Broker::start(&[("log", 1)]);
    for n in 0..8 {
        broker.send("log", 0, None, &n.to_string());
    }
    broker.flush();
    let worker = Worker::with("f", &[("f.py", code), ("ol.yaml", &broker.yaml("log", ""))]).start();
    let expected = ["0", "1", "2", "3", "1", "2", "3", "4", "5", "5", "6", "7"];
    until("all records", || got(&worker, "f").len() >= expected.len());
    assert_eq!(got(&worker, "f").concat(), expected);
    until("it is committed", || broker.committed("f", "log", 0) == Some(8));
    assert_eq!(number(&kafka(&worker, "f"), "seeks"), 2);
    worker.finish();
}

#[test]
fn a_reader_that_ends_while_a_function_asks_for_another_record_leaves_off_there() {
    requires!(Root);
    // At record 2 it asks whoever listens what to do.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let code = format!(
        "
import socket

def app(environ, start_response):
    offset = int(environ['HTTP_X_KAFKA_OFFSET'])
    print('got', offset, flush=True)
    headers = []
    if offset == 2:
        with socket.create_connection(('127.0.0.1', {})) as line:
            if line.recv(1) == b'0':
                headers = [('X-Kafka-Seek-Offset', '0')]
    start_response('200 OK', headers)
    return [b'']
",
        listener.local_addr().unwrap().port()
    );
    let broker = Broker::start(&[("log", 1)]);
    for n in 0..4 {
        broker.send("log", 0, None, &n.to_string());
    }
    broker.flush();
    let yaml = broker.yaml("log", "") + "network: host\n";
    let worker = impatient()
        .with_config(json!({ "network_max": "host", "grace_sec": 1000 }))
        .with("f", &[("f.py", &code), ("ol.yaml", &yaml)])
        .start();
    let mut called = listener.accept().unwrap().0;
    // What the reader is told by this comes before what it is asked for by the call.
    worker.request("DELETE", "/kafka/register/f", &[], "").expect(200);
    called.write_all(b"0").unwrap();
    until("it leaves off where it was sent", || broker.committed("f", "log", 0) == Some(0));
    worker.request("POST", "/kafka/register/f", &[], "").expect(200);
    listener.accept().unwrap().0.write_all(b"1").unwrap();
    until("all records", || got(&worker, "f").len() == 7);
    assert_eq!(got(&worker, "f").concat(), ["0", "1", "2", "0", "1", "2", "3"]);
    worker.finish();
}

#[test]
fn nothing_is_lost_when_a_worker_is_killed() {
    requires!(Root);
    let n = number_from("OL_TEST_RECORDS", 3000) as usize;
    let (broker, collector) = (Broker::start(&[("numbers", 4)]), Collector::start());
    for i in 0..n {
        broker.send("numbers", (i % 4) as i32, None, &i.to_string());
    }
    broker.flush();
    let yaml = broker.yaml("numbers", "") + "network: host\n";
    let mut worker = impatient()
        .with_config(json!({ "network_max": "host" }))
        .with("f", &[("f.py", &collector.teller()), ("ol.yaml", &yaml)])
        .start();
    let told = || collector.lines().iter().map(|line| line.parse().unwrap()).collect::<BTreeSet<usize>>();
    for part in 1..=3 {
        until("a part of the records", || told().len() > part * n / 5);
        worker.kill();
        assert!(told().len() < n, "killed in the midst of it");
        worker.start_again();
    }
    until("all records", || told().len() == n);
    let committed = || (0..4).map(|p| broker.committed("f", "numbers", p).unwrap_or(0)).sum::<i64>();
    until("all is committed", || committed() == n as i64);
    println!("{} calls for {n} records, killed three times", collector.lines().len());
    worker.finish();
}

#[test]
fn a_worker_that_ends_in_order_calls_nothing_twice() {
    requires!(Root);
    let (broker, collector) = (Broker::start(&[("numbers", 2)]), Collector::start());
    for i in 0..2000 {
        broker.send("numbers", i % 2, None, &i.to_string());
    }
    broker.flush();
    let yaml = broker.yaml("numbers", "") + "network: host\n";
    let mut worker = impatient()
        .with_config(json!({ "network_max": "host" }))
        .with("f", &[("f.py", &collector.teller()), ("ol.yaml", &yaml)])
        .start();
    until("a part of the records", || collector.lines().len() > 300);
    worker.ol("worker down").succeed();
    worker.wait_for_end();
    let n = collector.lines().len();
    assert!(n < 2000, "ended in the midst of it");
    worker.start_again();
    until("all records", || collector.lines().len() >= 2000);
    let mut told: Vec<usize> = collector.lines().iter().map(|line| line.parse().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(told, (0..2000).collect::<Vec<_>>());
    worker.finish();
}

#[test]
fn a_call_that_outlasts_the_end_of_its_worker_is_made_again_by_the_next() {
    requires!(Root);
    let broker = Broker::start(&[("jobs", 1)]);
    for n in 0..3 {
        broker.send("jobs", 0, None, &n.to_string());
    }
    broker.flush();
    let code = "
import time

def f(event):
    print('got', event, flush=True)
    if event == 1:
        time.sleep(1000)
";
    let mut worker = impatient()
        .with_config(json!({ "grace_sec": 1, "limits": { "runtime_sec": 1000 } }))
        .with("f", &[("f.py", code), ("ol.yaml", &broker.yaml("jobs", ""))])
        .start();
    until("the long one", || got(&worker, "f").concat() == ["0", "1"]);
    worker.ol("worker down").succeed();
    assert!(worker.wait_for_end().success());
    worker.check_machine();
    assert_eq!(broker.committed("f", "jobs", 0), Some(1));
    worker.drop_in("f", &[("f.py", "def f(event):\n    print('got', event, flush=True)\n")]);
    worker.start_again();
    until("all records", || got(&worker, "f").concat() == ["0", "1", "1", "2"]);
    worker.finish();
}

#[test]
fn two_workers_share_the_partitions_and_one_takes_over_what_the_other_leaves() {
    requires!(Root);
    let (broker, collector) = (Broker::start(&[("numbers", 4)]), Collector::start());
    let yaml = broker.yaml("numbers", "") + "network: host\n";
    let start = || {
        impatient()
            .with_config(json!({ "network_max": "host" }))
            .with("f", &[("f.py", &collector.teller()), ("ol.yaml", &yaml)])
            .start()
    };
    let (one, other) = (start(), start());
    for worker in [&one, &other] {
        kafka_until(worker, "half of the partitions", "f", |status| number(status, "partitions") == 2);
    }
    let send = |from: i32, to: i32| {
        for i in from..to {
            broker.send("numbers", i % 4, None, &i.to_string());
        }
        broker.flush();
    };
    send(0, 400);
    let told = || collector.lines().iter().map(|line| line.parse().unwrap()).collect::<BTreeSet<i32>>();
    until("all records", || told().len() == 400);
    assert!(number(&kafka(&one, "f"), "done") > 0 && number(&kafka(&other, "f"), "done") > 0);
    send(400, 2000);
    one.finish();
    kafka_until(&other, "all partitions", "f", |status| number(status, "partitions") == 4);
    until("all records", || told().len() == 2000);
    println!("{} calls for 2000 records, one of two workers ended", collector.lines().len());
    other.finish();
}

#[test]
fn a_worker_starts_without_a_broker_and_says_so() {
    requires!(Root);
    let broker = Broker::start(&[("there", 1)]);
    broker.send("there", 0, None, "1");
    broker.flush();
    broker.go_away();
    let worker = Worker::with("f", &[("f.py", TELLER), ("ol.yaml", &broker.yaml("there", ""))]).start();
    let status = kafka_until(&worker, "it is in trouble", "f", |status| status["state"] == "trouble");
    assert!(status["message"].as_str().is_some_and(|text| text.contains("no broker answers")), "{status}");
    assert!(worker.ol("worker status").succeed().contains("no broker answers"));
    // Whoever calls it over HTTP is served.
    worker.call("f", "{}").expect(500);
    broker.come_back();
    until("the record", || got(&worker, "f").len() == 1);
    kafka_until(&worker, "all is well", "f", |status| {
        status["state"] == "reading" && status["message"] == ""
    });
    // The same while it reads.
    broker.go_away();
    kafka_until(&worker, "it is in trouble", "f", |status| status["state"] == "trouble");
    broker.come_back();
    kafka_until(&worker, "all is well", "f", |status| status["state"] == "reading");
    broker.send("there", 0, None, "2");
    broker.flush();
    until("the next record", || got(&worker, "f").len() == 2);
    worker.finish();
}

#[test]
fn a_topic_that_is_not_there_is_told_and_read_when_it_comes() {
    requires!(Root);
    let broker = Broker::start(&[("there", 1)]);
    let yaml = broker.yaml("late", "");
    let worker = Worker::with("f", &[("f.py", TELLER), ("ol.yaml", &yaml)]).start();
    let is_missed = |status: &Value| {
        status["state"] == "trouble" && status["message"] == "there is no topic late, or not yet"
    };
    kafka_until(&worker, "it is in trouble", "f", is_missed);
    assert!(worker.ol("worker status").succeed().contains("there is no topic late, or not yet"));
    // Nobody has made it by asking for it.
    assert!(!broker.has("late"));
    // Whoever calls it over HTTP is served, and other triggers are read.
    worker.install(
        "g",
        &[("f.py", "def f(event):\n    return event\n"), ("ol.yaml", &broker.yaml("there", ""))],
    );
    broker.send("there", 0, None, "1");
    broker.flush();
    assert_eq!(worker.call("g", "2").ok(), 2);
    kafka_until(&worker, "its record is done", "g", |status| number(status, "done") == 1);
    assert!(is_missed(&kafka(&worker, "f")), "{}", kafka(&worker, "f"));
    // It is asked for again and again, and that is told once.
    let n_lines = worker.log().matches("cannot read from Kafka").count();
    assert_eq!(n_lines, 1, "{}", worker.log());
    broker.create("late", 2);
    broker.send("late", 1, None, "3");
    broker.flush();
    until("the record", || got(&worker, "f").len() == 1);
    let status = kafka_until(&worker, "all is well", "f", |status| status["state"] == "reading");
    assert_eq!((&status["message"], number(&status, "partitions")), (&json!(""), 2), "{status}");
    worker.finish();
}

#[test]
fn only_the_brokers_that_the_configuration_names_are_connected_to() {
    requires!(Root);
    let broker = Broker::start(&[("there", 1)]);
    let worker = Worker::with_config(json!({ "kafka": { "brokers": [broker.servers()] } }))
        .with("f", &[("f.py", TELLER), ("ol.yaml", &broker.yaml("there", ""))])
        .start();
    // A port that nobody who listens there has been connected to.
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let address = elsewhere.local_addr().unwrap().to_string();
    let yaml = broker.yaml("there", "").replace(&broker.servers(), &address);
    let words = format!(
        "ol.yaml: triggers.kafka[0].bootstrap_servers[0]: '{address}' is not among kafka.brokers of this worker's config.json (line 4, "
    );
    let archive = Archive::of(&[("f.py", TELLER), ("ol.yaml", &yaml)]);
    let refused = worker.upload("g", archive).expect(400);
    assert!(refused.contains(&words), "{refused}");
    broker.send("there", 0, None, "1");
    broker.flush();
    until("the record", || got(&worker, "f").len() == 1);
    // What is dropped in replaces nothing, and is told of.
    worker.drop_in("f", &[("f.py", TELLER), ("ol.yaml", &yaml)]);
    worker.lambda_until("is told of", "f", |row| {
        row["message"].as_str().is_some_and(|text| text.contains(&words))
    });
    assert!(worker.ol("worker status").succeed().contains("is not among kafka.brokers"));
    broker.send("there", 0, None, "2");
    broker.flush();
    until("the next record", || got(&worker, "f").len() == 2);
    assert!(elsewhere.accept().is_err(), "the worker has connected to a broker that it may not");
    worker.finish();
}

#[test]
fn a_trigger_is_taken_back_and_given_again_over_http() {
    requires!(Root);
    let broker = Broker::start(&[("orders", 1)]);
    let worker = Worker::start();
    worker.install("f", &[("f.py", TELLER), ("ol.yaml", &broker.yaml("orders", ""))]);
    worker.install_f("plain", "def f(event):\n    return 1\n");
    let json =
        |message: &str| format!("{{\"status\":\"success\",\"lambda\":\"f\",\"message\":\"{message}\"}}\n");
    let post = |name: &str| worker.request("POST", &format!("/kafka/register/{name}"), &[], "");
    assert_eq!(post("f").expect(200), json("Kafka consumers registered for 1 trigger(s)"));
    assert_eq!(post("plain").expect(400), "lambda has no Kafka triggers\n");
    assert!(post("nobody").expect(404).starts_with("failed to load lambda config: "));
    worker.get("/kafka/register/f").expect(405);
    worker.request("POST", "/kafka/register/f", &[("Origin", "http://evil")], "").expect(403);
    kafka_until(&worker, "it reads", "f", |status| status["state"] == "reading");
    let reply = worker.request("DELETE", "/kafka/register/f", &[], "");
    assert_eq!(reply.expect(200), json("Kafka consumers unregistered"));
    assert_eq!(kafka(&worker, "f")["state"], "stopped");
    broker.send("orders", 0, None, "1");
    broker.flush();
    post("f").expect(200);
    until("the record", || got(&worker, "f").len() == 1);
    worker.finish();
}

#[test]
fn new_code_is_met_by_the_next_record_and_a_removed_function_is_fed_no_more() {
    requires!(Root);
    let broker = Broker::start(&[("orders", 1), ("others", 1)]);
    let worker = impatient().start();
    let code = |version: i32| format!("def f(event):\n    print('got', {version}, event, flush=True)\n");
    worker.install("f", &[("f.py", &code(1)), ("ol.yaml", &broker.yaml("orders", ""))]);
    let send = |topic: &str, n: usize| {
        broker.send(topic, 0, None, &n.to_string());
        broker.flush();
        until("the record", || got(&worker, "f").len() == n);
    };
    send("orders", 1);
    worker.install("f", &[("f.py", &code(2)), ("ol.yaml", &broker.yaml("orders", ""))]);
    send("orders", 2);
    // Another topic: another reader.
    worker.install("f", &[("f.py", &code(3)), ("ol.yaml", &broker.yaml("others", ""))]);
    send("others", 3);
    assert_eq!(got(&worker, "f").concat(), ["1", "1", "2", "2", "3", "3"]);
    worker.request("DELETE", "/registry/f", &[], "").expect(200);
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", worker.process().pid)).unwrap().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.starts_with("kafka-feed") || name.starts_with("rdk:")).count()
    };
    until("no thread is left", || threads() == 0);
    worker.finish();
}

#[test]
fn a_worker_without_room_costs_no_record_a_call() {
    requires!(Root);
    let code = "
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

def f(event):
    if event.get('is_long'):
        print('waits', flush=True)
        signal.sigwait([signal.SIGUSR1])
    return event
";
    let broker = Broker::start(&[("jobs", 4), ("dead", 1)]);
    let yaml =
        broker.yaml("jobs", "dead_letter_topic: dead\nmax_attempts: 1") + "limits:\n  max_instances: 1\n";
    let worker = Worker::with("f", &[("f.py", code), ("ol.yaml", &yaml)])
        .with_config(json!({ "queue": { "length": 0 } }))
        .start();
    let busy = worker.call_aside("f", json!({ "is_long": true }));
    let sandbox = worker.sandbox_that_said("f", "waits");
    for n in 0..40 {
        broker.send("jobs", n % 4, None, "{}");
    }
    broker.flush();
    worker.lambda_until("there is no room", "f", |row| row["refused"].as_u64().is_some_and(|n| n > 0));
    worker.sandbox_processes(sandbox).iter().for_each(|process| process.signal(Signal::SIGUSR1));
    let status = kafka_until(&worker, "all is done", "f", |status| number(status, "done") == 40);
    busy.join().unwrap().unwrap().ok();
    assert_eq!((number(&status, "failed"), number(&status, "given_up")), (0, 0), "{status}");
    worker.finish();
}

#[test]
fn records_that_come_faster_than_they_are_taken_wait_at_the_broker() {
    requires!(Root);
    let broker = Broker::start(&[("large", 8)]);
    // The mock cluster keeps 5 MiB of a partition.
    let large = format!("\"{}\"", "x".repeat(200_000));
    for n in 0..192 {
        broker.send("large", n % 8, None, &large);
    }
    broker.flush();
    let code = "
import time

def f(event):
    time.sleep(1000)
";
    let yaml = broker.yaml("large", "") + "limits:\n  max_instances: 4\n  runtime_sec: 5\n";
    let worker = Worker::with("f", &[("f.py", code), ("ol.yaml", &yaml)]).start();
    // 38 MB are there; 16 MiB of it wait here, and what was on its way.
    let waiting = |least: u64| {
        let what = format!("{least} bytes are read ahead");
        number(
            &kafka_until(&worker, &what, "f", |status| number(status, "waiting_bytes") > least),
            "waiting_bytes",
        )
    };
    let mut most = waiting(8 << 20);
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        most = most.max(waiting(0));
    }
    assert!(most < 24 << 20, "{most}");
    // The same function with its eyes closed.
    worker.install("f", &[("f.py", "def f(event):\n    return len(event)\n"), ("ol.yaml", &yaml)]);
    let status = kafka_until(&worker, "all is done", "f", |status| number(status, "done") == 192);
    assert_eq!(number(&status, "given_up"), 0, "{status}");
    worker.finish();
}

#[test]
fn what_waits_counts_with_its_headers_where_a_dead_letter_needs_them() {
    requires!(Root);
    let broker = Broker::start(&[("large", 4), ("dead", 1)]);
    // 19 MB of them, and next to nothing else.
    let large = "x".repeat(200_000);
    for n in 0..96 {
        broker.send_with("large", n % 4, "1", &[("trace", "t"), ("large", &large)]);
    }
    broker.flush();
    let code = "
import time

def f(event):
    time.sleep(1000)
";
    let yaml = |more: &str| broker.yaml("large", more) + "limits:\n  runtime_sec: 1000\n";
    let letters = yaml("dead_letter_topic: dead\nmax_attempts: 1");
    let worker = impatient()
        .with_config(json!({ "grace_sec": 1 }))
        .with("f", &[("f.py", code), ("ol.yaml", &letters)])
        .start();
    let waiting = |status: &Value| number(status, "waiting_bytes");
    let status = kafka_until(&worker, "8 MiB are read ahead", "f", |status| waiting(status) > 8 << 20);
    assert!(waiting(&status) < 24 << 20, "16 MiB, and what was on its way: {status}");
    // Without such a topic nobody needs them, and all records are here at once.
    worker.install("f", &[("f.py", code), ("ol.yaml", &yaml(""))]);
    let n_bytes = 96 * 201..96 * 1000;
    kafka_until(&worker, "all are read ahead", "f", |status| n_bytes.contains(&waiting(status)));
    // They go with the letter as they were.
    let fails = "def f(event, context):\n    assert context.headers['x-kafka-offset'] != '0', 'on purpose'\n";
    worker.install("f", &[("f.py", fails), ("ol.yaml", &letters)]);
    for letter in broker.read("dead", 4) {
        let header = |name: &str| letter.headers.get(name).map(String::as_str);
        assert_eq!((header("trace"), header("x-ol-topic")), (Some("t"), Some("large")));
        assert_eq!(header("large").map(str::len), Some(large.len()));
    }
    worker.finish();
}
