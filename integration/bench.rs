//! `ol bench` as a person runs it. What it measures is of no interest here, only that it does.

use std::fs;

use serde_json::Value;

use crate::support::{Worker, requires};

#[test]
fn a_trace_is_made_and_played_and_nothing_of_it_stays() {
    requires!(Root);
    let worker = Worker::start();
    let place = worker.place();
    let (trace, json, plot) = (place.join("t.csv"), place.join("t.json"), place.join("t.svg"));
    let made = crate::support::Program::ol()
        .words("bench trace --seconds 1 --rate 40 --functions 5 --seed 3")
        .arg(&trace)
        .succeed();
    assert!(made.starts_with("Wrote ") && made.contains("calls to"), "{made}");
    let n_calls = fs::read_to_string(&trace).unwrap().lines().count() - 1;
    assert!(made.contains(&n_calls.to_string()), "{made}");

    // The worker does not have these functions; only if it is asked to, it gets some in their place.
    let refused = worker.ol("bench play").arg(&trace).fail();
    let said = refused.stderr;
    assert!(said.contains("trace-") && said.contains("--fill-in"), "{said}");
    let play = worker.ol("bench play --fill-in --speed 2").arg("--json").arg(&json).arg("--plot").arg(&plot);
    let said = play.arg(&trace).succeed();
    assert!(said.contains("first calls of 5 functions"), "{said}");
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let rows = report["calls"].as_array().unwrap();
    let counted = |key: &str| rows.iter().map(|row| row[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((counted("n"), counted("n_errors")), (n_calls as u64, 0), "{report}");
    assert!(fs::read_to_string(&plot).unwrap().contains("</svg>"));
    assert_eq!(worker.status_json()["lambdas"].as_array().map(Vec::len), Some(0));
    worker.finish();
}

#[test]
fn records_a_second_are_measured_beside_a_consumer_and_nothing_of_it_stays() {
    requires!(Root);
    let worker = Worker::start();
    let json = worker.place().join("k.json");
    worker.ol("bench run --seconds 0 --warmup 0").arg("--json").arg(&json).arg("kafka").succeed();
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let found: Vec<_> = report["quantities"].as_array().unwrap().iter().map(|one| &one["value"]).collect();
    assert_eq!(found.len(), 3, "{report}");
    assert!(found.iter().all(|value| value.as_f64().is_some_and(|value| value > 0.0)), "{report}");
    assert_eq!(worker.status_json()["lambdas"].as_array().map(Vec::len), Some(0));
    worker.finish();
}
