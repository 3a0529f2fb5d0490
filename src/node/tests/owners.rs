//! Addresses and names belong to whom they were given, whatever others claim.

use super::*;
use crate::identity::{RecordSource, Verified};

/// A key whose NodeId derives `target`, and lies below `below` or not: what anybody makes in a tenth of a second.
fn ground(network: &Network, target: IpAddr, below: NodeId, lower: bool) -> (Identity, u32) {
    let derives = |id: &NodeId| (0..crate::identity::IPV4_ATTEMPTS).find(|a| network.ipv4(id, *a) == target);
    let keys = (0u64..).map(|n| SigningKey::ed25519_from_seed(&crate::crypto::sha256(&[&n.to_be_bytes()])));
    let found = keys.map(|key| Identity::new(key).unwrap()).find_map(|identity| {
        let attempt = derives(&identity.id()).filter(|_| (identity.id() < below) == lower)?;
        Some((identity, attempt))
    });
    found.unwrap()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A node that begins with the first one, and starts when it is put on the wires.
fn joiner(seed: u8, identity: Identity, network: &Network, change: impl FnOnce(&mut NodeConfig)) -> (u8, Node) {
    let mut node = node_as(identity, seed, network, change);
    node.set_bootstrap(Instant(0), &[addr(1)]);
    (seed, node)
}

fn v4(w: &mut Wires, of: u8) -> IpAddr {
    w.node(of).addresses()[0]
}

/// Whom the node `at` takes for the owner.
fn owner(w: &mut Wires, at: u8, ip: IpAddr) -> Option<NodeId> {
    w.node(at).owners().host(&ip)
}

#[test]
fn a_key_that_was_made_to_fit_takes_nobodys_address() {
    let authority = Authority::new(identity(9));
    let network = network(Some(authority.spki().to_vec()));
    let member = |id: NodeId, group: &str| {
        let certificate = Certificate {
            node: id,
            name: String::new(),
            addresses: vec![],
            prefixes: vec![],
            groups: vec![group.to_owned()],
            not_before: 0,
            not_after: 50_000,
            serial: id.0[..16].try_into().unwrap(),
        };
        authority.issue(&certificate)
    };
    let admin = identity(2);
    let admin_id = admin.id();
    let signed = |id: NodeId, group: &'static str| {
        let certificate = member(id, group);
        move |c: &mut NodeConfig| c.content.certificate = certificate
    };
    let server = node_with(1, &network, signed(identity(1).id(), "servers"));
    let mut w = Wires::new(vec![(1, server), joiner(2, admin, &network, signed(admin_id, "admins"))]);
    w.run(secs(70));
    let address = v4(&mut w, 2);
    let (key, attempt) = ground(&network, address, admin_id, true);
    let mallory = key.id();
    let certificate = member(mallory, "guests");
    w.nodes.push(joiner(3, key, &network, move |c| {
        c.content.certificate = certificate;
        c.content.ipv4_attempt = attempt;
    }));
    // Mallory does not give way, as its node would.
    w.node(3).book.remove(&admin_id);
    w.run(secs(20));
    assert!(w.node(1).routing().origin(&mallory).is_some(), "it is a member");
    assert_eq!(v4(&mut w, 2), address, "the admin has its address still");
    assert_eq!(owner(&mut w, 1, address), Some(admin_id));
    assert_eq!(w.node(1).owners().owns(address, &mallory), Some(false), "Mallory may not send from it");
    assert!(w.node(1).owners().addresses_of(&mallory).all(|ip| ip != address));
    assert_eq!(w.node(1).destination(address).map(|d| d.node), Some(admin_id), "nor is anything sent to it for that");
    assert!(w.node(1).snapshot().owns(address, &admin_id) && !w.node(1).snapshot().owns(address, &mallory));
}

#[test]
fn who_comes_new_cannot_tell_and_takes_an_address_for_nobodys_unless_it_remembers() {
    let network = network(None);
    let victim = identity(2).id();
    let target = IpAddr::V4(network.ipv4(&victim, 0));
    let (key, attempt) = ground(&network, target, victim, true);
    let mallory = key.id();
    let claim = RecordContent { name: "m".into(), ipv4_attempt: attempt, ..Default::default() };
    let forged = key.announce(&network, &claim, 1000, 7200).unwrap();
    let honest = RecordContent { name: "honest".into(), ..Default::default() };
    let honest = identity(2).announce(&network, &honest, 1000, 7200).unwrap();
    let learn = |node: &mut Node, all: &[&Verified]| {
        for known in all {
            let copy = network.verify(&known.bytes, RecordSource::Bytes(&known.record.bytes)).unwrap();
            node.routing.learn(Instant(1), copy);
            node.settle(Instant(1));
        }
    };
    let mut new = node_with(5, &network, |_| {});
    learn(&mut new, &[&forged, &honest]);
    assert_eq!(new.owners().host(&target), None, "contested");
    assert_eq!(new.owners().owns(target, &victim), Some(false));
    assert_eq!(new.owners().candidates(target).next(), None);
    assert_eq!(new.owners().addresses_of(&victim).collect::<Vec<_>>(), [IpAddr::V6(network.ipv6(&victim))]);
    assert_eq!(new.owners().name_owner("honest"), Some(victim), "names and IPv6 work");
    assert_eq!(new.owners().contested_count(), 1);
    assert!(!new.snapshot().owns(target, &mallory) && !new.snapshot().owns(target, &victim));
    new.book.remove(&mallory);
    assert_eq!(new.owners().host(&target), Some(victim), "until one of them gives it up");
    // Who has run before knows who was first.
    let mut old = node_with(5, &network, |_| {});
    old.add_known(Instant(0), &honest.bytes, &honest.record.bytes);
    learn(&mut old, &[&forged]);
    assert_eq!(old.owners().host(&target), Some(victim));
    assert_eq!(old.owners().by_age(), [identity(5).id(), victim, mallory]);
}

/// Two nodes of one address, which start at these times; the second one's NodeId is the lower one, or the higher. Returns whether
/// each has its address after a while.
fn collide(starts: [u64; 2], lower: bool, change: [fn(&mut NodeConfig); 2]) -> [bool; 2] {
    let network = network(None);
    let first = identity(2).id();
    let target = IpAddr::V4(network.ipv4(&first, 0));
    let (key, attempt) = ground(&network, target, first, lower);
    let mut w = Wires::new(vec![(1, node_with(1, &network, |_| {}))]);
    let mut others = vec![
        (starts[0], joiner(2, identity(2), &network, change[0])),
        (
            starts[1],
            joiner(3, key, &network, |c| {
                c.content.ipv4_attempt = attempt;
                change[1](c);
            }),
        ),
    ];
    others.sort_by_key(|o| o.0);
    for (at, node) in others {
        w.run(secs(at).saturating_sub(w.now.since(Instant(0))));
        w.nodes.push(node);
    }
    w.run(secs(30));
    let both = [2, 3].map(|i| v4(&mut w, i));
    assert_ne!(both[0], both[1], "they agree on who has it");
    for (i, ip) in [2, 3].into_iter().zip(both) {
        let id = w.node(i).id();
        assert_eq!(owner(&mut w, 1, ip), Some(id), "and so does everybody");
    }
    both.map(|ip| ip == target)
}

#[test]
fn of_two_new_nodes_the_lower_one_stays_and_an_older_one_always_does() {
    let nothing: fn(&mut NodeConfig) = |_| {};
    let held: fn(&mut NodeConfig) = |c| c.held_until = c.unix_now + 7000;
    assert_eq!(collide([0, 0], true, [nothing; 2]), [false, true], "both new: the lower NodeId stays");
    assert_eq!(collide([0, 0], false, [nothing; 2]), [true, false]);
    assert_eq!(collide([0, 80], true, [nothing; 2]), [true, false], "the first holder stays");
    assert_eq!(collide([0, 80], false, [nothing; 2]), [true, false]);
    // Restarts: others know still who had it.
    assert_eq!(collide([5, 0], true, [held, nothing]), [true, false], "it held the address when it ran before");
    assert_eq!(collide([5, 0], false, [held, nothing]), [true, false]);
}

#[test]
fn a_grant_of_this_very_address_goes_before_all_else() {
    let authority = Authority::new(identity(9));
    let network = network(Some(authority.spki().to_vec()));
    let certified = |seed: u8, addresses: Vec<IpAddr>, not_before: u64| {
        let certificate = Certificate {
            node: identity(seed).id(),
            name: String::new(),
            addresses,
            prefixes: vec![],
            groups: vec![],
            not_before,
            not_after: 50_000,
            serial: [seed; 16],
        };
        let signed = authority.issue(&certificate);
        move |c: &mut NodeConfig| c.content.certificate = signed
    };
    let first = node_with(1, &network, certified(1, vec![], 0));
    let mut w = Wires::new(vec![(1, first), joiner(2, identity(2), &network, certified(2, vec![], 0))]);
    w.run(secs(70));
    let address = v4(&mut w, 2);
    let elsewhere: Vec<IpAddr> = vec!["100.64.77.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    w.nodes.push(joiner(3, identity(3), &network, certified(3, elsewhere, 0)));
    w.run(secs(5));
    assert_eq!(v4(&mut w, 2), address, "another grant says nothing of it");
    w.nodes.push(joiner(4, identity(4), &network, certified(4, vec![address], 20)));
    w.run(secs(5));
    let (two, four) = (w.node(2).id(), w.node(4).id());
    assert_ne!(v4(&mut w, 2), address, "what is granted is given up");
    assert_eq!((owner(&mut w, 1, address), owner(&mut w, 2, address)), (Some(four), Some(four)));
    let moved = v4(&mut w, 2);
    assert_eq!(owner(&mut w, 1, moved), Some(two));
    assert_eq!(w.node(2).counters.address_collisions, 1);
    // Of two grants, the older one.
    w.nodes.push(joiner(5, identity(5), &network, certified(5, vec![address], 10)));
    w.run(secs(5));
    let five = w.node(5).id();
    assert_eq!(owner(&mut w, 1, address), Some(five));
    assert!(w.node(4).status().notes.iter().any(|note| note.contains(&address.to_string())), "its people are told");
}

#[test]
fn whoever_claims_all_addresses_of_a_node_is_not_run_from_for_ever() {
    let tiny = Network::new("n", Some("secret"), None, "100.64.0.0/28".parse().unwrap());
    let mut node = node_with(5, &tiny, |_| {});
    let me = node.id();
    let rivals = (0u64..).map(|n| SigningKey::ed25519_from_seed(&crate::crypto::sha256(&[&n.to_be_bytes()])));
    for rival in rivals.map(|key| Identity::new(key).unwrap()).filter(|i| i.id() < me).take(60) {
        let content = RecordContent { ipv4_attempt: 0, ..Default::default() };
        let known = rival.announce(&tiny, &content, 1000, 7200).unwrap();
        let copy = tiny.verify(&known.bytes, RecordSource::Bytes(&known.record.bytes)).unwrap();
        node.routing.learn(Instant(1), copy);
        node.settle(Instant(1));
    }
    let moves = node.counters.address_collisions;
    assert!(moves <= 14, "{moves} moves over 14 addresses");
    let told = std::iter::from_fn(|| node.poll_event()).filter(|e| matches!(e, Event::AddressContested { .. })).count();
    assert_eq!(told, 1, "and its people are told once");
}
