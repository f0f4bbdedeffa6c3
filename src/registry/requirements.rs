//! What a function wants installed: `requirements.txt`, `requirements.in`, the older `packages.txt`, or a comment at the top
//! of the entry file.

use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::code::CodeError;

/// Names of the files, the first of which counts. What `requirements.in` has been compiled to comes before it.
const FILE_NAMES: [&str; 2] = ["requirements.txt", "requirements.in"];

/// Name of the file of 2017 and 2018.
const OLD_FILE_NAME: &str = "packages.txt";

/// Largest of these files that is read, in bytes: with hashes, a line has about 200 per wheel.
pub(crate) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Files inside of each other at most; more than three nobody has.
const DEPTH_MAX: usize = 8;

/// Lines at most, of all files together: the longest lists have a thousand packages.
const LINES_MAX: usize = 10_000;

/// What a function's author wants installed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// One requirement, option or (with `-c ` before it) constraint per element, as it was written: files that were included
    /// stand in their place, continued lines are joined, comments and empty lines dropped.
    pub lines: Vec<String>,
}

impl Wishes {
    /// Tells lists apart, whatever is around them.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for line in &self.lines {
            hash.update(line);
            hash.update(b"\n");
        }
        hash.finalize().into()
    }
}

/// Reads a function's wishes. `read` gives the text of a file of the function, if there is one of that name.
pub(super) fn read(
    entry_file: &str,
    read: impl Fn(&str) -> Result<Option<String>, CodeError>,
) -> Result<Wishes, CodeError> {
    let mut lines = Vec::new();
    for name in FILE_NAMES {
        if let Some(text) = read(name)? {
            include(&mut lines, Path::new(name), &text, "", 0, &read)?;
            return Ok(Wishes { lines });
        }
    }
    if let Some(text) = read(OLD_FILE_NAME)? {
        return parse_old(&text).map(|lines| Wishes { lines }).map_err(CodeError::Invalid);
    }
    let code = read(entry_file)?.unwrap_or_default();
    Ok(Wishes { lines: parse_header(&code) })
}

/// The lines of a file, and of those that it includes. `prefix`: what each of them is.
fn include(
    lines: &mut Vec<String>,
    path: &Path,
    text: &str,
    prefix: &str,
    depth: usize,
    read: &impl Fn(&str) -> Result<Option<String>, CodeError>,
) -> Result<(), CodeError> {
    for line in parse(text) {
        let included = ["-r", "--requirement", "-c", "--constraint"].into_iter().find_map(|option| {
            let rest = line.strip_prefix(option)?;
            let file = rest.strip_prefix(['=', ' ', '\t']).or((option.len() == 2).then_some(rest))?;
            Some((option.trim_start_matches('-').starts_with('c'), file.trim()))
        });
        let Some((is_constraint, file)) = included else {
            if lines.len() == LINES_MAX {
                return Err(CodeError::Invalid(format!(
                    "{} has more than {LINES_MAX} lines",
                    path.display()
                )));
            }
            lines.push(format!("{prefix}{line}"));
            continue;
        };
        let wrong =
            |problem: &str| CodeError::Invalid(format!("{} includes '{file}': {problem}", path.display()));
        if depth == DEPTH_MAX {
            return Err(wrong("too many files include each other"));
        }
        let inside = within(path, file).ok_or_else(|| wrong("that is not inside of the function"))?;
        let name = inside.to_str().ok_or_else(|| wrong("that is no name of a file"))?;
        let text = read(name)?.ok_or_else(|| wrong("there is no such file in the function"))?;
        let prefix = if is_constraint { "-c " } else { prefix };
        include(lines, &inside, &text, prefix, depth + 1, read)?;
    }
    Ok(())
}

/// A path as a file at `from` names it, from the function's top. `None`: it leads out, or is an address.
fn within(from: &Path, file: &str) -> Option<PathBuf> {
    let mut path = from.parent()?.to_owned();
    if file.contains("://") {
        return None;
    }
    for part in Path::new(file).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return None,
        }
    }
    Some(path)
}

/// The lines of a requirements file: continued lines joined, comments and empty lines dropped.
fn parse(text: &str) -> Vec<String> {
    let mut requirements = Vec::new();
    let mut pending = String::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim();
        // pip: a comment starts a line, or follows white space.
        let line =
            if line.starts_with('#') { "" } else { line.split(" #").next().unwrap_or(line).trim_end() };
        if let Some(start) = line.strip_suffix('\\') {
            pending += start.trim_end();
            pending.push(' ');
            continue;
        }
        pending += line;
        let requirement = std::mem::take(&mut pending);
        if !requirement.trim().is_empty() {
            requirements.push(requirement.trim().to_owned());
        }
    }
    if !pending.trim().is_empty() {
        requirements.push(pending.trim().to_owned());
    }
    requirements
}

/// The packages of a `packages.txt`: lines of `import:install`, of which the second is what to install.
fn parse_old(text: &str) -> Result<Vec<String>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (_, install) = line
                .split_once(':')
                .ok_or_else(|| format!("malformed packages.txt, missing separator: '{line}'"))?;
            Ok(install.trim().to_owned())
        })
        .collect()
}

/// The packages of `# ol-install: a,b` among the comments at the top of the code. `# ol-import:` names some of them, which
/// mattered to a zygote; ours finds out by itself.
fn parse_header(code: &str) -> Vec<String> {
    let comments = code.lines().map(str::trim).take_while(|line| line.is_empty() || line.starts_with('#'));
    let mut packages = Vec::<String>::new();
    for line in comments {
        let bare = line.trim_start_matches('#').trim();
        let Some(list) = bare.strip_prefix("ol-install:").or_else(|| bare.strip_prefix("ol-import:")) else {
            continue;
        };
        for package in list.split(',').map(str::trim).filter(|package| !package.is_empty()) {
            if !packages.iter().any(|known| known == package) {
                packages.push(package.to_owned());
            }
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_files(files: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let read_one = |name: &str| {
            Ok(files.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned()))
        };
        match read("f.py", read_one) {
            Ok(wishes) => Ok(wishes.lines),
            Err(CodeError::Invalid(text) | CodeError::NoEntry(text)) => Err(text),
            Err(CodeError::Read(path, error)) => Err(format!("{}: {error}", path.display())),
        }
    }

    #[test]
    fn comments_go_and_continued_lines_are_joined() {
        let text = "# by pip-compile\nnumpy==2.2.1  # via x\n\nflask==3.0 \\\n    --hash=sha256:ab\n    # via y\nlast";
        assert_eq!(parse(text), ["numpy==2.2.1", "flask==3.0 --hash=sha256:ab", "last"]);
        assert!(parse("# nothing\n\n").is_empty());
    }

    #[test]
    fn the_old_file_gives_what_to_install() {
        assert_eq!(parse_old("PIL:pillow\nrequests:requests\n").unwrap(), ["pillow", "requests"]);
        assert!(parse_old("pillow").unwrap_err().starts_with("malformed packages.txt, missing separator"));
    }

    #[test]
    fn the_first_of_the_files_counts_and_else_the_comments_at_the_top() {
        let header =
            ("f.py", "# ol-install: parso, numpy\n#ol-import: numpy\n\nimport numpy\n# ol-install: no\n");
        assert_eq!(read_files(&[header]).unwrap(), ["parso", "numpy"]);
        let old = ("packages.txt", "PIL:pillow\n");
        assert_eq!(read_files(&[header, old]).unwrap(), ["pillow"]);
        let source = ("requirements.in", "flask\n");
        assert_eq!(read_files(&[header, old, source]).unwrap(), ["flask"]);
        assert_eq!(read_files(&[header, old, source, ("requirements.txt", "a==1\n")]).unwrap(), ["a==1"]);
    }

    #[test]
    fn files_are_included_from_inside_the_function_only() {
        let files = [
            ("requirements.txt", "a\n-r more/base.txt\n-cpins.txt\n"),
            ("more/base.txt", "b\n--requirement=../last.txt\n"),
            ("last.txt", "c\n"),
            ("pins.txt", "d<2\n"),
        ];
        assert_eq!(read_files(&files).unwrap(), ["a", "b", "c", "-c d<2"]);
        for outside in ["-r ../other.txt", "-r /etc/passwd", "-r a/../../x", "-r https://x.example/r.txt"] {
            let said = read_files(&[("requirements.txt", outside)]).unwrap_err();
            assert!(said.contains("not inside of the function"), "{said}");
        }
        assert!(read_files(&[("requirements.txt", "-r none.txt")]).unwrap_err().contains("no such file"));
        assert!(
            read_files(&[("requirements.txt", "-r requirements.txt")])
                .unwrap_err()
                .contains("include each other")
        );
    }

    proptest::proptest! {
        #[test]
        fn no_path_leads_out(file in "[a./]{0,12}") {
            if let Some(path) = within(Path::new("dir/requirements.txt"), &file) {
                proptest::prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
            }
        }
    }
}
