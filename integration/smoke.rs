//! The shortest way through: make a worker, give it a function, call it, look at it, stop it.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Expect, Output, Place, Program, Worker, free_port, requires};

const ECHO: &str = "def f(event):\n    return event\n";

#[test]
fn a_function_answers_with_what_it_was_sent() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", ECHO);
    for event in [json!({"hello": "world"}), json!([1, 2.5, null]), json!("é"), json!(0)] {
        assert_eq!(worker.call("echo", event.clone()).ok(), event);
    }
    worker.finish();
}

#[test]
fn a_worker_that_may_not_have_core_files_serves() {
    requires!(Root);
    // As `sudo` starts programs.
    let worker = Worker::with_config(json!({})).after("ulimit -c 0").start();
    worker.install_f("echo", ECHO);
    assert_eq!(worker.call("echo", json!(1)).ok(), json!(1));
    worker.finish();
}

#[test]
fn the_examples_work_in_both_ways_of_calling() {
    requires!(Root);
    let worker = Worker::start();
    for name in ["echo", "hello"] {
        let said = worker.ol("admin install").arg(example(name)).succeed();
        assert!(said.starts_with(&format!("Installed {name}. To call it:\n  curl -X POST ")), "{said}");
    }
    assert_eq!(worker.call("echo", json!({"hello": "world"})).expect(200), r#"{"hello": "world"}"#);
    assert_eq!(worker.call("hello", json!({"name": "Alice"})).expect(200), r#""Hello, Alice!""#);
    let classic = worker.request("POST", "/runLambda/hello", &[], json!({"name": "Bob"}));
    assert_eq!(classic.ok(), json!("Hello, Bob!"));
}

#[test]
fn the_way_from_init_to_down_says_what_the_documents_say() {
    requires!(Root);
    let place = Place::new();
    let name = format!("{}-myworker", place.token());
    let dir = place.join(&name);
    let port = free_port();
    let ol = |words: &str| Program::ol().words(words).within(place.path()).env("TMPDIR", place.tmp());

    assert_eq!(ol(&format!("worker init -p {name}")).succeed(), format!("Initialized {}\n", dir.display()));

    let started = ol(&format!("worker up -p {name} -d -o worker_port={port}")).succeed();
    let pid: i32 = between(&started, "PID: ", "\n").parse().unwrap();
    assert_eq!(
        started,
        format!("\tPID: {pid}\n\tPort: {port}\n\tLog File: {}/worker.out\nReady!\n", dir.display())
    );
    // From here on the worker is ended whatever happens.
    let worker = Worker::in_background(place, dir, pid);
    let ol = |words: &str| {
        Program::ol().words(words).within(worker.place().path()).env("TMPDIR", worker.place().tmp())
    };
    assert_eq!(worker.port(), port);

    let said = ol(&format!("admin install -p {name}")).arg(example("echo")).succeed();
    assert_eq!(
        said,
        format!("Installed echo. To call it:\n  curl -X POST localhost:{port}/run/echo -d '{{}}'\n")
    );
    assert_eq!(worker.call("echo", r#"{"hello": "world"}"#).expect(200), r#"{"hello": "world"}"#);

    let status = ol(&format!("worker status -p {name}")).succeed();
    let mut lines = status.lines();
    assert_eq!(lines.next().unwrap(), format!("http://localhost:{port}/status => ready [200 OK]"));
    assert_eq!(lines.next().unwrap(), "");
    let header: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        header.join(" "),
        "name state generation busy warm frozen starting queue invocations errors p50 ms p99 ms memory MB"
    );
    let row: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        (row[0], row[1], row[2], row[3], row[7], row[8], row[9]),
        ("echo", "ready", "1", "0", "0", "1", "0"),
        "{status}"
    );

    let down = ol(&format!("worker down -p {name}")).succeed();
    assert!(down.starts_with(&format!("Stopping the worker (pid {pid})\nStopped after ")), "{down}");
    let Output { code, stderr, .. } = ol(&format!("worker status -p {name}")).fail();
    assert_eq!(code, Some(1));
    assert_eq!(
        stderr,
        format!("ol: the worker in {} is not running: StoppedClean\n", worker.ol_dir().display())
    );
    worker.finish();
}

#[test]
fn the_commands_of_2019_to_2022_work_word_for_word() {
    requires!(Root);
    let place = Place::new();
    let name = format!("{}-test-dir", place.token());
    let dir = place.join(&name);
    let port = free_port();
    let ol = |words: &str| Program::ol().words(words).within(place.path()).env("TMPDIR", place.tmp());

    ol(&format!("new -p={name}")).succeed();
    assert!(dir.join("config.json").exists() && dir.join("registry").is_dir());
    let started = ol(&format!("worker -p={name} --detach -o worker_port={port},limits.procs=20")).succeed();
    assert!(started.ends_with("Ready!\n"), "{started}");
    let worker = Worker::in_background(place, dir, between(&started, "PID: ", "\n").parse().unwrap());
    let ol = |words: &str| {
        Program::ol().words(words).within(worker.place().path()).env("TMPDIR", worker.place().tmp())
    };
    std::fs::write(worker.registry().join("echo.py"), ECHO).unwrap();
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
    for words in ["status --path=", "status -path=", "status -p "] {
        let said = ol(&format!("{words}{name}")).succeed();
        assert!(said.starts_with(&format!("http://localhost:{port}/status => ready [200 OK]\n")), "{said}");
    }
    // Unlike then: who wants the one that runs to end says so.
    assert!(ol(&format!("worker -p={name} -d")).fail().stderr.contains("already running"));
    ol(&format!("kill -p={name}")).succeed();
    assert!(ol(&format!("status -p={name}")).fail().stderr.contains("StoppedClean"));
    assert_eq!(ol(&format!("force-cleanup -p={name}")).succeed(), "Nothing was left behind\n");
    worker.finish();
}

#[test]
fn what_is_counted_at_any_moment_is_in_the_file_at_the_end() {
    requires!(Root);
    let mut worker = Worker::with_config(json!({ "freeze_after_ms": 10 })).start();
    worker.install_f("echo", ECHO);
    worker.call("echo", "1").ok();
    worker.lambda_until("it is frozen", "echo", |lambda| lambda["frozen"] == 1);
    worker.call("echo", "2").ok();
    let asked: Value = worker.get("/stats").ok();
    let asked = asked.as_object().unwrap();
    let names =
        ["web-request", "LambdaInstance-RoundTrip", "LambdaInstance-WaitSandbox-Unpause", "forkRequest"];
    for name in
        names.map(|name| format!("{name}.cnt")).iter().map(String::as_str).chain(["sandboxes.started"])
    {
        assert!(asked[name].as_u64().is_some_and(|n| n > 0), "{name}: {asked:?}");
    }
    worker.ol("worker down").succeed();
    assert!(worker.wait_for_end().success());
    let text = std::fs::read_to_string(worker.worker_dir().join("stats.json")).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    for (name, n) in asked {
        // A mean may fall.
        let least = if name.ends_with("-avg") { 0 } else { n.as_u64().unwrap() };
        assert!(written[name].as_u64().is_some_and(|last| last >= least), "{name}: {text}");
    }
    // The ends of the sandboxes are in it.
    assert!(written["Destroy().cnt"].as_u64().is_some_and(|n| n > 0), "{text}");
    worker.finish();
}

#[test]
fn what_status_shows_is_there_for_programs_too() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", ECHO);
    worker.call("echo", "1").ok();
    let said: Value = serde_json::from_str(&worker.ol("worker status --json").succeed()).unwrap();
    assert_eq!(said["worker"]["pid"], worker.process().pid);
    let echo = &said["lambdas"][0];
    assert_eq!(
        (&echo["name"], &echo["state"], &echo["invocations"]),
        (&json!("echo"), &json!("ready"), &json!(1))
    );
    for field in ["busy", "warm", "frozen", "starting", "queue", "errors", "memory_bytes", "generation"] {
        assert!(echo[field].is_u64(), "{field} in {echo}");
    }
    assert_eq!(worker.get("/status").expect(200), "ready\n");
    let stats = worker.get("/stats").ok();
    assert_eq!((&stats["web-request.cnt"], &stats["pull-lambda.cnt"]), (&json!(1), &json!(1)), "{stats}");
    assert!(worker.get("/debug").expect(200).contains("echo"));
}

#[test]
fn an_unknown_setting_is_an_error_that_names_it() {
    requires!(Root);
    let place = Place::new();
    let dir = place.join(&format!("{}-ol", place.token()));
    Program::ol().words("worker init -p").arg(&dir).succeed();
    let config = dir.join("config.json");
    let mut settings: Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    settings["worker_prot"] = json!(5000);
    std::fs::write(&config, settings.to_string()).unwrap();
    let refused = Program::ol().words("worker up -p").arg(&dir).fail();
    assert_eq!(refused.code, Some(78));
    assert!(refused.stderr.contains("worker_prot"), "{}", refused.stderr);

    settings.as_object_mut().unwrap().remove("worker_prot");
    std::fs::write(&config, settings.to_string()).unwrap();
    let refused = Program::ol().words("worker up -o limits.mem_gb=1 -p").arg(&dir).fail();
    assert_eq!(refused.code, Some(78));
    assert!(refused.stderr.contains("limits.mem_gb"), "{}", refused.stderr);
}

#[test]
fn what_is_wrong_in_a_config_json_is_told_with_its_line() {
    requires!(Root);
    let place = Place::new();
    let dir = place.join(&format!("{}-ol", place.token()));
    Program::ol().words("worker init -p").arg(&dir).succeed();
    let config = dir.join("config.json");
    let refused = |text: &str, option: &str| {
        std::fs::write(&config, text).unwrap();
        let mut up = Program::ol().words("worker up -p").arg(&dir);
        if !option.is_empty() {
            up = up.arg("-o").arg(option);
        }
        let refused = up.fail();
        assert_eq!(refused.code, Some(78), "{}", refused.stderr);
        refused.stderr
    };
    let path = config.display();
    for (text, said) in [
        (
            "{\n  \"limits\": {\n    \"procs\": 0\n  }\n}",
            "limits.procs: is 0, and must be from 1 to 32768 (line 3, column 14)",
        ),
        (
            "{\n  \"worker_port\": 1,\n  \"worker_port\": 2\n}",
            "'worker_port' is here a second time (line 3, column 15)",
        ),
    ] {
        let stderr = refused(text, "");
        assert!(stderr.contains(&format!("{path}: {said}")), "{stderr}");
    }
    for option in ["limits.procs=2,,limits.mem_mb=50", "limits.procs=2,"] {
        let stderr = refused("{}", option);
        assert!(
            stderr.contains(&format!("invalid option '{option}': there is a comma too many")),
            "{stderr}"
        );
    }
}

#[test]
fn a_null_in_config_json_is_as_if_it_were_not_there() {
    requires!(Root);
    let nulls =
        json!({ "sandbox_config": null, "docker": null, "limits": { "swappiness": null }, "kafka": null });
    let worker = Worker::with_config(nulls).start();
    worker.install_f("echo", "def f(event): return event\n");
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
    assert!(!worker.log().contains("have no effect"), "{}", worker.log());
    worker.finish();
}

#[test]
fn an_interpreter_or_a_registry_that_is_none_is_refused_also_after_init() {
    requires!(Root);
    let place = Place::new();
    let dir = place.join(&format!("{}-ol", place.token()));
    Program::ol().words("worker init -p").arg(&dir).succeed();
    let up = |option: &str| {
        let option = format!("worker_port=0,{option}");
        let refused = Program::ol().words("worker up -p").arg(&dir).arg("-o").arg(option).fail();
        assert_eq!(refused.code, Some(78), "{}", refused.stderr);
        refused.stderr
    };
    let said = up("python=/nope");
    assert!(
        said.contains("invalid option 'python': is /nope, and / has no Python 3.8 or newer there"),
        "{said}"
    );
    let said = up("registry=/etc/passwd");
    assert!(said.contains("invalid option 'registry': is /etc/passwd, which is not a directory"), "{said}");
}

#[test]
fn every_spelling_of_the_cluster_flag_means_the_same() {
    requires!(Root);
    let place = Place::new();
    for (n, flag) in ["-cluster=", "-cluster ", "--cluster=", "--cluster "].into_iter().enumerate() {
        let dir = place.join(&format!("cluster-{n}"));
        let words = |verb: &str| format!("{verb} {flag}{}", dir.display());
        let said = Program::admin().words(&words("new")).succeed();
        assert!(
            said.starts_with(&format!("Cluster Directory: {}\n\nWorker Defaults:\n{{", dir.display())),
            "{said}"
        );
        assert!(said.ends_with("You may now start a cluster using the \"workers\" command\n"), "{said}");
        assert_eq!(
            Program::admin().words(&words("status")).succeed(),
            "Worker Pings:\n\nCluster containers:\n\n"
        );
        let again = Program::admin().words(&words("new")).fail();
        assert!(again.stderr.contains("exists already"), "{}", again.stderr);
    }
}

#[test]
fn a_cluster_serves_what_lies_in_its_registry() {
    requires!(Root);
    let place = Place::new();
    let dir = place.join(&format!("{}-cluster", place.token()));
    let port = free_port();
    let admin = |verb: &str| Program::admin().arg(verb).arg("-cluster").arg(&dir).env("TMPDIR", place.tmp());
    admin("new").succeed();
    let said = admin("workers").words(&format!("-p {port}")).succeed();
    let pid: i32 = between(&said, "pid ", ",").parse().unwrap();
    assert_eq!(
        said,
        format!("Started worker: pid {pid}, port {port}, log at {}/logs/worker-0.out\n", dir.display())
    );
    let worker = Worker::in_background(place, dir.join("workers/worker-0"), pid);
    let admin =
        |verb: &str| Program::admin().arg(verb).arg("-cluster").arg(&dir).env("TMPDIR", worker.place().tmp());

    Program::at("cp").arg("-r").arg(example("hello")).arg(dir.join("registry/hello")).succeed();
    let reply = worker.request("POST", "/runLambda/hello", &[], json!({"name": "Alice"}));
    assert_eq!(reply.expect(200), r#""Hello, Alice!""#);
    let status = admin("status").succeed();
    assert!(
        status.starts_with(&format!(
            "Worker Pings:\n  http://localhost:{port}/status => ready [200 OK]\n\nCluster containers:\n\n"
        )),
        "{status}"
    );
    assert!(status.lines().last().unwrap().trim_start().starts_with("hello "), "{status}");

    assert_eq!(admin("kill").succeed(), format!("Kill worker process with PID {pid}\n"));
    worker.finish();
}

/// A function of the quickstart.
fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("quickstart/handlers").join(name)
}

#[track_caller]
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {text:?}")).1;
    rest.split_once(after).unwrap_or_else(|| panic!("no {after:?} in {text:?}")).0
}
