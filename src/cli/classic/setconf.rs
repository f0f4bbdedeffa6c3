//! `admin setconf`: change what new workers are configured with.

use std::path::PathBuf;

use serde_json::Value;
use structopt::StructOpt;

use super::cluster::{Cluster, PORT};
use crate::cli::error::CliError;
use crate::cli::files;
use crate::cli::settings::Settings;
use crate::config::Document;
use crate::json;

/// Lay settings over config/template.json; workers that run keep theirs
#[derive(StructOpt)]
pub(crate) struct Setconf {
    /// The cluster's directory
    #[structopt(long, parse(from_os_str))]
    cluster: PathBuf,
    /// The settings, as JSON: '{"limits": {"mem_mb": 100}}'. A null takes a setting away
    settings: String,
}

impl Setconf {
    pub(super) fn run(self) -> Result<(), CliError> {
        let cluster = Cluster::open(&self.cluster)?;
        let over = json::read(&self.settings)
            .map_err(|error| CliError::Setting(format!("the settings are not JSON: {error}")))?;
        if !over.is_object() {
            return Err(CliError::Setting(
                "the settings must be a JSON object: {\"name\": value}".to_owned(),
            ));
        }
        let template = cluster.template();
        let mut merged = Document::read(&template)?.value;
        merge(&mut merged, over);
        // A template that no worker can start with is not written.
        let probe = cluster.worker_value(merged.clone(), "worker-0", PORT);
        Settings::of(Document::made(probe, &template), cluster.ol_dir("worker-0")?.path())?;
        files::replace_json(&template, &merged)
    }
}

/// Objects are merged field by field, `null` removes, everything else replaces (RFC 7396).
fn merge(under: &mut Value, over: Value) {
    let Value::Object(over) = over else {
        *under = over;
        return;
    };
    if !under.is_object() {
        *under = Value::Object(serde_json::Map::new());
    }
    let Some(fields) = under.as_object_mut() else { return };
    for (name, value) in over {
        if value.is_null() {
            fields.remove(&name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_laid_over_field_by_field() {
        let cases = [
            (
                json!({"a": 1, "b": {"c": 2, "d": 3}}),
                json!({"b": {"c": 4}}),
                json!({"a": 1, "b": {"c": 4, "d": 3}}),
            ),
            (json!({"a": 1}), json!({"b": {"c": null, "d": 1}}), json!({"a": 1, "b": {"d": 1}})),
            (json!({"a": {"b": 1}}), json!({"a": 2}), json!({"a": 2})),
            (json!({"a": 2}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
            (json!({"a": 1, "b": 2}), json!({"a": null}), json!({"b": 2})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
        ];
        for (mut under, over, expected) in cases {
            merge(&mut under, over);
            assert_eq!(under, expected);
        }
    }

    #[test]
    fn a_template_that_cannot_be_meant_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::at(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        files::replace_json(&cluster.template(), &cluster.template_value()).unwrap();
        let before = std::fs::read(cluster.template()).unwrap();
        let set = |text: &str| Setconf { cluster: dir.path().into(), settings: text.into() }.run();
        for text in [
            "{",
            "[]",
            "3",
            r#"{"worker_prot": 1}"#,
            r#"{"worker_port": 1, "worker_port": 2}"#,
            r#"{"limits": {"mem_mb": "x"}}"#,
        ] {
            assert!(set(text).is_err(), "{text}");
        }
        assert_eq!(std::fs::read(cluster.template()).unwrap(), before);
        set(r#"{"limits": {"mem_mb": 100}}"#).unwrap();
        let after = Document::read(&cluster.template()).unwrap().value;
        assert_eq!(after["limits"]["mem_mb"], 100);
        assert_eq!(after["limits"]["procs"], cluster.template_value()["limits"]["procs"]);
    }
}
