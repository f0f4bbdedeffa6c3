//! The probes: what is tried, by which program, and what of its answer means that it came to nothing.
//!
//! Each group has its table in a file of its own, beside the programs. The order is that in which they are made: what reads first, what takes all it gets last.

mod escape;
mod network;
mod resources;
mod tenants;

use std::path::PathBuf;

use serde_json::Value;

use super::Listed;
use super::judge::{Answer, Finding};
use super::plays::Play;
use super::stage::{Stage, program_of};

/// One attempt, or several of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// What `--list` shows.
    pub listed: Listed,
    /// The function of the stage that tries.
    function: &'static str,
    way: Way,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    /// One call, and its answer says it all. `open`: what to ask where there is no sandbox around the program, to see
    /// that the probe can fail; `None` where that would do harm.
    Ask { event: fn(&Scene) -> Value, judge: fn(&Answer) -> Finding, open: Option<fn(&Scene) -> Value> },
    /// What takes a look from outside as well.
    Play(Play),
}

/// What of the machine a probe is told, so that it knows whom to try.
#[derive(Debug)]
pub struct Scene {
    /// Processes of others.
    pub pids: Vec<i32>,
    /// Where somebody listens.
    pub port: u16,
    /// The worker's directory.
    pub ol_dir: PathBuf,
}

/// A probe for a process that no sandbox is around.
#[derive(Debug)]
pub struct InTheOpen {
    /// Whose.
    pub id: &'static str,
    /// The program, of which `f` is called.
    pub program: &'static str,
    /// The module `raw` that it imports.
    pub raw: &'static str,
    /// With this.
    pub event: Value,
    judge: fn(&Answer) -> Finding,
}

impl InTheOpen {
    /// What an answer means.
    #[must_use]
    pub fn judge(&self, answer: &Answer) -> Finding {
        (self.judge)(answer)
    }
}

/// The probes that do no harm where nothing holds them, and so can show that they tell a wall from none.
#[must_use]
pub fn in_the_open(scene: &Scene) -> Vec<InTheOpen> {
    all()
        .filter_map(|probe| {
            let Way::Ask { judge, open: Some(event), .. } = probe.way else { return None };
            let (program, raw) = program_of(probe.function);
            Some(InTheOpen { id: probe.listed.id, program, raw, event: event(scene), judge })
        })
        .collect()
}

pub(super) fn all() -> impl Iterator<Item = &'static Probe> {
    [escape::PROBES, network::PROBES, tenants::PROBES, resources::PROBES].into_iter().flatten()
}

const fn ask(
    id: &'static str,
    tries: &'static str,
    function: &'static str,
    event: fn(&Scene) -> Value,
    judge: fn(&Answer) -> Finding,
    open: Option<fn(&Scene) -> Value>,
) -> Probe {
    Probe { listed: Listed { id, tries }, function, way: Way::Ask { event, judge, open } }
}

const fn play(id: &'static str, tries: &'static str, function: &'static str, play: Play) -> Probe {
    Probe { listed: Listed { id, tries }, function, way: Way::Play(play) }
}

/// Errors by which the file system refuses, whatever was tried first.
const NO_CHANGE: &[&str] = &[
    "EROFS",
    "EACCES",
    "EPERM",
    "EISDIR",
    "ENOENT",
    "EBUSY",
    "EXDEV",
    "EINVAL",
    "EOPNOTSUPP",
    "ELOOP",
    "ENOTDIR",
];

impl Probe {
    /// Lets it try.
    pub(super) async fn act(&self, stage: &Stage) -> Finding {
        match self.way {
            Way::Ask { event, judge, .. } => {
                let scene =
                    Scene { pids: foreign_pids(stage), port: stage.port, ol_dir: stage.ol_dir.clone() };
                stage
                    .ask(self.function, &event(&scene))
                    .await
                    .map_or_else(|finding| finding, |answer| judge(&answer))
            }
            Way::Play(play) => play.act(stage, self.function).await.unwrap_or_else(|finding| finding),
        }
    }
}

/// Small numbers mean somebody of the sandbox's own there.
fn foreign_pids(stage: &Stage) -> Vec<i32> {
    let mut pids = stage.processes();
    pids.push(std::process::id().cast_signed());
    pids.retain(|&pid| pid > 100);
    pids
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_probes_have_one_name() {
        let ids: BTreeSet<_> = all().map(|probe| probe.listed.id).collect();
        assert_eq!(ids.len(), all().count());
        assert!(ids.iter().all(|id| id.split_once('.').is_some()));
    }
}
