//! Whether packets arrive that go by way of relays. Routing knows what neighbours say; a neighbour that lies, or relays
//! nothing, is found out by the two ends alone: while packets are sent, one end asks the other now and then how much has
//! come. No answers, or far less than was sent, and another way is preferred ([`Routing::distrust`]), and a direct one
//! tried. What is asked looks like any other packet to a relay, so that it can't spare it; nothing is asked of who has
//! a link, which has probes of its own.
//!
//! [`Routing::distrust`]: crate::routing::Routing::distrust

use std::{collections::VecDeque, sync::Arc};

use super::{Node, Via};
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
/// Answers one after the other that tell of more than a third lost.
const POOR: u32 = 2;
/// Questions remembered: late answers count.
const REMEMBERED: usize = 8;

/// A question on its way: its number, the session that it went by, and what had been sent on that before.
#[derive(Debug, Clone, Copy)]
struct Asked {
    id: u32,
    session: u32,
    sent: u64,
}

/// What one end knows of the way to the other.
#[derive(Debug, Default)]
pub(super) struct Reach {
    next: u32,
    asked: VecDeque<Asked>,
    unanswered: u32,
    /// When the next question is due, if one is open.
    due: Option<Instant>,
    /// By which neighbour the open questions went.
    hop: Option<NodeId>,
    /// The session, what had been sent on it, and bytes of questions and answers on it: these don't count as traffic.
    seen: (u32, u64),
    own: u64,
    /// Of the last answer that told something: session, sent, received.
    told: Option<(u32, u64, u64)>,
    poor: u32,
    /// Since when packets wait for a session.
    waits: Option<Instant>,
}

impl Reach {
    fn settle(&mut self) {
        self.unanswered = 0;
        self.due = None;
        self.hop = None;
    }

    /// Whether users' packets, or whatever else, went by this session since the last look.
    fn is_active(&mut self, session: u32, sent: u64) -> bool {
        if self.seen.0 != session {
            (self.seen, self.own) = ((session, 0), 0);
        }
        let traffic = sent.saturating_sub(self.own);
        traffic > std::mem::replace(&mut self.seen.1, traffic)
    }

    /// Takes in an answer: whether the way loses too much.
    fn answered(&mut self, id: u32, received: u64) -> bool {
        let Some(at) = self.asked.iter().position(|a| a.id == id) else { return false };
        let Some(Asked { session, sent, .. }) = self.asked.drain(..=at).next_back() else { return false };
        self.settle();
        let Some((_, sent_before, received_before)) = self.told.filter(|t| t.0 == session) else {
            self.told = Some((session, sent, received));
            return false;
        };
        let sent_since = sent.saturating_sub(sent_before);
        let arrived = received.saturating_sub(received_before);
        if sent_since < if arrived < sent_since / 4 { ENOUGH.1 } else { ENOUGH.0 } {
            return false;
        }
        self.told = Some((session, sent, received));
        self.poor = if arrived < sent_since / 3 * 2 { self.poor + 1 } else { 0 };
        self.poor >= POOR
    }
}

impl Node {
    /// The neighbour by which packets for `id` go, unless that is the node itself.
    fn relay_towards(&self, id: &NodeId) -> Option<NodeId> {
        self.routing.next_hop(self.routing.origin(id)?).filter(|hop| hop != id)
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
        let (session, sent) = (transport.local_index, transport.sent_bytes());
        peer.reach.waits = None;
        if peer.reach.is_active(session, sent) && peer.reach.due.is_none() {
            self.ask(now, id, hop);
        }
    }

    fn ask(&mut self, now: Instant, id: NodeId, hop: NodeId) {
        let promised = self.routing.origin(&id).and_then(|o| self.routing.route(o)).map_or(0, |r| r.metric);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(transport) = peer.transport() else { return };
        let (session, sent) = (transport.local_index, transport.sent_bytes());
        let reach = &mut peer.reach;
        reach.next = reach.next.wrapping_add(1);
        if reach.asked.len() >= REMEMBERED {
            reach.asked.pop_front();
        }
        reach.asked.push_back(Asked { id: reach.next, session, sent });
        let question = proto::Reach { id: reach.next, urgent: reach.unanswered >= URGENT };
        let wait = Duration::from_micros(4 * u64::from(promised)) + PATIENCE;
        let due = now + wait.min(MAX_PATIENCE);
        (reach.due, reach.hop) = (Some(due), Some(hop));
        reach.unanswered += 1;
        self.asking.insert((due, id));
        self.send_reach(now, id, Kind::Reach(question));
    }

    fn send_reach(&mut self, now: Instant, id: NodeId, kind: Kind) {
        let plaintext = frame::encode(kind);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.reach.own += plaintext.len() as u64;
        }
        self.send_plaintext(now, id, plaintext);
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
            let unanswered = peer.reach.unanswered;
            match hop {
                // The way has changed meanwhile: what was asked says nothing of the new one.
                Some(hop) if asked_by != Some(hop) => {
                    peer.reach.settle();
                    self.ask(now, id, hop);
                }
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
        (peer.reach.poor, peer.reach.told) = (0, None);
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
        let answer = Kind::Reached(proto::Reached { id: question.id, received: session.received_bytes() });
        if question.urgent && self.relay_towards(&id) != by {
            self.send_reach(now, id, answer.clone());
        }
        let plaintext = frame::encode(answer);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.reach.own += plaintext.len() as u64;
        let Some(transport) = peer.transport() else { return };
        let mut bytes = Vec::with_capacity(64);
        transport.seal(&plaintext, &mut bytes);
        self.send_by(Via::Relayed(tag), by, bytes);
    }

    /// The answer.
    pub(super) fn on_reached(&mut self, now: Instant, id: NodeId, answer: &proto::Reached) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let is_poor = peer.reach.answered(answer.id, answer.received);
        if let (true, Some(hop)) = (is_poor, self.relay_towards(&id)) {
            self.give_up_way(now, id, hop);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers to questions that were asked after so many bytes had been sent.
    fn tell(reach: &mut Reach, session: u32, sent: u64, received: u64) -> bool {
        reach.next += 1;
        reach.asked.push_back(Asked { id: reach.next, session, sent });
        reach.answered(reach.next, received)
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
        reach.asked.extend((1..=3).map(|id| Asked { id, session: 1, sent: 0 }));
        (reach.unanswered, reach.due) = (3, Some(Instant(9)));
        assert!(!reach.answered(7, u64::MAX));
        assert_eq!((reach.unanswered, reach.asked.len()), (3, 3));
        assert!(!reach.answered(2, 0));
        assert_eq!(
            (reach.unanswered, reach.due, reach.asked.len()),
            (0, None, 1),
            "the earlier ones are settled with it"
        );
    }

    #[test]
    fn questions_alone_are_no_traffic() {
        let mut reach = Reach::default();
        assert!(reach.is_active(1, 100));
        reach.own += 40;
        assert!(!reach.is_active(1, 140));
        assert!(reach.is_active(1, 200));
        assert!(!reach.is_active(1, 200));
        assert!(reach.is_active(2, 1), "a new session");
    }
}
