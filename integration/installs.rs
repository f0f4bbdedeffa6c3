//! Packages that come from an index, in an installer sandbox that sees nothing else.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Archive, Expect, Index, Package, Setup, Worker, requires, until, within, write_folder};

/// A function that says which version of a module it has.
const TELLS: &str = "
import importlib
def f(event):
    try:
        return importlib.import_module(event).VERSION
    except ImportError as error:
        return str(error)
";

/// A worker that installs from this index.
fn with(index: &Index) -> Setup {
    Worker::with_config(json!({ "pip_mirror": index.url() }))
}

fn function(requirements: &str) -> [(&str, &str); 2] {
    [("f.py", TELLS), ("requirements.txt", requirements)]
}

#[test]
fn a_first_call_waits_for_as_long_as_its_packages_take_and_a_worker_that_ends_waits_for_none() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    index.put(&Package::new("slow", "1.0").built_by("import time\ntime.sleep(3)"));
    index.put(&Package::new("endless", "1.0").built_by("import time\ntime.sleep(600)"));
    let mut worker = with(&index).start();
    worker.drop_in("waits", &function("slow==1.0\n"));
    let [one, other] = [(); 2].map(|()| worker.call_aside("waits", "\"slow\""));
    // Nobody else is kept waiting by them.
    worker.install_f("other", "def f(event): return 'here'");
    assert_eq!(worker.call("other", "{}").ok(), json!("here"));
    assert_eq!(worker.call("nobody", "{}").status.as_u16(), 404);
    for call in [one, other] {
        assert_eq!(call.join().unwrap().expect("it is answered").ok(), json!("1.0"));
    }
    worker.drop_in("waits_on", &function("endless==1.0\n"));
    let call = worker.call_aside("waits_on", "\"endless\"");
    until("it is being installed", || worker.status_json()["worker"]["packages"]["running"] == 1);
    let mut connection = worker.connect();
    connection.send(b"POST /run/waits_on HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
    connection.abandon();
    worker.signal(Signal::SIGTERM);
    let reply = call.join().unwrap().expect("it is answered");
    assert_eq!(reply.status.as_u16(), 503, "{}", reply.text());
    assert!(reply.text().contains("are being installed"), "{}", reply.text());
    assert!(worker.wait_for_end().success());
}

/// What the deploy is answered when it fails.
fn refused(worker: &Worker, name: &str, requirements: &str) -> String {
    let reply = worker.upload(name, Archive::of(&function(requirements)));
    assert!(reply.status.as_u16() >= 400, "{} {}", reply.status, reply.text());
    reply.text()
}

fn counter(worker: &Worker, name: &str) -> u64 {
    worker.status_json()["worker"]["counters"][name].as_u64().expect("it is counted")
}

/// What is in the packages directory, but for the file that workers tell one another in what they need.
fn installed(worker: &Worker) -> Vec<String> {
    let entries = fs::read_dir(worker.ol_dir().join("packages")).expect("there is the directory");
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != ".in-use");
    names.sort();
    names
}

#[test]
fn ten_functions_that_need_the_same_new_packages_cost_one_install_of_each() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    index.put(&Package::new("alpha", "1.0").needs("beta>=1"));
    index.put(&Package::new("beta", "1.5"));
    let worker = with(&index).start();
    for at in 0..10 {
        // As a person who copies a folder, and knows nothing of locks.
        worker.drop_in(&format!("f{at}"), &function("alpha  # whichever\n"));
    }
    worker.install_f("other", "def f(event): return 'not kept waiting'");
    assert_eq!(worker.call("other", "{}").ok(), json!("not kept waiting"));
    for at in 0..10 {
        let name = format!("f{at}");
        assert_eq!(worker.call(&name, "\"alpha\"").ok(), json!("1.0"));
        assert_eq!(worker.call(&name, "\"beta\"").ok(), json!("1.5"));
    }
    assert_eq!(counter(&worker, "packages_installed"), 2);
    assert_eq!(installed(&worker), ["alpha==1.0", "beta==1.5"]);
    let files = worker.ol_dir().join("packages/alpha==1.0/files");
    let compiled = fs::read_dir(files.join("__pycache__")).expect("it is compiled").count();
    assert_eq!(compiled, 1);
    let stats: Value = worker.get("/stats").ok();
    assert_eq!(stats["pull-package.cnt"], 2);
    worker.finish();
}

#[test]
fn a_package_counts_as_pulled_with_the_first_call_that_needs_it() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    index.put(&Package::new("alpha", "1.0").needs("beta>=1"));
    index.put(&Package::new("beta", "1.5"));
    index.put(&Package::new("gamma", "1.0"));
    let mut worker = with(&index).start();
    // As in 2019 to 2022.
    let code = |package: &str| format!("# ol-install: {package}\n{TELLS}");
    for (name, package) in [("one", "alpha"), ("two", "alpha"), ("three", "gamma")] {
        fs::write(worker.registry().join(format!("{name}.py")), code(package)).unwrap();
    }
    let pulled = |worker: &Worker| {
        let stats: Value = worker.get("/stats").ok();
        stats.get("pull-package.cnt").and_then(Value::as_u64).unwrap_or(0)
    };
    until("all is installed", || counter(&worker, "packages_installed") == 3);
    for _ in 0..2 {
        assert_eq!(pulled(&worker), 0);
        for (name, package, n) in [("one", "alpha", 2), ("two", "alpha", 2), ("three", "gamma", 3)] {
            until("it is served", || worker.call(name, json!(package)).status.as_u16() == 200);
            assert_eq!(pulled(&worker), n, "{name}");
        }
        // Those that are on the disk already are pulled once more, by another worker.
        worker.kill();
        worker.start_again();
    }
    worker.finish();
}

#[test]
fn the_same_code_gets_the_same_packages_until_somebody_asks_for_others() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    index.put(&Package::new("alpha", "1.0"));
    let mut worker = with(&index).start();
    worker.install("old", &function("alpha\n"));
    assert_eq!(worker.call("old", "\"alpha\"").ok(), json!("1.0"));
    index.put(&Package::new("alpha", "2.0"));
    // Other code that asks for the same.
    let code = format!("# changed\n{TELLS}");
    worker.install("old", &[("f.py", &code), ("requirements.txt", "alpha\n")]);
    assert_eq!(worker.call("old", "\"alpha\"").ok(), json!("1.0"));
    worker.install("new", &function("alpha\n"));
    assert_eq!(worker.call("new", "\"alpha\"").ok(), json!("2.0"));
    worker.kill();
    worker.start_again();
    assert_eq!(worker.call("old", "\"alpha\"").ok(), json!("1.0"), "a restart changes nothing");
    let shown = worker.ol("admin show old").succeed();
    assert!(shown.contains("alpha==1.0") && shown.contains("asks for"), "{shown}");

    assert_eq!(worker.ol("admin update old").succeed(), "- alpha==1.0\n+ alpha==2.0\n");
    assert_eq!(worker.call("old", "\"alpha\"").ok(), json!("2.0"));
    assert!(worker.ol("admin update old").succeed().contains("the newest packages already"));
    worker.finish();
}

#[test]
fn requirements_are_what_pip_takes_them_for() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    for version in ["1.0", "1.5", "2.0"] {
        index.put(&Package::new("alpha", version).extra("more", "beta"));
    }
    let hash = index.put(&Package::new("beta", "1.0"));
    index.put(&Package::new("gamma", "1.0").needs("none ; python_version < '3'"));
    let worker = with(&index).start();
    let files = [
        ("f.py", TELLS),
        (
            "requirements.txt",
            "# the whole\n-r more/base.txt\nnone ; sys_platform == 'win32'\nGamma \\\n  >=1  # a range\n",
        ),
        ("more/base.txt", "alpha[more]>=1\n-c ../pins.txt\n"),
        ("pins.txt", "alpha<2\n"),
    ];
    worker.install("all", &files);
    for (module, version) in [("alpha", "1.5"), ("beta", "1.0"), ("gamma", "1.0")] {
        assert_eq!(worker.call("all", format!("\"{module}\"")).ok(), json!(version));
    }
    worker.install("hashed", &function(&format!("beta==1.0 --hash=sha256:{hash}\n")));
    assert_eq!(worker.call("hashed", "\"beta\"").ok(), json!("1.0"));
    assert_eq!(
        worker.call("hashed", "\"alpha\"").ok(),
        json!("No module named 'alpha'"),
        "it did not ask for it"
    );
    worker.install("source", &[("f.py", TELLS), ("requirements.in", "alpha==1.0\n")]);
    assert_eq!(worker.call("source", "\"alpha\"").ok(), json!("1.0"));
    worker.install("older", &[("f.py", TELLS), ("packages.txt", "alpha:alpha\n")]);
    assert_eq!(worker.call("older", "\"alpha\"").ok(), json!("2.0"));
    worker.install_f("header", &format!("# ol-install: gamma\n# ol-import: gamma\n{TELLS}"));
    assert_eq!(worker.call("header", "\"gamma\"").ok(), json!("1.0"));
    let before = counter(&worker, "packages_settled");
    worker.install("pinned", &function("beta==1.0\ngamma==1.0\n"));
    assert_eq!(counter(&worker, "packages_settled"), before, "nobody is asked of what is pinned and there");
    worker.finish();
}

#[test]
fn what_cannot_be_had_is_told_in_the_resolvers_words_and_the_last_good_code_goes_on() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    index.put(&Package::new("alpha", "1.0").needs("beta<2"));
    index.put(&Package::new("beta", "1.0"));
    index.put(&Package::new("beta", "2.0"));
    index.put(&Package::new("broken", "1.0").built_by("raise SystemExit('it wants what is not there')"));
    let worker = with(&index).start();
    worker.install("f", &function("beta==1.0\n"));
    let wrong = "1".repeat(64);
    for (requirements, words) in [
        ("none-such\n", "none-such was not found"),
        ("alpha\nbeta==2.0\n", "alpha"),
        ("broken\n", "it wants what is not there"),
        (&format!("beta==2.0 --hash=sha256:{wrong}\n"), "Hash mismatch"),
        (&format!("beta==1.0 --hash=sha256:{wrong}\n"), "Hash mismatch"),
        ("-e .\n", "-e is not supported"),
        ("-r ../outside.txt\n", "not inside of the function"),
        ("beta @ https://example.org/beta.whl\n", "an address is not supported"),
    ] {
        let said = refused(&worker, "f", requirements);
        assert!(said.contains(words), "{requirements}: {said}");
        assert!(said.len() < 5_000);
    }
    assert_eq!(worker.call("f", "\"beta\"").ok(), json!("1.0"));
    assert_eq!(installed(&worker), ["beta==1.0"], "nothing is left of what was refused");
    // Into the registry anybody can write.
    worker.drop_in("dropped", &function("none-such\n"));
    until("it is looked at", || worker.call("dropped", "{}").text().contains("none-such was not found"));
    assert_eq!(worker.call("dropped", "{}").status.as_u16(), 500);
    worker.finish();
}

/// Writes down what it finds out, in the module that is installed.
const SPY: &str = r#"
import json, os, socket, urllib.request
found = {}
def attempt(name, action):
    try:
        found[name] = str(action())
    except BaseException as error:
        found[name] = f'{type(error).__name__}: {error}'
def connect(address):
    with socket.create_connection(address, timeout=3) as connection:
        return f'connected to {connection.getpeername()}'
attempt('shadow', lambda: open('/etc/shadow').read())
attempt('hosts', lambda: open('/etc/hosts').read())
attempt('handler', lambda: open('/handler/install.py', 'a'))
attempt('packages', lambda: open('/packages/planted.py', 'w'))
attempt('staging', lambda: [os.listdir('/packages/' + name) for name in os.listdir('/packages') if name.startswith('.staging-')])
attempt('claims', lambda: open('/packages/.in-use').close())
attempt('worker', lambda: connect(('127.0.0.1', PORT)))
attempt('outside', lambda: connect(('192.0.2.1', 80)))
attempt('proxy', lambda: urllib.request.urlopen('http://127.0.0.1:PORT/status', timeout=3).read())
attempt('secret', lambda: os.environ.get('OL_SECRET'))
attempt('uid', os.getuid)
attempt('capabilities', lambda: [line for line in open('/proc/self/status') if line.startswith('CapEff')][0].split()[1])
attempt('processes', lambda: sorted(int(name) for name in os.listdir('/proc') if name.isdigit())[0])
with open('spy.py', 'w') as file:
    file.write('VERSION = ' + repr(found))
"#;

#[test]
fn a_package_that_attacks_while_it_is_built_sees_the_index_and_nothing_else() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    // Somebody on this machine who must not be reached: as a door of his own.
    let host = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = host.local_addr().expect("it has one").port().to_string();
    index.put(&Package::new("spy", "1.0").built_by(&SPY.replace("PORT", &port)));
    let worker = with(&index).start();
    worker.install("f", &function("spy\n"));
    let found = worker.call("f", "\"spy\"").ok();
    let text = |name: &str| found[name].as_str().unwrap_or_else(|| panic!("{name} in {found}")).to_owned();
    assert!(text("shadow").starts_with("FileNotFoundError"), "{found}");
    assert!(text("hosts").contains("localhost sandbox"), "{found}");
    for name in ["handler", "packages", "staging", "claims"] {
        assert!(
            text(name).contains("Read-only") || text(name).starts_with("PermissionError"),
            "{name}: {found}"
        );
    }
    assert!(text("worker").starts_with("ConnectionRefusedError"), "its loopback is its own: {found}");
    assert!(text("outside").starts_with("OSError"), "{found}");
    assert!(text("proxy").contains("403"), "{found}");
    assert_eq!((text("secret").as_str(), text("capabilities").as_str()), ("None", "0000000000000000"));
    assert_ne!(text("uid"), "0");
    assert_eq!(text("processes"), "1", "it sees its own");
    worker.log_says("wanted to reach somebody else than the index");
    worker.finish();
}

#[test]
fn a_build_that_runs_for_ever_or_writes_without_end_is_ended_and_said_so() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    index.put(&Package::new("endless", "1.0").built_by("while True: pass"));
    let filler = "
import time
for n in range(40):
    with open(f'/mnt/{n}', 'wb') as file: file.write(bytes(4 << 20))
time.sleep(600)";
    index.put(&Package::new("filler", "1.0").built_by(filler));
    let limits = json!({ "installer_limits": { "runtime_sec": 12 }, "packages_max_mb": 100 });
    let worker = with(&index).with_config(limits).start();
    let said = refused(&worker, "f", "endless\n");
    assert!(said.contains("not done within 12 s") && said.contains("installer_limits.runtime_sec"), "{said}");
    let said = refused(&worker, "f", "filler\n");
    assert!(said.contains("wrote more than 100 MB") && said.contains("packages_max_mb"), "{said}");
    until("nothing is left", || installed(&worker).is_empty());
    worker.finish();
}

#[test]
fn a_build_that_makes_files_without_end_or_nests_them_without_bottom_is_ended_and_said_so() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    // What comes behind so many files is not to be missed, be it large or not.
    let many = "
import os, time
for n in range(200_100):
    os.close(os.open(f'/mnt/{n}', os.O_CREAT))
time.sleep(600)";
    index.put(&Package::new("many", "1.0").built_by(many));
    // More levels than a stack has room for.
    let deep = "
import os, time
os.chdir('/mnt')
for n in range(100_000):
    os.mkdir('d')
    os.chdir('d')
time.sleep(600)";
    index.put(&Package::new("deep", "1.0").built_by(deep));
    index.put(&Package::new("plain", "1.0"));
    let limits = json!({ "installer_limits": { "runtime_sec": 120 } });
    let worker = with(&index).with_config(limits).start();
    // Not by an upload: its client would have to wait for as long as a busy machine takes for so many files.
    for (name, words) in [
        ("many", "made more than 200000 files and directories, and was ended"),
        ("deep", "so deep in each other that they cannot be looked through"),
    ] {
        worker.drop_in(name, &function(&format!("{name}\n")));
        let said =
            within(150, "it is refused", || worker.lambda(name)["message"].as_str().map(str::to_owned));
        assert!(said.contains(words), "{said}");
        fs::remove_dir_all(worker.registry().join(name)).expect("it is there");
    }
    until("nothing is left", || installed(&worker).is_empty());
    worker.install("g", &function("plain\n"));
    assert_eq!(worker.call("g", "\"plain\"").ok(), json!("1.0"));
    worker.finish();
}

#[test]
fn a_build_leaves_files_to_be_made_on_the_disk() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    let some = "
import os, time
for n in range(4_000):
    os.close(os.open(f'/mnt/{n}', os.O_CREAT))
time.sleep(600)";
    index.put(&Package::new("some", "1.0").built_by(some));
    let disk = "mkdir -p \"$OL/packages\"; mount -t tmpfs -o size=1g,nr_inodes=20000,mode=755 ol-test \"$OL/packages\"";
    let limits = json!({ "installer_limits": { "runtime_sec": 60 } });
    let worker = with(&index).with_config(limits).after(disk).start();
    let said = refused(&worker, "f", "some\n");
    assert!(said.contains("the disk is full; less than 16384 files more can be made on it"), "{said}");
    worker.finish();
}

#[test]
fn what_one_worker_needs_no_other_that_has_the_same_packages_removes() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    // 6 MB each, on the disk.
    for name in ["alpha", "beta", "gamma"] {
        index.put(&Package::new(name, "1.0").file(&format!("{name}.txt"), &"x".repeat(6 << 20)));
    }
    let limits = json!({ "packages_max_mb": 14, "standbys": 1 });
    let one = with(&index).with_config(limits.clone()).start();
    let shared = json!({ "Pkgs_dir": one.ol_dir().join("packages") });
    let other = with(&index).with_config(limits).with_config(shared).start();
    // Nobody calls it, so only its being there says that it is needed.
    one.install("a", &function("alpha\n"));
    other.install("b", &function("beta\n"));
    let said = refused(&other, "c", "gamma\n");
    assert!(said.contains("more than 14 MB (packages_max_mb)"), "{said}");
    assert_eq!(installed(&one), ["alpha==1.0", "beta==1.0"]);
    assert_eq!(one.call("a", "\"alpha\"").ok(), json!("1.0"));
    // A worker that is gone needs nothing, however it went.
    let mut one = one;
    drop(one.kill());
    other.install("c", &function("gamma\n"));
    assert_eq!(installed(&one), ["beta==1.0", "gamma==1.0"]);
    assert_eq!(other.call("c", "\"gamma\"").ok(), json!("1.0"));
    // It comes back to what the other has removed, and cannot have it while that needs the room.
    one.start_again();
    assert_ne!(one.call("a", "\"alpha\"").status.as_u16(), 200);
    other.ol("admin remove c").succeed();
    until("it is installed again", || one.call("a", "\"alpha\"").status.as_u16() == 200);
    assert_eq!(installed(&one), ["alpha==1.0", "beta==1.0"]);
    other.finish();
    one.finish();
}

#[test]
fn a_worker_that_is_killed_while_it_installs_leaves_nothing_that_looks_installed() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    index.put(
        &Package::new("slow", "1.0")
            .built_by("import os, time\nopen('/mnt/out/begun', 'w')\ntime.sleep(600)"),
    );
    let mut worker = with(&index).start();
    worker.drop_in("f", &function("slow==1.0\n"));
    let packages = worker.ol_dir().join("packages");
    let has_begun = |path: &Path| path.join("work/out/begun").exists();
    let staging = || fs::read_dir(&packages).into_iter().flatten().flatten().map(|entry| entry.path());
    until("the build has begun", || staging().any(|path| has_begun(&path)));
    let footprint = worker.kill();
    assert!(installed(&worker).iter().all(|name| name.starts_with(".staging-")), "{:?}", installed(&worker));
    drop(footprint);
    fs::remove_dir_all(worker.registry().join("f")).expect("it is there");
    worker.start_again();
    assert!(installed(&worker).is_empty(), "{:?}", installed(&worker));
    index.put(&Package::new("quick", "1.0"));
    worker.install("g", &function("quick\n"));
    assert_eq!(worker.call("g", "\"quick\"").ok(), json!("1.0"));
    worker.finish();
}

#[test]
fn an_index_that_is_away_is_said_and_tried_again_and_what_is_installed_goes_on() {
    requires!(Root, Uv, IndexServer);
    let mut index = Index::start();
    index.put(&Package::new("alpha", "1.0"));
    index.put(&Package::new("beta", "1.0"));
    let mut worker = with(&index).start();
    worker.install("f", &function("alpha\n"));
    index.go();
    worker.signal(Signal::SIGTERM);
    worker.wait_for_end();
    worker.start_again();
    assert_eq!(worker.call("f", "\"alpha\"").ok(), json!("1.0"), "nobody is asked");
    let said = worker.upload("g", Archive::of(&function("beta\n")));
    assert_eq!(said.status.as_u16(), 503, "{}", said.text());
    worker.drop_in("h", &function("beta>0\n"));
    let lambda = worker.lambda_until("is refused", "h", |lambda| lambda["state"] == "rejected");
    let message = lambda["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("the package index cannot be reached"), "{message}");
    let said = worker.call("h", "\"beta\"");
    assert_eq!(said.status.as_u16(), 503, "{}", said.text());
    index.come();
    worker.lambda_until("comes by itself", "h", |lambda| lambda["state"] == "ready");
    assert_eq!(worker.call("h", "\"beta\"").ok(), json!("1.0"));
    worker.finish();
}

#[test]
fn packages_that_no_function_needs_make_room_for_others_and_the_others_stay() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    // 6 MB each, on the disk.
    for name in ["alpha", "beta", "gamma"] {
        index.put(&Package::new(name, "1.0").file(&format!("{name}.txt"), &"x".repeat(6 << 20)));
    }
    let worker = with(&index).with_config(json!({ "packages_max_mb": 14, "standbys": 1 })).start();
    worker.install("a", &function("alpha\n")).install("b", &function("beta\n"));
    let said = refused(&worker, "c", "gamma\n");
    assert!(said.contains("more than 14 MB (packages_max_mb)"), "{said}");
    assert_eq!(installed(&worker), ["alpha==1.0", "beta==1.0"]);
    worker.ol("admin remove a").succeed();
    worker.install("c", &function("gamma\n"));
    assert_eq!(worker.call("c", "\"gamma\"").ok(), json!("1.0"));
    assert_eq!(worker.call("b", "\"beta\"").ok(), json!("1.0"));
    assert_eq!(installed(&worker), ["beta==1.0", "gamma==1.0"]);
    assert_eq!(counter(&worker, "packages_evicted"), 1);
    let status = worker.ol("worker status").succeed();
    assert!(status.contains("packages: ") && status.contains("1 removed"), "{status}");
    worker.finish();
}

/// An index of the operator's and another one that the installer may reach, both with the package in the same version; the other one's is
/// not what its `RECORD` says. Gives the hash of the right one.
fn official_and_mallorys() -> (Index, Index, String) {
    let (official, mallory) = (Index::start(), Index::start());
    let of = |who: &str| Package::new("thelib", "1.0").file("thelib.py", &format!("VERSION = '{who}'\n"));
    let hash = official.put(&of("official"));
    mallory.put(&of("mallory").claiming_to_be(&of("official")));
    (official, mallory, hash)
}

#[test]
fn what_an_authors_index_has_reaches_nobody_who_has_not_asked_for_that_index() {
    requires!(Root, Uv, IndexServer);
    let (official, mallory, hash) = official_and_mallorys();
    let worker = with(&official).with_config(json!({ "installer_hosts": [mallory.host()] })).start();
    let theirs = format!("--index-url {}/\n", mallory.url());
    worker.install("mal", &function(&format!("{theirs}thelib==1.0\n")));
    worker.install("mal_links", &function(&format!("--find-links {}/thelib/\nthelib\n", mallory.url())));
    worker.install("mal_extra", &function(&format!("--extra-index-url {}\nthelib\n", mallory.url())));
    assert_eq!(worker.call("mal", "\"thelib\"").ok(), json!("mallory"));

    let hashed = format!("thelib==1.0 --hash=sha256:{hash}\n");
    let lists = ["thelib\n", "thelib==1.0\n", "thelib>=1.0\n", &hashed];
    let victims = |round: usize| {
        for (at, list) in lists.iter().enumerate() {
            let name = format!("victim{round}_{at}");
            worker.install(&name, &function(list));
            assert_eq!(worker.call(&name, "\"thelib\"").ok(), json!("official"), "{list}");
        }
    };
    victims(0);
    // The other way round: nobody gets what the operator's index has in its place, and a hash holds for everybody.
    worker.install("mal_again", &function(&format!("{theirs}thelib>=1.0\n")));
    for name in ["mal", "mal_again"] {
        assert_eq!(worker.call(name, "\"thelib\"").ok(), json!("mallory"));
    }
    let said = refused(&worker, "mal_hashed", &format!("{theirs}{hashed}"));
    assert!(said.contains("Hash mismatch"), "{said}");
    victims(1);

    let there = installed(&worker);
    assert_eq!(there.len(), 4, "{there:?}");
    assert_eq!(there[0], "thelib==1.0");
    assert!(there[1..].iter().all(|name| name.starts_with("thelib==1.0@from-")), "{there:?}");
    let record = worker.ol_dir().join("packages/thelib==1.0/installed.json");
    let record: Value = serde_json::from_str(&fs::read_to_string(record).expect("it is there")).unwrap();
    assert_eq!(record["hashes"], json!([format!("sha256:{hash}")]));
    // The machine may have directories with packages besides.
    assert!(record["source"].as_str().is_some_and(|source| source.starts_with(&official.url())), "{record}");
    let shown = worker.ol("admin show mal").succeed();
    assert!(shown.contains(&format!("thelib==1.0 --index-url={}/", mallory.url())), "{shown}");
    worker.finish();
}

#[test]
fn a_zygote_of_a_package_serves_nobody_who_means_another_source_of_it() {
    requires!(Root, Uv, IndexServer);
    let (official, mallory, _) = official_and_mallorys();
    let tree = json!({ "packages": [], "children": [{ "packages": ["thelib==1.0"], "children": [] }] });
    let config = json!({ "installer_hosts": [mallory.host()], "import_cache_tree": tree });
    let worker = with(&official).with_config(config).start();
    worker.install("one", &function("thelib\n"));
    until("there is the zygote", || worker.get("/zygotes").text().contains("\"holds\":[\"thelib==1.0\"]"));
    worker.install("mal", &function(&format!("--index-url {}\nthelib\n", mallory.url())));
    worker.install("two", &function("thelib\n"));
    for (name, version) in [("mal", "mallory"), ("two", "official"), ("one", "official")] {
        assert_eq!(worker.call(name, "\"thelib\"").ok(), json!(version), "{name}");
    }
    worker.finish();
}

#[test]
fn what_was_put_there_by_hand_has_a_hash_when_its_files_were_compared_and_not_before() {
    requires!(Root, Uv, IndexServer);
    let index = Index::start();
    let hash = index.put(&Package::new("alpha", "1.0"));
    let worker = with(&index).start();
    let directory = worker.ol_dir().join("packages/alpha==1.0");
    let hashed = format!("alpha==1.0 --hash=sha256:{hash}\n");
    worker.install("first", &function(&hashed));
    // As if somebody had copied the files, and changed one of them.
    fs::remove_file(directory.join("installed.json")).expect("it is there");
    fs::write(directory.join("files/alpha.py"), "VERSION = 'changed'\n").expect("it can be written");
    let said = refused(&worker, "g", &hashed);
    assert!(said.contains("another archive") && said.contains("'alpha.py' is not the same"), "{said}");
    assert!(!directory.join("installed.json").exists(), "nothing is said of it that is not so");
    worker.install("plain", &function("alpha==1.0\n"));
    assert_eq!(worker.call("plain", "\"alpha\"").ok(), json!("changed"));
    fs::write(directory.join("files/alpha.py"), "VERSION = '1.0'\n").expect("it can be written");
    worker.install("g", &function(&hashed));
    let record = fs::read_to_string(directory.join("installed.json")).expect("it is written down now");
    assert!(record.contains(&hash) && record.contains(&index.url()), "{record}");
    assert_eq!(installed(&worker), ["alpha==1.0"]);
    worker.finish();
}

#[test]
fn pip_does_it_where_there_is_no_uv() {
    requires!(Root, IndexServer);
    if !Path::new("/usr/lib/python3/dist-packages/pip").exists() {
        requires!(Program("pip3"));
    }
    let index = Index::start();
    index.put(&Package::new("alpha", "1.0").needs("beta"));
    index.put(&Package::new("beta", "1.0"));
    let worker = with(&index).with_config(json!({ "installer": "pip" })).start();
    worker.install("f", &function("alpha<2\n"));
    assert_eq!(worker.call("f", "\"alpha\"").ok(), json!("1.0"));
    assert_eq!(worker.call("f", "\"beta\"").ok(), json!("1.0"));
    let said = refused(&worker, "g", "none-such\n");
    assert!(said.contains("No matching distribution found for none-such"), "{said}");
    worker.finish();
}

#[test]
fn numpy_comes_from_the_real_index() {
    requires!(Root, Uv, RealIndex);
    let worker = Worker::start();
    let code = "import numpy\ndef f(event): return float(numpy.arange(event).sum())";
    write_folder(&worker.registry().join("np"), &[("f.py", code), ("requirements.txt", "numpy\n")]);
    until("numpy is there", || worker.call("np", "10").status.as_u16() == 200);
    assert_eq!(worker.call("np", "10").ok(), json!(45.0));
    worker.finish();
}
