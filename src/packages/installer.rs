//! Runs `uv`, or else pip, in the installer sandbox: to settle which packages a list of requirements means, and to install
//! one of them.
//!
//! Each run has a thread with an event loop of its own, so that what it copies and waits for keeps nobody else. It is
//! given a directory to write to, and a [`Door`] to the index. Whatever is in there when it ends may have been written
//! by a package's own code: the worker reads it only when nobody is in the sandbox any more, and believes it as far as
//! that package goes, and no further.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actors::world::{LocalFuture, PackageError};
use serde::Deserialize;
use serde_json::json;
use slog::{Logger, warn};
use tokio::sync::{OnceCell, oneshot};

use super::proxy::{Door, Seen};
use super::requirement::Requirement;
use super::sources::{Host, Sources};
use super::storage::Staging;
use crate::sandbox::cgroup::Limits;
use crate::sandbox::launcher::{InstallerOrder, InstallerSandbox, Launcher, WORK};

/// The program that runs inside.
const DRIVER: &str = include_str!("python/install.py");
/// Its name; and the place of what is beside it.
const ENTRY: &str = "install.py";
const TOOLS: &str = "/handler";
const CERTIFICATES: &str = "ca.pem";
/// Where `uv` is looked for after `PATH`, which `sudo` and service managers cut short.
const PLACES: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/opt/uv/bin", "/root/.local/bin"];
/// How often what a run has written is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Room that a run leaves on the disk.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// Longest lock: 1,000 packages with a hundred hashes each.
const LOCK_BYTES_MAX: u64 = 16 << 20;
/// What is told of what a tool has said: from its end.
const SAID_BYTES_MAX: usize = 3_000;

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

/// What installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Uv,
    Pip,
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

/// What the driver says.
#[derive(Deserialize)]
struct Said {
    code: i32,
    output: String,
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
    match find_tool(spec)? {
        (Tool::Uv, Some(path)) => Ok(format!("uv ({})", path.display())),
        _ => Ok("pip".into()),
    }
}

fn find_tool(spec: &InstallerSpec) -> Result<(Tool, Option<PathBuf>), String> {
    let asked = spec.tool.as_str();
    if !asked.is_empty() && asked != "pip" {
        let path = PathBuf::from(asked);
        return match fs::canonicalize(&path) {
            Ok(found) if is_program(&found) => Ok((Tool::Uv, Some(found))),
            _ => Err(format!("the configured installer, {asked}, is no program")),
        };
    }
    if asked.is_empty() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::env::split_paths(&path).chain(PLACES.map(PathBuf::from));
        let uv =
            directories.map(|directory| directory.join("uv")).filter_map(|path| fs::canonicalize(path).ok());
        if let Some(found) = uv.into_iter().find(|path| is_program(path)) {
            return Ok((Tool::Uv, Some(found)));
        }
    }
    if has_pip(spec.base.as_deref().unwrap_or(Path::new("/"))) {
        return Ok((Tool::Pip, None));
    }
    Err("there is neither uv (in PATH) nor pip (of the sandboxes' Python); ./quickstart/deps.sh brings uv"
        .into())
}

/// Not a script, whose interpreter may not be in the base.
fn is_program(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

fn has_pip(base: &Path) -> bool {
    ["usr/lib", "usr/local/lib"].iter().any(|lib| {
        let pythons = fs::read_dir(base.join(lib)).into_iter().flatten().flatten();
        let pythons = pythons.filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"));
        pythons
            .flat_map(|entry| ["dist-packages/pip", "site-packages/pip"].map(|pip| entry.path().join(pip)))
            .any(|pip| pip.is_dir())
    })
}

impl Installer {
    /// Finds what installs; nothing is written before something is to be installed.
    ///
    /// # Errors
    /// In words, when there is nothing that could install.
    pub fn find(spec: InstallerSpec, launcher: Launcher, log: Logger) -> Result<Self, String> {
        let (tool, program) = find_tool(&spec)?;
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
                Tool::Uv => Ok(pins_of_lock(&staging.read("lock.txt", LOCK_BYTES_MAX).map_err(unread)?)),
                Tool::Pip => pins_of_report(&staging.read("report.json", LOCK_BYTES_MAX).map_err(unread)?),
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
        let door = Door::open(listener, &job.sources_of_machine(spec))
            .map_err(|error| failed("open its door", &error))?;
        let request = self.request(&job, &shown, port).to_string();
        let end = self.watch(&mut sandbox, request.as_bytes(), &staging).await;
        let was_out_of_memory = sandbox.was_out_of_memory();
        let seen = door.seen();
        drop(door);
        sandbox.end().await.map_err(|error| failed("end its sandbox", &error))?;
        self.judge(&job, end, &seen, was_out_of_memory)?;
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

    /// Lets it run, and looks at what it writes meanwhile.
    async fn watch(&self, sandbox: &mut InstallerSandbox, request: &[u8], staging: &Staging) -> End {
        let spec = &self.inner.spec;
        let mut run = Box::pin(sandbox.run(request));
        let deadline = tokio::time::sleep(spec.runtime);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                said = &mut run => {
                    return match said.map(|bytes| serde_json::from_slice::<Said>(&bytes)) {
                        Ok(Ok(said)) => End::Said(said),
                        Ok(Err(_)) => End::Died("it has said something that is no answer".into()),
                        Err(text) => End::Died(text),
                    };
                }
                () = &mut deadline => return End::Late,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let (bytes, n) = staging.measure();
                    if bytes > spec.bytes_max {
                        return End::Large;
                    }
                    // Files that have lost their names are not seen.
                    let free = rustix::fs::statvfs(staging.work()).map_or(u64::MAX, |stat| stat.f_bavail * stat.f_frsize);
                    if free < FREE_BYTES_MIN {
                        return End::DiskFull;
                    }
                    // A tree takes as long to look through as it is large; it is looked at the less often for it.
                    if n > 2_000 {
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                }
            }
        }
    }

    fn judge(&self, job: &Job, end: End, seen: &Seen, was_out_of_memory: bool) -> Result<(), PackageError> {
        let spec = &self.inner.spec;
        let mut text = match &end {
            End::Said(Said { code: 0, .. }) => {
                if !seen.refused.is_empty() {
                    warn!(self.inner.log, "an installer wanted to reach somebody else than the index, and was kept from it";
                        "about" => &job.about, "whom" => list(&seen.refused));
                }
                return Ok(());
            }
            End::Said(Said { output, .. }) => tidy(output),
            End::Died(why) => format!("the installer died: {why}"),
            End::Late => format!(
                "it was not done within {} s, and was ended (installer_limits.runtime_sec)",
                spec.runtime.as_secs()
            ),
            End::Large => {
                format!("it wrote more than {} MB, and was ended (packages_max_mb)", spec.bytes_max >> 20)
            }
            End::DiskFull => {
                let text = format!(
                    "{}: the disk is full; less than {} MB are free",
                    job.about,
                    FREE_BYTES_MIN >> 20
                );
                return Err(PackageError::Failed(text));
            }
        };
        if was_out_of_memory {
            text += &format!(
                "\nIt used more than {} MB of memory (installer_limits.mem_mb).",
                spec.limits.memory_bytes >> 20
            );
        }
        if !seen.refused.is_empty() {
            let hosts: Vec<String> =
                job.sources_of_machine(spec).hosts().iter().map(Host::to_string).collect();
            text += &format!(
                "\nIt wanted to reach {}, which it may not: an installer reaches the index and nobody else ({}). \
                 The worker's installer_hosts can name more.",
                list(&seen.refused),
                hosts.join(", ")
            );
        }
        if !seen.unreachable.is_empty() {
            let text =
                format!("{}: the package index cannot be reached ({})", job.about, list(&seen.unreachable));
            return Err(PackageError::Away(text));
        }
        if let Some(advice) = advice(&text) {
            text += "\n";
            text += advice;
        }
        Err(PackageError::Refused(format!("{}:\n{text}", job.about)))
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

impl Job {
    /// Hosts are the machine's to allow.
    fn sources_of_machine(&self, spec: &InstallerSpec) -> Sources {
        spec.sources.clone()
    }
}

enum End {
    Said(Said),
    Died(String),
    Late,
    Large,
    DiskFull,
}

fn list(texts: &std::collections::BTreeSet<String>) -> String {
    texts.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// What people can read of it, and not more than they would.
fn tidy(output: &str) -> String {
    let plain: String = output.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    let plain = plain.trim();
    let mut from = plain.len().saturating_sub(SAID_BYTES_MAX);
    while !plain.is_char_boundary(from) {
        from += 1;
    }
    if from == 0 { plain.to_owned() } else { format!("[...] {}", &plain[from..]) }
}

/// What to do, where the tools do not say.
fn advice(text: &str) -> Option<&'static str> {
    let has = |words: &str| text.contains(words);
    if has("Hash mismatch") || has("DO NOT MATCH THE HASHES") {
        return Some(
            "The archive is not the one that the hash was made of: make the hashes anew if you trust it, and do not use it if not.",
        );
    }
    let compiler = ["gcc", "cc1", "cc: ", "c++", "g++", "clang", "rustc", "cargo", "cmake"];
    if (has("o such file or directory")
        || has("not found")
        || has("unable to execute")
        || has("No such file"))
        && compiler.iter().any(|name| has(name))
        || has("ompiler cannot be found")
    {
        return Some(
            "It has no wheel for the sandboxes' Python and has to be compiled, for which something is missing on this worker: \
             ask for a version that has a wheel, or have the compiler installed where the sandboxes find it (build-essential).",
        );
    }
    None
}

/// The lines of `uv pip compile`: continued ones are joined.
fn pins_of_lock(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '-'])).collect()
}

/// What pip would install (its installation report, version 1).
fn pins_of_report(text: &str) -> Result<Vec<String>, PackageError> {
    #[derive(Deserialize)]
    struct Report {
        install: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        metadata: Metadata,
        download_info: Download,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
        version: String,
    }
    #[derive(Deserialize)]
    struct Download {
        #[serde(default)]
        archive_info: Archive,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Archive {
        hash: Option<String>,
        hashes: BTreeMap<String, String>,
    }
    let report: Report = serde_json::from_str(text)
        .map_err(|error| PackageError::Failed(format!("pip's report is not understood: {error}")))?;
    let pin = |item: Item| {
        let Metadata { name, version } = item.metadata;
        let Archive { hash, hashes } = item.download_info.archive_info;
        let hash = hashes
            .get("sha256")
            .map(|hash| format!("sha256:{hash}"))
            .or(hash.map(|hash| hash.replacen('=', ":", 1)));
        let hash = hash.map(|hash| format!(" --hash={hash}")).unwrap_or_default();
        format!("{name}=={version}{hash}")
    };
    let mut pins: Vec<String> = report.install.into_iter().map(pin).collect();
    pins.sort();
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_a_line_for_each_package() {
        let text = "# by uv\nnumpy==2.2.6 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nsix==1.17.0\n";
        assert_eq!(pins_of_lock(text), ["numpy==2.2.6 --hash=sha256:aa --hash=sha256:bb", "six==1.17.0"]);
    }

    #[test]
    fn pips_report_is_read() {
        let text = r#"{"version": "1", "install": [
            {"metadata": {"name": "six", "version": "1.17.0"}, "download_info": {"url": "x", "archive_info": {"hash": "sha256=bb"}}},
            {"metadata": {"name": "a", "version": "1"}, "download_info": {"url": "x", "archive_info": {"hashes": {"sha256": "aa"}}}}]}"#;
        assert_eq!(pins_of_report(text).unwrap(), ["a==1 --hash=sha256:aa", "six==1.17.0 --hash=sha256:bb"]);
        assert!(pins_of_report("{}").is_err());
    }

    #[test]
    fn what_a_tool_says_is_cut_and_cleaned() {
        let long = format!("{}\x1b[31mend\u{fc}", "x".repeat(2 * SAID_BYTES_MAX));
        let said = tidy(&long);
        assert!(
            said.len() < SAID_BYTES_MAX + 10 && said.ends_with("[31mend\u{fc}") && !said.contains('\x1b')
        );
        assert_eq!(tidy(" short \n"), "short");
    }

    #[test]
    fn a_missing_compiler_is_told_in_words() {
        assert!(advice("error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory").is_some());
        assert!(advice("No solution found").is_none());
    }
}
