//! Installed packages: which of them a function means, which are there, and how the others come.
//!
//! ```text
//! list ─ requirement ─▶ survey ─┬─ all there ───────────────────────────▶ set of packages
//!                               └─ open ─ installer: settle ─ pins ─ installer: install ─ storage ─▶ …
//! ```

mod claims;
mod contents;
pub mod installer;
mod metadata;
mod proxy;
mod removal;
mod requirement;
mod source;
mod sources;
mod storage;
pub mod tree_file;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use actors::packages::{Package, PackageSet, short};
use actors::world::{self, Hold, Installed, LaunchError, LocalFuture, PackageError, Survey};

use claims::Key;
use installer::{Installer, Wishes};
pub use requirement::normalise;
use requirement::{Environment, Line, Requirement};
use source::Source;
pub use sources::Sources;
use storage::{Index, Record, Staging, Storage};

/// Versions that a message to a person lists.
const LISTED_MAX: usize = 8;

/// See the module's text. A clone is the same directory.
#[derive(Clone)]
pub struct PackagesDir {
    inner: Arc<Inner>,
}

struct Inner {
    storage: Storage,
    environment: Environment,
    /// What the operator has configured.
    sources: Sources,
    /// Or why there is none.
    installer: Result<Installer, String>,
    can_install: bool,
    /// What all packages may take, in bytes.
    bytes_max: u64,
    /// One at a time for each package, by its name, version and source.
    busy: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// One at a time takes its place, so that all of them together have room.
    placing: tokio::sync::Mutex<()>,
    /// One at a time adds up what they take.
    counting: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for PackagesDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PackagesDir").field(&self.storage().path()).finish()
    }
}

/// What an installed package says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portrait {
    /// The names of the packages that it needs here, without those for its extras.
    pub needs: Vec<String>,
    /// The modules that can be imported from it.
    pub modules: Vec<String>,
}

/// Why one requirement is not there.
enum Absent {
    /// It can be had.
    Missing(String),
    /// It is there, and its archive is not known to be the right one.
    Unverified,
    /// It cannot be meant.
    Wrong(String),
}

impl PackagesDir {
    /// Makes the directory if it is not there (sandboxes see it from the start, and what is put there later), and removes what
    /// a killed worker has left half done in it. `minor`: of the sandboxes' Python. `sources`: the operator's.
    ///
    /// # Errors
    /// The system's.
    pub fn open(
        path: &Path,
        minor: u32,
        sources: Sources,
        installer: Result<Installer, String>,
        bytes_max: u64,
    ) -> io::Result<Self> {
        let inner = Inner {
            storage: Storage::open(path, format!("cp3{minor}"))?,
            environment: Environment::of_python(minor),
            sources,
            can_install: installer.is_ok(),
            installer,
            bytes_max,
            busy: Mutex::default(),
            placing: tokio::sync::Mutex::new(()),
            counting: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn storage(&self) -> &Storage {
        &self.inner.storage
    }

    /// These packages are not removed for as long as what is given back lives, by no worker that shares the directory.
    ///
    /// # Errors
    /// When they are not there any more.
    pub fn hold(&self, set: &PackageSet) -> Result<Hold, PackageError> {
        match self.storage().hold(set) {
            Ok(claim) => Ok(Arc::new(claim)),
            Err(error) => Err(PackageError::Away(error.to_string())),
        }
    }

    fn want(&self, pins: &[String]) -> Result<Hold, PackageError> {
        let keys = pins.iter().filter_map(|pin| match requirement::parse(pin) {
            Ok(Line::Requirement(requirement)) => {
                Some(Key::new(&requirement.name, &requirement.pin()?.to_string()))
            }
            // What is said to the installer, and what a survey finds wrong.
            _ => None,
        });
        match self.storage().want(keys) {
            Ok(claim) => Ok(Arc::new(claim)),
            Err(error) => Err(PackageError::Away(error.to_string())),
        }
    }

    /// Where the packages of this list come from.
    fn source(&self, list: &[String]) -> Source {
        Source::of(&source::options(list), &self.inner.sources)
    }

    fn find(&self, list: &[String], index: &Index) -> Result<PackageSet, LaunchError> {
        let source = self.source(list);
        let mut found = Vec::new();
        for text in list {
            let unsupported = |problem: &str| {
                LaunchError::Unsupported(format!("the function asks for '{text}': {problem}"))
            };
            let Line::Requirement(requirement) =
                requirement::parse(text).map_err(|problem| unsupported(&problem))?
            else {
                continue;
            };
            if self.inner.environment.applies(&requirement, &[]) == Some(false) {
                continue;
            }
            match self.find_one(&requirement, &source, index) {
                Ok(package) => found.push(package),
                Err(Absent::Missing(problem) | Absent::Wrong(problem)) => return Err(unsupported(&problem)),
                Err(Absent::Unverified) => {
                    return Err(unsupported("its archive is not known to be the one of the hash"));
                }
            }
        }
        Ok(PackageSet::new(found))
    }

    /// What came from another source is not there, whatever its name and version.
    fn find_one(&self, requirement: &Requirement, source: &Source, index: &Index) -> Result<Package, Absent> {
        let name = &requirement.name;
        let mark = source.mark_for(requirement);
        let named = index.0.get(name).into_iter().flatten();
        let all: Vec<&Package> = named.filter(|package| package.source() == mark).collect();
        let mut there = all.iter().copied().filter(|package| self.storage().is_there(package));
        let from = match source {
            Source::Own => String::new(),
            Source::Foreign { text, .. } => format!(" from {text}"),
        };
        let Some(pin) = requirement.pin() else {
            if !requirement.is_open() {
                return Err(Absent::Wrong(format!("write one version, as {name}==VERSION")));
            }
            return match (there.next(), there.next()) {
                (Some(one), None) => Ok(one.clone()),
                (None, _) => Err(Absent::Missing(format!("{name} is not installed on this worker{from}"))),
                (Some(_), Some(_)) => Err(Absent::Wrong(format!(
                    "several versions of {name} are there ({}): write which one, as {name}==VERSION",
                    versions(&all)
                ))),
            };
        };
        let Some(package) = there.find(|package| requirement.allows(&package.version)) else {
            let others = if all.is_empty() { String::new() } else { format!(" (but {} is)", versions(&all)) };
            let text = format!("{name}=={pin} is not installed on this worker{from}{others}");
            return Err(Absent::Missing(text));
        };
        if requirement.hashes.is_empty()
            || is_verified(&self.storage().record(package).unwrap_or_default(), &requirement.hashes)
        {
            Ok(package.clone())
        } else {
            Err(Absent::Unverified)
        }
    }

    fn survey(&self, list: &[String], is_settled: bool) -> io::Result<Survey> {
        let index = self.storage().index()?;
        let options = source::options(list);
        let source = Source::of(&options, &self.inner.sources);
        let mut pins = Vec::new();
        let (mut found, mut missing) = (Vec::<(Requirement, Package)>::new(), Vec::new());
        let mut is_open = false;
        let wrong = |text: &str, problem: &str| {
            Ok(Survey::Wrong(format!("the function asks for '{text}': {problem}")))
        };
        for text in list {
            let requirement = match requirement::parse(text) {
                Ok(Line::Requirement(requirement)) => *requirement,
                // They are of all packages, and have been read.
                Ok(Line::Option(..)) => continue,
                Ok(Line::Constraint(_)) => {
                    is_open = true;
                    continue;
                }
                Err(problem) => return wrong(text, &problem),
            };
            pins.push(requirement.written() + &source::written(&options));
            match self.inner.environment.applies(&requirement, &[]) {
                Some(true) => {}
                Some(false) => continue,
                None => {
                    is_open |= !is_settled;
                    continue;
                }
            }
            // Without anybody to ask, a name is the one version that is there.
            if requirement.pin().is_none() && self.inner.can_install {
                is_open = true;
                continue;
            }
            match self.find_one(&requirement, &source, &index) {
                Ok(package) => found.push((requirement, package)),
                Err(Absent::Missing(_) | Absent::Unverified) if self.inner.can_install => {
                    missing.push(text.clone())
                }
                Err(Absent::Missing(problem)) => {
                    return wrong(text, &format!("{problem}. {}", self.advice(&requirement, &source)));
                }
                Err(Absent::Unverified) => {
                    return wrong(text, "whether what is there has this hash, this worker cannot find out");
                }
                Err(Absent::Wrong(problem)) => return wrong(text, &problem),
            }
        }
        let set = PackageSet::new(found.iter().map(|(_, package)| package.clone()));
        self.storage().touch(&set);
        Ok(if is_settled && !missing.is_empty() {
            Survey::Missing(missing)
        } else if is_open || !missing.is_empty() || (!is_settled && !self.is_complete(&found)) {
            Survey::Open
        } else {
            // Where a version was left open, nobody is there who could settle it, and it is the one that was found.
            if found.iter().any(|(requirement, _)| requirement.pin().is_none()) {
                let pin = |package: &Package| format!("{}=={}", package.name, package.version);
                pins = set.iter().map(|package| pin(package) + &source::written(&options)).collect();
            }
            Survey::Complete { pins: if is_settled { list.to_vec() } else { pins }, set }
        })
    }

    /// Whether all that these packages need is among them. What there is no word of needs nothing.
    fn is_complete(&self, found: &[(Requirement, Package)]) -> bool {
        if !self.inner.can_install {
            return true;
        }
        found.iter().all(|(requirement, package)| {
            metadata::requires(&self.storage().files(package), &package.name).into_iter().all(|text| {
                let Ok(Line::Requirement(needed)) = requirement::parse(&text) else { return false };
                match self.inner.environment.applies(&needed, requirement.extras()) {
                    Some(false) => true,
                    Some(true) => found.iter().any(|(_, other)| {
                        // Extras of what is needed need more: the resolver knows.
                        other.name == needed.name
                            && needed.allows(&other.version)
                            && needed.extras().is_empty()
                    }),
                    None => false,
                }
            })
        })
    }

    /// The names of what this package says that it needs here, without what is for extras: a function that has asked for those
    /// names what they need itself.
    fn names_needed(&self, package: &Package) -> Vec<String> {
        self.names_required(package, |needed| self.inner.environment.applies(needed, &[]) != Some(false))
    }

    /// The names of all that it says it may use, here or elsewhere, with or without extras: what of it is there, it may look for when it is
    /// imported, whoever has asked for that.
    fn names_used(&self, package: &Package) -> Vec<String> {
        self.names_required(package, |_| true)
    }

    fn names_required(&self, package: &Package, is_meant: impl Fn(&Requirement) -> bool) -> Vec<String> {
        let said = metadata::requires(&self.storage().files(package), &package.name);
        let mut names: Vec<_> = said
            .iter()
            .filter_map(|text| match requirement::parse(text) {
                Ok(Line::Requirement(required)) => Some(required),
                Ok(_) | Err(_) => None,
            })
            .filter(|required| is_meant(required))
            .map(|required| required.name)
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// What a pinned package says of itself. `None`: it is not there. Reads files.
    #[must_use]
    pub fn portrait(&self, pin: &str) -> Option<Portrait> {
        let Ok(Line::Requirement(requirement)) = requirement::parse(pin) else { return None };
        let source = Source::of(&requirement.options, &self.inner.sources);
        let package = self.find_one(&requirement, &source, &self.storage().index().ok()?).ok()?;
        let modules = metadata::modules(&self.storage().files(&package));
        Some(Portrait { needs: self.names_needed(&package), modules })
    }

    fn advice(&self, requirement: &Requirement, source: &Source) -> String {
        let why = self.inner.installer.as_ref().err().map(String::as_str).unwrap_or_default();
        let version = requirement.pin().map_or_else(|| "VERSION".to_owned(), ToString::to_string);
        let name = &requirement.name;
        let from = match source {
            Source::Own => String::new(),
            Source::Foreign { text, .. } => format!(" {text}"),
        };
        format!(
            "This worker cannot install packages: {why}. By hand: python3 -m pip install --no-deps{from} --target '{}/{name}=={}/files' {name}=={version}",
            self.storage().path().display(),
            source.marked(&version),
        )
    }

    fn installer(&self) -> Result<Installer, PackageError> {
        self.inner
            .installer
            .clone()
            .map_err(|why| PackageError::Failed(format!("packages cannot be installed: {why}")))
    }

    async fn stage(&self) -> Result<Staging, PackageError> {
        let storage = self.storage().clone();
        blocking(move || storage.stage()).await?.map_err(|error| PackageError::Failed(error.to_string()))
    }

    async fn settle(self, list: Vec<String>, last: Vec<String>) -> Result<Vec<String>, PackageError> {
        let installer = self.installer()?;
        // They are kept where the list allows it; where they came from then is not.
        let last = last.iter().filter_map(|pin| match requirement::parse(pin) {
            Ok(Line::Requirement(requirement)) => Some(requirement.text),
            Ok(_) | Err(_) => None,
        });
        let mut wishes =
            Wishes { last: last.collect(), options: source::options(&list), ..Wishes::default() };
        let mut hashes = HashMap::<String, Vec<String>>::new();
        for text in &list {
            match requirement::parse(text) {
                Ok(Line::Requirement(requirement)) => {
                    refuse_mark(&requirement, text)?;
                    if !requirement.hashes.is_empty() {
                        hashes.entry(requirement.name.clone()).or_default().extend(requirement.hashes);
                    }
                    // They are compared when it is installed; to settle versions they are not needed.
                    wishes.requirements.push(requirement.text);
                }
                Ok(Line::Constraint(text)) => wishes.constraints.push(text),
                Ok(Line::Option(..)) => {}
                Err(problem) => {
                    return Err(PackageError::Refused(format!("the function asks for '{text}': {problem}")));
                }
            }
        }
        // Whoever installs them is told, too.
        let options = source::written(&wishes.options);
        let pins = installer.settle(wishes, self.stage().await?).await?;
        let pins = pins
            .iter()
            .map(|pin| if hashes.is_empty() { Ok(pin.clone()) } else { with_hashes(pin, &hashes) });
        pins.map(|pin| Ok(pin? + &options)).collect()
    }

    async fn install(self, pin: String) -> Result<Installed, PackageError> {
        let installer = self.installer()?;
        let Ok(Line::Requirement(mut requirement)) = requirement::parse(&pin) else {
            return Err(PackageError::Refused(format!("'{pin}' is not a pinned package")));
        };
        let Some(version) = requirement.pin().map(ToString::to_string) else {
            return Err(PackageError::Refused(format!("'{pin}' is not a pinned package")));
        };
        refuse_mark(&requirement, &short(&pin))?;
        let source = Source::of(&requirement.options, &self.inner.sources);
        let version = source.marked(&version);
        let turn = self.turn(&format!("{}=={version}", requirement.name));
        let _turn = turn.lock().await;
        let present = self.present(&requirement, &source).await?;
        if let Some((_, record)) = &present {
            if requirement.hashes.is_empty() || is_verified(record, &requirement.hashes) {
                return Ok(Installed::default());
            }
            // An archive that has a hash of both is right for those who have asked before as well.
            let both: Vec<String> =
                requirement.hashes.iter().filter(|hash| record.hashes.contains(hash)).cloned().collect();
            if !record.source.is_empty() && !both.is_empty() {
                requirement.hashes = both;
            }
        }
        let staging = installer.install(&requirement, self.stage().await?).await?;
        let record = Record {
            python: self.storage().python().to_owned(),
            source: match &source {
                Source::Own => self.inner.sources.described(),
                Source::Foreign { text, .. } => text.clone(),
            },
            hashes: requirement.hashes.clone(),
            bytes: 0,
            installer: installer.name().to_owned(),
        };
        let this = self.clone();
        if let Some((package, there)) = present {
            return blocking(move || this.compare(staging, &package, &there, record))
                .await?
                .map(|()| Installed::default());
        }
        let _placing = self.inner.placing.lock().await;
        blocking(move || this.place(staging, &requirement.name, &version, record)).await?
    }

    /// Whoever installs this package waits for whoever does so already.
    fn turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = busy.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        busy.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// What is there of this package in this version from this source, whatever its archive.
    async fn present(
        &self,
        requirement: &Requirement,
        source: &Source,
    ) -> Result<Option<(Package, Record)>, PackageError> {
        let (this, source) = (self.clone(), source.clone());
        let mut bare = requirement.clone();
        bare.hashes.clear();
        let found = blocking(move || {
            let index = this.storage().index()?;
            let package = this.find_one(&bare, &source, &index).ok();
            Ok::<_, io::Error>(package.map(|package| {
                let record = this.storage().record(&package).unwrap_or_default();
                (package, record)
            }))
        });
        found.await?.map_err(|error| PackageError::Failed(format!("the packages cannot be read: {error}")))
    }

    /// What has been installed anew, with the hash checked, takes the place of what is there if that has the same files. Else
    /// those who use what is there would get another package without having asked for it.
    fn compare(
        &self,
        staging: Staging,
        package: &Package,
        there: &Record,
        record: Record,
    ) -> Result<(), PackageError> {
        let failed = |error: &dyn fmt::Display| {
            PackageError::Failed(format!("{package} cannot be compared with what is installed: {error}"))
        };
        let bytes = staging
            .verify()
            .map_err(|error| PackageError::Refused(format!("{package} cannot be installed: {error}")))?;
        let differs = contents::difference(&self.storage().files(package), &staging.files())
            .map_err(|error| failed(&error))?;
        let Some(path) = differs else {
            let record = Record { bytes, ..record };
            return self.storage().replace(package, staging, &record).map_err(|error| failed(&error));
        };
        let origin = if there.source.is_empty() {
            "it was put there by hand, or by a worker that did not write down where from".to_owned()
        } else {
            format!("it came from {}", there.source)
        };
        Err(PackageError::Refused(format!(
            "{package} is installed from another archive than those of the hashes: '{}' is not the same in both ({origin}). \
             Name the hash of that archive, if you trust it; only the operator of this worker can remove it, which is the directory {} \
             of the packages",
            path.display(),
            package.directory
        )))
    }

    fn place(
        &self,
        staging: Staging,
        name: &str,
        version: &str,
        record: Record,
    ) -> Result<Installed, PackageError> {
        let failed = |error: &dyn std::fmt::Display| {
            PackageError::Failed(format!("{name}=={version} cannot be installed: {error}"))
        };
        let bytes = staging.verify().map_err(|error| {
            PackageError::Refused(format!("{name}=={version} cannot be installed: {error}"))
        })?;
        let _placing = self.storage().placing().map_err(|error| failed(&error))?;
        let (evicted, has_room) =
            self.storage().make_room(bytes, self.inner.bytes_max).map_err(|error| failed(&error))?;
        if !has_room {
            return Err(PackageError::Failed(format!(
                "{name}=={version} cannot be installed: it takes {} MB, and with it the packages would take more than {} MB \
                 (packages_max_mb); those that are there are needed by functions, of this worker or of another one that has the same packages",
                bytes.div_ceil(1 << 20),
                self.inner.bytes_max >> 20
            )));
        }
        let hashes = record.hashes.clone();
        let record = Record { bytes, ..record };
        let is_first =
            self.storage().commit(staging, name, version, &record).map_err(|error| failed(&error))?;
        // Another worker was quicker. What it has installed is there all the same; whether from the same archive, the next try finds out.
        if !is_first && !hashes.is_empty() {
            return Err(PackageError::Away(format!(
                "{name}=={version} has just been installed by another worker as well; it is compared at the next try"
            )));
        }
        Ok(Installed { evicted })
    }
}

/// Whether one of these hashes is known to be its archive's: all that it may have are among them. What was written down without the source
/// may have been written down of another archive.
fn is_verified(record: &Record, hashes: &[String]) -> bool {
    !record.source.is_empty()
        && !record.hashes.is_empty()
        && record.hashes.iter().all(|hash| hashes.contains(hash))
}

/// As pip has it: if one has a hash, all must have one.
fn with_hashes(pin: &str, hashes: &HashMap<String, Vec<String>>) -> Result<String, PackageError> {
    let pinned = short(pin);
    let name = pinned.split("==").next().and_then(normalise).unwrap_or_default();
    let Some(hashes) = hashes.get(&name) else {
        return Err(PackageError::Refused(format!(
            "{pinned} is needed and has no hash: where one package has a hash, all must have one. \
             'uv pip compile --generate-hashes' writes such a list"
        )));
    };
    let hashes: BTreeSet<&String> = hashes.iter().collect();
    Ok(hashes.into_iter().fold(pinned, |line, hash| format!("{line} --hash={hash}")))
}

/// A mark says which package is meant of those that are there, and not where another one is to be had.
fn refuse_mark(requirement: &Requirement, text: &str) -> Result<(), PackageError> {
    if requirement.mark.is_none() {
        return Ok(());
    }
    Err(PackageError::Refused(format!(
        "'{text}' is not there, and its mark does not say where it comes from: write --index-url, --extra-index-url or --find-links \
         with the address"
    )))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PackageError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| PackageError::Failed(error.to_string()))
}

fn versions(packages: &[&Package]) -> String {
    let listed: Vec<&str> =
        packages.iter().take(LISTED_MAX).map(|package| package.version.as_str()).collect();
    let more = if packages.len() > LISTED_MAX { ", ..." } else { "" };
    format!("{}{more}", listed.join(", "))
}

impl world::PackageStore for PackagesDir {
    fn find(&self, lists: Vec<Vec<String>>) -> LocalFuture<Vec<Result<PackageSet, LaunchError>>> {
        let this = self.clone();
        Box::pin(async move {
            let n = lists.len();
            let found = blocking(move || match this.storage().index() {
                Ok(index) => lists.iter().map(|list| this.find(list, &index)).collect(),
                Err(error) => {
                    let failed = LaunchError::Failed(format!("the packages cannot be read: {error}"));
                    lists.iter().map(|_| Err(failed.clone())).collect()
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
                packages.iter().map(|package| this.names_used(package)).collect()
            });
            read.await.unwrap_or_else(|_| vec![Vec::new(); n])
        })
    }

    fn survey(&self, list: Vec<String>, is_settled: bool) -> LocalFuture<Survey> {
        let this = self.clone();
        Box::pin(async move {
            let surveyed = blocking(move || this.survey(&list, is_settled)).await;
            match surveyed {
                Ok(Ok(survey)) => survey,
                Ok(Err(error)) => Survey::Wrong(format!("the packages cannot be read: {error}")),
                Err(error) => Survey::Wrong(error.to_string()),
            }
        })
    }

    fn settle(&self, list: Vec<String>, last: Vec<String>) -> LocalFuture<Result<Vec<String>, PackageError>> {
        Box::pin(self.clone().settle(list, last))
    }

    fn install(&self, pin: String) -> LocalFuture<Result<Installed, PackageError>> {
        Box::pin(self.clone().install(pin))
    }

    fn hold(&self, packages: &PackageSet) -> Result<Hold, PackageError> {
        self.hold(packages)
    }

    fn want(&self, pins: &[String]) -> Result<Hold, PackageError> {
        self.want(pins)
    }

    fn bytes(&self) -> LocalFuture<u64> {
        let this = self.clone();
        Box::pin(async move {
            // One looks at a time, also when nobody waits for it any more: the first look may take long.
            let turn = Arc::clone(&this.inner.counting).lock_owned().await;
            let counted = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                this.storage().bytes()
            });
            // It has panicked, or the worker ends.
            counted.await.unwrap_or(0)
        })
    }
}

/// For the fuzz targets: the package that a line asks for.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_line(line: &str) -> Option<String> {
    match requirement::parse(line) {
        Ok(requirement::Line::Requirement(requirement)) => Some(requirement.name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// With these packages in it. `can_install`: whoever asks for what is not there is sent to the installer.
    fn directory(packages: &[&str], can_install: bool) -> (TempDir, PackagesDir) {
        let place = tempfile::tempdir().unwrap();
        for package in packages {
            fs::create_dir_all(place.path().join(package).join("files")).unwrap();
        }
        let mut dir = PackagesDir::open(
            place.path(),
            11,
            Sources::default(),
            Err("nothing installs here".into()),
            1 << 30,
        )
        .unwrap();
        Arc::get_mut(&mut dir.inner).expect("nobody else has it yet").can_install = can_install;
        (place, dir)
    }

    fn lines(list: &[&str]) -> Vec<String> {
        list.iter().map(|line| (*line).to_owned()).collect()
    }

    fn find(packages: &PackagesDir, list: &[&str]) -> Result<Vec<String>, String> {
        let index = packages.storage().index().unwrap();
        let found = packages.find(&lines(list), &index).map_err(|error| error.to_string())?;
        Ok(found.iter().map(|package| package.directory.clone()).collect())
    }

    fn survey(packages: &PackagesDir, list: &[&str], is_settled: bool) -> Survey {
        packages.survey(&lines(list), is_settled).unwrap()
    }

    fn set(directories: &[&str]) -> PackageSet {
        PackageSet::new(directories.iter().map(|directory| {
            let (name, version) = directory.split_once("==").unwrap();
            let version = version.split('@').next().unwrap();
            Package { name: name.into(), version: version.into(), directory: (*directory).into() }
        }))
    }

    fn is_complete(survey: &Survey, pins: &[&str], directories: &[&str]) -> bool {
        *survey == Survey::Complete { pins: lines(pins), set: set(directories) }
    }

    fn metadata(place: &TempDir, package: &str, requires: &[&str]) {
        let (name, version) = package.split_once("==").unwrap();
        let info = place.path().join(package).join(format!("files/{name}-{version}.dist-info"));
        fs::create_dir_all(&info).unwrap();
        let requires: String = requires.iter().map(|one| format!("Requires-Dist: {one}\n")).collect();
        fs::write(info.join("METADATA"), format!("Name: {name}\n{requires}\nRequires-Dist: not-this\n"))
            .unwrap();
    }

    #[test]
    fn names_are_the_same_however_they_are_written() {
        let (_place, packages) = directory(&["Typing_Extensions==4.12.2", "numpy==2.2.1"], false);
        assert_eq!(
            find(&packages, &["typing.extensions==4.12.2", "NumPy == 2.2.1"]).unwrap(),
            ["Typing_Extensions==4.12.2", "numpy==2.2.1"]
        );
    }

    #[test]
    fn what_a_package_needs_is_named_without_versions_extras_and_what_is_for_others() {
        let (place, packages) = directory(&["pandas==2", "quiet==1"], false);
        let needed = [
            "numpy>=1.26.0; python_version >= '3.8'",
            "python_dateutil (>=2.8.2)",
            "hypothesis>=6.46.1; extra == 'test'",
            "pywin32; sys_platform == 'win32'",
            "Jinja2[x]",
            "numpy",
            "nonsense of somebody's",
        ];
        metadata(&place, "pandas==2", &needed);
        let names = |directory: &str| packages.names_needed(set(&[directory]).iter().next().unwrap());
        assert_eq!(names("pandas==2"), ["jinja2", "numpy", "python-dateutil"]);
        let used = packages.names_used(set(&["pandas==2"]).iter().next().unwrap());
        assert_eq!(used, ["hypothesis", "jinja2", "numpy", "python-dateutil", "pywin32"]);
        assert!(names("quiet==1").is_empty() && names("nonesuch==1").is_empty());
    }

    #[test]
    fn an_unpinned_name_is_the_one_version_that_is_there() {
        let (_place, packages) = directory(&["a==1", "b==1", "b==2"], false);
        assert_eq!(find(&packages, &["a"]).unwrap(), ["a==1"]);
        let said = find(&packages, &["b"]).unwrap_err();
        assert!(said.contains("several versions of b are there (1, 2): write which one"), "{said}");
    }

    #[test]
    fn where_nothing_installs_what_is_missing_is_named_with_the_command_that_brings_it() {
        let (place, packages) = directory(&["a==1"], false);
        let Survey::Wrong(said) = survey(&packages, &["a==1", "a==2"], false) else {
            panic!("it is not there")
        };
        let command =
            format!("python3 -m pip install --no-deps --target '{}/a==2/files' a==2", place.path().display());
        assert!(said.contains("a==2 is not installed") && said.contains("(but 1 is)"), "{said}");
        assert!(said.contains("nothing installs here") && said.ends_with(&command), "{said}");
        assert!(is_complete(&survey(&packages, &["a"], false), &["a==1"], &["a==1"]));
    }

    #[test]
    fn what_has_no_files_or_is_for_another_python_is_not_there() {
        let (place, packages) = directory(&["b==1", "c==1@cp311", "d==1@cp312"], false);
        fs::create_dir(place.path().join("a==1")).unwrap();
        assert!(find(&packages, &["a==1"]).is_err());
        fs::create_dir(place.path().join("a==1/files")).unwrap();
        assert!(find(&packages, &["a==1"]).is_ok(), "no restart is needed");
        fs::write(place.path().join("b==1/installed.json"), r#"{"python": "cp312"}"#).unwrap();
        assert!(find(&packages, &["b==1"]).is_err());
        assert_eq!(find(&packages, &["c==1"]).unwrap(), ["c==1@cp311"]);
        assert!(find(&packages, &["d==1"]).is_err());
    }

    #[test]
    fn what_a_marker_excludes_is_not_asked_for() {
        let (_place, packages) = directory(&["a==1"], false);
        let lines = ["colorama==0.4.6 ; sys_platform == 'win32'", "a==1 ; python_version >= '3.8'"];
        assert_eq!(find(&packages, &lines).unwrap(), ["a==1"]);
    }

    #[test]
    fn a_list_is_complete_if_it_is_pinned_and_all_that_is_needed_is_among_it() {
        let (place, packages) = directory(&["a==1", "b==1", "b==3", "c==1"], true);
        metadata(&place, "a==1", &["b<2", "none ; python_version < '3'", "c ; extra == 'more'"]);
        let complete = |list: &[&str]| survey(&packages, list, false);
        assert!(is_complete(&complete(&["a==1", "b==1"]), &["a==1", "b==1"], &["a==1", "b==1"]));
        for open in [
            &["a==1"][..],
            &["a==1", "b==3"],
            &["a[more]==1", "b==1"],
            &["a", "b==1"],
            &["a>=1", "b==1"],
            &["a==2"],
            &["c==1", "-c b<2"],
        ] {
            assert_eq!(complete(open), Survey::Open, "{open:?}");
        }
        assert!(is_complete(
            &complete(&["a[more]==1", "b==1", "c==1", "--pre"]),
            &["a[more]==1 --pre", "b==1 --pre", "c==1 --pre"],
            &["a==1", "b==1", "c==1"]
        ));
        let settled = survey(&packages, &["a==1"], true);
        assert!(is_complete(&settled, &["a==1"], &["a==1"]), "what is settled is believed");
        assert_eq!(survey(&packages, &["a==1", "d==1"], true), Survey::Missing(lines(&["d==1"])));
    }

    #[test]
    fn a_hash_is_that_of_the_archive_that_was_checked() {
        let (place, packages) = directory(&["a==1"], true);
        let checked = |list: &[&str]| survey(&packages, list, true);
        let asked = ["a==1 --hash=sha256:aa --hash=sha256:bb"];
        let record = |text: &str| fs::write(place.path().join("a==1/installed.json"), text).unwrap();
        assert_eq!(checked(&asked), Survey::Missing(lines(&asked)), "nobody has checked it");
        record(r#"{"source": "x", "hashes": ["sha256:aa"]}"#);
        assert!(is_complete(&checked(&asked), &asked, &["a==1"]));
        assert!(matches!(checked(&["a==1 --hash=sha256:bb"]), Survey::Missing(_)));
        record(r#"{"source": "x", "hashes": ["sha256:aa", "sha256:cc"]}"#);
        assert!(matches!(checked(&asked), Survey::Missing(_)), "it may be the one that was not asked for");
        record(r#"{"hashes": ["sha256:aa"]}"#);
        assert!(matches!(checked(&asked), Survey::Missing(_)), "of which archive, nobody knows");
        assert!(is_complete(&checked(&["a==1"]), &["a==1"], &["a==1"]), "without a hash it is there");
    }

    #[test]
    fn what_came_from_one_source_is_not_there_for_lists_of_another() {
        let theirs = "--index-url=https://x.example/theirs";
        let mark = packages_mark(theirs);
        let foreign = format!("a==1@{mark}");
        let (_place, packages) = directory(&["a==1", "b==1", &foreign, &format!("c==1@{mark}")], true);
        assert_eq!(find(&packages, &["a==1"]).unwrap(), ["a==1"]);
        for list in [&["a==1", theirs][..], &[&format!("a==1 {theirs}")], &[&foreign], &["a", theirs]] {
            assert_eq!(find(&packages, list).unwrap(), [foreign.as_str()], "{list:?}");
        }
        for list in [&["c==1"][..], &["c"], &["b==1", theirs], &["c==1", "-i https://x.example/ours"]] {
            assert!(find(&packages, list).is_err(), "{list:?}");
        }
        let surveyed = |list: &[&str]| survey(&packages, list, false);
        let pin = format!("a==1 {theirs}");
        assert!(is_complete(&surveyed(&["a==1", theirs]), &[&pin], &[&foreign]), "the pin keeps the source");
        assert!(is_complete(&surveyed(&["a==1"]), &["a==1"], &["a==1"]));
        assert_eq!(surveyed(&["c==1"]), Survey::Open);
        assert_eq!(survey(&packages, &["c==1"], true), Survey::Missing(lines(&["c==1"])));
        let package = set(&[&foreign]).iter().next().unwrap().to_string();
        assert_eq!(package, foreign, "as zygotes ask for it");
    }

    #[test]
    fn where_nothing_installs_the_command_puts_it_where_its_source_is() {
        let theirs = "--index-url=https://u:pw@x.example/theirs";
        let (_place, packages) = directory(&["a==1"], false);
        let Survey::Wrong(said) = survey(&packages, &["a==1", theirs], false) else {
            panic!("it is another's")
        };
        assert!(said.contains(&format!("a==1@{}/files'", packages_mark(theirs))), "{said}");
        assert!(said.contains("--no-deps --index-url=https://x.example/theirs --target"), "{said}");
    }

    fn packages_mark(option: &str) -> String {
        let source = Source::of(&source::options(&lines(&[option])), &Sources::default());
        source.mark().expect("it is not the operator's").to_owned()
    }

    #[test]
    fn where_one_has_a_hash_all_must_have_one() {
        let hashes = HashMap::from([("a-b".to_owned(), vec!["sha256:aa".to_owned()])]);
        assert_eq!(with_hashes("A_b==1 --hash=sha256:zz", &hashes).unwrap(), "A_b==1 --hash=sha256:aa");
        assert!(
            with_hashes("c==1 --hash=sha256:zz", &hashes)
                .unwrap_err()
                .to_string()
                .contains("c==1 is needed and has no hash")
        );
    }
}
