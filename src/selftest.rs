//! `ol selftest`: whether this machine can hold sandboxes, and whether they hold.
//!
//! ```text
//! machine     what the kernel and the machine have; no worker is needed to know
//! probes      what a function can do to others: each a program in probes/ that really tries
//! noise       what a neighbour notices of a function that takes all it gets: figures, no verdict by time
//! ```
//!
//! A probe has passed only when its attempt was made and came to nothing, and the worker served afterwards. One that
//! could not try is UNSUPPORTED, and says why.

pub mod attempts;
mod judge;
mod machine;
mod noise;
mod plays;
mod probes;
mod report;
mod stage;

pub use judge::{Answer, Finding};
pub use machine::checks as machine_checks;
pub use probes::{InTheOpen, Probe, Scene, in_the_open};
pub use report::{Outcome, Report, Verdict};
pub use stage::{Stage, functions};

use crate::client::Client;

/// A check as `--list` shows it.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    /// `escape.mount`: group and name.
    pub id: &'static str,
    /// What is tried or looked at.
    pub tries: &'static str,
}

impl Listed {
    /// The part of the id before the dot.
    #[must_use]
    pub fn group(&self) -> &'static str {
        self.id.split('.').next().unwrap_or(self.id)
    }

    /// Whether this word chooses it: an id, or a group.
    #[must_use]
    pub fn is_meant_by(&self, word: &str) -> bool {
        word == self.id || word == self.group()
    }
}

/// Every check there is, in the order in which they are made.
#[must_use]
pub fn all() -> Vec<Listed> {
    let machine = machine::LISTED.iter().copied();
    machine.chain(probes::all().map(|probe| probe.listed)).chain(noise::LISTED.iter().copied()).collect()
}

/// Makes the chosen checks that need a worker, and tells each outcome as soon as it is known.
pub async fn run(stage: &Stage, is_chosen: &dyn Fn(&Listed) -> bool, tell: &mut dyn FnMut(Outcome)) {
    for probe in probes::all().filter(|probe| is_chosen(&probe.listed)) {
        let finding = match probe.act(stage).await {
            // Contained is not enough: whoever is contained must not have taken the worker along.
            Finding::Contained(how) => match stage.is_undisturbed().await {
                Ok(()) => Finding::Contained(how),
                Err(why) => Finding::Escaped(format!("{how}; but then {why}")),
            },
            other => other,
        };
        tell(Outcome::of(probe.listed, finding));
    }
    for kind in noise::LISTED.iter().filter(|listed| is_chosen(listed)) {
        tell(Outcome::of(*kind, noise::measure(stage, kind.id).await));
    }
}

/// To a worker on this machine.
#[must_use]
pub fn client(port: u16) -> Client {
    Client::tcp("localhost", port)
}
