//! Secrets that people chose, made expensive to guess.

use std::sync::Mutex;

use argon2::{Algorithm, Argon2, Params, Version};

use super::sha256;

/// Argon2id with 64 MiB and three passes (RFC 9106 §4, the second recommended option, on one lane: a small board has not
/// four to spare).
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// Secrets that this process remembers the work for: those of its configuration, read again and again.
const REMEMBERED: usize = 8;

/// Under the hash of salt and secret, what came of them.
static KNOWN: Mutex<Vec<([u8; 32], [u8; 32])>> = Mutex::new(Vec::new());

/// 32 bytes from a secret of any length, at the price of 64 MiB and some tenths of a second; the same for the same secret
/// and salt. A process pays once for each.
#[must_use]
pub fn stretch(secret: &[u8], salt: &[u8; 32]) -> [u8; 32] {
    let name = sha256(&[b"aegisray stretch v1", salt, secret]);
    let known = || KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, key)) = known().iter().find(|(n, _)| *n == name) {
        return *key;
    }
    let mut key = [0; 32];
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(key.len())).expect("constants within RFC 9106's ranges");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(secret, salt, &mut key)
        .expect("a salt of 32 bytes, and a secret of less than 4 GiB");
    let mut known = known();
    if known.len() >= REMEMBERED {
        known.remove(0);
    }
    known.push((name, key));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_stretched_once_and_depends_on_its_salt() {
        let first = stretch(b"correct horse battery staple", &[1; 32]);
        let start = std::time::Instant::now();
        assert_eq!(stretch(b"correct horse battery staple", &[1; 32]), first);
        assert!(start.elapsed() < std::time::Duration::from_millis(20), "remembered");
        assert_ne!(stretch(b"correct horse battery staple", &[2; 32]), first);
    }
}
