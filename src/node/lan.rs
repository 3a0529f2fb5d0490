//! Beacons: how nodes of one LAN find each other. A beacon is taken from the socket that hears the LAN's multicast only, is
//! bound to its sender's address, and is good for two minutes: who records one can neither send us anywhere with it nor
//! learn from afar that we belong to the network.

use std::{collections::HashMap, net::SocketAddr};

use prost::Message as _;

use super::{Node, forward::Drop};
use crate::{
    crypto::{AeadKey, Cipher, TAG_LEN},
    session::{HEARSAY_TRIES, Via},
    types::{Duration, Instant, NodeId, UnixTime},
    wire::{self, packet::BEACON, proto},
};

/// The sender's clock and ours may differ by so much, in seconds.
const TIME_WINDOW: u64 = 120;
/// 2025-01-01: a clock that is earlier was never set.
const NEVER_SET: UnixTime = 1_735_689_600;
/// One attempt per node in so long.
const GAP: Duration = Duration::from_secs(25);
/// Nodes of a LAN whose beacons are told apart.
const MAX_HEARD: usize = 256;

/// From whom a beacon was heard, and when it was acted on.
#[derive(Debug, Default)]
pub(super) struct Heard(HashMap<NodeId, Instant>);

impl Heard {
    fn is_due(&mut self, now: Instant, id: NodeId) -> bool {
        if self.0.get(&id).is_some_and(|at| now.since(*at) < GAP) {
            return false;
        }
        if self.0.len() >= MAX_HEARD {
            self.0.retain(|_, at| now.since(*at) < GAP);
        }
        let has_room = self.0.len() < MAX_HEARD;
        if has_room {
            self.0.insert(id, now);
        }
        has_room
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
        if has_link || self.door.is_connecting(Some(id), via) || !self.heard.is_due(now, id) {
            return;
        }
        let known = self.routing.origin(&id).and_then(|o| self.routing.announcement(o));
        let known = known.map(|k| (id, k.record.noise_static));
        self.discovery.seen(now, id, endpoint);
        self.door.connect(now, via, known, HEARSAY_TRIES);
        self.pump(now);
    }
}
