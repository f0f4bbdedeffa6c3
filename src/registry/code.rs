//! One generation of a function's code: an immutable directory, and what was read from it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use actors::cron::timetable::CronEntry;
use actors::name::FunctionName;
use actors::world::{Class, Code, Hold, KafkaSource, Network, PoolLimits};

use super::content::Contents;
use super::function_yaml::{self, FunctionConfig, FunctionYaml};
use super::lock::{Lock, Locks};
use super::requirements::Wishes;
use super::{env_file, requirements};
use crate::config::{Config, Limits};
use crate::field::FieldPath;

/// Trees with at most this many entries are removed by whoever drops the last clone; larger ones by a
/// thread of their own, since an actor must not wait for them.
const N_ENTRIES_REMOVED_INLINE: usize = 32;

/// The variable that names another entry file.
const ENTRY_VARIABLE: &str = "OL_ENTRY_FILE";

/// The entry file that is a program, and not Python (`native.py` of the runtime).
pub(super) const PROGRAM: &str = "f.bin";

/// One generation of a function's code. Cheap to clone; the directory goes with the last clone.
#[derive(Clone)]
pub struct FunctionCode(Arc<Generation>, Arc<Settled>);

struct Generation {
    directory: Directory,
    name: FunctionName,
    facts: Facts,
    hash: [u8; 32],
    class: Class,
    pool: PoolLimits,
    /// What the source looked like when it was read; equal means unchanged.
    fingerprint: Mutex<Option<[u8; 32]>>,
}

/// What it may import, once that is settled, and what it is called with it.
struct Settled {
    lock: Option<Lock>,
    version: String,
    /// Its packages, once they are there.
    packages: Mutex<Option<Hold>>,
}

impl Settled {
    fn new(lock: Option<Lock>, version: String) -> Self {
        Self { lock, version, packages: Mutex::default() }
    }
}

/// What the files of a function say, and what that comes to on this worker.
struct Facts {
    entry_file: String,
    config: FunctionConfig,
    limits: Limits,
    network: Network,
    wishes: Wishes,
}

impl FunctionCode {
    /// The function's name.
    #[must_use]
    pub fn name(&self) -> &FunctionName {
        &self.0.name
    }

    /// The directory with the code: absolute, owned by the worker, never changed.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.directory.path
    }

    /// The file to load first, relative to [`dir`](Self::dir): `f.py`, `lambda_func.py`, the one that `OL_ENTRY_FILE`
    /// names, or the program `f.bin`.
    #[must_use]
    pub fn entry_file(&self) -> &str {
        &self.0.facts.entry_file
    }

    /// The function's `ol.yaml`, with its `.env` in `environment`.
    #[must_use]
    pub fn config(&self) -> &FunctionConfig {
        &self.0.facts.config
    }

    /// Limits of one sandbox of this function.
    #[must_use]
    pub fn sandbox_limits(&self) -> &Limits {
        &self.0.facts.limits
    }

    /// What its author wants installed.
    #[must_use]
    pub fn wishes(&self) -> &Wishes {
        &self.0.facts.wishes
    }

    /// Which packages that has come to, and since when.
    #[must_use]
    pub fn lock(&self) -> Option<&Lock> {
        self.1.lock.as_ref()
    }

    /// The same with what is written down for it now.
    pub(super) fn settled(&self, locks: &Locks) -> Self {
        let lock = locks.read(&self.0.name, &self.0.facts.wishes);
        let version = version(&self.0.hash, lock.as_ref());
        Self(Arc::clone(&self.0), Arc::new(Settled::new(lock, version)))
    }

    pub(super) fn hash(&self) -> &[u8; 32] {
        &self.0.hash
    }

    pub(super) fn looks_like(&self, fingerprint: Option<[u8; 32]>) -> bool {
        fingerprint.is_some()
            && *self.0.fingerprint.lock().expect("nothing panics with this lock") == fingerprint
    }

    pub(super) fn set_fingerprint(&self, fingerprint: Option<[u8; 32]>) {
        *self.0.fingerprint.lock().expect("nothing panics with this lock") = fingerprint;
    }
}

impl fmt::Debug for FunctionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.0.name, self.1.version)
    }
}

impl Code for FunctionCode {
    fn version(&self) -> &str {
        &self.1.version
    }

    fn limits(&self) -> PoolLimits {
        self.0.pool
    }

    fn class(&self) -> Class {
        self.0.class
    }

    fn packages(&self) -> &[String] {
        match &self.1.lock {
            Some(lock) => &lock.packages,
            None => &self.0.facts.wishes.lines,
        }
    }

    fn is_settled(&self) -> bool {
        self.1.lock.is_some() || self.0.facts.wishes.lines.is_empty()
    }

    fn pins(&self) -> Vec<String> {
        match &self.1.lock {
            Some(lock) => lock.pins(),
            None => Vec::new(),
        }
    }

    fn keep(&self, packages: Hold) {
        *self.1.packages.lock().expect("nothing panics with this lock") = Some(packages);
    }

    fn reuse(&self) -> bool {
        self.0.facts.config.reuse_sandbox()
    }

    fn imports(&self) -> bool {
        self.0.facts.entry_file != PROGRAM
    }

    fn cron(&self) -> Vec<CronEntry> {
        self.0.facts.config.cron()
    }

    fn kafka(&self) -> Vec<KafkaSource> {
        self.0.facts.config.kafka()
    }
}

/// A directory that is removed when it is dropped.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// 0 until it is a generation: before that it is dropped by a thread that may block.
    pub(super) n_entries: usize,
}

impl Drop for Directory {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        if self.n_entries <= N_ENTRIES_REMOVED_INLINE {
            // What cannot be removed now is swept when the worker starts again.
            let _ = fs::remove_dir_all(&path);
            return;
        }
        let for_thread = path.clone();
        let spawned = std::thread::Builder::new()
            .name("remove-code".to_owned())
            .spawn(move || fs::remove_dir_all(for_thread));
        if spawned.is_err() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Why a directory is not a function. The text is for its author.
#[derive(Debug)]
pub(super) enum CodeError {
    /// The author has something to mend.
    Invalid(String),
    /// There is no entry file; it may be on its way.
    NoEntry(String),
    /// The worker could not read what it just wrote.
    Read(PathBuf, io::Error),
}

impl CodeError {
    fn of(error: &impl fmt::Display) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Check the function in `dir`, which nobody else can write to. Nothing is kept. Gives what it wants installed.
pub(super) fn check(dir: &Path, worker: &Config) -> Result<Wishes, CodeError> {
    Ok(read_facts(dir, worker)?.wishes)
}

/// Make a generation of the function in `directory`.
pub(super) fn generation(
    name: FunctionName,
    mut directory: Directory,
    contents: &Contents,
    fingerprint: Option<[u8; 32]>,
    n: u64,
    worker: &Config,
    locks: &Locks,
) -> Result<FunctionCode, CodeError> {
    let facts = read_facts(&directory.path, worker)?;
    let hash = contents.hash();
    let lock = locks.read(&name, &facts.wishes);
    let version = version(&hash, lock.as_ref());
    let home = directory.path.parent().expect("generations are in a directory").to_owned();
    let path = home.join(format!("{name}@{version}-{n}"));
    fs::rename(&directory.path, &path).map_err(|error| CodeError::Read(path.clone(), error))?;
    directory.path = path;
    directory.n_entries = contents.n_entries();
    let generation = Generation {
        directory,
        name,
        hash,
        class: Class { network: facts.network },
        pool: worker.pool_limits(&facts.limits),
        facts,
        fingerprint: Mutex::new(fingerprint),
    };
    Ok(FunctionCode(Arc::new(generation), Arc::new(Settled::new(lock, version))))
}

/// The same files with other packages are another version.
fn version(hash: &[u8; 32], lock: Option<&Lock>) -> String {
    let mut both = *hash;
    if let Some(lock) = lock {
        for (byte, other) in both.iter_mut().zip(lock.digest) {
            *byte ^= other;
        }
    }
    both.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn read_facts(dir: &Path, worker: &Config) -> Result<Facts, CodeError> {
    let text = read_small(dir, function_yaml::FILE_NAME, function_yaml::FILE_BYTES_MAX)?.unwrap_or_default();
    let yaml = FunctionYaml::parse(&text).map_err(|error| CodeError::of(&error))?;
    let limits = yaml.limits(worker).map_err(|error| CodeError::of(&error))?;
    let network = yaml.network(worker).map_err(|error| CodeError::of(&error))?;
    yaml.check_brokers(worker).map_err(|error| CodeError::of(&error))?;
    let variables = match read_small(dir, env_file::FILE_NAME, function_yaml::FILE_BYTES_MAX)? {
        Some(text) => env_file::parse(&text).map_err(|error| CodeError::of(&error))?,
        None => BTreeMap::new(),
    };
    let entry_file = entry_file(dir, &yaml, &variables)?;
    let wishes = if entry_file == PROGRAM {
        // It imports nothing.
        Wishes::default()
    } else {
        requirements::read(&entry_file, |name| read_small(dir, name, requirements::FILE_BYTES_MAX))?
    };
    let mut config = yaml.config;
    config.add_variables(variables);
    Ok(Facts { entry_file, config, limits, network, wishes })
}

/// `variables`: those of the `.env`.
fn entry_file(
    dir: &Path,
    yaml: &FunctionYaml,
    variables: &BTreeMap<String, String>,
) -> Result<String, CodeError> {
    let in_yaml = yaml.config.environment.get(ENTRY_VARIABLE);
    if let Some(named) = in_yaml.or_else(|| variables.get(ENTRY_VARIABLE)) {
        // With its place, where it has one.
        let wrong = |problem: &str| {
            let problem = format!("is '{named}', and {problem}");
            match in_yaml {
                Some(_) => {
                    yaml.error(FieldPath::from("environment").name(ENTRY_VARIABLE), problem).to_string()
                }
                None => format!("{}: {ENTRY_VARIABLE} {problem}", env_file::FILE_NAME),
            }
        };
        let plain = Path::new(named).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if named.is_empty() || !plain {
            return Err(CodeError::Invalid(wrong("must be a path inside of the function")));
        }
        if !dir.join(named).is_file() {
            return Err(CodeError::NoEntry(wrong("there is no such file in the function")));
        }
        return Ok(named.clone());
    }
    let found = ["f.py", "lambda_func.py", PROGRAM].into_iter().find(|name| dir.join(name).is_file());
    found.map(str::to_owned).ok_or_else(|| {
        let inside = fs::read_dir(dir).into_iter().flatten().flatten().next();
        let has_entry =
            |entry: &fs::DirEntry| ["f.py", PROGRAM].iter().any(|name| entry.path().join(name).is_file());
        CodeError::NoEntry(match inside.filter(has_entry) {
            Some(entry) => format!(
                "no f.py, lambda_func.py or f.bin at the top, but there is one in '{}': pack the files, not the folder around them",
                entry.file_name().display()
            ),
            None => "no f.py, lambda_func.py or f.bin; put one there, or name another file with OL_ENTRY_FILE in ol.yaml"
                .to_owned(),
        })
    })
}

fn read_small(dir: &Path, name: &str, bytes_max: u64) -> Result<Option<String>, CodeError> {
    let path = dir.join(name);
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(CodeError::Read(path, error)),
    };
    if path.is_dir() {
        return Err(CodeError::Invalid(format!("{name} is a directory")));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| CodeError::Read(path, error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(CodeError::Invalid(format!("{name} is longer than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| CodeError::Invalid(format!("{name} is not UTF-8 text")))
}
