//! Malice outside of sessions: handshakes, replays, beacons and junk, from any address.

use std::{net::SocketAddr, time::Duration};

use super::{Behaviour, Hand, hand::Heard};
use crate::{
    crypto::Cipher,
    session::{Outgoing, Sessions, Via},
    sim::happening::address,
    types::{NodeId, NodeTag},
    wire::packet::{self, HandshakeKind, MAX_FRAGMENTS},
};

/// Handshakes that were begun with one set of state machines, which remember them.
const AT_ONCE: u32 = 50;

/// Makes first messages that are right in everything but that nobody is going to answer the second one.
#[derive(Default)]
struct Starter {
    sessions: Option<Sessions>,
    begun: u32,
}

impl Starter {
    fn begin(&mut self, hand: &mut Hand<'_>, victim: usize) -> Vec<Vec<u8>> {
        if self.begun.is_multiple_of(AT_ONCE) {
            self.sessions = None;
        }
        self.begun += 1;
        let sessions = self.sessions.get_or_insert_with(|| {
            let network = hand.scene.network.clone();
            Sessions::new(network, hand.identity, &Cipher::all_here(), hand.rng.fork(), hand.now)
        });
        if let Some(own) = hand.node.routing().own() {
            sessions.set_own(own, None);
        }
        let id = hand.scene.ids[victim];
        let known = hand.node.routing().origin(&id).and_then(|o| hand.node.routing().announcement(o));
        let remote = known.filter(|_| hand.rng.chance(0.5)).map(|k| (id, k.record.noise_static));
        sessions.connect(hand.now, Via::Direct(address(victim)), remote, 1);
        let mut out = Vec::new();
        while let Some(Outgoing { bytes, .. }) = sessions.poll_transmit() {
            out.push(bytes);
        }
        while sessions.poll_event().is_some() {}
        out
    }
}

/// A handshake fragment with a sound mac1 and nothing sound behind it.
fn junk_fragment(hand: &mut Hand<'_>) -> Vec<u8> {
    use HandshakeKind::{Ik1, Ik2, Xx1, Xx2, Xx3};
    let kind = [Xx1, Xx2, Xx3, Ik1, Ik2][hand.below(5)];
    let fragments = 1 + hand.below(usize::from(MAX_FRAGMENTS)) as u8;
    let fragment = hand.below(usize::from(fragments)) as u8;
    let header = packet::handshake_header(kind, fragment, fragments, hand.rng.next_u32(), hand.rng.next_u32());
    let body = hand.any_bytes(1100);
    let mac1 = hand.scene.network.gate().tag(&[&header, &body]);
    let mac2: [u8; 16] = hand.rng.bytes();
    [&header[..], &mac1, &mac2, &body].concat()
}

#[derive(Default)]
pub(super) struct Handshakes(Starter);

impl Behaviour for Handshakes {
    fn act(&mut self, hand: &mut Hand<'_>) {
        let victim = hand.victim();
        let from = hand.any_address();
        for datagram in self.0.begin(hand, victim) {
            hand.datagram(from, address(victim), datagram);
        }
        for _ in 0..3 {
            let from = hand.any_address();
            let junk = junk_fragment(hand);
            hand.datagram(from, address(victim), junk);
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(40)
    }
}

#[derive(Default)]
pub(super) struct RelayedHandshakes(Starter);

impl Behaviour for RelayedHandshakes {
    fn act(&mut self, hand: &mut Hand<'_>) {
        let victim = hand.victim();
        let id = hand.scene.ids[victim];
        let source = match hand.below(3) {
            0 => hand.scene.ids[hand.me].tag(),
            1 => hand.scene.ids[hand.somebody()].tag(),
            _ => NodeTag(hand.rng.next_u64()),
        };
        for datagram in self.0.begin(hand, victim) {
            hand.relayed(id, source, &datagram);
        }
        let junk = junk_fragment(hand);
        hand.relayed(id, source, &junk);
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(40)
    }
}

pub(super) struct Replays;

impl Behaviour for Replays {
    fn act(&mut self, hand: &mut Hand<'_>) {
        for _ in 0..6 {
            if hand.heard.is_empty() {
                return;
            }
            let Heard { from, to, bytes } = hand.heard[hand.below(hand.heard.len())].clone();
            let to = if hand.rng.chance(0.7) { to } else { hand.victim() };
            let from: SocketAddr = if hand.rng.chance(0.5) { from } else { hand.any_address() };
            hand.datagram(from, address(to), bytes);
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(50)
    }
}

pub(super) struct Beacons;

impl Behaviour for Beacons {
    fn act(&mut self, hand: &mut Hand<'_>) {
        let victim = address(hand.victim());
        let from = hand.any_address();
        let beacon = hand.node.beacon(hand.now, from);
        hand.datagram(from, victim, beacon);
        // A cookie for a handshake that may be under way.
        let mut cookie = vec![packet::COOKIE, 0, 0, 0];
        cookie.extend_from_slice(&hand.any_bytes(80));
        let from = address(hand.somebody());
        hand.datagram(from, victim, cookie);
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(50)
    }
}

pub(super) struct Datagrams;

impl Behaviour for Datagrams {
    fn act(&mut self, hand: &mut Hand<'_>) {
        for _ in 0..6 {
            let (from, to) = (hand.any_address(), address(hand.victim()));
            let bytes = if hand.heard.is_empty() || hand.rng.chance(0.5) {
                let mut bytes = hand.any_bytes(1300);
                bytes.insert(0, 0x3f + hand.below(9) as u8);
                bytes
            } else {
                let mut bytes = hand.heard[hand.below(hand.heard.len())].bytes.clone();
                for _ in 0..=hand.below(4) {
                    let at = hand.below(bytes.len());
                    bytes[at] ^= 1 << hand.below(8);
                }
                bytes.truncate(1 + hand.below(bytes.len()).max(hand.below(bytes.len())));
                bytes
            };
            hand.datagram(from, to, bytes);
        }
        // A hop header that is sound, around junk, for anybody.
        let (to, inner) = (hand.scene.ids[hand.victim()], hand.any_bytes(600));
        let to = if hand.rng.chance(0.2) { NodeId(hand.rng.bytes()) } else { to };
        let source = NodeTag(hand.rng.next_u64());
        hand.relayed(to, source, &inner);
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(60)
    }
}
