//! The network between the nodes of the cast, in virtual time, and what has to hold whatever the hostile member does.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use aegisray::{
    identity::{RecordSource, authenticate},
    node::{Event, Node},
    types::{Instant, NodeId},
    wire::ip,
};

use crate::cast::{self, ANNA, BERT, MALLORY};

/// A run ends after so many datagrams: an input that makes nodes talk without end is of no use to the fuzzer.
const MAX_DATAGRAMS: usize = 20_000;
/// Handshakes that a node may hold, whoever began them.
const MAX_HALF_OPEN: u64 = 1600;
const REMEMBERED: usize = 64;

/// A datagram under way or remembered: where from, where to, and itself.
pub type Datagram = (SocketAddr, SocketAddr, Vec<u8>);

pub struct Mesh {
    pub now: Instant,
    pub with_authority: bool,
    is_line: bool,
    pub nodes: Vec<Node>,
    /// What went over the wire, for who repeats it.
    pub heard: Vec<Datagram>,
    /// What the wire carries to addresses without a node: the hostile member's, where it is not one of the nodes.
    pub stray: Vec<Datagram>,
    under_way: VecDeque<Datagram>,
    carried: usize,
    /// Source addresses of packets that came from an honest node's own TUN device.
    said: Vec<IpAddr>,
}

impl Mesh {
    /// Lets the first `count` of the cast find each other: the others know Anna, and Anna knows them. In a line the others
    /// reach each other through her alone.
    pub fn new(count: usize, with_authority: bool, is_line: bool) -> Self {
        let mut mesh = Self {
            now: Instant(0),
            with_authority,
            is_line,
            nodes: (0..count).map(|who| cast::node(who, with_authority)).collect(),
            heard: Vec::new(),
            stray: Vec::new(),
            under_way: VecDeque::new(),
            carried: 0,
            said: Vec::new(),
        };
        for node in &mut mesh.nodes[1..] {
            node.set_bootstrap(Instant(0), &[cast::addr(ANNA)]);
        }
        mesh.pass(Duration::from_millis(300));
        let is_up = mesh.nodes[ANNA].link_costs().len() == count - 1;
        assert!(is_up, "the mesh comes up before anybody misbehaves");
        mesh
    }

    /// A datagram from anywhere.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.under_way.push_back((from, to, bytes));
        self.carry();
    }

    /// The run is long enough.
    pub fn is_over(&self) -> bool {
        self.carried >= MAX_DATAGRAMS
    }

    /// Carries what the nodes have to say until they are quiet.
    pub fn carry(&mut self) {
        loop {
            for who in 0..self.nodes.len() {
                while let Some(transmit) = self.nodes[who].poll_transmit() {
                    self.under_way.push_back((cast::addr(who), transmit.to, transmit.bytes));
                }
                while let Some(event) = self.nodes[who].poll_event() {
                    self.judge(who, &event);
                }
            }
            let Some((from, to, mut bytes)) = self.under_way.pop_front() else { return };
            self.carried += 1;
            if self.carried >= MAX_DATAGRAMS {
                return;
            }
            if self.heard.len() < REMEMBERED {
                self.heard.push((from, to, bytes.clone()));
            } else {
                self.heard[self.carried % REMEMBERED] = (from, to, bytes.clone());
            }
            if self.is_line && ![from, to].contains(&cast::addr(ANNA)) {
                continue;
            }
            match (0..self.nodes.len()).find(|who| cast::addr(*who) == to) {
                Some(who) => self.nodes[who].handle_datagram(self.now, from, 1, &mut bytes),
                None if self.stray.len() < REMEMBERED => self.stray.push((from, to, bytes)),
                None => {}
            }
        }
    }

    /// Time passes.
    pub fn pass(&mut self, time: Duration) {
        self.carry();
        let end = self.now + time;
        while !self.is_over() {
            let now = self.now;
            let next = self.nodes.iter_mut().map(|n| n.poll_timeout(now)).min().unwrap_or(end);
            if next > end {
                break;
            }
            self.now = next;
            for node in &mut self.nodes {
                node.handle_timeout(next);
            }
            self.carry();
        }
        self.now = end;
    }

    /// A packet that an honest node's TUN device gave it; what comes back at once is its own doing.
    pub fn tun(&mut self, who: usize, packet: &[u8]) {
        self.said.extend(ip::addresses(packet).map(|(source, _)| source));
        self.nodes[who].handle_tun(self.now, packet);
        let mut events = Vec::new();
        while let Some(event) = self.nodes[who].poll_event() {
            if !matches!(event, Event::Deliver(_)) {
                events.push(event);
            }
        }
        events.iter().for_each(|event| self.judge(who, event));
        self.carry();
    }

    fn judge(&self, who: usize, event: &Event) {
        if who == MALLORY {
            return;
        }
        match event {
            Event::LinkDown { peer, reason } => {
                let honest: [NodeId; 2] = [ANNA, BERT].map(cast::id);
                assert!(!honest.contains(peer), "the honest nodes' link went down: {reason}");
            }
            Event::Deliver(packet) => {
                assert!(packet.len() < 70_000);
                if let Some((source, _)) = ip::addresses(packet) {
                    let honest = cast::honest_addresses(self.with_authority);
                    let is_known = !honest.contains(&source) || self.said.contains(&source);
                    assert!(is_known, "a packet in an honest node's name was delivered");
                }
            }
            Event::Certified(_) => panic!("a certificate was taken that nobody had asked for"),
            _ => {}
        }
    }

    /// How many peers a node has.
    pub fn peers(&self, who: usize) -> usize {
        self.nodes[who].peer_statuses(self.now).len()
    }

    /// What holds at the end of every run.
    pub fn check(&mut self) {
        let elapsed = self.now.since(Instant(0)).as_secs() as u32;
        for who in [ANNA, BERT] {
            let node = &self.nodes[who];
            let own = node.routing().own().expect("a node knows itself");
            let source = RecordSource::Bytes(&own.record.bytes);
            assert!(authenticate(node.network(), &own.bytes, source).is_ok(), "an honest announcement is sound");
            let first = cast::EPOCH as u32;
            assert!(own.seqno <= first + elapsed + 30, "{} announcements in {elapsed} s", own.seqno - first);
            let counters = node.status().counters;
            let half_open = ["handshakes_pending", "handshakes_claimed"].map(|c| counters.get(c).copied().unwrap_or(0));
            assert!(half_open.iter().sum::<u64>() <= MAX_HALF_OPEN, "{half_open:?} handshakes");
            assert!(self.peers(who) <= cast::CAST && node.routing().announcements().count() <= cast::CAST);
            assert!(self.nodes[who].poll_timeout(self.now) > self.now);
        }
    }
}
