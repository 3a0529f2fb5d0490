//! Whether the NAT before this node counts, and where it is: three probes to a neighbour, each from a socket of its own.
//! The neighbour says at which ports it saw them.

use std::{collections::BTreeMap, net::SocketAddr, ops::Range};

use super::Node;
use crate::{
    punch::{Counter, Places, is_public},
    types::{Duration, Instant, NodeId, path},
    wire::proto::Mapping,
};

const PROBES: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(600);
/// Ports further apart than that are taken by chance.
const MAX_STEP: u16 = 16;

/// A measurement in progress.
#[derive(Debug)]
pub(super) struct Gauge {
    /// For whom: peers whose offers are to be answered, and (`None`) those that are to get one.
    waiting: BTreeMap<NodeId, Option<Places>>,
    numbers: Range<u32>,
    ports: [Option<u16>; PROBES as usize],
    until: Instant,
}

impl Gauge {
    fn counter(&self) -> Option<Counter> {
        let [Some(first), Some(second), Some(last)] = self.ports else { return None };
        let steps = [second.checked_sub(first)?, last.checked_sub(second)?];
        let step = steps[0].min(steps[1]);
        let counts = step > 0 && steps.iter().all(|s| *s <= MAX_STEP);
        counts.then_some(Counter { port: last, step })
    }
}

impl Node {
    /// Measures the NAT for an offer to `peer`, or for the answer to its `offer`. Returns whether that is to wait: it is
    /// sent when the measurement is over, which serves all who have come meanwhile.
    pub(super) fn start_gauge(&mut self, now: Instant, peer: NodeId, offer: Option<&Places>) -> bool {
        if self.own.mapping() != Mapping::Dependent {
            return false;
        }
        if let Some(gauge) = &mut self.gauge {
            // Where both ends offer at the same time, each answers.
            let waiting = gauge.waiting.entry(peer).or_default();
            *waiting = waiting.take().or_else(|| offer.cloned());
            return true;
        }
        let is_outside = |addr: &SocketAddr| path::socket_of(*addr) == 0 && is_public(addr.ip());
        let link = |(id, p): (&NodeId, &super::Peer)| Some((*id, p.link.as_ref().filter(|l| l.up)?.addr));
        let Some((neighbour, addr)) = self.peers.iter().filter_map(link).find(|(_, addr)| is_outside(addr)) else {
            return false;
        };
        let numbers = self.puncher.lend_scouts(now, PROBES);
        self.gauge = Some(Gauge {
            waiting: [(peer, offer.cloned())].into(),
            numbers: numbers.clone(),
            ports: [None; PROBES as usize],
            until: now + PATIENCE,
        });
        for number in numbers {
            self.send_probe(now, neighbour, path::through(addr, number));
        }
        true
    }

    /// A probe was answered that had been sent to `path`. Returns whether it was one of a measurement.
    pub(super) fn gauge_answered(&mut self, now: Instant, path: SocketAddr, seen_at: SocketAddr) -> bool {
        let number = path::socket_of(path);
        let Some(gauge) = self.gauge.as_mut().filter(|g| g.numbers.contains(&number)) else { return false };
        gauge.ports[(number - gauge.numbers.start) as usize] = Some(seen_at.port());
        if gauge.ports.iter().all(Option::is_some) {
            self.end_gauge(now);
        }
        true
    }

    /// Ends a measurement that takes too long.
    pub(super) fn tick_gauge(&mut self, now: Instant) {
        if self.gauge.as_ref().is_some_and(|g| now >= g.until) {
            self.end_gauge(now);
        }
    }

    pub(super) fn gauge_timeout(&self) -> Option<Instant> {
        self.gauge.as_ref().map(|g| g.until)
    }

    fn end_gauge(&mut self, now: Instant) {
        let Some(gauge) = self.gauge.take() else { return };
        let counter = gauge.counter();
        for (peer, offer) in gauge.waiting {
            if self.peers.get(&peer).is_none() {
                continue;
            }
            self.puncher.note_counter(now, peer, counter);
            match offer {
                None => self.send_offer(peer, counter),
                Some(theirs) => self.take_part(now, peer, &theirs, counter),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_is_told_from_chance() {
        let counter = |ports: [u16; 3]| {
            let gauge = Gauge { waiting: [].into(), numbers: 1..4, ports: ports.map(Some), until: Instant(0) };
            gauge.counter().map(|c| (c.port, c.step))
        };
        assert_eq!(counter([4000, 4001, 4002]), Some((4002, 1)));
        assert_eq!(counter([4000, 4002, 4004]), Some((4004, 2)));
        assert_eq!(counter([4000, 4001, 4005]), Some((4005, 1)), "another flow came in between");
        for random in [[4000, 61_234, 9000], [4002, 4001, 4000], [4000, 4000, 4000], [4000, 4020, 4030]] {
            assert_eq!(counter(random), None);
        }
    }
}
