//! Members, guests and strangers with the source at hand, each against what would have worked once.

use super::{joining::*, *};
use crate::{
    identity::RecordSource,
    wire::{
        frame::{self, Kind},
        proto::{self, control_message},
        version::Versions,
    },
};

/// Two members of a network with an authority, linked; node 3 does as the test wants.
fn members() -> Wires {
    let network = closed_network();
    let mut w = Wires::new(vec![(1, member(1, &network, "a")), (3, member(3, &network, "mallory"))]);
    w.node(3).set_bootstrap(Instant(0), &[addr(1)]);
    w.run(Duration::from_secs(2));
    assert!(w.node(1).has_links());
    w
}

fn say(w: &mut Wires, from: u8, to: u8, kind: Kind) {
    let (now, id) = (w.now, identity(to).id());
    w.node(from).send_raw(now, id, frame::encode(kind));
    w.carry();
}

fn control(w: &mut Wires, from: u8, to: u8, kind: control_message::Kind) {
    let (now, id) = (w.now, identity(to).id());
    let message = proto::ControlMessage { kind: Some(kind) };
    assert!(w.node(from).send_control_raw(now, id, prost::Message::encode_to_vec(&message)));
    w.run(Duration::from_millis(50));
}

#[test]
fn a_certificate_that_nobody_asked_for_changes_nothing() {
    let foreign = Authority::new(identity(77));
    let own = |name: &str, not_after| Certificate {
        node: identity(1).id(),
        name: name.into(),
        addresses: vec![],
        prefixes: vec![],
        groups: vec![],
        not_before: 0,
        not_after,
        serial: [5; 16],
    };
    let cases = [
        b"junk".to_vec(),
        Vec::new(),
        certificate(3, "another's", &[]),
        foreign.issue(&own("of another authority", 50_000)),
        authority().issue(&own("expired", 900)),
        authority().issue(&own("older, with fewer rights", 50_000)),
    ];
    // Once as a member that has a certificate, once as one that joins by an invite of somebody else.
    let network = closed_network();
    for joins in [false, true] {
        let victim = node_with(1, &network, |c| {
            c.content.certificate = certificate(1, "a", &[]);
            c.admission = Some(Admission { inviter: identity(8).id(), ..admission().unwrap() });
        });
        let mut w = Wires::new(vec![(1, victim), (3, member(3, &network, "mallory"))]);
        if joins {
            w.node(1).own.admission = Some(Admission { inviter: identity(8).id(), ..admission().unwrap() });
        }
        w.node(3).set_bootstrap(Instant(0), &[addr(1)]);
        w.run(Duration::from_secs(2));
        let before = w.node(1).routing().own().unwrap().record.certificate.clone();
        for certificate in &cases {
            say(&mut w, 3, 1, Kind::Granted(certificate.clone()));
            w.run(Duration::from_secs(1));
        }
        assert_eq!(w.node(1).routing().own().unwrap().record.certificate, before, "joins: {joins}");
        assert!(w.certified.is_empty());
        assert_eq!(w.node(1).counters.refused(&Refusal::UnaskedCertificate), cases.len() as u64);
        assert!(w.node(1).has_links(), "it lives");
    }
}

#[test]
fn a_certificate_that_others_would_refuse_is_no_panic_at_the_start() {
    let network = closed_network();
    let content = RecordContent { certificate: b"junk".to_vec(), ..Default::default() };
    let config = NodeConfig::new(network.clone(), content, 1000);
    let made = Node::new(config, identity(1), Box::new(network), [1; 32], Instant(0));
    assert_eq!(made.err(), Some(Refusal::BadCertificate));
}

/// First messages of `IK` that a stranger has recorded, played when none of them is remembered any more.
#[test]
fn recorded_first_messages_change_nothing() {
    let network = network(None);
    let start = |seqno| {
        node_with(2, &network, |c| {
            c.seqno = seqno;
            c.rekey_after = Duration::from_secs(20);
        })
    };
    let mut w = Wires::new(vec![(1, node_with(1, &network, |_| {})), (2, start(1000))]);
    w.node(2).set_bootstrap(Instant(0), &[addr(1)]);
    w.run(Duration::from_secs(150));
    let first: Vec<Vec<u8>> = w
        .tape
        .iter()
        .filter(|(from, to, bytes)| (*from, *to) == (2, 1) && bytes[0] == packet::HANDSHAKE && bytes[1] == 4)
        .map(|(_, _, bytes)| bytes.clone())
        .collect();
    assert!(first.len() >= 8, "renewals are recorded: {}", first.len());
    // Both start anew: the one that was recorded has another incarnation, and the other remembers no first message.
    w.nodes = vec![(1, node_with(1, &network, |c| c.seqno = 2000)), (2, start(2000))];
    w.node(2).set_bootstrap(Instant(0), &[addr(1)]);
    w.run(Duration::from_secs(3));
    let live = w.node(1).peers.get(&identity(2).id()).unwrap().transport().unwrap().local_index;
    w.delivered.clear();
    w.tape.clear();
    let mut expected = Vec::new();
    for round in 0..4u32 {
        for (i, bytes) in first.iter().enumerate() {
            let from = SocketAddr::from(([198, 51, 100, i as u8], 1000 + round as u16));
            let now = w.now;
            w.node(1).handle_datagram(now, from, 1, &mut bytes.clone());
            w.carry();
            let packet = w.send(2, 1, i as u8);
            expected.push((1, packet));
            w.run(Duration::from_millis(200));
        }
    }
    assert_eq!(w.delivered, expected, "nothing of the live session is lost");
    let peer = w.node(1).peers.get(&identity(2).id()).unwrap();
    assert!(peer.sessions.iter().any(|s| s.transport.local_index == live), "it is the session that it was");
    assert_eq!(peer.link.as_ref().unwrap().addr, addr(2));
    w.run(Duration::from_secs(30));
    assert_eq!(w.node(1).status().counters["handshakes_claimed"], 0, "claims are forgotten");
}

/// A node that starts anew with a new certificate says goodbye, and comes back at once: the goodbye may come later.
#[test]
fn a_goodbye_that_was_held_back_ends_nothing_that_has_begun_since() {
    let mut w = pair();
    let (now, id) = (w.now, identity(2).id());
    w.node(2).reconnect(now);
    let mut held = Vec::new();
    while let Some(mut t) = w.node(2).poll_transmit() {
        if t.bytes[0] == packet::DATA {
            held.push(t.bytes);
        } else {
            w.node(1).handle_datagram(now, addr(2), 1, &mut t.bytes);
        }
    }
    w.run(Duration::from_secs(1));
    let live = w.node(1).peers.get(&id).unwrap().transport().unwrap().local_index;
    assert!(!held.is_empty() && w.node(2).has_links());
    for mut bytes in held {
        let now = w.now;
        w.node(1).handle_datagram(now, addr(2), 1, &mut bytes);
    }
    let sessions = &w.node(1).peers.get(&id).unwrap().sessions;
    assert!(sessions.len() == 1 && sessions[0].transport.local_index == live, "what the goodbye was about is gone");
    let packet = w.send(2, 1, 9);
    assert_eq!(w.delivered, [(1, packet)]);
}

/// Its own messages, sent back as if somebody whom it asked had said them, tell a node nothing of where it is itself.
#[test]
fn a_node_does_not_take_its_own_reflection_for_an_answer() {
    let network = network(None);
    let mut w = Wires::new(vec![(1, node_with(1, &network, |_| {})), (2, node_with(2, &network, |_| {}))]);
    w.node(2).set_bootstrap(Instant(0), &[addr(1)]);
    let mut reflected = 0;
    for _ in 0..4 {
        let now = w.now;
        let mut sent = Vec::new();
        while let Some(t) = w.node(2).poll_transmit() {
            sent.push(t);
        }
        for mut t in sent {
            reflected += 1;
            w.node(2).handle_datagram(now, t.to, 1, &mut t.bytes);
        }
    }
    assert_eq!(reflected, 2, "a first message of two datagrams, and no answer to it");
    w.run(Duration::from_secs(2));
    assert!(w.node(2).has_links());
}

/// A message held back until its sender has started anew is an earlier incarnation's.
#[test]
fn what_was_held_back_over_a_restart_is_of_no_effect() {
    let network = network(None);
    let mut w = Wires::new(vec![(1, node_with(1, &network, |_| {})), (2, node_with(2, &network, |_| {}))]);
    // Node 2 knows node 1 already, so it begins with IK.
    let known = w.node(1).routing().own().cloned().unwrap();
    let now = w.now;
    w.node(2).add_known(now, &known.bytes, &known.record.bytes);
    let mut held = Vec::new();
    for _ in 0..20 {
        let now = w.now;
        w.node(2).handle_timeout(now);
        while let Some(mut t) = w.node(2).poll_transmit() {
            // Handshakes pass; the first packet on the session is held back.
            if t.bytes[0] == packet::DATA {
                held.push(t.bytes);
            } else if t.to == addr(1) {
                w.node(1).handle_datagram(now, addr(2), 1, &mut t.bytes);
            }
        }
        while let Some(mut t) = w.node(1).poll_transmit() {
            if t.to == addr(2) {
                w.node(2).handle_datagram(now, addr(1), 1, &mut t.bytes);
            }
        }
        w.now = w.now + Duration::from_millis(20);
    }
    assert!(!held.is_empty());
    w.nodes.retain(|n| n.0 == 1);
    w.nodes.push((2, node_with(2, &network, |c| c.seqno = 2000)));
    w.node(2).set_bootstrap(Instant(0), &[addr(1)]);
    w.run(Duration::from_secs(2));
    let live = w.node(1).peers.get(&identity(2).id()).unwrap().transport().unwrap().local_index;
    for bytes in held {
        let now = w.now;
        w.node(1).handle_datagram(now, addr(2), 1, &mut bytes.clone());
        w.carry();
    }
    let peer = w.node(1).peers.get(&identity(2).id()).unwrap();
    assert!(peer.sessions.iter().any(|s| s.transport.local_index == live));
    assert_eq!(w.node(1).status().counters["handshakes_stale"], 1);
}

#[test]
fn introductions_alone_take_few_places_and_a_newcomer_gets_one() {
    let mut w = members();
    for chunk in 0..32u32 {
        let introduction = |i: u32| proto::Introduction {
            slot: chunk * 500 + i,
            node_id: crate::crypto::sha256(&[&(chunk * 500 + i).to_be_bytes()]).to_vec(),
        };
        let slots: Vec<u32> = (chunk * 500..chunk * 500 + 500).collect();
        let update = proto::RouteUpdate {
            introductions: (0..500).map(introduction).collect(),
            seqnos: vec![7; 500],
            metrics: vec![1; 500],
            slots,
            ..Default::default()
        };
        control(&mut w, 3, 1, control_message::Kind::Routes(update));
        w.run(Duration::from_millis(300));
    }
    let places = w.node(1).routing().places();
    assert!(places < 300, "{places} places for nodes that nobody has ever seen");
    let network = closed_network();
    let mut newcomer = member(2, &network, "new");
    newcomer.set_bootstrap(Instant(0), &[addr(1)]);
    w.nodes.push((2, newcomer));
    w.run(Duration::from_secs(3));
    assert!(w.node(1).routing().origin(&identity(2).id()).is_some());
    w.run(Duration::from_secs(40));
    let places = w.node(1).routing().places();
    assert!(places < 200, "{places} after a while");
    assert!(w.node(1).routing().origin(&identity(2).id()).is_some());
}

#[test]
fn records_are_bounded_and_a_certificate_without_an_authority_is_none() {
    let network = network(None);
    let content = RecordContent { certificate: vec![0; 15_000], ..Default::default() };
    assert!(identity(3).announce(&network, &content, 1, 600).is_err());
    // Fields that nobody knows don't make it longer either.
    let verified = identity(3).announce(&network, &RecordContent::default(), 1, 600).unwrap();
    let padded = [&verified.record.bytes[..], &[0xfa, 0x06, 0xc0, 0x3e], &[0; 8000]].concat();
    let outcome = network.verify(&verified.bytes, RecordSource::Bytes(&padded));
    assert_eq!(outcome.err(), Some(Refusal::TooLarge));
}

#[test]
fn requests_for_sequence_numbers_cost_one_signature_a_second() {
    let mut w = members();
    let victim = identity(1).id();
    let before = w.node(1).own_state().1;
    for i in 0..400u32 {
        let request = proto::SeqnoRequest { origin: victim.0.to_vec(), seqno: before + 1_000 * (i + 1), hops: 64 };
        let (now, message) = (w.now, control_message::Kind::SeqnoRequest(request));
        let message = proto::ControlMessage { kind: Some(message) };
        w.node(3).send_control_raw(now, victim, prost::Message::encode_to_vec(&message));
        w.run(Duration::from_millis(10));
    }
    let after = w.node(1).own_state().1;
    assert!(after > before, "an honest request is answered");
    assert!(after - before <= 7, "{} announcements in 4 s", after - before);
    assert!(w.node(1).has_links());
}

/// A neighbour hands a node its own announcements, as if they were news.
#[test]
fn announcements_of_its_own_make_a_node_sign_once_a_second_at_most() {
    let mut w = members();
    w.run(Duration::from_secs(5));
    let seqno = |w: &mut Wires| w.node(1).own_state().1;
    let before = seqno(&mut w);
    let yours = |w: &mut Wires| {
        let own = w.node(1).routing().own().unwrap().clone();
        proto::Body { slot: 0, announcement: own.bytes.clone(), record: own.record.bytes.clone() }
    };
    for _ in 0..500 {
        let present = yours(&mut w);
        control(&mut w, 3, 1, control_message::Kind::Yours(present));
        w.run(Duration::from_millis(10));
    }
    assert_eq!(seqno(&mut w), before, "what it says at present is no news");
    // One of the same number that is not the present one: as after a lost state.
    let content = RecordContent { name: "earlier".to_owned(), ..Default::default() };
    let began = w.now;
    for _ in 0..500 {
        let number = seqno(&mut w);
        let earlier = identity(1).announce(&closed_network(), &content, number, 600).unwrap();
        let body = proto::Body { slot: 0, announcement: earlier.bytes.clone(), record: earlier.record.bytes.clone() };
        control(&mut w, 3, 1, control_message::Kind::Yours(body));
        w.run(Duration::from_millis(10));
    }
    let (signed, seconds) = (seqno(&mut w) - before, w.now.since(began).as_secs() as u32);
    assert!((1..=seconds + 1).contains(&signed), "{signed} in {seconds} s");
}

/// A neighbour says of another one, over and over within one update, that it has lost it: its link is probed once a second for that.
#[test]
fn hearsay_makes_a_link_be_probed_once_a_second_at_most() {
    let network = closed_network();
    let mut w = Wires::new((1..=3).map(|i| (i, member(i, &network, ["", "a", "b", "mallory"][i as usize]))).collect());
    for i in [2, 3] {
        w.node(i).set_bootstrap(Instant(0), &[addr(1)]);
    }
    w.run(Duration::from_secs(30));
    let other = identity(2).id();
    w.tape.clear();
    for i in 0..500u32 {
        let introductions = vec![proto::Introduction { slot: 900, node_id: other.0.to_vec() }];
        let metrics = [1, crate::types::INFINITY].repeat(20);
        let update = proto::RouteUpdate {
            introductions,
            slots: vec![900; 40],
            seqnos: vec![1000 + i % 2; 40],
            metrics: if i % 2 == 0 { metrics } else { metrics.into_iter().rev().collect() },
            ..Default::default()
        };
        let message = proto::ControlMessage { kind: Some(control_message::Kind::Routes(update)) };
        let now = w.now;
        w.node(3).send_control_raw(now, identity(1).id(), prost::Message::encode_to_vec(&message));
        w.run(Duration::from_millis(10));
    }
    let sent = w.tape.iter().filter(|t| (t.0, t.1) == (1, 2)).count();
    assert!(sent < 60, "{sent} datagrams to the other one in 5 s");
    assert!(w.node(1).peers.get(&other).is_some_and(Peer::is_up));
}

#[test]
fn a_beacon_is_good_here_and_now_only() {
    let network = network(None);
    let mut l = node_with(2, &network, |_| {});
    let beacon = l.beacon(Instant(0), addr(2));
    let hears = |at: Instant, from: SocketAddr, bytes: &[u8]| {
        let mut b = node_with(1, &network, |_| {});
        b.handle_beacon(at, from, bytes);
        let mut sent = Vec::new();
        for _ in 0..40 {
            let next = b.poll_timeout(at);
            b.handle_timeout(next);
        }
        while let Some(t) = b.poll_transmit() {
            sent.push(t);
        }
        sent
    };
    let honest = hears(Instant(1), addr(2), &beacon);
    assert!(!honest.is_empty() && honest.len() <= 6, "{} datagrams", honest.len());
    assert!(honest.iter().all(|t| t.to == addr(2)));
    assert!(hears(Instant(1), addr(7), &beacon).is_empty(), "from another address");
    assert!(hears(Instant(130_000_000), addr(2), &beacon).len() <= 6);
    // Both clocks are set, and differ.
    let now = 1_790_000_000;
    l.set_unix(Instant(0), now);
    let beacon = l.beacon(Instant(0), addr(2));
    let mut b = node_with(1, &network, |_| {});
    b.set_unix(Instant(0), now + 121);
    b.handle_beacon(Instant(0), addr(2), &beacon);
    assert!(b.poll_transmit().is_none(), "an old one");
    assert_eq!(b.counters.beacons_refused, 1);
    b.set_unix(Instant(0), now + 60);
    // And never on the port of the mesh.
    b.handle_datagram(Instant(0), addr(2), 1, &mut beacon.clone());
    assert!(b.poll_transmit().is_none());
    for _ in 0..1000 {
        b.handle_beacon(Instant(0), addr(2), &beacon);
    }
    assert_eq!(b.status().counters["handshakes_pending"], 1, "one attempt, however often it is heard");
}

/// A beacon with the network's key, of whom and from where its maker likes.
fn made_up(network: &Network, who: NodeId, endpoint: SocketAddr, nonce: u64) -> Vec<u8> {
    let key = crate::crypto::AeadKey::new(crate::crypto::Cipher::ChaCha20Poly1305, network.beacon_key());
    let body = proto::Beacon { node_id: who.0.to_vec(), endpoint: crate::wire::encode_endpoint(endpoint), time: 0 };
    let mut sealed = prost::Message::encode_to_vec(&body);
    let tag = key.seal(nonce, &[packet::BEACON], &mut sealed);
    [&[packet::BEACON][..], &nonce.to_be_bytes(), &sealed, &tag].concat()
}

/// Node 2 says each half minute where it is, and a member in the same LAN says other things. Returns to how many of nineteen beacons
/// of node 2 the node 1 answers, and how many datagrams it sends in ten minutes.
fn heard_beside(is_known: bool, mut liar: impl FnMut(u64) -> Vec<(SocketAddr, NodeId)>) -> (usize, usize) {
    let network = network(None);
    let (mut l, mut b) = (node_with(2, &network, |_| {}), node_with(1, &network, |_| {}));
    if is_known {
        let said = std::sync::Arc::clone(l.routing().own().unwrap());
        b.add_known(Instant(1), &said.bytes, &said.record.bytes);
    }
    let (mut answered, mut sent, mut nonce) = (0, 0, 0);
    for tick in 0..6000u64 {
        let now = Instant(1 + tick * 100_000);
        for (from, who) in liar(tick) {
            nonce += 1;
            b.handle_beacon(now, from, &made_up(&network, who, from, nonce));
        }
        let is_true = tick > 300 && tick % 300 == 7;
        if is_true {
            let beacon = l.beacon(now, addr(2));
            b.handle_beacon(now, addr(2), &beacon);
        }
        b.handle_timeout(now);
        let mut to_honest = false;
        while let Some(t) = b.poll_transmit() {
            sent += 1;
            to_honest |= t.to == addr(2);
        }
        answered += usize::from(is_true && to_honest);
    }
    (answered, sent)
}

#[test]
fn nobody_silences_anothers_beacons() {
    let other = node_with(2, &network(None), |_| {}).id();
    let one_of_many = |n: u64| {
        let mut id = [7; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        NodeId(id)
    };
    let quiet = heard_beside(false, |_| Vec::new());
    let in_its_name = heard_beside(false, |tick| if tick % 10 == 0 { vec![(addr(3), other)] } else { Vec::new() });
    let many = heard_beside(false, |tick| (0..3).map(|i| (addr(3), one_of_many(3 * tick + i))).collect());
    let everywhere = |tick: u64| {
        let place = |i: u64| SocketAddr::from(([10, 9, (tick % 250) as u8, i as u8 + 1], 51_900));
        (0..3).map(|i| (place(i), one_of_many(3 * tick + i))).collect()
    };
    let everywhere = heard_beside(false, everywhere);
    let other_port = SocketAddr::new(addr(2).ip(), 9);
    let spoofed =
        heard_beside(true, |tick| if tick % 30 == 0 { vec![(other_port, one_of_many(tick))] } else { Vec::new() });
    let answered = [quiet.0, in_its_name.0, many.0, spoofed.0];
    assert_eq!(answered, [19; 4], "beacons of the honest node that are answered");
    assert!(many.1 < 1500, "{} datagrams because of one address", many.1);
    assert!(everywhere.1 < 600 * 80, "{} datagrams because of all addresses", everywhere.1);
}

/// Node 1 is behind a NAT, node 4 isn't, and the only relay swallows. Members of its owner name ports of 4's host, before 4 comes and
/// after that. Node 4 has a `second` address, maybe, that leads nowhere. Returns how many of 200 packets arrive.
fn arrived_beside_names(hostile: &[u8], second: bool) -> usize {
    let network = network(None);
    let hidden = |c: &mut NodeConfig| c.content.endpoints.clear();
    let mut w = Wires::new(vec![(1, node_with(1, &network, hidden)), (2, node_with(2, &network, |_| {}))]);
    for h in hostile {
        w.nodes.push((*h, node_with(*h, &network, hidden)));
        w.cut.extend([(1, *h), (*h, 4)]);
    }
    w.thieves = (vec![2], 0);
    hostile.iter().chain(&[1]).for_each(|i| w.node(*i).set_bootstrap(Instant(0), &[addr(2)]));
    for tick in 0..1300u64 {
        if tick == 300 {
            let nowhere = second.then_some(SocketAddr::from(([203, 0, 113, 9], 51_900)));
            let mut late = node_with(4, &network, |c| {
                c.seqno = 5000;
                c.content.endpoints.extend(nowhere);
            });
            late.set_bootstrap(w.now, &[addr(2)]);
            w.nodes.push((4, late));
            w.nat = Some((1, 4));
        }
        for (n, h) in hostile.iter().enumerate().filter(|(n, _)| tick % 100 == (n * 100 / hostile.len()) as u64) {
            let first = 1000 + 64 * (tick / 100 % 500) as u16 + 4 * n as u16;
            let places = (0..4).map(|i| SocketAddr::from(([192, 0, 2, 4], first + i))).collect();
            let now = w.now;
            w.node(*h).set_local_endpoints(now, places);
        }
        if tick >= 300 && tick % 5 == 0 {
            w.send(1, 4, 7);
        }
        w.run(Duration::from_millis(100));
    }
    w.delivered.iter().filter(|(to, _)| *to == 4).count()
}

#[test]
fn whoever_names_anothers_host_keeps_no_pair_apart() {
    let many: Vec<u8> = [3].into_iter().chain(5..20).collect();
    for (hostile, second) in [(&many[..1], false), (&many[..], false), (&many[..], true)] {
        let arrived = arrived_beside_names(hostile, second);
        assert!(arrived >= 150, "{} name it, a second address {second}: {arrived} of 200", hostile.len());
    }
}

#[test]
fn a_session_that_cannot_be_renewed_ends() {
    let network = network(None);
    let short = |c: &mut NodeConfig| c.rekey_after = Duration::from_secs(20);
    let mut w = Wires::new(vec![(1, node_with(1, &network, short)), (2, node_with(2, &network, short))]);
    w.node(2).set_bootstrap(Instant(0), &[addr(1)]);
    w.run(Duration::from_secs(2));
    w.lost = vec![packet::HANDSHAKE];
    for _ in 0..50 {
        w.send(2, 1, 1);
        w.run(Duration::from_secs(1));
    }
    assert!(!w.delivered.is_empty());
    w.run(Duration::from_secs(12));
    w.delivered.clear();
    for _ in 0..5 {
        w.send(2, 1, 1);
        w.send(1, 2, 1);
        w.run(Duration::from_secs(1));
    }
    // Beside what each host's own node says of it.
    let crossed = |w: &Wires| w.delivered.iter().any(|(_, packet)| packet[9] == 17);
    assert!(!crossed(&w), "no key is used for ever");
    w.lost.clear();
    w.run(Duration::from_secs(10));
    w.send(2, 1, 1);
    w.run(Duration::from_secs(1));
    assert!(crossed(&w), "and a new one is made as soon as that can be");
}

/// A node whose clock was ahead once, or which has lost its state while its clock is behind, is reachable: others hand it
/// its own announcement, beyond which it goes on.
#[test]
fn a_wall_clock_is_no_counter() {
    let network = network(None);
    for (first, second) in [(1_790_000_001 + 30 * 86_400, 1_790_000_000), (1_790_000_000, 0), (3_999_999_999, 1)] {
        let mut w =
            Wires::new(vec![(1, node_with(1, &network, |_| {})), (2, node_with(2, &network, |c| c.seqno = first))]);
        w.node(2).set_bootstrap(Instant(0), &[addr(1)]);
        w.run(Duration::from_secs(2));
        w.nodes.retain(|n| n.0 == 1);
        w.run(Duration::from_secs(5));
        w.nodes.push((2, node_with(2, &network, |c| c.seqno = second)));
        w.node(2).set_bootstrap(Instant(0), &[addr(1)]);
        w.run(Duration::from_secs(3));
        assert_eq!(w.node(1).routing().reachable(), 1, "first {first}, then {second}");
        assert_eq!(w.node(2).routing().reachable(), 1);
        assert!(w.node(2).own_state().1 > first);
    }
}

#[test]
fn another_version_of_the_protocol_is_refused_by_name_at_both_ends() {
    let network = network(None);
    for ik in [false, true] {
        let mut w = Wires::new(vec![(1, node_with(1, &network, |_| {})), (2, node_with(2, &network, |_| {}))]);
        w.node(2).door.here().unwrap().pretend(Versions { version: 2, oldest: 2 });
        if ik {
            let (now, known) = (w.now, w.node(1).routing().own().cloned().unwrap());
            w.node(2).add_known(now, &known.bytes, &known.record.bytes);
        } else {
            w.node(2).set_bootstrap(Instant(0), &[addr(1)]);
        }
        w.run(Duration::from_secs(3));
        let theirs = Refusal::Version(Versions { version: 2, oldest: 2 });
        assert!(w.node(1).counters.refused(&theirs) > 0);
        assert!(theirs.to_string().contains("the peer speaks version 2"), "{theirs}");
        let ours = Refusal::Version(Versions { version: 1, oldest: 1 });
        assert!(w.node(2).counters.refused(&ours) > 0, "the one that began is told why");
        assert!(!w.node(1).has_links() && !w.node(2).has_links());
    }
}
