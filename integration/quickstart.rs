//! The classic transcript, word for word, with `bin/` as `make all` leaves it; and the other commands of
//! `admin`. In a network of its own, where nobody else has port 8080.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{Place, Program, Shell, Worker, requires};

/// `bin/` and `quickstart/`, as in a checkout.
fn checkout() -> Place {
    let place = Place::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::create_dir(place.join("bin")).unwrap();
    for program in [Program::ol_path(), Program::admin_path()] {
        let name = program.file_name().unwrap();
        // Copied, for `admin` looks for `ol` beside itself.
        fs::copy(&program, place.join("bin").join(name)).unwrap();
    }
    symlink(root.join("quickstart"), place.join("quickstart")).unwrap();
    place
}

fn pid_in(started: &str) -> i32 {
    let rest = started.split_once("pid ").unwrap_or_else(|| panic!("no pid in {started:?}")).1;
    rest.split_once(',').unwrap().0.parse().unwrap()
}

#[test]
fn the_classic_transcript_works_word_for_word() {
    requires!(Root, Program("unshare"), Program("ip"), Program("curl"));
    let place = checkout();
    let here = place.path().canonicalize().unwrap().display().to_string();
    let mut shell = Shell::in_own_network(place.path());

    let said = shell.types("./bin/admin new -cluster my-cluster");
    assert!(
        said.starts_with(&format!("Cluster Directory: {here}/my-cluster\n\nWorker Defaults:\n")),
        "{said}"
    );

    let said = shell.types("./bin/admin workers -cluster=my-cluster");
    let pid = pid_in(&said);
    assert_eq!(
        said,
        format!("Started worker: pid {pid}, port 8080, log at {here}/my-cluster/logs/worker-0.out\n")
    );
    let worker = Worker::in_background(place, here.clone() + "/my-cluster/workers/worker-0", pid);

    let said = shell.types("./bin/admin status -cluster=my-cluster");
    assert_eq!(
        said,
        "Worker Pings:\n  http://localhost:8080/status => ready [200 OK]\n\nCluster containers:\n\n"
    );

    shell.types("cp -r ./quickstart/handlers/hello ./my-cluster/registry/hello");
    let call = r#"curl -sS -X POST localhost:8080/runLambda/hello -d '{"name": "Alice"}'"#;
    assert_eq!(shell.types(call), r#""Hello, Alice!""#);

    let said = shell.types("./bin/admin status -cluster=my-cluster");
    let row: Vec<&str> = said.lines().last().unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[1], row[8]), ("hello", "ready", "1"), "{said}");

    // "To create your own lambda named <NAME>, write your code in …/<NAME>/lambda_func.py, then invoke it".
    shell.types("mkdir my-cluster/registry/twice");
    shell.types("echo 'def handler(event): return event * 2' >my-cluster/registry/twice/lambda_func.py");
    assert_eq!(shell.types("curl -sS -X POST localhost:8080/runLambda/twice -d '21'"), "42");

    assert_eq!(
        shell.types("./bin/admin kill -cluster=my-cluster"),
        format!("Kill worker process with PID {pid}\n")
    );
    let (_, code) = shell.tries("curl -sS -X POST localhost:8080/runLambda/hello");
    assert_eq!(code, 7, "curl: nobody listens there any more");
    worker.check_machine();
    shell.types("rm -r my-cluster");
    worker.finish();
}

#[test]
fn a_cluster_may_have_several_workers_that_share_their_functions() {
    requires!(Root, Program("unshare"), Program("ip"), Program("curl"));
    let place = checkout();
    let here = place.path().canonicalize().unwrap().display().to_string();
    let mut shell = Shell::in_own_network(place.path());
    shell.types("./bin/admin new -cluster=c");
    let said = shell.types("./bin/admin workers -cluster=c -p 9000 -n 2");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("port 9000") && lines[1].contains("port 9001"), "{said}");
    let first = Worker::in_background(place, here.clone() + "/c/workers/worker-0", pid_in(lines[0]));
    let second = Worker::in_background(Place::new(), here + "/c/workers/worker-1", pid_in(lines[1]));

    assert_eq!(
        shell.types("./bin/admin upload -cluster=c -handler hello -file quickstart/handlers/hello"),
        "Uploaded hello\n"
    );
    for port in [9000, 9001] {
        let call = format!("curl -sS -X POST localhost:{port}/run/hello -d '{{\"name\": \"Bob\"}}'");
        assert_eq!(shell.types(&call), r#""Hello, Bob!""#);
    }
    let said = shell.types("./bin/admin status -cluster=c");
    assert!(said.contains("  http://localhost:9000/status => ready [200 OK]\n  http://localhost:9001/status => ready [200 OK]\n"), "{said}");
    assert!(said.contains("worker-0") && said.contains("worker-1"), "{said}");
    let (said, code) = shell.tries("./bin/admin workers -cluster=c -p 9000");
    assert!(code == 1 && said.contains("already running"), "{said}");

    // The others go on when one is killed, and the command says who is silent.
    shell.types(&format!("kill -9 {}", second.process().pid));
    crate::support::until("it is dead", || !second.process().is_alive());
    let (said, code) = shell.tries("./bin/admin status -cluster=c");
    assert!(code == 1 && said.contains("1 of 2 workers do not answer"), "{said}");
    shell.types("./bin/admin kill -cluster=c");
    assert_eq!(shell.types("./bin/admin status -cluster=c"), "Worker Pings:\n\nCluster containers:\n\n");
    second.ol("worker force-cleanup").succeed();
    second.finish();
    first.finish();
}

#[test]
fn settings_of_a_cluster_hold_for_the_workers_that_are_started_then() {
    requires!(Root, Program("unshare"), Program("ip"), Program("curl"));
    let place = checkout();
    let here = place.path().canonicalize().unwrap().display().to_string();
    let mut shell = Shell::in_own_network(place.path());
    shell.types("./bin/admin new -cluster=c");
    let (said, code) = shell.tries(r#"./bin/admin setconf -cluster=c '{"worker_prot": 1}'"#);
    assert!(code == 78 && said.contains("worker_prot"), "{said}");
    shell.types(r#"./bin/admin setconf -cluster=c '{"limits": {"runtime_sec": 1}, "worker_port": "8123"}'"#);
    let said = shell.types("./bin/admin workers -cluster=c");
    assert!(said.contains("port 8123"), "{said}");
    let worker = Worker::in_background(place, here + "/c/workers/worker-0", pid_in(&said));
    shell.types("mkdir c/registry/slow");
    shell.types("echo 'def f(event): import time; time.sleep(1000)' >c/registry/slow/f.py");
    assert!(shell.types("curl -sS -X POST localhost:8123/run/slow").contains("within 1 s"));
    worker.finish();
}

#[test]
fn a_worker_may_be_run_in_the_foreground_with_a_configuration_of_ones_own() {
    requires!(Root, Program("unshare"), Program("ip"), Program("curl"));
    let place = checkout();
    let here = place.path().canonicalize().unwrap().display().to_string();
    let mut shell = Shell::in_own_network(place.path());
    let dir = format!("{here}/{}", place.token());
    let config =
        serde_json::json!({"worker_dir": dir, "worker_port": "8080", "registry": format!("{here}/reg")});
    fs::write(place.join("config.json"), config.to_string()).unwrap();
    let pid = shell
        .types("./bin/admin worker-exec -c config.json >exec.out 2>&1 & echo $!")
        .trim()
        .parse()
        .unwrap();
    crate::support::until("it is ready", || Path::new(&dir).join("worker.pid").exists());
    let worker = Worker::in_background(place, dir, pid);
    shell.types("mkdir reg/one; echo 'def f(event): return 1' >reg/one/f.py");
    assert_eq!(shell.types("curl -sS -X POST localhost:8080/run/one"), "1");
    shell.types(&format!("kill {pid}"));
    crate::support::until("it has ended", || !worker.process().is_alive());
    worker.finish();
}
