//! Floor 1: who a node is and who belongs to the network: keys, NodeIds, certificates, records, invites.

mod admission;
mod certificate;
mod invite;
pub mod keyfile;
mod network;
mod record;
mod token;

pub use admission::{Policy, Refusal};
pub use certificate::{Authority, Certificate, Revocations};
pub use invite::{Admission, Invite, InviteError, InviteKey};
pub use network::{IPV4_ATTEMPTS, Network};
pub use record::{
    MAX_ENDPOINTS, MAX_PREFIXES, MAX_SERVICES, Record, RecordContent, RecordSource, Verified, Verify, authenticate,
    signed_seqno,
};

use zeroize::Zeroizing;

use crate::{
    crypto::{Algorithm, CryptoError, SigningKey, hkdf_sha256, sha256, x25519_public},
    types::NodeId,
};

/// A node's identity: the signing key and what derives from it.
#[derive(Debug)]
pub struct Identity {
    signing: SigningKey,
    spki: Vec<u8>,
    id: NodeId,
    noise_private: Zeroizing<[u8; 32]>,
    noise_public: [u8; 32],
}

impl Identity {
    /// Makes a new identity from the operating system's randomness.
    pub fn generate(algorithm: Algorithm) -> Result<Self, CryptoError> {
        Self::new(SigningKey::generate(algorithm)?)
    }

    /// Derives the NodeId and the Noise static key. The latter comes from the private key by HKDF, so that one file
    /// is all there is to keep; the identity certifies it by signing the record that holds it.
    pub fn new(signing: SigningKey) -> Result<Self, CryptoError> {
        let spki = signing.spki();
        let mut noise_private = Zeroizing::new([0; 32]);
        let private = Zeroizing::new(signing.to_pkcs8()?);
        hkdf_sha256(b"aegisray identity", &private, &[b"noise static x25519"], &mut *noise_private);
        Ok(Self {
            id: NodeId(sha256(&[&spki])),
            noise_public: x25519_public(&noise_private),
            signing,
            spki,
            noise_private,
        })
    }

    /// The same identity once more.
    pub fn duplicate(&self) -> Result<Self, CryptoError> {
        Self::new(SigningKey::from_pkcs8(&self.signing.to_pkcs8()?)?)
    }

    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// DER `SubjectPublicKeyInfo` of the identity key.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.signing.algorithm()
    }

    #[must_use]
    pub fn noise_private(&self) -> &[u8; 32] {
        &self.noise_private
    }

    #[must_use]
    pub fn noise_public(&self) -> [u8; 32] {
        self.noise_public
    }

    /// Signs `message` under a context string, so that no signature serves for anything else.
    #[must_use]
    pub fn sign(&self, context: &str, message: &[u8]) -> Vec<u8> {
        self.signing.sign(&[context.as_bytes(), message].concat())
    }
}

/// Checks a signature made by [`Identity::sign`].
pub(crate) fn verify_context(spki: &[u8], context: &str, message: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
    crate::crypto::verify(spki, &[context.as_bytes(), message].concat(), signature)
}
