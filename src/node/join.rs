//! Handshakes and what comes of them: who is a peer from now on, who is let in by an invite, and this node's own joining.

use std::{net::IpAddr, sync::Arc};

#[cfg(test)]
use crate::types::mutants::{self, Mutant};

use super::{Arrival, Event, Node, Peer, Session, door::Output, forward, gate};
use crate::{
    identity::{Certificate, Refusal, Verified},
    session::{self, InvitationId, Outcome, Outgoing, Transport, Via},
    types::{Duration, Instant, NodeId, UnixTime},
    wire::{
        frame::{FRAME, Kind, Mark},
        packet::{self, Datagram},
    },
};

/// Repeats of a certificate to a guest, one a second.
pub(super) const GRANT_REPEATS: u32 = 20;
/// A certificate that an invite gives is good for so long, in seconds.
const GRANTED_FOR: UnixTime = 365 * 86_400;
/// And for so long already: clocks differ.
const GRANTED_BEFORE: UnixTime = 3600;
/// Nodes with which there are sessions at a time, links aside.
const MAX_PEERS: usize = 4096;
/// Nodes remembered that speak another version.
const MAX_FOREIGN: usize = 64;

impl Node {
    /// A handshake fragment or a cookie, without hop header; `neighbor` is who relayed it. Of no effect while a porter has
    /// the handshakes.
    pub fn handle_handshake(&mut self, now: Instant, via: Via, neighbor: Option<NodeId>, datagram: &[u8]) {
        let unix = self.unix_now(now);
        let me = self.identity.id();
        let Some(sessions) = self.door.here() else { return };
        match packet::parse(datagram) {
            Ok(Datagram::Handshake(fragment)) => {
                let (verifier, policy) = (&*self.verifier, &self.policy);
                let mut gate = gate::Gate { verifier, policy, invitations: &self.invitations, me, now: unix };
                sessions.handle_handshake(now, (via, neighbor), &fragment, &mut gate);
            }
            Ok(Datagram::Cookie { receiver, body }) => sessions.handle_cookie(now, receiver, body),
            _ => self.counters.drop(forward::Drop::Malformed),
        }
        self.pump(now);
    }

    /// Carries out what came of handshakes.
    pub(super) fn on_handshake(&mut self, now: Instant, output: Output) {
        let event = match output {
            Output::Send(Outgoing { via, by, bytes }) => return self.send_by(via, by, bytes),
            Output::Seen(_) => return,
            Output::Event(event) => event,
        };
        match event {
            session::Event::Established { outcome, asked, invitation } => {
                asked.into_iter().for_each(|asked| self.door.ended(asked));
                self.on_established(now, outcome, asked.is_some(), invitation);
            }
            #[cfg(test)]
            session::Event::Claimed(outcome) if mutants::has(Mutant::ActOnClaim) => {
                self.on_established(now, outcome, false, None);
            }
            session::Event::Claimed(outcome) => {
                if let Some(index) = self.claims.add(outcome) {
                    self.door.release(now, index);
                }
            }
            session::Event::TimedOut { asked, expected } => {
                self.door.ended(asked);
                self.counters.handshakes_failed += 1;
                // Another one may reach the peer, by another way.
                let is_last = !self.door.is_connecting(expected, asked);
                if let Some(peer) = expected.and_then(|id| self.peers.get_mut(&id))
                    && peer.transport().is_none()
                    && is_last
                {
                    peer.waiting.clear();
                }
            }
            session::Event::Refused(refusal, expected) => {
                if let (Refusal::Version(theirs), Some(id)) = (&refusal, expected) {
                    self.note_foreign(id, *theirs);
                }
                self.counters.refuse(&refusal);
                self.events.push_back(Event::Refused(refusal));
            }
        }
    }

    /// A node speaks another version of the protocol.
    fn note_foreign(&mut self, id: NodeId, versions: crate::wire::version::Versions) {
        if self.foreign.len() < MAX_FOREIGN || self.foreign.contains_key(&id) {
            self.foreign.insert(id, versions);
        }
    }

    /// A packet was opened on a session that isn't in the tables: if it was a claim, it has come true.
    pub fn handle_claimed(&mut self, now: Instant, session: &Arc<Transport>, how: Arrival, plaintext: &[u8]) {
        if plaintext.first() == Some(&FRAME) {
            return self.handle_frame(now, session, how, plaintext);
        }
        self.handle_opened(now, session, how);
        if Mark::parse(plaintext).is_some() || !self.by_index.contains_key(&session.local_index) {
            return;
        }
        match forward::check(self, session, plaintext) {
            Ok(()) => self.events.push_back(Event::Deliver(plaintext.to_vec())),
            Err(reason) => self.counters.drop(reason),
        }
    }

    /// Makes a claim true, if there is one of this session.
    pub(super) fn redeem(&mut self, now: Instant, session: &Arc<Transport>) {
        if let Some(outcome) = self.claims.take(session.local_index) {
            self.on_established(now, outcome, false, None);
        }
    }

    /// A handshake has ended with a peer that has just shown that it holds its key.
    fn on_established(&mut self, now: Instant, outcome: Outcome, initiator: bool, invitation: Option<InvitationId>) {
        let Outcome { transport, peer: info, via, since } = outcome;
        self.counters.handshakes += 1;
        let (id, boot, index) = (info.id, info.record.boot, transport.local_index);
        if let Via::Direct(addr) = via {
            self.discovery.identified(id, addr);
        }
        // One of our own addresses was in the list; or somebody held a message back until its sender had started anew.
        let is_stale = self.peers.get(&id).and_then(|p| p.boot).is_some_and(|(b, at)| b != boot && since < at);
        #[cfg(test)]
        let is_stale = is_stale && !mutants::has(Mutant::NoStaleRule);
        if id == self.identity.id() || is_stale {
            self.counters.handshakes_stale += u64::from(is_stale);
            self.door.release(now, index);
            return;
        }
        let grant = invitation.and_then(|invitation| self.try_grant(now, &info, invitation));
        if grant.is_none() && self.policy.admit(&info, self.unix_now(now)).is_err() {
            self.door.release(now, index);
            return;
        }
        if grant.is_none() {
            self.routing.learn_from(now, &info);
        }
        let known = self.routing.origin(&id).and_then(|o| self.routing.announcement(o));
        let newer = known.filter(|known| known.seqno > info.seqno).cloned();
        self.foreign.remove(&id);
        if self.peers.get(&id).is_none() {
            self.make_room_for_peer(now);
        }
        let peer = self.peers.get_or_insert_with(id, || Peer::new(Arc::clone(&info), now));
        peer.is_behind = newer.is_some();
        peer.info = newer.unwrap_or(info);
        if peer.boot.is_none_or(|(b, _)| b != boot) {
            peer.boot = Some((boot, now));
        }
        let is_guest = grant.is_some();
        peer.grant = grant.map(|g| (g, GRANT_REPEATS));
        if is_guest {
            transport.set_guest();
            if let Via::Direct(addr) = via {
                self.guest_addrs.insert(index, addr);
                self.guest_addrs.retain(|i, _| *i == index || self.by_index.contains_key(i));
            }
        }
        let session = Session {
            transport: Arc::clone(&transport),
            since: now,
            boot,
            initiator,
            superseded: None,
            seen: (0, now),
        };
        let gone = peer.add_session(session);
        self.by_index.insert(index, Arc::clone(&transport));
        self.release_sessions(now, gone);
        self.forget_earlier_starts(now, id);
        self.tell_behind(&id);
        // Its third message has shown that it has the keys.
        let by_third = !initiator && transport.confirm();
        if by_third {
            self.door.confirmed(now, index);
        }
        if is_guest {
            self.repeat_grant(id);
        } else {
            self.open_link(now, id, &transport, via, initiator);
        }
        self.tables_dirty = true;
    }

    /// Whoever has no link and has been silent longest goes when there are too many: in a network without certificates one member can
    /// be as many nodes as it likes.
    fn make_room_for_peer(&mut self, now: Instant) {
        if self.peers.len() < MAX_PEERS {
            return;
        }
        let heard = |peer: &Peer| peer.sessions.iter().map(|s| s.seen.1.max(s.since)).max();
        let spare = self.peers.iter().filter(|(_, peer)| peer.link.is_none());
        if let Some(id) = spare.min_by_key(|(id, peer)| (heard(peer), **id)).map(|(id, _)| *id) {
            self.counters.peers_displaced += 1;
            self.drop_peer(now, id, "others needed its place");
        }
    }

    /// Gives who came with an invitation of ours its certificate: the same one again, if it has one. Only a member whose
    /// certificate gives it a name has that name: one without is given none, whatever it calls itself.
    fn try_grant(&mut self, now: Instant, info: &Verified, which: InvitationId) -> Option<Vec<u8>> {
        let unix = self.unix_now(now);
        let index = self.invitations.iter().position(|i| i.id() == which)?;
        match &self.invitations[index].used_by {
            Some((node, certificate)) if *node == info.id && !certificate.is_empty() => {
                return Some(certificate.clone());
            }
            Some(_) => return None,
            None => {}
        }
        let addresses = self.free_address().into_iter().collect();
        let authority = self.authority.as_ref()?;
        let name = self.invitations[index].name.clone();
        let name = if self.is_certified_name(&name, &info.id) { String::new() } else { name };
        let certificate = authority.issue(&Certificate {
            node: info.id,
            name,
            addresses,
            prefixes: Vec::new(),
            groups: self.invitations[index].groups.clone(),
            not_before: unix.saturating_sub(GRANTED_BEFORE),
            not_after: unix.saturating_add(GRANTED_FOR),
            serial: self.rng.bytes(),
        });
        self.invitations[index].used_by = Some((info.id, certificate.clone()));
        self.door.judge(&self.policy, &self.invitations);
        self.events.push_back(Event::StateChanged);
        Some(certificate)
    }

    /// Whether another member is certified for this name.
    fn is_certified_name(&self, name: &str, node: &NodeId) -> bool {
        self.book.certified_name_owner(name).is_some_and(|owner| owner != *node)
    }

    /// An IPv4 address of the mesh for a new member, which nobody has, nor was given by us. Which one is chance: a key that derives the
    /// address of a member that sleeps must not get it granted.
    fn free_address(&mut self) -> Option<IpAddr> {
        let authority = self.network.authority()?;
        let given = self.invitations.iter().filter_map(|i| Certificate::open(&i.used_by.as_ref()?.1, authority).ok());
        let taken: Vec<IpAddr> = given.flat_map(|c| c.addresses).collect();
        self.book.free_ipv4(&self.network, &taken, self.rng.next_u64()).map(IpAddr::V4)
    }

    pub(super) fn repeat_grant(&mut self, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some((certificate, left)) = &mut peer.grant else { return };
        let certificate = certificate.clone();
        *left = left.saturating_sub(1);
        let is_over = *left == 0;
        let session = peer.sessions.last().filter(|s| s.transport.is_confirmed()).map(|s| Arc::clone(&s.transport));
        if is_over {
            // It stays a guest, of whom nothing more is wanted.
            peer.grant = Some((certificate.clone(), 0));
        }
        if let Some(session) = session {
            self.grant_to(&session, certificate);
        }
    }

    /// Sends a guest its certificate.
    pub(super) fn grant_to(&mut self, session: &Arc<Transport>, certificate: Vec<u8>) {
        // A guest has no link.
        if let Some(addr) = self.guest_addrs.get(&session.local_index).copied() {
            self.send_on(session, Via::Direct(addr), Kind::Granted(certificate));
        }
    }

    /// A peer says that this is our certificate. It is if the authority says so, if we have none that is good, and if we asked this
    /// peer for it.
    pub(super) fn on_granted(&mut self, now: Instant, from: NodeId, bytes: Vec<u8>) {
        #[cfg(test)]
        if mutants::has(Mutant::AnyGranted) {
            self.own.set_certificate(bytes);
            return;
        }
        let asked = self.own.admission.as_ref().is_some_and(|a| a.inviter == from);
        let wrong = if asked { self.check_certificate(now, &bytes).err() } else { Some(Refusal::UnaskedCertificate) };
        if let Some(why) = wrong {
            // It is good by the inviter's clock: one of the two is wrong, and a person has to find out which.
            let is_clock = why == Refusal::ExpiredCertificate;
            let refusal = if is_clock { why } else { Refusal::UnaskedCertificate };
            self.counters.refuse(&refusal);
            self.events.push_back(Event::Refused(refusal));
            return;
        }
        if self.set_certificate(now, bytes.clone()).is_ok() {
            self.events.push_back(Event::Certified(bytes));
            self.reconnect(now);
        }
    }

    /// Whether a certificate is one of this network's authority, for this node, and in its time.
    fn check_certificate(&self, now: Instant, bytes: &[u8]) -> Result<(), Refusal> {
        let authority = self.network.authority().ok_or(Refusal::BadCertificate)?;
        let certificate = Certificate::open(bytes, authority).map_err(|_| Refusal::BadCertificate)?;
        let revocations = &self.policy.revocations;
        if certificate.node != self.identity.id() {
            return Err(Refusal::BadCertificate);
        }
        if !certificate.is_in_time(self.unix_now(now)) {
            return Err(Refusal::ExpiredCertificate);
        }
        let is_revoked =
            revocations.serials.contains(&certificate.serial) || revocations.nodes.contains(&certificate.node);
        if is_revoked { Err(Refusal::Revoked) } else { Ok(()) }
    }

    /// A new certificate: announced to everybody; sessions go on. One that others would refuse is refused, and nothing changes.
    pub fn set_certificate(&mut self, now: Instant, certificate: Vec<u8>) -> Result<(), Refusal> {
        self.check_certificate(now, &certificate)?;
        self.own.admission = None;
        self.own.set_certificate(certificate);
        self.pump(now);
        Ok(())
    }

    /// The invite with which this node still joins.
    #[must_use]
    pub fn joins(&self) -> bool {
        self.own.admission.is_some()
    }

    /// Claims that have not come true in time are forgotten.
    pub(super) fn expire_claims(&mut self, now: Instant) {
        for index in self.claims.expire(now) {
            self.door.release(now, index);
        }
    }
}

/// How long a session may last, renewed or not: three times as long as one is used before it is renewed.
pub(super) fn session_life(rekey_after: Duration) -> Duration {
    rekey_after.saturating_mul(3)
}
