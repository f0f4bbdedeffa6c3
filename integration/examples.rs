//! The functions of the quickstart: each is called as the comment at its top says, and answers with what stands there.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{
    Broker, Database, Expect, Index, Network, Package, Place, Program, Worker, requires, until, within,
};

/// Stands for any text in what is expected.
const ANYTHING: char = '…';

/// Those that speak with another machine; each has a test of its own, in which there is one.
const WITH_A_NEIGHBOUR: [&str; 2] = ["kafka-db-sum", "pip-compile"];

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
    call_all(|name, folder| !has_packages(folder) && !WITH_A_NEIGHBOUR.contains(&name));
}

#[test]
fn every_example_with_packages_answers_as_its_comment_says() {
    requires!(Root, Program("curl"), Uv, RealIndex);
    call_all(|name, folder| has_packages(folder) && !WITH_A_NEIGHBOUR.contains(&name));
}

fn has_packages(folder: &Path) -> bool {
    folder.join("requirements.txt").exists()
}

fn call_all(is_meant: impl Fn(&str, &Path) -> bool) {
    let worker = Worker::start();
    for (name, folder) in examples().into_iter().filter(|(name, folder)| is_meant(name, folder)) {
        worker.ol("admin install").arg(&folder).succeed();
        call_as_it_says(&worker, &name);
    }
    worker.finish();
}

fn call_as_it_says(worker: &Worker, name: &str) {
    let here = format!("localhost:{}", worker.port());
    let calls = calls(&handlers().join(name));
    assert!(!calls.is_empty(), "{name} does not say how it is called");
    for Call { command, answer } in calls {
        let names_it = ["run", "runLambda"].iter().any(|path| command.contains(&format!("/{path}/{name}")));
        assert!(command.starts_with("curl -s") && names_it, "{name}: {command}");
        let typed = command.replace("localhost:5000", &here).replace("localhost:8080", &here);
        let said = Program::at("sh").arg("-c").arg(typed).succeed().replace('\r', "");
        assert!(is_like(answer.trim_end(), said.trim_end()), "{command}\n{said}\ninstead of\n{answer}");
    }
}

/// A function's packages, where the real index can be reached, for workers that are elsewhere.
struct Shop {
    place: Place,
}

impl Shop {
    fn with_packages_of(name: &str) -> Self {
        let shop = Self { place: Place::new() };
        let worker = Worker::with_config(shop.config()).start();
        worker.ol("admin install").arg(handlers().join(name)).succeed();
        worker.finish();
        shop
    }

    fn config(&self) -> serde_json::Value {
        json!({ "Pkgs_dir": self.place.join("packages") })
    }
}

/// Installs an example with these words of its `ol.yaml` exchanged for others.
fn install_with(worker: &Worker, name: &str, changes: &[(&str, &str)]) {
    let place = Place::new();
    let copy = place.join(name);
    Program::at("cp").arg("-r").arg(handlers().join(name)).arg(&copy).succeed();
    let path = copy.join("ol.yaml");
    let mut yaml = fs::read_to_string(&path).unwrap();
    for (old, new) in changes {
        assert!(yaml.contains(old), "{old} is not in {yaml}");
        yaml = yaml.replace(old, new);
    }
    fs::write(&path, yaml).unwrap();
    worker.ol("admin install").arg(&copy).succeed();
}

#[test]
fn records_are_summed_exactly_once_though_transactions_fail_and_the_worker_is_killed() {
    requires!(Root, Program("curl"), Program("ip"), Program("nft"), Uv, RealIndex, Database);
    let name = "kafka-db-sum";
    let shop = Shop::with_packages_of(name);
    let (machine, neighbour) = Network::machine_and_neighbour();
    machine.visit(|| {
        let database = neighbour.visit(Database::start);
        let broker = Broker::start(&[("numbers", 4)]);
        let n = 80;
        for number in 0..n {
            broker.send("numbers", number % 4, None, &json!({ "number": number }).to_string());
        }
        broker.flush();
        // Of a killed worker, so that the next one is given its partitions soon.
        let kafka = json!({ "session_timeout_sec": 3, "heartbeat_interval_sec": 1 });
        let mut worker = Worker::with_config(shop.config()).with_config(json!({ "kafka": kafka })).start();
        let changes = [
            ("localhost:9092", broker.servers()),
            ("postgresql://ol:ol@database.example:5432/ol", database.url(neighbour.address)),
            // That none fails has a chance of 1 in 10^7; that one fails ten times, so that its pauses exceed the deadline, of 1 in 10^5.
            ("\"0.3\"", "\"0.2\"".to_owned()),
        ];
        install_with(&worker, name, &changes.each_ref().map(|(old, new)| (*old, new.as_str())));
        let path = format!("/run/{name}/");
        let counted = |worker: &Worker| {
            let shown = worker.get(&path).ok();
            let counted = shown["message_count"].as_i64().unwrap();
            assert!(counted <= n.into(), "{shown}");
            counted
        };
        until("half of them are counted", || counted(&worker) >= i64::from(n / 2));
        let n_seeks = |worker: &Worker| worker.lambda(name)["kafka"][0]["seeks"].as_u64().unwrap();
        let n_seeks_before = n_seeks(&worker);
        worker.kill();
        worker.start_again();
        within(120, "all are counted", || (counted(&worker) == i64::from(n)).then_some(()));
        let offsets = json!({ "numbers/0": 19, "numbers/1": 19, "numbers/2": 19, "numbers/3": 19 });
        let sum = (0..n).sum::<i32>();
        let expected =
            json!({ "running_sum": sum, "last_offset": 19, "message_count": n, "offsets": offsets });
        let headers =
            |offset| [("X-Kafka-Topic", "numbers"), ("X-Kafka-Partition", "2"), ("X-Kafka-Offset", offset)];
        for offset in ["0", "19"] {
            let said = worker.request("POST", &path, &headers(offset), json!({ "number": 1000 })).ok();
            assert_eq!(said, json!({ "status": "counted before" }));
        }
        assert_eq!(worker.get(&path).ok(), expected);
        for record in ["{\"number\": true}", "[7]", "seven"] {
            let said = worker.request("POST", &path, &headers("20"), record).expect(400);
            assert!(said.contains("whole number"), "{said}");
        }
        assert!(n_seeks_before + n_seeks(&worker) > 0, "no transaction has failed");
        until("all is committed", || (0..4).all(|at| broker.committed(name, "numbers", at) == Some(20)));
        call_as_it_says(&worker, name);
        worker.finish();
    });
}

#[test]
fn requirements_are_compiled_in_a_sandbox_that_reaches_an_index_on_another_machine() {
    requires!(Root, Program("curl"), Program("ip"), Program("nft"), Uv, RealIndex, IndexServer);
    let name = "pip-compile";
    let shop = Shop::with_packages_of(name);
    let (machine, neighbour) = Network::machine_and_neighbour();
    machine.visit(|| {
        let index = neighbour.visit(|| Index::start_at(neighbour.address));
        index.put(&Package::new("blinker", "1.7"));
        index.put(&Package::new("blinker", "1.9"));
        index.put(&Package::new("flask", "3.1").needs("blinker>=1.8").needs("none ; python_version < '3'"));
        index.put(&Package::new("flask", "4.0"));
        index.put(&Package::new("itsdangerous", "2.2"));
        let worker = Worker::with_config(shop.config()).start();
        let (url, host) = (index.url(), format!("\"{}\"", neighbour.address));
        let changes = [
            ("# environment:", "environment:"),
            ("#   PIP_INDEX_URL: \"http://index.example:8080/simple\"", &format!("  PIP_INDEX_URL: {url}")),
            ("#   PIP_TRUSTED_HOST: \"index.example\"", &format!("  PIP_TRUSTED_HOST: {host}")),
        ];
        install_with(&worker, name, &changes);
        let settled = "blinker==1.9\n    # via flask\nflask==3.1\n    # via -r requirements.in\n";
        assert_eq!(worker.call(name, "\"flask<4\"").ok(), json!(settled));
        let said = worker.call(name, json!({ "requirements": "flask<4\nblinker<1.8" })).ok();
        let text = said["error"].as_str().unwrap();
        assert!(text.contains("conflicting dependencies") && !text.contains("Traceback"), "{text}");
        call_as_it_says(&worker, name);
        worker.finish();
    });
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
