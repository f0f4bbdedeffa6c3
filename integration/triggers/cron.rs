//! Calls by the clock.

use serde_json::Value;

use crate::support::{Expect, Worker, eventually, now_ms, requires, until};

const EACH_SECOND: &str = "triggers:\n  cron:\n    - schedule: '* * * * * *'\n      timezone: UTC\n";
/// Says when it was due, and by how much it is late.
const TELLER: &str = "
import datetime, time

def f(event, context):
    due = datetime.datetime.strptime(context.headers['x-cron-time'], '%Y-%m-%dT%H:%M:%SZ')
    late = time.time() - due.replace(tzinfo=datetime.timezone.utc).timestamp()
    print('due', context.headers['x-cron-time'], 'late', round(late * 1000, 1), context.method, context.path, event,
          context.headers['x-cron-schedule'], flush=True)
";

/// What a function has printed of each of its calls, word by word.
fn calls(worker: &Worker, name: &str) -> Vec<Vec<String>> {
    let log = worker.function_log(name);
    let said = log.lines().filter_map(|line| line.split_once(" due "));
    said.map(|(_, words)| words.split(' ').map(str::to_owned).collect()).collect()
}

fn cron(worker: &Worker, name: &str) -> Value {
    worker.lambda(name)["cron"][0].clone()
}

#[test]
fn a_function_that_nobody_calls_is_called_by_the_clock_on_time() {
    requires!(Root);
    let worker = Worker::with("tick", &[("f.py", TELLER), ("ol.yaml", EACH_SECOND)]).start();
    until("five calls", || calls(&worker, "tick").len() >= 5);
    let calls = calls(&worker, "tick");
    let mut times: Vec<_> = calls.iter().map(|words| words[0].clone()).collect();
    let n = times.len();
    times.dedup();
    assert_eq!(times.len(), n, "one call for each time");
    for words in &calls {
        assert_eq!(words[3..].join(" "), "POST / {} * * * * * *");
    }
    let mut late: Vec<f64> = calls.iter().map(|words| words[2].parse().unwrap()).collect();
    assert!(late.iter().all(|ms| *ms >= 0.0), "none is early: {late:?}");
    late.sort_by(f64::total_cmp);
    println!("late by ms: least {}, median {}, most {}", late[0], late[n / 2], late[n - 1]);
    let status = eventually("a call that has ended", || {
        let status = cron(&worker, "tick");
        status["last"]["ok"].as_bool().map(|_| status)
    });
    assert_eq!(
        (&status["schedule"], &status["timezone"]),
        (&Value::from("* * * * * *"), &Value::from("UTC"))
    );
    assert_eq!((&status["failed"], &status["last"]["text"]), (&Value::from(0), &Value::from("200")));
    let shown = worker.ol("worker status").succeed();
    assert!(shown.contains("tick: by the clock '* * * * * *' (UTC), "), "{shown}");
    let shown = worker.ol("admin show").arg("tick").succeed();
    assert!(shown.contains("by the clock"), "{shown}");
    assert!(worker.get("/stats").ok()["cron-run.cnt"].as_u64().is_some_and(|n| n >= 5));
    worker.finish();
}

#[test]
fn a_call_by_the_clock_that_fails_is_told_and_a_function_without_methods_is_called_all_the_same() {
    requires!(Root);
    let yaml = format!("{EACH_SECOND}  http: []\n");
    let worker =
        Worker::with("bad", &[("f.py", "def f(event):\n    raise ValueError('no')\n"), ("ol.yaml", &yaml)])
            .start();
    until("two failures", || cron(&worker, "bad")["failed"].as_u64().is_some_and(|n| n >= 2));
    assert_eq!(cron(&worker, "bad")["last"]["text"], "500: ValueError: no");
    worker.log_says("a call by the clock has failed");
    worker.call("bad", "{}").expect(405);
    worker.finish();
}

#[test]
fn a_long_call_by_the_clock_is_alone_and_the_others_are_skipped() {
    requires!(Root);
    let code = "
import time

def f(event):
    print('begins', flush=True)
    time.sleep(3.5)
    print('ends', flush=True)
";
    let worker = Worker::with("long", &[("f.py", code), ("ol.yaml", EACH_SECOND)]).start();
    until("two calls", || worker.function_log("long").matches(" ends").count() >= 2);
    let log = worker.function_log("long");
    let order: Vec<_> = log.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert!(
        order.chunks(2).all(|pair| pair[0] == "begins" && (pair.len() == 1 || pair[1] == "ends")),
        "{order:?}"
    );
    assert!(cron(&worker, "long")["overlapping"].as_u64().is_some_and(|n| n >= 2));
    worker.finish();
}

#[test]
fn new_schedules_take_the_place_of_old_ones_and_a_removed_function_is_not_called() {
    requires!(Root);
    let worker = Worker::start();
    worker.install("f", &[("f.py", TELLER), ("ol.yaml", EACH_SECOND)]);
    until("a call", || !calls(&worker, "f").is_empty());
    worker.install("f", &[("f.py", TELLER), ("ol.yaml", "triggers:\n  cron:\n    - schedule: '@yearly'\n")]);
    assert_eq!(cron(&worker, "f")["schedule"], "@yearly");
    assert_eq!(worker.lambda("f")["cron"].as_array().map(Vec::len), Some(1));
    let config = worker.get("/registry/f/config").ok();
    assert_eq!(config["Triggers"]["Cron"][0]["Schedule"], "@yearly");
    assert_eq!(config["Triggers"]["HTTP"][0]["Method"], "*");
    worker.request("DELETE", "/registry/f", &[], "").expect(200);
    assert_eq!(worker.lambda("f"), Value::Null);
    worker.finish();
}

#[test]
fn a_schedule_that_cannot_be_read_is_refused_with_its_line_and_seen_in_the_status() {
    requires!(Root);
    let bad = "triggers:\n  cron:\n    - schedule: '@daily'\n    - schedule: 61 * * * *\n";
    let worker = Worker::with("dropped", &[("f.py", TELLER), ("ol.yaml", bad)]).start();
    let status = worker.lambda_until("it is rejected", "dropped", |row| row["state"] == "rejected");
    assert!(status["message"].as_str().is_some_and(|text| text.contains("61 * * * *")), "{status}");
    assert!(worker.ol("worker status").succeed().contains("line 4"));
    let archive = crate::support::Archive::of(&[("f.py", TELLER), ("ol.yaml", bad)]);
    let said = worker.upload("sent", archive).expect(400);
    assert!(said.contains("61 * * * *") && said.contains("line 4"), "{said}");
    let zone = "triggers:\n  cron:\n    - schedule: '@daily'\n      timezone: Mars/Base\n";
    let archive = crate::support::Archive::of(&[("f.py", TELLER), ("ol.yaml", zone)]);
    assert!(worker.upload("sent", archive).expect(400).contains("Mars/Base"));
    worker.finish();
}

#[test]
fn schedules_go_on_after_a_worker_was_killed() {
    requires!(Root);
    let mut worker = Worker::with("tick", &[("f.py", TELLER), ("ol.yaml", EACH_SECOND)]).start();
    until("a call", || !calls(&worker, "tick").is_empty());
    worker.kill();
    let killed = now_ms();
    until("a second is over", || now_ms() > killed + 1100);
    let n = calls(&worker, "tick").len();
    worker.start_again();
    until("more calls", || calls(&worker, "tick").len() > n + 2);
    // What was due while it was dead is over, and told.
    assert!(cron(&worker, "tick")["missed"].as_u64().is_some_and(|n| n > 0), "{}", cron(&worker, "tick"));
    let mut times: Vec<_> = calls(&worker, "tick").iter().map(|words| words[0].clone()).collect();
    let n = times.len();
    times.dedup();
    assert_eq!(times.len(), n, "one call for each time");
    worker.finish();
}
