//! Floor 2, sans-IO: secure sessions between two nodes. [`Sessions`] runs the handshakes; what comes out is a
//! [`Transport`], with which the data plane seals and opens packets.
//!
//! Nothing is answered, and nothing is kept, for a datagram without a sound mac1, whose key only members of the
//! network can derive. And nobody is believed before it has shown that it holds its key *now*: an answer to a message of
//! ours, or the third message, was made for a fresh key of ours. The first message of `IK` may be a recording; what it says
//! is a claim ([`Event::Claimed`]) until a packet is opened on its session.

mod begin;
mod budget;
mod cookie;
mod fragment;
mod handshake;
mod replay;
mod seen;
mod transport;
#[cfg(test)]
mod view;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

pub use replay::ReplayWindow;
pub use seen::SEEN_GENERATION;
pub use transport::{Arrivals, Notice, Rejected, Transport};

use zeroize::Zeroizing;

use self::{
    begin::FRESH_AFTER,
    budget::{Budget, Source, Way},
    cookie::CookieJar,
    fragment::{Holder, Reassembly, Whole},
    handshake::{Initiator, Keys, Responder, offer, read_first},
    seen::Seen,
};
use crate::{
    crypto::{Cipher, HmacKey, Rng},
    identity::{Admission, Identity, Network, Refusal, Verified},
    types::{Duration, Instant, NodeId, NodeTag},
    wire::{
        packet::{self, Datagram, HandshakeFragment, HandshakeKind},
        proto::HandshakePayload,
        version::Versions,
    },
};

const MAX_HALF_OPEN: usize = 512;
/// And from one source: behind one address there may be many nodes, but each takes one round trip.
const MAX_HALF_OPEN_OF_ONE: usize = 16;
/// From its beginning, however often the initiator asks: its tries with the same keys (`begin::FRESH_FOR`) take less than 4 s.
const HALF_OPEN_LIFE: Duration = Duration::from_secs(5);
/// A first message is answered so often: once for each try, and for two that came twice.
const MAX_ANSWERS: u32 = FRESH_AFTER + 2;
/// Repeats are answered as long as no more than so many times the bytes go to an address than came from it.
const MAX_GAIN: usize = 3;
/// The shortest first message of `XX`, and what an answer has beside the announcement and the record.
const SHORTEST_FIRST: usize = 1232;
const ANSWER_FRAME: usize = 1400;
/// A message is sent so often to a place that this node has from its own configuration, or where the peer has been.
pub const PROVEN_TRIES: u32 = 14;
/// And so often to one of which only others have told.
pub const HEARSAY_TRIES: u32 = 3;
const RESEND_GAP: Duration = Duration::from_millis(50);

/// How a datagram travels to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Via {
    /// Straight to a transport address.
    Direct(SocketAddr),
    /// Through relays, wherever routing sends what is for this node.
    Relayed(NodeTag),
}

/// A datagram to send.
#[derive(Debug)]
pub struct Outgoing {
    pub via: Via,
    /// The neighbour to send it by, if it has a link: an answer goes back as the question came, whatever routing says.
    pub by: Option<NodeId>,
    pub bytes: Vec<u8>,
}

/// What came of a handshake.
#[derive(Debug)]
pub struct Outcome {
    pub transport: Arc<Transport>,
    pub peer: Arc<Verified>,
    pub via: Via,
    /// When the handshake began at this node.
    pub since: Instant,
}

/// What happened to a handshake.
#[derive(Debug)]
pub enum Event {
    /// Both ends have keys, and the peer has shown that it holds its own now.
    Established {
        outcome: Outcome,
        /// Where this node had asked, if it began.
        asked: Option<Via>,
        /// The peer has proven to have this invitation.
        invitation: Option<InvitationId>,
    },
    /// A first message says that it is from this peer. Only a packet on the session can show it.
    Claimed(Outcome),
    /// The peer did not answer, or was refused.
    TimedOut { asked: Via, expected: Option<NodeId> },
    /// A message was refused, for the counters; who had been expected.
    Refused(Refusal, Option<NodeId>),
}

/// Which invitation somebody came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvitationId(pub u64);

/// A peer that is let in.
#[derive(Debug)]
pub struct Admitted {
    pub peer: Arc<Verified>,
    pub invitation: Option<InvitationId>,
}

/// Decides on a peer's handshake payload: verifies who it is and whether it is admitted.
pub trait Gatekeeper {
    /// `handshake_hash` is that under which an invite was proven; empty where none can be.
    fn admit(
        &mut self,
        payload: &HandshakePayload,
        noise_static: &[u8; 32],
        handshake_hash: &[u8],
    ) -> Result<Admitted, Refusal>;
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
    /// Messages that didn't decrypt or make sense, or that were not what they repeat.
    pub broken: u64,
    /// First messages beyond what their source, or all sources together, may ask of this node.
    pub over_budget: u64,
}

/// All handshakes of a node.
pub struct Sessions {
    me: NodeId,
    network: Network,
    noise_private: Zeroizing<[u8; 32]>,
    own: HandshakePayload,
    admission: Option<Admission>,
    versions: Versions,
    budget: Budget,
    rng: Rng,
    initiators: HashMap<u32, Initiator>,
    /// Boxed: the table keeps its room after a flood, what is in it doesn't.
    responders: HashMap<(Via, u32), Box<Responder>>,
    by_index: HashMap<u32, (Via, u32)>,
    reassembly: Reassembly,
    cookies: CookieJar,
    /// First messages that were read.
    seen: Seen,
    live: HashSet<u32>,
    transmits: VecDeque<Outgoing>,
    events: VecDeque<Event>,
    pub counters: Counters,
}

impl Sessions {
    /// `ciphers` are offered to peers; the best that both ends have wins: AEGIS-256X4, then AES-256-GCM.
    #[must_use]
    pub fn new(network: Network, identity: &Identity, ciphers: &[Cipher], mut rng: Rng, now: Instant) -> Self {
        let cookies = CookieJar::new(network.beacon_key(), &mut rng, now);
        let Versions { version, oldest } = Versions::OURS;
        Self {
            versions: Versions::OURS,
            me: identity.id(),
            network,
            noise_private: Zeroizing::new(*identity.noise_private()),
            own: HandshakePayload { ciphers: offer(ciphers), version, oldest, ..Default::default() },
            admission: None,
            budget: Budget::new(),
            rng,
            initiators: HashMap::new(),
            responders: HashMap::new(),
            by_index: HashMap::new(),
            reassembly: Reassembly::default(),
            cookies,
            seen: Seen::default(),
            live: HashSet::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Sets what this node says of itself in handshakes, and the invite that it joins with.
    pub fn set_own(&mut self, own: &Verified, admission: Option<Admission>) {
        self.own.record = own.record.bytes.clone();
        self.own.announcement = own.bytes.clone();
        self.admission = admission;
    }

    /// Speaks other versions of the protocol from now on.
    #[cfg(test)]
    pub(crate) fn pretend(&mut self, versions: Versions) {
        self.versions = versions;
        (self.own.version, self.own.oldest) = (versions.version, versions.oldest);
    }

    /// A packet was opened on this session: the peer has the keys.
    pub fn confirmed(&mut self, local_index: u32) {
        if let Some((way, peer)) = self.end(local_index) {
            self.budget.know(way, peer);
        }
    }

    /// A session is over; its index may be used again.
    pub fn release(&mut self, local_index: u32) {
        self.end(local_index);
        self.live.remove(&local_index);
    }

    /// Nothing of this handshake is sent any more. With whom it was, and on which way, if both ends have keys.
    fn end(&mut self, local_index: u32) -> Option<(Way, NodeId)> {
        let begun = self.initiators.remove(&local_index).filter(|i| i.complete);
        let begun = begun.and_then(|i| Some(((i.via, i.by), i.expected?)));
        let key = self.by_index.remove(&local_index);
        let answered = key.and_then(|key| self.responders.remove(&key).and_then(|r| Some(((key.0, r.by), r.peer?))));
        begun.or(answered)
    }

    /// Half-open handshakes and partial messages held at the moment.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.initiators.len() + self.responders.len() + self.reassembly.len()
    }

    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.transmits.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry = self.initiators.values().map(|i| i.next_try).min();
        let expiry = self.responders.values().map(|r| r.begun + HALF_OPEN_LIFE).min();
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
            self.responders.iter().filter(|(_, r)| now.since(r.begun) >= HALF_OPEN_LIFE).map(|(k, _)| *k).collect();
        for key in old {
            self.drop_responder(key);
        }
    }

    /// A handshake fragment that came over `via`; `neighbor` is who relayed it, if somebody did.
    pub fn handle_handshake(
        &mut self,
        now: Instant,
        (via, neighbor): (Via, Option<NodeId>),
        f: &HandshakeFragment<'_>,
        gate: &mut dyn Gatekeeper,
    ) {
        let header = fragment::header_of(f);
        if !self.network.gate().verify(&fragment::mac1_parts(&header, f), &f.mac1) {
            self.counters.bad_mac += 1;
            return;
        }
        let outcome = match f.kind {
            HandshakeKind::Xx1 | HandshakeKind::Ik1 => self.first(now, (via, neighbor), f, &header, gate),
            HandshakeKind::Xx2 | HandshakeKind::Ik2 => self.second(now, (via, neighbor), f, gate),
            HandshakeKind::Xx3 => self.third(now, via, f, gate),
        };
        match outcome {
            Ok(()) => {}
            Err(Some(refusal)) => self.events.push_back(Event::Refused(refusal, None)),
            Err(None) => self.counters.broken += 1,
        }
    }

    fn first(
        &mut self,
        now: Instant,
        (via, neighbor): (Via, Option<NodeId>),
        f: &HandshakeFragment<'_>,
        header: &[u8; 12],
        gate: &mut dyn Gatekeeper,
    ) -> Result<(), Option<Refusal>> {
        let key = (via, f.sender);
        if self.responders.contains_key(&key) {
            return self.repeat(now, key, neighbor, f);
        }
        // A recording is worth no answer, not even a cookie.
        if f.fragment == 0 && self.seen.has(f.body) {
            self.counters.replayed += 1;
            return Ok(());
        }
        let way = (via, neighbor);
        let is_direct = matches!(via, Via::Direct(_));
        let under_load = is_direct && self.cookies.demands(now);
        let is_long = is_direct && f.kind == HandshakeKind::Xx1 && self.answers_at_length();
        let proven = self.cookies.check(way, &[header, f.body, &f.mac1], &f.mac2);
        if !proven && (under_load || is_long || !self.budget.spares_cookie(now, way)) {
            // Only the first fragment tells a recording from what is new.
            if f.fragment > 0 {
                return Ok(());
            }
            if !self.budget.grants_cookie(now, way) {
                self.counters.over_budget += 1;
                return Ok(());
            }
            self.counters.cookies_sent += 1;
            let bytes = self.cookies.reply(way, f.sender, &f.mac1, &mut self.rng);
            self.transmits.push_back(Outgoing { via, by: neighbor, bytes });
            return Ok(());
        }
        let holder = Holder::Source(Source::of(way, proven));
        let Some(Whole { message, first: mac1, len }) = self.reassembly.add(now, holder, via, f) else { return Ok(()) };
        let Some(source) = self.budget.take(now, way, proven) else {
            self.counters.over_budget += 1;
            return Ok(());
        };
        if !self.seen.is_fresh(&message) {
            self.counters.replayed += 1;
            return Ok(());
        }
        let rng = self.rng.fork();
        let keys = Self::keys(&self.noise_private, &self.network);
        let first = read_first(&keys, rng, f.kind, &message).map_err(|_| None)?;
        if let Err(refusal) = check_version(self.versions, &first.payload) {
            // Both ends are to know: without this answer the other one would wait in vain.
            let (kind, message) = first.refuse(self.versions).map_err(|_| None)?;
            self.send_split((via, neighbor), (kind, 0, f.sender), &message);
            return Err(Some(refusal));
        }
        let admitted = match &first.remote_static {
            Some(noise_static) => Some(gate.admit(&first.payload, noise_static, &[]).map_err(Some)?.peer),
            None => None,
        };
        let source = Some(source);
        let of_source = self.responders.values().filter(|r| r.source == source).count();
        if of_source >= MAX_HALF_OPEN_OF_ONE || self.responders.len() >= MAX_HALF_OPEN {
            // Whoever asks for too much makes room for itself.
            let spare = self.responders.iter().filter(|(_, r)| of_source < MAX_HALF_OPEN_OF_ONE || r.source == source);
            let oldest = spare.min_by_key(|(k, r)| (r.begun, k.1)).map(|(k, _)| *k);
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
        (half.source, half.by) = (source, neighbor);
        (half.first, half.bytes.0) = (mac1, len);
        if let Some(peer) = admitted {
            let Ok(transport) = half.finish(peer.id).map(|t| t.answered_at(via)) else { return Err(None) };
            self.events.push_back(Event::Claimed(Outcome { transport, peer, via, since: now }));
        }
        self.responders.insert(key, Box::new(half));
        self.by_index.insert(local_index, key);
        self.send_response(key);
        Ok(())
    }

    /// Whether what this node says of itself is too much for an address that has shown nothing.
    fn answers_at_length(&self) -> bool {
        ANSWER_FRAME + self.own.record.len() + self.own.announcement.len() > MAX_GAIN * SHORTEST_FIRST
    }

    /// A first message came again. Its first fragment alone is answered, and only if it is the same to the byte: whoever has
    /// written another's address gets no more sent there than it sends itself, by a small factor and for a short time.
    fn repeat(
        &mut self,
        now: Instant,
        key: (Via, u32),
        neighbor: Option<NodeId>,
        f: &HandshakeFragment<'_>,
    ) -> Result<(), Option<Refusal>> {
        let Some(half) = self.responders.get_mut(&key).filter(|_| f.fragment == 0) else { return Ok(()) };
        if f.mac1 != half.first {
            return Err(None);
        }
        let (came, gone) = &mut half.bytes;
        *came = came.saturating_add(packet::HANDSHAKE_HEADER + f.body.len());
        let is_within = *gone + fragment::len_of(&half.message) <= MAX_GAIN * *came && half.answers < MAX_ANSWERS;
        if is_within && now.since(half.last_sent) >= RESEND_GAP {
            // By whom it came: somebody may swallow what goes by the first.
            (half.last_sent, half.by) = (now, neighbor);
            self.send_response(key);
        }
        Ok(())
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
        let Some(Whole { message, .. }) = self.reassembly.add(now, Holder::Handshake(f.receiver), via, f) else {
            return Ok(());
        };
        let Some(half) = self.responders.get_mut(&key) else { return Ok(()) };
        let Ok((payload, noise_static, hash)) = half.read_third(&message) else { return Err(None) };
        match check_version(self.versions, &payload).and_then(|()| gate.admit(&payload, &noise_static, &hash)) {
            Ok(Admitted { peer, invitation }) => {
                let Ok(transport) = half.finish(peer.id).map(|t| t.answered_at(via)) else { return Err(None) };
                let outcome = Outcome { transport, peer, via, since: half.begun };
                self.events.push_back(Event::Established { outcome, asked: None, invitation });
                Ok(())
            }
            Err(refusal) => {
                self.drop_responder(key);
                Err(Some(refusal))
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

    /// First messages that an earlier start of this node has read: none of them is answered again.
    pub fn remember(&mut self, seen: impl IntoIterator<Item = u64>) {
        self.seen.remember(seen);
    }

    /// The next first message to remember, before anything is sent.
    pub fn poll_seen(&mut self) -> Option<u64> {
        self.seen.poll()
    }

    /// Whoever sends a first message of ours back to us is a mirror, and gets no answer.
    fn note_own(&mut self, message: &[u8]) {
        #[cfg(test)]
        if crate::types::mutants::has(crate::types::mutants::Mutant::Mirror) {
            return;
        }
        self.seen.is_fresh(message);
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
        let Some(half) = self.responders.get_mut(&key) else { return };
        half.answers += 1;
        half.bytes.1 += fragment::len_of(&half.message);
        let (header, message) = ((half.kind, half.local_index, half.remote_index), half.message.clone());
        let by = half.by;
        self.send_split((key.0, by), header, &message);
    }

    fn send_split(&mut self, (via, by): (Via, Option<NodeId>), header: (HandshakeKind, u32, u32), message: &[u8]) {
        let datagrams = fragment::split(self.network.gate(), None, header, message);
        self.transmits.extend(datagrams.into_iter().map(|bytes| Outgoing { via, by, bytes }));
    }
}

/// Whether a handshake datagram carries the mac1 that only members can make.
#[must_use]
pub fn has_mac1(gate: &HmacKey, datagram: &[u8]) -> bool {
    let Ok(Datagram::Handshake(fragment)) = packet::parse(datagram) else { return false };
    let header = fragment::header_of(&fragment);
    gate.verify(&fragment::mac1_parts(&header, &fragment), &fragment.mac1)
}

/// Whether there is a version of the protocol that both ends speak.
fn check_version(ours: Versions, payload: &HandshakePayload) -> Result<(), Refusal> {
    let theirs = Versions::told(payload.version, payload.oldest);
    theirs.common(ours).map(|_| ()).ok_or(Refusal::Version(theirs))
}

#[cfg(test)]
mod tests;
