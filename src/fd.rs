//! Descriptors: how they are sent from one process to another, and how an event loop watches them.

pub(crate) mod packets;
pub(crate) mod watched;
