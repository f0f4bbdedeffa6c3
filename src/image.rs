//! The base: the file tree that sandboxes have as their root, with a Python in it.
//!
//! | `ol worker init --image …` | base |
//! |---|---|
//! | nothing | the machine's own `/usr`; nothing is copied |
//! | a directory with a file tree | that directory, where it is |
//! | an OCI layout, as a directory or a tar | unpacked to `<ol>/lambda` |
//! | a docker archive (`docker save`) | unpacked to `<ol>/lambda` |
//!
//! What was chosen is kept in `<ol>/base.json`.

mod layers;
mod layout;
mod python;
mod source;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

pub use python::Python;

/// Name of the descriptor in the worker's directory.
pub const DESCRIPTOR: &str = "base.json";

/// Name of the directory that images are unpacked to, in the worker's directory.
const UNPACKED: &str = "lambda";

/// What temporary names start with.
const UNPACKING_PREFIX: &str = ".lambda-";

/// What temporary names start with.
const DESCRIPTOR_PREFIX: &str = ".base-";

/// Where the file tree of a base is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// The machine's own `/usr`, with an `/etc` of the worker's making.
    Host,
    /// A directory with a whole file tree.
    Directory(PathBuf),
}

/// A base that was chosen: what `base.json` says. Which Python is used is not in it: that says the configuration, which may change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chosen {
    /// Where the file tree is.
    pub base: Base,
    /// What `--image` named; `None` for the machine's own.
    pub image: Option<PathBuf>,
    /// The Python of that time, in files of earlier versions.
    #[serde(rename = "python", default, skip_serializing)]
    _python: IgnoredAny,
}

/// A base with the Python in it that is used: all that a worker has to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Where the file tree is.
    pub base: Base,
    /// The Python in it.
    pub python: Python,
}

/// Why there is no base.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is nothing of that name.
    #[error("there is no image {}: give a directory, an OCI layout, or a file made by `docker save`", path.display())]
    Missing {
        /// What was given.
        path: PathBuf,
    },
    /// It is neither a file tree nor an image that is understood.
    #[error("{} is not an image: {problem}", path.display())]
    Format {
        /// What was given.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no image for this machine's processor.
    #[error("{} has no image for {wanted}; it has {found}", path.display())]
    Platform {
        /// What was given.
        path: PathBuf,
        /// This machine, as `linux/amd64`.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A part of the image is not what its name says.
    #[error("{blob} of {} is damaged: its sha256 is {found}", path.display())]
    Digest {
        /// What was given.
        path: PathBuf,
        /// The part.
        blob: String,
        /// What it has.
        found: String,
    },
    /// An entry of a layer is refused.
    #[error("layer {layer}: entry '{entry}' {problem}")]
    Entry {
        /// Number of the layer, from 1.
        layer: usize,
        /// Path in the layer.
        entry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The image is larger than an image may be.
    #[error("{} has more than {limit}", path.display())]
    TooLarge {
        /// What was given.
        path: PathBuf,
        /// Which limit, as text.
        limit: String,
    },
    /// There is no Python in it that can be used.
    #[error("{} has no Python 3.8 or newer in /usr/bin or /usr/local/bin{found}; use an image with one, such as python:3.12-slim", root.display())]
    NoPython {
        /// The file tree.
        root: PathBuf,
        /// What was found instead, with a comma in front, or nothing.
        found: String,
    },
    /// The interpreter that is asked for is none.
    #[error("python: {}", self.setting().unwrap_or_default().1)]
    NotPython {
        /// What the configuration asks for, relative to the base.
        wanted: PathBuf,
        /// The file tree.
        root: PathBuf,
        /// What was found instead, with a comma in front, or nothing.
        found: String,
    },
    /// A file could not be read or written.
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ImageError {
    /// Which field of the configuration it is about, and what is wrong with that; nothing if it is about something else.
    #[must_use]
    pub fn setting(&self) -> Option<(&'static str, String)> {
        let Self::NotPython { wanted, root, found } = self else { return None };
        let problem = format!(
            "is /{}, and {} has no Python 3.8 or newer there{found}; write the path of one inside of the base, such as /usr/bin/python3, or leave it out",
            wanted.display(),
            root.display()
        );
        Some(("python", problem))
    }
}

impl Chosen {
    /// Read what was chosen for a worker's directory. `None`: `init` has not run.
    pub fn load(ol_dir: &Path) -> Result<Option<Self>, ImageError> {
        let path = ol_dir.join(DESCRIPTOR);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ImageError::Io { step: "read", path, source }),
        };
        let parsed = serde_json::from_slice(&text);
        parsed.map(Some).map_err(|error| ImageError::Format {
            path,
            problem: format!("{error}; run `ol worker init` again"),
        })
    }

    /// With the interpreter that the configuration asks for, relative to the base, or with the one that is found. It may be a newer one
    /// than at the last time.
    pub fn with_python(self, wanted: Option<&Path>) -> Result<Descriptor, ImageError> {
        let python = python::find(self.base.root(), wanted, self.base == Base::Host)?;
        Ok(Descriptor { base: self.base, python })
    }

    fn store(&self, ol_dir: &Path) -> Result<(), ImageError> {
        let path = ol_dir.join(DESCRIPTOR);
        let error = |source| ImageError::Io { step: "write", path: path.clone(), source };
        let text = serde_json::to_string_pretty(self).expect("a descriptor can always be written");
        let mut file =
            tempfile::Builder::new().prefix(DESCRIPTOR_PREFIX).tempfile_in(ol_dir).map_err(error)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(error)?;
        file.persist(&path).map_err(|failed| error(failed.error))?;
        sync_directory(ol_dir)
    }
}

impl Base {
    /// The root of the file tree: `/` for the machine's own.
    #[must_use]
    pub fn root(&self) -> &Path {
        match self {
            Self::Host => Path::new("/"),
            Self::Directory(path) => path,
        }
    }
}

impl Descriptor {
    /// The base that was chosen for a worker's directory, with the interpreter that the configuration asks for now. `None`: `init`
    /// has not run.
    pub fn load(ol_dir: &Path, python: Option<&Path>) -> Result<Option<Self>, ImageError> {
        Chosen::load(ol_dir)?.map(|chosen| chosen.with_python(python)).transpose()
    }

    /// The interpreter, for who is outside of the base.
    #[must_use]
    pub fn interpreter(&self) -> PathBuf {
        self.base.root().join(&self.python.path)
    }
}

/// Prepare the base of the worker in `ol_dir`: find or unpack it, check that a Python is in it, and
/// write `base.json`. `python` is the interpreter to use, relative to the base; `None` looks for one.
/// An earlier base stays in place until the new one is complete. Blocks for as long as unpacking takes.
pub fn prepare(ol_dir: &Path, image: Option<&Path>, python: Option<&Path>) -> Result<Descriptor, ImageError> {
    sweep(ol_dir)?;
    let (base, image) = match image {
        None => (Base::Host, None),
        Some(given) => {
            let path = fs::canonicalize(given).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => ImageError::Missing { path: given.to_owned() },
                _ => ImageError::Io { step: "open", path: given.to_owned(), source },
            })?;
            let is_tree =
                path.is_dir() && !path.join("oci-layout").is_file() && !path.join("manifest.json").is_file();
            let base = if is_tree { Base::Directory(path.clone()) } else { unpack(ol_dir, &path, python)? };
            (base, Some(path))
        }
    };
    let chosen = Chosen { base, image, _python: IgnoredAny };
    let descriptor = chosen.clone().with_python(python)?;
    chosen.store(ol_dir)?;
    Ok(descriptor)
}

/// Remove what an `init` that was killed has left.
fn sweep(ol_dir: &Path) -> Result<(), ImageError> {
    let error = |source| ImageError::Io { step: "sweep", path: ol_dir.to_owned(), source };
    for entry in fs::read_dir(ol_dir).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name();
        let is_left_over = [UNPACKING_PREFIX, DESCRIPTOR_PREFIX]
            .iter()
            .any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        if is_left_over {
            let is_dir = entry.file_type().map_err(error)?.is_dir();
            if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }
                .map_err(error)?;
        }
    }
    Ok(())
}

/// Unpack an image beside the place where it will be, check it, and exchange the two.
fn unpack(ol_dir: &Path, image: &Path, python: Option<&Path>) -> Result<Base, ImageError> {
    let place = ol_dir.join(UNPACKED);
    let error = |step| move |path: &Path, source| ImageError::Io { step, path: path.to_owned(), source };
    let new = tempfile::Builder::new()
        .prefix(UNPACKING_PREFIX)
        .tempdir_in(ol_dir)
        .map_err(|source| error("make a directory in")(ol_dir, source))?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(new.path(), permissions).map_err(|source| error("make")(new.path(), source))?;
    layout::unpack(image, new.path())?;
    python::find(new.path(), python, false)?;
    if place.symlink_metadata().is_ok() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, new.path(), CWD, &place, RenameFlags::EXCHANGE)
            .map_err(|errno| error("replace")(&place, errno.into()))?;
        // The old tree has the temporary name now, and goes with it.
        new.close().map_err(|source| error("remove the old")(&place, source))?;
    } else {
        fs::rename(new.path(), &place).map_err(|source| error("make")(&place, source))?;
        // It has moved; there is nothing to remove.
        let _ = new.keep();
    }
    sync_directory(ol_dir)?;
    Ok(Base::Directory(place))
}

fn sync_directory(path: &Path) -> Result<(), ImageError> {
    let synced = fs::File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|source| ImageError::Io { step: "sync", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
