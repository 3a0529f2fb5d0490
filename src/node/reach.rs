//! Whether packets arrive that go by way of relays. Routing knows what neighbours say; a neighbour that lies, or relays
//! nothing, is found out by the two ends alone: while packets are sent, one end asks the other now and then how much has
//! come. No answers, or far less than was sent, and another way is preferred ([`Routing::distrust`]), and a direct one
//! tried. A relay knows questions by their size, which gains it nothing: the answer tells how much of the rest has come.
//! Nothing is asked of who has a link, which has probes of its own.
//!
//! [`Routing::distrust`]: crate::routing::Routing::distrust

use std::{collections::VecDeque, sync::Arc};

use super::{
    Node, Peer, Via,
    ways::{Quality, Ways},
};
use crate::{
    session::Transport,
    types::{Bucket, Duration, Instant, NodeId, NodeTag},
    wire::{
        frame::{self, Kind},
        proto,
    },
};

const MAX_PATIENCE: Duration = Duration::from_secs(2);
/// From so many missing on, the other end is asked to answer by its own way, too.
const URGENT: u32 = 2;
/// A session that does not come about by a way in so long is begun by another: three tries.
const BEGIN_BY: Duration = Duration::from_secs(1);
/// Ways given up that are remembered, because nothing came back by them; and of which the latest are asked once more.
const MAX_SILENT: usize = 64;
const MAX_TRIED: usize = 4;
/// Questions remembered: late answers count.
const REMEMBERED: usize = 8;
/// Where packets went so lately, a change of the way is looked at as soon as it comes: so often in a row, and once more after each
/// pause.
const IN_USE: Duration = Duration::from_secs(2);
const HASTE: (u32, Duration) = (8, Duration::from_secs(1));

/// A question on its way: its number, the neighbour and the session that it went by, and what had been sent on that before.
#[derive(Debug, Clone, Copy)]
struct Asked {
    id: u32,
    hop: NodeId,
    session: u32,
    sent: u64,
}

/// What one end knows of the ways to the other.
#[derive(Debug)]
pub(super) struct Reach {
    next: u32,
    asked: VecDeque<Asked>,
    /// When the next question is due, if one or a session is awaited, and by which neighbour.
    due: Option<Instant>,
    hop: Option<NodeId>,
    /// They outlive a change of the way: who comes and goes is asked on.
    ways: Ways,
    /// The session, and what users had sent on it; and when it was seen last that they do.
    seen: (u32, u64),
    used: Option<Instant>,
    /// Questions at changes of the way.
    haste: Bucket,
    /// Ways that were given up, and when, because nothing came back by them; since something came back by any.
    silent: Vec<(NodeId, Instant)>,
    /// Nothing came back by any way for a while.
    was_away: bool,
    /// Ways that were silent, until something came back by another one. If they answer after all, that is forgiven once.
    tried: Vec<(NodeId, Instant)>,
}

impl Default for Reach {
    fn default() -> Self {
        let (next, asked, due, hop, ways, seen, used, silent, was_away, tried) = Default::default();
        Self { next, asked, due, hop, ways, seen, used, haste: Bucket::new(HASTE.0, HASTE.1), silent, was_away, tried }
    }
}

impl Reach {
    /// Nothing is asked any more.
    fn settle(&mut self) {
        (self.due, self.hop) = (None, None);
    }

    fn is_more(&self, session: u32, sent: u64) -> bool {
        sent > if self.seen.0 == session { self.seen.1 } else { 0 }
    }

    /// Whether users' packets went by this session since the last look.
    fn is_active(&mut self, now: Instant, session: u32, sent: u64) -> bool {
        let is_active = self.is_more(session, sent);
        self.seen = (session, sent);
        self.used = if is_active { Some(now) } else { self.used };
        is_active
    }

    /// Whether to ask at once by a way that packets go from now on.
    fn is_urgent(&mut self, now: Instant, session: u32, sent: u64) -> bool {
        let is_used = self.is_more(session, sent) || self.used.is_some_and(|used| now.since(used) < IN_USE);
        is_used && self.haste.take(now)
    }

    /// A question by `hop`. Returns how many before it went that way without an answer.
    fn asks(&mut self, now: Instant, hop: NodeId, (session, sent): (u32, u64)) -> u32 {
        self.next = self.next.wrapping_add(1);
        if self.asked.len() >= REMEMBERED {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { id: self.next, hop, session, sent });
        self.ways.asks(now, hop)
    }

    /// Takes in an answer; returns the neighbour that the question went by, and those of whose ways it tells something.
    fn answered(&mut self, now: Instant, id: u32, received: u64) -> Option<(NodeId, Vec<NodeId>)> {
        let at = self.asked.iter().position(|a| a.id == id)?;
        let Asked { session, sent, hop, .. } = self.asked.remove(at)?;
        // The earlier ones are settled with it.
        self.asked.retain(|a| a.hop != hop || a.id.wrapping_sub(id) < u32::MAX / 2);
        self.ways.proves(now, hop);
        if self.hop == Some(hop) {
            self.settle();
        }
        Some((hop, self.ways.answered(now, hop, (session, sent), received)))
    }
}

impl Node {
    /// The neighbour by which packets for `id` go, unless that is the node itself.
    pub(super) fn relay_towards(&self, id: &NodeId) -> Option<NodeId> {
        self.routing.next_hop(self.routing.origin(id)?).filter(|hop| hop != id)
    }

    /// The way to a node may have changed. Whoever has attracted packets shows at once that they arrive, or loses them again.
    pub(super) fn note_way(&mut self, now: Instant, o: u32, id: NodeId) {
        let hop = self.routing.next_hop(o);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let sent = peer.transport().map(|t| (t.local_index, t.users_bytes().0));
        if !peer.reach.ways.goes_by(hop, sent.unwrap_or_default()) {
            return;
        }
        peer.passage.restart();
        let Some(hop) = hop.filter(|hop| *hop != id) else { return };
        let Some((session, sent)) = sent else {
            if !peer.waiting.is_empty() && peer.reach.haste.take(now) {
                self.door.hurry(now, Via::Relayed(id.tag()));
                self.await_session(now, id, hop);
            }
            return;
        };
        if peer.reach.is_urgent(now, session, sent) {
            self.ask(now, id, hop);
        }
    }

    /// Packets wait for a session.
    pub(super) fn packets_wait(&mut self, now: Instant, id: NodeId) {
        let is_watched = self.peers.get(&id).is_none_or(|peer| peer.reach.due.is_some());
        if let Some(hop) = self.relay_towards(&id).filter(|_| !is_watched) {
            self.await_session(now, id, hop);
        }
    }

    fn await_session(&mut self, now: Instant, id: NodeId, hop: NodeId) {
        let due = now + self.wait(&id, BEGIN_BY);
        if let Some(peer) = self.peers.get_mut(&id) {
            (peer.reach.due, peer.reach.hop) = (Some(due), Some(hop));
            self.asking.insert((due, id));
        }
    }

    /// How long an answer may take, `beside` what routing promises.
    fn wait(&self, id: &NodeId, beside: Duration) -> Duration {
        let promised = self.routing.origin(id).and_then(|o| self.routing.route(o)).map_or(0, |r| r.metric);
        (Duration::from_micros(4 * u64::from(promised)) + beside).min(MAX_PATIENCE)
    }

    /// The answer to a handshake came through relays.
    pub(super) fn came_by_relay(&mut self, now: Instant, id: NodeId) {
        let Some(hop) = self.relay_towards(&id) else { return };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.reach.ways.proves(now, hop);
        }
        self.is_back(now, id);
    }

    /// Once a second: asks those to whom packets go by a relay.
    pub(super) fn look_after(&mut self, now: Instant, id: NodeId) {
        let Some(hop) = self.relay_towards(&id) else {
            if let Some(peer) = self.peers.get_mut(&id).filter(|p| p.reach.due.is_some()) {
                peer.reach.settle();
            }
            return;
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(transport) = peer.transport() else { return };
        let (session, sent) = (transport.local_index, transport.users_bytes().0);
        if peer.reach.is_active(now, session, sent) && peer.reach.due.is_none() {
            self.ask(now, id, hop);
        }
    }

    fn ask(&mut self, now: Instant, id: NodeId, hop: NodeId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let due = now + self.wait(&id, peer.reach.ways.patience(hop, peer.is_up()).1);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(transport) = peer.transport() else { return };
        let (session, sent) = (transport.local_index, transport.users_bytes().0);
        let reach = &mut peer.reach;
        let unanswered = reach.asks(now, hop, (session, sent));
        let question = proto::Reach { id: reach.next, urgent: unanswered >= URGENT };
        (reach.due, reach.hop) = (Some(due), Some(hop));
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
            if peer.transport().is_none() {
                let waits = !peer.waiting.is_empty();
                peer.reach.settle();
                if let Some(hop) = hop.filter(|_| waits) {
                    // Begun by another, if packets went by this one all the time.
                    if asked_by == Some(hop) {
                        self.give_up_silent(now, id, hop);
                    }
                    self.packets_wait(now, id);
                }
                continue;
            }
            let ways = &peer.reach.ways;
            let is_silent = hop.is_some_and(|hop| ways.unanswered(hop) >= ways.patience(hop, peer.is_up()).0);
            match hop {
                // The way has changed meanwhile: what was asked says nothing of the new one.
                Some(hop) if asked_by != Some(hop) => self.ask(now, id, hop),
                Some(hop) if is_silent => {
                    peer.reach.settle();
                    self.give_up_silent(now, id, hop);
                }
                Some(hop) => self.ask(now, id, hop),
                None => peer.reach.settle(),
            }
        }
    }

    /// Nothing comes back by `hop`. Where nothing does by any other way either, that is the node's doing, and held against nobody.
    fn give_up_silent(&mut self, now: Instant, id: NodeId, hop: NodeId) {
        self.give_up_way(now, id, hop);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let silent = &mut peer.reach.silent;
        silent.retain(|(other, _)| *other != hop);
        if silent.len() < MAX_SILENT {
            silent.push((hop, now));
        }
        let is_silent = |who: &NodeId| silent.iter().any(|(other, _)| other == who);
        if self.routing.offers(now, &id).all(|(who, _)| is_silent(&who)) {
            peer.reach.was_away = true;
            for (hop, since) in std::mem::take(silent) {
                self.routing.forgive(now, &id, &hop, since);
            }
        }
    }

    /// Something came back by a relay: those by whom nothing did had no part in it, if nothing came by anybody. If the node was
    /// away for less than it takes to see that, they answer now.
    fn is_back(&mut self, now: Instant, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.reach.was_away && peer.transport().is_none() {
            return;
        }
        let silent = std::mem::take(&mut peer.reach.silent);
        if std::mem::take(&mut peer.reach.was_away) {
            silent.into_iter().for_each(|(hop, since)| self.routing.forgive(now, &id, &hop, since));
            return;
        }
        for (hop, since) in silent.into_iter().rev().take(MAX_TRIED) {
            self.try_again(now, id, hop, since);
        }
    }

    /// Asks by a way on which nothing depends.
    fn try_again(&mut self, now: Instant, id: NodeId, hop: NodeId, since: Instant) {
        if !self.peers.get(&hop).is_some_and(Peer::is_up) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(transport) = peer.transport().cloned() else { return };
        let reach = &mut peer.reach;
        reach.asks(now, hop, (transport.local_index, transport.users_bytes().0));
        reach.tried.retain(|(other, _)| *other != hop);
        if reach.tried.len() >= MAX_TRIED {
            reach.tried.remove(0);
        }
        reach.tried.push((hop, since));
        let question = frame::encode(Kind::Reach(proto::Reach { id: reach.next, urgent: false }));
        let mut bytes = Vec::with_capacity(64);
        transport.seal(&question, &mut bytes);
        self.send_by(Via::Relayed(id.tag()), Some(hop), bytes);
    }

    /// An answer came to a question by `hop`.
    fn has_answered(&mut self, now: Instant, id: NodeId, hop: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(at) = peer.reach.tried.iter().position(|(other, _)| *other == hop) {
            let (_, since) = peer.reach.tried.remove(at);
            self.routing.pardon(now, &id, &hop, since);
        }
    }

    /// Packets for a node don't arrive by way of `hop`.
    fn give_up_way(&mut self, now: Instant, id: NodeId, hop: NodeId) {
        self.counters.ways_given_up += 1;
        self.routing.distrust(now, &id, &hop);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.reach.ways.gives_up(now, hop);
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
        let answered = peer.reach.answered(now, answer.id, answer.received);
        self.is_back(now, id);
        let Some((hop, told)) = answered else { return };
        self.has_answered(now, id, hop);
        for hop in told {
            let Some(ways) = self.peers.get(&id).map(|peer| &peer.reach.ways).filter(|_| hop != id) else { continue };
            let has_better = || {
                self.routing
                    .offers(now, &id)
                    .any(|(other, is_last)| !is_last && other != hop && ways.is_better(other, hop))
            };
            let is_left = match ways.quality(hop) {
                Quality::Good => false,
                Quality::Poor => has_better(),
                Quality::Bad => true,
            };
            if is_left {
                self.give_up_way(now, id, hop);
            }
        }
        let excused = self.peers.get(&id).map(|peer| peer.reach.ways.excused()).unwrap_or_default();
        excused.into_iter().for_each(|(hop, since)| self.routing.forgive(now, &id, &hop, since));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::ways::KNOWN_FOR;

    const HOP: NodeId = NodeId([1; 32]);
    const OTHER: NodeId = NodeId([2; 32]);

    /// Answers to questions by a way that were asked after so many bytes had been sent: who is found bad.
    fn tell_by(reach: &mut Reach, hop: NodeId, session: u32, sent: u64, received: u64) -> Vec<NodeId> {
        reach.ways.goes_by(Some(hop), (session, sent));
        reach.asks(Instant(0), hop, (session, sent));
        let (_, told) = reach.answered(Instant(0), reach.next, received).unwrap();
        told.into_iter().filter(|hop| reach.ways.quality(*hop) == Quality::Bad).collect()
    }

    fn tell(reach: &mut Reach, session: u32, sent: u64, received: u64) -> bool {
        !tell_by(reach, HOP, session, sent, received).is_empty()
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
        (0..3).for_each(|_| _ = reach.asks(Instant(0), HOP, (1, 0)));
        (reach.due, reach.hop) = (Some(Instant(9)), Some(HOP));
        assert_eq!(reach.answered(Instant(0), 7, u64::MAX), None);
        assert_eq!((reach.ways.unanswered(HOP), reach.asked.len()), (3, 3));
        assert_eq!(reach.answered(Instant(0), 2, 0), Some((HOP, Vec::new())));
        assert_eq!((reach.ways.unanswered(HOP), reach.due, reach.asked.len()), (0, None, 1), "with the earlier ones");
    }

    #[test]
    fn activity_is_more_sent_on_the_same_session() {
        let mut reach = Reach::default();
        let sent = [(1, 100), (1, 100), (1, 200), (2, 1), (2, 1), (3, 0)];
        assert_eq!(
            sent.map(|(session, sent)| reach.is_active(Instant(0), session, sent)),
            [true, false, true, true, false, false]
        );
    }

    /// Two ways by turns, of which one never answers.
    #[test]
    fn questions_by_a_way_that_comes_and_goes_add_up() {
        let mut reach = Reach::default();
        for i in 0..4 {
            assert_eq!(reach.asks(Instant(0), HOP, (1, 0)), i);
            tell_by(&mut reach, OTHER, 1, 0, 0);
            assert_eq!(reach.ways.unanswered(OTHER), 0, "of the other one");
        }
        assert_eq!(reach.asks(Instant(0) + KNOWN_FOR, HOP, (1, 0)), 0, "long ago");
    }

    #[test]
    fn a_poor_answer_is_held_against_the_way_that_was_asked() {
        let mut reach = Reach::default();
        assert_eq!(tell_by(&mut reach, HOP, 1, 0, 0), []);
        assert_eq!(tell_by(&mut reach, HOP, 1, 2_000, 0), []);
        assert_eq!(tell_by(&mut reach, HOP, 1, 4_000, 0), [HOP]);
        // The answer comes when packets go another way already.
        let mut reach = Reach::default();
        (0..2).for_each(|i| assert_eq!(tell_by(&mut reach, HOP, 1, 2_000 * i, 0), []));
        reach.asks(Instant(0), HOP, (1, 4_000));
        reach.ways.goes_by(Some(OTHER), (1, 4_000));
        assert_eq!(reach.answered(Instant(0), reach.next, 0), Some((HOP, vec![HOP])));
        assert_eq!((reach.ways.quality(HOP), reach.ways.quality(OTHER)), (Quality::Bad, Quality::Good));
    }

    /// Between any two questions packets go by another neighbour for a while, which swallows them.
    #[test]
    fn what_another_swallowed_between_two_questions_is_held_against_that_one() {
        let mut reach = Reach::default();
        tell_by(&mut reach, HOP, 1, 0, 0);
        for i in 0..20 {
            let sent = 10_000 * i + 200;
            reach.ways.goes_by(Some(OTHER), (1, sent));
            reach.ways.goes_by(Some(HOP), (1, sent + 9_800));
            let found = tell_by(&mut reach, HOP, 1, sent + 9_800, 200 * (i + 1));
            assert!(!found.contains(&HOP), "{i}: {found:?}");
            assert!(i < 2 || found == [OTHER], "{i}: {found:?}");
        }
    }

    /// The way changes between any two answers, and all swallow.
    #[test]
    fn nobody_erases_what_was_lost_by_a_change_of_the_way() {
        let mut reach = Reach::default();
        tell_by(&mut reach, HOP, 1, 0, 0);
        let by = |i: u64| if i.is_multiple_of(2) { OTHER } else { HOP };
        let found: Vec<NodeId> = (1..6).flat_map(|i| tell_by(&mut reach, by(i), 1, 5_000 * i, 0)).collect();
        assert!(found.contains(&HOP) && found.contains(&OTHER), "{found:?}");
    }

    /// The way changes a hundred times between two answers; what goes by the other one is swallowed.
    #[test]
    fn many_changes_put_no_blame_on_who_came_first() {
        let mut reach = Reach::default();
        tell_by(&mut reach, HOP, 1, 0, 0);
        let (mut sent, mut received) = (0, 0);
        for i in 0..20 {
            for _ in 0..50 {
                reach.ways.goes_by(Some(OTHER), (1, sent));
                reach.ways.goes_by(Some(HOP), (1, sent + 90));
                (sent, received) = (sent + 100, received + 10);
            }
            tell_by(&mut reach, HOP, 1, sent, received);
            assert_eq!(reach.ways.quality(HOP), Quality::Good, "{i}");
        }
        assert_eq!(reach.ways.quality(OTHER), Quality::Bad);
    }

    /// Half of the time packets go by one that was seen to be good, and half of the time by one that swallows.
    #[test]
    fn who_was_seen_to_be_good_is_blamed_little_for_what_others_lose() {
        let mut reach = Reach::default();
        (0..8).for_each(|i| assert_eq!(tell_by(&mut reach, HOP, 1, 5_000 * i, 5_000 * i), []));
        let (mut sent, mut received) = (35_000, 35_000);
        for i in 0..20 {
            reach.ways.goes_by(Some(OTHER), (1, sent + 5_000));
            (sent, received) = (sent + 10_000, received + 5_000);
            let found = tell_by(&mut reach, HOP, 1, sent, received);
            assert!(!found.contains(&HOP) && (i == 0 || found == [OTHER]), "{i}: {found:?}");
        }
    }

    /// Loses so many of a hundred packets: how good the way is after a minute of an answer a second.
    fn losing(share: u64) -> (Reach, Quality) {
        let mut reach = Reach::default();
        (0..60).for_each(|i| _ = tell_by(&mut reach, HOP, 1, 20_000 * i, 200 * (100 - share) * i));
        let quality = reach.ways.quality(HOP);
        (reach, quality)
    }

    #[test]
    fn a_way_that_loses_a_tenth_is_left_for_a_better_one_and_excused_if_there_is_none() {
        assert_eq!([0, 4, 10, 25, 50].map(|share| losing(share).1), {
            use Quality::{Bad, Good, Poor};
            [Good, Good, Poor, Poor, Bad]
        });
        for (other, is_excused) in [(0, false), (4, false), (10, true)] {
            let (mut reach, _) = losing(10);
            assert!(reach.ways.is_better(OTHER, HOP), "it is worth a try");
            reach.ways.gives_up(Instant(0), HOP);
            let sent = 20_000 * 59;
            for i in 0..10 {
                tell_by(&mut reach, OTHER, 1, sent + 20_000 * i, sent / 10 * 9 + 200 * (100 - other) * i);
            }
            assert_eq!(!reach.ways.excused().is_empty(), is_excused, "the other one loses {other} %");
            assert_eq!(reach.ways.is_better(OTHER, HOP), !is_excused, "and is tried again");
        }
    }

    #[test]
    fn what_comes_late_is_not_lost() {
        let mut reach = Reach::default();
        for i in 0..60 {
            // A fifth overtakes the question, or is overtaken by it.
            let late = if i % 2 == 0 { 2_000 } else { 0 };
            tell(&mut reach, 1, 10_000 * i, (10_000 * i).saturating_sub(late));
        }
        assert_ne!(reach.ways.quality(HOP), Quality::Bad);
        assert!(tell_by(&mut reach, HOP, 1, 610_000, u64::MAX).is_empty(), "no figure of a remote's overflows");
    }
}
