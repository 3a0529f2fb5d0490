//! ML-KEM-768 (FIPS 203): the post-quantum half of a session's secret.

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};

use super::CryptoError;

/// Length of an encapsulation key in bytes.
pub const KEM_PUBLIC_LEN: usize = 1184;
/// Length of a ciphertext in bytes.
pub const KEM_CIPHERTEXT_LEN: usize = 1088;

/// An ephemeral decapsulation key: made for one handshake and dropped with it.
pub struct KemSecret {
    key: DecapsulationKey,
    public: Vec<u8>,
}

impl KemSecret {
    pub fn generate() -> Result<Self, CryptoError> {
        let key = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| CryptoError)?;
        let public = key.encapsulation_key().and_then(|k| k.key_bytes()).map_err(|_| CryptoError)?;
        let public = public.as_ref().to_vec();
        Ok(Self { key, public })
    }

    /// The encapsulation key for the peer: [`KEM_PUBLIC_LEN`] bytes.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The shared secret of 32 bytes. A forged ciphertext gives another secret, not an error (FIPS 203 §6.3).
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Result<[u8; 32], CryptoError> {
        let secret = self.key.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| CryptoError)?;
        secret.as_ref().try_into().map_err(|_| CryptoError)
    }
}

/// Encapsulates to `public`: the ciphertext for its owner and the shared secret.
pub fn encapsulate(public: &[u8]) -> Result<(Vec<u8>, [u8; 32]), CryptoError> {
    let key = EncapsulationKey::new(&ML_KEM_768, public).map_err(|_| CryptoError)?;
    let (ciphertext, secret) = key.encapsulate().map_err(|_| CryptoError)?;
    Ok((ciphertext.as_ref().to_vec(), secret.as_ref().try_into().map_err(|_| CryptoError)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree_and_junk_is_refused() {
        let secret = KemSecret::generate().unwrap();
        assert_eq!(secret.public().len(), KEM_PUBLIC_LEN);
        let (ciphertext, ours) = encapsulate(secret.public()).unwrap();
        assert_eq!(ciphertext.len(), KEM_CIPHERTEXT_LEN);
        assert_eq!(secret.decapsulate(&ciphertext), Ok(ours));
        assert!(encapsulate(&[0; 10]).is_err());
        assert!(secret.decapsulate(&[0; 10]).is_err());
    }
}
