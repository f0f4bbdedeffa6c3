//! `limits_max`: the most that the limits of a function may be.

use super::raw::RawLimitsMax;
use super::{Limits, Wrong, wrong};

/// The most that an `ol.yaml` may ask for, by the names of the fields of `limits`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ceiling(Vec<(&'static str, u64)>);

impl Ceiling {
    /// The worker's own limits are what a function has that asks for nothing: none of them may be beyond it.
    pub(super) fn new(raw: &RawLimitsMax, own: &Limits) -> Result<Self, Wrong> {
        let wide = |value: Option<usize>| value.map(|value| value as u64);
        let bounds = [
            ("procs", raw.procs.map(u64::from)),
            ("mem_mb", raw.mem_mb.map(u64::from)),
            ("cpu_percent", raw.cpu_percent.map(u64::from)),
            ("swappiness", raw.swappiness.map(u64::from)),
            ("runtime_sec", raw.runtime_sec),
            ("tmp_mb", raw.tmp_mb.map(u64::from)),
            ("max_instances", wide(raw.max_instances)),
            ("min_warm", wide(raw.min_warm)),
        ];
        let ceiling = Self(bounds.into_iter().filter_map(|(name, most)| Some((name, most?))).collect());
        match ceiling.exceeded_by(own) {
            None => Ok(ceiling),
            Some((name, value, most)) => wrong(
                format!("limits.{name}").as_str(),
                format!("is {value}, and must be at most {most}, the limits_max.{name}"),
            ),
        }
    }

    /// The first limit that is beyond it: its name, its value, and the most that it may be.
    #[must_use]
    pub fn exceeded_by(&self, limits: &Limits) -> Option<(&'static str, u64, u64)> {
        let of = |name| match name {
            "procs" => u64::from(limits.procs),
            "mem_mb" => u64::from(limits.mem_mb),
            "cpu_percent" => u64::from(limits.cpu_percent),
            "swappiness" => u64::from(limits.swappiness),
            "runtime_sec" => limits.runtime.as_secs(),
            "tmp_mb" => u64::from(limits.tmp_mb),
            "max_instances" => limits.max_instances as u64,
            _ => limits.min_warm as u64,
        };
        self.0.iter().map(|&(name, most)| (name, of(name), most)).find(|(_, value, most)| value > most)
    }
}
