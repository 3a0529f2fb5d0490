//! The path MTU of a link, found with padded probes that may not be fragmented (RFC 8899).
//!
//! Data may be fragmented on the way, so nothing is lost before the size is known or while it shrinks; what is found
//! here spares the fragments. Sizes are bytes of UDP payload.

use std::net::SocketAddr;

use super::forward::UNDERLAY;
use crate::types::{Duration, Instant};

/// The MTUs that paths have, in bytes of IP packet; none carries less than the last (RFC 8200 §5).
const MTUS: [usize; 13] = [1500, 1492, 1480, 1460, 1440, 1420, 1400, 1380, 1360, 1340, 1320, 1300, 1280];
/// Probes of one size that must be lost before it counts as too long (`MAX_PROBES`, RFC 8899 §5.1.2).
const MAX_PROBES: u32 = 3;
/// The size in use is confirmed so often on a link with traffic, and on an idle one.
const CONFIRM: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A longer size is tried so often (`PMTU_RAISE_TIMER`, RFC 8899 §5.1.1).
const RAISE: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct PathMtu {
    /// Descending.
    sizes: Vec<usize>,
    /// What the path is known to carry in one piece.
    known: Option<usize>,
    outstanding: Vec<(u32, usize)>,
    /// When the probes sent are lost, or the next ones go.
    next: Instant,
    lost: u32,
    /// The largest size confirmed while all of them are tried.
    search: Option<usize>,
    raise: Instant,
}

impl PathMtu {
    pub fn new(now: Instant, addr: SocketAddr) -> Self {
        let headers = if addr.is_ipv4() { 28 } else { 48 };
        let mut sizes: Vec<usize> = MTUS.iter().map(|m| (m - headers).min(UNDERLAY)).collect();
        sizes.dedup();
        Self { sizes, known: None, outstanding: Vec::new(), next: now, lost: 0, search: None, raise: now + RAISE }
    }

    /// How long datagrams on this path should be at most.
    pub fn size(&self) -> usize {
        self.known.unwrap_or(self.sizes[0])
    }

    /// Whether [`Self::size`] has been confirmed.
    pub fn is_known(&self) -> bool {
        self.known.is_some()
    }

    pub fn next_tick(&self) -> Instant {
        self.next
    }

    /// The probes to send now, as numbers and sizes. `patience` is how long an answer may take.
    pub fn tick(&mut self, now: Instant, patience: Duration, mut number: impl FnMut() -> u32) -> Vec<(u32, usize)> {
        if now < self.next {
            return Vec::new();
        }
        if let Some(best) = self.search.filter(|_| !self.outstanding.is_empty()) {
            // The search is over. Where not even the shortest came back, the path loses everything for now.
            let least = self.sizes[self.sizes.len() - 1];
            // A search for more that comes back with less has met loss.
            self.known = Some(if self.lost < MAX_PROBES { best.max(self.size()) } else { best.max(least) });
            self.search = None;
            self.outstanding.clear();
            self.lost = 0;
            self.next = now + CONFIRM.0;
            return Vec::new();
        }
        self.lost += u32::from(!self.outstanding.is_empty());
        self.outstanding.clear();
        let sizes = if now >= self.raise || self.lost >= MAX_PROBES {
            self.search = Some(0);
            self.raise = now + RAISE;
            self.sizes.clone()
        } else {
            vec![self.size()]
        };
        self.outstanding = sizes.into_iter().map(|size| (number(), size)).collect();
        self.next = now + patience + Duration::from_millis(50);
        self.outstanding.clone()
    }

    /// An answer came. `None`: to no probe of ours. Otherwise whether the size changed.
    pub fn answered(&mut self, now: Instant, id: u32, is_active: bool) -> Option<bool> {
        let (_, size) = *self.outstanding.iter().find(|o| o.0 == id)?;
        let before = self.known;
        if let Some(best) = &mut self.search {
            *best = size.max(*best);
            // Nothing longer can come.
            if size == self.sizes[0] {
                self.search = None;
            }
        }
        if self.search.is_none() {
            self.known = Some(size);
            self.outstanding.clear();
            self.lost = 0;
            self.next = now + if is_active { CONFIRM.0 } else { CONFIRM.1 };
        }
        Some(self.known != before)
    }

    /// Users' packets begin to flow: the size is confirmed soon.
    pub fn wake(&mut self, now: Instant) {
        self.next = self.next.min(now + CONFIRM.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs for `time` over a path that carries `mtu` bytes of UDP payload; returns probes sent.
    fn run(p: &mut PathMtu, now: &mut Instant, time: Duration, mtu: usize, id: &mut u32) -> usize {
        let end = *now + time;
        let mut sent = 0;
        while *now < end {
            *now = *now + Duration::from_millis(1);
            let number = || {
                *id += 1;
                *id
            };
            let probes = p.tick(*now, Duration::from_millis(20), number);
            sent += probes.len();
            for (id, _) in probes.into_iter().filter(|(_, size)| *size <= mtu) {
                assert!(p.answered(*now, id, true).is_some());
            }
        }
        sent
    }

    #[test]
    fn a_wide_path_takes_one_probe_and_a_narrow_one_is_found_and_found_again() {
        let (mut now, mut id) = (Instant(0), 0);
        let mut p = PathMtu::new(now, "192.0.2.1:9".parse().unwrap());
        assert_eq!(run(&mut p, &mut now, Duration::from_millis(900), 1472, &mut id), 1);
        assert_eq!((p.size(), p.is_known()), (UNDERLAY, true));
        for mtu in [1252, 1392, 1252] {
            run(&mut p, &mut now, Duration::from_secs(3), mtu, &mut id);
            assert_eq!((p.size(), p.is_known()), (mtu.min(p.size()), true), "shrinks at once");
            run(&mut p, &mut now, RAISE, mtu, &mut id);
            assert_eq!(p.size(), mtu, "and grows in time");
        }
        let mut v6 = PathMtu::new(now, "[2001:db8::1]:9".parse().unwrap());
        run(&mut v6, &mut now, Duration::from_secs(3), 1232, &mut id);
        assert_eq!(v6.size(), 1232);
    }

    #[test]
    fn silence_leaves_a_size_that_every_path_carries() {
        let (mut now, mut id) = (Instant(0), 0);
        let mut p = PathMtu::new(now, "192.0.2.1:9".parse().unwrap());
        let sent = run(&mut p, &mut now, Duration::from_secs(5), 0, &mut id);
        assert_eq!(p.size(), 1252);
        assert!(sent < 150, "{sent} probes into silence");
        assert_eq!(p.answered(now, 9999, true), None);
    }
}
