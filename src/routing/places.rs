//! Places in the table: who has one, who makes room, and what gives one back.

use super::{
    Judge, Learned, MAX_BROUGHT, MAX_ORIGINS, NO_SLOT, NeighborId, Origin, Routing, Slot, UNPROVEN_LIFE, WINDOW,
};
use crate::{
    identity::Refusal,
    types::{INFINITY, Instant, NodeId},
    wire::proto::Introduction,
};

/// Slots that a neighbour may hand out.
const MAX_SLOTS: usize = MAX_ORIGINS;
/// Nodes that were turned away and keep their places, for each neighbour.
const MAX_TURNED_AWAY: u32 = 64;

/// What gives a node its place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// A neighbour speaks of it.
    Talk,
    /// A neighbour has brought its announcement.
    Brought(NeighborId),
    /// It was known before.
    Known,
    /// It is there.
    Met,
}

impl Routing {
    /// Gives an origin's number back once nothing refers to it.
    pub(super) fn free_if_unused(&mut self, o: u32) {
        let origin = &self.origins[o as usize];
        let id = origin.id;
        let in_use = origin.learned.iter().any(|l| l.slot != NO_SLOT)
            || origin.sent.iter().any(|s| s.queued || s.lazy || s.blocked)
            || self.neighbors.iter().flatten().any(|n| n.wanted.iter().any(|w| w.0 == o));
        if !in_use && self.index.get(&id) == Some(&o) {
            self.release(o);
        }
    }

    /// The same as soon as the last slot that stood for it stands for another. Who has had a route is named to others by its
    /// number, and its feasibility distance counts: it goes in its time.
    fn free_if_only_spoken_of(&mut self, o: u32) {
        let origin = &self.origins[o as usize];
        if origin.announcement.is_none() && origin.fd == (0, INFINITY) {
            self.free_if_unused(o);
        }
    }

    /// Whether slots may no longer keep the place of an origin without an announcement: there was none in time, or it has
    /// expired long ago. Those that were turned away have their own bound.
    pub(super) fn is_stale(&self, now: Instant, o: u32) -> bool {
        let origin = &self.origins[o as usize];
        let has_expired = origin.expires != Instant::default();
        let end = if has_expired { origin.expires } else { origin.since };
        (has_expired || origin.refused == 0) && now.since(end) > UNPROVEN_LIFE
    }

    /// Takes an origin out of the table; nothing refers to it.
    fn release(&mut self, o: u32) {
        let origin = &self.origins[o as usize];
        let (id, since) = (origin.id, origin.since);
        self.index.remove(&id);
        self.origins[o as usize] = Origin::new(since, id);
        self.lacking.remove(&o);
        self.free.push(o);
    }

    /// Takes an origin's number from all slots that stand for it.
    pub(super) fn unbind(&mut self, o: u32) {
        for n in self.ids() {
            let Learned { slot, unproven, .. } = self.learned(n, o);
            if slot == NO_SLOT {
                continue;
            }
            *self.origins[o as usize].learned_mut(n) = Learned::default();
            let Some(neighbor) = self.neighbor_mut(n) else { continue };
            neighbor.slots.set(slot, Slot::Empty);
            if unproven {
                neighbor.lapse();
                self.counters.introductions_expired += 1;
            }
        }
    }

    /// Introductions of an origin no longer take places for what may be nobody.
    pub(super) fn prove(&mut self, o: u32, is_node: bool) {
        for n in self.ids() {
            let learned = self.learned(n, o);
            if !learned.unproven {
                continue;
            }
            self.origins[o as usize].learned_mut(n).unproven = false;
            if let Some(neighbor) = self.neighbor_mut(n) {
                neighbor.unproven -= 1;
                neighbor.proven += u32::from(is_node);
                // There is room for more.
                let has_news = neighbor.window() > neighbor.granted;
                if has_news && neighbor.granted.saturating_sub(neighbor.received) <= WINDOW / 2 {
                    neighbor.hurry(Instant::default());
                    self.wake(n);
                }
            }
        }
    }

    /// Who may be admitted has changed: whom neighbours spoke of in vain is to be introduced again.
    pub fn ask_all_again(&mut self, now: Instant) {
        for n in self.ids() {
            if let Some(neighbor) = self.neighbor_mut(n) {
                neighbor.lost = true;
                neighbor.hurry(now);
                self.wake(n);
            }
        }
    }

    /// Makes room for another origin, where somebody has less right to its place: first those of whom there is only talk,
    /// then who can't be reached, and for a node that is there itself also who came last. Never who has been met.
    pub(super) fn make_room(&mut self, now: Instant, for_met: bool) -> Option<u32> {
        let rank = |origin: &Origin| match (&origin.announcement, origin.selected) {
            (None, _) => Some(0),
            (Some(_), None) if !origin.met => Some(1),
            (Some(_), Some(_)) if !origin.met && for_met => Some(2),
            _ => None,
        };
        let ranked = (1u32..).zip(&self.origins[1..]).filter_map(|(o, origin)| Some((rank(origin)?, origin.since, o)));
        let (.., o) = ranked.min_by_key(|(rank, since, o)| (*rank, std::cmp::Reverse(*since), *o))?;
        self.counters.evicted += 1;
        if self.origins[o as usize].announcement.is_some() {
            self.drop_announcement(now, o);
        }
        self.unbind(o);
        for n in self.ids() {
            if let Some(neighbor) = self.neighbor_mut(n) {
                neighbor.wanted.retain(|w| w.0 != o);
                neighbor.queue.retain(|q| *q != o);
                neighbor.lazy.retain(|q| *q != o);
                neighbor.blocked.retain(|q| *q != o);
            }
        }
        self.release(o);
        self.free.pop()
    }

    /// A neighbour's slot stands for a node from now on. That there is such a node is shown by its announcement alone: until
    /// then it takes one of the few places that the neighbour has for those.
    pub(super) fn introduce(
        &mut self,
        now: Instant,
        n: NeighborId,
        introduction: &Introduction,
        judge: &dyn Judge,
    ) -> Result<(), Refusal> {
        let slot = introduction.slot;
        let id = NodeId::from_slice(&introduction.node_id).ok_or(Refusal::Malformed("introduction"))?;
        if slot as usize >= MAX_SLOTS {
            return Err(Refusal::Malformed("introduction"));
        }
        let Some(neighbor) = self.neighbor_mut(n) else { return Ok(()) };
        neighbor.received = neighbor.received.saturating_add(1);
        let has_place = neighbor.has_place();
        let bound = match self.origin(&id) {
            _ if !judge.may_be_member(&id) => Slot::Ignored,
            Some(o) if has_place || self.announcement(o).is_some() => Slot::Origin(o),
            None if has_place => self.new_origin(now, id, Right::Talk).map_or(Slot::Empty, Slot::Origin),
            _ => {
                self.counters.introductions_refused += 1;
                Slot::Empty
            }
        };
        self.bind_slot(now, n, slot, bound);
        Ok(())
    }

    /// A node that a neighbour spoke of is not let in. A few keep their places, so that they are let in once they have something
    /// better to show.
    pub(super) fn turn_away(&mut self, now: Instant, n: NeighborId, o: u32) {
        let slot = self.learned(n, o).slot;
        self.prove(o, false);
        if self.announcement(o).is_some() {
            return;
        }
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        if neighbor.turned_away < MAX_TURNED_AWAY {
            neighbor.turned_away += 1;
        } else {
            self.bind_slot(now, n, slot, Slot::Ignored);
        }
    }

    /// Whether a neighbour may bring one more node that nobody has met: it may fill a share of the table, not all of it. Those
    /// whose announcements have expired count as long as they have their places.
    pub(super) fn may_bring(&self, n: NeighborId, id: &NodeId) -> bool {
        let who = self.neighbor(n).map(|n| n.id);
        let counts = |o: &Origin| !o.met && o.bringer.is_some() && o.bringer == who;
        let is_known =
            self.origin(id).is_some_and(|o| self.announcement(o).is_some() || counts(&self.origins[o as usize]));
        // Looked at only when the table is nearly full.
        is_known || self.index.len() < MAX_BROUGHT || self.origins.iter().filter(|o| counts(o)).count() < MAX_BROUGHT
    }

    pub(super) fn new_origin(&mut self, now: Instant, id: NodeId, right: Right) -> Option<u32> {
        let free = match self.free.pop() {
            None if self.origins.len() < MAX_ORIGINS => {
                if self.origins.len() == self.origins.capacity() {
                    // An eighth more, not twice as much: the table is most of what a node in a large mesh holds.
                    self.origins.reserve_exact(16.max(self.origins.len() / 8));
                }
                self.origins.push(Origin::new(now, id));
                Some(self.origins.len() as u32 - 1)
            }
            None if right != Right::Talk => self.make_room(now, right == Right::Met),
            free => free,
        };
        let Some(o) = free else {
            self.counters.table_full += 1;
            return None;
        };
        self.origins[o as usize] = Origin::new(now, id);
        self.index.insert(id, o);
        Some(o)
    }

    pub(super) fn bind_slot(&mut self, now: Instant, n: NeighborId, slot: u32, bound: Slot) {
        let unproven = bound.origin().is_some_and(|o| self.announcement(o).is_none());
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        let before = neighbor.slots.set(slot, bound);
        if before == bound {
            return;
        }
        if let Some(old) = before.origin() {
            let gone = std::mem::take(self.origins[old as usize].learned_mut(n));
            if let Some(neighbor) = self.neighbor_mut(n) {
                neighbor.unproven -= u32::from(gone.unproven);
            }
            self.reselect(now, old);
            self.free_if_only_spoken_of(old);
        }
        let Some(o) = bound.origin() else { return };
        let learned = self.origins[o as usize].learned_mut(n);
        // A node that is known already shows nothing of the neighbour's word, and earns it no room.
        let (other, counted) = (learned.slot, learned.unproven);
        (learned.slot, learned.unproven) = (slot, unproven);
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        neighbor.unproven += u32::from(unproven);
        neighbor.unproven -= u32::from(counted);
        // One node has one slot.
        if other != NO_SLOT && other != slot {
            neighbor.slots.set(other, Slot::Ignored);
        }
    }
}
