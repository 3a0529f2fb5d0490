//! A frozen copy of what the data plane needs: made by the node when something changed, read by any thread.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    Node,
    book::PrefixMap,
    forward::{Destination, Tables},
};
use crate::{
    session::Transport,
    types::{NodeId, NodeTag},
};

/// The forwarding tables at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    me: Option<NodeTag>,
    sessions: HashMap<u32, (Arc<Transport>, Option<SocketAddr>)>,
    relays: HashMap<NodeTag, (Arc<Transport>, SocketAddr)>,
    hosts: HashMap<IpAddr, NodeId>,
    subnets: PrefixMap<Vec<NodeId>>,
    destinations: HashMap<NodeId, Destination>,
}

impl Snapshot {
    /// Whether the peer of a session is known to be at `addr`.
    #[must_use]
    pub fn is_at(&self, index: u32, addr: SocketAddr) -> bool {
        self.sessions.get(&index).is_some_and(|(_, link)| *link == Some(addr))
    }
}

impl Node {
    /// Freezes the tables.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let me = self.identity.id();
        let mut snapshot = Snapshot {
            me: Some(me.tag()),
            sessions: self
                .by_index
                .iter()
                .map(|(index, t)| {
                    let link = self.peers.get(&t.peer).and_then(|p| p.link.as_ref());
                    (*index, (Arc::clone(t), link.map(|l| l.addr)))
                })
                .collect(),
            subnets: self.book.subnets().clone(),
            hosts: self.book.hosts().map(|(ip, node)| (*ip, node)).collect(),
            ..Snapshot::default()
        };
        for (tag, id) in &self.by_tag {
            if let Some(relay) = self.relay(*tag) {
                snapshot.relays.insert(*tag, relay);
            }
            if let Some(destination) = self.destination_node(id) {
                snapshot.destinations.insert(*id, destination);
            }
        }
        snapshot
    }
}

impl Tables for Snapshot {
    fn me(&self) -> NodeTag {
        self.me.unwrap_or(NodeTag(0))
    }

    fn session(&self, index: u32) -> Option<Arc<Transport>> {
        self.sessions.get(&index).map(|(t, _)| Arc::clone(t))
    }

    fn relay(&self, to: NodeTag) -> Option<(Arc<Transport>, SocketAddr)> {
        self.relays.get(&to).cloned()
    }

    fn owns(&self, ip: IpAddr, node: &NodeId) -> bool {
        match self.hosts.get(&ip) {
            Some(owner) => owner == node,
            None => self.subnets.matches(ip).next().is_some_and(|nodes| nodes.contains(node)),
        }
    }

    fn destination(&self, ip: IpAddr) -> Option<Destination> {
        if let Some(host) = self.hosts.get(&ip) {
            return self.destinations.get(host).cloned();
        }
        self.subnets.matches(ip).flatten().find_map(|node| self.destinations.get(node)).cloned()
    }
}
