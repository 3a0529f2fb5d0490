//! The simulated world: nodes, a network with weather, and a heap of events in virtual time.

use std::{
    collections::HashMap,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::{
    Options,
    happening::{Agenda, Happening, address, index, udp_packet},
    hostile::Stage,
    meter,
    verifier::SharedVerifier,
};
use crate::{
    crypto::{Rng, SigningKey, sha256},
    identity::{Identity, Network, RecordContent},
    node::{Event, Node, NodeConfig},
    types::{Instant, NodeId, UnixTime},
    wire::packet::BEACON,
};

pub(super) const EPOCH: UnixTime = 1_790_000_000;

pub(super) struct Place {
    pub node: Option<Node>,
    pub id: NodeId,
    pub key: [u8; 32],
    timer: Instant,
    at: (f64, f64),
    datagrams: u64,
    pub bytes: u64,
    starts: u32,
    /// Bytes that the node holds, and the most that it held since that was last looked at.
    pub memory: (isize, isize),
}

pub(super) struct World {
    options: Options,
    network: Network,
    verifier: SharedVerifier,
    pub(super) places: Vec<Place>,
    pub(super) by_id: HashMap<NodeId, usize>,
    pub(super) agenda: Agenda,
    now: Instant,
    weather: Rng,
    loss: f64,
    split: bool,
    delivered: Vec<(usize, Vec<u8>)>,
    pub(super) watched: Vec<usize>,
    pub(super) loops: u64,
    pub(super) problems: Vec<String>,
    crashes: u64,
    events: u64,
    trace: u64,
    /// What a run with hostile nodes needs beside.
    pub(super) stage: Option<Box<Stage>>,
}

/// Of the generated form: nothing is spent on stretching it.
pub(super) const SECRET: &str = "YSBzZWNyZXQgZm9yIHNpbXVsYXRlZCBuZXR3b3Jrcy4";

impl World {
    pub fn new(options: &Options) -> Self {
        let seed = |stream: &str, i: u64| sha256(&[stream.as_bytes(), &options.seed.to_be_bytes(), &i.to_be_bytes()]);
        let mut layout = Rng::from_seed(seed("layout", 0));
        let mut keys: Vec<[u8; 32]> = (0..options.nodes).map(|i| seed("identity", i as u64)).collect();
        let stage = options.hostile.as_ref().map(|plan| Box::new(Stage::new(plan, options, &mut keys)));
        let network = match &stage {
            Some(stage) => stage.network().clone(),
            None => Network::new("simulation", Some(SECRET), None, super_cidr()),
        };
        let places: Vec<Place> = keys
            .into_iter()
            .map(|key| {
                let mut coordinate = || layout.below(1000) as f64 / 1000.0;
                Place {
                    node: None,
                    id: identity(&key).id(),
                    key,
                    timer: Instant(u64::MAX),
                    at: (coordinate(), coordinate()),
                    datagrams: 0,
                    bytes: 0,
                    starts: 0,
                    memory: (0, 0),
                }
            })
            .collect();
        // Destinations are independent in distance vector: watching a sample of them is exact for those.
        let step = match options.nodes {
            // Hostile nodes change tables without end.
            n if stage.is_some() => (n / 16).max(1),
            n if n <= 128 => 1,
            n => n / 8,
        };
        Self {
            verifier: SharedVerifier::new(network.clone(), stage.is_some()),
            network,
            by_id: places.iter().enumerate().map(|(i, p)| (p.id, i)).collect(),
            watched: (0..options.nodes).step_by(step).collect(),
            places,
            agenda: Agenda::default(),
            now: Instant(0),
            weather: Rng::from_seed(seed("weather", 0)),
            loss: options.loss,
            split: false,
            delivered: Vec::new(),
            loops: 0,
            problems: Vec::new(),
            crashes: 0,
            events: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            options: options.clone(),
            stage,
        }
    }

    pub fn now(&self) -> Instant {
        self.now
    }
    pub fn loops(&self) -> u64 {
        self.loops
    }
    pub fn watched(&self) -> usize {
        self.watched.len()
    }
    pub fn crashes(&self) -> u64 {
        self.crashes
    }
    pub fn events(&self) -> u64 {
        self.events
    }
    pub fn trace_hash(&self) -> u64 {
        self.trace
    }
    pub fn problems(&self) -> Vec<String> {
        self.problems.clone()
    }

    /// Whether a node is hostile and does not merely wait to be.
    pub(super) fn is_hostile(&self, i: usize) -> bool {
        self.stage.as_ref().is_some_and(|stage| stage.is_acting() && !stage.is_honest(i))
    }

    /// In this run even the hostile nodes behave.
    pub fn behave(&mut self) {
        if let Some(stage) = &mut self.stage {
            stage.is_quiet = true;
        }
    }

    /// Starts every node within one second of virtual time.
    pub fn start_all(&mut self) {
        for i in 0..self.places.len() {
            let at = self.now + Duration::from_millis(self.weather.below(1000));
            self.agenda.push(at, Happening::Start { node: i });
        }
        self.run_until(self.now + Duration::from_secs(1));
    }

    /// Bad weather: crashes, a partition, loss.
    pub fn chaos(&mut self) {
        let end = self.now + self.options.chaos;
        let crashes = self.options.churn * self.options.chaos.as_secs_f64() / 60.0;
        for _ in 0..crashes.round() as u64 {
            let at = self.now + Duration::from_micros(self.weather.below(self.options.chaos.as_micros() as u64));
            self.agenda.push(at, Happening::Crash);
        }
        if self.options.partition > Duration::ZERO {
            let begin = self.now + self.options.chaos / 4;
            self.agenda.push(begin, Happening::PartitionBegins);
            self.agenda.push((begin + self.options.partition).min(end), Happening::PartitionEnds);
        }
        self.run_until(end);
        self.loss = self.options.loss / 2.0;
        // Whoever is down comes back.
        self.run_until(end + Duration::from_secs(13));
    }

    /// Runs until every living node has a route to every other. `None`: not within the limit.
    pub fn calm(&mut self) -> Option<Instant> {
        let end = self.now + self.options.limit;
        while self.now < end {
            self.run_until(self.now + Duration::from_millis(100));
            if self.is_complete() {
                return Some(self.now);
            }
        }
        self.explain_incomplete();
        None
    }

    /// Runs for the idle phase; returns bytes per node and hour.
    pub fn idle(&mut self) -> f64 {
        if self.options.idle == Duration::ZERO {
            return 0.0;
        }
        // Let the pings' sessions and the last updates settle.
        self.run_until(self.now + Duration::from_secs(20));
        let before: u64 = self.places.iter().map(|p| p.bytes).sum();
        self.run_until(self.now + self.options.idle);
        let after: u64 = self.places.iter().map(|p| p.bytes).sum();
        (after - before) as f64 / self.places.len() as f64 * 3600.0 / self.options.idle.as_secs_f64()
    }

    /// Datagrams and bytes that a node has sent, on average.
    pub fn sent_per_node(&self) -> (f64, f64) {
        let n = self.places.len() as f64;
        let datagrams: u64 = self.places.iter().map(|p| p.datagrams).sum();
        let bytes: u64 = self.places.iter().map(|p| p.bytes).sum();
        (datagrams as f64 / n, bytes as f64 / n)
    }

    /// Sends a UDP packet between random pairs, end to end through TUNs; returns (delivered intact, sent).
    pub fn ping_pairs(&mut self, pairs: usize) -> (usize, usize) {
        let alive: Vec<usize> = (0..self.places.len()).filter(|i| self.places[*i].node.is_some()).collect();
        let mut expected = Vec::new();
        self.delivered.clear();
        for round in 0..pairs {
            let from = alive[self.weather.below(alive.len() as u64) as usize];
            let to = alive[self.weather.below(alive.len() as u64) as usize];
            let (Some(a), Some(b)) = (&self.places[from].node, &self.places[to].node) else { continue };
            if from == to {
                continue;
            }
            let packet = udp_packet(a.addresses()[round % 2], b.addresses()[round % 2], &[round as u8; 100]);
            // Retransmitted by the "application" until it arrives, as over any lossy network.
            for attempt in 0..20 {
                if attempt > 0 && self.delivered.contains(&(to, packet.clone())) {
                    break;
                }
                self.handle_tun(from, &packet);
                self.run_until(self.now + Duration::from_millis(400));
            }
            expected.push((to, packet));
        }
        let arrived = expected.iter().filter(|e| self.delivered.contains(e)).count();
        (arrived, expected.len())
    }

    /// Calls into a node. In a hostile run what it holds is counted, and a panic ends it.
    pub(super) fn visit<R>(&mut self, i: usize, call: impl FnOnce(&mut Node) -> R) -> Option<R> {
        let place = &mut self.places[i];
        let node = place.node.as_mut()?;
        if self.stage.is_none() {
            return Some(call(node));
        }
        let (result, change) = meter::measure(|| catch_unwind(AssertUnwindSafe(|| call(node))));
        place.memory.1 = place.memory.1.max(place.memory.0 + change.peak);
        place.memory.0 += change.bytes;
        match result {
            Ok(result) => Some(result),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?").to_owned();
                self.panicked(i, &text);
                self.end(i, Duration::from_secs(2));
                None
            }
        }
    }

    /// A packet comes out of a node's TUN device.
    pub(super) fn handle_tun(&mut self, i: usize, packet: &[u8]) {
        let now = self.now;
        self.visit(i, |node| node.handle_tun(now, packet));
        self.drain(i);
    }

    fn start(&mut self, i: usize) {
        if self.places[i].node.is_some() {
            return;
        }
        self.places[i].starts += 1;
        let (place, now) = (&self.places[i], self.now);
        let unix = EPOCH + now.0 / 1_000_000;
        // Everybody knows two of the seeds; a seed knows two earlier ones.
        let seeds = (self.options.nodes / 25).max(1);
        let known = if i < seeds { [i / 2, i.saturating_sub(1)] } else { [i % seeds, (i / seeds) % seeds] };
        let mut bootstrap: Vec<SocketAddr> = known.into_iter().filter(|k| *k != i).map(address).collect();
        bootstrap.dedup();
        let seed = sha256(&[b"node", &self.options.seed.to_be_bytes(), &place.key, &place.starts.to_be_bytes()]);
        let make = || {
            let content =
                RecordContent { name: format!("n{i}"), endpoints: vec![address(i)], ..RecordContent::default() };
            let mut config = NodeConfig::new(self.network.clone(), content, unix);
            if let Some(stage) = &self.stage {
                stage.prepare(i, &mut config);
            }
            let node = Node::new(config, identity(&place.key), Box::new(self.verifier.clone()), seed, now);
            let mut node = node.expect("what a simulated node says of itself is sound");
            if self.stage.is_some() {
                // Nothing forgets flows here: idle links need few probes, which lets a run be long.
                node.set_flow_lifetime(Some(Duration::from_secs(600)));
            }
            node.set_bootstrap(now, &bootstrap);
            node
        };
        let (node, change) = if self.stage.is_some() { meter::measure(make) } else { (make(), Default::default()) };
        self.places[i].node = Some(node);
        self.places[i].memory = (change.bytes, change.bytes);
        self.drain(i);
    }

    /// A node's process ends; it starts anew, with an empty memory, after some time.
    fn end(&mut self, i: usize, pause: Duration) {
        if let Some(node) = self.places[i].node.take() {
            drop(node);
            self.crashes += 1;
            self.places[i].timer = Instant(u64::MAX);
            self.agenda.push(self.now + pause, Happening::Start { node: i });
        }
    }

    /// Carries out what a node wants, and sets its timer.
    pub(super) fn drain(&mut self, i: usize) {
        let now = self.now;
        let (mut out, mut delivered) = (Vec::new(), Vec::new());
        let mut lost = Vec::new();
        let state = self.visit(i, |node| {
            loop {
                let mut quiet = true;
                while let Some(transmit) = node.poll_transmit() {
                    let bytes = meter::handed_out(transmit.bytes);
                    meter::outside(|| out.push((transmit.to, bytes)));
                    quiet = false;
                }
                while let Some(event) = node.poll_event() {
                    quiet = false;
                    match event {
                        Event::Deliver(packet) => {
                            let packet = meter::handed_out(packet);
                            meter::outside(|| delivered.push(packet));
                        }
                        Event::LinkDown { peer, reason } => meter::outside(|| lost.push((peer, reason))),
                        _ => {}
                    }
                }
                if quiet {
                    return (node.take_tables_changed(), node.poll_timeout(now));
                }
            }
        });
        for (to, bytes) in out {
            self.transmit(i, to, bytes);
        }
        for packet in delivered {
            match &mut self.stage {
                Some(stage) => stage.delivered(i, &packet),
                None => self.delivered.push((i, packet)),
            }
        }
        if let Some(stage) = &mut self.stage {
            lost.iter().for_each(|(peer, reason)| stage.link_lost(i, peer, reason));
        }
        let Some((tables_changed, timer)) = state else { return };
        if timer < self.places[i].timer || self.places[i].timer <= now {
            self.places[i].timer = timer;
            self.agenda.push(timer, Happening::Timer { node: i });
        }
        if tables_changed {
            self.watch(i);
        }
    }

    fn transmit(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        if self.stage.as_mut().is_some_and(|stage| stage.swallows(from, &bytes)) {
            return;
        }
        self.places[from].datagrams += 1;
        // What crosses the wire: IPv4 and UDP headers too.
        self.places[from].bytes += bytes.len() as u64 + 28;
        self.carry(from, address(from), to, bytes);
    }

    /// A datagram on its way from node `from`, which may say that it comes from elsewhere.
    pub(super) fn carry(&mut self, from: usize, source: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let target = index(to).filter(|t| *t < self.places.len());
        if let Some(stage) = &mut self.stage {
            stage.overhear(from, to, target, &bytes);
        }
        let Some(target) = target else { return };
        let halves_differ = (self.places[from].at.0 < 0.5) != (self.places[target].at.0 < 0.5);
        if (self.split && halves_differ) || self.weather.chance(self.loss) {
            return;
        }
        let copies = 1 + usize::from(self.weather.chance(self.options.duplicate));
        for _ in 0..copies {
            let (a, b) = (self.places[from].at, self.places[target].at);
            let distance = ((a.0 - b.0).powi(2) + (a.1 - b.1).powi(2)).sqrt();
            let jitter = self.weather.below(self.options.jitter.as_micros() as u64 + 1);
            let at = self.now + Duration::from_micros(1_000 + (distance * 40_000.0) as u64 + jitter);
            let what = Happening::Datagram { to: target, from: source, bytes: bytes.clone() };
            self.agenda.push(at, what);
        }
    }

    pub(super) fn run_until(&mut self, end: Instant) {
        while let Some((at, what)) = self.agenda.pop(end) {
            self.now = at;
            self.events += 1;
            self.happen(what);
        }
        self.now = end;
    }

    fn note(&mut self, values: [u64; 3]) {
        for v in values.into_iter().chain([self.now.0]) {
            self.trace = (self.trace ^ v).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
        }
    }

    fn happen(&mut self, what: Happening) {
        let now = self.now;
        match what {
            Happening::Datagram { to, from, mut bytes } => {
                self.note([to as u64, bytes.len() as u64, u64::from(bytes.first().copied().unwrap_or(0))]);
                let done = self.visit(to, |node| match bytes.first() {
                    // What has this form comes by multicast, from a host of the same LAN.
                    Some(&BEACON) => node.handle_beacon(now, from, &bytes),
                    _ => node.handle_datagram(now, from, 1, &mut bytes),
                });
                if done.is_some() {
                    self.drain(to);
                }
            }
            Happening::Timer { node: i } => {
                if self.places[i].timer != now {
                    return;
                }
                self.note([i as u64, 1, 0]);
                if self.visit(i, |node| node.handle_timeout(now)).is_some() {
                    self.drain(i);
                }
            }
            Happening::Start { node } => {
                self.note([node as u64, 2, 0]);
                self.start(node);
            }
            Happening::Crash => {
                let i = self.weather.below(self.places.len() as u64) as usize;
                self.note([i as u64, 3, 0]);
                if self.places[i].node.is_some() {
                    let pause = Duration::from_millis(2_000 + self.weather.below(10_000));
                    self.end(i, pause);
                }
            }
            Happening::PartitionBegins => self.split = true,
            Happening::PartitionEnds => self.split = false,
            Happening::Mischief { node, way } => {
                self.note([node as u64, 4, way as u64]);
                self.mischief(node, way);
            }
            Happening::Packets => self.packets(),
            Happening::Inspection => self.inspect(),
        }
    }
}

fn super_cidr() -> crate::types::IpPrefix {
    "100.64.0.0/10".parse().expect("a valid prefix")
}

pub(super) fn identity(key: &[u8; 32]) -> Identity {
    Identity::new(SigningKey::ed25519_from_seed(key)).expect("a seed makes an identity")
}
