//! Requests to the kernel about interfaces, addresses and routes, in its own format (`netlink(7)`, `rtnetlink(7)`).
//!
//! Written by hand because it is little: the `ip` program costs 2 ms of processor a call, twice for every
//! sandbox, and the crates for this are bigger than what they would replace.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// Everything but a header and its attributes; answers to what is asked here are well below.
const ANSWER_LENGTH: usize = 16 * 1024;
const HEADER_LENGTH: usize = 16;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
pub(super) const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
pub(super) const REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

/// A message: a header, a structure that depends on the kind, and attributes, which may hold attributes.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// The kernel says what came of it.
    pub(super) fn new(kind: u16, flags: u16, structure: &[u8]) -> Self {
        Self::with_flags(kind, flags | REQUEST | ACK, structure)
    }

    /// The kernel says nothing unless it fails.
    fn unanswered(kind: u16, structure: &[u8]) -> Self {
        Self::with_flags(kind, REQUEST, structure)
    }

    fn with_flags(kind: u16, flags: u16, structure: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_LENGTH];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(structure);
        Self { bytes }
    }

    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, &[value.as_bytes(), b"\0"].concat())
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// An attribute of attributes.
    pub(super) fn nest(self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        self.nest_after(kind, &[], inside)
    }

    /// An attribute that starts with a structure: a peer's, for example.
    pub(super) fn nest_after(
        mut self,
        kind: u16,
        structure: &[u8],
        inside: impl FnOnce(Self) -> Self,
    ) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(structure);
        self.pad();
        let mut full = inside(self);
        let length = (full.bytes.len() - start) as u16;
        full.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        full
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn wants_answer(&self) -> bool {
        u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) & ACK != 0
    }

    fn seal(&mut self, sequence: u32) {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A socket to the kernel. It stays with the network namespace of the thread that opened it, wherever
/// it is used.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// About interfaces and routes.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// About the packet filter.
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    /// `None` is protocol 0, `NETLINK_ROUTE`.
    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        Ok(Self {
            socket: socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?,
        })
    }

    pub(super) fn ask(&self, request: Request) -> io::Result<()> {
        self.ask_all(vec![request])
    }

    /// Sends all in one go. The kernel carries them out in order, and goes on when one fails; the first
    /// failure is returned.
    pub(super) fn ask_all(&self, requests: Vec<Request>) -> io::Result<()> {
        self.exchange(requests, |_| ())
    }

    /// `told` gets each message that is not a verdict, without its header.
    fn exchange(&self, mut requests: Vec<Request>, mut told: impl FnMut(&[u8])) -> io::Result<()> {
        // An answer bears its request's number, counted from 1.
        for (request, sequence) in requests.iter_mut().zip(1..) {
            request.seal(sequence);
        }
        let mut n_missing = requests.iter().filter(|request| request.wants_answer()).count();
        let bytes: Vec<u8> = requests.iter().flat_map(|request| request.bytes.iter().copied()).collect();
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut answer = vec![0; ANSWER_LENGTH];
        let mut failure: Option<(u32, i32)> = None;
        while n_missing > 0 {
            // Requests are carried out within `send`, so the answers are there: waiting would be waiting for ever.
            let (length, _) = recv(&self.socket, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
            for message in messages(&answer[..length]) {
                let Some(code) = message.verdict() else {
                    told(message.body);
                    continue;
                };
                n_missing = n_missing.saturating_sub(1);
                if code != 0 && failure.is_none_or(|(first, _)| message.sequence < first) {
                    failure = Some((message.sequence, code));
                }
            }
        }
        match failure {
            None => Ok(()),
            Some((_, code)) => Err(io::Error::from_raw_os_error(-code)),
        }
    }
}

/// From the kernel.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    /// What came of the request with the same number: 0, or a negative error.
    fn verdict(&self) -> Option<i32> {
        let is_verdict = i32::from(self.kind) == libc::NLMSG_ERROR;
        is_verdict.then(|| number(self.body, 0).map(|code| code as i32))?
    }
}

fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, kind, sequence) = (number(rest, 0)? as usize, half(rest, 4)?, number(rest, 8)?);
        let body = rest.get(HEADER_LENGTH..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, body })
    })
}

/// Kinds and values.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, kind) = (usize::from(half(rest, 0)?), half(rest, 2)?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes: &[u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_ne_bytes(*bytes))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes: &[u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// `struct ifinfomsg`: an interface, by its number or (0) by an attribute, and whether to bring it up.
pub(super) fn link(index: u32, up: bool) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    let flag = if up { libc::IFF_UP as u32 } else { 0 };
    bytes[8..12].copy_from_slice(&flag.to_ne_bytes());
    // The mask of flags to change.
    bytes[12..16].copy_from_slice(&flag.to_ne_bytes());
    bytes
}

/// `struct ifaddrmsg`: an IPv4 address that stands for itself alone.
pub(super) fn address(index: u32) -> [u8; 8] {
    let index = index.to_ne_bytes();
    [libc::AF_INET as u8, 32, 0, libc::RT_SCOPE_UNIVERSE, index[0], index[1], index[2], index[3]]
}

/// `struct rtmsg`: an IPv4 route of the main table. `RTNH_F_ONLINK`: the gateway need not be in a network of ours.
pub(super) fn route(prefix: u8, scope: u8, on_link: bool) -> [u8; 12] {
    const RTNH_F_ONLINK: u32 = 4;
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&[
        libc::AF_INET as u8,
        prefix,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        scope,
        libc::RTN_UNICAST,
    ]);
    bytes[8..].copy_from_slice(&(if on_link { RTNH_F_ONLINK } else { 0 }).to_ne_bytes());
    bytes
}

/// `struct ndmsg`: an IPv4 neighbour that is known and stays so.
pub(super) fn neighbour(index: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = libc::AF_INET as u8;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    bytes
}

/// `struct nfgenmsg`, and the number of a message of nftables.
const INET: [u8; 4] = [libc::NFPROTO_INET as u8, 0, 0, 0];
const fn nftables(message: i32) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | message) as u16
}
/// Missing in the `libc` crate; `linux/netfilter/nf_tables.h`.
const NFTA_TABLE_NAME: u16 = 1;

impl Netlink {
    /// Whether there is a packet filter table of this name, of family `inet`.
    pub(super) fn has_table(&self, name: &str) -> io::Result<bool> {
        let request = Request::new(nftables(libc::NFT_MSG_GETTABLE), 0, &INET).text(NFTA_TABLE_NAME, name);
        present(self.ask(request))
    }

    /// Removes the packet filter table with all that is in it, if it is there.
    pub(super) fn delete_table(&self, name: &str) -> io::Result<()> {
        // Changes come in batches, whose ends say which part of netfilter they are for (in the network's order).
        let of_nftables = [0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8];
        let delete = Request::new(nftables(libc::NFT_MSG_DELTABLE), 0, &INET).text(NFTA_TABLE_NAME, name);
        let batch = vec![
            Request::unanswered(libc::NFNL_MSG_BATCH_BEGIN as u16, &of_nftables),
            delete,
            Request::unanswered(libc::NFNL_MSG_BATCH_END as u16, &of_nftables),
        ];
        present(self.ask_all(batch)).map(drop)
    }

    /// Whether the interface passes packets. (Since Linux 6.8 asking makes it so, if it is about to.)
    pub(super) fn is_operational(&self, index: u32) -> io::Result<bool> {
        const IFLA_OPERSTATE: u16 = 16;
        const IF_OPER_UP: u8 = 6;
        let structure = link(index, false);
        let mut is_up = false;
        self.exchange(vec![Request::new(libc::RTM_GETLINK, 0, &structure)], |body| {
            let mut attributes = attributes(body.get(structure.len()..).unwrap_or_default());
            is_up = attributes.any(|attribute| attribute == (IFLA_OPERSTATE, &[IF_OPER_UP]));
        })?;
        Ok(is_up)
    }

    /// Removes the interface of this name, if it is there.
    pub(super) fn delete_link(&self, name: &str) -> io::Result<()> {
        let request = Request::new(libc::RTM_DELLINK, 0, &link(0, false)).text(libc::IFLA_IFNAME, name);
        present(self.ask(request)).map(drop)
    }
}

/// That it is not there is an answer.
fn present(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nests_know_their_length() {
        let request = Request::new(16, 0, &[9; 4]).text(3, "eth0").nest(18, |inner| inner.attribute(1, &[7]));
        let tail = &request.bytes[HEADER_LENGTH + 4..];
        let name = [9u16.to_ne_bytes(), 3u16.to_ne_bytes()].concat();
        assert_eq!(tail[..4], name);
        assert_eq!(&tail[4..12], b"eth0\0\0\0\0");
        let nest =
            [12u16.to_ne_bytes(), 18u16.to_ne_bytes(), 5u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat();
        assert_eq!(tail[12..20], nest);
        assert_eq!(tail[20..], [7, 0, 0, 0]);
    }

    #[test]
    fn answers_are_read_to_their_end_and_never_beyond() {
        let mut answer = Vec::new();
        for (sequence, code) in [(1u32, 0i32), (2, -libc::EEXIST)] {
            answer.extend(36u32.to_ne_bytes());
            answer.extend(2u16.to_ne_bytes());
            answer.extend([0; 2]);
            answer.extend(sequence.to_ne_bytes());
            answer.extend([0; 4]);
            answer.extend(code.to_ne_bytes());
            answer.extend([0; 16]);
        }
        let read: Vec<_> = messages(&answer).map(|message| (message.sequence, message.verdict())).collect();
        assert_eq!(read, [(1, Some(0)), (2, Some(-libc::EEXIST))]);
        for length in 0..answer.len() {
            assert!(messages(&answer[..length]).count() <= 1);
        }
        // A length of 0 must not be a loop.
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[0; 64]).count(), 0);
        let request = Request::new(16, 0, &[]).text(3, "eth0").number(4, 1500);
        let read: Vec<_> = attributes(&request.bytes[HEADER_LENGTH..]).collect();
        assert_eq!(read, [(3, b"eth0\0".as_slice()), (4, &1500u32.to_ne_bytes())]);
    }
}
