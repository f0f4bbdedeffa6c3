//! What a function says of itself in `ol.yaml` and `.env`.

use serde_json::json;

use crate::support::{Expect, Worker, requires};

#[test]
fn a_function_finds_its_variables_and_none_of_the_worker() {
    requires!(Root);
    let worker = Worker::start();
    let code = "import os\ndef f(event): return dict(os.environ)";
    let files = [
        ("f.py", code),
        ("ol.yaml", "environment:\n  FROM_YAML: a b\n  BOTH: yaml\n  NUMBER: 8080\n"),
        (".env", "# comment\nFROM_ENV=\"c d\"\nBOTH=env\n"),
    ];
    worker.install("env", &files);
    let seen = worker.call("env", "").ok();
    for (name, value) in [("FROM_YAML", "a b"), ("BOTH", "yaml"), ("NUMBER", "8080"), ("FROM_ENV", "c d")] {
        assert_eq!(seen[name], value, "{seen}");
    }
    // The worker was started with these.
    assert!(std::env::var("PATH").is_ok());
    let tmp = worker.place().tmp().display().to_string();
    assert!(!seen.to_string().contains(&tmp), "{seen}");
    assert_eq!(seen["CARGO_PKG_NAME"], json!(null), "{seen}");
    // Another function finds nothing of it.
    worker.install_f("other", code);
    let seen = worker.call("other", "").ok();
    assert_eq!((&seen["FROM_YAML"], &seen["FROM_ENV"]), (&json!(null), &json!(null)), "{seen}");
}

#[test]
fn a_function_that_asks_for_it_gets_a_fresh_sandbox_for_each_call() {
    requires!(Root);
    let worker = Worker::start();
    let code = "
import os
n = 0
def f(event):
    global n
    n += 1
    seen = os.listdir('/tmp')
    open('/tmp/trace', 'w').close()
    return [n, seen]
";
    worker.install("fresh", &[("f.py", code), ("ol.yaml", "reuse-sandbox: false")]);
    worker.install_f("kept", code);
    let mut sandboxes = Vec::new();
    for n in 1..=5 {
        let reply = worker.call("fresh", "");
        sandboxes.push(reply.sandbox());
        assert_eq!(reply.ok(), json!([1, []]));
        let kept = worker.call("kept", "").ok();
        assert_eq!(kept[0], n);
    }
    sandboxes.sort_unstable();
    sandboxes.dedup();
    assert_eq!(sandboxes.len(), 5);
}

#[test]
fn a_functions_own_limits_are_in_force() {
    requires!(Root);
    let worker = Worker::start();
    let code = "import time\ndef f(event):\n    time.sleep(event)\n    return 'done'";
    worker.install("short", &[("f.py", code), ("ol.yaml", "limits: {runtime_sec: 1}")]);
    assert_eq!(worker.call("short", "0").ok(), json!("done"));
    assert!(worker.call("short", "1000").expect(504).contains("within 1 s"));
    let hog = "def f(event): return len(bytearray(event << 20))";
    worker.install("large", &[("f.py", hog), ("ol.yaml", "limits: {mem_mb: 200}")]);
    worker.install_f("small", hog);
    assert_eq!(worker.call("large", "100").ok(), json!(100 << 20));
    assert!(worker.call("small", "100").expect(502).contains("its limit of 50 MB"));
}
