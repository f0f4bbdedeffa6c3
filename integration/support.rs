//! What every test needs: a worker, a way to call it, patience, and a look at what is left behind.

mod archive;
mod database;
mod folder;
mod footprint;
mod http;
mod index;
mod kafka;
mod network;
mod place;
mod ports;
mod process;
mod programs;
mod random;
pub(crate) mod require;
mod shell;
mod store;
mod wait;
mod worker;

pub(crate) use archive::{Archive, gzipped};
pub(crate) use database::Database;
pub(crate) use folder::{Files, replace_file, write_folder};
pub(crate) use footprint::{Footprint, mounts};
pub(crate) use http::{Expect, RawConnection};
pub(crate) use index::{Index, Package};
pub(crate) use kafka::{Broker, Collector};
pub(crate) use network::Network;
pub(crate) use place::Place;
pub(crate) use ports::free_port;
pub(crate) use process::{Process, all as all_processes};
pub(crate) use programs::{Output, Program};
pub(crate) use random::Random;
pub(crate) use require::requires;
pub(crate) use shell::Shell;
pub(crate) use store::Store;
pub(crate) use wait::{block_on, eventually, patience, until, within};
pub(crate) use worker::{Setup, Worker};

/// Milliseconds since 1970, for what must differ from run to run.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// A number from the environment, for what is short in CI and may be long by hand.
pub(crate) fn number_from(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is a number")),
        Err(_) => otherwise,
    }
}
