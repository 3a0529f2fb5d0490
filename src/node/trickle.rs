//! So many at once, and one a second after that.

use crate::types::Instant;

#[derive(Debug, Clone, Copy)]
pub(super) struct Trickle {
    most: u64,
    left: u64,
    counted: Instant,
}

impl Trickle {
    /// `most` at once.
    pub fn new(most: u64, now: Instant) -> Self {
        Self { most, left: most, counted: now }
    }

    /// Takes one, if there is one.
    pub fn takes(&mut self, now: Instant) -> bool {
        let seconds = now.since(self.counted).as_secs();
        if seconds > 0 {
            (self.left, self.counted) = (self.left.saturating_add(seconds).min(self.most), now);
        }
        let takes = self.left > 0;
        self.left -= u64::from(takes);
        takes
    }
}
