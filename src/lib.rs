<<<<<<< HEAD
//! wip
pub mod sandbox;
pub mod frame;
=======
//! x
pub mod cli;
pub mod client;
>>>>>>> cli
