//! A frozen copy of what the data plane needs: made by the node when something changed, read by any thread.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    Node, PrefixMap,
    claims::ClaimTable,
    forward::{self, Destination, Tables},
};
use crate::{
    identity::Verified,
    session::Transport,
    types::{IpPrefix, NodeId, NodeTag, QuickMap, Sharded},
};

/// By index: the session, and where its peer's link is.
type Sessions = QuickMap<u32, (Arc<Transport>, Option<SocketAddr>)>;

/// The forwarding tables at one moment.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    me: Option<NodeTag>,
    claims: Arc<ClaimTable>,
    sessions: Arc<Sessions>,
    relays: Sharded<NodeTag, (Arc<Transport>, SocketAddr)>,
    /// The owner of each address, if one of those who claim it owns it, and the way there if there is one.
    hosts: Sharded<IpAddr, (Option<NodeId>, Option<Arc<Destination>>)>,
    subnets: Arc<PrefixMap<Vec<NodeId>>>,
    destinations: Sharded<NodeId, Arc<Destination>>,
    /// What this node says of itself.
    own: Option<Arc<Verified>>,
    /// The mesh's own ranges.
    ranges: Vec<IpPrefix>,
    /// The exit in use, and whether it carries IPv4 and IPv6.
    exit: Option<(NodeId, bool, bool)>,
}

impl Snapshot {
    /// Whether the peer of a session is known to be at `addr`.
    #[must_use]
    pub fn is_at(&self, index: u32, addr: SocketAddr) -> bool {
        self.sessions.get(&index).is_some_and(|(_, link)| *link == Some(addr))
    }

    /// Whether a node's link is at `addr`, where it has shown that it is, and is the way there.
    #[must_use]
    pub fn is_linked(&self, node: &NodeId, addr: SocketAddr) -> bool {
        self.destinations.get(node).is_some_and(|d| matches!(d.hop, forward::Hop::Direct(at) if at == addr))
    }

    fn is_outside(&self, ip: IpAddr) -> bool {
        !self.ranges.iter().any(|range| range.contains(ip))
    }

    fn exit_for(&self, ip: IpAddr) -> Option<&NodeId> {
        let (node, ipv4, ipv6) = self.exit.as_ref()?;
        let carries = if ip.is_ipv4() { *ipv4 } else { *ipv6 };
        (carries && self.is_outside(ip)).then_some(node)
    }

    /// All that it says of ways, to compare it with another one.
    #[cfg(test)]
    pub fn outline(&self) -> std::collections::BTreeSet<String> {
        let way = |d: &Destination| {
            let hop = match &d.hop {
                forward::Hop::Direct(addr) => format!("{addr}"),
                forward::Hop::Relay(neighbor, addr) => format!("{} at {addr}", neighbor.local_index),
            };
            let session = d.transport.as_ref().map(|t| t.local_index);
            format!("{} by {hop}, {session:?} over {}, {}", d.node, d.link.local_index, d.underlay)
        };
        let relays = self.relays.iter().map(|(tag, (t, addr))| format!("relay {tag:?}: {} at {addr}", t.local_index));
        let host = |d: &Option<Arc<Destination>>| d.as_deref().map(way);
        let hosts = self.hosts.iter().map(|(ip, (owner, d))| format!("host {ip}: {owner:?} {:?}", host(d)));
        let destinations = self.destinations.iter().map(|(id, d)| format!("{id}: {}", way(d)));
        relays.chain(hosts).chain(destinations).collect()
    }

    /// The longest IP packet that the way to a node takes.
    #[must_use]
    pub fn mtu_to(&self, node: &NodeId) -> usize {
        self.destinations.get(node).map_or(forward::MIN_MTU, |d| d.mtu())
    }
}

impl Node {
    /// Freezes the tables.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let me = self.identity.id();
        let session = |(index, t): (&u32, &Arc<Transport>)| {
            let link = self.peers.get(&t.peer).and_then(|p| p.link.as_ref());
            (*index, (Arc::clone(t), link.map(|l| l.addr)))
        };
        let mut snapshot = Snapshot {
            me: Some(me.tag()),
            claims: Arc::clone(&self.door.claims),
            sessions: Arc::new(self.by_index.iter().map(session).collect()),
            subnets: Arc::new(self.book.subnets().clone()),
            own: self.routing.own().cloned(),
            ranges: vec![self.network.cidr(), self.network.ula()],
            exit: self.exit().map(|id| (id, self.book.carries_out(&id, true), self.book.carries_out(&id, false))),
            ..Snapshot::default()
        };
        self.by_tag.values().for_each(|id| self.freeze_way(id, &mut snapshot));
        for (ip, node) in self.book.hosts() {
            let takes = |node: &NodeId| self.book.takes(node, *ip);
            let way = node.filter(takes).and_then(|node| snapshot.destinations.get(&node)).cloned();
            snapshot.hosts.set(*ip, Some((node, way)));
        }
        snapshot
    }

    /// The tables after those of `before`, if they have changed. Where only ways to some nodes have, only these are made anew: one
    /// neighbour can let a way come and go as often as it likes.
    pub fn next_snapshot(&mut self, before: &Snapshot) -> Option<Snapshot> {
        let moved = std::mem::take(&mut self.moved);
        if std::mem::take(&mut self.tables_dirty) {
            return Some(self.snapshot());
        }
        if moved.is_empty() {
            return None;
        }
        let mut snapshot = before.clone();
        for id in &moved {
            self.freeze_way(id, &mut snapshot);
            for ip in self.book.addresses_of(id) {
                let way = snapshot.destinations.get(id).filter(|_| self.book.takes(id, ip)).cloned();
                snapshot.hosts.set(ip, Some((Some(*id), way)));
            }
        }
        Some(snapshot)
    }

    fn freeze_way(&self, id: &NodeId, snapshot: &mut Snapshot) {
        let tag = id.tag();
        snapshot.relays.set(tag, self.relay(tag).map(|(transport, addr)| (Arc::clone(transport), addr)));
        snapshot.destinations.set(*id, self.destination_node(id).map(Arc::new));
    }
}

impl Tables for Snapshot {
    fn me(&self) -> NodeTag {
        self.me.unwrap_or(NodeTag(0))
    }

    fn session(&self, index: u32) -> Option<&Arc<Transport>> {
        self.sessions.get(&index).map(|(t, _)| t)
    }

    fn claimed(&self, index: u32) -> Option<Arc<Transport>> {
        self.claims.get(index)
    }

    fn relay(&self, to: NodeTag) -> Option<(&Arc<Transport>, SocketAddr)> {
        self.relays.get(&to).map(|(t, addr)| (t, *addr))
    }

    fn owns(&self, ip: IpAddr, node: &NodeId) -> bool {
        match self.hosts.get(&ip) {
            Some((owner, _)) => *owner == Some(*node),
            None => match self.subnets.matches(ip).next() {
                Some(nodes) => nodes.contains(node),
                None => self.exit_for(ip) == Some(node),
            },
        }
    }

    fn is_for_us(&self, ip: IpAddr) -> bool {
        self.own.as_ref().is_some_and(|own| forward::is_for(&own.record, ip, |ip| self.is_outside(ip)))
    }

    fn destination(&self, ip: IpAddr) -> Option<Cow<'_, Destination>> {
        if let Some((_, way)) = self.hosts.get(&ip) {
            return way.as_deref().map(Cow::Borrowed);
        }
        let mut nodes = self.subnets.matches(ip).flatten().peekable();
        // What the mesh knows is not an exit's.
        let exit = if nodes.peek().is_none() { self.exit_for(ip) } else { None };
        let way = nodes.chain(exit).find_map(|node| self.destinations.get(node));
        way.map(|way| Cow::Borrowed(&**way))
    }
}
