//! Reads the first flight of a TLS connection, without touching it: is it a ClientHello that may be a member's?

/// Longer first flights are no member's.
const MAX_FLIGHT: usize = 8192;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const KEY_SHARE: u16 = 51;
/// X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem).
const HYBRID: u16 = 0x11ec;

/// What the bytes received so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum FirstFlight {
    /// The beginning of a ClientHello, as far as can be told.
    Incomplete,
    /// Nothing that a member sends.
    Foreign,
    /// A whole ClientHello, and nothing after it.
    Hello(Hello),
}

/// What tells members from strangers.
#[derive(Debug, PartialEq, Eq)]
pub struct Hello {
    pub session_id: [u8; 32],
    /// The public key for X25519MLKEM768; empty if there is none.
    pub share: Vec<u8>,
}

impl FirstFlight {
    /// Reads records (RFC 8446 §5.1) and the ClientHello in them (§4.1.2).
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let mut message = Vec::new();
        let mut rest = bytes;
        let mut is_whole = true;
        while let Some(&kind) = rest.first() {
            if kind != HANDSHAKE || rest.get(1).is_some_and(|v| *v != 3) || bytes.len() > MAX_FLIGHT {
                return Self::Foreign;
            }
            let Some((head, payload)) = rest.split_at_checked(5) else {
                is_whole = false;
                break;
            };
            let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
            if len == 0 || len > MAX_FLIGHT {
                return Self::Foreign;
            }
            is_whole = payload.len() >= len;
            let (payload, next) = payload.split_at(len.min(payload.len()));
            message.extend_from_slice(payload);
            rest = next;
        }
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Self::Foreign;
        }
        let Some((head, body)) = message.split_at_checked(4) else { return Self::Incomplete };
        let len = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
        if len > MAX_FLIGHT || body.len() > len {
            return Self::Foreign;
        }
        if body.len() < len || !is_whole {
            return Self::Incomplete;
        }
        parse(body).map_or(Self::Foreign, Self::Hello)
    }
}

/// The fields of a ClientHello (RFC 8446 §4.1.2).
pub(super) struct Fields<'a> {
    pub version: u16,
    pub session_id: &'a [u8],
    pub suites: Vec<u16>,
    pub extensions: Vec<(u16, &'a [u8])>,
}

impl<'a> Fields<'a> {
    /// Reads the message without its four bytes of header.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let mut rest = body;
        let version = number(&mut rest)?;
        let _random = take(&mut rest, 32)?;
        let session_id = vector(&mut rest, 1)?;
        let suites = numbers(vector(&mut rest, 2)?);
        let _compression = vector(&mut rest, 1)?;
        let (mut all, mut extensions) = (vector(&mut rest, 2)?, Vec::new());
        while !all.is_empty() {
            extensions.push((number(&mut all)?, vector(&mut all, 2)?));
        }
        rest.is_empty().then_some(Self { version, session_id, suites, extensions })
    }

    pub fn extension(&self, kind: u16) -> Option<&'a [u8]> {
        self.extensions.iter().find(|e| e.0 == kind).map(|e| e.1)
    }
}

fn parse(body: &[u8]) -> Option<Hello> {
    let fields = Fields::parse(body)?;
    let mut share = Vec::new();
    if let Some(mut content) = fields.extension(KEY_SHARE) {
        let mut entries = vector(&mut content, 2)?;
        while !entries.is_empty() {
            let group = number(&mut entries)?;
            let key = vector(&mut entries, 2)?;
            if group == HYBRID {
                share = key.to_vec();
            }
        }
    }
    Some(Hello { session_id: fields.session_id.try_into().ok()?, share })
}

/// Two bytes each.
pub(super) fn numbers(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|n| u16::from_be_bytes([n[0], n[1]])).collect()
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(taken)
}

fn number(bytes: &mut &[u8]) -> Option<u16> {
    take(bytes, 2).map(|n| u16::from_be_bytes([n[0], n[1]]))
}

/// A vector behind its length in so many bytes (RFC 8446 §3.4).
pub(super) fn vector<'a>(bytes: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let len = take(bytes, length_bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b));
    take(bytes, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hello with these extensions, in one record.
    fn flight(session_id: &[u8], extensions: &[u8]) -> Vec<u8> {
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[session_id.len() as u8],
            session_id,
            &[0, 2, 0x13, 1, 1, 0],
            &(extensions.len() as u16).to_be_bytes(),
            extensions,
        ]
        .concat();
        let message = [&[CLIENT_HELLO, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
        [&[HANDSHAKE, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
    }

    fn key_share() -> Vec<u8> {
        [&[0, 51, 0, 17, 0, 15][..], &0x0a0au16.to_be_bytes(), &[0, 1, 0], &HYBRID.to_be_bytes(), &[0, 6], &[5; 6]]
            .concat()
    }

    #[test]
    fn a_whole_hello_is_read_and_every_beginning_of_it_is_incomplete() {
        let whole = flight(&[9; 32], &key_share());
        let expected = Hello { session_id: [9; 32], share: vec![5; 6] };
        assert_eq!(FirstFlight::read(&whole), FirstFlight::Hello(expected));
        for len in 0..whole.len() {
            assert_eq!(FirstFlight::read(&whole[..len]), FirstFlight::Incomplete, "{len}");
        }
    }

    #[test]
    fn a_hello_in_several_records_is_the_same_hello() {
        let whole = flight(&[9; 32], &[]);
        let (one, two) = whole[5..].split_at(30);
        let record = |m: &[u8]| [&[HANDSHAKE, 3, 1][..], &(m.len() as u16).to_be_bytes(), m].concat();
        let split = [record(one), record(two)].concat();
        assert_eq!(FirstFlight::read(&split), FirstFlight::read(&whole));
        assert!(matches!(FirstFlight::read(&split), FirstFlight::Hello(_)));
    }

    #[test]
    fn everything_else_is_foreign_at_once() {
        let whole = flight(&[9; 32], &[]);
        let trailing = [&whole[..], &[HANDSHAKE, 3, 3, 0, 1, 0]].concat();
        let browser_of_old = flight(&[], &[]);
        let cut_extension = flight(&[9; 32], &[0, 51, 0, 9]);
        for bytes in [b"GET / HTTP/1.1".as_slice(), &[22, 2], &[22, 3, 1, 0, 0], &[22, 3, 1, 0, 1, 2], &trailing] {
            assert_eq!(FirstFlight::read(bytes), FirstFlight::Foreign, "{bytes:?}");
        }
        assert_eq!(FirstFlight::read(&browser_of_old), FirstFlight::Foreign);
        assert_eq!(FirstFlight::read(&cut_extension), FirstFlight::Foreign);
        assert_eq!(FirstFlight::read(&[22; 9000]), FirstFlight::Foreign);
    }
}
