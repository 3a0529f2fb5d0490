//! Marks: a sender that changes a path that works says so, and the receiver keeps order. Without one, the old path is taken
//! to have failed, and nobody waits for what may never come.

use std::sync::Arc;

use super::{Node, Transmit, forward};
use crate::{
    session::{Transport, Via},
    types::{Instant, NodeId},
    wire::frame::MARK,
};

impl Node {
    /// A packet of this session was opened that says: the peer has moved here, and its old place still works.
    pub fn handle_mark(&mut self, now: Instant, session: &Arc<Transport>, via: Via, newest: bool, interface: u32) {
        if let (Via::Direct(from), true) = (via, newest)
            && let Some(link) = self.peers.get_mut(&session.peer).and_then(|p| p.link.as_mut())
            && link.up
            && link.addr != from
        {
            link.leave(now);
        }
        self.handle_opened(now, session, via, newest, interface);
    }

    /// Sends a mark to a node by the way that leads there from now on.
    pub(super) fn mark(&mut self, id: NodeId) {
        let Some(destination) = self.destination_node(&id) else { return };
        let Some(transport) = &destination.transport else { return };
        // Twice: one may be lost.
        for _ in 0..2 {
            let mut bytes = Vec::with_capacity(128);
            let me = self.identity.id().tag();
            let to = forward::seal_to(me, &destination, transport, &mut bytes, |out| out.push(MARK));
            self.marks.push_back(Transmit::new(to, bytes));
        }
    }
}
