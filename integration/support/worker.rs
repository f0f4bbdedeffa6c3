//! A worker that a test has to itself. When it is dropped it is stopped, and nothing of it may be left.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::sys::signal::Signal;
use openlambda::client::{Client, Method, Reply};
use serde_json::{Value, json};

use super::footprint::{self, Footprint, mounts};
use super::http::{Payload, RawConnection};
use super::wait::{block_on, eventually, patience, until};
use super::{Files, Place, Process, Program, write_folder};

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

type Environment = Vec<(String, String)>;

/// A worker that runs, or did.
#[derive(Debug)]
pub(crate) struct Worker {
    place: Place,
    ol_dir: PathBuf,
    environment: Environment,
    /// Gone once it was waited for; never there for one that runs in the background.
    child: Option<Child>,
    /// Those that were to take its place, or had it before.
    others: Vec<Child>,
    process: Process,
    port: u16,
    footprint: Mutex<Footprint>,
    mounts: std::collections::BTreeSet<String>,
}

/// A worker whose place was taken.
#[derive(Debug)]
pub(crate) struct Old {
    process: Process,
    child: Option<Child>,
    footprint: Footprint,
}

impl Old {
    pub(crate) fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Waits until it has ended well, and nothing of it is left beside its successor's.
    #[track_caller]
    pub(crate) fn ends(mut self, successor: &Worker) {
        if let Some(mut child) = self.child.take() {
            let status = eventually("the old worker ends", || child.try_wait().expect("it is our child"));
            assert!(status.success(), "{status}");
        }
        until("the old worker's things are gone", || {
            self.footprint.remains_beside(successor.process()).is_empty()
        });
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        // One that is not waited for here was told to end by its successor.
        if let Some(mut child) = self.child.take() {
            drop(child.wait());
        }
    }
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

    pub(crate) fn ol_dir(&self) -> &Path {
        &self.ol_dir
    }

    /// What it has, or has had, on the machine.
    pub(crate) fn footprint(&self) -> Footprint {
        // A test that panics elsewhere still wants to know.
        let mut footprint = self.footprint.lock().unwrap_or_else(PoisonError::into_inner);
        footprint.look(self.process);
        footprint.clone()
    }

    pub(crate) fn worker_dir(&self) -> PathBuf {
        self.ol_dir.join("worker")
    }

    pub(crate) fn registry(&self) -> PathBuf {
        self.ol_dir.join("registry")
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn process(&self) -> Process {
        self.process
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Puts a folder into the registry, and waits for nothing.
    pub(crate) fn drop_in(&self, name: &str, files: Files<'_>) {
        write_folder(&self.registry().join(name), files);
    }

    /// Makes it a function that can be called now.
    #[track_caller]
    pub(crate) fn install(&self, name: &str, files: Files<'_>) -> &Self {
        let reply = self.upload(name, super::Archive::of(files));
        assert_eq!(reply.status.as_u16(), 201, "{}", reply.text());
        self
    }

    /// A function of one file.
    #[track_caller]
    pub(crate) fn install_f(&self, name: &str, code: &str) -> &Self {
        self.install(name, &[("f.py", code)])
    }

    #[track_caller]
    pub(crate) fn upload(&self, name: &str, archive: Vec<u8>) -> Reply {
        self.request("POST", &format!("/registry/{name}"), &[], archive)
    }

    /// `POST /run/<name>`.
    #[track_caller]
    pub(crate) fn call(&self, name: &str, body: impl Payload) -> Reply {
        self.request("POST", &format!("/run/{name}"), &[], body)
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], "")
    }

    #[track_caller]
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Payload,
    ) -> Reply {
        self.try_request(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// An answer, or the text of why there is none.
    pub(crate) fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Payload,
    ) -> Result<Reply, String> {
        let method: Method = method.parse().expect("it is a method");
        block_on(self.client().request(method, path, headers, body.bytes()))
            .map_err(|error| error.to_string())
    }

    /// A call on a thread of its own, for what happens meanwhile.
    pub(crate) fn call_aside(
        &self,
        name: &str,
        body: impl Payload,
    ) -> thread::JoinHandle<Result<Reply, String>> {
        let (client, path, body) = (self.client(), format!("/run/{name}"), body.bytes());
        thread::spawn(move || block_on(client.post(&path, body)).map_err(|error| error.to_string()))
    }

    pub(crate) fn client(&self) -> Client {
        Client::tcp("localhost", self.port).with_deadlines(patience(10), patience(90))
    }

    /// To the socket that only the owner of the directory may use.
    pub(crate) fn private_client(&self) -> Client {
        Client::unix(self.worker_dir().join("ol.sock")).with_deadlines(patience(10), patience(90))
    }

    pub(crate) fn connect(&self) -> RawConnection {
        RawConnection::open(self.port)
    }

    /// What `GET /lambdas` says.
    #[track_caller]
    pub(crate) fn status_json(&self) -> Value {
        let reply = self.get("/lambdas");
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        reply.json().expect("it is JSON")
    }

    /// What it says of one function; null if there is none of that name.
    #[track_caller]
    pub(crate) fn lambda(&self, name: &str) -> Value {
        let status = self.status_json();
        let lambdas = status["lambdas"].as_array().expect("it is a list");
        lambdas.iter().find(|lambda| lambda["name"] == name).cloned().unwrap_or_default()
    }

    /// Waits until the status of a function is so.
    #[track_caller]
    pub(crate) fn lambda_until(&self, what: &str, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        eventually(&format!("{name}: {what}"), || {
            last = self.lambda(name);
            is_so(&last).then(|| last.clone())
        })
    }

    /// What a function has printed.
    pub(crate) fn function_log(&self, name: &str) -> String {
        fs::read_to_string(self.worker_dir().join("logs").join(format!("{name}.log"))).unwrap_or_default()
    }

    /// The line of a function's log that holds these words, as soon as there is one.
    #[track_caller]
    pub(crate) fn logged(&self, name: &str, words: &str) -> String {
        eventually(&format!("{words:?} in the log of {name}"), || {
            self.function_log(name).lines().find(|line| line.contains(words)).map(str::to_owned)
        })
    }

    /// The sandbox whose function has printed these words.
    #[track_caller]
    pub(crate) fn sandbox_that_said(&self, name: &str, words: &str) -> u64 {
        let line = self.logged(name, words);
        let id = line.split(' ').nth(1).and_then(|word| word.split('-').next()?.parse().ok());
        id.unwrap_or_else(|| panic!("no sandbox in {line:?}"))
    }

    /// What the worker itself has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until the worker has said these words.
    #[track_caller]
    pub(crate) fn log_says(&self, words: &str) {
        until(&format!("{words:?} in the worker's log"), || self.log().contains(words));
    }

    fn log_path(&self) -> PathBuf {
        self.ol_dir.join("worker.out")
    }

    /// The processes of one sandbox.
    pub(crate) fn sandbox_processes(&self, id: u64) -> Vec<Process> {
        self.processes_in(&|group| group == format!("sandbox-{id}"))
    }

    /// The processes of all zygotes of lambdas.
    pub(crate) fn zygote_processes(&self) -> Vec<Process> {
        self.processes_in(&|group| group.starts_with("zygote-"))
    }

    /// The groups of sandboxes and standbys, with how many processes are in each.
    pub(crate) fn sandbox_groups(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for root in self.footprint().cgroups() {
            for group in footprint::groups_below(root) {
                let name = group.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if name.starts_with("sandbox-") {
                    let n = found.entry(name.to_owned()).or_insert(0);
                    *n = footprint::pids_below(&group).len().max(*n);
                }
            }
        }
        found
    }

    /// Every process in the groups of the worker's sandboxes, zygotes and families, with its group. No other group: who
    /// asks for these means them no good.
    pub(crate) fn processes_by_group(&self) -> Vec<(PathBuf, Process)> {
        let footprint = self.footprint();
        let is_meant =
            |name: &str| ["sandbox-", "zygote-", "family-"].iter().any(|kind| name.starts_with(kind));
        let groups = footprint.cgroups().flat_map(footprint::groups_below);
        let groups =
            groups.filter(|group| group.file_name().and_then(|name| name.to_str()).is_some_and(is_meant));
        groups
            .flat_map(|path| {
                let pids = footprint::pids_below(&path);
                pids.into_iter()
                    .filter_map(Process::of)
                    .map(move |process| (path.clone(), process))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// How many descriptors and threads the worker itself has.
    pub(crate) fn n_descriptors_and_threads(&self) -> (usize, usize) {
        let n = |what| fs::read_dir(format!("/proc/{}/{what}", self.process.pid)).map_or(0, Iterator::count);
        (n("fd"), n("task"))
    }

    /// Lets the worker have so many descriptors at most; gives how many it might have had.
    pub(crate) fn limit_descriptors(&self, n: u64) -> u64 {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        // The hard limit is what the worker has raised its own to.
        let limit = Rlimit { current: Some(n), maximum: Some(20_000.max(n)) };
        let pid = Pid::from_raw(self.process.pid);
        let before = prlimit(pid, Resource::Nofile, limit).expect("root may do that");
        before.current.unwrap_or(n)
    }

    fn processes_in(&self, is_wanted: &dyn Fn(&str) -> bool) -> Vec<Process> {
        let footprint = self.footprint();
        let groups = footprint.cgroups().flat_map(footprint::groups_below);
        let mut found: Vec<Process> = groups
            .filter(|group| group.file_name().and_then(|name| name.to_str()).is_some_and(is_wanted))
            .flat_map(|group| footprint::pids_below(&group))
            .filter_map(Process::of)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// A command of `ol` about this worker: `worker.ol("worker status")`.
    pub(crate) fn ol(&self, words: &str) -> Program {
        Program::ol().words(words).arg("-p").arg(&self.ol_dir).env("TMPDIR", self.place.tmp())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it as no program can prevent, and gives what it had.
    pub(crate) fn kill(&mut self) -> Footprint {
        let footprint = self.footprint();
        self.signal(Signal::SIGKILL);
        self.wait_for_end();
        footprint
    }

    /// Starts it again, and kills it as soon as it is so far; gives what it had.
    #[track_caller]
    pub(crate) fn start_and_kill_when(
        &mut self,
        what: &str,
        has_come: impl Fn(Process) -> bool,
    ) -> Footprint {
        let child = spawn(&self.place, &self.ol_dir, None, &self.environment);
        self.process = Process::of(child.id().cast_signed()).expect("it was just started");
        self.child = Some(child);
        until(what, || has_come(self.process));
        self.kill()
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

    /// Starts another one in its place, with these options, and does not wait for it. Gives the old one and the new one.
    #[track_caller]
    pub(crate) fn begin_takeover(&mut self, options: &[&str]) -> (Process, Process) {
        self.footprint();
        let mut args = vec!["--takeover"];
        args.extend(options.iter().flat_map(|option| ["-o", option]));
        let child = spawn_with(&self.place, &self.ol_dir, None, &self.environment, &args);
        let new = Process::of(child.id().cast_signed()).expect("it was just started");
        self.others.push(child);
        (self.process, new)
    }

    /// Another one takes its place, with these options: this is that one from now on. Gives the old one.
    #[track_caller]
    pub(crate) fn take_over(&mut self, options: &[&str]) -> Old {
        let (process, new) = self.begin_takeover(options);
        let child = self.child.take();
        let footprint = self.footprint();
        self.is_now(new);
        self.wait_until_ready();
        Old { process, child, footprint }
    }

    /// This one of those that were begun is the worker from now on.
    pub(crate) fn is_now(&mut self, process: Process) {
        if self.process == process {
            return;
        }
        let at = self.others.iter().position(|child| child.id().cast_signed() == process.pid);
        let child = self.others.remove(at.expect("it was begun here"));
        if let Some(old) = self.child.replace(child) {
            self.others.push(old);
        }
        self.process = process;
        self.footprint();
    }

    /// The one that a command has started in its place.
    #[track_caller]
    pub(crate) fn is_now_in_background(&mut self) {
        assert!(self.child.is_none(), "it has not ended");
        let pid = eventually("the worker says who it is", || self.says_pid());
        self.process = Process::of(pid).expect("it runs");
        self.port = self.process.listening_ports().first().copied().expect("it listens");
        self.footprint();
    }

    /// The pid that answers on its socket.
    pub(crate) fn says_pid(&self) -> Option<i32> {
        let client = self.private_client().with_deadlines(patience(2), patience(2));
        block_on(client.get("/pid")).ok()?.text().parse().ok()
    }

    /// What there is on the machine of workers that were here before this one.
    pub(crate) fn footprint_of_others(&mut self) -> Vec<String> {
        self.others.retain_mut(|child| child.try_wait().is_ok_and(|status| status.is_none()));
        let mut mine = self.process.descendants();
        mine.push(self.process);
        let mut left = self.footprint().processes_besides(&mine);
        left.extend(self.others.iter().map(|child| format!("worker {}", child.id())));
        left
    }

    /// How it ended, once it has.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it was not waited for");
        eventually("the worker ends", || child.try_wait().expect("it is our child"))
    }

    /// Stops it as a person would, and checks that nothing is left.
    pub(crate) fn finish(mut self) {
        self.stop();
    }

    #[track_caller]
    fn stop(&mut self) {
        if self.child.is_some() {
            self.footprint();
            self.ol("worker down").succeed();
            let status = self.wait_for_end();
            assert!(status.success(), "the worker ended with {status}:\n{}", self.log());
            self.check_directory();
        } else if self.process.is_alive() {
            self.footprint();
            self.ol("worker down").succeed();
            self.check_directory();
        }
        self.check_machine();
    }

    /// Nothing outside of the worker's directory. The kernel may be a moment behind.
    #[track_caller]
    pub(crate) fn check_machine(&self) {
        let footprint = self.footprint();
        let mut remains = Vec::new();
        let is_clean = || {
            remains = footprint.remains();
            let now = mounts(&self.place.token());
            remains.extend(now.difference(&self.mounts).map(|line| format!("mount {line}")));
            remains.is_empty().then_some(())
        };
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("a clean machine", is_clean)
        }));
        assert!(caught.is_ok(), "the worker has left behind: {remains:#?}");
    }

    /// Nothing inside of it that says it runs or that sandboxes have used.
    #[track_caller]
    fn check_directory(&self) {
        for name in [
            "ol.sock",
            "worker.pid",
            "worker.port",
            "takeover.sock",
            "generations-next",
            "profile",
            "profile-next",
        ] {
            assert!(!self.worker_dir().join(name).exists(), "worker/{name} is still there");
        }
        for dir in [self.worker_dir().join("root"), self.worker_dir().join("generations"), self.place.tmp()] {
            let left: Vec<_> =
                fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            assert!(left.is_empty(), "still there: {left:?}");
        }
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
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

    /// After a failed test: no questions, and no assertions on top of the one that failed.
    fn abandon(&mut self) {
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(40).collect();
        eprintln!("the end of the worker's log:");
        tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        if self.process.is_alive() {
            self.footprint();
            self.signal(Signal::SIGKILL);
        }
        for mut child in self.others.drain(..) {
            drop(child.kill());
            drop(child.wait());
        }
        if let Some(mut child) = self.child.take() {
            drop(child.wait());
        }
        let output = self.ol("worker force-cleanup").run();
        eprintln!("force-cleanup: {}{}", output.stdout, output.stderr);
        self.footprint().remove_cgroups();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if thread::panicking() {
            self.abandon();
        } else {
            let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.stop()));
            if let Err(panic) = stopped {
                self.abandon();
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn spawn(place: &Place, ol_dir: &Path, prelude: Option<&str>, environment: &Environment) -> Child {
    spawn_with(place, ol_dir, prelude, environment, &[])
}

fn spawn_with(
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
