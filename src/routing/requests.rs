//! Sequence-number requests (RFC 8966 §3.8.1, §3.8.2): whom a node asks that has lost its route, or passes a request on to.
//!
//! A neighbour that promises the best way may be one that lies, and pass nothing on. So besides the best, others are asked
//! in turn.

use super::{Event, Learned, NeighborId, REQUEST_HOPS, REQUEST_MAX, Routing, origin::Forwarded, update::MAX_REQUESTS};
use crate::{
    types::{Duration, INFINITY, Instant, Metric, NodeId, metric_add},
    wire::proto::SeqnoRequest,
};

/// How many neighbours a request of this node goes to at a time.
const ASKED_AT_ONCE: usize = 3;
/// And one of others.
const PASSED_ON_TO: usize = 2;
/// How far the second of those travels.
const AROUND: u32 = 3;
/// The same request is passed on so often.
const FORWARD_GAP: Duration = Duration::from_millis(500);

impl Routing {
    /// Who offers a way to an origin, the best first and who is in doubt last; of these the first, and others by turns.
    fn whom_to_ask(
        &mut self,
        now: Instant,
        o: u32,
        but: Option<NeighborId>,
        most: usize,
    ) -> Vec<(NeighborId, Learned)> {
        let offers = self.ids().zip(&self.costs).filter(|(n, _)| Some(*n) != but);
        let offers = offers.map(|(n, cost)| (self.learned(n, o), *cost, n));
        let mut offers: Vec<(Option<Instant>, Metric, NeighborId, Learned)> = offers
            .filter(|(learned, ..)| learned.metric < INFINITY)
            .map(|(learned, cost, n)| {
                let weight = self.weight(o, n, metric_add(learned.metric, cost));
                (self.distrusted_since(now, o, n), weight, n, learned)
            })
            .collect();
        offers.sort_unstable_by_key(|(doubted, weight, n, _)| (*doubted, *weight, *n));
        if offers.len() > most {
            let others = offers.len() - 1;
            offers[1..].rotate_left(self.turn % others);
            self.turn = self.turn.wrapping_add(most - 1);
            offers.truncate(most);
        }
        offers.into_iter().map(|(.., n, learned)| (n, learned)).collect()
    }

    /// A route with a sequence number goes at once to whoever asked for it through us.
    pub(super) fn hurry_requested(&mut self, now: Instant, o: u32) {
        let origin = &mut self.origins[o as usize];
        let answered = origin.forwarded.is_some_and(|f| origin.selected.is_some_and(|s| s.seqno >= f.seqno));
        if answered {
            origin.forwarded = None;
            for n in std::mem::take(&mut origin.requesters) {
                self.advertise_to(now, o, n, true);
            }
        }
    }

    /// Asks the neighbours that have a route for a new sequence number of its origin (RFC 8966 §3.8.2.1).
    pub(super) fn request(&mut self, now: Instant, o: u32) {
        let origin = &mut self.origins[o as usize];
        if now < origin.request_after {
            self.next_expiry = self.next_expiry.min(origin.request_after);
            return;
        }
        let (fd, id) = (origin.fd, origin.id);
        let offers = self.whom_to_ask(now, o, None, ASKED_AT_ONCE);
        if offers.is_empty() {
            return;
        }
        for (n, learned) in offers {
            // What only has an old number is wanted with the present one: that takes no signature.
            let is_late = learned.seqno < fd.0 && learned.metric < fd.1;
            let seqno = if is_late { fd.0 } else { fd.0.saturating_add(1) };
            self.pass_request(n, SeqnoRequest { origin: id.0.to_vec(), seqno, hops: REQUEST_HOPS });
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
            self.wake(n);
        }
    }

    /// Acts on a neighbour's request (RFC 8966 §3.8.1.2).
    pub fn handle_request(&mut self, now: Instant, n: NeighborId, request: &SeqnoRequest) {
        if self.neighbor_mut(n).is_some_and(|neighbor| !neighbor.takes_request(now)) {
            self.counters.requests_refused += 1;
            return;
        }
        let Some(o) = NodeId::from_slice(&request.origin).and_then(|id| self.origin(&id)) else { return };
        if o == 0 {
            if self.announcement(0).is_some_and(|own| request.seqno > own.seqno) {
                self.events.push(Event::NeedSeqno);
            } else {
                self.origins[0].sent_mut(n).forced = true;
                self.enqueue(n, 0, now);
            }
            return;
        }
        let origin = &mut self.origins[o as usize];
        // Nobody needs more than one beyond what the origin has signed, and it gives no more.
        let wanted = request.seqno.min(origin.signed().saturating_add(1));
        match origin.selected {
            Some(s) if s.seqno >= wanted => {
                origin.sent_mut(n).forced = true;
                self.enqueue(n, o, now);
                return;
            }
            _ => {}
        }
        if !origin.requesters.contains(&n) && origin.requesters.len() < MAX_REQUESTS {
            origin.requesters.push(n);
        }
        // One that travels less far says nothing of whether this one arrives.
        let hops = request.hops.min(REQUEST_HOPS);
        let is_repeat = |f: Forwarded| f.seqno >= wanted && now.since(f.at) < FORWARD_GAP && f.hops >= hops;
        if origin.forwarded.is_some_and(is_repeat) || hops == 0 {
            return;
        }
        let next = SeqnoRequest { seqno: wanted, hops: hops - 1, ..request.clone() };
        let selected = origin.selected.map(|s| s.neighbor).filter(|s| *s != n);
        let others = self.whom_to_ask(now, o, Some(n), PASSED_ON_TO);
        let others = others.into_iter().map(|(m, _)| m).filter(|m| Some(*m) != selected);
        // The one on the way goes all the way; another one is to come around who is next, no more.
        let most = if hops > AROUND { PASSED_ON_TO } else { 1 };
        let is_quiet = self.neighbor_mut(n).is_some_and(|neighbor| neighbor.asks_little(now));
        let mut went = 0;
        for (i, m) in selected.into_iter().chain(others).take(most).enumerate() {
            let hops = if i == 0 { next.hops } else { next.hops.min(AROUND) };
            if self.neighbor_mut(m).is_some_and(|neighbor| neighbor.passes_on(now, is_quiet)) {
                self.pass_request(m, SeqnoRequest { hops, ..next.clone() });
                went = request.hops.min(REQUEST_HOPS);
            }
        }
        // What found no room is not on its way: who asks again is no repeat.
        self.origins[o as usize].forwarded = Some(Forwarded { seqno: wanted, at: now, hops: went });
    }
}
