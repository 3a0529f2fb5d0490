//! Order while a path changes.
//!
//! What goes by a faster path arrives before what was sent earlier and is still on its way by the slower one. A sender that
//! leaves a path that works marks where it goes on, and then, on the old path, where that one ends. Between these two marks,
//! what comes by the new path waits: no longer than it would have taken by the old one. Without a mark the old path has
//! failed, and there is nothing to wait for but what another thread of ours has received and not yet delivered.
//!
//! Paths change on two levels. A link between neighbours moves to another address: all that crosses it waits, whoever it is
//! from and for. A node's packets take another way: those packets wait, of all that the neighbour brings.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    session::{Arrivals, Transport},
    types::{NodeId, path},
    wire::frame::Level,
};

/// How long packets wait if the old path loses the marks of its end.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long they wait without a mark: longer than a thread that is ready to run does.
const SETTLING: Duration = Duration::from_millis(5);
/// Bytes of one peer that wait at the most.
const ROOM: usize = 2 << 20;
/// Peers whose packets wait at a time; of more, packets take their chance.
const PEERS: usize = 16;
/// Set in the number of every path: 0 is none.
const PATH: u64 = 1 << 61;
/// In the place of a path's number: it came to its end before the new one began.
const ENDED: u64 = 1;

/// The number of a link's path: the address that the neighbour sends from.
pub(super) fn address(from: SocketAddr) -> u64 {
    let ip = match from.ip() {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip) as u64 ^ (u128::from(ip) >> 64) as u64,
    };
    let place = u64::from(from.port()) << 32 | u64::from(path::socket_of(from));
    // Fibonacci hashing (Knuth, TAOCP 3, 6.4).
    let hash = (ip ^ place.rotate_left(16)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3;
    PATH | hash
}

/// The number of a route's path: the neighbour that brings a node's packets; the node itself, when they come straight.
pub(super) fn neighbor(id: &NodeId) -> u64 {
    PATH | id.tag().0 >> 3
}

/// What waits.
struct Packet<T> {
    session: Arc<Transport>,
    counter: u64,
    content: T,
}

/// What came of a peer by its new path.
struct Held<T> {
    path: u64,
    /// The session and the counter of the mark.
    mark: (Arc<Transport>, u64),
    packets: Vec<Packet<T>>,
    bytes: usize,
    until: Instant,
}

impl<T> Held<T> {
    fn release(self, level: Level, mut deliver: impl FnMut(&Arc<Transport>, T)) {
        let arrived: Vec<_> = self.packets.iter().map(|packet| (Arc::clone(&packet.session), packet.counter)).collect();
        self.packets.into_iter().for_each(|packet| deliver(&packet.session, packet.content));
        // Not before all is delivered: from here on other threads deliver what comes by this path without the lock.
        for (session, counter) in [self.mark].into_iter().chain(arrived) {
            session.arrivals(level).set_path(self.path, counter);
        }
    }
}

/// What waits, of all peers, on one level.
pub(super) struct Order<T> {
    level: Level,
    held: Mutex<HashMap<NodeId, Held<T>>>,
    begun: Condvar,
}

impl<T> Order<T> {
    pub fn new(level: Level) -> Self {
        Self { level, held: Mutex::default(), begun: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Held<T>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrivals<'s>(&self, session: &'s Transport) -> &'s Arrivals {
        session.arrivals(self.level)
    }

    /// Takes in what did not come by the path of what came before it on its session, and its length in bytes. `deliver` gets
    /// what is in turn, now or once it is: under a lock, so that nobody comes between.
    pub fn take(
        &self,
        session: &Arc<Transport>,
        (counter, path): (u64, u64),
        (content, len): (T, usize),
        mut deliver: impl FnMut(&Arc<Transport>, T),
    ) {
        let mut all = self.lock();
        let arrivals = self.arrivals(session);
        let (known, last) = arrivals.path();
        // A straggler says nothing of the path.
        let changes = known != path && counter >= last;
        if changes && known & PATH != 0 && !all.contains_key(&session.peer) && all.len() < PEERS {
            self.hold(&mut all, (session, counter, path), SETTLING);
        }
        if let Some(held) = all.get_mut(&session.peer).filter(|held| held.path == path) {
            held.packets.push(Packet { session: Arc::clone(session), counter, content });
            held.bytes += len + size_of::<Packet<T>>();
            if held.bytes > ROOM {
                all.remove(&session.peer).into_iter().for_each(|held| held.release(self.level, &mut deliver));
            }
            return;
        }
        if changes {
            arrivals.set_path(path, counter);
        }
        deliver(session, content);
    }

    /// From here on what comes by this path waits.
    fn hold(
        &self,
        all: &mut HashMap<NodeId, Held<T>>,
        (session, counter, path): (&Arc<Transport>, u64, u64),
        time: Duration,
    ) {
        let (mark, until) = ((Arc::clone(session), counter), Instant::now() + time);
        all.insert(session.peer, Held { path, mark, packets: Vec::new(), bytes: 0, until });
        self.begun.notify_one();
    }

    /// Takes in the sender's word that from here on it sends by this path, and that the one before it works.
    pub fn begin(
        &self,
        session: &Arc<Transport>,
        (counter, path): (u64, u64),
        deliver: impl FnMut(&Arc<Transport>, T),
    ) {
        let mut all = self.lock();
        let (known, last) = self.arrivals(session).path();
        let is_known = known == path || all.get(&session.peer).is_some_and(|held| held.path == path);
        if is_known || counter < last {
            return;
        }
        if known == ENDED {
            self.arrivals(session).set_path(path, counter);
            return;
        }
        if let Some(before) = all.remove(&session.peer) {
            before.release(self.level, deliver);
        }
        if all.len() < PEERS {
            self.hold(&mut all, (session, counter, path), PATIENCE);
        }
    }

    /// Takes in the sender's word that nothing more comes by this path.
    pub fn end(&self, session: &Transport, path: u64, deliver: impl FnMut(&Arc<Transport>, T)) {
        let mut all = self.lock();
        let (known, last) = self.arrivals(session).path();
        if all.get(&session.peer).is_some_and(|held| held.path != path)
            && let Some(held) = all.remove(&session.peer)
        {
            held.release(self.level, deliver);
        } else if [0, path].contains(&known) {
            self.arrivals(session).set_path(ENDED, last);
        }
    }

    /// Lets go, as long as the process lives, what has waited long enough.
    pub fn watch(&self, mut deliver: impl FnMut(&Arc<Transport>, T)) {
        let mut all = self.lock();
        loop {
            let now = Instant::now();
            all.extract_if(|_, held| held.until <= now).for_each(|(_, held)| held.release(self.level, &mut deliver));
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
        let others = others.iter().map(|a| a.parse().unwrap()).chain([udp, stream]).map(address);
        let all: HashSet<u64> = others.chain([0]).collect();
        assert_eq!(all.len(), 7);
    }

    const OLD: u64 = PATH | 3;
    const NEW: u64 = PATH | 1;

    #[test]
    fn nothing_goes_past_the_lock_while_what_waited_is_delivered() {
        let [session, _] = Transport::pair(1).map(Arc::new);
        let (order, mut delivered) = (Order::new(Level::Link), Vec::new());
        let arrivals = session.arrivals(Level::Link);
        arrivals.set_path(OLD, 3);
        order.begin(&session, (6, NEW), |_, _| unreachable!("nothing waits"));
        for counter in [7, 8] {
            order.take(&session, (counter, NEW), (counter, 1), |_, _| unreachable!("it waits"));
        }
        order.end(&session, OLD, |_, packet| delivered.push((packet, arrivals.path().0)));
        assert_eq!(delivered, [(7, OLD), (8, OLD)]);
        assert_eq!(arrivals.path(), (NEW, 8));
        assert_eq!(session.arrivals(Level::Route).path(), (0, 0), "the other level knows nothing of it");
    }

    #[test]
    fn an_end_that_comes_first_leaves_nothing_to_wait_for() {
        let [session, _] = Transport::pair(1).map(Arc::new);
        let order = Order::<()>::new(Level::Route);
        session.arrivals(Level::Route).set_path(OLD, 3);
        order.end(&session, OLD, |_, ()| unreachable!("nothing waits"));
        order.begin(&session, (6, NEW), |_, ()| unreachable!("nothing waits"));
        assert!(session.arrivals(Level::Route).came_by(NEW, 7));
    }

    /// One thread has received the last datagrams of the old path and another the first of the new one.
    #[test]
    fn without_a_mark_the_new_path_waits_for_threads_but_not_for_the_old_path() {
        let [session, _] = Transport::pair(1).map(Arc::new);
        let (order, out) = (Order::new(Level::Link), Mutex::new(Vec::new()));
        let deliver = |_: &Arc<Transport>, packet| out.lock().unwrap().push(packet);
        order.take(&session, (1, OLD), (1, 1), deliver);
        order.take(&session, (4, NEW), (4, 1), deliver);
        for counter in [2, 3] {
            assert!(session.arrivals(Level::Link).came_by(OLD, counter));
            deliver(&session, counter);
        }
        order.take(&session, (5, NEW), (5, 1), deliver);
        assert_eq!(*out.lock().unwrap(), [1, 2, 3]);
        let until = order.lock().values().map(|held| held.until).next();
        assert!(until.is_some_and(|until| until <= Instant::now() + SETTLING));
        order.lock().drain().for_each(|(_, held)| held.release(Level::Link, deliver));
        assert_eq!(*out.lock().unwrap(), [1, 2, 3, 4, 5]);
        assert!(session.arrivals(Level::Link).came_by(NEW, 6));
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
            let (order, mut out, mut arrivals) = (Order::new(Level::Route), Vec::new(), Vec::new());
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
                let deliver = |_: &Arc<Transport>, at| out.push(at);
                match sent {
                    Sent::Frame => {}
                    Sent::Begin => order.begin(session, (counter, path), deliver),
                    Sent::End => order.end(session, path, deliver),
                    Sent::User if session.arrivals(Level::Route).came_by(path, counter) => out.push(when(&bytes[packet])),
                    Sent::User => order.take(session, (counter, path), (when(&bytes[packet]), 8), deliver),
                }
            }
            if ends == 0 {
                // The time that they wait is over.
                order.lock().drain().for_each(|(_, held)| held.release(Level::Route, |_, at| out.push(at)));
            }
            let expected: Vec<u64> = (0..slow + fast).filter(|c| !lost.contains(c) && !frames.contains(c)).collect();
            prop_assert_eq!(out, expected);
        }
    }
}
