//! Reading YAML so that whoever is refused finds the place: the field, the line, and words that an author can act on.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DefaultMessageFormatter, Location, MessageFormatter, Options, Spanned};

use super::FunctionConfigError;
use crate::field::{FieldPath, Place, Step};

/// What a text says, as a type.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, FunctionConfigError> {
    let mut field = FieldPath::default();
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |yaml| {
        serde_path_to_error::deserialize(yaml).map_err(|error| {
            field = error.path().into();
            error.into_inner()
        })
    });
    read.map_err(|error| {
        let problem = Words.format_message(error.without_snippet());
        FunctionConfigError {
            field,
            problem: problem.split_whitespace().collect::<Vec<_>>().join(" "),
            place: error.location().and_then(place),
        }
    })
}

/// Where a field stands, or the innermost of those that it is in which is there. `None`: only the file is.
pub(super) fn find(text: &str, field: &FieldPath) -> Option<Place> {
    let root: Spanned<Node> = serde_saphyr::from_str_with_options(text, options()).ok()?;
    let (mut here, mut found) = (&root, None);
    for step in field.steps() {
        let next = match (step, &here.value) {
            (Step::Name(name), Node::Fields(fields)) => {
                fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
            }
            (Step::Index(index), Node::List(entries)) => entries.get(*index),
            _ => None,
        };
        let Some(next) = next else { break };
        here = next;
        found = place(here.referenced).or(found);
    }
    found
}

fn options() -> Options {
    // A file of 64 KiB has room for far less than this; what exceeds it was made to.
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 20_000,
            max_nodes: 10_000,
            max_aliases: 100,
            max_anchors: 100,
            max_depth: 16,
            max_documents: 1,
        },
        with_snippet: false,
    }
}

fn place(location: Location) -> Option<Place> {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let place = Place { line: number(location.line()), column: number(location.column()) };
    // The crate's word for what is not known.
    (place.line > 0).then_some(place)
}

/// Any YAML, as far as fields can be found in it.
enum Node {
    Fields(Vec<(String, Spanned<Node>)>),
    List(Vec<Spanned<Node>>),
    Leaf,
}

impl<'a> Deserialize<'a> for Node {
    fn deserialize<D: Deserializer<'a>>(yaml: D) -> Result<Self, D::Error> {
        yaml.deserialize_any(OfNode)
    }
}

struct OfNode;

impl<'a> Visitor<'a> for OfNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<Node, M::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Fields(fields))
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut seq: S) -> Result<Node, S::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = seq.next_element()? {
            entries.push(entry);
        }
        Ok(Node::List(entries))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_some<D: Deserializer<'a>>(self, yaml: D) -> Result<Node, D::Error> {
        Node::deserialize(yaml)
    }
}

/// The words of the YAML crate where an author can do something with them, ours where they are for who calls the crate.
struct Words;

impl MessageFormatter for Words {
    fn format_message<'a>(&self, error: &'a serde_saphyr::Error) -> Cow<'a, str> {
        use serde_saphyr::Error;
        match error {
            Error::NullIntoString { .. } => "has no value: write a text, or leave the field out".into(),
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
            Error::Unexpected { expected: "string scalar", .. } => "one text is expected here".into(),
            Error::InvalidScalar { ty: "boolean", .. } => "true or false is expected here".into(),
            // All numbers of the file are of this kind.
            Error::InvalidScalar { ty, .. } if ty.starts_with('u') => {
                "a whole number is expected here, of 0 or more and not too large".into()
            }
            _ => DefaultMessageFormatter.format_message(error),
        }
    }
}
