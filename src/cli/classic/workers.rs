//! `admin workers`: start workers in the background and wait until they answer.

use std::path::PathBuf;

use structopt::StructOpt;

use super::cluster::{Cluster, PORT};
use crate::cli::error::{CliError, must_be_root};
use crate::cli::launch::Launch;
use crate::cli::ol_dir::{OlDir, State};
use crate::cli::settings::Settings;
use crate::cli::worker::initialize;
use crate::cli::{complain, files, ports, say};
use crate::config::Document;

/// Start one or more workers of the cluster
#[derive(StructOpt)]
pub(crate) struct Workers {
    /// The cluster's directory
    #[structopt(long, parse(from_os_str))]
    cluster: PathBuf,
    /// The first worker's port; the others follow [default: that of config/template.json, 8080 at first]
    #[structopt(short, long)]
    port: Option<u16>,
    /// How many workers
    #[structopt(short, long, default_value = "1")]
    num_workers: u16,
    /// One worker per database; there are none any more, so that this changes nothing
    #[structopt(long)]
    foreach: bool,
}

struct Planned {
    name: String,
    ol_dir: OlDir,
    settings: Settings,
}

impl Workers {
    pub(super) fn run(self) -> Result<(), CliError> {
        must_be_root("admin workers")?;
        let cluster = Cluster::open(&self.cluster)?;
        if self.foreach {
            complain("admin: --foreach has no effect: it meant one worker per database, and there are none");
        }
        let planned = self.plan(&cluster)?;
        for worker in &planned {
            ports::check_free(worker.settings.host(), worker.settings.port(), "-p PORT")?;
        }
        let mut started = Vec::new();
        for worker in &planned {
            initialize(&worker.ol_dir, &worker.settings, cluster.base().as_deref(), false)?;
            files::replace_json(&cluster.config(&worker.name), &worker.settings.document.value)?;
            let launched = self.launch(&cluster, worker)?;
            let (pid, log) = (launched.pid(), cluster.log(&worker.name));
            files::replace(&cluster.pid_file(&worker.name), pid.to_string().as_bytes(), 0o644)?;
            say(format!(
                "Started worker: pid {pid}, port {}, log at {}\n",
                worker.settings.port(),
                log.display()
            ));
            started.push((launched, worker));
        }
        for (launched, worker) in started {
            if let Err(error) = launched.wait_until_ready() {
                files::remove(&cluster.pid_file(&worker.name))?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Everything that can be refused is refused here, before the first worker is touched.
    fn plan(&self, cluster: &Cluster) -> Result<Vec<Planned>, CliError> {
        let template = Document::read(&cluster.template())?;
        let of_worker =
            |name: &str, port| template.with_value(cluster.worker_value(template.value.clone(), name, port));
        let of_template = Settings::of(of_worker("worker-0", PORT), cluster.path())?;
        drop(of_template);
        let first = match self.port {
            Some(port) => port,
            None => port_of(&template.value),
        };
        let mut planned = Vec::new();
        for number in 0..self.num_workers {
            let name = format!("worker-{number}");
            let port = first.checked_add(number).ok_or_else(|| {
                CliError::Usage(format!("there are no {} ports from {first}", self.num_workers))
            })?;
            let ol_dir = cluster.ol_dir(&name)?;
            if let State::Running(worker) | State::Unknown(worker) = ol_dir.state()? {
                let hint = format!("admin kill -cluster={}", cluster.as_given().display());
                return Err(CliError::AlreadyRunning { pid: worker.pid, hint });
            }
            let settings = Settings::of(of_worker(&name, port), ol_dir.path())?;
            planned.push(Planned { name, ol_dir, settings });
        }
        Ok(planned)
    }

    fn launch(&self, cluster: &Cluster, worker: &Planned) -> Result<crate::cli::launch::Started, CliError> {
        let me = std::env::current_exe().map_err(CliError::file("find", "admin"))?;
        let log = cluster.log(&worker.name);
        let launch = Launch {
            program: me.with_file_name("ol"),
            args: vec![
                "worker".into(),
                "up".into(),
                "--in-background".into(),
                log.clone().into(),
                "-p".into(),
                worker.ol_dir.path().into(),
            ],
            worker_dir: worker.settings.worker_dir(),
            log,
        };
        Ok(launch.start()?)
    }
}

/// The port of the template: a number, or a number as text.
fn port_of(template: &serde_json::Value) -> u16 {
    let port = &template["worker_port"];
    let number = port.as_u64().and_then(|port| port.try_into().ok());
    number.or_else(|| port.as_str()?.parse().ok()).unwrap_or(PORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_template_says_the_port_in_either_way() {
        assert_eq!(port_of(&json!({"worker_port": "9000"})), 9000);
        assert_eq!(port_of(&json!({"worker_port": 9000})), 9000);
        assert_eq!(port_of(&json!({})), 8080);
    }
}
