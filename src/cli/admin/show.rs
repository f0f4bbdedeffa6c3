//! `ol admin show`: how a function is configured, and how it is.

use std::path::PathBuf;

use actors::name::FunctionName;
use serde::Deserialize;
use serde_json::Value;
use structopt::StructOpt;

use super::update::packages;
use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{functions, say, talk};

/// Show a function's configuration, as the worker understands it, and how it is
#[derive(StructOpt)]
pub(crate) struct Show {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// The configuration as JSON, in the worker's own words
    #[structopt(long)]
    json: bool,
    /// The function's name
    name: String,
}

/// The part of the configuration that is shown to people.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Configuration {
    triggers: Triggers,
    environment: std::collections::BTreeMap<String, String>,
    reuse_sandbox: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Triggers {
    #[serde(rename = "HTTP")]
    http: Option<Vec<HttpTrigger>>,
    cron: Option<Vec<CronTrigger>>,
    kafka: Option<Vec<KafkaTrigger>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HttpTrigger {
    method: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CronTrigger {
    schedule: String,
}

#[derive(Debug, Deserialize)]
struct KafkaTrigger {
    topics: Vec<String>,
}

impl Show {
    pub(super) fn run(self) -> Result<(), CliError> {
        let name: FunctionName = self.name.parse()?;
        let settings = OlDir::at(&self.path)?.running()?;
        let path = format!("/registry/{name}/config");
        let reply = functions::accepted("GET", &path, talk::ask_registry(&settings.client(), &path)??)?;
        let not_understood = |error: serde_json::Error| {
            CliError::Answer(format!("the worker's answer to GET {path} is not understood: {error}"))
        };
        if self.json {
            let config: Value = reply.json().map_err(not_understood)?;
            say(format!("{config:#}\n"));
            return Ok(());
        }
        let config: Configuration = reply.json().map_err(not_understood)?;
        let lambdas = functions::lambdas(&settings)?;
        let mut rows = vec![("name", name.to_string())];
        let lambda = lambdas.iter().find(|lambda| lambda.name == name.as_str());
        if let Some(lambda) = lambda {
            rows.push(("state", format!("{}, generation {}", lambda.state, lambda.generation)));
            rows.push(("calls", format!("{}, {} of them failed", lambda.invocations, lambda.errors)));
            rows.extend(lambda.cron.iter().map(|cron| ("by the clock", cron.line())));
            rows.extend(lambda.kafka.iter().map(|kafka| ("from Kafka", kafka.line())));
        }
        rows.extend(config.rows());
        let packages = packages(&settings.client(), &name)?;
        rows.extend(packages.requirements.into_iter().map(|line| ("asks for", line)));
        rows.extend(packages.packages.into_iter().map(|one| ("package", one)));
        rows.extend(packages.settled.map(|since| ("settled", since)));
        rows.push(("log", settings.function_log(&name).display().to_string()));
        rows.extend(
            lambda.and_then(|lambda| {
                Some(("message", lambda.message.clone().filter(|text| !text.is_empty())?))
            }),
        );
        say(rows.into_iter().map(|(what, value)| format!("{what:<12} {value}\n")).collect::<String>());
        Ok(())
    }
}

impl Configuration {
    fn rows(self) -> Vec<(&'static str, String)> {
        let methods: Vec<_> =
            self.triggers.http.into_iter().flatten().map(|trigger| trigger.method).collect();
        let mut rows = vec![(
            "methods",
            match methods.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                [] => "none".to_owned(),
                ["*"] => "all".to_owned(),
                some => some.join(" "),
            },
        )];
        let schedules = self.triggers.cron.into_iter().flatten();
        rows.extend(schedules.map(|trigger| ("schedule", trigger.schedule)));
        let topics = self.triggers.kafka.into_iter().flatten();
        rows.extend(topics.map(|trigger| ("topics", trigger.topics.join(" "))));
        let variables = self.environment.into_iter();
        rows.extend(variables.map(|(name, value)| ("environment", format!("{name}={value}"))));
        rows.push((
            "sandboxes",
            if self.reuse_sandbox { "used again" } else { "fresh for each call" }.into(),
        ));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(config: Value) -> Vec<(&'static str, String)> {
        serde_json::from_value::<Configuration>(config).unwrap().rows()
    }

    #[test]
    fn a_configuration_is_told_line_by_line() {
        let config = serde_json::json!({
            "Triggers": {
                "HTTP": [{"Method": "GET"}, {"Method": "POST"}],
                "Cron": [{"Schedule": "*/5 * * * *"}],
                "Kafka": [{"topics": ["a", "b"], "group_id": "lambda-x"}],
            },
            "Environment": {"A": "1"},
            "ReuseSandbox": false,
        });
        let expected = [
            ("methods", "GET POST"),
            ("schedule", "*/5 * * * *"),
            ("topics", "a b"),
            ("environment", "A=1"),
            ("sandboxes", "fresh for each call"),
        ];
        assert_eq!(rows(config), expected.map(|(what, value)| (what, value.to_owned())));
    }

    #[test]
    fn every_method_and_none_are_words() {
        let config = |http: Value| serde_json::json!({"Triggers": {"HTTP": http}, "ReuseSandbox": true});
        assert_eq!(rows(config(serde_json::json!([{"Method": "*"}])))[0].1, "all");
        assert_eq!(rows(config(serde_json::json!([])))[0].1, "none");
    }
}
