//! Which nodes there should be: those that somebody drew, or those that were fitted.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::node::{Node, Stage};
use super::{Forest, NodeId, Plan, RETRY_PAUSE, RETRY_PAUSE_MAX, Requirement};
use crate::backoff::Backoff;
use crate::fit::{Fitted, NODE_BYTES};
use crate::gdsf::Uses;
use crate::packages::PackageSet;

/// A node that there should be, whoever says so.
struct Wish {
    parent: Option<usize>,
    adds: Vec<Requirement>,
    requirements: Vec<Requirement>,
    packages: PackageSet,
    expected_ms: f64,
    bytes: u64,
}

impl<Z: Clone> Forest<Z> {
    /// Somebody has drawn the tree, which is it from now on; or (`None`) leaves it to fitting again. Says which nodes are gone.
    pub(crate) fn draw(&mut self, plan: Option<&Plan>, on_host: bool, now: Instant) -> Vec<NodeId> {
        fn wishes(plan: &Plan, parent: Option<usize>, above: &[Requirement], out: &mut Vec<Wish>) {
            for child in &plan.children {
                let requirements = [above, &child.packages].concat();
                out.push(Wish {
                    parent,
                    adds: child.packages.clone(),
                    requirements: requirements.clone(),
                    packages: PackageSet::default(),
                    expected_ms: 0.0,
                    bytes: NODE_BYTES,
                });
                wishes(child, Some(out.len() - 1), &requirements, out);
            }
        }
        self.is_drawn = plan.is_some();
        let mut wanted = Vec::new();
        if let Some(plan) = plan {
            wishes(plan, None, &[], &mut wanted);
        }
        let gone = self.reconcile(!on_host, Vec::new(), now);
        [gone, self.reconcile(on_host, wanted, now)].concat()
    }

    /// This tree is to be from now on, unless somebody drew one. Says which nodes are gone.
    pub(crate) fn adopt(&mut self, fitted: &Fitted, on_host: bool, now: Instant) -> Vec<NodeId> {
        if self.is_drawn {
            return Vec::new();
        }
        let wanted = fitted.nodes.iter().map(|node| Wish {
            parent: node.parent,
            adds: node.adds.iter().map(Requirement::from).collect(),
            requirements: node.packages.iter().map(Requirement::from).collect(),
            packages: node.packages.clone(),
            expected_ms: node.ms_saved,
            bytes: node.bytes,
        });
        self.reconcile(on_host, wanted.collect(), now)
    }

    /// Nodes with the same packages stay, wherever they are now.
    fn reconcile(&mut self, on_host: bool, wanted: Vec<Wish>, now: Instant) -> Vec<NodeId> {
        let key = |requirements: &[Requirement]| -> BTreeSet<String> {
            requirements.iter().map(|one| one.text.clone()).collect()
        };
        let mut there: HashMap<BTreeSet<String>, NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.on_host == on_host)
            .map(|(id, node)| (key(&node.requirements), *id))
            .collect();
        let mut ids: Vec<NodeId> = Vec::with_capacity(wanted.len());
        for wish in wanted {
            let parent = wish.parent.map_or(NodeId::ROOT, |at| ids[at]);
            let id = match there.remove(&key(&wish.requirements)) {
                Some(id) => id,
                None => self.add(on_host, now),
            };
            ids.push(id);
            let node = self.nodes.get_mut(&id).expect("it is there, or was added just now");
            let Wish { parent: _, adds, requirements, packages, expected_ms, bytes } = wish;
            node.parent = parent;
            node.adds = adds;
            node.requirements = requirements;
            node.packages = packages;
            node.expected_ms = expected_ms;
            node.bytes_expected = bytes;
        }
        let gone: Vec<NodeId> = there.into_values().collect();
        for &id in &gone {
            self.remove(id);
        }
        gone
    }

    fn add(&mut self, on_host: bool, now: Instant) -> NodeId {
        let id = NodeId(self.next_id);
        self.next_id += 1;
        let node = Node {
            parent: NodeId::ROOT,
            adds: Vec::new(),
            requirements: Vec::new(),
            packages: PackageSet::default(),
            on_host,
            stage: Stage::Planned,
            pause: Backoff::new(RETRY_PAUSE, RETRY_PAUSE_MAX),
            last_used: now,
            uses: Uses::default(),
            hits: 0,
            forks: 0,
            saved: Duration::ZERO,
            expected_ms: 0.0,
            bytes_expected: NODE_BYTES,
        };
        self.nodes.insert(id, node);
        id
    }
}
