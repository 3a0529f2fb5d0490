//! What a hostile member may say: every message of the protocol, well formed and signed with good keys, with fields that are
//! not what they should be.

use std::net::{IpAddr, SocketAddr};

use aegisray::{
    crypto::sha256,
    identity::{Certificate, Revocations},
    types::NodeId,
    wire::{
        self,
        frame::{self, Kind},
        proto::{self, control_message},
    },
};
use prost::Message as _;

use crate::{
    cast::{self, ANNA, BERT, CAST, MALLORY},
    input::Input,
};

/// A signed announcement and its record.
pub type Signed = (Vec<u8>, Vec<u8>);

/// A source of messages: choices, and what was heard so far.
pub struct Speech<'a, 'b> {
    pub input: &'a mut Input<'b>,
    pub with_authority: bool,
    /// Announcements of honest nodes, to be repeated.
    pub heard: &'a [Signed],
}

impl Speech<'_, '_> {
    /// Somebody's NodeId: of the cast, or of nobody.
    pub fn node_id(&mut self) -> Vec<u8> {
        match self.input.below(CAST + 2) {
            who if who < CAST => cast::id(who).0.to_vec(),
            who if who == CAST => self.input.exactly(32),
            _ => self.input.bytes(40),
        }
    }

    fn seqno(&mut self) -> u32 {
        let base = cast::EPOCH as u32;
        match self.input.below(4) {
            0 => base + self.input.below(8) as u32,
            1 => base.wrapping_add(self.input.number()),
            2 => base.wrapping_sub(self.input.number()),
            _ => self.input.number(),
        }
    }

    fn metric(&mut self) -> u32 {
        let sound = [0, 1, 500, 20_000, 15_999_999, 16_000_000, 16_000_001];
        if self.input.once_in(4) { self.input.number() } else { self.input.pick(&sound) }
    }

    pub fn name(&mut self) -> String {
        let known =
            ["", "mallory", "anna", "bert", "wpad", "localhost", "a.b", "_http._tcp", "-", "\u{202e}x", "MALLORY"];
        match self.input.below(4) {
            0 => cast::id(self.input.below(CAST)).to_string(),
            1 => String::from_utf8_lossy(&self.input.bytes(80)).into_owned(),
            _ => self.input.pick(&known).to_owned(),
        }
    }

    /// An address of the underlay: a node's, or one where nothing should be sent.
    pub fn socket(&mut self) -> SocketAddr {
        let places: [IpAddr; 9] = [
            [127, 0, 0, 1].into(),
            [0, 0, 0, 0].into(),
            [224, 0, 0, 1].into(),
            [255, 255, 255, 255].into(),
            [192, 168, 1, 1].into(),
            [198, 51, 100, 7].into(),
            [0xff02, 0, 0, 0, 0, 0, 0, 1].into(),
            [0xfe80, 0, 0, 0, 0, 0, 0, 1].into(),
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, self.input.byte().into()].into(),
        ];
        let port = self.input.pick(&[51_900, 0, 53, 65_535]);
        if self.input.once_in(2) {
            SocketAddr::new(self.input.pick(&places), port)
        } else {
            cast::addr(self.input.below(CAST))
        }
    }

    fn endpoint(&mut self) -> Vec<u8> {
        if self.input.once_in(8) { self.input.bytes(20) } else { wire::encode_endpoint(self.socket()) }
    }

    fn prefix(&mut self) -> Vec<u8> {
        let known = ["0.0.0.0/0", "::/0", "10.0.0.0/8", "100.64.0.0/16", "192.168.7.0/24", "203.0.113.1/32"];
        match self.input.below(4) {
            0 => self.input.bytes(18),
            1 => {
                let host = self.input.pick(&cast::honest_addresses(self.with_authority));
                [wire::encode_ip(host), vec![if host.is_ipv4() { 32 } else { 128 }]].concat()
            }
            _ => wire::encode_prefix(self.input.pick(&known).parse().expect("a prefix")),
        }
    }

    fn several<T>(&mut self, usual: usize, most: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = if self.input.once_in(16) { most } else { self.input.below(usual + 1) };
        (0..count).map(|_| one(self)).collect()
    }

    /// A certificate: sound, of another node, out of its time, of another authority, or junk.
    pub fn certificate(&mut self, node: NodeId) -> Vec<u8> {
        let mut content = cast::certificate(node);
        let mut authority = 0;
        match self.input.below(8) {
            0 => return self.input.bytes(200),
            1 => content.node = cast::id(self.input.below(CAST)),
            2 => content.not_after = cast::EPOCH - 1,
            3 => content.not_before = cast::EPOCH + 500_000,
            4 => authority = 1,
            5 => content = Certificate { name: "mallory".to_owned(), groups: vec!["guests".to_owned()], ..content },
            _ => {}
        }
        self.input.mangle(cast::issue(authority, &content))
    }

    /// A record of one of the hostile member's keys.
    fn record(&mut self, who: usize) -> Vec<u8> {
        let identity = &cast::cast()[who];
        let certificate = match self.with_authority {
            true => self.certificate(identity.id()),
            false if self.input.once_in(8) => self.input.bytes(3000),
            false => Vec::new(),
        };
        let record = proto::PeerRecord {
            spki: if self.input.once_in(16) { self.input.bytes(64) } else { identity.spki().to_vec() },
            noise_static: match self.input.below(8) {
                0 => self.input.bytes(40),
                1 => cast::cast()[self.input.below(CAST)].noise_public().to_vec(),
                _ => identity.noise_public().to_vec(),
            },
            name: self.name(),
            ipv4_attempt: self.input.number() % 40,
            prefixes: self.several(4, 80, Self::prefix),
            endpoints: self.several(4, 20, Self::endpoint),
            certificate,
            no_relay: self.input.once_in(2),
            boot: self.input.number(),
            country: self.input.pick(&["", "se", "SE", "xx"]).to_owned(),
            services: self.several(2, 20, |s| proto::Service {
                kind: s.input.pick(&["_http._tcp", "_x._udp", "", "http", "_._tcp"]).to_owned(),
                port: s.input.number(),
            }),
            version: self.input.pick(&[1, 1, 0, 2, u32::MAX]),
            oldest: self.input.pick(&[1, 1, 0, 2, u32::MAX]),
            ipv4_only: self.input.once_in(4),
        };
        let mut bytes = record.encode_to_vec();
        if self.input.once_in(4) {
            // Fields from the future: number 100, length-delimited.
            let unknown = self.input.bytes(300);
            bytes.extend([0xa2, 0x06]);
            prost::encode_length_delimiter(unknown.len(), &mut bytes).expect("a vector grows");
            bytes.extend(unknown);
        }
        self.input.mangle(bytes)
    }

    /// An announcement: signed with one of the hostile member's keys, or one of an honest node, as it was heard.
    pub fn announcement(&mut self) -> Signed {
        if self.input.once_in(4)
            && let Some(last) = self.heard.len().checked_sub(1)
        {
            let (announcement, record) = self.heard[self.input.below(last + 1)].clone();
            return (self.input.mangle(announcement), self.input.mangle(record));
        }
        let who = MALLORY + self.input.below(CAST - MALLORY);
        let identity = &cast::cast()[who];
        let record = self.record(who);
        let mut raw = proto::Announcement {
            node_id: if self.input.once_in(16) { self.node_id() } else { identity.id().0.to_vec() },
            seqno: self.seqno(),
            lifetime_s: self.input.pick(&[7200, 0, 1, 60, 86_400, u32::MAX]),
            record_hash: if self.input.once_in(16) { self.input.bytes(40) } else { sha256(&[&record]).to_vec() },
            signature: Vec::new(),
        };
        let numbers = [raw.seqno.to_be_bytes(), raw.lifetime_s.to_be_bytes()].concat();
        let network = cast::network(self.with_authority);
        let message = [&network.id()[..], &raw.node_id, &numbers, &raw.record_hash].concat();
        raw.signature = identity.sign("aegisray announce v1", &message);
        (self.input.mangle(raw.encode_to_vec()), record)
    }

    /// Slots that the hostile member hands out: far from those that its node does, so that both go on.
    fn slot(&mut self) -> u32 {
        match self.input.below(8) {
            0 => self.input.number(),
            1 => self.input.below(8) as u32,
            _ => 100 + self.input.below(CAST + 1) as u32,
        }
    }

    fn routes(&mut self) -> proto::RouteUpdate {
        // One introduction with what belongs to it is what a node takes in; the rest is noise around it.
        let slot = self.slot();
        let (announcement, record) = self.announcement();
        let node_id = proto::Announcement::decode(&announcement[..]).map(|a| a.node_id).unwrap_or_default();
        let mut update = proto::RouteUpdate {
            introductions: self.several(3, 400, |s| proto::Introduction { slot: s.slot(), node_id: s.node_id() }),
            slots: self.several(3, 300, Self::slot),
            seqnos: self.several(3, 300, Self::seqno),
            metrics: self.several(3, 300, Self::metric),
            wants: self.several(3, 300, Self::slot),
            wants_record: self.several(3, 300, Self::slot),
            bodies: Vec::new(),
            room: self.input.number(),
            again: self.input.once_in(8),
        };
        if self.input.once_in(2) {
            update.introductions.push(proto::Introduction { slot, node_id });
            update.slots.insert(0, slot);
            update.seqnos.insert(0, self.seqno());
            update.metrics.insert(0, self.metric());
        }
        let record = if self.input.once_in(4) { Vec::new() } else { record };
        update.bodies.push(proto::Body { slot, announcement, record });
        if self.input.once_in(4) {
            let (announcement, record) = self.announcement();
            update.bodies.push(proto::Body { slot: self.slot(), announcement, record });
        }
        update
    }

    fn revocations(&mut self) -> Vec<u8> {
        // The authority itself is honest: it never turns away the honest.
        let mut list = Revocations { version: self.input.wide(), ..Default::default() };
        for _ in 0..self.input.below(4) {
            let node = cast::id(MALLORY + 1 + self.input.below(CAST - MALLORY - 1));
            list.nodes.insert(node);
            list.nodes_end.insert(node, self.input.wide());
        }
        let signed = cast::authorities()[self.input.below(2)].revoke(&list);
        self.input.mangle(signed)
    }

    /// A control message, or what is none.
    pub fn control(&mut self) -> Vec<u8> {
        let kind = match self.input.below(10) {
            0 => return self.input.bytes(2000),
            1 => control_message::Kind::Revocations(self.revocations()),
            2 => {
                let (announcement, record) = self.announcement();
                control_message::Kind::Yours(proto::Body { slot: self.slot(), announcement, record })
            }
            3 | 4 => control_message::Kind::SeqnoRequest(proto::SeqnoRequest {
                origin: self.node_id(),
                seqno: self.seqno(),
                hops: self.input.number(),
            }),
            _ => control_message::Kind::Routes(self.routes()),
        };
        let bytes = proto::ControlMessage { kind: Some(kind) }.encode_to_vec();
        self.input.mangle(bytes)
    }

    fn segment(&mut self) -> proto::Segment {
        proto::Segment {
            epoch: self.input.wide(),
            peer_epoch: self.input.wide(),
            seq: self.input.number(),
            ack: self.input.number(),
            sack: self.input.wide(),
            payload: if self.input.once_in(2) { self.control() } else { self.input.bytes(1200) },
            more: self.input.once_in(2),
        }
    }

    fn punch(&mut self) -> proto::Punch {
        proto::Punch {
            endpoints: self.several(3, 40, Self::endpoint),
            reflexive: self.several(3, 40, Self::endpoint),
            mapping: self.input.number() as i32,
            answer: self.input.once_in(2),
            last_port: self.input.number(),
            step: self.input.number(),
        }
    }

    /// The plaintext of a session: a frame, a mark, an IP packet, or junk.
    pub fn plaintext(&mut self) -> Vec<u8> {
        let kind = match self.input.below(16) {
            0 => return self.input.bytes(1500),
            1 => return vec![self.input.byte()],
            2 | 3 => return self.packet(),
            4 => Kind::Probe(proto::Probe {
                id: self.input.number(),
                wish: self.input.number() as i32,
                padding: vec![0; self.input.below(1600)],
                looking: self.input.once_in(2),
            }),
            5 => Kind::ProbeReply(proto::ProbeReply {
                id: self.input.number(),
                observed: self.endpoint(),
                wish: self.input.number() as i32,
                stun_port: self.input.number(),
                received: self.input.wide(),
            }),
            6 => Kind::Segment(self.segment()),
            7 => Kind::Echo(proto::Echo { id: self.input.wide(), data: self.input.bytes(1400) }),
            8 => Kind::EchoReply(proto::Echo { id: self.input.wide(), data: self.input.bytes(100) }),
            9 => Kind::TraceQuery(proto::TraceQuery { id: self.input.wide(), target: self.node_id() }),
            10 => Kind::TraceReply(proto::TraceReply {
                id: self.input.wide(),
                next: self.node_id(),
                metric: self.metric(),
                link_rtt_us: self.input.number(),
            }),
            11 => Kind::PathDown(proto::PathDown {}),
            12 => Kind::Punch(self.punch()),
            13 => Kind::Goodbye(proto::Goodbye { reason: self.input.pick(&["full", "shutdown", ""]).to_owned() }),
            _ => {
                let node = cast::id(self.input.pick(&[ANNA, BERT, MALLORY]));
                Kind::Granted(self.certificate(node))
            }
        };
        self.input.mangle(frame::encode(kind))
    }

    /// An IP packet with headers of any kind.
    pub fn packet(&mut self) -> Vec<u8> {
        let mine = [cast::network(self.with_authority).ipv4(&cast::id(MALLORY), 0).into(), [10, 1, 2, 3].into()];
        let all = [&cast::honest_addresses(self.with_authority)[..], &mine].concat();
        let (source, target) = (self.input.pick(&all), self.input.pick(&all));
        let body = self.input.bytes(1400);
        let protocol = self.input.pick(&[17, 6, 1, 58, 44, 0, 255]);
        let (odd, ttl) = (self.input.byte(), self.input.pick(&[64, 1, 0, 255]));
        let (IpAddr::V4(from), IpAddr::V4(to)) = (source, target) else {
            let v6 = |ip| match ip {
                IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                IpAddr::V6(a) => a.octets(),
            };
            let len = (body.len() as u16).to_be_bytes();
            let head = [0x60, odd & 3, 0, 0, len[0], len[1], protocol, ttl];
            return self.input.mangle([&head[..], &v6(source), &v6(target), &body].concat());
        };
        let len = (20 + body.len() as u16).to_be_bytes();
        let fragment = if self.input.once_in(8) { self.input.bytes(2) } else { Vec::new() };
        let fragment = [fragment.first().copied().unwrap_or(0), fragment.get(1).copied().unwrap_or(0)];
        let mut head = vec![0x45, odd & 3, len[0], len[1], 0, 0, fragment[0], fragment[1], ttl, protocol, 0, 0];
        head.extend([from.octets(), to.octets()].concat());
        // A checksum that is right most of the time (RFC 1071).
        let sum = head.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum::<u32>();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        head[10..12].copy_from_slice(&sum.to_be_bytes());
        self.input.mangle([head, body].concat())
    }
}
