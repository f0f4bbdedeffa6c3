//! The zygotes of packages: which there should be, which there are, and which of them suits a function best.
//!
//! A node stands for a set of packages, its own and those of the nodes above it. Its zygote has them imported, and a
//! function may be forked from it if it requires all that the zygote holds: what was imported cannot be taken back.
//! Among those the one is best that saves most of the import time.
//!
//! ```text
//!           next_build            built                dead, fork failed
//!   planned ──────────▶ building ───────▶ growing ───────────────────────▶ planned, after a pause
//!      ▲                   │ failed          │ unused, memory is tight (nodes that were not drawn by a person)
//!      └── after a pause ──┘                 ▼
//!                                         (nothing)          nothing worth it was imported: barren
//! ```
//!
//! Nodes come from a tree that somebody drew (`import_cache_tree`), or else from what functions have loaded: one
//! for each set of packages that took long to import, directly below the root.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::lambda_zygotes::LOAD_TIME_WORTH;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u64);

impl NodeId {
    /// The root zygotes.
    pub const ROOT: Self = Self(0);
}

/// Zygotes of packages that nobody drew at most: some hundred MB each, if the packages are large.
pub const LEARNT_MAX: usize = 16;
/// One that nobody drew and nobody was forked from for this long is given up.
pub const UNUSED_MAX: Duration = Duration::from_secs(600);
/// Nodes of a tree that somebody drew at most: as many zygotes as uids are set aside for (`src/sandbox/uids.rs`).
pub const DRAWN_MAX: usize = 1_000;
/// The pause after a zygote could not be made, or has died; doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// See [`RETRY_PAUSE`].
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(300);

/// See the module's text. `Z` is a zygote; a clone is the same one.
#[derive(Debug)]
pub(crate) struct Forest<Z> {
    nodes: HashMap<NodeId, Node<Z>>,
    /// Which growing nodes hold a package: so that a look-up need not look at all nodes.
    holders: HashMap<Package, Vec<NodeId>>,
    /// How long a package takes to import: the longest that was measured, since it takes no time where another one has
    /// brought what it needs.
    costs: HashMap<Package, Duration>,
    next_id: u64,
    drawn: bool,
}

#[derive(Debug)]
struct Node<Z> {
    parent: NodeId,
    /// Its own and those of the nodes above, as somebody wrote them.
    requirements: Vec<String>,
    /// For sandboxes on the machine's network, whose zygotes are others.
    on_host: bool,
    drawn: bool,
    stage: Stage<Z>,
    pause: Backoff,
    /// It died, or took too long, while it imported: next time each package is tried in a child first.
    careful: bool,
    last_used: Instant,
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
    zygote: Z,
    holds: PackageSet,
}

/// A zygote that is to be made.
pub(crate) struct Build<Z> {
    pub(crate) node: NodeId,
    pub(crate) requirements: Vec<String>,
    pub(crate) on_host: bool,
    /// Whose forks it may be, the nearest first; after them the root.
    pub(crate) parents: Vec<Z>,
    pub(crate) careful: bool,
}

/// The zygote that suits a function best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Best<Z> {
    pub(crate) node: NodeId,
    pub(crate) zygote: Z,
}

impl<Z: Clone> Forest<Z> {
    /// With a plan: its nodes, and no others ever. Without: those that turn out to be worth it.
    pub(crate) fn new(plan: Option<&Plan>, on_host: bool, now: Instant) -> Self {
        let mut forest = Self {
            nodes: HashMap::new(),
            holders: HashMap::new(),
            costs: HashMap::new(),
            next_id: 1,
            drawn: plan.is_some(),
        };
        if let Some(plan) = plan {
            forest.draw(plan, NodeId::ROOT, &[], on_host, now);
        }
        forest
    }

    fn draw(&mut self, plan: &Plan, parent: NodeId, above: &[String], on_host: bool, now: Instant) {
        for child in &plan.children {
            let requirements = [above, &child.packages].concat();
            let node = self.add(parent, requirements.clone(), on_host, true, now);
            self.draw(child, node, &requirements, on_host, now);
        }
    }

    fn add(
        &mut self,
        parent: NodeId,
        requirements: Vec<String>,
        on_host: bool,
        drawn: bool,
        now: Instant,
    ) -> NodeId {
        let id = NodeId(self.next_id);
        self.next_id += 1;
        let node = Node {
            parent,
            requirements,
            on_host,
            drawn,
            stage: Stage::Planned,
            pause: Backoff::new(RETRY_PAUSE, RETRY_PAUSE_MAX),
            careful: false,
            last_used: now,
        };
        self.nodes.insert(id, node);
        id
    }

    /// The zygote that holds most of what is required, by import time, and nothing that is not. `None`: the root's.
    pub(crate) fn best(&self, required: &PackageSet, on_host: bool) -> Option<Best<Z>> {
        let mut n_shared = HashMap::<NodeId, usize>::new();
        for id in required.iter().filter_map(|package| self.holders.get(package)).flatten() {
            *n_shared.entry(*id).or_default() += 1;
        }
        let suiting = n_shared.into_iter().filter_map(|(id, n)| {
            let node = self.nodes.get(&id).filter(|node| node.on_host == on_host)?;
            match &node.stage {
                Stage::Growing(grown) if grown.holds.len() == n => Some((id, grown)),
                _ => None,
            }
        });
        // Of those that save the same, the one that holds most, and then the oldest.
        let rank = |(id, grown): &(NodeId, &Grown<Z>)| {
            (self.import_time(&grown.holds), grown.holds.len(), std::cmp::Reverse(*id))
        };
        suiting.max_by_key(rank).map(|(node, grown)| Best { node, zygote: grown.zygote.clone() })
    }

    fn import_time(&self, packages: &PackageSet) -> Duration {
        packages.iter().filter_map(|package| self.costs.get(package)).sum()
    }

    /// The zygote of this node, if there is one. It was of use.
    pub(crate) fn zygote(&mut self, id: NodeId, now: Instant) -> Option<Z> {
        let node = self.nodes.get_mut(&id)?;
        match &node.stage {
            Stage::Growing(grown) => {
                node.last_used = now;
                Some(grown.zygote.clone())
            }
            _ => None,
        }
    }

    /// A function that requires these was loaded in a sandbox, which took so long. It may be worth a node.
    pub(crate) fn loaded(&mut self, required: &PackageSet, on_host: bool, took: Duration, now: Instant) {
        if self.drawn || required.is_empty() || took < LOAD_TIME_WORTH {
            return;
        }
        let requirements: Vec<String> = required.iter().map(ToString::to_string).collect();
        let known =
            self.nodes.values_mut().find(|node| node.on_host == on_host && node.requirements == requirements);
        if let Some(node) = known {
            node.last_used = now;
            return;
        }
        if self.nodes.len() >= LEARNT_MAX {
            // Room is made for what is wanted now, but not by what is being made just now.
            let idle = self.nodes.iter().filter(|(_, node)| !matches!(node.stage, Stage::Building));
            let Some(id) = idle.min_by_key(|(_, node)| node.last_used).map(|(id, _)| *id) else { return };
            self.remove(id);
        }
        self.add(NodeId::ROOT, requirements, on_host, false, now);
    }

    /// A zygote that should be made now: say what came of it with [`built`](Self::built). Those above come first, as
    /// long as they can be had.
    pub(crate) fn next_build(&mut self, now: Instant) -> Option<Build<Z>> {
        let due = self.nodes.iter().filter(|(_, node)| {
            matches!(node.stage, Stage::Planned) && node.pause.waits_until(now).is_none()
        });
        let id = due.map(|(id, _)| *id).min()?;
        let parents = self.ancestors(id);
        let node = self.nodes.get_mut(&id)?;
        node.stage = Stage::Building;
        Some(Build {
            node: id,
            requirements: node.requirements.clone(),
            on_host: node.on_host,
            parents,
            careful: node.careful,
        })
    }

    /// Nobody makes any: whoever did has ended.
    pub(crate) fn forget_builds(&mut self) {
        for node in self.nodes.values_mut() {
            if matches!(node.stage, Stage::Building) {
                node.stage = Stage::Planned;
            }
        }
    }

    /// When one should be made that waits now.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let planned = self.nodes.values().filter(|node| matches!(node.stage, Stage::Planned));
        planned.map(|node| node.pause.waits_until(now).unwrap_or(now)).min()
    }

    fn ancestors(&self, id: NodeId) -> Vec<Z> {
        let mut zygotes = Vec::new();
        let mut at = self.nodes.get(&id);
        while let Some(node) = at {
            at = self.nodes.get(&node.parent);
            if let Some(Stage::Growing(grown)) = at.map(|parent| &parent.stage) {
                zygotes.push(grown.zygote.clone());
            }
        }
        zygotes
    }

    /// What came of it. A zygote that is not wanted is given back.
    pub(crate) fn built(
        &mut self,
        id: NodeId,
        outcome: Result<Planted<Z>, LaunchError>,
        now: Instant,
    ) -> Option<Z> {
        let building = self.nodes.get_mut(&id).filter(|node| matches!(node.stage, Stage::Building));
        let Some(node) = building else { return outcome.ok().map(|planted| planted.zygote) };
        match outcome {
            Ok(Planted { zygote, holds, failed: _ }) => {
                node.pause.succeeded();
                node.last_used = now;
                let took: Duration = holds.iter().map(|(_, took)| *took).sum();
                if holds.is_empty() || (!node.drawn && took < LOAD_TIME_WORTH) {
                    // It was something else that took long.
                    node.stage = Stage::Barren;
                    return Some(zygote);
                }
                for (package, took) in &holds {
                    let cost = self.costs.entry(package.clone()).or_default();
                    *cost = (*took).max(*cost);
                }
                let holds = PackageSet::new(holds.into_iter().map(|(package, _)| package));
                for package in &holds {
                    self.holders.entry(package.clone()).or_default().push(id);
                }
                node.stage = Stage::Growing(Grown { zygote, holds });
            }
            Err(error) => {
                // One that says what is wrong need not be led by the hand.
                node.careful |= !matches!(error, LaunchError::Resources(_));
                node.pause.failed(now);
                node.stage = Stage::Planned;
            }
        }
        None
    }

    /// A fork has failed, or the zygote is dead: another one takes its place, after a pause. Gives back the old one.
    pub(crate) fn failed(&mut self, id: NodeId, now: Instant) -> Option<Z> {
        let node = self.nodes.get_mut(&id).filter(|node| matches!(node.stage, Stage::Growing(_)))?;
        node.pause.failed(now);
        let stage = std::mem::replace(&mut node.stage, Stage::Planned);
        self.forget_holder(id);
        match stage {
            Stage::Growing(grown) => Some(grown.zygote),
            _ => None,
        }
    }

    /// Gives up the dead, and those that nobody drew and nobody uses. Says which nodes have no zygote any more.
    pub(crate) fn tidy(&mut self, is_alive: impl Fn(&Z) -> bool, now: Instant) -> Vec<NodeId> {
        let dead = |node: &Node<Z>| matches!(&node.stage, Stage::Growing(grown) if !is_alive(&grown.zygote));
        let unused = |node: &Node<Z>| {
            !node.drawn
                && !matches!(node.stage, Stage::Building)
                && now.saturating_duration_since(node.last_used) >= UNUSED_MAX
        };
        let of = |what: &dyn Fn(&Node<Z>) -> bool| -> Vec<NodeId> {
            self.nodes.iter().filter(|(_, node)| what(node)).map(|(id, _)| *id).collect()
        };
        let (dead, unused) = (of(&dead), of(&unused));
        for &id in &dead {
            drop(self.failed(id, now));
        }
        for &id in &unused {
            drop(self.remove(id));
        }
        [dead, unused].concat()
    }

    /// Gives up the one that was used least recently: memory is tight. One that somebody drew comes back later.
    pub(crate) fn release_one(&mut self, now: Instant) -> Option<NodeId> {
        let growing = self.nodes.iter().filter(|(_, node)| matches!(node.stage, Stage::Growing(_)));
        // Of those unused for as long, the one furthest from the root.
        let (id, drawn) = growing
            .min_by_key(|(id, node)| (node.last_used, std::cmp::Reverse(**id)))
            .map(|(id, node)| (*id, node.drawn))?;
        drop(if drawn { self.failed(id, now) } else { self.remove(id) });
        Some(id)
    }

    fn remove(&mut self, id: NodeId) -> Option<Z> {
        self.forget_holder(id);
        match self.nodes.remove(&id)?.stage {
            Stage::Growing(grown) => Some(grown.zygote),
            _ => None,
        }
    }

    fn forget_holder(&mut self, id: NodeId) {
        self.holders.retain(|_, holders| {
            holders.retain(|holder| *holder != id);
            !holders.is_empty()
        });
        self.costs.retain(|package, _| self.holders.contains_key(package));
    }

    /// Gives up all.
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.holders.clear();
        self.costs.clear();
    }

    /// Zygotes that there are.
    #[cfg(test)]
    pub(crate) fn n_growing(&self) -> usize {
        self.nodes.values().filter(|node| matches!(node.stage, Stage::Growing(_))).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fake::package;

    fn set(names: &[&str]) -> PackageSet {
        PackageSet::new(names.iter().map(|name| package(&format!("{name}==1"))))
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Each package takes so long.
    fn planted<Z>(zygote: Z, holds: &PackageSet, cost: impl Fn(&Package) -> Duration) -> Planted<Z> {
        let holds = holds.iter().map(|package| (package.clone(), cost(package))).collect();
        Planted { zygote, holds, failed: Vec::new() }
    }

    /// What each package of the tests takes.
    fn cost(package: &Package) -> Duration {
        match package.name.as_str() {
            "a" => ms(50),
            "b" => ms(10),
            "c" => ms(200),
            _ => ms(400),
        }
    }

    fn grow(forest: &mut Forest<u32>, zygote: u32, holds: &PackageSet) -> NodeId {
        let now = Instant::now();
        let build = forest.next_build(now).expect("one is planned");
        assert_eq!(forest.built(build.node, Ok(planted(zygote, holds, cost)), now), None);
        build.node
    }

    fn best(forest: &Forest<u32>, names: &[&str]) -> Option<u32> {
        forest.best(&set(names), false).map(|best| best.zygote)
    }

    fn plan(packages: &[&str], children: Vec<Plan>) -> Plan {
        Plan { packages: packages.iter().map(|&name| name.to_owned()).collect(), children }
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_saves_most_is_best_and_none_that_holds_too_much() {
        let mut forest = Forest::new(None, false, Instant::now());
        let sets: [&[&str]; 4] = [&["a"], &["a", "b"], &["c"], &["a", "b", "d"]];
        for (zygote, names) in (0..).zip(sets) {
            forest.loaded(&set(names), false, ms(300), Instant::now());
            grow(&mut forest, zygote, &set(names));
        }
        assert_eq!(best(&forest, &["b"]), None);
        assert_eq!(best(&forest, &["a"]), Some(0));
        assert_eq!(best(&forest, &["b", "a"]), Some(1));
        assert_eq!(best(&forest, &["a", "b", "c"]), Some(2), "one package may outweigh two");
        assert_eq!(best(&forest, &["a", "b", "c", "d"]), Some(3));
        assert_eq!(forest.best(&set(&["a"]), true), None, "another family's");
        let other = PackageSet::new([package("a==2")]);
        assert_eq!(forest.best(&other, false), None, "another version");
    }

    proptest! {
        #[test]
        fn the_look_up_finds_what_a_naive_search_finds(
            nodes in prop::collection::vec(prop::collection::btree_set(0..8u8, 1..5), 0..LEARNT_MAX),
            costs in prop::collection::vec(0..4u64, 8),
            required in prop::collection::btree_set(0..8u8, 0..8),
            fallen in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        ) {
            let now = Instant::now();
            let set = |names: &std::collections::BTreeSet<u8>| PackageSet::new(names.iter().map(|n| package(&format!("p{n}==1"))));
            let cost = |package: &Package| ms(costs[usize::from(package.name.as_bytes()[1] - b'0')]);
            let saves = |names: &std::collections::BTreeSet<u8>| names.iter().map(|n| costs[usize::from(*n)]).sum::<u64>();
            let mut forest = Forest::new(None, false, now);
            let mut alive = Vec::new();
            for (at, names) in nodes.iter().enumerate() {
                let id = forest.add(NodeId::ROOT, vec![at.to_string()], false, true, now);
                forest.next_build(now);
                forest.built(id, Ok(planted(at, &set(names), cost)), now);
                alive.push((id, at));
            }
            for index in fallen {
                if !alive.is_empty() {
                    let (id, at) = alive.remove(index.index(alive.len()));
                    prop_assert_eq!(forest.failed(id, now), Some(at));
                }
            }
            let naive = alive
                .iter()
                .filter(|(_, at)| nodes[*at].is_subset(&required))
                .max_by_key(|(_, at)| (saves(&nodes[*at]), nodes[*at].len(), std::cmp::Reverse(*at)))
                .map(|(_, at)| *at);
            prop_assert_eq!(forest.best(&set(&required), false).map(|best| best.zygote), naive);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drawn_tree_is_built_from_the_top_and_each_node_has_what_is_above_it() {
        let drawn = plan(&[], vec![plan(&["a"], vec![plan(&["b"], vec![])]), plan(&["c"], vec![])]);
        let mut forest = Forest::<u32>::new(Some(&drawn), false, Instant::now());
        let now = Instant::now();
        let first = forest.next_build(now).unwrap();
        assert_eq!((first.requirements.as_slice(), first.parents.len()), (&["a".to_owned()][..], 0));
        forest.built(first.node, Ok(planted(7, &set(&["a"]), cost)), now);
        let second = forest.next_build(now).unwrap();
        assert_eq!((second.requirements.join(" "), second.parents), ("a b".to_owned(), vec![7]));
        assert_eq!(forest.next_build(now).unwrap().requirements, ["c"]);
        forest.loaded(&set(&["x"]), false, ms(500), now);
        assert!(forest.next_build(now).is_none(), "who draws a tree gets that one");
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_takes_long_gets_a_node_and_each_set_one() {
        let now = Instant::now();
        let mut forest = Forest::<u32>::new(None, false, now);
        forest.loaded(&set(&["a"]), false, ms(2), now);
        forest.loaded(&PackageSet::default(), false, ms(500), now);
        assert!(forest.next_build(now).is_none());
        forest.loaded(&set(&["a"]), false, ms(300), now);
        let build = forest.next_build(now).unwrap();
        forest.loaded(&set(&["a"]), false, ms(300), now);
        assert!(forest.next_build(now).is_none());
        let unwanted = forest.built(build.node, Ok(planted(1, &set(&["a"]), |_| ms(1))), now);
        assert_eq!(unwanted, Some(1), "it was the function itself that took long");
        forest.loaded(&set(&["a"]), false, ms(300), now);
        assert!(forest.next_build(now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried_with_care_after_a_pause_that_grows() {
        let mut now = Instant::now();
        let mut forest = Forest::<u32>::new(None, false, now);
        forest.loaded(&set(&["a"]), false, ms(300), now);
        for (at, pause) in [1_000, 2_000, 4_000].into_iter().enumerate() {
            let build = forest.next_build(now).unwrap();
            assert_eq!(build.careful, at > 0);
            forest.built(build.node, Err(LaunchError::Failed("crashed".into())), now);
            assert_eq!(forest.next_due(now), Some(now + ms(pause)));
            now += ms(pause) - ms(1);
            assert!(forest.next_build(now).is_none());
            now += ms(1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_dead_come_back_the_unused_go_and_under_pressure_the_least_recently_used() {
        let now = Instant::now();
        let mut forest = Forest::new(None, false, now);
        let mut ids = Vec::new();
        for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
            forest.loaded(&set(&[name]), false, ms(300), now);
            ids.push(grow(&mut forest, at as u32, &set(&[name])));
            forest.zygote(ids[at], now + ms(at as u64));
        }
        forest.zygote(ids[0], now + ms(10));
        assert_eq!(forest.release_one(now), Some(ids[1]));
        assert_eq!(forest.tidy(|zygote| *zygote != 2, now), [ids[2]]);
        assert_eq!((best(&forest, &["c"]), best(&forest, &["a"])), (None, Some(0)));
        assert_eq!(forest.next_build(now + ms(1_000)).map(|build| build.node), Some(ids[2]));
        assert_eq!(forest.tidy(|_| true, now + ms(10) + UNUSED_MAX), [ids[0]]);
        assert_eq!(forest.n_growing(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_never_more_than_may_be_and_the_least_recently_used_makes_room() {
        let now = Instant::now();
        let mut forest = Forest::<u32>::new(None, false, now);
        for at in 0..2 * LEARNT_MAX {
            let name = format!("p{at}");
            forest.loaded(&set(&[&name]), false, ms(300), now + ms(at as u64));
            grow(&mut forest, at as u32, &set(&[&name]));
        }
        assert_eq!(forest.n_growing(), LEARNT_MAX);
    }
}
