//! A full disk.

use std::io::Write;

use serde_json::json;

use crate::support::{Archive, Expect, Worker, requires, until};

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
    // Twice what fits, packed.
    let noise = noise(8 << 20);
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
fn a_worker_on_a_full_disk_serves_what_it_has() {
    requires!(Root);
    let worker = Worker::on_small_disk(6).start();
    worker.install_f("echo", "def f(event): return event");
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
    // It is short when packed: it is the copy that does not fit.
    let text = "x".repeat(16 << 20);
    let refused = worker.upload("large", Archive::of(&[("f.py", "def f(event): return 2"), ("text", &text)]));
    let said = refused.expect(500);
    assert!(said.contains("No space left on device"), "{said}");
    // Now there is no room for anything.
    let mut full = std::fs::File::create(worker.place().join("full")).unwrap();
    until("the disk is full", || full.write_all(&[0; 4096]).is_err());
    worker.upload("small", Archive::of(&[("f.py", "def f(event): return 'fits'")])).expect(500);
    for n in 0..5 {
        assert_eq!(worker.call("echo", json!(n)).ok(), json!(n));
    }
    assert_eq!(worker.get("/status").expect(200), "ready\n");
    drop(full);
    std::fs::remove_file(worker.place().join("full")).unwrap();
    worker.install_f("small", "def f(event): return 'fits'");
    assert_eq!(worker.call("small", "").ok(), json!("fits"));
}

/// Text that cannot be packed into half of its length: xorshift of Marsaglia, with all printable characters.
fn noise(n_bytes: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b' ' + (state % 95) as u8)
    };
    (0..n_bytes).map(|_| next()).collect()
}
