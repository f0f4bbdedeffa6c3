//! The machine that it all runs on, and how busy others keep it.

use std::fs;

use serde::Serialize;

/// What the numbers are about, and how much they are worth.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor, as it calls itself.
    pub cpu: String,
    /// Processors that may be used.
    pub n_cpus: usize,
    /// In MiB.
    pub memory_mb: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Load average of the last minute when the run began.
    pub load_at_begin: f64,
    /// The same when it ended; the run itself is part of it.
    pub load_at_end: f64,
    /// Share of the processors' time that was idle in the half second before the run, 0 to 1: what
    /// is missing to 1, others used.
    pub idle_before: Option<f64>,
    /// Share of time that the hypervisor gave to somebody else during the run, 0 to 1.
    pub stolen: Option<f64>,
    #[serde(skip)]
    cpu_at_begin: Option<CpuTimes>,
}

/// How long the machine is watched before the run.
const WATCH: std::time::Duration = std::time::Duration::from_millis(500);

pub(super) fn describe() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
    let before = CpuTimes::now();
    std::thread::sleep(WATCH);
    let now = CpuTimes::now();
    let info = rustix::system::sysinfo();
    Machine {
        cpu: cpu.unwrap_or_else(|| "unknown".into()),
        n_cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory_mb: (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)) >> 20,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        load_at_begin: load(),
        load_at_end: 0.0,
        idle_before: idle_share(before, now),
        stolen: None,
        cpu_at_begin: now,
    }
}

impl Machine {
    pub(super) fn finish(&mut self) {
        self.load_at_end = load();
        self.stolen = CpuTimes::now().zip(self.cpu_at_begin).map(|(now, begin)| {
            let all = now.all.saturating_sub(begin.all).max(1);
            now.stolen.saturating_sub(begin.stolen) as f64 / all as f64
        });
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// What all processors did since the machine started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuTimes {
    all: u64,
    idle: u64,
    stolen: u64,
}

impl CpuTimes {
    pub(super) fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// user nice system idle iowait irq softirq steal ..., proc_stat(5); guest time is part of user.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
        let [_, _, _, idle, io_wait, _, _, stolen] = ticks[..] else { return None };
        Some(Self { all: ticks.iter().sum(), idle: idle + io_wait, stolen })
    }
}

/// Share of the time between two readings that was idle, 0 to 1.
pub(super) fn idle_share(before: Option<CpuTimes>, now: Option<CpuTimes>) -> Option<f64> {
    let (now, before) = now.zip(before)?;
    let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
    Some(now.idle.saturating_sub(before.idle) as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_a_share_of_all_time() {
        let before = CpuTimes::parse("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1\n");
        let now = CpuTimes::parse("cpu  150 0 100 870 60 0 0 20 0 0\n");
        assert_eq!(now.unwrap(), CpuTimes { all: 1200, idle: 930, stolen: 20 });
        assert_eq!(idle_share(before, now), Some(0.4));
        assert_eq!(idle_share(before, before), None);
        assert_eq!(CpuTimes::parse("cpu  1 2\n"), None);
    }

    #[test]
    fn this_machine_can_be_described() {
        assert!(CpuTimes::now().is_some());
        assert!(describe().memory_mb > 0);
    }
}
