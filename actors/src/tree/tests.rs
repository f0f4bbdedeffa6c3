use std::collections::BTreeSet;

use proptest::prelude::*;

use super::node::QUIET_LOOKS;
use super::*;
use crate::fake::{MB, ms, package};
use crate::fit::{Fitted, FittedNode};
use crate::packages::PackageSet;
use crate::world::{Import, LaunchError};

fn set(names: &[&str]) -> PackageSet {
    PackageSet::new(names.iter().map(|name| package(&format!("{name}==1"))))
}

/// Each package takes so long.
fn planted<Z>(zygote: Z, holds: &PackageSet, cost: impl Fn(&Package) -> Duration) -> Built<Z> {
    let import = |package: &Package| Import { package: package.clone(), took: cost(package), bytes: MB };
    let imports = holds.iter().map(import).collect();
    Built { zygote, holds: holds.clone(), missed: BTreeSet::new(), imports, bytes: 3 * MB }
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

/// A tree of nodes below the root, each with these packages.
fn flat(sets: &[PackageSet]) -> Fitted {
    let node = |set: &PackageSet| FittedNode {
        parent: None,
        adds: set.iter().cloned().collect(),
        packages: set.clone(),
        bytes: 3 * MB,
        n_functions: 1,
        weight: 1.0,
        ms_saved: 100.0,
    };
    Fitted { nodes: sets.iter().map(node).collect(), ..Fitted::default() }
}

fn grow(forest: &mut Forest<u32>, zygote: u32) -> NodeId {
    grow_without(forest, zygote, &[])
}

/// One whose packages have missed these.
fn grow_without(forest: &mut Forest<u32>, zygote: u32, missed: &[&str]) -> NodeId {
    let now = Instant::now();
    let build = forest.next_build(u64::MAX, now).expect("one is planned");
    let holds = PackageSet::new(build.requirements.iter().map(|text| package(text)));
    let missed = missed.iter().map(|&name| name.to_owned()).collect();
    let built = Built { missed, ..planted(zygote, &holds, cost) };
    assert_eq!(forest.built(build.node, Ok(built), now), None);
    build.node
}

/// A forest of these, grown.
fn grown(sets: &[&[&str]]) -> (Forest<u32>, Vec<NodeId>) {
    let mut forest = Forest::new(None, false, Instant::now());
    let sets: Vec<_> = sets.iter().map(|names| set(names)).collect();
    forest.adopt(&flat(&sets), false, Instant::now());
    let ids = (0..sets.len()).map(|at| grow(&mut forest, at as u32)).collect();
    (forest, ids)
}

fn zygotes_of(parents: &[(u32, PackageSet)]) -> Vec<u32> {
    parents.iter().map(|(zygote, _)| *zygote).collect()
}

fn best(forest: &Forest<u32>, names: &[&str]) -> Option<u32> {
    forest.best(&set(names), false).map(|best| best.zygote)
}

fn plan(packages: &[&str], children: Vec<Plan>) -> Plan {
    let packages = packages.iter().map(|text| Requirement {
        text: (*text).to_owned(),
        name: text.split("==").next().unwrap_or(text).to_owned(),
    });
    Plan { packages: packages.collect(), children }
}

#[tokio::test(start_paused = true)]
async fn who_has_what_a_zygote_has_missed_is_forked_from_another() {
    let now = Instant::now();
    let mut forest = Forest::<u32>::new(None, false, now);
    forest.adopt(&flat(&[set(&["a"]), set(&["a", "b"])]), false, now);
    grow_without(&mut forest, 0, &["b", "x"]);
    grow(&mut forest, 1);
    assert_eq!(best(&forest, &["a"]), Some(0));
    assert_eq!(best(&forest, &["a", "c"]), Some(0));
    assert_eq!(best(&forest, &["a", "x"]), None);
    assert_eq!(best(&forest, &["a", "b"]), Some(1), "it has found it");
}

#[tokio::test(start_paused = true)]
async fn no_zygote_is_a_fork_of_one_that_has_missed_what_it_has() {
    let below = plan(&["b==1"], vec![plan(&["c==1"], vec![])]);
    let tree = plan(&[], vec![plan(&["a==1"], vec![below])]);
    let now = Instant::now();
    let mut forest = Forest::<u32>::new(Some(&tree), false, now);
    grow_without(&mut forest, 0, &["c"]);
    assert_eq!(zygotes_of(&forest.next_build(u64::MAX, now).unwrap().parents), [0]);
    forest.forget_builds();
    grow_without(&mut forest, 1, &["c"]);
    assert_eq!(forest.next_build(u64::MAX, now).unwrap().parents, [], "but of the root");
}

#[tokio::test(start_paused = true)]
async fn what_a_node_has_is_known_by_its_name_however_somebody_wrote_it() {
    let written = Requirement { text: "Foo_Bar[extra]==1".into(), name: "foo-bar".into() };
    let tree = plan(&[], vec![plan(&["a==1"], vec![Plan { packages: vec![written], children: vec![] }])]);
    let now = Instant::now();
    let mut forest = Forest::<u32>::new(Some(&tree), false, now);
    grow_without(&mut forest, 0, &["foo-bar"]);
    let build = forest.next_build(u64::MAX, now).unwrap();
    assert_eq!(
        (&build.requirements[..], build.parents),
        (&["a==1".into(), "Foo_Bar[extra]==1".into()][..], vec![])
    );
}

#[tokio::test(start_paused = true)]
async fn the_one_that_saves_most_is_best_and_none_that_holds_too_much() {
    let (forest, _) = grown(&[&["a"], &["a", "b"], &["c"], &["a", "b", "d"]]);
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
        nodes in prop::collection::hash_set(prop::collection::btree_set(0..8u8, 1..5), 0..16),
        costs in prop::collection::vec(0..4u64, 8),
        required in prop::collection::btree_set(0..8u8, 0..8),
        fallen in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let now = Instant::now();
        let nodes: Vec<_> = nodes.into_iter().collect();
        let set = |names: &BTreeSet<u8>| PackageSet::new(names.iter().map(|n| package(&format!("p{n}==1"))));
        let cost = |package: &Package| ms(costs[usize::from(package.name.as_bytes()[1] - b'0')]);
        let saves = |names: &BTreeSet<u8>| names.iter().map(|n| costs[usize::from(*n)]).sum::<u64>();
        let mut forest = Forest::new(None, false, now);
        forest.adopt(&flat(&nodes.iter().map(set).collect::<Vec<_>>()), false, now);
        let mut alive = Vec::new();
        for (at, names) in nodes.iter().enumerate() {
            let build = forest.next_build(u64::MAX, now).unwrap();
            forest.built(build.node, Ok(planted(at, &set(names), cost)), now);
            alive.push((build.node, at));
        }
        for index in fallen {
            if !alive.is_empty() {
                let (id, at) = alive.remove(index.index(alive.len()));
                let number = at as u64 + 1;
                prop_assert!(forest.failed(id, number, now));
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
    let now = Instant::now();
    let mut forest = Forest::<u32>::new(Some(&drawn), false, now);
    let mut next = || {
        forest.next_build(u64::MAX, now).map(|build| {
            let of = (build.requirements.join(" "), zygotes_of(&build.parents));
            forest.built(build.node, Ok(planted(7, &set(&["a"]), cost)), now);
            of
        })
    };
    assert_eq!(next(), Some(("a".to_owned(), vec![])));
    assert_eq!(next(), Some(("c".to_owned(), vec![])));
    assert_eq!(next(), Some(("a b".to_owned(), vec![7])));
    assert_eq!(next(), None);
    assert!(forest.adopt(&flat(&[set(&["x"])]), false, now).is_empty());
    assert!(forest.next_build(u64::MAX, now).is_none(), "who draws a tree gets that one");
    assert_eq!(forest.draw(None, false, now).len(), 3);
    forest.adopt(&flat(&[set(&["x"])]), false, now);
    assert!(forest.next_build(u64::MAX, now).is_some(), "until it is left to fitting again");
}

#[tokio::test(start_paused = true)]
async fn a_new_tree_keeps_the_zygotes_that_it_has_as_well() {
    let (mut forest, ids) = grown(&[&["a"], &["b"], &["c"]]);
    let now = Instant::now();
    let mut fitted = flat(&[set(&["c"]), set(&["a"])]);
    fitted.nodes.push(FittedNode { parent: Some(0), packages: set(&["c", "d"]), ..fitted.nodes[0].clone() });
    assert_eq!(forest.adopt(&fitted, false, now), [ids[1]]);
    assert_eq!(
        (best(&forest, &["a"]), best(&forest, &["b"]), best(&forest, &["c"])),
        (Some(0), None, Some(2))
    );
    let build = forest.next_build(u64::MAX, now).unwrap();
    let parents = zygotes_of(&build.parents);
    assert_eq!((build.requirements.join(" "), parents), ("c==1 d==1".to_owned(), vec![2]));
    let within =
        |names: &[&str]| zygotes_of(&build.parents_within(&set(names).iter().cloned().collect::<Vec<_>>()));
    assert_eq!((within(&["d", "c"]), within(&["d"])), (vec![2], vec![]), "one that holds more is no parent");
    let standing = forest.standing(false);
    assert_eq!(standing.len(), 3);
    assert!(standing.iter().enumerate().all(|(at, node)| node.parent.is_none_or(|parent| parent < at)));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_imported_saves_nothing() {
    let now = Instant::now();
    let mut forest = Forest::<u32>::new(None, false, now);
    assert!(forest.loaded(&set(&["a"]), false, ms(300)));
    assert!(!forest.costs.prices(std::iter::empty()).is_empty());
    forest.cannot_import(&package("a==1"), now);
    assert!(forest.costs.prices(std::iter::empty()).is_empty());
    assert!(forest.costs.is_left_alone(&package("a==1")) && !forest.costs.is_left_alone(&package("b==1")));
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_after_a_pause_that_grows() {
    let mut now = Instant::now();
    let mut forest = Forest::<u32>::new(None, false, now);
    forest.adopt(&flat(&[set(&["a"])]), false, now);
    for pause in [1_000, 2_000, 4_000] {
        let build = forest.next_build(u64::MAX, now).unwrap();
        forest.built(build.node, Err(LaunchError::Failed("crashed".into())), now);
        assert_eq!(forest.next_due(now), Some(now + ms(pause)));
        now += ms(pause) - ms(1);
        assert!(forest.next_build(u64::MAX, now).is_none());
        now += ms(1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_dead_come_back_and_under_pressure_the_least_recently_used_go() {
    let now = Instant::now();
    let (mut forest, ids) = grown(&[&["a"], &["b"], &["c"]]);
    for (at, id) in ids.iter().enumerate() {
        forest.used(*id, &set(&["a"]), false, now + ms(1_000 * at as u64));
    }
    forest.used(ids[0], &set(&["a"]), false, now + ms(3_000));
    assert_eq!(forest.release_one(|_| MB, now), Some((ids[1], true)));
    assert_eq!(forest.tidy(|zygote| *zygote != 2, now), [ids[2]]);
    assert_eq!((best(&forest, &["c"]), best(&forest, &["a"])), (None, Some(0)));
    let later = now + ms(1_000);
    assert_eq!(forest.next_build(u64::MAX, later).map(|build| build.node), Some(ids[2]));
    let view = forest.views(now + ms(10)).into_iter().find(|view| view.node == ids[0]).unwrap();
    assert_eq!((view.hits, view.saved_ms, view.replicas, view.bytes), (2, 100.0, 1, 3 * MB));
}

/// So many forks, each begun while `n_others` are under way.
fn forks(forest: &mut Forest<u32>, id: NodeId, n: usize, n_others: usize) {
    let others: Vec<u64> = (0..n_others).map(|_| forest.fork(id).unwrap().number).collect();
    for _ in 0..n {
        let number = forest.fork(id).unwrap().number;
        forest.forked(id, number, true);
    }
    others.into_iter().for_each(|number| forest.forked(id, number, true));
}

#[tokio::test(start_paused = true)]
async fn where_forks_wait_for_each_other_there_is_one_more_zygote_until_they_do_not() {
    let now = Instant::now();
    let (mut forest, ids) = grown(&[&["a"], &["b"]]);
    forks(&mut forest, ids[0], 30, 3);
    forks(&mut forest, ids[1], 30, 0);
    forest.tidy(|_| true, now);
    assert!(forest.next_build(6 * MB, now).is_none(), "they have no room");
    let build = forest.next_build(9 * MB, now).expect("one more of the crowded one");
    assert_eq!(build.node, ids[0]);
    assert!(forest.next_build(u64::MAX, now).is_none(), "one at a time");
    assert_eq!(forest.built(build.node, Ok(planted(9, &set(&["a"]), cost)), now), None);
    let numbers: BTreeSet<u32> = (0..4).map(|_| forest.fork(ids[0]).unwrap().zygote).collect();
    assert_eq!(numbers, BTreeSet::from([0, 9]), "they take turns");
    assert_eq!(forest.tidy(|zygote| *zygote != 0, now), [], "the other one is there");
    assert_eq!((best(&forest, &["a"]), forest.n_growing()), (Some(9), 2));
    // A second one again, and then nothing happens for long.
    forks(&mut forest, ids[0], 30, 3);
    forest.tidy(|_| true, now);
    let build = forest.next_build(u64::MAX, now).unwrap();
    forest.built(build.node, Ok(planted(10, &set(&["a"]), cost)), now);
    assert_eq!(forest.n_growing(), 3);
    (0..QUIET_LOOKS).for_each(|_| drop(forest.tidy(|_| true, now)));
    assert_eq!(forest.n_growing(), 2);
}
