//! Nothing of a worker outlives it: no process, mount, cgroup, namespace, socket or scratch directory. Every
//! worker of every test is looked at so when it is dropped; here are the ends that are not peaceful.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{
    Expect, Footprint, Place, Process, Program, Worker, free_port, mounts, requires, until,
};

const ECHO: &str = "def f(event):\n    return event\n";

#[test]
fn a_worker_that_is_stopped_leaves_nothing() {
    requires!(Root);
    let worker = Worker::with_config(json!({"freeze_after_ms": 1})).start();
    for name in ["a", "b", "c"] {
        worker.install_f(name, ECHO);
        worker.call(name, "1").ok();
    }
    // A function may leave processes of its own behind.
    worker.install_f(
        "parent",
        "import os, time\ndef f(event):\n    if os.fork() == 0:\n        time.sleep(10000)\n",
    );
    worker.call("parent", "").ok();
    worker.lambda_until("its sandbox is frozen", "a", |lambda| lambda["frozen"] == 1);
    // What is looked for afterwards is there now, or the look would prove nothing.
    let footprint = worker.footprint();
    let (n_processes, n_cgroups, n_namespaces) = footprint.n_seen();
    assert!(n_processes > 8 && n_cgroups > 0 && n_namespaces > 8, "{n_processes} {n_cgroups} {n_namespaces}");
    assert!(!footprint.remains().is_empty());
    worker.finish();
}

#[test]
fn nothing_is_mounted_where_others_can_see_it() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", ECHO);
    let sandbox = worker.call("echo", "1").sandbox();
    let place = worker.place().token();
    assert_eq!(mounts(&place), BTreeSet::new());
    // Inside there is more: the look from there finds the copy of the code.
    let inside = worker.sandbox_processes(sandbox).into_iter().any(|process| {
        let text = std::fs::read_to_string(format!("/proc/{}/mounts", process.pid)).unwrap_or_default();
        text.lines().any(|line| line.split(' ').nth(1) == Some("/handler"))
    });
    assert!(inside);
}

#[test]
fn a_worker_that_is_killed_while_it_serves_leaves_nothing_to_the_next_one() {
    requires!(Root);
    let mut worker = Worker::with_config(json!({"limits": {"max_instances": 4}})).start();
    for name in ["a", "b"] {
        worker.install_f(name, ECHO);
    }
    for _ in 0..3 {
        under_load(&worker, |worker| {
            until("calls are answered", || worker.lambda("a")["invocations"].as_u64().unwrap_or(0) > 20);
            worker.footprint();
            worker.signal(Signal::SIGKILL);
        });
        let old = worker.kill();
        worker.start_again();
        until_gone(&old, &worker);
        assert_eq!(worker.call("a", "1").ok(), json!(1));
        assert_eq!(worker.call("b", "2").ok(), json!(2));
    }
    worker.finish();
}

#[test]
fn a_worker_may_be_killed_at_any_moment_of_its_start() {
    requires!(Root);
    let mut worker = Worker::with("echo", &[("f.py", ECHO)]).start();
    let dir = worker.worker_dir();
    worker.kill();
    // What exists after what: each is a moment between two steps of the start.
    let moments: [(&str, &dyn Fn(Process) -> bool); 4] = [
        ("it holds the lock", &|worker| lock_holder(&dir) == Some(worker.pid)),
        ("it has made cgroups or processes", &|worker| !worker.descendants().is_empty()),
        ("its zygote runs", &|worker| worker.descendants().len() >= 2),
        ("it listens", &|worker| dir.join("ol.sock").exists() && !worker.listening_ports().is_empty()),
    ];
    for (what, has_come) in moments {
        let old = worker.start_and_kill_when(what, has_come);
        worker.start_again();
        assert_eq!(worker.call("echo", "1").ok(), json!(1), "after: {what}");
        until_gone(&old, &worker);
        worker.kill();
    }
    worker.start_again();
    worker.finish();
}

#[test]
fn what_a_killed_worker_leaves_is_removed_on_demand() {
    requires!(Root);
    let mut worker = Worker::start();
    worker.install_f("echo", ECHO);
    worker.call("echo", "1").ok();
    let old = worker.kill();
    let refused = worker.ol("worker status").fail();
    assert!(refused.stderr.contains("StoppedDirty"), "{}", refused.stderr);
    let said = worker.ol("worker force-cleanup").succeed();
    assert!(said.starts_with("Removed ") && said.ends_with(" things that were left behind\n"), "{said}");
    until("nothing is left", || old.remains().is_empty());
    assert_eq!(worker.ol("worker force-cleanup").succeed(), "Nothing was left behind\n");
    worker.finish();
}

#[test]
fn there_is_nothing_to_clean_up_after_a_worker_that_was_stopped() {
    requires!(Root);
    let mut worker = Worker::start();
    worker.install_f("echo", ECHO);
    worker.call("echo", "1").ok();
    worker.ol("worker down").succeed();
    assert!(worker.wait_for_end().success());
    assert_eq!(worker.ol("worker force-cleanup").succeed(), "Nothing was left behind\n");
    worker.finish();
}

#[test]
fn a_second_worker_in_a_directory_is_refused_and_the_first_one_serves_on() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("echo", ECHO);
    let pid = worker.process().pid;
    for command in ["worker up", "worker up -d", "worker init", "worker force-cleanup"] {
        let refused = worker.ol(command).fail();
        assert_eq!(refused.code, Some(1), "{command}");
        let hint = format!(
            "ol: already running (pid {pid}); to stop it: ol worker down -p {}\n",
            worker.ol_dir().display()
        );
        assert_eq!(refused.stderr, hint, "{command}");
        assert_eq!(worker.call("echo", "1").ok(), json!(1), "{command}");
    }
}

#[test]
fn a_taken_port_is_said_before_anything_is_made() {
    requires!(Root);
    let place = Place::new();
    let port = free_port();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let dir = place.join(&format!("{}-ol", place.token()));
    let up = || Program::ol().words(&format!("worker up -o worker_port={port} -p")).arg(&dir);
    for program in [up(), up().arg("-d")] {
        let refused = program.fail();
        assert_eq!(refused.code, Some(1));
        assert_eq!(
            refused.stderr,
            format!(
                "ol: port {port} is taken: something else listens on localhost:{port}; choose another with -o worker_port=N\n"
            )
        );
        assert!(!dir.exists());
    }
    let cluster = place.join("cluster");
    Program::admin().arg("new").arg("-cluster").arg(&cluster).succeed();
    let refused = Program::admin().words(&format!("workers -p {port} -cluster")).arg(&cluster).fail();
    assert!(refused.stderr.contains(&format!("port {port} is taken")), "{}", refused.stderr);
    assert_eq!(std::fs::read_dir(cluster.join("workers")).unwrap().count(), 0);

    // The same command, once nobody listens there.
    drop(taken);
    let said = up().arg("-d").succeed();
    let pid = said.split_once("PID: ").unwrap().1.split_once('\n').unwrap().0.parse().unwrap();
    Worker::in_background(place, dir, pid).finish();
}

/// Calls two functions from several threads while `meanwhile` runs, until it is over or nobody answers.
fn under_load(worker: &Worker, meanwhile: impl FnOnce(&Worker)) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 0..6 {
            let is_over = &is_over;
            scope.spawn(move || {
                let path = if n % 2 == 0 { "/run/a" } else { "/run/b" };
                while !is_over.load(Ordering::Relaxed) && worker.try_request("POST", path, &[], "1").is_ok() {
                }
            });
        }
        meanwhile(worker);
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Nothing that a killed worker had is there beside its successor's things.
#[track_caller]
fn until_gone(old: &Footprint, successor: &Worker) {
    let mut remains = Vec::new();
    until("the old worker's things are gone", || {
        let now = old.remains_beside(successor.process());
        if now != remains {
            eprintln!("still there: {now:#?}");
            remains = now;
        }
        remains.is_empty()
    });
}

fn lock_holder(worker_dir: &Path) -> Option<i32> {
    std::fs::read_to_string(worker_dir.join("worker.lock")).ok()?.split(' ').next()?.parse().ok()
}
