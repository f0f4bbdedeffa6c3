//! Two workers that have the same copies, as while one takes the other's place. The test is the web server that they ask.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use actors::world::Code;
use serde_json::json;
use slog::{Discard, o};

use super::*;
use crate::registry::tests::tar_gz;

const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

struct Web(TcpListener);

/// A request that waits for its answer.
struct Question {
    head: String,
    stream: TcpStream,
}

impl Web {
    fn next(&self) -> Question {
        let (mut stream, _) = self.0.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        Question { head: String::from_utf8(head).unwrap(), stream }
    }

    fn worker(&self, dir: &Path, is_beside: bool) -> RemoteRegistry {
        let registry = format!("http://127.0.0.1:{}/functions", self.0.local_addr().unwrap().port());
        let config = json!({ "registry": registry });
        let config = Config::from_json(&config, Path::new("config.json"), dir).unwrap().config;
        let generations = if is_beside { "generations-next" } else { "generations" };
        let log = Logger::root(Discard, o!());
        let address = config.registry_store.clone().unwrap();
        RemoteRegistry::open(&config, &address, (generations, is_beside), log).unwrap()
    }
}

impl Question {
    fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn begin(&mut self, tag: &str, archive: &[u8]) {
        let n = archive.len();
        self.say(
            format!("HTTP/1.1 200 OK\r\nETag: \"{tag}\"\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        );
    }
}

type Loaded = Result<Option<FunctionCode>, RegistryError>;

fn load(worker: &RemoteRegistry) -> JoinHandle<Loaded> {
    let worker = worker.clone();
    thread::spawn(move || worker.load_blocking(&"f".parse().unwrap(), None))
}

fn version(loaded: JoinHandle<Loaded>) -> String {
    loaded.join().unwrap().unwrap().unwrap().version().to_owned()
}

#[test]
fn what_one_worker_was_slow_to_download_replaces_nothing_newer_of_the_others() {
    let web = Web(TcpListener::bind("127.0.0.1:0").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (web.worker(dir.path(), false), web.worker(dir.path(), true));
    let (before, after) = (tar_gz(&[("f.py", "1")]), tar_gz(&[("f.py", "2")]));

    let slow = load(&old);
    let mut question = web.next();
    question.begin("one", &before);
    question.say(&before[..10]);

    let quick = load(&new);
    let mut other = web.next();
    other.begin("two", &after);
    other.say(&after);
    drop(other);
    let newest = version(quick);

    question.say(&before[10..]);
    drop(question);
    // What it has is outdated, so it asks again: with what the other one has written down.
    let mut again = web.next();
    assert!(again.head.to_lowercase().contains("if-none-match: \"two\""), "{}", again.head);
    again.say(b"HTTP/1.1 304 Not Modified\r\nETag: \"two\"\r\nConnection: close\r\n\r\n");
    drop(again);
    assert_eq!(version(slow), newest);
}

#[test]
fn a_function_that_was_not_there_a_moment_ago_is_not_taken_from_who_has_it_now() {
    let web = Web(TcpListener::bind("127.0.0.1:0").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (web.worker(dir.path(), false), web.worker(dir.path(), true));
    let archive = tar_gz(&[("f.py", "1")]);

    let early = load(&old);
    let mut question = web.next();
    let late = load(&new);
    let mut other = web.next();
    other.begin("one", &archive);
    other.say(&archive);
    drop(other);
    let there = version(late);
    question.say(NOT_FOUND);
    drop(question);
    web.next().say(NOT_FOUND);
    let mut again = web.next();
    again.say(b"HTTP/1.1 304 Not Modified\r\nETag: \"one\"\r\nConnection: close\r\n\r\n");
    drop(again);
    assert_eq!(version(early), there);
}

#[test]
fn an_upload_of_one_function_begins_no_download_of_another_anew_and_one_of_its_own_does() {
    let web = Web(TcpListener::bind("127.0.0.1:0").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let worker = web.worker(dir.path(), false);
    let archive = tar_gz(&[("f.py", "1")]);
    let changed = |name: &str| worker.0.changes.changed(&name.parse().unwrap());
    let loading = load(&worker);
    let mut question = web.next();
    question.begin("one", &archive);
    question.say(&archive[..10]);
    changed("other");
    question.say(&archive[10..]);
    drop(question);
    let first = version(loading);
    assert!(worker.0.changes.is_empty(), "nothing is remembered of what nobody downloads");

    let asking = worker.0.runtime.spawn(worker.0.fetch(&"f".parse().unwrap()));
    let mut outdated = web.next();
    changed("f");
    outdated.begin("two", &tar_gz(&[("f.py", "2")]));
    outdated.say(&tar_gz(&[("f.py", "2")]));
    drop(outdated);
    web.next().say(b"HTTP/1.1 304 Not Modified\r\nETag: \"one\"\r\nConnection: close\r\n\r\n");
    assert!(matches!(worker.0.runtime.block_on(asking).unwrap(), Ok(Outcome::Same)));
    assert_eq!(version(load(&worker)), first);
    assert!(worker.0.changes.is_empty());
}

#[test]
fn a_web_server_that_has_no_archive_is_asked_for_a_python_file() {
    let web = Web(TcpListener::bind("127.0.0.1:0").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let worker = web.worker(dir.path(), false);
    let code = b"# ol-install: parso\ndef f(event): return 1\n";
    let answer = |ending: &str, condition: Option<&str>, say: &dyn Fn(&mut Question)| {
        let mut question = web.next();
        assert!(question.head.starts_with(&format!("GET /functions/f.{ending} ")), "{}", question.head);
        let head = question.head.to_lowercase();
        assert_eq!(head.contains("if-none-match"), condition.is_some(), "{head}");
        assert!(condition.is_none_or(|tag| head.contains(&format!("if-none-match: \"{tag}\""))), "{head}");
        say(&mut question);
    };
    let no_more = |question: &mut Question| question.say(NOT_FOUND);
    let same = |question: &mut Question| {
        question.say(b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n");
    };

    let loading = load(&worker);
    answer("tar.gz", None, &no_more);
    answer("py", None, &|question| {
        question.begin("one", code);
        question.say(code);
    });
    let first = loading.join().unwrap().unwrap().unwrap();
    assert_eq!(std::fs::read(first.dir().join("f.py")).unwrap(), code);
    assert_eq!((first.entry_file(), first.packages()), ("f.py", &["parso".to_owned()][..]));

    // What it was called is a condition for that object only.
    let (remote, name) = (Arc::clone(&worker.0), "f".parse().unwrap());
    let asking = remote.runtime.spawn(remote.fetch(&name));
    answer("tar.gz", None, &no_more);
    answer("py", Some("one"), &same);
    assert!(matches!(worker.0.runtime.block_on(asking).unwrap(), Ok(Outcome::Same)));

    // An archive comes before it.
    let archive = tar_gz(&[("f.py", "2")]);
    let asking = remote.runtime.spawn(remote.fetch(&name));
    answer("tar.gz", None, &|question| {
        question.begin("two", &archive);
        question.say(&archive);
    });
    assert!(matches!(worker.0.runtime.block_on(asking).unwrap(), Ok(Outcome::Changed)));

    // Gone, it is the file again; what is longer than any that is taken is refused.
    let asking = remote.runtime.spawn(remote.fetch(&name));
    answer("tar.gz", Some("two"), &no_more);
    let long = vec![b'#'; usize::try_from(FILE_BYTES_MAX).unwrap() + 1];
    answer("py", None, &|question| {
        question.begin("long", &long);
        // It may hang up before the end.
        let _ = question.stream.write_all(&long);
    });
    assert!(matches!(worker.0.runtime.block_on(asking).unwrap(), Ok(Outcome::Changed)));
    let refused = worker.load_blocking(&name, Some(first)).unwrap_err().to_string();
    assert_eq!(refused, format!("'f.py' is longer than {FILE_BYTES_MAX} bytes"));
}
