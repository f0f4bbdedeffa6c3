//! A full disk.

use serde_json::json;

use crate::support::{Archive, Expect, Worker, requires};

#[test]
fn an_upload_that_does_not_fit_fails_and_what_served_goes_on_serving() {
    requires!(Root, Program("unshare"), Program("mount"));
    let worker = Worker::with_config(json!({}))
        // Seen by this worker only; gone with it.
        .after("mount -t tmpfs -o size=4m,mode=755 ol-test-full \"$OL/registry\"")
        .start();
    worker.install_f("echo", "def f(event): return event");
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
    let before = worker.get("/registry/").ok();
    // Twice what fits, and not compressible.
    let noise: String = (0..8u64 << 20)
        .map(|n| char::from(b'0' + (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as u8))
        .collect();
    let large = Archive::of(&[("f.py", "def f(event): return 2"), ("noise", &noise)]);
    assert!(large.len() > 4 << 20, "{}", large.len());
    for name in ["large", "echo"] {
        let text = worker.upload(name, large.clone()).expect(500);
        assert!(text.contains("No space left on device"), "{text}");
        assert_eq!(worker.call("echo", "2").ok(), json!(2));
    }
    assert_eq!(worker.get("/registry/").ok(), before);
    worker.call("large", "").expect(404);
    // What was written of them is removed: there is room again.
    worker.install_f("small", "def f(event): return 'fits'");
    assert_eq!(worker.call("small", "").ok(), json!("fits"));
}

#[test]
fn a_worker_without_room_for_copies_of_code_serves_what_it_has() {
    requires!(Root, Program("unshare"), Program("mount"));
    let worker = Worker::with_config(json!({}))
        .after("mkdir -p \"$OL/worker/generations\"; mount -t tmpfs -o size=1m,mode=755 ol-test-full \"$OL/worker/generations\"")
        .start();
    worker.install_f("echo", "def f(event): return event");
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
    let noise = "x".repeat(3 << 20);
    let text = worker
        .upload("large", Archive::of(&[("f.py", "def f(event): return 2"), ("noise", &noise)]))
        .expect(500);
    assert!(text.contains("No space left on device"), "{text}");
    worker.drop_in("large", &[("f.py", "def f(event): return 2"), ("noise", &noise)]);
    assert!(worker.call("large", "").status.is_server_error());
    assert_eq!(worker.call("echo", "2").ok(), json!(2));
    worker.install_f("small", "def f(event): return 'fits'");
    assert_eq!(worker.call("small", "").ok(), json!("fits"));
}
