//! The tree of zygotes of packages: fitted while the worker runs, shown, trained, written and read.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Expect, Setup, Worker, eventually, requires, until, write_folder};

/// A worker that finds these packages: name, what it needs, and what its module does.
pub(crate) fn with(config: Value, packages: &[(&str, &[&str], &str)]) -> Setup {
    let setup = Worker::with_config(config);
    for (name, needed, code) in packages {
        let files = setup.ol_dir().join(format!("packages/{name}==1/files"));
        let metadata: String = needed.iter().map(|name| format!("Requires-Dist: {name}\n")).collect();
        write_folder(&files, &[(&format!("{name}.py"), code)]);
        write_folder(
            &files.join(format!("{name}-1.dist-info")),
            &[("METADATA", &format!("Name: {name}\n{metadata}"))],
        );
    }
    setup
}

pub(crate) const COSTLY: &str = "import random, time\ntime.sleep(0.2)\nIMPORTED = random.random()\n";

/// A function that tells by which import of each package it lives.
pub(crate) fn uses(worker: &Worker, function: &str, packages: &[&str]) {
    let imports: String = packages.iter().map(|name| format!("import {name}\n")).collect();
    let told: String = packages.iter().map(|name| format!("'{name}': {name}.IMPORTED, ")).collect();
    let requirements: String = packages.iter().map(|name| format!("{name}==1\n")).collect();
    let code = format!("{imports}\ndef f(event): return {{{told}}}\n");
    worker.install(function, &[("f.py", &code), ("requirements.txt", &requirements)]);
}

fn nodes(worker: &Worker) -> Vec<Value> {
    let shown: Value = serde_json::from_str(&worker.ol("zygotes show --json").succeed()).unwrap();
    shown["nodes"].as_array().unwrap().clone()
}

fn node(worker: &Worker, package: &str) -> Option<Value> {
    let wanted = json!([format!("{package}==1")]);
    nodes(worker).into_iter().find(|node| node["packages"] == wanted && node["state"] == "growing")
}

/// The node that adds this package and nothing else, when it has a zygote.
fn grown(worker: &Worker, package: &str) -> Value {
    eventually(&format!("a zygote of {package}"), || node(worker, package))
}

#[test]
fn a_tree_fits_itself_to_what_functions_share_and_a_new_one_is_forked_from_the_node_that_suits_it() {
    requires!(Root);
    let packages: [(&str, &[&str], &str); 4] = [
        ("base", &[], COSTLY),
        ("left", &["base"], &format!("import base\n{COSTLY}")),
        ("right", &["base"], &format!("import base\n{COSTLY}")),
        ("quick", &[], "IMPORTED = 1\n"),
    ];
    let worker = with(json!({}), &packages).start();
    uses(&worker, "a", &["base", "left"]);
    uses(&worker, "b", &["base", "right"]);
    for name in ["a", "b"] {
        worker.call(name, "{}").ok();
    }
    let base = grown(&worker, "base");
    for side in ["left", "right"] {
        assert_eq!(grown(&worker, side)["parent"], base["node"], "{side} lies below what both need");
    }
    uses(&worker, "c", &["base", "left", "quick"]);
    uses(&worker, "d", &["base", "quick"]);
    uses(&worker, "e", &["base", "left"]);
    let (c, d, e) = (worker.call("c", "{}").ok(), worker.call("d", "{}").ok(), worker.call("e", "{}").ok());
    assert_eq!((&c["base"], &c["left"]), (&e["base"], &e["left"]), "one import of left for both");
    assert_eq!(c["base"], d["base"], "and one of base for all");
    let left = grown(&worker, "left");
    assert!(left["hits"].as_u64() >= Some(2) && left["saved_ms"].as_f64() >= Some(800.0), "{left}");
    let drawn = worker.ol("zygotes show").succeed();
    assert!(
        drawn.starts_with("root ") && drawn.contains("└─ base==1") && drawn.contains("   ├─ "),
        "{drawn}"
    );
    assert!(drawn.contains("this tree fits itself; 3 zygotes"), "{drawn}");
    worker.finish();
}

#[test]
fn what_a_deployed_function_needs_is_imported_before_its_first_call() {
    requires!(Root);
    let names: Vec<String> = (0..12).map(|at| format!("part{at}")).collect();
    let packages: Vec<(&str, &[&str], &str)> =
        names.iter().map(|name| (name.as_str(), &[][..], COSTLY)).collect();
    let worker = with(json!({}), &packages).start();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    uses(&worker, "a", &names);
    let node = eventually("a zygote of what was never imported", || {
        nodes(&worker).into_iter().find(|node| node["state"] == "growing")
    });
    assert_eq!(node["holds"].as_array().map(Vec::len), Some(12), "{node}");
    worker.call("a", "{}").ok();
    let hits = || nodes(&worker)[0]["hits"].as_u64();
    until("the call is counted", || hits() == Some(1));
    worker.finish();
}

#[test]
fn what_a_tree_would_bring_is_told_before_there_is_one() {
    requires!(Root);
    let packages: [(&str, &[&str], &str); 2] = [("costly", &[], COSTLY), ("other", &[], COSTLY)];
    let worker = with(json!({ "import_cache_mb": 0 }), &packages).start();
    uses(&worker, "a", &["costly"]);
    uses(&worker, "never", &["other"]);
    worker.call("a", "{}").ok();
    // There is no memory for one, and so there is none, but it can be asked about. Its price is known when the load was told.
    let text = eventually("an answer", || {
        let text = worker.ol("zygotes train").succeed();
        text.contains("2 functions with packages").then_some(text)
    });
    assert!(text.contains("this tree saves 0 %") && text.contains("0 zygotes, 0.0 MB of 0.0 MB"), "{text}");
    assert!(text.contains("taken for average ones: ") && text.contains("other==1"), "{text}");
    worker.finish();

    let worker = with(json!({}), &packages).start();
    uses(&worker, "a", &["costly"]);
    worker.call("a", "{}").ok();
    grown(&worker, "costly");
    let place = worker.place();
    let (trace, out) = (place.join("t.csv"), place.join("tree.json"));
    fs::write(&trace, "at_ms,function\n0,a\n1,a\n2,a\n4,gone\n").unwrap();
    let text =
        worker.ol("zygotes train --each-call").arg("--trace").arg(&trace).arg("--out").arg(&out).succeed();
    assert!(text.contains("└─ costly==1") && text.contains("3.0"), "{text}");
    assert!(text.contains("without packages: gone"), "{text}");
    let tree: Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(tree, json!({ "packages": [], "children": [{ "packages": ["costly==1"], "children": [] }] }));
    fs::write(&trace, "at_ms,function\nsoon,a\n").unwrap();
    let said = worker.ol("zygotes train").arg("--trace").arg(&trace).fail().stderr;
    assert!(said.contains("the trace is wrong in line 2"), "{said}");
    worker.finish();
}

#[test]
fn a_tree_is_written_and_read_by_a_running_worker_and_stays_over_a_restart() {
    requires!(Root);
    let mut worker = with(json!({}), &[("one", &[], COSTLY), ("two", &[], COSTLY)]).start();
    let place = worker.place();
    let (file, bad, back) = (place.join("tree.json"), place.join("bad.json"), place.join("back.json"));
    let below = json!({ "packages": ["two==1"], "children": [] });
    let tree = json!({ "packages": [], "children": [{ "packages": ["one==1"], "children": [below] }] });
    fs::write(&file, tree.to_string()).unwrap();
    assert_eq!(worker.ol("zygotes import").arg(&file).succeed(), "The tree is used from now on\n");
    let one = grown(&worker, "one");
    assert_eq!(grown(&worker, "two")["parent"], one["node"]);
    worker.ol("zygotes export").arg(&back).succeed();
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(&back).unwrap()).unwrap(), tree);

    // What is malformed changes nothing, and the error names the node.
    let wrong = json!({ "packages": [], "children": [{ "packages": ["one==1"], "children": [{ "packages": ["two>1"] }] }] });
    fs::write(&bad, wrong.to_string()).unwrap();
    let said = worker.ol("zygotes import").arg(&bad).fail().stderr;
    assert!(
        said.contains("node children[0] (one==1).children[0] (two>1) has 'two>1' for a package"),
        "{said}"
    );
    fs::write(&bad, "{").unwrap();
    assert!(worker.ol("zygotes import").arg(&bad).fail().stderr.contains("(line 1, column 1)"));
    assert!(worker.ol("zygotes import").fail().stderr.contains("<file>"));
    assert_eq!(nodes(&worker).len(), 2);

    worker.kill();
    worker.start_again();
    grown(&worker, "two");
    let drawn = worker.ol("zygotes show").succeed();
    assert!(drawn.contains("somebody drew this tree; 2 zygotes"), "{drawn}");
    assert_eq!(worker.ol("zygotes import --forget").succeed(), "The tree fits itself from now on\n");
    until("the end of its zygotes", || nodes(&worker).is_empty());
    assert!(!worker.worker_dir().join("zygotes.json").exists());
    worker.finish();
}

#[test]
fn a_tree_of_the_configuration_is_not_changed_while_the_worker_runs() {
    requires!(Root);
    for config in
        [json!({ "import_cache_tree": { "children": [] } }), json!({ "features": { "import_cache": "" } })]
    {
        let worker = Worker::with_config(config).start();
        let file = worker.place().join("tree.json");
        fs::write(&file, json!({ "children": [] }).to_string()).unwrap();
        let said = worker.ol("zygotes import").arg(&file).fail().stderr;
        assert!(
            said.contains("409") && said.contains("the configuration says which zygotes there are"),
            "{said}"
        );
        worker.finish();
    }
}

#[test]
fn what_pays_less_makes_room_within_the_budget_and_what_was_forked_from_it_goes_on() {
    requires!(Root);
    let large = format!("{COSTLY}KEPT = bytearray(b'x') * (20 << 20)\n");
    let worker = with(
        json!({ "import_cache_mb": 30, "limits": { "mem_mb": 100 } }),
        &[("first", &[], &large), ("second", &[], &large)],
    )
    .start();
    let ask = |name: &str, package: &str| {
        uses(&worker, name, &[package]);
        worker.call(name, "{}").ok()
    };
    ask("f0", "first");
    grown(&worker, "first");
    let before = ask("f1", "first");
    for at in 0..8 {
        ask(&format!("s{at}"), "second");
    }
    grown(&worker, "second");
    assert!(node(&worker, "first").is_none(), "there is no room for both");
    let shown: Value = serde_json::from_str(&worker.ol("zygotes show --json").succeed()).unwrap();
    assert!(shown["bytes"].as_u64() <= shown["bytes_max"].as_u64(), "{shown}");
    assert_eq!(worker.call("f1", "{}").ok(), before, "its sandbox goes on");
    worker.log_says("retired zygotes of packages");
    worker.finish();
}

#[test]
fn a_zygote_that_many_want_to_be_forked_from_at_once_gets_a_twin() {
    requires!(Root);
    let worker = with(json!({}), &[("hot", &[], COSTLY)]).start();
    uses(&worker, "first", &["hot"]);
    worker.call("first", "{}").ok();
    grown(&worker, "hot");
    let n_at_once = 16;
    let mut n = 0;
    until("a second zygote of the same", || {
        let names: Vec<String> = (n..n + 3 * n_at_once).map(|at| format!("f{at}")).collect();
        n += names.len();
        names.iter().for_each(|name| uses(&worker, name, &["hot"]));
        std::thread::scope(|scope| {
            for some in names.chunks(names.len() / n_at_once) {
                scope.spawn(|| some.iter().for_each(|name| drop(worker.call(name, "{}").ok())));
            }
        });
        grown(&worker, "hot")["replicas"].as_u64() > Some(1)
    });
    let kinds: std::collections::BTreeSet<String> = (0..20)
        .map(|at| {
            let name = format!("after{at}");
            uses(&worker, &name, &["hot"]);
            worker.call(&name, "{}").ok()["hot"].to_string()
        })
        .collect();
    assert!(kinds.len() <= 2, "each is a fork of one or of the other: {kinds:?}");
    worker.finish();
}

/// The worker's, of a package.
fn kept(worker: &Worker, package: &str) -> Option<Value> {
    let text = fs::read(worker.worker_dir().join("import-stats.json")).ok()?;
    let stats: Value = serde_json::from_slice(&text).expect("it is never half written");
    stats["packages"].as_array()?.iter().find(|one| one["name"] == package).cloned()
}

#[test]
fn what_was_learnt_of_imports_is_known_to_the_worker_that_comes_next_however_this_one_goes() {
    requires!(Root);
    let parts: Vec<String> = (0..12).map(|at| format!("part{at}")).collect();
    let part = COSTLY.replace("0.2", "0.02");
    let alone = ["killed", "replaced", "stopped"];
    let mut packages: Vec<(&str, &[&str], &str)> = alone.map(|name| (name, &[][..], COSTLY)).to_vec();
    packages.extend(parts.iter().map(|name| (name.as_str(), &[][..], part.as_str())));
    let mut worker = with(json!({}), &packages).start();
    for name in alone {
        uses(&worker, name, &[name]);
    }
    uses(&worker, "parts", &parts.iter().map(String::as_str).collect::<Vec<_>>());
    // What takes long by itself nobody guesses; twelve packages are imported on suspicion.
    let guessed = |worker: &Worker| {
        until("a zygote of what is guessed to take long", || {
            nodes(worker).iter().any(|node| node["holds"].as_array().is_some_and(|held| held.len() == 12))
        });
        assert!(alone.iter().all(|name| node(worker, name).is_none()), "{:?}", nodes(worker));
    };
    guessed(&worker);
    let learn = |worker: &Worker, name: &str| {
        worker.call(name, "{}").ok();
        grown(worker, name);
    };
    let knows = |worker: &Worker, name: &str| {
        let node = grown(worker, name);
        assert_eq!((&node["hits"], &worker.lambda(name)["invocations"]), (&json!(0), &json!(0)), "{node}");
    };

    // Within ten seconds it is written.
    learn(&worker, "killed");
    until("it is written", || kept(&worker, "killed").is_some_and(|one| one["import"]["us"].is_u64()));
    worker.kill();
    let half = worker.worker_dir().join("import-stats.json.4711");
    fs::write(&half, "{").unwrap();
    worker.start_again();
    assert!(!half.exists(), "what a worker was killed at is removed");
    knows(&worker, "killed");

    // Before it hands over, at once.
    learn(&worker, "replaced");
    let old = worker.take_over(&[]);
    knows(&worker, "replaced");
    old.ends(&worker);
    assert!(kept(&worker, "replaced").is_some());

    // And before it ends.
    learn(&worker, "stopped");
    worker.ol("worker down").succeed();
    worker.wait_for_end();
    worker.start_again();
    knows(&worker, "stopped");

    // What cannot be read is told, and learnt anew.
    worker.kill();
    fs::write(worker.worker_dir().join("import-stats.json"), "{").unwrap();
    worker.start_again();
    worker.log_says("cannot read what was learnt of imports: it is learnt anew");
    guessed(&worker);
    worker.finish();
}
