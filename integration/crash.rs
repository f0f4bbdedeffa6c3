//! Whatever of a worker dies, by whatever hand, what is left of it serves on, or the next one does.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::probes::{APPETITE, SUSPECT, Stage};
use crate::support::{
    Expect, Footprint, Process, Random, Worker, eventually, number_from, requires, until, within,
};
use crate::tree;

const ECHO: &str = "def f(event):\n    return event\n";

#[test]
fn a_call_whose_interpreter_is_killed_is_told_so_and_the_next_one_is_served() {
    requires!(Root);
    victim_of_a_running_call("its interpreter ended: killed by signal 9", |sandbox| {
        sandbox.iter().copied().find(|process| depth(*process) == (3, 2))
    });
}

#[test]
fn a_sandbox_whose_init_is_killed_is_replaced() {
    requires!(Root);
    victim_of_a_running_call("the function's sandbox died", |sandbox| {
        sandbox.iter().copied().find(|process| depth(*process) == (3, 1))
    });
}

#[test]
fn idle_sandboxes_that_are_killed_cost_no_call() {
    requires!(Root);
    let stage = Stage::of(APPETITE);
    let worker = stage.worker();
    for _ in 0..3 {
        let reply = stage.provoke(json!({"of": "memory", "mb": 1}));
        let old = reply.sandbox();
        reply.ok();
        let processes = worker.sandbox_processes(old);
        processes.iter().for_each(|process| process.signal(Signal::SIGKILL));
        until("they are dead", || processes.iter().all(|process| !process.is_alive()));
        let reply = stage.provoke(json!({"of": "memory", "mb": 1}));
        assert_ne!(reply.sandbox(), old);
        reply.ok();
    }
    stage.finish();
}

#[test]
fn a_zygote_that_is_killed_takes_no_running_call_with_it() {
    requires!(Root);
    let stage = Stage::of(APPETITE);
    let worker = stage.worker();
    let running = worker.call_aside(SUSPECT, json!({"of": "sleep", "seconds": 3}));
    worker.logged(SUSPECT, "asleep");
    let zygote = helper(worker, (2, 2)).expect("a zygote");
    zygote.signal(Signal::SIGKILL);
    until("it is dead", || !zygote.is_alive());
    // More functions than there are standbys: some of them need a new zygote.
    serves_new_functions(worker, "after-zygote", 8);
    let new = helper(worker, (2, 2)).expect("another zygote");
    assert_ne!(new, zygote);
    assert_eq!(running.join().unwrap().unwrap().ok(), "rested");
    one_family_is_left(worker);
    stage.finish();
}

#[test]
fn a_shim_that_is_killed_is_replaced_with_all_that_it_held() {
    requires!(Root);
    let stage = Stage::of(APPETITE);
    let worker = stage.worker();
    let running = worker.call_aside(SUSPECT, json!({"of": "sleep", "seconds": 1000}));
    worker.logged(SUSPECT, "asleep");
    let old = worker.process().descendants();
    let shim = helper(worker, (2, 1)).expect("a shim");
    shim.signal(Signal::SIGKILL);
    running.join().unwrap().unwrap().expect(502);
    until("it is dead, and all that it held", || old.iter().all(|process| !process.is_alive()));
    serves_new_functions(worker, "after-shim", 8);
    assert_eq!(stage.ask(json!({"of": "memory", "mb": 1})), 1);
    one_family_is_left(worker);
    stage.finish();
}

#[test]
fn a_zygote_that_hangs_is_replaced_and_takes_no_running_call_with_it() {
    requires!(Root);
    one_that_hangs_is_replaced((2, 2), |zygote| until("it is ended", || !zygote.is_alive()));
}

#[test]
fn a_shim_that_hangs_is_replaced_and_goes_with_the_last_of_its_sandboxes() {
    requires!(Root);
    one_that_hangs_is_replaced((2, 1), |shim| assert!(shim.is_alive(), "its sandboxes need it"));
}

fn one_that_hangs_is_replaced(which: (usize, i32), check: impl Fn(Process)) {
    let stage = Stage::of(APPETITE);
    let worker = stage.worker();
    let running = worker.call_aside(SUSPECT, json!({"of": "sleep", "seconds": 1000}));
    let sandbox = worker.sandbox_that_said(SUSPECT, "asleep");
    let processes = worker.sandbox_processes(sandbox);
    let old = helper(worker, which).expect("it is there");
    old.stop();
    // More functions than there are standbys. Those that find none wait for one that hangs, until it is found out.
    for number in 0..8 {
        let name = format!("after-{number}");
        worker.install_f(&name, ECHO);
        until_served(worker, &name);
    }
    let new = worker.process().descendants().into_iter().filter(|process| depth(*process) == which);
    assert!(new.into_iter().any(|process| process != old), "another one is there");
    check(old);
    assert!(!running.is_finished() && processes.iter().all(|process| process.is_alive()));
    processes.iter().for_each(|process| process.signal(Signal::SIGKILL));
    running.join().unwrap().unwrap().expect(502);
    one_family_is_left(worker);
    assert!(!old.is_alive());
    stage.finish();
}

#[test]
fn a_zygote_of_packages_that_hangs_is_replaced() {
    requires!(Root);
    let drawn = json!({ "import_cache_tree": { "packages": [], "children": [{ "packages": ["base"] }] } });
    let worker = tree::with(drawn, &[("base", &[], tree::COSTLY)]).start();
    worker.log_says("started a zygote of packages");
    tree::uses(&worker, "before", &["base"]);
    worker.call("before", "1").ok();
    let old = grown_zygote(&worker).expect("it was grown");
    old.stop();
    for number in 0..8 {
        let name = format!("after-{number}");
        tree::uses(&worker, &name, &["base"]);
        until_served(&worker, &name);
    }
    // Though what was forked from it is still there.
    worker.call("before", "1").ok();
    within(60, "it is ended", || (!old.is_alive()).then_some(()));
    within(60, "another one is there", || grown_zygote(&worker));
    worker.finish();
}

#[test]
fn a_lambdas_zygote_that_hangs_is_replaced() {
    requires!(Root);
    let worker = Worker::start();
    worker.install(
        "costly",
        &[
            ("f.py", "import time\ntime.sleep(0.2)\ndef f(event): return 1\n"),
            ("ol.yaml", "reuse-sandbox: false\n"),
        ],
    );
    worker.call("costly", "1").ok();
    let old = eventually("it has a zygote", || grown_zygote(&worker));
    old.stop();
    until_served(&worker, "costly");
    within(60, "it is ended", || (!old.is_alive()).then_some(()));
    within(60, "another one is there", || {
        worker.call("costly", "1").ok();
        grown_zygote(&worker)
    });
    worker.finish();
}

/// The interpreter of a zygote that was forked from the root zygote.
fn grown_zygote(worker: &Worker) -> Option<Process> {
    worker.zygote_processes().into_iter().find(|process| depth(*process) == (3, 2))
}

/// Though it may take as long as it takes until something that hangs was replaced.
#[track_caller]
fn until_served(worker: &Worker, name: &str) {
    within(60, &format!("{name} is served"), || {
        let reply = worker.call(name, "1");
        (reply.status.as_u16() == 200).then_some(())
    });
}

/// Twenty times here; a thousand times by hand: `OL_CHAOS_KILLS=1000 cargo test --test integration a_worker_that_is_killed`.
#[test]
fn a_worker_that_is_killed_twenty_times_under_load_comes_back_clean_each_time() {
    requires!(Root);
    let n_kills = number_from("OL_CHAOS_KILLS", 20);
    let mut random = Random::of_the_day();
    let mut worker =
        Worker::with_config(json!({"limits": {"max_instances": 4}, "freeze_after_ms": 1})).start();
    for name in ["a", "b"] {
        worker.install_f(name, ECHO);
    }
    let mut until_ready = Vec::new();
    for round in 0..n_kills {
        let n_answers = random.below(60);
        under_load(&worker, n_answers, &mut random, |worker| {
            worker.footprint();
            worker.signal(Signal::SIGKILL);
        });
        let old = worker.kill();
        let begin = Instant::now();
        worker.start_again();
        until_ready.push(begin.elapsed());
        for name in ["a", "b"] {
            assert_eq!(worker.call(name, "1").ok(), json!(1), "round {round}");
        }
        until_gone(&old, &worker);
    }
    until_ready.sort_unstable();
    if let (Some(median), Some(most)) = (until_ready.get(until_ready.len() / 2), until_ready.last()) {
        eprintln!("{n_kills} kills; ready again after {median:?} in the median, {most:?} at most");
    }
    worker.finish();
}

#[test]
fn a_worker_without_descriptors_answers_who_is_there_and_serves_all_again_when_there_are_some() {
    requires!(Root);
    let worker = Worker::with_config(json!({"limits": {"max_instances": 4}})).start();
    worker.install_f("known", ECHO);
    worker.install_f("new", ECHO);
    assert_eq!(worker.call("known", "1").ok(), json!(1));
    let mut connection = worker.connect();
    let mut ask = |name: &str| {
        connection.announce("POST", &format!("/run/{name}"), 1);
        connection.send(b"1");
        let head = connection.read_until("\r\n\r\n");
        let words = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let n_body: usize = words.and_then(|text| text.parse().ok()).expect("an answer has a length");
        let body = connection.read_exactly(n_body);
        (head.split(' ').nth(1).and_then(|word| word.parse::<u16>().ok()).expect("a status"), body)
    };
    assert_eq!(ask("known"), (200, "1".into()));
    let before = worker.limit_descriptors(worker.n_descriptors_and_threads().0 as u64);
    // A warm function takes nothing new. Of others nothing is promised but an answer, with a reason.
    assert_eq!(ask("known"), (200, "1".into()));
    for _ in 0..10 {
        let (status, text) = ask("new");
        assert!(matches!(status, 200 | 502 | 503), "{status} {text}");
        assert_eq!(ask("known"), (200, "1".into()));
    }
    worker.limit_descriptors(before);
    until("all are served", || {
        let reply = worker.try_request("POST", "/run/new", &[], "1");
        reply.is_ok_and(|reply| reply.status.as_u16() == 200)
    });
    serves_new_functions(&worker, "after-shortage", 8);
    worker.finish();
}

#[test]
fn two_workers_on_one_machine_do_not_notice_each_other() {
    requires!(Root);
    let start = || {
        let worker = Worker::start();
        worker.install_f("same", ECHO);
        assert_eq!(worker.call("same", "1").ok(), json!(1));
        worker
    };
    let (one, mut other) = (start(), start());
    // However the other one ends, and begins again.
    let old = other.kill();
    assert_eq!(one.call("same", "2").ok(), json!(2));
    other.start_again();
    until_gone(&old, &other);
    for worker in [&one, &other] {
        assert_eq!(worker.call("same", "3").ok(), json!(3));
        serves_new_functions(worker, "more", 6);
    }
    other.finish();
    assert_eq!(one.call("same", "4").ok(), json!(4));
    one.finish();
}

/// Kills a process of a sandbox amid a call.
#[track_caller]
fn victim_of_a_running_call(words: &str, choose: impl Fn(&[Process]) -> Option<Process>) {
    let stage = Stage::of(APPETITE);
    let worker = stage.worker();
    let running = worker.call_aside(SUSPECT, json!({"of": "sleep", "seconds": 1000}));
    let sandbox = worker.sandbox_that_said(SUSPECT, "asleep");
    let processes = worker.sandbox_processes(sandbox);
    assert_eq!(processes.len(), 2, "init and interpreter: {processes:?}");
    choose(&processes).expect("one of them is it").signal(Signal::SIGKILL);
    let said = running.join().unwrap().unwrap().expect(502);
    assert!(said.contains(words), "{said}");
    let reply = stage.provoke(json!({"of": "memory", "mb": 1}));
    assert_ne!(reply.sandbox(), sandbox);
    reply.ok();
    until("the other one is gone as well", || processes.iter().all(|process| !process.is_alive()));
    stage.finish();
}

/// In how many pid namespaces a process is, and its number in the innermost: 1 of 2 is a shim, 2 of 2 its zygote,
/// 1 of 3 the init of a sandbox, 2 of 3 its interpreter. For a test that itself runs in the machine's.
fn depth(process: Process) -> (usize, i32) {
    let of = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line =
            text.lines().find_map(|line| line.strip_prefix("NSpid:").map(str::to_owned)).unwrap_or_default();
        line.split_whitespace().map(|word| word.parse().expect("a pid")).collect::<Vec<i32>>()
    };
    let (mine, theirs) = (of(std::process::id().cast_signed()), of(process.pid));
    (theirs.len() + 1 - mine.len(), theirs.last().copied().unwrap_or(0))
}

fn helper(worker: &Worker, which: (usize, i32)) -> Option<Process> {
    worker.process().descendants().into_iter().find(|process| depth(*process) == which)
}

#[track_caller]
fn serves_new_functions(worker: &Worker, prefix: &str, n: usize) {
    for number in 0..n {
        let name = format!("{prefix}-{number}");
        worker.install_f(&name, ECHO);
        assert_eq!(worker.call(&name, "1").ok(), json!(1), "{name}");
    }
}

/// The old one goes with its last sandbox, and its cgroup with it.
#[track_caller]
fn one_family_is_left(worker: &Worker) {
    let shims =
        || worker.process().descendants().into_iter().filter(|process| depth(*process) == (2, 1)).count();
    for name in worker.status_json()["lambdas"].as_array().expect("a list") {
        let name = name["name"].as_str().expect("a name");
        worker.request("DELETE", &format!("/registry/{name}"), &[], "").expect(200);
    }
    until("one shim is left", || shims() == 1);
    until("one cgroup for one family", || {
        worker.footprint().cgroups().all(|root| {
            let entries = fs::read_dir(root).into_iter().flatten().flatten();
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("family-")).count() <= 1
        })
    });
    worker.install_f("neighbour", ECHO);
}

/// Calls two functions from several threads, until `at_last` was done, which is when so many were answered.
fn under_load(worker: &Worker, n_answers: u64, random: &mut Random, at_last: impl FnOnce(&Worker)) {
    let (n, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    // Turns of a loop, of some nanoseconds each: so that it is not always just after an answer.
    let spin = random.below(2_000_000);
    thread::scope(|scope| {
        for number in 0..6 {
            let (n, is_over) = (&n, &is_over);
            scope.spawn(move || {
                let path = if number % 2 == 0 { "/run/a" } else { "/run/b" };
                while !is_over.load(Ordering::Relaxed) && worker.try_request("POST", path, &[], "1").is_ok() {
                    n.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until("calls are answered", || n.load(Ordering::Relaxed) >= n_answers);
        (0..spin).for_each(|_| std::hint::spin_loop());
        at_last(worker);
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Nothing that a killed worker had is there beside its successor's things.
#[track_caller]
fn until_gone(old: &Footprint, successor: &Worker) {
    until("the old worker's things are gone", || old.remains_beside(successor.process()).is_empty());
}
