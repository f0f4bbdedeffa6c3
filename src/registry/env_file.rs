//! `.env`: variables of a function, one `NAME=value` per line.

use std::collections::BTreeMap;

use super::function_yaml::is_variable_name;

/// Name of the file in a function's folder.
pub(crate) const FILE_NAME: &str = ".env";

/// A line of a `.env` that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(".env: line {line}: {problem}")]
pub(super) struct EnvFileError {
    line: usize,
    problem: &'static str,
}

/// Read a `.env`: `NAME=value`, an `export` in front or not; values bare, in single quotes (taken as
/// they are) or in double quotes (with `\n`, `\"`, `\\`). `#` starts a comment; nothing is substituted.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, String>, EnvFileError> {
    let mut variables = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = |problem| EnvFileError { line: index + 1, problem };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or_else(|| wrong("write NAME=value"))?;
        let name = name.trim();
        if !is_variable_name(name) {
            return Err(wrong("not a variable's name"));
        }
        let value = unquoted(value.trim()).ok_or_else(|| wrong("a quote is not closed"))?;
        if value.contains('\0') {
            return Err(wrong("a value has a NUL character in it"));
        }
        variables.insert(name.to_owned(), value);
    }
    Ok(variables)
}

fn unquoted(value: &str) -> Option<String> {
    match value.chars().next() {
        Some('\'') => value[1..].split_once('\'').map(|(inside, _)| inside.to_owned()),
        Some('"') => {
            let mut inside = String::new();
            let mut rest = value[1..].chars();
            loop {
                match rest.next()? {
                    '"' => return Some(inside),
                    '\\' => match rest.next()? {
                        'n' => inside.push('\n'),
                        't' => inside.push('\t'),
                        other => inside.push(other),
                    },
                    other => inside.push(other),
                }
            }
        }
        _ => Some(value.split(" #").next().unwrap_or(value).trim_end().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_spellings_are_read() {
        let text = "# c\nA=1\nexport B = two words # not this\nC='a # \"b\"'\nD=\"x\\ny\\\"\"\nE=\n\nF=a=b\n";
        let variables = parse(text).unwrap();
        let expected =
            [("A", "1"), ("B", "two words"), ("C", "a # \"b\""), ("D", "x\ny\""), ("E", ""), ("F", "a=b")];
        assert_eq!(variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_bad_line_is_named() {
        assert_eq!(parse("A=1\nno equals sign").unwrap_err().to_string(), ".env: line 2: write NAME=value");
        for text in ["1A=2", "=x", "A='x", "A=\"x", "A=\"x\\"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
