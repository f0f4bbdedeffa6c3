//! `ol admin invoke`: call a function once.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use actors::name::FunctionName;
use serde_json::{Map, Value, json};
use structopt::StructOpt;

use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{functions, say, talk};
use crate::client::Reply;
use crate::config::Config;
use crate::serve::{INSTALL_PATIENCE, RUNTIME_MAX};

/// Call a function once and print what it answers
#[derive(StructOpt)]
pub(crate) struct Invoke {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// Status, headers and body of the answer, as JSON
    #[structopt(long)]
    json: bool,
    /// The function's name
    name: String,
    /// What to call it with: JSON, or - for what standard input has
    #[structopt(default_value = "{}")]
    event: String,
}

impl Invoke {
    pub(super) fn run(self) -> Result<(), CliError> {
        let name: FunctionName = self.name.parse()?;
        let settings = OlDir::at(&self.path)?.running()?;
        let mut event = self.event.into_bytes();
        if event == b"-" {
            event.clear();
            io::stdin().read_to_end(&mut event).map_err(CliError::file("read", "standard input"))?;
        }
        let path = format!("/run/{name}");
        let client = settings.client().with_deadlines(talk::STATUS_WAIT_MAX, patience(&settings.config));
        let reply = talk::wait(client.post(&path, event))??;
        if self.json {
            say(format!("{}\n", described(&reply)));
        }
        let reply = functions::accepted("POST", &path, reply)?;
        if !self.json {
            // Bytes, as they are: a function may answer with something else than text.
            let mut out = io::stdout().lock();
            let line_end: &[u8] = if reply.body.ends_with(b"\n") { b"" } else { b"\n" };
            drop(out.write_all(&reply.body).and_then(|()| out.write_all(line_end)));
        }
        Ok(())
    }
}

/// How long the worker may take until it has answered or given up: a new function's packages are installed, the call waits for a sandbox,
/// and runs for as long as an `ol.yaml` may allow it, which is not known here.
fn patience(config: &Config) -> Duration {
    let runs = config.limits.runtime.max(RUNTIME_MAX);
    let waits = [config.queue.wait_max, INSTALL_PATIENCE, talk::REGISTRY_WAIT_MAX];
    waits.into_iter().fold(runs, Duration::saturating_add)
}

/// The body as the JSON that it is, or as a text.
fn described(reply: &Reply) -> Value {
    let mut headers = Map::new();
    for (name, value) in &reply.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        match headers.get_mut(name.as_str()) {
            // As RFC 9110, 5.3, has several of a name mean the same as one with commas.
            Some(Value::String(before)) => *before += &format!(", {value}"),
            _ => drop(headers.insert(name.to_string(), json!(value))),
        }
    }
    let body: Value = reply.json().unwrap_or_else(|_| json!(reply.text()));
    json!({"status": reply.status.as_u16(), "headers": headers, "body": body})
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_call_is_waited_for_longer_than_the_worker_lets_it_take() {
        let patience = |config: Value| {
            let loaded = Config::from_json(&config, Path::new("config.json"), Path::new("/ol")).unwrap();
            (patience(&loaded.config), loaded.config)
        };
        // An `ol.yaml` may ask for a day.
        let (usual, config) = patience(json!({}));
        assert!(usual > Duration::from_secs(24 * 60 * 60) + config.queue.wait_max + INSTALL_PATIENCE);
        let (long, config) =
            patience(json!({ "limits": { "runtime_sec": 86_400 }, "queue": { "wait_ms": 86_400_000 } }));
        assert!(long > config.limits.runtime + config.queue.wait_max + INSTALL_PATIENCE);
    }
}
