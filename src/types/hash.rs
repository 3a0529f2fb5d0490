//! A quick keyed hash for tables that are asked for every packet. The key is random and never leaves the process, so
//! that nobody outside can choose addresses that collide.

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
        Self(*KEY.get_or_init(|| RandomState::new().hash_one(0u64) | 1))
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

impl QuickHasher {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key ^ 0x9e37_79b9_7f4a_7c15);
        self.state = (product as u64) ^ ((product >> 64) as u64);
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
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_keys_spread_over_the_table() {
        let state = QuickState::default();
        let mut buckets = [0u32; 256];
        for i in 0..25_600u32 {
            let address = std::net::IpAddr::from(i.to_be_bytes());
            buckets[(state.hash_one(address) % 256) as usize] += 1;
        }
        assert!(buckets.iter().all(|n| (40..200).contains(n)), "{buckets:?}");
    }
}
