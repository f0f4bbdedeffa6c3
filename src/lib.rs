//! x
pub mod config;
pub mod image;
pub mod registry;
