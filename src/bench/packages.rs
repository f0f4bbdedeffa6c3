//! First calls of functions that import numpy and pandas, which lie in the worker's packages directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::load::each_once;
use super::report::{Goal, Quantity, Row};
use super::sample::{Sample, median};
use super::site::{self, Site};
use super::workload::{self, Entry};
use super::{BenchError, Run};

/// Goals: p50, in milliseconds.
const WITH_STANDBY_MS_MAX: f64 = 1.0;
const WITHOUT_STANDBY_MS_MAX: f64 = 4.0;
/// Between two calls: the worker has made the next standby by then, and it takes longer than a plain one's 20 ms.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two calls that are forked on demand: as between plain ones, in `cold`.
const ON_DEMAND_PAUSE: Duration = Duration::from_millis(20);
/// How long the worker may take to have the packages imported in a zygote.
const SETTLE: Duration = Duration::from_secs(5);
/// How often the plain import is timed.
const N_PLAIN_IMPORTS: usize = 7;
/// What is imported, and what that needs.
const WANTED: [&str; 2] = ["numpy", "pandas"];
const NEEDED: [&str; 6] = ["numpy", "pandas", "python-dateutil", "pytz", "tzdata", "six"];
const CODE: &str =
    "import numpy\nimport pandas\n\n\ndef f(event):\n    return f\"Hello, {event['name']}!\"\n";
/// Of its own import, without what a sandbox is held to take by default.
const MEMORY_MB: u32 = 512;

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    let found = installed(&run.plan.target.packages_dir);
    if let Some(missing) = WANTED.iter().find(|name| !found.iter().any(|(found, _)| found == *name)) {
        eprintln!(
            "ol bench: 'packages' is left out: there is no {missing} in {} (docs/PACKAGES.md says how to put it there)",
            run.plan.target.packages_dir.display()
        );
        return Ok(());
    }
    let imports = plain_imports(&run.plan.target.python, &found)?;
    let n = run.plan.n_cold;
    let names = workload::new_names("pkg", 1 + n);
    let requirements: String = found
        .iter()
        .filter_map(|(_, path)| path.file_name()?.to_str())
        .map(|line| format!("{line}\n"))
        .collect();
    let calls = |names: &[String]| names.iter().map(|name| workload::call(name)).collect::<Vec<_>>();
    let row = |what: &str, limit, sample: &Sample| {
        let what = format!("{n} never-called lambdas with numpy + pandas, {what}");
        let mut row = Row::of("packages", &what, sample).without_rate();
        row.goals.push(Goal::at_most("p50 ms", limit, sample.percentile_us(50.0) / 1e3));
        row
    };
    let (first, with_standby) = names.split_at(1);
    let measured = async {
        run.tell("packages: the first function");
        run.upload_as(&names, |_| entry(&requirements)).await?;
        let at_first = each_once(run.address, &calls(first), 1, Duration::ZERO).await;
        tokio::time::sleep(SETTLE).await;
        run.tell("packages: a standby from their zygote");
        Ok((at_first, each_once(run.address, &calls(with_standby), 1, PAUSE).await))
    };
    let measured: Result<_, BenchError> = measured.await;
    run.remove(&names).await;
    let (at_first, sample) = measured?;
    run.report.add(Row::of("packages", "the first lambda with numpy + pandas", &at_first));
    run.report.add(row("a standby from their zygote", WITH_STANDBY_MS_MAX, &sample));

    run.tell("packages: forked from their zygote on demand");
    let place = site::place()?;
    let names = workload::new_names("demand", n + 1);
    let functions: Vec<_> = names.iter().map(|name| (name.clone(), files(&requirements))).collect();
    let options = ["standbys=0".to_owned()];
    let packages = &run.plan.target.packages_dir;
    let site = Site::start(&place.path().join("ol"), Some(packages), &options, &functions)?;
    drop(each_once(site.address, &calls(&names[..1]), 1, Duration::ZERO).await);
    site.settled().await?;
    let sample = each_once(site.address, &calls(&names[1..]), 1, ON_DEMAND_PAUSE).await;
    site.stop()?;
    run.report.add(row("forked from their zygote on demand", WITHOUT_STANDBY_MS_MAX, &sample));
    if let Some(ms) = median(imports) {
        let what = format!("'import numpy, pandas' in a plain python3, median of {N_PLAIN_IMPORTS}");
        run.report.add_quantity(Quantity::new("packages", what, ms, "ms"));
    }
    Ok(())
}

fn files(requirements: &str) -> Vec<(&'static str, String)> {
    vec![
        ("f.py", CODE.to_owned()),
        ("requirements.txt", requirements.to_owned()),
        ("ol.yaml", format!("limits:\n  mem_mb: {MEMORY_MB}\n")),
    ]
}

fn entry(requirements: &str) -> Entry {
    let files = files(requirements);
    Entry::of(&files.iter().map(|(name, text)| (*name, text.as_str())).collect::<Vec<_>>())
}

/// Of what is needed, what is there: one version of each, with its directory.
fn installed(packages: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(packages).into_iter().flatten().flatten();
    let mut found: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (name, _) = name.split_once("==")?;
            let name = crate::packages::normalise(name)?;
            (NEEDED.contains(&name.as_str()) && entry.path().join("files").is_dir())
                .then(|| (name, entry.path()))
        })
        .collect();
    found.sort();
    found.dedup_by(|one, other| one.0 == other.0);
    found
}

/// How long the import takes in an interpreter that has just started, each time a new one, in milliseconds.
fn plain_imports(python: &Path, found: &[(String, PathBuf)]) -> Result<Vec<f64>, BenchError> {
    let failed =
        |source| BenchError::Floor { what: "import numpy and pandas in a plain interpreter", source };
    let paths: Vec<PathBuf> = found.iter().map(|(_, path)| path.join("files")).collect();
    let path = std::env::join_paths(paths).map_err(|error| failed(std::io::Error::other(error)))?;
    let code = "import time\nbegan = time.perf_counter()\nimport numpy, pandas\nprint((time.perf_counter() - began) * 1e3)";
    (0..N_PLAIN_IMPORTS)
        .map(|_| {
            let output = Command::new(python)
                .args(["-B", "-c", code])
                .env("PYTHONPATH", &path)
                .output()
                .map_err(failed)?;
            let said = String::from_utf8_lossy(&output.stdout);
            said.trim().parse().map_err(|_| {
                failed(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_found_once_each() {
        let place = tempfile::tempdir().unwrap();
        for name in ["numpy==1", "NumPy==2", "pandas==2", "flask==3", "six"] {
            fs::create_dir_all(place.path().join(name).join("files")).unwrap();
        }
        let names: Vec<_> = installed(place.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["numpy", "pandas"]);
    }
}
