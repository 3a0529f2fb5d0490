//! Signatures: RSA-PSS with SHA-256 (RFC 8017 §8.1) and Ed25519 (RFC 8032), keys in PKCS#8, public keys as DER
//! `SubjectPublicKeyInfo`.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ED25519, Ed25519KeyPair, KeyPair as _, RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256, RsaKeyPair, UnparsedPublicKey,
    },
};

use super::CryptoError;

/// DER of an Ed25519 `SubjectPublicKeyInfo` up to the 32 key bytes (RFC 8410 §4).
const ED25519_SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The two kinds of identity keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    Rsa2048,
    Ed25519,
}

/// A private identity key.
pub enum SigningKey {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?})", self.algorithm())
    }
}

impl SigningKey {
    /// Makes a key from the operating system's randomness. RSA takes about a tenth of a second.
    pub fn generate(algorithm: Algorithm) -> Result<Self, CryptoError> {
        Ok(match algorithm {
            Algorithm::Rsa2048 => Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| CryptoError)?)),
            Algorithm::Ed25519 => Self::Ed25519(Ed25519KeyPair::generate().map_err(|_| CryptoError)?),
        })
    }

    /// The Ed25519 key of a seed: what the simulator and tests use.
    #[must_use]
    pub fn ed25519_from_seed(seed: &[u8; 32]) -> Self {
        Self::Ed25519(Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed"))
    }

    /// Reads PKCS#8 DER (RFC 5958). RSA keys under 2,048 bits are refused.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, CryptoError> {
        if let Ok(key) = Ed25519KeyPair::from_pkcs8(der) {
            return Ok(Self::Ed25519(key));
        }
        RsaKeyPair::from_pkcs8(der).map(|key| Self::Rsa(Box::new(key))).map_err(|_| CryptoError)
    }

    /// The key as PKCS#8 DER.
    pub fn to_pkcs8(&self) -> Result<Vec<u8>, CryptoError> {
        match self {
            Self::Rsa(key) => {
                let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| CryptoError)?;
                Ok(der.as_ref().to_vec())
            }
            Self::Ed25519(key) => Ok(key.to_pkcs8().map_err(|_| CryptoError)?.as_ref().to_vec()),
        }
    }

    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa(_) => Algorithm::Rsa2048,
            Self::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The public key as DER `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => {
                let der: PublicKeyX509Der<'_> = key.public_key().as_der().expect("a parsed RSA key encodes");
                der.as_ref().to_vec()
            }
            Self::Ed25519(key) => [&ED25519_SPKI_HEAD[..], key.public_key().as_ref()].concat(),
        }
    }

    /// Signs `message`. 64 bytes for Ed25519, 256 for RSA-2048.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(key) => {
                let mut out = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), message, &mut out)
                    .expect("the buffer has the modulus' length");
                out
            }
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

/// Checks `signature` over `message` against a DER `SubjectPublicKeyInfo`.
pub fn verify(spki: &[u8], message: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
    match spki.strip_prefix(&ED25519_SPKI_HEAD) {
        Some(raw) => UnparsedPublicKey::new(&ED25519, raw).verify(message, signature),
        None => UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, spki).verify(message, signature),
    }
    .map_err(|_| CryptoError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_sign_verify_and_survive_pkcs8() {
        for algorithm in [Algorithm::Rsa2048, Algorithm::Ed25519] {
            let key = SigningKey::generate(algorithm).unwrap();
            let again = SigningKey::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
            assert_eq!(again.algorithm(), algorithm);
            assert_eq!(again.spki(), key.spki());
            let mut signature = again.sign(b"message");
            assert_eq!(verify(&key.spki(), b"message", &signature), Ok(()));
            assert_eq!(verify(&key.spki(), b"messagE", &signature), Err(CryptoError));
            signature[3] ^= 1;
            assert_eq!(verify(&key.spki(), b"message", &signature), Err(CryptoError));
            assert_eq!(verify(&key.spki()[1..], b"message", &signature), Err(CryptoError));
        }
    }
}
