//! `-o a.b=v,c=d`: settings of one run, laid over `config.json`.

use std::sync::LazyLock;

use serde_json::{Map, Number, Value};

use super::{ConfigError, RawConfig};

/// Lay `options` (`k=v,a.b=v`) over `config`. A value takes the type of its field. Nothing is changed
/// if one of the options is wrong.
pub fn apply_overrides(config: &mut Value, options: &str) -> Result<(), ConfigError> {
    static KNOWN: LazyLock<Value> = LazyLock::new(|| {
        serde_json::to_value(RawConfig::default()).expect("the defaults can always be written")
    });
    let mut settings = Vec::new();
    for option in options.split(',').filter(|option| !option.trim().is_empty()) {
        let wrong =
            |problem: &str| ConfigError::Option { option: option.to_owned(), problem: problem.to_owned() };
        let (key, text) = option.split_once('=').ok_or_else(|| wrong("write it as name=value"))?;
        let pointer = format!("/{}", key.trim().replace('~', "~0").replace('/', "~1").replace('.', "/"));
        let field = KNOWN.pointer(&pointer).ok_or_else(|| wrong("there is no such field"))?;
        let value = typed(field, text).map_err(|expected| wrong(&format!("this field is {expected}")))?;
        settings.push((option, key.trim(), value));
    }
    let mut changed = config.clone();
    for (option, key, value) in settings {
        set(&mut changed, key, value).map_err(|()| ConfigError::Option {
            option: option.to_owned(),
            problem: "what it is in is not an object".to_owned(),
        })?;
    }
    *config = changed;
    Ok(())
}

/// Lay every field of `over` over `under`, objects field by field.
pub(super) fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
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

fn set(config: &mut Value, key: &str, value: Value) -> Result<(), ()> {
    let mut place = config;
    for part in key.split('.') {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        place = place.as_object_mut().ok_or(())?.entry(part).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}
