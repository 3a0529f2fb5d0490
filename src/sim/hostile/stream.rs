//! Packets between honest nodes, in at one TUN and out at another, and what became of each.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::hand::Scene;
use crate::{
    crypto::Rng,
    sim::{
        happening::{Happening, udp_packet},
        world::World,
    },
    types::Instant,
};

/// Pairs that talk all the time, and pairs that do for two minutes each. Every link on their ways is probed ten times a
/// second, so they are what a quiet run costs.
const LASTING: usize = 6;
const PASSING: usize = 6;
const PASSING_FOR: Duration = Duration::from_secs(120);
const GAP: Duration = Duration::from_millis(500);
/// Who hangs together is looked at so often.
const ISLANDS_FOR: Duration = Duration::from_secs(2);
/// What has not come after so long is lost.
const PATIENCE: Duration = Duration::from_secs(8);
const MAGIC: &[u8; 8] = b"a packet";
const FORGED: &[u8; 8] = b"a forged";
/// Where the payload begins, from the end of the packet.
const PAYLOAD: usize = 100;

/// The payload of a packet whose source is not its sender.
pub(super) fn forged() -> [u8; PAYLOAD] {
    let mut payload = [0; PAYLOAD];
    payload[..8].copy_from_slice(FORGED);
    payload
}

fn payload(number: u64) -> [u8; PAYLOAD] {
    let mut payload = [number as u8; PAYLOAD];
    payload[..8].copy_from_slice(MAGIC);
    payload[8..16].copy_from_slice(&number.to_be_bytes());
    payload
}

struct OnItsWay {
    to: usize,
    packet: Vec<u8>,
    sent: Instant,
    /// The way led through a hostile node when it was sent.
    is_exposed: bool,
    pair: usize,
}

/// What became of the packets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kept {
    pub sent: u64,
    pub arrived: u64,
    /// Lost on a way that led through a hostile node.
    pub swallowed: u64,
    /// Lost on another way.
    pub lost: u64,
    /// Arrived at another node than that whose address it carried.
    pub misled: u64,
    /// Was delivered though its source was not its sender's.
    pub forged: u64,
}

pub(super) struct Stream {
    rng: Rng,
    honest: Vec<usize>,
    pairs: Vec<(usize, usize)>,
    /// When the next passing pair is to be replaced, and which.
    turn: (Instant, usize),
    islands: (Instant, Vec<usize>),
    under_way: HashMap<u64, OnItsWay>,
    next: u64,
    pub kept: Kept,
    /// Packets of each pair that are still to come or lost, for the report: pair, and how many.
    pub losses: BTreeMap<(usize, usize), u64>,
    /// By tens of seconds since the beginning: sent and lost.
    pub course: Vec<(u64, u64)>,
}

impl Stream {
    pub fn new(rng: Rng, scene: &Scene) -> Self {
        let honest: Vec<usize> = (0..scene.ids.len()).filter(|i| !scene.hostile[*i]).collect();
        Self {
            rng,
            honest,
            pairs: Vec::new(),
            turn: (Instant::default(), 0),
            islands: Default::default(),
            under_way: HashMap::new(),
            next: 0,
            kept: Kept::default(),
            losses: BTreeMap::new(),
            course: Vec::new(),
        }
    }

    fn any_pair(&mut self) -> (usize, usize) {
        let count = self.honest.len() as u64;
        let a = self.rng.below(count);
        let b = (a + 1 + self.rng.below(count - 1)) % count;
        (self.honest[a as usize], self.honest[b as usize])
    }

    /// The pairs that talk now.
    fn pairs(&mut self, now: Instant) -> Vec<(usize, usize)> {
        let each = PASSING_FOR / PASSING as u32;
        if self.pairs.is_empty() {
            self.pairs = (0..LASTING + PASSING).map(|_| self.any_pair()).collect();
            self.turn = (now + each, 0);
        }
        while self.turn.0 <= now {
            self.pairs[LASTING + self.turn.1] = self.any_pair();
            self.turn = (self.turn.0 + each, (self.turn.1 + 1) % PASSING);
        }
        self.pairs.clone()
    }

    /// A packet came out at node `i`.
    pub fn arrived(&mut self, i: usize, packet: &[u8]) {
        let Some(payload) = packet.len().checked_sub(PAYLOAD).and_then(|at| packet.get(at..)) else { return };
        if payload.starts_with(FORGED) {
            self.kept.forged += u64::from(self.honest.contains(&i));
            return;
        }
        let Some(number) = payload.get(8..16).and_then(|n| n.try_into().ok()).map(u64::from_be_bytes) else { return };
        let Some(expected) = self.under_way.get(&number).filter(|e| e.packet == packet) else { return };
        if expected.to == i {
            self.kept.arrived += 1;
            self.under_way.remove(&number);
        } else {
            self.kept.misled += 1;
        }
    }

    /// Gives up what has not come for long, or all of it.
    pub fn give_up(&mut self, now: Instant, begin: Instant, all: bool) {
        let gone: Vec<u64> =
            self.under_way.iter().filter(|(_, e)| all || now.since(e.sent) > PATIENCE).map(|(n, _)| *n).collect();
        for number in gone {
            let Some(lost) = self.under_way.remove(&number) else { continue };
            *if lost.is_exposed { &mut self.kept.swallowed } else { &mut self.kept.lost } += 1;
            *self.losses.entry((lost.pair, lost.to)).or_default() += 1;
            self.at(lost.sent.since(begin)).1 += 1;
        }
    }

    fn at(&mut self, since: Duration) -> &mut (u64, u64) {
        let ten = (since.as_secs() / 10) as usize;
        if self.course.len() <= ten {
            self.course.resize(ten + 1, (0, 0));
        }
        &mut self.course[ten]
    }

    fn note_sent(&mut self, begin: Instant, on_its_way: OnItsWay) -> u64 {
        self.next += 1;
        self.kept.sent += 1;
        self.at(on_its_way.sent.since(begin)).0 += 1;
        self.under_way.insert(self.next - 1, on_its_way);
        self.next - 1
    }
}

impl World {
    /// Every pair that talks and has a way over honest nodes alone sends a packet.
    pub(in crate::sim) fn packets(&mut self) {
        let now = self.now();
        let Some(stage) = &mut self.stage else { return };
        let Some((begin, end)) = stage.phase else { return };
        stage.stream.give_up(now, begin, false);
        if now >= end {
            return;
        }
        let pairs = stage.stream.pairs(now);
        let is_old = now.since(stage.stream.islands.0) >= ISLANDS_FOR || stage.stream.islands.1.is_empty();
        let islands = if is_old { self.honest_islands() } else { std::mem::take(&mut stage.stream.islands.1) };
        for (k, (from, to)) in pairs.into_iter().enumerate() {
            if islands[from] != islands[to] {
                continue;
            }
            let v = k % 2;
            let (Some(a), Some(b)) = (&self.places[from].node, &self.places[to].node) else { continue };
            let is_exposed = self.is_exposed(from, to);
            let (source, target) = (a.addresses()[v], b.addresses()[v]);
            let Some(stage) = &mut self.stage else { return };
            let packet = udp_packet(source, target, &payload(stage.stream.next));
            let on_its_way = OnItsWay { to, packet: packet.clone(), sent: now, is_exposed, pair: from };
            stage.stream.note_sent(begin, on_its_way);
            self.handle_tun(from, &packet);
        }
        if let Some(stage) = &mut self.stage {
            let since = if is_old { now } else { stage.stream.islands.0 };
            stage.stream.islands = (since, islands);
        }
        self.agenda.push(now + GAP, Happening::Packets);
    }
}
