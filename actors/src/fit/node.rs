//! Nodes of a tree while it is fitted, and the processes that they become.

use super::bits::Bits;
use super::problem::Problem;
use super::{MS_PER_MB, NODE_BYTES, PROCESSES_DEEP};
use crate::lambda_zygotes::LOAD_TIME_WORTH;

/// A zygote that there would be, or the root.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) parent: Option<usize>,
    pub(super) adds: Bits,
    /// With those above.
    pub(super) holds: Bits,
    pub(super) calls: Bits,
    pub(super) level: usize,
    pub(super) process: Place,
    pub(super) bytes: u64,
    pub(super) n_children: usize,
}

/// Where a node's process is among the others.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) depth: usize,
    /// What the process that it is forked from holds.
    pub(super) origin: Bits,
}

impl Problem<'_> {
    /// The root, which all functions are forked from as long as there is nothing better.
    pub(super) fn root(&self) -> Node {
        let nothing = Bits::none(self.packages.len());
        let mut calls = Bits::none(self.rows.len());
        (0..self.rows.len()).for_each(|at| calls.insert(at));
        Node {
            parent: None,
            adds: nothing.clone(),
            holds: nothing.clone(),
            calls,
            level: 0,
            process: Place { depth: 0, origin: nothing },
            bytes: 0,
            n_children: 0,
        }
    }

    /// The process of a child of this node that holds all these, and what it takes.
    pub(super) fn process(&self, parent: &Node, holds: &Bits) -> (Place, u64) {
        let place = if parent.process.depth < PROCESSES_DEEP {
            Place { depth: parent.process.depth + 1, origin: parent.holds.clone() }
        } else {
            parent.process.clone()
        };
        let imports = holds.without(&place.origin);
        let bytes = NODE_BYTES + imports.iter().map(|at| self.bytes[at]).sum::<u64>();
        (place, bytes)
    }

    /// What a node must save to be worth making.
    pub(super) fn price(bytes: u64) -> f64 {
        let worth = LOAD_TIME_WORTH.as_secs_f64() * 1e3;
        worth.max(MS_PER_MB * bytes as f64 / (1 << 20) as f64)
    }
}
