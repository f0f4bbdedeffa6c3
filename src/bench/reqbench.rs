//! Functions that need many packages, each called once, as in Forklift's ReqBench: with no zygotes of packages, and with a tree that was fitted to
//! other functions.
//!
//! Half of the functions are called to train the tree, which the worker does by itself; the tree is then written out, and the other half is
//! called on workers that have never seen them: one without zygotes of packages, one with that tree. And on a third, where all functions are
//! deployed, the first half is called, and the tree fits itself to what was called and, less, to what was deployed. Five clients, each call
//! the first of its function. The workers are the benchmark's own, and differ in their configuration only (`features.import_cache`,
//! `import_cache_tree`).

pub(super) mod graph;
pub(super) mod model;

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use actors::packages::{Package, PackageSet};
use actors::world::PackageStore;
use actors::zygotes::fitting::bounds;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::Value;

use super::call::Call;
use super::load::each_once;
use super::memory::{pss_bytes, pss_of_groups};
use super::report::{Goal, Quantity, Row};
use super::sample::Sample;
use super::site::{Function, Site, place};
use super::{BenchError, Run};
use crate::packages::{PackagesDir, Sources};
use graph::{Graph, N_PACKAGES};

/// Clients, as in Forklift's runs.
const N_CLIENTS: usize = 5;
/// Functions, as in ReqBench; half of them are for training.
const N_FUNCTIONS: usize = 730;
/// Of the first few that one whose functions have as many packages as ReqBench's, 9.9 on average.
const SEED: u64 = 3;
/// Functions of real wheels.
const N_WHEEL_FUNCTIONS: usize = 60;
/// What these import, each with all that it needs.
const WHEELS: [&str; 5] = ["numpy", "pandas", "requests", "flask", "sqlalchemy"];
/// What a function with all of them takes.
const MEMORY_MB: u32 = 512;
/// Memory for all zygotes: Forklift's trees take less than 6 GB.
const ZYGOTES_MB: u32 = 4_096;
/// Goals.
const OF_ROOT_MIN: f64 = 5.0;
const OF_INTERPRETERS_MAX: f64 = 0.5;
const OF_FIRST_MATCH_MIN: f64 = 1.3;
const FIT_S_MAX: f64 = 2.0;
/// The question that is to be answered in that time.
const FIT_FUNCTIONS: usize = 1_000;
const FIT_PACKAGES: usize = 500;

/// Functions with names and files, and a directory with their packages.
struct Workload {
    name: &'static str,
    packages: PathBuf,
    functions: Vec<Function>,
}

/// What was measured of it.
struct Measured {
    root: Sample,
    fitted: Sample,
    /// The tree, as its worker shows it.
    tree: Value,
}

/// The made-up packages.
pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    let place = place()?;
    let graph = graph::make(N_PACKAGES, N_FUNCTIONS, SEED);
    let packages = place.path().join("packages");
    write_packages(&packages, &graph).map_err(|source| BenchError::File {
        what: "write",
        path: packages.clone(),
        source,
    })?;
    let functions = graph.functions.iter().enumerate().map(|(at, function)| {
        let names = function.direct.iter().map(|at| graph.packages[*at].name.as_str());
        let requirements = function.all.iter().map(|at| graph.packages[*at].directory());
        (format!("req-{at}"), files(names, requirements))
    });
    let workload = Workload { name: "reqbench", packages, functions: functions.collect() };
    let measured = compare(run, place.path(), &workload).await?;
    let (train, test) = graph.functions.split_at(graph.functions.len() / 2);
    let (trained, tested) = (model::question(&graph, train), model::question(&graph, test));
    let sets = sets_of(&measured.tree);
    let saved = actors::fit::saved_ms(&tested, &sets);
    let all = model::left_over_ms(&tested, 0.0);
    let add = |run: &mut Run, what: &str, value: f64, unit| {
        run.report.add_quantity(Quantity::new("reqbench", what, value, unit));
    };
    add(run, "imports of a tested function, mean", all, "ms");
    add(
        run,
        "of these imported by its zygote",
        100.0 * (1.0 - model::left_over_ms(&tested, saved) / all),
        "%",
    );
    let measured_at = |left_over, sample: &Sample| (left_over, sample.per_s());
    let line = (
        measured_at(all, &measured.root),
        measured_at(model::left_over_ms(&tested, saved), &measured.fitted),
    );
    let large_enough = bounds(u64::from(ZYGOTES_MB) << 20);
    let same = model::nodes_of(&model::fitted_tree(&trained, large_enough));
    for (what, tree, limit) in [
        ("the first match in a tree fitted as ours", same, None),
        (
            "the first match in OpenLambda's shape, 40 single packages",
            model::static_tree(&trained),
            Some(OF_FIRST_MATCH_MIN),
        ),
    ] {
        let left_over = model::left_over_ms(&tested, model::first_match_ms(&tested, &tree));
        add(run, &format!("of these imported by {what}"), 100.0 * (1.0 - left_over / all), "%");
        if let Some(per_s) = model::calls_per_s(line.0, line.1, left_over) {
            add(run, &format!("with {what}, by arithmetic"), per_s, "calls/s");
            let ratio = Quantity::new(
                "reqbench",
                format!("fitted tree, of {what}"),
                measured.fitted.per_s() / per_s,
                "x",
            );
            run.report.add_quantity(match limit {
                Some(limit) => ratio.at_least(limit),
                None => ratio,
            });
        }
    }
    let large = graph::make(FIT_PACKAGES, FIT_FUNCTIONS, SEED);
    let question = model::question(&large, &large.functions);
    let began = Instant::now();
    let fitted = actors::fit::fit(&question, bounds(u64::from(ZYGOTES_MB) << 20), &[]);
    let took = began.elapsed().as_secs_f64();
    let what = format!(
        "fit of {FIT_FUNCTIONS} functions over {FIT_PACKAGES} packages, {} zygotes",
        fitted.nodes.len()
    );
    run.report.add_quantity(Quantity::new("reqbench", what, took, "s").at_most(FIT_S_MAX));
    Ok(())
}

/// Packages that people use, if the worker has them.
pub(super) async fn measure_wheels(run: &mut Run) -> Result<(), BenchError> {
    let packages = run.plan.target.packages_dir.clone();
    let failed = |source| BenchError::File { what: "read", path: packages.clone(), source };
    let store = looked_at(&packages).map_err(failed)?;
    let mut closed = Vec::new();
    for name in WHEELS {
        match closure(&store, name).await {
            Ok(set) => closed.push((name, set)),
            Err(error) => {
                eprintln!("ol bench: 'wheels' is left out: {error}");
                return Ok(());
            }
        }
    }
    let mut random = StdRng::seed_from_u64(SEED);
    let functions = (0..N_WHEEL_FUNCTIONS).map(|at| {
        let n = 1 + at % closed.len();
        let chosen: Vec<_> = closed.choose_multiple(&mut random, n).collect();
        let all = PackageSet::new(chosen.iter().flat_map(|(_, set)| set.iter().cloned()));
        let files =
            files(chosen.iter().map(|(name, _)| *name), all.iter().map(|package| package.directory.clone()));
        (format!("wheel-{at}"), files)
    });
    let workload = Workload { name: "wheels", packages: packages.clone(), functions: functions.collect() };
    compare(run, place()?.path(), &workload).await.map(drop)
}

/// Packages to be looked at; nothing is installed.
fn looked_at(directory: &Path) -> io::Result<PackagesDir> {
    const MINOR: u32 = 11;
    PackagesDir::open(
        directory,
        MINOR,
        Sources::default(),
        Err("a benchmark installs nothing".to_owned()),
        u64::MAX,
    )
}

/// A package with all that it needs, as far as that is there.
async fn closure(store: &PackagesDir, name: &str) -> Result<PackageSet, String> {
    let mut found: Vec<Package> = Vec::new();
    let mut open = vec![name.to_owned()];
    while let Some(name) = open.pop() {
        if found.iter().any(|package| package.name == name) {
            continue;
        }
        let package = match store.find(vec![vec![name.clone()]]).await.into_iter().next() {
            Some(Ok(set)) => set.iter().next().cloned(),
            // Needed on other machines only, or not at all: only the first must be there.
            Some(Err(error)) if found.is_empty() => return Err(error.to_string()),
            _ => None,
        };
        if let Some(package) = package {
            open.extend(store.requires(vec![package.clone()]).await.into_iter().flatten());
            found.push(package);
        }
    }
    Ok(PackageSet::new(found))
}

fn files<'a>(
    imports: impl Iterator<Item = &'a str>,
    requirements: impl Iterator<Item = String>,
) -> Vec<(&'static str, String)> {
    let imports: String = imports.map(|name| format!("import {name}\n")).collect();
    vec![
        ("f.py", format!("{imports}\n\ndef f(event):\n    return \"done\"\n")),
        ("requirements.txt", requirements.map(|line| line + "\n").collect()),
        ("ol.yaml", format!("limits:\n  mem_mb: {MEMORY_MB}\n")),
    ]
}

/// Calls the functions of the second half without zygotes, and with a tree that was fitted to the first half.
async fn compare(run: &mut Run, place: &Path, workload: &Workload) -> Result<Measured, BenchError> {
    let Workload { name, packages, functions } = workload;
    let (train, test) = functions.split_at(functions.len() / 2);
    let calls = |functions: &[Function]| -> Vec<Call> {
        functions.iter().map(|(name, _)| Call::post(&format!("/run/{name}"), "{}", "\"done\"")).collect()
    };
    let start = |what: &str, options: &[String], functions: &[Function]| {
        // So that none is given up while it is measured.
        let more = [format!("import_cache_mb={ZYGOTES_MB}"), "release_after_s=0".to_owned()];
        Site::start(&place.join(what), Some(packages), &[&more, options].concat(), functions)
    };

    run.tell(format!("{name}: without zygotes of packages"));
    let site = start("root", &["features.import_cache=".to_owned()], test)?;
    let root = each_once(site.address, &calls(test), N_CLIENTS, Duration::ZERO).await;
    site.stop()?;
    run.report.add(Row::of(name, &format!("{} functions, root zygote only", test.len()), &root));

    run.tell(format!("{name}: training"));
    let site = start("train", &[], train)?;
    let trained = each_once(site.address, &calls(train), N_CLIENTS, Duration::ZERO).await;
    run.report.add(Row::of(
        name,
        &format!("{} others, while the tree fits itself to them", train.len()),
        &trained,
    ));
    let (_, settled) = site.settled().await?;
    let tree = site.client().get("/zygotes/tree").await?.text();
    site.stop()?;
    run.report.add_quantity(Quantity::new(name, "until the tree stood still", settled.as_secs_f64(), "s"));

    run.tell(format!("{name}: with the fitted tree"));
    let file = place.join("tree.json");
    fs::write(&file, tree).map_err(|source| BenchError::File {
        what: "write",
        path: file.clone(),
        source,
    })?;
    let site = start("fitted", &[format!("import_cache_tree={}", file.display())], test)?;
    let (tree, _) = site.settled().await?;
    let fitted = each_once(site.address, &calls(test), N_CLIENTS, Duration::ZERO).await;
    let (zygotes, n_zygotes) = pss_of_groups(&site.cgroup_root, "zygote-");
    let worker = site.pid().and_then(pss_bytes).unwrap_or(0.0);
    site.stop()?;
    let ratio = fitted.per_s() / root.per_s();
    let mut row = Row::of(name, &format!("{} functions, tree of {n_zygotes} zygotes", test.len()), &fitted);
    row.goals.push(Goal::at_least("calls/s of root only", OF_ROOT_MIN, ratio));
    run.report.add(row);

    run.tell(format!("{name}: with a tree that knows what was deployed"));
    let site = start("deployed", &[], functions)?;
    drop(each_once(site.address, &calls(train), N_CLIENTS, Duration::ZERO).await);
    site.settled().await?;
    let deployed = each_once(site.address, &calls(test), N_CLIENTS, Duration::ZERO).await;
    site.stop()?;
    let mut row =
        Row::of(name, &format!("{} functions, deployed while the tree fitted itself", test.len()), &deployed);
    row.goals.push(Goal::at_least("calls/s of root only", OF_ROOT_MIN, deployed.per_s() / root.per_s()));
    run.report.add(row);

    run.tell(format!("{name}: as many interpreters"));
    let interpreters = interpreters(&run.plan.target.python, packages, &tree)
        .map_err(|source| BenchError::Floor { what: "start plain interpreters", source })?;
    let mut add =
        |what: &str, value: f64| run.report.add_quantity(Quantity::new(name, what, value / 1e6, "MB"));
    add(&format!("{n_zygotes} zygotes, PSS"), zygotes);
    add("the worker with them, PSS", worker);
    add("as many interpreters with the same packages, PSS", interpreters);
    let of = Quantity::new(name, "zygotes, of that", zygotes / interpreters, "x");
    run.report.add_quantity(of.at_most(OF_INTERPRETERS_MAX));
    Ok(Measured { root, fitted, tree })
}

/// What each zygote holds.
fn sets_of(tree: &Value) -> Vec<PackageSet> {
    let package = |text: &str| {
        let (name, version) = text.split_once("==").unwrap_or((text, ""));
        Package { name: name.to_owned(), version: version.to_owned(), directory: text.to_owned() }
    };
    let holds = |node: &Value| -> PackageSet {
        PackageSet::new(node["holds"].as_array().into_iter().flatten().filter_map(Value::as_str).map(package))
    };
    tree["nodes"].as_array().into_iter().flatten().map(holds).collect()
}

/// What as many interpreters take as there are zygotes, each with the packages of one, started by itself.
fn interpreters(python: &Path, packages: &Path, tree: &Value) -> io::Result<f64> {
    const CODE: &str = "
import importlib, os, sys
for path in sys.argv[1:]:
    sys.path.append(path)
for path in sys.argv[1:]:
    for entry in sorted(os.listdir(path)):
        name = entry.split('.')[0]
        if entry.endswith('.py') or os.path.isfile(os.path.join(path, entry, '__init__.py')):
            try:
                importlib.import_module(name)
            except BaseException:
                pass
print('ready', flush=True)
sys.stdin.read()
";
    let mut running = Killed(Vec::new());
    for set in sets_of(tree) {
        let paths = set.iter().map(|package| packages.join(&package.directory).join("files"));
        let child = Command::new(python)
            .args(["-B", "-c", CODE])
            .args(paths)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        running.0.push(child);
        let output = running.0.last_mut().and_then(|child| child.stdout.take());
        let mut line = String::new();
        if let Some(output) = output {
            BufReader::new(output).read_line(&mut line)?;
        }
    }
    Ok(running.0.iter().filter_map(|child| pss_bytes(child.id().cast_signed())).sum())
}

/// They end with this.
struct Killed(Vec<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended already is as good.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Each package as a module that imports what it needs, keeps the processor busy for its time, and touches its memory.
fn write_packages(directory: &Path, graph: &Graph) -> io::Result<()> {
    for package in &graph.packages {
        let files = directory.join(package.directory()).join("files");
        let info = files.join(format!("{}-{}.dist-info", package.name, package.version));
        fs::create_dir_all(&info)?;
        let imports: String = package.requires.iter().map(|name| format!("import {name}\n")).collect();
        let code = format!(
            "import time\n{imports}\n_end = time.process_time() + {:.6}\nKEPT = bytearray(b'x') * {}\nwhile time.process_time() < _end:\n    pass\n",
            package.import_ms / 1e3,
            package.bytes
        );
        fs::write(files.join(format!("{}.py", package.name)), code)?;
        let needed: String = package.requires.iter().map(|name| format!("Requires-Dist: {name}\n")).collect();
        let metadata =
            format!("Metadata-Version: 2.1\nName: {}\nVersion: {}\n{needed}", package.name, package.version);
        fs::write(info.join("METADATA"), metadata)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packages_are_written_so_that_the_worker_understands_them() {
        let place = tempfile::tempdir().unwrap();
        let graph = graph::make(40, 10, 5);
        write_packages(place.path(), &graph).unwrap();
        let store = looked_at(place.path()).unwrap();
        let lists: Vec<Vec<String>> = graph
            .functions
            .iter()
            .map(|function| function.all.iter().map(|at| graph.packages[*at].directory()).collect())
            .collect();
        for found in store.find(lists).await {
            let needed = store.requires(found.unwrap().iter().cloned().collect()).await;
            assert!(needed.iter().flatten().all(|name| name.starts_with("made")));
        }
    }
}
