//! A map in parts: a copy that differs in a few entries shares the rest.

use std::{
    hash::{BuildHasher, Hash},
    sync::Arc,
};

use super::{QuickMap, QuickState};

const SHARDS: usize = 64;

/// A hash map of which a clone costs the same whatever its size, and a change to a clone a part of it.
#[derive(Debug)]
pub struct Sharded<K, V>(Box<[Arc<QuickMap<K, V>>]>);

impl<K, V> Clone for Sharded<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self(std::iter::repeat_with(Arc::default).take(SHARDS).collect())
    }
}

/// The part that a key is in. The map within takes its places from other bits of the hash.
fn shard<K: Hash>(key: &K) -> usize {
    (QuickState::default().hash_one(key) >> 32) as usize % SHARDS
}

impl<K: Hash + Eq + Clone, V: Clone> Sharded<K, V> {
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0[shard(key)].get(key)
    }

    /// Puts a value in, or takes it out.
    pub fn set(&mut self, key: K, value: Option<V>) {
        let part = Arc::make_mut(&mut self.0[shard(&key)]);
        match value {
            Some(value) => _ = part.insert(key, value),
            None => _ = part.remove(&key),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().flat_map(|part| part.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_all_but_what_changed() {
        let mut map: Sharded<u32, u32> = Sharded::default();
        (0..1000).for_each(|i| map.set(i, Some(i)));
        let mut copy = map.clone();
        copy.set(7, Some(8));
        copy.set(9, None);
        assert_eq!((map.get(&7), map.get(&9), map.iter().count()), (Some(&7), Some(&9), 1000));
        assert_eq!((copy.get(&7), copy.get(&9), copy.iter().count()), (Some(&8), None, 999));
        let shared = map.0.iter().zip(&copy.0).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= SHARDS - 2, "{shared} parts are shared");
        assert!(map.0.iter().all(|part| part.len() < 60), "the parts are about as long as each other");
    }
}
