//! Sends what a server sends in a TLS 1.3 handshake in records of given lengths: those of another server.
//!
//! A handshake message may be spread over records at will (RFC 8446 §5.1), and each record may be padded with zeros (§5.4), so
//! that lengths are free. rustls encrypts one record at a time; here it is several, the second and those after it inside what
//! rustls takes for the first one's payload. Its length is put right where the bytes are sent.

use std::{cell::RefCell, collections::VecDeque, mem};

use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite, Tls13CipherSuite,
    crypto::cipher::{
        AeadKey, Iv, MessageDecrypter, MessageEncrypter, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload,
        Tls13AeadAlgorithm, UnsupportedOperationError,
    },
};

/// What is added to a record's content: its type and the tag of the AEAD.
const OVERHEAD: usize = 17;
/// Type, version and length.
const HEADER: usize = 5;
/// Longer records are not allowed (RFC 8446 §5.2).
const MAX_RECORD: usize = (1 << 14) + 256;
const ENCRYPTED_EXTENSIONS: u8 = 8;
const NEW_SESSION_TICKET: u8 = 4;

/// Lengths of encrypted records, without their headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lengths {
    /// From the encrypted extensions to Finished.
    pub flight: Vec<usize>,
    /// What follows the client's Finished by itself.
    pub tickets: Vec<usize>,
}

thread_local! {
    /// Of each message that was spread: its length as rustls sees it, and that of its first record.
    static SENT: RefCell<VecDeque<(usize, usize)>> = const { RefCell::new(VecDeque::new()) };
}

/// The suite with records of these lengths. Lives as long as the program: a decoy changes its looks a few times a year.
pub(super) fn suite(inner: &Tls13CipherSuite, lengths: Lengths) -> SupportedCipherSuite {
    let mask: &'static Mask = Box::leak(Box::new(Mask { inner: inner.aead_alg, lengths }));
    let common = rustls::crypto::CipherSuiteCommon { ..inner.common };
    let masked = Tls13CipherSuite { common, hkdf_provider: inner.hkdf_provider, aead_alg: mask, quic: None };
    SupportedCipherSuite::Tls13(Box::leak(Box::new(masked)))
}

/// To be called before a handshake on this thread.
pub(super) fn begin() {
    SENT.with_borrow_mut(VecDeque::clear);
}

/// Puts the lengths right in what is to be sent: whole records, and all of them since [`begin`].
pub(super) fn finish(out: &mut [u8]) {
    let mut rest = out;
    while rest.len() >= HEADER {
        let total = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        let spread = SENT.with_borrow_mut(|sent| sent.pop_front_if(|(len, _)| *len == total));
        if let Some((_, first)) = spread {
            rest[3..5].copy_from_slice(&(first as u16).to_be_bytes());
        }
        rest = rest.get_mut(HEADER + total..).unwrap_or_default();
    }
}

struct Mask {
    inner: &'static dyn Tls13AeadAlgorithm,
    lengths: Lengths,
}

impl Tls13AeadAlgorithm for Mask {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Masked { inner: self.inner.encrypter(key, iv), lengths: self.lengths.clone(), more: 0 })
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.inner.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.inner.key_len()
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.inner.extract_keys(key, iv)
    }
}

struct Masked {
    inner: Box<dyn MessageEncrypter>,
    lengths: Lengths,
    /// Records that rustls has not counted.
    more: u64,
}

impl MessageEncrypter for Masked {
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, seq: u64) -> Result<OutboundOpaqueMessage, Error> {
        let seq = seq + self.more;
        let content = if message.typ == ContentType::Handshake { message.payload.to_vec() } else { Vec::new() };
        let lengths = match content.first() {
            Some(&ENCRYPTED_EXTENSIONS) => mem::take(&mut self.lengths.flight),
            Some(&NEW_SESSION_TICKET) => mem::take(&mut self.lengths.tickets),
            _ => Vec::new(),
        };
        let parts = split(&content, &lengths);
        if parts.is_empty() {
            return self.inner.encrypt(message, seq);
        }
        let mut out = PrefixedPayload::with_capacity(content.len() + lengths.iter().sum::<usize>());
        let (mut first, mut version) = (0, message.version);
        for (seq, (part, padding)) in (seq..).zip(&parts) {
            let mut plain = part.to_vec();
            let mut kind = ContentType::Handshake;
            if *padding > 0 {
                // The type follows the content and zeros follow the type: rustls adds the last one for a type.
                plain.push(kind.into());
                plain.resize(part.len() + padding, 0);
                kind = ContentType::from(0);
            }
            let record = OutboundPlainMessage { typ: kind, version: message.version, payload: plain.as_slice().into() };
            let sealed = self.inner.encrypt(record, seq)?;
            // On the wire it is always that of TLS 1.2.
            version = sealed.version;
            let bytes = sealed.payload.as_ref();
            if first == 0 {
                first = bytes.len();
            } else {
                out.extend_from_slice(&[ContentType::ApplicationData.into()]);
                out.extend_from_slice(&version.to_array());
                out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            }
            out.extend_from_slice(bytes);
        }
        self.more += parts.len() as u64 - 1;
        SENT.with_borrow_mut(|sent| sent.push_back((out.as_ref().len(), first)));
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, version, out))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.inner.encrypted_payload_len(payload_len)
    }
}

/// Content and padding of each record, so that the records have these lengths. What doesn't fit goes into the last one; of
/// too few bytes, each record gets one at least, and there are fewer records if need be.
fn split<'a>(content: &'a [u8], lengths: &[usize]) -> Vec<(&'a [u8], usize)> {
    let mut parts = Vec::new();
    let mut rest = content;
    for (i, length) in lengths.iter().enumerate() {
        let room = length.saturating_sub(OVERHEAD);
        let after = lengths.len() - i - 1;
        let is_last = after == 0 || rest.len() == 1;
        let n = if is_last { rest.len() } else { room.min(rest.len().saturating_sub(after)).max(1) };
        if rest.is_empty() || n + OVERHEAD > MAX_RECORD {
            break;
        }
        let (part, more) = rest.split_at(n);
        parts.push((part, room.saturating_sub(n)));
        rest = more;
    }
    if rest.is_empty() { parts } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_spread_over_records_of_the_lengths_asked_for() {
        let content = vec![8; 500];
        for lengths in [vec![36, 1000, 95, 69], vec![200, 200, 200], vec![517], vec![2000], vec![400, 22, 22, 22, 900]]
        {
            let parts = split(&content, &lengths);
            assert_eq!(parts.iter().map(|(p, _)| p.len()).sum::<usize>(), 500, "{lengths:?}");
            assert!(parts.iter().all(|(p, _)| !p.is_empty()));
            let seen: Vec<usize> = parts.iter().map(|(p, padding)| p.len() + padding + OVERHEAD).collect();
            assert_eq!(seen, lengths);
        }
    }

    #[test]
    fn too_little_room_makes_the_last_record_longer() {
        let parts = split(&[8; 500], &[36, 100]);
        assert_eq!(parts.iter().map(|(p, padding)| p.len() + padding).collect::<Vec<_>>(), [19, 481]);
        // Nothing to say, and nothing to say it in.
        assert!(split(&[], &[40]).is_empty() && split(&[1, 2], &[]).is_empty());
        assert_eq!(split(&[1], &[40, 50]), [(&[1][..], 22)]);
    }
}
