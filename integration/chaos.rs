//! A storm: random calls of random functions, while random things are killed, stopped, reloaded, uploaded, removed.
//! What must be so nevertheless is checked on every answer, and when it is over, on the machine.
//!
//! ```text
//! OL_TEST_SEED=7            the same storm again, as far as the machine's own chance allows
//! OL_CHAOS_SECONDS=3600     for so long: `make chaos SECONDS=3600`
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use openlambda::client::Method;
use serde_json::{Value, json};

use crate::support::{
    Archive, Expect, Random, Worker, block_on, eventually, number_from, replace_file, requires, until,
};

/// Callers: four for each processor of a small machine, so that something always waits.
const N_CALLERS: usize = 8;
/// Between two blows, at most.
const PAUSE_MS_MAX: u64 = 120;

/// A function of the storm, and what its answers may be.
#[derive(Debug)]
struct Target {
    name: &'static str,
    program: &'static str,
    yaml: &'static str,
    /// The newest version that the worker has said it serves.
    version: AtomicU64,
    /// Odd while it is removed, or on its way there or back.
    absence: AtomicU64,
}

const QUICK: &str = "
def f(event):
    return {'nonce': event['nonce'], 'version': VERSION}
";
const SLOW: &str = "
import time
def f(event):
    time.sleep(event['dice'] % 300 / 1000)
    return {'nonce': event['nonce'], 'version': VERSION}
";
const CRASHING: &str = "
import os
def f(event):
    dice = event['dice'] % 6
    if dice == 0:
        os.kill(os.getpid(), 9)
    if dice == 1:
        os._exit(3)
    if dice == 2:
        raise ValueError(event['nonce'])
    if dice == 3:
        os.close(3)
    return {'nonce': event['nonce'], 'version': VERSION}
";
const HUNGRY: &str = "
def f(event):
    taken = [b'x' * (1 << 20) for _ in range(event['dice'] % 70)]
    return {'nonce': event['nonce'], 'version': VERSION, 'mb': len(taken)}
";
const STREAMING: &str = "
import json, time
def app(environ, start_response):
    event = json.loads(environ['wsgi.input'].read())
    start_response('200 OK', [('content-type', 'application/json')])
    yield b'{\"filling\": \"'
    for _ in range(event['dice'] % 40):
        yield b'y' * 3000
    yield ('\", \"nonce\": \"%s\", \"version\": %d}' % (event['nonce'], VERSION)).encode()
";
const HEAVY: &str = "
import time
time.sleep(0.06)
def f(event):
    return {'nonce': event['nonce'], 'version': VERSION}
";

fn targets() -> Vec<Target> {
    let of = |name, program, yaml| Target {
        name,
        program,
        yaml,
        version: AtomicU64::new(0),
        absence: AtomicU64::new(0),
    };
    vec![
        of("quick", QUICK, ""),
        of("slow", SLOW, ""),
        of("crashing", CRASHING, ""),
        of("hungry", HUNGRY, ""),
        of("streaming", STREAMING, ""),
        of("fresh", QUICK, "reuse-sandbox: false"),
        of("heavy", HEAVY, ""),
        of("heavy-fresh", HEAVY, "reuse-sandbox: false"),
    ]
}

impl Target {
    fn archive(&self, version: u64) -> Vec<u8> {
        let code = format!("VERSION = {version}\n{}", self.program);
        Archive::of(&[("f.py", &code), ("ol.yaml", self.yaml)])
    }

    /// Uploads the next version; from the answer on nobody may get an older one.
    fn upload(&self, worker: &Worker) -> Result<(), String> {
        let version = self.version.load(Ordering::SeqCst) + 1;
        let reply =
            worker.try_request("POST", &format!("/registry/{}", self.name), &[], self.archive(version))?;
        match reply.status.as_u16() {
            200 | 201 => self.version.store(version, Ordering::SeqCst),
            // The worker may have no room for it now, or its lambda be starting again.
            503 => {}
            status => return Err(format!("an upload was answered {status} {}", reply.text())),
        }
        Ok(())
    }

    fn remove_and_bring_back(&self, worker: &Worker) -> Result<(), String> {
        self.absence.fetch_add(1, Ordering::SeqCst);
        let removed = worker.try_request("DELETE", &format!("/registry/{}", self.name), &[], "")?;
        if !matches!(removed.status.as_u16(), 200 | 404) {
            return Err(format!("a removal was answered {} {}", removed.status, removed.text()));
        }
        let back = self.upload(worker);
        self.absence.fetch_add(1, Ordering::SeqCst);
        back
    }
}

/// What the callers and the storm tell.
#[derive(Debug, Default)]
struct Record {
    answers: Mutex<BTreeMap<String, u64>>,
    blows: Mutex<BTreeMap<&'static str, u64>>,
    wrong: Mutex<Vec<String>>,
}

impl Record {
    fn count(&self, what: String) {
        *self.answers.lock().unwrap().entry(what).or_default() += 1;
    }

    fn blow(&self, what: &'static str) {
        *self.blows.lock().unwrap().entry(what).or_default() += 1;
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

#[test]
fn in_a_storm_every_call_has_one_right_answer_and_afterwards_nothing_is_lost_or_left() {
    requires!(Root);
    let mut random = Random::of_the_day();
    let length = Duration::from_secs(number_from("OL_CHAOS_SECONDS", 20));
    let worker = Worker::with_config(json!({
        "limits": {"max_instances": 4, "mem_mb": 50, "runtime_sec": 3},
        "queue": {"length": 20, "wait_ms": 5000},
        "freeze_after_ms": 50,
    }))
    .start();
    until("its standbys wait", || worker.status_json()["worker"]["standbys"] == 4);
    let before = worker.n_descriptors_and_threads();
    let targets = targets();
    for target in &targets {
        target.upload(&worker).unwrap();
    }

    let record = Record::default();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (worker, targets, record, is_over) = (&worker, &targets, &record, &is_over);
        for number in 0..N_CALLERS {
            let mut random = random.fork();
            scope.spawn(move || {
                let mut n = 0;
                while !is_over.load(Ordering::Relaxed) {
                    n += 1;
                    call_one(worker, targets, &mut random, &format!("{number}-{n}"), record);
                }
            });
        }
        let deadline = Instant::now() + length;
        while Instant::now() < deadline && record.wrong.lock().unwrap().is_empty() {
            strike(worker, targets, &mut random, record);
            thread::sleep(Duration::from_millis(random.below(PAUSE_MS_MAX)));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    eprintln!("answers: {:?}", record.answers.lock().unwrap());
    eprintln!("blows: {:?}", record.blows.lock().unwrap());
    let wrong = record.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A storm in which nothing was answered would prove nothing.
    let answers = record.answers.into_inner().unwrap();
    let right = answers.get("200").copied().unwrap_or(0);
    assert!(right > 2 * length.as_secs(), "only {right} right answers");

    is_calm_again(&worker, &targets, before);
    worker.finish();
}

/// Calls one function, and checks what comes.
fn call_one(worker: &Worker, targets: &[Target], random: &mut Random, nonce: &str, record: &Record) {
    let target = random.one_of(targets).expect("there are some");
    let event = json!({"nonce": nonce, "dice": random.below(1 << 20)});
    let (oldest, absence) = (target.version.load(Ordering::SeqCst), target.absence.load(Ordering::SeqCst));
    if random.below(20) == 0 {
        // Somebody who goes away in the middle.
        let text = event.to_string();
        let mut connection = worker.connect();
        connection.announce("POST", &format!("/run/{}", target.name), text.len());
        let end = random.below(text.len() as u64 + 1) as usize;
        let _ = connection.send_what_is_taken(&text.as_bytes()[..end]);
        connection.abandon();
        return record.count("gone".into());
    }
    let reply = match worker.try_request("POST", &format!("/run/{}", target.name), &[], event) {
        Ok(reply) => reply,
        // An answer that has begun can only be broken off.
        Err(_) if target.name == "streaming" => return record.count("broken off".into()),
        Err(error) => return record.wrong(format!("{} {nonce}: no answer: {error}", target.name)),
    };
    let status = reply.status.as_u16();
    let was_absent = absence % 2 == 1 || target.absence.load(Ordering::SeqCst) != absence;
    let is_right = match status {
        200 => {
            let said: Value = reply.json().unwrap_or_default();
            said["nonce"] == nonce && said["version"].as_u64() >= Some(oldest)
        }
        404 => was_absent,
        // A function that raised; or code that, for all that is known, ended the interpreter while it was loaded.
        500 => {
            target.name == "crashing"
                || reply.text().starts_with("the sandbox died while the function was loaded")
        }
        429 | 502 | 503 | 504 => true,
        _ => false,
    };
    if !is_right {
        record.wrong(format!("{} {nonce}, version {oldest}: {status} {}", target.name, reply.text()));
    }
    record.count(status.to_string());
}

/// One blow.
fn strike(worker: &Worker, targets: &[Target], random: &mut Random, record: &Record) {
    let target = random.one_of(targets).expect("there are some");
    let said = match random.below(100) {
        0..35 => kill(worker, random, record, |group| group.starts_with("sandbox-")),
        35..45 => kill(worker, random, record, |group| group.starts_with("zygote-")),
        // With a shim go all sandboxes: rarely, or there is nothing else to be seen.
        45..48 => kill(worker, random, record, |group| group.starts_with("family-")),
        48..56 => stop_for_a_while(worker, random, record),
        56..62 => freeze_for_a_while(worker, random, record),
        62..76 => {
            record.blow("upload");
            target.upload(worker)
        }
        76..84 => {
            record.blow("remove");
            target.remove_and_bring_back(worker)
        }
        84..90 => {
            record.blow("touch");
            touch(worker, target);
            Ok(())
        }
        90..94 => {
            record.blow("bad upload");
            bad_upload(worker, target)
        }
        _ => {
            record.blow("crash an actor");
            let path = format!("/crash/{}", target.name);
            // Whether there is one at this moment is chance.
            let _ = block_on(worker.private_client().request(Method::POST, &path, &[], ""));
            Ok(())
        }
    };
    if let Err(error) = said {
        record.wrong(error);
    }
}

fn kill(
    worker: &Worker,
    random: &mut Random,
    record: &Record,
    is_meant: impl Fn(&str) -> bool,
) -> Result<(), String> {
    let mut all = worker.processes_by_group();
    all.retain(|(path, _)| path.file_name().and_then(|name| name.to_str()).is_some_and(&is_meant));
    if let Some((path, process)) = random.one_of(&all) {
        let group = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        record.blow(match group.split('-').next() {
            Some("sandbox") => "kill in a sandbox",
            Some("zygote") => "kill a zygote",
            _ => "kill in a family",
        });
        process.signal(Signal::SIGKILL);
    }
    Ok(())
}

fn stop_for_a_while(worker: &Worker, random: &mut Random, record: &Record) -> Result<(), String> {
    let all = worker.processes_by_group();
    if let Some((_, process)) = random.one_of(&all) {
        record.blow("stop");
        process.signal(Signal::SIGSTOP);
        thread::sleep(Duration::from_millis(random.below(200)));
        process.signal(Signal::SIGCONT);
    }
    Ok(())
}

/// Behind the worker's back: it freezes and thaws the same groups.
fn freeze_for_a_while(worker: &Worker, random: &mut Random, record: &Record) -> Result<(), String> {
    let mut groups: Vec<_> = worker.processes_by_group().into_iter().map(|(path, _)| path).collect();
    groups.retain(|path| path.join("cgroup.freeze").exists());
    if let Some(path) = random.one_of(&groups) {
        record.blow("freeze");
        // It may be gone by now.
        let _ = fs::write(path.join("cgroup.freeze"), "1");
        thread::sleep(Duration::from_millis(random.below(200)));
        let _ = fs::write(path.join("cgroup.freeze"), "0");
    }
    Ok(())
}

/// The same code, written anew in the registry, as an editor does it.
fn touch(worker: &Worker, target: &Target) {
    let version = target.version.load(Ordering::SeqCst);
    let folder = worker.registry().join(target.name);
    if folder.is_dir() {
        replace_file(&folder.join("f.py"), format!("VERSION = {version}\n{}# touched\n", target.program));
    }
}

/// What is no function is refused, and the one before goes on.
fn bad_upload(worker: &Worker, target: &Target) -> Result<(), String> {
    let path = format!("/registry/{}", target.name);
    let reply = worker.try_request("POST", &path, &[], b"no archive".to_vec())?;
    match reply.status.as_u16() {
        400 | 503 => Ok(()),
        status => Err(format!("nonsense was uploaded and answered {status} {}", reply.text())),
    }
}

/// Everything serves; nothing is on loan, waits, or starts; and without functions the worker has what it began with.
fn is_calm_again(worker: &Worker, targets: &[Target], before: (usize, usize)) {
    for target in targets {
        let version = target.version.load(Ordering::SeqCst);
        let event = json!({"nonce": "calm", "dice": 5});
        let said = eventually(&format!("{} serves", target.name), || {
            let reply = worker.call(target.name, event.clone());
            (reply.status.as_u16() == 200).then(|| reply.ok())
        });
        assert_eq!(
            (&said["nonce"], said["version"].as_u64()),
            (&json!("calm"), Some(version)),
            "{}",
            target.name
        );
    }
    let mut last = Value::Null;
    until("nobody waits and nothing is on loan", || {
        last = worker.status_json();
        let lambdas = last["lambdas"].as_array().expect("a list");
        lambdas.iter().all(|lambda| ["busy", "queue", "starting"].iter().all(|field| lambda[*field] == 0))
    });
    // The figures are those of the machine: a group for each sandbox and standby, and none besides.
    let mut told = (0, 0);
    until("there is a group for each sandbox that is told of", || {
        told = (sandboxes_told_of(worker), groups(worker, "sandbox-"));
        told.0 == told.1
    });
    assert!(told.0 > 0, "{told:?}");
    for target in targets {
        worker.request("DELETE", &format!("/registry/{}", target.name), &[], "").expect(200);
    }
    until("standbys are what is left", || {
        let status = worker.status_json();
        let standbys = status["worker"]["standbys"].as_u64().unwrap_or(0);
        standbys > 0 && groups(worker, "sandbox-") as u64 == standbys + shells(&status)
    });
    // What is prepared stays prepared for a while: standbys for the next burst, zygotes of functions that may come back.
    // Each has its descriptors; a leak in a storm would be one of hundreds that nobody has.
    let mut now = (0, 0);
    until(&format!("descriptors and threads are those of what there is; before: {before:?}"), || {
        now = worker.n_descriptors_and_threads();
        let (n_sandboxes, n_zygotes) = (groups(worker, "sandbox-"), groups(worker, "zygote-"));
        // Of a shell that waits there are the namespaces and the ways into the cgroups as well.
        let n_shells = shells(&worker.status_json()) as usize;
        now.0 <= before.0 + 6 * (n_sandboxes + n_zygotes) + 10 * n_shells + 20
            && now.1 <= before.1 + n_zygotes + 8
    });
    eprintln!("descriptors and threads of the worker: {before:?} before, {now:?} afterwards");
}

fn sandboxes_told_of(worker: &Worker) -> usize {
    let status = worker.status_json();
    let lambdas = status["lambdas"].as_array().expect("a list");
    let of = |lambda: &Value| {
        ["busy", "warm", "frozen"].iter().filter_map(|field| lambda[*field].as_u64()).sum::<u64>()
    };
    let standbys = status["worker"]["standbys"].as_u64().unwrap_or(0);
    (lambdas.iter().map(of).sum::<u64>() + standbys + shells(&status)) as usize
}

fn shells(status: &Value) -> u64 {
    status["worker"]["shells"].as_u64().expect("it is told")
}

/// Groups of this kind in one hierarchy: all have the same.
fn groups(worker: &Worker, kind: &str) -> usize {
    let footprint = worker.footprint();
    let root = footprint.cgroups().next().expect("there is one");
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(kind)).count()
}
