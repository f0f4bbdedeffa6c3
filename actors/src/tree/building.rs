//! Which zygote is made next, of what, and what came of it.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::node::{Crowd, Grown, Replica, Stage};
use super::{Forest, NodeId};
use crate::fit::Price;
use crate::packages::{Package, PackageSet};
use crate::world::{Import, LaunchError};

/// A zygote that is to be made.
pub(crate) struct Build<Z> {
    pub(crate) node: NodeId,
    pub(crate) requirements: Vec<String>,
    pub(crate) on_host: bool,
    /// Whose forks it may be, and what these hold, the nearest first; after them the root.
    pub(crate) parents: Vec<(Z, PackageSet)>,
    /// What it will take, by estimate.
    pub(crate) bytes: u64,
}

impl<Z: Clone> Build<Z> {
    /// Those of the parents that hold nothing but some of these. A node above may hold more: a package that cannot be
    /// imported below, or another version of one that somebody has named without.
    pub(crate) fn parents_within(&self, packages: &[Package]) -> Vec<(Z, PackageSet)> {
        let within = |holds: &PackageSet| holds.iter().all(|package| packages.contains(package));
        self.parents.iter().filter(|(_, holds)| within(holds)).cloned().collect()
    }
}

/// A zygote that was made.
#[derive(Debug)]
pub(crate) struct Built<Z> {
    pub(crate) zygote: Z,
    /// All that it was told to import. Not what it says: whoever is forked from it lives with all that ever ran in it.
    pub(crate) holds: PackageSet,
    /// Names of the packages that these would use, and that were not there.
    pub(crate) missed: BTreeSet<String>,
    pub(crate) imports: Vec<Import>,
    pub(crate) bytes: u64,
}

impl<Z: Clone> Forest<Z> {
    /// A zygote that should be made now: say what came of it with [`built`](Self::built). Those above come first, as
    /// long as they can be had, and replicas last, as long as all take no more than `bytes_max`.
    pub(crate) fn next_build(&mut self, bytes_max: u64, now: Instant) -> Option<Build<Z>> {
        let due = self.nodes.iter().filter(|(_, node)| {
            matches!(node.stage, Stage::Planned) && node.pause.waits_until(now).is_none()
        });
        let planned = due.map(|(id, _)| *id).min_by_key(|id| (self.level(*id), *id));
        let id = planned.or_else(|| self.next_replica(bytes_max))?;
        let parents = self.ancestors(id);
        let node = self.nodes.get_mut(&id)?;
        match &mut node.stage {
            Stage::Growing(grown) => grown.is_building = true,
            stage => *stage = Stage::Building,
        }
        Some(Build {
            node: id,
            requirements: node.requirements.iter().map(|one| one.text.clone()).collect(),
            on_host: node.on_host,
            parents,
            bytes: node.bytes_expected,
        })
    }

    fn next_replica(&self, bytes_max: u64) -> Option<NodeId> {
        let used = self.bytes();
        let wants = self.nodes.iter().filter(|(_, node)| match &node.stage {
            Stage::Growing(grown) => {
                let one = grown.replicas.iter().map(|replica| replica.bytes).max().unwrap_or(0);
                !grown.is_building && grown.replicas.len() < grown.n_wanted && used + one <= bytes_max
            }
            _ => false,
        });
        wants.map(|(id, _)| *id).min()
    }

    /// Nobody makes any: whoever did has ended.
    pub(crate) fn forget_builds(&mut self) {
        for node in self.nodes.values_mut() {
            match &mut node.stage {
                Stage::Building => node.stage = Stage::Planned,
                Stage::Growing(grown) => {
                    grown.is_building = false;
                    grown.replicas.iter_mut().for_each(|replica| replica.n_forking = 0);
                }
                Stage::Planned => {}
            }
        }
    }

    /// When one should be made that waits now.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let planned = self.nodes.values().filter(|node| matches!(node.stage, Stage::Planned));
        planned.map(|node| node.pause.waits_until(now).unwrap_or(now)).min()
    }

    /// Zygotes that those of this node may be forks of.
    fn ancestors(&self, id: NodeId) -> Vec<(Z, PackageSet)> {
        let mut zygotes = Vec::new();
        let mut at = self.nodes.get(&id);
        let wanted = at.map_or(&[][..], |node| &node.requirements[..]);
        while let Some(node) = at {
            at = self.nodes.get(&node.parent);
            if let Some(Stage::Growing(grown)) = at.map(|parent| &parent.stage)
                && grown.has_missed_none_of(wanted.iter().map(|one| one.name.as_str()))
            {
                let replicas = grown.replicas.iter();
                zygotes.extend(replicas.map(|replica| (replica.zygote.clone(), grown.holds.clone())));
            }
        }
        zygotes
    }

    /// No zygote could import it: it costs nothing there, and saves nothing, for a while.
    pub(crate) fn cannot_import(&mut self, package: &Package, now: Instant) {
        self.costs.failed(package, now);
        self.has_news = true;
    }

    /// What came of it. A zygote that is not wanted is given back.
    pub(crate) fn built(
        &mut self,
        id: NodeId,
        outcome: Result<Built<Z>, LaunchError>,
        now: Instant,
    ) -> Option<Z> {
        // What was measured is true whether it is wanted or not.
        if let Ok(built) = &outcome {
            for import in &built.imports {
                self.costs.imported(&import.package, Price { import: import.took, bytes: import.bytes });
            }
            self.has_news = true;
        }
        let number = self.next_zygote;
        self.next_zygote += 1;
        let Some(node) = self.nodes.get_mut(&id) else { return outcome.ok().map(|built| built.zygote) };
        match (&mut node.stage, outcome) {
            (Stage::Building, Ok(Built { zygote, holds, missed, bytes, imports: _ })) => {
                node.pause.succeeded();
                node.last_used = now;
                for package in &holds {
                    self.holders.entry(package.clone()).or_default().push(id);
                }
                node.stage = Stage::Growing(Grown {
                    replicas: vec![Replica { zygote, number, n_forking: 0, bytes }],
                    holds,
                    missed,
                    n_wanted: 1,
                    is_building: false,
                    crowd: Crowd::default(),
                });
                None
            }
            (Stage::Growing(grown), Ok(Built { zygote, holds, missed, bytes, imports: _ }))
                if grown.is_building =>
            {
                grown.is_building = false;
                // One that holds something else is none of the same.
                let same = holds.len() == grown.holds.len()
                    && holds.iter().all(|held| grown.holds.iter().any(|package| package == held));
                if !same || grown.replicas.len() >= grown.n_wanted {
                    grown.n_wanted = grown.replicas.len();
                    return Some(zygote);
                }
                grown.missed.extend(missed);
                grown.replicas.push(Replica { zygote, number, n_forking: 0, bytes });
                None
            }
            (Stage::Building, Err(_)) => {
                node.pause.failed(now);
                node.stage = Stage::Planned;
                None
            }
            (Stage::Growing(grown), Err(_)) if grown.is_building => {
                grown.is_building = false;
                grown.n_wanted = grown.replicas.len();
                None
            }
            (_, outcome) => outcome.ok().map(|built| built.zygote),
        }
    }
}
