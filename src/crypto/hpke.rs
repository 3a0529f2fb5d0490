//! Sealing to a public key: HPKE in base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM.

use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE,
    hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey},
};

use super::{CryptoError, TAG_LEN, X25519_LEN};

/// Bytes that sealing adds.
pub const SEAL_OVERHEAD: usize = X25519_LEN + TAG_LEN;

/// Seals for the owner of an X25519 key; `info` says what for, and has to be the same when it is opened.
pub fn seal_to(public: &[u8; X25519_LEN], info: &[u8], plain: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let public = HpkePublicKey(public.to_vec());
    let (encapsulated, sealed) = SUITE.seal(info, &[], plain, &public).map_err(|_| CryptoError)?;
    Ok([encapsulated.0, sealed].concat())
}

/// Opens what was sealed to this private key.
pub fn open_sealed(private: &[u8; X25519_LEN], info: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let (encapsulated, sealed) = sealed.split_at_checked(X25519_LEN).ok_or(CryptoError)?;
    let (encapsulated, private) = (EncapsulatedSecret(encapsulated.to_vec()), HpkePrivateKey::from(private.to_vec()));
    SUITE.open(&encapsulated, info, &[], sealed, &private).map_err(|_| CryptoError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::x25519_public;

    #[test]
    fn only_its_owner_opens_it_for_what_it_was_meant() {
        let private = [7; 32];
        let public = x25519_public(&private);
        let sealed = seal_to(&public, b"ducks", b"quack").unwrap();
        assert_eq!(sealed.len(), 5 + SEAL_OVERHEAD);
        assert_eq!(open_sealed(&private, b"ducks", &sealed).unwrap(), b"quack");
        assert_ne!(seal_to(&public, b"ducks", b"quack").unwrap(), sealed, "never the same twice");
        assert!(open_sealed(&private, b"geese", &sealed).is_err());
        assert!(open_sealed(&[8; 32], b"ducks", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut other = sealed.clone();
            other[at] ^= 1;
            // X25519 ignores the highest bit of a public key, but HPKE hashes it.
            assert!(open_sealed(&private, b"ducks", &other).is_err(), "{at}");
        }
        assert!(open_sealed(&private, b"ducks", &sealed[..31]).is_err());
        assert!(seal_to(&[0; 32], b"ducks", b"quack").is_err(), "a null share");
    }
}
