//! The zygotes of packages: which there should be, which there are, and which of them suits a function best.
//!
//! A node stands for a set of packages, its own and those of the nodes above it. Its zygote has them imported, and a
//! function may be forked from it if it requires all that the zygote holds: what was imported cannot be taken back.
//! Nor can what was missed: a package that looks for another one when it is imported, and does without if that is not there,
//! would not find what the function has besides. So a function that has anything which the zygote's packages name is not
//! forked from it. Among those that are left the one is best that saves most of the import time.
//!
//! ```text
//!           next_build            built                 the last one is dead, or fails
//!   planned ──────────▶ building ───────▶ growing ─────────────────────────▶ planned, after a pause
//!      ▲                   │ failed        │  ▲ crowded: one more replica
//!      └── after a pause ──┘               └──┘ quiet: one less
//! ```
//!
//! Which nodes there are says a tree that somebody drew (`import_cache_tree`, `ol zygotes import`), or else
//! [`fit`](crate::fit) of what functions need. A node that is no longer wanted is forgotten, and its zygotes end; what was
//! forked from them goes on.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::costs::Costs;
use crate::demand::Demand;
use crate::fit::{Fitted, NODE_BYTES, Price, Standing};
use crate::gdsf::Uses;
use crate::packages::{Package, PackageSet};
use crate::world::{LaunchError, Planted};

/// A node of a tree that somebody drew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Requirements, beside those of the nodes above.
    pub packages: Vec<String>,
    /// Nodes below.
    pub children: Vec<Plan>,
}

/// The forest of a worker, for those who look for a zygote and for the actor that looks after them. A clone is the same.
#[derive(Debug)]
pub struct SharedForest<Z>(Arc<Mutex<Forest<Z>>>);

impl<Z> Clone for SharedForest<Z> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Z: Clone> SharedForest<Z> {
    pub(crate) fn new(plan: Option<&Plan>, on_host: bool) -> Self {
        Self(Arc::new(Mutex::new(Forest::new(plan, on_host, Instant::now()))))
    }

    /// Held for single calls only: each is a look at some maps.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Forest<Z>> {
        // A panic under the lock is a bug of this file; each call leaves the forest whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which node. Never used again for another one; [`NodeId::ROOT`] has no packages and is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct NodeId(u64);

impl NodeId {
    /// The root zygotes.
    pub const ROOT: Self = Self(0);
}

/// What a person may know of a node.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct NodeView {
    /// Which.
    pub node: NodeId,
    /// 0: the root.
    pub parent: NodeId,
    /// What it adds to the node above.
    pub packages: Vec<String>,
    /// What its zygotes hold, with what they got from above. Empty while there is none.
    pub holds: Vec<String>,
    /// `planned`, `building`, `growing`, or `barren`: nothing could be imported.
    pub state: &'static str,
    /// Whether it is for functions on the machine's own network.
    pub on_host: bool,
    /// Zygotes with the same packages.
    pub replicas: usize,
    /// Memory charged to all of them when they had been made.
    pub bytes: u64,
    /// Sandboxes of functions that began as a fork of it.
    pub hits: u64,
    /// Standbys that were forked from it.
    pub forks: u64,
    /// Import time that these sandboxes did not wait for, in milliseconds.
    pub saved_ms: f64,
    /// What it was expected to save when the tree was fitted, in milliseconds in some ten minutes. 0: somebody drew it.
    pub expected_ms: f64,
    /// How long nobody has used it.
    pub unused_s: u64,
}

/// Nodes of a tree that somebody drew at most: as many zygotes as uids are set aside for (`src/sandbox/uids.rs`).
pub const DRAWN_MAX: usize = 1_000;
/// Zygotes of one node at most. They help as long as there are cores that fork at once.
pub const REPLICAS_MAX: usize = 4;
/// The pause after a zygote could not be made, or has died; doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// See [`RETRY_PAUSE`].
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(300);
/// A fork finds its zygote crowded when so many are under way already. The kernel does one after the other, so that the next
/// waits for all of them.
const CROWDED_AT: usize = 2;
/// Forks in one look from which it counts that they were crowded: fewer are a burst that is over.
const CROWDED_FORKS_MIN: u32 = 20;
/// Looks in a row without a crowd after which one replica goes: with one look in 5 s, a minute.
const QUIET_LOOKS: u32 = 12;

/// See the module's text. `Z` is a zygote; a clone is the same one.
#[derive(Debug)]
pub(crate) struct Forest<Z> {
    nodes: HashMap<NodeId, Node<Z>>,
    /// Which growing nodes hold a package: so that a look-up need not look at all nodes.
    holders: HashMap<Package, Vec<NodeId>>,
    /// What it is fitted to.
    pub(crate) costs: Costs,
    pub(crate) demand: Demand,
    next_id: u64,
    next_zygote: u64,
    is_drawn: bool,
}

#[derive(Debug)]
struct Node<Z> {
    parent: NodeId,
    /// Its own.
    adds: Vec<String>,
    /// Its own and those of the nodes above, as somebody wrote them.
    requirements: Vec<String>,
    /// What these are, of a node that was fitted.
    packages: PackageSet,
    /// For sandboxes on the machine's network, whose zygotes are others.
    on_host: bool,
    stage: Stage<Z>,
    pause: Backoff,
    /// It died, or took too long, while it imported: next time each package is tried in a child first.
    careful: bool,
    last_used: Instant,
    uses: Uses,
    hits: u64,
    forks: u64,
    saved: Duration,
    expected_ms: f64,
    bytes_expected: u64,
}

impl<Z> Node<Z> {
    /// Of its packages; of a node that somebody has drawn, as far as they are pinned or bare names.
    fn names(&self) -> impl Iterator<Item = &str> {
        let of_fitted = self.packages.iter().map(|package| package.name.as_str());
        let drawn = if self.packages.is_empty() { &self.requirements[..] } else { &[] };
        of_fitted.chain(drawn.iter().map(|text| text.split("==").next().unwrap_or(text)))
    }
}

#[derive(Debug)]
enum Stage<Z> {
    Planned,
    Building,
    Growing(Grown<Z>),
    Barren,
}

#[derive(Debug)]
struct Grown<Z> {
    /// At least one.
    replicas: Vec<Replica<Z>>,
    holds: PackageSet,
    /// Names of the packages that these would use, and that were not there when they were imported.
    missed: BTreeSet<String>,
    n_wanted: usize,
    is_building: bool,
    crowd: Crowd,
}

#[derive(Debug)]
struct Replica<Z> {
    zygote: Z,
    number: u64,
    n_forking: usize,
    bytes: u64,
}

/// How often forks had to wait for others.
#[derive(Debug, Default)]
struct Crowd {
    n_forks: u32,
    n_crowded: u32,
    n_quiet_looks: u32,
}

impl<Z> Grown<Z> {
    /// Whether nothing that is wanted was looked for in vain.
    fn has_missed_none_of<'a>(&self, mut wanted: impl Iterator<Item = &'a str>) -> bool {
        self.missed.is_empty() || !wanted.any(|name| self.missed.contains(name))
    }
}

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

/// The zygote that suits a function best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Best<Z> {
    pub(crate) node: NodeId,
    pub(crate) zygote: Z,
    /// Which of the node's.
    pub(crate) number: u64,
}

/// A node that there should be, whoever says so.
struct Wish {
    parent: Option<usize>,
    adds: Vec<String>,
    requirements: Vec<String>,
    packages: PackageSet,
    expected_ms: f64,
    bytes: u64,
}

impl<Z: Clone> Forest<Z> {
    /// With a plan: its nodes, and no others. Without: none yet.
    pub(crate) fn new(plan: Option<&Plan>, on_host: bool, now: Instant) -> Self {
        let mut forest = Self {
            nodes: HashMap::new(),
            holders: HashMap::new(),
            costs: Costs::default(),
            demand: Demand::default(),
            next_id: 1,
            next_zygote: 1,
            is_drawn: false,
        };
        forest.draw(plan, on_host, now);
        forest
    }

    /// Somebody has drawn the tree, which is it from now on; or (`None`) leaves it to fitting again. Says which nodes are gone.
    pub(crate) fn draw(&mut self, plan: Option<&Plan>, on_host: bool, now: Instant) -> Vec<NodeId> {
        fn wishes(plan: &Plan, parent: Option<usize>, above: &[String], out: &mut Vec<Wish>) {
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
        let text = |package: &Package| package.to_string();
        let wanted = fitted.nodes.iter().map(|node| Wish {
            parent: node.parent,
            adds: node.adds.iter().map(text).collect(),
            requirements: node.packages.iter().map(text).collect(),
            packages: node.packages.clone(),
            expected_ms: node.ms_saved,
            bytes: node.bytes,
        });
        self.reconcile(on_host, wanted.collect(), now)
    }

    /// Nodes with the same packages stay, wherever they are now.
    fn reconcile(&mut self, on_host: bool, wanted: Vec<Wish>, now: Instant) -> Vec<NodeId> {
        let key = |requirements: &[String]| requirements.iter().cloned().collect::<BTreeSet<String>>();
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
            careful: false,
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

    /// Whether somebody drew it.
    pub(crate) fn is_drawn(&self) -> bool {
        self.is_drawn
    }

    /// The nodes that were fitted, parents first.
    pub(crate) fn standing(&self, on_host: bool) -> Vec<Standing> {
        let mut ids: Vec<NodeId> = self.nodes_of(on_host).collect();
        // Those above come first; whose parent is gone is below the root.
        ids.sort_by_key(|id| (self.level(*id), *id));
        let place: HashMap<NodeId, usize> = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        ids.iter()
            .map(|id| {
                let node = &self.nodes[id];
                Standing { parent: place.get(&node.parent).copied(), packages: node.packages.clone() }
            })
            .collect()
    }

    fn nodes_of(&self, on_host: bool) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().filter(move |(_, node)| node.on_host == on_host).map(|(id, _)| *id)
    }

    fn level(&self, id: NodeId) -> usize {
        std::iter::successors(self.nodes.get(&id), |node| self.nodes.get(&node.parent)).count()
    }

    /// The zygote that holds most of what is required, by import time, and nothing that is not. `None`: the root's.
    pub(crate) fn best(&self, required: &PackageSet, on_host: bool) -> Option<Best<Z>> {
        let (node, grown) = self.best_node(required, on_host)?;
        let replica = grown.replicas.iter().min_by_key(|replica| replica.n_forking)?;
        Some(Best { node, zygote: replica.zygote.clone(), number: replica.number })
    }

    fn best_node(&self, required: &PackageSet, on_host: bool) -> Option<(NodeId, &Grown<Z>)> {
        if self.holders.is_empty() {
            return None;
        }
        let mut n_shared = HashMap::<NodeId, usize>::new();
        for id in required.iter().filter_map(|package| self.holders.get(package)).flatten() {
            *n_shared.entry(*id).or_default() += 1;
        }
        let suiting = n_shared.into_iter().filter_map(|(id, n)| {
            let node = self.nodes.get(&id).filter(|node| node.on_host == on_host)?;
            match &node.stage {
                Stage::Growing(grown)
                    if grown.holds.len() == n
                        && grown.has_missed_none_of(required.iter().map(|package| package.name.as_str())) =>
                {
                    Some((id, grown))
                }
                _ => None,
            }
        });
        // Of those that save the same, the one that holds most, and then the oldest.
        let rank = |(id, grown): &(NodeId, &Grown<Z>)| {
            (self.costs.import_time(&grown.holds), grown.holds.len(), std::cmp::Reverse(*id))
        };
        suiting.max_by_key(rank)
    }

    /// A sandbox with these packages was begun as a fork of this node, or of the root.
    pub(crate) fn used(&mut self, id: NodeId, required: &PackageSet, on_host: bool, now: Instant) {
        self.demand.started(required, on_host, now);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.last_used = now;
        node.uses.bump(now);
        node.hits += 1;
        if let Stage::Growing(grown) = &node.stage {
            node.saved += self.costs.import_time(&grown.holds);
        }
    }

    /// A zygote of this node to be forked: the one that has least to do. Say with [`forked`](Self::forked) that it is over.
    pub(crate) fn fork(&mut self, id: NodeId) -> Option<Best<Z>> {
        let Stage::Growing(grown) = &mut self.nodes.get_mut(&id)?.stage else { return None };
        let replica = grown.replicas.iter_mut().min_by_key(|replica| replica.n_forking)?;
        grown.crowd.n_forks += 1;
        grown.crowd.n_crowded += u32::from(replica.n_forking >= CROWDED_AT);
        replica.n_forking += 1;
        Some(Best { node: id, zygote: replica.zygote.clone(), number: replica.number })
    }

    /// See [`fork`](Self::fork).
    pub(crate) fn forked(&mut self, id: NodeId, number: u64, well: bool) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.forks += u64::from(well);
        if let Stage::Growing(grown) = &mut node.stage
            && let Some(replica) = grown.replicas.iter_mut().find(|replica| replica.number == number)
        {
            replica.n_forking = replica.n_forking.saturating_sub(1);
        }
    }

    /// A function that requires these was loaded in a sandbox, which took so long. Says whether that was news.
    pub(crate) fn loaded(&mut self, required: &PackageSet, on_host: bool, took: Duration) -> bool {
        let held = self.best_node(required, on_host).map(|(_, grown)| grown.holds.clone());
        self.costs.loaded(required, took, held.unwrap_or_default())
    }

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
            requirements: node.requirements.clone(),
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
        let wanted: Vec<&str> = at.map_or_else(Vec::new, |node| node.names().collect());
        while let Some(node) = at {
            at = self.nodes.get(&node.parent);
            if let Some(Stage::Growing(grown)) = at.map(|parent| &parent.stage)
                && grown.has_missed_none_of(wanted.iter().copied())
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

    /// A fork of this zygote has failed, or it is dead. Says whether it was the last one of the node; then another one takes its
    /// place, after a pause.
    pub(crate) fn failed(&mut self, id: NodeId, number: u64, now: Instant) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let Stage::Growing(grown) = &mut node.stage else { return false };
        let n_before = grown.replicas.len();
        grown.replicas.retain(|replica| replica.number != number);
        if n_before == grown.replicas.len() || !grown.replicas.is_empty() {
            return false;
        }
        node.pause.failed(now);
        node.stage = Stage::Planned;
        self.forget_holder(id);
        true
    }

    /// Gives up the dead, and replicas where there is no crowd any more; wants more where there is one. Says which nodes
    /// have no zygote any more.
    pub(crate) fn tidy(&mut self, is_alive: impl Fn(&Z) -> bool, now: Instant) -> Vec<NodeId> {
        let growing = self.nodes.iter().filter_map(|(id, node)| match &node.stage {
            Stage::Growing(grown) => Some((id, grown)),
            _ => None,
        });
        let dead: Vec<(NodeId, u64)> = growing
            .flat_map(|(id, grown)| grown.replicas.iter().map(|replica| (*id, replica)))
            .filter(|(_, replica)| !is_alive(&replica.zygote))
            .map(|(id, replica)| (id, replica.number))
            .collect();
        let gone = dead.into_iter().filter(|(id, number)| self.failed(*id, *number, now)).map(|(id, _)| id);
        let gone = gone.collect();
        self.costs.tidy(now);
        for node in self.nodes.values_mut() {
            if let Stage::Growing(grown) = &mut node.stage {
                grown.look_at_crowd();
            }
        }
        gone
    }

    /// The node that pays least, and how much: import time that was not waited for lately, in nanoseconds, for each byte that it
    /// takes. Replicas come before all others: they save no import.
    pub(crate) fn least_paying(&self, bytes: impl Fn(&Z) -> u64, now: Instant) -> Option<(NodeId, f64)> {
        let growing = self.nodes.iter().filter_map(|(id, node)| match &node.stage {
            Stage::Growing(grown) => {
                let taken: u64 = grown.replicas.iter().map(|replica| bytes(&replica.zygote)).sum();
                let saved = node.uses.at(now) * self.costs.import_time(&grown.holds).as_nanos() as f64;
                let is_last = grown.replicas.len() == 1;
                Some((*id, node, is_last, if is_last { saved / taken.max(1) as f64 } else { 0.0 }))
            }
            _ => None,
        });
        // Of those that pay the same the one that was unused for longest, and of these the one furthest from the root.
        let least = growing.min_by(|(id, node, is_last, pays), (other_id, other, other_is_last, others)| {
            is_last
                .cmp(other_is_last)
                .then_with(|| pays.total_cmp(others))
                .then_with(|| node.last_used.cmp(&other.last_used))
                .then_with(|| other_id.cmp(id))
        });
        least.map(|(id, _, _, pays)| (id, pays))
    }

    /// Gives up one, that which pays least: memory is tight. One that somebody drew comes back later. Says which, and whether
    /// that was the node's last.
    pub(crate) fn release_one(&mut self, bytes: impl Fn(&Z) -> u64, now: Instant) -> Option<(NodeId, bool)> {
        let (id, _) = self.least_paying(bytes, now)?;
        let Stage::Growing(grown) = &self.nodes.get(&id)?.stage else { return None };
        let (number, is_last) = (grown.replicas.last()?.number, grown.replicas.len() == 1);
        if is_last && !self.is_drawn {
            self.remove(id);
        } else {
            if let Some(Stage::Growing(grown)) = self.nodes.get_mut(&id).map(|node| &mut node.stage) {
                grown.n_wanted = 1;
            }
            self.failed(id, number, now);
        }
        Some((id, is_last))
    }

    fn remove(&mut self, id: NodeId) {
        self.forget_holder(id);
        self.nodes.remove(&id);
    }

    fn forget_holder(&mut self, id: NodeId) {
        self.holders.retain(|_, holders| {
            holders.retain(|holder| *holder != id);
            !holders.is_empty()
        });
    }

    /// Gives up all.
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.holders.clear();
    }

    /// What all zygotes took when they had been made.
    pub(crate) fn bytes(&self) -> u64 {
        self.nodes.values().map(Node::bytes).sum()
    }

    /// Of each node what a person may know, parents first.
    pub(crate) fn views(&self, now: Instant) -> Vec<NodeView> {
        let mut ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        ids.sort_by_key(|id| (self.level(*id), *id));
        ids.into_iter().map(|id| self.nodes[&id].view(id, &self.nodes, now)).collect()
    }

    /// Zygotes that there are.
    #[cfg(test)]
    pub(crate) fn n_growing(&self) -> usize {
        self.nodes.values().map(|node| node.replicas().len()).sum()
    }
}

impl<Z> Node<Z> {
    fn replicas(&self) -> &[Replica<Z>] {
        match &self.stage {
            Stage::Growing(grown) => &grown.replicas,
            _ => &[],
        }
    }

    fn bytes(&self) -> u64 {
        self.replicas().iter().map(|replica| replica.bytes).sum()
    }

    fn view(&self, id: NodeId, others: &HashMap<NodeId, Self>, now: Instant) -> NodeView {
        let (state, holds) = match &self.stage {
            Stage::Planned => ("planned", None),
            Stage::Building => ("building", None),
            Stage::Growing(grown) => ("growing", Some(&grown.holds)),
            Stage::Barren => ("barren", None),
        };
        NodeView {
            node: id,
            parent: if others.contains_key(&self.parent) { self.parent } else { NodeId::ROOT },
            packages: self.adds.clone(),
            holds: holds.into_iter().flatten().map(ToString::to_string).collect(),
            state,
            on_host: self.on_host,
            replicas: self.replicas().len(),
            bytes: self.bytes(),
            hits: self.hits,
            forks: self.forks,
            saved_ms: self.saved.as_secs_f64() * 1e3,
            expected_ms: self.expected_ms,
            unused_s: now.saturating_duration_since(self.last_used).as_secs(),
        }
    }
}

impl<Z> Grown<Z> {
    /// More replicas while forks wait for each other, fewer when none has for a while.
    fn look_at_crowd(&mut self) {
        let Crowd { n_forks, n_crowded, n_quiet_looks } = std::mem::take(&mut self.crowd);
        if n_forks >= CROWDED_FORKS_MIN && 2 * n_crowded > n_forks {
            self.n_wanted = (self.replicas.len() + 1).min(REPLICAS_MAX);
        } else if n_crowded == 0 && self.replicas.len() > 1 {
            self.crowd.n_quiet_looks = n_quiet_looks + 1;
            if self.crowd.n_quiet_looks >= QUIET_LOOKS {
                self.crowd.n_quiet_looks = 0;
                self.replicas.pop();
                self.n_wanted = self.replicas.len();
            }
        }
    }
}

#[cfg(test)]
mod tests;
