//! The worker program; to come.

fn main() {}
