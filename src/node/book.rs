//! The address book: which nodes own which inner addresses.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use crate::{
    identity::Verified,
    types::{IpPrefix, NodeId},
};

/// Values by prefix, looked up by longest match: one hash lookup per prefix length in use.
#[derive(Debug, Clone)]
pub struct PrefixMap<T> {
    /// Keyed by (IPv6?, 255 - length), so that iteration goes from long to short.
    by_length: BTreeMap<(bool, u8), HashMap<IpAddr, T>>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self { by_length: BTreeMap::new() }
    }
}

impl<T> PrefixMap<T> {
    fn key(prefix: &IpPrefix) -> (bool, u8) {
        (prefix.addr().is_ipv6(), 255 - prefix.prefix_len())
    }

    pub fn entry(&mut self, prefix: IpPrefix) -> std::collections::hash_map::Entry<'_, IpAddr, T> {
        self.by_length.entry(Self::key(&prefix)).or_default().entry(prefix.addr())
    }

    pub fn remove(&mut self, prefix: &IpPrefix) {
        let key = Self::key(prefix);
        if let Some(map) = self.by_length.get_mut(&key) {
            map.remove(&prefix.addr());
            if map.is_empty() {
                self.by_length.remove(&key);
            }
        }
    }

    /// The values of all prefixes that hold `ip`, longest first.
    pub fn matches(&self, ip: IpAddr) -> impl Iterator<Item = &T> {
        let family = (ip.is_ipv6(), 0)..=(ip.is_ipv6(), 255);
        self.by_length
            .range(family)
            .filter_map(move |((_, inverse), map)| map.get(&IpPrefix::new(ip, 255 - inverse)?.addr()))
    }

    pub fn iter(&self) -> impl Iterator<Item = (IpPrefix, &T)> {
        self.by_length.iter().flat_map(|((_, inverse), map)| {
            map.iter().filter_map(move |(a, t)| Some((IpPrefix::new(*a, 255 - inverse)?, t)))
        })
    }
}

/// Who owns what. Two claims on one mesh address are decided the same way everywhere: a certificate's grant first,
/// then the lower NodeId. Several nodes may announce one subnet; they are alternatives.
#[derive(Debug, Default)]
pub struct AddressBook {
    hosts: HashMap<IpAddr, Vec<(bool, NodeId)>>,
    subnets: PrefixMap<Vec<NodeId>>,
    /// Who offers to be an exit.
    exits: BTreeSet<NodeId>,
    entries: HashMap<NodeId, (Vec<IpAddr>, Vec<IpPrefix>)>,
}

impl AddressBook {
    /// Enters a node with the networks that it may announce.
    pub fn insert(&mut self, node: &Verified, networks: Vec<IpPrefix>) {
        self.remove(&node.id);
        let record = &node.record;
        let granted = |ip: &IpAddr| record.certificate.as_ref().is_some_and(|c| c.addresses.contains(ip));
        for ip in &record.addresses {
            let claims = self.hosts.entry(*ip).or_default();
            claims.push((!granted(ip), node.id));
            claims.sort_unstable();
        }
        if networks.iter().any(|p| p.prefix_len() == 0) {
            self.exits.insert(node.id);
        }
        for prefix in networks.iter().filter(|p| p.prefix_len() > 0) {
            let nodes = self.subnets.entry(*prefix).or_default();
            nodes.push(node.id);
            nodes.sort_unstable();
            nodes.dedup();
        }
        self.entries.insert(node.id, (record.addresses.to_vec(), networks));
    }

    pub fn remove(&mut self, id: &NodeId) {
        let Some((hosts, prefixes)) = self.entries.remove(id) else { return };
        self.exits.remove(id);
        for ip in hosts {
            if let Some(claims) = self.hosts.get_mut(&ip) {
                claims.retain(|(_, n)| n != id);
                if claims.is_empty() {
                    self.hosts.remove(&ip);
                }
            }
        }
        for prefix in prefixes {
            if let std::collections::hash_map::Entry::Occupied(mut nodes) = self.subnets.entry(prefix) {
                nodes.get_mut().retain(|n| n != id);
                if nodes.get().is_empty() {
                    nodes.remove();
                    self.subnets.remove(&prefix);
                }
            }
        }
    }

    /// The networks that a node announces and may announce.
    #[must_use]
    pub fn networks(&self, id: &NodeId) -> &[IpPrefix] {
        self.entries.get(id).map_or(&[], |(_, networks)| networks)
    }

    /// Whether a node is an exit for IPv4, or for IPv6.
    #[must_use]
    pub fn carries_out(&self, id: &NodeId, ipv4: bool) -> bool {
        self.networks(id).iter().any(|p| p.prefix_len() == 0 && p.addr().is_ipv4() == ipv4)
    }

    /// The owner of a mesh address.
    #[must_use]
    pub fn host(&self, ip: &IpAddr) -> Option<NodeId> {
        self.hosts.get(ip)?.first().map(|(_, n)| *n)
    }

    /// Whether a packet from `node` may carry this source address; `None`: it is nobody's in the mesh.
    #[must_use]
    pub fn owns(&self, ip: IpAddr, node: &NodeId) -> Option<bool> {
        match self.host(&ip) {
            Some(owner) => Some(owner == *node),
            None => self.subnets.matches(ip).next().map(|nodes| nodes.contains(node)),
        }
    }

    /// The nodes to which packets for `ip` may go, best match first.
    pub fn candidates(&self, ip: IpAddr) -> impl Iterator<Item = NodeId> {
        let host = self.host(&ip);
        let subnets = self.subnets.matches(ip).flatten().copied();
        host.into_iter().chain(subnets.filter(move |_| host.is_none()))
    }

    pub fn hosts(&self) -> impl Iterator<Item = (&IpAddr, NodeId)> {
        self.hosts.iter().filter_map(|(ip, claims)| Some((ip, claims.first()?.1)))
    }

    pub fn exits(&self) -> impl Iterator<Item = &NodeId> {
        self.exits.iter()
    }

    #[must_use]
    pub fn subnets(&self) -> &PrefixMap<Vec<NodeId>> {
        &self.subnets
    }
}
