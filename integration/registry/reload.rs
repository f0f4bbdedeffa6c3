//! Reloads under load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use openlambda::client::Method;
use serde_json::json;

use crate::support::{Archive, Expect, Worker, block_on, replace_file, requires, until};

const N_RELOADS: u64 = 50;

/// Calls without a pause on some connections while `reload` makes generation after generation, and checks that
/// every call is answered, and by code that was there when it began or came later.
fn under_load(worker: &Worker, reload: impl Fn(u64)) {
    let (is_over, newest_seen) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    block_on(async {
                        let mut connection = worker.client().connect().await.expect("the worker listens");
                        let mut n_calls = 0;
                        while !is_over.load(Ordering::Relaxed) {
                            let asked = connection.request(Method::POST, "/run/hot", &[], "1").await;
                            let reply = asked.expect("an answer");
                            assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
                            let version: u64 = reply.json().expect("a number");
                            newest_seen.fetch_max(version, Ordering::Relaxed);
                            n_calls += 1;
                        }
                        n_calls
                    })
                })
            })
            .collect();
        for version in 1..=N_RELOADS {
            reload(version);
            until("the new code is served", || {
                callers.iter().any(thread::ScopedJoinHandle::is_finished)
                    || newest_seen.load(Ordering::Relaxed) >= version
            });
        }
        is_over.store(true, Ordering::Relaxed);
        for caller in callers {
            let n_calls = caller.join().expect("no call fails");
            assert!(n_calls >= N_RELOADS, "{n_calls}");
        }
    });
    let lambda = worker.lambda("hot");
    assert_eq!((&lambda["errors"], &lambda["refused"]), (&json!(0), &json!(0)), "{lambda}");
}

fn code(version: u64) -> String {
    format!("VERSION = {version}\ndef f(event): return VERSION\n")
}

#[test]
fn no_call_fails_while_a_folder_changes_fifty_times() {
    requires!(Root);
    let worker = Worker::with("hot", &[("f.py", &code(0))]).start();
    worker.call("hot", "1").ok();
    let file = worker.registry().join("hot/f.py");
    under_load(&worker, |version| replace_file(&file, code(version)));
}

#[test]
fn no_call_fails_while_it_is_uploaded_anew_fifty_times() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("hot", &code(0));
    worker.call("hot", "1").ok();
    under_load(&worker, |version| {
        let reply = worker.upload("hot", Archive::of(&[("f.py", &code(version))]));
        assert_eq!(reply.expect(201), "Lambda hot uploaded successfully");
    });
}
