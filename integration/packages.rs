//! Packages that lie in the packages directory, and what a function sees of them.

use std::path::PathBuf;

use serde_json::json;

use crate::support::{Expect, Setup, Worker, requires, write_folder};

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
    worker.install("second", &[("f.py", TELLS), ("requirements.txt", "one[extra]==2.0 --hash=sha256:ab\n")]);
    worker.install("neither", &[("f.py", TELLS)]);
    assert_eq!(worker.call("first", "\"one\"").ok(), json!([1, ["/packages/one==1.0/files"]]));
    assert_eq!(worker.call("second", "\"one\"").ok(), json!([2, ["/packages/one==2.0/files"]]));
    assert_eq!(worker.call("neither", "\"one\"").ok(), json!("No module named 'one'"));
    assert_eq!(worker.call("first", "\"other\"").ok(), json!("No module named 'other'"));
    worker.finish();
}

#[test]
fn a_missing_package_is_named_with_the_command_that_brings_it_and_noticed_when_it_comes() {
    requires!(Root);
    let worker = Worker::start();
    worker.install("wants", &[("f.py", TELLS), ("requirements.txt", "late==1\n")]);
    let said = worker.call("wants", "\"late\"");
    let directory: PathBuf = worker.ol_dir().join("packages/late==1/files");
    let text = said.text();
    assert!(text.contains("late==1 is not installed on this worker"), "{text}");
    assert!(
        text.contains(&format!("pip install --no-deps --target '{}' late==1", directory.display())),
        "{text}"
    );
    put(worker.ol_dir(), "late==1", &[("late.py", "VERSION = 1")]);
    assert_eq!(worker.call("wants", "\"late\"").ok()[0], json!(1));
    worker.finish();
}
