//! Floor 2, sans-IO: secure sessions between two nodes. [`Sessions`] runs the handshakes; what comes out is a
//! [`Transport`], with which the data plane seals and opens packets.
//!
//! Nothing is answered, and nothing is kept, for a datagram without a sound mac1, whose key only members of the
//! network can derive.

mod cookie;
mod fragment;
mod handshake;
mod replay;
mod transport;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

pub use replay::ReplayWindow;
pub use transport::{Arrivals, Rejected, Transport};

use self::{
    cookie::CookieJar,
    fragment::Reassembly,
    handshake::{Initiator, Keys, Responder, offer, read_first, retry_after},
};
use crate::{
    crypto::{Cipher, Rng},
    identity::{Identity, Network, Refusal, Verified},
    types::{Duration, Instant, NodeId, NodeTag},
    wire::{
        packet::{HandshakeFragment, HandshakeKind},
        proto::HandshakePayload,
    },
};

const MAX_HALF_OPEN: usize = 512;
const HALF_OPEN_LIFE: Duration = Duration::from_secs(10);
const MAX_TRIES: u32 = 14;
const RESEND_GAP: Duration = Duration::from_millis(50);
const SEEN_GENERATION: usize = 4096;

/// How a datagram travels to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Via {
    /// Straight to a transport address.
    Direct(SocketAddr),
    /// Through relays, wherever routing sends what is for this node.
    Relayed(NodeTag),
}

/// What happened to a handshake.
#[derive(Debug)]
pub enum Event {
    /// Both ends have keys. The responder may send only when it has received a packet ([`Sessions::confirmed`]).
    Established { transport: Arc<Transport>, peer: Arc<Verified>, via: Via, initiator: bool, admission: Vec<u8> },
    /// The peer did not answer.
    TimedOut { via: Via, expected: Option<NodeId> },
    /// A message was refused, for the counters.
    Refused(Refusal),
}

/// Decides on a peer's handshake payload: verifies who it is and whether it is admitted.
pub trait Gatekeeper {
    fn admit(&mut self, payload: &HandshakePayload, noise_static: &[u8; 32]) -> Result<Arc<Verified>, Refusal>;
}

/// Counters of what handshakes met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Datagrams without a sound mac1.
    pub bad_mac: u64,
    /// First messages that came again after their handshake was over.
    pub replayed: u64,
    /// First messages that were sent a cookie instead of an answer.
    pub cookies_sent: u64,
    /// Messages that didn't decrypt or make sense.
    pub broken: u64,
}

/// All handshakes of a node.
pub struct Sessions {
    network: Network,
    noise_private: [u8; 32],
    own: HandshakePayload,
    rng: Rng,
    initiators: HashMap<u32, Initiator>,
    responders: HashMap<(Via, u32), Responder>,
    by_index: HashMap<u32, (Via, u32)>,
    reassembly: Reassembly,
    cookies: CookieJar,
    seen: [HashSet<[u8; 32]>; 2],
    live: HashSet<u32>,
    transmits: VecDeque<(Via, Vec<u8>)>,
    events: VecDeque<Event>,
    pub counters: Counters,
}

impl Sessions {
    /// `ciphers` are offered to peers; the best that both ends have wins: AEGIS-256X4, then AES-256-GCM.
    #[must_use]
    pub fn new(network: Network, identity: &Identity, ciphers: &[Cipher], mut rng: Rng, now: Instant) -> Self {
        let cookies = CookieJar::new(network.beacon_key(), &mut rng, now);
        Self {
            network,
            noise_private: *identity.noise_private(),
            own: HandshakePayload { ciphers: offer(ciphers), ..Default::default() },
            rng,
            initiators: HashMap::new(),
            responders: HashMap::new(),
            by_index: HashMap::new(),
            reassembly: Reassembly::default(),
            cookies,
            seen: Default::default(),
            live: HashSet::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Sets what this node says of itself in handshakes.
    pub fn set_own(&mut self, own: &Verified, admission: &[u8]) {
        self.own.record = own.record.bytes.clone();
        self.own.announcement = own.bytes.clone();
        self.own.admission = admission.to_vec();
    }

    /// Starts a handshake over `via`: `IK` with a known peer, `XX` otherwise. Its outcome comes as an [`Event`].
    pub fn connect(&mut self, now: Instant, via: Via, remote: Option<(NodeId, [u8; 32])>) {
        let local_index = self.new_index();
        let rng = self.rng.fork();
        let (keys, own) = (Self::keys(&self.noise_private, &self.network), &self.own);
        match Initiator::start((&keys, rng), via, remote, local_index, own) {
            Ok(initiator) => {
                self.initiators.insert(local_index, initiator);
                self.send_initiator(now, local_index);
            }
            Err(_) => {
                self.live.remove(&local_index);
                self.counters.broken += 1;
                self.events.push_back(Event::TimedOut { via, expected: remote.map(|r| r.0) });
            }
        }
    }

    /// Whether a handshake with `peer`, or over `via`, is under way.
    #[must_use]
    pub fn is_connecting(&self, peer: Option<NodeId>, via: Via) -> bool {
        self.initiators.values().any(|i| !i.complete && (i.via == via || (peer.is_some() && i.expected == peer)))
    }

    /// A packet was opened on this session: the peer has the keys.
    pub fn confirmed(&mut self, local_index: u32) {
        self.initiators.remove(&local_index);
        if let Some(key) = self.by_index.remove(&local_index) {
            self.responders.remove(&key);
        }
    }

    /// A session is over; its index may be used again.
    pub fn release(&mut self, local_index: u32) {
        self.confirmed(local_index);
        self.live.remove(&local_index);
    }

    /// Half-open handshakes and partial messages held at the moment.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.initiators.len() + self.responders.len() + self.reassembly.len()
    }

    pub fn poll_transmit(&mut self) -> Option<(Via, Vec<u8>)> {
        self.transmits.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry = self.initiators.values().map(|i| i.next_try).min();
        let expiry = self.responders.values().map(|r| r.since + HALF_OPEN_LIFE).min();
        [retry, expiry].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.reassembly.expire(now);
        self.cookies.rotate(now, &mut self.rng);
        let mut due: Vec<u32> = self.initiators.iter().filter(|(_, i)| i.next_try <= now).map(|(k, _)| *k).collect();
        due.sort_unstable();
        for index in due {
            self.send_initiator(now, index);
        }
        let old: Vec<(Via, u32)> =
            self.responders.iter().filter(|(_, r)| now.since(r.since) >= HALF_OPEN_LIFE).map(|(k, _)| *k).collect();
        for key in old {
            self.drop_responder(key);
        }
    }

    /// A cookie reply: the next try will carry the cookie.
    pub fn handle_cookie(&mut self, now: Instant, receiver: u32, body: &[u8]) {
        let Some(initiator) = self.initiators.get_mut(&receiver) else { return };
        let cookie = initiator.last_mac1.iter().find_map(|mac1| self.cookies.open(body, mac1));
        if cookie.is_some() && initiator.cookie.is_none() {
            initiator.cookie = cookie;
            self.send_initiator(now, receiver);
        }
    }

    /// A handshake fragment that came over `via`.
    pub fn handle_handshake(&mut self, now: Instant, via: Via, f: &HandshakeFragment<'_>, gate: &mut dyn Gatekeeper) {
        let header = fragment::header_of(f);
        if !self.network.gate().verify(&fragment::mac1_parts(&header, f), &f.mac1) {
            self.counters.bad_mac += 1;
            return;
        }
        let outcome = match f.kind {
            HandshakeKind::Xx1 | HandshakeKind::Ik1 => self.first(now, via, f, &header, gate),
            HandshakeKind::Xx2 | HandshakeKind::Ik2 => self.second(now, via, f, gate),
            HandshakeKind::Xx3 => self.third(now, via, f, gate),
        };
        match outcome {
            Ok(()) => {}
            Err(Some(refusal)) => self.events.push_back(Event::Refused(refusal)),
            Err(None) => self.counters.broken += 1,
        }
    }

    fn first(
        &mut self,
        now: Instant,
        via: Via,
        f: &HandshakeFragment<'_>,
        header: &[u8; 12],
        gate: &mut dyn Gatekeeper,
    ) -> Result<(), Option<Refusal>> {
        let key = (via, f.sender);
        if let Some(half) = self.responders.get_mut(&key) {
            if now.since(half.last_sent) >= RESEND_GAP {
                half.last_sent = now;
                // The initiator still tries: its half-open handshake lives on.
                half.since = now;
                self.send_response(key);
            }
            return Ok(());
        }
        if let Via::Direct(from) = via
            && self.cookies.demands(now)
            && !self.cookies.check(from, &[header, f.body, &f.mac1], &f.mac2)
        {
            self.counters.cookies_sent += 1;
            let reply = self.cookies.reply(from, f.sender, &f.mac1, &mut self.rng);
            self.transmits.push_back((via, reply));
            return Ok(());
        }
        let Some(message) = self.reassembly.add(now, via, f) else { return Ok(()) };
        if !self.is_fresh(&message) {
            self.counters.replayed += 1;
            return Ok(());
        }
        let rng = self.rng.fork();
        let keys = Self::keys(&self.noise_private, &self.network);
        let first = read_first(&keys, rng, f.kind, &message).map_err(|_| None)?;
        let admitted = match &first.remote_static {
            Some(noise_static) => Some(gate.admit(&first.payload, noise_static).map_err(Some)?),
            None => None,
        };
        let admission = first.payload.admission.clone();
        if self.responders.len() >= MAX_HALF_OPEN {
            let oldest = self.responders.iter().min_by_key(|(k, r)| (r.since, k.1)).map(|(k, _)| *k);
            oldest.into_iter().for_each(|k| self.drop_responder(k));
        }
        let local_index = self.new_index();
        let mut half = match first.respond(now, (local_index, f.sender), &self.own) {
            Ok(half) => half,
            Err(_) => {
                self.live.remove(&local_index);
                return Err(None);
            }
        };
        if let Some(peer) = admitted {
            let transport = Arc::new(half.finish(peer.id));
            self.events.push_back(Event::Established { transport, peer, via, initiator: false, admission });
        }
        self.responders.insert(key, half);
        self.by_index.insert(local_index, key);
        self.send_response(key);
        Ok(())
    }

    fn second(
        &mut self,
        now: Instant,
        via: Via,
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
        let Some(message) = self.reassembly.add(now, via, f) else { return Ok(()) };
        let Some(mut initiator) = self.initiators.remove(&f.receiver) else { return Ok(()) };
        initiator.remote_index = f.sender;
        let outcome = (|| {
            let (payload, noise_static) = initiator.read_second(&message).map_err(|_| None)?;
            let peer = gate.admit(&payload, &noise_static).map_err(Some)?;
            if initiator.expected.is_some_and(|id| id != peer.id) {
                return Err(Some(Refusal::UnexpectedNode));
            }
            let transport = initiator.finish(peer.id, &payload, &self.own).map_err(|_| None)?;
            Ok((peer, Arc::new(transport)))
        })();
        match outcome {
            Ok((peer, transport)) => {
                initiator.via = via;
                initiator.tries = 0;
                let index = initiator.local_index;
                self.initiators.insert(index, initiator);
                self.send_initiator(now, index);
                let admission = Vec::new();
                self.events.push_back(Event::Established { transport, peer, via, initiator: true, admission });
                Ok(())
            }
            Err(refusal) => {
                self.live.remove(&initiator.local_index);
                let (via, expected) = (initiator.via, initiator.expected);
                self.events.push_back(Event::TimedOut { via, expected });
                Err(refusal)
            }
        }
    }

    fn third(
        &mut self,
        now: Instant,
        via: Via,
        f: &HandshakeFragment<'_>,
        gate: &mut dyn Gatekeeper,
    ) -> Result<(), Option<Refusal>> {
        let key = (via, f.sender);
        let waiting = self.responders.get(&key).is_some_and(|r| !r.complete && r.local_index == f.receiver);
        if !waiting {
            return Ok(());
        }
        let Some(message) = self.reassembly.add(now, via, f) else { return Ok(()) };
        let Some(half) = self.responders.get_mut(&key) else { return Ok(()) };
        let outcome = half
            .read_third(&message)
            .map_err(|_| None)
            .and_then(|(payload, s)| gate.admit(&payload, &s).map(|peer| (payload, peer)).map_err(Some));
        match outcome {
            Ok((payload, peer)) => {
                let transport = Arc::new(half.finish(peer.id));
                let admission = payload.admission;
                self.events.push_back(Event::Established { transport, peer, via, initiator: false, admission });
                Ok(())
            }
            Err(refusal) => {
                self.drop_responder(key);
                Err(refusal)
            }
        }
    }

    fn keys<'a>(private: &'a [u8; 32], network: &'a Network) -> Keys<'a> {
        Keys { private, psk: network.psk(), prologue: network.id() }
    }

    fn new_index(&mut self) -> u32 {
        loop {
            let index = self.rng.next_u32();
            if index != 0 && self.live.insert(index) {
                return index;
            }
        }
    }

    /// Whether a first message's ephemeral key is new; remembers it. Two generations bound the memory.
    fn is_fresh(&mut self, message: &[u8]) -> bool {
        let Some(ephemeral) = message.first_chunk::<32>() else { return false };
        if self.seen.iter().any(|s| s.contains(ephemeral)) {
            return false;
        }
        if self.seen[0].len() >= SEEN_GENERATION {
            self.seen.swap(0, 1);
            self.seen[0].clear();
        }
        self.seen[0].insert(*ephemeral);
        true
    }

    fn drop_responder(&mut self, key: (Via, u32)) {
        if let Some(half) = self.responders.remove(&key) {
            self.by_index.remove(&half.local_index);
            if !half.complete {
                self.live.remove(&half.local_index);
            }
        }
    }

    fn send_response(&mut self, key: (Via, u32)) {
        let Some(half) = self.responders.get(&key) else { return };
        let header = (half.kind, half.local_index, half.remote_index);
        for datagram in fragment::split(self.network.gate(), None, header, &half.message) {
            self.transmits.push_back((key.0, datagram));
        }
    }

    fn send_initiator(&mut self, now: Instant, index: u32) {
        let Some(initiator) = self.initiators.get_mut(&index) else { return };
        if initiator.tries >= MAX_TRIES || (initiator.complete && initiator.message.is_empty()) {
            let done = self.initiators.remove(&index).filter(|i| !i.complete);
            if let Some(Initiator { via, expected, .. }) = done {
                self.live.remove(&index);
                self.events.push_back(Event::TimedOut { via, expected });
            }
            return;
        }
        initiator.next_try = now + retry_after(initiator.tries, &mut self.rng);
        initiator.tries += 1;
        let header = (initiator.kind, initiator.local_index, initiator.remote_index);
        let datagrams = fragment::split(self.network.gate(), initiator.cookie.as_ref(), header, &initiator.message);
        initiator.last_mac1 = datagrams.iter().filter_map(|d| d[12..28].try_into().ok()).collect();
        for datagram in datagrams {
            self.transmits.push_back((initiator.via, datagram));
        }
    }
}

#[cfg(test)]
mod tests;
