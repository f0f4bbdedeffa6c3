//! Which packages a function's wishes have come to, written down: so that the same function gets the same packages until
//! somebody asks for others.
//!
//! `<worker>/locks/<function>@<digest of its wishes>.txt`, one pinned package a line, with the hashes of its archives, as
//! pip reads it. It does not go with the code: who changes `f.py` changes no package.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use actors::name::FunctionName;
use actors::packages::short;
use sha2::{Digest, Sha256};

use super::requirements::Wishes;

/// Locks that are kept of one function, for code that comes back.
const KEPT_MAX: usize = 4;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Lock {
    /// Each as `name==version`.
    pub(super) packages: Vec<String>,
    /// Since when.
    pub settled: Option<SystemTime>,
    pub(super) digest: [u8; 32],
    path: PathBuf,
}

/// The directory of all locks of a worker.
#[derive(Debug)]
pub(super) struct Locks(PathBuf);

impl Lock {
    /// With the hashes. Reads the file.
    #[must_use]
    pub fn pins(&self) -> Vec<String> {
        // Whoever has removed it meanwhile gets packages whose archives are not compared.
        read_lines(&self.path).map_or_else(|_| self.packages.clone(), |(lines, _)| lines)
    }

    /// Each as `name==version`.
    #[must_use]
    pub fn packages(&self) -> &[String] {
        &self.packages
    }
}

impl Locks {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn path(&self, name: &FunctionName, wishes: &Wishes) -> PathBuf {
        let digest: String = wishes.digest().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        self.0.join(format!("{name}@{digest}.txt"))
    }

    /// The one of these wishes, if they are settled.
    pub(super) fn read(&self, name: &FunctionName, wishes: &Wishes) -> Option<Lock> {
        if wishes.lines.is_empty() {
            return None;
        }
        let path = self.path(name, wishes);
        let (lines, digest) = read_lines(&path).ok()?;
        let settled = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
        Some(Lock { packages: lines.iter().map(|line| short(line)).collect(), settled, digest, path })
    }

    /// Settle them.
    pub(super) fn write(&self, name: &FunctionName, wishes: &Wishes, pins: &[String]) -> io::Result<()> {
        let path = self.path(name, wishes);
        let text: String = pins.iter().map(|pin| format!("{pin}\n")).collect();
        let half = self.0.join(format!(".{name}-{}", std::process::id()));
        fs::write(&half, text)?;
        fs::File::open(&half)?.sync_all()?;
        fs::rename(&half, &path)?;
        self.prune(name, &path);
        Ok(())
    }

    /// The oldest go.
    fn prune(&self, name: &FunctionName, newest: &Path) {
        let mut all: Vec<(Option<SystemTime>, PathBuf)> = fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .rsplit_once('@')
                    .is_some_and(|(own, _)| own == name.as_str())
            })
            .map(|entry| (entry.metadata().and_then(|metadata| metadata.modified()).ok(), entry.path()))
            .filter(|(_, path)| path != newest)
            .collect();
        all.sort();
        for (_, path) in all.iter().take(all.len().saturating_sub(KEPT_MAX - 1)) {
            let _ = fs::remove_file(path);
        }
    }
}

fn read_lines(path: &Path) -> io::Result<(Vec<String>, [u8; 32])> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    Ok((lines, Sha256::digest(&text).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(lines: &[&str]) -> Wishes {
        Wishes { lines: lines.iter().map(|line| (*line).to_owned()).collect() }
    }

    #[test]
    fn a_lock_is_that_of_its_wishes_and_comes_back_with_them() {
        let place = tempfile::tempdir().unwrap();
        let locks = Locks::open(place.path().join("locks")).unwrap();
        let name: FunctionName = "f".parse().unwrap();
        let (one, other) = (wishes(&["numpy"]), wishes(&["numpy<2"]));
        assert!(locks.read(&name, &one).is_none());
        locks.write(&name, &one, &["numpy==2.2.6 --hash=sha256:ab".into()]).unwrap();
        locks.write(&name, &other, &["numpy==1.26.4".into()]).unwrap();
        let lock = locks.read(&name, &one).unwrap();
        assert_eq!(lock.packages(), ["numpy==2.2.6"]);
        assert_eq!(lock.pins(), ["numpy==2.2.6 --hash=sha256:ab"]);
        assert_ne!(lock.digest, locks.read(&name, &other).unwrap().digest);
        assert!(locks.read(&"g".parse().unwrap(), &one).is_none(), "another function's is its own");
        assert!(locks.read(&name, &wishes(&[])).is_none());
    }

    #[test]
    fn of_one_function_a_few_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let locks = Locks::open(place.path().to_owned()).unwrap();
        let (name, longer): (FunctionName, FunctionName) = ("f".parse().unwrap(), "f-f".parse().unwrap());
        locks.write(&longer, &wishes(&["a"]), &["a==1".into()]).unwrap();
        for at in 0..10 {
            locks.write(&name, &wishes(&[&format!("a{at}")]), &["a==1".into()]).unwrap();
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), KEPT_MAX + 1);
        assert!(
            locks.read(&name, &wishes(&["a9"])).is_some() && locks.read(&longer, &wishes(&["a"])).is_some()
        );
    }
}
