//! First messages that were read, by the beginnings of their ephemeral keys: none is answered twice.

use std::collections::{HashSet, VecDeque};

/// At least so many first messages are remembered, and at most twice as many.
pub const SEEN_GENERATION: usize = 4096;

/// Two generations bound the memory.
#[derive(Debug, Default)]
pub(super) struct Seen {
    generations: [HashSet<u64>; 2],
    /// Those that have come since the owner asked.
    just_come: VecDeque<u64>,
}

/// By what a message is remembered.
fn key(message: &[u8]) -> Option<u64> {
    message.first_chunk().map(|start| u64::from_be_bytes(*start))
}

impl Seen {
    /// What an earlier start of this node has read.
    pub fn remember(&mut self, keys: impl IntoIterator<Item = u64>) {
        for key in keys {
            self.note(key);
        }
    }

    /// The next one to remember over a restart.
    pub fn poll(&mut self) -> Option<u64> {
        self.just_come.pop_front()
    }

    /// Whether the message that begins so was read before.
    pub fn has(&self, message: &[u8]) -> bool {
        key(message).is_some_and(|key| self.generations.iter().any(|g| g.contains(&key)))
    }

    /// Whether the message is new; remembers it.
    pub fn is_fresh(&mut self, message: &[u8]) -> bool {
        let Some(key) = key(message) else { return false };
        let is_fresh = self.note(key);
        if is_fresh && self.just_come.len() < SEEN_GENERATION {
            self.just_come.push_back(key);
        }
        is_fresh
    }

    /// How many are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.generations.iter().map(HashSet::len).sum()
    }

    fn note(&mut self, key: u64) -> bool {
        if self.generations.iter().any(|g| g.contains(&key)) {
            return false;
        }
        if self.generations[0].len() >= SEEN_GENERATION {
            self.generations.swap(0, 1);
            self.generations[0].clear();
        }
        self.generations[0].insert(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_generation_is_known_whole_and_memory_is_bounded() {
        let mut seen = Seen::default();
        let message = |i: u64| i.to_be_bytes();
        let count = 5 * SEEN_GENERATION as u64 / 2;
        assert!((0..count).all(|i| seen.is_fresh(&message(i))));
        assert!((count - SEEN_GENERATION as u64..count).all(|i| seen.has(&message(i)) && !seen.is_fresh(&message(i))));
        assert!(seen.len() <= 2 * SEEN_GENERATION);
        assert!(seen.just_come.len() <= SEEN_GENERATION);
        assert!(!seen.is_fresh(b"short") && !seen.has(b"short"));
    }
}
