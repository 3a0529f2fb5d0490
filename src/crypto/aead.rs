//! The AEADs of the data plane: AES-256-GCM (RFC 5116) and ChaCha20-Poly1305 (RFC 8439).

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
pub struct AeadKey(LessSafeKey);

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

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl AeadKey {
    #[must_use]
    pub fn new(cipher: Cipher, key: &[u8; 32]) -> Self {
        let algorithm = match cipher {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        Self(LessSafeKey::new(UnboundKey::new(algorithm, key).expect("both ciphers take 32-byte keys")))
    }

    /// Seals `buf` in place and returns the tag.
    #[must_use]
    pub fn seal(&self, counter: u64, aad: &[u8], buf: &mut [u8]) -> [u8; TAG_LEN] {
        if is_off() {
            return [0; TAG_LEN];
        }
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), buf)
            .expect("sealing fails only above 64 GiB");
        let mut out = [0; TAG_LEN];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Opens `buf` (ciphertext, then tag) in place and returns the length of the plaintext, which stands at the start.
    pub fn open(&self, counter: u64, aad: &[u8], buf: &mut [u8]) -> Result<usize, CryptoError> {
        if is_off() {
            return buf.len().checked_sub(TAG_LEN).ok_or(CryptoError);
        }
        self.0.open_in_place(nonce(counter), Aad::from(aad), buf).map(|plain| plain.len()).map_err(|_| CryptoError)
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
}
