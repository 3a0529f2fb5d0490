//! Values by prefix.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use crate::types::IpPrefix;

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
