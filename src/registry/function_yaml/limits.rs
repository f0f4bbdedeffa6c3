//! `limits` and `network` of `ol.yaml`, and what they come to on a worker.

use std::time::Duration;

use actors::world::Network;
use serde::Deserialize;

use super::{Checked, wrong};
use crate::config::{CALL_TIME_MAX, Config, Limits};

/// The longest that an invocation may be allowed to take.
pub const RUNTIME_MAX: Duration = CALL_TIME_MAX;

/// `limits` of `ol.yaml`: what is left out is the worker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionLimits {
    /// Memory of one sandbox, in MiB.
    pub mem_mb: Option<u32>,
    /// Processor time, in percent of one core.
    pub cpu_percent: Option<u32>,
    /// Processes and threads of one sandbox.
    pub procs: Option<u32>,
    /// How long one invocation may take, in seconds.
    pub runtime_sec: Option<u64>,
    /// Sandboxes at most.
    pub max_instances: Option<usize>,
    /// Sandboxes that are kept when idle.
    pub min_warm: Option<usize>,
    /// Size of the private `/tmp`, in MiB.
    pub tmp_mb: Option<u32>,
}

impl FunctionLimits {
    pub(super) fn check(&self) -> Checked {
        let range = |name, value: Option<u64>, least: u64, most: u64| match value {
            Some(value) if value < least || value > most => {
                wrong(name, format!("is {value}, and must be from {least} to {most}"))
            }
            _ => Ok(()),
        };
        let wide = |value: Option<usize>| value.map(|value| value as u64);
        range("limits.mem_mb", self.mem_mb.map(u64::from), 16, 1024 * 1024)?;
        range("limits.cpu_percent", self.cpu_percent.map(u64::from), 1, 100_000)?;
        range("limits.procs", self.procs.map(u64::from), 1, 32_768)?;
        range("limits.runtime_sec", self.runtime_sec, 1, RUNTIME_MAX.as_secs())?;
        range("limits.max_instances", wide(self.max_instances), 1, 10_000)?;
        range("limits.min_warm", wide(self.min_warm), 0, 10_000)?;
        range("limits.tmp_mb", self.tmp_mb.map(u64::from), 1, 1024 * 1024)
    }

    /// The limits that hold on this worker.
    pub(super) fn on(&self, worker: &Config) -> Checked<Limits> {
        let default = &worker.limits;
        let limits = Limits {
            procs: self.procs.unwrap_or(default.procs),
            mem_mb: self.mem_mb.unwrap_or(default.mem_mb),
            cpu_percent: self.cpu_percent.unwrap_or(default.cpu_percent),
            swappiness: default.swappiness,
            runtime: self.runtime_sec.map_or(default.runtime, Duration::from_secs),
            tmp_mb: self.tmp_mb.unwrap_or(default.tmp_mb),
            max_instances: self.max_instances.unwrap_or(default.max_instances),
            // Fewer instances than the worker keeps warm by default is no contradiction of the author's.
            min_warm: self
                .min_warm
                .unwrap_or_else(|| default.min_warm.min(self.max_instances.unwrap_or(usize::MAX))),
        };
        let mem_mb_max = worker.mem_pool_mb / 2;
        if u64::from(limits.mem_mb) > mem_mb_max {
            return wrong(
                "limits.mem_mb",
                format!("is {}, and this worker gives one sandbox at most {mem_mb_max}", limits.mem_mb),
            );
        }
        if limits.min_warm > limits.max_instances {
            return wrong(
                "limits.min_warm",
                format!(
                    "is {}, which is more than max_instances ({})",
                    limits.min_warm, limits.max_instances
                ),
            );
        }
        if let Some((name, value, most)) = worker.limits_max.exceeded_by(&limits) {
            let problem = format!(
                "is {value}, and this worker allows at most {most} (limits_max.{name} of its config.json): ask for less, or have that raised"
            );
            return wrong(format!("limits.{name}").as_str(), problem);
        }
        Ok(limits)
    }
}

/// `network` of `ol.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NetworkName {
    None,
    Outbound,
    Host,
}

impl NetworkName {
    /// The network that it is, if this worker allows it.
    pub(super) fn on(self, worker: &Config) -> Checked<Network> {
        let rank = |network| match network {
            Network::None => 0,
            Network::Outbound => 1,
            Network::Host => 2,
        };
        let asked = match self {
            Self::None => Network::None,
            Self::Outbound => Network::Outbound,
            Self::Host => Network::Host,
        };
        if rank(asked) > rank(worker.network_max) {
            let problem = "asks for more than network_max of this worker's config.json allows";
            return wrong("network", problem.to_owned());
        }
        Ok(asked)
    }
}
