//! wip
pub mod sandbox;
pub mod frame;
