//! How this node comes to an IPv4 address that nobody else has, and keeps it.
//!
//! The address derives from the NodeId and an attempt, and whoever makes keys until one fits can claim any. So an address is its first
//! holder's: a node that has announced one for a while keeps it, whoever comes. A node that is still settling can't know who was first, and
//! takes another one, unless it meets somebody who is as new: then the lower NodeId stays. A certificate's grant of that very address
//! goes before all of this.

use super::{Event, Node, Peer, owners::SETTLE};
use crate::{
    identity::IPV4_ATTEMPTS,
    types::{Duration, Instant, NodeId, UnixTime},
};

/// Others know an announcement for so long: as long they know who had an address first.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(super::own::LIFETIME_S as u64);
/// A new node with a higher NodeId gives way at once. Who doesn't is not new, and had the address first.
const PATIENCE: Duration = Duration::from_secs(10);

/// This node's hold on its IPv4 address.
#[derive(Debug)]
pub(super) struct Hold {
    /// Since when others have been told of it.
    claimed: Instant,
    /// Until when others know that it was this node's first, if they do.
    until: Option<Instant>,
    /// Since when others claim it too, and whether the owner of this node has been told.
    disputed: Option<(Instant, bool)>,
    /// How often another address was taken since one was held.
    moves: u32,
}

impl Hold {
    /// `until` is what [`Node::held_until`] said in the run before; 0: nothing.
    pub fn new(now: Instant, unix: UnixTime, until: UnixTime) -> Self {
        let left = Duration::from_secs(until.saturating_sub(unix)).min(KNOWN_FOR);
        Self { claimed: now, until: (!left.is_zero()).then(|| now + left), disputed: None, moves: 0 }
    }

    /// Whether this node had the address before anybody who claims it now.
    pub fn is_held(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Time has passed; `is_heard`: there are others to whom this node announces itself.
    fn tick(&mut self, now: Instant, is_heard: bool) {
        let is_held = self.is_held(now);
        if !is_heard {
            self.claimed = if is_held { self.claimed } else { now };
        } else if is_held || now.since(self.claimed) >= SETTLE {
            (self.until, self.moves) = (Some(now + KNOWN_FOR), 0);
        }
    }

    fn moved(&mut self, now: Instant) {
        *self = Self { claimed: now, until: None, disputed: None, moves: self.moves + 1 };
    }
}

impl Node {
    /// Until when, in UNIX time, others know that this node's IPv4 address was its first; 0: they can't. To be kept across restarts.
    #[must_use]
    pub fn held_until(&self, now: Instant) -> UnixTime {
        self.hold.until.filter(|until| now < *until).map_or(0, |until| self.unix_now(now) + until.since(now).as_secs())
    }

    /// Once a second.
    pub(super) fn tick_hold(&mut self, now: Instant) {
        self.book.tick(now);
        let is_heard = self.peers.values().any(Peer::is_up);
        let was_held = self.hold.is_held(now);
        self.hold.tick(now, is_heard);
        if self.hold.is_held(now) && !was_held {
            self.events.push_back(Event::StateChanged);
        }
        self.settle_address(now);
    }

    /// Looks who else claims this node's IPv4 address, and takes another one if it has to.
    pub(super) fn settle_address(&mut self, now: Instant) {
        let Some(own) = self.routing.own() else { return };
        let (me, attempt) = (own.id, self.own.content.ipv4_attempt);
        let granted = own.record.certificate.as_ref().and_then(|c| c.addresses.iter().find(|ip| ip.is_ipv4()));
        let address = granted.copied().unwrap_or_else(|| self.network.ipv4(&me, attempt).into());
        let rivals: Vec<_> = self.book.rivals(&address).collect();
        let Some(first) = rivals.first().map(|r| r.node) else {
            self.hold.disputed = None;
            return;
        };
        let (since, told) = *self.hold.disputed.get_or_insert((now, false));
        let is_new = !self.hold.is_held(now);
        let waited = now.since(since) >= PATIENCE;
        let gives_way = granted.is_none()
            && rivals.iter().any(|r| r.is_granted || is_new && (r.is_recalled || r.node < me || waited));
        if gives_way && let Some(next) = self.free_attempt(&me, attempt) {
            self.own.set_ipv4_attempt(next);
            self.hold.moved(now);
            self.counters.address_collisions += 1;
        } else if !told && (gives_way || granted.is_some() || !is_new) {
            self.hold.disputed = Some((since, true));
            self.events.push_back(Event::AddressContested { address, by: first });
        }
    }

    /// The next attempt at an address that nobody claims. An attacker may claim each in turn: at some time it is enough.
    fn free_attempt(&self, me: &NodeId, attempt: u32) -> Option<u32> {
        let mut others = (1..IPV4_ATTEMPTS).map(|k| (attempt + k) % IPV4_ATTEMPTS);
        let is_free = |a: &u32| !self.book.is_claimed(&self.network.ipv4(me, *a).into());
        others.find(is_free).filter(|_| self.hold.moves < IPV4_ATTEMPTS)
    }
}
