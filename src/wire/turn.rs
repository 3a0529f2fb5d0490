//! TURN (RFC 8656) as a client needs it: requests with long-term credentials (RFC 8489 §9.2), what servers answer, and
//! datagrams wrapped in indications.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use super::stun::{self, address_value, is_stun, read_address, xored};
use crate::crypto::{hmac_sha1, md5, verify_hmac_sha1};

/// Message types: method and class (RFC 8489 §5, RFC 8656 §17).
pub const ALLOCATE: u16 = 0x0003;
pub const REFRESH: u16 = 0x0004;
pub const CREATE_PERMISSION: u16 = 0x0008;
const SEND_INDICATION: u16 = 0x0016;
const DATA_INDICATION: u16 = 0x0017;
const SUCCESS: u16 = 0x0100;
const ERROR: u16 = 0x0110;

mod attr {
    pub const USERNAME: u16 = 0x0006;
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub const ERROR_CODE: u16 = 0x0009;
    pub const LIFETIME: u16 = 0x000d;
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub const DATA: u16 = 0x0013;
    pub const REALM: u16 = 0x0014;
    pub const NONCE: u16 = 0x0015;
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
}

const UDP: u8 = 17;
/// Bytes of MESSAGE-INTEGRITY, and of the attribute with its head.
const MAC: usize = 20;
const SIGNATURE: usize = MAC + 4;

/// Proof of who asks.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub username: String,
    pub realm: String,
    pub nonce: Vec<u8>,
    key: [u8; 16],
}

impl Credentials {
    #[must_use]
    pub fn new(username: &str, password: &str, realm: &str, nonce: &[u8]) -> Self {
        let key = md5(format!("{username}:{realm}:{password}").as_bytes());
        Self { username: username.to_owned(), realm: realm.to_owned(), nonce: nonce.to_vec(), key }
    }

    /// Whether an answer comes from a server that knows the same password (RFC 8489 §9.2.5).
    #[must_use]
    pub fn have_signed(&self, integrity: Option<&Integrity>) -> bool {
        integrity.is_some_and(|i| verify_hmac_sha1(&self.key, &i.covered, &i.mac))
    }
}

/// The MESSAGE-INTEGRITY of an answer (RFC 8489 §14.5), and what it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integrity {
    covered: Vec<u8>,
    mac: [u8; MAC],
}

impl Integrity {
    /// The one that stands at `at` of a message.
    fn read(datagram: &[u8], at: usize, value: &[u8]) -> Option<Self> {
        let mut covered = datagram.get(..at)?.to_vec();
        // What follows is not covered, and neither is it counted.
        let len = u16::try_from(at + SIGNATURE - stun::HEADER).ok()?;
        covered.get_mut(2..4)?.copy_from_slice(&len.to_be_bytes());
        Some(Self { covered, mac: value.try_into().ok()? })
    }
}

/// A request under construction.
struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u16, id: &[u8; 12]) -> Self {
        let mut out = kind.to_be_bytes().to_vec();
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&stun::COOKIE.to_be_bytes());
        out.extend_from_slice(id);
        Self(out)
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        self.0.extend_from_slice(&kind.to_be_bytes());
        self.0.extend_from_slice(&(value.len() as u16).to_be_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.set_len(0);
    }

    fn set_len(&mut self, more: usize) {
        let len = (self.0.len() + more - stun::HEADER) as u16;
        self.0[2..4].copy_from_slice(&len.to_be_bytes());
    }

    fn sign(mut self, credentials: Option<&Credentials>) -> Vec<u8> {
        if let Some(c) = credentials {
            self.put(attr::USERNAME, c.username.as_bytes());
            self.put(attr::REALM, c.realm.as_bytes());
            self.put(attr::NONCE, &c.nonce);
            // The MAC covers a length that counts it.
            self.set_len(SIGNATURE);
            let mac = hmac_sha1(&c.key, &self.0);
            self.put(attr::MESSAGE_INTEGRITY, &mac);
        }
        self.0
    }
}

/// Asks for a relayed address.
#[must_use]
pub fn allocate(id: &[u8; 12], credentials: Option<&Credentials>) -> Vec<u8> {
    let mut w = Writer::new(ALLOCATE, id);
    w.put(attr::REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]);
    w.sign(credentials)
}

/// Keeps the relayed address for so many seconds more; 0 gives it back.
#[must_use]
pub fn refresh(id: &[u8; 12], lifetime_s: u32, credentials: Option<&Credentials>) -> Vec<u8> {
    let mut w = Writer::new(REFRESH, id);
    w.put(attr::LIFETIME, &lifetime_s.to_be_bytes());
    w.sign(credentials)
}

/// Lets these peers send to the relayed address, for five minutes.
#[must_use]
pub fn create_permission(id: &[u8; 12], peers: &[IpAddr], credentials: Option<&Credentials>) -> Vec<u8> {
    let mut w = Writer::new(CREATE_PERMISSION, id);
    for peer in peers {
        w.put(attr::XOR_PEER_ADDRESS, &address_value(xored(SocketAddr::new(*peer, 0), id)));
    }
    w.sign(credentials)
}

/// A datagram for `peer`, by way of the server.
#[must_use]
pub fn send(peer: SocketAddr, datagram: &[u8]) -> Vec<u8> {
    // An indication has no answer: its number matters to nobody.
    let id = [0; 12];
    let mut w = Writer::new(SEND_INDICATION, &id);
    w.put(attr::XOR_PEER_ADDRESS, &address_value(xored(peer, &id)));
    w.put(attr::DATA, datagram);
    w.0
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A peer's datagram, at this place of the message.
    Data { peer: SocketAddr, at: Range<usize> },
    /// The request with this type and number was granted.
    Granted { kind: u16, id: [u8; 12], relayed: Option<SocketAddr>, lifetime_s: u32, integrity: Option<Integrity> },
    /// It was refused; 401 and 438 come with what to sign the next one with.
    Refused { kind: u16, id: [u8; 12], code: u16, realm: Option<String>, nonce: Vec<u8>, integrity: Option<Integrity> },
}

/// Reads a server's message; `None` for anything else, Binding messages included.
#[must_use]
pub fn parse(datagram: &[u8]) -> Option<Message> {
    if !is_stun(datagram) {
        return None;
    }
    let kind = u16::from_be_bytes([datagram[0], datagram[1]]);
    let id: [u8; 12] = datagram[8..20].try_into().ok()?;
    let end = stun::HEADER + usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
    let (mut peer, mut data, mut relayed, mut lifetime_s) = (None, None, None, 0);
    let (mut code, mut realm, mut nonce, mut integrity) = (0, None, Vec::new(), None);
    let mut at = stun::HEADER;
    while at + 4 <= end.min(datagram.len()) {
        let (name, len) = (u16::from_be_bytes([datagram[at], datagram[at + 1]]), [datagram[at + 2], datagram[at + 3]]);
        let range = at + 4..at + 4 + usize::from(u16::from_be_bytes(len));
        let value = datagram.get(range.clone())?;
        match name {
            attr::XOR_PEER_ADDRESS => peer = Some(xored(read_address(value)?, &id)),
            attr::XOR_RELAYED_ADDRESS => relayed = Some(xored(read_address(value)?, &id)),
            attr::DATA => data = Some(range.clone()),
            attr::LIFETIME => lifetime_s = u32::from_be_bytes(value.try_into().ok()?),
            attr::ERROR_CODE => code = u16::from(*value.get(2)? & 7) * 100 + u16::from(*value.get(3)?),
            attr::REALM => realm = Some(String::from_utf8_lossy(value).into_owned()),
            attr::NONCE => nonce = value.to_vec(),
            // What comes after it is nobody's word.
            attr::MESSAGE_INTEGRITY => {
                integrity = Some(Integrity::read(datagram, at, value)?);
                break;
            }
            _ => {}
        }
        at = range.end.next_multiple_of(4);
    }
    let request = kind & !(SUCCESS | ERROR);
    if kind == DATA_INDICATION {
        return Some(Message::Data { peer: peer?, at: data? });
    }
    if !matches!(request, ALLOCATE | REFRESH | CREATE_PERMISSION) {
        return None;
    }
    match kind & ERROR {
        SUCCESS => Some(Message::Granted { kind: request, id, relayed, lifetime_s, integrity }),
        ERROR => Some(Message::Refused { kind: request, id, code, realm, nonce, integrity }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_term_sample_of_rfc_5769_is_signed_as_it_says() {
        // RFC 5769 §2.4: a Binding request; its key and MAC.
        let credentials = Credentials::new(
            "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}",
            "TheMatrIX",
            "example.org",
            b"f//499k954d6OL34oL9FSTvy64sA",
        );
        let id = [0x78, 0xad, 0x34, 0x33, 0xc6, 0xad, 0x72, 0xc0, 0x29, 0xda, 0x41, 0x2e];
        let mut w = Writer::new(0x0001, &id);
        w.put(attr::USERNAME, credentials.username.as_bytes());
        w.put(attr::NONCE, &credentials.nonce);
        w.put(attr::REALM, credentials.realm.as_bytes());
        w.set_len(24);
        let mac = hmac_sha1(&credentials.key, &w.0);
        let expected = [
            0xf6, 0x70, 0x24, 0x65, 0x6d, 0xd6, 0x4a, 0x3e, 0x02, 0xb8, 0xe0, 0x71, 0x2e, 0x85, 0xc9, 0xa2, 0x8c, 0xa8,
            0x96, 0x66,
        ];
        assert_eq!(mac, expected);
    }

    #[test]
    fn an_answer_counts_as_far_as_it_is_signed() {
        let mine = Credentials::new("node", "secret", "example.org", b"nonce");
        let other = Credentials::new("node", "guess", "example.org", b"nonce");
        // A request has the form of an answer, but for its class.
        let mut w = Writer::new(ALLOCATE | SUCCESS, &[7; 12]);
        w.put(attr::LIFETIME, &600u32.to_be_bytes());
        let mut signed = w.sign(Some(&mine));
        let integrity = |bytes: &[u8]| match parse(bytes) {
            Some(Message::Granted { integrity, lifetime_s, .. }) => (integrity, lifetime_s),
            other => panic!("{other:?}"),
        };
        let (good, lifetime_s) = integrity(&signed);
        assert!(mine.have_signed(good.as_ref()) && !other.have_signed(good.as_ref()) && !mine.have_signed(None));
        assert_eq!(lifetime_s, 600);
        // An attribute behind it, as FINGERPRINT is, changes nothing and counts for nothing.
        signed.extend_from_slice(&[0, 0x0d, 0, 4, 0, 0, 0, 1]);
        let len = (signed.len() - stun::HEADER) as u16;
        signed[2..4].copy_from_slice(&len.to_be_bytes());
        let (still, lifetime_s) = integrity(&signed);
        assert!(mine.have_signed(still.as_ref()) && lifetime_s == 600);
        for at in 8..signed.len() - 8 {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            if let Some(Message::Granted { integrity, .. }) = parse(&changed) {
                assert!(!mine.have_signed(integrity.as_ref()), "byte {at}");
            }
        }
    }

    #[test]
    fn datagrams_are_wrapped_and_unwrapped() {
        let peer: SocketAddr = "203.0.113.9:4000".parse().unwrap();
        let mut wrapped = send(peer, b"hello");
        wrapped[1] = DATA_INDICATION as u8;
        let Some(Message::Data { peer: from, at }) = parse(&wrapped) else { panic!() };
        assert_eq!((from, &wrapped[at]), (peer, &b"hello"[..]));
        for cut in 0..wrapped.len() {
            let _ = parse(&wrapped[..cut]);
        }
        assert_eq!(parse(&allocate(&[1; 12], None)), None, "a request is no answer");
    }
}
