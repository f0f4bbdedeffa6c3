//! A worker's configuration as a file: read, changed by `-o`, checked. The one place of the command
//! line that knows [`Config`].

use std::path::{Path, PathBuf};

use actors::name::FunctionName;
use serde_json::Value;

use super::error::CliError;
use crate::client::Client;
use crate::config::{self, Config, ConfigError};

/// What the file says, and what it means.
pub(super) struct Settings {
    pub(super) value: Value,
    pub(super) config: Config,
    /// Fields that were written but mean nothing here.
    pub(super) ignored: Vec<String>,
}

impl Settings {
    /// `ol_dir` is what paths that are not given are below.
    pub(super) fn read(path: &Path, ol_dir: &Path) -> Result<Self, CliError> {
        Self::of(config::read_json(path).map_err(|error| refused(path, error))?, path, ol_dir)
    }

    /// What a new directory gets: the defaults, and over them a `template.json` from here or above.
    pub(super) fn defaults(ol_dir: &Path) -> Result<Self, CliError> {
        let here = std::env::current_dir().map_err(CliError::file("find", "."))?;
        let template = match Config::find_template(&here) {
            Some(path) => Some(config::read_json(&path).map_err(|error| refused(&path, error))?),
            None => None,
        };
        Self::of(Config::default_for(ol_dir, template.as_ref()), &ol_dir.join("config.json"), ol_dir)
    }

    pub(super) fn of(value: Value, path: &Path, ol_dir: &Path) -> Result<Self, CliError> {
        let loaded = Config::from_json(&value, path, ol_dir).map_err(|error| refused(path, error))?;
        Ok(Self { value, config: loaded.config, ignored: loaded.ignored })
    }

    /// With `-o` options laid over; `path` is where the result will be written.
    pub(super) fn with_options(
        &self,
        options: &[String],
        path: &Path,
        ol_dir: &Path,
    ) -> Result<Self, CliError> {
        let mut value = self.value.clone();
        for option in options {
            config::apply_overrides(&mut value, option)
                .map_err(|error| CliError::Option(error.to_string()))?;
        }
        Self::of(value, path, ol_dir)
    }

    pub(super) fn worker_dir(&self) -> PathBuf {
        self.config.worker_dir.clone()
    }

    /// What the function prints goes there.
    pub(super) fn function_log(&self, name: &FunctionName) -> PathBuf {
        self.worker_dir().join("logs").join(format!("{name}.log"))
    }

    pub(super) fn host(&self) -> &str {
        &self.config.host
    }

    pub(super) fn port(&self) -> u16 {
        self.config.port
    }

    /// With the port that the running worker has, where it was for the kernel to choose one.
    pub(super) fn listening(mut self) -> Self {
        if self.config.port == 0 {
            let chosen = std::fs::read_to_string(self.worker_dir().join("worker.port")).ok();
            self.config.port = chosen.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        }
        self
    }

    /// How the worker is called from this machine.
    pub(super) fn address(&self) -> String {
        let host = self.reachable_host();
        if host.contains(':') {
            format!("[{host}]:{}", self.port())
        } else {
            format!("{host}:{}", self.port())
        }
    }

    pub(super) fn client(&self) -> Client {
        if self.port() == 0 {
            // The kernel chose the port, and only the worker knows which.
            return Client::unix(self.worker_dir().join("ol.sock"));
        }
        Client::tcp(self.reachable_host(), self.port())
    }

    /// A worker that listens everywhere is reached here.
    pub(super) fn reachable_host(&self) -> &str {
        match self.host() {
            "" | "0.0.0.0" | "::" => "localhost",
            host => host,
        }
    }
}

/// Some of the errors name their file, some only the field.
fn refused(path: &Path, error: ConfigError) -> CliError {
    CliError::Config(match error {
        ConfigError::Read { .. } | ConfigError::Parse { .. } => error.to_string(),
        _ => format!("{}: {error}", path.display()),
    })
}
