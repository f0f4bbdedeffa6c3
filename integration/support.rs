//! What every test needs: a worker, a way to call it, patience, and a look at what is left behind.

mod archive;
mod folder;
mod footprint;
mod http;
mod index;
mod place;
mod ports;
mod process;
mod programs;
pub(crate) mod require;
mod shell;
mod wait;
mod worker;

pub(crate) use archive::Archive;
pub(crate) use folder::{Files, replace_file, write_folder};
pub(crate) use footprint::{Footprint, mounts};
pub(crate) use http::{Expect, RawConnection};
pub(crate) use index::{Index, Package};
pub(crate) use place::Place;
pub(crate) use ports::free_port;
pub(crate) use process::Process;
pub(crate) use programs::{Output, Program};
pub(crate) use require::requires;
pub(crate) use shell::Shell;
pub(crate) use wait::{block_on, eventually, patience, until};
pub(crate) use worker::{Setup, Worker};
