//! What a session carries besides IP packets: a zero byte, then a protobuf `Frame`; or a [`Mark`].

use prost::Message as _;

use super::{Malformed, decode, proto};

pub use proto::frame::Kind;

/// The first byte of a frame; an IP packet starts with 0x4_ or 0x6_.
pub const FRAME: u8 = 0;

/// What a path is a path of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Two neighbours' datagrams, whatever they carry: a path is an address.
    Link,
    /// Two nodes' packets: a path is the neighbour by which they come.
    Route,
}

/// A plaintext of one byte, by which a sender that changes its path for another one tells how the two follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// What comes after it takes this path, and the one before still works. So nothing was lost, and what was sent earlier may
    /// arrive later.
    Begin(Level),
    /// Nothing more comes by this path.
    End(Level),
}

impl Mark {
    const ALL: [Self; 4] =
        [Self::Begin(Level::Route), Self::End(Level::Route), Self::Begin(Level::Link), Self::End(Level::Link)];

    /// The plaintext.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Begin(Level::Route) => 1,
            Self::End(Level::Route) => 2,
            Self::Begin(Level::Link) => 3,
            Self::End(Level::Link) => 4,
        }
    }

    /// The mark that this plaintext is.
    #[must_use]
    pub fn parse(plaintext: &[u8]) -> Option<Self> {
        let [byte] = plaintext else { return None };
        Self::ALL.into_iter().find(|mark| mark.byte() == *byte)
    }
}

/// Encodes a frame as a session's plaintext.
#[must_use]
pub fn encode(kind: Kind) -> Vec<u8> {
    let frame = proto::Frame { kind: Some(kind) };
    let mut out = Vec::with_capacity(1 + frame.encoded_len());
    out.push(FRAME);
    frame.encode(&mut out).expect("a vector grows");
    out
}

/// Decodes a session's plaintext that starts with [`FRAME`].
pub fn parse(plaintext: &[u8]) -> Result<Kind, Malformed> {
    match plaintext.split_first() {
        Some((&FRAME, body)) => decode::<proto::Frame>(body, "frame")?.kind.ok_or(Malformed("frame: unknown kind")),
        _ => Err(Malformed("frame")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_round_trip() {
        for mark in Mark::ALL {
            assert_eq!(Mark::parse(&[mark.byte()]), Some(mark));
        }
        assert!([&[FRAME][..], &[5], &[1, 1], &[]].into_iter().all(|plaintext| Mark::parse(plaintext).is_none()));
    }

    #[test]
    fn round_trip_and_unknown_kinds() {
        let kind = Kind::Probe(proto::Probe { id: 7, wish: 1, ..Default::default() });
        assert_eq!(parse(&encode(kind.clone())), Ok(kind));
        assert_eq!(parse(&[FRAME]), Err(Malformed("frame: unknown kind")));
        assert_eq!(parse(&[0x45, 1]), Err(Malformed("frame")));
        assert_eq!(parse(&[]), Err(Malformed("frame")));
    }
}
