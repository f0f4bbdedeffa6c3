//! A function is a folder, a `.tar.gz` or a `.py`; who can copy files can install one.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Archive, Expect, Program, Worker, eventually, replace_file, requires, until};

const V1: &[(&str, &str)] = &[("f.py", "def f(event): return 'one'")];

#[test]
fn a_folder_that_is_copied_in_is_a_function() {
    requires!(Root);
    let worker = Worker::start();
    worker.call("new", "").expect(404);
    let elsewhere = worker.place().join("elsewhere");
    crate::support::write_folder(
        &elsewhere,
        &[("f.py", "import part.x\ndef f(event): return part.x.X"), ("part/x.py", "X = 42")],
    );
    Program::at("cp").arg("-r").arg(&elsewhere).arg(worker.registry().join("new")).succeed();
    // At the next request: whoever asks is not told 404 because of a moment.
    assert_eq!(worker.call("new", "").ok(), json!(42));
    assert_eq!(worker.get("/registry/").ok(), json!(["new"]));
}

#[test]
fn an_archive_that_is_dropped_in_is_a_function() {
    requires!(Root);
    let worker = Worker::start();
    fs::write(worker.registry().join("packed.tar.gz"), Archive::of(V1)).unwrap();
    assert_eq!(worker.call("packed", "").ok(), json!("one"));
    fs::write(
        worker.registry().join("packed.tar.gz"),
        Archive::of(&[("f.py", "def f(event): return 'two'")]),
    )
    .unwrap();
    until("the new one is served", || worker.call("packed", "").ok() == json!("two"));
    fs::remove_file(worker.registry().join("packed.tar.gz")).unwrap();
    until("it is gone", || worker.call("packed", "").status.as_u16() == 404);
}

#[test]
fn a_python_file_that_is_dropped_in_is_a_function() {
    requires!(Root);
    let worker = Worker::start();
    let file = worker.registry().join("short.py");
    fs::write(&file, V1[0].1).unwrap();
    assert_eq!(worker.call("short", "").ok(), json!("one"));
    // What an editor leaves beside it is nothing.
    fs::write(worker.registry().join(".short.py.swp"), "x").unwrap();
    fs::write(worker.registry().join("short.py~"), "x").unwrap();
    fs::write(&file, "def f(event): return 'two'").unwrap();
    until("the second is served", || worker.call("short", "").ok() == json!("two"));
    replace_file(&file, "def f(event): return event['none']");
    until("the third is served", || worker.call("short", "{}").status.as_u16() == 500);
    let said = worker.call("short", "{}").expect(500);
    assert!(said.contains("\"/handler/f.py\", line 1, in f"), "{said}");
    assert_eq!(worker.get("/registry/").ok(), json!(["short"]));
    assert_eq!(worker.ol("admin list").succeed(), "short\n");
    assert!(worker.ol("admin show --json short").succeed().contains("ReuseSandbox"));

    // What is downloaded is what an upload takes; one takes the place of the file.
    let down = worker.get("/registry/short").body;
    worker.upload("copy", down.to_vec()).expect(201);
    assert!(worker.call("copy", "{}").expect(500).contains("KeyError"));
    worker.install("short", &[("f.py", "def f(event): return 'uploaded'")]);
    assert_eq!(worker.call("short", "").ok(), json!("uploaded"));
    assert!(!file.exists() && worker.registry().join("short.tar.gz").exists());
    fs::write(&file, V1[0].1).unwrap();
    let lambda = worker.lambda_until("it says so", "short", |lambda| lambda["state"] == "rejected");
    assert_eq!(
        lambda["message"],
        "there are a file 'short.tar.gz' and a file 'short.py' in the registry; keep one of them"
    );
    assert_eq!(worker.call("short", "").ok(), json!("uploaded"));
    fs::remove_file(worker.registry().join("short.tar.gz")).unwrap();
    until("the file is served", || worker.call("short", "").ok() == json!("one"));
    assert_eq!(worker.ol("admin remove short").succeed(), "Removed short\n");
    worker.call("short", "").expect(404);
    assert!(!file.exists());

    std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    assert!(worker.call("short", "").expect(500).contains("'short.py' is a symbolic link"));
}

#[test]
fn a_change_is_live_without_a_restart_and_the_generation_counts_up() {
    requires!(Root);
    let worker = Worker::with("hot", V1).start();
    assert_eq!(worker.call("hot", "").ok(), json!("one"));
    assert_eq!(worker.lambda("hot")["generation"], 1);
    let folder = worker.registry().join("hot");
    // As an editor that writes in place, and as one that renames.
    fs::write(folder.join("f.py"), "def f(event): return 'two'").unwrap();
    until("the second is served", || worker.call("hot", "").ok() == json!("two"));
    replace_file(&folder.join("f.py"), "def f(event): return 'three'");
    until("the third is served", || worker.call("hot", "").ok() == json!("three"));
    // Another file of the folder.
    let generation = worker.lambda("hot")["generation"].clone();
    fs::write(folder.join("ol.yaml"), "environment: {A: b}").unwrap();
    let status = worker.lambda_until("it is another one", "hot", |lambda| {
        lambda["generation"] != generation && lambda["state"] == "ready"
    });
    // The same content once more is no change.
    fs::write(folder.join("f.py"), "def f(event): return 'three'").unwrap();
    fs::create_dir(worker.registry().join("other")).unwrap();
    fs::write(worker.registry().join("other/f.py"), "def f(event): return 1").unwrap();
    until("what came later is served", || worker.call("other", "").status.as_u16() == 200);
    assert_eq!(worker.lambda("hot")["generation"], status["generation"]);
}

#[test]
fn a_running_call_finishes_on_the_code_that_it_started_with() {
    requires!(Root);
    let worker = Worker::start();
    let code = "
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
def f(event):
    if event == 'wait':
        print('waiting', flush=True)
        signal.sigwait([signal.SIGUSR1])
        import late
        return late.NAME
    return 'old'
";
    // `late` is imported after the folder has changed, and must be the old one.
    worker.drop_in("hot", &[("f.py", code), ("late.py", "NAME = 'old'")]);
    worker.call("hot", "1").ok();
    let call = worker.call_aside("hot", r#""wait""#);
    let sandbox = worker.sandbox_that_said("hot", "waiting");
    replace_file(&worker.registry().join("hot/late.py"), "NAME = 'new'");
    replace_file(&worker.registry().join("hot/f.py"), "def f(event):\n    import late\n    return late.NAME");
    until("new calls get the new code", || worker.call("hot", "1").ok() == json!("new"));
    assert_eq!(worker.lambda("hot")["state"], "reloading");
    // The sandbox's init ignores it.
    worker.sandbox_processes(sandbox).iter().for_each(|process| process.signal(Signal::SIGUSR1));
    assert_eq!(call.join().unwrap().unwrap().ok(), json!("old"));
    worker.lambda_until("the old one is gone", "hot", |lambda| lambda["state"] == "ready");
    until("its processes too", || worker.sandbox_processes(sandbox).is_empty());
}

#[test]
fn a_folder_that_is_deleted_is_no_function_any_more() {
    requires!(Root);
    let worker = Worker::with("gone", V1).start();
    let sandbox = worker.call("gone", "").sandbox();
    assert!(!worker.sandbox_processes(sandbox).is_empty());
    fs::remove_dir_all(worker.registry().join("gone")).unwrap();
    until("it is unknown", || worker.call("gone", "").status.as_u16() == 404);
    until("it is not listed", || worker.lambda("gone").is_null());
    until("its processes are gone", || worker.sandbox_processes(sandbox).is_empty());
    worker.drop_in("gone", &[("f.py", "def f(event): return 'back'")]);
    assert_eq!(worker.call("gone", "").ok(), json!("back"));
}

#[test]
fn two_hundred_functions_are_found_at_the_start_and_each_answers() {
    requires!(Root);
    let mut setup = Worker::with("f0", &[("f.py", "def f(event): return 0")]);
    for n in 1..200 {
        setup = setup.with(&format!("f{n}"), &[("f.py", &format!("def f(event): return {n}"))]);
    }
    let worker = setup.with_config(json!({"release_after_s": 1})).start();
    let status = eventually("all are known", || {
        let status = worker.status_json();
        (status["lambdas"].as_array().unwrap().len() == 200).then_some(status)
    });
    assert!(
        status["lambdas"].as_array().unwrap().iter().all(|lambda| lambda["state"] == "ready"),
        "{status}"
    );
    for n in (0..200).step_by(20) {
        assert_eq!(worker.call(&format!("f{n}"), "").ok(), json!(n));
    }
    let shown = worker.ol("worker status").succeed();
    assert_eq!(shown.lines().count(), 203, "{shown}");
    assert_eq!(worker.get("/registry/").ok().as_array().unwrap().len(), 200);
}

#[test]
fn generations_count_the_versions_that_were_served_under_a_name_however_they_came() {
    requires!(Root);
    let worker = Worker::start();
    let generation = |name: &str| worker.lambda(name)["generation"].clone();
    let code = |text: &str| format!("def f(event): return {text:?}\n");
    let answers = |name: &str, text: &str| {
        until(&format!("{name} answers {text}"), || {
            let reply = worker.call(name, "{}");
            reply.status == 200 && reply.text() == format!("{text:?}")
        });
    };
    // Removed before the others come, and of several versions.
    for text in ["one", "two", "three"] {
        worker.install("gone", &[("f.py", &code(text))]);
    }
    assert_eq!(generation("gone"), 3);
    worker.request("DELETE", "/registry/gone", &[], "").expect(200);

    // Over HTTP, as a folder, as an archive, as one file.
    worker.install("uploaded", &[("f.py", &code("uploaded")), ("ol.yaml", "")]);
    let move_in = |name: &str, files: crate::support::Files<'_>| {
        let aside = worker.place().join(name);
        crate::support::write_folder(&aside, files);
        fs::rename(&aside, worker.registry().join(name)).unwrap();
    };
    move_in("moved", &[("f.py", &code("moved")), ("other.py", "")]);
    replace_file(&worker.registry().join("packed.tar.gz"), Archive::of(&[("f.py", &code("packed"))]));
    replace_file(&worker.registry().join("single.py"), code("single"));
    for name in ["uploaded", "moved", "packed", "single"] {
        answers(name, name);
        assert_eq!(generation(name), 1, "{name}");
    }

    // It comes back, and counts on.
    worker.install("gone", &[("f.py", &code("four"))]);
    assert_eq!(generation("gone"), 4);

    // File by file: each that makes it another function is another version of it.
    move_in("slow", &[("f.py", &code("slow"))]);
    answers("slow", "slow");
    assert_eq!(generation("slow"), 1);
    replace_file(&worker.registry().join("slow/ol.yaml"), "environment: {A: b}\n");
    worker.lambda_until("the second file is seen", "slow", |lambda| lambda["generation"] == 2);
    worker.finish();
}
