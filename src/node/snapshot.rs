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
    types::{IpPrefix, NodeId, NodeTag, QuickMap},
};

/// The forwarding tables at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    me: Option<NodeTag>,
    claims: Arc<ClaimTable>,
    sessions: QuickMap<u32, (Arc<Transport>, Option<SocketAddr>)>,
    relays: QuickMap<NodeTag, (Arc<Transport>, SocketAddr)>,
    /// The owner of each address, if one of those who claim it owns it, and the way there if there is one.
    hosts: QuickMap<IpAddr, (Option<NodeId>, Option<Arc<Destination>>)>,
    subnets: PrefixMap<Vec<NodeId>>,
    destinations: QuickMap<NodeId, Arc<Destination>>,
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

    fn is_outside(&self, ip: IpAddr) -> bool {
        !self.ranges.iter().any(|range| range.contains(ip))
    }

    fn exit_for(&self, ip: IpAddr) -> Option<&NodeId> {
        let (node, ipv4, ipv6) = self.exit.as_ref()?;
        let carries = if ip.is_ipv4() { *ipv4 } else { *ipv6 };
        (carries && self.is_outside(ip)).then_some(node)
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
        let mut snapshot = Snapshot {
            me: Some(me.tag()),
            claims: Arc::clone(&self.door.claims),
            sessions: self
                .by_index
                .iter()
                .map(|(index, t)| {
                    let link = self.peers.get(&t.peer).and_then(|p| p.link.as_ref());
                    (*index, (Arc::clone(t), link.map(|l| l.addr)))
                })
                .collect(),
            subnets: self.book.subnets().clone(),
            own: self.routing.own().cloned(),
            ranges: vec![self.network.cidr(), self.network.ula()],
            exit: self.exit().map(|id| (id, self.book.carries_out(&id, true), self.book.carries_out(&id, false))),
            ..Snapshot::default()
        };
        for (tag, id) in &self.by_tag {
            if let Some(relay) = self.relay(*tag) {
                snapshot.relays.insert(*tag, (Arc::clone(relay.0), relay.1));
            }
            if let Some(destination) = self.destination_node(id) {
                snapshot.destinations.insert(*id, Arc::new(destination));
            }
        }
        for (ip, node) in self.book.hosts() {
            let way = node.and_then(|node| snapshot.destinations.get(&node)).cloned();
            snapshot.hosts.insert(*ip, (node, way));
        }
        snapshot
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
