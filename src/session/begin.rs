//! The handshakes that this node begins.

use std::sync::Arc;

use super::{
    Event, Gatekeeper, Outcome, Outgoing, PROVEN_TRIES, Refusal, Sessions, Via,
    budget::Way,
    check_version,
    fragment::{self, Holder, Whole},
    handshake::{Initiator, retry_after},
};
use crate::{
    types::{Duration, Instant, NodeId},
    wire::packet::{HandshakeFragment, HandshakeKind},
};

/// Handshakes that this node has begun and not ended.
pub(super) const MAX_INITIATORS: usize = 512;
/// After so many tries without an answer a handshake begins anew, with fresh keys: the first message may have been read, and
/// forgotten since; or somebody has copied it and was faster.
pub(super) const FRESH_AFTER: u32 = 4;
/// Or after so long: the other end keeps what it answered little longer.
const FRESH_FOR: Duration = Duration::from_secs(4);

impl Sessions {
    /// Starts a handshake over `via`: `IK` with a peer whose static key is known, `XX` otherwise. The first message is sent
    /// `tries` times at the most. Its outcome comes as an [`Event`].
    pub fn connect(&mut self, now: Instant, via: Via, remote: Option<(NodeId, [u8; 32])>, tries: u32) {
        let expected = remote.map(|r| r.0);
        if self.initiators.len() >= MAX_INITIATORS {
            self.counters.over_budget += 1;
            self.events.push_back(Event::TimedOut { asked: via, expected });
            return;
        }
        let local_index = self.new_index();
        let rng = self.rng.fork();
        let (keys, own) = (Self::keys(&self.noise_private, &self.network), &self.own);
        // An invite is proven under a key of the inviter's that is fresh, which `IK` has none of to begin with.
        let joins = self.admission.as_ref().is_some_and(|a| Some(a.inviter) == expected);
        let known = remote.map(|r| r.1).filter(|_| !joins);
        match Initiator::start((&keys, rng), (now, via, tries), (expected, known), local_index, own) {
            Ok(initiator) => {
                self.note_own(&initiator.message);
                self.initiators.insert(local_index, initiator);
                self.send_initiator(now, local_index);
            }
            Err(_) => {
                self.live.remove(&local_index);
                self.counters.broken += 1;
                self.events.push_back(Event::TimedOut { asked: via, expected });
            }
        }
    }

    /// A cookie reply: the next try will carry the cookie.
    pub fn handle_cookie(&mut self, now: Instant, receiver: u32, body: &[u8]) {
        let Some(initiator) = self.initiators.get_mut(&receiver) else { return };
        let cookie = initiator.last_mac1.iter().find_map(|mac1| self.cookies.open(body, mac1));
        let Some(cookie) = cookie.filter(|_| !initiator.complete) else { return };
        // A later one is for another way, or the peer has started anew: the next try is soon enough for it, so that nobody is
        // made to send at the pace of cookies.
        if initiator.cookie.replace(cookie).is_none() {
            // Somebody is there.
            initiator.max_tries = PROVEN_TRIES;
            self.send_initiator(now, receiver);
        }
    }

    pub(super) fn second(
        &mut self,
        now: Instant,
        (via, neighbor): Way,
        f: &HandshakeFragment<'_>,
        gate: &mut dyn Gatekeeper,
    ) -> Result<(), Option<Refusal>> {
        let expected = match f.kind {
            HandshakeKind::Xx2 => HandshakeKind::Xx1,
            _ => HandshakeKind::Ik1,
        };
        let waiting = self.initiators.get(&f.receiver).is_some_and(|i| !i.complete && i.kind == expected);
        if !waiting {
            return Ok(());
        }
        let Some(Whole { message, .. }) = self.reassembly.add(now, Holder::Handshake(f.receiver), via, f) else {
            return Ok(());
        };
        let Some(mut initiator) = self.initiators.remove(&f.receiver) else { return Ok(()) };
        initiator.remote_index = f.sender;
        let (payload, noise_static) = match initiator.read_second(&message) {
            Ok(read) => read,
            Err(_) => {
                // Anybody on the path could have sent that; the peer's own answer may still come.
                self.initiators.insert(f.receiver, initiator);
                return Err(None);
            }
        };
        let outcome = (|| {
            check_version(self.versions, &payload).map_err(Some)?;
            let peer = gate.admit(&payload, &noise_static, &[]).map_err(Some)?.peer;
            if initiator.expected.is_some_and(|id| id != peer.id) {
                return Err(Some(Refusal::UnexpectedNode));
            }
            let ids = (self.me, peer.id);
            let transport = initiator.finish(ids, &payload, &self.own, self.admission.as_ref()).map_err(|_| None)?;
            Ok((peer, Arc::new(transport)))
        })();
        match outcome {
            Ok((peer, transport)) => {
                (initiator.via, initiator.by, initiator.expected) = (via, neighbor, Some(peer.id));
                initiator.tries = 0;
                initiator.max_tries = PROVEN_TRIES;
                let (index, since) = (initiator.local_index, initiator.since);
                let asked = Some(initiator.asked);
                self.initiators.insert(index, initiator);
                self.send_initiator(now, index);
                let outcome = Outcome { transport, peer, via, since };
                self.events.push_back(Event::Established { outcome, asked, invitation: None });
                Ok(())
            }
            Err(refusal) => {
                self.live.remove(&initiator.local_index);
                let (asked, expected) = (initiator.asked, initiator.expected);
                self.events.extend(refusal.map(|refusal| Event::Refused(refusal, expected)));
                self.events.push_back(Event::TimedOut { asked, expected });
                Ok(())
            }
        }
    }

    /// The next tries of the handshakes over `via` are due now.
    pub fn hurry(&mut self, now: Instant, via: Via) {
        for initiator in self.initiators.values_mut().filter(|i| i.asked == via && !i.complete) {
            initiator.next_try = now;
        }
    }

    pub(super) fn send_initiator(&mut self, now: Instant, index: u32) {
        let Some(initiator) = self.initiators.get_mut(&index) else { return };
        if initiator.tries >= initiator.max_tries || (initiator.complete && initiator.message.is_empty()) {
            let done = self.initiators.remove(&index).filter(|i| !i.complete);
            if let Some(Initiator { asked, expected, .. }) = done {
                self.live.remove(&index);
                self.events.push_back(Event::TimedOut { asked, expected });
            }
            return;
        }
        let is_worn = initiator.tries.is_multiple_of(FRESH_AFTER) || now.since(initiator.since) >= FRESH_FOR;
        if !initiator.complete && initiator.tries > 0 && is_worn {
            self.renew_initiator(now, index);
            return;
        }
        self.send_try(now, index);
    }

    fn renew_initiator(&mut self, now: Instant, index: u32) {
        let Some(old) = self.initiators.remove(&index) else { return };
        let (local_index, rng) = (self.new_index(), self.rng.fork());
        let keys = Self::keys(&self.noise_private, &self.network);
        match old.renew((&keys, rng), now, local_index, &self.own) {
            Ok(fresh) => {
                self.live.remove(&index);
                self.note_own(&fresh.message);
                self.initiators.insert(local_index, fresh);
                self.send_try(now, local_index);
            }
            Err(_) => {
                self.live.remove(&local_index);
                self.initiators.insert(index, old);
                self.send_try(now, index);
            }
        }
    }

    fn send_try(&mut self, now: Instant, index: u32) {
        let Some(initiator) = self.initiators.get_mut(&index) else { return };
        initiator.next_try = now + retry_after(initiator.tries, &mut self.rng);
        initiator.tries += 1;
        let header = (initiator.kind, initiator.local_index, initiator.remote_index);
        let datagrams = fragment::split(self.network.gate(), initiator.cookie.as_ref(), header, &initiator.message);
        initiator.last_mac1 = datagrams.iter().filter_map(|d| d[12..28].try_into().ok()).collect();
        for datagram in datagrams {
            self.transmits.push_back(Outgoing { via: initiator.via, by: None, bytes: datagram });
        }
    }
}
