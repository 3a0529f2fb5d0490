//! A budget that fills up again with time.

use std::{collections::HashMap, hash::Hash};

use super::{Duration, Instant};

/// A token bucket: so many at once, and one more after each pause. It is the generic cell rate algorithm (ITU-T I.371):
/// one point in time is all that it keeps.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    burst: u32,
    every: Duration,
    /// When it is full again.
    full: Instant,
}

impl Bucket {
    /// A full bucket: `burst` tokens (at least 1), and a new one `every` so often.
    #[must_use]
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { burst: burst.max(1), every, full: Instant::default() }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.take_above(now, 0)
    }

    /// Takes a token, if `kept` are left then.
    pub fn take_above(&mut self, now: Instant, kept: u32) -> bool {
        let may = self.has_above(now, kept);
        if may {
            self.full = self.full.max(now) + self.every;
        }
        may
    }

    /// Whether there is a token beside `kept` others.
    #[must_use]
    pub fn has_above(&self, now: Instant, kept: u32) -> bool {
        kept < self.burst && self.full.since(now) <= self.every * (self.burst - 1 - kept)
    }

    /// Whether nothing has been taken that has not come back.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full <= now
    }

    /// From when on there is a token.
    #[must_use]
    pub fn next(&self) -> Instant {
        let spare = self.every * (self.burst - 1);
        Instant::default() + self.full.since(Instant::default() + spare)
    }
}

/// A bucket for each of many. Those that are full are forgotten when it is time to; beyond a number of others nobody is held
/// back, and nothing more is kept.
#[derive(Debug)]
pub struct Buckets<K> {
    most: usize,
    rate: (u32, Duration),
    all: HashMap<K, Bucket>,
}

impl<K: Hash + Eq> Buckets<K> {
    /// At most `most` of them, each of `rate`: so many tokens at once, and one more after each pause.
    #[must_use]
    pub fn new(most: usize, rate: (u32, Duration)) -> Self {
        Self { most, rate, all: HashMap::new() }
    }

    /// Takes a token of one, if there is one.
    pub fn take(&mut self, now: Instant, who: K) -> bool {
        if self.all.len() >= self.most && !self.all.contains_key(&who) {
            self.all.retain(|_, bucket| !bucket.is_full(now));
            if self.all.len() >= self.most {
                return true;
            }
        }
        self.all.entry(who).or_insert_with(|| Bucket::new(self.rate.0, self.rate.1)).take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_its_pace() {
        let mut bucket = Bucket::new(3, Duration::from_millis(100));
        let start = Instant(50);
        assert!(bucket.is_full(start));
        assert_eq!((0..9).filter(|_| bucket.take(start)).count(), 3);
        assert!(
            !bucket.is_full(start + Duration::from_millis(299)) && bucket.is_full(start + Duration::from_millis(300))
        );
        assert_eq!(bucket.next(), start + Duration::from_millis(100));
        let later = start + Duration::from_millis(200);
        assert!(bucket.has_above(later, 1) && !bucket.has_above(later, 2) && !bucket.has_above(later, 9));
        assert_eq!((0..9).filter(|_| bucket.clone().take_above(later, 1)).count(), 9, "one beside another");
        let taken = (0..1000u64).filter(|ms| bucket.take(start + Duration::from_millis(*ms))).count();
        assert_eq!(taken, 9, "one each 100 ms");
        assert_eq!(
            (0..9).filter(|_| bucket.take(start + Duration::from_secs(60))).count(),
            3,
            "never more than a burst"
        );
    }

    #[test]
    fn each_of_many_has_its_own_bucket() {
        let mut buckets = Buckets::new(2, (2, Duration::from_secs(1)));
        let mut take = |at: u64, who: u8| buckets.take(Instant(at * 1_000_000), who);
        assert_eq!([take(9, 1), take(9, 1), take(9, 1), take(9, 2)], [true, true, false, true]);
        assert_eq!([take(9, 3), take(9, 3), take(9, 3)], [true; 3], "no room to hold it back");
        assert_eq!([take(10, 1), take(10, 1)], [true, false]);
        assert_eq!(
            [take(12, 3), take(12, 3), take(12, 3)],
            [true, true, false],
            "in the place of who has taken nothing for long"
        );
    }
}
