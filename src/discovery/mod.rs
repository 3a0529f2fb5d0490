//! Floor 2, sans-IO: which nodes to hold links to, and when to try. Up to `max_peers` nodes everybody links with
//! everybody; in larger networks a node wants its two successors on the ring of NodeIds (so the graph is connected)
//! and a few fingers across the ring (so it is short, as in Chord, SIGCOMM 2001, §4). A node
//! without a link tries at once; the ring and the fingers, and then the other links of a small network, are opened when
//! no new node has turned up for a while, so that a large network that starts all at once doesn't become a full mesh
//! first.

mod budget;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
};

use self::{
    budget::Budget,
    target::{Retry, Target},
};
use crate::{
    crypto::Rng,
    types::{Duration, Instant, NodeId},
};

const BOOTSTRAP_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const REFUSED_RETRY: Duration = Duration::from_secs(300);
const SUCCESSORS: usize = 2;
const FINGERS: u32 = 4;
/// Endpoints of one node tried at the same time.
const PARALLEL: usize = 4;
/// Ring and fingers, and links beyond them, are opened when the set of known nodes has not grown for so long.
const SETTLE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(2));
/// And in any case after so many times that.
const SETTLE_AT_MOST: u32 = 8;
/// A link is wanted so long to a node to which no relay leads; and so many nodes at most, so that who swallows everything
/// makes no full mesh.
const INSIST_FOR: Duration = Duration::from_secs(900);
const MAX_INSISTED: usize = 32;
/// Nodes tried per call, so that a large table doesn't make a burst.
const BURST: usize = 8;
/// Addresses of a node that are remembered because they answered.
const MAX_PROVEN: usize = 8;

/// An attempt that the owner should make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub addr: SocketAddr,
    pub expected: Option<NodeId>,
    /// It is in our own configuration, or the node has answered there before. All others may be anybody's: they deserve
    /// few datagrams until something comes back.
    pub proven: bool,
}

/// A link that might be given up for room.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub node: NodeId,
    /// It came when there was no room.
    pub temporary: bool,
    pub peer_wants: bool,
    pub since: Instant,
}

#[derive(Debug)]
struct Bootstrap {
    addr: SocketAddr,
    node: Option<NodeId>,
    retry: Retry,
}

/// The peers that this node knows of and wants.
#[derive(Debug)]
pub struct Discovery {
    me: NodeId,
    max_peers: usize,
    bootstrap: Vec<Bootstrap>,
    targets: BTreeMap<NodeId, Target>,
    linked: BTreeSet<NodeId>,
    refused: BTreeMap<NodeId, Instant>,
    wanted: Option<BTreeSet<NodeId>>,
    /// The part of `wanted` that holds the graph together.
    ring: BTreeSet<NodeId>,
    /// The part of `wanted` that makes paths short.
    fingers: BTreeSet<NodeId>,
    /// From when on ring and fingers, and from when on the rest is opened.
    settled: (Instant, Instant),
    /// Since when new nodes turn up.
    unsettled: Instant,
    /// Nodes with endpoints that wait to be taken in.
    late: BTreeSet<NodeId>,
    /// Nodes to which no relay leads, and until when a link to them is wanted for that.
    insisted: VecDeque<(NodeId, Instant)>,
    unproven: Budget,
    /// The answer of [`Self::poll_timeout`] until something changes.
    next: Option<Option<Instant>>,
    rng: Rng,
    pub counters: Counters,
}

/// What was put off.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counters {
    /// Changes of endpoints that came too soon after others of the same node.
    pub changes_deferred: u64,
    /// Attempts that had to wait because there were too many at addresses that never answered.
    pub attempts_deferred: u64,
}

impl Discovery {
    /// `max_peers` is at least 8.
    #[must_use]
    pub fn new(me: NodeId, max_peers: usize, rng: Rng) -> Self {
        Self {
            me,
            max_peers: max_peers.max(8),
            bootstrap: Vec::new(),
            targets: BTreeMap::new(),
            linked: BTreeSet::new(),
            refused: BTreeMap::new(),
            wanted: None,
            ring: BTreeSet::new(),
            fingers: BTreeSet::new(),
            settled: Default::default(),
            unsettled: Instant::default(),
            late: BTreeSet::new(),
            insisted: VecDeque::new(),
            unproven: Budget::new(),
            next: None,
            rng,
            counters: Counters::default(),
        }
    }

    /// Replaces the bootstrap addresses, after names were resolved. Addresses that stay keep their state.
    pub fn set_bootstrap(&mut self, now: Instant, addresses: &[SocketAddr]) {
        self.next = None;
        let mut old = std::mem::take(&mut self.bootstrap);
        for addr in addresses {
            let kept = old.iter().position(|b| b.addr == *addr).map(|i| old.swap_remove(i));
            let retry = Retry::new(now, BOOTSTRAP_RETRY);
            self.bootstrap.push(kept.unwrap_or(Bootstrap { addr: *addr, node: None, retry }));
        }
    }

    /// A member is known, with those of the endpoints that it announces that are worth a try. What is new among them is
    /// tried at once, unless it has changed too often.
    pub fn known(&mut self, now: Instant, node: NodeId, endpoints: &[SocketAddr]) {
        self.next = None;
        if node == self.me {
            return;
        }
        match self.targets.get_mut(&node) {
            Some(target) => {
                if target.announced == endpoints {
                    target.waiting = None;
                    self.late.remove(&node);
                } else if target.take_in(now, endpoints.to_vec()) {
                    self.late.remove(&node);
                } else {
                    self.counters.changes_deferred += 1;
                    self.late.insert(node);
                }
            }
            None => {
                self.targets.insert(node, Target::new(now, endpoints));
                self.wanted = None;
                if self.settled.1 + SETTLE.1 <= now {
                    self.unsettled = now;
                }
                let jitter = [SETTLE.0, SETTLE.1].map(|wait| (now + self.rng.jitter(wait, 50), wait));
                // Somebody new may turn up all the time.
                let [ring, rest] = jitter.map(|(at, wait)| at.min(self.unsettled + wait * SETTLE_AT_MOST));
                self.settled = (ring, rest);
            }
        }
    }

    /// Packets for a node don't arrive by relays: a link to it is wanted, whatever the network's shape.
    pub fn insist(&mut self, now: Instant, node: NodeId) {
        let Some(target) = self.targets.get_mut(&node) else { return };
        if !self.insisted.iter().any(|(n, _)| *n == node) {
            target.retry.reset(now);
        }
        self.insisted.retain(|(n, _)| *n != node);
        self.insisted.push_back((node, now + INSIST_FOR));
        if self.insisted.len() > MAX_INSISTED {
            self.insisted.pop_front();
        }
        (self.next, self.wanted) = (None, None);
    }

    /// A member is gone: expired, or revoked.
    pub fn forget(&mut self, node: &NodeId) {
        self.next = None;
        self.late.remove(node);
        if self.targets.remove(node).is_some() {
            self.wanted = None;
        }
    }

    /// A link is up. `addr` tells which bootstrap entry the node stands behind.
    pub fn linked(&mut self, now: Instant, node: NodeId, addr: SocketAddr) {
        self.next = None;
        self.linked.insert(node);
        self.identified(node, addr);
        if let Some(target) = self.targets.get_mut(&node) {
            target.retry.reset(now);
            target.held = now;
            target.proven.retain(|a| *a != addr);
            target.proven.push(addr);
            if target.proven.len() > MAX_PROVEN {
                target.proven.remove(0);
            }
        }
    }

    /// An address answered as this node.
    pub fn identified(&mut self, node: NodeId, addr: SocketAddr) {
        self.next = None;
        for b in self.bootstrap.iter_mut().filter(|b| b.addr == addr) {
            b.node = Some(node);
        }
    }

    /// A link was lost: try again soon.
    pub fn unlinked(&mut self, now: Instant, node: NodeId) {
        self.next = None;
        self.linked.remove(&node);
        if let Some(target) = self.targets.get_mut(&node) {
            target.retry.reset(now);
        }
        for b in self.bootstrap.iter_mut().filter(|b| b.node == Some(node)) {
            b.retry.reset(now);
        }
    }

    /// A node has no room for us: choose others for a while.
    pub fn refused(&mut self, now: Instant, node: NodeId) {
        self.next = None;
        self.refused.insert(node, now + REFUSED_RETRY);
        self.wanted = None;
    }

    /// The network changed (an address, a link): everything is worth a try at once.
    pub fn retry_all(&mut self, now: Instant) {
        self.next = None;
        self.bootstrap.iter_mut().for_each(|b| b.retry.reset(now));
        self.targets.values_mut().for_each(|t| t.retry.reset(now));
    }

    /// Whether this node wants a link to `node`.
    pub fn wants(&mut self, node: &NodeId) -> bool {
        self.update_wanted();
        self.wanted.as_ref().is_some_and(|w| w.contains(node))
    }

    /// Whether there is room for one more link.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.linked.len() < self.max_peers
    }

    /// Whether a link to `node` holds the ring together: it is never given up for room.
    #[must_use]
    pub fn is_ring(&self, node: &NodeId) -> bool {
        let before = self.targets.range(..self.me).rev().chain(self.targets.range(self.me..).rev());
        self.successors().any(|n| n == *node) || before.take(SUCCESSORS).any(|(n, _)| n == node)
    }

    /// The nodes that follow this one on the ring.
    fn successors(&self) -> impl Iterator<Item = NodeId> {
        self.targets.range(self.me..).chain(self.targets.range(..self.me)).take(SUCCESSORS).map(|(n, _)| *n)
    }

    /// Which links to give up for room beyond `max_peers`: first those that came when there was no more room, then
    /// those that nobody wants, then the oldest that only the peer wants. A link that works and takes
    /// nobody's room stays: giving it up would move routes for nothing. Not all go at once: routes need a moment to
    /// find new ways.
    pub fn surplus(&mut self, now: Instant, links: &[Candidate]) -> Vec<NodeId> {
        let excess = links.len().saturating_sub(self.max_peers);
        if excess == 0 {
            return Vec::new();
        }
        self.update_wanted();
        let wanted = self.wanted.clone().unwrap_or_default();
        // Who is new needs a moment to learn of others.
        let settled = |since: &Instant| now.since(*since) > Duration::from_secs(4);
        let is_spare = |l: &&Candidate| !wanted.contains(&l.node) && !self.is_ring(&l.node) && settled(&l.since);
        let mut spare: Vec<_> = links.iter().filter(is_spare).collect();
        spare.sort_by_key(|l| (!l.temporary, l.peer_wants, l.since, l.node));
        spare.into_iter().take(1 + excess / 4).map(|l| l.node).collect()
    }

    /// When [`Self::poll`] has something to do.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if let Some(next) = self.next {
            return next;
        }
        self.update_wanted();
        let bootstrap = self.bootstrap.iter().filter(|b| !self.is_satisfied(b)).map(|b| b.retry.next);
        let wanted = self.wanted.iter().flatten().filter(|n| !self.linked.contains(n));
        let targets = wanted.filter_map(|n| Some((n, self.targets.get(n)?))).filter(|(_, t)| !t.endpoints.is_empty());
        let due = targets.map(|(n, t)| t.retry.next.max(t.held).max(self.not_before(n)));
        let changes = self.late.iter().filter_map(|n| Some(self.targets.get(n)?.changes.next()));
        let next = bootstrap.chain(due).chain(changes).min();
        self.next = Some(next);
        next
    }

    /// The attempts that are due.
    pub fn poll(&mut self, now: Instant) -> Vec<Attempt> {
        self.next = None;
        self.refused.retain(|_, until| *until > now);
        self.take_in_late(now);
        if self.insisted.front().is_some_and(|(_, until)| *until <= now) {
            self.insisted.retain(|(_, until)| *until > now);
            self.wanted = None;
        }
        self.update_wanted();
        let mut out = Vec::new();
        for i in 0..self.bootstrap.len() {
            if !self.is_satisfied(&self.bootstrap[i]) && self.bootstrap[i].retry.next <= now {
                let b = &mut self.bootstrap[i];
                b.retry.tried(now, &mut self.rng);
                out.push(Attempt { addr: b.addr, expected: None, proven: true });
            }
        }
        let wanted = self.wanted.take().unwrap_or_default();
        // Who has waited longest comes first, not who has the lowest NodeId: the budget may be short, and whoever names another's
        // host draws from the same.
        let due = wanted.iter().filter(|n| !self.linked.contains(n) && self.not_before(n) <= now);
        let due = due.filter_map(|n| Some((self.targets.get(n)?, *n)));
        let due = due.filter(|(t, _)| t.retry.next.max(t.held) <= now && !t.endpoints.is_empty());
        let mut due: Vec<(Instant, NodeId)> = due.map(|(t, n)| (t.retry.next, n)).collect();
        due.sort_unstable();
        let mut tried = 0;
        for (_, node) in due {
            let Some(target) = self.targets.get_mut(&node).filter(|_| tried < BURST) else { continue };
            if target.left == 0 {
                target.left = target.endpoints.len().min(PARALLEL);
            }
            let (mut done, mut put_off, mut next) = (Vec::new(), Vec::new(), None);
            for addr in target.endpoints.drain(..target.left) {
                let proven = target.proven.contains(&addr);
                let leave = if proven { Ok(()) } else { self.unproven.take(now, addr) };
                if let Err(at) = leave {
                    put_off.push(addr);
                    next = next.into_iter().chain([at]).min();
                } else {
                    out.push(Attempt { addr, expected: Some(node), proven });
                    done.push(addr);
                }
            }
            self.counters.attempts_deferred += put_off.len() as u64;
            tried += usize::from(!done.is_empty());
            target.left = put_off.len();
            match next {
                // What was put off keeps its place among those that wait, whatever became of other addresses.
                Some(next) => target.held = next,
                None => target.retry.tried(now, &mut self.rng),
            }
            target.endpoints.splice(..0, put_off);
            target.endpoints.extend(done);
        }
        self.wanted = Some(wanted);
        out
    }

    /// Endpoints that had to wait and now are due.
    fn take_in_late(&mut self, now: Instant) {
        for node in std::mem::take(&mut self.late) {
            let Some(target) = self.targets.get_mut(&node) else { continue };
            if let Some(endpoints) = target.waiting.take()
                && !target.take_in(now, endpoints)
            {
                self.late.insert(node);
            }
        }
    }

    fn not_before(&self, node: &NodeId) -> Instant {
        if self.linked.is_empty() || self.insisted.iter().any(|(n, _)| n == node) {
            Instant::default()
        } else if self.ring.contains(node) || self.fingers.contains(node) {
            self.settled.0
        } else {
            self.settled.1
        }
    }

    fn is_satisfied(&self, bootstrap: &Bootstrap) -> bool {
        bootstrap.node.is_some_and(|n| {
            n == self.me || self.linked.contains(&n) || (self.targets.len() >= self.max_peers && self.linked.len() >= 3)
        })
    }

    fn update_wanted(&mut self) {
        if self.wanted.is_some() {
            return;
        }
        let usable = |n: &NodeId| !self.refused.contains_key(n);
        let ring: BTreeSet<NodeId> = self.successors().collect();
        let mut fingers = BTreeSet::new();
        for k in 1..=FINGERS {
            let mut point = self.me;
            let head = u32::from_be_bytes([point.0[0], point.0[1], point.0[2], point.0[3]]);
            point.0[..4].copy_from_slice(&head.wrapping_add(1 << (32 - k)).to_be_bytes());
            let finger = self.targets.range(point..).chain(self.targets.iter()).map(|(n, _)| *n).find(usable);
            fingers.extend(finger);
        }
        let mut wanted: BTreeSet<NodeId> = if self.targets.len() < self.max_peers {
            self.targets.keys().filter(|n| usable(n)).copied().collect()
        } else {
            ring.union(&fingers).copied().collect()
        };
        // Whether or not the node has said that it has no room: no relay leads there.
        wanted.extend(self.insisted.iter().map(|(n, _)| *n).filter(|n| self.targets.contains_key(n)));
        self.ring = ring;
        self.fingers = fingers;
        self.wanted = Some(wanted);
    }
}

#[cfg(test)]
mod tests;
