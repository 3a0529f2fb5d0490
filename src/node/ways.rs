//! What is known of the ways to one node: for each neighbour that packets for it went by, the questions that it left without an
//! answer, and the part of the bytes that was lost.
//!
//! The other end tells how much has come in all. Between two such answers packets may have gone by several neighbours: what is
//! missing is then held against each as far as it was used, and as far as it is not known to be good. So whoever shares the
//! time with a neighbour that swallows is blamed little once it was seen alone, and nobody erases anything by a change of the way.

use std::collections::VecDeque;

use super::passage::Tally;
use crate::types::{Duration, Instant, NodeId};

/// Answers missing one after the other until a way is given up, and the wait for each beside twice the round trip that routing
/// promises. On a way that loses a tenth in each direction, four are missing once in eight hundred times; on one that loses a third,
/// once in ten, and another way may well be better.
pub(super) const TRIES: u32 = 4;
const PATIENCE: Duration = Duration::from_millis(250);
/// Both for a way that has answered nothing yet while another one has: the packets can go back to that.
const NEWCOMER: (u32, Duration) = (3, Duration::from_millis(60));
/// Bytes sent between two answers that tell something of what is lost; and that do if hardly any of them came.
const ENOUGH: (u64, u64) = (1500, 400);
/// A way is bad if it lost more than this and a third of what went by it, in so many intervals at the least.
const BAD: (u64, u32) = (400, 2);
/// It is poor if it lost more than this and a sixteenth: good enough if there is no better one.
const POOR: (u64, u32) = (600, 4);
/// After each interval, all of what is known of the earlier ones counts an eighth less; and no interval counts for more bytes than
/// this, so that an hour of plenty makes up for no more of what follows than a minute of little.
const FADES: u64 = 8;
const MAX_BYTES: u64 = 8000;
/// Intervals in a row of which hardly anything arrived are bad, whatever was before.
const GONE: u32 = 3;
/// What is thought to be lost where nothing was seen yet, and what is added where something was.
const UNKNOWN: f64 = 0.25;
const DOUBT: f64 = 1.0 / 32.0;
/// Ways of which something is known, and for how long.
const MAX_WAYS: usize = 64;
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(300);
/// Changes of the way between two answers that are told apart.
const MAX_LEGS: usize = 256;

/// How good a way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quality {
    Good,
    Poor,
    Bad,
}

/// What is known of a way by one neighbour.
#[derive(Debug, Clone, Copy)]
struct Way {
    hop: NodeId,
    /// When it was asked last.
    at: Instant,
    unanswered: u32,
    /// Something has come back by it.
    has_answered: bool,
    /// Bytes sent and lost, the latest ones above all, and the intervals in which they were.
    sent: u64,
    lost: u64,
    intervals: u32,
    /// In how many of them in a row hardly anything arrived.
    gone: u32,
    /// When it was given up, and the part that was lost until then.
    left: Option<(Instant, f64)>,
}

impl Way {
    fn new(now: Instant, hop: NodeId) -> Self {
        let (unanswered, has_answered, sent, lost, intervals, gone, left) = Default::default();
        Self { hop, at: now, unanswered, has_answered, sent, lost, intervals, gone, left }
    }

    /// The part that is lost, if it is known.
    fn loss(&self) -> Option<f64> {
        let measured = (self.intervals >= POOR.1 && self.sent > 0).then(|| self.lost as f64 / self.sent as f64);
        measured.or(self.left.map(|(_, loss)| loss))
    }

    fn quality(&self) -> Quality {
        if self.gone >= GONE || self.intervals >= BAD.1 && self.lost > BAD.0 + self.sent / 3 {
            Quality::Bad
        } else if self.intervals >= POOR.1 && self.lost > POOR.0 + self.sent / 16 {
            Quality::Poor
        } else {
            Quality::Good
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Ways {
    known: VecDeque<Way>,
    /// The session, and from how many bytes sent on it on packets went by which neighbour, or by none.
    session: u32,
    legs: Vec<(Option<NodeId>, u64)>,
    /// By which packets go now.
    current: Option<NodeId>,
    tally: Tally,
}

impl Ways {
    fn way(&mut self, now: Instant, hop: NodeId) -> Option<&mut Way> {
        self.known.retain(|way| now.since(way.at) < KNOWN_FOR);
        if !self.known.iter().any(|way| way.hop == hop) {
            if self.known.len() >= MAX_WAYS {
                let oldest = self.known.iter().enumerate().min_by_key(|(_, way)| way.at).map(|(i, _)| i);
                oldest.and_then(|i| self.known.remove(i));
            }
            self.known.push_back(Way::new(now, hop));
        }
        self.known.iter_mut().find(|way| way.hop == hop)
    }

    fn find(&self, hop: NodeId) -> Option<&Way> {
        self.known.iter().find(|way| way.hop == hop)
    }

    /// Packets go by this neighbour from now on, or by none; so much has been sent on that session. Returns whether that is a
    /// change.
    pub fn goes_by(&mut self, hop: Option<NodeId>, (session, sent): (u32, u64)) -> bool {
        if session != self.session {
            self.session = session;
            self.legs = vec![(self.current, 0)];
        }
        let has_changed = self.current != hop;
        if has_changed {
            self.current = hop;
            match self.legs.last_mut() {
                // Nothing went by the one before.
                Some(last) if last.1 == sent => last.0 = hop,
                _ => self.legs.push((hop, sent)),
            }
            if self.legs.len() > MAX_LEGS {
                self.legs.remove(1);
            }
        }
        has_changed
    }

    /// A question goes by `hop`. Returns how many before it went that way without an answer.
    pub fn asks(&mut self, now: Instant, hop: NodeId) -> u32 {
        let Some(way) = self.way(now, hop) else { return 0 };
        way.at = now;
        way.unanswered += 1;
        way.unanswered - 1
    }

    pub fn unanswered(&self, hop: NodeId) -> u32 {
        self.find(hop).map_or(0, |way| way.unanswered)
    }

    /// Something came back by this way.
    pub fn proves(&mut self, now: Instant, hop: NodeId) {
        if let Some(way) = self.way(now, hop) {
            (way.unanswered, way.has_answered) = (0, true);
        }
    }

    /// How many questions in a row this way may leave without an answer, and the wait for each. `has_link`: there is a direct way,
    /// too.
    pub fn patience(&self, hop: NodeId, has_link: bool) -> (u32, Duration) {
        let answers = |is_it: bool| self.known.iter().any(|way| (way.hop == hop) == is_it && way.has_answered);
        if !answers(true) && (has_link || answers(false)) { NEWCOMER } else { (TRIES, PATIENCE) }
    }

    /// The answer to a question that went by `hop` when so much had been sent on a session: so much of it was received. Returns the
    /// ways about which that tells something.
    pub fn answered(&mut self, now: Instant, hop: NodeId, (session, sent): (u32, u64), received: u64) -> Vec<NodeId> {
        let enough = |sent, arrived| sent >= if arrived < sent / 4 { ENOUGH.1 } else { ENOUGH.0 };
        let Some((more, arrived)) = self.tally.count((session, sent), received, enough) else { return Vec::new() };
        let shares = self.shares(hop, session, sent - more..sent);
        self.book(now, &shares, more, arrived);
        shares.into_iter().map(|(hop, _)| hop).collect()
    }

    /// By whom the bytes of a part of a session went.
    fn shares(&mut self, asked: NodeId, session: u32, part: std::ops::Range<u64>) -> Vec<(NodeId, u64)> {
        if session != self.session {
            return vec![(asked, part.end - part.start)];
        }
        let ends = self.legs.iter().skip(1).map(|leg| leg.1).chain([u64::MAX]);
        let mut shares: Vec<(NodeId, u64)> = Vec::new();
        for ((hop, begin), end) in self.legs.iter().zip(ends) {
            let bytes = end.min(part.end).saturating_sub((*begin).max(part.start));
            let Some(hop) = hop.filter(|_| bytes > 0) else { continue };
            match shares.iter_mut().find(|share| share.0 == hop) {
                Some(share) => share.1 += bytes,
                None => shares.push((hop, bytes)),
            }
        }
        let current = self.legs.iter().rposition(|leg| leg.1 <= part.end).unwrap_or_default();
        self.legs.drain(..current);
        shares
    }

    /// Holds what is missing against those who had it.
    fn book(&mut self, now: Instant, shares: &[(NodeId, u64)], sent: u64, arrived: u64) {
        let suspicion = |way: Option<&Way>| way.and_then(Way::loss).unwrap_or(UNKNOWN) + DOUBT;
        // Squares: few culprits are likelier than many.
        let weight = |(hop, bytes): &(NodeId, u64)| (*bytes as f64 * suspicion(self.find(*hop))).powi(2);
        let weights: Vec<f64> = shares.iter().map(weight).collect();
        let mut left = (sent.saturating_sub(arrived) as f64, weights.iter().sum::<f64>());
        let late = arrived.saturating_sub(sent).min(sent) as f64 / sent.max(1) as f64;
        // Who may have had less than its part of what is missing comes first.
        let mut order: Vec<usize> = (0..shares.len()).collect();
        let part = |i: &usize| weights[*i] / shares[*i].1.max(1) as f64;
        order.sort_by(|a, b| part(b).total_cmp(&part(a)));
        for i in order {
            let (hop, bytes) = shares[i];
            let lost = if left.1 > 0.0 { (left.0 * weights[i] / left.1).min(bytes as f64) } else { 0.0 };
            left = (left.0 - lost, left.1 - weights[i]);
            let Some(way) = self.way(now, hop) else { continue };
            let weight = (MAX_BYTES as f64 / bytes.max(1) as f64).min(1.0);
            let [counts, lost, late] = [bytes as f64, lost, late * bytes as f64].map(|n| (n * weight) as u64);
            way.sent = way.sent - way.sent / FADES + counts;
            way.lost = (way.lost - way.lost / FADES + lost).saturating_sub(late);
            way.intervals += 1;
            way.gone = if lost > counts / 4 * 3 { way.gone + 1 } else { 0 };
        }
    }

    pub fn quality(&self, hop: NodeId) -> Quality {
        self.find(hop).map_or(Quality::Good, Way::quality)
    }

    /// Whether another way is worth a try instead of a poor one: it isn't known to lose half as much or more.
    pub fn is_better(&self, other: NodeId, than: NodeId) -> bool {
        let loss = |hop| self.find(hop).and_then(Way::loss);
        loss(other).is_none_or(|other| other < loss(than).unwrap_or_default() / 2.0)
    }

    /// The ways that were given up as poor while the one in use has turned out to be no better, and when they were.
    pub fn excused(&self) -> Vec<(NodeId, Instant)> {
        let current = self.current.and_then(|hop| self.find(hop)).filter(|way| way.intervals >= POOR.1);
        let Some((hop, loss)) = current.and_then(|way| Some((way.hop, way.loss()?))) else { return Vec::new() };
        let others = self.known.iter().filter(|other| other.hop != hop && other.intervals == 0);
        let left = others.filter_map(|other| Some((other.hop, other.left?)));
        left.filter(|(_, (_, was))| *was < 1.0 / 3.0 && loss >= was / 2.0).map(|(hop, (at, _))| (hop, at)).collect()
    }

    /// It is left for another one. What is known of it is for comparison alone from now on.
    pub fn gives_up(&mut self, now: Instant, hop: NodeId) {
        if let Some(way) = self.way(now, hop) {
            let loss = way.loss().filter(|_| way.quality() == Quality::Poor).unwrap_or(1.0);
            *way = Way { left: Some((now, loss)), ..Way::new(now, hop) };
        }
    }
}
