//! SHA-256, HMAC-SHA-256 and HKDF-SHA-256 (FIPS 180-4, RFC 2104, RFC 5869).

use aws_lc_rs::{digest, hkdf, hmac};

/// SHA-256 over the concatenation of `parts`.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut ctx = digest::Context::new(&digest::SHA256);
    for part in parts {
        ctx.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(ctx.finish().as_ref());
    out
}

/// HMAC-SHA-1 (RFC 2104), for TURN servers, which know nothing else (RFC 8489 §14.5). Nothing of ours rests on it.
#[must_use]
pub fn hmac_sha1(key: &[u8], message: &[u8]) -> [u8; 20] {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    let mut out = [0; 20];
    out.copy_from_slice(hmac::sign(&key, message).as_ref());
    out
}

/// Whether `mac` is [`hmac_sha1`] of a message, in constant time.
#[must_use]
pub fn verify_hmac_sha1(key: &[u8], message: &[u8], mac: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key), message, mac).is_ok()
}

/// MD5 (RFC 1321), for the credentials of TURN servers (RFC 8489 §9.2.2). Nothing of ours rests on it.
#[must_use]
pub fn md5(message: &[u8]) -> [u8; 16] {
    use md5::Digest as _;
    md5::Md5::digest(message).into()
}

/// An HMAC-SHA-256 key that gives tags cut to 16 bytes.
#[derive(Clone, Debug)]
pub struct HmacKey(hmac::Key);

impl HmacKey {
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The tag over the concatenation of `parts`.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut ctx = hmac::Context::with_key(&self.0);
        for part in parts {
            ctx.update(part);
        }
        let mut out = [0; 16];
        out.copy_from_slice(&ctx.sign().as_ref()[..16]);
        out
    }

    /// Whether `tag` is the tag over `parts`, in constant time.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.tag(parts), tag).is_ok()
    }
}

struct OutLen(usize);

impl hkdf::KeyType for OutLen {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA-256 extract and expand (RFC 5869 §2). `out` may be at most 8,160 bytes.
pub fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(ikm)
        .expand(info, OutLen(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("every caller asks for far less than 8,160 bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_an_independent_sha2() {
        use sha2::Digest as _;
        let ours = sha256(&[b"aegis", b"ray"]);
        assert_eq!(ours.as_slice(), sha2::Sha256::digest(b"aegisray").as_slice());
    }

    #[test]
    fn hkdf_rfc5869_case_1() {
        let mut okm = [0; 42];
        let salt: Vec<u8> = (0..=12).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        hkdf_sha256(&salt, &[0x0b; 22], &[&info], &mut okm);
        assert_eq!(okm[..4], [0x3c, 0xb2, 0x5f, 0x25]);
        assert_eq!(okm[38..], [0x34, 0x00, 0x72, 0x08, 0xd5, 0xb8, 0x87, 0x18, 0x58, 0x65][6..]);
    }

    #[test]
    fn hmac_tag_refuses_a_flipped_bit() {
        let key = HmacKey::new(&[1; 32]);
        let mut tag = key.tag(&[b"a", b"b"]);
        assert!(key.verify(&[b"ab"], &tag));
        tag[15] ^= 1;
        assert!(!key.verify(&[b"ab"], &tag));
        assert!(!key.verify(&[b"ab"], &tag[..15]));
    }
}
