//! `ol selftest` as somebody runs it on a new machine; and that its probes tell a wall from none.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;

use nix::sys::signal::Signal;
use openlambda::selftest::{Answer, Finding, Scene, in_the_open};
use serde_json::Value;

use crate::support::{Place, Process, Program, eventually, requires, until};

fn selftest(place: &Place, words: &str) -> Program {
    Program::ol().words("selftest").words(words).env("TMPDIR", place.tmp())
}

/// Nothing of it is on the machine: no file, process or cgroup that bears its name.
#[track_caller]
fn nothing_is_left(place: &Place) {
    assert_eq!(fs::read_dir(place.tmp()).unwrap().count(), 0, "files are left");
    until("no process of it is left", || !any_process_of(place));
    let cgroups = walk("/sys/fs/cgroup", 3).into_iter().filter(|path| path.contains("/ol-selftest-"));
    assert_eq!(cgroups.collect::<Vec<_>>(), Vec::<String>::new());
}

fn any_process_of(place: &Place) -> bool {
    crate::support::all_processes().into_iter().any(|process| process.describe().contains(&place.token()))
}

fn walk(top: &str, depth: usize) -> Vec<String> {
    let entries = fs::read_dir(top).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.flat_map(|entry| {
        let path = entry.path().to_string_lossy().into_owned();
        let below = if depth > 1 { walk(&path, depth - 1) } else { Vec::new() };
        below.into_iter().chain([path])
    })
    .collect()
}

#[test]
fn every_attempt_of_the_selftest_is_contained_on_this_machine() {
    requires!(Root);
    let place = Place::new();
    let output = selftest(&place, "--json").run_within(240);
    let report: Value = serde_json::from_str(&output.stdout).expect("it is JSON");
    let checks = report["checks"].as_array().unwrap();
    let not_passed: Vec<_> = checks.iter().filter(|check| check["verdict"] == "FAIL").collect();
    assert!(not_passed.is_empty(), "{not_passed:#?}");
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    // What is unsupported here, the machine lacks; no probe is.
    for check in checks.iter().filter(|check| check["group"] != "machine") {
        assert_eq!(check["verdict"], "PASS", "{check:#}");
    }
    let groups: BTreeSet<_> = checks.iter().map(|check| check["group"].as_str().unwrap()).collect();
    let expected = ["machine", "escape", "network", "tenants", "resources", "noise"];
    assert_eq!(groups, expected.into_iter().collect());
    assert_eq!(
        report["n_passed"].as_u64().unwrap() + report["n_unsupported"].as_u64().unwrap(),
        checks.len() as u64
    );
    nothing_is_left(&place);
}

#[test]
fn a_probe_that_nothing_holds_is_said_to_have_escaped() {
    requires!(Root, Program("python3"), Program("unshare"));
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let scene = Scene {
        pids: Vec::new(),
        port: listener.local_addr().unwrap().port(),
        ol_dir: place.path().to_owned(),
    };
    fs::write(place.join("config.json"), "{}").unwrap();
    let probes = in_the_open(&scene);
    assert!(probes.len() > 15, "{}", probes.len());
    for probe in probes {
        let folder = tempfile::tempdir_in(place.tmp()).unwrap();
        fs::write(folder.path().join("f.py"), probe.program).unwrap();
        fs::write(folder.path().join("raw.py"), probe.raw).unwrap();
        // As root, with nothing around it but a /tmp of its own, so that nothing of it stays.
        let code = "import json, sys; sys.path.insert(0, sys.argv[1]); import f; print(json.dumps(f.f(json.loads(sys.argv[2]))))";
        let said = Program::at("unshare")
            .words("--mount --propagation private -- sh -ec")
            .arg("cd \"$2\"; mount -t tmpfs -o size=64m none /tmp; cp -r . /tmp/f; cd /tmp; exec python3 -B -c \"$1\" /tmp/f \"$3\"")
            .arg("sh")
            .arg(code)
            .arg(folder.path())
            .arg(probe.event.to_string())
            .succeed();
        let finding = probe.judge(&Answer { status: 200, text: said.clone() });
        assert!(matches!(finding, Finding::Escaped(_)), "{}: {finding:?} of {said}", probe.id);
    }
}

#[test]
fn a_selftest_that_is_told_to_end_leaves_nothing() {
    requires!(Root);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let place = Place::new();
        let mut command = selftest(&place, "--only resources").into_command();
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let process = Process::of(child.id().cast_signed()).unwrap();
        // A worker with sandboxes is below it.
        until("its probes are at work", || process.descendants().len() > 6);
        let worker = process.descendants()[0];
        process.signal(signal);
        let status = eventually("it ends", || child.try_wait().unwrap());
        if signal == Signal::SIGKILL {
            // Nobody could tidy up its files; its worker has noticed nevertheless.
            until("its worker has ended", || !worker.is_alive());
            until("no process of it is left", || !any_process_of(&place));
        } else {
            assert_eq!(status.code(), Some(1), "{signal}");
            nothing_is_left(&place);
        }
    }
}

#[test]
fn what_is_missing_is_said_with_its_remedy_and_what_cannot_be_tried_is_no_pass() {
    requires!(Root, Program("unshare"));
    let place = Place::new();
    // A machine without a Python.
    let hide = "for file in /usr/bin/python3* /usr/local/bin/python3*; do [ ! -e \"$file\" ] || mount --bind /dev/null \"$file\"; done";
    let output = Program::at("unshare")
        .words("--mount --propagation private -- sh -ec")
        .arg(format!("{hide}\nexec \"$0\" selftest --only machine.python --only escape.mount"))
        .arg(Program::ol_path())
        .env("TMPDIR", place.tmp())
        .run();
    let lines: Vec<_> = output.stdout.lines().collect();
    assert!(
        lines[0].starts_with("FAIL         machine.python") && lines[0].contains("install python3"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("UNSUPPORTED  escape.mount"), "{lines:?}");
    assert_eq!((lines[3], output.code), ("0 passed, 1 failed, 1 unsupported", Some(1)), "{lines:?}");
    assert!(output.stderr.contains("no Python 3.8 or newer"), "{}", output.stderr);
    nothing_is_left(&place);
}

#[test]
fn checks_can_be_listed_and_chosen() {
    requires!(Root);
    let place = Place::new();
    let list = selftest(&place, "--list").succeed();
    assert!(list.lines().count() > 70, "{list}");
    assert!(list.lines().any(|line| line.starts_with("escape.chroot ")), "{list}");
    let said = selftest(&place, "--only machine.kernel --only machine.python").succeed();
    let words: Vec<_> = said.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(words[..2], ["machine.kernel", "machine.python"]);
    assert!(said.ends_with("\n\n2 passed, 0 failed, 0 unsupported\n"), "{said}");
    let refused = selftest(&place, "--only escap").fail();
    assert_eq!(refused.code, Some(64));
    assert_eq!(
        refused.stderr,
        "ol: there is no check 'escap': 'ol selftest --list' shows them and their groups\n"
    );
    nothing_is_left(&place);
}
