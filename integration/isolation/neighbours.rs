//! Neighbours: what one function leaves anywhere, no other finds; and what must be unique is.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::probes::{SUSPECT, Stage, TENANT};
use crate::support::{Expect, requires};

#[test]
fn what_a_function_leaves_behind_no_other_finds() {
    requires!(Root);
    let stage = Stage::of(TENANT);
    stage.cast("other", TENANT);
    let worker = stage.worker();
    let look = || json!({"do": "look"});
    let clean = worker.call("other", look()).ok();
    let reply = worker.call(SUSPECT, json!({"do": "leave", "word": "left-for-others"}));
    let sandbox = reply.sandbox();
    assert_eq!(reply.ok(), json!({"left": [true, true]}));

    // It finds all of it itself, so there is something to be found.
    let reply = worker.call(SUSPECT, look());
    assert_eq!(reply.sandbox(), sandbox);
    let own = reply.ok();
    assert!(own.to_string().contains("left-for-others") && own.to_string().contains("sleep 98765"), "{own}");
    assert_eq!((&own["socket"], &own["port"], &own["json"]), (&json!(0), &json!(0), &json!(false)));
    for name in ["shared_memory", "queue"] {
        assert!(own[name].as_i64().unwrap() >= 0, "{name}: {own}");
    }

    // A sandbox that was there before it, and one that is made afterwards.
    stage.cast("later", TENANT);
    for said in [worker.call("other", look()).ok(), worker.call("later", look()).ok()] {
        for name in ["files", "environment", "shared_memory", "queue", "socket", "port", "json"] {
            assert_eq!(said[name], clean[name], "{name}");
        }
        assert!(!said.to_string().contains("left"), "{said}");
        assert!(!said.to_string().contains("98765"), "{said}");
        assert_eq!(said["json"], json!(true), "its interpreter is as it was born");
        assert_eq!((&said["shared_memory"], &said["queue"]), (&json!(-1), &json!(-1)));
    }
    stage.finish();
}

#[test]
fn siblings_of_one_zygote_draw_different_numbers() {
    requires!(Root);
    let stage = Stage::of(TENANT);
    let names = ["a", "b", "c", "d", "e"];
    let drawn: Vec<Value> = names
        .iter()
        .map(|name| {
            stage.cast(name, TENANT);
            stage.worker().call(name, json!({"do": "draw"})).ok()
        })
        .collect();
    for what in ["random", "secrets", "uuid4", "uuid1", "ssl", "urandom", "tempfile", "uid"] {
        let different: BTreeSet<String> = drawn.iter().map(|draw| draw[what].to_string()).collect();
        assert_eq!(different.len(), names.len(), "{what}: {different:?}");
    }
    stage.finish();
}
