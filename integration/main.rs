//! The programs as a person runs them: each test starts a worker of its own in a directory of its own,
//! and ends it, and then nothing may be left of it on the machine.
//!
//! ```text
//! make test-integration                              all of it, as root
//! integration smoke isolation leaks                  some modules
//! REQUIRE_ALL=1          what cannot run here fails instead of being passed over
//! OL_TEST_PATIENCE=30    deadlines are so many times as long: for emulated machines
//! OL_TEST_BIN_DIR=DIR    where `ol` and `admin` are, if not where cargo has put them
//! ```

mod support;

mod actors;
mod admin;
mod api;
mod bench;
mod by_hand;
mod chaos;
mod client;
mod clock;
mod crash;
mod examples;
mod installs;
mod invoke;
mod isolation;
mod leaks;
mod limits;
mod memory;
mod native;
mod packages;
mod probes;
mod profile;
mod quickstart;
mod registry;
mod selftest;
mod smoke;
mod takeover;
mod tree;
mod triggers;
mod web;
mod worker_log;
mod zygotes;
