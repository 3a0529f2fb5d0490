//! Time as the state machines see it: handed in, never read.

pub use std::time::Duration;

/// A point in monotonic time, in microseconds since an epoch that its owner chooses. It can't be made from the
/// operating system's clock in pure code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

/// Seconds since 1970-01-01T00:00:00Z.
pub type UnixTime = u64;

impl Instant {
    /// The time since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}
