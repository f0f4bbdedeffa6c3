//! The worker that the probes are let loose on, as seen from outside: its functions, and how they are called.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::judge::{Answer, Finding};
use crate::client::{Client, Method};

macro_rules! program {
    ($name:literal) => {
        include_str!(concat!("probes/", $name, ".py"))
    };
}

/// The name of the function that minds its own business.
pub(super) const NEIGHBOUR: &str = "neighbour";
/// What a secret of a function's environment is here.
pub(super) const SECRET: &str = "selftest-secret-of-another";
/// How many functions draw numbers to be compared.
pub(super) const N_DRAWING: usize = 4;
/// How long an end is waited for that nobody announces: processes that were killed, a log that is written.
const PATIENCE: Duration = Duration::from_secs(20);

/// Name, program and `ol.yaml` of each function of the stage.
const CAST: &[(&str, &str, &str)] = &[
    (NEIGHBOUR, "def f(event):\n    return event\n", ""),
    ("syscalls", program!("syscalls"), ""),
    ("files", program!("files"), ""),
    ("identity", program!("identity"), ""),
    ("network", program!("network"), ""),
    ("processes", program!("processes"), ""),
    ("other", program!("processes"), ""),
    ("escape", program!("escape"), ""),
    ("abuse", program!("socket_abuse"), "limits: {runtime_sec: 20}"),
    ("imported", program!("imported"), "reuse-sandbox: false"),
    ("tenant", program!("tenant"), "limits: {mem_mb: 100}"),
    ("before", program!("tenant"), "limits: {mem_mb: 100}"),
    ("after", program!("tenant"), "limits: {mem_mb: 100}"),
    ("secret", program!("tenant"), concat!("environment: {SECRET: ", "selftest-secret-of-another", "}")),
    ("draw-1", program!("tenant"), ""),
    ("draw-2", program!("tenant"), ""),
    ("draw-3", program!("tenant"), ""),
    ("draw-4", program!("tenant"), ""),
    ("appetite", program!("appetite"), "limits: {procs: 10, runtime_sec: 30}"),
    (
        "hungry",
        program!("appetite"),
        "reuse-sandbox: false\nlimits: {mem_mb: 50, tmp_mb: 256, runtime_sec: 30}",
    ),
    ("filler", program!("appetite"), "limits: {mem_mb: 100, tmp_mb: 16, runtime_sec: 30}"),
    ("endless", program!("appetite"), "limits: {procs: 10, runtime_sec: 2}"),
    ("sleeper", program!("appetite"), "limits: {mem_mb: 50}"),
    ("ender", program!("appetite"), "limits: {mem_mb: 50}"),
    ("parent", program!("appetite"), ""),
    ("once", program!("appetite"), "reuse-sandbox: false"),
    ("printer", program!("printer"), "limits: {runtime_sec: 60}"),
];

/// See the module's text.
#[derive(Debug)]
pub struct Stage {
    client: Client,
    /// The worker's process.
    pub(super) pid: i32,
    pub(super) port: u16,
    /// The worker's directory.
    pub(super) ol_dir: PathBuf,
}

/// Writes the functions of the stage into a registry.
///
/// # Errors
/// When a file cannot be written.
pub fn functions(registry: &Path) -> io::Result<()> {
    for (name, program, yaml) in CAST {
        let folder = registry.join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("f.py"), program)?;
        fs::write(folder.join("raw.py"), program!("raw"))?;
        fs::write(folder.join("ol.yaml"), yaml)?;
    }
    Ok(())
}

/// The program of a function of the stage, and what it imports.
pub(super) fn program_of(function: &str) -> (&'static str, &'static str) {
    let found = CAST.iter().find(|(name, ..)| *name == function);
    (found.expect("a probe names a function of the stage").1, program!("raw"))
}

impl Stage {
    /// Of a worker that runs, with [`functions`] in its registry.
    #[must_use]
    pub fn new(ol_dir: &Path, port: u16, pid: i32) -> Self {
        // The longest runtime_sec of the cast is 60.
        let client = super::client(port).with_deadlines(Duration::from_secs(10), Duration::from_secs(90));
        Self { client, pid, port, ol_dir: ol_dir.to_owned() }
    }

    /// Calls a function.
    pub(super) async fn ask(&self, function: &str, event: &Value) -> Result<Answer, Finding> {
        match self.client.post(&format!("/run/{function}"), event.to_string()).await {
            Ok(reply) => Ok(Answer { status: reply.status.as_u16(), text: reply.text() }),
            // The worker promises an answer to every call.
            Err(error) => Err(Finding::Escaped(format!("the worker gave no answer: {error}"))),
        }
    }

    /// What a function says, if it says anything.
    pub(super) async fn say(&self, function: &str, event: &Value) -> Result<Value, Finding> {
        self.ask(function, event).await?.said()
    }

    /// Takes a function away, and with it its sandboxes.
    pub(super) async fn remove(&self, function: &str) {
        // One that is gone already is as good.
        let _ = self.client.request(Method::DELETE, &format!("/registry/{function}"), &[], "").await;
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Whether the worker is ready, and a function that minds its own business is served.
    pub(super) async fn is_undisturbed(&self) -> Result<(), String> {
        let ready = self.client.get("/status").await.map_err(|error| error.to_string())?;
        if ready.text() != "ready\n" {
            return Err(format!("the worker says it is {}", ready.text().trim()));
        }
        let event = json!({"what": "an ordinary call"});
        let answer = self.client.post(&format!("/run/{NEIGHBOUR}"), event.to_string()).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.json::<Value>().ok().as_ref() == Some(&event) {
            Ok(())
        } else {
            Err(format!("another function was answered {} {}", answer.status, answer.text()))
        }
    }

    /// What the worker says of one lambda.
    pub(super) async fn lambda(&self, name: &str) -> Value {
        let Ok(reply) = self.client.get("/lambdas").await else { return Value::Null };
        let status: Value = reply.json().unwrap_or_default();
        let lambdas = status["lambdas"].as_array().cloned().unwrap_or_default();
        lambdas.into_iter().find(|lambda| lambda["name"] == name).unwrap_or_default()
    }

    pub(super) fn log_of(&self, function: &str) -> PathBuf {
        self.ol_dir.join("worker/logs").join(format!("{function}.log"))
    }

    /// Waits until it is so, or it will not be.
    pub(super) async fn until(&self, mut is_so: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// What the largest of the sandboxes' processes has in memory.
    pub(super) fn largest_mb(&self) -> u64 {
        let resident = |pid: &i32| -> Option<u64> {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
        };
        let inside = self.processes().into_iter().filter(|&pid| pid != self.pid);
        inside.filter_map(|pid| resident(&pid)).max().unwrap_or(0) >> 10
    }

    /// The processes of the worker: those that it started, and theirs.
    pub(super) fn processes(&self) -> Vec<i32> {
        let mut parents = Vec::<(i32, i32)>::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid: Option<i32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid else { continue };
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // After the name in brackets, which may hold anything: the state and the parent (proc_pid_stat(5)).
            let mut fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
            if let (Some(state), Some(parent)) =
                (fields.next(), fields.next().and_then(|text| text.parse().ok()))
                && state != "Z"
            {
                parents.push((pid, parent));
            }
        }
        let mut found = vec![self.pid];
        let mut at = 0;
        while let Some(&parent) = found.get(at) {
            found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_of_the_stage_is_the_one_that_is_looked_for() {
        let yaml = CAST.iter().find(|(name, ..)| *name == "secret").unwrap().2;
        assert!(yaml.contains(SECRET));
        assert_eq!(CAST.iter().filter(|(name, ..)| name.starts_with("draw-")).count(), N_DRAWING);
    }

    #[test]
    fn every_function_of_the_stage_is_one() {
        let place = tempfile::tempdir().unwrap();
        functions(place.path()).unwrap();
        for (name, program, _) in CAST {
            assert!(place.path().join(name).join("ol.yaml").exists());
            assert!(program.contains("def f(event):"), "{name}");
        }
    }
}
