//! What happens in the simulated world, in the order in which it does; and the addresses and packets there.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    net::{IpAddr, SocketAddr},
};

use crate::types::Instant;

const PORT: u16 = 51_900;

pub(super) enum Happening {
    Datagram {
        to: usize,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Timer {
        node: usize,
    },
    Start {
        node: usize,
    },
    Crash,
    PartitionBegins,
    PartitionEnds,
    /// A hostile node does the next thing in one of its ways.
    Mischief {
        node: usize,
        way: usize,
    },
    /// The packets of this second are sent.
    Packets,
    /// A look at who has what.
    Inspection,
}

struct Entry {
    at: Instant,
    order: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What is still to happen.
#[derive(Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Reverse<Entry>>,
    order: u64,
}

impl Agenda {
    pub fn push(&mut self, at: Instant, what: Happening) {
        self.order += 1;
        self.heap.push(Reverse(Entry { at, order: self.order, what }));
    }

    /// The next thing that happens until `end`.
    pub fn pop(&mut self, end: Instant) -> Option<(Instant, Happening)> {
        self.heap.peek().filter(|Reverse(e)| e.at <= end)?;
        self.heap.pop().map(|Reverse(e)| (e.at, e.what))
    }
}

/// Where a node can be reached.
pub(super) fn address(i: usize) -> SocketAddr {
    let [_, a, b, c] = (i as u32 + 1).to_be_bytes();
    SocketAddr::new(IpAddr::from([10, a, b, c]), PORT)
}

/// The node that is reached there.
pub(super) fn index(addr: SocketAddr) -> Option<usize> {
    match addr.ip() {
        IpAddr::V4(ip) if addr.port() == PORT => {
            let [ten, a, b, c] = ip.octets();
            (ten == 10).then(|| u32::from_be_bytes([0, a, b, c]) as usize).and_then(|i| i.checked_sub(1))
        }
        _ => None,
    }
}

/// A UDP packet with 100 bytes of payload.
pub(super) fn udp_packet(from: IpAddr, to: IpAddr, payload: &[u8; 100]) -> Vec<u8> {
    let payload = [&[0u8, 9, 0, 9, 0, 108, 0, 0][..], payload].concat();
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mut p = vec![0x45, 0, 0, 128, 0, 0, 0, 0, 64, 17, 0, 0];
            p.extend_from_slice(&a.octets());
            p.extend_from_slice(&b.octets());
            [p, payload].concat()
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mut p = vec![0x60, 0, 0, 0, 0, 108, 17, 64];
            p.extend_from_slice(&a.octets());
            p.extend_from_slice(&b.octets());
            [p, payload].concat()
        }
        _ => Vec::new(),
    }
}
