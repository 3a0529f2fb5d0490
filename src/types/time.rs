//! Time as the state machines see it: handed in, never read.

pub use std::time::Duration;

/// A point in monotonic time, in microseconds since an epoch that its owner chooses. It can't be made from the
/// operating system's clock in pure code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

/// Seconds since 1970-01-01T00:00:00Z.
pub type UnixTime = u64;

/// 2025-01-01: a clock that is earlier was never set.
pub const NEVER_SET: UnixTime = 1_735_689_600;

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

/// A time as people read it, like `2026-11-03 14:05:09 UTC`.
#[must_use]
pub fn utc(time: UnixTime) -> String {
    let (days, rest) = (time / 86_400, time % 86_400);
    // Days from 0000-03-01, in eras of 400 years (the proleptic Gregorian calendar): years begin in March, so that a leap day is the last.
    let shifted = days.saturating_add(719_468);
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + u64::from(month > 9), if month > 9 { month - 9 } else { month + 3 });
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
}

/// A length of time in its two largest units, like `1 d 3 h`.
#[must_use]
pub fn span(seconds: u64) -> String {
    let units = [("d", seconds / 86_400), ("h", seconds / 3600 % 24), ("min", seconds / 60 % 60), ("s", seconds % 60)];
    let from = units.iter().position(|(_, n)| *n > 0).unwrap_or(units.len() - 1);
    let told: Vec<String> = units.iter().skip(from).take(2).map(|(unit, n)| format!("{n} {unit}")).collect();
    told.join(" ").trim_end_matches(" 0 s").trim_end_matches(" 0 min").trim_end_matches(" 0 h").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_read_them() {
        for (time, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(time), text);
        }
        assert!(utc(UnixTime::MAX).ends_with("UTC"));
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (86_401, "1 d"), (97_200, "1 d 3 h"), (3661, "1 h 1 min")]
        {
            assert_eq!(span(seconds), text);
        }
    }
}
