//! Who plays whom: the network's authority, everybody's certificate, and which nodes are hostile in which ways.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Plan, Way, hand::Scene, impostor, stage::Player};
use crate::{
    crypto::{Rng, sha256},
    identity::{Authority, Certificate, Network},
    sim::{
        Options,
        world::{EPOCH, SECRET, identity},
    },
    types::Instant,
};

/// Certificates outlive the longest run by far.
const VALID_S: u64 = 10 * 365 * 86_400;

/// Who is hostile. The nodes that others begin with may be among them.
fn choose(plan: &Plan, nodes: usize, rng: &mut Rng) -> Vec<bool> {
    let mut order: Vec<usize> = (0..nodes).collect();
    shuffle(&mut order, rng);
    let mut hostile = vec![false; nodes];
    order.into_iter().take(plan.count.min(nodes.saturating_sub(2))).for_each(|i| hostile[i] = true);
    hostile
}

fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.below(i as u64 + 1) as usize);
    }
}

/// Deals the ways out: all are in play before one is there twice, if there are hands enough.
fn deal(plan: &Plan, players: usize, rng: &mut Rng) -> Vec<Vec<Way>> {
    if let Some(only) = plan.only {
        return vec![vec![only]; players];
    }
    let mut deck = Vec::new();
    let mut hands = vec![Vec::new(); players];
    for round in 0..3 {
        for hand in &mut hands {
            // The third one is not everybody's.
            if round == 2 && rng.chance(0.5) {
                continue;
            }
            if deck.is_empty() {
                deck = Way::ALL.to_vec();
                shuffle(&mut deck, rng);
            }
            let way = deck.pop().filter(|way| !hand.contains(way));
            hand.extend(way);
        }
    }
    hands
}

fn certificate(network: &Network, i: usize, key: &[u8; 32], hostile: bool) -> Certificate {
    let node = identity(key).id();
    // Some have their address from the authority, some derive it; a hostile node was invited without a name.
    let granted = !hostile && !i.is_multiple_of(3);
    Certificate {
        node,
        name: if hostile { String::new() } else { format!("n{i}") },
        addresses: if granted { vec![network.ipv4(&node, 0).into()] } else { Vec::new() },
        prefixes: Vec::new(),
        groups: vec!["members".to_owned()],
        not_before: EPOCH - 86_400,
        not_after: EPOCH + VALID_S,
        serial: sha256(&[b"serial", key])[..16].try_into().unwrap_or_default(),
    }
}

/// Makes the scene and the players; hostile nodes whose way needs one get another key.
pub(super) fn cast(plan: &Plan, options: &Options, keys: &mut [[u8; 32]]) -> (Scene, BTreeMap<usize, Player>) {
    let seed =
        |what: &str, i: u64| sha256(&[b"hostile", what.as_bytes(), &options.seed.to_be_bytes(), &i.to_be_bytes()]);
    let mut rng = Rng::from_seed(seed("casting", 0));
    let hostile = choose(plan, keys.len(), &mut rng);
    let authority = Authority::new(identity(&seed("authority", 0)));
    let range = "100.64.0.0/16".parse().expect("a valid prefix");
    let network = Network::new("simulation", Some(SECRET), Some(authority.spki().to_vec()), range);

    let actors: Vec<usize> = (0..keys.len()).filter(|i| hostile[*i]).collect();
    let hands = deal(plan, actors.len(), &mut rng);
    for (i, ways) in actors.iter().zip(&hands) {
        if ways.contains(&Way::Address) {
            let honest: Vec<usize> = (0..keys.len()).filter(|i| !hostile[*i]).collect();
            let victim = honest[rng.below(honest.len() as u64) as usize];
            keys[*i] = impostor::grind(&network, rng.bytes(), &identity(&keys[victim]).id());
        }
    }
    let mut issued: Vec<Certificate> =
        keys.iter().enumerate().map(|(i, key)| certificate(&network, i, key, hostile[i])).collect();
    // An authority grants no address twice.
    let mut granted = BTreeSet::new();
    issued.iter_mut().for_each(|c| c.addresses.retain(|ip| granted.insert(*ip)));
    let old = |new: &Certificate| Certificate {
        groups: Vec::new(),
        addresses: Vec::new(),
        not_before: new.not_before - 86_400,
        serial: sha256(&[&new.serial])[..16].try_into().unwrap_or_default(),
        ..new.clone()
    };
    let scene = Scene {
        ids: issued.iter().map(|c| c.node).collect(),
        certificates: issued.iter().map(|c| authority.issue(c)).collect(),
        old: issued.iter().map(|c| authority.issue(&old(c))).collect(),
        network,
        hostile,
    };
    let players = actors.into_iter().zip(hands).map(|(i, ways)| {
        let player = Player {
            identity: identity(&keys[i]),
            rng: Rng::from_seed(seed("player", i as u64)),
            behaviours: ways.iter().map(|way| way.behaviour()).collect(),
            bouts: vec![Instant::default(); ways.len()],
            done: vec![0; ways.len()],
            ways,
            heard: VecDeque::new(),
            seqno: 0,
        };
        (i, player)
    });
    let players = players.collect();
    (scene, players)
}
