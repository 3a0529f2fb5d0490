//! Node identifiers.

use std::{fmt, str::FromStr};

use data_encoding::{Encoding, Specification};

/// SHA-256 of the DER `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7) of a node's identity key. Shown in lower-case
/// base32 without padding: 52 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

/// The first eight bytes of a [`NodeId`], big-endian: how relayed packets name their ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeTag(pub u64);

/// Why a text is no NodeId.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a NodeId: expected 52 characters of lower-case base32 (a-z, 2-7)")]
pub struct ParseNodeIdError;

fn base32() -> &'static Encoding {
    static ENCODING: std::sync::OnceLock<Encoding> = std::sync::OnceLock::new();
    ENCODING.get_or_init(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
        spec.encoding().expect("the alphabet has 32 distinct symbols")
    })
}

impl NodeId {
    /// The tag that relayed packets carry.
    #[must_use]
    pub fn tag(&self) -> NodeTag {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        NodeTag(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// The first ten characters: enough for a person to tell nodes apart.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..10].to_owned()
    }

    /// Reads 32 bytes as they come off the wire; `None` for any other length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32().encode(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bytes = base32().decode(s.as_bytes()).map_err(|_| ParseNodeIdError)?;
        Self::from_slice(&bytes).ok_or(ParseNodeIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip_and_refusals() {
        let id = NodeId([7; 32]);
        assert_eq!(id.to_string().len(), 52);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse::<NodeId>(), Err(ParseNodeIdError));
        assert_eq!("abc".parse::<NodeId>(), Err(ParseNodeIdError));
        assert_eq!(id.tag(), NodeTag(0x0707_0707_0707_0707));
    }
}
