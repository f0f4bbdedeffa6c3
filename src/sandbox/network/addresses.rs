//! Which addresses and which interface names sandboxes get.
//!
//! All come from 100.64.0.0/10, which is meant for networks behind address translation (RFC 6598) and is not among the
//! ranges that people use at home or in a data centre. Every slot has 1/256 of it:
//!
//! ```text
//! slot 3: 100.64.192.0/18   .1  the gateway, an address that nobody has
//!                           .2  the first sandbox: eth0 inside, ol3-2 on the machine
//!                           … 16,382 of them
//! ```

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use super::NetworkError;

/// All that sandboxes of all slots can have.
pub(super) const ALL: &str = "100.64.0.0/10";
const FIRST: u32 = u32::from_be_bytes([100, 64, 0, 0]);
/// Of an address, what lies within a slot.
const HOST_BITS: u32 = 14;
const GATEWAY: u32 = 1;
const FIRST_SANDBOX: u32 = 2;
/// The last one of a range looks like a broadcast address.
const LAST_SANDBOX: u32 = (1 << HOST_BITS) - 2;

/// The part that is one slot's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    slot: u32,
}

impl Range {
    pub(super) fn new(slot: u32) -> Self {
        assert!(slot < 256, "there are 256 slots, of 2^14 addresses each, in a /10");
        Self { slot }
    }

    fn first(self) -> u32 {
        FIRST + (self.slot << HOST_BITS)
    }

    /// In the notation of packet filters.
    pub(super) fn text(self) -> String {
        format!("{}/{}", Ipv4Addr::from(self.first()), 32 - HOST_BITS)
    }

    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.first() + GATEWAY)
    }

    pub(super) fn address(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first() + number)
    }

    /// How the names of this slot's interfaces begin.
    pub(super) fn prefix(self) -> String {
        format!("ol{}-", self.slot)
    }

    /// Of the sandbox's connection, on the machine.
    pub(super) fn interface(self, number: u32) -> String {
        format!("{}{number}", self.prefix())
    }

    /// Of the packet filter.
    pub(super) fn table(self) -> String {
        format!("ol_slot_{}", self.slot)
    }

    /// Whether a network has an address in common with this range.
    pub(super) fn meets(self, network: Ipv4Addr, mask: Ipv4Addr) -> bool {
        let ours = u32::MAX << HOST_BITS;
        let both = ours & mask.to_bits();
        self.first() & both == network.to_bits() & both
    }
}

/// An Ethernet address made from the IP address, so that nobody needs to ask for it. The second bit
/// of the first byte says that it is nobody's product.
pub(super) fn ethernet(first: u8, address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [first, 0, a, b, c, d]
}

/// The free addresses of a slot, by number.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    free: Arc<Mutex<VecDeque<u32>>>,
}

/// An address that one sandbox has for itself.
#[derive(Debug)]
pub(super) struct Lease {
    number: u32,
    owner: Pool,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self { free: Arc::new(Mutex::new((FIRST_SANDBOX..=LAST_SANDBOX).collect())) }
    }

    /// The one that has been free the longest: the machine's connection table may still remember the others.
    pub(super) fn take(&self) -> Result<Lease, NetworkError> {
        let number = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let number =
            number.ok_or(NetworkError::NoAddress { n_addresses: LAST_SANDBOX - FIRST_SANDBOX + 1 })?;
        Ok(Lease { number, owner: self.clone() })
    }
}

impl Lease {
    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.owner.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_no_address_and_fill_the_range() {
        assert_eq!(Range::new(0).text(), "100.64.0.0/18");
        assert_eq!(Range::new(3).text(), "100.64.192.0/18");
        assert_eq!(Range::new(255).text(), "100.127.192.0/18");
        assert_eq!(Range::new(255).address(LAST_SANDBOX), Ipv4Addr::new(100, 127, 255, 254));
        for slot in 0..255 {
            assert!(Range::new(slot).address(LAST_SANDBOX) < Range::new(slot + 1).gateway());
        }
    }

    #[test]
    fn the_longest_name_is_one_that_the_kernel_takes() {
        assert!(Range::new(255).interface(LAST_SANDBOX).len() < libc::IFNAMSIZ);
        // One slot's names never begin another's.
        assert!(!Range::new(10).interface(2).starts_with(&Range::new(1).prefix()));
    }

    #[test]
    fn a_range_meets_what_it_overlaps_with_and_nothing_else() {
        let range = Range::new(1);
        let mask = |bits: u32| Ipv4Addr::from(u32::MAX << (32 - bits));
        assert!(range.meets(Ipv4Addr::new(100, 64, 0, 0), mask(10)));
        assert!(range.meets(Ipv4Addr::new(100, 64, 64, 1), mask(32)));
        assert!(!range.meets(Ipv4Addr::new(100, 64, 0, 0), mask(18)));
        assert!(!range.meets(Ipv4Addr::new(10, 0, 0, 0), mask(8)));
    }

    #[test]
    fn an_address_comes_back_last_and_their_end_is_said() {
        let pool = Pool::new();
        let first = pool.take().unwrap().number();
        assert_eq!(first, FIRST_SANDBOX);
        let all: Vec<_> = (0..16_381).map(|_| pool.take().unwrap()).collect();
        assert_eq!(all.last().unwrap().number(), FIRST_SANDBOX);
        assert!(all.iter().all(|lease| lease.number() != GATEWAY));
        assert!(pool.take().unwrap_err().to_string().contains("16381"));
        drop(all);
        pool.take().unwrap();
    }
}
