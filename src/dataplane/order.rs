//! The order of a peer's packets while the path between us changes.
//!
//! What goes by a faster path arrives before what was sent earlier and is still on its way by the slower one. A sender that
//! leaves a path that works marks where it goes on, and then, on the old path, where that one ends. Between these two marks,
//! what comes by the new path waits: no longer than it would have taken by the old one. Without a mark the old path has
//! failed, and there is nothing to wait for.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    session::Transport,
    types::{NodeId, path},
};

/// How long packets wait if the old path loses the marks of its end.
const PATIENCE: Duration = Duration::from_millis(250);
/// Bytes of one peer that wait at the most.
const ROOM: usize = 2 << 20;
/// Peers whose packets wait at a time; of more, packets take their chance.
const PEERS: usize = 16;
/// Set in the number of every path: 0 is none.
const PATH: u64 = 1 << 61;
/// In the place of a path's number: it came to its end before the new one began.
const ENDED: u64 = 1;

/// The number of the path that comes from there: the peer's place, or that of a relay.
pub(super) fn number(from: SocketAddr) -> u64 {
    let ip = match from.ip() {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip) as u64 ^ (u128::from(ip) >> 64) as u64,
    };
    let place = u64::from(from.port()) << 32 | u64::from(path::socket_of(from));
    // Fibonacci hashing (Knuth, TAOCP 3, 6.4).
    let hash = (ip ^ place.rotate_left(16)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3;
    PATH | hash
}

/// A packet that waits.
struct Packet {
    session: Arc<Transport>,
    counter: u64,
    bytes: Vec<u8>,
}

/// What came of a peer by its new path.
struct Held {
    path: u64,
    /// The session and the counter of the mark.
    mark: (Arc<Transport>, u64),
    packets: Vec<Packet>,
    bytes: usize,
    until: Instant,
}

impl Held {
    fn release(self, mut deliver: impl FnMut(&[u8])) {
        self.packets.iter().for_each(|packet| deliver(&packet.bytes));
        // Not before all is delivered: from here on other threads deliver what comes by this path without the lock.
        self.mark.0.set_path(self.path, self.mark.1);
        self.packets.iter().for_each(|packet| packet.session.set_path(self.path, packet.counter));
    }
}

/// What waits, of all peers.
#[derive(Default)]
pub(super) struct Order {
    held: Mutex<HashMap<NodeId, Held>>,
    begun: Condvar,
}

impl Order {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a packet that did not come by the path of those before it on its session. `deliver` gets what is in turn,
    /// now or once it is: under a lock, so that nobody comes between.
    pub fn take(
        &self,
        session: &Arc<Transport>,
        (counter, path): (u64, u64),
        packet: &[u8],
        mut deliver: impl FnMut(&[u8]),
    ) {
        let mut all = self.lock();
        if let Some(held) = all.get_mut(&session.peer).filter(|held| held.path == path) {
            held.packets.push(Packet { session: Arc::clone(session), counter, bytes: packet.to_vec() });
            held.bytes += packet.len() + size_of::<Packet>();
            if held.bytes > ROOM {
                all.remove(&session.peer).into_iter().for_each(|held| held.release(&mut deliver));
            }
            return;
        }
        // A straggler says nothing of the path.
        if counter >= session.path().1 {
            session.set_path(path, counter);
        }
        deliver(packet);
    }

    /// Takes in the sender's word that from this packet on it sends by this path, and that the one before it works.
    pub fn begin(&self, session: &Arc<Transport>, (counter, path): (u64, u64), deliver: impl FnMut(&[u8])) {
        let mut all = self.lock();
        let (known, last) = session.path();
        let is_known = known == path || all.get(&session.peer).is_some_and(|held| held.path == path);
        if is_known || counter < last {
            return;
        }
        if known == ENDED {
            session.set_path(path, counter);
            return;
        }
        if let Some(before) = all.remove(&session.peer) {
            before.release(deliver);
        }
        if all.len() < PEERS {
            let mark = (Arc::clone(session), counter);
            let until = Instant::now() + PATIENCE;
            all.insert(session.peer, Held { path, mark, packets: Vec::new(), bytes: 0, until });
            self.begun.notify_one();
        }
    }

    /// Takes in the sender's word that nothing more comes by this path.
    pub fn end(&self, session: &Transport, path: u64, deliver: impl FnMut(&[u8])) {
        let mut all = self.lock();
        let (known, last) = session.path();
        if all.get(&session.peer).is_some_and(|held| held.path != path)
            && let Some(held) = all.remove(&session.peer)
        {
            held.release(deliver);
        } else if [0, path].contains(&known) {
            session.set_path(ENDED, last);
        }
    }

    /// Lets go, as long as the process lives, what has waited long enough.
    pub fn watch(&self, mut deliver: impl FnMut(&[u8])) {
        let mut all = self.lock();
        loop {
            let now = Instant::now();
            all.extract_if(|_, held| held.until <= now).for_each(|(_, held)| held.release(&mut deliver));
            all = match all.values().map(|held| held.until).min() {
                None => self.begun.wait(all).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let waited = self.begun.wait_timeout(all, at.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_told_from_each_other() {
        let udp: SocketAddr = "192.0.2.1:51900".parse().unwrap();
        let stream = path::through(udp, path::FIRST_STREAM + 3);
        let others = ["192.0.2.1:51901", "192.0.2.2:51900", "[2001:db8::1]:51900", "[2001:db8:1::]:51900"];
        let others = others.iter().map(|a| a.parse().unwrap()).chain([udp, stream]).map(number);
        let all: HashSet<u64> = others.chain([0]).collect();
        assert_eq!(all.len(), 7);
    }

    const OLD: u64 = PATH | 3;
    const NEW: u64 = PATH | 1;

    #[test]
    fn nothing_goes_past_the_lock_while_what_waited_is_delivered() {
        let [session, _] = Transport::pair(1).map(Arc::new);
        let (order, mut delivered) = (Order::default(), Vec::new());
        session.set_path(OLD, 3);
        order.begin(&session, (6, NEW), |_| unreachable!("nothing waits"));
        for counter in [7, 8] {
            order.take(&session, (counter, NEW), &[counter as u8], |_| unreachable!("it waits"));
        }
        order.end(&session, OLD, |packet| delivered.push((packet[0], session.path().0)));
        assert_eq!(delivered, [(7, OLD), (8, OLD)]);
        assert_eq!(session.path(), (NEW, 8));
    }

    #[test]
    fn an_end_that_comes_first_leaves_nothing_to_wait_for() {
        let [session, _] = Transport::pair(1).map(Arc::new);
        let order = Order::default();
        session.set_path(OLD, 3);
        order.end(&session, OLD, |_| unreachable!("nothing waits"));
        order.begin(&session, (6, NEW), |_| unreachable!("nothing waits"));
        assert!(session.came_by(NEW, 7));
    }

    #[derive(Clone, Copy)]
    enum Sent {
        User,
        Frame,
        Begin,
        End,
    }

    fn when(packet: &[u8]) -> u64 {
        u64::from_be_bytes(packet.try_into().unwrap())
    }

    proptest! {
        /// A sender changes from a slow path to a fast one, and about then to another session; some packets are lost, some are
        /// not for users.
        #[test]
        fn packets_of_two_paths_are_put_in_order(
            slow in 0u64..200, fast in 1u64..200, rekeyed in 0u64..400, delay in 0u64..120,
            lost in prop::collection::hash_set(0u64..400, 0..40), frames in prop::collection::hash_set(0u64..400, 0..40),
            (ends, begins) in (0usize..3, 1usize..3),
        ) {
            let sessions = [1, 2].map(|index| Transport::pair(index).map(Arc::new));
            let (order, mut out, mut arrivals) = (Order::default(), Vec::new(), Vec::new());
            // One packet per tick, which carries when it was sent; what is sent by the slow path arrives later.
            for at in 0..slow + fast {
                let [sender, receiver] = &sessions[usize::from(at >= rekeyed)];
                let mut send = |path, sent, is_lost: bool| {
                    let mut bytes = Vec::new();
                    sender.seal(&at.to_be_bytes(), &mut bytes);
                    if !is_lost {
                        arrivals.push((if path == OLD { at + delay } else { at }, receiver, path, sent, bytes));
                    }
                };
                if at == slow {
                    (0..2).for_each(|i| send(OLD, Sent::End, i >= ends));
                    (0..2).for_each(|i| send(NEW, Sent::Begin, i >= begins));
                }
                let sent = if frames.contains(&at) { Sent::Frame } else { Sent::User };
                send(if at < slow { OLD } else { NEW }, sent, lost.contains(&at));
            }
            arrivals.sort_by_key(|(at, ..)| *at);
            for (_, session, path, sent, mut bytes) in arrivals {
                let counter = u64::from_be_bytes(bytes[8..16].try_into().unwrap());
                let packet = session.open(counter, &mut bytes).unwrap();
                let deliver = |packet: &[u8]| out.push(when(packet));
                match sent {
                    Sent::Frame => {}
                    Sent::Begin => order.begin(session, (counter, path), deliver),
                    Sent::End => order.end(session, path, deliver),
                    Sent::User if session.came_by(path, counter) => out.push(when(&bytes[packet])),
                    Sent::User => order.take(session, (counter, path), &bytes[packet], deliver),
                }
            }
            if ends == 0 {
                // The time that they wait is over.
                order.lock().drain().for_each(|(_, held)| held.release(|packet| out.push(when(packet))));
            }
            let expected: Vec<u64> = (0..slow + fast).filter(|c| !lost.contains(c) && !frames.contains(c)).collect();
            prop_assert_eq!(out, expected);
        }
    }
}
