//! Floor 2, sans-IO: distance-vector routing with split horizon and poisoned reverse, retained feasibility distances
//! and sequence-number requests (RFC 8966), over reliable channels between neighbours.
//!
//! Why no forwarding loop can exist at any instant: a node selects a next hop only if the (seqno, metric) which that
//! neighbour advertised is *strictly better* than the best (seqno, metric) that the node itself ever had since its
//! feasibility distance was made (RFC 8966 §3.5.1). The neighbour's own feasibility distance is at most what it
//! advertised. So feasibility distances strictly fall along every chain of next hops. They are retained when a route
//! is lost; a node that has only unfeasible routes asks the origin for a new sequence number (§3.8.2). A route in use
//! that gets worse stays in use meanwhile: it lowers no feasibility distance and raises none.

mod doubt;
mod neighbor;
mod origin;
mod places;
mod requests;
mod update;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

pub use neighbor::NeighborId;
use neighbor::{Learned, NO_SLOT, Neighbor, Sent, Slot};
use origin::{Origin, Selected};

use crate::{
    identity::{Record, Refusal, Verified},
    types::{Duration, INFINITY, Instant, Metric, NodeId, SeqNo, metric_add},
};

/// At most so many origins are known at a time.
pub const MAX_ORIGINS: usize = 16_384;
/// Introductions that a neighbour may send before any of them was shown to be of a node.
const WINDOW: u32 = 8;
/// An introduction whose announcement has not come in so long is forgotten.
const UNPROVEN_LIFE: Duration = Duration::from_secs(30);
/// All introductions are asked for again, and told again, at most so often.
const REPEAT: Duration = Duration::from_secs(10);
/// One neighbour may have brought so many of the origins: the rest of the table is for others.
const MAX_BROUGHT: usize = MAX_ORIGINS / 4 * 3;
/// Ordinary changes wait so long for company, and up to eight times as long while they keep coming; retractions don't
/// wait.
const BATCH_DELAY: Duration = Duration::from_millis(30);
/// A new sequence number that changes nothing else can wait: whoever needs it asks.
const LAZY_DELAY: Duration = Duration::from_secs(10);
/// A neighbour that had no update for so long is at rest.
const REST: Duration = Duration::from_secs(1);
/// After so many updates without rest, the delay doubles.
const PATIENCE: u32 = 4;
/// An announcement that was asked for and hasn't come is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// How far a sequence-number request travels.
const REQUEST_HOPS: u32 = 64;
const REQUEST_FIRST: Duration = Duration::from_millis(100);
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Verifies an announcement and judges whether its origin is admitted and owns what it announces.
pub trait Judge {
    /// Whether a node of this NodeId could be admitted at all.
    fn may_be_member(&self, id: &NodeId) -> bool;

    /// `record` is empty when we said that we have it; `known` is the record that we have.
    fn judge(
        &mut self,
        announcement: &[u8],
        record: &[u8],
        known: Option<&Arc<Record>>,
    ) -> Result<Arc<Verified>, Refusal>;
}

/// Something that the owner of the routing table has to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next hop or the announcement of this origin changed.
    Changed(u32),
    /// The next hop towards this origin changed for a better one, although the one before, this node, still leads there.
    Left(u32, NodeId),
    /// This node's announcement is no longer in the table.
    Gone(NodeId),
    /// Somebody asks for a newer announcement of ours.
    NeedSeqno,
    /// Somebody has an announcement of ours, which we signed, with this sequence number.
    Known(SeqNo),
    /// A neighbour has lost its way to this node, which is our neighbour too.
    Doubted(NodeId),
}

/// Counters of the routing protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub updates_sent: u64,
    pub updates_received: u64,
    pub entries_sent: u64,
    pub entries_received: u64,
    pub requests_sent: u64,
    /// Entries that named a slot which the neighbour had not introduced.
    pub entries_refused: u64,
    /// Announcements that a neighbour brought without being asked.
    pub bodies_unasked: u64,
    /// Nodes turned down because the table is full.
    pub table_full: u64,
    /// Nodes that made room for others.
    pub evicted: u64,
    /// Introductions beyond what their sender had room for.
    pub introductions_refused: u64,
    /// Introductions that no announcement followed.
    pub introductions_expired: u64,
    /// Sequence-number requests beyond what a neighbour may send.
    pub requests_refused: u64,
    /// Ways by which packets were seen not to arrive, or which fell away again and again.
    pub distrusted: u64,
}

/// The routing table of one node.
#[derive(Debug)]
pub struct Routing {
    me: NodeId,
    origins: Vec<Origin>,
    free: Vec<u32>,
    index: HashMap<NodeId, u32>,
    neighbors: Vec<Option<Neighbor>>,
    /// The cost of the link to each neighbour; 0: there is none in this place.
    costs: Vec<Metric>,
    events: Vec<Event>,
    woken: Vec<NeighborId>,
    next_expiry: Instant,
    /// Origins whose newest announcement we lack though somebody advertises it.
    lacking: BTreeSet<u32>,
    /// Whose turn it is to be asked beside the best.
    turn: usize,
    /// This node forwards for nobody: it advertises only itself.
    stub: bool,
    pub counters: Counters,
}

/// A route as people and the data plane see it.
#[derive(Debug, Clone)]
pub struct Route {
    pub origin: Arc<Verified>,
    pub next_hop: NodeId,
    pub metric: Metric,
    pub backup: Option<NodeId>,
}

impl Routing {
    /// The table of the node that `own` announces; its record says whether it relays.
    #[must_use]
    pub fn new(own: Arc<Verified>, now: Instant) -> Self {
        let stub = own.record.no_relay;
        let me = own.id;
        let mut origin = Origin::new(now, me);
        origin.fd = (own.seqno, 0);
        origin.announcement = Some(own);
        Self {
            me,
            origins: vec![origin],
            free: Vec::new(),
            index: HashMap::from([(me, 0)]),
            neighbors: Vec::new(),
            costs: Vec::new(),
            events: Vec::new(),
            woken: Vec::new(),
            next_expiry: now + Duration::from_secs(60),
            lacking: BTreeSet::new(),
            turn: 0,
            stub,
            counters: Counters::default(),
        }
    }

    /// Replaces this node's own announcement; its sequence number must have grown.
    pub fn set_own(&mut self, now: Instant, own: Arc<Verified>) {
        let origin = &mut self.origins[0];
        debug_assert!(origin.announcement.as_ref().is_some_and(|a| a.seqno < own.seqno));
        origin.fd = (own.seqno, 0);
        origin.announcement = Some(own);
        self.advertise(now, 0, true);
    }

    /// A link to a neighbour is usable. `cost` is at least 1.
    pub fn neighbor_up(&mut self, now: Instant, id: NodeId, cost: Metric) -> NeighborId {
        debug_assert!(self.find_neighbor(&id).is_none());
        let slot = self.neighbors.iter().position(Option::is_none).unwrap_or_else(|| {
            self.neighbors.push(None);
            self.costs.push(0);
            self.neighbors.len() - 1
        });
        self.neighbors[slot] = Some(Neighbor::new(id));
        self.costs[slot] = cost.max(1);
        let n = NeighborId(slot as u16);
        self.send_all(now, n);
        n
    }

    /// The link is gone: every route through it is lost, and backups take over at once.
    pub fn neighbor_down(&mut self, now: Instant, n: NeighborId) {
        self.forget_learned(now, n);
        self.forget_sent(n);
        self.neighbors[n.slot()] = None;
        self.costs[n.slot()] = 0;
    }

    /// The neighbour started its outgoing channel afresh: what it had said no longer counts.
    pub fn forget_learned(&mut self, now: Instant, n: NeighborId) {
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        neighbor.slots.clear();
        (neighbor.received, neighbor.unproven, neighbor.proven, neighbor.turned_away) = (0, 0, 0, 0);
        (neighbor.granted, neighbor.lost) = (WINDOW, false);
        neighbor.wants.clear();
        for o in 0..self.origins.len() as u32 {
            let Some(learned) = self.origins[o as usize].learned.get_mut(n.slot()) else { continue };
            let before = std::mem::take(learned);
            if before.metric < INFINITY {
                self.reselect(now, o);
            }
            if before.unproven {
                // Otherwise whoever starts afresh again and again would fill the table with what may be nobody.
                self.free_if_unused(o);
            }
        }
        self.ask_again(now);
    }

    /// A node is no longer seen to be there: its place is as good as that of others of whom neighbours tell.
    pub fn unmeet(&mut self, id: &NodeId) {
        if let Some(o) = self.origin(id).filter(|o| *o != 0) {
            self.origins[o as usize].met = false;
        }
    }

    fn forget_sent(&mut self, n: NeighborId) {
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        neighbor.queue.clear();
        neighbor.wanted.clear();
        neighbor.lazy.clear();
        (neighbor.due, neighbor.lazy_due) = (None, None);
        neighbor.blocked.clear();
        for sent in self.origins.iter_mut().filter_map(|o| o.sent.get_mut(n.slot())) {
            *sent = Sent::default();
        }
    }

    /// The channel began anew, and the neighbour has heard nothing: say it all.
    pub fn send_all(&mut self, now: Instant, n: NeighborId) {
        if let Some(neighbor) = self.neighbor_mut(n) {
            (neighbor.introduced, neighbor.room) = (0, WINDOW);
        }
        self.say_again(now, n);
    }

    /// The neighbour has lost what we had said.
    fn say_again(&mut self, now: Instant, n: NeighborId) {
        self.forget_sent(n);
        for o in 0..self.origins.len() as u32 {
            self.advertise_to(now, o, n, false);
        }
    }

    /// The link's cost changed.
    pub fn neighbor_cost(&mut self, now: Instant, n: NeighborId, cost: Metric) {
        let Some(known) = self.costs.get_mut(n.slot()).filter(|c| **c > 0) else { return };
        if std::mem::replace(known, cost.max(1)) == cost.max(1) {
            return;
        }
        for o in 1..self.origins.len() as u32 {
            if self.learned(n, o).metric < INFINITY {
                self.reselect(now, o);
            }
        }
    }

    /// Drops every origin that `keep` refuses, for example after a revocation.
    pub fn retain(&mut self, now: Instant, keep: impl Fn(&Verified) -> bool) {
        for o in 1..self.origins.len() as u32 {
            if self.origins[o as usize].announcement.as_ref().is_some_and(|a| !keep(a)) {
                self.drop_announcement(now, o);
            }
        }
    }

    /// What the owner has to act on.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.next_expiry
    }

    /// The neighbours for whom [`Self::due`] may have changed since the last call.
    pub fn take_woken(&mut self) -> Vec<NodeId> {
        let mut woken = Vec::with_capacity(self.woken.len());
        for n in std::mem::take(&mut self.woken) {
            woken.extend(self.neighbor_mut(n).map(|neighbor| {
                neighbor.woken = false;
                neighbor.id
            }));
        }
        woken
    }

    /// When there is something to tell a neighbour, if there is.
    #[must_use]
    pub fn due(&self, n: NeighborId) -> Option<Instant> {
        let neighbor = self.neighbor(n)?;
        if neighbor.requests.is_empty() {
            [neighbor.due, neighbor.lazy_due].into_iter().flatten().min()
        } else {
            Some(Instant::default())
        }
    }

    /// Removes origins whose announcements have expired and repeats requests for lost routes.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.next_expiry {
            return;
        }
        self.next_expiry = now + Duration::from_secs(5);
        self.ask_again(now);
        for o in 1..self.origins.len() as u32 {
            let origin = &self.origins[o as usize];
            if origin.announcement.is_some() && origin.expires <= now {
                self.drop_announcement(now, o);
            } else if origin.announcement.is_some() && self.is_starved(now, o) {
                self.request(now, o);
            } else if origin.announcement.is_none() {
                if self.is_stale(now, o) {
                    self.unbind(o);
                }
                self.free_if_unused(o);
            }
        }
    }

    /// The number of an origin in this table.
    #[must_use]
    pub fn origin(&self, id: &NodeId) -> Option<u32> {
        self.index.get(id).copied()
    }

    /// The newest announcement of an origin, whether it is reachable or not.
    #[must_use]
    pub fn announcement(&self, origin: u32) -> Option<&Arc<Verified>> {
        self.origins.get(origin as usize)?.announcement.as_ref()
    }

    /// All announcements known, this node's own first.
    pub fn announcements(&self) -> impl Iterator<Item = &Arc<Verified>> {
        self.origins.iter().filter_map(|o| o.announcement.as_ref())
    }

    /// The next hop towards an origin.
    #[must_use]
    pub fn next_hop(&self, origin: u32) -> Option<NodeId> {
        let selected = self.origins.get(origin as usize)?.selected?;
        Some(self.neighbor(selected.neighbor)?.id)
    }

    /// The route to an origin other than this node.
    #[must_use]
    pub fn route(&self, origin: u32) -> Option<Route> {
        let o = self.origins.get(origin as usize)?;
        let selected = o.selected?;
        let backup = self.feasible(origin).filter(|c| c.neighbor != selected.neighbor).min_by_key(|c| c.metric);
        Some(Route {
            origin: Arc::clone(o.announcement.as_ref()?),
            next_hop: self.neighbor(selected.neighbor)?.id,
            metric: selected.metric,
            backup: backup.and_then(|b| Some(self.neighbor(b.neighbor)?.id)),
        })
    }

    /// All routes to other nodes.
    pub fn routes(&self) -> impl Iterator<Item = Route> {
        (1..self.origins.len() as u32).filter_map(|o| self.route(o))
    }

    /// How many nodes have a place in the table: known, or only spoken of.
    #[must_use]
    pub fn places(&self) -> usize {
        self.index.len()
    }

    /// How many origins have a route, this node not counted.
    #[must_use]
    pub fn reachable(&self) -> usize {
        self.origins.iter().filter(|o| o.selected.is_some()).count()
    }

    /// The feasibility distance of an origin (RFC 8966 §3.2.5): for the simulator's invariants.
    #[must_use]
    pub fn feasibility_distance(&self, id: &NodeId) -> Option<(SeqNo, Metric)> {
        self.origin(id).map(|o| self.origins[o as usize].fd)
    }

    /// What a metric counts when ways are compared: what one's own link to a node costs was measured, and what others say
    /// that they cost was not. So a relay has to promise half of it.
    fn weight(&self, o: u32, n: NeighborId, metric: Metric) -> Metric {
        let is_direct = self.neighbor(n).is_some_and(|neighbor| neighbor.id == self.origins[o as usize].id);
        if is_direct { metric / 2 } else { metric }
    }

    fn neighbor(&self, n: NeighborId) -> Option<&Neighbor> {
        self.neighbors.get(n.slot())?.as_ref()
    }

    fn neighbor_mut(&mut self, n: NeighborId) -> Option<&mut Neighbor> {
        self.neighbors.get_mut(n.slot())?.as_mut()
    }

    fn wake(&mut self, n: NeighborId) {
        if self.neighbor_mut(n).is_some_and(|neighbor| !std::mem::replace(&mut neighbor.woken, true)) {
            self.woken.push(n);
        }
    }

    fn find_neighbor(&self, id: &NodeId) -> Option<NeighborId> {
        let slot = self.neighbors.iter().position(|n| n.as_ref().is_some_and(|n| n.id == *id))?;
        Some(NeighborId(slot as u16))
    }

    fn ids(&self) -> impl Iterator<Item = NeighborId> + use<> {
        (0..self.neighbors.len() as u16).map(NeighborId)
    }

    fn learned(&self, n: NeighborId, o: u32) -> Learned {
        self.origins[o as usize].learned(n)
    }

    /// Routes that may be selected: advertised strictly better than our feasibility distance.
    fn feasible(&self, o: u32) -> impl Iterator<Item = Selected> {
        let origin = &self.origins[o as usize];
        // A sequence number that the origin has not provably signed counts as the newest one that it has: the
        // neighbour's feasibility distance is then even better than what is compared here.
        let signed = origin.signed();
        origin.learned.iter().zip(&self.costs).enumerate().filter_map(move |(slot, (learned, cost))| {
            let metric = metric_add(learned.metric, *cost);
            let seqno = learned.seqno.min(signed);
            let usable = metric < INFINITY && is_feasible(origin.fd, seqno, learned.metric);
            usable.then_some(Selected { neighbor: NeighborId(slot as u16), seqno, metric })
        })
    }

    /// [`Self::reselect`] after news from one neighbour: another neighbour's route stays unless this one is clearly
    /// better, which saves looking at all of them.
    fn reselect_after(&mut self, now: Instant, n: NeighborId, o: u32) {
        let Some(origin) = self.origins.get(o as usize) else { return };
        if let Some(s) = origin.selected
            && s.neighbor != n
        {
            let (learned, current, signed) = (origin.learned(n), origin.learned(s.neighbor), origin.signed());
            let metric = metric_add(learned.metric, self.costs[n.slot()]);
            let usable = metric < INFINITY && is_feasible(origin.fd, learned.seqno.min(signed), learned.metric);
            let stands = metric_add(current.metric, self.costs[s.neighbor.slot()]) == s.metric
                && current.seqno.min(signed) == s.seqno
                && !origin.has_doubts(now);
            let (new, old) = (self.weight(o, n, metric), self.weight(o, s.neighbor, s.metric));
            if stands && !(usable && is_clearly_better(new, old)) {
                return;
            }
        }
        self.reselect(now, o);
    }

    /// Selects the route to an origin anew and tells the neighbours what changed (RFC 8966 §3.6, §3.7.2).
    fn reselect(&mut self, now: Instant, o: u32) {
        if o == 0 || self.origins[o as usize].announcement.is_none() {
            return;
        }
        let before = self.origins[o as usize].selected;
        let doubt = |s: &Selected| self.distrusted_since(now, o, s.neighbor);
        let weight = |s: &Selected| self.weight(o, s.neighbor, s.metric);
        // What was seen not to work is the last choice, and of several the one of which that was seen first.
        let best = self.feasible(o).min_by_key(|s| (doubt(s), weight(s), s.neighbor));
        let kept = before.and_then(|b| self.kept(o, b));
        let kept = kept.filter(|k| best.is_none_or(|b| doubt(k) <= doubt(&b)));
        let after = match (best, kept) {
            (Some(best), Some(kept)) if is_clearly_better(weight(&best), weight(&kept)) => Some(best),
            (best, kept) => kept.or(best),
        };
        if after == before {
            return;
        }
        let is_other = before.map(|s| s.neighbor) != after.map(|s| s.neighbor);
        if let Some(left) = before.filter(|_| is_other) {
            self.note_fall(now, o, left, after);
        }
        let chosen = after.filter(|_| is_other).map(|s| (now, s.metric));
        let origin = &mut self.origins[o as usize];
        origin.chosen = chosen.unwrap_or(origin.chosen);
        origin.selected = after;
        if let Some(s) = after {
            debug_assert!(s.seqno >= origin.fd.0);
            origin.fd = if s.seqno > origin.fd.0 { (s.seqno, s.metric) } else { (s.seqno, origin.fd.1.min(s.metric)) };
            origin.request_after = Instant::default();
            origin.request_wait = REQUEST_FIRST;
        }
        if is_other {
            self.events.push(Event::Changed(o));
            let left = kept.and_then(|kept| Some(Event::Left(o, self.neighbor(kept.neighbor)?.id)));
            self.events.extend(left);
        }
        self.advertise(now, o, after.is_none());
        let learned = after.map(|s| (s.seqno, self.learned(s.neighbor, o).metric));
        let is_worse = before.zip(after).is_some_and(|(b, a)| is_clearly_better(b.metric, a.metric));
        if learned.is_none_or(|(seqno, metric)| !is_feasible((seqno, self.origins[o as usize].fd.1), seqno, metric))
            || is_worse && self.is_starved(now, o)
        {
            self.request(now, o);
        }
    }

    /// Whether a new sequence number would bring a route, or one that is clearly better (RFC 8966 §3.8.2.2).
    fn is_starved(&self, now: Instant, o: u32) -> bool {
        let origin = &self.origins[o as usize];
        let Some(selected) = origin.selected else { return true };
        let trusted = |n: NeighborId| self.distrusted_since(now, o, n).is_none();
        let offers = origin.learned.iter().zip(&self.costs).zip(self.ids());
        let offers = offers.filter(|((learned, _), n)| learned.metric < INFINITY && trusted(*n));
        let weights = offers.map(|((learned, cost), n)| self.weight(o, n, metric_add(learned.metric, *cost)));
        let best = weights.min();
        let current = self.weight(o, selected.neighbor, selected.metric);
        best.is_some_and(|best| is_clearly_better(best, current) || !trusted(selected.neighbor))
    }

    /// The selected route as its neighbour advertises it now. It stays usable when it has become worse than our
    /// feasibility distance: the neighbour's own feasibility distance is what it was, and ours too (RFC 8966 §3.5.3 lets
    /// such an update be ignored; packets need a route until the origin's new sequence number is here).
    fn kept(&self, o: u32, before: Selected) -> Option<Selected> {
        let learned = self.learned(before.neighbor, o);
        let seqno = learned.seqno.min(self.origins[o as usize].signed());
        let metric = metric_add(learned.metric, self.costs[before.neighbor.slot()]);
        let is_usable = seqno == before.seqno || is_feasible(self.origins[o as usize].fd, seqno, learned.metric);
        (metric < INFINITY && is_usable).then_some(Selected { neighbor: before.neighbor, seqno, metric })
    }

    /// Forgets an origin's announcement: it expired, or its node is no longer admitted. Its number stays as long as a
    /// neighbour's slot stands for it.
    fn drop_announcement(&mut self, now: Instant, o: u32) {
        let origin = &mut self.origins[o as usize];
        origin.refused = origin.refused.max(origin.signed());
        origin.announcement = None;
        let id = origin.id;
        if origin.selected.take().is_some() {
            self.advertise(now, o, true);
        }
        self.events.push(Event::Gone(id));
    }
}

fn is_feasible(fd: (SeqNo, Metric), seqno: SeqNo, metric: Metric) -> bool {
    seqno > fd.0 || (seqno == fd.0 && metric < fd.1)
}

/// Hysteresis: a new next hop must be a tenth and 300 µs better than the one in use.
fn is_clearly_better(new: Metric, old: Metric) -> bool {
    new.saturating_add(new / 10).saturating_add(300) < old
}

#[cfg(test)]
mod tests;
