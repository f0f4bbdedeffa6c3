//! Packages that lie in the packages directory, and what a function sees of them.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Archive, Expect, Place, Program, Setup, Worker, requires, until, write_folder};

/// Where a package's files go. `ol worker init` names no other place.
fn put(ol_dir: &std::path::Path, package: &str, files: &[(&str, &str)]) {
    write_folder(&ol_dir.join("packages").join(package).join("files"), files);
}

/// A worker that finds these packages, each a module that knows its version.
fn with(packages: &[(&str, &str, &str)]) -> Setup {
    let setup = Worker::with_config(json!({}));
    for (package, module, text) in packages {
        put(&setup.ol_dir(), package, &[(module, text)]);
    }
    setup
}

const TELLS: &str = "
import sys
def f(event):
    try:
        module = __import__(event)
    except ImportError as error:
        return str(error)
    return [module.VERSION, sorted(path for path in sys.path if path.startswith('/packages'))]
";

#[test]
fn a_function_can_import_what_it_asked_for_and_nothing_else() {
    requires!(Root);
    let worker = with(&[
        ("one==1.0", "one.py", "VERSION = 1"),
        ("one==2.0", "one.py", "VERSION = 2"),
        ("other==1", "other.py", "VERSION = 'other'"),
    ])
    .start();
    worker.install("first", &[("f.py", TELLS), ("requirements.txt", "One==1.0  # the old one\n")]);
    worker.install("second", &[("f.py", TELLS), ("requirements.txt", "one[extra]==2.0\n")]);
    worker.install("neither", &[("f.py", TELLS)]);
    assert_eq!(worker.call("first", "\"one\"").ok(), json!([1, ["/packages/one==1.0/files"]]));
    assert_eq!(worker.call("second", "\"one\"").ok(), json!([2, ["/packages/one==2.0/files"]]));
    assert_eq!(worker.call("neither", "\"one\"").ok(), json!("No module named 'one'"));
    assert_eq!(worker.call("first", "\"other\"").ok(), json!("No module named 'other'"));
    worker.finish();
}

#[test]
fn without_an_installer_a_missing_package_is_named_with_the_command_that_brings_it_and_noticed_when_it_comes()
{
    requires!(Root);
    let worker = Worker::with_config(json!({ "installer": "/nowhere/uv" })).start();
    worker.log_says("packages cannot be installed");
    let files = [("f.py", TELLS), ("requirements.txt", "late==1\n")];
    let said = worker.upload("wants", Archive::of(&files));
    assert_eq!(said.status.as_u16(), 400);
    let directory: PathBuf = worker.ol_dir().join("packages/late==1/files");
    let text = said.text();
    assert!(text.contains("late==1 is not installed on this worker"), "{text}");
    assert!(
        text.contains(&format!("pip install --no-deps --target '{}' late==1", directory.display())),
        "{text}"
    );
    // In the registry it is looked for again when somebody asks.
    worker.drop_in("wants", &files);
    until("the function is refused", || worker.call("wants", "\"late\"").text().contains("is not installed"));
    put(worker.ol_dir(), "late==1", &[("late.py", "VERSION = 1")]);
    until("the package is noticed", || worker.call("wants", "\"late\"").status.as_u16() == 200);
    assert_eq!(worker.call("wants", "\"late\"").ok()[0], json!(1));
    worker.finish();
}

const STARTED: &str = "started a zygote of packages";

/// A package that takes long to import, and a function that tells which import it lives on.
const COSTLY: &str = "
import random, time
time.sleep(0.1)
IMPORTED = random.random()
VERSION = 1
";
const USES: &str = "
import costly, random, sys
def f(event):
    strangers = [name for name in ('other', 'broken') if name in sys.modules]
    return {'imported': costly.IMPORTED, 'random': random.random(), 'strangers': strangers, 'path': sys.path[:2]}
";

fn forks(worker: &Worker) -> u64 {
    worker.status_json()["worker"]["counters"]["package_zygote_forks"].as_u64().expect("it is counted")
}

#[test]
fn the_second_function_that_needs_a_package_finds_it_imported() {
    requires!(Root);
    let worker = with(&[("costly==1", "costly.py", COSTLY), ("other==1", "other.py", "VERSION = 1")]).start();
    for at in 0..4 {
        worker.install(&format!("f{at}"), &[("f.py", USES), ("requirements.txt", "costly==1\n")]);
    }
    let first = worker.call("f0", "{}").ok();
    worker.log_says(STARTED);
    let others: Vec<_> = (1..4).map(|at| worker.call(&format!("f{at}"), "{}").ok()).collect();
    assert_ne!(others[0]["imported"], first["imported"]);
    for other in &others {
        assert_eq!(other["imported"], others[0]["imported"], "one import for all of them");
        assert_eq!(other["strangers"], json!([]));
        assert_eq!(other["path"][0], "/packages/costly==1/files");
    }
    assert_ne!(others[0]["random"], others[1]["random"], "siblings draw other numbers");
    assert!(forks(&worker) >= 3);
    // Who did not ask for it does not get it.
    worker.install("plain", &[("f.py", TELLS)]);
    assert_eq!(worker.call("plain", "\"costly\"").ok(), json!("No module named 'costly'"));
    worker.finish();
}

/// A function that has other Pythons use its package, and tells which they have found.
const CHILDREN: &str = "
import costly, multiprocessing, os, subprocess, sys
def f(event):
    ran = subprocess.run([sys.executable, '-m', 'costly'], cwd='/tmp', capture_output=True, text=True)
    spawned = multiprocessing.get_context('spawn').Process(target=costly.write, args=('/tmp/spawned',))
    spawned.start()
    spawned.join()
    with open('/tmp/spawned') as file:
        return {'ran': ran.stdout.strip() + ran.stderr, 'spawned': file.read(), 'imported': costly.IMPORTED}
";

#[test]
fn another_python_that_a_function_starts_finds_its_packages_however_its_sandbox_was_made() {
    requires!(Root);
    let costly = format!(
        "{COSTLY}
def write(path):
    with open(path, 'w') as file:
        file.write(f'costly {{VERSION}}')
if __name__ == '__main__':
    print('costly', VERSION)
"
    );
    let own = ("own/costly.py", "VERSION = 'own'\nprint('costly', VERSION)");
    let worker = with(&[("costly==1", "costly.py", &costly)]).start();
    let files = [("f.py", CHILDREN), ("requirements.txt", "costly==1\n")];
    let found = |name: &str, ran: &str| {
        let said = worker.call(name, "{}").ok();
        assert_eq!((&said["ran"], &said["spawned"]), (&json!(ran), &json!("costly 1")), "{name}: {said}");
        said["imported"].clone()
    };
    worker.install("plain", &files);
    let first = found("plain", "costly 1");
    worker.log_says(STARTED);
    worker.install("forked", &files);
    assert_ne!(found("forked", "costly 1"), first, "it lives on the zygote's import");
    let named = "environment:\n  PYTHONPATH: /handler/own\n";
    worker.install("named", &[files[0], files[1], own, ("ol.yaml", named)]);
    found("named", "costly own");
    worker.install("fresh", &[files[0], files[1], ("ol.yaml", "reuse-sandbox: false\n")]);
    let forks_of_its_own = || worker.status_json()["worker"]["counters"]["lambda_zygote_forks"].as_u64();
    until("forks of the function's own zygote", || {
        found("fresh", "costly 1");
        forks_of_its_own() > Some(1)
    });
    worker.finish();
}

#[test]
fn a_package_finds_what_it_uses_where_that_is_there_whatever_was_imported_for_others() {
    requires!(Root);
    let outer = "
import time
time.sleep(0.1)
try:
    import inner
except ImportError:
    inner = None
VERSION = inner is not None
";
    let metadata =
        "Metadata-Version: 2.1\nName: outer\nProvides-Extra: all\nRequires-Dist: inner>=1 ; extra == 'all'\n";
    let setup = Worker::with_config(json!({}));
    put(&setup.ol_dir(), "outer==1", &[("outer.py", outer), ("outer-1.dist-info/METADATA", metadata)]);
    put(&setup.ol_dir(), "inner==1", &[("inner.py", "")]);
    let worker = setup.start();
    // Imported when it is loaded, or nobody sees that this takes long, and there is no zygote of it.
    let code = format!("import outer\n{TELLS}");
    // As many as make a zygote worth it, with and without.
    let call_all = |kind: &str, requirements: &str, expected: bool| {
        for at in 0..4 {
            let name = format!("{kind}{at}");
            worker.install(&name, &[("f.py", &code), ("requirements.txt", requirements)]);
            assert_eq!(worker.call(&name, "\"outer\"").ok()[0], json!(expected), "{name}");
        }
    };
    call_all("without", "outer==1\n", false);
    worker.log_says(STARTED);
    // Its zygote has been without the other, and these are not.
    call_all("with", "outer==1\ninner==1\n", true);
    let began = |holds: &str| worker.log().lines().any(|line| line.contains(STARTED) && line.contains(holds));
    until("there is a zygote of both", || began("inner==1, outer==1"));
    call_all("with_more", "inner==1\nouter==1\n", true);
    call_all("without_more", "outer==1\n", false);
    worker.finish();
}

#[test]
fn a_drawn_tree_is_built_level_by_level_and_functions_get_the_node_that_suits_them() {
    requires!(Root);
    let names = ["one", "two", "three", "four"];
    // Each a level deeper; the fourth is one too many for the uids, and is forked from where there is room.
    let tree = names.iter().rev().fold(json!(null), |below, name| {
        let children = if below.is_null() { json!([]) } else { json!([below]) };
        json!({ "packages": [name], "children": children })
    });
    let setup = Worker::with_config(json!({ "import_cache_tree": { "packages": [], "children": [tree] } }));
    for name in names {
        put(&setup.ol_dir(), &format!("{name}==1"), &[(&format!("{name}.py"), COSTLY)]);
    }
    let worker = setup.start();
    until("all zygotes", || worker.log().matches(STARTED).count() == names.len());
    let code = "
import sys
def f(event): return sorted(name for name in sys.modules if name in ('one', 'two', 'three', 'four'))
";
    for n in 0..=names.len() {
        let requirements: String = names[..n].iter().map(|name| format!("{name}==1\n")).collect();
        worker.install(&format!("f{n}"), &[("f.py", code), ("requirements.txt", &requirements)]);
        let mut expected = names[..n].to_vec();
        expected.sort_unstable();
        assert_eq!(
            worker.call(&format!("f{n}"), "{}").ok(),
            json!(expected),
            "imported by nobody but the zygote"
        );
    }
    assert!(forks(&worker) >= 4);
    worker.finish();
}

#[test]
fn a_package_that_fails_crashes_or_starts_threads_takes_no_other_down() {
    requires!(Root);
    let faults = [
        ("raises", "import costly\n1/0"),
        ("leaves", "import sys\nsys.exit(3)"),
        ("crashes", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"),
        ("threads", "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"),
        ("shares", "import mmap\nAREA = mmap.mmap(-1, 4096)"),
        ("locks", "import multiprocessing\nLOCK = multiprocessing.Lock()"),
        ("opens", "DATA = open(__file__)"),
        (
            "hides",
            "import mmap\nfrom _ol_runtime import sprout\nsprout.unforkable = lambda: None\nAREA = mmap.mmap(-1, 4096)",
        ),
    ];
    for (name, fault) in faults {
        let tree = json!({ "packages": [], "children": [{ "packages": [name, "costly"], "children": [] }] });
        let setup = Worker::with_config(json!({ "import_cache_tree": tree }));
        put(&setup.ol_dir(), "costly==1", &[("costly.py", COSTLY)]);
        put(&setup.ol_dir(), &format!("{name}==1"), &[(&format!("{name}.py"), fault)]);
        let worker = setup.start();
        worker.log_says(STARTED);
        let failed = "a package could not be imported into a zygote";
        let is_named = |line: &&str| line.contains(failed) && line.contains(&format!("{name}==1"));
        assert!(worker.log().lines().find(is_named).is_some(), "{}", worker.log());
        let holds = worker.log().lines().rfind(|line| line.contains(STARTED)).map(str::to_owned);
        assert!(holds.is_some_and(|line| !line.contains(name)), "{}", worker.log());
        worker.install("f", &[("f.py", USES), ("requirements.txt", "costly==1\n")]);
        worker.call("f", "{}").ok();
        assert!(forks(&worker) >= 1, "{name}");
        worker.finish();
    }
}

/// Two packages, of which one needs the other and wants to be in whatever is forked from its zygote.
fn with_evil(deed: &str) -> Worker {
    let setup = Worker::with_config(json!({}));
    put(&setup.ol_dir(), "benign==1", &[("benign.py", COSTLY)]);
    let metadata = ("evil-1.dist-info/METADATA", "Name: evil\nVersion: 1\nRequires-Dist: benign\n");
    let evil = format!("import sys, time\nsys.evil_was_here = True\ntime.sleep(0.3)\n{deed}");
    put(&setup.ol_dir(), "evil==1", &[("evil.py", evil.as_str()), metadata]);
    setup.start()
}

/// A function that does not ask for the evil one, and what it finds.
const VICTIM: &str = "
import sys, benign
def f(event): return [benign.IMPORTED, hasattr(sys, 'evil_was_here')]
";

#[test]
fn whoever_is_forked_from_a_zygote_has_asked_for_all_that_ever_ran_in_it() {
    requires!(Root);
    // One fails, one lies about what it holds, and one says of another one that it has failed.
    let fails = "raise ImportError('an optional dependency is missing')";
    let lies = "
import _ol_runtime.runtime as runtime
really = runtime.ready
def ready(channel, wants_head, entry, unforkable=None, **more):
    if 'held' in more:
        more['held'] = {path: ms for path, ms in more['held'].items() if 'evil' not in path}
        more['failed'] = {'/packages/evil==1/files': 'never'}
    really(channel, wants_head, entry, unforkable, **more)
runtime.ready = ready
";
    let accuses = "
from _ol_runtime.load import LoadFailed
class Accused(LoadFailed):
    def __str__(self): return '/packages/benign==1/files: ImportError: benign is broken'
import _ol_runtime.plant as plant
plant.private_bytes = lambda: (_ for _ in ()).throw(Accused())
";
    for (deed, is_left_out) in [(fails, true), (lies, false), (accuses, true)] {
        let worker = with_evil(deed);
        let evil = "import benign\ndef f(event): return 1";
        worker.install("attacker", &[("f.py", evil), ("requirements.txt", "benign==1\nevil==1\n")]);
        worker.call("attacker", "{}").ok();
        worker.log_says(STARTED);
        let mut at = 0;
        let mut imports = Vec::new();
        until("victims that share an import", || {
            let name = format!("victim{at}");
            at += 1;
            worker.install(&name, &[("f.py", VICTIM), ("requirements.txt", "benign==1\n")]);
            let said = worker.call(&name, "{}").ok();
            assert_eq!(said[1], json!(false), "evil was there before {name}: {}", worker.log());
            let is_shared = imports.contains(&said[0]);
            imports.push(said[0].clone());
            is_shared
        });
        let log = worker.log();
        let names = |words: &str, package: &str| {
            log.lines().any(|line| line.contains(words) && line.contains(package))
        };
        let failed = "a package could not be imported into a zygote";
        assert_eq!(names(failed, "package: evil==1"), is_left_out, "{log}");
        assert!(!names(failed, "package: benign==1"), "what is said of it by another is not believed: {log}");
        worker.finish();
    }
}

#[test]
fn a_zygote_of_packages_that_is_killed_is_missed_by_nobody_and_comes_back() {
    requires!(Root);
    let worker = with(&[("costly==1", "costly.py", COSTLY)]).start();
    let call = |at: usize| {
        let name = format!("f{at}");
        worker.install(&name, &[("f.py", USES), ("requirements.txt", "costly==1\n")]);
        worker.call(&name, "{}").ok()
    };
    call(0);
    worker.log_says(STARTED);
    for process in worker.zygote_processes() {
        process.signal(nix::sys::signal::Signal::SIGKILL);
    }
    let before = forks(&worker);
    (1..4).for_each(|at| drop(call(at)));
    let mut at = 4;
    until("forks of a new zygote", || {
        call(at);
        at += 1;
        forks(&worker) > before
    });
    worker.finish();
}

#[test]
fn a_lambdas_zygote_is_forked_from_the_one_of_its_packages() {
    requires!(Root);
    let worker = with(&[("costly==1", "costly.py", COSTLY)]).start();
    let code = format!("import time\ntime.sleep(0.05)\n{USES}");
    let files =
        [("f.py", code.as_str()), ("requirements.txt", "costly==1\n"), ("ol.yaml", "reuse-sandbox: false")];
    worker.install("early", &files);
    worker.call("early", "{}").ok();
    worker.log_says(STARTED);
    worker.install("late", &files);
    let first = worker.call("late", "{}").ok();
    worker.log_says("started a lambda's zygote");
    until("a fork of the lambda's zygote", || {
        let said = worker.call("late", "{}").ok();
        assert_eq!(said["imported"], first["imported"], "nobody imports the package again");
        worker.status_json()["worker"]["counters"]["lambda_zygote_forks"].as_u64() > Some(0)
    });
    worker.finish();
}

#[test]
fn a_malformed_tree_is_an_error_at_start_that_names_the_node() {
    requires!(Root);
    let place = Place::new();
    let dir = place.join(&format!("{}-ol", place.token()));
    Program::ol().words("worker init -p").arg(&dir).succeed();
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config["import_cache_tree"] = json!({ "packages": [], "children": [{ "packages": ["a>1"] }] });
    config["worker_port"] = json!(0);
    fs::write(&path, config.to_string()).unwrap();
    let node = "import_cache_tree: node children[0] (a>1) has 'a>1' for a package";
    // In the background, too, the exit code says that it is the configuration's fault.
    for words in ["worker up -p", "worker up -d -p"] {
        let refused = Program::ol().words(words).arg(&dir).fail();
        assert!(
            refused.stderr.contains(node) && refused.stderr.contains("(line 1, column "),
            "{}",
            refused.stderr
        );
        assert_eq!(refused.code, Some(78), "{words}: {}", refused.stderr);
    }
}

#[test]
fn a_package_sees_no_function_and_has_power_over_none_but_those_that_asked_for_it() {
    requires!(Root);
    let spy = "
import os, time
time.sleep(0.1)
def look():
    with open('/proc/self/status') as file:
        status = {name: value.strip() for name, _, value in (line.partition(':') for line in file)}
    return {
        'capabilities': status['CapEff'], 'bounding': status['CapBnd'], 'filtered': status['Seccomp'],
        'uid': os.getuid(), 'processes': sorted(name for name in os.listdir('/proc') if name.isdigit()),
        'secret': os.environ.get('SECRET'), 'handler': os.listdir('/handler'),
    }
IMPORT = look()
";
    let code = "import spy\ndef f(event): return {'import': spy.IMPORT, 'now': spy.look()}";
    let worker = with(&[("spy==1", "spy.py", spy)]).start();
    let call = |name: &str| {
        let yaml = "environment:\n  SECRET: mine\n";
        worker.install(name, &[("f.py", code), ("requirements.txt", "spy==1\n"), ("ol.yaml", yaml)]);
        worker.call(name, "{}").ok()
    };
    assert_eq!(call("first")["import"]["secret"], "mine", "imported by itself");
    worker.log_says(STARTED);
    let said = call("second");
    let (import, now) = (&said["import"], &said["now"]);
    assert_eq!(import["secret"], Value::Null);
    assert_eq!(import["handler"], json!([]));
    // setgid, setuid, setpcap, sys_chroot, sys_admin, in a user namespace of its own: what forking into shells takes.
    assert_eq!((&import["capabilities"], &import["filtered"]), (&json!("00000000002401c0"), &json!("2")));
    assert_ne!(import["uid"], json!(0));
    assert_eq!(import["processes"].as_array().map(Vec::len), Some(2), "its init and itself: {import}");
    assert_eq!(
        (&now["capabilities"], &now["bounding"]),
        (&json!("0000000000000000"), &json!("0000000000000000"))
    );
    assert_eq!((&now["secret"], &now["filtered"]), (&json!("mine"), &json!("2")));
    worker.finish();
}
