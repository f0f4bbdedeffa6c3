//! Runs `uv`, or else pip, in the installer sandbox: to settle which packages a list of requirements means, and to install
//! one of them.
//!
//! Each run has a thread with an event loop of its own, so that what it copies and waits for keeps nobody else. It is
//! given a directory to write to, and a [`Door`] to the index. Whatever is in there when it ends may have been written
//! by a package's own code: the worker reads it only when nobody is in the sandbox any more, and believes it as far as
//! that package goes, and no further.

mod end;
mod pins;
mod tool;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actors::world::{LocalFuture, PackageError};
use serde_json::json;
use slog::Logger;
use tokio::sync::{OnceCell, oneshot};

use super::proxy::Door;
use super::requirement::Requirement;
use super::sources::Sources;
use super::storage::Staging;
use crate::sandbox::cgroup::Limits;
use crate::sandbox::launcher::{InstallerOrder, Launcher, WORK};
use tool::Tool;

/// The program that runs inside.
const DRIVER: &str = include_str!("python/install.py");
/// Its name; and the place of what is beside it.
const ENTRY: &str = "install.py";
const TOOLS: &str = "/handler";
const CERTIFICATES: &str = "ca.pem";
/// Longest lock: 1,000 packages with a hundred hashes each.
const LOCK_BYTES_MAX: u64 = 16 << 20;
/// What the installer is made from.
#[derive(Debug, Clone)]
pub struct InstallerSpec {
    /// A directory of the worker's own, for what the sandbox runs.
    pub tools: PathBuf,
    /// `pip`, the path of a `uv`, or nothing: `uv` where one is found, else pip.
    pub tool: String,
    /// Python inside the base, and the second number of its version.
    pub python: String,
    /// The base's file tree; `None`: the machine's own.
    pub base: Option<PathBuf>,
    /// Where packages come from.
    pub sources: Sources,
    /// What one run may use.
    pub limits: Limits,
    /// How long it may take.
    pub runtime: Duration,
    /// Size of its `/tmp`, in MiB.
    pub tmp_mb: u32,
    /// What it may write, in bytes.
    pub bytes_max: u64,
}

/// See the module's text. A clone is the same.
#[derive(Clone)]
pub struct Installer {
    inner: Arc<Inner>,
}

struct Inner {
    spec: InstallerSpec,
    tool: Tool,
    /// Where it is on the machine, if it is not in the base.
    program: Option<PathBuf>,
    /// Once what the sandbox runs is in its directory.
    is_laid_out: OnceCell<()>,
    launcher: Launcher,
    log: Logger,
}

/// What one run is to do.
struct Job {
    command: Vec<String>,
    files: BTreeMap<String, String>,
    sources: Sources,
    /// For the error: what it was about.
    about: String,
}

/// A list of requirements, taken apart for the tools.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    pub(super) requirements: Vec<String>,
    pub(super) constraints: Vec<String>,
    /// Options of the list itself.
    pub(super) options: Vec<(&'static str, String)>,
    /// Pins of the last time.
    pub(super) last: Vec<String>,
}

/// What can be said of the machine before anything is started.
///
/// # Errors
/// In words, when there is nothing that could install.
pub fn describe(spec: &InstallerSpec) -> Result<String, String> {
    match tool::find(spec)? {
        (Tool::Uv, Some(path)) => Ok(format!("uv ({})", path.display())),
        _ => Ok("pip".into()),
    }
}

impl Installer {
    /// Finds what installs; nothing is written before something is to be installed.
    ///
    /// # Errors
    /// In words, when there is nothing that could install.
    pub fn find(spec: InstallerSpec, launcher: Launcher, log: Logger) -> Result<Self, String> {
        let (tool, program) = tool::find(&spec)?;
        let is_laid_out = OnceCell::new();
        Ok(Self { inner: Arc::new(Inner { spec, tool, program, is_laid_out, launcher, log }) })
    }

    /// For the records.
    pub(super) fn name(&self) -> &'static str {
        match self.inner.tool {
            Tool::Uv => "uv",
            Tool::Pip => "pip",
        }
    }

    /// Everything that these wishes come to, each pinned and with its archives' hashes, one a line.
    pub(super) fn settle(
        &self,
        wishes: Wishes,
        staging: Staging,
    ) -> LocalFuture<Result<Vec<String>, PackageError>> {
        let this = self.clone();
        let about = "which packages are meant cannot be settled".to_owned();
        let mut sources = self.inner.spec.sources.clone();
        for (option, value) in &wishes.options {
            sources = sources.with(option, value);
        }
        let joined = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let mut files = BTreeMap::from([
            (format!("{WORK}/in.txt"), joined(&wishes.requirements)),
            (format!("{WORK}/constraints.txt"), joined(&wishes.constraints)),
        ]);
        let command: Vec<String> = match self.inner.tool {
            Tool::Uv => {
                if !wishes.last.is_empty() {
                    files.insert(format!("{WORK}/lock.txt"), joined(&wishes.last));
                }
                let words = "/handler/uv pip compile --quiet --generate-hashes --no-annotate --no-header";
                let mut command: Vec<String> = words.split(' ').map(str::to_owned).collect();
                command.extend(["--python".into(), self.inner.spec.python.clone()]);
                let rest = format!(
                    "--constraints {WORK}/constraints.txt --output-file {WORK}/lock.txt {WORK}/in.txt"
                );
                command.extend(rest.split(' ').map(str::to_owned));
                command
            }
            Tool::Pip => {
                let words = format!(
                    "-m pip install --quiet --dry-run --ignore-installed --no-input --report {WORK}/report.json -c {WORK}/constraints.txt -r {WORK}/in.txt"
                );
                std::iter::once(self.inner.spec.python.clone())
                    .chain(words.split(' ').map(str::to_owned))
                    .collect()
            }
        };
        let job = Job { command, files, sources, about };
        Box::pin(async move {
            let tool = this.inner.tool;
            let staging = this.run(job, staging).await?;
            let unread = |error: io::Error| {
                PackageError::Failed(format!("the resolver's answer cannot be read: {error}"))
            };
            match tool {
                Tool::Uv => Ok(pins::of_lock(&staging.read("lock.txt", LOCK_BYTES_MAX).map_err(unread)?)),
                Tool::Pip => pins::of_report(&staging.read("report.json", LOCK_BYTES_MAX).map_err(unread)?),
            }
        })
    }

    /// The files of one pinned package, alone, compiled for the sandboxes' Python.
    pub(super) fn install(
        &self,
        requirement: &Requirement,
        staging: Staging,
    ) -> LocalFuture<Result<Staging, PackageError>> {
        let this = self.clone();
        let short = &requirement.text;
        let hashes: String = requirement.hashes.iter().map(|hash| format!(" --hash={hash}")).collect();
        let files = BTreeMap::from([(format!("{WORK}/in.txt"), format!("{short}{hashes}\n"))]);
        let mut sources = self.inner.spec.sources.clone();
        for (option, value) in &requirement.options {
            sources = sources.with(option, value);
        }
        let mut command: Vec<String> = match self.inner.tool {
            Tool::Uv => {
                let words = format!(
                    "/handler/uv pip install --quiet --no-deps --compile-bytecode --target {WORK}/out/files"
                );
                let python = ["--python".to_owned(), self.inner.spec.python.clone()];
                words.split(' ').map(str::to_owned).chain(python).collect()
            }
            Tool::Pip => {
                let words = format!(
                    "-m pip install --quiet --no-deps --no-input --no-warn-script-location --compile --target {WORK}/out/files"
                );
                std::iter::once(self.inner.spec.python.clone())
                    .chain(words.split(' ').map(str::to_owned))
                    .collect()
            }
        };
        if !hashes.is_empty() {
            command.push("--require-hashes".into());
        }
        command.extend(["-r".into(), format!("{WORK}/in.txt")]);
        let job = Job { command, files, sources, about: format!("{short} cannot be installed") };
        Box::pin(async move { this.run(job, staging).await })
    }

    /// Puts what the sandbox runs into its directory.
    async fn lay_out(&self) -> Result<(), PackageError> {
        let inner = Arc::clone(&self.inner);
        let lay_out = move || {
            let tools = &inner.spec.tools;
            lay_out(&inner.spec, inner.program.as_deref()).map_err(|error| {
                // What is there of it would only take room.
                let _ = fs::remove_dir_all(tools);
                PackageError::Failed(format!("cannot prepare {}: {error}", tools.display()))
            })
        };
        let done = tokio::task::spawn_blocking(lay_out).await;
        done.unwrap_or_else(|error| Err(PackageError::Failed(error.to_string())))
    }

    /// On a thread of its own.
    async fn run(&self, job: Job, staging: Staging) -> Result<Staging, PackageError> {
        self.inner.is_laid_out.get_or_try_init(|| self.lay_out()).await?;
        let (reply, answer) = oneshot::channel();
        let this = self.clone();
        let spawned = std::thread::Builder::new().name("installer".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = match runtime {
                Ok(runtime) => tokio::task::LocalSet::new().block_on(&runtime, this.run_here(job, staging)),
                Err(error) => Err(PackageError::Failed(format!("cannot start an event loop: {error}"))),
            };
            // Who asked may have given up.
            let _ = reply.send(result);
        });
        spawned.map_err(|error| PackageError::Failed(format!("cannot start a thread: {error}")))?;
        answer
            .await
            .unwrap_or_else(|_| Err(PackageError::Failed("the installer's thread has panicked".into())))
    }

    async fn run_here(&self, job: Job, staging: Staging) -> Result<Staging, PackageError> {
        let spec = &self.inner.spec;
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            PackageError::Failed(format!("{}: {what}: {error}", job.about))
        };
        let work = staging.work();
        let shown: Vec<(PathBuf, String)> = job
            .sources
            .directories
            .iter()
            .enumerate()
            .map(|(at, path)| (path.clone(), format!("links{at}")))
            .collect();
        for (_, name) in &shown {
            fs::create_dir(work.join(name)).map_err(|error| failed("make a directory", &error))?;
        }
        let order = InstallerOrder {
            tools: &spec.tools,
            entry: ENTRY,
            work: &work,
            shown: &shown.iter().map(|(path, name)| (path.as_path(), name.as_str())).collect::<Vec<_>>(),
            limits: spec.limits,
            tmp_mb: spec.tmp_mb,
        };
        let mut sandbox = self
            .inner
            .launcher
            .open_installer(&order)
            .await
            .map_err(|error| failed("make its sandbox", &error))?;
        let listener = sandbox.listen().map_err(|error| failed("enter its network", &error))?;
        let port = listener.local_addr().map_err(|error| failed("enter its network", &error))?.port();
        // Hosts are the machine's to allow, whatever a list of requirements says.
        let door = Door::open(listener, &spec.sources).map_err(|error| failed("open its door", &error))?;
        let request = self.request(&job, &shown, port).to_string();
        let end = watch::watch(&mut sandbox, request.as_bytes(), spec, &staging).await;
        let was_out_of_memory = sandbox.was_out_of_memory();
        let seen = door.seen();
        drop(door);
        sandbox.end().await.map_err(|error| failed("end its sandbox", &error))?;
        end.judge(&job.about, spec, &seen, was_out_of_memory, &self.inner.log)?;
        Ok(staging)
    }

    /// For the driver.
    fn request(&self, job: &Job, shown: &[(PathBuf, String)], port: u16) -> serde_json::Value {
        let spec = &self.inner.spec;
        let links: Vec<String> = shown.iter().map(|(_, name)| format!("{WORK}/{name}")).collect();
        let certificates = spec.sources.certificates.as_ref().map(|_| format!("{TOOLS}/{CERTIFICATES}"));
        let mut environment = match self.inner.tool {
            Tool::Uv => job.sources.for_uv(&links, certificates.as_deref()),
            Tool::Pip => job.sources.for_pip(&links, certificates.as_deref()),
        };
        let proxy = format!("http://127.0.0.1:{port}");
        let mut set = |name: &str, value: &str| {
            environment.insert(name.to_owned(), value.to_owned());
        };
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            set(name, &proxy);
            set(&name.to_ascii_lowercase(), &proxy);
        }
        for (name, value) in [
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("HOME", "/tmp"),
            ("TMPDIR", "/mnt/tmp"),
            ("LANG", "C.UTF-8"),
            ("UV_CACHE_DIR", "/mnt/cache"),
            ("UV_NO_CONFIG", "1"),
            ("UV_NO_PROGRESS", "1"),
            ("UV_PYTHON_DOWNLOADS", "never"),
            // Threads count as processes, and there are as many as the machine has cores if nobody says otherwise.
            ("UV_CONCURRENT_BUILDS", "1"),
            ("UV_CONCURRENT_INSTALLS", "1"),
            ("UV_CONCURRENT_DOWNLOADS", "8"),
            ("TOKIO_WORKER_THREADS", "1"),
            ("RAYON_NUM_THREADS", "1"),
            ("UV_HTTP_RETRIES", "2"),
            ("PIP_CONFIG_FILE", "/dev/null"),
            ("PIP_NO_CACHE_DIR", "1"),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
            ("PIP_ROOT_USER_ACTION", "ignore"),
            ("PIP_RETRIES", "2"),
            ("PIP_NO_COLOR", "1"),
            ("NO_COLOR", "1"),
            ("PYTHONNOUSERSITE", "1"),
        ] {
            set(name, value);
        }
        let mut command = job.command.clone();
        command.extend(job.sources.arguments());
        json!({
            "command": command,
            "environment": environment,
            "files": job.files,
            "directories": [format!("{WORK}/tmp"), format!("{WORK}/out")],
            "cwd": "/tmp",
            "file_bytes_max": spec.bytes_max,
        })
    }
}

fn lay_out(spec: &InstallerSpec, program: Option<&Path>) -> io::Result<()> {
    // What an earlier worker has left may be of another version.
    if spec.tools.is_dir() {
        fs::remove_dir_all(&spec.tools)?;
    }
    fs::create_dir_all(&spec.tools)?;
    fs::write(spec.tools.join(ENTRY), DRIVER)?;
    if let Some(program) = program {
        let uv = spec.tools.join("uv");
        // A name more for the same file, or a copy where that cannot be.
        fs::hard_link(program, &uv).or_else(|_| fs::copy(program, &uv).map(drop))?;
    }
    if let Some(certificates) = &spec.sources.certificates {
        fs::copy(certificates, spec.tools.join(CERTIFICATES))?;
    }
    Ok(())
}
