//! Whether packets arrive that go by way of relays. Routing knows what neighbours say; a neighbour that lies, or relays
//! nothing, is found out by the two ends alone: while packets are sent, one end asks the other now and then how much has
//! come. No answers, or far less than was sent, and another way is preferred ([`Routing::distrust`]), and a direct one
//! tried. What is asked looks like any other packet to a relay, so that it can't spare it; nothing is asked of who has
//! a link, which has probes of its own.
//!
//! [`Routing::distrust`]: crate::routing::Routing::distrust

use std::{collections::VecDeque, sync::Arc};

use super::{Node, Via, passage::Tally};
use crate::{
    session::Transport,
    types::{Duration, Instant, NodeId, NodeTag},
    wire::{
        frame::{self, Kind},
        proto,
    },
};

/// Answers missing one after the other until a way is given up. On a way that loses a tenth in each direction, four are
/// missing once in eight hundred times; on one that loses a third, once in ten, and another way may well be better.
const TRIES: u32 = 4;
/// The wait for an answer, beside twice the round trip that routing promises.
const PATIENCE: Duration = Duration::from_millis(250);
const MAX_PATIENCE: Duration = Duration::from_secs(2);
/// From so many missing on, the other end is asked to answer by its own way, too.
const URGENT: u32 = 2;
/// A session that does not come about by a way in so long is begun by another.
const BEGIN_BY: Duration = Duration::from_millis(1500);
/// Bytes sent between two answers that tell something of what is lost; and that do if hardly any of them came.
const ENOUGH: (u64, u64) = (1500, 400);
/// What an answer counts that tells of more than a third lost, and what takes a better one to make up for; at the limit the way is
/// given up.
const POOR: (u32, u32) = (2, 4);
/// Questions remembered: late answers count.
const REMEMBERED: usize = 8;
/// Ways of which something is known, and for how long.
const MAX_WAYS: usize = 8;
const KNOWN_FOR: Duration = Duration::from_secs(300);

/// A question on its way: its number, the neighbour and the session that it went by, and what had been sent on that before.
#[derive(Debug, Clone, Copy)]
struct Asked {
    id: u32,
    hop: NodeId,
    /// How often the way had changed by then.
    changes: u32,
    session: u32,
    sent: u64,
}

/// What is known against a way by one neighbour: questions without an answer, and poor answers; and when it was asked last.
#[derive(Debug, Clone, Copy)]
struct Way {
    hop: NodeId,
    unanswered: u32,
    poor: u32,
    at: Instant,
}

/// What one end knows of the ways to the other.
#[derive(Debug, Default)]
pub(super) struct Reach {
    next: u32,
    asked: VecDeque<Asked>,
    /// When the next question is due, if one is open, and by which neighbour that went.
    due: Option<Instant>,
    hop: Option<NodeId>,
    /// It outlives a change of the way: who comes and goes is asked on.
    ways: VecDeque<Way>,
    /// The session, and what users had sent on it.
    seen: (u32, u64),
    /// By which neighbour packets go now, and how often that has changed.
    way_now: Option<NodeId>,
    changes: u32,
    tally: Tally,
    /// Since when packets wait for a session.
    waits: Option<Instant>,
}

impl Reach {
    /// Nothing is asked any more.
    fn settle(&mut self) {
        (self.due, self.hop) = (None, None);
    }

    fn way(&mut self, now: Instant, hop: NodeId) -> Option<&mut Way> {
        self.ways.retain(|way| now.since(way.at) < KNOWN_FOR);
        if !self.ways.iter().any(|way| way.hop == hop) {
            if self.ways.len() >= MAX_WAYS {
                self.ways.pop_front();
            }
            self.ways.push_back(Way { hop, unanswered: 0, poor: 0, at: now });
        }
        self.ways.iter_mut().find(|way| way.hop == hop)
    }

    /// Whether users' packets went by this session since the last look.
    fn is_active(&mut self, session: u32, sent: u64) -> bool {
        let before = std::mem::replace(&mut self.seen, (session, sent));
        sent > if before.0 == session { before.1 } else { 0 }
    }

    /// Packets go by this neighbour from now on, or by none. Returns whether that is a change: what was lost on another way, for
    /// however short a time, says nothing of this one.
    pub fn goes_by(&mut self, hop: Option<NodeId>) -> bool {
        let has_changed = self.way_now != hop;
        if has_changed {
            (self.way_now, self.tally) = (hop, Tally::default());
            self.changes = self.changes.wrapping_add(1);
        }
        has_changed
    }

    /// A question goes by `hop`. Returns how many before it went that way without an answer.
    fn asks(&mut self, now: Instant, hop: NodeId) -> u32 {
        self.hop = Some(hop);
        let Some(way) = self.way(now, hop) else { return 0 };
        way.at = now;
        way.unanswered += 1;
        way.unanswered - 1
    }

    /// Takes in an answer; returns the neighbour by which the question went, if that way loses too much.
    fn answered(&mut self, now: Instant, id: u32, received: u64) -> Option<NodeId> {
        let at = self.asked.iter().position(|a| a.id == id)?;
        let Asked { session, sent, hop, changes, .. } = self.asked.remove(at)?;
        // The earlier ones are settled with it.
        self.asked.retain(|a| a.hop != hop || a.id.wrapping_sub(id) < u32::MAX / 2);
        self.way(now, hop)?.unanswered = 0;
        if self.hop == Some(hop) {
            self.settle();
        }
        if changes != self.changes {
            return None;
        }
        let enough = |sent, arrived| sent >= if arrived < sent / 4 { ENOUGH.1 } else { ENOUGH.0 };
        let (sent, arrived) = self.tally.count((session, sent), received, enough)?;
        let way = self.way(now, hop)?;
        way.poor = if arrived < sent / 3 * 2 { way.poor + POOR.0 } else { way.poor.saturating_sub(1) };
        (way.poor >= POOR.1).then_some(hop)
    }
}

impl Node {
    /// The neighbour by which packets for `id` go, unless that is the node itself.
    pub(super) fn relay_towards(&self, id: &NodeId) -> Option<NodeId> {
        self.routing.next_hop(self.routing.origin(id)?).filter(|hop| hop != id)
    }

    /// The way to a node may have changed.
    pub(super) fn note_way(&mut self, o: u32, id: &NodeId) {
        let hop = self.routing.next_hop(o);
        if let Some(peer) = self.peers.get_mut(id)
            && peer.reach.goes_by(hop)
        {
            peer.passage.restart();
        }
    }

    /// Once a second: asks those to whom packets go by a relay.
    pub(super) fn look_after(&mut self, now: Instant, id: NodeId) {
        let Some(hop) = self.relay_towards(&id) else {
            if let Some(peer) = self.peers.get_mut(&id).filter(|p| p.reach.due.is_some() || p.reach.waits.is_some()) {
                peer.reach.settle();
                peer.reach.waits = None;
            }
            return;
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(transport) = peer.transport() else {
            let since = *peer.reach.waits.get_or_insert(now);
            if peer.waiting.is_empty() {
                peer.reach.waits = None;
            } else if now.since(since) >= BEGIN_BY {
                peer.reach.waits = Some(now);
                self.give_up_way(now, id, hop);
            }
            return;
        };
        let (session, sent) = (transport.local_index, transport.users_bytes().0);
        peer.reach.waits = None;
        if peer.reach.is_active(session, sent) && peer.reach.due.is_none() {
            self.ask(now, id, hop);
        }
    }

    fn ask(&mut self, now: Instant, id: NodeId, hop: NodeId) {
        let promised = self.routing.origin(&id).and_then(|o| self.routing.route(o)).map_or(0, |r| r.metric);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(transport) = peer.transport() else { return };
        let (session, sent) = (transport.local_index, transport.users_bytes().0);
        let reach = &mut peer.reach;
        let unanswered = reach.asks(now, hop);
        reach.next = reach.next.wrapping_add(1);
        if reach.asked.len() >= REMEMBERED {
            reach.asked.pop_front();
        }
        reach.asked.push_back(Asked { id: reach.next, hop, changes: reach.changes, session, sent });
        let question = proto::Reach { id: reach.next, urgent: unanswered >= URGENT };
        let wait = Duration::from_micros(4 * u64::from(promised)) + PATIENCE;
        let due = now + wait.min(MAX_PATIENCE);
        reach.due = Some(due);
        self.asking.insert((due, id));
        self.send_reach(now, id, Kind::Reach(question));
    }

    fn send_reach(&mut self, now: Instant, id: NodeId, kind: Kind) {
        self.send_plaintext(now, id, frame::encode(kind));
    }

    /// When [`Self::tick_reach`] has something to do.
    pub(super) fn reach_timeout(&self) -> Option<Instant> {
        self.asking.first().map(|(due, _)| *due)
    }

    /// Answers that are missing.
    pub(super) fn tick_reach(&mut self, now: Instant) {
        while let Some((due, id)) = self.asking.first().copied().filter(|(due, _)| *due <= now) {
            self.asking.remove(&(due, id));
            let hop = self.relay_towards(&id);
            let Some(peer) = self.peers.get_mut(&id).filter(|p| p.reach.due == Some(due)) else { continue };
            let asked_by = peer.reach.hop;
            let unanswered = hop.and_then(|hop| peer.reach.way(now, hop)).map_or(0, |way| way.unanswered);
            match hop {
                // The way has changed meanwhile: what was asked says nothing of the new one.
                Some(hop) if asked_by != Some(hop) => self.ask(now, id, hop),
                Some(hop) if unanswered >= TRIES => {
                    peer.reach.settle();
                    self.give_up_way(now, id, hop);
                }
                Some(hop) => self.ask(now, id, hop),
                None => peer.reach.settle(),
            }
        }
    }

    /// Packets for a node don't arrive by way of `hop`.
    fn give_up_way(&mut self, now: Instant, id: NodeId, hop: NodeId) {
        self.counters.ways_given_up += 1;
        self.routing.distrust(now, &id, &hop);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.reach.tally = Tally::default();
        peer.reach.ways.retain(|way| way.hop != hop);
        self.discovery.insist(now, id);
    }

    /// The peer asks how much has come by this session. The answer goes back by the neighbour that brought the question: it is
    /// the peer's way that is asked about. If answers seem to get lost, another one goes our own way.
    pub(super) fn on_reach(
        &mut self,
        now: Instant,
        session: &Arc<Transport>,
        (tag, by): (NodeTag, Option<NodeId>),
        question: &proto::Reach,
    ) {
        let id = session.peer;
        let answer = Kind::Reached(proto::Reached { id: question.id, received: session.users_bytes().1 });
        if question.urgent && self.relay_towards(&id) != by {
            self.send_reach(now, id, answer.clone());
        }
        let plaintext = frame::encode(answer);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(transport) = peer.transport() else { return };
        let mut bytes = Vec::with_capacity(64);
        transport.seal(&plaintext, &mut bytes);
        self.send_by(Via::Relayed(tag), by, bytes);
    }

    /// The answer.
    pub(super) fn on_reached(&mut self, now: Instant, id: NodeId, answer: &proto::Reached) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(hop) = peer.reach.answered(now, answer.id, answer.received) {
            self.give_up_way(now, id, hop);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: NodeId = NodeId([1; 32]);
    const OTHER: NodeId = NodeId([2; 32]);

    /// Answers to questions by a way that were asked after so many bytes had been sent: who is given up.
    fn tell_by(reach: &mut Reach, hop: NodeId, session: u32, sent: u64, received: u64) -> Option<NodeId> {
        reach.next += 1;
        reach.goes_by(Some(hop));
        reach.asks(Instant(0), hop);
        reach.asked.push_back(Asked { id: reach.next, hop, changes: reach.changes, session, sent });
        reach.answered(Instant(0), reach.next, received)
    }

    fn tell(reach: &mut Reach, session: u32, sent: u64, received: u64) -> bool {
        tell_by(reach, HOP, session, sent, received).is_some()
    }

    #[test]
    fn a_way_that_loses_more_than_a_third_twice_is_poor() {
        let mut reach = Reach::default();
        assert!(!tell(&mut reach, 1, 10_000, 100), "the first answer only tells where to count from");
        assert!(!tell(&mut reach, 1, 12_000, 1_000));
        assert!(tell(&mut reach, 1, 14_000, 1_900), "half of it, twice");
        let mut reach = Reach::default();
        tell(&mut reach, 1, 0, 0);
        assert!(!tell(&mut reach, 1, 2_000, 1_000));
        assert!(!tell(&mut reach, 1, 4_000, 3_000), "all of it has come since");
        assert!(!tell(&mut reach, 1, 6_000, 4_000));
        assert!(!tell(&mut reach, 2, 100, 0), "another session is counted anew");
    }

    #[test]
    fn who_passes_everything_by_turns_only_is_found_out_too() {
        let mut reach = Reach::default();
        let (mut sent, mut received) = (0, 0);
        let found = (0..10).position(|i| {
            sent += 2_000;
            received += if i % 2 == 0 { 2_000 } else { 0 };
            tell(&mut reach, 1, sent, received)
        });
        assert!(found.is_some_and(|i| i <= 6), "{found:?}");
    }

    #[test]
    fn few_bytes_tell_nothing_unless_hardly_any_came() {
        let mut reach = Reach::default();
        tell(&mut reach, 1, 0, 0);
        assert!((1..=14).all(|i| !tell(&mut reach, 1, 100 * i, 50 * i)), "less than one long packet");
        let mut reach = Reach::default();
        tell(&mut reach, 1, 0, 0);
        assert!(!tell(&mut reach, 1, 400, 0));
        assert!(tell(&mut reach, 1, 800, 0), "short packets alone, of which none came");
    }

    #[test]
    fn a_late_answer_counts_and_a_made_up_one_does_not() {
        let mut reach = Reach::default();
        for id in 1..=3 {
            reach.asks(Instant(0), HOP);
            reach.asked.push_back(Asked { id, hop: HOP, changes: 0, session: 1, sent: 0 });
        }
        reach.due = Some(Instant(9));
        let unanswered = |reach: &mut Reach| reach.way(Instant(0), HOP).unwrap().unanswered;
        assert_eq!(reach.answered(Instant(0), 7, u64::MAX), None);
        assert_eq!((unanswered(&mut reach), reach.asked.len()), (3, 3));
        assert_eq!(reach.answered(Instant(0), 2, 0), None);
        assert_eq!((unanswered(&mut reach), reach.due, reach.asked.len()), (0, None, 1), "with the earlier ones");
    }

    #[test]
    fn activity_is_more_sent_on_the_same_session() {
        let mut reach = Reach::default();
        let sent = [(1, 100), (1, 100), (1, 200), (2, 1), (2, 1), (3, 0)];
        assert_eq!(sent.map(|(session, sent)| reach.is_active(session, sent)), [true, false, true, true, false, false]);
    }

    /// Two ways by turns, of which one never answers.
    #[test]
    fn questions_by_a_way_that_comes_and_goes_add_up() {
        let mut reach = Reach::default();
        for i in 0..TRIES {
            assert_eq!(reach.asks(Instant(0), HOP), i);
            tell_by(&mut reach, OTHER, 1, 0, 0);
            assert_eq!(reach.way(Instant(0), OTHER).unwrap().unanswered, 0, "of the other one");
        }
        assert_eq!(reach.asks(Instant(0) + KNOWN_FOR, HOP), 0, "long ago");
    }

    #[test]
    fn a_poor_answer_is_held_against_the_way_that_was_asked() {
        let mut reach = Reach::default();
        assert_eq!(tell_by(&mut reach, HOP, 1, 0, 0), None);
        assert_eq!(tell_by(&mut reach, HOP, 1, 2_000, 0), None);
        assert_eq!(tell_by(&mut reach, HOP, 1, 4_000, 0), Some(HOP));
        // The answer comes when packets go another way already.
        let mut reach = Reach::default();
        (0..2).for_each(|i| assert_eq!(tell_by(&mut reach, HOP, 1, 2_000 * i, 0), None));
        reach.asks(Instant(0), HOP);
        reach.asked.push_back(Asked { id: 99, hop: HOP, changes: reach.changes, session: 1, sent: 4_000 });
        reach.goes_by(Some(OTHER));
        assert_eq!(reach.answered(Instant(0), 99, 0), None);
        assert_eq!(reach.way(Instant(0), OTHER).unwrap().poor, 0);
    }

    /// Between any two questions packets go by another neighbour for a while, which swallows them.
    #[test]
    fn what_another_swallowed_between_two_questions_is_held_against_nobody() {
        let mut reach = Reach::default();
        for i in 0..20 {
            assert_eq!(tell_by(&mut reach, HOP, 1, 10_000 * i, 200 * i), None);
            reach.goes_by(Some(OTHER));
            reach.goes_by(Some(HOP));
        }
    }
}
