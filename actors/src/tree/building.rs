//! Which zygote is made next, of what, and what came of it.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::node::{Crowd, Grown, Replica, Stage};
use super::{Forest, NodeId};
use crate::fit::Price;
use crate::packages::PackageSet;
use crate::world::{LaunchError, Planted};

/// A zygote that is to be made.
pub(crate) struct Build<Z> {
    pub(crate) node: NodeId,
    pub(crate) requirements: Vec<String>,
    pub(crate) on_host: bool,
    /// Whose forks it may be, the nearest first; after them the root.
    pub(crate) parents: Vec<Z>,
    pub(crate) careful: bool,
    /// What it will take, by estimate.
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
            careful: node.careful,
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
                Stage::Planned | Stage::Barren => {}
            }
        }
    }

    /// When one should be made that waits now.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let planned = self.nodes.values().filter(|node| matches!(node.stage, Stage::Planned));
        planned.map(|node| node.pause.waits_until(now).unwrap_or(now)).min()
    }

    /// Zygotes that those of this node may be forks of.
    fn ancestors(&self, id: NodeId) -> Vec<Z> {
        let mut zygotes = Vec::new();
        let mut at = self.nodes.get(&id);
        let wanted = at.map_or(&[][..], |node| &node.requirements[..]);
        while let Some(node) = at {
            at = self.nodes.get(&node.parent);
            if let Some(Stage::Growing(grown)) = at.map(|parent| &parent.stage)
                && grown.has_missed_none_of(wanted.iter().map(|one| one.name.as_str()))
            {
                zygotes.extend(grown.replicas.iter().map(|replica| replica.zygote.clone()));
            }
        }
        zygotes
    }

    /// What the packages of this node would use, and have not found.
    pub(crate) fn missed(&mut self, id: NodeId, names: BTreeSet<String>) {
        if let Some(Stage::Growing(grown)) = self.nodes.get_mut(&id).map(|node| &mut node.stage) {
            grown.missed = names;
        }
    }

    /// What came of it. A zygote that is not wanted is given back.
    pub(crate) fn built(
        &mut self,
        id: NodeId,
        outcome: Result<Planted<Z>, LaunchError>,
        now: Instant,
    ) -> Option<Z> {
        // What was measured is true whether it is wanted or not.
        if let Ok(planted) = &outcome {
            for held in &planted.holds {
                self.costs.imported(&held.package, Price { import: held.took, bytes: held.bytes });
            }
            self.has_news = true;
            planted.failed.iter().for_each(|(package, _)| self.costs.failed(package, now));
        }
        let number = self.next_zygote;
        self.next_zygote += 1;
        let Some(node) = self.nodes.get_mut(&id) else { return outcome.ok().map(|planted| planted.zygote) };
        match (&mut node.stage, outcome) {
            (Stage::Building, Ok(Planted { zygote, holds, bytes, failed: _ })) => {
                node.pause.succeeded();
                node.last_used = now;
                if holds.is_empty() {
                    node.stage = Stage::Barren;
                    return Some(zygote);
                }
                let holds = PackageSet::new(holds.into_iter().map(|held| held.package));
                for package in &holds {
                    self.holders.entry(package.clone()).or_default().push(id);
                }
                node.stage = Stage::Growing(Grown {
                    replicas: vec![Replica { zygote, number, n_forking: 0, bytes }],
                    holds,
                    missed: BTreeSet::new(),
                    n_wanted: 1,
                    is_building: false,
                    crowd: Crowd::default(),
                });
                None
            }
            (Stage::Growing(grown), Ok(Planted { zygote, holds, bytes, failed: _ })) if grown.is_building => {
                grown.is_building = false;
                // One that holds something else is none of the same.
                let same = holds.len() == grown.holds.len()
                    && holds.iter().all(|held| grown.holds.iter().any(|package| *package == held.package));
                if !same || grown.replicas.len() >= grown.n_wanted {
                    grown.n_wanted = grown.replicas.len();
                    return Some(zygote);
                }
                grown.replicas.push(Replica { zygote, number, n_forking: 0, bytes });
                None
            }
            (Stage::Building, Err(error)) => {
                // One that says what is wrong need not be led by the hand.
                node.careful |= !matches!(error, LaunchError::Resources(_));
                node.pause.failed(now);
                node.stage = Stage::Planned;
                None
            }
            (Stage::Growing(grown), Err(_)) if grown.is_building => {
                grown.is_building = false;
                grown.n_wanted = grown.replicas.len();
                None
            }
            (_, outcome) => outcome.ok().map(|planted| planted.zygote),
        }
    }
}
