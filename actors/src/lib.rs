//! The decisions of the OpenLambda worker.
//!
//! No kernel, no HTTP, no files: what the actors need from the world they get through the traits in
//! [`world`], which the root package implements. That keeps every decision testable without root
//! rights and without real time.
//!
//! | actor | owns | decides |
//! |---|---|---|
//! | [`Supervisor`](supervisor::Supervisor) | the tree: one lambda per function, restart budgets, generations | start, restart after a panic, retire, the order of shutdown |
//! | [`Lambda`](lambda::Lambda) | one function's pool of warm sandboxes, its queue, its code, its figures | scale up and down, hand out leases, drain the old generation, freeze, give up sandboxes |
//! | [`RegistryWatcher`](watcher::RegistryWatcher) | the view of the registry | which function is new, changed, gone or broken |
//! | [`Evictor`](evictor::Evictor) | the memory ledger | whom to ask for memory, in which order |
//! | [`Zygotes`](zygotes::Zygotes) | the interpreters that are forked, and the standbys forked from them | which zygote fits, how many standbys wait |
//! | [`Packages`](packages::Packages) | installed packages and installs in flight | one install per package, shared by all who wait |
//! | [`Cron`](cron::Cron) | the schedules | which function is called by the clock, when, and when not |
//! | [`Kafka`](kafka::Kafka) | the readers of Kafka | who reads for which function, and when again |
//! | [`Router`](router::Router) | the lookups under way | the way of a name that is not in the routing table, which the supervisor writes |
//!
//! The words: *function* (what a user uploads), *lambda* (the actor that runs it), *sandbox* (one
//! confined process tree), *zygote* (an interpreter that is forked), *standby* (a confined fork that
//! waits for a function), *lease* (a sandbox on loan to one request), *invocation* (one call),
//! *generation* (one version of a function's code).

#![forbid(unsafe_code)]

pub mod backoff;
pub(crate) mod costs;
pub mod cron;
pub mod demand;
pub mod evictor;
#[cfg(test)]
mod fake;
pub mod first;
pub mod fit;
pub mod flight;
pub mod freshness;
pub(crate) mod gdsf;
pub mod haste;
pub mod import_stats;
pub mod installs;
pub mod kafka;
pub mod lambda;
pub mod lambda_zygotes;
pub mod lane;
pub mod latency;
pub mod link;
pub mod monitor;
pub mod name;
pub mod outcome;
pub mod packages;
pub mod pool;
pub mod router;
pub mod shelves;
pub mod stats;
pub mod supervisor;
pub mod tree;
pub mod triggers;
pub mod watcher;
pub mod world;
pub mod zygotes;
