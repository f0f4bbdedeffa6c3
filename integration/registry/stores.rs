//! Functions that lie in a store: in buckets of three clouds, and on a web server.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::support::{Archive, Expect, Random, Setup, Store, Worker, block_on, eventually, requires, until};

fn code(answer: &str) -> Vec<u8> {
    Archive::of(&[("f.py", &format!("def f(event): return '{answer}'\n"))])
}

fn worker_of(store: &Store) -> Setup {
    Worker::with_config(store.config()).with_environment(&store.environment())
}

/// Waits until a function answers so.
#[track_caller]
fn answers(worker: &Worker, name: &str, answer: &str) {
    eventually(&format!("{name} answers {answer}"), || {
        let reply = worker.call(name, "");
        (reply.status.as_u16() == 200 && reply.json::<String>().ok().as_deref() == Some(answer)).then_some(())
    });
}

/// Waits until a function is answered with this status; gives the text.
#[track_caller]
fn is_answered(worker: &Worker, name: &str, status: u16) -> String {
    eventually(&format!("{name} is answered {status}"), || {
        let reply = worker.call(name, "");
        (reply.status.as_u16() == status).then(|| reply.text())
    })
}

/// Text that cannot be packed much.
fn noise(n: usize) -> String {
    let mut random = Random::new(7);
    std::iter::repeat_with(|| char::from(b' ' + random.below(94) as u8)).take(n).collect()
}

fn trouble(worker: &Worker) -> Option<String> {
    worker.status_json()["worker"]["health"]["registry_trouble"].as_str().map(str::to_owned)
}

/// What a worker does with a store that can be written to, and what another sees of it.
fn uploads_and_what_others_see(store: &Store) {
    let (one, other) = (worker_of(store).start(), worker_of(store).start());
    assert_eq!(one.get("/registry/").expect(200).trim(), "[]");
    one.call("hi", "").expect(404);
    let reply = one.upload("hi", code("one"));
    assert_eq!(reply.expect(201), "Lambda hi uploaded successfully");
    assert_eq!(one.call("hi", "").ok(), json!("one"));
    answers(&other, "hi", "one");
    assert_eq!(one.get("/registry/").expect(200).trim(), r#"["hi"]"#);
    assert_eq!(other.get("/registry/hi").body, code("one"));
    other.get("/registry/hi/config").expect(200);
    other.get("/registry/none").expect(404);

    other.install("hi", &[("f.py", "def f(event): return 'two'\n")]);
    assert_eq!(other.call("hi", "").ok(), json!("two"));
    answers(&one, "hi", "two");

    // What is no function replaces nothing, here and there.
    assert!(one.upload("hi", b"no archive".to_vec()).expect(400).contains("gzip"));
    assert_eq!(other.get("/registry/hi").body, code("two"));

    assert_eq!(one.request("DELETE", "/registry/hi", &[], "").expect(200), "Lambda hi deleted successfully");
    one.call("hi", "").expect(404);
    is_answered(&other, "hi", 404);
    one.request("DELETE", "/registry/hi", &[], "").expect(404);

    // More than one part of an upload.
    let big = noise(12_000_000);
    let archive =
        Archive::of(&[("f.py", "def f(event): return len(open('/handler/big').read())\n"), ("big", &big)]);
    assert!(archive.len() > 8 << 20, "{}", archive.len());
    one.upload("big", archive).expect(201);
    let answered = eventually("the other one has it", || {
        let reply = other.call("big", "");
        (reply.status.as_u16() == 200).then(|| reply.text())
    });
    assert_eq!(answered, "12000000");
    one.finish();
    other.finish();
}

/// What a worker does with what others put there.
fn what_others_put_there(store: &Store) {
    store.put("hi", code("one"));
    let worker = worker_of(store).start();
    assert_eq!(worker.call("hi", "").ok(), json!("one"));
    store.put("hi", code("two"));
    answers(&worker, "hi", "two");

    // It was asked for, and was not there; a moment later it is.
    worker.call("late", "").expect(404);
    store.put("late", code("here"));
    answers(&worker, "late", "here");

    // What is no function replaces nothing, and is told of.
    store.put("hi", Archive::of(&[("g.py", "")]));
    worker.lambda_until("is told of", "hi", |lambda| {
        lambda["message"].as_str().is_some_and(|text| text.contains("no f.py"))
    });
    assert_eq!(worker.call("hi", "").ok(), json!("two"));
    store.put("hi", code("three"));
    answers(&worker, "hi", "three");
    store.put("never", b"no archive".to_vec());
    assert!(worker.call("never", "").expect(500).contains("gzip"));

    store.remove("hi");
    is_answered(&worker, "hi", 404);
    worker.finish();
}

#[test]
fn functions_come_from_a_bucket_of_amazon() {
    requires!(Root, Stores);
    let store = Store::s3();
    what_others_put_there(&store);
}

#[test]
fn workers_share_a_bucket_of_amazon() {
    requires!(Root, Stores);
    uploads_and_what_others_see(&Store::s3());
}

#[test]
fn workers_share_a_bucket_of_google() {
    requires!(Root, Stores);
    let store = Store::gcs();
    what_others_put_there(&store);
    uploads_and_what_others_see(&Store::gcs());
}

#[test]
fn workers_share_a_container_of_azure() {
    requires!(Root, Stores, Program("node"));
    uploads_and_what_others_see(&Store::azure());
}

#[test]
fn functions_come_from_a_web_server_which_is_only_read() {
    requires!(Root);
    let store = Store::web();
    what_others_put_there(&store);
    let worker = worker_of(&store).start();
    answers(&worker, "late", "here");
    assert_eq!(worker.get("/registry/").expect(200).trim(), r#"["late"]"#);
    assert!(worker.upload("new", code("new")).expect(403).contains("only read"));
    assert!(worker.request("DELETE", "/registry/late", &[], "").expect(403).contains("only read"));
    assert_eq!(worker.get("/registry/late").body, code("here"));
    worker.finish();
}

#[test]
fn a_web_server_may_have_python_files() {
    requires!(Root);
    let store = Store::web();
    let file = store.files().join("short.py");
    std::fs::write(&file, "def f(event): return 'one'\n").unwrap();
    let worker = worker_of(&store).start();
    assert_eq!(worker.call("short", "").ok(), json!("one"));
    std::fs::write(&file, "def f(event): return 'two'\n").unwrap();
    answers(&worker, "short", "two");
    worker.get("/registry/none").expect(404);
    assert!(worker.get("/registry/short").body.starts_with(&[0x1f, 0x8b]), "it is packed");
    // An archive comes before it, and is it no more when it has gone.
    store.put("short", code("packed"));
    answers(&worker, "short", "packed");
    store.remove("short");
    answers(&worker, "short", "two");
    std::fs::remove_file(&file).unwrap();
    is_answered(&worker, "short", 404);
    worker.finish();
}

#[test]
fn a_web_server_that_speaks_webdav_is_listed() {
    requires!(Root);
    let store = Store::web_dav();
    for name in ["one", "two"] {
        store.put(name, code(name));
    }
    // What is no function's archive, or lies deeper, is not listed.
    std::fs::write(store.files().join("README"), "").unwrap();
    std::fs::create_dir(store.files().join("deeper.tar.gz")).unwrap();
    let worker = worker_of(&store).start();
    assert_eq!(worker.get("/registry/").expect(200).trim(), r#"["one","two"]"#);
    answers(&worker, "two", "two");
    worker.finish();
}

#[test]
fn no_more_downloads_than_turns_are_under_way_with_a_store_at_once() {
    requires!(Root);
    const N_TURNS: usize = 16;
    const N_CLIENTS: usize = 48;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let turns = Arc::new(Turns::default());
    let (at_store, archive) = (Arc::clone(&turns), code("slow"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (turns, archive) = (Arc::clone(&at_store), archive.clone());
            std::thread::spawn(move || answer_in_turn(stream, &turns, &archive));
        }
    });
    let worker =
        Worker::with_config(json!({ "registry": format!("http://{address}"), "registry_cache_ms": 60_000 }))
            .start();
    let clients: Vec<_> = (0..N_CLIENTS)
        .map(|n| {
            let client = worker.client();
            std::thread::spawn(move || block_on(client.get(&format!("/registry/f{n}"))).unwrap())
        })
        .collect();
    // Each answer makes room for one more download. If there were room for more than that, it would be taken before the last of them
    // has come.
    for n_answered in 0..=N_CLIENTS - N_TURNS {
        until("all turns are taken", || turns.n_come.load(Ordering::SeqCst) >= n_answered + N_TURNS);
        turns.n_answered.store(n_answered + 1, Ordering::SeqCst);
    }
    assert_eq!(turns.most.load(Ordering::SeqCst), N_TURNS);
    turns.n_answered.store(N_CLIENTS, Ordering::SeqCst);
    for client in clients {
        assert_eq!(client.join().unwrap().body, code("slow"));
    }
    worker.finish();
}

/// Downloads at a store that answers them in the order in which they come, so many as it is let.
#[derive(Default)]
struct Turns {
    n_come: AtomicUsize,
    n_answered: AtomicUsize,
    /// At most at once.
    most: AtomicUsize,
}

impl Turns {
    fn wait_for_answer(&self) {
        let n_answered = self.n_answered.load(Ordering::SeqCst);
        let place = self.n_come.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(place.saturating_sub(n_answered), Ordering::SeqCst);
        until("it is let", || self.n_answered.load(Ordering::SeqCst) >= place);
    }
}

/// Serves what is asked for over one connection.
fn answer_in_turn(stream: TcpStream, turns: &Turns, archive: &[u8]) {
    let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
    loop {
        let Some(Ok(first)) = requests.next() else { return };
        while requests.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let is_archive = first.starts_with("GET /f");
        if is_archive {
            turns.wait_for_answer();
        }
        let (status, body) = if is_archive { ("200 OK", archive) } else { ("404 Not Found", &b""[..]) };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLast-Modified: Thu, 26 Nov 2026 00:00:00 GMT\r\n\r\n",
            body.len()
        );
        if (&stream).write_all(&[head.as_bytes(), body].concat()).is_err() {
            return;
        }
    }
}

#[test]
fn while_a_store_is_away_copies_are_served_also_after_a_restart() {
    requires!(Root, Stores);
    let mut store = Store::s3();
    store.put("hi", code("one"));
    let mut worker = worker_of(&store).start();
    assert_eq!(worker.call("hi", "").ok(), json!("one"));
    store.go();
    until("the trouble is known", || trouble(&worker).is_some_and(|text| text.starts_with("s3://functions")));
    assert!(worker.ol("worker status").succeed().contains("registry: s3://functions"));
    assert_eq!(worker.call("hi", "").ok(), json!("one"));
    let refused = worker.call("unknown", "");
    assert!(refused.headers.contains_key("retry-after"));
    assert!(refused.expect(503).contains("does not answer"));
    worker.upload("hi", code("two")).expect(503);
    worker.get("/registry/").expect(503);
    assert_eq!(worker.get("/registry/hi").body, code("one"));

    // Killed: nothing was put in order before.
    worker.kill();
    worker.start_again();
    assert_eq!(worker.call("hi", "").ok(), json!("one"));
    until("the trouble is known again", || trouble(&worker).is_some());

    // A store that has lost its bucket is no reason to forget what it had.
    store.come_without_bucket();
    until("that is known", || trouble(&worker).is_some_and(|text| text.contains("NoSuchBucket")));
    assert_eq!(worker.call("hi", "").ok(), json!("one"));
    store.make_bucket();
    store.put("hi", code("three"));
    answers(&worker, "hi", "three");
    until("the trouble is over", || trouble(&worker).is_none());
    worker.upload("mine", code("mine")).expect(201);
    assert!(store.has("mine"));
    worker.request("DELETE", "/registry/mine", &[], "").expect(200);
    assert!(!store.has("mine"));
    worker.finish();
}

#[test]
fn a_worker_starts_while_its_store_is_away_says_so_and_finds_it_later() {
    requires!(Root, Stores);
    let mut store = Store::azure();
    store.go();
    let worker = worker_of(&store).start();
    until("the trouble is known", || trouble(&worker).is_some_and(|text| text.starts_with("az://functions")));
    worker.call("hi", "").expect(503);
    store.come();
    until("the trouble is over", || trouble(&worker).is_none());
    worker.upload("hi", code("here")).expect(201);
    assert_eq!(worker.call("hi", "").ok(), json!("here"));
    worker.finish();
}

#[test]
fn who_asks_on_the_command_line_is_told_that_the_store_does_not_answer() {
    requires!(Root);
    // It takes connections, and that is all.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let registry = format!("s3://functions?region=us-east-1&endpoint=http://{address}&disableSSL=true");
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name, "x".to_owned()));
    let worker = Worker::with_config(json!({ "registry": registry })).with_environment(&keys).start();
    let list = worker.ol("admin list").fail().stderr;
    assert!(list.contains("503") && list.contains("no answer within 5 s"), "{list}");
    let show = worker.ol("admin show f").fail().stderr;
    assert!(show.contains("503") && show.contains("the registry does not answer"), "{show}");
    worker.finish();
}

#[test]
fn a_store_that_hangs_holds_up_nobody_who_has_a_copy() {
    requires!(Root);
    let store = Store::web();
    store.put("hi", code("one"));
    let mut worker = worker_of(&store).start();
    assert_eq!(worker.call("hi", "").ok(), json!("one"));
    store.hang();
    until("the trouble is known", || {
        assert_eq!(worker.call("hi", "").ok(), json!("one"));
        trouble(&worker).is_some()
    });
    worker.kill();
    worker.start_again();
    assert_eq!(worker.call("hi", "").ok(), json!("one"));
    worker.call("unknown", "").expect(503);
    store.put("hi", code("two"));
    store.go_on();
    answers(&worker, "hi", "two");
    worker.finish();
}

#[test]
fn a_function_too_large_or_cut_off_on_its_way_is_not_served() {
    requires!(Root, Stores);
    let store = Store::s3();
    store.put("large", Archive::of(&[("f.py", "def f(event): return 1\n"), ("noise", &noise(3_000_000))]));
    let whole = code("whole");
    store.put("cut", whole[..whole.len() - 9].to_vec());
    let worker = worker_of(&store).with_config(json!({ "max_code_mb": 1 })).start();
    assert!(worker.call("large", "").expect(500).contains("max_code_mb"));
    assert!(worker.call("cut", "").expect(500).contains("cut off"));
    let mirror = worker.worker_dir().join("mirror");
    let copies = std::fs::read_dir(&mirror)
        .expect("it is there")
        .flatten()
        .flat_map(|dir| std::fs::read_dir(dir.path()));
    assert_eq!(copies.flatten().count(), 0, "nothing half is left");
    worker.finish();
}

#[test]
fn credentials_of_a_store_stay_with_the_worker() {
    requires!(Root, Stores);
    let store = Store::s3();
    let look = "import os\ndef f(event): return [dict(os.environ), open('/proc/self/environ').read()]\n";
    store.put("look", Archive::of(&[("f.py", look)]));
    let worker = worker_of(&store).start();
    let seen = worker.call("look", "").ok().to_string();
    assert!(!seen.contains("very-secret-indeed") && !seen.contains("AWS_"), "{seen}");
    for text in [worker.log(), worker.status_json().to_string()] {
        assert!(!text.contains("very-secret-indeed"), "{text}");
    }
    worker.finish();
}

#[test]
fn a_store_that_cannot_be_meant_is_refused_at_the_start() {
    requires!(Root);
    let setup = Worker::with_config(json!({}));
    let run = |registry: &str| {
        let output = crate::support::Program::ol()
            .words("worker up -p")
            .arg(setup.ol_dir())
            .arg("-o")
            .arg(format!("worker_port=0,registry={registry}"))
            .run();
        assert_ne!(output.code, Some(0));
        output.stderr
    };
    assert!(run("ftp://example.org").contains("s3://"));
    assert!(run("http://me:secret@localhost/").contains("credentials"));
    // Neither an account nor an emulator is in the environment.
    assert!(run("az://functions").to_lowercase().contains("account"));
}
