//! Announcements and records as an attacker makes them: with good signatures, and anything in them.

use aegisray::{
    crypto::sha256,
    identity::{Identity, Network},
    wire::proto::{Announcement, Body, Introduction, PeerRecord, RouteUpdate, control_message},
};
use prost::Message as _;

/// What an identity signs, whatever its record says.
pub struct Forged {
    pub announcement: Vec<u8>,
    pub record: Vec<u8>,
}

/// Signs a record that `change` has made what it is.
pub fn forge(network: &Network, key: &Identity, seqno: u32, change: impl FnOnce(&mut PeerRecord)) -> Forged {
    let mut record = PeerRecord {
        spki: key.spki().to_vec(),
        noise_static: key.noise_public().to_vec(),
        boot: 1,
        ..PeerRecord::default()
    };
    change(&mut record);
    let record = record.encode_to_vec();
    let (node, lifetime_s, hash) = (key.id().0, 7200u32, sha256(&[&record]));
    let signed = [&network.id()[..], &node, &seqno.to_be_bytes(), &lifetime_s.to_be_bytes(), &hash].concat();
    let announcement = Announcement {
        node_id: node.to_vec(),
        seqno,
        lifetime_s,
        record_hash: hash.to_vec(),
        signature: key.sign("aegisray announce v1", &signed),
    };
    Forged { announcement: announcement.encode_to_vec(), record }
}

/// Tells of an origin in one message: its number, its words, and how near it is said to be.
pub fn offer(slot: u32, key: &Identity, seqno: u32, metric: u32, forged: Forged) -> control_message::Kind {
    control_message::Kind::Routes(RouteUpdate {
        introductions: vec![Introduction { slot, node_id: key.id().0.to_vec() }],
        slots: vec![slot],
        seqnos: vec![seqno],
        metrics: vec![metric],
        bodies: vec![Body { slot, announcement: forged.announcement, record: forged.record }],
        ..RouteUpdate::default()
    })
}
