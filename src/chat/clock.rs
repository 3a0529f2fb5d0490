//! Hybrid logical clocks (Kulkarni et al., "Logical Physical Clocks", 2014): 48 bits of milliseconds since 1970, then a counter
//! of 16 bits. They order what is shown; no decision of authority ever asks them.

/// How far ahead of this node's time a message may be; what is further is put off, not refused.
pub const MAX_AHEAD_MS: u64 = 60_000;

/// A point in hybrid time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    #[must_use]
    pub fn from_ms(ms: u64) -> Self {
        Self(ms << 16)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// Whether it is so far ahead of `now` that it waits.
    #[must_use]
    pub fn is_early(self, now_ms: u64) -> bool {
        self.ms() > now_ms.saturating_add(MAX_AHEAD_MS)
    }
}

/// A node's clock: never behind what it has seen and said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock(Hlc);

impl Clock {
    /// The next point, later than everything before.
    pub fn tick(&mut self, now_ms: u64) -> Hlc {
        self.0 = Hlc(Hlc::from_ms(now_ms).0.max(self.0.0 + 1));
        self.0
    }

    /// Something with this point was taken in. It must not be early.
    pub fn observe(&mut self, seen: Hlc) {
        self.0 = self.0.max(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn always_later_and_never_far_ahead() {
        let mut clock = Clock::default();
        let first = clock.tick(1000);
        assert_eq!((first.ms(), clock.tick(1000) > first), (1000, true));
        clock.observe(Hlc::from_ms(5000));
        assert!(clock.tick(1000) > Hlc::from_ms(5000), "a clock that was set back goes on");
        assert!(Hlc::from_ms(61_001).is_early(1000) && !Hlc::from_ms(61_000).is_early(1000));
        // The counter runs into the milliseconds, and the order holds.
        let mut full = Clock(Hlc(0xffff));
        assert_eq!(full.tick(0).ms(), 1);
    }
}
