//! The replay window: which counters of a session have been seen (RFC 6479 §2 in spirit, lock-free in form).

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// Counters per block.
const BLOCK: u64 = 32;
/// Blocks kept: counters up to 319 blocks (10,208) behind the newest are told apart.
const BLOCKS: u64 = 320;

/// A sliding window over 64-bit counters. Each word holds the number of its block and one bit per counter of the
/// block, so that a compare-and-swap decides alone whether a counter is new: any number of threads may ask.
#[derive(Debug, Default)]
pub struct ReplayWindow {
    /// One bit for each of the first counters.
    first: AtomicU64,
    /// The others, from the first of them on: most sessions that somebody makes, or only says to have made, never get so far.
    words: OnceLock<Box<[AtomicU64]>>,
    newest: AtomicU64,
}

/// Counters that have their own bits.
const FIRST: u64 = 64;

impl ReplayWindow {
    /// Counters at or above this are refused; the session is replaced long before.
    pub const LIMIT: u64 = (1 << 37) - BLOCK;

    /// Notes `counter` and returns true if it had not been seen and is not too old. Call it only for packets that
    /// were authenticated.
    pub fn accept(&self, counter: u64) -> bool {
        if counter >= Self::LIMIT {
            return false;
        }
        if counter < FIRST {
            let is_old = self.newest() > counter + BLOCK * (BLOCKS - 1);
            let is_new = !is_old && self.first.fetch_or(1 << counter, Ordering::Relaxed) & 1 << counter == 0;
            self.newest.fetch_max(counter, Ordering::Relaxed);
            return is_new;
        }
        // Block numbers start from 1, so that a zero word means "nothing seen".
        let block = counter / BLOCK + 1;
        let bit = 1 << (counter % BLOCK);
        let words = self.words.get_or_init(|| (0..BLOCKS).map(|_| AtomicU64::new(0)).collect());
        let word = &words[(block % BLOCKS) as usize];
        let mut current = word.load(Ordering::Relaxed);
        loop {
            let held = current >> BLOCK;
            let next = match held.cmp(&block) {
                std::cmp::Ordering::Greater => return false,
                std::cmp::Ordering::Equal if current & bit != 0 => return false,
                std::cmp::Ordering::Equal => current | bit,
                std::cmp::Ordering::Less => block << BLOCK | bit,
            };
            match word.compare_exchange_weak(current, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => current = now,
            }
        }
        self.newest.fetch_max(counter, Ordering::Relaxed);
        true
    }

    /// The highest counter accepted so far.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Whether `counter` is the highest one accepted so far.
    #[must_use]
    pub fn is_newest(&self, counter: u64) -> bool {
        self.newest.load(Ordering::Relaxed) == counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn order_does_not_matter_inside_the_window() {
        let window = ReplayWindow::default();
        assert!(window.accept(10_000));
        assert!(window.accept(1_900), "8,100 behind");
        assert!(!window.accept(1_900));
        assert!(window.accept(20_000));
        assert!(window.is_newest(20_000));
        assert!(!window.accept(1_900), "still known");
        assert!(!window.accept(9_785), "its block has made way for that of 20,000");
        assert!(!window.accept(ReplayWindow::LIMIT));
        assert!(window.accept(ReplayWindow::LIMIT - 1));
    }

    #[test]
    fn the_first_counters_are_told_apart_without_the_window() {
        let window = ReplayWindow::default();
        assert!((0..FIRST).rev().all(|counter| window.accept(counter)) && !(0..FIRST).any(|c| window.accept(c)));
        assert!(window.words.get().is_none() && window.is_newest(FIRST - 1));
        let window = ReplayWindow::default();
        assert!(window.accept(FIRST) && window.accept(3) && window.accept(10_211) && window.accept(4));
        assert!(window.accept(10_214) && !window.accept(5), "too old");
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_twice_and_the_last_8192_always_once(steps in prop::collection::vec(0u64..40_000, 1..2000)) {
            let window = ReplayWindow::default();
            let mut seen = HashSet::new();
            let mut newest = 0;
            for counter in steps {
                let fresh = seen.insert(counter);
                let accepted = window.accept(counter);
                prop_assert!(!accepted || fresh);
                if fresh && counter + 8192 > newest {
                    prop_assert!(accepted);
                }
                newest = newest.max(counter);
            }
        }
    }
}
