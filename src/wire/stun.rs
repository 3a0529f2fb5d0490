//! STUN Binding messages (RFC 8489) with the attributes of NAT behaviour discovery (RFC 5780 §7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Malformed;
use crate::crypto::HmacKey;

/// The port that STUN servers listen on unless told otherwise (RFC 8489 §8.1).
pub const PORT: u16 = 3478;
pub(super) const COOKIE: u32 = 0x2112_a442;
pub(super) const HEADER: usize = 20;
const FINGERPRINT_XOR: u32 = 0x5354_554e;
const PROOF_LABEL: &[u8] = b"aegisray stun v1";

mod attr {
    pub const MAPPED_ADDRESS: u16 = 0x0001;
    pub const CHANGE_REQUEST: u16 = 0x0003;
    pub const ERROR_CODE: u16 = 0x0009;
    pub const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub const RESPONSE_PORT: u16 = 0x0027;
    /// Ours: a member's proof. Servers that don't know it ignore it, as its number says.
    pub const PROOF: u16 = 0xc057;
    pub const FINGERPRINT: u16 = 0x8028;
    pub const RESPONSE_ORIGIN: u16 = 0x802b;
    pub const OTHER_ADDRESS: u16 = 0x802c;
}

/// What a message is (RFC 8489 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    #[default]
    Request,
    Indication,
    Success,
    Error,
}

/// From where a server is to answer (CHANGE-REQUEST).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    pub ip: bool,
    pub port: bool,
}

/// A Binding message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Binding {
    pub class: Class,
    pub id: [u8; 12],
    pub change: Change,
    /// The port to answer to, instead of the one that the request came from (RESPONSE-PORT).
    pub response_port: Option<u16>,
    /// Where the request came from, as the server saw it.
    pub mapped: Option<SocketAddr>,
    /// Where the answer was sent from.
    pub origin: Option<SocketAddr>,
    /// The server's other address and port.
    pub other: Option<SocketAddr>,
    /// 300 to 699.
    pub error: Option<u16>,
    /// That the sender is a member of a network: a MAC over the transaction's number.
    pub proof: Option<[u8; 16]>,
    /// Attributes that must be understood (below 0x8000) and aren't.
    pub unknown: Vec<u16>,
}

/// Whether a datagram is STUN: two zero bits, and the magic cookie. No datagram between nodes begins so.
#[must_use]
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram[0] & 0xc0 == 0 && datagram[4..8] == COOKIE.to_be_bytes()
}

impl Binding {
    #[must_use]
    pub fn request(id: [u8; 12], change: Change) -> Self {
        Self { id, change, ..Self::default() }
    }

    /// The request with a member's proof.
    #[must_use]
    pub fn with_proof(self, network: &HmacKey) -> Self {
        Self { proof: Some(network.tag(&[PROOF_LABEL, &self.id])), ..self }
    }

    /// Whether the sender has proved to be a member.
    #[must_use]
    pub fn is_members(&self, network: &HmacKey) -> bool {
        self.proof.is_some_and(|proof| network.verify(&[PROOF_LABEL, &self.id], &proof))
    }

    /// An answer of `class` to this request.
    #[must_use]
    pub fn answer(&self, class: Class) -> Self {
        Self { class, id: self.id, ..Self::default() }
    }

    /// Reads a message; other methods than Binding and wrong fingerprints are malformed.
    pub fn parse(datagram: &[u8]) -> Result<Self, Malformed> {
        let bad = Malformed("a STUN message");
        if !is_stun(datagram) {
            return Err(bad);
        }
        let class = match u16::from_be_bytes([datagram[0], datagram[1]]) {
            0x0001 => Class::Request,
            0x0011 => Class::Indication,
            0x0101 => Class::Success,
            0x0111 => Class::Error,
            _ => return Err(bad),
        };
        let len = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
        if !len.is_multiple_of(4) || datagram.len() != HEADER + len {
            return Err(bad);
        }
        let id: [u8; 12] = datagram[8..HEADER].try_into().map_err(|_| bad)?;
        let mut message = Self { class, id, ..Self::default() };
        let mut at = HEADER;
        while at < datagram.len() {
            let kind = u16::from_be_bytes([datagram[at], datagram[at + 1]]);
            let len = usize::from(u16::from_be_bytes([datagram[at + 2], datagram[at + 3]]));
            let value = datagram.get(at + 4..at + 4 + len).ok_or(bad)?;
            match kind {
                attr::MAPPED_ADDRESS => message.mapped = message.mapped.or(Some(read_address(value).ok_or(bad)?)),
                attr::XOR_MAPPED_ADDRESS => message.mapped = Some(xored(read_address(value).ok_or(bad)?, &id)),
                attr::RESPONSE_ORIGIN => message.origin = Some(read_address(value).ok_or(bad)?),
                attr::OTHER_ADDRESS => message.other = Some(read_address(value).ok_or(bad)?),
                attr::CHANGE_REQUEST => {
                    let flags = value.first_chunk::<4>().map(|b| u32::from_be_bytes(*b)).ok_or(bad)?;
                    message.change = Change { ip: flags & 4 != 0, port: flags & 2 != 0 };
                }
                attr::RESPONSE_PORT => {
                    message.response_port = Some(value.first_chunk().map(|b| u16::from_be_bytes(*b)).ok_or(bad)?);
                }
                attr::ERROR_CODE => {
                    let code = value.first_chunk::<4>().ok_or(bad)?;
                    message.error = Some(u16::from(code[2] & 7) * 100 + u16::from(code[3]));
                }
                attr::FINGERPRINT => {
                    let expected = crc32(&datagram[..at]) ^ FINGERPRINT_XOR;
                    if value != expected.to_be_bytes() || at + 8 != datagram.len() {
                        return Err(bad);
                    }
                }
                attr::UNKNOWN_ATTRIBUTES => {}
                attr::PROOF => message.proof = Some(value.try_into().map_err(|_| bad)?),
                kind if kind < 0x8000 => message.unknown.push(kind),
                _ => {}
            }
            at += 4 + len.next_multiple_of(4);
        }
        Ok(message)
    }

    /// The message with its fingerprint.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind: u16 = match self.class {
            Class::Request => 0x0001,
            Class::Indication => 0x0011,
            Class::Success => 0x0101,
            Class::Error => 0x0111,
        };
        let mut out = kind.to_be_bytes().to_vec();
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&COOKIE.to_be_bytes());
        out.extend_from_slice(&self.id);
        let mut put = |kind: u16, value: &[u8]| {
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&(value.len() as u16).to_be_bytes());
            out.extend_from_slice(value);
            out.resize(out.len().next_multiple_of(4), 0);
        };
        if self.change != Change::default() {
            let flags = u32::from(self.change.ip) << 2 | u32::from(self.change.port) << 1;
            put(attr::CHANGE_REQUEST, &flags.to_be_bytes());
        }
        if let Some(port) = self.response_port {
            let [high, low] = port.to_be_bytes();
            put(attr::RESPONSE_PORT, &[high, low, 0, 0]);
        }
        if let Some(code) = self.error {
            put(attr::ERROR_CODE, &[0, 0, (code / 100) as u8, (code % 100) as u8]);
        }
        if !self.unknown.is_empty() {
            let list: Vec<u8> = self.unknown.iter().flat_map(|k| k.to_be_bytes()).collect();
            put(attr::UNKNOWN_ATTRIBUTES, &list);
        }
        let addresses = [
            (attr::XOR_MAPPED_ADDRESS, self.mapped.map(|a| xored(a, &self.id))),
            (attr::RESPONSE_ORIGIN, self.origin),
            (attr::OTHER_ADDRESS, self.other),
        ];
        for (kind, address) in addresses.into_iter().filter_map(|(k, a)| Some((k, a?))) {
            put(kind, &address_value(address));
        }
        if let Some(proof) = &self.proof {
            put(attr::PROOF, proof);
        }
        // The fingerprint covers a length that counts it.
        let len = (out.len() - HEADER + 8) as u16;
        out[2..4].copy_from_slice(&len.to_be_bytes());
        let fingerprint = crc32(&out) ^ FINGERPRINT_XOR;
        out.extend_from_slice(&attr::FINGERPRINT.to_be_bytes());
        out.extend_from_slice(&[0, 4]);
        out.extend_from_slice(&fingerprint.to_be_bytes());
        out
    }
}

/// An address as an attribute's value (RFC 8489 §14.1).
pub(super) fn address_value(address: SocketAddr) -> Vec<u8> {
    let mut value = vec![0, if address.is_ipv4() { 1 } else { 2 }];
    value.extend_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => value.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => value.extend_from_slice(&ip.octets()),
    }
    value
}

pub(super) fn read_address(value: &[u8]) -> Option<SocketAddr> {
    let (head, ip) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([head[2], head[3]]);
    let ip: IpAddr = match head[1] {
        1 => Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?).into(),
        2 => Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// An address under the cookie and the transaction (RFC 8489 §14.2); its own inverse.
pub(super) fn xored(address: SocketAddr, id: &[u8; 12]) -> SocketAddr {
    let port = address.port() ^ (COOKIE >> 16) as u16;
    let ip: IpAddr = match address.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) ^ COOKIE).into(),
        IpAddr::V6(ip) => {
            let mut mask = [0; 16];
            mask[..4].copy_from_slice(&COOKIE.to_be_bytes());
            mask[4..].copy_from_slice(id);
            Ipv6Addr::from(u128::from(ip) ^ u128::from_be_bytes(mask)).into()
        }
    };
    SocketAddr::new(ip, port)
}

/// CRC-32 of ITU V.42, as RFC 8489 §14.7 asks.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 != 0 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_5769_sample_answers_read_as_they_should() {
        // RFC 5769 §2.2 without MESSAGE-INTEGRITY would not match its fingerprint: the sample's address attributes only.
        let mut v4 = vec![0x01, 0x01, 0x00, 0x0c, 0x21, 0x12, 0xa4, 0x42];
        let id = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
        v4.extend_from_slice(&id);
        v4.extend_from_slice(&[0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let read = Binding::parse(&v4).unwrap();
        assert_eq!((read.class, read.mapped), (Class::Success, Some("192.0.2.1:32853".parse().unwrap())));
        // RFC 5769 §2.3.
        let mut v6 = vec![0x01, 0x01, 0x00, 0x18, 0x21, 0x12, 0xa4, 0x42];
        v6.extend_from_slice(&id);
        v6.extend_from_slice(&[0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47]);
        v6.extend_from_slice(&[0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79]);
        v6.extend_from_slice(&[0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9]);
        let expected = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        assert_eq!(Binding::parse(&v6).unwrap().mapped, Some(expected));
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    fn socket_addr() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<(u32, u16)>().prop_map(|(ip, port)| SocketAddr::new(Ipv4Addr::from(ip).into(), port));
        let v6 = any::<(u128, u16)>().prop_map(|(ip, port)| SocketAddr::new(Ipv6Addr::from(ip).into(), port));
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            id: [u8; 12],
            flags: (bool, bool),
            addresses in proptest::array::uniform3(proptest::option::of(socket_addr())),
            error in proptest::option::of(300u16..700),
            proof: Option<[u8; 16]>,
            response_port: Option<u16>,
        ) {
            let [mapped, origin, other] = addresses;
            let change = Change { ip: flags.0, port: flags.1 };
            let unknown = Vec::new();
            let message =
                Binding { class: Class::Error, id, change, response_port, mapped, origin, other, error, proof, unknown };
            prop_assert_eq!(Binding::parse(&message.encode()), Ok(message));
        }

        #[test]
        fn a_changed_byte_is_noticed(at in 0usize..60, with in 1u8..) {
            // The fingerprint may be absent, so its own header is not covered.
            let message = Binding { mapped: Some("[2001:db8::1]:9".parse().unwrap()), ..Binding::default() };
            let mut bytes = message.encode();
            let at = at % (bytes.len() - 8);
            bytes[at] ^= with;
            prop_assert_ne!(Binding::parse(&bytes), Ok(message));
        }
    }
}
