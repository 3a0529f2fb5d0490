//! `portal`: where programs that speak WireGuard and nothing else come in.

use std::net::{Ipv6Addr, SocketAddrV6};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    ConfigError, PORTAL, Reader, Segment, SegmentPolicy,
    raw::{Interface, Prefix, Text},
};
use crate::{
    crypto::sha256,
    types::{IpPrefix, NodeId},
};

/// The port that WireGuard is known by.
const PORT: u16 = 51_820;
const NETWORK: &str = "10.86.86.0/24";

/// A portal for stock WireGuard clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portal {
    pub interface: String,
    pub port: u16,
    /// `HOST:PORT` that clients are told; `None`: what this node knows of itself.
    pub endpoint: Option<String>,
    /// IPv4, then IPv6; the first address of each is this node's.
    pub networks: [IpPrefix; 2],
    /// Clients get this node's mesh address in the mesh.
    pub masquerade: bool,
    /// What clients may do that no rule speaks of.
    pub policy: SegmentPolicy,
}

impl Portal {
    /// Its clients, as access rules see them.
    #[must_use]
    pub fn segment(&self) -> Segment {
        Segment { name: PORTAL.to_owned(), prefixes: self.networks.to_vec(), policy: self.policy }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPortal {
    enabled: bool,
    interface: Interface,
    port: u16,
    endpoint: Option<Spanned<Text>>,
    ipv4: Option<Spanned<Prefix>>,
    ipv6: Option<Spanned<Prefix>>,
    masquerade: bool,
    policy: SegmentPolicy,
}

impl Default for RawPortal {
    fn default() -> Self {
        Self {
            enabled: false,
            interface: Interface("aegisp0".to_owned()),
            port: PORT,
            endpoint: None,
            ipv4: None,
            ipv6: None,
            masquerade: true,
            policy: SegmentPolicy::Strict,
        }
    }
}

impl Reader<'_> {
    pub(super) fn portal(&self, raw: &RawPortal, id: &NodeId) -> Result<Option<Portal>, ConfigError> {
        if !raw.enabled {
            return Ok(None);
        }
        if raw.port == 0 {
            return Err(self.missing("portal.port", "expected 1 to 65535: clients have to know it"));
        }
        let network = |given: &Option<Spanned<Prefix>>, is_v4: bool, default: IpPrefix| match given {
            None => Ok(default),
            Some(p) if p.value.0.addr().is_ipv4() == is_v4 && fits(&p.value.0) => Ok(p.value.0),
            Some(p) if is_v4 => Err(self.error(&p.referenced, "expected an IPv4 prefix of length 8 to 29")),
            Some(p) => Err(self.error(&p.referenced, "expected an IPv6 prefix of length 8 to 112")),
        };
        let ipv4 = NETWORK.parse().map_err(|_| self.missing("portal.ipv4", "no default"))?;
        let networks = [network(&raw.ipv4, true, ipv4)?, network(&raw.ipv6, false, own_ula(id))?];
        Ok(Some(Portal {
            interface: raw.interface.0.clone(),
            port: raw.port,
            endpoint: raw.endpoint.as_ref().map(|t| self.portal_endpoint(t, raw.port)).transpose()?,
            networks,
            masquerade: raw.masquerade,
            policy: raw.policy,
        }))
    }

    fn portal_endpoint(&self, text: &Spanned<Text>, port: u16) -> Result<String, ConfigError> {
        let given = text.value.0.trim();
        let message = "expected HOST or HOST:PORT, like vpn.example.org or [2001:db8::1]:51820";
        let is_name = |h: &str| {
            !h.is_empty() && h.len() < 254 && h.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
        };
        let bare = given.strip_prefix('[').and_then(|g| g.strip_suffix(']')).unwrap_or(given);
        if let Ok(ip) = bare.parse::<Ipv6Addr>() {
            return Ok(format!("[{ip}]:{port}"));
        }
        if given.parse::<SocketAddrV6>().is_ok() {
            return Ok(given.to_owned());
        }
        match given.rsplit_once(':') {
            Some((host, port)) if is_name(host) && port.parse::<u16>().is_ok_and(|p| p > 0) => Ok(given.to_owned()),
            None if is_name(given) => Ok(format!("{given}:{port}")),
            _ => Err(self.error(&text.referenced, message)),
        }
    }
}

fn fits(prefix: &IpPrefix) -> bool {
    let longest = if prefix.addr().is_ipv4() { 29 } else { 112 };
    (8..=longest).contains(&prefix.prefix_len())
}

/// A network of unique local addresses of this node's own (RFC 4193 §3.2.2: the same for the same node).
fn own_ula(id: &NodeId) -> IpPrefix {
    let hash = sha256(&[b"aegisray portal", &id.0]);
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[1..8].copy_from_slice(&hash[..7]);
    IpPrefix::new(bytes.into(), 64).expect("64 is in range")
}
