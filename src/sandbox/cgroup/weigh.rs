//! All sandboxes of a worker, found by their groups: for emergencies, in which nobody should have to ask an actor.

use std::fs;
use std::path::{Path, PathBuf};

use actors::world::Weight;

use super::{CgroupRoot, Layout, kill_all, read_number};

/// As the launcher calls them; standbys too, which are small.
const PREFIX: &str = "sandbox-";
/// As it calls what zygotes of lambdas and their forks lie in.
const NEST_PREFIX: &str = "lambda-";

/// A sandbox's group in the hierarchy of the memory controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) struct Found {
    id: u64,
    directory: PathBuf,
}

impl Found {
    /// `None`: it is gone.
    pub(in crate::sandbox) fn weight(&self) -> Option<Weight> {
        let number = |names: [&str; 2]| names.iter().find_map(|name| read_number(&self.directory.join(name)));
        Some(Weight {
            id: self.id,
            used_bytes: number(["memory.current", "memory.usage_in_bytes"])?,
            limit_bytes: number(["memory.max", "memory.limit_in_bytes"])?,
        })
    }
}

impl CgroupRoot {
    /// Those that there are now.
    pub(in crate::sandbox) fn sandboxes(&self) -> Vec<Found> {
        let root = match &self.layout {
            Layout::V2(root) => root.inside(""),
            Layout::V1(root) => root.inside(""),
        };
        sandboxes_in(&root)
    }

    /// Kills all processes of this sandbox.
    pub(in crate::sandbox) fn kill_sandbox(&self, id: u64) {
        let name = format!("{PREFIX}{id}");
        match &self.layout {
            // In one go, whatever forks meanwhile. Nests are of the memory controller alone.
            Layout::V1(root)
                if let Some(group) = root.inside_unified(&name).filter(|group| group.is_dir()) =>
            {
                kill_all(&group);
            }
            _ => self
                .sandboxes()
                .iter()
                .filter(|found| found.id == id)
                .for_each(|found| kill_all(&found.directory)),
        }
    }
}

fn sandboxes_in(directory: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some(id) = name.strip_prefix(PREFIX).and_then(|id| id.parse().ok()) {
            found.push(Found { id, directory: entry.path() });
        } else if name.starts_with(NEST_PREFIX) {
            found.extend(sandboxes_in(&entry.path()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_are_found_in_nests_as_well_and_zygotes_are_none() {
        let root = tempfile::tempdir().unwrap();
        for group in ["sandbox-3", "lambda-4/sandbox-7", "lambda-4/zygote-5", "family-1", "sandbox-x"] {
            fs::create_dir_all(root.path().join(group)).unwrap();
        }
        for (group, used, limit) in [("sandbox-3", "10\n", "20\n"), ("lambda-4/sandbox-7", "30\n", "max\n")] {
            fs::write(root.path().join(group).join("memory.current"), used).unwrap();
            fs::write(root.path().join(group).join("memory.max"), limit).unwrap();
        }
        let mut found = sandboxes_in(root.path());
        found.sort_by_key(|found| found.id);
        assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [3, 7]);
        assert_eq!(found[0].weight(), Some(Weight { id: 3, used_bytes: 10, limit_bytes: 20 }));
        assert_eq!(found[1].weight(), None, "without a limit it has no share");
    }
}
