//! How many handshakes may be asked of this node: token buckets. Each first message costs two or three Diffie-Hellman
//! exchanges, an ML-KEM encapsulation and a signature check, about 0.3 ms.
//!
//! An address, or the source of what a relay passes on, is anybody's to write. So whoever comes without a cookie takes from a
//! bucket that it shares with all who write the same: its IPv4 address, its IPv6 network of 64 bits, its relaying neighbour.
//! If that is empty nobody is refused, but asked for a cookie, which only who receives there can show; whoever shows one has a
//! bucket that no other can empty, by address or by relay and node, under one for its wider network or relay. And a way on
//! which a handshake has ended well has a reserve, with a share of what all may take together: a flood that exhausts
//! everything else keeps no session from being renewed.

use std::collections::HashMap;

use super::Via;
use crate::types::{Bucket, Duration, Instant, IpPrefix, NodeId, NodeTag, place};

/// So many at once, and one more after each pause.
type Rate = (u32, Duration);

/// First messages from all who name one source and show no cookie.
const UNPROVEN: Rate = (40, Duration::from_micros(100000));
/// From one that shows a cookie.
const PROVEN: Rate = (80, Duration::from_micros(50000));
/// From all that show cookies in one network of 24 or 48 bits, or behind one neighbour; and cookies by one neighbour.
const MANY: Rate = (600, Duration::from_micros(3333));
/// From a way on which a handshake has ended well: enough for the tries of several renewals.
const KNOWN: Rate = (10, Duration::from_micros(1000000));
/// From all sources.
const ALL: Rate = (2000, Duration::from_micros(1000));
/// What is left of that for known ways alone.
const KEPT: u32 = ALL.0 / 2;
/// Sources remembered; those that asked least lately go first, an eighth at a time.
const MAX_SOURCES: usize = 4096;
/// Known ways remembered, and of one peer.
const MAX_KNOWN: usize = 4096;
const MAX_KNOWN_OF_ONE: usize = 8;

/// How a handshake came: over what, and who relayed it, if somebody did.
pub(super) type Way = (Via, Option<NodeId>);

/// Who may be blamed for a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Address(IpPrefix),
    Neighbor(NodeId),
    ProvenAddress(IpPrefix),
    ProvenNode(NodeId, NodeTag),
    ManyAddresses(IpPrefix),
    ManyNodes(NodeId),
    /// Who is sent cookies by this neighbour.
    Cookies(NodeId),
    Known(Way),
}

impl Source {
    fn unproven((via, neighbor): Way) -> Option<Self> {
        match via {
            Via::Direct(from) => Some(Self::Address(place::network(from.ip(), 32, 64))),
            Via::Relayed(_) => neighbor.map(Self::Neighbor),
        }
    }

    /// Who may be blamed for what came this way; `proven`: it has shown a cookie.
    pub fn of(way: Way, proven: bool) -> Option<Self> {
        if proven { Self::proven(way).map(|[one, _]| one) } else { Self::unproven(way) }
    }

    /// The one itself, and that of which it is a part.
    fn proven((via, neighbor): Way) -> Option<[Self; 2]> {
        Some(match via {
            Via::Direct(from) => [
                Self::ProvenAddress(place::network(from.ip(), 32, 64)),
                Self::ManyAddresses(place::network(from.ip(), 24, 48)),
            ],
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

fn bucket((burst, every): Rate) -> Bucket {
    Bucket::new(burst, every)
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
    pub fn new() -> Self {
        Self { sources: HashMap::new(), known: HashMap::new(), turn: 0, all: bucket(ALL) }
    }

    /// Whether a first message may come this way without a cookie.
    pub fn spares_cookie(&self, now: Instant, way: Way) -> bool {
        let bucket = Source::unproven(way).and_then(|source| self.sources.get(&source));
        bucket.is_none_or(|(bucket, _)| bucket.has_above(now, 0)) && self.all.has_above(now, KEPT)
    }

    /// Whether a cookie may be sent. By a relay it costs a seal and a turn of the node itself; who gets none tries again.
    pub fn grants_cookie(&mut self, now: Instant, (via, neighbor): Way) -> bool {
        let Via::Relayed(_) = via else { return true };
        neighbor.is_some_and(|neighbor| self.bucket(&Source::Cookies(neighbor)).take(now))
    }

    /// Whether one more first message may cost something, and whom. `proven`: it has shown a cookie.
    pub fn take(&mut self, now: Instant, way: Way, proven: bool) -> Option<Source> {
        if let Some(known) = self.known.get_mut(&way).filter(|_| proven)
            && self.all.has_above(now, 0)
            && known.bucket.take(now)
        {
            self.all.take(now);
            return Some(Source::Known(way));
        }
        let (source, many) = match proven {
            true => Source::proven(way).map(|[one, many]| (one, Some(many)))?,
            false => (Source::unproven(way)?, None),
        };
        let buckets = [Some(source), many];
        let may = self.all.has_above(now, KEPT) && buckets.iter().flatten().all(|s| self.bucket(s).has_above(now, 0));
        if may {
            self.all.take(now);
            for source in buckets.iter().flatten() {
                self.bucket(source).take(now);
            }
        }
        may.then_some(source)
    }

    fn bucket(&mut self, source: &Source) -> &mut Bucket {
        self.turn += 1;
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(source) {
            let mut turns: Vec<u64> = self.sources.values().map(|(_, turn)| *turn).collect();
            let (_, oldest, _) = turns.select_nth_unstable(MAX_SOURCES / 8);
            let oldest = *oldest;
            self.sources.retain(|_, (_, turn)| *turn > oldest);
        }
        let (bucket, turn) = self.sources.entry(*source).or_insert_with(|| (bucket(source.rate()), 0));
        *turn = self.turn;
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
        self.known.insert(way, Known { peer, turn, bucket: bucket(KNOWN) });
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

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
        let mut budget = Budget::new();
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
        let mut budget = Budget::new();
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
        let mut budget = Budget::new();
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
        let mut budget = Budget::new();
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
