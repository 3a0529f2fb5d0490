//! Membership certificates and revocation lists, both signed by the network's authority.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use prost::Message as _;

use super::{Identity, verify_context};
use crate::{
    crypto::sha256,
    types::{IpPrefix, NodeId, UnixTime, label_or_none},
    wire::{self, Malformed, proto},
};

const CERTIFICATE: &str = "aegisray certificate v1";
const REVOCATION: &str = "aegisray revocation v1";
/// Bytes of a certificate; everybody keeps it for everybody.
pub(super) const MAX_CERTIFICATE: usize = 1536;
/// Mesh addresses, prefixes and groups in a certificate, each.
const MAX_GRANTS: usize = 64;
/// Bytes of a name or of a group's.
const MAX_NAME: usize = 63;
/// At most so many entries in a revocation list.
const MAX_REVOKED: usize = 300;

/// What an authority says of a member, with the signature verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub node: NodeId,
    /// What the node is called; empty: the certificate says nothing of that, or nothing that a member may be called.
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub prefixes: Vec<IpPrefix>,
    pub groups: Vec<String>,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    pub serial: [u8; 16],
}

impl Certificate {
    /// Whether `now` lies in the time for which it is good.
    #[must_use]
    pub fn is_in_time(&self, now: UnixTime) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }

    /// Verifies the authority's signature and reads the certificate.
    pub fn open(bytes: &[u8], authority: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_CERTIFICATE {
            return Err(Malformed("certificate: too long"));
        }
        let body = open_blob(bytes, authority, CERTIFICATE)?;
        let raw: proto::Certificate = wire::decode(&body, "certificate")?;
        let bad = Malformed("certificate");
        let lists = [raw.addresses.len(), raw.prefixes.len(), raw.groups.len()];
        let long = |name: &String| name.len() > MAX_NAME || name.chars().any(char::is_control);
        if raw.network != sha256(&[authority])
            || lists.into_iter().any(|n| n > MAX_GRANTS)
            || std::iter::once(&raw.name).chain(&raw.groups).any(long)
        {
            return Err(bad);
        }
        Ok(Self {
            node: NodeId::from_slice(&raw.node_id).ok_or(bad)?,
            name: label_or_none(raw.name),
            addresses: raw.addresses.iter().map(|a| wire::decode_ip(a)).collect::<Result<_, _>>()?,
            prefixes: raw.prefixes.iter().map(|p| wire::decode_prefix(p)).collect::<Result<_, _>>()?,
            groups: raw.groups,
            not_before: raw.not_before,
            not_after: raw.not_after,
            serial: raw.serial.try_into().map_err(|_| bad)?,
        })
    }
}

fn open_blob(bytes: &[u8], authority: &[u8], context: &str) -> Result<Vec<u8>, Malformed> {
    let blob: proto::SignedBlob = wire::decode(bytes, "signed blob")?;
    verify_context(authority, context, &blob.body, &blob.signature)
        .map_err(|_| Malformed("signature of the authority"))?;
    Ok(blob.body)
}

/// The authority's private side.
#[derive(Debug)]
pub struct Authority(Identity);

impl Authority {
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self(identity)
    }

    /// The authority's public key, as every member's configuration names it.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        self.0.spki()
    }

    /// Issues a certificate.
    #[must_use]
    pub fn issue(&self, cert: &Certificate) -> Vec<u8> {
        let body = proto::Certificate {
            network: sha256(&[self.spki()]).to_vec(),
            node_id: cert.node.0.to_vec(),
            name: cert.name.clone(),
            addresses: cert.addresses.iter().map(|a| wire::encode_ip(*a)).collect(),
            prefixes: cert.prefixes.iter().map(|p| wire::encode_prefix(*p)).collect(),
            groups: cert.groups.clone(),
            not_before: cert.not_before,
            not_after: cert.not_after,
            serial: cert.serial.to_vec(),
        };
        self.seal(CERTIFICATE, &body.encode_to_vec())
    }

    /// Signs a revocation list.
    #[must_use]
    pub fn revoke(&self, list: &Revocations) -> Vec<u8> {
        let body = proto::RevocationList {
            network: sha256(&[self.spki()]).to_vec(),
            version: list.version,
            serials: list.serials.iter().map(|s| s.to_vec()).collect(),
            node_ids: list.nodes.iter().map(|n| n.0.to_vec()).collect(),
            serials_end: list.serials.iter().map(|s| list.serials_end.get(s).copied().unwrap_or(0)).collect(),
            nodes_end: list.nodes.iter().map(|n| list.nodes_end.get(n).copied().unwrap_or(0)).collect(),
        };
        self.seal(REVOCATION, &body.encode_to_vec())
    }

    fn seal(&self, context: &str, body: &[u8]) -> Vec<u8> {
        proto::SignedBlob { body: body.to_vec(), signature: self.0.sign(context, body) }.encode_to_vec()
    }
}

/// A verified revocation list. The one with the highest version is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    pub version: u64,
    pub serials: HashSet<[u8; 16]>,
    pub nodes: HashSet<NodeId>,
    /// When the certificates in question have expired, where that is known: their entries can go then.
    pub serials_end: HashMap<[u8; 16], UnixTime>,
    pub nodes_end: HashMap<NodeId, UnixTime>,
}

impl Revocations {
    pub fn open(bytes: &[u8], authority: &[u8]) -> Result<Self, Malformed> {
        let body = open_blob(bytes, authority, REVOCATION)?;
        let raw: proto::RevocationList = wire::decode(&body, "revocation list")?;
        let bad = Malformed("revocation list");
        if raw.network != sha256(&[authority]) || raw.serials.len() + raw.node_ids.len() > MAX_REVOKED {
            return Err(bad);
        }
        let serials: Vec<[u8; 16]> =
            raw.serials.into_iter().map(|s| s.try_into().map_err(|_| bad)).collect::<Result<_, _>>()?;
        let nodes: Vec<NodeId> =
            raw.node_ids.iter().map(|n| NodeId::from_slice(n).ok_or(bad)).collect::<Result<_, _>>()?;
        Ok(Self {
            version: raw.version,
            serials_end: serials.iter().copied().zip(raw.serials_end).filter(|(_, end)| *end > 0).collect(),
            nodes_end: nodes.iter().copied().zip(raw.nodes_end).filter(|(_, end)| *end > 0).collect(),
            serials: serials.into_iter().collect(),
            nodes: nodes.into_iter().collect(),
        })
    }

    /// Takes out what revokes nothing any more: certificates that have expired.
    pub fn prune(&mut self, now: UnixTime) {
        let is_over = |end: Option<&UnixTime>| end.is_some_and(|end| *end <= now);
        self.serials.retain(|s| !is_over(self.serials_end.get(s)));
        self.nodes.retain(|n| !is_over(self.nodes_end.get(n)));
        self.serials_end.retain(|_, end| *end > now);
        self.nodes_end.retain(|_, end| *end > now);
    }

    /// Whether the list may take another entry.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.serials.len() + self.nodes.len() < MAX_REVOKED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SigningKey;

    #[test]
    fn a_revocation_goes_when_its_certificate_has_expired() {
        let authority = Authority::new(Identity::new(SigningKey::ed25519_from_seed(&[1; 32])).unwrap());
        let mut list = Revocations {
            version: 3,
            serials: [[1; 16], [2; 16]].into(),
            nodes: [NodeId([3; 32]), NodeId([4; 32])].into(),
            serials_end: [([1; 16], 500)].into(),
            nodes_end: [(NodeId([3; 32]), 900)].into(),
        };
        list = Revocations::open(&authority.revoke(&list), authority.spki()).unwrap();
        list.prune(499);
        assert_eq!((list.serials.len(), list.nodes.len()), (2, 2));
        list.prune(500);
        assert_eq!((list.serials.clone(), list.nodes.len()), ([[2; 16]].into(), 2));
        list.prune(5000);
        assert_eq!(list.nodes, [NodeId([4; 32])].into(), "of which nothing is known stays");
        for i in 0..MAX_REVOKED as u32 {
            let serial = [&i.to_be_bytes()[..], &[9; 12]].concat().try_into().unwrap();
            list.serials.insert(serial);
            list.serials_end.insert(serial, 6000);
        }
        assert!(!list.has_room());
        list.prune(6000);
        assert!(list.has_room(), "what is over takes no room");
    }
}
