//! What a function can do to the machine, to the worker and to its neighbours: nothing. Each test lets a
//! function try, and lets something similar succeed, to see that the attempt was one.

mod channel;
mod files;
mod identity;
mod kernel;
mod neighbours;
mod network;
mod processes;
