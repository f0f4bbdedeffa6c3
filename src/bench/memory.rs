//! What the worker weighs by itself, and what one more idle sandbox adds.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use slog::{Discard, Logger, o};

use super::fork::Forker;
use super::load::each_once;
use super::report::Quantity;
use super::{BenchError, Run, workload};
use crate::sandbox::cgroup::CgroupRoot;

/// Functions that are called once and then left alone.
const N_IDLE: usize = 20;
/// How long memory has to stay within 1 % to count as settled, and how long it is waited for.
const STILL: Duration = Duration::from_millis(500);
const TRIES_MAX: usize = 20;

/// Goal: MB of the worker itself.
pub(super) const PSS_MB_MAX: f64 = 30.0;

/// Goal: MB of one more idle sandbox. A bare fork of the same interpreter takes 1.35.
const SANDBOX_MB_MAX: f64 = 1.6;

const MB: f64 = 1e6;

/// Processes, by what their memory is counted to. Bytes of proportional set size: shared pages are counted
/// in parts, so that the sum over all processes is what they take together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Memory {
    /// The worker itself.
    pub(super) worker: f64,
    /// What else descends from it, outside of the sandboxes' cgroups.
    helpers: f64,
    /// What runs in the sandboxes' cgroups: zygotes, standbys and sandboxes with a function.
    pub(super) sandboxes: f64,
    pub(super) n_sandboxes: usize,
    /// Charged to the sandboxes' cgroups, kernel memory included.
    pub(super) charged: f64,
}

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    let names = workload::new_names("idle", N_IDLE);
    let uploaded = run.upload(&names).await;
    let (before, after) = if uploaded.is_ok() { called(run, &names).await } else { Default::default() };
    run.remove(&names).await;
    uploaded?;
    let bare_fork = bare_fork(&Forker::start(&run.plan.target.python)?)?;

    let worker = Quantity::new("memory", "worker as the run found it, PSS", before.worker / MB, "MB");
    run.report.add_quantity(worker.at_most(PSS_MB_MAX));
    let mut add =
        |what: &str, bytes: f64| run.report.add_quantity(Quantity::new("memory", what, bytes / MB, "MB"));
    add("its helpers outside of cgroups, PSS", before.helpers);
    add(
        &format!("{} zygotes, standbys and sandboxes that were there, PSS", before.n_sandboxes),
        before.sandboxes,
    );
    add(&format!("floor: one more bare fork of {N_IDLE}, PSS"), bare_fork);
    let n_new = after.n_sandboxes.saturating_sub(before.n_sandboxes);
    if n_new > 0 {
        let each = |after: f64, before: f64| (after - before) / n_new as f64;
        let sandbox = each(after.sandboxes, before.sandboxes) / MB;
        let sandbox =
            Quantity::new("memory", format!("one more idle sandbox of {n_new}, PSS"), sandbox, "MB");
        run.report.add_quantity(sandbox.at_most(SANDBOX_MB_MAX));
        let mut add =
            |what: &str, bytes: f64| run.report.add_quantity(Quantity::new("memory", what, bytes / MB, "MB"));
        add(
            &format!("one more idle sandbox of {n_new}, charged to cgroups"),
            each(after.charged, before.charged),
        );
        add(
            &format!("one more idle sandbox of {n_new}, PSS of the worker"),
            each(after.worker, before.worker),
        );
    }
    Ok(())
}

/// What each of some forks adds that serve the same function and have nothing else around them.
fn bare_fork(forker: &Forker) -> Result<f64, BenchError> {
    let pss = || {
        let processes = processes();
        let ours = |process: &&Process| {
            process.pid == forker.pid() || descends(&processes, process.pid, forker.pid())
        };
        processes.iter().filter(ours).filter_map(|process| pss_bytes(process.pid)).sum::<f64>()
    };
    let before = pss();
    let forks = forker.keep(N_IDLE)?;
    let after = pss();
    drop(forks);
    Ok((after - before) / N_IDLE as f64)
}

async fn called(run: &mut Run, names: &[String]) -> (Memory, Memory) {
    run.tell("memory: before");
    let before = settled(run).await;
    run.tell("memory: idle sandboxes");
    let calls: Vec<_> = names.iter().map(|name| workload::call(name)).collect();
    let sample = each_once(run.address, &calls, 1, Duration::from_millis(50)).await;
    if let Some(error) = sample.first_error {
        run.progress.println(format!("ol bench: memory: {} calls failed: {error}", sample.n_errors));
    }
    (before, settled(run).await)
}

/// How many sandboxes there are, zygotes and standbys included.
pub(super) fn n_sandboxes(run: &Run) -> usize {
    read(run.plan.target.pid, &run.plan.target.cgroup_root).n_sandboxes
}

async fn settled(run: &Run) -> Memory {
    settled_of(run.plan.target.pid, &run.plan.target.cgroup_root).await
}

/// What a worker and its sandboxes take, when that has come to rest.
pub(super) async fn settled_of(pid: i32, cgroup_root: &str) -> Memory {
    let read = || read(pid, cgroup_root);
    let mut last = read();
    for _ in 0..TRIES_MAX {
        tokio::time::sleep(STILL).await;
        let now = read();
        let is_still =
            now.n_sandboxes == last.n_sandboxes && (now.charged - last.charged).abs() <= now.charged * 0.01;
        last = now;
        if is_still {
            break;
        }
    }
    last
}

fn read(worker: i32, cgroup_root: &str) -> Memory {
    let mut memory = Memory { worker: pss_bytes(worker).unwrap_or(0.0), ..Memory::default() };
    let mut groups = BTreeSet::new();
    let processes: Vec<Process> = processes();
    for process in &processes {
        let Some(pss) = pss_bytes(process.pid) else { continue };
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
        match sandbox_of(&cgroups, cgroup_root) {
            Some(group) => {
                memory.sandboxes += pss;
                groups.insert(group.to_owned());
            }
            None if process.pid != worker && descends(&processes, process.pid, worker) => {
                memory.helpers += pss
            }
            None => {}
        }
    }
    memory.n_sandboxes = groups.len();
    memory.charged = CgroupRoot::open(cgroup_root, None, Logger::root(Discard, o!()))
        .map_or(0.0, |root| root.memory_bytes() as f64);
    memory
}

/// What the processes in the groups below `root` whose names begin so take together, and how many groups that are.
pub(super) fn pss_of_groups(root: &str, prefix: &str) -> (f64, usize) {
    let mut groups = BTreeSet::new();
    let mut bytes = 0.0;
    for process in processes() {
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
        if let Some(group) = sandbox_of(&cgroups, root).filter(|group| group.starts_with(prefix)) {
            bytes += pss_bytes(process.pid).unwrap_or(0.0);
            groups.insert(group.to_owned());
        }
    }
    (bytes, groups.len())
}

/// `Pss:` of `smaps_rollup`, in bytes; `None` when the process has gone.
pub(super) fn pss_bytes(pid: i32) -> Option<f64> {
    parse_pss(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_pss(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

/// Which group below `root` the lines of `/proc/<pid>/cgroup` name, if any. Groups may lie deeper: the
/// sandbox is the first level.
fn sandbox_of<'a>(cgroups: &'a str, root: &str) -> Option<&'a str> {
    cgroups.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        let mut parts = path.split('/').skip_while(|part| *part != root);
        parts.next()?;
        parts.next().filter(|group| !group.is_empty())
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Process { pid, parent: parse_parent(&stat)? })
    })
    .collect()
}

/// The fourth field; the second may hold blanks and parentheses.
fn parse_parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn descends(processes: &[Process], pid: i32, from: i32) -> bool {
    let mut at = pid;
    // Bounded: pids may be given anew while the list is read.
    for _ in 0..processes.len() {
        match processes.iter().find(|process| process.pid == at) {
            Some(process) if process.parent == from => return true,
            Some(process) if process.parent > 0 => at = process.parent,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proportional_memory_is_read_in_bytes() {
        let text = "55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:    9000 kB\nPss:                1234 kB\nPss_Anon: 1 kB\n";
        assert_eq!(parse_pss(text), Some(1234.0 * 1024.0));
        assert_eq!(parse_pss("Rss: 1 kB\n"), None);
        assert!(pss_bytes(std::process::id().cast_signed()).is_some_and(|bytes| bytes > 1e5));
    }

    #[test]
    fn sandboxes_are_told_by_the_group_below_the_root() {
        let text = "5:memory:/ol-x-sandboxes/7\n0::/ol-x-sandboxes/7/inner\n";
        assert_eq!(sandbox_of(text, "ol-x-sandboxes"), Some("7"));
        assert_eq!(sandbox_of("0::/ol-x-sandboxes\n", "ol-x-sandboxes"), None);
        assert_eq!(sandbox_of("0::/user.slice/ol-x-sandboxes/3\n", "ol-x-sandboxes"), Some("3"));
        assert_eq!(sandbox_of("0::/\n", "ol-x-sandboxes"), None);
    }

    #[test]
    fn children_of_children_descend_and_cycles_end() {
        let process = |pid, parent| Process { pid, parent };
        let processes =
            [process(1, 0), process(5, 1), process(6, 5), process(7, 6), process(8, 9), process(9, 8)];
        assert!(descends(&processes, 7, 5) && descends(&processes, 6, 5));
        assert!(!descends(&processes, 5, 7) && !descends(&processes, 8, 5) && !descends(&processes, 4, 5));
        assert_eq!(parse_parent("12 (a) b (c) S 3 12 12"), Some(3));
    }
}
