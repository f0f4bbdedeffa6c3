use proptest::prelude::*;

use super::*;
use crate::fake::{MB, ms, package};

const ROOMY: Bounds = Bounds { n_nodes: 100, n_top: 40, n_levels: 8, bytes: 1_000 * MB };

fn set(names: &[&str]) -> PackageSet {
    PackageSet::new(names.iter().map(|name| package(&format!("{name}==1"))))
}

fn need(names: &[&str], weight: f64) -> Need {
    Need { packages: set(names), n_functions: 1, weight }
}

fn question(needs: Vec<Need>, prices: &[(&str, u64)], requires: &[(&str, &[&str])]) -> Question {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Question {
        needs,
        prices: prices
            .iter()
            .map(|(name, cost)| (package(&format!("{name}==1")), Price { import: ms(*cost), bytes: MB }))
            .collect(),
        requires: requires
            .iter()
            .map(|(name, needed)| (package(&format!("{name}==1")), names(needed)))
            .collect(),
    }
}

/// Each node as its parent's place and the names that it adds.
fn drawn(fitted: &Fitted) -> Vec<(Option<usize>, String)> {
    let names = |node: &FittedNode| {
        node.adds.iter().map(|package| package.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    fitted.nodes.iter().map(|node| (node.parent, names(node))).collect()
}

fn some(text: &str) -> String {
    text.to_owned()
}

#[test]
fn who_has_what_a_package_would_use_gets_another_node_than_who_does_without() {
    let needs = vec![need(&["outer"], 4.0), need(&["outer", "inner"], 4.0), need(&["outer", "x"], 1.0)];
    let question = question(needs, &[("outer", 100), ("inner", 1), ("x", 1)], &[("outer", &["inner"])]);
    let fitted = fit(&question, ROOMY, &[]);
    assert_eq!(drawn(&fitted), [(None, some("outer")), (None, some("inner outer"))]);
    assert!((fitted.ms_saved - (500.0 + 404.0)).abs() < 1e-6, "{fitted:?}");
    assert!(
        (saved_ms(&question, &[set(&["outer"])]) - 500.0).abs() < 1e-6,
        "the others would not find inner"
    );
}

#[test]
fn a_package_comes_with_all_that_it_needs_and_what_fewer_need_lies_below() {
    let needs = vec![
        need(&["numpy", "pandas", "pytz"], 1.0),
        need(&["numpy", "pandas", "pytz", "x"], 1.0),
        need(&["numpy"], 3.0),
        need(&["flask"], 1.0),
    ];
    let prices = [("numpy", 100), ("pandas", 200), ("pytz", 10), ("flask", 50), ("x", 1)];
    let fitted = fit(&question(needs, &prices, &[("pandas", &["numpy", "pytz"])]), ROOMY, &[]);
    assert_eq!(
        drawn(&fitted),
        [(None, some("numpy")), (Some(0), some("pytz pandas")), (None, some("flask"))],
    );
    assert!((fitted.ms_saved - (310.0 * 2.0 + 300.0 + 50.0)).abs() < 1e-6, "{fitted:?}");
    assert!((fitted.ms_without - fitted.ms_saved - 1.0).abs() < 1e-6);
}

#[test]
fn what_all_have_is_one_node_and_what_one_alone_has_does_not_bind_the_next() {
    let names: &[&str] = &["a", "b", "c"];
    let prices = [("a", 10), ("b", 9), ("c", 8)];
    let many = (0..5).map(|_| need(names, 1.0)).collect();
    assert_eq!(drawn(&fit(&question(many, &prices, &[]), ROOMY, &[])).len(), 1);
    let one = question(vec![need(&["a", "b"], 1.0)], &[("a", 100), ("b", 9)], &[]);
    assert_eq!(drawn(&fit(&one, ROOMY, &[])), [(None, some("a")), (Some(0), some("b"))]);
}

#[test]
fn nothing_that_is_quick_or_that_nobody_needs_gets_a_node() {
    let quick = question(vec![need(&["a"], 1.0)], &[("a", 2)], &[]);
    assert!(fit(&quick, ROOMY, &[]).nodes.is_empty());
    let unknown = question(vec![need(&["a"], 5.0)], &[], &[]);
    assert!(fit(&unknown, ROOMY, &[]).nodes.is_empty());
    assert!(fit(&Question::default(), ROOMY, &[]).nodes.is_empty());
    let once = question(vec![need(&["a"], 0.01)], &[("a", 200)], &[]);
    assert!(fit(&once, ROOMY, &[]).nodes.is_empty(), "some MB for 2 ms in ten minutes");
}

#[test]
fn under_a_budget_the_small_ones_that_save_much_win_over_a_large_one() {
    let mut question = question(
        (0..6).map(|at| need(&[&format!("s{at}")], 1.0)).chain([need(&["large"], 1.0)]).collect(),
        &[("s0", 50), ("s1", 50), ("s2", 50), ("s3", 50), ("s4", 50), ("s5", 50), ("large", 200)],
        &[],
    );
    question.prices.insert(package("large==1"), Price { import: ms(200), bytes: 18 * MB });
    let bounds = Bounds { bytes: 22 * MB, ..ROOMY };
    let fitted = fit(&question, bounds, &[]);
    assert_eq!(fitted.nodes.len(), 6, "{:?}", drawn(&fitted));
    assert!(fitted.bytes <= bounds.bytes);
}

fn standing(fitted: &Fitted) -> Vec<Standing> {
    let of = |node: &FittedNode| Standing { parent: node.parent, packages: node.packages.clone() };
    fitted.nodes.iter().map(of).collect()
}

#[test]
fn a_tree_that_stands_grows_and_is_replaced_only_by_a_much_better_one() {
    let prices = [("a", 100), ("b", 100), ("c", 100)];
    let before = fit(&question(vec![need(&["a", "b"], 1.0)], &prices, &[]), ROOMY, &[]);
    assert_eq!(drawn(&before), [(None, some("a b"))]);
    let more = question(vec![need(&["a", "b"], 1.0), need(&["c"], 1.0)], &prices, &[]);
    let grown = fit(&more, ROOMY, &standing(&before));
    assert_eq!(drawn(&grown), [(None, some("a b")), (None, some("c"))]);
    // Now many need something else: what nobody needs goes, at once when it is in the way and by itself when it is not.
    let other = question(vec![need(&["a", "b"], 0.001), need(&["c"], 9.0)], &prices, &[]);
    let pruned = fit(&other, ROOMY, &standing(&grown));
    assert_eq!(drawn(&pruned), [(None, some("c"))]);
    let waning = question(vec![need(&["a", "b"], 0.012), need(&["c"], 9.0)], &prices, &[]);
    assert_eq!(
        fit(&waning, ROOMY, &standing(&grown)).nodes.len(),
        2,
        "it would not be made now, but it stays"
    );
}

#[test]
fn two_versions_of_a_package_never_meet() {
    let old =
        Need { packages: PackageSet::new([package("n==1"), package("p==1")]), n_functions: 1, weight: 3.0 };
    let new =
        Need { packages: PackageSet::new([package("n==2"), package("p==1")]), n_functions: 1, weight: 2.0 };
    let mut question = question(vec![old, new], &[("n", 50), ("p", 100)], &[("p", &["n"])]);
    question.prices.insert(package("n==2"), Price { import: ms(50), bytes: MB });
    let fitted = fit(&question, ROOMY, &[]);
    assert_eq!(fitted.nodes.len(), 2);
    assert!(fitted.nodes.iter().all(|node| node.packages.len() == 2 && node.parent.is_none()), "{fitted:?}");
}

#[test]
fn what_is_needed_is_imported_before_what_needs_it() {
    let question = question(Vec::new(), &[], &[("a", &["b", "c"]), ("b", &["c"]), ("c", &["a"])]);
    let packages: Vec<Package> = ["a==1", "b==1", "c==1"].map(package).to_vec();
    let names: Vec<String> =
        in_order(&packages, &question.requires).into_iter().map(|package| package.name).collect();
    assert_eq!(names, ["c", "b", "a"], "and circles end");
}

/// Functions over eight packages, each of which may need those before it.
fn questions() -> impl Strategy<Value = Question> {
    let functions = prop::collection::vec((prop::collection::btree_set(0..8usize, 1..6), 1..5u32), 1..8);
    let prices = prop::collection::vec((0..60u64, 1..8u64), 8);
    let requires = prop::collection::vec(prop::collection::btree_set(0..8usize, 0..2), 8);
    (functions, prices, requires).prop_map(|(functions, prices, requires)| {
        let named = |at: usize| package(&format!("p{at}==1"));
        Question {
            needs: functions
                .into_iter()
                .map(|(packages, weight)| Need {
                    packages: PackageSet::new(packages.into_iter().map(named)),
                    n_functions: 1,
                    weight: f64::from(weight),
                })
                .collect(),
            prices: prices
                .into_iter()
                .enumerate()
                .map(|(at, (cost, mb))| (named(at), Price { import: ms(cost), bytes: mb * MB }))
                .collect(),
            requires: requires
                .into_iter()
                .enumerate()
                .map(|(at, needed)| (named(at), needed.into_iter().map(|n| format!("p{n}")).collect()))
                .collect(),
        }
    })
}

fn is_subset(one: &PackageSet, other: &PackageSet) -> bool {
    one.iter().all(|package| other.iter().any(|other| other == package))
}

/// The most that `n` zygotes of whatever packages could save.
fn optimum(question: &Question, n: usize) -> f64 {
    fn search(question: &Question, sets: &[PackageSet], chosen: &mut Vec<PackageSet>, n: usize) -> f64 {
        let here = saved_ms(question, chosen);
        if n == 0 {
            return here;
        }
        let each = (0..sets.len()).map(|at| {
            chosen.push(sets[at].clone());
            let best = search(question, &sets[at + 1..], chosen, n - 1);
            chosen.pop();
            best
        });
        each.fold(here, f64::max)
    }
    // Of all sets those that are the most that some functions may share: any other has less for the same functions.
    let mut sets = Vec::<PackageSet>::new();
    for some in 1..1_u32 << question.needs.len() {
        let needs =
            || question.needs.iter().enumerate().filter(|(at, _)| some >> at & 1 == 1).map(|(_, need)| need);
        let has = |set: &PackageSet, package: &Package| set.iter().any(|one| one == package);
        let first = needs().next().expect("there is one").packages.iter();
        let in_common = first.filter(|package| needs().all(|need| has(&need.packages, package)));
        let mut set = PackageSet::new(in_common.cloned());
        loop {
            let finds_all = |package: &&Package| {
                let used = question.requires.get(*package).into_iter().flat_map(|names| names.iter());
                let mut missed = used.filter(|name| !set.iter().any(|one| one.name == **name));
                !missed.any(|name| needs().any(|need| need.packages.iter().any(|one| one.name == *name)))
            };
            let less = PackageSet::new(set.iter().filter(finds_all).cloned());
            if less.len() == set.len() {
                break;
            }
            set = less;
        }
        if !set.is_empty() && !sets.iter().any(|known| is_subset(known, &set) && is_subset(&set, known)) {
            sets.push(set);
        }
    }
    search(question, &sets, &mut Vec::new(), n)
}

proptest! {
    #[test]
    fn no_node_has_what_one_of_its_functions_does_not_need(question in questions(), mb in 4..60u64, n_nodes in 1..6usize) {
        let bounds = Bounds { n_nodes, n_top: 3, n_levels: 4, bytes: mb * MB };
        let fitted = fit(&question, bounds, &[]);
        prop_assert!(fitted.nodes.len() <= n_nodes && fitted.bytes <= bounds.bytes);
        prop_assert!(fitted.nodes.iter().filter(|node| node.parent.is_none()).count() <= 3);
        let mut level = Vec::new();
        for (at, node) in fitted.nodes.iter().enumerate() {
            let above = node.parent.map(|parent| &fitted.nodes[parent].packages);
            prop_assert!(node.parent.is_none_or(|parent| parent < at));
            level.push(1 + node.parent.map_or(0, |parent| level[parent]));
            prop_assert!(level[at] <= 4);
            prop_assert!(above.is_none_or(|above| is_subset(above, &node.packages)));
            prop_assert!(!node.adds.is_empty() && node.ms_saved >= 0.0);
            // Somebody is forked from it, or was before what lies below was split off.
            prop_assert!(question.needs.iter().any(|need| is_subset(&node.packages, &need.packages)));
        }
        prop_assert!(fitted.ms_saved <= fitted.ms_without + 1e-9);
        let sets: Vec<_> = fitted.nodes.iter().map(|node| node.packages.clone()).collect();
        prop_assert!((saved_ms(&question, &sets) - fitted.ms_saved).abs() < 1e-6);
    }

    #[test]
    fn the_answer_does_not_depend_on_the_order_of_the_question(question in questions(), seed in any::<u64>()) {
        let fitted = fit(&question, ROOMY, &[]);
        let mut other = question.clone();
        other.needs.sort_by_key(|need| {
            need.packages.iter().map(|p| u64::from(p.name.as_bytes()[1])).fold(seed, |a, b| (a ^ b).wrapping_mul(0x9E37_79B9_7F4A_7C15))
        });
        let again = fit(&other, ROOMY, &[]);
        prop_assert_eq!(drawn(&fitted), drawn(&again));
    }

    #[test]
    fn it_saves_a_third_of_what_is_possible_at_least(question in questions(), n_nodes in 1..4usize) {
        let bounds = Bounds { n_nodes, ..ROOMY };
        // What is not worth a node is not made: it is no shortcoming of the search.
        let slack = n_nodes as f64 * 9.0;
        let (ours, best) = (fit(&question, bounds, &[]).ms_saved, optimum(&question, n_nodes));
        prop_assert!(ours <= best + 1e-6, "{ours} of {best}");
        prop_assert!(3.0 * ours + slack >= best, "{ours} of {best}");
    }

    #[test]
    fn a_tree_for_the_same_question_stays_as_it_is(question in questions()) {
        let fitted = fit(&question, ROOMY, &[]);
        let again = fit(&question, ROOMY, &standing(&fitted));
        prop_assert!(again.ms_saved >= fitted.ms_saved - 1e-6);
        let kept = fitted.nodes.iter().all(|node| again.nodes.iter().any(|other| other.packages == node.packages));
        prop_assert!(kept || again.bytes <= fitted.bytes, "{:?} {:?}", drawn(&fitted), drawn(&again));
    }
}
