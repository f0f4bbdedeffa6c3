//! The functions of the quickstart: each is called as the comment at its top says, and answers with what stands there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Expect, Program, Worker, requires};

/// Stands for any text in what is expected.
const ANYTHING: char = '…';

/// A line of `curl`, and what it prints.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    command: String,
    answer: String,
}

fn handlers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("quickstart/handlers")
}

/// The folders, by their names.
fn examples() -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(handlers())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    found.sort();
    found
}

/// The calls of a folder: lines that begin with `$ `, each with the lines below it up to a line with nothing in it, the
/// end of the comment, or the next call.
fn calls(folder: &Path) -> Vec<Call> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let code = entries.filter(|path| path.extension().is_some_and(|extension| extension == "py"));
    code.flat_map(|path| calls_in(&fs::read_to_string(path).unwrap())).collect()
}

fn calls_in(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            calls.push(Call { command: command.to_owned(), answer: String::new() });
            goes_on = true;
        } else if line.is_empty() || line.starts_with("\"\"\"") {
            goes_on = false;
        } else if let (true, Some(call)) = (goes_on, calls.last_mut()) {
            call.answer += &format!("{line}\n");
        }
    }
    calls
}

/// Whether the text is the pattern, with anything where the pattern says so.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split(ANYTHING);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn every_example_answers_as_its_comment_says() {
    requires!(Root, Program("curl"));
    call_all(|folder| !has_packages(folder));
}

#[test]
fn every_example_with_packages_answers_as_its_comment_says() {
    requires!(Root, Program("curl"), Uv, RealIndex);
    call_all(has_packages);
}

fn has_packages(folder: &Path) -> bool {
    folder.join("requirements.txt").exists()
}

fn call_all(is_meant: impl Fn(&Path) -> bool) {
    let worker = Worker::start();
    let here = format!("localhost:{}", worker.port());
    for (name, folder) in examples().into_iter().filter(|(_, folder)| is_meant(folder)) {
        worker.ol("admin install").arg(&folder).succeed();
        let calls = calls(&folder);
        assert!(!calls.is_empty(), "{name} does not say how it is called");
        for Call { command, answer } in calls {
            let names_it =
                ["run", "runLambda"].iter().any(|path| command.contains(&format!("/{path}/{name}")));
            assert!(command.starts_with("curl -s") && names_it, "{name}: {command}");
            let typed = command.replace("localhost:5000", &here).replace("localhost:8080", &here);
            let said = Program::at("sh").arg("-c").arg(typed).succeed().replace('\r', "");
            assert!(is_like(answer.trim_end(), said.trim_end()), "{command}\n{said}\ninstead of\n{answer}");
        }
    }
    worker.finish();
}

#[test]
fn the_examples_at_their_limits_get_what_was_promised() {
    requires!(Root);
    let worker = Worker::start();
    for name in ["fbomb", "max_mem_alloc"] {
        worker.ol("admin install").arg(handlers().join(name)).succeed();
    }
    let n = worker.call("fbomb", r#"{"times": 100}"#).ok().as_u64().unwrap();
    assert!((1..=10).contains(&n), "{n} processes");
    worker.call("max_mem_alloc", r#"{"mb": 200}"#).expect(502);
    worker.logged("max_mem_alloc", " 34 MB");
    let log = worker.function_log("max_mem_alloc");
    let got =
        log.lines().filter_map(|line| line.strip_suffix(" MB")?.rsplit(' ').next()?.parse::<u32>().ok());
    let got = got.max().unwrap();
    assert!((34..=50).contains(&got), "{got} MB");
    worker.finish();
}

#[test]
fn the_list_of_examples_is_whole() {
    let list = fs::read_to_string(handlers().join("README.md")).unwrap();
    let links: Vec<_> = list
        .lines()
        .filter_map(|line| line.strip_prefix("| [")?.split_once("](")?.1.split_once(')'))
        .map(|(link, _)| link)
        .collect();
    let names: Vec<_> = examples().into_iter().map(|(name, _)| name).collect();
    let listed: Vec<_> = links.iter().map(|link| link.split_once('/').unwrap().0).collect();
    assert_eq!(listed, names);
    for link in links {
        assert!(handlers().join(link).is_file(), "{link}");
    }
}

#[test]
fn what_comes_back_is_compared_but_for_what_may_be_anything() {
    let calls = calls_in("\"\"\"A.\n\n$ curl a\nb\nc\n$ curl d\n\"\"\"\ne\n");
    let call = |command: &str, answer: &str| Call { command: command.into(), answer: answer.into() };
    assert_eq!(calls, [call("curl a", "b\nc\n"), call("curl d", "")]);
    for (pattern, text) in
        [("a", "a"), ("…", ""), ("a…", "ab"), ("a…c…e", "abcde"), ("…c", "abc"), ("a…a", "aa")]
    {
        assert!(is_like(pattern, text), "{pattern} {text}");
    }
    for (pattern, text) in [("a", "ab"), ("a…c", "abd"), ("a…a", "a"), ("b…", "ab"), ("a…c…b", "abc")]
    {
        assert!(!is_like(pattern, text), "{pattern} {text}");
    }
}
