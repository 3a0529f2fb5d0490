//! Ways that are the last choice: by which packets were seen not to arrive, or which were taken and fell away again and
//! again. This changes no feasibility distance, so no loop can come of it.
//!
//! A route that is better than all others for a moment lowers the feasibility distance, and then the others can't be
//! taken before the origin has a new sequence number (RFC 8966 §3.5.1): whoever offers and withdraws by turns would keep
//! everybody without a route. What is the last choice is not selected as long as there is another, and lowers nothing.

use super::{NeighborId, Routing, Selected, is_clearly_better, origin::Origin};
use crate::types::{Duration, INFINITY, Instant, NodeId, metric_add};

/// A way is the last choice for so long: the first time, and at the most.
const DISTRUST: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));
/// A way that has been taken for so long may get worse.
const SETTLED: Duration = Duration::from_secs(60);
/// One that fell away sooner, twice in so long, is the last choice.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Of how many neighbours something is remembered for one origin, more than there are; the one that has been good for longest is
/// forgotten.
const MAX_DOUBTS: usize = 64;

/// What is remembered of a neighbour's offer of one origin. By its NodeId: it may have gone and come again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    who: NodeId,
    /// Since when and until when it is the last choice, and how long that was.
    since: Instant,
    until: Instant,
    life: Duration,
    /// When it fell away too soon, or never.
    fell: Instant,
}

const NEVER: Instant = Instant(0);

impl Doubt {
    fn is_over(&self, now: Instant) -> bool {
        let is_old = self.life == Duration::ZERO || now > self.until + DISTRUST.1;
        is_old && !self.has_fallen(now)
    }

    fn has_fallen(&self, now: Instant) -> bool {
        self.fell > NEVER && now.since(self.fell) < REMEMBERED
    }

    fn distrust(&mut self, now: Instant) {
        self.life = (self.life * 2).clamp(DISTRUST.0, DISTRUST.1);
        (self.since, self.until) = (now, now + self.life);
    }
}

impl Origin {
    fn doubt(&mut self, now: Instant, who: NodeId) -> Option<&mut Doubt> {
        self.doubts.retain(|d| d.who == who || !d.is_over(now));
        if !self.doubts.iter().any(|d| d.who == who) {
            if self.doubts.len() >= MAX_DOUBTS {
                let key = |d: &Doubt| (d.until > now, d.until.max(d.fell));
                let best = self.doubts.iter().enumerate().min_by_key(|(_, d)| key(d));
                let best = best.map_or(0, |(i, _)| i);
                self.doubts.swap_remove(best);
            }
            // One or two are remembered of very many.
            self.doubts.reserve_exact(1);
            self.doubts.push(Doubt { who, since: NEVER, until: NEVER, life: Duration::ZERO, fell: NEVER });
        }
        self.doubts.iter_mut().find(|d| d.who == who)
    }

    /// Since when an offer is the last choice, if it is.
    pub fn doubted_since(&self, now: Instant, who: &NodeId) -> Option<Instant> {
        let doubt = self.doubts.iter().find(|d| d.who == *who && d.until > now)?;
        Some(doubt.since)
    }

    pub fn has_doubts(&self, now: Instant) -> bool {
        self.doubts.iter().any(|d| d.until > now)
    }
}

impl Routing {
    /// Packets for `id` were seen not to arrive by way of `via`: other neighbours that offer a route are preferred for a
    /// while.
    pub fn distrust(&mut self, now: Instant, id: &NodeId, via: &NodeId) {
        if let Some(o) = self.origin(id) {
            self.distrust_way(now, o, via);
        }
    }

    /// What was held against `via` at that time holds for the other neighbours alike.
    pub fn forgive(&mut self, now: Instant, id: &NodeId, via: &NodeId, since: Instant) {
        let Some(o) = self.origin(id) else { return };
        let is_it = |d: &&mut Doubt| d.who == *via && d.since == since && d.until > now;
        let Some(doubt) = self.origins[o as usize].doubts.iter_mut().find(is_it) else { return };
        (doubt.until, doubt.life) = (now, doubt.life / 2);
        self.reselect(now, o);
    }

    /// As [`Self::forgive`], for what may have been nobody's fault: only the first time, and the next one counts as the second.
    pub fn pardon(&mut self, now: Instant, id: &NodeId, via: &NodeId, since: Instant) {
        let Some(o) = self.origin(id) else { return };
        let is_it = |d: &&mut Doubt| d.who == *via && d.since == since && d.life <= DISTRUST.0;
        if let Some(doubt) = self.origins[o as usize].doubts.iter_mut().find(is_it) {
            doubt.until = doubt.until.min(now);
            self.reselect(now, o);
        }
    }

    /// The neighbours that offer a way to `id`, and whether it is the last choice.
    pub fn offers(&self, now: Instant, id: &NodeId) -> impl Iterator<Item = (NodeId, bool)> {
        let of = move |o: u32| self.ids().filter(move |n| self.learned(*n, o).metric < INFINITY).map(move |n| (o, n));
        let all = self.origin(id).into_iter().flat_map(of);
        all.filter_map(move |(o, n)| Some((self.neighbor(n)?.id, self.distrusted_since(now, o, n).is_some())))
    }

    pub(super) fn distrust_way(&mut self, now: Instant, o: u32, via: &NodeId) {
        let Some(doubt) = self.origins[o as usize].doubt(now, *via) else { return };
        doubt.distrust(now);
        self.counters.distrusted += 1;
        self.reselect(now, o);
        let selected = self.origins[o as usize].selected;
        if selected.is_none_or(|s| self.neighbor(s.neighbor).is_some_and(|n| n.id == *via)) {
            self.request(now, o);
        }
    }

    /// Since when a neighbour's offer is the last choice, if it is.
    pub(super) fn distrusted_since(&self, now: Instant, o: u32, n: NeighborId) -> Option<Instant> {
        let origin = &self.origins[o as usize];
        let neighbor = self.neighbor(n).filter(|_| !origin.doubts.is_empty())?;
        origin.doubted_since(now, &neighbor.id)
    }

    /// The way that was selected is left for another, or for none. If it is because its neighbour made it worse soon after it was
    /// taken, though somebody else offers one, too, it becomes the last choice the second time: it would have stayed if it had
    /// stood by what it promised. What a node says of itself needs no such doubt: it is always feasible.
    pub(super) fn note_fall(&mut self, now: Instant, o: u32, left: Selected, after: Option<Selected>) {
        let origin = &self.origins[o as usize];
        let Some(who) = self.neighbor(left.neighbor).map(|n| n.id).filter(|who| *who != origin.id) else { return };
        let (since, promised) = origin.chosen;
        // With the cost of the link: a neighbour has a hand in that, too. And who goes back to an older number has withdrawn what was
        // selected.
        let learned = self.learned(left.neighbor, o);
        let is_older = learned.seqno.min(origin.signed()) < left.seqno;
        let present = if is_older { INFINITY } else { metric_add(learned.metric, self.costs[left.neighbor.slot()]) };
        let had_to_go =
            after.is_some_and(|after| is_clearly_better(self.weight(o, after.neighbor, after.metric), promised));
        if present <= promised || had_to_go || now.since(since) >= SETTLED {
            return;
        }
        if !self.ids().any(|n| n != left.neighbor && self.learned(n, o).metric < INFINITY) {
            return;
        }
        let Some(doubt) = self.origins[o as usize].doubt(now, who) else { return };
        let is_second = doubt.has_fallen(now);
        doubt.fell = now;
        if is_second || doubt.life >= DISTRUST.0 {
            doubt.distrust(now);
            self.counters.distrusted += 1;
        }
    }
}
