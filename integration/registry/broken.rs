//! What is not a function: it is said, and the last good one is served on.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::{Archive, Expect, Worker, requires, until, write_folder};

const GOOD: &[(&str, &str)] = &[("f.py", "def f(event): return 'good'")];

/// The function was good, and is now broken in the folder by `breaks`.
#[track_caller]
fn stays_served(worker: &Worker, name: &str, reason: &str, breaks: impl Fn(&Path)) {
    worker.drop_in(name, GOOD);
    assert_eq!(worker.call(name, "").ok(), json!("good"));
    breaks(&worker.registry().join(name));
    let said = worker.lambda_until("it says so", name, |lambda| lambda["state"] == "rejected");
    let message = said["message"].as_str().unwrap();
    assert!(message.contains(reason), "{message}");
    assert_eq!(said["generation"], 1);
    assert_eq!(worker.call(name, "").ok(), json!("good"));
    assert!(worker.ol("worker status").succeed().contains(&format!("\n{name}: {message}")));
    until("the log says so", || worker.log().contains(reason));
    // Mended, it is served anew.
    fs::remove_dir_all(worker.registry().join(name)).unwrap();
    worker.drop_in(name, &[("f.py", "def f(event): return 'mended'")]);
    until("it is well again", || worker.call(name, "").text() == "\"mended\"");
    assert_eq!(worker.lambda_until("it says so", name, |lambda| lambda["state"] == "ready")["message"], "");
}

#[test]
fn a_folder_that_breaks_keeps_its_last_good_code() {
    requires!(Root);
    let worker = Worker::start();
    stays_served(&worker, "yaml", "ol.yaml: ", |folder| {
        fs::write(folder.join("ol.yaml"), "a: b: c\n").unwrap()
    });
    stays_served(&worker, "field", "memory_mb", |folder| {
        fs::write(folder.join("ol.yaml"), "limits: {memory_mb: 5}\n").unwrap();
    });
    stays_served(&worker, "entry", "no f.py, lambda_func.py or f.bin", |folder| {
        fs::rename(folder.join("f.py"), folder.join("g.py")).unwrap();
    });
    stays_served(&worker, "link", "symbolic link", |folder| {
        std::os::unix::fs::symlink("/etc/passwd", folder.join("passwd")).unwrap();
    });
}

#[test]
fn an_archive_that_breaks_keeps_its_last_good_code() {
    requires!(Root);
    let worker = Worker::start();
    worker.install("packed", GOOD);
    assert_eq!(worker.call("packed", "").ok(), json!("good"));
    let path = worker.registry().join("packed.tar.gz");
    fs::write(&path, "this is no archive").unwrap();
    let said = worker.lambda_until("it says so", "packed", |lambda| lambda["state"] == "rejected");
    assert!(said["message"].as_str().unwrap().contains("is not a gzip file"), "{said}");
    assert_eq!(worker.call("packed", "").ok(), json!("good"));
    worker.install("packed", &[("f.py", "def f(event): return 'mended'")]);
    assert_eq!(worker.call("packed", "").ok(), json!("mended"));
    assert_eq!(worker.lambda("packed")["state"], "ready");
}

#[test]
fn a_function_that_never_was_good_says_what_to_mend() {
    requires!(Root);
    let worker =
        Worker::with("bad", &[("ol.yaml", "reuse-sandbox: maybe"), ("f.py", "def f(event): return 1")])
            .start();
    let text = worker.call("bad", "").expect(500);
    assert!(text.contains("ol.yaml: reuse-sandbox: ") && text.contains("(line 1, column 16)"), "{text}");
    let said = worker.lambda_until("it is listed", "bad", |lambda| !lambda.is_null());
    assert_eq!((&said["state"], &said["generation"]), (&json!("rejected"), &json!(0)));
    write_folder(&worker.registry().join("bad"), &[("ol.yaml", "reuse-sandbox: true")]);
    until("it is served", || worker.call("bad", "").status.as_u16() == 200);
}

#[test]
fn what_is_wrong_in_an_ol_yaml_is_told_with_its_line_when_it_is_uploaded() {
    requires!(Root);
    let worker = Worker::start();
    for (yaml, said) in [
        (
            "triggers:\n  cron:\n    - schedule: '@daily'\n      timezone: Europe/Nowhere\n",
            "ol.yaml: triggers.cron[0].timezone: 'Europe/Nowhere' is no time zone; write one such as Europe/Berlin, UTC or Local (line 4, column 17)",
        ),
        (
            "# host is not for everybody\nnetwork: host\n",
            "ol.yaml: network: asks for more than network_max of this worker's config.json allows (line 2, column 10)",
        ),
        (
            "environment:\n  OL_ENTRY_FILE: main.py\n",
            "ol.yaml: environment.OL_ENTRY_FILE: is 'main.py', and there is no such file in the function (line 2, column 18)",
        ),
    ] {
        let archive = Archive::of(&[("f.py", "def f(event): return 1"), ("ol.yaml", yaml)]);
        let refused = worker.upload("lines", archive).expect(400);
        assert!(refused.contains(said), "{refused}");
    }
    worker.call("lines", "").expect(404);
}

#[test]
fn what_is_beyond_the_ceiling_of_the_worker_is_told_with_its_line_when_it_is_uploaded() {
    requires!(Root);
    let ceiling = json!({ "limits_max": { "procs": 20, "min_warm": 2 } });
    let worker = Worker::with_config(ceiling).start();
    let upload = |yaml: &'static str| {
        worker.upload("limited", Archive::of(&[("f.py", "def f(event): return 1"), ("ol.yaml", yaml)]))
    };
    let said = "ol.yaml: limits.procs: is 21, and this worker allows at most 20 (limits_max.procs of its config.json): ask for less, or have that raised (line 2, column 10)";
    let refused = upload("limits:\n  procs: 21\n").expect(400);
    assert!(refused.contains(said), "{refused}");
    upload("limits: {min_warm: 3}\n").expect(400);
    worker.call("limited", "").expect(404);
    upload("limits: {procs: 20, min_warm: 2}\n").expect(201);
    assert_eq!(worker.call("limited", "").ok(), json!(1));
    worker.finish();
}

#[test]
fn what_is_no_function_beside_functions_disturbs_nobody() {
    requires!(Root);
    let setup = Worker::with("good", GOOD).with("not a name", GOOD).with(".git", GOOD);
    let registry = setup.ol_dir().join("registry");
    fs::write(registry.join("README"), "text").unwrap();
    std::os::unix::fs::symlink("/etc", registry.join("link")).unwrap();
    nix::unistd::mkfifo(&registry.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let worker = setup.start();
    assert_eq!(worker.call("good", "").ok(), json!("good"));
    worker.call("README", "").expect(404);
    assert!(worker.call("link", "").expect(500).contains("symbolic link"));
    assert!(
        worker.call("pipe", "").status.is_client_error() || worker.call("pipe", "").status.is_server_error()
    );
    until("the log says so", || worker.log().contains("not a name"));
    assert_eq!(worker.call("good", "").ok(), json!("good"));
}
