//! The order of a session's packets while its path gets shorter.
//!
//! What goes straight arrives before what was sent earlier and is still on its way through a relay. So the first packets
//! that come by the better path wait until those before them have come, which the session's counters tell, but not for
//! long: what is missing may be lost. A path of the same kind or a worse one is taken as it is, unless the sender has marked
//! that it moves from one that works: else the old one has most likely failed, and there is nothing to wait for.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    session::{Transport, Via},
    types::path,
};

/// How long packets wait for those before them.
const PATIENCE: Duration = Duration::from_millis(50);
/// Bytes of one session that wait at the most.
const ROOM: usize = 2 << 20;
/// Sessions whose packets wait at a time; of more, packets take their chance.
const SESSIONS: usize = 16;
/// Where a path's number has its rank.
const RANK_SHIFT: u32 = 62;
/// In the place of a path's number: packets wait.
const HOLDING: u64 = u64::MAX;

/// The number of a path: its rank, the better the lower, and what tells it from others.
pub(super) fn number(from: SocketAddr, via: Via) -> u64 {
    let rank = match via {
        Via::Relayed(_) => 3,
        Via::Direct(_) if path::is_makeshift(from) => 2,
        Via::Direct(_) => 1,
    };
    let ip = match from.ip() {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip) as u64 ^ (u128::from(ip) >> 64) as u64,
    };
    let place = u64::from(from.port()) << 32 | u64::from(path::socket_of(from));
    // Fibonacci hashing (Knuth, TAOCP 3, 6.4); a bit that is never set keeps paths apart from `HOLDING`.
    let hash = (ip ^ place.rotate_left(16)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3;
    rank << RANK_SHIFT | hash
}

/// Whether a path is better than the one before it. A session's first path is not.
fn is_better(path: u64, before: u64) -> bool {
    path >> RANK_SHIFT < before >> RANK_SHIFT
}

/// Packets that are put in order.
struct Queue {
    /// The path that they came by before.
    old: u64,
    /// All before it have come, or don't come any more.
    next: u64,
    packets: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
}

impl Queue {
    /// Takes in a packet; `has` tells which counters have come at all. `deliver` gets what is in turn.
    fn take(
        &mut self,
        (counter, path): (u64, u64),
        packet: &[u8],
        has: impl Fn(u64) -> bool,
        mut deliver: impl FnMut(&[u8]),
    ) {
        self.packets.insert(counter, packet.to_vec());
        self.bytes += packet.len();
        if path == self.old {
            // A path keeps its order: what it has not brought by now is lost.
            self.next = self.next.max(counter);
        }
        while has(self.next) {
            self.next += 1;
        }
        while let Some(first) = self.packets.first_entry().filter(|e| *e.key() < self.next) {
            let packet = first.remove();
            self.bytes -= packet.len();
            deliver(&packet);
        }
    }
}

/// A session whose packets wait.
struct Waiting {
    session: Arc<Transport>,
    queue: Queue,
    /// The path that they come by now, and the counter of the first packet that came by it.
    new: (u64, u64),
    until: Instant,
}

impl Waiting {
    /// Whether there is nothing more to wait for, or no room.
    fn is_over(&self) -> bool {
        let Queue { next, packets, bytes, .. } = &self.queue;
        packets.is_empty() && *next > self.new.1 || *bytes > ROOM
    }
}

/// What waits, of all sessions.
#[derive(Default)]
pub(super) struct Order {
    waiting: Mutex<HashMap<u32, Waiting>>,
    begun: Condvar,
}

impl Order {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a packet that did not come by the path of those before it, or while others wait. `deliver` gets what is in
    /// turn, now or once it is: under a lock, so that nobody comes between.
    pub fn take(
        &self,
        session: &Arc<Transport>,
        (counter, path): (u64, u64),
        packet: &[u8],
        mut deliver: impl FnMut(&[u8]),
    ) {
        let mut all = self.lock();
        let has_room = all.len() < SESSIONS;
        let waiting = match all.entry(session.local_index) {
            Entry::Occupied(waiting) => waiting.into_mut(),
            Entry::Vacant(place) => {
                let (before, last) = session.path();
                // A straggler says nothing of the path.
                let is_late = counter < last;
                if !is_late {
                    session.set_path(path, counter);
                }
                if is_late || !has_room || !is_better(path, before) {
                    deliver(packet);
                    return;
                }
                place.insert(self.begin(session, (before, last), (path, counter)))
            }
        };
        waiting.queue.take((counter, path), packet, |c| session.has(c), &mut deliver);
        if waiting.is_over() {
            end(&mut all, session.local_index, deliver);
        }
    }

    /// Takes in the sender's word that from this packet on it sends by this path, and that the one before it works.
    pub fn mark(&self, session: &Arc<Transport>, (counter, path): (u64, u64)) {
        let mut all = self.lock();
        let has_room = all.len() < SESSIONS;
        let (before, last) = session.path();
        let is_news = before != 0 && before != path && counter > last;
        if let (Entry::Vacant(place), true) = (all.entry(session.local_index), is_news && has_room) {
            place.insert(self.begin(session, (before, last), (path, counter)));
        }
    }

    /// From now on a session's packets wait for those that come by its old path.
    fn begin(&self, session: &Arc<Transport>, (old, last): (u64, u64), new: (u64, u64)) -> Waiting {
        session.set_path(HOLDING, last);
        self.begun.notify_one();
        let queue = Queue { old, next: last + 1, packets: BTreeMap::new(), bytes: 0 };
        Waiting { session: Arc::clone(session), queue, new, until: Instant::now() + PATIENCE }
    }

    /// Lets go, as long as the process lives, what has waited long enough.
    pub fn watch(&self, mut deliver: impl FnMut(&[u8])) {
        let mut all = self.lock();
        loop {
            let now = Instant::now();
            let over: Vec<u32> = all.iter().filter(|(_, w)| w.until <= now).map(|(index, _)| *index).collect();
            over.into_iter().for_each(|index| end(&mut all, index, &mut deliver));
            all = match all.values().map(|w| w.until).min() {
                None => self.begun.wait(all).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let waited = self.begun.wait_timeout(all, at.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// Delivers all that waits of a session; from now on its packets come by the new path.
fn end(all: &mut HashMap<u32, Waiting>, index: u32, mut deliver: impl FnMut(&[u8])) {
    let Some(Waiting { session, queue, new, .. }) = all.remove(&index) else { return };
    queue.packets.values().for_each(|packet| deliver(packet));
    let last = queue.packets.last_key_value().map_or(queue.next - 1, |(counter, _)| *counter);
    session.set_path(new.0, last.max(new.1));
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::types::NodeTag;

    #[test]
    fn a_straight_path_is_better_than_a_stream_and_that_than_a_relay() {
        let udp: SocketAddr = "192.0.2.1:51900".parse().unwrap();
        let stream = path::through(udp, path::FIRST_STREAM + 3);
        let relayed = number(udp, Via::Relayed(NodeTag(7)));
        let [straight, over_tcp] = [udp, stream].map(|addr| number(addr, Via::Direct(addr)));
        assert!(is_better(straight, over_tcp) && is_better(over_tcp, relayed) && is_better(straight, relayed));
        assert!(!is_better(relayed, straight) && !is_better(relayed, relayed) && !is_better(relayed, 0));
        let others = ["192.0.2.1:51901", "192.0.2.2:51900", "[2001:db8::1]:51900", "[2001:db8:1::]:51900"];
        let all: HashSet<u64> =
            others.iter().map(|a| a.parse().unwrap()).map(|a| number(a, Via::Direct(a))).chain([straight]).collect();
        assert_eq!(all.len(), 5);
        assert_eq!(relayed >> RANK_SHIFT, 3);
        assert_ne!(relayed, HOLDING);
    }

    proptest! {
        /// A sender changes from a slow path to a fast one; some packets are lost, some are not for users.
        #[test]
        fn packets_of_two_paths_are_put_in_order(
            slow in 0usize..200, fast in 1usize..200, delay in 0u64..120, lost in prop::collection::hash_set(0u64..400, 0..40),
            frames in prop::collection::hash_set(0u64..400, 0..40),
        ) {
            let total = (slow + fast) as u64;
            // One packet per tick; what was sent by the slow path arrives later.
            let mut arrivals: Vec<(u64, u64)> = (0..total)
                .filter(|c| !lost.contains(c))
                .map(|c| (if c < slow as u64 { c + delay } else { c }, c))
                .collect();
            arrivals.sort_by_key(|(at, c)| (*at, *c));
            let first_fast = arrivals.iter().position(|(_, c)| *c >= slow as u64 && !frames.contains(c));
            let (mut seen, mut out, mut queue) = (HashSet::new(), Vec::new(), None::<Queue>);
            let mut last = None;
            for (i, (_, c)) in arrivals.iter().enumerate() {
                seen.insert(*c);
                if frames.contains(c) {
                    continue;
                }
                let path = if *c < slow as u64 { 3 } else { 1 };
                if Some(i) == first_fast {
                    queue = Some(Queue { old: 3, next: last.map_or(0, |l| l + 1), packets: BTreeMap::new(), bytes: 0 });
                }
                match &mut queue {
                    None => {
                        out.push(*c);
                        last = Some(*c);
                    }
                    Some(queue) => {
                        let deliver = |p: &[u8]| out.push(u64::from_be_bytes(p.try_into().unwrap()));
                        queue.take((*c, path), &c.to_be_bytes(), |c| seen.contains(&c), deliver);
                    }
                }
            }
            out.extend(queue.iter().flat_map(|q| q.packets.keys()));
            let expected: Vec<u64> = (0..total).filter(|c| !lost.contains(c) && !frames.contains(c)).collect();
            prop_assert_eq!(out, expected);
        }
    }
}
