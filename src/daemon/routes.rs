//! This host's routes into the mesh, for networks that are behind other nodes.

use std::collections::BTreeSet;

use crate::{
    host::{self, Netlink},
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
        self.follow(Vec::new());
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

    /// Points the host's routing table at the mesh for what other nodes announce now. A network that this host has an
    /// address in stays where it is: that is decided here, and said.
    pub fn follow(&mut self, announced: Vec<IpPrefix>) {
        let wanted: BTreeSet<IpPrefix> = announced.into_iter().filter(|p| !self.own.contains(p)).collect();
        if wanted == self.routed {
            return;
        }
        let Ok(mut netlink) = Netlink::open() else { return };
        let interface = Some(self.interface.as_str());
        let local = host::interface_addresses().unwrap_or_default();
        let here = |p: &IpPrefix| local.iter().find(|(name, ip)| *name != self.interface && p.contains(*ip));
        for prefix in wanted.difference(&self.routed) {
            if let Some((other, ip)) = here(prefix) {
                tracing::warn!(%prefix, %ip, interface = other, "not routed into the mesh: this host has an address in it");
            } else if let Err(error) = netlink.add_route(*prefix, None, interface) {
                tracing::warn!(%prefix, %error, "cannot route a prefix into the mesh");
            }
        }
        for prefix in self.routed.difference(&wanted) {
            // It may never have been there.
            let _ = netlink.remove_route(*prefix, interface);
        }
        self.routed = wanted;
    }
}
