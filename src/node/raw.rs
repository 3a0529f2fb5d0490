//! What a member gone bad might say over its real sessions: for fuzzers, the simulator's hostile nodes and the attacker
//! in the tests. Nothing else calls it.

use std::sync::Arc;

use super::Node;
use crate::{
    session::Transport,
    types::{Instant, NodeId},
};

impl Node {
    /// Sends a plaintext of any kind, end to end sealed.
    pub fn send_raw(&mut self, now: Instant, node: NodeId, plaintext: Vec<u8>) {
        self.send_plaintext(now, node, plaintext);
        self.pump(now);
    }

    /// Puts bytes of any kind in the place of a control message on the channel to a neighbour. Returns whether there is a
    /// link with room.
    pub fn send_control_raw(&mut self, now: Instant, node: NodeId, message: Vec<u8>) -> bool {
        let Some(peer) = self.peers.get_mut(&node).filter(|p| p.is_up() && p.channel.has_room()) else { return false };
        peer.channel.send(&message);
        self.pump(now);
        true
    }

    /// The session on which this node sends to another one, if there is one: with it anything can be sealed.
    #[must_use]
    pub fn session_raw(&self, node: &NodeId) -> Option<Arc<Transport>> {
        self.peers.get(node)?.transport().cloned()
    }
}
