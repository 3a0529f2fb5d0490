//! The AEADs of the data plane: AES-256-GCM (RFC 5116) and ChaCha20-Poly1305 (RFC 8439).
//!
//! AES-GCM comes from whichever library is faster on the processor at hand: aws-lc has code for AVX-512, ring for 256-bit
//! VAES, which processors without AVX-512 have too. Both give the same bytes.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::CryptoError;

/// Bytes that a seal adds.
pub const TAG_LEN: usize = 16;

/// Which AEAD a session uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cipher {
    /// Where both ends have AES and carry-less multiplication instructions.
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    /// The name as `status` shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }

    /// Whether this machine runs AES-GCM in hardware.
    #[must_use]
    pub fn aes_in_hardware() -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq")
        }
        #[cfg(target_arch = "aarch64")]
        {
            std::arch::is_aarch64_feature_detected!("aes")
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            false
        }
    }
}

/// One direction's key. The caller never uses a counter twice for sealing.
pub struct AeadKey(Key);

enum Key {
    AwsLc(LessSafeKey),
    Ring(Box<ring::aead::LessSafeKey>),
}

/// Whether AES-GCM is faster with ring here: 256-bit VAES is what aws-lc has no code for
/// (`cargo bench --bench core -- libraries`).
fn prefers_ring() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let wide = std::is_x86_feature_detected!("vaes") && std::is_x86_feature_detected!("vpclmulqdq");
        let wider = std::is_x86_feature_detected!("avx512bw") && std::is_x86_feature_detected!("avx512vl");
        wide && std::is_x86_feature_detected!("avx2") && !wider
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Whether packets are left as they are, to measure what encryption costs. A program that is built for use can't.
#[cfg(feature = "bench-plaintext")]
fn is_off() -> bool {
    static OFF: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| std::env::var_os(PLAINTEXT).is_some());
    *OFF
}

/// The environment variable that turns encryption off in a program built with the feature `bench-plaintext`.
#[cfg(feature = "bench-plaintext")]
pub const PLAINTEXT: &str = "AEGISRAY_BENCH_PLAINTEXT";

#[cfg(not(feature = "bench-plaintext"))]
const fn is_off() -> bool {
    false
}

impl std::fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AeadKey(..)")
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    bytes
}

impl AeadKey {
    #[must_use]
    pub fn new(cipher: Cipher, key: &[u8; 32]) -> Self {
        let key = match cipher {
            Cipher::Aes256Gcm if prefers_ring() => Key::ring(key),
            Cipher::Aes256Gcm => Key::aws_lc(&AES_256_GCM, key),
            Cipher::ChaCha20Poly1305 => Key::aws_lc(&CHACHA20_POLY1305, key),
        };
        Self(key)
    }

    /// Seals `buf` in place and returns the tag.
    #[must_use]
    pub fn seal(&self, counter: u64, aad: &[u8], buf: &mut [u8]) -> [u8; TAG_LEN] {
        if is_off() {
            return [0; TAG_LEN];
        }
        self.0.seal(nonce(counter), aad, buf)
    }

    /// Opens `buf` (ciphertext, then tag) in place and returns the length of the plaintext, which stands at the start.
    pub fn open(&self, counter: u64, aad: &[u8], buf: &mut [u8]) -> Result<usize, CryptoError> {
        if is_off() {
            return buf.len().checked_sub(TAG_LEN).ok_or(CryptoError);
        }
        self.0.open(nonce(counter), aad, buf)
    }
}

impl Key {
    fn aws_lc(algorithm: &'static aws_lc_rs::aead::Algorithm, key: &[u8; 32]) -> Self {
        Self::AwsLc(LessSafeKey::new(UnboundKey::new(algorithm, key).expect("both ciphers take 32-byte keys")))
    }

    /// AES-256-GCM.
    fn ring(key: &[u8; 32]) -> Self {
        let key = ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, key).expect("AES-256 takes 32-byte keys");
        Self::Ring(Box::new(ring::aead::LessSafeKey::new(key)))
    }

    fn seal(&self, nonce: [u8; 12], aad: &[u8], buf: &mut [u8]) -> [u8; TAG_LEN] {
        let mut out = [0; TAG_LEN];
        match self {
            Self::AwsLc(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), buf);
                out.copy_from_slice(tag.expect("sealing fails only above 64 GiB").as_ref());
            }
            Self::Ring(key) => {
                let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, ring::aead::Aad::from(aad), buf);
                out.copy_from_slice(tag.expect("sealing fails only above 64 GiB").as_ref());
            }
        }
        out
    }

    fn open(&self, nonce: [u8; 12], aad: &[u8], buf: &mut [u8]) -> Result<usize, CryptoError> {
        let plain = match self {
            Self::AwsLc(key) => {
                key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), buf).map_err(|_| CryptoError)
            }
            Self::Ring(key) => {
                let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, ring::aead::Aad::from(aad), buf).map_err(|_| CryptoError)
            }
        };
        plain.map(|plain| plain.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seal_open_and_forgeries() {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let key = AeadKey::new(cipher, &[9; 32]);
            let mut buf = b"packet".to_vec();
            let tag = key.seal(5, b"header", &mut buf);
            buf.extend_from_slice(&tag);
            assert_eq!(key.open(6, b"header", &mut buf.clone()), Err(CryptoError));
            assert_eq!(key.open(5, b"headeR", &mut buf.clone()), Err(CryptoError));
            assert_eq!(key.open(5, b"header", &mut buf[..10].to_vec()), Err(CryptoError));
            assert_eq!(key.open(5, b"header", &mut buf), Ok(6));
            assert_eq!(&buf[..6], b"packet");
        }
    }

    #[test]
    fn both_libraries_give_the_same_bytes() {
        let (one, other) = (Key::aws_lc(&AES_256_GCM, &[7; 32]), Key::ring(&[7; 32]));
        for len in (0..100).chain([1419, 1420, 1500, 9000, 65_535]) {
            let text: Vec<u8> = (0..len).map(|i: u32| i as u8).collect();
            let seal = |key: &Key| {
                let mut buf = text.clone();
                let tag = key.seal(nonce(5), b"header", &mut buf);
                buf.extend_from_slice(&tag);
                buf
            };
            let mut sealed = seal(&one);
            assert_eq!(sealed, seal(&other), "{len}");
            assert_eq!(other.open(nonce(5), b"header", &mut sealed.clone()), Ok(text.len()));
            sealed[0] ^= 1;
            assert_eq!(one.open(nonce(5), b"header", &mut sealed.clone()), Err(CryptoError));
            assert_eq!(other.open(nonce(5), b"header", &mut sealed), Err(CryptoError));
        }
    }
}
