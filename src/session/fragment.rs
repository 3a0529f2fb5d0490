//! Handshake messages larger than a datagram: cut, sent, and put together again within bounds.

use std::collections::HashMap;

use super::{
    Via,
    budget::{Source, Way},
    cookie::mac2_key,
};
use crate::{
    crypto::HmacKey,
    types::{Duration, Instant},
    wire::packet::{
        HANDSHAKE_HEADER, HandshakeFragment, HandshakeKind, MAX_FRAGMENTS, MAX_HANDSHAKE_DATAGRAM, handshake_header,
    },
};

const BODY: usize = MAX_HANDSHAKE_DATAGRAM - HANDSHAKE_HEADER;
const MAX_PARTIAL: usize = 256;
/// And from one source that has shown nothing, so that one alone pushes nobody else's out.
const MAX_PARTIAL_OF_ONE: usize = 16;
/// Enough for what one try lost to come with the next or the one after it.
const KEEP: Duration = Duration::from_millis(1500);

/// The longest handshake message.
pub(super) const MAX_HANDSHAKE: usize = BODY * MAX_FRAGMENTS as usize;

/// Cuts a message into datagrams with mac1, and mac2 when there is a cookie.
pub(super) fn split(
    gate: &HmacKey,
    cookie: Option<&[u8; 16]>,
    (kind, sender, receiver): (HandshakeKind, u32, u32),
    message: &[u8],
) -> Vec<Vec<u8>> {
    let chunks = message.chunks(BODY);
    let count = chunks.len() as u8;
    chunks
        .enumerate()
        .map(|(i, body)| {
            let header = handshake_header(kind, i as u8, count, sender, receiver);
            let mac1 = gate.tag(&[&header, body]);
            let mac2 = cookie.map_or([0; 16], |c| mac2_key(c).tag(&[&header, body, &mac1]));
            [&header[..], &mac1, &mac2, body].concat()
        })
        .collect()
}

/// How long the datagrams of a message are together.
pub(super) fn len_of(message: &[u8]) -> usize {
    message.len() + message.len().div_ceil(BODY) * HANDSHAKE_HEADER
}

/// The parts that mac1 covers.
pub(super) fn mac1_parts<'a>(header: &'a [u8; 12], fragment: &HandshakeFragment<'a>) -> [&'a [u8]; 2] {
    [header, fragment.body]
}

/// The first 12 bytes of a parsed fragment.
pub(super) fn header_of(fragment: &HandshakeFragment<'_>) -> [u8; 12] {
    handshake_header(fragment.kind, fragment.fragment, fragment.fragments, fragment.sender, fragment.receiver)
}

struct Partial {
    pieces: Vec<Option<Vec<u8>>>,
    /// The mac1 of the first piece.
    first: [u8; 16],
    since: Instant,
    source: Option<Source>,
}

/// A message put together.
pub(super) struct Whole {
    pub message: Vec<u8>,
    /// The mac1 of its first fragment, which tells it from any other.
    pub first: [u8; 16],
    /// How long its datagrams were together.
    pub len: usize,
}

/// Puts messages together. Only fragments with a sound mac1 come here.
#[derive(Default)]
pub(super) struct Reassembly {
    partial: HashMap<(Via, u32, HandshakeKindKey), Partial>,
}

type HandshakeKindKey = u8;

impl Reassembly {
    /// Adds a fragment; returns the message once it is whole. Retransmitted fragments fill the gaps of earlier ones.
    pub fn add(&mut self, now: Instant, way: Way, fragment: &HandshakeFragment<'_>) -> Option<Whole> {
        if fragment.fragments == 1 {
            let message = fragment.body.to_vec();
            return Some(Whole { len: HANDSHAKE_HEADER + message.len(), first: fragment.mac1, message });
        }
        let key = (way.0, fragment.sender, fragment.kind.byte());
        let source = Source::unproven(way);
        if !self.partial.contains_key(&key) {
            let of_source = self.partial.values().filter(|p| p.source == source).count();
            if of_source >= MAX_PARTIAL_OF_ONE || self.partial.len() >= MAX_PARTIAL {
                // Whoever sends too much makes room for itself.
                let spare = |p: &Partial| of_source < MAX_PARTIAL_OF_ONE || p.source == source;
                let oldest = self.partial.iter().filter(|(_, p)| spare(p)).min_by_key(|(k, p)| (p.since, k.1));
                let oldest = *oldest?.0;
                self.partial.remove(&oldest);
            }
        }
        let entry = self.partial.entry(key).or_insert_with(|| Partial {
            pieces: vec![None; usize::from(fragment.fragments)],
            first: [0; 16],
            since: now,
            source,
        });
        if entry.pieces.len() != usize::from(fragment.fragments) {
            return None;
        }
        let piece = &mut entry.pieces[usize::from(fragment.fragment)];
        if piece.is_none() {
            *piece = Some(fragment.body.to_vec());
            if fragment.fragment == 0 {
                entry.first = fragment.mac1;
            }
        }
        if entry.pieces.iter().any(Option::is_none) {
            return None;
        }
        let Partial { pieces, first, .. } = self.partial.remove(&key)?;
        let len = pieces.len() * HANDSHAKE_HEADER;
        let message = pieces.into_iter().flatten().collect::<Vec<_>>().concat();
        Some(Whole { len: len + message.len(), message, first })
    }

    pub fn expire(&mut self, now: Instant) {
        self.partial.retain(|_, p| now.since(p.since) < KEEP);
    }

    /// How many messages wait for fragments.
    pub fn len(&self) -> usize {
        self.partial.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn one_source_pushes_nobody_elses_fragments_out() {
        let mut reassembly = Reassembly::default();
        let from = |i: u32| (Via::Direct(SocketAddr::from(([192, 0, 2, 1 + i as u8], 7))), None);
        let mut add = |at: u64, way: Way, sender: u32, fragment: u8| {
            let kind = HandshakeKind::Xx2;
            let f = HandshakeFragment {
                kind,
                fragment,
                fragments: 2,
                sender,
                receiver: 0,
                mac1: [0; 16],
                mac2: [0; 16],
                body: b"x",
            };
            reassembly.add(Instant(at), way, &f).is_some()
        };
        add(0, from(0), 1, 0);
        for i in 0..1000 {
            add(1, from(1), i, 0);
        }
        assert!(add(2, from(0), 1, 1), "that of another source waits");
        assert!(!add(2, from(1), 0, 1) && add(2, from(1), 999, 1), "the oldest of the same source go");
        assert!(reassembly.len() <= MAX_PARTIAL_OF_ONE + 1);
        reassembly.expire(Instant(1) + KEEP);
        assert_eq!(reassembly.len(), 1);
    }
}
