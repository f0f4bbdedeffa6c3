//! Uploads that nobody in good faith makes: refused, and nothing of them is written anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tar::EntryType;

use crate::support::{Archive, Expect, Worker, eventually, gzipped, requires, until};

const CODE: &str = "def f(event): return 'taken'";

fn with_code() -> Archive {
    Archive::new().file("f.py", 0o644, CODE)
}

/// Archives that are refused, and the words that say why.
fn evil() -> Vec<(&'static str, Vec<u8>)> {
    let truncated = |bytes: Vec<u8>, n: usize| bytes[..n].to_vec();
    let good = with_code().packed();
    vec![
        ("symbolic link", with_code().link("passwd", EntryType::Symlink, "/etc/passwd").packed()),
        ("symbolic link", with_code().link("up", EntryType::Symlink, "..").file("up/x", 0o644, "x").packed()),
        ("hard link", with_code().link("shadow", EntryType::Link, "/etc/shadow").packed()),
        ("hard link", with_code().link("again.py", EntryType::Link, "f.py").packed()),
        ("device", with_code().node("disk", EntryType::Block).packed()),
        ("device", with_code().node("null", EntryType::Char).packed()),
        ("named pipe", with_code().node("pipe", EntryType::Fifo).packed()),
        ("..", with_code().file("../outside", 0o644, "x").packed()),
        ("..", with_code().file("a/../../outside", 0o644, "x").packed()),
        ("absolute", with_code().file("/tmp/ol-test-outside", 0o644, "x").packed()),
        ("setuid", with_code().file("tool", 0o4755, "x").packed()),
        ("setuid", with_code().file("tool", 0o2755, "x").packed()),
        ("twice", with_code().file("f.py", 0o644, "x").packed()),
        ("below a file", with_code().file("f.py/x", 0o644, "x").packed()),
        ("cut off", truncated(good.clone(), good.len() / 2)),
        ("is empty", Vec::new()),
        ("no tar archive", gzipped(CODE.as_bytes())),
        ("no tar archive", gzipped(&[b'x'; 100_000])),
        ("has no files in it", Archive::new().packed()),
        ("after its end", [good.clone(), b"more than the header of a gzip file".to_vec()].concat()),
        ("gzip", b"PK\x03\x04 a zip file".to_vec()),
        ("no f.py", Archive::of(&[("main.py", CODE)])),
        ("ol.yaml", Archive::of(&[("f.py", CODE), ("ol.yaml", "a: b: c")])),
    ]
}

#[test]
fn an_evil_archive_is_refused_and_nothing_of_it_is_written() {
    requires!(Root);
    let worker = Worker::start();
    let before = everything_below(worker.place().path());
    for (n, (words, archive)) in evil().into_iter().enumerate() {
        let text = worker.upload("evil", archive).expect(400);
        assert!(text.contains(words), "{n}: {words}: {text}");
    }
    // 100 MB of zeros in 100 KB.
    let bomb = with_code().file("zeros", 0o644, "\0".repeat(100 << 20)).packed();
    assert!(bomb.len() < 1 << 20);
    assert!(worker.upload("evil", bomb).expect(400).contains("packed more than"));
    worker.call("evil", "").expect(404);
    assert_eq!(worker.get("/registry/").expect(200), "[]");
    assert_eq!(worker.status_json()["lambdas"], json!([]));
    assert_eq!(everything_below(worker.place().path()), before);
    assert!(!Path::new("/tmp/ol-test-outside").exists());
    // The same name, and an archive in good faith.
    worker.upload("evil", with_code().packed()).expect(201);
    assert_eq!(worker.call("evil", "").ok(), json!("taken"));
}

#[test]
fn an_evil_archive_does_not_take_the_place_of_a_good_one() {
    requires!(Root);
    let worker = Worker::start();
    worker.upload("mine", with_code().packed()).expect(201);
    assert_eq!(worker.call("mine", "").ok(), json!("taken"));
    for (_, archive) in evil() {
        worker.upload("mine", archive).expect(400);
        assert_eq!(worker.call("mine", "").ok(), json!("taken"));
    }
    let status = worker.lambda("mine");
    assert_eq!((&status["state"], &status["generation"]), (&json!("ready"), &json!(1)));
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    requires!(Root);
    let worker = Worker::start();
    let before = everything_below(worker.place().path());
    let archive = with_code().packed();
    let mut connection = worker.connect();
    connection.announce("POST", "/registry/half", archive.len());
    connection.send(&archive[..archive.len() - 1]);
    until("it has arrived", || everything_below(worker.place().path()) != before);
    connection.abandon();
    until("it is removed", || everything_below(worker.place().path()) == before);
    worker.call("half", "").expect(404);
}

#[test]
fn an_evil_archive_that_is_dropped_into_the_registry_is_not_unpacked_either() {
    requires!(Root);
    let worker = Worker::start();
    let evil: Vec<_> = evil().into_iter().enumerate().collect();
    for (n, (_, archive)) in &evil {
        fs::write(worker.registry().join(format!("evil{n}.tar.gz")), archive).unwrap();
    }
    for (n, (words, _)) in &evil {
        // What is cut off may be on its way: that takes a moment to be told from the others.
        let text = eventually("it is refused", || {
            let reply = worker.call(&format!("evil{n}"), "");
            assert!(reply.status.is_server_error(), "{n}: {}: {}", reply.status, reply.text());
            (reply.status.as_u16() == 500).then(|| reply.text())
        });
        assert!(text.contains(words), "{n}: {words}: {text}");
    }
    assert!(!worker.ol_dir().join("outside").exists() && !worker.worker_dir().join("outside").exists());
    assert!(!Path::new("/tmp/ol-test-outside").exists());
    let generations = worker.worker_dir().join("generations");
    until("no copy is kept", || fs::read_dir(&generations).unwrap().count() == 0);
    assert_eq!(worker.get("/status").expect(200), "ready\n");
}

/// Paths of all files, but for logs.
fn everything_below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(everything_below(&entry.path()));
        }
    }
    found.retain(|path| path.extension().is_none_or(|extension| extension != "log"));
    found.sort();
    found
}
