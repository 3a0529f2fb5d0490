//! Where a search begins.

use super::{
    super::{joining::*, *},
    world::{Files, World},
};

/// Starts a node: its number, what its files say, how often it was started before, and now.
pub(super) type Make = fn(u8, &Files, u32, Instant) -> Node;

fn start(
    seed: u8,
    network: &Network,
    (files, life, now): (&Files, u32, Instant),
    change: impl FnOnce(&mut NodeConfig),
) -> Node {
    let content = RecordContent { name: format!("n{seed}"), endpoints: vec![addr(seed)], ..Default::default() };
    let mut config = NodeConfig::new(network.clone(), content, 1000 + now.0 / 1_000_000);
    (config.seqno, config.punch) = (files.seqno, false);
    change(&mut config);
    if let Some(certificate) = &files.certificate {
        config.content.certificate = certificate.clone();
    }
    if let Some(invitations) = &files.invitations {
        config.invitations = invitations.clone();
    }
    let generator = [seed.wrapping_add(16 * life as u8); 32];
    Node::new(config, identity(seed), Box::new(network.clone()), generator, now).unwrap()
}

/// What another node says of itself, as it is known from an earlier run.
fn known(node: &mut Node, now: Instant, seed: u8, network: &Network) {
    let content = RecordContent { name: format!("n{seed}"), endpoints: vec![addr(seed)], ..Default::default() };
    let said = identity(seed).announce(network, &content, 999, 7200).unwrap();
    node.add_known(now, &said.bytes, &said.record.bytes);
}

/// Knows the other one, and so begins with `IK`.
fn knows(seed: u8, files: &Files, life: u32, now: Instant) -> Node {
    let network = network(None);
    let mut node = start(seed, &network, (files, life, now), |_| {});
    known(&mut node, now, 3 - seed, &network);
    node
}

/// Knows nobody, and is told nothing.
fn waits(seed: u8, files: &Files, life: u32, now: Instant) -> Node {
    start(seed, &network(None), (files, life, now), |_| {})
}

/// Knows where the other one is, and so begins with `XX`.
fn seeks(seed: u8, files: &Files, life: u32, now: Instant) -> Node {
    let mut node = waits(seed, files, life, now);
    node.set_bootstrap(now, &[addr(3 - seed)]);
    node
}

fn invites(_: u8, files: &Files, life: u32, now: Instant) -> Node {
    let network = closed_network();
    let invitation = Invitation {
        key: crate::identity::InviteKey::derive(&SECRET),
        expires: 500_000,
        name: "cfo".to_owned(),
        groups: vec!["admins".to_owned()],
        used_by: None,
    };
    start(1, &network, (files, life, now), |c| {
        c.content.certificate = certificate(1, "root", &[]);
        c.authority = Some(authority());
        c.invitations = vec![invitation];
    })
}

fn joins(seed: u8, files: &Files, life: u32, now: Instant) -> Node {
    let is_member = files.certificate.is_some();
    let mut node =
        start(seed, &closed_network(), (files, life, now), |c| c.admission = admission().filter(|_| !is_member));
    node.set_bootstrap(now, &[addr(1)]);
    node
}

fn mallory(seed: u8, files: &Files, life: u32, now: Instant) -> Node {
    let network = closed_network();
    start(seed, &network, (files, life, now), |c| c.content.certificate = certificate(seed, "mallory", &[]))
}

fn nobody(seed: u8, files: &Files, life: u32, now: Instant) -> Node {
    start(seed, &closed_network(), (files, life, now), |_| {})
}

pub(super) struct Scene {
    pub name: &'static str,
    pub what: &'static str,
    /// Every run searches so deep.
    pub depth: u32,
    pub set: fn() -> World,
}

fn pair(a: Make, b: Make) -> World {
    let mut w = World::new();
    w.add('A', 1, false, a);
    w.add('B', 2, false, b);
    w.sends = true;
    w.collect();
    w
}

fn first_contact() -> World {
    pair(knows, waits)
}

fn seeking() -> World {
    pair(seeks, waits)
}

fn crossing() -> World {
    pair(seeks, seeks)
}

/// Renews the session, by the first one's doing; the attacker holds back what the second one answers, if told to.
fn renew(w: &mut World, by: usize, to: usize, answered: bool) {
    let now = w.now;
    let (id, place) = (w.actors[to].id, w.actors[to].addr);
    let node = &mut w.actors[by].node;
    let remote =
        node.routing.origin(&id).and_then(|o| node.routing.announcement(o)).map(|k| (id, k.record.noise_static));
    node.door.connect(now, Via::Direct(place), remote, 1);
    node.settle(now);
    w.collect();
    if answered {
        w.calm(Duration::from_secs(1));
    } else {
        w.wait(Duration::from_secs(1));
    }
}

/// Both have lived before, and what they said then is on the tape: renewals that were answered, and some that were not.
fn second_life() -> World {
    let mut w = pair(knows, seeks);
    w.calm(Duration::from_secs(1));
    renew(&mut w, 0, 1, true);
    renew(&mut w, 1, 0, true);
    renew(&mut w, 0, 1, false);
    renew(&mut w, 1, 0, false);
    w.restart(1);
    w.calm(Duration::from_secs(2));
    w.restart(0);
    w.calm(Duration::from_secs(2));
    (w.silence, w.restarts) = (0, 0);
    w
}

/// Linked, and renewals under way from both ends at once.
fn renewal() -> World {
    let mut w = pair(seeks, waits);
    w.calm(Duration::from_secs(1));
    for (by, to) in [(0, 1), (1, 0)] {
        let now = w.now;
        let (id, place) = (w.actors[to].id, w.actors[to].addr);
        let node = &mut w.actors[by].node;
        let remote =
            node.routing.origin(&id).and_then(|o| node.routing.announcement(o)).map(|k| (id, k.record.noise_static));
        node.door.connect(now, Via::Direct(place), remote, PROVEN_TRIES);
        node.settle(now);
        w.collect();
    }
    w
}

/// Linked; and the attacker has held back the packet that would have made a handshake of an earlier life true.
fn held_back() -> World {
    let mut w = pair(knows, waits);
    w.wait(Duration::from_millis(100));
    // First message and answer arrive, and nothing else.
    w.pass_first(0);
    w.pass_first(1);
    w.hold();
    w.restart(0);
    w.calm(Duration::from_secs(2));
    (w.silence, w.restarts) = (0, 0);
    w
}

/// The joiner has its certificate, and has come back with it; but its goodbye to what was before is held back.
fn goodbye() -> World {
    let mut w = invitation();
    for _ in 0..100 {
        if w.actors[1].files.certificate.is_some() {
            break;
        }
        w.calm_step();
    }
    w.hold();
    w.calm(Duration::from_secs(2));
    w.silence = 0;
    w
}

/// An inviter, a joiner, and an attacker that is a member and can make itself another key.
fn invitation() -> World {
    let mut w = World::new();
    w.add('A', 1, false, invites);
    w.add('B', 2, false, joins);
    w.add('C', 3, true, mallory);
    w.add('D', 4, true, nobody);
    w.junk =
        vec![b"junk".to_vec(), certificate(3, "mallory", &[]), certificate(1, "older", &[]), certificate(2, "", &[])];
    w.max_restarts = 1;
    w.collect();
    w
}

/// The same, after the joiner has become a member.
fn joined() -> World {
    let mut w = invitation();
    w.calm(Duration::from_secs(3));
    w.silence = 0;
    w
}

/// A scene, and how deep every run searches it.
const fn scene(name: &'static str, what: &'static str, depth: u32, set: fn() -> World) -> Scene {
    Scene { name, what, depth, set }
}

pub(super) const SCENES: &[Scene] = &[
    scene("first contact", "A knows B and begins (IK)", 4, first_contact),
    scene("seeking", "A knows where B is and begins (XX)", 4, seeking),
    scene("crossing", "both begin at once, and neither knows the other (XX)", 4, crossing),
    scene("renewal", "linked, and both renew the session at once (IK)", 3, renewal),
    scene("second life", "linked, and the tape has what both said in earlier lives", 2, second_life),
    scene("held back", "linked, and a packet of A's earlier life is still on its way", 2, held_back),
    scene("goodbye", "B is a member, and the goodbye that it said as a guest is still on its way", 2, goodbye),
    scene("invitation", "A invites, B joins, C is a hostile member, and D is its second key", 3, invitation),
    scene("joined", "the same, when B is a member", 2, joined),
];
