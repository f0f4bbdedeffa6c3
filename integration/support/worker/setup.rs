//! What a worker is to be like, and its start.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;

use openlambda::client::Client;
use serde_json::{Value, json};

use super::{Environment, Worker};
use crate::support::footprint::mounts;
use crate::support::wait::{block_on, eventually, patience};
use crate::support::{Files, Place, Process, Program, write_folder};

/// A worker that is not started yet.
#[derive(Debug)]
pub(crate) struct Setup {
    place: Place,
    ol_dir: PathBuf,
    config: Value,
    /// Shell commands before the worker, in a mount namespace that it has to itself.
    prelude: Option<String>,
    environment: Environment,
}

impl Setup {
    /// Lays `over` over the configuration, field by field.
    pub(crate) fn with_config(mut self, over: Value) -> Self {
        merge(&mut self.config, over);
        self
    }

    /// Runs these shell commands before the worker, in a mount namespace of the worker's own. `$OL` is its directory.
    pub(crate) fn after(mut self, commands: &str) -> Self {
        self.prelude = Some(commands.to_owned());
        self
    }

    /// Adds to the worker's environment.
    pub(crate) fn with_environment(mut self, variables: &[(&str, String)]) -> Self {
        self.environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self
    }

    /// Puts a function into the registry before the worker starts.
    pub(crate) fn with(self, name: &str, files: Files<'_>) -> Self {
        write_folder(&self.ol_dir().join("registry").join(name), files);
        self
    }

    /// The directory that `init` is about to make, or has made.
    pub(crate) fn ol_dir(&self) -> PathBuf {
        self.ol_dir.clone()
    }

    fn at(place: Place) -> Self {
        let ol_dir = place.join(&format!("{}-ol", place.token()));
        Self::in_dir(place, ol_dir)
    }

    fn in_dir(place: Place, ol_dir: PathBuf) -> Self {
        let setup = Self {
            place,
            ol_dir,
            config: json!({ "worker_port": 0 }),
            prelude: None,
            environment: Vec::new(),
        };
        Program::ol().words("worker init -p").arg(setup.ol_dir()).env("TMPDIR", setup.place.tmp()).succeed();
        setup
    }

    /// Starts it in the foreground, as a service manager would, and waits until it answers.
    #[track_caller]
    pub(crate) fn start(self) -> Worker {
        let ol_dir = self.ol_dir();
        let path = ol_dir.join("config.json");
        let text = fs::read_to_string(&path).expect("init writes a configuration");
        let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
        merge(&mut config, self.config);
        fs::write(&path, config.to_string()).expect("it can be changed");
        let mounts = mounts(&self.place.token());
        let child = spawn(&self.place, &ol_dir, self.prelude.as_deref(), &self.environment);
        let process = Process::of(child.id().cast_signed()).expect("it was just started");
        let mut worker = Worker {
            place: self.place,
            ol_dir,
            environment: self.environment,
            child: Some(child),
            others: Vec::new(),
            process,
            port: 0,
            footprint: Mutex::default(),
            mounts,
        };
        worker.wait_until_ready();
        worker
    }
}

impl Worker {
    /// One with the ordinary configuration, on a port that the kernel chooses.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Setup::at(Place::new()).start()
    }

    /// One with other settings: `Worker::with_config(json!({…})).start()`.
    pub(crate) fn with_config(over: Value) -> Setup {
        Setup::at(Place::new()).with_config(over)
    }

    /// One that has functions from the beginning: `Worker::with("name", &[("f.py", "…")]).start()`.
    pub(crate) fn with(name: &str, files: Files<'_>) -> Setup {
        Setup::at(Place::new()).with(name, files)
    }

    /// One whose directory has a path of so many bytes and some more.
    pub(crate) fn deep_down(n_bytes: usize) -> Setup {
        let place = Place::new();
        let name = format!("{}-{}", place.token(), "d".repeat(100));
        let mut ol_dir = place.path().to_owned();
        while ol_dir.as_os_str().len() < n_bytes {
            ol_dir.push(&name);
        }
        fs::create_dir_all(ol_dir.parent().expect("it is below its place")).expect("directories can be made");
        Setup::in_dir(place, ol_dir)
    }

    /// One that has room for so many MiB only.
    pub(crate) fn on_small_disk(mb: u32) -> Setup {
        Setup::at(Place::on_small_disk(mb))
    }

    /// One that a command has started in the background, in a directory below `place`.
    #[track_caller]
    pub(crate) fn in_background(place: Place, ol_dir: impl Into<PathBuf>, pid: i32) -> Self {
        let process = Process::of(pid).expect("the worker that was just started runs");
        let mounts = mounts(&place.token());
        let mut worker = Self {
            place,
            ol_dir: ol_dir.into(),
            environment: Vec::new(),
            child: None,
            others: Vec::new(),
            process,
            port: 0,
            footprint: Mutex::default(),
            mounts,
        };
        worker.port = worker.process.listening_ports().first().copied().expect("it listens");
        worker.footprint();
        worker
    }

    /// Starts it again in the same directory, after it has ended.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "it has not ended");
        let child = spawn(&self.place, &self.ol_dir, None, &self.environment);
        self.process = Process::of(child.id().cast_signed()).expect("it was just started");
        self.child = Some(child);
        self.wait_until_ready();
    }

    #[track_caller]
    pub(super) fn wait_until_ready(&mut self) {
        let path = self.worker_dir().join("ol.sock");
        let client = Client::unix(&path).with_deadlines(patience(5), patience(5));
        let pid = self.process.pid.to_string();
        eventually("the worker is ready", || {
            let child = self.child.as_mut().expect("it runs");
            if let Some(status) = child.try_wait().expect("it is our child") {
                let log = fs::read_to_string(self.ol_dir.join("worker.out")).unwrap_or_default();
                panic!("the worker ended while starting ({status}):\n{log}");
            }
            block_on(client.get("/pid")).ok().filter(|reply| reply.text() == pid)
        });
        self.port = eventually("the worker listens", || self.process.listening_ports().first().copied());
        self.footprint();
    }
}

pub(super) fn spawn(place: &Place, ol_dir: &Path, prelude: Option<&str>, environment: &Environment) -> Child {
    spawn_with(place, ol_dir, prelude, environment, &[])
}

pub(super) fn spawn_with(
    place: &Place,
    ol_dir: &Path,
    prelude: Option<&str>,
    environment: &Environment,
    args: &[&str],
) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(ol_dir.join("worker.out"))
        .expect("a log can be opened");
    let errors = log.try_clone().expect("a descriptor can be copied");
    let program = match prelude {
        None => Program::ol(),
        Some(commands) => Program::at("unshare")
            .words("--mount --propagation private -- sh -ec")
            .arg(format!("{commands}\nexec \"$0\" \"$@\""))
            .arg(Program::ol_path())
            .env("OL", ol_dir),
    };
    let program = environment.iter().fold(program, |program, (name, value)| program.env(name, value));
    let mut command = program
        .words("worker up -p")
        .arg(ol_dir)
        .args(args)
        .env("TMPDIR", place.tmp())
        .within(place.path())
        .into_command();
    command.stdout(log).stderr(errors).spawn().expect("ol can be started")
}

fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                merge(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}
