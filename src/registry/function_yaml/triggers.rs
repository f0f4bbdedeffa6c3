//! `triggers` of `ol.yaml`: what starts an invocation.

use actors::name::FunctionName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cron::CronTrigger;
use super::kafka::KafkaTrigger;
use super::{Checked, wrong};
use crate::field::FieldPath;

/// Schedules and Kafka triggers of one function at most, of each: the file has room for thousands.
pub(super) const TRIGGERS_MAX: usize = 64;

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

/// A method that is served.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTrigger {
    /// `GET`, or `*` for every method.
    #[serde(default = "every_method")]
    pub method: String,
}

fn every_method() -> String {
    "*".to_owned()
}

impl Triggers {
    /// Whether something else than a request may start it.
    #[must_use]
    pub fn has_other_than_http(&self) -> bool {
        !self.cron().is_empty() || !self.kafka().is_empty()
    }

    /// The methods that are served, in the order of the file; `*` is every method.
    pub(super) fn methods(&self) -> Vec<&str> {
        match &self.http {
            None => vec!["*"],
            Some(http) => http.iter().map(|trigger| trigger.method.as_str()).collect(),
        }
    }

    pub(super) fn cron(&self) -> &[CronTrigger] {
        self.cron.as_deref().unwrap_or_default()
    }

    pub(super) fn kafka(&self) -> &[KafkaTrigger] {
        self.kafka.as_deref().unwrap_or_default()
    }

    /// Requests have their methods in capitals.
    pub(super) fn capitalize_methods(&mut self) {
        for trigger in self.http.iter_mut().flatten() {
            trigger.method.make_ascii_uppercase();
        }
    }

    pub(super) fn check(&self) -> Checked {
        let path = |kind| FieldPath::from("triggers").name(kind);
        for (n, trigger) in self.http.iter().flatten().enumerate() {
            trigger.check().or_else(|problem| wrong(path("http").index(n).name("method"), problem))?;
        }
        if self.cron().len() > TRIGGERS_MAX {
            return wrong(path("cron"), format!("has more than {TRIGGERS_MAX} schedules"));
        }
        for (n, trigger) in self.cron().iter().enumerate() {
            trigger.check(&path("cron").index(n))?;
        }
        if self.kafka().len() > TRIGGERS_MAX {
            return wrong(path("kafka"), format!("has more than {TRIGGERS_MAX} triggers"));
        }
        for (n, trigger) in self.kafka().iter().enumerate() {
            trigger.check(&path("kafka").index(n))?;
        }
        Ok(())
    }

    /// In OpenLambda's shape.
    pub(super) fn to_json(&self, name: &FunctionName) -> Value {
        let http: Vec<_> = self.methods().into_iter().map(|method| json!({ "Method": method })).collect();
        let cron = self.cron.as_ref().map(|list| list.iter().map(CronTrigger::to_json).collect::<Vec<_>>());
        let kafka = self
            .kafka
            .as_ref()
            .map(|list| list.iter().map(|trigger| trigger.to_json(name)).collect::<Vec<_>>());
        json!({ "HTTP": http, "Cron": cron, "Kafka": kafka })
    }
}

impl HttpTrigger {
    fn check(&self) -> Result<(), String> {
        let is_method = !self.method.is_empty()
            && self.method.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
        if self.method == "*" || is_method {
            return Ok(());
        }
        Err(format!("'{}' is not a method; write one such as GET, or \"*\"", self.method))
    }
}
