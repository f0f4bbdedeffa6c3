//! What functions print.

use std::fs;

use serde_json::json;

use crate::support::{Expect, Worker, requires, until};

#[test]
fn what_a_call_prints_is_in_the_log_with_its_number() {
    requires!(Root);
    let worker = Worker::start();
    let code = "
import subprocess, sys
print('loaded')
def f(event):
    print('said', event)
    print('complained', event, file=sys.stderr)
    subprocess.run(['/bin/sh', '-c', 'echo from a child'])
    return event
";
    worker.install_f("chatty", code);
    worker.install_f("quiet", "def f(event): return event");
    let replies = [worker.call("chatty", "1"), worker.call("chatty", "2")];
    worker.call("quiet", "1").ok();
    let ids = replies.each_ref().map(|reply| reply.header("x-ol-invocation").unwrap().to_owned());
    assert_ne!(ids[0], ids[1]);
    for (n, id) in ids.iter().enumerate() {
        let n = n + 1;
        for line in
            [format!("{id} o said {n}"), format!("{id} e complained {n}"), format!("{id} - from a child")]
        {
            worker.logged("chatty", &line);
        }
    }
    assert!(worker.logged("chatty", "loaded").contains(&format!(" {}-0 o loaded", replies[0].sandbox())));
    assert_eq!(worker.function_log("quiet"), "");
}

#[test]
fn a_log_can_neither_fill_the_disk_nor_steer_a_terminal() {
    requires!(Root);
    let worker = Worker::with_config(json!({"log_max_mb": 1})).start();
    let code = "
def f(event):
    print('\\x1b[2J\\rclear')
    for n in range(event):
        print('x' * 1000)
    print('the end')
";
    worker.install_f("flood", code);
    assert_eq!(worker.call("flood", "3500").expect(200), "null");
    worker.logged("flood", "the end");
    let logs = worker.worker_dir().join("logs");
    let mut bytes = 0;
    until("it is within its bound", || {
        bytes = fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        bytes <= 2 << 20
    });
    assert!(bytes > 512 << 10, "{bytes}");
    // The first one is gone with the oldest part of the log.
    worker.call("flood", "0").ok();
    let line = worker.logged("flood", "clear");
    assert!(line.ends_with("\\x1b[2J\\x0dclear"), "{line:?}");
}

#[test]
fn a_line_without_an_end_is_no_trouble() {
    requires!(Root);
    let worker = Worker::start();
    worker.install_f("long", "import sys\ndef f(event):\n    sys.stdout.write('y' * event + 'end')\n");
    worker.call("long", "3000001").ok();
    worker.logged("long", "yend");
}
