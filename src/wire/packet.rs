//! The fixed-layout headers of datagrams between nodes (docs/protocol.md gives the byte layouts).
//!
//! | first byte | datagram |
//! |---|---|
//! | 0x41 | handshake fragment |
//! | 0x42 | cookie reply |
//! | 0x43 | data: sealed by the session of its two ends |
//! | 0x44 | hop: a relayed datagram behind a header that neighbours authenticate |
//! | 0x45 | LAN beacon |

use super::Malformed;
use crate::{crypto::TAG_LEN, types::NodeTag};

pub const HANDSHAKE: u8 = 0x41;
pub const COOKIE: u8 = 0x42;
pub const DATA: u8 = 0x43;
pub const HOP: u8 = 0x44;
pub const BEACON: u8 = 0x45;

/// `type | 3 reserved | receiver index | counter`.
pub const DATA_HEADER: usize = 16;
/// Bytes that sealing adds to an IP packet sent directly.
pub const DATA_OVERHEAD: usize = DATA_HEADER + TAG_LEN;
/// `type | ttl | 2 reserved | receiver index | counter | destination tag | source tag | hop tag`.
pub const HOP_HEADER: usize = 32 + TAG_LEN;
/// `type | message | fragment | fragments | sender index | receiver index | mac1 | mac2`.
pub const HANDSHAKE_HEADER: usize = 44;
/// No handshake datagram is longer, so that it fits a path of 1,280 bytes with any IP header.
pub const MAX_HANDSHAKE_DATAGRAM: usize = 1200;
/// At most so many fragments make a handshake message.
pub const MAX_FRAGMENTS: u8 = 8;
/// How many relays a datagram may cross.
pub const MAX_HOPS: u8 = 32;

/// Which Noise message a handshake datagram carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandshakeKind {
    Xx1,
    Xx2,
    Xx3,
    Ik1,
    Ik2,
}

impl HandshakeKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Xx1,
            2 => Self::Xx2,
            3 => Self::Xx3,
            4 => Self::Ik1,
            5 => Self::Ik2,
            _ => return None,
        })
    }

    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Xx1 => 1,
            Self::Xx2 => 2,
            Self::Xx3 => 3,
            Self::Ik1 => 4,
            Self::Ik2 => 5,
        }
    }
}

/// A handshake fragment, parsed but not authenticated.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeFragment<'a> {
    pub kind: HandshakeKind,
    pub fragment: u8,
    pub fragments: u8,
    pub sender: u32,
    pub receiver: u32,
    pub mac1: [u8; 16],
    pub mac2: [u8; 16],
    pub body: &'a [u8],
}

/// A datagram by its kind; nothing in it has been authenticated.
#[derive(Debug, Clone, Copy)]
pub enum Datagram<'a> {
    Handshake(HandshakeFragment<'a>),
    /// Receiver index; the rest is sealed.
    Cookie {
        receiver: u32,
        body: &'a [u8],
    },
    Data {
        receiver: u32,
        counter: u64,
    },
    Hop(HopHeader),
    Beacon(&'a [u8]),
}

/// The header that neighbours authenticate and relays rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HopHeader {
    /// Relays that the datagram may still cross.
    pub ttl: u8,
    pub receiver: u32,
    pub counter: u64,
    pub dst: NodeTag,
    pub src: NodeTag,
}

/// The 16 bytes at `offset` or wherever; callers have checked the length.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_be_bytes)
}

/// Reads a datagram's header.
pub fn parse(bytes: &[u8]) -> Result<Datagram<'_>, Malformed> {
    parse_inner(bytes).ok_or(Malformed("datagram"))
}

fn parse_inner(bytes: &[u8]) -> Option<Datagram<'_>> {
    Some(match *bytes.first()? {
        HANDSHAKE => {
            let fragment = HandshakeFragment {
                kind: HandshakeKind::from_byte(*bytes.get(1)?)?,
                fragment: *bytes.get(2)?,
                fragments: *bytes.get(3)?,
                sender: u32_at(bytes, 4)?,
                receiver: u32_at(bytes, 8)?,
                mac1: array(bytes, 12)?,
                mac2: array(bytes, 28)?,
                body: bytes.get(HANDSHAKE_HEADER..)?,
            };
            let sane = fragment.fragment < fragment.fragments
                && fragment.fragments <= MAX_FRAGMENTS
                && bytes.len() <= MAX_HANDSHAKE_DATAGRAM
                && !fragment.body.is_empty();
            if !sane {
                return None;
            }
            Datagram::Handshake(fragment)
        }
        COOKIE => Datagram::Cookie { receiver: u32_at(bytes, 4)?, body: bytes.get(8..)? },
        DATA if bytes.len() >= DATA_OVERHEAD => {
            Datagram::Data { receiver: u32_at(bytes, 4)?, counter: u64_at(bytes, 8)? }
        }
        HOP if bytes.len() > HOP_HEADER => Datagram::Hop(HopHeader {
            ttl: *bytes.get(1)?,
            receiver: u32_at(bytes, 4)?,
            counter: u64_at(bytes, 8)?,
            dst: NodeTag(u64_at(bytes, 16)?),
            src: NodeTag(u64_at(bytes, 24)?),
        }),
        BEACON => Datagram::Beacon(bytes.get(1..)?),
        _ => return None,
    })
}

/// The header of a data datagram; it is the AEAD's associated data.
#[must_use]
pub fn data_header(receiver: u32, counter: u64) -> [u8; DATA_HEADER] {
    let mut out = [0; DATA_HEADER];
    out[0] = DATA;
    out[4..8].copy_from_slice(&receiver.to_be_bytes());
    out[8..16].copy_from_slice(&counter.to_be_bytes());
    out
}

impl HopHeader {
    /// The authenticated part of the header: all of it but the tag.
    #[must_use]
    pub fn encode(&self) -> [u8; HOP_HEADER - TAG_LEN] {
        let mut out = [0; HOP_HEADER - TAG_LEN];
        out[0] = HOP;
        out[1] = self.ttl;
        out[4..8].copy_from_slice(&self.receiver.to_be_bytes());
        out[8..16].copy_from_slice(&self.counter.to_be_bytes());
        out[16..24].copy_from_slice(&self.dst.0.to_be_bytes());
        out[24..32].copy_from_slice(&self.src.0.to_be_bytes());
        out
    }
}

/// The first 12 bytes of a handshake fragment, which the MACs cover together with the body.
#[must_use]
pub fn handshake_header(kind: HandshakeKind, fragment: u8, fragments: u8, sender: u32, receiver: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&[HANDSHAKE, kind.byte(), fragment, fragments]);
    out[4..8].copy_from_slice(&sender.to_be_bytes());
    out[8..].copy_from_slice(&receiver.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hop_header_round_trips_and_short_ones_are_refused() {
        let hop = HopHeader { ttl: 9, receiver: 7, counter: 1 << 40, dst: NodeTag(3), src: NodeTag(4) };
        let mut bytes = hop.encode().to_vec();
        bytes.extend_from_slice(&[0; TAG_LEN]);
        assert!(parse(&bytes).is_err(), "a hop header with nothing behind it");
        bytes.push(0);
        assert!(matches!(parse(&bytes), Ok(Datagram::Hop(h)) if h == hop));
    }

    #[test]
    fn handshake_fragments_are_bounded() {
        let make = |fragment, fragments, body: usize| {
            let mut bytes = handshake_header(HandshakeKind::Ik1, fragment, fragments, 1, 2).to_vec();
            bytes.resize(HANDSHAKE_HEADER + body, 0);
            parse(&bytes).is_ok()
        };
        assert!(make(0, 1, 1) && make(7, 8, 1156));
        assert!(!make(1, 1, 1) && !make(0, 0, 1) && !make(0, 9, 1) && !make(0, 1, 0) && !make(0, 1, 1157));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
