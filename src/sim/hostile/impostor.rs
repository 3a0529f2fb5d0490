//! Malice in what a node says of itself: addresses, names and endpoints of others.

use std::time::Duration;

use super::{Behaviour, Hand, gossip::SLOT};
use crate::{
    identity::{IPV4_ATTEMPTS, Identity, MAX_ENDPOINTS, Network, RecordContent},
    sim::{happening::address, world::identity},
    types::NodeId,
};

/// The attempt at which a NodeId derives this IPv4 address.
fn attempt_for(network: &Network, id: &NodeId, wanted: std::net::Ipv4Addr) -> Option<u32> {
    (0..IPV4_ATTEMPTS).find(|attempt| network.ipv4(id, *attempt) == wanted)
}

/// Makes keys from `seed` until one derives the victim's IPv4 address and has the lower NodeId. In a network of 65,536
/// addresses that takes some thousand keys.
pub(super) fn grind(network: &Network, seed: [u8; 32], victim: &NodeId) -> [u8; 32] {
    let wanted = network.ipv4(victim, 0);
    let mut rng = crate::crypto::Rng::from_seed(seed);
    loop {
        let key = rng.bytes();
        let id = identity(&key).id();
        // A NodeId near the beginning can't be undercut.
        let is_lower = id < *victim || victim.0[0] < 4;
        if is_lower && attempt_for(network, &id, wanted).is_some() {
            return key;
        }
    }
}

#[derive(Default)]
pub(super) struct Address {
    /// The attempt with which some other node's address comes out, and whose it is.
    found: Option<Option<(u32, usize)>>,
}

impl Behaviour for Address {
    fn act(&mut self, hand: &mut Hand<'_>) {
        let me = Identity::id(hand.identity);
        let found = *self.found.get_or_insert_with(|| {
            let network = &hand.scene.network;
            let victims = (0..hand.scene.ids.len()).filter(|i| !hand.scene.hostile[*i]);
            victims.into_iter().find_map(|i| Some((attempt_for(network, &me, network.ipv4(&hand.scene.ids[i], 0))?, i)))
        });
        let Some((ipv4_attempt, victim)) = found else { return };
        let content = RecordContent {
            name: format!("n{victim}"),
            ipv4_attempt,
            endpoints: vec![address(hand.me)],
            ..RecordContent::default()
        };
        hand.spread(content, SLOT);
    }

    fn pause(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn is_steady(&self) -> bool {
        true
    }
}

#[derive(Default)]
pub(super) struct Name {
    round: usize,
}

impl Behaviour for Name {
    fn act(&mut self, hand: &mut Hand<'_>) {
        self.round += 1;
        let victim = hand.victim();
        let name = match self.round % 4 {
            0 => hand.scene.ids[victim].to_string(),
            1 => "wpad".to_owned(),
            _ => format!("n{victim}"),
        };
        let content = RecordContent { name, endpoints: vec![address(hand.me)], ..RecordContent::default() };
        hand.spread(content, SLOT);
    }

    fn pause(&self) -> Duration {
        Duration::from_secs(3)
    }

    fn is_steady(&self) -> bool {
        true
    }
}

#[derive(Default)]
pub(super) struct Endpoints {
    round: u32,
}

impl Behaviour for Endpoints {
    fn act(&mut self, hand: &mut Hand<'_>) {
        self.round += 1;
        let endpoints = (0..MAX_ENDPOINTS)
            .map(|_| if hand.rng.chance(0.3) { address(hand.victim()) } else { hand.outsider() })
            .collect();
        let content = RecordContent { name: format!("e{}", hand.me), endpoints, ..RecordContent::default() };
        hand.spread(content, SLOT);
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(200)
    }
}
