//! The unified hierarchy.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

use super::{
    CgroupError, Limits, Result, create_directory, limit_processes, open_procs, read_key, read_number, write,
};

/// Controllers that sandboxes need; `cpu` is used where it is there.
const NEEDED: [&str; 2] = ["memory", "pids"];

/// The period of the processor quota, in microseconds: the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;

#[derive(Debug, Clone)]
pub(super) struct Root {
    path: PathBuf,
    shim: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
}

impl Root {
    pub(super) fn open(hierarchy: &Path, name: &str, shim: Option<u32>) -> Result<Self> {
        // From the top down: a controller can be used in a group only when its parent hands it on.
        let path = hierarchy.join(name);
        hand_on(hierarchy)?;
        create_directory(&path)?;
        hand_on(&path)?;
        limit_processes(&path)?;
        // The kernel asks for the right to move processes in what the parent and the child have in common, too.
        give_procs(&path, shim)?;
        Ok(Self { path, shim })
    }

    /// Where what is called so is.
    pub(super) fn inside(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn create(&self, name: &str, nest: Option<&Path>) -> Result<Group> {
        let path = nest.unwrap_or(&self.path).join(name);
        create_directory(&path)?;
        give_procs(&path, self.shim)?;
        Ok(Group { path })
    }

    pub(super) fn memory_bytes(&self) -> Option<u64> {
        read_number(&self.path.join("memory.current"))
    }
}

/// Whoever owns the file may let processes be born into the group. (Nobody in a sandbox has that uid, or sees the file.)
fn give_procs(path: &Path, owner: Option<u32>) -> Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    let path = path.join("cgroup.procs");
    chown(&path, Some(owner), None).map_err(|source| CgroupError::Write {
        path,
        value: format!("owner {owner}"),
        source,
    })
}

/// One lambda's sandboxes have the weight of one sandbox together when processors are short: a nest's, which the kernel
/// sets.
pub(super) fn limit_nest(nest: &Path, memory_bytes: u64, swap_bytes: u64) -> Result<()> {
    hand_on(nest)?;
    write(nest.join("memory.max"), &memory_bytes.to_string())?;
    // Absent in kernels built without swap.
    if nest.join("memory.swap.max").exists() {
        write(nest.join("memory.swap.max"), &swap_bytes.to_string())?;
    }
    Ok(())
}

/// Enables the controllers for the groups inside.
fn hand_on(path: &Path) -> Result<()> {
    let control = path.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&control).unwrap_or_default();
    let available = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    for controller in NEEDED.iter().chain(&["cpu"]) {
        let has = |list: &str| list.split_whitespace().any(|name| name == *controller);
        if has(&enabled) {
            continue;
        }
        if !has(&available) {
            if *controller == "cpu" {
                continue;
            }
            return Err(CgroupError::Unusable(format!(
                "the cgroup controller '{controller}' is missing in {}: boot with it enabled, or run the worker where it is delegated",
                path.display()
            )));
        }
        write(control.clone(), &format!("+{controller}"))?;
    }
    Ok(())
}

impl Group {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn birthplace(&self) -> Result<OwnedFd> {
        let path = &self.path;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(path, flags, Mode::empty())
            .map_err(|error| CgroupError::Read { path: path.clone(), source: error.into() })
    }

    pub(super) fn procs(&self) -> Result<OwnedFd> {
        open_procs(&self.path)
    }

    pub(super) fn write_limits(&self, limits: Limits) -> Result<()> {
        write(self.path.join("memory.max"), &limits.memory_bytes.to_string())?;
        // Absent in kernels built without swap.
        if self.path.join("memory.swap.max").exists() {
            write(self.path.join("memory.swap.max"), &limits.swap_bytes.to_string())?;
        }
        // A sandbox without its interpreter is of no use: out of memory ends all of it at once.
        if self.path.join("memory.oom.group").exists() {
            write(self.path.join("memory.oom.group"), "1")?;
        }
        write(self.path.join("pids.max"), &limits.n_processes.to_string())?;
        if self.path.join("cpu.max").exists() {
            let quota = u64::from(limits.cpu_percent) * CPU_PERIOD_US / 100;
            write(self.path.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"))?;
        }
        Ok(())
    }

    pub(super) fn memory_bytes(&self) -> Option<u64> {
        read_number(&self.path.join("memory.current"))
    }

    pub(super) fn n_oom_kills(&self) -> Option<u64> {
        read_key(&self.path.join("memory.events"), "oom_kill")
    }
}
