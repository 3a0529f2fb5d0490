//! The simulated world: nodes, a network with weather, and a heap of events in virtual time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{Options, verifier::SharedVerifier};
use crate::{
    crypto::{Rng, SigningKey, sha256},
    identity::{Identity, Network, RecordContent},
    node::{Event, Node, NodeConfig},
    types::{Instant, NodeId, UnixTime},
};

const EPOCH: UnixTime = 1_790_000_000;
const PORT: u16 = 51_900;

enum Happening {
    Datagram { to: usize, from: SocketAddr, bytes: Vec<u8> },
    Timer { node: usize },
    Start { node: usize },
    Crash,
    PartitionBegins,
    PartitionEnds,
}

struct Entry {
    at: Instant,
    order: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(super) struct Place {
    pub node: Option<Node>,
    pub id: NodeId,
    key: [u8; 32],
    timer: Instant,
    at: (f64, f64),
    datagrams: u64,
    bytes: u64,
    starts: u32,
}

pub(super) struct World {
    options: Options,
    network: Network,
    verifier: SharedVerifier,
    pub(super) places: Vec<Place>,
    pub(super) by_id: HashMap<NodeId, usize>,
    heap: BinaryHeap<Reverse<Entry>>,
    order: u64,
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
}

/// Of the generated form: nothing is spent on stretching it.
const SECRET: &str = "YSBzZWNyZXQgZm9yIHNpbXVsYXRlZCBuZXR3b3Jrcy4";

fn address(i: usize) -> SocketAddr {
    let [_, a, b, c] = (i as u32 + 1).to_be_bytes();
    SocketAddr::new(IpAddr::from([10, a, b, c]), PORT)
}

fn index(addr: SocketAddr) -> Option<usize> {
    match addr.ip() {
        IpAddr::V4(ip) => {
            let [ten, a, b, c] = ip.octets();
            (ten == 10).then(|| u32::from_be_bytes([0, a, b, c]) as usize).and_then(|i| i.checked_sub(1))
        }
        IpAddr::V6(_) => None,
    }
}

impl World {
    pub fn new(options: &Options) -> Self {
        let network = Network::new("simulation", Some(SECRET), None, super_cidr());
        let seed = |stream: &str, i: u64| sha256(&[stream.as_bytes(), &options.seed.to_be_bytes(), &i.to_be_bytes()]);
        let mut layout = Rng::from_seed(seed("layout", 0));
        let places: Vec<Place> = (0..options.nodes)
            .map(|i| {
                let key = seed("identity", i as u64);
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
                }
            })
            .collect();
        // Destinations are independent in distance vector: watching a sample of them is exact for those.
        let step = if options.nodes <= 128 { 1 } else { options.nodes / 8 };
        Self {
            verifier: SharedVerifier::new(network.clone()),
            network,
            by_id: places.iter().enumerate().map(|(i, p)| (p.id, i)).collect(),
            watched: (0..options.nodes).step_by(step).collect(),
            places,
            heap: BinaryHeap::new(),
            order: 0,
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

    fn push(&mut self, at: Instant, what: Happening) {
        self.order += 1;
        self.heap.push(Reverse(Entry { at, order: self.order, what }));
    }

    /// Starts every node within one second of virtual time.
    pub fn start_all(&mut self) {
        for i in 0..self.places.len() {
            let at = self.now + Duration::from_millis(self.weather.below(1000));
            self.push(at, Happening::Start { node: i });
        }
        self.run_until(self.now + Duration::from_secs(1));
    }

    /// Bad weather: crashes, a partition, loss.
    pub fn chaos(&mut self) {
        let end = self.now + self.options.chaos;
        let crashes = self.options.churn * self.options.chaos.as_secs_f64() / 60.0;
        for _ in 0..crashes.round() as u64 {
            let at = self.now + Duration::from_micros(self.weather.below(self.options.chaos.as_micros() as u64));
            self.push(at, Happening::Crash);
        }
        if self.options.partition > Duration::ZERO {
            let begin = self.now + self.options.chaos / 4;
            self.push(begin, Happening::PartitionBegins);
            self.push((begin + self.options.partition).min(end), Happening::PartitionEnds);
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
            let packet = udp_packet(a.addresses()[round % 2], b.addresses()[round % 2], round as u8);
            // Retransmitted by the "application" until it arrives, as over any lossy network.
            for attempt in 0..20 {
                if attempt > 0 && self.delivered.contains(&(to, packet.clone())) {
                    break;
                }
                if let Some(node) = &mut self.places[from].node {
                    node.handle_tun(self.now, &packet);
                }
                self.drain(from);
                self.run_until(self.now + Duration::from_millis(400));
            }
            expected.push((to, packet));
        }
        let arrived = expected.iter().filter(|e| self.delivered.contains(e)).count();
        (arrived, expected.len())
    }

    fn start(&mut self, i: usize) {
        if self.places[i].node.is_some() {
            return;
        }
        let place = &mut self.places[i];
        place.starts += 1;
        let unix = EPOCH + self.now.0 / 1_000_000;
        let content = RecordContent { name: format!("n{i}"), endpoints: vec![address(i)], ..RecordContent::default() };
        let config = NodeConfig::new(self.network.clone(), content, unix);
        let seed = sha256(&[b"node", &self.options.seed.to_be_bytes(), &place.key, &place.starts.to_be_bytes()]);
        let node = Node::new(config, identity(&place.key), Box::new(self.verifier.clone()), seed, self.now);
        let mut node = node.expect("what a simulated node says of itself is sound");
        // Everybody knows two of the seeds; a seed knows two earlier ones.
        let seeds = (self.options.nodes / 25).max(1);
        let known = if i < seeds { [i / 2, i.saturating_sub(1)] } else { [i % seeds, (i / seeds) % seeds] };
        let mut bootstrap: Vec<SocketAddr> = known.into_iter().filter(|k| *k != i).map(address).collect();
        bootstrap.dedup();
        node.set_bootstrap(self.now, &bootstrap);
        self.places[i].node = Some(node);
        self.drain(i);
    }

    /// Carries out what a node wants, and sets its timer.
    fn drain(&mut self, i: usize) {
        let now = self.now;
        let Some(node) = &mut self.places[i].node else { return };
        let mut out = Vec::new();
        loop {
            let mut quiet = true;
            while let Some(transmit) = node.poll_transmit() {
                out.push(transmit);
                quiet = false;
            }
            while let Some(event) = node.poll_event() {
                quiet = false;
                if let Event::Deliver(packet) = event {
                    self.delivered.push((i, packet));
                }
            }
            if quiet {
                break;
            }
        }
        let tables_changed = node.take_tables_changed();
        let timer = node.poll_timeout(now);
        for transmit in out {
            self.transmit(i, transmit.to, transmit.bytes);
        }
        if timer < self.places[i].timer || self.places[i].timer <= now {
            self.places[i].timer = timer;
            self.push(timer, Happening::Timer { node: i });
        }
        if tables_changed {
            self.watch(i);
        }
    }

    fn transmit(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        self.places[from].datagrams += 1;
        // What crosses the wire: IPv4 and UDP headers too.
        self.places[from].bytes += bytes.len() as u64 + 28;
        let Some(target) = index(to).filter(|t| *t < self.places.len()) else { return };
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
            let what = Happening::Datagram { to: target, from: address(from), bytes: bytes.clone() };
            self.push(at, what);
        }
    }

    fn run_until(&mut self, end: Instant) {
        while self.heap.peek().is_some_and(|Reverse(e)| e.at <= end) {
            let Some(Reverse(entry)) = self.heap.pop() else { break };
            self.now = entry.at;
            self.events += 1;
            self.happen(entry.what);
        }
        self.now = end;
    }

    fn note(&mut self, values: [u64; 3]) {
        for v in values.into_iter().chain([self.now.0]) {
            self.trace = (self.trace ^ v).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Datagram { to, from, mut bytes } => {
                self.note([to as u64, bytes.len() as u64, u64::from(bytes[0])]);
                if let Some(node) = &mut self.places[to].node {
                    node.handle_datagram(self.now, from, 1, &mut bytes);
                    self.drain(to);
                }
            }
            Happening::Timer { node: i } => {
                if self.places[i].timer != self.now {
                    return;
                }
                self.note([i as u64, 1, 0]);
                if let Some(node) = &mut self.places[i].node {
                    node.handle_timeout(self.now);
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
                if self.places[i].node.take().is_some() {
                    self.crashes += 1;
                    self.places[i].timer = Instant(u64::MAX);
                    let back = self.now + Duration::from_millis(2_000 + self.weather.below(10_000));
                    self.push(back, Happening::Start { node: i });
                }
            }
            Happening::PartitionBegins => self.split = true,
            Happening::PartitionEnds => self.split = false,
        }
    }
}

fn super_cidr() -> crate::types::IpPrefix {
    "100.64.0.0/10".parse().expect("a valid prefix")
}

fn identity(key: &[u8; 32]) -> Identity {
    Identity::new(SigningKey::ed25519_from_seed(key)).expect("a seed makes an identity")
}

/// A UDP packet whose payload depends on `tag`.
fn udp_packet(from: IpAddr, to: IpAddr, tag: u8) -> Vec<u8> {
    let payload = [&[0u8, 9, 0, 9, 0, 108, 0, 0][..], &[tag; 100]].concat();
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mut p = vec![0x45, 0, 0, 128, 0, 0, 0, 0, 64, 17, 0, 0];
            p.extend_from_slice(&a.octets());
            p.extend_from_slice(&b.octets());
            [p, payload].concat()
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mut p = vec![0x60, 0, 0, 0, 0, 108, 17, 64];
            p.extend_from_slice(&a.octets());
            p.extend_from_slice(&b.octets());
            [p, payload].concat()
        }
        _ => Vec::new(),
    }
}
