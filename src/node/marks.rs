//! Marks: a sender that changes a path that works says so, and the receiver keeps order. Without one, the old path is taken
//! to have failed, and nobody waits for what may never come.

use std::{net::SocketAddr, sync::Arc};

use super::{
    Arrival, Node, Transmit,
    forward::{self, Destination, Hop},
};
use crate::{
    session::{Transport, Via},
    types::{Instant, NodeId},
    wire::frame::{Level, Mark},
};

/// One of two may be lost.
fn twice(seal: impl Fn() -> Transmit) -> [Transmit; 2] {
    [seal(), seal()]
}

impl Node {
    /// A packet of this session was opened that says: the peer has moved here, and its old place still works.
    pub fn handle_mark(&mut self, now: Instant, session: &Arc<Transport>, how: Arrival) {
        if let (Via::Direct(from), true) = (how.via, how.newest)
            && let Some(link) = self.peers.get_mut(&session.peer).and_then(|p| p.link.as_mut())
            && link.up
            && link.addr != from
        {
            link.leave(now);
        }
        self.handle_opened(now, session, how);
    }

    /// Marks, for a node, where the way that leads there from now on begins, and where the one before ends.
    pub(super) fn mark_route(&mut self, id: NodeId, before: Option<Hop>) {
        let Some(new) = self.destination_node(&id) else { return };
        let Some(transport) = &new.transport else { return };
        let old = before.map(|hop| Destination { hop, ..new.clone() });
        let seal = |destination: &Destination, mark: Mark| {
            let (me, mut bytes) = (self.identity.id().tag(), Vec::with_capacity(128));
            let to = forward::seal_to(me, destination, transport, &mut bytes, |out| out.push(mark.byte()));
            Transmit::new(to, bytes)
        };
        self.ends.extend(old.iter().flat_map(|old| twice(|| seal(old, Mark::End(Level::Route)))));
        self.marks.extend(twice(|| seal(&new, Mark::Begin(Level::Route))));
    }

    /// The same for the link to a neighbour, which was at `old` until now.
    pub(super) fn mark_link(&mut self, id: &NodeId, old: SocketAddr) {
        let Some(peer) = self.peers.get(id) else { return };
        let (Some(transport), Some(link)) = (peer.transport(), &peer.link) else { return };
        let seal = |to: SocketAddr, mark: Mark| {
            let mut bytes = Vec::with_capacity(64);
            transport.seal(&[mark.byte()], &mut bytes);
            Transmit::new(to, bytes)
        };
        self.ends.extend(twice(|| seal(old, Mark::End(Level::Link))));
        self.marks.extend(twice(|| seal(link.addr, Mark::Begin(Level::Link))));
    }
}
