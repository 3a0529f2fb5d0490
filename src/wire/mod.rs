//! Floor 1: formats on the wire. Everything that parses bytes from outside is here or in `identity`, is bounded,
//! and has a fuzz target.

pub mod checksum;
pub mod coalesce;
pub mod frame;
pub mod ip;
pub mod mss;
pub mod packet;
pub mod stun;
pub mod turn;
pub mod version;
pub mod vnet;

/// The control messages, generated from `proto/aegisray.proto`.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/aegisray.v1.rs"));
}

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::types::{IpPrefix, path};

/// Bytes from outside that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// Largest reassembled control message, record or handshake message in bytes.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// Decodes a bounded protobuf message.
pub fn decode<M: prost::Message + Default>(bytes: &[u8], what: &'static str) -> Result<M, Malformed> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Malformed(what));
    }
    M::decode(bytes).map_err(|_| Malformed(what))
}

/// An address as 4 or 16 bytes.
#[must_use]
pub fn encode_ip(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub fn decode_ip(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).map(|v6| Ipv6Addr::from(v6).into()).map_err(|_| Malformed("address"))
}

/// A prefix as its address, then its length.
#[must_use]
pub fn encode_prefix(prefix: IpPrefix) -> Vec<u8> {
    let mut out = encode_ip(prefix.addr());
    out.push(prefix.prefix_len());
    out
}

pub fn decode_prefix(bytes: &[u8]) -> Result<IpPrefix, Malformed> {
    let (len, addr) = bytes.split_last().ok_or(Malformed("prefix"))?;
    let addr = decode_ip(addr)?;
    let prefix = IpPrefix::new(addr, *len).ok_or(Malformed("prefix length"))?;
    if prefix.addr() == addr { Ok(prefix) } else { Err(Malformed("prefix: host bits set")) }
}

/// A transport endpoint as its address, then its port.
#[must_use]
pub fn encode_endpoint(endpoint: SocketAddr) -> Vec<u8> {
    let endpoint = path::plain(endpoint);
    let mut out = encode_ip(endpoint.ip());
    out.extend_from_slice(&endpoint.port().to_be_bytes());
    out
}

pub fn decode_endpoint(bytes: &[u8]) -> Result<SocketAddr, Malformed> {
    let (addr, port) = bytes.split_last_chunk::<2>().ok_or(Malformed("endpoint"))?;
    Ok(SocketAddr::new(decode_ip(addr)?, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn endpoints_and_prefixes_round_trip(ip: IpAddr, port: u16, len in 0u8..=128) {
            let endpoint = SocketAddr::new(ip, port);
            prop_assert_eq!(decode_endpoint(&encode_endpoint(endpoint)), Ok(endpoint));
            if let Some(prefix) = IpPrefix::new(ip, len) {
                prop_assert_eq!(decode_prefix(&encode_prefix(prefix)), Ok(prefix));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode_endpoint(&bytes);
            let _ = decode_prefix(&bytes);
            let _ = decode::<proto::ControlMessage>(&bytes, "control message");
            let _ = decode::<proto::HandshakePayload>(&bytes, "handshake payload");
        }
    }
}
