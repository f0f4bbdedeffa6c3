//! `requirements.txt` and the older `packages.txt`: what a function wants installed.

/// Name of today's file.
pub(crate) const FILE_NAME: &str = "requirements.txt";

/// Name of the file of 2017 and 2018.
pub(crate) const OLD_FILE_NAME: &str = "packages.txt";

/// Largest of these files that is read, in bytes: with hashes, a line has about 200 per wheel.
pub(crate) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The requirements of a `requirements.txt`, one per element, as they were written: continued lines
/// joined, comments and empty lines dropped.
pub(crate) fn parse(text: &str) -> Vec<String> {
    let mut requirements = Vec::new();
    let mut pending = String::new();
    for line in text.lines() {
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
pub(crate) fn parse_old(text: &str) -> Result<Vec<String>, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
