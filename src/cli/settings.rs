//! A worker's configuration as a file: read, changed by `-o`, checked. The one place of the command
//! line that knows [`Config`].

use std::path::{Path, PathBuf};

use actors::name::FunctionName;

use super::error::CliError;
use crate::client::Client;
use crate::config::{Config, ConfigError, Document, Wrong};

/// What the file says, and what it means.
pub(super) struct Settings {
    pub(super) document: Document,
    pub(super) config: Config,
    /// Fields that were written but mean nothing here.
    pub(super) ignored: Vec<String>,
}

impl Settings {
    /// `ol_dir` is what paths that are not given are below.
    pub(super) fn read(path: &Path, ol_dir: &Path) -> Result<Self, CliError> {
        Self::of(Document::read(path)?, ol_dir)
    }

    /// What a new directory gets: the defaults, and over them a `template.json` from here or above.
    pub(super) fn defaults(ol_dir: &Path) -> Result<Self, CliError> {
        let here = std::env::current_dir().map_err(CliError::file("find", "."))?;
        let document = match Config::find_template(&here) {
            Some(path) => {
                let template = Document::read(&path)?;
                template.with_value(Config::default_for(ol_dir, Some(&template.value)))
            }
            None => Document::made(Config::default_for(ol_dir, None), &ol_dir.join("config.json")),
        };
        Self::of(document, ol_dir)
    }

    pub(super) fn of(document: Document, ol_dir: &Path) -> Result<Self, CliError> {
        let loaded = Config::from_document(&document, ol_dir)?;
        Ok(Self { document, config: loaded.config, ignored: loaded.ignored })
    }

    /// With `-o` options laid over.
    pub(super) fn with_options(&self, options: &[String], ol_dir: &Path) -> Result<Self, CliError> {
        let document = options
            .iter()
            .try_fold(self.document.clone(), |document, options| document.with_options(options))?;
        Self::of(document, ol_dir)
    }

    /// What somebody else has found wrong with a field.
    pub(super) fn error(&self, field: &str, problem: String) -> ConfigError {
        self.document.error(Wrong::new(field, problem))
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
