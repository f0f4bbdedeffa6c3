//! `-o a.b=v,c=d`: settings of one run, laid over `config.json`.

use serde_json::{Map, Number, Value};

use super::{ConfigError, raw};
use crate::field::FieldPath;

/// One of them.
pub(super) struct Override {
    key: String,
    value: Value,
    /// As it was typed.
    text: String,
}

/// Takes `k=v,a.b=v` apart. A value takes the type of its field.
pub(super) fn parse(options: &str) -> Result<Vec<Override>, ConfigError> {
    if options.is_empty() {
        return Ok(Vec::new());
    }
    let parse = |option: &str| {
        let wrong = |option: &str, problem: &str| ConfigError::Option {
            option: option.to_owned(),
            problem: problem.to_owned(),
        };
        if option.trim().is_empty() {
            // Nobody finds an empty one by its text.
            return Err(wrong(options, "there is a comma too many: write name=value,name=value"));
        }
        let (key, text) = option.split_once('=').ok_or_else(|| wrong(option, "write it as name=value"))?;
        let key = key.trim();
        let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1").replace('.', "/"));
        let field =
            raw::defaults().pointer(&pointer).ok_or_else(|| wrong(option, "there is no such field"))?;
        let value =
            typed(field, text).map_err(|expected| wrong(option, &format!("this field is {expected}")))?;
        Ok(Override { key: key.to_owned(), value, text: option.to_owned() })
    };
    options.split(',').map(parse).collect()
}

impl Override {
    /// The field that it sets.
    pub(super) fn field(&self) -> FieldPath {
        FieldPath::from(self.key.as_str())
    }

    pub(super) fn lay_over(&self, config: &mut Value) -> Result<(), ConfigError> {
        let mut place = config;
        for part in self.key.split('.') {
            if place.is_null() {
                *place = Value::Object(Map::new());
            }
            let fields = place.as_object_mut().ok_or_else(|| ConfigError::Option {
                option: self.text.clone(),
                problem: "what it is in is not an object".to_owned(),
            })?;
            place = fields.entry(part).or_insert(Value::Null);
        }
        *place = self.value.clone();
        Ok(())
    }
}

/// Lay every field of `over` over `under`, objects field by field. A null says nothing, as everywhere in a configuration.
pub(super) fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (_, Value::Null) => {}
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

/// `text` as the type that the field's default has. `Err` says which type that is.
fn typed(field: &Value, text: &str) -> Result<Value, &'static str> {
    let number = |text: &str| {
        let whole = text.parse::<i64>().ok().map(Number::from);
        whole.or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64)).map(Value::Number)
    };
    match field {
        Value::String(_) => Ok(Value::String(text.to_owned())),
        Value::Bool(_) => text.parse().map(Value::Bool).map_err(|_| "true or false"),
        Value::Number(_) => number(text).ok_or("a number"),
        Value::Array(_) => Err("a list; edit config.json"),
        Value::Object(_) => Err("an object; set one of its fields, as in limits.mem_mb=100"),
        // The default is worked out later, and the type with it.
        Value::Null => {
            Ok(number(text).or_else(|| text.parse().ok().map(Value::Bool)).unwrap_or_else(|| text.into()))
        }
    }
}
