//! A worker of the benchmark's own, in a directory of its own, with the functions and the configuration that are to be measured.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::BenchError;
use super::call::reach;
use super::start::{free_port, ol, pid};
use crate::client::Client;

/// How long a tree may take to stand still.
const SETTLE_MAX: Duration = Duration::from_secs(240);
/// How long it must have stood still: more than from one fit to the next.
const STILL: Duration = Duration::from_secs(5);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A function's name and its files.
pub(super) type Function = (String, Vec<(&'static str, String)>);

/// A directory for it, that goes when this is dropped.
pub(super) fn place() -> Result<tempfile::TempDir, BenchError> {
    tempfile::Builder::new().prefix("ol-bench-").tempdir().map_err(|source| BenchError::File {
        what: "make a directory in",
        path: std::env::temp_dir(),
        source,
    })
}

/// A worker that runs. Dropping it takes it down.
pub(super) struct Site {
    ol_dir: PathBuf,
    pub(super) address: SocketAddr,
    pub(super) cgroup_root: String,
    is_up: bool,
}

impl Site {
    /// `functions` by name, with their files. `options` are those of `ol worker up -o`.
    pub(super) fn start(
        place: &Path,
        packages: Option<&Path>,
        options: &[String],
        functions: &[Function],
    ) -> Result<Self, BenchError> {
        let ol_dir = place.to_owned();
        ol(&ol_dir, &["worker", "init"])?;
        for (name, files) in functions {
            let directory = ol_dir.join("registry").join(name);
            let written = fs::create_dir_all(&directory).and_then(|()| {
                files.iter().try_for_each(|(file, text)| fs::write(directory.join(file), text))
            });
            written.map_err(|source| BenchError::File { what: "write", path: directory, source })?;
        }
        let cgroup_root = format!("ol-bench-{}-{}", std::process::id(), free_port());
        let port = free_port();
        let own = [format!("worker_port={port}"), format!("cgroup_root={cgroup_root}")];
        let packages = packages.map(|packages| format!("Pkgs_dir={}", packages.display()));
        let mut args = vec!["worker", "up", "-d"];
        for option in own.iter().chain(&packages).chain(options) {
            args.extend(["-o", option]);
        }
        ol(&ol_dir, &args)?;
        let mut site = Self { ol_dir, address: reach("localhost", port)?, cgroup_root, is_up: true };
        site.address = reach("localhost", port)?;
        Ok(site)
    }

    pub(super) fn client(&self) -> Client {
        Client::tcp(self.address.ip().to_string(), self.address.port())
    }

    pub(super) fn pid(&self) -> Option<i32> {
        pid(&self.ol_dir)
    }

    /// Waits until so many standbys are there.
    pub(super) async fn has_standbys(&self, n: usize) -> Result<(), BenchError> {
        let began = Instant::now();
        loop {
            let reply = self.client().get("/lambdas").await?;
            let shown: Value = reply.json().map_err(|error| BenchError::Refused(error.to_string()))?;
            if shown["worker"]["standbys"].as_u64().is_some_and(|there| there >= n as u64) {
                return Ok(());
            }
            if began.elapsed() >= SETTLE_MAX {
                return Err(BenchError::Refused(format!("the worker does not make {n} standbys")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The zygotes, when nothing has happened to them for a while; and how long they took until then.
    pub(super) async fn settled(&self) -> Result<(Value, Duration), BenchError> {
        let began = Instant::now();
        let (mut last, mut since) = (Value::Null, began);
        loop {
            let reply = self.client().get("/zygotes").await?;
            let shown: Value = reply.json().map_err(|error| BenchError::Refused(error.to_string()))?;
            let nodes = shown["nodes"].as_array().cloned().unwrap_or_default();
            let state: Value =
                nodes.iter().map(|node| serde_json::json!([node["node"], node["state"]])).collect();
            let is_busy = nodes.iter().any(|node| node["state"] == "building");
            if state != last || is_busy {
                (last, since) = (state, Instant::now());
            }
            if since.elapsed() >= STILL || began.elapsed() >= SETTLE_MAX {
                return Ok((shown, since - began));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) fn stop(mut self) -> Result<(), BenchError> {
        self.is_up = false;
        ol(&self.ol_dir, &["worker", "down"]).map(drop)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.is_up {
            // Something else went wrong, and is told.
            drop(ol(&self.ol_dir, &["worker", "down"]));
        }
    }
}
