//! Handshake messages larger than a datagram: cut, sent, and put together again within bounds.

use std::collections::HashMap;

use super::{MAX_HALF_OPEN, Via, begin::MAX_INITIATORS, budget::Source, cookie::mac2_key};
use crate::{
    crypto::HmacKey,
    types::{Duration, Instant},
    wire::packet::{
        HANDSHAKE_HEADER, HandshakeFragment, HandshakeKind, MAX_FRAGMENTS, MAX_HANDSHAKE_DATAGRAM, handshake_header,
    },
};

const BODY: usize = MAX_HANDSHAKE_DATAGRAM - HANDSHAKE_HEADER;
/// First messages that wait for fragments.
const MAX_FIRST: usize = 256;
/// And from one source, so that one alone pushes nobody else's out.
const MAX_FIRST_OF_ONE: usize = 16;
/// Messages for handshakes that wait for them, and for one of those: on its way there is somebody who knows its number.
const MAX_AWAITED: usize = MAX_INITIATORS + MAX_HALF_OPEN;
const MAX_AWAITED_BY_ONE: usize = 2;
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

/// At whose expense a message waits for its fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// A first message: of whoever sends it.
    Source(Option<Source>),
    /// A later one: of our handshake with this index, which waits for it.
    Handshake(u32),
}

impl Holder {
    /// So many of this kind, and of this one.
    fn most(self) -> (usize, usize) {
        match self {
            Self::Source(_) => (MAX_FIRST, MAX_FIRST_OF_ONE),
            Self::Handshake(_) => (MAX_AWAITED, MAX_AWAITED_BY_ONE),
        }
    }

    fn is_alike(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

struct Partial {
    pieces: Vec<Option<Vec<u8>>>,
    /// The mac1 of the first piece.
    first: [u8; 16],
    since: Instant,
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
    partial: HashMap<Key, Partial>,
}

/// Fragments at the expense of different holders are never of the same message: nobody who shows nothing spoils that of who
/// has shown a cookie.
type Key = (Holder, Via, u32, u8);

impl Reassembly {
    /// Adds a fragment; returns the message once it is whole. Retransmitted fragments fill the gaps of earlier ones.
    pub fn add(&mut self, now: Instant, holder: Holder, via: Via, fragment: &HandshakeFragment<'_>) -> Option<Whole> {
        if fragment.fragments == 1 {
            let message = fragment.body.to_vec();
            return Some(Whole { len: HANDSHAKE_HEADER + message.len(), first: fragment.mac1, message });
        }
        let key = (holder, via, fragment.sender, fragment.kind.byte());
        if !self.partial.contains_key(&key) {
            self.make_room(holder);
        }
        let entry = self.partial.entry(key).or_insert_with(|| Partial {
            pieces: vec![None; usize::from(fragment.fragments)],
            first: [0; 16],
            since: now,
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

    /// For one more of this holder. Whoever sends too much makes room for itself.
    fn make_room(&mut self, holder: Holder) {
        let (most, most_of_one) = holder.most();
        let alike = self.partial.keys().filter(|k| k.0.is_alike(holder)).count();
        let of_one = self.partial.keys().filter(|k| k.0 == holder).count();
        if of_one < most_of_one && alike < most {
            return;
        }
        let spare = |k: &Key| if of_one < most_of_one { k.0.is_alike(holder) } else { k.0 == holder };
        let oldest = self.partial.iter().filter(|(k, _)| spare(k)).min_by_key(|(k, p)| (p.since, k.2));
        if let Some(oldest) = oldest.map(|(k, _)| *k) {
            self.partial.remove(&oldest);
        }
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
    use crate::types::{NodeId, NodeTag};

    fn add(r: &mut Reassembly, at: u64, (holder, via): (Holder, Via), sender: u32, fragment: u8) -> Option<Vec<u8>> {
        let (kind, receiver, macs) = (HandshakeKind::Xx1, 0, [0; 16]);
        let body: &[u8] = if matches!(holder, Holder::Source(None)) { b"y" } else { b"x" };
        let (mac1, mac2) = (macs, macs);
        let f = HandshakeFragment { kind, fragment, fragments: 2, sender, receiver, mac1, mac2, body };
        r.add(Instant(at), holder, via, &f).map(|whole| whole.message)
    }

    fn direct(host: u8) -> Via {
        Via::Direct(SocketAddr::from(([192, 0, 2, host], 7)))
    }

    /// A node with this tag, behind the same relay as all others here.
    fn first(tag: u64, proven: bool) -> (Holder, Via) {
        let via = Via::Relayed(NodeTag(tag));
        (Holder::Source(Source::of((via, Some(NodeId([1; 32]))), proven)), via)
    }

    #[test]
    fn one_source_pushes_nobody_elses_fragments_out() {
        let mut r = Reassembly::default();
        let from = |host: u8| (Holder::Source(Source::of((direct(host), None), false)), direct(host));
        add(&mut r, 0, from(1), 1, 0);
        for i in 0..1000 {
            add(&mut r, 1, from(2), i, 0);
        }
        assert!(add(&mut r, 2, from(1), 1, 1).is_some(), "that of another source waits");
        let mut second = |sender: u32| add(&mut r, 2, from(2), sender, 1).is_some();
        assert!(!second(0) && second(999), "the oldest of the same source go");
        assert!(r.len() <= MAX_FIRST_OF_ONE + 1);
        r.expire(Instant(1) + KEEP);
        assert_eq!(r.len(), 1);
    }

    #[test]
    fn whoever_shows_a_cookie_has_places_of_its_own_behind_the_same_relay() {
        let mut r = Reassembly::default();
        add(&mut r, 0, first(1, true), 1, 0);
        for i in 0..1000 {
            add(&mut r, 1, first(u64::from(i), false), i, 0);
            add(&mut r, 1, first(2, true), i, 0);
        }
        assert!(add(&mut r, 2, first(1, false), 1, 1).is_none(), "and nobody else adds to what it sends");
        assert_eq!(add(&mut r, 2, first(1, true), 1, 1), Some(b"xx".to_vec()));
        assert!(r.len() <= 2 * MAX_FIRST_OF_ONE + 1);
    }

    #[test]
    fn first_messages_push_out_nothing_that_is_waited_for() {
        let mut r = Reassembly::default();
        let later = |index: u32| (Holder::Handshake(index), Via::Relayed(NodeTag(1)));
        for index in 0..MAX_AWAITED as u32 {
            add(&mut r, 0, later(index), 1, 0);
        }
        for tag in 0..2000 {
            add(&mut r, 1, first(tag, true), 1, 0);
        }
        assert_eq!(r.len(), MAX_AWAITED + MAX_FIRST);
        assert!((0..MAX_AWAITED as u32).all(|index| add(&mut r, 2, later(index), 1, 1).is_some()));
        for sender in 0..1000 {
            add(&mut r, 3, later(7), sender, 0);
        }
        assert_eq!(r.len(), MAX_AWAITED_BY_ONE + MAX_FIRST, "who knows one's number hurts that one alone");
    }
}
