//! What a hostile node has at hand when it acts.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use prost::Message as _;

use crate::{
    crypto::Rng,
    identity::{Identity, Network, RecordContent, Verified},
    node::Node,
    sim::happening::address,
    types::{Instant, NodeId, NodeTag, SeqNo},
    wire::{
        frame,
        packet::MAX_HOPS,
        proto::{Body, ControlMessage, Introduction, RouteUpdate, control_message},
    },
};

/// What every attacker knows of the world.
pub(super) struct Scene {
    pub network: Network,
    pub ids: Vec<NodeId>,
    pub hostile: Vec<bool>,
    /// The certificate of each node.
    pub certificates: Vec<Vec<u8>>,
    /// An older one of each node, with less in it.
    pub old: Vec<Vec<u8>>,
}

/// A datagram that a hostile node heard, and whom it was for.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub from: SocketAddr,
    pub to: usize,
    pub bytes: Vec<u8>,
}

/// A datagram to send: from where, so it says, to where, and what.
pub(super) type Said = (SocketAddr, SocketAddr, Vec<u8>);

pub(super) struct Hand<'a> {
    pub now: Instant,
    pub me: usize,
    pub node: &'a mut Node,
    pub rng: &'a mut Rng,
    pub identity: &'a Identity,
    pub scene: &'a Scene,
    pub heard: &'a VecDeque<Heard>,
    /// The last sequence number with which this node signed by itself, past the shipped code.
    pub seqno: &'a mut SeqNo,
    pub said: Vec<Said>,
    /// Messages of all kinds.
    pub count: u64,
}

impl Hand<'_> {
    pub fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    pub fn any_bytes(&mut self, at_most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.below(at_most + 1)];
        self.rng.fill(&mut bytes);
        bytes
    }

    pub fn any_id(&mut self) -> NodeId {
        NodeId(self.rng.bytes())
    }

    /// Some other node.
    pub fn somebody(&mut self) -> usize {
        let other = self.below(self.scene.ids.len() - 1);
        other + usize::from(other >= self.me)
    }

    /// Some honest node.
    pub fn victim(&mut self) -> usize {
        loop {
            let i = self.somebody();
            if !self.scene.hostile[i] {
                return i;
            }
        }
    }

    /// An address at which a host stands that has nothing to do with the mesh.
    pub fn outsider(&mut self) -> SocketAddr {
        let [a, b, c, d, ..] = self.rng.bytes::<8>();
        let ip = match self.below(8) {
            0 => IpAddr::from([127, 0, 0, 1]),
            1 => IpAddr::from([224, 0, 0, a]),
            2 => IpAddr::from([192, 168, a, b]),
            _ => IpAddr::from([203, 0, 113, a % 4]),
        };
        SocketAddr::new(ip, u16::from_be_bytes([c, d]))
    }

    /// Some address: this node's, another node's, or anybody's.
    pub fn any_address(&mut self) -> SocketAddr {
        match self.below(3) {
            0 => address(self.me),
            1 => address(self.somebody()),
            _ => self.outsider(),
        }
    }

    pub fn neighbours(&self) -> Vec<NodeId> {
        self.node.link_costs().into_iter().map(|(id, _)| id).collect()
    }

    /// Says something on the channel to a neighbour.
    pub fn control(&mut self, to: NodeId, kind: control_message::Kind) -> bool {
        self.control_raw(to, ControlMessage { kind: Some(kind) }.encode_to_vec())
    }

    pub fn control_raw(&mut self, to: NodeId, message: Vec<u8>) -> bool {
        self.count += 1;
        self.node.send_control_raw(self.now, to, message)
    }

    /// Says something in a session, whichever way routing leads; begins one if need be.
    pub fn plaintext(&mut self, to: NodeId, plaintext: Vec<u8>) {
        self.count += 1;
        self.node.send_raw(self.now, to, plaintext);
    }

    pub fn frame(&mut self, to: NodeId, kind: frame::Kind) {
        self.plaintext(to, frame::encode(kind));
    }

    /// A frame that goes by way of a relay, also to a neighbour.
    pub fn relayed_frame(&mut self, to: NodeId, kind: frame::Kind) {
        let Some(session) = self.node.session_raw(&to) else {
            // It begins one.
            self.frame(to, kind);
            return;
        };
        let mut sealed = Vec::new();
        session.seal(&frame::encode(kind), &mut sealed);
        self.relayed(to, self.scene.ids[self.me].tag(), &sealed);
    }

    /// A datagram behind a hop header: for `to`, in the name of `source`.
    pub fn relayed(&mut self, to: NodeId, source: NodeTag, inner: &[u8]) {
        let relays: Vec<NodeId> = self.neighbours().into_iter().filter(|n| *n != to).collect();
        if relays.is_empty() {
            return;
        }
        let relay = relays[self.below(relays.len())];
        let (Some(session), Some(at)) = (self.node.session_raw(&relay), self.place_of(&relay)) else { return };
        let header = session.seal_hop(MAX_HOPS, to.tag(), source);
        self.datagram(address(self.me), address(at), [&header[..], inner].concat());
    }

    fn place_of(&self, id: &NodeId) -> Option<usize> {
        self.scene.ids.iter().position(|i| i == id)
    }

    pub fn datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.count += 1;
        self.said.push((from, to, bytes));
    }

    /// This node's own announcement with this content, newer than all before, signed past the shipped code.
    fn announce(&mut self, content: RecordContent) -> Option<Verified> {
        let newest = self.node.own_state().1.max(*self.seqno);
        *self.seqno = newest + 1;
        let content = RecordContent { certificate: self.scene.certificates[self.me].clone(), ..content };
        self.identity.announce(&self.scene.network, &content, *self.seqno, 7200).ok()
    }

    /// Announces this node anew and tells all neighbours: introduction, metric and body in one.
    pub fn spread(&mut self, content: RecordContent, slot: u32) {
        let Some(announced) = self.announce(content) else { return };
        let update = RouteUpdate {
            introductions: vec![Introduction { slot, node_id: announced.id.0.to_vec() }],
            slots: vec![slot],
            seqnos: vec![announced.seqno],
            metrics: vec![0],
            bodies: vec![Body { slot, announcement: announced.bytes.clone(), record: announced.record.bytes.clone() }],
            ..Default::default()
        };
        for neighbour in self.neighbours() {
            self.control(neighbour, control_message::Kind::Routes(update.clone()));
        }
    }
}
