//! Beacons: how nodes of one LAN find each other. A beacon is taken from the socket that hears the LAN's multicast only, is
//! bound to its sender's address, and is good for two minutes: who records one can neither send us anywhere with it nor
//! learn from afar that we belong to the network.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use prost::Message as _;

use super::{Node, forward::Drop};
use crate::{
    crypto::{AeadKey, Cipher, TAG_LEN},
    session::{HEARSAY_TRIES, Via},
    types::{Bucket, Duration, Instant, NEVER_SET, NodeId, UnixTime},
    wire::{self, packet::BEACON, proto},
};

/// The sender's clock and ours may differ by so much, in seconds.
const TIME_WINDOW: u64 = 120;
/// One attempt per node and address in so long, and so many nodes that say that they are at one address.
const GAP: Duration = Duration::from_secs(25);
const AT_ONE: usize = 4;
/// Beacons that are told apart: the oldest makes room.
const MAX_HEARD: usize = 256;
/// Attempts because of beacons: so many at once, and one more after each pause. Whoever has the network's key can speak for every
/// address of the LAN.
const ATTEMPTS: (u32, Duration) = (64, Duration::from_millis(100));

/// Beacons that were acted on: whose they say that they are, from which address, and when, the oldest first. A beacon proves neither
/// who sent it nor that it is there, so it takes nothing from another one of the same node.
#[derive(Debug)]
pub(super) struct Heard {
    all: VecDeque<(NodeId, IpAddr, Instant)>,
    attempts: Bucket,
}

impl Default for Heard {
    fn default() -> Self {
        Self { all: VecDeque::new(), attempts: Bucket::new(ATTEMPTS.0, ATTEMPTS.1) }
    }
}

impl Heard {
    fn is_due(&mut self, now: Instant, (id, is_known): (NodeId, bool), at: IpAddr) -> bool {
        while self.all.front().is_some_and(|(.., since)| now.since(*since) >= GAP) {
            self.all.pop_front();
        }
        let here = || self.all.iter().enumerate().filter(|(_, (_, ip, _))| *ip == at);
        let is_full = here().count() >= AT_ONE;
        if here().any(|(_, (who, ..))| *who == id) || is_full && !is_known || !self.attempts.take(now) {
            return false;
        }
        // Anybody in the LAN can write anybody's address: who is known is not kept out by that.
        let oldest = here().next().map(|(i, _)| i).filter(|_| is_full);
        let first = (self.all.len() >= MAX_HEARD).then_some(0);
        oldest.or(first).and_then(|i| self.all.remove(i));
        self.all.push_back((id, at, now));
        true
    }
}

impl Node {
    /// A beacon that says that this node is at `endpoint`, an address of this host on the LAN in question: sealed, so that
    /// it tells an outsider nothing.
    pub fn beacon(&mut self, now: Instant, endpoint: SocketAddr) -> Vec<u8> {
        let time = self.unix_now(now);
        let body =
            proto::Beacon { node_id: self.identity.id().0.to_vec(), endpoint: wire::encode_endpoint(endpoint), time };
        let nonce = self.rng.next_u64();
        let mut sealed = body.encode_to_vec();
        let tag = self.beacon_key().seal(nonce, &[BEACON], &mut sealed);
        [&[BEACON][..], &nonce.to_be_bytes(), &sealed, &tag].concat()
    }

    fn beacon_key(&self) -> AeadKey {
        AeadKey::new(Cipher::ChaCha20Poly1305, self.network.beacon_key())
    }

    fn open_beacon(&self, datagram: &[u8]) -> Option<(NodeId, SocketAddr, UnixTime)> {
        let (nonce, sealed) = datagram.strip_prefix(&[BEACON])?.split_first_chunk::<8>()?;
        let mut sealed = sealed.to_vec();
        if sealed.len() < TAG_LEN {
            return None;
        }
        let len = self.beacon_key().open(u64::from_be_bytes(*nonce), &[BEACON], &mut sealed).ok()?;
        let beacon = wire::decode::<proto::Beacon>(&sealed[..len], "beacon").ok()?;
        Some((NodeId::from_slice(&beacon.node_id)?, wire::decode_endpoint(&beacon.endpoint).ok()?, beacon.time))
    }

    /// A beacon that came by multicast from `from`, an address of the LAN on which it came: the owner has looked.
    pub fn handle_beacon(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let Some((id, endpoint, time)) = self.open_beacon(datagram) else {
            self.counters.drop(Drop::Forged);
            return;
        };
        if id == self.identity.id() {
            return;
        }
        let unix = self.unix_now(now);
        let is_now = time.abs_diff(unix) <= TIME_WINDOW || time < NEVER_SET || unix < NEVER_SET;
        if endpoint.ip() != from.ip().to_canonical() || !is_now {
            self.counters.beacons_refused += 1;
            return;
        }
        self.counters.beacons_heard += 1;
        let has_link = self.peers.get(&id).is_some_and(|p| p.link.is_some());
        let via = Via::Direct(endpoint);
        let known = self.routing.origin(&id).and_then(|o| self.routing.announcement(o));
        let who = (id, known.is_some());
        if has_link || self.door.is_connecting(None, via) || !self.heard.is_due(now, who, endpoint.ip()) {
            return;
        }
        let known = known.map(|k| (id, k.record.noise_static));
        self.door.connect(now, via, known, HEARSAY_TRIES);
        self.pump(now);
    }
}
