//! Malice on the control channel: what neighbours tell each other of the network.

use std::time::Duration;

use super::{Behaviour, Hand};
use crate::{
    identity::{MAX_ENDPOINTS, MAX_PREFIXES, RecordContent},
    routing::MAX_ORIGINS,
    sim::happening::address,
    types::INFINITY,
    wire::proto::{Body, Introduction, RouteUpdate, SeqnoRequest, control_message::Kind},
};

/// Slots that hostile nodes use, away from those of the shipped code.
pub(super) const SLOT: u32 = 9_000;

/// Entries of one update that still fit a control message.
const PER_MESSAGE: usize = 300;

#[derive(Default)]
pub(super) struct Introductions {
    next: u32,
}

impl Behaviour for Introductions {
    fn act(&mut self, hand: &mut Hand<'_>) {
        for neighbour in hand.neighbours() {
            let mut update = RouteUpdate::default();
            for _ in 0..PER_MESSAGE {
                self.next = (self.next + 1) % (MAX_ORIGINS as u32 + 10);
                let slot = if hand.rng.chance(0.01) { hand.rng.next_u32() } else { self.next };
                update.introductions.push(Introduction { slot, node_id: hand.any_id().0.to_vec() });
                // Without a metric nobody asks for the announcement; with one they do.
                if hand.rng.chance(0.05) {
                    update.slots.push(slot);
                    update.seqnos.push(hand.rng.next_u32());
                    update.metrics.push(1);
                }
            }
            hand.control(neighbour, Kind::Routes(update));
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(250)
    }
}

#[derive(Default)]
pub(super) struct Records {
    round: u32,
}

impl Behaviour for Records {
    fn act(&mut self, hand: &mut Hand<'_>) {
        self.round += 1;
        let content = RecordContent {
            name: format!("{}{}", "x".repeat(50), self.round),
            endpoints: (0..MAX_ENDPOINTS).map(|_| address(hand.me)).collect(),
            prefixes: (0..MAX_PREFIXES)
                .filter_map(|i| format!("10.{}.{i}.0/24", self.round % 256).parse().ok())
                .collect(),
            boot: if hand.rng.chance(0.1) { hand.rng.next_u32() } else { 0 },
            ..RecordContent::default()
        };
        hand.spread(content, SLOT);
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(200)
    }
}

/// Announcements heard earlier: all is kept, and said again at any time.
#[derive(Default)]
pub(super) struct Bodies {
    kept: Vec<Body>,
}

impl Bodies {
    fn keep(&mut self, hand: &mut Hand<'_>) {
        let known: Vec<_> = hand.node.routing().announcements().cloned().collect();
        for _ in 0..4 {
            let some = &known[hand.below(known.len())];
            let body = Body { slot: 0, announcement: some.bytes.clone(), record: some.record.bytes.clone() };
            if self.kept.len() < 400 {
                self.kept.push(body);
            } else {
                let i = hand.below(self.kept.len());
                self.kept[i] = body;
            }
        }
    }
}

impl Behaviour for Bodies {
    fn act(&mut self, hand: &mut Hand<'_>) {
        self.keep(hand);
        for neighbour in hand.neighbours() {
            let mut update = RouteUpdate::default();
            for slot in SLOT..SLOT + 8 {
                let subject = if hand.rng.chance(0.2) { hand.any_id() } else { hand.scene.ids[hand.somebody()] };
                update.introductions.push(Introduction { slot, node_id: subject.0.to_vec() });
                update.slots.push(slot);
                update.seqnos.push(if hand.rng.chance(0.5) { u32::MAX } else { hand.rng.next_u32() });
                update.metrics.push(hand.below(1000) as u32);
                let mut body = Body { slot, ..self.kept[hand.below(self.kept.len())].clone() };
                match hand.below(5) {
                    0 => body.announcement = hand.any_bytes(400),
                    1 => body.record = hand.any_bytes(1200),
                    2 => body.record.clear(),
                    3 => {
                        let at = hand.below(body.announcement.len());
                        body.announcement[at] ^= 1 << hand.below(8);
                    }
                    _ => {}
                }
                update.bodies.push(body);
            }
            hand.control(neighbour, Kind::Routes(update));
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(250)
    }
}

#[derive(Default)]
pub(super) struct Requests {
    above: u32,
}

impl Behaviour for Requests {
    fn act(&mut self, hand: &mut Hand<'_>) {
        self.above += 1;
        for neighbour in hand.neighbours() {
            for _ in 0..10 {
                let subject = hand.scene.ids[hand.somebody()];
                let known = hand.node.routing().origin(&subject).and_then(|o| hand.node.routing().announcement(o));
                let newest = known.map_or(0, |k| k.seqno);
                let seqno = match hand.below(4) {
                    0 => u32::MAX - self.above,
                    1 => newest.saturating_add(self.above),
                    _ => newest.saturating_add(1),
                };
                let request = SeqnoRequest { origin: subject.0.to_vec(), seqno, hops: u32::MAX };
                hand.control(neighbour, Kind::SeqnoRequest(request));
            }
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(200)
    }
}

pub(super) struct Lies;

impl Behaviour for Lies {
    fn act(&mut self, hand: &mut Hand<'_>) {
        let known: Vec<_> = hand.node.routing().announcements().map(|a| (a.id, a.seqno)).collect();
        for neighbour in hand.neighbours() {
            let subjects: Vec<_> = known.iter().filter(|(id, _)| *id != neighbour).collect();
            let first = hand.below(2) as u32;
            for (k, chunk) in subjects.chunks(40).enumerate() {
                let mut update = RouteUpdate::default();
                for (j, (id, seqno)) in chunk.iter().enumerate() {
                    let slot = SLOT + (k * 40 + j) as u32;
                    update.introductions.push(Introduction { slot, node_id: id.0.to_vec() });
                    update.slots.push(slot);
                    update.seqnos.push(if hand.rng.chance(0.1) { u32::MAX } else { *seqno });
                    update.metrics.push(first);
                }
                hand.control(neighbour, Kind::Routes(update));
            }
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn is_steady(&self) -> bool {
        true
    }

    fn swallows(&self, _bytes: usize) -> bool {
        true
    }
}

pub(super) struct Hole {
    pub longer_than: usize,
}

impl Behaviour for Hole {
    fn act(&mut self, _hand: &mut Hand<'_>) {}

    fn pause(&self) -> Duration {
        Duration::from_secs(600)
    }

    fn is_steady(&self) -> bool {
        true
    }

    fn swallows(&self, bytes: usize) -> bool {
        bytes > self.longer_than
    }
}

pub(super) struct Control;

impl Behaviour for Control {
    fn act(&mut self, hand: &mut Hand<'_>) {
        for neighbour in hand.neighbours() {
            match hand.below(4) {
                0 => {
                    let junk = hand.any_bytes(20_000);
                    hand.control_raw(neighbour, junk);
                }
                1 => {
                    let list = hand.any_bytes(2_000);
                    hand.control(neighbour, Kind::Revocations(list));
                }
                2 => {
                    // Columns of different lengths, numbers that nobody gave out.
                    let mut column = |bound: usize| (0..hand.below(bound)).map(|_| hand.rng.next_u32()).collect();
                    let (slots, seqnos, wants, wants_record) = (column(400), column(400), column(200), column(200));
                    let metrics = (0..hand.below(400)).map(|_| hand.below(2 * INFINITY as usize) as u32).collect();
                    let update = RouteUpdate { slots, seqnos, metrics, wants, wants_record, ..RouteUpdate::default() };
                    hand.control(neighbour, Kind::Routes(update));
                }
                _ => {
                    // Everything that the neighbour has, asked for again and again.
                    let update = RouteUpdate { wants_record: (0..300).collect(), ..RouteUpdate::default() };
                    for _ in 0..5 {
                        hand.control(neighbour, Kind::Routes(update.clone()));
                    }
                }
            }
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(300)
    }
}
