//! Fields of a file of settings, and where they stand in it: what an error about one says.

use std::fmt;

/// The way to a field: `limits.mem_mb`, `triggers.cron[1].schedule`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath(Vec<Step>);

/// One step of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// To a field of an object.
    Name(String),
    /// To an entry of a list.
    Index(usize),
}

/// A place in a text, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character in it.
    pub column: usize,
}

impl FieldPath {
    /// A field of what this leads to.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.0.push(Step::Name(name.to_owned()));
        self
    }

    /// An entry of what this leads to.
    #[must_use]
    pub fn index(mut self, index: usize) -> Self {
        self.0.push(Step::Index(index));
        self
    }

    /// Whether this leads there, or to something that it is in.
    #[must_use]
    pub fn leads_to(&self, field: &Self) -> bool {
        field.0.starts_with(&self.0)
    }

    /// One after the other; none is the whole.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

/// Names, with dots between them.
impl From<&str> for FieldPath {
    fn from(names: &str) -> Self {
        Self(names.split('.').map(|name| Step::Name(name.to_owned())).collect())
    }
}

/// As far as it is known.
impl From<&serde_path_to_error::Path> for FieldPath {
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment;
        let step = |segment: &Segment| match segment {
            Segment::Map { key } => Some(Step::Name(key.clone())),
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        Self(path.iter().map_while(step).collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Name(name) if at == 0 => f.write_str(name)?,
                Step::Name(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl Place {
    /// That of a byte of a text.
    #[must_use]
    pub fn of(text: &str, offset: usize) -> Self {
        let before = &text[..offset];
        let line_begins = before.rfind('\n').map_or(0, |end| end + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_begins..].chars().count() + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_written_as_one_writes_it() {
        let path = FieldPath::from("triggers.cron").index(1).name("schedule");
        assert_eq!(path.to_string(), "triggers.cron[1].schedule");
        assert_eq!(FieldPath::default().to_string(), "");
    }

    #[test]
    fn places_are_counted_in_characters() {
        let place = |offset| Place::of("a\nüb\n", offset);
        assert_eq!((place(0).line, place(0).column), (1, 1));
        assert_eq!((place(4).line, place(4).column), (2, 2));
        assert_eq!((place(6).line, place(6).column), (3, 1));
    }
}
