//! What is served, what is refused, and that a refusal leaves nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use actors::world::{Code, Network, RegistryError};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use slog::{Discard, o};
use std::io::{Read, Write};

use super::*;

mod uploads;

#[test]
fn a_registry_that_is_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let worker = Config::from_json(&json!({ "registry": file }), Path::new("config.json"), dir.path());
    let opened = LocalRegistry::open(&worker.unwrap().config, Logger::root(Discard, o!()));
    let text = opened.err().unwrap().to_string();
    assert_eq!(
        text,
        format!(
            "registry: is {}, which is not a directory; write the path of the directory that functions lie in",
            file.display()
        )
    );
}

pub(super) struct Scene {
    _dir: tempfile::TempDir,
    pub(super) worker: Config,
    pub(super) registry: LocalRegistry,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self::with(json!({}))
    }

    pub(super) fn with(config: serde_json::Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let worker = Config::from_json(&config, Path::new("config.json"), dir.path()).unwrap().config;
        let registry = LocalRegistry::open(&worker, Logger::root(Discard, o!())).unwrap();
        Self { _dir: dir, worker, registry }
    }

    pub(super) fn path(&self, inside: &str) -> PathBuf {
        self.registry.root().join(inside)
    }

    /// Make files, and the folders they are in; long enough ago to be settled.
    pub(super) fn put(&self, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    pub(super) fn load(&self, name: &str) -> Result<Option<FunctionCode>, RegistryError> {
        self.registry.load_blocking(&name.parse().unwrap(), None)
    }

    pub(super) fn loaded(&self, name: &str) -> FunctionCode {
        self.load(name).unwrap().unwrap()
    }

    pub(super) fn refused(&self, name: &str) -> String {
        let error = self.load(name).unwrap_err();
        assert!(self.generations().is_empty(), "nothing is left of what is refused");
        error.to_string()
    }

    pub(super) fn generations(&self) -> Vec<String> {
        names_in(&self.worker.worker_dir.join("generations"))
    }

    pub(super) fn in_registry(&self) -> Vec<String> {
        names_in(self.registry.root())
    }
}

pub(super) fn names_in(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

pub(super) fn tar_gz(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    gzip(&tar.into_inner().unwrap())
}

#[test]
fn a_folder_is_copied_with_plain_modes() {
    let scene = Scene::new();
    scene.put(&[("hi/f.py", "x = 1"), ("hi/lib/run.sh", "#!"), ("hi/requirements.txt", "a==1 # why\n")]);
    fs::set_permissions(scene.path("hi/lib/run.sh"), fs::Permissions::from_mode(0o4710)).unwrap();
    fs::set_permissions(scene.path("hi/f.py"), fs::Permissions::from_mode(0o666)).unwrap();
    let code = scene.loaded("hi");
    assert_eq!(fs::read_to_string(code.dir().join("f.py")).unwrap(), "x = 1");
    let mode = |path: &str| fs::metadata(code.dir().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("lib"), mode("lib/run.sh"), mode("f.py")), (0o755, 0o755, 0o755, 0o644));
    assert_eq!((code.entry_file(), code.packages()), ("f.py", ["a==1".to_owned()].as_slice()));
    assert_eq!(code.version().len(), 12);
    let name = code.dir().file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with(&format!("hi@{}-", code.version())), "{name}");
    assert_eq!(scene.generations(), [name]);
}

#[test]
fn a_program_can_be_executed_whatever_its_mode_was_and_wants_no_packages() {
    let scene = Scene::new();
    scene.put(&[("hi/requirements.txt", "a==1"), ("hi/lib/f.bin", "data")]);
    // No text, in which one could look for names of packages.
    fs::write(scene.path("hi/f.bin"), b"\x7fELF\xff").unwrap();
    let code = scene.loaded("hi");
    let mode = |path: &str| fs::metadata(code.dir().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("f.bin"), mode("lib/f.bin"), mode("requirements.txt")), (0o755, 0o644, 0o644));
    assert!(code.packages().is_empty() && code.is_settled());

    // The same program is the same version.
    let version = code.version().to_owned();
    fs::set_permissions(scene.path("hi/f.bin"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(scene.loaded("hi").version(), version);
}

#[test]
fn the_files_go_with_the_last_clone() {
    let scene = Scene::new();
    scene.put(&[("hi/f.py", "")]);
    let code = scene.loaded("hi");
    let clone = code.clone();
    drop(code);
    assert!(clone.dir().join("f.py").is_file());
    drop(clone);
    assert!(scene.generations().is_empty());
}

#[test]
fn a_folder_and_an_archive_of_the_same_files_are_the_same_version() {
    let scene = Scene::new();
    let files = [("f.py", "def f(event): return 1"), ("lib/a.py", "a"), ("ol.yaml", "reuse-sandbox: false")];
    for (path, text) in files {
        scene.put(&[(&format!("one/{path}"), text)]);
    }
    fs::write(scene.path("two.tar.gz"), tar_gz(&files)).unwrap();
    let (one, two) = (scene.loaded("one"), scene.loaded("two"));
    assert_eq!(one.version(), two.version());
    assert!(!two.reuse());
}

#[test]
fn the_same_content_is_not_copied_again() {
    let scene = Scene::new();
    scene.put(&[("hi/f.py", "1")]);
    fs::write(scene.path("up.tar.gz"), tar_gz(&[("f.py", "1")])).unwrap();
    for name in ["hi", "up"] {
        let first = scene.loaded(name);
        let name = name.parse().unwrap();
        // Whatever the clock says: once by content, once by the look of it.
        let second = scene.registry.load_blocking(&name, Some(first.clone())).unwrap().unwrap();
        assert_eq!(first.dir(), second.dir());
    }
    let old = scene.loaded("hi");
    scene.put(&[("hi/f.py", "2")]);
    let new = scene.registry.load_blocking(&"hi".parse().unwrap(), Some(old.clone())).unwrap().unwrap();
    assert_ne!(old.version(), new.version());
    assert_eq!(fs::read_to_string(old.dir().join("f.py")).unwrap(), "1", "what runs keeps its code");
}

#[test]
fn an_unchanged_look_is_enough() {
    let scene = Scene::new();
    scene.put(&[("hi/f.py", "1")]);
    let code = scene.loaded("hi");
    code.set_fingerprint(Some([7; 32]));
    assert!(code.looks_like(Some([7; 32])));
    assert!(!code.looks_like(Some([8; 32])));
    code.set_fingerprint(None);
    assert!(!code.looks_like(None), "no fingerprint is like no other");
}

#[test]
fn what_is_no_file_is_refused_by_its_path() {
    let scene = Scene::new();
    scene.put(&[("link/f.py", ""), ("fifo/f.py", ""), ("sock/f.py", ""), ("dirlink/f.py", "")]);
    symlink("/etc/passwd", scene.path("link/passwd")).unwrap();
    symlink("/etc", scene.path("dirlink/etc")).unwrap();
    let fifo = scene.path("fifo/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(scene.path("sock/s")).unwrap();
    for (name, words) in [
        ("link", "'passwd' is a symbolic link"),
        ("dirlink", "'etc' is a symbolic link"),
        ("fifo", "'pipe' is a named pipe"),
        ("sock", "'s' is a socket"),
    ] {
        let text = scene.refused(name);
        assert!(text.contains(words) && text.contains(name), "{text}");
    }
}

#[test]
fn links_in_the_place_of_functions_are_refused() {
    let scene = Scene::new();
    scene.put(&[("real/f.py", "")]);
    symlink(scene.path("real"), scene.path("folder")).unwrap();
    fs::write(scene.worker.ol_dir.join("x.tar.gz"), tar_gz(&[("f.py", "")])).unwrap();
    symlink(scene.worker.ol_dir.join("x.tar.gz"), scene.path("archive.tar.gz")).unwrap();
    assert!(scene.refused("folder").contains("symbolic link"));
    assert!(scene.refused("archive").contains("symbolic link"));
    let names: Vec<_> = scene.registry.list().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["archive", "folder", "real"]);
}

#[test]
fn one_form_at_a_time() {
    let scene = Scene::new();
    scene.put(&[("hi/f.py", ""), ("two.py", "")]);
    let archive = tar_gz(&[("f.py", "")]);
    fs::write(scene.path("hi.tar.gz"), &archive).unwrap();
    assert_eq!(
        scene.refused("hi"),
        "there are a folder 'hi' and a file 'hi.tar.gz' in the registry; keep one of them"
    );
    fs::write(scene.path("two.tar.gz"), &archive).unwrap();
    assert!(scene.refused("two").contains("a file 'two.tar.gz' and a file 'two.py'"));
    scene.put(&[("two/f.py", "")]);
    assert!(scene.refused("two").contains("a folder 'two' and a file 'two.tar.gz' and a file 'two.py'"));
}

#[test]
fn a_python_file_is_a_function_and_its_comments_say_what_it_needs() {
    let scene = Scene::new();
    let code = "# ol-install: parso, numpy\n# ol-import: numpy\n\ndef f(event): return 1\n";
    scene.put(&[("one.py", code), ("two/f.py", code)]);
    let (one, two) = (scene.loaded("one"), scene.loaded("two"));
    assert_eq!(one.entry_file(), "f.py");
    assert_eq!(one.packages(), ["parso", "numpy"]);
    assert_eq!(fs::read_to_string(one.dir().join("f.py")).unwrap(), code);
    assert_eq!(names_in(one.dir()), ["f.py"]);
    assert_eq!(one.version(), two.version(), "in whatever form");
    // What is the same is not copied again, by content or by its look.
    let name = "one".parse().unwrap();
    for _ in 0..2 {
        let again = scene.registry.load_blocking(&name, Some(one.clone())).unwrap().unwrap();
        assert_eq!(again.dir(), one.dir());
    }
    scene.put(&[("one.py", "def f(event): return 2\n")]);
    let new = scene.registry.load_blocking(&name, Some(one.clone())).unwrap().unwrap();
    assert_ne!(new.version(), one.version());
}

#[test]
fn a_python_file_that_may_be_half_written_is_not_served() {
    let scene = Scene::new();
    let name = "hi".parse().unwrap();
    let began = std::time::Instant::now();
    scene.put(&[("hi.py", "def f(event):")]);
    let loaded = loop {
        match scene.registry.load_settled_blocking(&name, None) {
            Err(RegistryError::Unsettled(_)) => std::thread::sleep(Duration::from_millis(1)),
            loaded => break loaded,
        }
        assert!(began.elapsed() < Duration::from_secs(10), "it settles");
    };
    assert!(loaded.unwrap().is_some());
    // A file's time is that of the kernel's last tick, of which there are a hundred in a second at least.
    assert!(began.elapsed() + Duration::from_millis(10) >= FILE_SETTLES, "it was served when it was young");
    let of_an_hour = scene.registry.load_of_age(&name, None, Duration::from_secs(60 * 60));
    assert!(matches!(of_an_hour, Err(RegistryError::Unsettled(_))), "{of_an_hour:?}");
    assert!(scene.load("hi").unwrap().is_some(), "who does not serve it may have it");
}

#[test]
fn what_is_called_like_a_python_file_and_is_none_is_refused_or_something_else() {
    let scene = Scene::new();
    scene.put(&[("real.py", ""), ("folder.py/f.py", "1"), (".hidden.py", ""), ("other.pyc", "")]);
    symlink(scene.path("real.py"), scene.path("link.py")).unwrap();
    let fifo = scene.path("pipe.py");
    let (kind, mode) = (rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600));
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
    let names: Vec<_> = scene.registry.list().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["folder.py", "link", "pipe", "real"]);
    assert!(scene.refused("link").contains("'link.py' is a symbolic link; a function is a folder"));
    assert!(scene.refused("pipe").contains("'pipe.py' is a named pipe"));
    for name in ["link.py", "pipe.py", "real.py", "folder", "other", "other.pyc", "hidden"] {
        assert!(scene.load(name).unwrap().is_none(), "{name}");
    }
    assert!(scene.load("folder.py").unwrap().is_some());
}

#[test]
fn unknown_names_are_nothing() {
    let scene = Scene::new();
    scene.put(&[("README.md", ""), ("a.tar.gz.tmp/f.py", "")]);
    for name in ["nope", "README.md", "a.tar.gz", "a.tar.gz.tmp", "x.tar.gz"] {
        assert!(scene.load(name).unwrap().is_none(), "{name}");
    }
}

#[test]
fn only_what_can_be_a_function_is_listed() {
    let scene = Scene::new();
    scene.put(&[
        ("b/f.py", ""),
        (".hidden/f.py", ""),
        ("bad name/f.py", ""),
        ("old~/f.py", ""),
        ("notes.txt", ""),
    ]);
    fs::write(scene.path("a.tar.gz"), "").unwrap();
    fs::write(scene.path("a.tar.gz.tmp"), "").unwrap();
    fs::write(scene.path(".tar.gz"), "").unwrap();
    let scan = scene.registry.scan_blocking().unwrap();
    assert_eq!(scan.names, ["a".parse().unwrap(), "b".parse().unwrap()]);
    assert_eq!(scan.passed_over, ["bad name", "old~"]);
}

#[test]
fn bounds_are_kept() {
    let scene = Scene::with(json!({ "max_code_mb": 1 }));
    scene.put(&[("big/f.py", ""), ("big/data", &"x".repeat(1024 * 1024 + 1)), ("deep/f.py", "")]);
    fs::create_dir_all(scene.path("deep").join("d/".repeat(DEPTH_MAX + 1))).unwrap();
    assert!(scene.refused("big").contains("larger than 1 MiB"));
    assert!(scene.refused("deep").contains("directories deep"));
    let many = Bounds { bytes: 1, n_entries: 3, depth: 3 };
    let mut target = Target::hashing(many);
    for n in 0..3 {
        target.file(Path::new(&n.to_string()), false, 0, &mut io::empty()).unwrap();
    }
    assert!(matches!(
        target.file(Path::new("3"), false, 0, &mut io::empty()),
        Err(ContentError::Entries { .. })
    ));
}

#[test]
fn the_entry_is_found() {
    let scene = Scene::new();
    scene.put(&[
        ("old/lambda_func.py", ""),
        ("both/lambda_func.py", ""),
        ("both/f.py", ""),
        ("own/ol.yaml", "environment: {OL_ENTRY_FILE: src/app.py}"),
        ("own/src/app.py", ""),
        ("env/.env", "OL_ENTRY_FILE=main.py\nB=2"),
        ("env/ol.yaml", "environment: {B: 1}"),
        ("env/main.py", ""),
        ("native/f.bin", ""),
        ("mixed/f.bin", ""),
        ("mixed/lambda_func.py", ""),
        ("chosen/f.bin", ""),
        ("chosen/f.py", ""),
        ("chosen/ol.yaml", "environment: {OL_ENTRY_FILE: f.bin}"),
    ]);
    for (name, entry, imports) in [
        ("old", "lambda_func.py", true),
        ("both", "f.py", true),
        ("own", "src/app.py", true),
        ("env", "main.py", true),
        ("native", "f.bin", false),
        ("mixed", "lambda_func.py", true),
        ("chosen", "f.bin", false),
    ] {
        let code = scene.loaded(name);
        assert_eq!((code.entry_file(), code.imports()), (entry, imports));
    }
    assert_eq!(scene.loaded("env").config().environment["B"], "1", "ol.yaml wins over .env");
}

#[test]
fn what_is_no_function_is_refused_with_what_to_mend() {
    let scene = Scene::new();
    scene.put(&[
        ("none/x.py", ""),
        ("nested/inner/f.py", ""),
        ("wrapped/built/f.bin", ""),
        ("gone/ol.yaml", "environment: {OL_ENTRY_FILE: a.py}"),
        ("unset/.env", "OL_ENTRY_FILE=b.py"),
        ("out/ol.yaml", "environment: {OL_ENTRY_FILE: ../../etc/passwd}"),
        ("yaml/f.py", ""),
        ("yaml/ol.yaml", "triggerz: 1"),
        ("env/f.py", ""),
        ("env/.env", "what is this"),
        ("mem/f.py", ""),
        ("mem/ol.yaml", "limits: {mem_mb: 1000000}"),
        ("net/f.py", ""),
        ("net/ol.yaml", "network: host"),
        ("dir/f.py/x", ""),
        ("dir2/f.py", ""),
        ("dir2/ol.yaml/x", ""),
        ("packages/f.py", ""),
        ("packages/packages.txt", "numpy"),
    ]);
    for (name, words) in [
        ("none", "no f.py, lambda_func.py or f.bin"),
        ("nested", "'inner'"),
        ("wrapped", "'built'"),
        (
            "gone",
            "ol.yaml: environment.OL_ENTRY_FILE: is 'a.py', and there is no such file in the function (line 1, column 30)",
        ),
        ("out", "inside of the function (line 1, column 30)"),
        ("unset", ".env: OL_ENTRY_FILE is 'b.py', and there is no such file"),
        ("yaml", "triggerz"),
        ("env", ".env: line 1"),
        ("mem", "limits.mem_mb: is 1000000, and this worker gives one sandbox at most"),
        ("net", "network_max of this worker's config.json allows (line 1, column 10)"),
        ("dir", "no f.py"),
        ("dir2", "is a directory"),
        ("packages", "missing separator"),
    ] {
        let text = scene.refused(name);
        assert!(text.contains(words), "{name}: {text}");
    }
}

#[test]
fn a_function_has_its_own_limits_and_network() {
    let scene = Scene::with(json!({ "network": "outbound", "limits": { "min_warm": 3 } }));
    scene.put(&[
        ("plain/f.py", ""),
        ("own/f.py", ""),
        ("own/ol.yaml", "limits: {mem_mb: 100, max_instances: 2, tmp_mb: 7}\nnetwork: none"),
    ]);
    let (plain, own) = (scene.loaded("plain"), scene.loaded("own"));
    assert_eq!((plain.class().network, plain.sandbox_limits().tmp_mb), (Network::Outbound, 64));
    assert_eq!((own.class().network, own.sandbox_limits().tmp_mb), (Network::None, 7));
    assert_eq!((own.limits().max_instances, own.limits().min_warm), (2, 2));
    assert_eq!((own.sandbox_limits().mem_mb, own.sandbox_limits().procs), (100, 10));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_served() {
    let scene = Scene::new();
    scene.put(&[("hi/f.py", "12345")]);
    let folder = File::open(scene.path("hi")).unwrap();
    let bounds = scene.registry.bounds();
    let listing = Listing::of(&folder, bounds).unwrap();
    let changed = || {
        let copied = listing.copy(&folder, &mut Target::hashing(bounds));
        assert!(matches!(copied, Err(FolderError::Changed { .. })), "{copied:?}");
    };
    scene.put(&[("hi/f.py", "123456")]);
    changed();
    fs::remove_file(scene.path("hi/f.py")).unwrap();
    changed();
    symlink("/etc/passwd", scene.path("hi/f.py")).unwrap();
    changed();
    fs::remove_file(scene.path("hi/f.py")).unwrap();
    let fifo = scene.path("hi/f.py");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .unwrap();
    changed();
}

#[test]
fn an_archive_that_is_half_written_may_be_whole_later() {
    let scene = Scene::new();
    let whole = tar_gz(&[("f.py", &"x".repeat(10_000))]);
    fs::write(scene.path("hi.tar.gz"), &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(scene.load("hi"), Err(RegistryError::Unsettled(_))));
    fs::write(scene.path("hi.tar.gz"), "").unwrap();
    assert!(matches!(scene.load("hi"), Err(RegistryError::Unsettled(_))));
    fs::write(scene.path("hi.tar.gz"), &whole).unwrap();
    assert!(scene.load("hi").unwrap().is_some());
    assert!(scene.generations().is_empty(), "the code was dropped at once");
}

#[test]
fn a_worker_that_cannot_write_says_so_and_does_not_blame_the_function() {
    let scene = Scene::new();
    scene.put(&[("hi/f.py", "")]);
    fs::remove_dir_all(scene.worker.worker_dir.join("generations")).unwrap();
    assert!(matches!(scene.load("hi"), Err(RegistryError::Unavailable(_))));
    fs::remove_dir_all(scene.registry.root()).unwrap();
    assert!(matches!(scene.load("hi"), Err(RegistryError::Unavailable(_))));
    assert!(matches!(scene.registry.list(), Err(RegistryError::Unavailable(_))));
}

#[test]
fn what_an_earlier_run_left_is_swept() {
    let scene = Scene::new();
    let generations = scene.worker.worker_dir.join("generations");
    fs::create_dir_all(generations.join(".tmp-x-1/sub")).unwrap();
    fs::create_dir_all(generations.join("hi@0123456789ab-1")).unwrap();
    scene.put(&[
        (".upload-0a-1", "half"),
        (".deleted-0a-2-hi/f.py", ""),
        (".upload-0a-3", "for lost"),
        (".replaced-0a-3-lost/f.py", "old"),
        (".replaced-0a-4-done/f.py", "old"),
        (".upload-0a-5", "for short"),
        (".replaced-py-0a-5-short", "old"),
        (".replaced-py-0a-6-done", "old"),
        (".replaced-0a-7-removed-since/f.py", "old"),
    ]);
    fs::write(scene.path("done.tar.gz"), tar_gz(&[("f.py", "new")])).unwrap();
    LocalRegistry::open(&scene.worker, Logger::root(Discard, o!())).unwrap();
    assert!(scene.generations().is_empty());
    assert_eq!(scene.in_registry(), ["done.tar.gz", "lost", "short.py"], "what was not replaced comes back");
}

#[tokio::test]
async fn a_name_that_is_passed_over_is_reported_once_while_it_is_there() {
    let scene = Scene::new();
    scene.put(&[("hi/f.py", ""), ("bad name/f.py", "")]);
    let reported = || scene.registry.0.reported.lock().unwrap().iter().cloned().collect::<Vec<_>>();
    for _ in 0..2 {
        assert_eq!(scene.registry.clone().scan_and_report().await.unwrap(), ["hi".parse().unwrap()]);
        assert_eq!(reported(), ["bad name"]);
    }
    fs::remove_dir_all(scene.path("bad name")).unwrap();
    scene.registry.clone().scan_and_report().await.unwrap();
    assert!(reported().is_empty());
}
