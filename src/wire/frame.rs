//! What a session carries besides IP packets: a zero byte, then a protobuf `Frame`; or a mark, [`BEGIN`] or [`END`].

use prost::Message as _;

use super::{Malformed, decode, proto};

pub use proto::frame::Kind;

/// The first byte of a frame; an IP packet starts with 0x4_ or 0x6_.
pub const FRAME: u8 = 0;

/// A plaintext of this byte alone: what comes after it takes this path, and the one before still works. So nothing was lost,
/// and what was sent earlier may arrive later.
pub const BEGIN: u8 = 1;

/// A plaintext of this byte alone: nothing more comes by this path.
pub const END: u8 = 2;

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
    fn round_trip_and_unknown_kinds() {
        let kind = Kind::Probe(proto::Probe { id: 7, wish: 1, ..Default::default() });
        assert_eq!(parse(&encode(kind.clone())), Ok(kind));
        assert_eq!(parse(&[FRAME]), Err(Malformed("frame: unknown kind")));
        assert_eq!(parse(&[0x45, 1]), Err(Malformed("frame")));
        assert_eq!(parse(&[]), Err(Malformed("frame")));
    }
}
