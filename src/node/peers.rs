//! The peers of a node, and the agenda: which of them has something to do, and when.
//!
//! A node with many peers hears many datagrams, each of which concerns one of them. So nothing here looks at all
//! peers: whoever is borrowed for a change is noted, and its place on the agenda is found anew by [`Peers::settle`].

use std::collections::{BTreeMap, BTreeSet, btree_map};

use super::peer::Peer;
use crate::types::{Instant, NodeId};

#[derive(Debug, Default)]
pub(super) struct Peers {
    map: BTreeMap<NodeId, Peer>,
    agenda: BTreeSet<(Instant, NodeId)>,
    /// Borrowed for a change since the last [`Self::settle`].
    touched: Vec<NodeId>,
}

impl Peers {
    pub fn get(&self, id: &NodeId) -> Option<&Peer> {
        self.map.get(id)
    }

    pub fn get_mut(&mut self, id: &NodeId) -> Option<&mut Peer> {
        let peer = self.map.get_mut(id)?;
        if !std::mem::replace(&mut peer.touched, true) {
            self.touched.push(*id);
        }
        Some(peer)
    }

    pub fn get_or_insert_with(&mut self, id: NodeId, new: impl FnOnce() -> Peer) -> &mut Peer {
        let peer = self.map.entry(id).or_insert_with(new);
        if !std::mem::replace(&mut peer.touched, true) {
            self.touched.push(id);
        }
        peer
    }

    pub fn remove(&mut self, id: &NodeId) -> Option<Peer> {
        let peer = self.map.remove(id)?;
        if let Some(due) = peer.due {
            self.agenda.remove(&(due, *id));
        }
        Some(peer)
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn iter(&self) -> btree_map::Iter<'_, NodeId, Peer> {
        self.map.iter()
    }

    pub fn values(&self) -> btree_map::Values<'_, NodeId, Peer> {
        self.map.values()
    }

    /// All of them, for what concerns each and happens seldom.
    pub fn ids(&self) -> Vec<NodeId> {
        self.map.keys().copied().collect()
    }

    /// Finds the place on the agenda of every peer that was touched.
    pub fn settle(&mut self, due: impl Fn(&Peer) -> Option<Instant>) {
        for id in self.touched.drain(..) {
            let Some(peer) = self.map.get_mut(&id) else { continue };
            peer.touched = false;
            let next = due(peer);
            if next != peer.due {
                if let Some(at) = peer.due {
                    self.agenda.remove(&(at, id));
                }
                if let Some(at) = next {
                    self.agenda.insert((at, id));
                }
                peer.due = next;
            }
        }
    }

    /// When the first of them has something to do.
    pub fn next(&self) -> Option<Instant> {
        self.agenda.first().map(|(at, _)| *at)
    }

    /// Those that have something to do now.
    pub fn due(&self, now: Instant) -> Vec<NodeId> {
        self.agenda.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }
}
