//! The machine's clock is set while the worker runs: by somebody, or by a server of time after a long sleep.
//!
//! What the worker waits for it measures with the clock that is never set. The one that is, it reads for logs, for the `Date` of
//! answers, and to tell a file that is still being written from one that was broken off. Here it is set for the worker alone, by
//! a library that stands between it and the C library; the files keep the time of the machine, as they do when a clock is set.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;

use crate::support::{Expect, Worker, block_on, eventually, requires, until};

const SLEEPER: &str = "import time\ndef f(event):\n    time.sleep(event)\n    return event\n";

/// Where Debian has it, below the directory of the processor.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

fn library() -> String {
    let directories = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = directories.map(|entry| entry.path().join(LIBRARY)).find(|path| path.exists());
    found.map_or_else(|| format!("/usr/lib/{LIBRARY}"), |path| path.display().to_string())
}

fn set(worker: &Worker, seconds: i64) {
    let path = worker.ol_dir().join("clock");
    let new = path.with_extension("new");
    fs::write(&new, format!("{seconds:+}\n")).unwrap();
    fs::rename(new, path).unwrap();
    eventually("the worker sees it", || {
        let date = worker.get("/status").header("date").and_then(httpdate);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs().cast_signed();
        date.filter(|date| (date - now - seconds).abs() < 120)
    });
}

/// Seconds since 1970 of `Thu, 26 Nov 2026 03:00:00 GMT`, by the machine's own program.
fn httpdate(text: &str) -> Option<i64> {
    let output = std::process::Command::new("date").args(["-u", "+%s", "-d", text]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[test]
fn a_clock_that_is_set_by_an_hour_changes_nothing() {
    requires!(Root, Library(LIBRARY));
    let config = json!({"limits": {"runtime_sec": 20}, "freeze_after_ms": 300, "release_after_s": 300});
    let prelude = format!(
        "echo +0 > \"$OL/clock\"\nexport LD_PRELOAD={} FAKETIME_TIMESTAMP_FILE=\"$OL/clock\" FAKETIME_CACHE_DURATION=1 \
         DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1",
        library()
    );
    let worker = Worker::with_config(config).after(&prelude).start();
    worker.install_f("sleeper", SLEEPER);
    let sandbox = worker.call("sleeper", "0").sandbox();
    for (round, seconds) in [3600, -3600, 0, -86_400].into_iter().enumerate() {
        let running = worker.call_aside("sleeper", "4");
        worker.lambda_until("it runs", "sleeper", |lambda| lambda["busy"] == 1);
        set(&worker, seconds);
        assert_eq!(
            running.join().unwrap().unwrap().ok(),
            json!(4),
            "it was not cut off, nor does it run for ever"
        );
        let reply = worker.call("sleeper", "0");
        assert_eq!(reply.sandbox(), sandbox, "{seconds}: nobody takes it for idle for an hour");
        reply.ok();
        worker.lambda_until("it is frozen in time", "sleeper", |lambda| lambda["frozen"] == 1);
        // Uploads and files that appear, whatever time these say.
        let code = format!("def f(event):\n    return {round}\n");
        worker.install_f("uploaded", &code);
        assert_eq!(worker.call("uploaded", "").ok(), json!(round));
        worker.drop_in("dropped", &[("f.py", &code)]);
        until("the file that was replaced is served", || {
            block_on(worker.client().post("/run/dropped", ""))
                .is_ok_and(|reply| reply.text().trim() == round.to_string())
        });
        assert!(Path::new(&worker.worker_dir().join("logs")).is_dir());
    }
    worker.finish();
}
