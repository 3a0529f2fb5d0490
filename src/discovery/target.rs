//! A node that is known: where it is tried, and when next.

use std::net::SocketAddr;

use crate::{
    crypto::Rng,
    types::{Bucket, Duration, Instant},
};

/// Changes of a node's endpoints that are taken in: so many at once (a node learns of its addresses one after another
/// when it starts), and one more each pause. A later change waits; the last one counts.
const CHANGES: (u32, Duration) = (4, Duration::from_secs(10));
const TARGET_RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// A node that is known.
#[derive(Debug)]
pub(super) struct Target {
    /// As they were announced.
    pub announced: Vec<SocketAddr>,
    /// In the order in which they are tried: the next ones first.
    pub endpoints: Vec<SocketAddr>,
    /// How many of them are left of those that are tried together, for want of a budget.
    pub left: usize,
    /// Announced since, to be taken in when a change is due.
    pub waiting: Option<Vec<SocketAddr>>,
    pub changes: Bucket,
    /// Where it has answered, the latest last.
    pub proven: Vec<SocketAddr>,
    pub retry: Retry,
    /// Nothing was left for it in the budget until then.
    pub held: Instant,
}

impl Target {
    pub fn new(now: Instant, endpoints: &[SocketAddr]) -> Self {
        Self {
            announced: endpoints.to_vec(),
            endpoints: endpoints.to_vec(),
            left: 0,
            waiting: None,
            changes: Bucket::new(CHANGES.0, CHANGES.1),
            proven: Vec::new(),
            retry: Retry::new(now, TARGET_RETRY),
            held: now,
        }
    }

    /// Takes in announced endpoints, if that is due. Returns whether it was.
    pub fn take_in(&mut self, now: Instant, endpoints: Vec<SocketAddr>) -> bool {
        if endpoints.iter().all(|e| self.announced.contains(e)) {
            // Fewer than before, or in another order: nothing to look for.
            self.endpoints.retain(|e| endpoints.contains(e));
            self.left = 0;
            self.announced = endpoints;
            self.waiting = None;
            return true;
        }
        if !self.changes.take(now) {
            self.waiting = Some(endpoints);
            return false;
        }
        self.endpoints.clone_from(&endpoints);
        self.left = 0;
        self.announced = endpoints;
        self.waiting = None;
        self.retry.reset(now);
        true
    }
}

/// When to try again, after ever longer pauses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    pub next: Instant,
    wait: Duration,
    bounds: (Duration, Duration),
}

impl Retry {
    pub fn new(now: Instant, bounds: (Duration, Duration)) -> Self {
        Self { next: now, wait: bounds.0, bounds }
    }

    pub fn tried(&mut self, now: Instant, rng: &mut Rng) {
        self.next = now + rng.jitter(self.wait, 20);
        self.wait = (self.wait * 2).min(self.bounds.1);
    }

    pub fn reset(&mut self, now: Instant) {
        *self = Self::new(now, self.bounds);
    }
}
