//! One attempt: where probes go, and when.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use crate::{
    crypto::Rng,
    types::{Duration, Instant, path},
};

/// When all places are probed, counted from the start.
pub(super) const ROUNDS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];
/// When the many ports begin, if nothing else has helped until then.
const MANY_AFTER: Duration = Duration::from_millis(700);
const GAP: Duration = Duration::from_micros(15_625);
const POSTPONED: Duration = Duration::from_millis(500);
pub(super) const LIFE: Duration = Duration::from_secs(20);
/// NATs take public ports from here up.
const FIRST_PORT: u64 = 1024;
/// How many other flows a counting NAT may see between a prediction and its use.
pub(super) const COUNTED: u32 = 64;
/// Predicted ports are tried so often: datagrams get lost.
const PASSES: u32 = 3;
/// Time for all of that: then it has failed, and may be tried afresh.
pub(super) const COUNT_LIFE: Duration = Duration::from_secs(6);
/// What the other end's scouts get to go out first, beside the time that they take.
const HEAD_START: Duration = Duration::from_millis(300);

/// A NAT that counts: the public port that it took last, and how far it is to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    pub port: u16,
    pub step: u16,
}

impl Counter {
    /// The port of the `n`-th flow from now on; `None`: beyond the last one.
    #[must_use]
    pub fn nth(self, n: u32) -> Option<u16> {
        u16::try_from(u32::from(self.port) + u32::from(self.step) * n).ok()
    }
}

/// A search among many ports.
#[derive(Debug)]
pub(super) enum Search {
    /// Send from many ports to one.
    Scouts { target: SocketAddr, numbers: Range<u32>, sent: u32 },
    /// Send from one port to many: those that the other end's NAT takes next, if it counts, and any.
    Spray { target: IpAddr, counter: Option<Counter>, sent: u32 },
    /// Send from one port to those that the other end's NAT takes next, after it had time to take them.
    Follow { target: IpAddr, counter: Counter, sent: u32 },
}

impl Search {
    /// Where the next datagram goes.
    fn next(&mut self, rng: &mut Rng) -> Option<SocketAddr> {
        match self {
            Self::Scouts { target, numbers, sent } => {
                *sent += 1;
                Some(path::through(*target, numbers.start + *sent - 1))
            }
            Self::Spray { target, counter, sent } => {
                *sent += 1;
                let counted = counter.filter(|_| *sent <= COUNTED).and_then(|c| c.nth(*sent));
                let port = counted.unwrap_or_else(|| (FIRST_PORT + rng.below(65_536 - FIRST_PORT)) as u16);
                Some(SocketAddr::new(*target, port))
            }
            Self::Follow { target, counter, sent } => {
                *sent += 1;
                Some(SocketAddr::new(*target, counter.nth((*sent - 1) % COUNTED + 1)?))
            }
        }
    }

    /// How many may go on at a time: each costs the routers on the way an entry per datagram.
    pub fn limit(&self) -> usize {
        match self {
            Self::Scouts { .. } => 8,
            Self::Spray { .. } => 2,
            Self::Follow { .. } => 1,
        }
    }

    /// The address that it aims at.
    pub fn aim(&self) -> IpAddr {
        match self {
            Self::Scouts { target, .. } => target.ip(),
            Self::Spray { target, .. } | Self::Follow { target, .. } => *target,
        }
    }

    fn sent(&self) -> u32 {
        match self {
            Self::Scouts { sent, .. } | Self::Spray { sent, .. } | Self::Follow { sent, .. } => *sent,
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Scouts { numbers, sent, .. } => *sent >= numbers.len() as u32,
            Self::Spray { .. } => false,
            Self::Follow { sent, .. } => *sent >= COUNTED * PASSES,
        }
    }
}

#[derive(Debug)]
pub(super) struct Attempt {
    since: Instant,
    places: Vec<SocketAddr>,
    rounds: usize,
    pub search: Option<Search>,
    next_search: Instant,
    life: Duration,
}

impl Attempt {
    pub fn new(now: Instant, places: Vec<SocketAddr>, search: Option<Search>, life: Duration) -> Self {
        let waits = matches!(search, Some(Search::Follow { .. }));
        let wait = if waits { GAP * COUNTED + HEAD_START } else { Duration::ZERO };
        Self { since: now, places, rounds: 0, search, next_search: now + MANY_AFTER + wait, life }
    }

    pub fn is_over(&self, now: Instant) -> bool {
        now.since(self.since) >= self.life
    }

    /// The search, if it has begun and goes on.
    pub fn searching(&self) -> Option<&Search> {
        self.search.as_ref().filter(|s| s.sent() > 0 && !s.is_over())
    }

    /// The search, if it is to begin now.
    pub fn due_search(&self, now: Instant) -> Option<&Search> {
        self.search.as_ref().filter(|s| s.sent() == 0 && now >= self.next_search)
    }

    /// The search has to wait for others.
    pub fn postpone(&mut self, now: Instant) {
        self.next_search = now + POSTPONED;
    }

    /// When [`Self::poll`] has something to do.
    pub fn next(&self) -> Instant {
        let round = ROUNDS.get(self.rounds).map(|at| self.since + *at);
        let search = self.search.as_ref().filter(|s| !s.is_over()).map(|_| self.next_search);
        [round, search].into_iter().flatten().min().unwrap_or(self.since + self.life).min(self.since + self.life)
    }

    /// Where to send probes now.
    pub fn poll(&mut self, now: Instant, rng: &mut Rng) -> Vec<SocketAddr> {
        let mut out = Vec::new();
        while ROUNDS.get(self.rounds).is_some_and(|at| self.since + *at <= now) {
            self.rounds += 1;
            out.extend(&self.places);
        }
        if let Some(search) = self.search.as_mut().filter(|s| !s.is_over() && now >= self.next_search) {
            self.next_search = now + GAP;
            out.extend(search.next(rng));
        }
        out
    }
}
