//! JSON that people write: each name once in an object, and errors that say where.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use crate::field::{FieldPath, Place, Step};

/// Why a text is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// In which field; nothing if it is the whole.
    pub field: FieldPath,
    /// What is wrong.
    pub problem: String,
    /// Where.
    pub place: Place,
}

impl std::error::Error for JsonError {}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.steps().is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{} ({})", self.problem, self.place)
    }
}

/// What a text says.
///
/// # Errors
/// It is no JSON, or an object has a name twice: of two values one would be silently forgotten.
pub fn read(text: &str) -> Result<Value, JsonError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let Unique(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().into();
        JsonError { field, ..said(&error.into_inner()) }
    })?;
    json.end().map_err(|error| said(&error))?;
    Ok(value)
}

/// The same for bytes that somebody has sent.
///
/// # Errors
/// As [`read`]; and they are no text.
pub fn read_bytes(bytes: &[u8]) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let place = Place::of(&before, before.len());
        JsonError { field: FieldPath::default(), problem: "is not UTF-8 text".to_owned(), place }
    })?;
    read(text)
}

/// What is wrong with a value, without the place that it may have been read from.
#[must_use]
pub fn problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    // What types are called is of no interest to who writes JSON.
    let number = ["u8", "u16", "u32", "u64", "usize"]
        .into_iter()
        .find_map(|kind| text.strip_suffix(kind)?.strip_suffix("expected "));
    match number {
        Some(before) => format!("{before}expected a whole number of 0 or more, and not too large"),
        None => text.to_owned(),
    }
}

fn said(error: &serde_json::Error) -> JsonError {
    let place = Place { line: error.line().max(1), column: error.column().max(1) };
    JsonError { field: FieldPath::default(), problem: problem(error), place }
}

/// Where the value of a field stands in a text that is JSON, and whether it is that of the field itself: else it is the innermost
/// of those around it that is there. `None`: only the whole is.
#[must_use]
pub fn find(text: &str, field: &FieldPath) -> Option<(Place, bool)> {
    let mut here = text;
    let mut found = None;
    for (n_before, step) in field.steps().iter().enumerate() {
        let next = match step {
            Step::Name(name) => {
                let fields: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(here).unwrap_or_default();
                fields.get(name.as_str()).map(|value| value.get())
            }
            Step::Index(index) => {
                let entries: Vec<&RawValue> = serde_json::from_str(here).unwrap_or_default();
                entries.get(*index).map(|value| value.get())
            }
        };
        let Some(next) = next else { break };
        // It is a part of the text.
        let offset = next.as_ptr() as usize - text.as_ptr() as usize;
        found = Some((Place::of(text, offset), n_before + 1 == field.steps().len()));
        here = next;
    }
    found
}

/// A value in which no object has a name twice.
struct Unique(Value);

impl<'a> Deserialize<'a> for Unique {
    fn deserialize<D: Deserializer<'a>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(OfUnique).map(Self)
    }
}

struct OfUnique;

impl<'a> Visitor<'a> for OfUnique {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<Value, M::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if fields.contains_key(&name) {
                return Err(M::Error::custom(format_args!("'{name}' is here a second time")));
            }
            let Unique(value) = map.next_value()?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut seq: S) -> Result<Value, S::Error> {
        let mut entries = Vec::new();
        while let Some(Unique(value)) = seq.next_element()? {
            entries.push(value);
        }
        Ok(Value::Array(entries))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_means_what_it_means_to_others() {
        let text =
            r#"{"a": [1, -2, 2.5, 1e3, "x\n", true, null, {}], "b": {"c": {"d": 18446744073709551615}}}"#;
        assert_eq!(read(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        for wrong in ["", "{", "[1,]", "{\"a\": 1,}", "{'a': 1}", "1 2", "nul", &"[".repeat(1000)] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_that_is_there_twice_is_named_with_its_place() {
        let said = |text| read(text).unwrap_err().to_string();
        assert_eq!(
            said("{\"a\": 1,\n \"b\": 2,\n \"a\": 1}"),
            "'a' is here a second time (line 3, column 4)"
        );
        assert_eq!(
            said("{\"a\": [{}, {\"b\": 1, \"b\": 2}]}"),
            "a[1]: 'b' is here a second time (line 1, column 23)"
        );
        assert!(said("{\"a\": 1").ends_with("(line 1, column 7)"));
        let bytes = read_bytes(b"{\"a\": \"\xff\"}").unwrap_err().to_string();
        assert_eq!(bytes, "is not UTF-8 text (line 1, column 8)");
        // The same name in another object is another field, and so is one in other letters.
        assert!(read(r#"{"a": {"b": 1}, "b": {"b": 2}, "B": 3}"#).is_ok());
    }

    #[test]
    fn the_value_of_a_field_is_found() {
        let text = "{\n  \"a\": {\"x.y\": [10,\n    20], \"b\\u0063\": 1}\n}";
        let found = |field: FieldPath| {
            find(text, &field).map(|(place, is_whole)| (place.line, place.column, is_whole))
        };
        assert_eq!(found("a".into()), Some((2, 8, true)));
        assert_eq!(found(FieldPath::from("a").name("x.y").index(1)), Some((3, 5, true)));
        assert_eq!(found(FieldPath::from("a.bc")), Some((3, 21, true)));
        assert_eq!(found(FieldPath::from("a.none.b")), Some((2, 8, false)));
        assert_eq!(found("none".into()), None);
        assert_eq!(find("", &"a".into()), None);
    }
}
