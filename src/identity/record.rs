//! Peer records and the announcements that sign them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use prost::Message as _;

use super::{Certificate, IPV4_ATTEMPTS, Identity, Network, Refusal, certificate::MAX_CERTIFICATE, verify_context};
use crate::{
    crypto::{X25519_LEN, sha256},
    types::{IpPrefix, NodeId, SeqNo, Service, is_country, label_or_none},
    wire::{self, proto, version::Versions},
};

const ANNOUNCE: &str = "aegisray announce v1";
/// A record names at most so many endpoints.
pub const MAX_ENDPOINTS: usize = 16;
/// A record names at most so many prefixes beside the mesh addresses.
pub const MAX_PREFIXES: usize = 64;
/// A record names at most so many services.
pub const MAX_SERVICES: usize = 16;
/// Lifetimes are cut to a day.
const MAX_LIFETIME_S: u32 = 86_400;
/// Bytes of a record without a certificate: with everything that it may name it has about 2,300.
pub const MAX_RECORD: usize = 2560;
/// Bytes of an announcement: 90, and a signature of RSA-4096 at the most.
const MAX_ANNOUNCEMENT: usize = 640;

/// What a node says of itself: its own choices, before keys and certificate are added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordContent {
    pub name: String,
    pub ipv4_attempt: u32,
    pub prefixes: Vec<IpPrefix>,
    pub endpoints: Vec<SocketAddr>,
    pub certificate: Vec<u8>,
    pub no_relay: bool,
    /// Random per start of the node.
    pub boot: u32,
    /// Where this node's exit is: a country code, or empty.
    pub country: String,
    pub services: Vec<Service>,
    /// The host has no IPv6.
    pub ipv4_only: bool,
}

/// A parsed record. Its certificate, if any, is verified; its prefixes are still to be allowed by a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub hash: [u8; 32],
    pub bytes: Vec<u8>,
    pub noise_static: [u8; X25519_LEN],
    /// What the node says that it is called, or its certificate does: a claim, which the node's book of owners decides on. Empty: nothing,
    /// or nothing that a member may be called; a bad name doesn't hide a node.
    pub name: String,
    pub ipv4_attempt: u32,
    /// Mesh IPs that the node claims: IPv4 first. From the certificate where it grants some, else derived from the NodeId.
    pub addresses: [IpAddr; 2],
    pub prefixes: Vec<IpPrefix>,
    pub endpoints: Vec<SocketAddr>,
    pub certificate: Option<Certificate>,
    pub no_relay: bool,
    pub boot: u32,
    pub country: String,
    pub services: Vec<Service>,
    /// The versions of the protocol that the node speaks.
    pub versions: Versions,
    /// Nothing reaches the node at its IPv6 address: its host has none. The address is its own all the same.
    pub ipv4_only: bool,
}

/// An announcement whose signature is verified, with the record that it signs.
#[derive(Debug)]
pub struct Verified {
    pub id: NodeId,
    pub seqno: SeqNo,
    pub lifetime_s: u32,
    pub bytes: Vec<u8>,
    pub record: Arc<Record>,
}

/// Turns bytes from outside into a [`Verified`]. The simulator's implementation remembers results, which are a pure
/// function of the bytes, so that thousands of nodes don't repeat the same check.
pub trait Verify {
    /// `known` is a record that may be the one the announcement signs.
    fn verify(&self, announcement: &[u8], record: RecordSource<'_>) -> Result<Arc<Verified>, Refusal>;
}

/// Where the record behind an announcement comes from.
#[derive(Clone, Copy, Debug)]
pub enum RecordSource<'a> {
    Bytes(&'a [u8]),
    Known(&'a Arc<Record>),
}

impl Verify for Network {
    fn verify(&self, announcement: &[u8], record: RecordSource<'_>) -> Result<Arc<Verified>, Refusal> {
        authenticate(self, announcement, record).map(Arc::new)
    }
}

/// The sequence number in an announcement of this node whose signature was found good, though it was refused for something else.
#[must_use]
pub fn signed_seqno(announcement: &[u8], id: &NodeId) -> Option<SeqNo> {
    let raw: proto::Announcement = wire::decode(announcement, "announcement").ok()?;
    (raw.node_id == id.0).then_some(raw.seqno)
}

/// Verifies an announcement and its record: shape, size, hash, NodeId, signature, certificate signature.
pub fn authenticate(network: &Network, announcement: &[u8], record: RecordSource<'_>) -> Result<Verified, Refusal> {
    // Everybody keeps it for everybody: what it may hold is bounded before anything is looked at.
    let most = MAX_RECORD + if network.authority().is_some() { MAX_CERTIFICATE } else { 0 };
    if announcement.len() > MAX_ANNOUNCEMENT || matches!(record, RecordSource::Bytes(bytes) if bytes.len() > most) {
        return Err(Refusal::TooLarge);
    }
    let raw: proto::Announcement = wire::decode(announcement, "announcement")?;
    let id = NodeId::from_slice(&raw.node_id).ok_or(Refusal::Malformed("announcement"))?;
    let hash = match record {
        RecordSource::Bytes(bytes) => sha256(&[bytes]),
        RecordSource::Known(record) => record.hash,
    };
    if raw.record_hash != hash {
        return Err(Refusal::RecordMismatch);
    }
    let record_bytes = match record {
        RecordSource::Bytes(bytes) => bytes,
        RecordSource::Known(record) => &record.bytes,
    };
    let parsed: proto::PeerRecord = wire::decode(record_bytes, "peer record")?;
    if sha256(&[&parsed.spki]) != id.0 {
        return Err(Refusal::ForgedIdentity);
    }
    let message = signed_part(network, &raw);
    verify_context(&parsed.spki, ANNOUNCE, &message, &raw.signature).map_err(|_| Refusal::ForgedIdentity)?;
    let record = match record {
        RecordSource::Known(record) => Arc::clone(record),
        RecordSource::Bytes(bytes) => Arc::new(parse_record(network, id, hash, bytes, parsed)?),
    };
    Ok(Verified {
        id,
        seqno: raw.seqno,
        lifetime_s: raw.lifetime_s.min(MAX_LIFETIME_S),
        bytes: announcement.to_vec(),
        record,
    })
}

fn signed_part(network: &Network, raw: &proto::Announcement) -> Vec<u8> {
    [&network.id()[..], &raw.node_id, &raw.seqno.to_be_bytes(), &raw.lifetime_s.to_be_bytes(), &raw.record_hash]
        .concat()
}

fn parse_record(
    network: &Network,
    id: NodeId,
    hash: [u8; 32],
    bytes: &[u8],
    raw: proto::PeerRecord,
) -> Result<Record, Refusal> {
    let bad = Refusal::Malformed("peer record");
    let sane = raw.name.len() <= 63
        && !raw.name.chars().any(char::is_control)
        && raw.prefixes.len() <= MAX_PREFIXES
        && raw.endpoints.len() <= MAX_ENDPOINTS
        && raw.services.len() <= MAX_SERVICES
        && raw.ipv4_attempt < IPV4_ATTEMPTS
        && (raw.country.is_empty() || is_country(&raw.country));
    if !sane {
        return Err(bad);
    }
    let certificate = match network.authority() {
        _ if raw.certificate.is_empty() => None,
        Some(authority) => Some(Certificate::open(&raw.certificate, authority).map_err(|_| Refusal::BadCertificate)?),
        // Nobody could have signed it.
        None => return Err(Refusal::BadCertificate),
    };
    if certificate.as_ref().is_some_and(|c| c.node != id) {
        return Err(Refusal::BadCertificate);
    }
    let granted = |v4: bool| certificate.as_ref()?.addresses.iter().find(|a| a.is_ipv4() == v4).copied();
    Ok(Record {
        hash,
        bytes: bytes.to_vec(),
        noise_static: raw.noise_static.try_into().map_err(|_| bad.clone())?,
        addresses: [
            granted(true).unwrap_or_else(|| network.ipv4(&id, raw.ipv4_attempt).into()),
            granted(false).unwrap_or_else(|| network.ipv6(&id).into()),
        ],
        name: match &certificate {
            Some(certificate) if !certificate.name.is_empty() => certificate.name.clone(),
            _ => label_or_none(raw.name),
        },
        ipv4_attempt: raw.ipv4_attempt,
        prefixes: raw.prefixes.iter().map(|p| wire::decode_prefix(p)).collect::<Result<_, _>>()?,
        endpoints: raw.endpoints.iter().map(|e| wire::decode_endpoint(e)).collect::<Result<_, _>>()?,
        certificate,
        no_relay: raw.no_relay,
        boot: raw.boot,
        country: raw.country,
        services: raw.services.iter().map(service).collect::<Option<_>>().ok_or(bad)?,
        versions: Versions::told(raw.version, raw.oldest),
        ipv4_only: raw.ipv4_only,
    })
}

fn encode_service(service: &Service) -> proto::Service {
    proto::Service { kind: service.kind.to_string(), port: service.port.into() }
}

fn service(raw: &proto::Service) -> Option<Service> {
    let port = u16::try_from(raw.port).ok().filter(|p| *p > 0)?;
    Some(Service { kind: raw.kind.parse().ok()?, port })
}

impl Identity {
    /// Signs a record and its announcement. It fails as [`authenticate`] does when others would refuse the content: a
    /// certificate that is not this node's, too much of anything.
    pub fn announce(
        &self,
        network: &Network,
        content: &RecordContent,
        seqno: SeqNo,
        lifetime_s: u32,
    ) -> Result<Verified, Refusal> {
        let record = proto::PeerRecord {
            spki: self.spki().to_vec(),
            noise_static: self.noise_public().to_vec(),
            name: content.name.clone(),
            ipv4_attempt: content.ipv4_attempt,
            prefixes: content.prefixes.iter().map(|p| wire::encode_prefix(*p)).collect(),
            endpoints: content.endpoints.iter().map(|e| wire::encode_endpoint(*e)).collect(),
            certificate: content.certificate.clone(),
            no_relay: content.no_relay,
            boot: content.boot,
            country: content.country.clone(),
            services: content.services.iter().map(encode_service).collect(),
            version: Versions::OURS.version,
            oldest: Versions::OURS.oldest,
            ipv4_only: content.ipv4_only,
        }
        .encode_to_vec();
        let mut raw = proto::Announcement {
            node_id: self.id().0.to_vec(),
            seqno,
            lifetime_s,
            record_hash: sha256(&[&record]).to_vec(),
            signature: Vec::new(),
        };
        raw.signature = self.sign(ANNOUNCE, &signed_part(network, &raw));
        authenticate(network, &raw.encode_to_vec(), RecordSource::Bytes(&record))
    }
}
