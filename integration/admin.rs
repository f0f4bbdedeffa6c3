//! `ol admin`: functions from folders, archives and repositories, and what they print.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;

use serde_json::{Value, json};

use crate::support::{Archive, Expect, Program, Worker, eventually, patience, requires, write_folder};

const CODE: &str = "import os\ndef f(event): return os.environ.get('WHO')";

fn parsed(text: &str) -> Value {
    text.parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// As in `ol 2>&1 | head -1`.
#[test]
fn a_command_that_nobody_listens_to_ends_as_it_would_have() {
    for (words, code) in [("", 64), ("worker --nope", 64), ("worker status -p /nowhere", 1), ("help", 0)] {
        let run = |words| Program::ol().words(words).into_command();
        let heard = run(words).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let unheard = run(words).stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
        assert_eq!((unheard.code(), heard.code()), (Some(code), Some(code)), "ol {words}");
    }
}

#[test]
fn an_archive_is_installed_as_it_is_or_with_files_of_ones_own() {
    requires!(Root);
    let worker = Worker::start();
    let place = worker.place();
    let archive = Archive::of(&[("f.py", CODE), ("ol.yaml", "environment: {WHO: archive}")]);
    std::fs::write(place.join("who.tar.gz"), &archive).unwrap();
    write_folder(place.path(), &[("other.yaml", "environment: {WHO: other}"), ("none.txt", "# nothing\n")]);

    let said = worker.ol("admin install").arg(place.join("who.tar.gz")).succeed();
    assert!(said.starts_with("Installed who. To call it:\n"), "{said}");
    assert_eq!(worker.get("/registry/who").body, archive);
    assert_eq!(worker.call("who", "").ok(), json!("archive"));

    let install = worker.ol("admin install --json -n changed").arg("-c").arg(place.join("other.yaml"));
    let said = install.arg("-r").arg(place.join("none.txt")).arg(place.join("who.tar.gz")).succeed();
    assert_eq!(parsed(&said)["name"], "changed");
    assert_eq!(worker.call("changed", "").ok(), json!("other"));

    std::fs::write(place.join("no.tar.gz"), "no archive").unwrap();
    let refused = worker.ol("admin install").arg(place.join("no.tar.gz")).fail();
    assert!(refused.stderr.contains("no.tar.gz is not a .tar.gz"), "{}", refused.stderr);
    let missing = worker.ol("admin install").arg(place.join("gone.tar.gz")).fail();
    assert!(missing.stderr.contains("gone.tar.gz"), "{}", missing.stderr);
    worker.finish();
}

#[test]
fn a_repository_is_installed_by_its_address() {
    requires!(Root, Program("git"));
    let worker = Worker::start();
    let repository = worker.place().join("greeter.git");
    let git = |words: &str| {
        let git = Program::at("git").words("-c user.name=t -c user.email=t@localhost");
        git.words(words).within(&repository).succeed()
    };
    write_folder(&repository, &[("f.py", "def f(event): return 'old'"), ("lib/a.py", "")]);
    git("init --quiet");
    git("add .");
    git("commit --quiet -m first");
    write_folder(&repository, &[("f.py", "def f(event): return 'new'")]);
    git("commit --quiet -a -m second");
    // What is not committed is not the repository's.
    write_folder(&repository, &[("f.py", "def f(event): return 'draft'")]);

    let url = format!("file://{}", repository.display());
    worker.ol("admin install").arg(&url).succeed();
    assert_eq!(worker.call("greeter", "").ok(), json!("new"));
    worker.ol("admin install -n draft").arg(&repository).succeed();
    assert_eq!(worker.call("draft", "").ok(), json!("draft"));

    let refused = worker.ol("admin install").arg(format!("{url}-not")).fail();
    assert!(refused.stderr.contains("git clone of file://"), "{}", refused.stderr);
    let without_git = worker.ol("admin install").arg(&url).env("PATH", worker.place().path()).fail();
    assert!(without_git.stderr.contains("install git"), "{}", without_git.stderr);
    // The clone is gone as well: the worker's temporary directory is looked at when it ends.
    worker.finish();
}

#[test]
fn what_is_known_of_a_function_is_told_to_people_and_to_programs() {
    requires!(Root);
    let worker = Worker::start();
    let nothing = worker.ol("admin list").run();
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), ""));
    assert!(nothing.stderr.contains("no function yet"), "{}", nothing.stderr);
    let yaml = "triggers: {http: [{method: GET}, {method: POST}]}\nenvironment: {WHO: me}";
    worker.install("b", &[("f.py", CODE), ("ol.yaml", yaml)]).install_f("a", "def f(event): return event");
    assert_eq!(worker.ol("admin list").succeed(), "a\nb\n");
    assert_eq!(parsed(&worker.ol("admin list --json").succeed()), json!(["a", "b"]));

    assert_eq!(worker.ol("admin invoke b").succeed(), "\"me\"\n");
    let said = parsed(&worker.ol("admin invoke --json b").succeed());
    assert_eq!((&said["status"], &said["body"]), (&json!(200), &json!("me")), "{said}");
    assert_eq!(said["headers"]["content-type"], "application/json", "{said}");
    let mut piped = worker.ol("admin invoke a -").into_command();
    let input = worker.place().join("event");
    std::fs::write(&input, "[1, 2]").unwrap();
    let piped = piped.stdin(std::fs::File::open(&input).unwrap()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&piped.stdout), "[1, 2]\n");
    let broken = worker.ol("admin invoke --json a nonsense").fail();
    assert_eq!((broken.code, &parsed(&broken.stdout)["status"]), (Some(1), &json!(400)));

    let shown = worker.ol("admin show b").succeed();
    let line = |what: &str| {
        let line = shown.lines().find_map(|line| line.strip_prefix(what));
        line.unwrap_or_else(|| panic!("no {what} in {shown}")).trim()
    };
    assert_eq!((line("name"), line("methods"), line("environment")), ("b", "GET POST", "WHO=me"));
    assert_eq!((line("state"), line("calls")), ("ready, generation 1", "2, 0 of them failed"));
    assert_eq!(Path::new(line("log")), worker.worker_dir().join("logs/b.log"));
    let shown = parsed(&worker.ol("admin show --json b").succeed());
    assert_eq!(shown, worker.get("/registry/b/config").ok());

    assert_eq!(parsed(&worker.ol("admin remove --json b").succeed()), json!({"name": "b"}));
    for words in ["show b", "invoke b", "remove b", "logs b"] {
        let refused = worker.ol(&format!("admin {words}")).fail();
        assert!(refused.stderr.contains("no function is called 'b'"), "{words}: {}", refused.stderr);
    }
    worker.finish();
}

#[test]
fn what_a_function_prints_can_be_read_whole_in_part_and_as_json() {
    requires!(Root);
    let mut worker = Worker::start();
    worker.install_f("quiet", "def f(event): return event").call("quiet", "1").ok();
    let said = worker.ol("admin logs quiet").run();
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), ""));
    assert!(said.stderr.contains("quiet has printed nothing yet"), "{}", said.stderr);

    worker.install_f("chatty", "def f(event): print('said', event)");
    for n in 1..=3 {
        worker.call("chatty", n.to_string()).ok();
    }
    worker.logged("chatty", "said 3");
    assert_eq!(worker.ol("admin logs chatty").succeed(), worker.function_log("chatty"));
    let last = worker.ol("admin logs -n 2 chatty").succeed();
    assert_eq!(last.lines().map(|line| line.rsplit(' ').next().unwrap()).collect::<Vec<_>>(), ["2", "3"]);
    let last = parsed(&worker.ol("admin logs -n 1 --json chatty").succeed());
    assert_eq!((&last["stream"], &last["text"]), (&json!("stdout"), &json!("said 3")), "{last}");

    // A log outlives its worker; and who asks for one that never was is told so.
    worker.ol("worker down").succeed();
    worker.wait_for_end();
    assert_eq!(worker.ol("admin logs chatty").succeed(), worker.function_log("chatty"));
    let refused = worker.ol("admin logs nobody").fail();
    assert!(refused.stderr.contains("nobody has printed nothing yet"), "{}", refused.stderr);
    worker.finish();
}

#[test]
fn a_log_is_followed_through_its_rotations_until_nobody_reads_it() {
    requires!(Root);
    let worker = Worker::with_config(json!({"log_max_mb": 1})).start();
    let code = "def f(event):\n    for n in range(event, event + 150): print(n, 'x' * 3900)";
    worker.install_f("chatty", code);
    let mut follow = worker.ol("admin logs -f chatty").into_command();
    let mut follow = follow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let stdout = follow.stdout.take().unwrap();
    let (sender, lines) = channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Ends, and closes the pipe, when the test has seen enough.
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    // Each call is less than half of a file, and the next one waits until it was seen.
    for first in (0..900).step_by(150) {
        worker.call("chatty", first.to_string()).ok();
        for n in first..first + 150 {
            let line = lines.recv_timeout(patience(30)).unwrap_or_else(|error| panic!("line {n}: {error}"));
            assert_eq!(line.split(' ').nth(3), Some(n.to_string().as_str()), "{line}");
        }
    }
    assert!(worker.worker_dir().join("logs/chatty.log.1").exists(), "it was rotated");
    drop(lines);
    worker.call("chatty", "0").ok();
    let status = eventually("the command ends", || follow.try_wait().unwrap());
    assert!(status.success(), "{status}");
    reader.join().unwrap();
    worker.finish();
}
