//! How many handshakes may be asked of this node: token buckets. Each first message costs two or three Diffie-Hellman
//! exchanges, an ML-KEM encapsulation and a signature check, about 0.3 ms.
//!
//! An address, or the source of what a relay passes on, is anybody's to write. So whoever comes without a cookie takes from a
//! bucket that it shares with all who write the same: its IPv4 address, its IPv6 network of 64 bits, its relaying neighbour.
//! If that is empty nobody is refused, but asked for a cookie, which only who receives there can show; whoever shows one has a
//! bucket that no other can empty, by address or by relay and node, under one for its wider network or relay. And a way on
//! which a handshake has ended well has a reserve, with a share of what all may take together: a flood that exhausts
//! everything else keeps no session from being renewed.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use super::Via;
use crate::types::{Instant, NodeId, NodeTag};

/// First messages a second from all who name one source and show no cookie, and at once after a rest.
const UNPROVEN: Rate = Rate { per_s: 10, burst: 40 };
/// From one that shows a cookie.
const PROVEN: Rate = Rate { per_s: 20, burst: 80 };
/// From all that show cookies in one network of 24 or 48 bits, or behind one neighbour; and cookies by one neighbour.
const MANY: Rate = Rate { per_s: 300, burst: 600 };
/// From a way on which a handshake has ended well: enough for the tries of several renewals.
const KNOWN: Rate = Rate { per_s: 1, burst: 10 };
/// From all sources.
const ALL: Rate = Rate { per_s: 1000, burst: 2000 };
/// What is left of that for known ways alone.
const KEPT: u64 = ALL.burst / 2;
/// Sources remembered; those that asked least lately go first, an eighth at a time.
const MAX_SOURCES: usize = 4096;
/// Known ways remembered, and of one peer.
const MAX_KNOWN: usize = 4096;
const MAX_KNOWN_OF_ONE: usize = 8;

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

    /// Whether one may be taken so that `kept` are left.
    fn has_more_than(&self, kept: u64) -> bool {
        self.level >= (kept + 1) * TOKEN
    }

    /// Takes one, if there is one.
    fn take(&mut self) -> bool {
        let rest = self.level.checked_sub(TOKEN);
        self.level = rest.unwrap_or(self.level);
        rest.is_some()
    }
}

/// How a handshake came: over what, and who relayed it, if somebody did.
pub(super) type Way = (Via, Option<NodeId>);

/// Who may be blamed for a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Address(IpAddr),
    Neighbor(NodeId),
    ProvenAddress(IpAddr),
    ProvenNode(NodeId, NodeTag),
    ManyAddresses(IpAddr),
    ManyNodes(NodeId),
    /// Who is sent cookies by this neighbour.
    Cookies(NodeId),
    Known(Way),
}

impl Source {
    fn unproven((via, neighbor): Way) -> Option<Self> {
        match via {
            Via::Direct(from) => Some(Self::Address(network(from, 32, 64))),
            Via::Relayed(_) => neighbor.map(Self::Neighbor),
        }
    }

    /// The one itself, and that of which it is a part.
    fn proven((via, neighbor): Way) -> Option<[Self; 2]> {
        Some(match via {
            Via::Direct(from) => {
                [Self::ProvenAddress(network(from, 32, 64)), Self::ManyAddresses(network(from, 24, 48))]
            }
            Via::Relayed(tag) => {
                let neighbor = neighbor?;
                [Self::ProvenNode(neighbor, tag), Self::ManyNodes(neighbor)]
            }
        })
    }

    fn rate(&self) -> Rate {
        match self {
            Self::Address(_) | Self::Neighbor(_) => UNPROVEN,
            Self::ProvenAddress(_) | Self::ProvenNode(..) => PROVEN,
            Self::ManyAddresses(_) | Self::ManyNodes(_) | Self::Cookies(_) => MANY,
            Self::Known(_) => KNOWN,
        }
    }
}

/// The network of so many bits, by version, in which an address is.
fn network(from: SocketAddr, bits_v4: u32, bits_v6: u32) -> IpAddr {
    match from.ip().to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & (u32::MAX << (32 - bits_v4))).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & (u128::MAX << (128 - bits_v6))).into()),
    }
}

/// A way on which a handshake has ended well.
#[derive(Debug)]
struct Known {
    peer: NodeId,
    /// Larger is later.
    turn: u64,
    bucket: Bucket,
}

#[derive(Debug)]
pub(super) struct Budget {
    /// With the turn in which each was asked last.
    sources: HashMap<Source, (Bucket, u64)>,
    known: HashMap<Way, Known>,
    turn: u64,
    all: Bucket,
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self { sources: HashMap::new(), known: HashMap::new(), turn: 0, all: Bucket::new(now, ALL) }
    }

    /// Whether a first message may come this way without a cookie.
    pub fn spares_cookie(&mut self, now: Instant, way: Way) -> bool {
        self.all.fill(now, ALL);
        let bucket = Source::unproven(way).and_then(|source| self.sources.get_mut(&source));
        bucket.is_none_or(|(bucket, _)| {
            bucket.fill(now, UNPROVEN);
            bucket.has_more_than(0)
        }) && self.all.has_more_than(KEPT)
    }

    /// Whether a cookie may be sent. By a relay it costs a seal and a turn of the node itself; who gets none tries again.
    pub fn grants_cookie(&mut self, now: Instant, (via, neighbor): Way) -> bool {
        let Via::Relayed(_) = via else { return true };
        let Some(neighbor) = neighbor else { return false };
        self.bucket(now, &Source::Cookies(neighbor)).take()
    }

    /// Whether one more first message may cost something, and whom. `proven`: it has shown a cookie.
    pub fn take(&mut self, now: Instant, way: Way, proven: bool) -> Option<Source> {
        self.all.fill(now, ALL);
        if let Some(known) = self.known.get_mut(&way).filter(|_| proven) {
            known.bucket.fill(now, KNOWN);
            if known.bucket.has_more_than(0) && self.all.has_more_than(0) {
                known.bucket.take();
                self.all.take();
                return Some(Source::Known(way));
            }
        }
        let (source, many) = match proven {
            true => Source::proven(way).map(|[one, many]| (one, Some(many)))?,
            false => (Source::unproven(way)?, None),
        };
        let buckets = [Some(source), many];
        let may =
            self.all.has_more_than(KEPT) && buckets.iter().flatten().all(|s| self.bucket(now, s).has_more_than(0));
        if may {
            self.all.take();
            for source in buckets.iter().flatten() {
                self.bucket(now, source).take();
            }
        }
        may.then_some(source)
    }

    fn bucket(&mut self, now: Instant, source: &Source) -> &mut Bucket {
        self.turn += 1;
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(source) {
            let mut turns: Vec<u64> = self.sources.values().map(|(_, turn)| *turn).collect();
            let (_, oldest, _) = turns.select_nth_unstable(MAX_SOURCES / 8);
            let oldest = *oldest;
            self.sources.retain(|_, (_, turn)| *turn > oldest);
        }
        let (bucket, turn) = self.sources.entry(*source).or_insert_with(|| (Bucket::new(now, source.rate()), 0));
        *turn = self.turn;
        bucket.fill(now, source.rate());
        bucket
    }

    /// A handshake with this peer has ended well on this way.
    pub fn know(&mut self, way: Way, peer: NodeId) {
        self.turn += 1;
        let turn = self.turn;
        if let Some(known) = self.known.get_mut(&way) {
            (known.peer, known.turn) = (peer, turn);
            return;
        }
        let of_one = self.known.values().filter(|k| k.peer == peer).count();
        if of_one >= MAX_KNOWN_OF_ONE || self.known.len() >= MAX_KNOWN {
            let spare = self.known.iter().filter(|(_, k)| of_one < MAX_KNOWN_OF_ONE || k.peer == peer);
            let oldest = spare.min_by_key(|(_, k)| k.turn).map(|(way, _)| *way);
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(way, Known { peer, turn, bucket: Bucket::new(Instant::default(), KNOWN) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(ip: u32) -> Way {
        (Via::Direct(SocketAddr::from((ip.to_be_bytes(), 1))), None)
    }

    /// An address in the network of 64 bits with this number; 65,536 are in one of 48 bits.
    fn v6(network: u32, host: u16) -> Way {
        let [a, b] = [(network >> 16) as u16, network as u16];
        (Via::Direct(SocketAddr::from(([0x2001, 0xdb8, a, b, 0, 0, 0, host], host))), None)
    }

    fn relayed(neighbor: u8, tag: u64) -> Way {
        (Via::Relayed(NodeTag(tag)), Some(NodeId([neighbor; 32])))
    }

    fn taken(budget: &mut Budget, at: u64, proven: bool, ways: impl IntoIterator<Item = Way>) -> usize {
        ways.into_iter().filter(|way| budget.take(Instant(at), *way, proven).is_some()).count()
    }

    #[test]
    fn one_source_is_held_to_its_rate_and_others_are_not() {
        let mut budget = Budget::new(Instant(0));
        assert_eq!(
            taken(&mut budget, 0, false, (0..1000).map(|i| v6(1, i))),
            40,
            "hosts of one network are one source"
        );
        assert!(!budget.spares_cookie(Instant(0), v6(1, 1)) && budget.spares_cookie(Instant(0), v4(1)));
        assert_eq!(taken(&mut budget, 0, false, [v4(1)]), 1);
        assert_eq!(taken(&mut budget, 0, true, (0..1000).map(|i| v6(1, i))), 80, "whoever shows a cookie has its own");
        assert_eq!(taken(&mut budget, 1_000_000, false, (0..1000).map(|i| v6(1, i))), 10);
        assert_eq!(taken(&mut budget, 1_000_000, true, (0..1000).map(|i| v6(1, i))), 20);
        assert_eq!(taken(&mut budget, 1_000_000, false, (0..1000).map(|i| relayed(1, i))), 40);
        assert_eq!(taken(&mut budget, 1_000_000, true, (0..1000).map(|_| relayed(1, 7))), 80);
        assert_eq!(
            taken(&mut budget, 1_000_000, true, (0..1000).map(|i| relayed(1, 100 + i))),
            520,
            "all by one relay"
        );
        assert_eq!(taken(&mut budget, 1_000_000, false, [relayed(2, 7)]), 1);
        let granted =
            |budget: &mut Budget, way: Way| (0..1000).filter(|_| budget.grants_cookie(Instant(0), way)).count();
        assert_eq!((granted(&mut budget, relayed(1, 7)), granted(&mut budget, v4(1))), (600, 1000));
        assert_eq!(granted(&mut budget, relayed(2, 7)), 600);
    }

    #[test]
    fn the_number_of_sources_is_bounded_and_those_at_rest_make_room() {
        let mut budget = Budget::new(Instant(0));
        let mut busy = 0;
        for i in 0..20_000 {
            let at = u64::from(i) * 1500;
            assert_eq!(taken(&mut budget, at, false, [v4(i)]), 1, "a new source finds room");
            busy += taken(&mut budget, at, false, [v4(1 << 30)]);
        }
        assert!((330..=340).contains(&busy), "a busy one is not forgotten: {busy} in 30 s");
        assert!(budget.sources.len() <= MAX_SOURCES);
    }

    #[test]
    fn many_networks_leave_room_for_a_new_source_and_a_reserve_for_a_known_one() {
        let mut budget = Budget::new(Instant(0));
        let peer = NodeId([1; 32]);
        budget.know(v4(1), peer);
        for i in 0..100_000u32 {
            // 10,000 networks of one of 48 bits, each once in 4 s, and all with cookies.
            let _ = budget.take(Instant(u64::from(i) * 400), v6(i % 10_000, 1), true);
        }
        let at = 100_000 * 400;
        assert!(
            taken(&mut budget, at, true, (0..10_000).map(|i| v6(i, 1))) < 600,
            "a network of 48 bits has its share"
        );
        assert_eq!(taken(&mut budget, at, false, [v4(2)]), 1);
        assert_eq!(taken(&mut budget, at, true, [v4(3)]), 1);
        // From all over the world.
        let _ = taken(&mut budget, at, true, (0..100_000).map(|i| v6(i << 8, 1)));
        assert_eq!(taken(&mut budget, at, true, [v4(4)]), 0);
        assert!(!budget.spares_cookie(Instant(at), v4(1)), "so that the known show that it is they");
        assert_eq!(taken(&mut budget, at, true, [v4(1)]), 1);
        assert_eq!(taken(&mut budget, at, false, [v4(1)]), 0, "not who writes a known one's address");
    }

    #[test]
    fn known_ways_are_bounded_and_one_peer_has_few() {
        let mut budget = Budget::new(Instant(0));
        let peer = |i: u32| NodeId(std::array::from_fn(|at| i.to_be_bytes()[at % 4]));
        budget.know(v4(0), peer(0));
        (1..=100).for_each(|i| budget.know(v4(i), peer(1)));
        assert_eq!(budget.known.len(), 1 + MAX_KNOWN_OF_ONE);
        assert!(budget.known.contains_key(&v4(0)) && budget.known.contains_key(&v4(100)));
        (2..6000).for_each(|i| budget.know(v4(1000 + i), peer(i)));
        assert_eq!(budget.known.len(), MAX_KNOWN);
        assert!(budget.known.contains_key(&v4(6999)) && !budget.known.contains_key(&v4(0)), "the oldest goes");
    }
}
