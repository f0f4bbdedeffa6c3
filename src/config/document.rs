//! A configuration as JSON, and what it was put together from: an error about a field says where that was written.
//!
//! ```text
//! defaults ◀── template.json            what `ol worker init` writes
//! config.json ◀── -o ◀── -o             what `ol worker up` goes by; the last one that has a field says what it is
//! ```

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ConfigError, Wrong, classic, overrides};
use crate::field::FieldPath;
use crate::json;

/// A configuration as JSON, with where it comes from.
#[derive(Debug, Clone)]
pub struct Document {
    /// What all of it says together.
    pub value: Value,
    /// What errors name if nothing better is known.
    path: PathBuf,
    /// Of a file.
    text: Option<String>,
    /// The fields that they set. What they say is not repeated: it may be a secret, and errors get into logs.
    options: Vec<FieldPath>,
}

impl Document {
    /// Reads a JSON file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes =
            std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let value = json::read_bytes(&bytes).map_err(|json::JsonError { field, problem, place }| {
            ConfigError::Field { origin: path.to_owned(), field, problem, place: Some(place) }
        })?;
        let text = String::from_utf8(bytes).ok();
        Ok(Self { value, path: path.to_owned(), text, options: Vec::new() })
    }

    /// What was made by the program; errors name this file.
    #[must_use]
    pub fn made(value: Value, path: &Path) -> Self {
        Self { value, path: path.to_owned(), text: None, options: Vec::new() }
    }

    /// The same, with what the program has changed in it.
    #[must_use]
    pub fn with_value(&self, value: Value) -> Self {
        Self { value, ..self.clone() }
    }

    /// With `-o` options (`k=v,a.b=v`) laid over it. An empty text has none, as in OpenLambda.
    pub fn with_options(&self, options: &str) -> Result<Self, ConfigError> {
        let mut changed = self.clone();
        for option in overrides::parse(options)? {
            option.lay_over(&mut changed.value)?;
            changed.options.push(option.field());
        }
        Ok(changed)
    }

    /// An error about one of its fields, with the place where that was written.
    #[must_use]
    pub fn error(&self, wrong: Wrong) -> ConfigError {
        let Wrong { field, problem } = wrong;
        if let Some(set) = self.options.iter().find(|set| set.leads_to(&field)) {
            let problem = if *set == field { problem } else { format!("{field}: {problem}") };
            return ConfigError::Option { option: set.to_string(), problem };
        }
        let find = |field: &FieldPath| json::find(self.text.as_ref()?, field);
        // Where an old name is written, that is what its author looks for.
        let written = classic::names_of(&field)
            .into_iter()
            .find_map(|name| find(&name).filter(|(_, is_whole)| *is_whole).map(|(place, _)| (name, place)));
        let (field, place) = match written {
            Some((name, place)) => (name, Some(place)),
            None => {
                let place = find(&field).map(|(place, _)| place);
                (field, place)
            }
        };
        ConfigError::Field { origin: self.path.clone(), field, problem, place }
    }
}
