//! This host's routes into the mesh, for networks that are behind other nodes.

use std::collections::BTreeSet;

use super::border::Border;
use crate::{
    host,
    types::{IpPrefix, NodeId},
};

pub(super) struct MeshRoutes {
    interface: String,
    /// Networks behind this node itself.
    own: Vec<IpPrefix>,
    routed: BTreeSet<IpPrefix>,
    /// Who waits in vain to be used for a network.
    standbys: BTreeSet<(IpPrefix, NodeId, NodeId)>,
}

impl MeshRoutes {
    pub fn new(interface: &str, own: &[IpPrefix]) -> Self {
        Self { interface: interface.to_owned(), own: own.to_vec(), routed: BTreeSet::new(), standbys: BTreeSet::new() }
    }

    /// Other networks are behind this node from now on.
    pub fn set_own(&mut self, own: &[IpPrefix]) {
        self.routed.clear();
        self.own = own.to_vec();
    }

    /// Says which of several nodes that announce one network is used.
    pub fn report(&mut self, standbys: Vec<(IpPrefix, NodeId, NodeId)>, name: impl Fn(&NodeId) -> String) {
        let now: BTreeSet<_> = standbys.into_iter().collect();
        for (prefix, used, standby) in now.difference(&self.standbys) {
            let (used, standby) = (name(used), name(standby));
            tracing::info!(%prefix, used, standby, "several nodes announce a network");
        }
        self.standbys = now;
    }

    /// Points this host at the mesh for what other nodes announce now. A network that this host has an address in stays where it
    /// is: that is decided here, and said.
    pub fn follow(&mut self, border: &Border, announced: Vec<IpPrefix>) {
        let wanted: BTreeSet<IpPrefix> = announced.into_iter().filter(|p| !self.own.contains(p)).collect();
        if wanted == self.routed {
            return;
        }
        let local = host::interface_addresses().unwrap_or_default();
        let here = |p: &IpPrefix| local.iter().find(|(name, ip)| *name != self.interface && p.contains(*ip));
        let mut networks = Vec::new();
        for prefix in &wanted {
            match here(prefix) {
                None => networks.push(*prefix),
                Some((other, ip)) if !self.routed.contains(prefix) => {
                    tracing::warn!(%prefix, %ip, interface = other, "not routed into the mesh: this host has an address in it");
                }
                Some(_) => {}
            }
        }
        if let Err(error) = border.route(&networks) {
            tracing::warn!(%error, "cannot route all networks behind nodes into the mesh");
        }
        self.routed = wanted;
    }
}
