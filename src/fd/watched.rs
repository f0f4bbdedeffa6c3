//! Descriptors that an event loop watches.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod sealed {
    /// Implemented here only: an unsafe call below relies on what [`OwnsFd`](super::OwnsFd) says.
    pub(crate) trait Sealed {}
    impl Sealed for super::UnixStream {}
    impl Sealed for super::File {}
    impl Sealed for super::OwnedFd {}
}

/// Types that own a descriptor and give the same one for as long as they live.
pub(crate) trait OwnsFd: AsRawFd + sealed::Sealed {}
impl OwnsFd for UnixStream {}
impl OwnsFd for File {}
impl OwnsFd for OwnedFd {}

/// Registers a descriptor that does not block with the event loop of this thread. Fails when the kernel's table of watched
/// descriptors is full.
pub(crate) fn register<T: OwnsFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the owner, which is one of the three types above, keeps its descriptor open, and the same, until it is dropped or
    // taken out, which both deregister it first.
    unsafe { AsyncFd::register_with_interest(owner, interest) }.map_err(Into::into)
}
