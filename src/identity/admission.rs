//! Who is let in, and what a member may announce.

use std::collections::{HashMap, HashSet};

use super::{Revocations, Verified};
use crate::{
    types::{IpPrefix, NodeId, UnixTime},
    wire::{Malformed, version::Versions},
};

/// Why a node, a handshake or an announcement was refused. Each kind has a counter in `status`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("malformed {0}")]
    Malformed(&'static str),
    #[error("an announcement signs another record")]
    RecordMismatch,
    #[error("forged identity or signature")]
    ForgedIdentity,
    #[error("bad certificate")]
    BadCertificate,
    #[error("no certificate")]
    NoCertificate,
    #[error("certificate expired or not yet valid")]
    ExpiredCertificate,
    #[error("revoked")]
    Revoked,
    #[error("not on the allow list")]
    NotAllowed,
    #[error("announced a network that it may not: nothing is sent to it for that")]
    ForeignPrefix,
    #[error("the Noise static key is not the identity's")]
    StaticKeyMismatch,
    #[error("not the node that was expected")]
    UnexpectedNode,
    #[error("wrong network secret, name or authority")]
    WrongNetwork,
    #[error("too large")]
    TooLarge,
    #[error("the peer speaks version {} of the protocol (at least {}), this node {}: upgrade the older one", .0.version, .0.oldest, Versions::OURS.version)]
    Version(Versions),
    #[error("a certificate that nobody here had asked for, or not for this node")]
    UnaskedCertificate,
    #[error("more than one node may ask of this one: tried again later")]
    TooMuch,
}

impl Refusal {
    /// Whether it says nothing of the announcement's origin: whoever brought it made it up, or changed it.
    #[must_use]
    pub fn is_of_the_bearer(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::RecordMismatch | Self::ForgedIdentity | Self::TooLarge)
    }
}

impl From<Malformed> for Refusal {
    fn from(value: Malformed) -> Self {
        Self::Malformed(value.0)
    }
}

/// The admission rules of this node: all that are set must be met.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Membership needs a certificate of the network's authority.
    pub need_certificate: bool,
    /// Only these nodes, if set.
    pub allow: Option<HashSet<NodeId>>,
    /// Prefixes that this node accepts from others without a certificate.
    pub accept: HashMap<NodeId, Vec<IpPrefix>>,
    pub revocations: Revocations,
}

impl Policy {
    /// Whether the node behind `peer` is a member at `now`.
    pub fn admit(&self, peer: &Verified, now: UnixTime) -> Result<(), Refusal> {
        let certificate = peer.record.certificate.as_ref();
        if self.revocations.nodes.contains(&peer.id)
            || certificate.is_some_and(|c| self.revocations.serials.contains(&c.serial))
        {
            return Err(Refusal::Revoked);
        }
        if self.allow.as_ref().is_some_and(|allow| !allow.contains(&peer.id)) {
            return Err(Refusal::NotAllowed);
        }
        if self.need_certificate {
            let certificate = certificate.ok_or(Refusal::NoCertificate)?;
            if !certificate.is_in_time(now) {
                return Err(Refusal::ExpiredCertificate);
            }
        }
        Ok(())
    }

    /// Those of the prefixes in its record that `peer` may announce; nobody here sends anything to it for the others. To be
    /// an exit (`0.0.0.0/0`, `::/0`) is an offer that everybody may make where there is no authority; with one, its
    /// certificate says so. It allows nothing else.
    #[must_use]
    pub fn granted(&self, peer: &Verified) -> Vec<IpPrefix> {
        let granted = peer.record.certificate.as_ref().map_or(&[][..], |c| &c.prefixes);
        let accepted = self.accept.get(&peer.id).map_or(&[][..], |p| p);
        let is_exit = |p: &IpPrefix| p.prefix_len() == 0;
        let own = |p: &&IpPrefix| {
            let mut allowed = granted.iter().chain(accepted);
            is_exit(p) && !self.need_certificate || allowed.any(|a| a.covers(p) && is_exit(a) == is_exit(p))
        };
        peer.record.prefixes.iter().filter(own).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Authority, Certificate, Identity, Network, RecordContent, RecordSource, authenticate};
    use super::*;
    use crate::crypto::SigningKey;

    fn identity(seed: u8) -> Identity {
        Identity::new(SigningKey::ed25519_from_seed(&[seed; 32])).unwrap()
    }

    fn certificate(node: NodeId) -> Certificate {
        Certificate {
            node,
            name: "alpha".into(),
            addresses: vec!["100.64.9.9".parse().unwrap()],
            prefixes: vec!["192.168.0.0/16".parse().unwrap()],
            groups: vec![],
            not_before: 100,
            not_after: 200,
            serial: [3; 16],
        }
    }

    fn fixture(certificate_bytes: impl FnOnce(&Authority, NodeId) -> Vec<u8>) -> (Network, Verified) {
        let authority = Authority::new(identity(1));
        let cidr = "100.64.0.0/16".parse().unwrap();
        let network = Network::new("n", Some("secret"), Some(authority.spki().to_vec()), cidr);
        let node = identity(2);
        let content = RecordContent {
            name: "self-named".into(),
            prefixes: vec!["192.168.7.0/24".parse().unwrap()],
            certificate: certificate_bytes(&authority, node.id()),
            ..RecordContent::default()
        };
        let verified = node.announce(&network, &content, 5, 60).unwrap();
        (network, verified)
    }

    #[test]
    fn a_certificate_admits_in_its_time_grants_and_names() {
        let (_, peer) = fixture(|authority, node| authority.issue(&certificate(node)));
        let policy = Policy { need_certificate: true, ..Policy::default() };
        assert_eq!(policy.admit(&peer, 150), Ok(()));
        assert_eq!(policy.admit(&peer, 99), Err(Refusal::ExpiredCertificate));
        assert_eq!(policy.admit(&peer, 200), Err(Refusal::ExpiredCertificate));
        assert_eq!(policy.granted(&peer), peer.record.prefixes);
        assert_eq!(peer.record.name, "alpha");
        assert_eq!(peer.record.addresses[0].to_string(), "100.64.9.9");
        let revoked = Revocations { version: 1, serials: [[3; 16]].into(), ..Revocations::default() };
        let policy = Policy { revocations: revoked, ..policy };
        assert_eq!(policy.admit(&peer, 150), Err(Refusal::Revoked));
    }

    #[test]
    fn without_certificate_or_off_the_list() {
        let (_, peer) = fixture(|_, _| Vec::new());
        let policy = Policy { need_certificate: true, ..Policy::default() };
        assert_eq!(policy.admit(&peer, 150), Err(Refusal::NoCertificate));
        let policy = Policy { allow: Some(HashSet::new()), ..Policy::default() };
        assert_eq!(policy.admit(&peer, 150), Err(Refusal::NotAllowed));
        assert!(!peer.record.prefixes.is_empty() && policy.granted(&peer).is_empty());
        let accept = HashMap::from([(peer.id, vec!["192.168.0.0/16".parse().unwrap()])]);
        assert_eq!(Policy { accept, ..Policy::default() }.granted(&peer), peer.record.prefixes);
        let all = HashMap::from([(peer.id, vec!["0.0.0.0/0".parse().unwrap()])]);
        assert!(Policy { accept: all, ..Policy::default() }.granted(&peer).is_empty());
    }

    #[test]
    fn who_may_be_an_exit() {
        let network = Network::new("n", Some("secret"), None, "100.64.0.0/16".parse().unwrap());
        let prefixes = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let content = RecordContent { prefixes: prefixes.clone(), country: "se".into(), ..RecordContent::default() };
        let exit = identity(2).announce(&network, &content, 5, 60).unwrap();
        assert_eq!(exit.record.country, "se");
        assert_eq!(Policy::default().granted(&exit), prefixes);
        let policy = Policy { need_certificate: true, ..Policy::default() };
        assert!(policy.granted(&exit).is_empty());
        let accept = HashMap::from([(exit.id, prefixes.clone())]);
        assert_eq!(Policy { accept, ..policy }.granted(&exit), prefixes);
    }

    #[test]
    fn forgeries_are_refused() {
        let (network, peer) = fixture(|authority, node| authority.issue(&certificate(node)));
        let record = RecordSource::Bytes(&peer.record.bytes);
        for i in 0..peer.bytes.len() {
            let mut forged = peer.bytes.clone();
            forged[i] ^= 1;
            assert!(authenticate(&network, &forged, record).is_err(), "byte {i} flipped");
        }
        let other = Network::new("m", Some("secret"), None, network.cidr());
        assert_eq!(authenticate(&other, &peer.bytes, record).unwrap_err(), Refusal::ForgedIdentity);
        let mallory = identity(9);
        let stolen = mallory.announce(&other, &RecordContent::default(), 1, 1).unwrap();
        let mixed = authenticate(&network, &peer.bytes, RecordSource::Bytes(&stolen.record.bytes));
        assert_eq!(mixed.unwrap_err(), Refusal::RecordMismatch);
    }

    #[test]
    fn a_certificate_for_another_node_is_refused() {
        let authority = Authority::new(identity(1));
        let network =
            Network::new("n", Some("secret"), Some(authority.spki().to_vec()), "100.64.0.0/16".parse().unwrap());
        let stolen = authority.issue(&certificate(identity(2).id()));
        assert!(Certificate::open(&stolen, identity(3).spki()).is_err(), "another authority");
        let raw = RecordContent { certificate: stolen, ..RecordContent::default() };
        assert_eq!(identity(4).announce(&network, &raw, 1, 60).unwrap_err(), Refusal::BadCertificate);
        let plain = Network::new("n", Some("secret"), None, network.cidr());
        assert_eq!(identity(2).announce(&plain, &raw, 1, 60).unwrap_err(), Refusal::BadCertificate, "by nobody");
    }
}
