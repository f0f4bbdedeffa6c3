//! The name of a function: the one place that says which names are allowed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name of a function, in bytes: a file name of the registry (255) less the room for `.tar.gz` and a temporary suffix.
pub const NAME_LENGTH_MAX: usize = 200;

/// A checked name: `[A-Za-z0-9._-]+`, not starting with a dot. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FunctionName(Arc<str>);

/// Why a text is not a function's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a function's name is required")]
    Empty,
    /// Longer than [`NAME_LENGTH_MAX`].
    #[error("a function's name has at most {NAME_LENGTH_MAX} characters")]
    TooLong,
    /// A character outside of `[A-Za-z0-9._-]`, or a dot in front.
    #[error("'{0}' is not a function's name: use letters, digits, '-', '_' and '.', and no '.' in front")]
    Characters(String),
}

impl FunctionName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FunctionName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_LENGTH_MAX {
            return Err(NameError::TooLong);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if text.starts_with('.') || !text.bytes().all(allowed) {
            return Err(NameError::Characters(text.chars().take(80).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for FunctionName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl std::borrow::Borrow<str> for FunctionName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_taken() {
        for name in ["hello", "a", "A-1_b.c", "0", "x..y"] {
            assert_eq!(name.parse::<FunctionName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_could_leave_the_registry_are_refused() {
        for name in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "a\0b", "ü", "%2e", "a\n"] {
            assert!(name.parse::<FunctionName>().is_err(), "{name:?}");
        }
        assert!("x".repeat(NAME_LENGTH_MAX).parse::<FunctionName>().is_ok());
        assert_eq!("x".repeat(NAME_LENGTH_MAX + 1).parse::<FunctionName>(), Err(NameError::TooLong));
    }
}
