//! What a relay gives to others: so many bytes a second in total and for each neighbour, for so many neighbours at a
//! time. Under the total, who sends at the moment shares equally.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{config::RelayLimits, types::NodeId};

/// Who has sent nothing for so long takes no share.
const PAUSE: Duration = Duration::from_secs(1);
/// How much may come at once: what the rate allows in this time, and never less than a few super-packets. A TCP stream
/// loses its pace to a shallow bucket.
const BURST: Duration = Duration::from_millis(250);
const MIN_BURST: f64 = 262_144.0;

struct Bucket {
    /// Bytes that may pass at once.
    tokens: f64,
    filled: Instant,
}

/// Decides which datagrams are relayed.
pub(super) struct RelayLimiter {
    limits: RelayLimits,
    neighbours: HashMap<NodeId, Bucket>,
    swept: Instant,
}

impl RelayLimiter {
    pub fn new(limits: RelayLimits, now: Instant) -> Self {
        Self { limits, neighbours: HashMap::new(), swept: now }
    }

    /// Whether a datagram of `bytes` from this neighbour may pass.
    pub fn admits(&mut self, now: Instant, from: NodeId, bytes: usize) -> bool {
        if now.duration_since(self.swept) >= PAUSE / 4 {
            self.swept = now;
            self.neighbours.retain(|_, b| now.duration_since(b.filled) < PAUSE);
        }
        let is_new = !self.neighbours.contains_key(&from);
        if is_new && self.limits.peers.is_some_and(|most| self.neighbours.len() >= most) {
            return false;
        }
        let senders = (self.neighbours.len() + usize::from(is_new)) as f64;
        let share = self.limits.total.map(|total| total as f64 / senders);
        let rate = match (self.limits.per_peer.map(|r| r as f64), share) {
            (Some(a), Some(b)) => a.min(b),
            (one, other) => one.or(other).unwrap_or(f64::INFINITY),
        };
        let burst = (rate * BURST.as_secs_f64()).max(MIN_BURST);
        let bucket = self.neighbours.entry(from).or_insert(Bucket { tokens: burst, filled: now });
        let earned = rate * now.duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + earned).min(burst);
        bucket.filled = now;
        let passes = bucket.tokens >= bytes as f64;
        if passes {
            bucket.tokens -= bytes as f64;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes a second that get through, for neighbours that offer these.
    fn shares(limits: RelayLimits, offered: &[f64]) -> Vec<f64> {
        let start = Instant::now();
        let mut limiter = RelayLimiter::new(limits, start);
        let mut passed = vec![0.0; offered.len()];
        let mut due = vec![0.0; offered.len()];
        for ms in 0..10_000u64 {
            let now = start + Duration::from_millis(ms);
            for (i, rate) in offered.iter().enumerate() {
                due[i] += rate / 1000.0;
                while due[i] >= 1500.0 {
                    due[i] -= 1500.0;
                    if limiter.admits(now, NodeId([i as u8; 32]), 1500) {
                        passed[i] += 150.0;
                    }
                }
            }
        }
        passed
    }

    #[test]
    fn limits_hold_and_the_total_is_shared_equally() {
        let mega = 1e6;
        let per_peer = shares(RelayLimits { per_peer: Some(2_000_000), ..Default::default() }, &[9.0 * mega, mega]);
        assert!((per_peer[0] - 2.0 * mega).abs() < 0.1 * mega && (per_peer[1] - mega).abs() < 0.05 * mega);
        let total = shares(RelayLimits { total: Some(6_000_000), ..Default::default() }, &[9.0 * mega; 3]);
        assert!(total.iter().all(|r| (r - 2.0 * mega).abs() < 0.1 * mega), "{total:?}");
        let peers = shares(RelayLimits { peers: Some(2), ..Default::default() }, &[mega; 3]);
        assert_eq!(peers.iter().filter(|r| **r > 0.9 * mega).count(), 2, "{peers:?}");
        assert_eq!(peers[2], 0.0);
    }
}
