//! Actors that fail, and a worker that ends: callers get a clear answer, neighbours do not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use openlambda::client::Method;
use serde_json::json;

use crate::support::{Expect, Worker, block_on, requires, until};

const ECHO: &str = "def f(event): return event";
const WAITS: &str = "
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
def f(event):
    if event == 'wait':
        print('waiting', flush=True)
        signal.sigwait([signal.SIGUSR1])
    return 'done'
";

/// Makes the actor of a function panic. Only debug builds can be told to.
#[track_caller]
fn crash(worker: &Worker, name: &str) {
    let told = block_on(worker.private_client().request(Method::POST, &format!("/crash/{name}"), &[], ""));
    assert_eq!(told.unwrap().status.as_u16(), 202);
}

/// Lets the function of `WAITS` go on.
fn go_on(worker: &Worker, sandbox: u64) {
    // The sandbox's init ignores it.
    worker.sandbox_processes(sandbox).iter().for_each(|process| process.signal(Signal::SIGUSR1));
}

#[test]
fn a_lambda_that_crashes_comes_back_and_its_neighbour_does_not_notice() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("frail", ECHO);
    worker.install_f("steady", ECHO);
    worker.call("frail", "1").ok();
    let steady = worker.call("steady", "1").sandbox();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let mut n = 0;
            while !is_over.load(Ordering::Relaxed) {
                let reply = worker.call("steady", json!(n));
                assert_eq!(reply.sandbox(), steady);
                assert_eq!(reply.ok(), json!(n));
                n += 1;
            }
            n
        });
        for n in 0..3 {
            crash(&worker, "frail");
            // Whoever calls in between is told what is the matter; then it is served again.
            until("it is served again", || {
                let reply = worker.call("frail", json!(n));
                match reply.status.as_u16() {
                    200 => true,
                    503 => {
                        assert!(reply.header("retry-after").is_some());
                        assert_eq!(reply.text(), "the function is being restarted; try again\n");
                        false
                    }
                    other => panic!("{other}: {}", reply.text()),
                }
            });
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(neighbour.join().expect("no call of the neighbour fails") > 0);
    });
    until("the log says so", || worker.log().contains("frail"));
    assert_eq!(worker.lambda("steady")["errors"], 0);
}

#[test]
fn a_call_that_runs_while_its_lambda_crashes_gets_an_answer() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("frail", WAITS);
    let call = worker.call_aside("frail", r#""wait""#);
    let sandbox = worker.sandbox_that_said("frail", "waiting");
    crash(&worker, "frail");
    until("it is served again", || worker.call("frail", "1").status.as_u16() == 200);
    go_on(&worker, sandbox);
    assert_eq!(call.join().unwrap().unwrap().ok(), json!("done"));
    until("the old sandbox is gone", || worker.sandbox_processes(sandbox).is_empty());
}

#[test]
fn a_lambda_that_crashes_again_and_again_is_left_alone_and_says_so() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("frail", ECHO);
    worker.install_f("steady", ECHO);
    let mut answer = worker.call("frail", "1");
    // Five restarts in ten seconds are given; while it is restarted there is nobody to tell.
    until("it is out of order", || {
        let told = block_on(worker.private_client().request(Method::POST, "/crash/frail", &[], ""));
        assert!(matches!(told.unwrap().status.as_u16(), 202 | 404));
        answer = worker.call("frail", "1");
        answer.text().contains("out of order")
    });
    assert!(answer.header("retry-after").is_some());
    assert!(answer.expect(503).starts_with("the function is out of order: "));
    assert_eq!(worker.lambda("frail")["state"], "broken");
    assert_eq!(worker.call("steady", "1").ok(), json!(1));
    assert_eq!(worker.get("/status").expect(200), "ready\n");
}

#[test]
fn a_worker_that_is_told_to_end_finishes_what_runs_and_takes_nothing_new() {
    requires!(Root);
    let mut worker = Worker::with_config(json!({"grace_sec": 600, "limits": {"runtime_sec": 600}})).start();
    worker.install_f("slow", WAITS);
    worker.install_f("echo", ECHO);
    worker.call("echo", "1").ok();
    let call = worker.call_aside("slow", r#""wait""#);
    let sandbox = worker.sandbox_that_said("slow", "waiting");
    let process = worker.process();
    worker.signal(Signal::SIGTERM);
    until("new calls are refused", || match worker.try_request("POST", "/run/echo", &[], "1") {
        Ok(reply) => reply.status.as_u16() == 503,
        // It does not listen any more.
        Err(_) => true,
    });
    assert!(process.is_alive(), "it has not waited for the call that runs");
    go_on(&worker, sandbox);
    assert_eq!(call.join().unwrap().unwrap().ok(), json!("done"));
    let status = worker.wait_for_end();
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert!(worker.worker_dir().join("stats.json").exists());
    worker.finish();
}

#[test]
fn a_worker_that_is_told_twice_does_not_wait() {
    requires!(Root);
    let mut worker = Worker::with_config(json!({"grace_sec": 600, "limits": {"runtime_sec": 600}})).start();
    worker.install_f("slow", WAITS);
    let call = worker.call_aside("slow", r#""wait""#);
    worker.sandbox_that_said("slow", "waiting");
    worker.footprint();
    worker.signal(Signal::SIGTERM);
    until("it has understood", || worker.log().contains("the worker ends"));
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.wait_for_end().code(), Some(0), "{}", worker.log());
    assert!(call.join().unwrap().map_or(true, |reply| !reply.status.is_success()));
    worker.finish();
}

#[test]
fn who_does_not_finish_in_the_grace_is_cut_off() {
    requires!(Root);
    let mut worker = Worker::with_config(json!({"grace_sec": 1, "limits": {"runtime_sec": 600}})).start();
    worker.install_f("slow", WAITS);
    let call = worker.call_aside("slow", r#""wait""#);
    worker.sandbox_that_said("slow", "waiting");
    worker.footprint();
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.wait_for_end().code(), Some(0), "{}", worker.log());
    assert!(call.join().unwrap().map_or(true, |reply| !reply.status.is_success()));
    worker.finish();
}
