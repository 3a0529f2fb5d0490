//! When packets wait too long all the time, senders are told to slow down, one mark after another: CoDel (RFC 8289). What
//! only bursts is left alone.

use std::time::{Duration, Instant};

/// Waiting that nobody minds. The standard's 5 ms are for links of a few Mbit/s; what waits here waits for a processor.
const TARGET: Duration = Duration::from_millis(1);
/// Fewer bytes that waited together are no queue: the thread was not scheduled. The standard's one packet is for links.
const LEAST: usize = 128 << 10;
/// The time in which a queue that only takes up bursts is short at least once. Not the standard's 100 ms, the longest usual
/// round trip: only whose window holds more than we carry in a round trip can make us wait, and we carry gigabits.
const INTERVAL: Duration = Duration::from_millis(30);

/// Decides which packets are marked, or dropped where their senders know of no marks.
#[derive(Debug, Default)]
pub(super) struct Codel {
    /// From when on it has been too long for a whole interval.
    due: Option<Instant>,
    /// When the next mark is due; `None`: not marking.
    next: Option<Instant>,
    /// Marks of this series.
    count: u32,
    /// When the last series' next mark would have come, and its marks.
    before: Option<(Instant, u32)>,
}

impl Codel {
    /// Whether a packet must be marked, when so many bytes are taken in `now`, of which the oldest have waited so long.
    pub fn is_due(&mut self, now: Instant, waited: Duration, bytes: usize) -> bool {
        if waited < TARGET || bytes < LEAST {
            self.due = None;
            self.before = self.next.take().map(|next| (next, self.count)).or(self.before);
            return false;
        }
        let due = *self.due.get_or_insert(now + INTERVAL);
        match self.next {
            None if now < due => false,
            None => {
                // A series that begins soon after another goes on at nearly its pace (§5.5).
                let recent = self.before.filter(|(next, _)| now.saturating_duration_since(*next) < 16 * INTERVAL);
                self.count = recent.map_or(1, |(_, count)| count.saturating_sub(2).max(1));
                self.next = Some(now + self.pause());
                true
            }
            Some(next) if now < next => false,
            Some(next) => {
                self.count += 1;
                self.next = Some(next + self.pause());
                true
            }
        }
    }

    /// Halved with every fourfold count: the rate of marks grows until senders follow (§3.3).
    fn pause(&self) -> Duration {
        INTERVAL.div_f64(f64::from(self.count).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marks of each second, when the packets of each millisecond waited as long as `waited` says.
    fn marks(seconds: u64, waited: impl Fn(u64) -> Duration) -> Vec<usize> {
        let (start, mut codel) = (Instant::now(), Codel::default());
        let due = |ms: &u64| codel.is_due(start + Duration::from_millis(*ms), waited(*ms), LEAST);
        let all: Vec<u64> = (0..seconds * 1000).filter(due).collect();
        (0..seconds).map(|s| all.iter().filter(|ms| **ms / 1000 == s).count()).collect()
    }

    #[test]
    fn bursts_pass_and_standing_queues_are_marked_ever_more() {
        assert_eq!(marks(3, |_| TARGET / 2), [0; 3]);
        // Bursts of nine tenths of an interval, one after another.
        let interval = INTERVAL.as_millis() as u64;
        assert_eq!(marks(3, |ms| if ms % interval < interval * 9 / 10 { 9 * TARGET } else { TARGET / 2 }), [0; 3]);
        let standing = marks(4, |_| 2 * TARGET);
        assert!(standing[0] >= 15 && standing.is_sorted() && standing[1] > 2 * standing[0], "{standing:?}");
    }

    #[test]
    fn little_that_waits_is_no_queue() {
        let (start, mut codel) = (Instant::now(), Codel::default());
        assert!((0..1000).all(|ms| !codel.is_due(start + Duration::from_millis(ms), 5 * TARGET, LEAST - 1)));
    }

    #[test]
    fn a_series_after_a_short_rest_goes_on_at_its_pace() {
        let interval = INTERVAL.as_millis() as u64;
        let after = |rest: u64| {
            let end = 1000 + rest * interval;
            let all = marks(8, |ms| if (1000..end).contains(&ms) { TARGET / 2 } else { 2 * TARGET });
            all[end as usize / 1000 + 1]
        };
        assert!(after(5) > after(40) + 5, "{} {}", after(5), after(40));
    }
}
