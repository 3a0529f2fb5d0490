//! Two and three nodes wired back to back: what only a whole node can show.

use std::collections::BTreeSet;

use super::*;
use crate::{
    crypto::SigningKey,
    identity::{Certificate, InviteKey, Refusal, Revocations},
    wire::packet::{self, Datagram},
};

mod explore;
mod hostile;
mod joining;
mod owners;
mod proof;
mod reach;
mod thieves;

fn addr(i: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, i], 51_900))
}

fn identity(seed: u8) -> Identity {
    Identity::new(SigningKey::ed25519_from_seed(&[seed; 32])).unwrap()
}

fn network(authority: Option<Vec<u8>>) -> Network {
    Network::new("n", Some("secret"), authority, "100.64.0.0/16".parse().unwrap())
}

fn node_with(seed: u8, network: &Network, change: impl FnOnce(&mut NodeConfig)) -> Node {
    node_as(identity(seed), seed, network, change)
}

fn node_as(identity: Identity, seed: u8, network: &Network, change: impl FnOnce(&mut NodeConfig)) -> Node {
    let content = RecordContent { name: format!("n{seed}"), endpoints: vec![addr(seed)], ..Default::default() };
    let mut config = NodeConfig::new(network.clone(), content, 1000);
    config.rekey_after = Duration::from_secs(100);
    change(&mut config);
    // The generator decides on indexes, and so on which of two sessions wins: let it differ with the number.
    let generator = [seed.wrapping_add(config.seqno as u8); 32];
    Node::new(config, identity, Box::new(network.clone()), generator, Instant(0)).unwrap()
}

struct Wires {
    nodes: Vec<(u8, Node)>,
    now: Instant,
    delivered: Vec<(u8, Vec<u8>)>,
    /// Datagrams recorded on their way: from, to, bytes.
    tape: Vec<(u8, u8, Vec<u8>)>,
    /// Datagrams longer than this that must not be fragmented are lost.
    mtu: usize,
    /// Pairs between which nothing passes.
    cut: Vec<(u8, u8)>,
    /// Pairs between which nothing passes that is relayed.
    dark: Vec<(u8, u8)>,
    /// Kinds of datagrams that are lost.
    lost: Vec<u8>,
    /// Certificates that nodes have got.
    certified: Vec<(u8, Vec<u8>)>,
    /// The relay 2 makes the ends 1 and 4 believe that each is at the address 5, where it stands and passes on what is no longer
    /// than this.
    proxy: Option<usize>,
    /// Hostile relays, and the longest datagram with a user's packet or a question that they pass.
    thieves: (Vec<u8>, usize),
    /// Who has something to save, and whether it is its own.
    saves: BTreeSet<(u8, bool)>,
    /// The first of them is behind a NAT: nothing comes to it from the other one that it has sent nothing to.
    nat: Option<(u8, u8)>,
}

impl Wires {
    fn new(nodes: Vec<(u8, Node)>) -> Self {
        let (delivered, tape, cut, dark, lost, certified, saves, proxy, thieves, nat) = Default::default();
        Self {
            nodes,
            mtu: 1472,
            now: Instant(1),
            delivered,
            tape,
            cut,
            dark,
            lost,
            certified,
            saves,
            proxy,
            thieves,
            nat,
        }
    }

    fn node(&mut self, i: u8) -> &mut Node {
        &mut self.nodes.iter_mut().find(|n| n.0 == i).unwrap().1
    }

    /// Lets `time` pass in steps of 5 ms.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(5);
            for i in 0..self.nodes.len() {
                let now = self.now;
                self.nodes[i].1.handle_timeout(now);
            }
            self.carry();
        }
    }

    fn carry(&mut self) {
        loop {
            let mut air = Vec::new();
            for (i, node) in &mut self.nodes {
                while let Some(t) = node.poll_transmit() {
                    air.push((*i, t));
                }
                while let Some(event) = node.poll_event() {
                    match event {
                        Event::Deliver(packet) => self.delivered.push((*i, packet)),
                        Event::Certified(certificate) => self.certified.push((*i, certificate)),
                        Event::StateChanged => _ = self.saves.insert((*i, true)),
                        Event::PeersChanged => _ = self.saves.insert((*i, false)),
                        _ => {}
                    }
                }
            }
            if air.is_empty() {
                return;
            }
            for (from, mut t) in air {
                let Some(to) = (1..=30).find(|i| addr(*i) == t.to) else { continue };
                self.tape.push((from, to, t.bytes.clone()));
                if t.whole && t.bytes.len() > self.mtu || self.lost.contains(&t.bytes[0]) {
                    continue;
                }
                if self.cut.contains(&(from, to)) || self.cut.contains(&(to, from)) {
                    continue;
                }
                let is_dark = self.dark.contains(&(from, to)) || self.dark.contains(&(to, from));
                if is_dark && t.bytes.first() == Some(&packet::HOP) {
                    continue;
                }
                let is_stolen = self.thieves.0.contains(&from) || self.thieves.0.contains(&to);
                let is_sealed = t.bytes[0] == packet::HOP && t.bytes.get(packet::HOP_HEADER) == Some(&packet::DATA);
                if is_stolen && is_sealed && t.bytes.len() > self.thieves.1 {
                    continue;
                }
                if self.nat == Some((to, from)) && !self.tape.iter().any(|t| (t.0, t.1) == (to, from)) {
                    continue;
                }
                let now = self.now;
                let proxied = self.proxied(from, to, &t.bytes);
                if let Some((other, mut bytes)) = proxied {
                    if Some(bytes.len()) <= self.proxy {
                        self.node(other).handle_datagram(now, addr(5), 1, &mut bytes);
                    }
                } else if let Some((_, node)) = self.nodes.iter_mut().find(|n| n.0 == to) {
                    node.handle_datagram(now, addr(from), 1, &mut t.bytes);
                }
            }
        }
    }

    /// What the proxy takes hold of, and for whom it is: what is sent to its address, and packets to be relayed, out of their
    /// hop headers.
    fn proxied(&mut self, from: u8, to: u8, bytes: &[u8]) -> Option<(u8, Vec<u8>)> {
        let other = [(1, 4), (4, 1)].into_iter().find(|pair| pair.0 == from && self.proxy.is_some())?.1;
        let inner = bytes.get(packet::HOP_HEADER..).filter(|inner| inner.first() == Some(&packet::DATA));
        let tag = self.node(other).id().tag().0.to_be_bytes();
        match inner.filter(|_| to == 2 && bytes[0] == packet::HOP && bytes[16..24] == tag) {
            Some(inner) => Some((other, inner.to_vec())),
            None => (to == 5).then(|| (other, bytes.to_vec())),
        }
    }

    fn packet(&mut self, from: u8, to: u8, tag: u8) -> Vec<u8> {
        let (IpAddr::V4(a), IpAddr::V4(b)) = (self.node(from).addresses()[0], self.node(to).addresses()[0]) else {
            panic!()
        };
        let mut p = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0];
        p.extend_from_slice(&a.octets());
        p.extend_from_slice(&b.octets());
        p.resize(60, tag);
        p
    }

    fn send(&mut self, from: u8, to: u8, tag: u8) -> Vec<u8> {
        let packet = self.packet(from, to, tag);
        let now = self.now;
        self.node(from).handle_tun(now, &packet);
        self.carry();
        packet
    }
}

fn pair() -> Wires {
    let network = network(None);
    let (a, mut b) = (node_with(1, &network, |_| {}), node_with(2, &network, |_| {}));
    b.set_bootstrap(Instant(0), &[addr(1)]);
    let mut wires = Wires::new(vec![(1, a), (2, b)]);
    wires.run(Duration::from_secs(1));
    wires
}

/// Nodes 1 and 3, which reach each other by the relay 2 only.
fn by_relay() -> Wires {
    let network = network(None);
    let (a, b, c) = (node_with(1, &network, |_| {}), node_with(2, &network, |_| {}), node_with(3, &network, |_| {}));
    let mut w = Wires::new(vec![(1, a), (2, b), (3, c)]);
    w.cut.push((1, 3));
    w.node(1).set_bootstrap(Instant(0), &[addr(2)]);
    w.node(3).set_bootstrap(Instant(0), &[addr(2)]);
    w.run(Duration::from_secs(2));
    w
}

#[test]
fn packets_pass_replays_and_forgeries_are_counted_and_do_not() {
    let mut w = pair();
    w.tape.clear();
    let packet = w.send(1, 2, 7);
    assert_eq!(w.delivered, [(2, packet)]);
    let recorded = w.tape.iter().find(|t| t.2[0] == packet::DATA && t.1 == 2).unwrap().2.clone();
    let now = w.now;
    w.node(2).handle_datagram(now, addr(1), 1, &mut recorded.clone());
    assert_eq!(w.node(2).counters.dropped(forward::Drop::Replayed), 1);
    let mut forged = recorded.clone();
    forged[30] ^= 1;
    w.node(2).handle_datagram(now, addr(1), 1, &mut forged);
    assert_eq!(w.node(2).counters.dropped(forward::Drop::Forged), 1);
    let mut unknown = recorded;
    unknown[4] ^= 0xff;
    w.node(2).handle_datagram(now, addr(1), 1, &mut unknown);
    assert_eq!(w.node(2).counters.dropped(forward::Drop::UnknownSession), 1);
    w.carry();
    assert_eq!(w.delivered.len(), 1);
}

#[test]
fn ones_own_number_and_hold_are_to_be_saved_at_once_and_what_others_say_is_not() {
    let mut w = pair();
    w.run(Duration::from_secs(30));
    w.saves.clear();
    w.node(2).set_announced(vec!["192.168.77.0/24".parse().unwrap()], String::new(), vec![]);
    w.run(Duration::from_secs(20));
    assert_eq!(w.saves, [(1, false), (2, true)].into());
    w.saves.clear();
    w.run(Duration::from_secs(20));
    assert_eq!(w.saves, [(1, true), (2, true)].into(), "both hold their addresses from now on");
}

#[test]
fn a_packet_with_a_foreign_source_is_dropped() {
    let mut w = pair();
    let mut packet = w.packet(1, 2, 7);
    packet[12..16].copy_from_slice(&[8, 8, 8, 8]);
    let now = w.now;
    w.node(1).handle_tun(now, &packet);
    w.carry();
    assert_eq!(w.node(2).counters.dropped(forward::Drop::SpoofedSource), 1);
    assert!(w.delivered.is_empty());
}

#[test]
fn a_rekey_loses_nothing() {
    let mut w = pair();
    let mut expected = Vec::new();
    for i in 0..3000u32 {
        let packet = w.send(1, 2, (i % 250) as u8);
        expected.push((2, packet));
        w.run(Duration::from_millis(50));
    }
    assert!(w.node(1).counters.rekeys + w.node(2).counters.rekeys >= 1, "150 s at one rekey per 100 s");
    assert_eq!(w.delivered, expected);
}

#[test]
fn a_relay_forwards_what_it_cannot_read_and_traffic_moves_when_a_link_dies() {
    let mut w = by_relay();
    w.tape.clear();
    let packet = w.send(1, 3, 0xaa);
    w.run(Duration::from_secs(1));
    assert_eq!(w.delivered, [(3, packet)]);
    assert!(w.node(2).counters.relayed > 0);
    assert!(!w.tape.iter().any(|t| t.2.windows(20).any(|x| x == [0xaa; 20])), "no plain byte on any wire");
    // The direct path opens and takes over; then it dies and the relay does.
    w.cut.clear();
    w.run(Duration::from_secs(30));
    let (me, c) = (w.node(1).id(), w.node(3).id());
    let next = |w: &mut Wires| {
        let routing = w.node(1).routing();
        routing.next_hop(routing.origin(&c).unwrap())
    };
    assert_eq!(next(&mut w), Some(c), "{me:?} reaches {c:?} directly");
    w.cut.push((1, 3));
    let (mut answered, mut at) = (None, 0);
    w.delivered.clear();
    while answered.is_none() && at < 1000 {
        w.send(1, 3, 1);
        w.run(Duration::from_millis(10));
        at += 10;
        answered = (!w.delivered.is_empty()).then_some(at);
    }
    assert!(answered.is_some_and(|ms| ms <= 500), "an outage of {answered:?} ms");
}

#[test]
fn what_waits_for_one_handshake_outlives_another_that_ends_without_an_answer() {
    let mut w = by_relay();
    // One to an address where nobody answers; then one through the relay, where it takes a while.
    let (now, peer) = (w.now, w.node(3).id());
    let key = w
        .node(1)
        .routing()
        .origin(&peer)
        .and_then(|o| w.node(1).routing().announcement(o))
        .unwrap()
        .record
        .noise_static;
    let a = w.node(1);
    let failed = a.counters.handshakes_failed;
    a.door.connect(now, Via::Direct(addr(9)), Some((peer, key)), 1);
    a.pump(now);
    w.dark.push((1, 2));
    let packet = w.send(1, 3, 0xaa);
    while w.node(1).counters.handshakes_failed == failed {
        w.run(Duration::from_millis(5));
    }
    w.dark.clear();
    w.run(Duration::from_secs(5));
    assert_eq!(w.delivered, [(3, packet)]);
}

#[test]
fn a_cut_is_noticed_at_once_by_traffic_that_begins_after_any_pause() {
    for pause_ms in (500..9_000).step_by(500) {
        let mut w = pair();
        w.send(1, 2, 0);
        w.run(Duration::from_millis(pause_ms));
        w.cut.push((1, 2));
        for i in 0..60 {
            w.send(1, 2, i);
            w.run(Duration::from_millis(10));
        }
        assert_eq!(w.node(1).counters.links_down, 1, "after a pause of {pause_ms} ms");
    }
}

#[test]
fn packets_are_no_longer_than_the_path_takes() {
    let mut w = pair();
    let longest = |w: &mut Wires| {
        let id = w.node(2).id();
        w.node(1).destination_node(&id).unwrap().mtu()
    };
    assert_eq!(longest(&mut w), 1420);
    // The path shrinks while packets flow.
    w.mtu = 1352;
    for i in 0..250 {
        w.send(1, 2, i);
        w.run(Duration::from_millis(20));
    }
    assert_eq!(longest(&mut w), 1352 - packet::DATA_OVERHEAD);
    let status = &w.node(1).peer_statuses(Instant(0))[0];
    assert_eq!(status.link.as_ref().unwrap().path_mtu, Some(1380));
    let mut large = w.packet(1, 2, 0);
    large.resize(1400, 0);
    large[2..4].copy_from_slice(&1400u16.to_be_bytes());
    large[6] = 0x40;
    w.delivered.clear();
    let now = w.now;
    w.node(1).handle_tun(now, &large);
    w.carry();
    let [(1, answer)] = &w.delivered[..] else { panic!("{:?}", w.delivered) };
    assert_eq!((answer[20], answer[21], u16::from_be_bytes([answer[26], answer[27]])), (3, 4, 1320));
    w.mtu = 1200;
    for i in 0..250 {
        w.send(1, 2, i);
        w.run(Duration::from_millis(20));
    }
    assert_eq!(longest(&mut w), 1252 - packet::DATA_OVERHEAD, "no path carries less");
    let id = w.node(2).id();
    assert_eq!(w.node(1).destination_node(&id).unwrap().limit(&[0x60]), 1280, "which IPv6 asks of every link");
}

#[test]
fn links_that_nobody_uses_are_probed_as_rarely_as_the_nat_allows() {
    let [always, rarely] = [None, Some(Duration::from_secs(25))].map(|lifetime| {
        let mut w = pair();
        for i in [1, 2] {
            w.node(i).set_flow_lifetime(lifetime);
        }
        w.run(Duration::from_secs(240));
        w.tape.clear();
        w.run(Duration::from_secs(120));
        assert!(w.node(1).has_links() && w.node(2).has_links());
        w.tape.len()
    });
    // Each end asks every five seconds or every 22, and is answered.
    assert!(always >= 4 * 120 / 5 && rarely * 3 < always, "{always} and {rarely} datagrams in two minutes");
}

#[test]
fn a_hop_header_cannot_be_forged_and_a_loop_would_end() {
    let mut w = pair();
    let b = w.node(2).id();
    let header = packet::HopHeader { ttl: 3, receiver: 1, counter: 1, dst: b.tag(), src: NodeTag(1) }.encode();
    let mut forged = [&header[..], &[0; 40]].concat();
    let session = *w.node(2).by_index.keys().next().unwrap();
    let now = w.now;
    w.node(2).handle_datagram(now, addr(1), 1, &mut forged);
    assert_eq!(w.node(2).counters.dropped(forward::Drop::UnknownSession), 1);
    forged[4..8].copy_from_slice(&session.to_be_bytes());
    assert!(matches!(packet::parse(&forged), Ok(Datagram::Hop(_))));
    w.node(2).handle_datagram(now, addr(1), 1, &mut forged);
    assert_eq!(w.node(2).counters.dropped(forward::Drop::Forged), 1);
    // A genuine neighbour whose header has no hops left.
    let id = w.node(2).id();
    let transport = w.node(1).peers.get(&id).unwrap().transport().unwrap().clone();
    let mut spent = [&transport.seal_hop(1, NodeTag(77), NodeTag(1))[..], &[packet::DATA; 40]].concat();
    w.node(2).handle_datagram(now, addr(1), 1, &mut spent);
    assert_eq!(w.node(2).counters.dropped(forward::Drop::TtlExpired), 1);
}

#[test]
fn revocation_ends_live_sessions_on_every_node_and_spreads() {
    let authority = Authority::new(identity(9));
    let network = network(Some(authority.spki().to_vec()));
    let certificate = |seed: u8| Certificate {
        node: identity(seed).id(),
        name: format!("c{seed}"),
        addresses: vec![],
        prefixes: vec![],
        groups: vec![],
        not_before: 0,
        not_after: 5000,
        serial: [seed; 16],
    };
    let member = |seed: u8| {
        let signed = authority.issue(&certificate(seed));
        node_with(seed, &network, |c| c.content.certificate = signed)
    };
    let mut w = Wires::new(vec![(1, member(1)), (2, member(2)), (3, member(3))]);
    w.node(2).set_bootstrap(Instant(0), &[addr(1)]);
    w.node(3).set_bootstrap(Instant(0), &[addr(1)]);
    w.run(Duration::from_secs(5));
    assert_eq!(w.node(2).routing().reachable(), 2);
    let list = Revocations { version: 1, serials: [[3; 16]].into(), ..Revocations::default() };
    let (now, signed) = (w.now, authority.revoke(&list));
    assert!(w.node(1).set_revocations(now, &signed));
    assert!(!w.node(1).set_revocations(now, &signed), "not newer");
    let gone = identity(3).id();
    assert!(w.node(1).peers.get(&gone).is_none(), "at once");
    w.run(Duration::from_secs(1));
    assert!(w.node(2).peers.get(&gone).is_none(), "by gossip");
    assert_eq!(w.node(2).routing().reachable(), 1);
    w.run(Duration::from_secs(20));
    assert!(w.node(1).counters.refused(&Refusal::Revoked) > 0);
    // A list that the authority did not sign changes nothing.
    let forged = Authority::new(identity(8)).revoke(&Revocations { version: 9, ..Revocations::default() });
    let now = w.now;
    assert!(!w.node(1).set_revocations(now, &forged));
    // Certificates run out while sessions live.
    w.run(Duration::from_secs(1));
    let now = w.now;
    w.node(1).set_unix(now, 6000);
    w.run(Duration::from_secs(3));
    assert!(w.node(1).peers.ids().is_empty());
}

#[test]
fn strangers_with_the_wrong_secret_are_counted() {
    let network = network(None);
    let other = Network::new("n", Some("another"), None, network.cidr());
    let mut w = Wires::new(vec![(1, node_with(1, &network, |_| {})), (2, node_with(2, &other, |_| {}))]);
    w.node(2).set_bootstrap(Instant(0), &[addr(1)]);
    w.run(Duration::from_secs(3));
    assert!(w.node(1).status().refused[&Refusal::WrongNetwork.to_string()] > 0);
    assert!(w.tape.iter().all(|t| t.0 == 2), "not one datagram came back");
}

#[test]
fn two_nodes_never_keep_one_address() {
    let tiny = Network::new("n", Some("secret"), None, "100.64.0.0/28".parse().unwrap());
    let mut nodes = Vec::new();
    for seed in 1..=6 {
        nodes.push((seed, node_with(seed, &tiny, |_| {})));
    }
    let mut w = Wires::new(nodes);
    for seed in 2..=6 {
        w.node(seed).set_bootstrap(Instant(0), &[addr(1)]);
    }
    w.run(Duration::from_secs(20));
    let mut addresses: Vec<IpAddr> = (1..=6).map(|i| w.node(i).addresses()[0]).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 6, "14 addresses for 6 nodes");
}

#[test]
fn a_peer_that_moves_is_reached_where_it_is() {
    let mut w = pair();
    let moved = addr(5);
    let (now, a) = (w.now, w.node(1).id());
    // Node 1's next probe arrives from somewhere else.
    let id = w.node(2).id();
    let transport = w.node(1).peers.get(&id).unwrap().transport().unwrap().clone();
    let mut bytes = Vec::new();
    transport.seal(&crate::wire::frame::encode(crate::wire::frame::Kind::Echo(Default::default())), &mut bytes);
    w.node(2).handle_datagram(now, moved, 1, &mut bytes);
    let probe = w.node(2).poll_transmit().expect("a probe to the new place");
    assert_eq!(probe.to, moved);
    assert_eq!(w.node(2).peers.get(&a).unwrap().link.as_ref().unwrap().addr, addr(1), "not before it is confirmed");
    let mut probe = probe.bytes;
    w.node(1).handle_datagram(now, addr(2), 1, &mut probe);
    let mut reply = w.node(1).poll_transmit().unwrap().bytes;
    w.node(2).handle_datagram(now + Duration::from_millis(1), moved, 1, &mut reply);
    assert_eq!(w.node(2).peers.get(&a).unwrap().link.as_ref().unwrap().addr, moved);
}
