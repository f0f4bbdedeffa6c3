//! The ways out of a sandbox, its sockets and its log: nonsense on them harms who says it.

use openlambda::selftest::attempts::{NONSENSE, NONSENSE_OF_THE_NEXT};
use serde_json::json;

use crate::probes::{PRINTER, SOCKET_ABUSE, SUSPECT, Stage};
use crate::support::{patience, requires, until};

#[test]
fn nonsense_on_its_sockets_ends_the_sandbox_that_says_it() {
    requires!(Root);
    let stage = Stage::of(SOCKET_ABUSE);
    let honest = |stage: &Stage| {
        let reply = stage.provoke(json!({"way": "none"}));
        (reply.status.as_u16(), reply.text()) == (200, r#""an honest answer""#.to_owned())
    };
    assert!(honest(&stage));
    for way in NONSENSE {
        let reply = stage.provoke(json!({"way": way}));
        assert_eq!(reply.status.as_u16(), 502, "{way}: {}", reply.text());
        assert!(honest(&stage), "after {way}");
    }
    for way in NONSENSE_OF_THE_NEXT {
        let reply = stage.provoke(json!({"way": way}));
        assert!(matches!(reply.status.as_u16(), 200 | 502), "{way}: {}", reply.text());
        until("it answers again", || honest(&stage));
    }
    // The way of requests goes one way, which the function can see and nobody else.
    let reply = stage.provoke(json!({"way": "talks_back"}));
    assert_eq!(reply.status.as_u16(), 500, "{}", reply.text());
    assert!(honest(&stage));
    stage.finish();
}

#[test]
fn an_answer_that_goes_on_with_nothing_is_cut() {
    requires!(Root);
    let stage = Stage::of(SOCKET_ABUSE);
    let body = json!({"way": "empty_bodies"}).to_string();
    let reply = stage.worker().try_request("POST", &format!("/run/{SUSPECT}"), &[], body);
    assert!(reply.is_err(), "{:?}", reply.map(|reply| reply.text()));
    stage.finish();
}

#[test]
fn an_answer_that_is_promised_and_does_not_come_costs_its_caller_only_the_time() {
    requires!(Root);
    let stage = Stage::with_limits(SOCKET_ABUSE, json!({"runtime_sec": patience(2).as_secs()}));
    let reply = stage.provoke(json!({"way": "long_and_silent"}));
    assert_eq!(reply.status.as_u16(), 504, "{}", reply.text());
    stage.finish();
}

#[test]
fn nothing_in_a_log_can_steer_a_terminal_or_forge_another_sandboxs_lines() {
    requires!(Root);
    let stage = Stage::of(PRINTER);
    for way in ["binary", "forged", "streams"] {
        stage.ask(json!({"way": way}));
        stage.worker().logged(SUSPECT, &format!("the last word of {way}"));
    }
    let log = stage.worker().function_log(SUSPECT);
    let strange = log.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(strange, None);
    assert!(log.contains("\\x1b[2J") && log.contains(" e an error stream"), "{log}");
    // Time, sandbox and invocation stand in front of every line, whatever the function makes of it.
    let mut sandboxes: Vec<_> = log.lines().map(|line| line.split(['-', ' ']).nth(3).unwrap()).collect();
    sandboxes.dedup();
    assert_eq!(sandboxes.len(), 1, "{sandboxes:?}");
    stage.finish();
}
