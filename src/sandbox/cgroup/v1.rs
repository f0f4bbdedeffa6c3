//! Controllers of version 1, each in a hierarchy of its own; and, on hybrid machines, the version 2
//! hierarchy without controllers, used for freezing and killing.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::{
    CgroupError, Limits, Mounts, Result, create_directory, limit_processes, open_procs, read_key,
    read_number, write,
};

/// Buffers of internet sockets are counted apart by version 1, and are not limited unless one says so: this part of
/// the memory limit comes on top of it for them. Without it, a sandbox of 50 MB has taken 2 GB (measured), which are
/// missing to the whole machine's connections. What connections hold that nobody has accepted neither version counts:
/// `init.rs` bounds that.
const SOCKET_BUFFERS_PART: u64 = 4;

/// Memory and swap together.
const SWAP_TOO: &str = "memory.memsw.limit_in_bytes";
const SOCKET_BUFFERS: &str = "memory.kmem.tcp.limit_in_bytes";

/// The period of the processor quota, in microseconds: the kernel's own default, which nobody changes.
const CPU_PERIOD_US: u64 = 100_000;

#[derive(Debug, Clone)]
pub(super) struct Root {
    memory: PathBuf,
    pids: PathBuf,
    /// Machines without it have no processor limit.
    cpu: Option<PathBuf>,
    unified: Option<PathBuf>,
    accounts: Accounts,
}

/// What this kernel's memory controller counts besides memory. The same for all groups, so it is looked up once.
#[derive(Debug, Clone, Copy)]
struct Accounts {
    swap: bool,
    socket_buffers: bool,
}

#[derive(Debug)]
pub(super) struct Group {
    memory: PathBuf,
    pids: PathBuf,
    cpu: Option<PathBuf>,
    unified: Option<PathBuf>,
    accounts: Accounts,
}

impl Root {
    pub(super) fn open(mounts: &Mounts, name: &str) -> Result<Self> {
        let needed = |controller: &str| {
            mounts.v1_with(controller).map(|point| point.join(name)).ok_or_else(|| {
                CgroupError::Unusable(format!(
                    "no cgroup hierarchy has the controller '{controller}': mount cgroup v2 at /sys/fs/cgroup, \
                     or a v1 hierarchy with it"
                ))
            })
        };
        let mut root = Self {
            accounts: Accounts { swap: false, socket_buffers: false },
            memory: needed("memory")?,
            pids: needed("pids")?,
            cpu: mounts.v1_with("cpu").map(|point| point.join(name)),
            unified: mounts.unified.as_ref().map(|point| point.join(name)),
        };
        for path in [Some(&root.memory), Some(&root.pids), root.cpu.as_ref(), root.unified.as_ref()]
            .into_iter()
            .flatten()
        {
            create_directory(path)?;
        }
        limit_processes(&root.pids)?;
        root.accounts = Accounts {
            swap: root.memory.join(SWAP_TOO).exists(),
            socket_buffers: root.memory.join(SOCKET_BUFFERS).exists(),
        };
        Ok(root)
    }

    pub(super) fn has_unified(&self) -> bool {
        self.unified.is_some()
    }

    /// Where the memory controller has what is called so.
    pub(super) fn inside(&self, name: &str) -> PathBuf {
        self.memory.join(name)
    }

    /// The same in the version 2 hierarchy, if there is one.
    pub(super) fn inside_unified(&self, name: &str) -> Option<PathBuf> {
        self.unified.as_ref().map(|root| root.join(name))
    }

    pub(super) fn limit_nest(&self, nest: &Path, memory_bytes: u64, swap_bytes: u64) -> Result<()> {
        write(nest.join("memory.limit_in_bytes"), &memory_bytes.to_string())?;
        if self.accounts.swap {
            write(nest.join(SWAP_TOO), &memory_bytes.saturating_add(swap_bytes).to_string())?;
        }
        Ok(())
    }

    /// Only memory is counted in nests: to the other controllers all groups are alike.
    pub(super) fn create(&self, name: &str, nest: Option<&Path>) -> Result<Group> {
        let inside = |path: &PathBuf| path.join(name);
        let group = Group {
            memory: nest.unwrap_or(&self.memory).join(name),
            pids: inside(&self.pids),
            cpu: self.cpu.as_ref().map(inside),
            unified: self.unified.as_ref().map(inside),
            accounts: self.accounts,
        };
        for path in group.directories() {
            create_directory(path)?;
        }
        Ok(group)
    }

    pub(super) fn memory_bytes(&self) -> Option<u64> {
        read_number(&self.memory.join("memory.usage_in_bytes"))
    }
}

impl Group {
    pub(super) fn directories(&self) -> Vec<&Path> {
        [Some(&self.memory), Some(&self.pids), self.cpu.as_ref(), self.unified.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect()
    }

    pub(super) fn cpu(&self) -> Option<&Path> {
        self.cpu.as_deref()
    }

    pub(super) fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    pub(super) fn pids(&self) -> &Path {
        &self.pids
    }

    pub(super) fn memory(&self) -> &Path {
        &self.memory
    }

    pub(super) fn procs(&self) -> Result<Vec<OwnedFd>> {
        self.directories().into_iter().map(open_procs).collect()
    }

    /// `is_new`: nothing was limited before.
    pub(super) fn write_limits(&self, limits: Limits, is_new: bool) -> Result<()> {
        // With swap accounting there is a second limit for both together, which must not be the lower of the
        // two at any moment: so it is lifted first.
        if self.accounts.swap && !is_new {
            write(self.memory.join(SWAP_TOO), "-1")?;
        }
        write(self.memory.join("memory.limit_in_bytes"), &limits.memory_bytes.to_string())?;
        if self.accounts.swap {
            let both = limits.memory_bytes + limits.swap_bytes;
            write(self.memory.join(SWAP_TOO), &both.to_string())?;
        }
        if limits.swap_bytes == 0 {
            write(self.memory.join("memory.swappiness"), "0")?;
        }
        if self.accounts.socket_buffers {
            let most = limits.memory_bytes / SOCKET_BUFFERS_PART;
            write(self.memory.join(SOCKET_BUFFERS), &most.to_string())?;
        }
        write(self.pids.join("pids.max"), &limits.n_processes.to_string())?;
        if let Some(cpu) = &self.cpu {
            let quota = u64::from(limits.cpu_percent) * CPU_PERIOD_US / 100;
            write(cpu.join("cpu.cfs_quota_us"), &quota.to_string())?;
        }
        Ok(())
    }

    pub(super) fn memory_bytes(&self) -> Option<u64> {
        read_number(&self.memory.join("memory.usage_in_bytes"))
    }

    pub(super) fn n_oom_kills(&self) -> Option<u64> {
        read_key(&self.memory.join("memory.oom_control"), "oom_kill")
    }
}
