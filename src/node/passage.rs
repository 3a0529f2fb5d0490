//! Whether users' packets arrive over a link. Probes show that a path is there; but whoever stands on it, or has made the two
//! ends believe that it is the direct one, could let them pass and nothing else. So each answer to a probe tells how much has
//! been received, and where far less of the packets than of the probes arrives, the place is left and not gone back to for a
//! while: until then the peer is looked for only where it says itself that it is.

use std::{collections::VecDeque, net::SocketAddr};

use super::Node;
use crate::types::{Duration, Instant, NodeId, path};

/// What is sent in this time is looked at together,
const WINDOW: Duration = Duration::from_secs(1);
/// and so many bytes of it at the least.
const ENOUGH: u64 = 400;
/// The share of packets that arrive is poor below so great a part of that of probes. What overloads a path or its other end
/// loses both alike.
const PART: u64 = 3;
/// Windows in a row until a place is left.
const POOR: u32 = 3;
/// It is not gone back to for so long: the first time, and at the most.
const REFUSED: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));
const MAX_REFUSED: usize = 8;
const MAX_ASKED: usize = 64;

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
    /// A probe goes out over the link.
    pub fn asks(&mut self, id: u32, session: u32, sent: u64) {
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
        let probes = self.probes;
        self.begin(now);
        let is_poor = u128::from(arrived * PART) * u128::from(probes.0) < u128::from(sent) * u128::from(probes.1);
        self.poor = if is_poor { self.poor + 1 } else { 0 };
        self.poor >= POOR
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
    /// Users' packets don't arrive over a link whose probes do. If there is another way, it is given up, and the peer is looked for
    /// where it says that it is. Returns whether it was.
    pub(super) fn leave_place(&mut self, now: Instant, id: NodeId) -> bool {
        if !self.routing.is_offered_beside(&id) {
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
            passage.asks(id, 1, sent);
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
    fn a_path_that_loses_both_alike_is_kept() {
        for (probes, arrive) in [(10, 100), (10, 60), (7, 60), (5, 30), (3, 20), (1, 10)] {
            assert_eq!(found(&mut Passage::default(), 60, probes, 500, arrive), None, "{probes} {arrive}");
        }
        assert_eq!(found(&mut Passage::default(), 60, 10, 0, 0), None, "nothing to tell from");
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
