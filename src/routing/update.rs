//! Updates and requests: making them, and acting on a neighbour's.

use std::sync::Arc;

use super::{
    BATCH_DELAY, Event, Judge, MAX_ORIGINS, NeighborId, Origin, REQUEST_HOPS, REQUEST_MAX, Routing, is_feasible,
};
use crate::{
    identity::{Refusal, Verified},
    types::{Duration, INFINITY, Instant, Metric, NodeId, SeqNo},
    wire::proto::{Introduction, RouteUpdate, SeqnoRequest},
};

/// Bytes after which an update is closed; a single introduction may exceed it.
const UPDATE_BYTES: usize = 1000;
/// Slots that a neighbour may hand out.
const MAX_SLOTS: usize = MAX_ORIGINS;
const MAX_REQUESTS: usize = 256;

impl Routing {
    /// Queues an origin's state for every neighbour to which it is news.
    pub(super) fn advertise(&mut self, now: Instant, o: u32, urgent: bool) {
        for n in self.ids() {
            self.advertise_to(now, o, n, urgent);
        }
    }

    pub(super) fn advertise_to(&mut self, now: Instant, o: u32, n: NeighborId, urgent: bool) {
        let Some((seqno, metric)) = self.advertised(o, n) else { return };
        let newest = self.origins[o as usize].announcement.as_ref().map_or(0, |a| a.seqno);
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        let sent = neighbor.sent_mut(o);
        let news = sent.forced || newest > sent.announcement || is_news((sent.seqno, sent.metric), (seqno, metric));
        if news {
            let lost = sent.metric < INFINITY && metric == INFINITY;
            neighbor.enqueue(o, if urgent || lost { now } else { now + BATCH_DELAY });
        }
    }

    /// What a neighbour should know of an origin: poisoned if the route goes through it (split horizon).
    pub(super) fn advertised(&self, o: u32, n: NeighborId) -> Option<(SeqNo, Metric)> {
        if o == 0 {
            return Some((self.origins[0].fd.0, 0));
        }
        let origin = self.origins.get(o as usize)?;
        Some(match origin.selected {
            Some(s) if s.neighbor != n && !self.stub => (s.seqno, s.metric),
            Some(s) => (s.seqno, INFINITY),
            None => (origin.fd.0, INFINITY),
        })
    }

    /// The next update for a neighbour whose queue is due.
    pub fn next_update(&mut self, now: Instant, n: NeighborId) -> Option<RouteUpdate> {
        if self.neighbor(n)?.due.is_none_or(|due| due > now) {
            return None;
        }
        let mut update = RouteUpdate::default();
        let mut bytes = 0;
        while bytes < UPDATE_BYTES {
            let Some(o) = self.neighbor_mut(n)?.queue.pop_front() else { break };
            bytes += self.append(&mut update, n, o)?;
        }
        let neighbor = self.neighbor_mut(n)?;
        if neighbor.queue.is_empty() {
            neighbor.due = None;
        }
        if bytes == 0 {
            return None;
        }
        self.counters.updates_sent += 1;
        self.counters.entries_sent += update.slots.len() as u64;
        Some(update)
    }

    /// Adds an origin's state to an update; returns the bytes that it took.
    fn append(&mut self, update: &mut RouteUpdate, n: NeighborId, o: u32) -> Option<usize> {
        let (seqno, metric) = self.advertised(o, n)?;
        let announcement = self.origins.get(o as usize)?.announcement.clone();
        let (id, record_since) = (self.origins[o as usize].id, self.origins[o as usize].record_since);
        let neighbor = self.neighbor_mut(n)?;
        let sent = neighbor.sent_mut(o);
        sent.queued = false;
        let mut bytes = 0;
        let newest = announcement.as_ref().map_or(0, |a| a.seqno);
        let metric_news = sent.forced || is_news((sent.seqno, sent.metric), (seqno, metric));
        if newest > sent.announcement || (metric_news && !sent.introduced && metric < INFINITY) {
            let mut introduction = Introduction { slot: o, node_id: id.0.to_vec(), ..Introduction::default() };
            if let Some(a) = announcement.filter(|a| a.seqno > sent.announcement) {
                introduction.announcement = a.bytes.clone();
                if sent.announcement < record_since {
                    introduction.record = a.record.bytes.clone();
                }
            }
            bytes += 44 + introduction.announcement.len() + introduction.record.len();
            sent.introduced = true;
            sent.announcement = newest;
            update.introductions.push(introduction);
        }
        if metric_news && sent.introduced {
            sent.seqno = seqno;
            sent.metric = metric;
            sent.forced = false;
            update.slots.push(o);
            update.seqnos.push(seqno);
            update.metrics.push(metric);
            bytes += 10;
        }
        Some(bytes)
    }

    /// A request to pass to a neighbour.
    pub fn next_request(&mut self, n: NeighborId) -> Option<SeqnoRequest> {
        let request = self.neighbor_mut(n)?.requests.pop_front()?;
        self.counters.requests_sent += 1;
        Some(request)
    }

    /// Acts on a neighbour's update. Returns the refusals, for the counters.
    pub fn handle_update(
        &mut self,
        now: Instant,
        n: NeighborId,
        update: &RouteUpdate,
        judge: &mut dyn Judge,
    ) -> Vec<Refusal> {
        self.counters.updates_received += 1;
        let mut refusals = Vec::new();
        for introduction in &update.introductions {
            if let Err(refusal) = self.introduce(now, n, introduction, judge) {
                refusals.push(refusal);
            }
        }
        let entries = update.slots.iter().zip(&update.seqnos).zip(&update.metrics);
        for ((slot, seqno), metric) in entries {
            self.handle_entry(now, n, *slot, *seqno, *metric);
        }
        refusals
    }

    fn introduce(
        &mut self,
        now: Instant,
        n: NeighborId,
        introduction: &Introduction,
        judge: &mut dyn Judge,
    ) -> Result<(), Refusal> {
        let slot = introduction.slot as usize;
        let id = NodeId::from_slice(&introduction.node_id).ok_or(Refusal::Malformed("introduction"))?;
        if slot >= MAX_SLOTS {
            return Err(Refusal::Malformed("introduction"));
        }
        let mut origin = self.origin(&id);
        if !introduction.announcement.is_empty() {
            let known = origin.and_then(|o| self.announcement(o)).map(|a| Arc::clone(&a.record));
            let verified = judge.judge(&introduction.announcement, &introduction.record, known.as_ref());
            match verified {
                Ok(v) if v.id == id => origin = self.learn(now, Some(n), v),
                Ok(_) => return Err(Refusal::ForgedIdentity),
                Err(refusal) => {
                    self.bind_slot(now, n, slot, None);
                    return Err(refusal);
                }
            }
        }
        self.bind_slot(now, n, slot, origin);
        Ok(())
    }

    /// Takes in a verified announcement, from a neighbour, a handshake or a file. `None` when the table is full.
    pub fn learn(&mut self, now: Instant, from: Option<NeighborId>, verified: Arc<Verified>) -> Option<u32> {
        let o = match self.origin(&verified.id) {
            Some(o) => o,
            None => self.new_origin(verified.id)?,
        };
        if let Some(neighbor) = from.and_then(|n| self.neighbor_mut(n)) {
            let sent = neighbor.sent_mut(o);
            sent.announcement = sent.announcement.max(verified.seqno);
        }
        if o == 0 {
            if self.announcement(0).is_some_and(|own| verified.seqno > own.seqno) {
                self.events.push(Event::NeedSeqno(verified.seqno + 1));
            }
            return Some(0);
        }
        let origin = &mut self.origins[o as usize];
        if origin.announcement.as_ref().is_none_or(|a| a.seqno < verified.seqno) {
            origin.expires = now + Duration::from_secs(u64::from(verified.lifetime_s));
            let first = origin.announcement.is_none();
            if origin.announcement.as_ref().is_none_or(|a| a.record.hash != verified.record.hash) {
                origin.record_since = verified.seqno;
            }
            origin.announcement = Some(verified);
            self.events.push(Event::Changed(o));
            // Somebody beyond us waits for this sequence number: don't keep them waiting.
            let wanted = origin.forwarded.is_some_and(|(_, when)| now.since(when) < Duration::from_secs(1));
            if first {
                self.reselect(now, o);
            }
            self.advertise(now, o, wanted);
        }
        Some(o)
    }

    fn new_origin(&mut self, id: NodeId) -> Option<u32> {
        let o = match self.free.pop() {
            Some(o) => {
                self.origins[o as usize] = Origin::new(id);
                for neighbor in self.neighbors.iter_mut().flatten() {
                    neighbor.reuse_origin(o);
                }
                o
            }
            None if self.origins.len() < MAX_ORIGINS => {
                self.origins.push(Origin::new(id));
                self.origins.len() as u32 - 1
            }
            None => {
                self.counters.table_full += 1;
                return None;
            }
        };
        self.index.insert(id, o);
        Some(o)
    }

    fn bind_slot(&mut self, now: Instant, n: NeighborId, slot: usize, origin: Option<u32>) {
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        if neighbor.slots.len() <= slot {
            neighbor.slots.resize(slot + 1, None);
        }
        let before = std::mem::replace(&mut neighbor.slots[slot], origin);
        if let Some(old) = before.filter(|_| before != origin) {
            neighbor.learned_mut(old).metric = INFINITY;
            self.reselect(now, old);
        }
    }

    fn handle_entry(&mut self, now: Instant, n: NeighborId, slot: u32, seqno: SeqNo, metric: Metric) {
        self.counters.entries_received += 1;
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        let Some(o) = neighbor.slots.get(slot as usize).copied().flatten() else {
            // An introduction that was refused leaves its slot empty; its metrics are nothing to us.
            self.counters.entries_refused += 1;
            return;
        };
        if o == 0 {
            return;
        }
        let signed = self.announcement(o).map_or(0, |a| a.seqno);
        if seqno > signed {
            self.counters.entries_refused += 1;
            return;
        }
        let metric = metric.min(INFINITY);
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        let learned = neighbor.learned_mut(o);
        learned.seqno = seqno;
        learned.metric = metric;
        self.reselect(now, o);
        self.hurry_requested(now, o);
        let origin = &self.origins[o as usize];
        if origin.selected.is_none() && metric < INFINITY && !is_feasible(origin.fd, seqno, metric) {
            self.request(now, o);
        }
    }

    /// A route with a sequence number that somebody asked for through us goes out at once.
    fn hurry_requested(&mut self, now: Instant, o: u32) {
        let origin = &mut self.origins[o as usize];
        let answered = origin.forwarded.is_some_and(|(wanted, _)| origin.selected.is_some_and(|s| s.seqno >= wanted));
        if answered {
            origin.forwarded = None;
            self.advertise(now, o, true);
        }
    }

    /// Asks the neighbours that have a route for a new sequence number of its origin (RFC 8966 §3.8.2.1).
    pub(super) fn request(&mut self, now: Instant, o: u32) {
        let origin = &mut self.origins[o as usize];
        if now < origin.request_after {
            return;
        }
        let request = SeqnoRequest { origin: origin.id.0.to_vec(), seqno: origin.fd.0 + 1, hops: REQUEST_HOPS };
        let mut offers: Vec<(Metric, NeighborId)> =
            self.ids().map(|n| (self.learned(n, o).metric, n)).filter(|(metric, _)| *metric < INFINITY).collect();
        if offers.is_empty() {
            return;
        }
        offers.sort_unstable();
        for (_, n) in offers.into_iter().take(3) {
            self.pass_request(n, request.clone());
        }
        let origin = &mut self.origins[o as usize];
        origin.request_after = now + origin.request_wait;
        origin.request_wait = (origin.request_wait * 2).min(REQUEST_MAX);
        self.next_expiry = self.next_expiry.min(origin.request_after);
    }

    fn pass_request(&mut self, n: NeighborId, request: SeqnoRequest) {
        if let Some(neighbor) = self.neighbor_mut(n)
            && neighbor.requests.len() < MAX_REQUESTS
        {
            neighbor.requests.push_back(request);
        }
    }

    /// Acts on a neighbour's request (RFC 8966 §3.8.1.2).
    pub fn handle_request(&mut self, now: Instant, n: NeighborId, request: &SeqnoRequest) {
        let Some(o) = NodeId::from_slice(&request.origin).and_then(|id| self.origin(&id)) else { return };
        if o == 0 {
            if self.announcement(0).is_some_and(|own| request.seqno > own.seqno) {
                self.events.push(Event::NeedSeqno(request.seqno));
            }
            return;
        }
        let origin = &mut self.origins[o as usize];
        match origin.selected {
            Some(s) if s.seqno >= request.seqno => {
                if let Some(neighbor) = self.neighbor_mut(n) {
                    neighbor.sent_mut(o).forced = true;
                    neighbor.enqueue(o, now);
                }
                return;
            }
            _ => {}
        }
        let recent = origin
            .forwarded
            .is_some_and(|(seqno, when)| seqno >= request.seqno && now.since(when) < Duration::from_millis(500));
        if recent || request.hops == 0 {
            return;
        }
        origin.forwarded = Some((request.seqno, now));
        let next = SeqnoRequest { hops: request.hops.min(REQUEST_HOPS) - 1, ..request.clone() };
        let selected = origin.selected.map(|s| s.neighbor).filter(|s| *s != n);
        let target = selected.or_else(|| {
            let offers = self.ids().filter(|m| *m != n).map(|m| (self.learned(m, o).metric, m));
            offers.filter(|(metric, _)| *metric < INFINITY).min().map(|(_, m)| m)
        });
        if let Some(target) = target {
            self.pass_request(target, next);
        }
    }
}

/// Whether a changed metric is worth telling: a new sequence number, reachability, or more than a sixteenth. Leaving
/// small changes out is safe: what was told is never below the feasibility distance.
fn is_news(before: (SeqNo, Metric), after: (SeqNo, Metric)) -> bool {
    let reach_changed = (before.1 == INFINITY) != (after.1 == INFINITY);
    let both_unreachable = before.1 == INFINITY && after.1 == INFINITY;
    reach_changed || (!both_unreachable && (before.0 != after.0 || before.1.abs_diff(after.1) > before.1 / 16))
}

impl Routing {
    #[must_use]
    pub fn own(&self) -> Option<&Arc<Verified>> {
        self.announcement(0)
    }

    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }
}
