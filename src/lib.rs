//! x
pub mod cli;
pub mod client;
