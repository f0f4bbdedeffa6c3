//! A worker takes the place of another, and nobody who calls notices.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, send,
    socket_with,
};
use serde_json::json;

use crate::support::{Expect, Random, Worker, free_port, number_from, patience, requires, until};

const ECHO: &str = "def f(event):\n    return event\n";

/// Five times here; more by hand: `OL_TAKEOVERS=100 cargo test --test integration however_often`.
#[test]
fn however_often_a_worker_is_replaced_under_load_no_call_fails() {
    requires!(Root);
    let n_takeovers = number_from("OL_TAKEOVERS", 5);
    let mut worker = Worker::with_config(json!({"limits": {"max_instances": 4}})).start();
    worker.install_f("echo", ECHO);
    worker.install_f("fresh", ECHO);
    let load = Load::default();
    let port = worker.port();
    thread::scope(|scope| {
        for caller in 0..4 {
            let load = &load;
            scope.spawn(move || load.call_again_and_again(port, if caller == 3 { "fresh" } else { "echo" }));
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..n_takeovers {
                load.wait_for_answers(50);
                let old = worker.take_over(&[]);
                load.wait_for_answers(50);
                old.ends(&worker);
                assert_eq!(worker.port(), port);
            }
        }));
        load.is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    let n = load.n_answers.load(Ordering::Relaxed);
    let failures = load.failures.lock().unwrap();
    let gap = Duration::from_micros(load.longest_us.load(Ordering::Relaxed));
    eprintln!("{n_takeovers} takeovers: {n} calls, {} failed; the longest took {gap:?}", failures.len());
    assert!(failures.is_empty(), "{failures:#?}");
    worker.finish();
}

#[test]
fn what_runs_is_finished_by_the_old_worker_and_who_stays_connected_is_told_with_an_answer() {
    requires!(Root);
    // Runs until whoever listens here has said something.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = format!(
        "import socket\ndef f(event):\n    if event:\n        socket.create_connection(('127.0.0.1', {})).recv(1)\n    return event\n",
        listener.local_addr().unwrap().port()
    );
    let mut worker = Worker::with_config(json!({"network_max": "host"}))
        .with("held", &[("f.py", &held), ("ol.yaml", "network: host\n")])
        .start();
    let mut idle = worker.connect();
    let ask = |connection: &mut crate::support::RawConnection| {
        connection.announce("POST", "/run/held", 1);
        connection.send(b"0");
        let head = connection.read_until("\r\n\r\n").to_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        connection.read_exactly(1);
        head
    };
    assert!(!ask(&mut idle).contains("connection: close"));
    let running = worker.call_aside("held", "3");
    let mut called = listener.accept().unwrap().0;
    let old = worker.take_over(&[]);
    // The new one has not waited for what runs.
    assert_eq!(worker.call("held", "0").ok(), json!(0));
    assert!(!running.is_finished());
    called.write_all(b"!").unwrap();
    assert_eq!(running.join().unwrap().unwrap().ok(), json!(3));
    assert!(old.is_alive(), "somebody is still connected to it");
    assert!(ask(&mut idle).contains("connection: close"));
    assert_eq!(idle.read_to_end(), "", "and then it is closed");
    old.ends(&worker);
    worker.finish();
}

#[test]
fn a_worker_that_ends_takes_the_one_before_it_along() {
    requires!(Root);
    let mut worker = Worker::with_config(json!({"grace_sec": 2})).start();
    worker.install_f("echo", ECHO);
    let idle = worker.connect();
    let old = worker.take_over(&[]);
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
    assert!(old.is_alive());
    // And who takes its place, too: there are never more than two.
    let middle = worker.take_over(&[]);
    assert!(!old.is_alive());
    drop(middle);
    worker.finish();
    drop(idle);
}

#[test]
fn one_that_cannot_start_leaves_the_old_one_as_it_was() {
    requires!(Root);
    let mut worker = Worker::start();
    worker.install_f("echo", ECHO);
    let pid = worker.process().pid;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for option in [format!("worker_port={port}"), "import_cache_tree={\"packages\":1}".into()] {
        let refused = worker.ol("worker up --takeover").arg("-o").arg(&option).fail();
        assert!(!refused.stderr.is_empty());
        assert_eq!(worker.call("echo", "1").ok(), json!(1));
        worker.ol("worker status").succeed();
        assert!(!worker.ol_dir().join("config.json.overrides").exists(), "it is told by its own file");
    }
    assert_eq!(worker.status_json()["worker"]["pid"], pid);
    // And it can still be replaced.
    let old = worker.take_over(&[]);
    old.ends(&worker);
    assert_eq!(worker.call("echo", "2").ok(), json!(2));
    worker.finish();
}

/// What asks once more whether the worker ends finds a free place here, and starts.
#[test]
fn a_refusal_is_told_at_once_whatever_becomes_of_who_refuses() {
    requires!(Root);
    let mut worker = Worker::start();
    let path = worker.worker_dir().join("takeover.sock");
    fs::remove_file(&path).unwrap();
    let door = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    bind(&door, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&door, 1).unwrap();
    let asking = worker.ol("worker up --takeover");
    let asking = thread::spawn(move || asking.fail());
    let line = accept(&door).unwrap();
    worker.kill();
    send(&line, br#"{"Refused":"not today"}"#, SendFlags::empty()).unwrap();
    let refused = asking.join().unwrap();
    assert!(refused.stderr.contains("does not hand over: not today"), "{}", refused.stderr);
    worker.start_again();
    worker.finish();
}

#[test]
fn a_worker_whose_directory_has_a_path_too_long_for_a_socket_is_one_like_others() {
    requires!(Root);
    let mut worker = Worker::deep_down(600).start();
    worker.install_f("echo", ECHO);
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
    worker.ol("worker status").succeed();
    let old = worker.take_over(&[]);
    old.ends(&worker);
    assert_eq!(worker.call("echo", "2").ok(), json!(2));
    assert_eq!(worker.says_pid(), Some(worker.process().pid));
    worker.ol("worker down").succeed();
    worker.wait_for_end();
    assert!(!worker.worker_dir().join("ol.sock").exists());
    assert!(!worker.worker_dir().join("takeover.sock").exists());
    worker.start_again();
    worker.finish();
}

#[test]
fn another_configuration_is_taken_over_to() {
    requires!(Root);
    let mut worker = Worker::start();
    worker.install_f("echo", ECHO);
    let before = worker.port();
    let port = free_port();
    let old = worker.take_over(&[&format!("worker_port={port}"), "limits.mem_mb=77"]);
    assert_eq!(worker.port(), port);
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
    worker.ol("worker status").succeed();
    old.ends(&worker);
    assert!(TcpStream::connect(("127.0.0.1", before)).is_err(), "nobody listens there any more");
    let overrides = fs::read_to_string(worker.ol_dir().join("config.json.overrides")).unwrap();
    assert!(overrides.contains("77"), "{overrides}");
    // Without options it is the file again; a script that has none may well give an empty text.
    let old = worker.take_over(&[""]);
    old.ends(&worker);
    assert!(!worker.ol_dir().join("config.json.overrides").exists());
    worker.finish();
}

#[test]
fn in_the_background_and_where_none_runs_it_is_as_any_start() {
    requires!(Root);
    let mut worker = Worker::start();
    worker.install_f("echo", ECHO);
    worker.ol("worker down").succeed();
    worker.wait_for_end();
    let said = worker.ol("worker up -d --takeover").succeed();
    assert!(said.contains("Ready!"), "{said}");
    worker.is_now_in_background();
    let before = worker.process();
    assert_eq!(worker.call("echo", "1").ok(), json!(1));
    let said = worker.ol("worker up -d --takeover").succeed();
    assert!(said.contains("Ready!"), "{said}");
    worker.is_now_in_background();
    assert_ne!(before, worker.process());
    assert_eq!(worker.call("echo", "2").ok(), json!(2));
    until("the old one ends", || !before.is_alive());
    worker.finish();
}

/// Ten times here; more by hand: `OL_TAKEOVER_KILLS=200`.
#[test]
fn whichever_of_the_two_is_killed_at_whatever_moment_the_other_serves() {
    requires!(Root);
    let n_kills = number_from("OL_TAKEOVER_KILLS", 10);
    let mut random = Random::of_the_day();
    let mut worker = Worker::with_config(json!({"grace_sec": 2})).start();
    worker.install_f("echo", ECHO);
    for round in 0..n_kills {
        // Somebody stays connected, so that the old one does not end before it is killed.
        let mut idle = worker.connect();
        idle.announce("POST", "/run/echo", 1);
        idle.send(b"1");
        idle.read_until("\r\n\r\n");
        let kills_old = random.below(2) == 0;
        let pause = Duration::from_millis(random.below(1_200));
        let (old, new) = worker.begin_takeover(&[]);
        thread::sleep(pause);
        let (victim, heir) = if kills_old { (old, new) } else { (new, old) };
        victim.signal(Signal::SIGKILL);
        until("it is dead", || !victim.is_alive());
        let began = Instant::now();
        until(&format!("round {round}: the other one serves ({kills_old}, after {pause:?})"), || {
            let reply = worker.try_request("POST", "/run/echo", &[], "1");
            reply.is_ok_and(|reply| reply.status.as_u16() == 200) && worker.says_pid() == Some(heir.pid)
        });
        eprintln!(
            "round {round}: {} killed after {pause:?}, served {:?} later",
            if kills_old { "the old one" } else { "the new one" },
            began.elapsed()
        );
        worker.is_now(heir);
        until("what the dead one had is gone", || worker.footprint_of_others().is_empty());
    }
    worker.finish();
}

#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    n_answers: AtomicU64,
    longest_us: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// One call after the other on one connection, until the worker says that it ends.
    fn call_again_and_again(&self, port: u16, function: &str) {
        let mut connection = None;
        let mut number = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            number += 1;
            let began = Instant::now();
            match call(&mut connection, port, function, number) {
                Ok(()) => {
                    self.n_answers.fetch_add(1, Ordering::Relaxed);
                    let took = u64::try_from(began.elapsed().as_micros()).unwrap();
                    self.longest_us.fetch_max(took, Ordering::Relaxed);
                }
                Err(error) => {
                    connection = None;
                    self.failures.lock().unwrap().push(format!("{function} {number}: {error}"));
                }
            }
        }
    }

    fn wait_for_answers(&self, n: u64) {
        let before = self.n_answers.load(Ordering::Relaxed);
        until("calls are answered", || self.n_answers.load(Ordering::Relaxed) >= before + n);
    }
}

fn call(connection: &mut Option<TcpStream>, port: u16, function: &str, number: u64) -> Result<(), String> {
    let say = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = ["127.0.0.1", "::1"].iter().find_map(|host| TcpStream::connect((*host, port)).ok());
            let stream = stream.ok_or("cannot connect")?;
            stream.set_read_timeout(Some(patience(30))).map_err(say("set a timeout"))?;
            connection.insert(stream)
        }
    };
    let body = number.to_string();
    let request = format!(
        "POST /run/{function} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(say("send"))?;
    let mut answer = Vec::new();
    let is_whole = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer).to_lowercase();
        let (head, rest) = text.split_once("\r\n\r\n")?;
        let n: usize = head.split("content-length: ").nth(1)?.split('\r').next()?.parse().ok()?;
        (rest.len() >= n).then(|| (head.to_owned(), rest.to_owned()))
    };
    let (head, said) = loop {
        if let Some(found) = is_whole(&answer) {
            break found;
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).map_err(say("receive"))? {
            0 => return Err(format!("closed after {} bytes", answer.len())),
            n => answer.extend_from_slice(&buffer[..n]),
        }
    };
    if !head.starts_with("http/1.1 200 ") || said != body {
        return Err(format!("{head}\n{said}"));
    }
    if head.contains("connection: close") {
        *connection = None;
    }
    Ok(())
}
