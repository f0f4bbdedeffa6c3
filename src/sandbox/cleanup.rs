//! What a killed worker leaves outside of its directory, and its removal.
//!
//! Processes die with the worker, mounts and namespaces with the processes. What stays are empty
//! cgroups, all below one group that is named after the worker's directory.

use super::cgroup::{CgroupError, CgroupRoot};

/// Ends what still runs in the worker's cgroups and removes them; gives how many there were. Only for who holds the
/// worker's lock. `cgroup_root` is the configuration's.
///
/// # Errors
/// When a group cannot be read or removed.
pub fn sweep(cgroup_root: &str) -> Result<usize, CgroupError> {
    CgroupRoot::sweep(cgroup_root)
}
