//! The Python client, which talks to a worker as a program of its users does.

use std::path::{Path, PathBuf};

use crate::support::{Place, Program, Worker, patience, requires};

fn client() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("quickstart/python-client")
}

#[test]
fn the_python_client_does_what_it_says_with_and_without_async() {
    requires!(Root);
    let worker = Worker::start();
    let text =
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'no JSON\\n']";
    // Longer than the test waits: only the client's going ends it.
    let sleeps = [
        ("f.py", "import time\ndef f(event): time.sleep(10000)"),
        ("ol.yaml", "limits: {runtime_sec: 3600}"),
    ];
    worker
        .install_f("echo", "def f(event): return event")
        .install_f("text", text)
        .install_f("target", "def f(event, context): return context.target")
        .install_f("fails", "def f(event): return 1 / 0")
        .install("sleeps", &sleeps)
        .install("sleeps-alone", &sleeps);
    Program::at("/usr/bin/python3")
        .words("-B -W error -m unittest -q test_client")
        .within(&client().join("tests"))
        .env("PYTHONPATH", client().join("src"))
        .env("OL_ADDRESS", format!("localhost:{}", worker.port()))
        .env("OL_PATIENCE_S", patience(30).as_secs().to_string())
        .succeed();
    worker.finish();
}

#[test]
fn the_types_of_the_python_client_are_whole() {
    requires!(Program("mypy"));
    let place = Place::new();
    // Python's own, not those of the user who runs the tests.
    Program::at("/usr/bin/mypy").arg("--cache-dir").arg(place.join("cache")).within(&client()).succeed();
}
