//! The forms in which a function lies in the registry, and which function an entry of it belongs to.

use std::fs;

use actors::name::FunctionName;
use rustix::fs::FileType;

/// What an archive's name ends with.
pub(super) const ARCHIVE_SUFFIX: &str = ".tar.gz";

/// What the name of a function of one file ends with.
pub(super) const FILE_SUFFIX: &str = ".py";

/// How a function lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `<name>/`.
    Folder,
    /// `<name>.tar.gz`.
    Archive,
    /// `<name>.py`.
    File,
}

impl Form {
    pub(super) const ALL: [Self; 3] = [Self::Folder, Self::Archive, Self::File];

    /// What a function of this name is called there.
    pub(super) fn file_name(self, name: &FunctionName) -> String {
        match self {
            Self::Folder => name.to_string(),
            Self::Archive => format!("{name}{ARCHIVE_SUFFIX}"),
            Self::File => format!("{name}{FILE_SUFFIX}"),
        }
    }

    /// The same for people.
    pub(super) fn described(self, name: &FunctionName) -> String {
        let kind = if self == Self::Folder { "folder" } else { "file" };
        format!("a {kind} '{}'", self.file_name(name))
    }

    /// What it has to be.
    pub(super) fn kind(self) -> FileType {
        if self == Self::Folder { FileType::Directory } else { FileType::RegularFile }
    }

    /// Whether an entry that is called so is this function, be it right or wrong. A link is meant as what it is called: one to
    /// `hello.py` is `hello`, and `hello.py/` is a function of that name.
    pub(super) fn may_be(self, name: &FunctionName, kind: FileType) -> bool {
        match self {
            Self::Folder if name.as_str().ends_with(FILE_SUFFIX) => kind == FileType::Directory,
            Self::Folder => kind != FileType::RegularFile,
            Self::Archive => true,
            Self::File => kind != FileType::Directory,
        }
    }
}

/// What an entry of the registry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Directory,
    File,
    /// A link, a pipe, or something that is gone already.
    Other,
}

impl Seen {
    pub(super) fn of(kind: fs::FileType) -> Self {
        if kind.is_dir() {
            Self::Directory
        } else if kind.is_file() {
            Self::File
        } else {
            Self::Other
        }
    }
}

/// Whose an entry of the registry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Function(FunctionName),
    Nothing,
    BadName,
}

/// The function that an entry of the registry belongs to.
pub(super) fn function_of(file_name: &str, seen: Seen) -> Found {
    if file_name.starts_with('.') {
        return Found::Nothing;
    }
    let of_file = file_name.strip_suffix(FILE_SUFFIX).filter(|_| seen != Seen::Directory);
    let name = match file_name.strip_suffix(ARCHIVE_SUFFIX).or(of_file) {
        Some(name) => name,
        // A README beside the functions is nobody's mistake.
        None if seen == Seen::File => return Found::Nothing,
        None => file_name,
    };
    match name.parse() {
        Ok(_) if name.contains(ARCHIVE_SUFFIX) => Found::BadName,
        Ok(name) => Found::Function(name),
        Err(_) => Found::BadName,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_belongs_to_the_function_that_it_is_called_after() {
        let function = |name: &str| Found::Function(name.parse().unwrap());
        for (entry, seen, found) in [
            ("hello", Seen::Directory, function("hello")),
            ("hello.tar.gz", Seen::File, function("hello")),
            ("hello.py", Seen::File, function("hello")),
            ("a.b.py", Seen::File, function("a.b")),
            // A folder may be called anything that is a name.
            ("hello.py", Seen::Directory, function("hello.py")),
            ("hello.py", Seen::Other, function("hello")),
            ("link", Seen::Other, function("link")),
            ("README.md", Seen::File, Found::Nothing),
            ("hello.pyc", Seen::File, Found::Nothing),
            ("hello.py~", Seen::File, Found::Nothing),
            (".hello.py.swp", Seen::File, Found::Nothing),
            (".py", Seen::File, Found::Nothing),
            ("my function.py", Seen::File, Found::BadName),
            ("a.tar.gz.py", Seen::File, Found::BadName),
        ] {
            assert_eq!(function_of(entry, seen), found, "{entry}");
        }
    }
}
