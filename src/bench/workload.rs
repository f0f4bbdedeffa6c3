//! The functions that are called, and what they answer.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::call::Call;
use super::{BenchError, Run};
use crate::client::{Client, Method};

/// All of our functions begin with it, so that they hide no one else's.
const PREFIX: &str = "bench-";
/// How many plain functions take turns in `warm`.
pub(super) const N_PLAIN: usize = 10;
/// The function of `warm` and of the floors: the quickstart's.
pub(super) const HELLO_CODE: &str = include_str!("../../quickstart/handlers/hello/lambda_func.py");
/// The entry file of the code above.
pub(super) const HELLO_FILE: &str = "lambda_func.py";
const CONFIG_FILE: &str = "ol.yaml";
/// Each call gets a sandbox that nobody has used.
pub(super) const FRESH_CONFIG: &str = "reuse-sandbox: false\n";
const BODY: &str = r#"{"name": "Alice"}"#;
const ANSWER: &str = r#""Hello, Alice!""#;

/// The function that is called most.
pub(super) fn hello() -> String {
    format!("{PREFIX}hello")
}

/// One of the plain functions.
pub(super) fn plain(i: usize) -> String {
    format!("{PREFIX}plain-{i}")
}

/// The function that gets a new sandbox for each call.
pub(super) fn fresh() -> String {
    format!("{PREFIX}fresh")
}

/// A call of any of them.
pub(super) fn call(name: &str) -> Call {
    Call::post(&format!("/run/{name}"), BODY, ANSWER)
}

/// The body of such a call.
pub(super) fn body() -> &'static str {
    BODY
}

/// Its right answer.
pub(super) fn answer() -> &'static str {
    ANSWER
}

/// Write the functions that stay into a worker's registry; a worker that runs takes them up by itself.
/// Gives their number.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn install(registry: &Path) -> Result<usize, BenchError> {
    let names = [hello(), fresh()].into_iter().chain((0..N_PLAIN).map(plain));
    let mut n = 0;
    for name in names {
        let is_fresh = name == fresh();
        let (from, to) = (registry.join(format!(".{name}.new")), registry.join(&name));
        let written = (|| {
            remove(&from)?;
            fs::create_dir(&from)?;
            fs::set_permissions(&from, fs::Permissions::from_mode(0o755))?;
            fs::write(from.join(HELLO_FILE), HELLO_CODE)?;
            if is_fresh {
                fs::write(from.join(CONFIG_FILE), FRESH_CONFIG)?;
            }
            remove(&to)?;
            // Renamed into its place: nobody sees half of it.
            fs::rename(&from, &to)
        })();
        written.map_err(|source| BenchError::File { what: "write the function", path: to, source })?;
        n += 1;
    }
    Ok(n)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Run {
    pub(super) fn client(&self) -> Client {
        Client::tcp(self.address.ip().to_string(), self.address.port())
    }

    /// Check that the functions are there and answer, before anything is measured with them.
    pub(super) async fn check(&self, names: &[String]) -> Result<(), BenchError> {
        for name in names {
            let reply = self.client().post(&format!("/run/{name}"), BODY).await?;
            if reply.status.as_u16() == 404 {
                return Err(BenchError::NoWorkload(name.clone()));
            }
            call(name).check(reply.status.as_u16(), &reply.body).map_err(|said| {
                BenchError::Refused(format!("the function '{name}' does not work: {said}"))
            })?;
        }
        Ok(())
    }

    /// Upload functions that nobody has called.
    pub(super) async fn upload(&self, names: &[String]) -> Result<(), BenchError> {
        self.upload_with(names, |_| None).await
    }

    /// Upload functions with an `ol.yaml`, of the text that is given for each number.
    pub(super) async fn upload_with(
        &self,
        names: &[String],
        config: impl Fn(usize) -> Option<String>,
    ) -> Result<(), BenchError> {
        self.upload_as(names, |i| plain_entry(config(i).as_deref())).await
    }

    /// Upload functions of the files that are given for each number.
    pub(super) async fn upload_as(
        &self,
        names: &[String],
        entry: impl Fn(usize) -> Entry,
    ) -> Result<(), BenchError> {
        for (i, name) in names.iter().enumerate() {
            let Entry(archive) = entry(i);
            let headers = [("content-type", "application/gzip")];
            let path = format!("/registry/{name}");
            let reply = self.client().request(Method::POST, &path, &headers, archive).await?;
            if !reply.status.is_success() {
                let text = reply.text();
                return Err(BenchError::Refused(format!("POST {path}: {}: {}", reply.status, text.trim())));
            }
        }
        Ok(())
    }

    /// Take them away again; what could not be is only said.
    pub(super) async fn remove(&self, names: &[String]) {
        for name in names {
            let path = format!("/registry/{name}");
            if let Err(error) = self.client().request(Method::DELETE, &path, &[], "").await {
                self.progress.println(format!("ol bench: cannot remove {name}: {error}"));
            }
        }
    }
}

/// Names that were never used: of this process, of this variant.
pub(super) fn new_names(variant: &str, n: usize) -> Vec<String> {
    (0..n).map(|i| format!("{PREFIX}{variant}-{}-{i}", std::process::id())).collect()
}

fn plain_entry(config: Option<&str>) -> Entry {
    let files = [(HELLO_FILE, Some(HELLO_CODE)), (CONFIG_FILE, config)];
    let files: Vec<_> = files.into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
    Entry::of(&files)
}

/// A function as it is uploaded.
#[derive(Debug, Clone)]
pub(super) struct Entry(Vec<u8>);

impl Entry {
    /// With these files, by name and text.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let packed = files
            .iter()
            .try_for_each(|(name, text)| {
                let mut header = tar::Header::new_gnu();
                header.set_size(text.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, name, text.as_bytes())
            })
            .and_then(|()| tar.into_inner())
            .and_then(GzEncoder::finish);
        Self(packed.expect("short files fit into memory"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_are_written_and_written_again() {
        let registry = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            assert_eq!(install(registry.path()).unwrap(), N_PLAIN + 2);
        }
        let config = fs::read_to_string(registry.path().join("bench-fresh/ol.yaml")).unwrap();
        assert_eq!(config, FRESH_CONFIG);
        assert!(registry.path().join("bench-plain-9").join(HELLO_FILE).is_file());
        assert_eq!(fs::read_dir(registry.path()).unwrap().count(), N_PLAIN + 2);
    }

    #[test]
    fn the_archive_holds_the_entry_file_and_the_settings_if_there_are_any() {
        let names = |config| {
            let Entry(archive) = plain_entry(config);
            let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&archive[..]));
            let names = tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(None), [Path::new(HELLO_FILE)]);
        assert_eq!(names(Some(FRESH_CONFIG)), [Path::new(HELLO_FILE), Path::new(CONFIG_FILE)]);
    }
}
