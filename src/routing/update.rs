//! Updates: making them, and acting on a neighbour's.

use std::{collections::HashSet, sync::Arc};

use super::{
    ASK_AGAIN, Event, Judge, LAZY_DELAY, Learned, NO_SLOT, NeighborId, REPEAT, Routing, Slot, is_feasible,
    neighbor::Asked, places::Right,
};
use crate::{
    identity::{Refusal, Verified, signed_seqno},
    types::{Duration, INFINITY, Instant, Metric, NodeId, SeqNo},
    wire::proto::{Body, Introduction, RouteUpdate, SeqnoRequest},
};

/// Bytes after which an update is closed; a single introduction may exceed it.
const UPDATE_BYTES: usize = 1000;
pub(super) const MAX_REQUESTS: usize = 256;
/// Announcements that a neighbour may have asked for at a time; it asks again for what did not come.
const MAX_WANTED: usize = 512;
/// After so many useless answers about an origin a neighbour is asked about it in its turn only.
const MAX_USELESS: u8 = 3;
/// An announcement is kept for so long, however short it says that it lives.
const MIN_LIFETIME: Duration = Duration::from_secs(60);
/// Who was asked in vain is looked at again after so long at the latest.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

impl Routing {
    /// Queues an origin's state for every neighbour to which it is news.
    pub(super) fn advertise(&mut self, now: Instant, o: u32, urgent: bool) {
        for n in self.ids() {
            self.advertise_to(now, o, n, urgent);
        }
    }

    pub(super) fn advertise_to(&mut self, now: Instant, o: u32, n: NeighborId, urgent: bool) {
        let Some((seqno, metric)) = self.advertised(o, n) else { return };
        if self.costs[n.slot()] == 0 {
            return;
        }
        let origin = &mut self.origins[o as usize];
        let renewed = origin.renewed;
        let sent = origin.sent_mut(n);
        match news((sent.seqno, sent.metric), (seqno, metric)) {
            News::None if !sent.forced => {}
            News::Seqno if !sent.forced && !urgent && sent.seqno >= renewed => {
                let queued = std::mem::replace(&mut sent.lazy, true);
                let Some(neighbor) = self.neighbor_mut(n).filter(|_| !queued) else { return };
                neighbor.lazy.push_back(o);
                neighbor.lazy_due.get_or_insert(now + LAZY_DELAY);
                self.wake(n);
            }
            _ => {
                let lost = sent.metric < INFINITY && metric == INFINITY;
                let wait = self.neighbor(n).map_or(Duration::ZERO, |neighbor| neighbor.batch_delay(now));
                self.enqueue(n, o, if urgent || lost { now } else { now + wait });
            }
        }
    }

    /// What there is to say of an origin goes out at `due` at the latest.
    pub(super) fn enqueue(&mut self, n: NeighborId, o: u32, due: Instant) {
        let queued = std::mem::replace(&mut self.origins[o as usize].sent_mut(n).queued, true);
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        if !queued {
            neighbor.queue.push_back(o);
        }
        neighbor.hurry(due);
        self.wake(n);
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
        let neighbor = self.neighbor_mut(n)?;
        if neighbor.lazy_due.is_some_and(|due| due <= now) {
            neighbor.lazy_due = None;
            for o in std::mem::take(&mut neighbor.lazy) {
                self.origins[o as usize].sent_mut(n).lazy = false;
                self.enqueue(n, o, now);
            }
        }
        if self.neighbor(n)?.due.is_none_or(|due| due > now) {
            return None;
        }
        let mut update = RouteUpdate::default();
        let neighbor = self.neighbor_mut(n)?;
        let mut bytes = 0;
        while bytes < UPDATE_BYTES {
            let Some((slot, record)) = neighbor.wants.pop_first() else { break };
            if record {
                update.wants_record.push(slot)
            } else {
                update.wants.push(slot)
            }
            bytes += 4;
        }
        // How much more there is room for is worth telling once half of it is used.
        let room = neighbor.window();
        if room > neighbor.granted
            && neighbor.granted.saturating_sub(neighbor.received) <= (room - neighbor.received) / 2
        {
            neighbor.granted = room;
            update.room = room;
            bytes += 4;
        }
        if neighbor.lost && neighbor.asked_again.is_none_or(|at| now.since(at) >= REPEAT) {
            (neighbor.lost, neighbor.asked_again) = (false, Some(now));
            update.again = true;
            bytes += 2;
        }
        while bytes < UPDATE_BYTES {
            let Some((o, record)) = self.neighbor_mut(n)?.wanted.pop_front() else { break };
            let Some(a) = self.announcement(o) else { continue };
            let record = if record { a.record.bytes.clone() } else { Vec::new() };
            bytes += 10 + a.bytes.len() + record.len();
            update.bodies.push(Body { slot: o, announcement: a.bytes.clone(), record });
        }
        while bytes < UPDATE_BYTES {
            let Some(o) = self.neighbor_mut(n)?.queue.pop_front() else { break };
            bytes += self.append(&mut update, n, o)?;
        }
        let neighbor = self.neighbor_mut(n)?;
        if neighbor.queue.is_empty() && neighbor.wanted.is_empty() && neighbor.wants.is_empty() {
            // What could not be asked for yet will be.
            neighbor.due = neighbor.asked_again.filter(|_| neighbor.lost).map(|at| at + REPEAT);
        }
        if bytes == 0 {
            return None;
        }
        if !update.slots.is_empty() {
            neighbor.note_update(now);
        }
        self.counters.updates_sent += 1;
        self.counters.entries_sent += update.slots.len() as u64;
        Some(update)
    }

    /// Adds an origin's metric to an update; returns the bytes that it took.
    fn append(&mut self, update: &mut RouteUpdate, n: NeighborId, o: u32) -> Option<usize> {
        let (seqno, metric) = self.advertised(o, n)?;
        let is_known = self.announcement(o).is_some();
        let id = self.origins[o as usize].id;
        let has_room = self.neighbor(n).is_some_and(|neighbor| neighbor.introduced < neighbor.room);
        let sent = self.origins[o as usize].sent_mut(n);
        sent.queued = false;
        let is_news = news((sent.seqno, sent.metric), (seqno, metric)) != News::None;
        if !(sent.forced || is_news) || (!sent.introduced && metric == INFINITY) {
            sent.forced = false;
            return Some(0);
        }
        if !sent.introduced && !has_room {
            if !std::mem::replace(&mut sent.blocked, true) {
                self.neighbor_mut(n)?.blocked.push(o);
            }
            return Some(0);
        }
        sent.forced = false;
        let mut bytes = 10;
        if !std::mem::replace(&mut sent.introduced, true) {
            bytes += 38;
            update.introductions.push(Introduction { slot: o, node_id: id.0.to_vec() });
        }
        sent.seqno = seqno;
        sent.metric = metric;
        // The neighbour may forget whom we know no more.
        sent.introduced = metric < INFINITY || is_known;
        let sent_one = bytes > 10;
        self.neighbor_mut(n)?.introduced += u32::from(sent_one);
        update.slots.push(o);
        update.seqnos.push(seqno);
        update.metrics.push(metric);
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
        if update.room > 0 {
            self.take_room(now, n, update.room);
        }
        if update.again
            && let Some(neighbor) = self.neighbor_mut(n)
            && neighbor.told_again.is_none_or(|at| now.since(at) >= REPEAT)
        {
            neighbor.told_again = Some(now);
            self.say_again(now, n);
        }
        for introduction in &update.introductions {
            if let Err(refusal) = self.introduce(now, n, introduction, judge) {
                refusals.push(refusal);
            }
        }
        for body in &update.bodies {
            if let Err(refusal) = self.handle_body(now, n, body, judge) {
                refusals.push(refusal);
            }
        }
        let entries = update.slots.iter().zip(&update.seqnos).zip(&update.metrics);
        let mut named = HashSet::new();
        for ((slot, seqno), metric) in entries {
            // Once is enough: what comes and goes within an update is no news.
            if !named.insert(*slot) {
                self.counters.entries_refused += 1;
                continue;
            }
            self.handle_entry(now, n, *slot, *seqno, *metric);
        }
        let wants = update.wants.iter().map(|o| (*o, false)).chain(update.wants_record.iter().map(|o| (*o, true)));
        for (o, record) in wants {
            let known = self.announcement(o).is_some();
            if let Some(neighbor) = self.neighbor_mut(n).filter(|p| known && p.wanted.len() < MAX_WANTED) {
                neighbor.wanted.push_back((o, record));
                neighbor.hurry(now);
            }
        }
        self.wake(n);
        refusals
    }

    /// The neighbour takes so many introductions in all.
    fn take_room(&mut self, now: Instant, n: NeighborId, room: u32) {
        let Some(neighbor) = self.neighbor_mut(n).filter(|neighbor| neighbor.room < room) else { return };
        neighbor.room = room;
        for o in std::mem::take(&mut neighbor.blocked) {
            self.origins[o as usize].sent_mut(n).blocked = false;
            self.enqueue(n, o, now);
        }
    }

    /// An announcement that we had asked this neighbour for. Others cost no signature check.
    fn handle_body(&mut self, now: Instant, n: NeighborId, body: &Body, judge: &mut dyn Judge) -> Result<(), Refusal> {
        let slot = self.neighbor(n).map_or(Slot::Empty, |p| p.slots.get(body.slot));
        let Some(o) = slot.origin().filter(|o| *o != 0) else { return Ok(()) };
        let asked = std::mem::take(&mut self.origins[o as usize].learned_mut(n).asked);
        if asked == Asked::Nothing {
            self.counters.bodies_unasked += 1;
            return Ok(());
        }
        let known = self.announcement(o).map(|a| Arc::clone(&a.record));
        let known_seqno = self.origins[o as usize].signed();
        let id = self.origins[o as usize].id;
        let judged = judge
            .judge(&body.announcement, &body.record, known.as_ref())
            .and_then(|v| if v.id == id { Ok(v) } else { Err(Refusal::ForgedIdentity) });
        // A number that the neighbour can't show counts for nothing.
        let show = |learned: &mut Learned, shown: SeqNo| learned.seqno = learned.seqno.min(shown.max(known_seqno));
        match judged {
            Ok(verified) => {
                let learned = self.origins[o as usize].learned_mut(n);
                // Who shows what it has claimed is of use, though another was faster.
                let is_of_use = verified.seqno > known_seqno || verified.seqno >= learned.seqno;
                show(learned, verified.seqno);
                learned.useless = if is_of_use { 0 } else { learned.useless.saturating_add(1) };
                self.enter(now, verified, Right::Brought(n));
                Ok(())
            }
            Err(Refusal::RecordMismatch) if body.record.is_empty() => {
                // The answer to a question without the record. If it was asked with the record since, that answer will come, unless this
                // goes on.
                let learned = self.origins[o as usize].learned_mut(n);
                learned.useless = learned.useless.saturating_add(1);
                if asked == Asked::Announcement {
                    self.ask(now, o, n, true);
                } else if learned.useless < MAX_USELESS {
                    learned.asked = asked;
                }
                Ok(())
            }
            Err(refusal) => {
                let signed = if refusal.is_of_the_bearer() { None } else { signed_seqno(&body.announcement, &id) };
                let origin = &mut self.origins[o as usize];
                let learned = origin.learned_mut(n);
                learned.useless = learned.useless.saturating_add(1);
                let Some(signed) = signed else {
                    // Not the origin's own words: what this neighbour offers doesn't count, and is the last choice when it offers it
                    // again. Otherwise whoever forges and offers by turns would make everybody's routes come and go.
                    learned.metric = INFINITY;
                    if let Some(who) = self.neighbor(n).map(|n| n.id) {
                        self.distrust_way(now, o, &who);
                    }
                    self.ask_next(now, o);
                    return Err(refusal);
                };
                // The origin itself is turned away, with what it has signed so far; others would only bring the same.
                show(learned, signed);
                origin.refused = origin.refused.max(signed).max(1);
                self.turn_away(now, n, o);
                Err(refusal)
            }
        }
    }

    /// Asks a neighbour for an origin's announcement.
    fn ask(&mut self, now: Instant, o: u32, n: NeighborId, record: bool) {
        let record = record || self.announcement(o).is_none();
        let slot = self.learned(n, o).slot;
        if slot == NO_SLOT {
            return;
        }
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        *neighbor.wants.entry(slot).or_default() |= record;
        neighbor.hurry(now);
        self.wake(n);
        let origin = &mut self.origins[o as usize];
        origin.learned_mut(n).asked = if record { Asked::WithRecord } else { Asked::Announcement };
        origin.asked = Some((n, now));
        origin.asks = origin.asks.saturating_add(1);
        self.next_expiry = self.next_expiry.min(now + origin.ask_wait());
        self.lacking.insert(o);
    }

    /// Asks again for what was asked for and did not come.
    pub(super) fn ask_again(&mut self, now: Instant) {
        let lacking: Vec<u32> = self.lacking.iter().copied().collect();
        lacking.into_iter().for_each(|o| self.ask_next(now, o));
    }

    /// Asks for an origin's announcement, if it is time to, the next of those who offer one: one after the other, so that nobody who
    /// never answers keeps the others from being asked.
    fn ask_next(&mut self, now: Instant, o: u32) {
        let origin = &self.origins[o as usize];
        let missing = |l: &Learned| l.metric < INFINITY && l.seqno > origin.signed().max(origin.refused);
        let offers: Vec<NeighborId> = self.ids().filter(|n| missing(&origin.learned(*n))).collect();
        if offers.is_empty() {
            // Who was asked last, and when, is kept: an offer that comes and goes is not asked about at once.
            self.lacking.remove(&o);
            return;
        }
        let before = origin.asked.map(|a| a.0);
        // Whoever has not been asked in vain does not wait for those who were.
        let is_new = |n: &NeighborId| Some(*n) != before && origin.learned(*n).useless < MAX_USELESS;
        let wait = if offers.iter().any(is_new) { ASK_AGAIN } else { origin.ask_wait() };
        let is_patient = origin.asked.is_some_and(|(n, at)| now.since(at) < wait && offers.contains(&n));
        if !origin.news.has_above(now, 0) {
            self.next_expiry = self.next_expiry.min(origin.news.next());
            return;
        }
        if !is_patient {
            if let Some(n) = before.filter(|n| n.slot() < self.neighbors.len()) {
                let learned = self.origins[o as usize].learned_mut(n);
                learned.useless = learned.useless.saturating_add(u8::from(learned.asked != Asked::Nothing));
            }
            let next = offers.iter().find(|n| Some(**n) > before).or(offers.first());
            if let Some(n) = next {
                self.ask(now, o, *n, true);
            }
        }
        self.next_expiry = self.next_expiry.min(now + wait.min(LONGEST_WAIT));
    }

    /// Takes in a verified announcement from a file. `None` when the table is full.
    pub fn learn(&mut self, now: Instant, verified: Arc<Verified>) -> Option<u32> {
        self.enter(now, verified, Right::Known)
    }

    /// Takes in the announcement of a node that has shown that it is there: there is always a place for it.
    pub fn learn_from(&mut self, now: Instant, verified: &Arc<Verified>) -> Option<u32> {
        self.enter(now, Arc::clone(verified), Right::Met)
    }

    fn enter(&mut self, now: Instant, verified: Arc<Verified>, right: Right) -> Option<u32> {
        if let Right::Brought(n) = right
            && !self.may_bring(n, &verified.id)
        {
            self.counters.table_full += 1;
            return None;
        }
        let o = match self.origin(&verified.id) {
            Some(o) => o,
            None => self.new_origin(now, verified.id, right)?,
        };
        if o == 0 {
            if self.announcement(0).is_some_and(|own| verified.seqno > own.seqno) {
                self.events.push(Event::Known(verified.seqno));
            }
            return Some(0);
        }
        let bringer = if let Right::Brought(n) = right { self.neighbor(n).map(|n| n.id) } else { None };
        let origin = &mut self.origins[o as usize];
        origin.met |= right == Right::Met;
        if origin.announcement.is_none() {
            origin.bringer = bringer.filter(|who| *who != verified.id);
        }
        if origin.signed() < verified.seqno {
            origin.expires = now + Duration::from_secs(u64::from(verified.lifetime_s)).max(MIN_LIFETIME);
            if origin.announcement.as_ref().is_none_or(|known| known.record.hash != verified.record.hash) {
                origin.renewed = verified.seqno;
            }
            if origin.announcement.replace(verified).is_some() {
                origin.news.take(now);
            }
            (origin.asked, origin.asks) = (None, 0);
            self.lacking.remove(&o);
            self.prove(o, true);
            self.events.push(Event::Changed(o));
            self.reselect(now, o);
            self.hurry_requested(now, o);
        }
        Some(o)
    }

    fn handle_entry(&mut self, now: Instant, n: NeighborId, slot: u32, seqno: SeqNo, metric: Metric) {
        self.counters.entries_received += 1;
        let Some(neighbor) = self.neighbor_mut(n) else { return };
        let o = match neighbor.slots.get(slot) {
            Slot::Origin(o) => o,
            Slot::Ignored => return,
            Slot::Empty => {
                // Its introduction was refused, or forgotten: it may be that of a node, and there may be room by now.
                if metric < INFINITY && !std::mem::replace(&mut neighbor.lost, true) {
                    neighbor.hurry(now + REPEAT);
                    self.wake(n);
                }
                self.counters.entries_refused += 1;
                return;
            }
        };
        if o == 0 {
            return;
        }
        let metric = metric.min(INFINITY);
        let origin = &mut self.origins[o as usize];
        let learned = origin.learned_mut(n);
        let before = *learned;
        (learned.seqno, learned.metric) = (seqno, metric);
        let id = origin.id;
        if metric == INFINITY && before.unproven {
            // The neighbour has lost it before we had its announcement, and will introduce it again.
            self.bind_slot(now, n, slot, Slot::Ignored);
            self.free_if_unused(o);
            return;
        }
        if before.metric < INFINITY && metric == INFINITY && self.find_neighbor(&id).is_some() {
            self.events.push(Event::Doubted(id));
        }
        let origin = &mut self.origins[o as usize];
        let learned = origin.learned(n);
        let patience = |other: NeighborId| if other == n { origin.ask_wait() } else { ASK_AGAIN };
        let is_patient = origin.asked.is_some_and(|(other, at)| now.since(at) < patience(other));
        let wait = origin.ask_wait().min(LONGEST_WAIT);
        if metric < INFINITY && seqno > origin.signed().max(origin.refused) {
            if is_patient
                || !origin.news.has_above(now, 0)
                || learned.asked != Asked::Nothing
                || learned.useless >= MAX_USELESS
            {
                self.lacking.insert(o);
                self.next_expiry = self.next_expiry.min(now + wait);
            } else {
                self.ask(now, o, n, false);
            }
        }
        self.reselect_after(now, n, o);
        self.hurry_requested(now, o);
        let origin = &self.origins[o as usize];
        if origin.selected.is_none() && metric < INFINITY && !is_feasible(origin.fd, seqno, metric) {
            self.request(now, o);
        }
    }
}

/// What is worth telling.
#[derive(PartialEq, Eq)]
enum News {
    None,
    /// Only the sequence number.
    Seqno,
    /// Reachability, or the metric by more than a sixteenth.
    Route,
}

/// What a neighbour would learn. Leaving out what it wouldn't is safe: what was told is never better than the
/// feasibility distance.
fn news(before: (SeqNo, Metric), after: (SeqNo, Metric)) -> News {
    let unreachable = (before.1 == INFINITY, after.1 == INFINITY);
    if unreachable == (true, true) {
        News::None
    } else if unreachable.0 != unreachable.1 || before.1.abs_diff(after.1) > before.1 / 16 {
        News::Route
    } else if before.0 != after.0 {
        News::Seqno
    } else {
        News::None
    }
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
