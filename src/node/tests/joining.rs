//! Invites: who is let in, by whom, and what for.

use super::*;
use crate::session::{Outcome, Outgoing};

pub(super) const SECRET: [u8; 32] = [7; 32];

pub(super) fn authority() -> Authority {
    Authority::new(identity(9))
}

pub(super) fn closed_network() -> Network {
    network(Some(authority().spki().to_vec()))
}

/// A certificate of the network's authority.
pub(super) fn certificate(seed: u8, name: &str, groups: &[&str]) -> Vec<u8> {
    authority().issue(&Certificate {
        node: identity(seed).id(),
        name: name.into(),
        addresses: vec![],
        prefixes: vec![],
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        not_before: 0,
        not_after: 50_000,
        serial: [seed; 16],
    })
}

pub(super) fn member(seed: u8, network: &Network, name: &str) -> Node {
    node_with(seed, network, |c| c.content.certificate = certificate(seed, name, &[]))
}

/// A node that invites, with one invitation.
pub(super) fn inviter(network: &Network, name: &str) -> Node {
    let invitation = Invitation {
        key: InviteKey::derive(&SECRET),
        expires: 5000,
        name: name.to_owned(),
        groups: vec!["admins".to_owned()],
        used_by: None,
    };
    node_with(1, network, |c| {
        c.content.certificate = certificate(1, "root", &[]);
        c.authority = Some(authority());
        c.invitations = vec![invitation];
    })
}

pub(super) fn admission() -> Option<Admission> {
    Some(Admission { inviter: identity(1).id(), key: InviteKey::derive(&SECRET) })
}

fn joiner(seed: u8, network: &Network) -> Node {
    let mut node = node_with(seed, network, |c| c.admission = admission());
    node.set_bootstrap(Instant(0), &[addr(1)]);
    node
}

#[test]
fn an_invite_admits_one_node_whose_routes_then_work() {
    for seed in 1..=24 {
        let network = closed_network();
        let mut guest = node_with(2, &network, |c| {
            c.admission = admission();
            c.seqno += seed;
        });
        guest.set_bootstrap(Instant(0), &[addr(1)]);
        let mut w = Wires::new(vec![(1, inviter(&network, "")), (2, guest)]);
        w.run(Duration::from_secs(4));
        assert_eq!(w.node(2).routing().reachable(), 1, "seed {seed}");
        assert_eq!(w.node(1).routing().reachable(), 1, "seed {seed}");
        assert_eq!(w.certified.len(), 1, "kept once");
        assert!(!w.node(2).joins());
        let used = w.node(1).invitations()[0].used_by.clone();
        assert_eq!(used, Some((identity(2).id(), w.certified[0].1.clone())));
    }
}

#[test]
fn a_granted_certificate_that_is_not_good_by_ones_own_clock_is_refused_for_that() {
    let network = closed_network();
    let mut root = inviter(&network, "");
    let invitation = Invitation { expires: 50_000, ..root.invitations()[0].clone() };
    root.invite(Instant(0), Invitation { key: InviteKey::derive(&[8; 32]), ..invitation }).unwrap();
    root.set_unix(Instant(0), 20_000);
    let mut guest = node_with(2, &network, |c| {
        c.admission = Some(Admission { inviter: identity(1).id(), key: InviteKey::derive(&[8; 32]) });
    });
    guest.set_bootstrap(Instant(0), &[addr(1)]);
    let mut w = Wires::new(vec![(1, root), (2, guest)]);
    w.run(Duration::from_secs(4));
    assert!(w.certified.is_empty() && w.node(2).joins());
    assert!(w.node(2).counters.refused(&Refusal::ExpiredCertificate) > 0, "the clock is the reason");
    assert_eq!(w.node(2).counters.refused(&Refusal::UnaskedCertificate), 0);
}

#[test]
fn an_invite_without_a_name_certifies_none() {
    let network = closed_network();
    let mut guest = node_with(2, &network, |c| {
        c.admission = admission();
        c.content.name = "root".to_owned();
    });
    guest.set_bootstrap(Instant(0), &[addr(1)]);
    let mut w = Wires::new(vec![(1, inviter(&network, "")), (2, guest)]);
    w.run(Duration::from_secs(4));
    let certificate = Certificate::open(&w.certified[0].1, authority().spki()).unwrap();
    assert_eq!((certificate.name.as_str(), certificate.groups), ("", vec!["admins".to_owned()]));
}

#[test]
fn a_name_of_a_member_is_not_certified_again() {
    let network = closed_network();
    let mut w = Wires::new(vec![(1, inviter(&network, "root")), (2, joiner(2, &network))]);
    w.run(Duration::from_secs(4));
    assert_eq!(Certificate::open(&w.certified[0].1, authority().spki()).unwrap().name, "");
}

#[test]
fn the_same_node_gets_the_same_certificate_again() {
    let network = closed_network();
    let mut w = Wires::new(vec![(1, inviter(&network, "")), (2, joiner(2, &network))]);
    w.run(Duration::from_secs(4));
    // It has lost the certificate, and joins again.
    w.nodes[1].1 = node_with(2, &network, |c| {
        c.admission = admission();
        c.seqno += 1;
    });
    w.node(2).set_bootstrap(Instant(0), &[addr(1)]);
    w.run(Duration::from_secs(10));
    assert_eq!(w.certified.len(), 2);
    assert_eq!(w.certified[0], w.certified[1], "one serial, which one entry revokes");
}

/// Everything that a joiner sends to a member that is not the inviter is of no use to that member, and neither is what it
/// sends to the inviter to somebody who has recorded it.
#[test]
fn an_invites_secret_is_of_use_to_nobody_who_hears_the_joiner() {
    let network = closed_network();
    let mut victim = node_with(2, &network, |c| c.admission = admission());
    victim.set_bootstrap(Instant(0), &[addr(3)]);
    // A member that lies in wait, and speaks with the joiner first.
    let mut w = Wires::new(vec![(2, victim), (3, member(3, &network, "mallory"))]);
    let (now, unix) = (w.now, 1000);
    let mut heard: Vec<Vec<u8>> = Vec::new();
    let gate = |payload: &crate::wire::proto::HandshakePayload| heard.push(payload.admission.clone());
    listen(&mut w, now, unix, &network, gate);
    assert!(!heard.is_empty() && heard.iter().all(Vec::is_empty), "no proof for who is not the inviter: {heard:?}");
}

/// Takes part in the joiner's handshake as node 3, and shows every payload that it can read.
fn listen(
    w: &mut Wires,
    now: Instant,
    unix: UnixTime,
    network: &Network,
    mut show: impl FnMut(&crate::wire::proto::HandshakePayload),
) {
    struct Ear<'a, F>(gate::Gate<'a>, &'a mut F);
    impl<F: FnMut(&crate::wire::proto::HandshakePayload)> crate::session::Gatekeeper for Ear<'_, F> {
        fn admit(
            &mut self,
            payload: &crate::wire::proto::HandshakePayload,
            noise_static: &[u8; 32],
            hash: &[u8],
        ) -> Result<crate::session::Admitted, Refusal> {
            (self.1)(payload);
            self.0.admit(payload, noise_static, hash)
        }
    }
    let me = identity(3);
    let policy = Policy::default();
    let mut sessions = Sessions::new(network.clone(), &me, &Cipher::all_here(), Rng::from_seed([3; 32]), now);
    let content = RecordContent { certificate: certificate(3, "mallory", &[]), ..Default::default() };
    sessions.set_own(&me.announce(network, &content, 5, 600).unwrap(), None);
    let mut now = now;
    for _ in 0..400 {
        now = now + Duration::from_millis(5);
        let node = w.node(2);
        node.handle_timeout(now);
        while let Some(t) = node.poll_transmit() {
            if let Ok(Datagram::Handshake(f)) = packet::parse(&t.bytes) {
                let gate = gate::Gate { verifier: network, policy: &policy, invitations: &[], me: me.id(), now: unix };
                let via = (Via::Direct(addr(2)), None);
                sessions.handle_handshake(now, via, &f, &mut Ear(gate, &mut show));
            }
        }
        while let Some(Outgoing { mut bytes, .. }) = sessions.poll_transmit() {
            w.node(2).handle_datagram(now, addr(3), 1, &mut bytes);
        }
        while let Some(event) = sessions.poll_event() {
            if let crate::session::Event::Established { outcome: Outcome { peer, .. }, .. } = event {
                assert_eq!(peer.id, identity(2).id());
                return;
            }
        }
    }
}

#[test]
fn a_recorded_joining_admits_nobody_else() {
    let network = closed_network();
    let mut w = Wires::new(vec![(1, inviter(&network, "cfo")), (2, joiner(2, &network))]);
    // What the joiner sends is recorded, and never arrives.
    w.cut.push((1, 2));
    w.run(Duration::from_secs(3));
    let tape: Vec<_> = w.tape.iter().filter(|t| t.0 == 2).cloned().collect();
    assert!(!tape.is_empty());
    w.nodes.retain(|n| n.0 == 1);
    for (_, _, bytes) in tape {
        let now = w.now;
        w.node(1).handle_datagram(now, addr(4), 1, &mut bytes.clone());
        w.carry();
    }
    w.run(Duration::from_secs(3));
    assert_eq!(w.node(1).invitations()[0].used_by, None);
}

#[test]
fn a_guest_is_given_a_certificate_and_nothing_else() {
    let network = closed_network();
    let mut guest = joiner(2, &network);
    // It holds on to being a guest.
    guest.own.admission = admission();
    let mut w = Wires::new(vec![(1, inviter(&network, "")), (2, guest), (3, member(3, &network, "c"))]);
    w.node(3).set_bootstrap(Instant(0), &[addr(1)]);
    let now = w.now;
    w.run(Duration::from_millis(100));
    // The certificate never arrives.
    w.cut.push((1, 2));
    w.run(Duration::from_secs(1));
    let guest_session = w.node(1).peers.get(&identity(2).id()).and_then(|p| p.sessions.first());
    let Some(session) = guest_session.map(|s| Arc::clone(&s.transport)) else { panic!("no session with the guest") };
    assert!(session.is_guest());
    let theirs = w.node(2).peers.values().find_map(|p| p.sessions.first()).map(|s| Arc::clone(&s.transport)).unwrap();
    let third = identity(3).id();
    let header = theirs.seal_hop(9, third.tag(), identity(2).id().tag());
    let mut datagram = [&header[..], &[packet::DATA; 60]].concat();
    w.node(1).handle_datagram(now, addr(2), 1, &mut datagram);
    assert_eq!(w.node(1).counters.relayed, 0, "nothing is relayed for a guest");
}
