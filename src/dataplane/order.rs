//! The order of a session's packets while its path gets shorter.
//!
//! What goes by a faster path arrives before what was sent earlier and is still on its way by the slower one. A sender that
//! leaves a path that works marks where it goes on. From the mark on, packets wait until those before them have come, which
//! the session's counters tell, but not for long: what is missing may be lost. Without a mark the old path has failed, and
//! there is nothing to wait for.

use std::{
    collections::{BTreeMap, HashMap},
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
/// In the place of a path's number: packets wait.
const HOLDING: u64 = u64::MAX;
/// Set in the number of a path that leads through a relay.
const RELAYED: u64 = 1 << 62;
/// Set in the number of every path but [`HOLDING`]: 0 is none.
const PATH: u64 = 1 << 61;

/// The number of a path: what tells it from others.
pub(super) fn number(from: SocketAddr, via: Via) -> u64 {
    let relayed = if matches!(via, Via::Relayed(_)) { RELAYED } else { 0 };
    let ip = match from.ip() {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip) as u64 ^ (u128::from(ip) >> 64) as u64,
    };
    let place = u64::from(from.port()) << 32 | u64::from(path::socket_of(from));
    // Fibonacci hashing (Knuth, TAOCP 3, 6.4).
    let hash = (ip ^ place.rotate_left(16)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3;
    PATH | relayed | hash
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
        let Some(waiting) = all.get_mut(&session.local_index) else {
            // A straggler says nothing of the path.
            if counter >= session.path().1 {
                session.set_path(path, counter);
            }
            deliver(packet);
            return;
        };
        waiting.queue.take((counter, path), packet, |c| session.has(c), &mut deliver);
        if waiting.is_over() {
            end(&mut all, session.local_index, deliver);
        }
    }

    /// Takes in the sender's word that from this packet on it sends by this path, and that the one before it works.
    pub fn mark(&self, session: &Arc<Transport>, (counter, path): (u64, u64)) {
        let mut all = self.lock();
        let (old, last) = session.path();
        if [0, HOLDING, path].contains(&old) || counter < last || all.len() >= SESSIONS {
            return;
        }
        session.set_path(HOLDING, last);
        let queue = Queue { old, next: last + 1, packets: BTreeMap::new(), bytes: 0 };
        let until = Instant::now() + PATIENCE;
        all.insert(session.local_index, Waiting { session: Arc::clone(session), queue, new: (path, counter), until });
        self.begun.notify_one();
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
    fn paths_are_told_from_each_other() {
        let udp: SocketAddr = "192.0.2.1:51900".parse().unwrap();
        let stream = path::through(udp, path::FIRST_STREAM + 3);
        let relayed = number(udp, Via::Relayed(NodeTag(7)));
        let [straight, over_tcp] = [udp, stream].map(|addr| number(addr, Via::Direct(addr)));
        let others = ["192.0.2.1:51901", "192.0.2.2:51900", "[2001:db8::1]:51900", "[2001:db8:1::]:51900"];
        let others = others.iter().map(|a| a.parse().unwrap()).map(|a| number(a, Via::Direct(a)));
        let all: HashSet<u64> = others.chain([straight, over_tcp, relayed, HOLDING, 0]).collect();
        assert_eq!(all.len(), 9);
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
