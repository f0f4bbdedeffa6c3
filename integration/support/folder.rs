//! A function as files.

use std::fs;
use std::path::Path;

/// Names and contents of a function's files.
pub(crate) type Files<'a> = &'a [(&'a str, &'a str)];

/// Writes the files where they are served from, one after the other, as an editor or `cp` would.
pub(crate) fn write_folder(folder: &Path, files: Files<'_>) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a folder can be made");
        fs::write(&path, content).expect("a file can be written");
    }
}

/// Puts a file into the place of another at once, as a careful program does.
pub(crate) fn replace_file(path: &Path, content: impl AsRef<[u8]>) {
    let name = path.file_name().expect("it has a name").to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.new"));
    fs::write(&aside, content).expect("a file can be written");
    fs::rename(&aside, path).expect("a file can be renamed");
}
