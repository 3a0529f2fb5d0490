//! Floor 0: every cryptographic primitive. aws-lc-rs does it all, but for AEGIS (see `aead`).

mod aead;
mod hash;
mod hpke;
mod kem;
mod noise;
mod rng;
mod sign;
mod stretch;

#[cfg(feature = "bench-plaintext")]
pub use aead::PLAINTEXT;
pub use aead::{AeadKey, Cipher, HeaderKey, TAG_LEN};
pub use hash::{HmacKey, hkdf_sha256, hmac_sha1, md5, sha256, verify_hmac_sha1};
pub use hpke::{SEAL_OVERHEAD, open_sealed, seal_to};
pub use kem::{KEM_CIPHERTEXT_LEN, KEM_PUBLIC_LEN, KemSecret, encapsulate};
pub use noise::{NoiseResolver, X25519_LEN, x25519_public};
pub use rng::Rng;
pub use sign::{Algorithm, SigningKey, verify};
pub use stretch::stretch;

/// A primitive refused its input: a wrong key, a forged tag, a malformed encoding. Deliberately says no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cryptographic check failed")]
pub struct CryptoError;
