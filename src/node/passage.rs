//! Whether users' packets arrive over a link. Probes show that a path is there; but whoever stands on it, or has made the two
//! ends believe that it is the direct one, could let them pass and nothing else. So each answer to a probe tells how much has
//! been received, and where far less of the packets than of the probes arrives, the place is left and not gone back to for a
//! while: until then the peer is looked for only where it says itself that it is.

use std::{collections::VecDeque, net::SocketAddr};

use super::Node;
use crate::{
    session::Transport,
    types::{Duration, Instant, NodeId, path},
};

/// What is sent in this time is looked at together,
const WINDOW: Duration = Duration::from_secs(1);
/// and so many bytes of it at the least.
const ENOUGH: u64 = 400;
/// The share of packets that arrive is poor below so great a part of that of probes. What overloads a path or its other end
/// loses both alike.
const PART: u64 = 3;
/// Where so much a second arrives, it is only the rest that is too much: what limits bytes loses long packets and spares probes.
const PLENTY: u64 = 128 * 1024;
/// What a poor window counts, and what takes a good one to make up for; at the limit a place is left.
const POOR: (u32, u32) = (2, 6);
/// It is not gone back to for so long: the first time, and at the most.
const REFUSED: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));
const MAX_REFUSED: usize = 8;
const MAX_ASKED: usize = 16;

/// How much of what was sent arrived, from one answer to another.
#[derive(Debug, Default)]
pub(super) struct Tally(Option<(u32, u64, u64)>);

impl Tally {
    /// An answer says that so much of what had been sent on a session was received. What was sent and what arrived since the last
    /// answer that counted, if that is `enough`.
    pub fn count(
        &mut self,
        (session, sent): (u32, u64),
        received: u64,
        enough: impl FnOnce(u64, u64) -> bool,
    ) -> Option<(u64, u64)> {
        let since = self.0.filter(|told| told.0 == session);
        let since = since.map(|(_, s, r)| (sent.saturating_sub(s), received.saturating_sub(r)));
        if since.is_some_and(|(sent, arrived)| !enough(sent, arrived)) {
            return None;
        }
        self.0 = Some((session, sent, received));
        since
    }

    pub fn is_begun(&self, session: u32) -> bool {
        self.0.is_some_and(|told| told.0 == session)
    }
}

#[derive(Debug, Default)]
pub(super) struct Passage {
    /// Probes on their way: number, session, and bytes of users' packets that had been sent on it.
    asked: VecDeque<(u32, u32, u64)>,
    tally: Tally,
    begun: Instant,
    /// Probes sent and answered since then.
    probes: (u64, u64),
    poor: u32,
    refused: VecDeque<SocketAddr>,
    until: Instant,
    life: Duration,
}

impl Passage {
    /// A probe goes out over the link. `is_direct`: so do the packets that are sent now. What goes by a relay goes on the same
    /// session, and says nothing of the link.
    pub fn asks(&mut self, is_direct: bool, id: u32, (session, sent): (u32, u64)) {
        if !is_direct {
            self.restart();
            return;
        }
        if self.asked.len() >= MAX_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back((id, session, sent));
        self.probes.0 += 1;
    }

    /// The answer came. Returns whether too little arrives.
    pub fn answered(&mut self, now: Instant, id: u32, received: u64) -> bool {
        let Some(at) = self.asked.iter().position(|a| a.0 == id) else { return false };
        let Some((_, session, sent)) = self.asked.drain(..=at).next_back() else { return false };
        if !self.tally.is_begun(session) {
            self.begin(now);
        }
        self.probes.1 += 1;
        let is_due = now.since(self.begun) >= WINDOW;
        let since = self.tally.count((session, sent), received, |sent, _| is_due && sent >= ENOUGH);
        let Some((sent, arrived)) = since else { return false };
        let (probes, seconds) = (self.probes, now.since(self.begun).as_secs().max(1));
        self.begin(now);
        let [arrived, sent, asked, answered] = [arrived, sent, probes.0, probes.1].map(u128::from);
        let is_poor = arrived * u128::from(PART) * asked < sent * answered && arrived < u128::from(PLENTY * seconds);
        self.poor = if is_poor { self.poor + POOR.0 } else { self.poor.saturating_sub(1) };
        self.poor >= POOR.1
    }

    fn begin(&mut self, now: Instant) {
        (self.begun, self.probes) = (now, (0, 0));
    }

    /// The link is another one, or goes another way.
    pub fn restart(&mut self) {
        (self.tally, self.poor) = (Tally::default(), 0);
        self.asked.clear();
    }

    /// The place is left.
    pub fn refuse(&mut self, now: Instant, addr: SocketAddr) {
        self.restart();
        if now > self.until + REFUSED.1 {
            self.refused.clear();
            self.life = Duration::ZERO;
        }
        if self.refused.len() >= MAX_REFUSED {
            self.refused.pop_front();
        }
        self.refused.push_back(path::plain(addr));
        self.life = (self.life * 2).clamp(REFUSED.0, REFUSED.1);
        self.until = now + self.life;
    }

    /// Whether the peer is not to be looked for at `addr`, nor taken to be there. `signed` are the places that it announces.
    pub fn refuses(&self, now: Instant, addr: SocketAddr, signed: &[SocketAddr]) -> bool {
        let addr = path::plain(addr);
        now < self.until && (self.refused.contains(&addr) || !signed.iter().any(|place| place.ip() == addr.ip()))
    }
}

impl Node {
    /// A probe of this number goes out over the link of a session's peer.
    pub(super) fn count_from(&mut self, session: &Transport, number: u32) {
        let is_direct = self.relay_towards(&session.peer).is_none();
        if let Some(peer) = self.peers.get_mut(&session.peer) {
            peer.passage.asks(is_direct, number, (session.local_index, session.users_bytes().0));
        }
    }

    /// Users' packets don't arrive over a link whose probes do. If there is another way, it is given up, and the peer is looked for
    /// where it says that it is. Returns whether it was.
    pub(super) fn leave_place(&mut self, now: Instant, id: NodeId) -> bool {
        if self.routing.offers(now, &id).all(|(other, _)| other == id) {
            return false;
        }
        self.link_down(now, id, "packets do not arrive where probes do");
        let Some(peer) = self.peers.get_mut(&id) else { return true };
        if let Some(link) = peer.link.take() {
            peer.passage.refuse(now, link.addr);
        }
        self.counters.places_left += 1;
        self.discovery.unlinked(now, id);
        self.discovery.insist(now, id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten probes a second, of which `probes` come back, beside `packets` of 1000 bytes of which `arrive` of a hundred do: the
    /// seconds until the place is found poor.
    fn found(passage: &mut Passage, seconds: u64, probes: u64, packets: u64, arrive: u64) -> Option<u64> {
        let (mut sent, mut received) = (0, 0);
        for i in 0..10 * seconds {
            let now = Instant(1_000_000_000 + 100_000 * i);
            let id = i as u32;
            sent += 100 * packets;
            received += packets * arrive;
            passage.asks(true, id, (1, sent));
            if i % 10 < probes && passage.answered(now, id, received) {
                return Some(i / 10);
            }
        }
        None
    }

    #[test]
    fn a_path_for_probes_alone_is_found_out() {
        assert!(found(&mut Passage::default(), 20, 10, 50, 0).is_some_and(|s| s <= 4));
        assert!(found(&mut Passage::default(), 20, 10, 50, 20).is_some_and(|s| s <= 4));
        assert!(found(&mut Passage::default(), 20, 5, 50, 2).is_some_and(|s| s <= 5), "some probes are dropped, too");
        assert!(found(&mut Passage::default(), 40, 10, 1, 0).is_some_and(|s| s <= 15), "one ping a second");
    }

    #[test]
    fn a_path_for_every_other_second_is_found_out() {
        let mut passage = Passage::default();
        let (mut sent, mut received, mut found) = (0, 0, None);
        for i in 0..600u64 {
            let now = Instant(1_000_000_000 + 100_000 * i);
            sent += 5000;
            received += if i / 11 % 2 == 0 { 5000 } else { 0 };
            passage.asks(true, i as u32, (1, sent));
            if passage.answered(now, i as u32, received) {
                found.get_or_insert(i / 10);
            }
        }
        assert!(found.is_some_and(|s| s <= 30), "{found:?}");
    }

    #[test]
    fn what_goes_by_a_relay_says_nothing_of_the_link() {
        let mut passage = Passage::default();
        let mut sent = 0;
        for i in 0..600u64 {
            let now = Instant(1_000_000_000 + 100_000 * i);
            // Packets go straight for half a second of every two, and those that don't are swallowed.
            let is_direct = i % 20 < 5;
            sent += if is_direct { 0 } else { 5000 };
            passage.asks(is_direct, i as u32, (1, sent));
            assert!(!passage.answered(now, i as u32, 0));
        }
    }

    #[test]
    fn a_path_that_loses_both_alike_is_kept() {
        for (probes, arrive) in [(10, 100), (10, 60), (7, 60), (5, 30), (3, 20), (1, 10)] {
            assert_eq!(found(&mut Passage::default(), 60, probes, 500, arrive), None, "{probes} {arrive}");
        }
        assert_eq!(found(&mut Passage::default(), 60, 10, 0, 0), None, "nothing to tell from");
        assert_eq!(found(&mut Passage::default(), 60, 10, 15_000, 10), None, "1.5 of 15 Mbyte/s, by who limits bytes");
    }

    #[test]
    fn for_a_while_a_peer_is_only_where_it_says() {
        let places: Vec<SocketAddr> =
            ["192.0.2.1:5", "192.0.2.1:6", "198.51.100.1:5"].map(|p| p.parse().unwrap()).into();
        let signed = &places[..1];
        let mut passage = Passage::default();
        assert!(places.iter().all(|place| !passage.refuses(Instant(0), *place, signed)));
        passage.refuse(Instant(0), places[2]);
        let refused =
            |passage: &Passage, at| places.iter().map(|p| passage.refuses(at, *p, signed)).collect::<Vec<_>>();
        assert_eq!(refused(&passage, Instant(1)), [false, false, true]);
        assert!(passage.refuses(Instant(1), "203.0.113.9:1".parse().unwrap(), signed), "nor anywhere else");
        let later = Instant(0) + REFUSED.0;
        assert_eq!(refused(&passage, later), [false; 3]);
        passage.refuse(later, places[0]);
        assert_eq!(refused(&passage, later + REFUSED.0), [true, false, true], "twice as long");
        assert_eq!(refused(&passage, later + 2 * REFUSED.0), [false; 3]);
    }
}
