//! What sizes and times a connection shows: like a visit of a website in its first 64 kB, and beyond that as the
//! configuration asks. Padding is spent and times are changed here only; what is carried stays as it is.
//!
//! TLS hides what is said but not how much, which way and when: the handshakes that run inside a tunnel show in its first
//! records (Xue et al., "Fingerprinting Obfuscated Proxy Traffic with Encapsulated TLS Handshakes", USENIX Security 2024).

use std::time::{Duration, Instant};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use crate::config::{Padding, Shaping};

/// Bytes of each way that look like a visit.
pub(super) const START: usize = 64 << 10;
/// Sizes that everything is padded to with `padding: always`; more is padded to a multiple of the last one.
const LADDER: [usize; 4] = [512, 1600, 4096, 16_384];

/// By how much a message that is longer than its visit's is padded, at most.
const LONGER: f64 = 256.0;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Visitor,
    Site,
}

/// Decides on the padding and the delay of each write.
pub struct Shaper {
    end: End,
    shaping: Shaping,
    rng: ChaCha8Rng,
    /// Bytes so far.
    sent: usize,
    /// When something is sent although there is nothing to send.
    cover_at: Option<Instant>,
}

impl Shaper {
    #[must_use]
    pub fn new(end: End, shaping: Shaping, seed: [u8; 32], now: Instant) -> Self {
        let mut shaper = Self { end, shaping, rng: ChaCha8Rng::from_seed(seed), sent: 0, cover_at: None };
        shaper.plan_cover(now);
        shaper
    }

    /// Uniform in 0..1.
    fn uniform(&mut self) -> f64 {
        f64::from(self.rng.next_u32()) / (f64::from(u32::MAX) + 1.0)
    }

    /// Uniform in its logarithm.
    fn between(&mut self, low: f64, high: f64) -> usize {
        (low * (high / low).powf(self.uniform())) as usize
    }

    /// The size of one message of a visit: a request, or what answers it.
    fn message(&mut self) -> usize {
        let (low, high) = match (self.end, self.uniform() < 0.4) {
            (End::Visitor, _) => (300.0, 900.0),
            // Many answers are small, and some are pictures.
            (End::Site, true) => (150.0, 1400.0),
            (End::Site, false) => (1400.0, 32_000.0),
        };
        self.between(low, high)
    }

    /// How long to wait before sending `queued` bytes, and how many bytes of padding to send behind them.
    pub fn shape(&mut self, queued: usize, now: Instant) -> (Duration, usize) {
        let is_cover = queued == 0;
        if is_cover {
            if self.cover_at.is_none_or(|at| now < at) {
                return (Duration::ZERO, 0);
            }
            self.plan_cover(now);
        }
        let padding = if is_cover {
            self.message()
        } else if self.shaping.padding != Padding::Off && self.sent < START {
            let message = self.message();
            // What is longer by itself still does not show its own length: all of these are as likely.
            if message > queued { message - queued } else { 2 + (self.uniform() * LONGER) as usize }
        } else if self.shaping.padding == Padding::Always {
            rung(queued) - queued
        } else {
            0
        };
        self.sent = self.sent.saturating_add(queued + padding);
        let jitter = if is_cover { 0.0 } else { self.shaping.jitter.as_secs_f64() * self.uniform() };
        (Duration::from_secs_f64(jitter), padding)
    }

    /// How long there may be silence.
    pub fn patience(&self, now: Instant) -> Duration {
        let limit = Duration::from_secs(1);
        self.cover_at.map_or(limit, |at| at.saturating_duration_since(now).min(limit))
    }

    /// Messages of a visit at random times (a Poisson process), so many that they make up the rate asked for.
    fn plan_cover(&mut self, now: Instant) {
        if self.shaping.cover_kbit == 0 {
            return;
        }
        let mean_message = match self.end {
            End::Visitor => 546.0,
            End::Site => 6_100.0,
        };
        let mean = mean_message * 8.0 / (f64::from(self.shaping.cover_kbit) * 1000.0);
        self.cover_at = Some(now + Duration::from_secs_f64(-mean * (1.0 - self.uniform()).ln()));
    }
}

/// The size that `n` bytes are padded to.
pub(super) fn rung(n: usize) -> usize {
    LADDER.into_iter().find(|r| *r >= n).unwrap_or_else(|| n.next_multiple_of(LADDER[LADDER.len() - 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shaper(end: End, padding: Padding, cover_kbit: u32) -> (Shaper, Instant) {
        let now = Instant::now();
        let shaping = Shaping { padding, jitter: Duration::from_millis(20), cover_kbit };
        (Shaper::new(end, shaping, [7; 32], now), now)
    }

    #[test]
    fn handshakes_of_one_size_are_not_seen_as_such() {
        for end in [End::Visitor, End::Site] {
            let (mut shaper, now) = shaper(end, Padding::Start, 0);
            let sizes: Vec<usize> = (0..40).map(|_| 148 + shaper.shape(148, now).1).take_while(|n| *n > 148).collect();
            let mut distinct = sizes.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert!(distinct.len() * 10 >= sizes.len() * 9, "{end:?} {sizes:?}");
        }
    }

    #[test]
    fn nor_are_long_ones() {
        let (mut shaper, now) = shaper(End::Visitor, Padding::Start, 0);
        let sizes: Vec<usize> = (0..40).map(|_| 1346 + shaper.shape(1346, now).1).collect();
        let often = sizes.iter().map(|size| sizes.iter().filter(|s| *s == size).count()).max();
        assert!(sizes.iter().all(|s| (1348..=1604).contains(s)) && often <= Some(3), "{sizes:?}");
    }

    #[test]
    fn padding_ends_after_the_start() {
        let (mut shaper, now) = shaper(End::Site, Padding::Start, 0);
        let (mut sent, mut padded) = (0, 0);
        while sent < START {
            let padding = shaper.shape(1400, now).1;
            (sent, padded) = (sent + 1400 + padding, padded + padding);
        }
        assert!(padded > 0);
        assert!((0..100).all(|_| shaper.shape(1400, now).1 == 0));
        let (mut off, now) = self::shaper(End::Site, Padding::Off, 0);
        assert!((0..100).all(|_| off.shape(100, now).1 == 0));
    }

    #[test]
    fn always_means_few_sizes() {
        let (mut shaper, now) = shaper(End::Visitor, Padding::Always, 0);
        while shaper.sent < START {
            shaper.shape(1000, now);
        }
        for n in [1, 500, 512, 513, 1599, 5000, 16_385, 40_000] {
            let total = n + shaper.shape(n, now).1;
            assert!(LADDER.contains(&total) || total % 16_384 == 0, "{n} {total}");
        }
    }

    #[test]
    fn cover_has_the_rate_that_was_asked_for_and_delays_stay_within_the_jitter() {
        for end in [End::Visitor, End::Site] {
            let (mut shaper, start) = shaper(end, Padding::Off, 80);
            let (mut now, mut bytes) = (start, 0);
            while now < start + Duration::from_secs(2000) {
                now += shaper.patience(now);
                bytes += shaper.shape(0, now).1;
            }
            let kbit = bytes as f64 * 8.0 / 2000.0 / 1000.0;
            assert!((70.0..90.0).contains(&kbit), "{end:?} {kbit}");
            let delays: Vec<Duration> = (0..1000).map(|_| shaper.shape(100, now).0).collect();
            assert!(delays.iter().all(|d| *d <= Duration::from_millis(20)));
            assert!(delays.iter().max() > Some(&Duration::from_millis(15)));
        }
        let (shaper, now) = shaper(End::Site, Padding::Start, 0);
        assert_eq!(shaper.patience(now), Duration::from_secs(1));
    }
}
