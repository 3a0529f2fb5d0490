//! An established session's keys: what the data plane seals and opens with.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use zeroize::Zeroizing;

use super::{Via, replay::ReplayWindow};
use crate::{
    crypto::{AeadKey, Cipher, HeaderKey, TAG_LEN, hkdf_sha256},
    types::{NodeId, NodeTag},
    wire::{
        frame::{FRAME, Level},
        packet::{self, DATA_HEADER, HOP_HEADER, HopHeader},
    },
};

/// Packets that no machine seals in the time between two looks at a session.
const ROOM: u64 = 1 << 30;

/// Why a packet of a session was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// It isn't authentic.
    Forged,
    /// It was seen before, or is too old to tell.
    Replayed,
    /// Its sender is no member yet.
    Guest,
}

/// By which path a session's datagrams come; paths have numbers, which are the data plane's affair.
#[derive(Debug, Default)]
pub struct Arrivals {
    path: AtomicU64,
    last: AtomicU64,
}

impl Arrivals {
    /// Whether what arrives comes by this path. Notes that `counter` has.
    #[must_use]
    pub fn came_by(&self, path: u64, counter: u64) -> bool {
        if self.path.load(Ordering::Relaxed) != path {
            return false;
        }
        if counter > self.last.load(Ordering::Relaxed) {
            self.last.store(counter, Ordering::Relaxed);
        }
        true
    }

    /// The path by which it comes (0: nothing has come) and the highest counter of what came by it.
    #[must_use]
    pub fn path(&self) -> (u64, u64) {
        (self.path.load(Ordering::Relaxed), self.last.load(Ordering::Relaxed))
    }

    /// From now on it comes by `path`; this was the highest counter.
    pub fn set_path(&self, path: u64, counter: u64) {
        self.last.store(counter, Ordering::Relaxed);
        self.path.store(path, Ordering::Relaxed);
    }
}

/// Something that the owner of a session is told of once, until it looks.
#[derive(Debug, Default)]
pub struct Notice(AtomicBool);

impl Notice {
    /// Whether the owner is to be told now. From then on it isn't, until it has looked.
    #[must_use]
    pub fn raise(&self) -> bool {
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed)
    }

    /// The owner looks, or could not be told.
    pub fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The keys, counters and replay window of one session. Shared by the threads that move its packets; takes no lock.
#[derive(Debug)]
pub struct Transport {
    pub peer: NodeId,
    /// The index by which packets to us name this session.
    pub local_index: u32,
    /// The index that packets to the peer carry.
    pub remote_index: u32,
    pub cipher: Cipher,
    /// Where the peer got our answer, if it began the session straight: that it goes on shows that it was there.
    pub answered: Option<SocketAddr>,
    send: AeadKey,
    recv: AeadKey,
    send_hop: HeaderKey,
    recv_hop: HeaderKey,
    next: AtomicU64,
    window: ReplayWindow,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    /// Of those, of frames.
    sent_frames: AtomicU64,
    received_frames: AtomicU64,
    asleep: AtomicBool,
    confirmed: AtomicBool,
    /// The peer is no member yet: nothing is passed on for it.
    guest: AtomicBool,
    traffic: AtomicU64,
    /// What waits of it for the owner.
    queued: AtomicU64,
    /// The peer is somewhere else, or has its keys now.
    pub moved: Notice,
    /// It says itself that it is somewhere else.
    pub marked: Notice,
    link: Arrivals,
    route: Arrivals,
}

/// The secrets from which a session's keys derive.
pub(super) struct Secrets<'a> {
    pub handshake_hash: &'a [u8],
    pub noise: (&'a [u8; 32], &'a [u8; 32]),
    pub kem: &'a [u8; 32],
}

impl Transport {
    /// Derives the keys with HKDF-SHA-256: salted by the handshake hash, from the two Noise keys (X25519) and the
    /// ML-KEM-768 secret together, so that an attacker needs to break both.
    pub(super) fn derive(
        peer: NodeId,
        (local_index, remote_index): (u32, u32),
        cipher: Cipher,
        secrets: &Secrets<'_>,
        initiator: bool,
    ) -> Self {
        let ikm = Zeroizing::new([&secrets.noise.0[..], &secrets.noise.1[..], &secrets.kem[..]].concat());
        let mut okm = Zeroizing::new([0; 128]);
        let info: [&[u8]; 2] = [b"aegisray transport v1 ", cipher.name().as_bytes()];
        hkdf_sha256(secrets.handshake_hash, &ikm, &info, &mut *okm);
        let key = |i: usize| okm[32 * i..].first_chunk().expect("four keys of 32 bytes");
        // Of what the initiator sends, and of what it receives.
        let (send, recv) = if initiator { (0, 1) } else { (1, 0) };
        Self {
            peer,
            local_index,
            remote_index,
            cipher,
            answered: None,
            send: AeadKey::new(cipher, key(send)),
            recv: AeadKey::new(cipher, key(recv)),
            send_hop: HeaderKey::new(cipher, key(2 + send)),
            recv_hop: HeaderKey::new(cipher, key(2 + recv)),
            next: AtomicU64::new(0),
            window: ReplayWindow::default(),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            sent_frames: AtomicU64::new(0),
            received_frames: AtomicU64::new(0),
            // The first packet on a new session is news.
            asleep: AtomicBool::new(true),
            confirmed: AtomicBool::new(false),
            guest: AtomicBool::new(false),
            traffic: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            moved: Notice::default(),
            marked: Notice::default(),
            link: Arrivals::default(),
            route: Arrivals::default(),
        }
    }

    /// A session that the peer has begun there.
    pub(super) fn answered_at(mut self, via: Via) -> Arc<Self> {
        if let Via::Direct(place) = via {
            self.answered = Some(place);
        }
        Arc::new(self)
    }

    /// Both ends of a session with this index, for tests.
    #[cfg(test)]
    pub(crate) fn pair(index: u32) -> [Self; 2] {
        let secrets = Secrets { handshake_hash: &index.to_be_bytes(), noise: (&[1; 32], &[2; 32]), kem: &[3; 32] };
        let end =
            |initiator| Self::derive(NodeId([7; 32]), (index, index), Cipher::ChaCha20Poly1305, &secrets, initiator);
        [end(true), end(false)]
    }

    /// What tells the keys of both directions apart, of what is sent and of what is received; says nothing of the keys.
    #[cfg(test)]
    pub(crate) fn key_marks(&self) -> [u64; 2] {
        let mark = |key: &AeadKey| {
            let tag = key.seal(u64::MAX, b"mark", &mut []);
            tag.first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
        };
        [mark(&self.send), mark(&self.recv)]
    }

    /// Notes that a packet was opened: the peer has the keys. Returns true the first time.
    pub fn confirm(&self) -> bool {
        !self.confirmed.load(Ordering::Relaxed) && !self.confirmed.swap(true, Ordering::Relaxed)
    }

    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// The peer is a guest, who gets its certificate on this session and nothing else.
    pub fn set_guest(&self) {
        self.guest.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_guest(&self) -> bool {
        self.guest.load(Ordering::Relaxed)
    }

    /// Whether so many packets were sealed or opened that there must be no more. It leaves room for what is sealed until
    /// this is asked again, within a second.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= ReplayWindow::LIMIT - ROOM
            || self.window.newest() >= ReplayWindow::LIMIT - ROOM
    }

    /// Counts packets of users that were sent on this session. Returns true if the link's owner has asked to be
    /// told of the next one ([`Self::sleep`]).
    pub fn note_traffic(&self, packets: u64) -> bool {
        self.traffic.fetch_add(packets, Ordering::Relaxed);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }

    /// Asks to be told of the next packet of a user.
    pub fn sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
    }

    /// Packets of users sent so far, relayed ones included.
    #[must_use]
    pub fn traffic(&self) -> u64 {
        self.traffic.load(Ordering::Relaxed)
    }

    /// Whether one more thing that came on this session may wait for its owner, of `most`; [`Self::leave_queue`] ends that.
    #[must_use]
    pub fn join_queue(&self, most: u64) -> bool {
        let may = self.queued.fetch_add(1, Ordering::Relaxed) < most;
        if !may {
            self.leave_queue();
        }
        may
    }

    /// What waited is being looked at, or was dropped.
    pub fn leave_queue(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }

    /// Appends a sealed data datagram with `plaintext` to `out`.
    pub fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) {
        self.seal_with(out, |out| out.extend_from_slice(plaintext));
    }

    /// [`Self::seal`] of what `plaintext` appends to its argument: the packet is written where it is sealed.
    pub fn seal_with(&self, out: &mut Vec<u8>, plaintext: impl FnOnce(&mut Vec<u8>)) {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        let header = packet::data_header(self.remote_index, counter);
        out.extend_from_slice(&header);
        let start = out.len();
        plaintext(out);
        let len = (out.len() - start) as u64;
        self.sent_bytes.fetch_add(len, Ordering::Relaxed);
        if out.get(start) == Some(&FRAME) {
            self.sent_frames.fetch_add(len, Ordering::Relaxed);
        }
        let tag = self.send.seal(counter, &header, &mut out[start..]);
        out.extend_from_slice(&tag);
    }

    /// Opens a data datagram in place. The plaintext is `&datagram[range]`.
    pub fn open(&self, counter: u64, datagram: &mut [u8]) -> Result<std::ops::Range<usize>, Rejected> {
        let (header, body) = datagram.split_at_mut(DATA_HEADER);
        let len = self.recv.open(counter, header, body).map_err(|_| Rejected::Forged)?;
        if !self.window.accept(counter) {
            return Err(Rejected::Replayed);
        }
        self.received_bytes.fetch_add(len as u64, Ordering::Relaxed);
        let plaintext = DATA_HEADER..DATA_HEADER + len;
        if datagram[plaintext.clone()].first() == Some(&FRAME) {
            self.received_frames.fetch_add(len as u64, Ordering::Relaxed);
        }
        Ok(plaintext)
    }

    /// The authenticated header that carries a datagram to this neighbour on its way from `src` to `dst`.
    #[must_use]
    pub fn seal_hop(&self, ttl: u8, dst: NodeTag, src: NodeTag) -> [u8; HOP_HEADER] {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        let header = HopHeader { ttl, receiver: self.remote_index, counter, dst, src }.encode();
        let mut out = [0; HOP_HEADER];
        out[..HOP_HEADER - TAG_LEN].copy_from_slice(&header);
        out[HOP_HEADER - TAG_LEN..].copy_from_slice(&self.send_hop.tag(counter, &header));
        out
    }

    /// Authenticates a hop header; what is behind it is neither read nor touched.
    pub fn open_hop(&self, header: &HopHeader, datagram: &[u8]) -> Result<(), Rejected> {
        if self.is_guest() {
            return Err(Rejected::Guest);
        }
        let (bytes, rest) = datagram.split_at(HOP_HEADER - TAG_LEN);
        let tag = rest.first_chunk().ok_or(Rejected::Forged)?;
        self.recv_hop.verify(header.counter, bytes, *tag).map_err(|_| Rejected::Forged)?;
        if self.window.accept(header.counter) { Ok(()) } else { Err(Rejected::Replayed) }
    }

    /// Whether `counter` is the highest that has arrived: only such a packet may tell where the peer is now.
    #[must_use]
    pub fn is_newest(&self, counter: u64) -> bool {
        self.window.is_newest(counter)
    }

    /// By which path the neighbour's datagrams come, or the node's packets.
    #[must_use]
    pub fn arrivals(&self, level: Level) -> &Arrivals {
        match level {
            Level::Link => &self.link,
            Level::Route => &self.route,
        }
    }

    /// Plaintext bytes sealed so far.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Plaintext bytes opened so far.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of users' packets sealed so far, and opened so far.
    #[must_use]
    pub fn users_bytes(&self) -> (u64, u64) {
        let (sent, received) = (self.sent_frames.load(Ordering::Relaxed), self.received_frames.load(Ordering::Relaxed));
        (self.sent_bytes().saturating_sub(sent), self.received_bytes().saturating_sub(received))
    }

    /// Packets sealed so far.
    #[must_use]
    pub fn sent_packets(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}
