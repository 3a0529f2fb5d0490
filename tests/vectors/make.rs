//! Writes all vectors: with the shipped code where it does the writing, and by hand where something of the future is to be
//! understood.

use std::net::SocketAddr;

use aegisray::{
    crypto::{AeadKey, Cipher, KemSecret, NoiseResolver, Rng, SigningKey, encapsulate, sha256},
    identity::{
        self, Authority, Identity, InviteKey, RecordContent, RecordSource, Revocations, Verified, authenticate,
    },
    node::{Node, NodeConfig},
    types::{Instant, UnixTime},
    wire::{
        encode_endpoint,
        frame::{self, Kind},
        packet::{BEACON, HANDSHAKE_HEADER, HandshakeKind, MAX_HANDSHAKE_DATAGRAM, handshake_header},
        proto::{self, control_message},
    },
};
use prost::Message as _;
use snow::{Builder, HandshakeState};

use crate::form::{
    Announcement, Beacon, Certificate, Handshake, HandshakeMessage, Hex, Invite, Message, Network, Seeds, Vectors,
};

pub const TIME: UnixTime = 1_790_000_000;
pub const AUTHORITY: u8 = 1;
pub const INITIATOR: u8 = 2;
pub const RESPONDER: u8 = 3;
const EPHEMERAL: [u8; 2] = [4, 5];
const CIDR: &str = "100.64.0.0/16";
const SECRET: &str = "dmVjdG9ycyBvZiBwcm90b2NvbCB2ZXJzaW9uIG9uZSE";
const ADMISSION: [u8; 32] = [6; 32];
/// Network with a secret alone, and with an authority too.
const SECRET_ONLY: usize = 0;
const CERTIFIED: usize = 1;

pub fn identity(seed: u8) -> Identity {
    Identity::new(SigningKey::ed25519_from_seed(&[seed; 32])).expect("a seed makes an identity")
}

pub fn authority() -> Authority {
    Authority::new(identity(AUTHORITY))
}

/// The networks of the recordings.
pub fn networks() -> [identity::Network; 2] {
    let make = |authority| identity::Network::new("vectors", Some(SECRET), authority, CIDR.parse().expect("a prefix"));
    [make(None), make(Some(authority().spki().to_vec()))]
}

/// An encapsulation key, and a ciphertext for it.
pub fn fresh_kem() -> [Hex; 2] {
    let secret = KemSecret::generate().expect("the system has randomness");
    let (ciphertext, _) = encapsulate(secret.public()).expect("a sound key");
    [Hex(secret.public().to_vec()), Hex(ciphertext)]
}

/// Fields that no version knows yet: number 900, of 5 bytes, and 901, a number.
fn future() -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::bytes::encode(900, &b"later".to_vec(), &mut out);
    prost::encoding::uint32::encode(901, &7, &mut out);
    out
}

pub fn all(kem: &[Hex; 2]) -> Vectors {
    Vectors {
        version: 1,
        seeds: Seeds { authority: AUTHORITY, initiator: INITIATOR, responder: RESPONDER, ephemeral: EPHEMERAL },
        time: TIME,
        kem: kem.clone(),
        networks: networks_of_both_kinds(),
        announcements: announcements(),
        certificates: certificates(),
        revocations: revocations(),
        invites: invites(),
        beacons: beacons(),
        handshakes: handshakes(kem),
        frames: frames(),
        control: control(),
    }
}

/// Those of the other recordings, and one with a secret that a person chose.
fn networks_of_both_kinds() -> Vec<Network> {
    let [plain, certified] = &networks();
    let chosen = "correct horse battery staple";
    let stretched = identity::Network::new("vectors", Some(chosen), None, CIDR.parse().expect("a prefix"));
    vec![network(plain, SECRET), network(certified, SECRET), network(&stretched, chosen)]
}

fn network(n: &identity::Network, secret: &str) -> Network {
    let id = identity(INITIATOR).id();
    Network {
        name: n.name().to_owned(),
        secret: secret.to_owned(),
        authority: n.authority().map(|a| Hex(a.to_vec())),
        cidr: CIDR.to_owned(),
        id: Hex(n.id().to_vec()),
        psk: Hex(n.psk().to_vec()),
        beacon_key: Hex(n.beacon_key().to_vec()),
        gate_tag: Hex(n.gate().tag(&[]).to_vec()),
        addresses: [n.ipv4(&id, 0).into(), n.ipv4(&id, 1).into(), n.ipv6(&id).into()],
    }
}

fn endpoint() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 51_900))
}

fn content() -> RecordContent {
    RecordContent {
        name: "vector".to_owned(),
        endpoints: vec![endpoint(), "[2001:db8::1]:443".parse().expect("an endpoint")],
        prefixes: vec!["10.1.0.0/16".parse().expect("a prefix"), "0.0.0.0/0".parse().expect("a prefix")],
        boot: 77,
        country: "se".to_owned(),
        services: vec!["_http._tcp:8080", "_dns._udp:53"].into_iter().map(service).collect(),
        ..Default::default()
    }
}

fn service(text: &str) -> aegisray::types::Service {
    let (kind, port) = text.split_once(':').expect("kind and port");
    aegisray::types::Service { kind: kind.parse().expect("a kind"), port: port.parse().expect("a port") }
}

fn certificate() -> identity::Certificate {
    identity::Certificate {
        node: identity(INITIATOR).id(),
        name: "certified".to_owned(),
        addresses: vec!["100.64.9.9".parse().expect("an address")],
        prefixes: vec!["10.1.0.0/16".parse().expect("a prefix")],
        groups: vec!["admins".to_owned(), "printers".to_owned()],
        not_before: TIME - 1000,
        not_after: TIME + 1_000_000,
        serial: [9; 16],
    }
}

/// Signs an announcement of a record as it stands.
fn sign(n: &identity::Network, who: &Identity, record: &[u8], seqno: u32, more: &[u8]) -> Vec<u8> {
    let mut raw = proto::Announcement {
        node_id: who.id().0.to_vec(),
        seqno,
        lifetime_s: 7200,
        record_hash: sha256(&[record]).to_vec(),
        signature: Vec::new(),
    };
    let numbers = [raw.seqno.to_be_bytes(), raw.lifetime_s.to_be_bytes()].concat();
    let message = [&n.id()[..], &raw.node_id, &numbers, &raw.record_hash].concat();
    raw.signature = who.sign("aegisray announce v1", &message);
    [raw.encode_to_vec(), more.to_vec()].concat()
}

fn described(what: &str, network: usize, of: &Verified) -> Announcement {
    Announcement {
        what: what.to_owned(),
        network,
        announcement: Hex(of.bytes.clone()),
        record: Hex(of.record.bytes.clone()),
        node_id: of.id.to_string(),
        seqno: of.seqno,
        name: of.record.name.clone(),
        addresses: of.record.addresses,
        prefixes: of.record.prefixes.iter().map(ToString::to_string).collect(),
        endpoints: of.record.endpoints.clone(),
        versions: [of.record.versions.version, of.record.versions.oldest],
    }
}

/// What today's code makes of an announcement.
pub fn understood(what: &str, network: usize, announcement: &[u8], record: &[u8]) -> Announcement {
    let n = &networks()[network];
    let verified = authenticate(n, announcement, RecordSource::Bytes(record));
    described(what, network, &verified.unwrap_or_else(|e| panic!("{what}: {e}")))
}

fn announcements() -> Vec<Announcement> {
    let who = identity(INITIATOR);
    let seqno = TIME as u32;
    let mut out = Vec::new();
    let certified = RecordContent { certificate: authority().issue(&certificate()), ..content() };
    for (i, (n, content)) in networks().iter().zip([content(), certified]).enumerate() {
        let of = |content: &RecordContent| who.announce(n, content, seqno, 7200).expect("sound");
        out.push(described("all fields", i, &of(&content)));
        let least = RecordContent { certificate: content.certificate.clone(), ..Default::default() };
        out.push(described("the least", i, &of(&least)));
        let moved = RecordContent { ipv4_attempt: 3, no_relay: true, ..content.clone() };
        out.push(described("another attempt, no relay", i, &of(&moved)));
        let record = [of(&content).record.bytes.clone(), future()].concat();
        let announcement = sign(n, &who, &record, seqno + 1, &[]);
        out.push(understood("a record with fields from the future", i, &announcement, &record));
        let announcement = sign(n, &who, &record, seqno + 2, &future());
        out.push(understood("record and announcement with fields from the future", i, &announcement, &record));
        let mut raw = proto::PeerRecord::decode(&of(&content).record.bytes[..]).expect("a record");
        (raw.version, raw.oldest) = (7, 1);
        let record = [raw.encode_to_vec(), future()].concat();
        let announcement = sign(n, &who, &record, seqno + 3, &[]);
        out.push(understood("of a node that speaks versions 1 to 7", i, &announcement, &record));
    }
    out
}

fn seal(context: &str, body: &[u8]) -> Vec<u8> {
    let signature = identity(AUTHORITY).sign(context, body);
    proto::SignedBlob { body: body.to_vec(), signature }.encode_to_vec()
}

/// Its body with more in it, signed anew.
fn extended(context: &str, blob: &[u8]) -> Vec<u8> {
    let body = proto::SignedBlob::decode(blob).expect("a signed blob").body;
    seal(context, &[body, future()].concat())
}

pub fn read_certificate(what: &str, bytes: &[u8]) -> Certificate {
    let of = identity::Certificate::open(bytes, authority().spki()).unwrap_or_else(|e| panic!("{what}: {e}"));
    Certificate {
        what: what.to_owned(),
        bytes: Hex(bytes.to_vec()),
        node_id: of.node.to_string(),
        name: of.name,
        groups: of.groups,
        addresses: of.addresses,
        prefixes: of.prefixes.iter().map(ToString::to_string).collect(),
        time: [of.not_before, of.not_after],
        serial: Hex(of.serial.to_vec()),
    }
}

fn certificates() -> Vec<Certificate> {
    let issued = authority().issue(&certificate());
    let least = identity::Certificate {
        name: String::new(),
        addresses: vec![],
        prefixes: vec![],
        groups: vec![],
        ..certificate()
    };
    vec![
        read_certificate("all fields", &issued),
        read_certificate("the least", &authority().issue(&least)),
        read_certificate("fields from the future", &extended("aegisray certificate v1", &issued)),
    ]
}

pub fn read_revocations(what: &str, bytes: &[u8]) -> crate::form::Revocations {
    let of = Revocations::open(bytes, authority().spki()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut serials: Vec<Hex> = of.serials.iter().map(|s| Hex(s.to_vec())).collect();
    serials.sort_by(|a, b| a.0.cmp(&b.0));
    let mut nodes: Vec<String> = of.nodes.iter().map(ToString::to_string).collect();
    nodes.sort();
    let ends = [of.serials_end.into_values().collect(), of.nodes_end.into_values().collect()];
    let (what, bytes) = (what.to_owned(), Hex(bytes.to_vec()));
    crate::form::Revocations { what, bytes, version: of.version, serials, nodes, ends }
}

fn revocations() -> Vec<crate::form::Revocations> {
    // Sets have no order on the wire; one entry of each is the same bytes every time.
    let (serial, node) = ([8; 16], identity(RESPONDER).id());
    let list = Revocations { version: 3, serials: [serial].into(), nodes: [node].into(), ..Revocations::default() };
    let ends = Revocations {
        serials_end: [(serial, TIME + 1000)].into(),
        nodes_end: [(node, TIME + 2000)].into(),
        ..list.clone()
    };
    let signed = authority().revoke(&list);
    vec![
        read_revocations("a serial and a node", &signed),
        read_revocations("with ends", &authority().revoke(&ends)),
        read_revocations("empty", &authority().revoke(&Revocations::default())),
        read_revocations("fields from the future", &extended("aegisray revocation v1", &signed)),
    ]
}

pub fn read_invite(token: &str) -> Invite {
    let of = identity::Invite::from_token(token, TIME).expect("a token that is good");
    Invite {
        token: token.to_owned(),
        secret: of.secret,
        authority: of.authority.map(Hex),
        bootstrap: of.bootstrap,
        key: of.admission.map(|secret| Hex(InviteKey::derive(&secret).bytes().to_vec())),
        admission: of.admission.map(|secret| Hex(secret.to_vec())),
        inviter: of.inviter.map(|id| id.to_string()),
        expires: of.expires,
    }
}

fn invites() -> Vec<Invite> {
    let secret_only = identity::Invite {
        network: "vectors".to_owned(),
        secret: Some(SECRET.to_owned()),
        authority: None,
        bootstrap: vec!["192.0.2.1:51900".to_owned(), "vpn.example:51900".to_owned()],
        admission: None,
        inviter: None,
        expires: TIME + 3600,
        cidr: CIDR.to_owned(),
    };
    let certified = identity::Invite {
        authority: Some(authority().spki().to_vec()),
        admission: Some(ADMISSION),
        inviter: Some(identity(RESPONDER).id()),
        ..secret_only.clone()
    };
    [secret_only, certified].iter().map(|invite| read_invite(&invite.to_token())).collect()
}

/// What an end of a handshake says of itself.
fn said(who: u8, network: usize) -> RecordContent {
    let node = identity(who).id();
    let certificate = identity::Certificate { node, addresses: vec![], name: format!("node-{who}"), ..certificate() };
    let certificate = if network == SECRET_ONLY { Vec::new() } else { authority().issue(&certificate) };
    RecordContent { name: format!("node-{who}"), certificate, boot: who.into(), ..Default::default() }
}

/// A node of the recordings, as it starts at [`TIME`].
pub fn node(who: u8, network: usize) -> Node {
    let config = NodeConfig::new(networks()[network].clone(), said(who, network), TIME);
    let verifier = Box::new(networks()[network].clone());
    Node::new(config, identity(who), verifier, [who; 32], Instant(0)).expect("a sound configuration")
}

fn beacon(n: &identity::Network, more: &[u8]) -> Beacon {
    let id = identity(INITIATOR).id();
    let body = proto::Beacon { node_id: id.0.to_vec(), endpoint: encode_endpoint(endpoint()), time: TIME };
    let mut sealed = [body.encode_to_vec(), more.to_vec()].concat();
    let nonce = 77_u64;
    let tag = AeadKey::new(Cipher::ChaCha20Poly1305, n.beacon_key()).seal(nonce, &[BEACON], &mut sealed);
    let datagram = [&[BEACON][..], &nonce.to_be_bytes(), &sealed, &tag].concat();
    Beacon { datagram: Hex(datagram), node_id: id.to_string(), endpoint: endpoint() }
}

fn beacons() -> Vec<Beacon> {
    networks().iter().flat_map(|n| [beacon(n, &[]), beacon(n, &future())]).collect()
}

/// One end of a recorded handshake.
pub fn noise(pattern: &str, network: &identity::Network, initiator: bool) -> HandshakeState {
    let (own, other, ephemeral) = match initiator {
        true => (INITIATOR, RESPONDER, EPHEMERAL[0]),
        false => (RESPONDER, INITIATOR, EPHEMERAL[1]),
    };
    let resolver = NoiseResolver::new(Rng::from_seed([ephemeral; 32]));
    let (own, remote) = (identity(own), identity(other).noise_public());
    let builder = Builder::with_resolver(pattern.parse().expect("a pattern"), Box::new(resolver))
        .local_private_key(own.noise_private())
        .and_then(|b| b.prologue(network.id()))
        .and_then(|b| b.psk(0, network.psk()))
        .expect("keys of the right length");
    match initiator {
        true if pattern.contains("IK") => builder.remote_public_key(&remote).and_then(Builder::build_initiator),
        true => builder.build_initiator(),
        false => builder.build_responder(),
    }
    .expect("all keys are there")
}

/// The datagrams of a handshake message without a cookie.
fn datagrams(n: &identity::Network, kind: HandshakeKind, [from, to]: [u32; 2], message: &[u8]) -> Vec<Hex> {
    let chunks = message.chunks(MAX_HANDSHAKE_DATAGRAM - HANDSHAKE_HEADER);
    let count = chunks.len() as u8;
    let cut = |(i, body): (usize, &[u8])| {
        let header = handshake_header(kind, i as u8, count, from, to);
        Hex([&header[..], &n.gate().tag(&[&header, body]), &[0; 16], body].concat())
    };
    chunks.enumerate().map(cut).collect()
}

fn handshakes(kem: &[Hex; 2]) -> Vec<Handshake> {
    let mut out = Vec::new();
    for network in [SECRET_ONLY, CERTIFIED] {
        for (pattern, more, what) in [
            ("Noise_IKpsk0_25519_ChaChaPoly_SHA256", vec![], "IK"),
            ("Noise_XXpsk0_25519_ChaChaPoly_SHA256", vec![], "XX"),
            ("Noise_IKpsk0_25519_ChaChaPoly_SHA256", future(), "IK, with fields from the future"),
            ("Noise_XXpsk0_25519_ChaChaPoly_SHA256", future(), "XX, with fields from the future"),
        ] {
            out.push(handshake(what, pattern, network, kem, &more));
        }
    }
    out
}

fn handshake(what: &str, pattern: &str, network: usize, kem: &[Hex; 2], more: &[u8]) -> Handshake {
    let n = &networks()[network];
    let ik = pattern.contains("IK");
    // Who speaks of more than version 1 has unknown fields to tell.
    let versions = if more.is_empty() { (1, 1) } else { (7, 1) };
    let says = |who: u8| {
        let own = identity(who).announce(n, &said(who, network), TIME as u32, 7200).expect("sound");
        let (version, oldest) = versions;
        let (record, announcement) = (own.record.bytes.clone(), own.bytes.clone());
        proto::HandshakePayload { record, announcement, ciphers: 7, version, oldest, ..Default::default() }
    };
    let (initiator, responder) = (says(INITIATOR), says(RESPONDER));
    let (version, oldest) = versions;
    let first = proto::HandshakePayload { kem: kem[0].0.clone(), ciphers: 7, version, oldest, ..Default::default() };
    let first = if ik { proto::HandshakePayload { kem: first.kem, ..initiator.clone() } } else { first };
    let second = proto::HandshakePayload { kem: kem[1].0.clone(), ciphers: 2, ..responder };
    let mut steps = vec![(HandshakeKind::Ik1, first), (HandshakeKind::Ik2, second)];
    if !ik {
        (steps[0].0, steps[1].0) = (HandshakeKind::Xx1, HandshakeKind::Xx2);
        steps.push((HandshakeKind::Xx3, initiator));
    }
    let mut ends = [noise(pattern, n, true), noise(pattern, n, false)];
    let indices = [0x0101_0101, 0x0202_0202];
    let mut messages = Vec::new();
    for (i, (kind, mut payload)) in steps.into_iter().enumerate() {
        let [writer, reader] = [i % 2, 1 - i % 2];
        if kind == HandshakeKind::Xx3 && network == CERTIFIED {
            // As of who joins by the recorded invite.
            let (joiner, inviter) = (identity(INITIATOR).id(), identity(RESPONDER).id());
            let proof = InviteKey::derive(&ADMISSION).proof(&joiner, &inviter, ends[0].get_handshake_hash());
            payload.admission = proof.to_vec();
        }
        let payload = [payload.encode_to_vec(), more.to_vec()].concat();
        let mut message = vec![0; payload.len() + 256];
        let len = ends[writer].write_message(&payload, &mut message).expect("its turn");
        message.truncate(len);
        ends[reader].read_message(&message, &mut vec![0; len]).expect("its turn");
        let pair = if i == 0 { [indices[0], 0] } else { [indices[writer], indices[reader]] };
        messages.push(HandshakeMessage {
            kind: kind.byte(),
            payload: Hex(payload),
            datagrams: datagrams(n, kind, pair, &message),
            message: Hex(message),
        });
    }
    Handshake {
        what: what.to_owned(),
        pattern: pattern.to_owned(),
        network,
        indices,
        messages,
        hash: Hex(ends[0].get_handshake_hash().to_vec()),
    }
}

fn frames() -> Vec<Message> {
    let endpoint = encode_endpoint(endpoint());
    let node_id = identity(RESPONDER).id().0.to_vec();
    let kinds = [
        ("probe", Kind::Probe(proto::Probe { id: 1, wish: 1, padding: vec![0; 3], looking: true })),
        (
            "answer to a probe",
            Kind::ProbeReply(proto::ProbeReply {
                id: 1,
                observed: endpoint.clone(),
                wish: 2,
                stun_port: 3478,
                ..Default::default()
            }),
        ),
        (
            "segment",
            Kind::Segment(proto::Segment {
                epoch: 5,
                peer_epoch: 6,
                seq: 7,
                ack: 8,
                sack: 9,
                payload: vec![1, 2, 3],
                more: true,
            }),
        ),
        ("echo", Kind::Echo(proto::Echo { id: 1, data: vec![4] })),
        ("answer to an echo", Kind::EchoReply(proto::Echo { id: 1, data: vec![4] })),
        ("trace", Kind::TraceQuery(proto::TraceQuery { id: 1, target: node_id.clone() })),
        (
            "answer to a trace",
            Kind::TraceReply(proto::TraceReply { id: 1, next: node_id, metric: 250, link_rtt_us: 500 }),
        ),
        ("path down", Kind::PathDown(proto::PathDown {})),
        ("goodbye", Kind::Goodbye(proto::Goodbye { reason: "shutdown".to_owned() })),
        ("granted", Kind::Granted(authority().issue(&certificate()))),
        (
            "punch",
            Kind::Punch(proto::Punch {
                endpoints: vec![endpoint.clone()],
                reflexive: vec![endpoint],
                mapping: 2,
                answer: true,
                last_port: 4000,
                step: 1,
            }),
        ),
    ];
    let write = |(what, kind): (&str, Kind)| Message { what: what.to_owned(), bytes: Hex(frame::encode(kind)) };
    kinds.into_iter().map(write).collect()
}

fn control() -> Vec<Message> {
    let all = announcements();
    let body =
        |slot| proto::Body { slot, announcement: all[0].announcement.0.clone(), record: all[0].record.0.clone() };
    let node_id = identity(INITIATOR).id().0.to_vec();
    let routes = proto::RouteUpdate {
        introductions: vec![proto::Introduction { slot: 5, node_id: node_id.clone() }],
        slots: vec![5],
        seqnos: vec![TIME as u32],
        metrics: vec![250],
        wants: vec![1],
        wants_record: vec![2],
        bodies: vec![body(5)],
        room: 64,
        again: true,
    };
    let kinds = [
        ("routes", control_message::Kind::Routes(routes)),
        (
            "request for a sequence number",
            control_message::Kind::SeqnoRequest(proto::SeqnoRequest { origin: node_id, seqno: TIME as u32, hops: 32 }),
        ),
        ("revocations", control_message::Kind::Revocations(revocations()[0].bytes.0.clone())),
        ("the receiver's own announcement", control_message::Kind::Yours(body(0))),
    ];
    let write = |(what, kind): (&str, control_message::Kind)| {
        let bytes = proto::ControlMessage { kind: Some(kind) }.encode_to_vec();
        Message { what: what.to_owned(), bytes: Hex(bytes) }
    };
    kinds.into_iter().map(write).collect()
}
