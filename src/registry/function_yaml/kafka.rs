//! `triggers.kafka` of `ol.yaml`: what a function is called with from Kafka.

use actors::name::FunctionName;
use actors::world::KafkaSource;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Checked, wrong};
use crate::config::Brokers;
use crate::field::FieldPath;

/// Calls of a record before it is given up, if the file does not say.
const CALLS_MAX: u32 = 5;

/// An invocation per record of a Kafka topic.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaTrigger {
    /// Brokers to ask first, as `host:port`.
    pub bootstrap_servers: Vec<String>,
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

impl KafkaTrigger {
    pub(super) fn check(&self, path: &FieldPath) -> Checked {
        let at = |name| path.clone().name(name);
        if self.topics.is_empty() {
            return wrong(at("topics"), "needs at least one topic".to_owned());
        }
        if self.bootstrap_servers.is_empty() {
            return wrong(at("bootstrap_servers"), "needs at least one broker".to_owned());
        }
        // A comma would be several, and what begins with ^ a pattern, to the library.
        if let Some((n, server)) = first(&self.bootstrap_servers, |server| !is_server(server)) {
            let problem = format!("'{server}' is no broker; write one such as localhost:9092");
            return wrong(at("bootstrap_servers").index(n), problem);
        }
        let no_topic = |topic: &str| {
            format!("'{topic}' is no topic's name: letters, digits, '.', '_' and '-', at most 249")
        };
        if let Some((n, topic)) = first(&self.topics, |topic| !is_topic(topic)) {
            return wrong(at("topics").index(n), no_topic(topic));
        }
        if let Some(topic) = &self.dead_letter_topic {
            if !is_topic(topic) {
                return wrong(at("dead_letter_topic"), no_topic(topic));
            }
            if self.topics.contains(topic) {
                let problem = "is one of topics: what is given up would come back for ever";
                return wrong(at("dead_letter_topic"), problem.to_owned());
            }
        }
        match self.max_attempts {
            Some(n) if !(1..=1000).contains(&n) => {
                wrong(at("max_attempts"), format!("is {n}, and must be from 1 to 1000"))
            }
            _ => Ok(()),
        }
    }

    /// Whether this worker may connect to all brokers that are named.
    pub(super) fn check_brokers(&self, path: &FieldPath, allowed: &Brokers) -> Checked {
        match first(&self.bootstrap_servers, |server| !allowed.allow(server)) {
            None => Ok(()),
            Some((n, server)) => wrong(
                path.clone().name("bootstrap_servers").index(n),
                format!("'{server}' is not among kafka.brokers of this worker's config.json"),
            ),
        }
    }

    pub(super) fn source(&self) -> KafkaSource {
        KafkaSource {
            bootstrap_servers: self.bootstrap_servers.clone(),
            topics: self.topics.clone(),
            from_earliest: self.auto_offset_reset == OffsetReset::Earliest,
            calls_max: self.max_attempts.unwrap_or(CALLS_MAX),
            dead_letter_topic: self.dead_letter_topic.clone(),
        }
    }

    pub(super) fn to_json(&self, name: &FunctionName) -> Value {
        let mut shown = json!({
            "bootstrap_servers": self.bootstrap_servers,
            "topics": self.topics,
            "group_id": format!("lambda-{name}"),
            "auto_offset_reset": match self.auto_offset_reset {
                OffsetReset::Latest => "latest",
                OffsetReset::Earliest => "earliest",
            },
        });
        if let Some(topic) = &self.dead_letter_topic {
            shown["dead_letter_topic"] = json!(topic);
        }
        if let Some(n) = self.max_attempts {
            shown["max_attempts"] = json!(n);
        }
        shown
    }
}

fn first(texts: &[String], is_meant: impl Fn(&str) -> bool) -> Option<(usize, &str)> {
    texts.iter().map(String::as_str).enumerate().find(|(_, text)| is_meant(text))
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
