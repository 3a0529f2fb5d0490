//! How many handshakes one source may ask of this node: token buckets by address (an IPv6 network of 64 bits is one), by
//! the neighbour that relays, and for all together. Each first message costs two or three Diffie-Hellman exchanges, an
//! ML-KEM encapsulation and a signature check, about 0.3 ms.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use super::Via;
use crate::types::{Duration, Instant, NodeId};

/// First messages a second from one source, and at once after a rest.
const SOURCE: Rate = Rate { per_s: 30, burst: 120 };
/// And from all sources.
const ALL: Rate = Rate { per_s: 1000, burst: 2000 };
/// Sources remembered; those at rest go first.
const MAX_SOURCES: usize = 4096;

/// Tokens a second, and at most.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_s: u64,
    burst: u64,
}

/// A token bucket; its level is in millionths of a token, so that no time is lost to rounding.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: u64,
    filled: Instant,
}

const TOKEN: u64 = 1_000_000;

impl Bucket {
    fn new(now: Instant, rate: Rate) -> Self {
        Self { level: rate.burst * TOKEN, filled: now }
    }

    fn fill(&mut self, now: Instant, rate: Rate) {
        let micros = u64::try_from(now.since(self.filled).as_micros()).unwrap_or(u64::MAX);
        self.level = micros.saturating_mul(rate.per_s).saturating_add(self.level).min(rate.burst * TOKEN);
        self.filled = now;
    }

    fn take(&mut self) -> bool {
        let rest = self.level.checked_sub(TOKEN);
        self.level = rest.unwrap_or(self.level);
        rest.is_some()
    }
}

/// Who may be blamed for a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Address(IpAddr),
    Neighbor(NodeId),
}

impl Source {
    /// `neighbor` has relayed it, if somebody has.
    pub fn of(via: Via, neighbor: Option<NodeId>) -> Option<Self> {
        match via {
            Via::Direct(from) => Some(Self::at(from)),
            Via::Relayed(_) => neighbor.map(Self::Neighbor),
        }
    }

    fn at(from: SocketAddr) -> Self {
        Self::Address(match from.ip().to_canonical() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                [a, b, c, d, 0, 0, 0, 0].into()
            }
            ip => ip,
        })
    }
}

#[derive(Debug)]
pub(super) struct Budget {
    sources: HashMap<Source, Bucket>,
    all: Bucket,
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self { sources: HashMap::new(), all: Bucket::new(now, ALL) }
    }

    /// Whether one more first message may cost something. `neighbor` has relayed it, if somebody has.
    pub fn allows(&mut self, now: Instant, via: Via, neighbor: Option<NodeId>) -> bool {
        let Some(source) = Source::of(via, neighbor) else { return false };
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            let rested = Duration::from_millis(1000 * SOURCE.burst / SOURCE.per_s);
            self.sources.retain(|_, bucket| now.since(bucket.filled) < rested);
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let bucket = self.sources.entry(source).or_insert_with(|| Bucket::new(now, SOURCE));
        bucket.fill(now, SOURCE);
        self.all.fill(now, ALL);
        bucket.level >= TOKEN && self.all.take() && bucket.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_is_held_to_its_rate_and_others_are_not() {
        let mut budget = Budget::new(Instant(0));
        let from = |host: u16, port| Via::Direct(SocketAddr::from(([0x2001, 0xdb8, 0, 1, 0, 0, 0, host], port)));
        let taken = (0..1000).filter(|i| budget.allows(Instant(0), from(*i, *i), None)).count();
        assert_eq!(taken, 120, "hosts of one network are one source");
        let other = Via::Direct("192.0.2.1:1".parse().unwrap());
        assert!(budget.allows(Instant(0), other, None));
        let later = (0..1000).filter(|_| budget.allows(Instant(1_000_000), from(1, 1), None)).count();
        assert_eq!(later, 30);
        let relayed = Via::Relayed(crate::types::NodeTag(7));
        let neighbor = |i| Some(NodeId([i; 32]));
        let taken = (0..1000).filter(|_| budget.allows(Instant(1_000_000), relayed, neighbor(1))).count();
        assert_eq!(taken, 120);
        assert!(budget.allows(Instant(1_000_000), relayed, neighbor(2)));
    }

    #[test]
    fn the_number_of_sources_is_bounded_and_those_at_rest_make_room() {
        let mut budget = Budget::new(Instant(0));
        let from = |i: u32| Via::Direct(SocketAddr::from((i.to_be_bytes(), 1)));
        for i in 0..20_000 {
            let _ = budget.allows(Instant(u64::from(i) * 50), from(i), None);
        }
        assert!(budget.sources.len() <= MAX_SOURCES);
        assert!(budget.allows(Instant(60_000_000), from(1 << 20), None));
    }
}
