//! The primitives of Noise (revision 34) for `snow`, from aws-lc-rs and a handed-in generator.

use aws_lc_rs::{
    agreement::{self, PrivateKey, UnparsedPublicKey, X25519},
    digest,
};
use snow::{
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::CryptoResolver,
    types::{Cipher as NoiseCipher, Dh, Hash, Random},
};
use std::sync::Mutex;
use zeroize::Zeroizing;

use super::{AeadKey, Cipher, CryptoError, Rng, TAG_LEN};

/// Length of an X25519 key in bytes (RFC 7748 §5).
pub const X25519_LEN: usize = 32;

/// The X25519 public key of a private one.
#[must_use]
pub fn x25519_public(private: &[u8; X25519_LEN]) -> [u8; X25519_LEN] {
    let key = PrivateKey::from_private_key(&X25519, private).expect("any 32 bytes are an X25519 key");
    let mut out = [0; X25519_LEN];
    out.copy_from_slice(key.compute_public_key().expect("X25519 has no bad private keys").as_ref());
    out
}

/// Hands `snow` its primitives. Ephemeral keys come from the generator, so a simulated handshake replays.
pub struct NoiseResolver(Mutex<Rng>);

impl NoiseResolver {
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self(Mutex::new(rng))
    }
}

impl CryptoResolver for NoiseResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(NoiseRng(self.0.lock().ok()?.fork())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::<NoiseDh>::default()),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(NoiseHash(digest::Context::new(&digest::SHA256)))),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn NoiseCipher>> {
        match choice {
            CipherChoice::ChaChaPoly => Some(Box::new(NoiseAead(AeadKey::new(Cipher::ChaCha20Poly1305, &[0; 32])))),
            _ => None,
        }
    }
}

struct NoiseRng(Rng);

impl Random for NoiseRng {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}

#[derive(Default)]
struct NoiseDh {
    private: Zeroizing<[u8; X25519_LEN]>,
    public: [u8; X25519_LEN],
}

impl Dh for NoiseDh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        X25519_LEN
    }

    fn priv_len(&self) -> usize {
        X25519_LEN
    }

    fn set(&mut self, privkey: &[u8]) {
        self.private.copy_from_slice(privkey);
        self.public = x25519_public(&self.private);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut private = Zeroizing::new([0; X25519_LEN]);
        rng.try_fill_bytes(&mut *private)?;
        self.set(&*private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.private
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let key = PrivateKey::from_private_key(&X25519, &*self.private).map_err(|_| snow::Error::Dh)?;
        let peer = UnparsedPublicKey::new(&X25519, &pubkey[..X25519_LEN]);
        agreement::agree(&key, peer, CryptoError, |secret| {
            out[..X25519_LEN].copy_from_slice(secret);
            Ok(())
        })
        .map_err(|_| snow::Error::Dh)
    }
}

struct NoiseHash(digest::Context);

impl Hash for NoiseHash {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = digest::Context::new(&digest::SHA256);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(self.0.clone().finish().as_ref());
    }
}

struct NoiseAead(AeadKey);

impl NoiseCipher for NoiseAead {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = AeadKey::new(Cipher::ChaCha20Poly1305, key);
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (body, rest) = out.split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let tag = self.0.seal(nonce, authtext, body);
        rest[..TAG_LEN].copy_from_slice(&tag);
        plaintext.len() + TAG_LEN
    }

    fn decrypt(&self, nonce: u64, authtext: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<usize, snow::Error> {
        let mut buf = ciphertext.to_vec();
        let len = self.0.open(nonce, authtext, &mut buf).map_err(|_| snow::Error::Decrypt)?;
        out[..len].copy_from_slice(&buf[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree_and_a_null_share_is_refused() {
        let (mut a, mut b) = (NoiseDh::default(), NoiseDh::default());
        a.set(&[1; 32]);
        b.set(&[2; 32]);
        let (mut ab, mut ba) = ([0; 32], [0; 32]);
        a.dh(b.pubkey(), &mut ab).unwrap();
        b.dh(a.pubkey(), &mut ba).unwrap();
        assert_eq!(ab, ba);
        assert!(a.dh(&[0; 32], &mut ab).is_err(), "an all-zero share gives no secret (RFC 7748 section 6.1)");
    }
}
