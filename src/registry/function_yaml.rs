//! `ol.yaml`: what a function says about itself.

mod cron;
mod kafka;
mod limits;
mod triggers;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;

use actors::cron::timetable::CronEntry;
use actors::name::FunctionName;
use actors::world::{KafkaSource, Network};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

pub use cron::CronTrigger;
pub use kafka::{KafkaTrigger, OffsetReset};
use limits::NetworkName;
pub use limits::{FunctionLimits, RUNTIME_MAX};
pub use triggers::{HttpTrigger, Triggers};

use crate::config::{Config, Limits};
use crate::field::{FieldPath, Place};

/// Name of the file in a function's folder.
pub const FILE_NAME: &str = "ol.yaml";

/// Largest `ol.yaml` or `.env` that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;

/// An `ol.yaml` that was read, with its text: so what turns out to be wrong later is told with its line, too.
#[derive(Debug, Clone)]
pub struct FunctionYaml {
    /// What it says.
    pub config: FunctionConfig,
    text: String,
}

/// A function's settings: its `ol.yaml`, with the variables of its `.env`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct FunctionConfig {
    /// What starts an invocation.
    #[serde(deserialize_with = "or_nothing")]
    pub triggers: Triggers,
    /// Environment variables of the handler.
    #[serde(deserialize_with = "or_nothing")]
    pub environment: BTreeMap<String, String>,
    #[serde(default)]
    reuse_sandbox: Reuse,
    /// Limits that differ from the worker's.
    #[serde(deserialize_with = "or_nothing")]
    pub limits: FunctionLimits,
    network: Option<NetworkName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
struct Reuse(bool);

impl Default for Reuse {
    fn default() -> Self {
        Self(true)
    }
}

/// Why an `ol.yaml` is not usable. The text is for the function's author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionConfigError {
    /// Which field it is about; none if it is the whole.
    pub field: FieldPath,
    /// What is wrong with it.
    pub problem: String,
    /// Where that stands. `None` where there is no such place, as of a file that is too long.
    pub place: Option<Place>,
}

impl std::error::Error for FunctionConfigError {}

impl fmt::Display for FunctionConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ol.yaml: ")?;
        if !self.field.steps().is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)?;
        match self.place {
            Some(place) => write!(f, " ({place})"),
            None => Ok(()),
        }
    }
}

/// A field with a value that cannot be meant, or that the worker does not allow.
struct Wrong {
    field: FieldPath,
    problem: String,
}

type Checked<T = ()> = Result<T, Wrong>;

fn wrong<T>(field: impl Into<FieldPath>, problem: String) -> Checked<T> {
    Err(Wrong { field: field.into(), problem })
}

impl FunctionYaml {
    /// Read the text of an `ol.yaml`; an empty one says nothing, as one that is not there.
    pub fn parse(text: &str) -> Result<Self, FunctionConfigError> {
        if text.len() as u64 > FILE_BYTES_MAX {
            let problem = format!("is longer than {FILE_BYTES_MAX} bytes");
            return Err(FunctionConfigError { field: FieldPath::default(), problem, place: None });
        }
        let is_empty = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        let config = if is_empty { FunctionConfig::default() } else { yaml::read(text)? };
        let mut read = Self { config, text: text.to_owned() };
        read.config.triggers.capitalize_methods();
        read.placed(read.config.check())?;
        Ok(read)
    }

    /// The limits that hold for this function on this worker.
    pub fn limits(&self, worker: &Config) -> Result<Limits, FunctionConfigError> {
        self.placed(self.config.limits.on(worker))
    }

    /// The network of this function on this worker.
    pub fn network(&self, worker: &Config) -> Result<Network, FunctionConfigError> {
        match self.config.network {
            None => Ok(worker.network),
            Some(asked) => self.placed(asked.on(worker)),
        }
    }

    /// Whether this worker may connect to all brokers that the function names.
    pub fn check_brokers(&self, worker: &Config) -> Result<(), FunctionConfigError> {
        let path = |n| FieldPath::from("triggers.kafka").index(n);
        let mut triggers = self.config.triggers.kafka().iter().enumerate();
        let checked =
            triggers.try_for_each(|(n, trigger)| trigger.check_brokers(&path(n), &worker.kafka.brokers));
        self.placed(checked)
    }

    /// What is wrong with the value of a field, which others have found out.
    #[must_use]
    pub fn error(&self, field: FieldPath, problem: String) -> FunctionConfigError {
        let place = yaml::find(&self.text, &field);
        FunctionConfigError { field, problem, place }
    }

    fn placed<T>(&self, checked: Checked<T>) -> Result<T, FunctionConfigError> {
        checked.map_err(|Wrong { field, problem }| self.error(field, problem))
    }
}

impl FunctionConfig {
    /// Lay the variables of a `.env` under those of `environment`.
    pub fn add_variables(&mut self, variables: BTreeMap<String, String>) {
        for (name, value) in variables {
            self.environment.entry(name).or_insert(value);
        }
    }

    /// Whether a sandbox serves more than one invocation.
    #[must_use]
    pub fn reuse_sandbox(&self) -> bool {
        self.reuse_sandbox.0
    }

    /// Whether the function serves this HTTP method.
    #[must_use]
    pub fn allows_method(&self, method: &str) -> bool {
        self.methods().iter().any(|allowed| *allowed == "*" || *allowed == method)
    }

    /// The methods that are served, in the order of the file; `*` is every method.
    #[must_use]
    pub fn methods(&self) -> Vec<&str> {
        self.triggers.methods()
    }

    /// When it is called by the clock.
    #[must_use]
    pub fn cron(&self) -> Vec<CronEntry> {
        self.triggers.cron().iter().filter_map(CronTrigger::entry).collect()
    }

    /// What it is called with from Kafka.
    #[must_use]
    pub fn kafka(&self) -> Vec<KafkaSource> {
        self.triggers.kafka().iter().map(KafkaTrigger::source).collect()
    }

    /// The answer of `GET /registry/{name}/config`, in OpenLambda's shape.
    #[must_use]
    pub fn to_registry_json(&self, name: &FunctionName) -> Value {
        json!({
            "Triggers": self.triggers.to_json(name),
            "Environment": self.environment,
            "ReuseSandbox": self.reuse_sandbox.0,
        })
    }

    fn check(&self) -> Checked {
        self.triggers.check()?;
        for (name, value) in &self.environment {
            let field = || FieldPath::from("environment").name(name);
            if !is_variable_name(name) {
                return wrong(field(), format!("'{name}' is not a variable's name"));
            }
            if value.contains('\0') {
                return wrong(field(), "has a NUL character in it".to_owned());
            }
        }
        self.limits.check()
    }
}

/// `[A-Za-z_][A-Za-z0-9_]*`, as a shell takes it.
pub(super) fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// `triggers:` with nothing below it is a file in which all triggers are commented out.
fn or_nothing<'a, T: Default + Deserialize<'a>, D: Deserializer<'a>>(given: D) -> Result<T, D::Error> {
    Option::deserialize(given).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests;
