//! What people ask a node: peers, routes, counters.

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Node, forward};
use crate::{
    identity::Refusal,
    types::{Instant, NodeId, path},
    wire::{proto::Mapping, version::Versions},
};

/// Counters of a node since its start.
#[derive(Debug, Default, Clone)]
pub struct Counters {
    drops: [u64; forward::Drop::ALL.len()],
    refusals: BTreeMap<String, u64>,
    pub relayed: u64,
    /// Attempts to make holes in NATs.
    pub punches: u64,
    pub handshakes: u64,
    pub handshakes_failed: u64,
    /// Handshakes that were begun before the peer's last start and ended after it.
    pub handshakes_stale: u64,
    /// Nodes without a link whose sessions ended because others needed their places.
    pub peers_displaced: u64,
    pub rekeys: u64,
    pub roams: u64,
    /// Ways by relays by which packets were seen not to arrive.
    pub ways_given_up: u64,
    /// Places of links where probes arrived and packets did not.
    pub places_left: u64,
    pub links_up: u64,
    pub links_down: u64,
    pub control_sent: u64,
    pub beacons_heard: u64,
    /// Beacons of another time or from another address than they say.
    pub beacons_refused: u64,
    pub address_collisions: u64,
}

impl Counters {
    pub fn drop(&mut self, reason: forward::Drop) {
        self.drops[reason as usize] += 1;
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        *self.refusals.entry(refusal.to_string()).or_default() += 1;
    }

    #[must_use]
    pub fn dropped(&self, reason: forward::Drop) -> u64 {
        self.drops[reason as usize]
    }

    /// How often a refusal of this kind was met.
    #[must_use]
    pub fn refused(&self, refusal: &Refusal) -> u64 {
        self.refusals.get(&refusal.to_string()).copied().unwrap_or(0)
    }
}

/// The whole node at a glance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub node_id: String,
    pub name: String,
    pub network: String,
    pub addresses: Vec<IpAddr>,
    pub endpoints: Vec<SocketAddr>,
    pub links: usize,
    pub known_nodes: usize,
    pub reachable_nodes: usize,
    /// The longest time between probes of an idle link, in seconds, that the NAT before this node allows; 0: not known.
    pub keepalive_s: u64,
    /// What people should know: names and addresses that others claim too.
    #[serde(default)]
    pub notes: Vec<String>,
    pub counters: BTreeMap<String, u64>,
    pub dropped: BTreeMap<String, u64>,
    pub refused: BTreeMap<String, u64>,
}

/// A link of a peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkStatus {
    pub addr: SocketAddr,
    pub up: bool,
    pub rtt_ms: Option<f64>,
    pub loss_percent: f64,
    pub cost: u32,
    /// The longest IP packet that was seen to pass in one piece; `None`: not known yet.
    pub path_mtu: Option<usize>,
    pub age_s: u64,
    /// What carries the datagrams.
    pub over: Carrier,
}

/// What carries a link's datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    Udp,
    /// Until UDP passes.
    Tcp,
    /// As a visitor of a website (`stealth`).
    Tls,
    /// By way of a TURN server, until a straight path is found.
    Turn,
}

impl Carrier {
    fn of(path: SocketAddr) -> Self {
        match path::socket_of(path) {
            path::TURN => Self::Turn,
            _ if path::is_sealed(path) => Self::Tls,
            number if number >= path::FIRST_STREAM => Self::Tcp,
            _ => Self::Udp,
        }
    }
}

/// A peer: a node with a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerStatus {
    pub node_id: String,
    /// Its own name, or the start of its NodeId.
    pub name: String,
    /// The addresses that it owns.
    pub addresses: Vec<IpAddr>,
    /// Those that it claims and does not own: another node has them, or nobody.
    #[serde(default)]
    pub contested: Vec<IpAddr>,
    pub link: Option<LinkStatus>,
    /// Why there can't be a direct link, if that is known.
    pub obstacle: Option<String>,
    pub cipher: Option<String>,
    pub session_age_s: Option<u64>,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

/// A route to a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouteStatus {
    pub node_id: String,
    /// Its own name, or the start of its NodeId.
    pub name: String,
    /// The addresses that it owns.
    pub addresses: Vec<IpAddr>,
    /// Those that it claims and does not own: another node has them, or nobody.
    #[serde(default)]
    pub contested: Vec<IpAddr>,
    pub prefixes: Vec<String>,
    /// Those of them for which another node that announces them too is used.
    #[serde(default)]
    pub standby: Vec<String>,
    pub next_hop: String,
    pub next_hop_name: String,
    pub direct: bool,
    pub metric: u32,
    pub backup: Option<String>,
}

impl Node {
    #[must_use]
    pub fn status(&self) -> Status {
        let c = &self.counters;
        let (s, pending) = self.door.counters();
        let r = &self.routing.counters;
        let counters = [
            ("relayed_packets", c.relayed),
            ("punches", c.punches),
            ("handshakes", c.handshakes),
            ("handshakes_failed", c.handshakes_failed),
            ("handshakes_pending", pending as u64),
            ("handshakes_claimed", self.claims.len() as u64),
            ("handshakes_stale", c.handshakes_stale),
            ("peers_displaced", c.peers_displaced),
            ("handshakes_over_budget", s.over_budget),
            ("rekeys", c.rekeys),
            ("roams", c.roams),
            ("ways_given_up", c.ways_given_up),
            ("places_left", c.places_left),
            ("links_up", c.links_up),
            ("links_down", c.links_down),
            ("beacons_heard", c.beacons_heard),
            ("beacons_refused", c.beacons_refused),
            ("address_collisions", c.address_collisions),
            ("addresses_contested", self.book.contested_count()),
            ("unanswered_end_to_end", self.proofs.suspected),
            ("control_segments_sent", c.control_sent),
            ("route_updates_sent", r.updates_sent),
            ("route_updates_received", r.updates_received),
            ("route_entries_refused", r.entries_refused),
            ("announcements_unasked", r.bodies_unasked),
            ("seqno_requests_sent", r.requests_sent),
            ("route_table_full", r.table_full),
            ("cookies_sent", s.cookies_sent),
            ("punches_refused", self.puncher.refused),
            ("endpoint_changes_deferred", self.discovery.counters.changes_deferred),
            ("attempts_deferred", self.discovery.counters.attempts_deferred),
        ];
        let mut refused = c.refusals.clone();
        for (name, count) in [
            (Refusal::WrongNetwork.to_string(), s.bad_mac),
            ("replayed handshake".to_owned(), s.replayed),
            ("broken handshake".to_owned(), s.broken),
        ] {
            if count > 0 {
                *refused.entry(name).or_default() += count;
            }
        }
        Status {
            node_id: self.id().to_string(),
            name: self.book.name(&self.id()).unwrap_or(&self.own.content.name).to_owned(),
            network: self.network.name().to_owned(),
            addresses: self.addresses().to_vec(),
            endpoints: self.own.content.endpoints.clone(),
            links: self.peers.values().filter(|p| p.is_up()).count(),
            known_nodes: self.routing.announcements().count() - 1,
            reachable_nodes: self.routing.reachable(),
            keepalive_s: self.rest.as_secs(),
            notes: self.notes(),
            counters: counters.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
            dropped: forward::Drop::ALL.iter().map(|d| (d.name().to_owned(), c.dropped(*d))).collect(),
            refused,
        }
    }

    /// What of this node's own is contested.
    fn notes(&self) -> Vec<String> {
        let me = self.id();
        let name = self.book.contested_name(&me).map(|name| {
            format!("the name `{name}` is not this node's alone, so nobody has it: choose another one (name), or have it certified")
        });
        let addresses = self.book.contested(&me).map(|ip| {
            format!(
                "another node claims the address {ip} too: certify it for one of them (`aegisray cert issue --address`)"
            )
        });
        name.into_iter().chain(addresses).collect()
    }

    #[must_use]
    pub fn peer_statuses(&self, now: Instant) -> Vec<PeerStatus> {
        let own = self.own.mapping();
        let mut out: Vec<_> = self
            .peers
            .values()
            .map(|p| {
                let current = p.transport();
                let session =
                    current.and_then(|t| p.sessions.iter().find(|s| s.transport.local_index == t.local_index));
                PeerStatus {
                    node_id: p.info.id.to_string(),
                    name: self.book.display(&p.info.id),
                    addresses: self.book.addresses_of(&p.info.id).collect(),
                    contested: self.book.contested(&p.info.id).collect(),
                    link: p.link.as_ref().map(|l| LinkStatus {
                        addr: path::plain(l.addr),
                        up: l.up,
                        rtt_ms: l.srtt().map(|r| r.as_secs_f64() * 1e3),
                        loss_percent: (l.loss() * 1000.0).round() / 10.0,
                        cost: l.told_cost(),
                        path_mtu: l.mtu.is_known().then(|| l.mtu.size() + if l.addr.is_ipv4() { 28 } else { 48 }),
                        age_s: now.since(l.since).as_secs(),
                        over: Carrier::of(l.addr),
                    }),
                    obstacle: (!p.is_up() && [own, p.mapping] == [Mapping::Dependent; 2])
                        .then(|| "both ends are behind symmetric NATs".to_owned()),
                    cipher: current.map(|t| t.cipher.name().to_owned()),
                    session_age_s: session.map(|s| now.since(s.since).as_secs()),
                    sent_bytes: p.sessions.iter().map(|s| s.transport.sent_bytes()).sum(),
                    received_bytes: p.sessions.iter().map(|s| s.transport.received_bytes()).sum(),
                }
            })
            .collect();
        out.extend(self.foreign_peers());
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }

    /// Nodes with which there can be no session, since they speak another version of the protocol.
    fn foreign_peers(&self) -> impl Iterator<Item = PeerStatus> {
        let told = self.routing.announcements().map(|known| (known.id, known.record.versions));
        let told = told.filter(|(_, versions)| versions.common(Versions::OURS).is_none());
        let all: BTreeMap<NodeId, Versions> = self.foreign.iter().map(|(id, v)| (*id, *v)).chain(told).collect();
        all.into_iter().filter(|(id, _)| self.peers.get(id).is_none()).map(|(id, versions)| PeerStatus {
            node_id: id.to_string(),
            name: self.book.display(&id),
            addresses: self.book.addresses_of(&id).collect(),
            contested: Vec::new(),
            link: None,
            obstacle: Some(Refusal::Version(versions).to_string()),
            cipher: None,
            session_age_s: None,
            sent_bytes: 0,
            received_bytes: 0,
        })
    }

    #[must_use]
    pub fn route_statuses(&self) -> Vec<RouteStatus> {
        let standbys = self.standbys();
        let mut out: Vec<_> = self
            .routing
            .routes()
            .map(|r| RouteStatus {
                node_id: r.origin.id.to_string(),
                name: self.book.display(&r.origin.id),
                addresses: self.book.addresses_of(&r.origin.id).collect(),
                contested: self.book.contested(&r.origin.id).collect(),
                prefixes: self.book.networks(&r.origin.id).iter().map(ToString::to_string).collect(),
                standby: standbys.iter().filter(|(.., n)| *n == r.origin.id).map(|(p, ..)| p.to_string()).collect(),
                next_hop: r.next_hop.to_string(),
                next_hop_name: self.book.display(&r.next_hop),
                direct: r.next_hop == r.origin.id,
                metric: r.metric,
                backup: r.backup.map(|b| self.book.display(&b)),
            })
            .collect();
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }
}

impl Node {
    /// The receiver index that packets to a neighbour carry, for the simulator's check of forwarding.
    #[must_use]
    pub fn index_towards(&self, neighbor: &NodeId) -> Option<u32> {
        Some(self.peers.get(neighbor)?.transport()?.remote_index)
    }

    /// Whether packets with this receiver index are taken in.
    #[must_use]
    pub fn takes_in(&self, index: u32) -> bool {
        self.by_index.contains_key(&index)
    }

    /// The links that are up, with their costs as told to routing.
    #[must_use]
    pub fn link_costs(&self) -> Vec<(NodeId, u32)> {
        let up = self.peers.iter().filter_map(|(id, p)| Some((*id, p.link.as_ref().filter(|l| l.up)?.told_cost())));
        up.collect()
    }
}
