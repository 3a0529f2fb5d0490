//! Reads the recordings with today's code.

use std::sync::Arc;

use aegisray::{
    identity::{InviteKey, Network, Record, RecordSource, Refusal, Verified, Verify},
    node::Node,
    routing::{Judge, NeighborId, Routing},
    types::{Duration, Instant, NodeId},
    wire::{
        self, decode_prefix,
        frame::{self, Kind},
        packet::{self, HandshakeKind},
        proto,
    },
};
use prost::Message as _;

use crate::{
    form::{Announcement, Handshake, Hex},
    make, recorded,
};

#[test]
fn announcements_certificates_lists_and_tokens_are_understood() {
    let all = recorded();
    for a in &all.announcements {
        assert_eq!(&make::understood(&a.what, a.network, &a.announcement.0, &a.record.0), a, "{}", a.what);
    }
    for c in &all.certificates {
        assert_eq!(&make::read_certificate(&c.what, &c.bytes.0), c, "{}", c.what);
    }
    for r in &all.revocations {
        assert_eq!(&make::read_revocations(&r.what, &r.bytes.0), r, "{}", r.what);
    }
    for i in &all.invites {
        assert_eq!(&make::read_invite(&i.token), i);
    }
    assert!(all.announcements.len() >= 12 && all.certificates.len() >= 3 && all.revocations.len() >= 3);
}

/// Takes in what is sound, and asks nothing else.
struct Sound(Network);

impl Judge for Sound {
    fn may_be_member(&self, _: &NodeId) -> bool {
        true
    }

    fn judge(
        &mut self,
        announcement: &[u8],
        record: &[u8],
        known: Option<&Arc<Record>>,
    ) -> Result<Arc<Verified>, Refusal> {
        let source = known.filter(|_| record.is_empty()).map_or(RecordSource::Bytes(record), RecordSource::Known);
        self.0.verify(announcement, source)
    }
}

/// Lets a node hear an announcement from one neighbour, and another neighbour ask for it. Returns what it is given.
fn passed_on(a: &Announcement) -> proto::Body {
    let now = Instant(0);
    let network = make::networks()[a.network].clone();
    let own = make::identity(make::RESPONDER).announce(&network, &Default::default(), 1, 7200);
    // The relay needs no certificate to be one: nobody judges it here.
    let mut routing = Routing::new(Arc::new(own.expect("sound")), now);
    let up = |routing: &mut Routing, id: u8| -> NeighborId { routing.neighbor_up(now, NodeId([id; 32]), 1000) };
    let (from, to) = (up(&mut routing, 1), up(&mut routing, 2));
    let node_id = proto::Announcement::decode(&a.announcement.0[..]).expect("an announcement").node_id;
    let body = proto::Body { slot: 9, announcement: a.announcement.0.clone(), record: a.record.0.clone() };
    let heard = proto::RouteUpdate {
        introductions: vec![proto::Introduction { slot: 9, node_id: node_id.clone() }],
        slots: vec![9],
        seqnos: vec![a.seqno],
        metrics: vec![250],
        ..Default::default()
    };
    let mut judge = Sound(network);
    assert!(routing.handle_update(now, from, &heard, &mut judge).is_empty(), "{}", a.what);
    // It is asked for first.
    let soon = now + Duration::from_millis(500);
    let asked = std::iter::from_fn(|| routing.next_update(soon, from)).any(|u| u.wants_record.contains(&9));
    assert!(asked, "{}: nobody asked for it", a.what);
    let heard = proto::RouteUpdate { bodies: vec![body], ..Default::default() };
    assert!(routing.handle_update(soon, from, &heard, &mut judge).is_empty(), "{}", a.what);
    let mut slot = None;
    for second in 1..5 {
        let now = now + Duration::from_secs(second);
        while let Some(update) = routing.next_update(now, to) {
            let new = update.introductions.iter().find(|i| i.node_id == node_id);
            slot = slot.or(new.map(|i| i.slot));
            if let Some(body) = update.bodies.into_iter().find(|b| Some(b.slot) == slot) {
                return body;
            }
        }
        if let Some(slot) = slot {
            let asked = proto::RouteUpdate { wants_record: vec![slot], ..Default::default() };
            assert!(routing.handle_update(now, to, &asked, &mut judge).is_empty());
        }
    }
    panic!("{}: the other neighbour was not told", a.what);
}

#[test]
fn what_is_not_understood_is_passed_on_byte_for_byte() {
    for a in &recorded().announcements {
        let body = passed_on(a);
        assert_eq!(
            (Hex(body.announcement), Hex(body.record)),
            (a.announcement.clone(), a.record.clone()),
            "{}",
            a.what
        );
    }
}

#[test]
fn beacons_are_heard() {
    for (i, beacon) in recorded().beacons.iter().enumerate() {
        let mut node = make::node(make::RESPONDER, i / 2);
        node.handle_beacon(Instant(0), beacon.endpoint, &beacon.datagram.0);
        assert_eq!(node.status().counters["beacons_heard"], 1);
        let began = node.poll_transmit().expect("it begins a handshake");
        assert_eq!(began.to, beacon.endpoint);
    }
}

/// The end that is not `initiator`'s writes nothing: it reads what was recorded.
fn replayed(h: &Handshake) {
    let network = &make::networks()[h.network];
    let mut ends = [make::noise(&h.pattern, network, true), make::noise(&h.pattern, network, false)];
    for (i, m) in h.messages.iter().enumerate() {
        let what = format!("{}, message {}", h.what, i + 1);
        let hash = Hex(ends[1 - i % 2].get_handshake_hash().to_vec());
        let mut written = vec![0; m.payload.0.len() + 256];
        let len = ends[i % 2].write_message(&m.payload.0, &mut written).expect("its turn");
        written.truncate(len);
        assert_eq!(Hex(written), m.message, "{what} is written the same with the recorded keys");
        let mut read = vec![0; m.message.0.len()];
        let len = ends[1 - i % 2].read_message(&m.message.0, &mut read).expect("it can be read");
        assert_eq!(Hex(read[..len].to_vec()), m.payload, "{what}");
        let payload = wire::decode::<proto::HandshakePayload>(&m.payload.0, "payload").expect("it can be decoded");
        if !payload.announcement.is_empty() {
            let record = RecordSource::Bytes(&payload.record);
            network.verify(&payload.announcement, record).expect("it is sound");
        }
        if !payload.admission.is_empty() {
            let invite = recorded().invites.into_iter().find_map(|i| i.admission).expect("an invite with a secret");
            let key = InviteKey::derive(&invite.0.try_into().expect("32 bytes"));
            let [joiner, inviter] = [make::INITIATOR, make::RESPONDER].map(|who| make::identity(who).id());
            assert!(key.verify(&payload.admission, &joiner, &inviter, &hash.0), "{what}: the proof of the invite");
        }
        let whole: Vec<u8> = m.datagrams.iter().flat_map(|d| d.0[packet::HANDSHAKE_HEADER..].to_vec()).collect();
        assert_eq!(Hex(whole), m.message, "{what}: the datagrams together");
        for datagram in &m.datagrams {
            let Ok(packet::Datagram::Handshake(f)) = packet::parse(&datagram.0) else { panic!("{what}: no fragment") };
            let header = packet::handshake_header(f.kind, f.fragment, f.fragments, f.sender, f.receiver);
            assert!(network.gate().verify(&[&header, f.body], &f.mac1), "{what}: mac1");
            assert_eq!(f.kind.byte(), m.kind);
        }
    }
    assert_eq!(Hex(ends[0].get_handshake_hash().to_vec()), h.hash);
}

fn answer(node: &mut Node, first: &[Hex]) -> Option<HandshakeKind> {
    let from = ([192, 0, 2, 1], 51_900).into();
    for datagram in first {
        node.handle_datagram(Instant(0), from, 0, &mut datagram.0.clone());
    }
    std::iter::from_fn(|| node.poll_transmit()).find_map(|t| match packet::parse(&t.bytes) {
        Ok(packet::Datagram::Handshake(f)) if t.to == from => Some(f.kind),
        _ => None,
    })
}

#[test]
fn handshakes_are_understood_and_answered() {
    let all = recorded();
    for h in &all.handshakes {
        replayed(h);
        let mut node = make::node(make::RESPONDER, h.network);
        let expected = if h.pattern.contains("IK") { HandshakeKind::Ik2 } else { HandshakeKind::Xx2 };
        let kind = answer(&mut node, &h.messages[0].datagrams);
        assert_eq!(kind, Some(expected), "{}: {:?}", h.what, node.status().refused);
        assert_eq!(node.status().refused.values().sum::<u64>(), 0, "{}: {:?}", h.what, node.status().refused);
    }
    assert_eq!(all.handshakes.len(), 8);
}

#[test]
fn frames_and_control_messages_are_understood() {
    let all = recorded();
    let mut unknown = Vec::new();
    prost::encoding::bytes::encode(900, &b"later".to_vec(), &mut unknown);
    for m in &all.frames {
        let kind = frame::parse(&m.bytes.0).unwrap_or_else(|e| panic!("{}: {e}", m.what));
        assert_eq!(frame::encode(kind.clone()), m.bytes.0, "{}", m.what);
        assert_eq!(frame::parse(&[m.bytes.0.clone(), unknown.clone()].concat()), Ok(kind), "{}", m.what);
    }
    for m in &all.control {
        let decode = |bytes: &[u8]| wire::decode::<proto::ControlMessage>(bytes, "control message");
        let message = decode(&m.bytes.0).unwrap_or_else(|e| panic!("{}: {e}", m.what));
        assert!(message.kind.is_some(), "{}", m.what);
        assert_eq!(message.encode_to_vec(), m.bytes.0, "{}", m.what);
        assert_eq!(decode(&[m.bytes.0.clone(), unknown.clone()].concat()), Ok(message), "{}", m.what);
    }
    // A kind that is not known yet is no reason to fail.
    assert!(frame::parse(&[&[frame::FRAME][..], &unknown].concat()).is_err());
    assert!(matches!(frame::parse(&all.frames[0].bytes.0), Ok(Kind::Probe(_))));
    assert!(decode_prefix(&[10, 1, 0, 0, 16]).is_ok());
}

#[test]
fn derived_keys_and_addresses_stay() {
    for (now, then) in make::all(&recorded().kem).networks.iter().zip(&recorded().networks) {
        assert_eq!(now, then);
    }
}
