//! The directory of a cluster: what lies where.
//!
//! ```text
//! config/template.json     what new workers are configured with; `admin setconf` changes it
//! config/worker-N.json     the configuration of worker N
//! logs/worker-N.{out,pid}  its log, and its process while it runs
//! workers/worker-N         its directory, as `ol worker` knows it
//! registry/                the functions, shared by all workers
//! base/                    what functions see as their machine; empty: this machine's own /usr
//! packages/                installed packages
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::settings::Settings;

/// Where workers listen unless told otherwise.
pub(super) const PORT: u16 = 8080;

pub(super) struct Cluster {
    path: PathBuf,
    /// As the user wrote it, for hints that can be copied.
    as_given: PathBuf,
}

/// A worker that was started at some time.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) settings: Settings,
}

impl Cluster {
    /// A cluster that may not exist yet.
    pub(super) fn at(path: &Path) -> Result<Self, CliError> {
        let absolute = std::path::absolute(path).map_err(CliError::file("find", path))?;
        Ok(Self { path: absolute, as_given: path.to_owned() })
    }

    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let cluster = Self::at(path)?;
        if cluster.template().is_file() { Ok(cluster) } else { Err(CliError::NoCluster(path.to_owned())) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn as_given(&self) -> &Path {
        &self.as_given
    }

    pub(super) fn directories(&self) -> [PathBuf; 6] {
        ["config", "logs", "workers", "registry", "base", "packages"].map(|name| self.path.join(name))
    }

    pub(super) fn template(&self) -> PathBuf {
        self.path.join("config/template.json")
    }

    pub(super) fn config(&self, worker: &str) -> PathBuf {
        self.path.join("config").join(format!("{worker}.json"))
    }

    pub(super) fn log(&self, worker: &str) -> PathBuf {
        self.path.join("logs").join(format!("{worker}.out"))
    }

    pub(super) fn pid_file(&self, worker: &str) -> PathBuf {
        self.path.join("logs").join(format!("{worker}.pid"))
    }

    pub(super) fn ol_dir(&self, worker: &str) -> Result<OlDir, CliError> {
        OlDir::at(&self.path.join("workers").join(worker))
    }

    /// What functions see as their machine, if somebody put a file tree there.
    pub(super) fn base(&self) -> Option<PathBuf> {
        let base = self.path.join("base");
        let is_filled = fs::read_dir(&base).is_ok_and(|mut entries| entries.next().is_some());
        is_filled.then_some(base)
    }

    fn registry_url(&self) -> String {
        format!("file://{}", self.path.join("registry").display())
    }

    /// What every worker of a new cluster begins with.
    pub(super) fn template_value(&self) -> Value {
        let mut value = crate::config::Config::default_for(&self.path, None);
        if let Some(fields) = value.as_object_mut() {
            // Each worker gets its own.
            fields.remove("worker_dir");
            fields.insert("worker_port".to_owned(), json!(PORT.to_string()));
            fields.insert("registry".to_owned(), json!(self.registry_url()));
            fields.insert("Pkgs_dir".to_owned(), json!(self.path.join("packages")));
        }
        value
    }

    /// The template, with what is one worker's own.
    pub(super) fn worker_value(&self, mut value: Value, worker: &str, port: u16) -> Value {
        if let Some(fields) = value.as_object_mut() {
            fields.insert(
                "worker_dir".to_owned(),
                json!(self.path.join("workers").join(worker).join("worker")),
            );
            fields.insert("worker_port".to_owned(), json!(port.to_string()));
            let is_elsewhere = ["registry_dir", "reg_dir"].iter().any(|old| fields.contains_key(*old));
            let is_local = fields.get("registry").is_none_or(|registry| registry == "local");
            if is_local && !is_elsewhere {
                fields.insert("registry".to_owned(), json!(self.registry_url()));
            }
        }
        value
    }

    /// The workers that were started and not ended by `admin kill`, in order.
    pub(super) fn members(&self) -> Result<Vec<Member>, CliError> {
        let dir = self.path.join("config");
        let unreadable = || CliError::file("read", &dir);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&dir).map_err(unreadable())? {
            let name = entry.map_err(unreadable())?.file_name();
            let name = name.to_string_lossy();
            let number = name.strip_prefix("worker-").and_then(|rest| rest.strip_suffix(".json"));
            numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        let member = |number| {
            let name = format!("worker-{number}");
            let ol_dir = self.ol_dir(&name)?;
            Ok(Member { settings: Settings::read(&self.config(&name), ol_dir.path())?, name })
        };
        let is_started = |number: &u32| self.pid_file(&format!("worker-{number}")).exists();
        numbers.into_iter().filter(is_started).map(member).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_a_directory_and_a_port_of_its_own_and_shares_the_registry() {
        let cluster = Cluster::at(Path::new("/x/my cluster")).unwrap();
        let value = cluster.worker_value(cluster.template_value(), "worker-1", 8081);
        assert_eq!(value["worker_dir"], "/x/my cluster/workers/worker-1/worker");
        assert_eq!(value["worker_port"], "8081");
        assert_eq!(value["registry"], "file:///x/my cluster/registry");
        let document = crate::config::Document::made(value, Path::new("worker-1.json"));
        Settings::of(document, Path::new("/x/my cluster/workers/worker-1")).unwrap();
    }

    #[test]
    fn a_local_registry_is_the_clusters() {
        let cluster = Cluster::at(Path::new("/x/c")).unwrap();
        let registry = |value| cluster.worker_value(value, "worker-0", 1)["registry"].clone();
        assert_eq!(registry(json!({"registry": "local"})), "file:///x/c/registry");
        assert_eq!(registry(json!({})), "file:///x/c/registry");
        assert_eq!(registry(json!({"registry": "local", "registry_dir": "/y"})), "local");
        assert_eq!(registry(json!({"registry": "/y"})), "/y");
    }

    #[test]
    fn started_workers_are_found_in_the_order_of_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::at(dir.path()).unwrap();
        fs::create_dir(dir.path().join("config")).unwrap();
        fs::create_dir(dir.path().join("logs")).unwrap();
        for name in ["worker-10", "worker-2", "template", "worker-x", "worker-3"] {
            let value = cluster.worker_value(cluster.template_value(), name, 1);
            fs::write(cluster.config(name), value.to_string()).unwrap();
            fs::write(cluster.pid_file(name), "1").unwrap();
        }
        fs::remove_file(cluster.pid_file("worker-3")).unwrap();
        let names: Vec<_> = cluster.members().unwrap().into_iter().map(|member| member.name).collect();
        assert_eq!(names, ["worker-2", "worker-10"]);
    }
}
