//! What may be sent to addresses that never answered.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::types::{Bucket, Duration, Instant, IpPrefix, place};

/// Attempts at addresses that only others name and that never answered: so many at once, and one more each pause. Whoever
/// makes a whole mesh look for a victim gets no more than that from each node.
const UNPROVEN: (u32, Duration) = (128, Duration::from_micros(31_250));
/// And at those of one host, which may be behind the names of many nodes: an IPv4 address, or an IPv6 network of 64 bits.
const AT_ONE: (u32, Duration) = (12, Duration::from_secs(1));

/// Attempts for all nodes together, and at each host.
#[derive(Debug)]
pub(super) struct Budget {
    all: Bucket,
    /// Of each host that got something a while ago.
    pub hosts: BTreeMap<IpPrefix, Bucket>,
}

impl Budget {
    pub fn new() -> Self {
        Self { all: Bucket::new(UNPROVEN.0, UNPROVEN.1), hosts: BTreeMap::new() }
    }

    /// Takes leave for an attempt, or tells from when on there may be one.
    pub fn take(&mut self, now: Instant, addr: SocketAddr) -> Result<(), Instant> {
        let host = place::network(addr.ip(), 32, 64);
        let mut bucket = self.hosts.get(&host).copied().unwrap_or(Bucket::new(AT_ONE.0, AT_ONE.1));
        if bucket.next() > now {
            return Err(bucket.next());
        }
        if !self.all.take(now) {
            return Err(self.all.next());
        }
        bucket.take(now);
        self.hosts.retain(|_, bucket| !bucket.is_full(now));
        self.hosts.insert(host, bucket);
        Ok(())
    }
}
