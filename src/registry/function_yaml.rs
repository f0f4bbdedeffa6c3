//! `ol.yaml`: what a function says about itself.

use std::borrow::Cow;
use std::collections::BTreeMap;

use std::sync::Arc;

use actors::cron::timetable::CronEntry;
use actors::name::FunctionName;
use actors::world::{KafkaSource, Network};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use serde_saphyr::{DefaultMessageFormatter, MessageFormatter, Spanned};

use super::schedule::CronSchedule;
use crate::config::{Config, Limits};

/// Name of the file in a function's folder.
pub const FILE_NAME: &str = "ol.yaml";

/// Largest `ol.yaml` or `.env` that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Schedules and Kafka triggers of one function at most, of each: the file has room for thousands.
const TRIGGERS_MAX: usize = 64;
/// Calls of a record before it is given up, if the file does not say.
const CALLS_MAX: u32 = 5;

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

/// What starts an invocation.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Triggers {
    /// Methods that are served; `None` where the file has no `http`, which means all of them.
    pub http: Option<Vec<HttpTrigger>>,
    /// When it is called by the clock.
    pub cron: Option<Vec<CronTrigger>>,
    /// What it is called with from Kafka.
    pub kafka: Option<Vec<KafkaTrigger>>,
}

impl Triggers {
    /// Whether something else than a request may start it.
    #[must_use]
    pub fn has_other_than_http(&self) -> bool {
        self.cron.as_ref().is_some_and(|all| !all.is_empty())
            || self.kafka.as_ref().is_some_and(|all| !all.is_empty())
    }
}

/// A method that is served.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTrigger {
    /// `GET`, or `*` for every method.
    #[serde(default = "every_method")]
    pub method: String,
}

/// An invocation by the clock.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CronTrigger {
    /// Five fields, as in a crontab.
    pub schedule: Spanned<String>,
    /// The time zone that it is meant in; `None`: the machine's.
    #[serde(default)]
    pub timezone: Option<String>,
}

/// An invocation per record of a Kafka topic.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaTrigger {
    /// Brokers to ask first, as `host:port`.
    pub bootstrap_servers: Vec<Spanned<String>>,
    /// Topics to read.
    pub topics: Vec<String>,
    /// Where to start in a topic that was never read.
    #[serde(default)]
    pub auto_offset_reset: OffsetReset,
    /// Accepted as OpenLambda does, and as there without effect: the group is `lambda-<name>`.
    #[serde(default)]
    pub group_id: Option<String>,
    /// Where records go that the function has refused or failed with too often; without it they are logged and left behind.
    #[serde(default)]
    pub dead_letter_topic: Option<String>,
    /// Calls of one record before it is given up.
    #[serde(default)]
    pub max_attempts: Option<u32>,
}

impl KafkaTrigger {
    fn servers(&self) -> impl Iterator<Item = &str> {
        self.bootstrap_servers.iter().map(|server| server.value.as_str())
    }
}

/// Where to start in a topic that was never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OffsetReset {
    /// At the records that come from now on.
    #[default]
    Latest,
    /// At the oldest record there is.
    Earliest,
}

/// `limits` of `ol.yaml`: what is left out is the worker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionLimits {
    /// Memory of one sandbox, in MiB.
    pub mem_mb: Option<u32>,
    /// Processor time, in percent of one core.
    pub cpu_percent: Option<u32>,
    /// Processes and threads of one sandbox.
    pub procs: Option<u32>,
    /// How long one invocation may take, in seconds.
    pub runtime_sec: Option<u64>,
    /// Sandboxes at most.
    pub max_instances: Option<usize>,
    /// Sandboxes that are kept when idle.
    pub min_warm: Option<usize>,
    /// Size of the private `/tmp`, in MiB.
    pub tmp_mb: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
struct Reuse(bool);

impl Default for Reuse {
    fn default() -> Self {
        Self(true)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NetworkName {
    None,
    Outbound,
    Host,
}

/// Why an `ol.yaml` is not usable. The texts are for the function's author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FunctionConfigError {
    /// Not YAML, or not what an `ol.yaml` has.
    #[error("ol.yaml: {0}")]
    Yaml(String),
    /// A field has a value that cannot be meant, or that this worker does not allow.
    #[error("ol.yaml: {field}: {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl FunctionConfig {
    /// Read the text of an `ol.yaml`.
    pub fn parse(text: &str) -> Result<Self, FunctionConfigError> {
        // A file of 64 KiB has room for far less than this; what exceeds it was made to.
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_events: 20_000,
                max_nodes: 10_000,
                max_aliases: 100,
                max_anchors: 100,
                max_depth: 16,
                max_documents: 1,
            },
            with_snippet: false,
        };
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(FunctionConfigError::Yaml(format!("is longer than {FILE_BYTES_MAX} bytes")));
        }
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        let mut config: Self = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| FunctionConfigError::Yaml(one_line(&error)))?;
        // Requests have them in capitals.
        for trigger in config.triggers.http.iter_mut().flatten() {
            trigger.method.make_ascii_uppercase();
        }
        config.check()?;
        Ok(config)
    }

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
        match &self.triggers.http {
            None => vec!["*"],
            Some(http) => http.iter().map(|trigger| trigger.method.as_str()).collect(),
        }
    }

    /// When it is called by the clock.
    #[must_use]
    pub fn cron(&self) -> Vec<CronEntry> {
        // All of them could be read when the file was; but a time zone may have gone from the machine since.
        let entry = |trigger: &CronTrigger| {
            let schedule = CronSchedule::parse(&trigger.schedule.value, trigger.timezone.as_deref()).ok()?;
            let (text, zone) = (trigger.schedule.value.trim().to_owned(), schedule.zone_name());
            Some(CronEntry { text, zone, schedule: Arc::new(schedule) })
        };
        self.triggers.cron.iter().flatten().filter_map(entry).collect()
    }

    /// What it is called with from Kafka.
    #[must_use]
    pub fn kafka(&self) -> Vec<KafkaSource> {
        let source = |trigger: &KafkaTrigger| KafkaSource {
            bootstrap_servers: trigger.servers().map(str::to_owned).collect(),
            topics: trigger.topics.clone(),
            from_earliest: trigger.auto_offset_reset == OffsetReset::Earliest,
            calls_max: trigger.max_attempts.unwrap_or(CALLS_MAX),
            dead_letter_topic: trigger.dead_letter_topic.clone(),
        };
        self.triggers.kafka.iter().flatten().map(source).collect()
    }

    /// The answer of `GET /registry/{name}/config`, in OpenLambda's shape.
    #[must_use]
    pub fn to_registry_json(&self, name: &FunctionName) -> Value {
        let http: Vec<_> = self.methods().into_iter().map(|method| json!({ "Method": method })).collect();
        let cron = self.triggers.cron.as_ref().map(|list| {
            let shown = |trigger: &CronTrigger| {
                let mut shown = json!({ "Schedule": trigger.schedule.value });
                if let Some(zone) = &trigger.timezone {
                    shown["Timezone"] = json!(zone);
                }
                shown
            };
            list.iter().map(shown).collect::<Vec<_>>()
        });
        let kafka = self.triggers.kafka.as_ref().map(|list| {
            list.iter()
                .map(|trigger| {
                    let mut shown = json!({
                        "bootstrap_servers": trigger.servers().collect::<Vec<_>>(),
                        "topics": trigger.topics,
                        "group_id": format!("lambda-{name}"),
                        "auto_offset_reset": match trigger.auto_offset_reset {
                            OffsetReset::Latest => "latest",
                            OffsetReset::Earliest => "earliest",
                        },
                    });
                    if let Some(topic) = &trigger.dead_letter_topic {
                        shown["dead_letter_topic"] = json!(topic);
                    }
                    if let Some(n) = trigger.max_attempts {
                        shown["max_attempts"] = json!(n);
                    }
                    shown
                })
                .collect::<Vec<_>>()
        });
        json!({
            "Triggers": { "HTTP": http, "Cron": cron, "Kafka": kafka },
            "Environment": self.environment,
            "ReuseSandbox": self.reuse_sandbox.0,
        })
    }

    /// The limits that hold for this function on this worker.
    pub fn limits(&self, worker: &Config) -> Result<Limits, FunctionConfigError> {
        let (own, default) = (&self.limits, &worker.limits);
        let limits = Limits {
            procs: own.procs.unwrap_or(default.procs),
            mem_mb: own.mem_mb.unwrap_or(default.mem_mb),
            cpu_percent: own.cpu_percent.unwrap_or(default.cpu_percent),
            swappiness: default.swappiness,
            runtime: own.runtime_sec.map_or(default.runtime, std::time::Duration::from_secs),
            tmp_mb: own.tmp_mb.unwrap_or(default.tmp_mb),
            max_instances: own.max_instances.unwrap_or(default.max_instances),
            // Fewer instances than the worker keeps warm by default is no contradiction of the author's.
            min_warm: own
                .min_warm
                .unwrap_or_else(|| default.min_warm.min(own.max_instances.unwrap_or(usize::MAX))),
        };
        let mem_mb_max = worker.mem_pool_mb / 2;
        if u64::from(limits.mem_mb) > mem_mb_max {
            return field(
                "limits.mem_mb",
                format!("is {}, and this worker gives one sandbox at most {mem_mb_max}", limits.mem_mb),
            );
        }
        if limits.min_warm > limits.max_instances {
            return field(
                "limits.min_warm",
                format!(
                    "is {}, which is more than max_instances ({})",
                    limits.min_warm, limits.max_instances
                ),
            );
        }
        Ok(limits)
    }

    /// The network of this function on this worker.
    pub fn network(&self, worker: &Config) -> Result<Network, FunctionConfigError> {
        let rank = |network| match network {
            Network::None => 0,
            Network::Outbound => 1,
            Network::Host => 2,
        };
        let asked = match self.network {
            None => return Ok(worker.network),
            Some(NetworkName::None) => Network::None,
            Some(NetworkName::Outbound) => Network::Outbound,
            Some(NetworkName::Host) => Network::Host,
        };
        if rank(asked) > rank(worker.network_max) {
            return field(
                "network",
                "asks for more than network_max of this worker's config.json allows".to_owned(),
            );
        }
        Ok(asked)
    }

    /// Whether this worker may connect to all brokers that the function names.
    pub fn check_brokers(&self, worker: &Config) -> Result<(), FunctionConfigError> {
        let mut servers = self.triggers.kafka.iter().flatten().flat_map(|trigger| &trigger.bootstrap_servers);
        match servers.find(|server| !worker.kafka.brokers.allow(&server.value)) {
            None => Ok(()),
            Some(server) => field(
                "triggers.kafka.bootstrap_servers",
                format!(
                    "'{}' is not among kafka.brokers of this worker's config.json (line {})",
                    server.value,
                    server.referenced.line()
                ),
            ),
        }
    }

    fn check(&self) -> Result<(), FunctionConfigError> {
        for trigger in self.triggers.http.iter().flatten() {
            if trigger.method != "*"
                && !trigger.method.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
                || trigger.method.is_empty()
            {
                return field(
                    "triggers.http",
                    format!("'{}' is not a method; write one such as GET, or \"*\"", trigger.method),
                );
            }
        }
        self.check_cron()?;
        self.check_kafka()?;
        if let Some(name) = self.environment.keys().find(|name| !is_variable_name(name)) {
            return field("environment", format!("'{name}' is not a variable's name"));
        }
        if self.environment.values().any(|value| value.contains('\0')) {
            return field("environment", "a value has a NUL character in it".to_owned());
        }
        self.check_limits()
    }

    fn check_cron(&self) -> Result<(), FunctionConfigError> {
        let triggers = self.triggers.cron.as_deref().unwrap_or_default();
        if triggers.len() > TRIGGERS_MAX {
            return field("triggers.cron", format!("has more than {TRIGGERS_MAX} schedules"));
        }
        for CronTrigger { schedule, timezone } in triggers {
            if let Err(problem) = CronSchedule::parse(&schedule.value, timezone.as_deref()) {
                return field(
                    "triggers.cron.schedule",
                    format!("{problem} (line {})", schedule.referenced.line()),
                );
            }
        }
        Ok(())
    }

    fn check_kafka(&self) -> Result<(), FunctionConfigError> {
        let triggers = self.triggers.kafka.as_deref().unwrap_or_default();
        if triggers.len() > TRIGGERS_MAX {
            return field("triggers.kafka", format!("has more than {TRIGGERS_MAX} triggers"));
        }
        for trigger in triggers {
            if trigger.topics.is_empty() {
                return field("triggers.kafka", "needs at least one topic".to_owned());
            }
            if trigger.bootstrap_servers.is_empty() {
                return field("triggers.kafka", "needs at least one of bootstrap_servers".to_owned());
            }
            // A comma would be several, and what begins with ^ a pattern, to the library.
            if let Some(server) = trigger.servers().find(|server| !is_server(server)) {
                return field(
                    "triggers.kafka.bootstrap_servers",
                    format!("'{server}' is no broker; write one such as localhost:9092"),
                );
            }
            let mut topics = trigger.topics.iter().chain(&trigger.dead_letter_topic);
            if let Some(topic) = topics.find(|topic| !is_topic(topic)) {
                return field(
                    "triggers.kafka.topics",
                    format!("'{topic}' is no topic's name: letters, digits, '.', '_' and '-', at most 249"),
                );
            }
            if trigger.dead_letter_topic.as_ref().is_some_and(|topic| trigger.topics.contains(topic)) {
                return field(
                    "triggers.kafka.dead_letter_topic",
                    "is one of topics: what is given up would come back for ever".to_owned(),
                );
            }
            if trigger.max_attempts.is_some_and(|n| !(1..=1000).contains(&n)) {
                return field("triggers.kafka.max_attempts", "must be from 1 to 1000".to_owned());
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), FunctionConfigError> {
        let own = &self.limits;
        let range = |name, value: Option<u64>, least: u64, most: u64| match value {
            Some(value) if value < least || value > most => {
                field(name, format!("is {value}, and must be from {least} to {most}"))
            }
            _ => Ok(()),
        };
        let wide = |value: Option<usize>| value.map(|value| value as u64);
        range("limits.mem_mb", own.mem_mb.map(u64::from), 16, 1024 * 1024)?;
        range("limits.cpu_percent", own.cpu_percent.map(u64::from), 1, 100_000)?;
        range("limits.procs", own.procs.map(u64::from), 1, 32_768)?;
        range("limits.runtime_sec", own.runtime_sec, 1, 24 * 60 * 60)?;
        range("limits.max_instances", wide(own.max_instances), 1, 10_000)?;
        range("limits.min_warm", wide(own.min_warm), 0, 10_000)?;
        range("limits.tmp_mb", own.tmp_mb.map(u64::from), 1, 1024 * 1024)
    }
}

/// `[A-Za-z_][A-Za-z0-9_]*`, as a shell takes it.
pub(super) fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_server(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !text.is_empty() && text.len() <= 260 && text.bytes().all(allowed)
}

/// As Kafka itself checks them.
fn is_topic(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=249).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".."
}

/// `triggers:` with nothing below it is a file in which all triggers are commented out.
fn or_nothing<'a, T: Default + Deserialize<'a>, D: Deserializer<'a>>(given: D) -> Result<T, D::Error> {
    Option::deserialize(given).map(Option::unwrap_or_default)
}

fn every_method() -> String {
    "*".to_owned()
}

fn field<T>(field: &'static str, problem: String) -> Result<T, FunctionConfigError> {
    Err(FunctionConfigError::Field { field, problem })
}

/// The words of the YAML crate where an author can do something with them, ours where they are for who calls the crate.
struct Words;

impl MessageFormatter for Words {
    fn format_message<'a>(&self, error: &'a serde_saphyr::Error) -> Cow<'a, str> {
        use serde_saphyr::Error;
        match error {
            Error::NullIntoString { .. } => {
                "a field has no value: write a text, or leave the field out,".into()
            }
            Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => {
                "one word is expected here, and something else was found".into()
            }
            Error::DuplicateMappingKey { key: Some(key), .. } => {
                format!("'{key}' is here a second time").into()
            }
            Error::DuplicateMappingKey { .. } => "a field is here a second time".into(),
            Error::Unexpected { expected: "sequence start", .. } => {
                "a list is expected here: write [a, b], or a line that begins with '-' for each".into()
            }
            Error::Unexpected { expected: "mapping start", .. } => {
                "fields are expected here: write each as 'name: value'".into()
            }
            _ => DefaultMessageFormatter.format_message(error),
        }
    }
}

fn one_line(error: &serde_saphyr::Error) -> String {
    error.render_with_formatter(&Words).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn name() -> FunctionName {
        "hi".parse().unwrap()
    }

    #[test]
    fn a_function_without_a_file_serves_every_method() {
        let config = FunctionConfig::parse("# nothing yet\n").unwrap();
        assert_eq!(
            config.to_registry_json(&name()).to_string(),
            serde_json::from_str::<Value>(
                r#"{"Triggers":{"HTTP":[{"Method":"*"}],"Cron":null,"Kafka":null},"Environment":{},"ReuseSandbox":true}"#
            )
            .unwrap()
            .to_string()
        );
        assert!(config.allows_method("PATCH"));
    }

    #[test]
    fn methods_are_those_of_the_file() {
        let config =
            FunctionConfig::parse("triggers:\n  http:\n    - method: GET\n    - method: POST\n").unwrap();
        assert_eq!(config.methods(), ["GET", "POST"]);
        assert!(!config.allows_method("PUT"));
        let config = FunctionConfig::parse("triggers: {http: [{method: get}, {method: '*'}]}").unwrap();
        assert_eq!(config.methods(), ["GET", "*"]);
    }

    #[test]
    fn what_is_wrong_is_said_in_words_of_an_author() {
        for (text, words) in [
            (
                "environment:\n  D: null\n",
                "a field has no value: write a text, or leave the field out, at line 2, column 6",
            ),
            ("environment:\n  D:\n", "a field has no value"),
            ("network: [none]\n", "one word is expected here, and something else was found"),
            ("environment: {A: 1}\nenvironment: {B: 2}\n", "'environment' is here a second time"),
            ("environment:\n  A: 1\n  A: 2\n", "'A' is here a second time"),
            ("triggers:\n  http: GET\n", "a list is expected here"),
            ("triggers:\n  http:\n    method: GET\n", "a list is expected here"),
            ("limits: 5\n", "fields are expected here"),
        ] {
            let error = FunctionConfig::parse(text).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("line "), "{text}: {error}");
        }
    }

    #[test]
    fn triggers_without_anything_below_are_none() {
        let config = FunctionConfig::parse("triggers:\nlimits:\nenvironment:\n").unwrap();
        assert_eq!(config, FunctionConfig::default());
    }

    #[test]
    fn a_function_with_only_other_triggers_still_serves_http() {
        let text = "triggers:\n  cron:\n    - schedule: '*/5 * * * *'\n  kafka:\n    - bootstrap_servers: [localhost:9092]\n      topics: [a]\n      auto_offset_reset: earliest\n";
        let config = FunctionConfig::parse(text).unwrap();
        assert_eq!(config.methods(), ["*"]);
        assert_eq!((config.cron().len(), config.kafka().len()), (1, 1));
        let json = config.to_registry_json(&name());
        assert_eq!(json["Triggers"]["Cron"], json!([{"Schedule": "*/5 * * * *"}]));
        assert_eq!(json["Triggers"]["Kafka"][0]["group_id"], "lambda-hi");
        assert_eq!(json["Triggers"]["Kafka"][0]["auto_offset_reset"], "earliest");
    }

    #[test]
    fn variables_are_text_however_they_are_written() {
        let config = FunctionConfig::parse(
            "environment:\n  A: 8080\n  B: yes\n  C: 'x y'\n  D: 1.50\nreuse-sandbox: false\n",
        )
        .unwrap();
        let values: Vec<_> = config.environment.values().map(String::as_str).collect();
        assert_eq!(values, ["8080", "yes", "x y", "1.50"]);
        assert!(!config.reuse_sandbox());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let error = FunctionConfig::parse("triggers:\n  htpp:\n    - method: GET\n").unwrap_err().to_string();
        assert!(error.contains("htpp") && error.contains("line 2") && error.contains("column 3"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_an_error_at_every_level() {
        for text in [
            "trigger: {}",
            "triggers:\n  corn: []",
            "triggers:\n  http:\n    - methods: GET",
            "triggers:\n  cron:\n    - schedule: '@daily'\n      timezon: UTC",
            "triggers:\n  kafka:\n    - bootstrap_servers: [a]\n      topics: [b]\n      autooffset: latest",
            "limits:\n  mem: 1",
        ] {
            let error = FunctionConfig::parse(text).unwrap_err().to_string();
            let line = text.lines().count();
            assert!(error.contains("unknown") && error.contains(&format!("line {line}")), "{text}: {error}");
        }
    }

    #[test]
    fn a_kafka_trigger_has_a_dead_letter_topic_and_a_bound_to_its_calls() {
        let text = "triggers:\n  kafka:\n    - bootstrap_servers: ['localhost:9092', '[::1]:9093']\n      topics: [a, b]\n      dead_letter_topic: c\n      max_attempts: 7\n      group_id: mine\n";
        let config = FunctionConfig::parse(text).unwrap();
        let source = &config.kafka()[0];
        assert_eq!(
            (source.calls_max, source.dead_letter_topic.as_deref(), source.from_earliest),
            (7, Some("c"), false)
        );
        let json = &config.to_registry_json(&name())["Triggers"]["Kafka"][0];
        assert_eq!((&json["group_id"], &json["dead_letter_topic"]), (&json!("lambda-hi"), &json!("c")));
        let trigger =
            |more: &str| format!("triggers: {{kafka: [{{bootstrap_servers: [a], topics: [b], {more}}}]}}");
        assert!(FunctionConfig::parse(&trigger("")).is_ok());
        for more in
            ["dead_letter_topic: b", "dead_letter_topic: 'x y'", "max_attempts: 0", "max_attempts: 1001"]
        {
            assert!(FunctionConfig::parse(&trigger(more)).is_err(), "{more}");
        }
        for text in [
            "triggers: {kafka: [{bootstrap_servers: ['a,b'], topics: [b]}]}",
            "triggers: {kafka: [{bootstrap_servers: ['SASL_SSL://a'], topics: [b]}]}",
            "triggers: {kafka: [{bootstrap_servers: [a], topics: ['^.*']}]}",
            "triggers: {kafka: [{bootstrap_servers: [a], topics: [b], auto_offset_reset: never}]}",
        ] {
            assert!(FunctionConfig::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_broker_that_the_worker_does_not_allow_is_named_with_its_line() {
        let worker = |json: Value| {
            Config::from_json(&json, Path::new("config.json"), Path::new("/ol")).unwrap().config
        };
        let text = "triggers:\n  kafka:\n    - bootstrap_servers: [Kafka]\n      topics: [a]\n    - topics: [b]\n      bootstrap_servers:\n        - kafka:9092\n        - evil:9092\n";
        let config = FunctionConfig::parse(text).unwrap();
        assert_eq!(config.check_brokers(&worker(json!({}))), Ok(()));
        let some = |brokers: &[&str]| worker(json!({ "kafka": { "brokers": brokers } }));
        assert_eq!(config.check_brokers(&some(&["kafka:9092", "evil"])), Ok(()));
        let refused = config.check_brokers(&some(&["kafka"])).unwrap_err().to_string();
        assert_eq!(
            refused,
            "ol.yaml: triggers.kafka.bootstrap_servers: 'evil:9092' is not among kafka.brokers of this worker's config.json (line 8)"
        );
        assert!(config.check_brokers(&some(&[])).is_err());
        // Who reads nothing needs no broker.
        assert_eq!(FunctionConfig::parse("network: none").unwrap().check_brokers(&some(&[])), Ok(()));
    }

    #[test]
    fn a_schedule_that_cannot_be_read_is_named_with_its_line() {
        let text = "triggers:\n  cron:\n    - schedule: '@daily'\n    - schedule: 0 25 * * *\n";
        let error = FunctionConfig::parse(text).unwrap_err().to_string();
        assert!(error.contains("0 25 * * *") && error.contains("line 4"), "{error}");
        let many = "triggers:\n  cron:\n".to_owned() + &"    - schedule: '@daily'\n".repeat(TRIGGERS_MAX + 1);
        assert!(FunctionConfig::parse(&many).unwrap_err().to_string().contains("more than"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "limits: {mem_mb: 1}",
            "limits: {runtime_sec: 0}",
            "limits: {procs: -1}",
            "network: everything",
            "environment: {'A=B': c}",
            "environment: {'1A': c}",
            "triggers: {kafka: [{topics: [], bootstrap_servers: [a]}]}",
            "triggers: {http: [{method: ''}]}",
            "triggers: {http: [{method: 'G T'}]}",
            "- a\n- b",
            "a: b: c",
            "environment: {A: 1}\nenvironment: {A: 2}",
            "reuse-sandbox: maybe",
        ] {
            assert!(FunctionConfig::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn yaml_bombs_are_refused() {
        let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let of = format!("*a{}", level - 1);
            laughs += &format!("a{level}: &a{level} [{}]\n", [of.as_str(); 9].join(","));
        }
        assert!(FunctionConfig::parse(&laughs).is_err());
        assert!(FunctionConfig::parse(&format!("environment: {}", "[".repeat(30_000))).is_err());
        assert!(FunctionConfig::parse(&format!("environment: {{A: '{}'}}", "x".repeat(70_000))).is_err());
    }
}
