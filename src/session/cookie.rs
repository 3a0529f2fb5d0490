//! Stateless cookies under load, as in WireGuard §5.4.7: who can't receive at its address, or at its node by a relay, gets no
//! state from us.

use crate::{
    crypto::{AeadKey, Cipher, HmacKey, Rng, sha256},
    types::{Duration, Instant},
    wire::packet::COOKIE,
};

use super::{Via, budget::Way};

/// How long the secret behind the cookies lives.
const ROTATE: Duration = Duration::from_secs(120);
/// First messages per second above which cookies are demanded.
const LOAD: u32 = 100;
const REPLY_LEN: usize = 8 + 12 + 16 + 16;

/// Demands, makes and checks cookies.
pub(super) struct CookieJar {
    seal: AeadKey,
    secrets: [HmacKey; 2],
    rotated: Instant,
    window: Instant,
    initiations: u32,
}

impl CookieJar {
    pub fn new(key: &[u8; 32], rng: &mut Rng, now: Instant) -> Self {
        Self {
            seal: AeadKey::new(Cipher::ChaCha20Poly1305, key),
            secrets: [HmacKey::new(&rng.bytes()), HmacKey::new(&rng.bytes())],
            rotated: now,
            window: now,
            initiations: 0,
        }
    }

    /// Counts a first message and says whether it has to bring a cookie.
    pub fn demands(&mut self, now: Instant) -> bool {
        if now.since(self.window) >= Duration::from_secs(1) {
            self.window = now;
            self.initiations = 0;
        }
        self.initiations = self.initiations.saturating_add(1);
        self.initiations > LOAD
    }

    pub fn rotate(&mut self, now: Instant, rng: &mut Rng) {
        if now.since(self.rotated) >= ROTATE {
            self.secrets.swap(0, 1);
            self.secrets[0] = HmacKey::new(&rng.bytes());
            self.rotated = now;
        }
    }

    /// The cookie reply to the fragment that carried `mac1`.
    pub fn reply(&self, to: Way, receiver: u32, mac1: &[u8; 16], rng: &mut Rng) -> Vec<u8> {
        let mut cookie = self.secrets[0].tag(&[&name(to)]);
        let nonce = rng.next_u64();
        let tag = self.seal.seal(nonce, mac1, &mut cookie);
        let mut out = vec![COOKIE, 0, 0, 0];
        out.extend_from_slice(&receiver.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&nonce.to_be_bytes());
        out.extend_from_slice(&cookie);
        out.extend_from_slice(&tag);
        out
    }

    /// Opens a cookie reply's body; `mac1` is of the fragment that we sent.
    pub fn open(&self, body: &[u8], mac1: &[u8; 16]) -> Option<[u8; 16]> {
        if body.len() != REPLY_LEN - 8 {
            return None;
        }
        let nonce = u64::from_be_bytes(body[4..12].try_into().ok()?);
        let mut sealed = body[12..].to_vec();
        self.seal.open(nonce, mac1, &mut sealed).ok()?;
        sealed[..16].try_into().ok()
    }

    /// Whether `mac2` was made with a cookie that we gave to `from`.
    pub fn check(&self, from: Way, parts: &[&[u8]], mac2: &[u8; 16]) -> bool {
        *mac2 != [0; 16] && self.secrets.iter().any(|s| mac2_key(&s.tag(&[&name(from)])).verify(parts, mac2))
    }
}

/// What a cookie is good for: an address, or a node by the neighbour that relayed the question, who sees the answer.
fn name((via, neighbor): Way) -> Vec<u8> {
    match via {
        Via::Direct(at) => at.to_string().into_bytes(),
        Via::Relayed(tag) => [b"by ", &neighbor.map_or([0; 32], |n| n.0)[..], &tag.0.to_be_bytes()].concat(),
    }
}

/// The key of a mac2.
pub(super) fn mac2_key(cookie: &[u8; 16]) -> HmacKey {
    HmacKey::new(&sha256(&[b"aegisray mac2", cookie]))
}
