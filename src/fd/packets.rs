//! One message, one packet, with descriptors beside it: how processes of ours talk to each other.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Most descriptors with one message.
const FDS_MAX: usize = 20;

/// Sends a message as JSON. Waits while the socket is full.
pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    send_bytes(socket, &serde_json::to_vec(message)?, fds)
}

/// Sends bytes as one packet. Waits while the socket is full.
pub(crate) fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, bytes, fds, SendFlags::NOSIGNAL)
}

/// The same, but when the socket is full that is an error (`EAGAIN`): for threads that others wait for.
pub(crate) fn try_send_bytes(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, bytes, fds, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn send_with(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    assert!(fds.len() <= FDS_MAX, "{} descriptors with one message", fds.len());
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(fds));
        assert!(fits, "the space is for {FDS_MAX} descriptors");
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The next message; `None` when the other end is closed.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    // As long as it is, and not as long as it may be: the shim would have the pages of a long one copied with each shell.
    let mut buffer = vec![0; next_length(socket)?.min(MESSAGE_BYTES_MAX)];
    let Some((len, fds)) = receive_bytes(socket, &mut buffer)? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&buffer[..len])?, fds)))
}

/// Waits for the next packet, and leaves it where it is. 0 when the other end is closed.
fn next_length(socket: BorrowedFd<'_>) -> io::Result<usize> {
    loop {
        match recv(socket, &mut [0u8; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC) {
            Ok((_, len)) => return Ok(len),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The next packet's length and descriptors; `None` when the other end is closed.
pub(crate) fn receive_bytes(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(rustix::io::Errno::INTR) => {}
            // What a closed end with unread messages of ours in it looks like.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(if received.bytes == 0 { None } else { Some((received.bytes, fds)) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn who_must_not_wait_is_told_that_nobody_reads() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        // The kernel lets a sender have so many bytes unread, whatever the machine says.
        let full = (0..1 << 20).find_map(|_| try_send_bytes(ours.as_fd(), &[1; 32], &[]).err());
        assert_eq!(full.and_then(|error| error.raw_os_error()), Some(libc::EAGAIN));
        assert!(matches!(receive_bytes(theirs.as_fd(), &mut [0; 64]), Ok(Some((32, _)))));
    }
}
