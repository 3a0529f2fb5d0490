//! A quick keyed hash for tables that are asked for every packet. The key is random and never leaves the process, so
//! that nobody outside can choose addresses that collide. One multiplication with the key leaves neighbouring words in
//! an even step: under one key in eighty they fall into a few parts of the table, so the end multiplies once more.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    sync::OnceLock,
};

/// A hash map whose keys are addresses, tags and indexes.
pub type QuickMap<K, V> = HashMap<K, V, QuickState>;

/// Makes hashers with this process's key.
#[derive(Debug, Clone, Copy)]
pub struct QuickState(u64);

impl Default for QuickState {
    fn default() -> Self {
        static KEY: OnceLock<u64> = OnceLock::new();
        Self(*KEY.get_or_init(|| RandomState::new().hash_one(0u64)))
    }
}

impl BuildHasher for QuickState {
    type Hasher = QuickHasher;

    fn build_hasher(&self) -> QuickHasher {
        QuickHasher { state: self.0, key: self.0 }
    }
}

/// Multiplies each word with the key and folds the 128-bit product.
#[derive(Debug, Clone, Copy)]
pub struct QuickHasher {
    state: u64,
    key: u64,
}

/// The two halves of the product, one over the other.
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

impl QuickHasher {
    fn mix(&mut self, word: u64) {
        self.state = folded(self.state ^ word, (self.key ^ 0x9e37_79b9_7f4a_7c15) | 1);
    }
}

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.mix(value as u64);
    }

    fn finish(&self) -> u64 {
        folded(self.state, 0xd6e8_feb8_6659_fd93)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fullest of the parts of a table of 6,400 neighbouring addresses, by the hash's bits from `bit` on.
    fn fullest(state: QuickState, bit: u32) -> u32 {
        let mut parts = [0u32; 64];
        for i in 0..6_400u32 {
            let address = std::net::IpAddr::from(i.to_be_bytes());
            parts[(state.hash_one(address) >> bit) as usize % 64] += 1;
        }
        parts.into_iter().max().unwrap_or(0)
    }

    /// The keys are chosen by the system: what holds under one may not under the next.
    #[test]
    fn neighbouring_keys_spread_over_the_table_under_every_key() {
        let keys = (0..500u64).map(|i| QuickState(RandomState::new().hash_one(i)));
        for state in keys.chain([QuickState(0), QuickState(0x9e37_79b9_7f4a_7c15), QuickState::default()]) {
            for bit in [0, 32, 57] {
                let fullest = fullest(state, bit);
                assert!(fullest < 200, "{fullest} of 6400 in one of 64 parts, key {:x}, bits from {bit}", state.0);
            }
        }
    }
}
