//! The OpenLambda worker: its programs and its mechanism. The decisions are in the crate `actors`.
//!
//! Arrows go one way: `cli → serve → {http, registry, sandbox} → actors`, never back.

pub mod address;
#[cfg(test)]
mod architecture;
pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod dep_trace;
pub(crate) mod fd;
pub mod field;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod http;
pub mod image;
pub mod json;
pub mod kafka;
pub mod logging;
pub mod packages;
pub mod profile;
pub mod registry;
pub mod rotated;
pub mod sandbox;
pub mod selftest;
pub mod serve;
pub mod stats;
pub mod takeover;
pub mod triggers;
pub mod world;
