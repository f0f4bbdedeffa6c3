//! The directory of installed packages, `<packages>/<name>==<version>/files`, as OpenLambda lays it out; or whoever
//! runs `pip install --no-deps --target <packages>/numpy==2.2.1/files numpy==2.2.1`.

mod requirement;
mod requires;
pub mod tree_file;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actors::packages::{Package, PackageSet};
use actors::world::{self, LaunchError, LocalFuture};

pub use requirement::normalise;
use requirement::{Line, Requirement};

/// Versions that a message to a person lists.
const LISTED_MAX: usize = 8;

/// See the module's text. A clone is the same directory.
#[derive(Debug, Clone)]
pub struct PackagesDir {
    path: Arc<PathBuf>,
}

impl PackagesDir {
    /// Makes the directory if it is not there: sandboxes see it from the start, and what is put there later.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self { path: Arc::new(path.to_owned()) })
    }

    fn find(&self, requirements: &[String], index: &Index) -> Result<PackageSet, LaunchError> {
        let mut found = Vec::new();
        for text in requirements {
            let Line::Requirement(requirement) =
                requirement::parse(text).map_err(|problem| unsupported(text, &problem))?
            else {
                continue;
            };
            match self.find_one(&requirement, index) {
                Ok(package) => found.push(package),
                // Nobody installs what does not apply on this machine.
                Err(_) if requirement.has_marker => {}
                Err(problem) => return Err(unsupported(text, &problem)),
            }
        }
        Ok(PackageSet::new(found))
    }

    fn find_one(&self, requirement: &Requirement, index: &Index) -> Result<Package, String> {
        let Requirement { name, version, .. } = requirement;
        let all = index.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        // What has no `files` yet is being installed, or is something else.
        let mut there =
            all.iter().filter(|package| self.path.join(&package.directory).join("files").is_dir());
        let Some(wanted) = version else {
            return match (there.next(), there.next()) {
                (Some(one), None) => Ok(one.clone()),
                (None, _) => {
                    Err(format!("{name} is not installed on this worker. {}", self.advice(name, None)))
                }
                (Some(_), Some(_)) => Err(format!(
                    "several versions of {name} are there ({}): write which one, as {name}==VERSION",
                    versions(all)
                )),
            };
        };
        if let Some(package) = there.find(|package| requirement::same_version(&package.version, wanted)) {
            return Ok(package.clone());
        }
        let others = if all.is_empty() { String::new() } else { format!(" (but {} is)", versions(all)) };
        Err(format!(
            "{name}=={wanted} is not installed on this worker{others}. {}",
            self.advice(name, Some(wanted))
        ))
    }

    fn advice(&self, name: &str, version: Option<&str>) -> String {
        let version = version.unwrap_or("VERSION");
        format!(
            "This worker does not install packages yet; install it by: python3 -m pip install --no-deps --target '{}/{name}=={version}/files' {name}=={version}",
            self.path.display()
        )
    }
}

fn unsupported(requirement: &str, problem: &str) -> LaunchError {
    LaunchError::Unsupported(format!("requirements.txt asks for '{requirement}': {problem}"))
}

fn versions(packages: &[Package]) -> String {
    let listed: Vec<&str> =
        packages.iter().take(LISTED_MAX).map(|package| package.version.as_str()).collect();
    let more = if packages.len() > LISTED_MAX { ", ..." } else { "" };
    format!("{}{more}", listed.join(", "))
}

/// What the names of the directories say.
struct Index {
    by_name: BTreeMap<String, Vec<Package>>,
}

impl Index {
    fn read(path: &Path) -> io::Result<Self> {
        let mut by_name = BTreeMap::<String, Vec<Package>>::new();
        for entry in fs::read_dir(path)? {
            let Ok(directory) = entry?.file_name().into_string() else { continue };
            let Some((name, version)) = directory.split_once("==") else { continue };
            let Some(name) = normalise(name) else { continue };
            let package = Package { name: name.clone(), version: version.to_owned(), directory };
            by_name.entry(name).or_default().push(package);
        }
        // The same answers whatever order the file system has.
        by_name.values_mut().for_each(|packages| packages.sort());
        Ok(Self { by_name })
    }
}

impl world::PackageStore for PackagesDir {
    fn find(&self, sets: Vec<Vec<String>>) -> LocalFuture<Vec<Result<PackageSet, LaunchError>>> {
        let this = self.clone();
        Box::pin(async move {
            let n = sets.len();
            let found = tokio::task::spawn_blocking(move || match Index::read(&this.path) {
                Ok(index) => sets.iter().map(|set| this.find(set, &index)).collect(),
                Err(error) => {
                    let error = LaunchError::Failed(format!("cannot read {}: {error}", this.path.display()));
                    vec![Err(error); sets.len()]
                }
            });
            found.await.unwrap_or_else(|error| vec![Err(LaunchError::Failed(error.to_string())); n])
        })
    }

    fn requires(&self, packages: Vec<Package>) -> LocalFuture<Vec<Vec<String>>> {
        let this = self.clone();
        Box::pin(async move {
            let n = packages.len();
            let read = tokio::task::spawn_blocking(move || {
                packages
                    .iter()
                    .map(|package| requires::read(&this.path.join(&package.directory).join("files")))
                    .collect()
            });
            read.await.unwrap_or_else(|_| vec![Vec::new(); n])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(names: &[&str]) -> (tempfile::TempDir, PackagesDir) {
        let place = tempfile::tempdir().unwrap();
        for name in names {
            fs::create_dir_all(place.path().join(name).join("files")).unwrap();
        }
        let packages = PackagesDir::open(place.path()).unwrap();
        (place, packages)
    }

    fn find(packages: &PackagesDir, lines: &[&str]) -> Result<Vec<String>, String> {
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        let index = Index::read(&packages.path).unwrap();
        packages
            .find(&lines, &index)
            .map(|set| set.iter().map(|package| package.directory.clone()).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_the_same_however_they_are_written() {
        let (_place, packages) = directory(&["Typing_Extensions==4.12.2", "numpy==2.2.1"]);
        assert_eq!(
            find(&packages, &["typing.extensions==4.12.2", "NumPy == 2.2.1"]).unwrap(),
            ["Typing_Extensions==4.12.2", "numpy==2.2.1"]
        );
    }

    #[test]
    fn an_unpinned_name_is_the_one_version_that_is_there() {
        let (_place, packages) = directory(&["a==1", "b==1", "b==2"]);
        assert_eq!(find(&packages, &["a"]).unwrap(), ["a==1"]);
        let said = find(&packages, &["b"]).unwrap_err();
        assert!(said.contains("several versions of b are there (1, 2): write which one"), "{said}");
    }

    #[test]
    fn what_is_missing_is_named_with_the_command_that_brings_it() {
        let (place, packages) = directory(&["a==1"]);
        let said = find(&packages, &["a==1", "a==2"]).unwrap_err();
        let command =
            format!("python3 -m pip install --no-deps --target '{}/a==2/files' a==2", place.path().display());
        assert!(said.contains("a==2 is not installed") && said.contains("(but 1 is)"), "{said}");
        assert!(said.ends_with(&command), "{said}");
        let said = find(&packages, &["c"]).unwrap_err();
        assert!(said.contains("'c': c is not installed on this worker."), "{said}");
    }

    #[test]
    fn what_has_no_files_is_not_there_yet() {
        let (place, packages) = directory(&[]);
        fs::create_dir(place.path().join("a==1")).unwrap();
        assert!(find(&packages, &["a==1"]).is_err());
        fs::create_dir(place.path().join("a==1/files")).unwrap();
        assert!(find(&packages, &["a==1"]).is_ok(), "no restart is needed");
    }

    #[test]
    fn what_has_a_marker_and_is_not_there_does_not_apply_here() {
        let (_place, packages) = directory(&["a==1"]);
        let lines = ["colorama==0.4.6 ; sys_platform == 'win32'", "a==1 ; python_version >= '3.8'"];
        assert_eq!(find(&packages, &lines).unwrap(), ["a==1"]);
    }
}
