//! How much each source may bring: a bucket of tokens each, for so many sources as memory allows.

use std::collections::HashMap;

use super::links::LinkId;

/// Messages that a source may bring at once, and in how much time as many more.
pub const BURST: f64 = 20.0;
const REFILL_MS: f64 = 5_000.0;
/// Who has been known for so long is trusted most.
const KNOWN_MS: f64 = 60_000.0;
/// Sources that are remembered; who has been away for longest goes first.
const MAX_SOURCES: usize = 100_000;
/// Bytes a second of what was asked for, and how many at once.
const ASKED_BYTES: f64 = 4e6;
const ASKED_BURST: f64 = 16e6;

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    bytes: f64,
    at_ms: u64,
    /// When its source was first seen.
    since_ms: u64,
}

/// Limits by source: an address, a network of them, or a node.
#[derive(Default)]
pub struct Gate {
    buckets: HashMap<String, Bucket>,
    links: HashMap<LinkId, String>,
    /// Messages that were not admitted.
    pub dropped: u64,
}

impl Gate {
    pub fn opened(&mut self, link: LinkId, source: String) {
        self.links.insert(link, source);
    }

    pub fn closed(&mut self, link: LinkId) {
        self.links.remove(&link);
    }

    /// The bucket of who is at the other end of a link, as full as it is by now.
    fn bucket(&mut self, now_ms: u64, link: LinkId) -> Option<&mut Bucket> {
        let source = self.links.get(&link)?.clone();
        if !self.buckets.contains_key(&source) {
            self.make_room(now_ms);
            let full = Bucket { tokens: BURST, bytes: ASKED_BURST, at_ms: now_ms, since_ms: now_ms };
            self.buckets.insert(source.clone(), full);
        }
        let bucket = self.buckets.get_mut(&source)?;
        let passed = now_ms.saturating_sub(bucket.at_ms) as f64;
        bucket.tokens = (bucket.tokens + passed * BURST / REFILL_MS).min(BURST);
        bucket.bytes = (bucket.bytes + passed * ASKED_BYTES / 1000.0).min(ASKED_BURST);
        bucket.at_ms = now_ms;
        Some(bucket)
    }

    /// Whether so many bytes may be asked of a link; what may be counts as brought.
    pub fn may_ask(&mut self, now_ms: u64, link: LinkId, bytes: usize) -> bool {
        let bucket = self.bucket(now_ms, link).filter(|b| b.bytes >= bytes as f64);
        bucket.map(|b| b.bytes -= bytes as f64).is_some()
    }

    /// So many bytes that were asked for do not come.
    pub fn give_back(&mut self, now_ms: u64, link: LinkId, bytes: usize) {
        if let Some(bucket) = self.bucket(now_ms, link) {
            bucket.bytes = (bucket.bytes + bytes as f64).min(ASKED_BURST);
        }
    }

    /// Whether a message may pass, and how soon: the more its source has left, and the longer it is known, the sooner. What was asked for counts in
    /// bytes, all else in messages.
    pub fn admit(&mut self, now_ms: u64, link: LinkId, bytes: usize, asked: bool) -> Option<f64> {
        let bucket = self.bucket(now_ms, link)?;
        let (left, cost) = if asked { (&mut bucket.bytes, bytes as f64) } else { (&mut bucket.tokens, 1.0) };
        let passes = *left >= cost;
        if passes {
            *left -= cost;
        }
        // A source that has been good for a while goes before a crowd that has just come.
        let known = (now_ms.saturating_sub(bucket.since_ms) as f64 / KNOWN_MS).min(1.0);
        let soon = bucket.tokens + BURST * known;
        self.dropped += u64::from(!passes);
        passes.then_some(soon)
    }

    /// A bucket that would be full by now says nothing.
    fn make_room(&mut self, now_ms: u64) {
        if self.buckets.len() < MAX_SOURCES {
            return;
        }
        self.buckets.retain(|_, b| now_ms.saturating_sub(b.at_ms) < REFILL_MS as u64);
        if self.buckets.len() >= MAX_SOURCES {
            let mut times: Vec<u64> = self.buckets.values().map(|b| b.at_ms).collect();
            let (_, middle, _) = times.select_nth_unstable(MAX_SOURCES / 2);
            let middle = *middle;
            self.buckets.retain(|_, b| b.at_ms > middle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_at_once_and_four_a_second() {
        let mut gate = Gate::default();
        gate.opened(1, "198.51.100.7".to_owned());
        gate.opened(2, "198.51.100.7".to_owned());
        gate.opened(3, "198.51.100.8".to_owned());
        let count =
            |gate: &mut Gate, now, link| (0..100).filter(|_| gate.admit(now, link, 400, false).is_some()).count();
        assert_eq!((count(&mut gate, 0, 1), count(&mut gate, 0, 2), count(&mut gate, 0, 3)), (20, 0, 20));
        assert_eq!((count(&mut gate, 1000, 1), count(&mut gate, 6000, 2)), (4, 20));
        assert_eq!((0..100).filter(|_| gate.admit(6000, 1, 400, true).is_some()).count(), 100, "asked for");
        assert!(gate.admit(6000, 9, 1, false).is_none(), "of no link");
        for n in 0..MAX_SOURCES + 10 {
            gate.opened(4, n.to_string());
            gate.admit(7000 + n as u64 / 100, 4, 1, false);
        }
        assert!(gate.buckets.len() <= MAX_SOURCES);
    }
}
