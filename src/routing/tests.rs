//! No loop at any instant, whatever the network does; and routes for everybody once it calms down.

use std::collections::{BTreeMap, BTreeSet};

mod flapping;
mod liars;

use super::*;
use crate::{
    crypto::{Rng, SigningKey},
    identity::{Identity, Network, RecordContent},
    wire::proto::{Body, RouteUpdate, SeqnoRequest},
};

/// Announcements are made and verified once; the schedules reuse them.
struct Book {
    network: Network,
    identities: Vec<Identity>,
    pages: BTreeMap<(usize, SeqNo), Arc<Verified>>,
    by_bytes: HashMap<Vec<u8>, Arc<Verified>>,
}

impl Book {
    fn new(nodes: usize) -> Self {
        let identities =
            (0..nodes).map(|i| Identity::new(SigningKey::ed25519_from_seed(&[i as u8 + 1; 32])).unwrap()).collect();
        let network = Network::new("n", None, None, "100.64.0.0/16".parse().unwrap());
        Self { network, identities, pages: BTreeMap::new(), by_bytes: HashMap::new() }
    }

    fn page(&mut self, node: usize, seqno: SeqNo) -> Arc<Verified> {
        if let Some(page) = self.pages.get(&(node, seqno)) {
            return Arc::clone(page);
        }
        let content = RecordContent { name: format!("n{node}"), ..Default::default() };
        let page = Arc::new(self.identities[node].announce(&self.network, &content, seqno, 7200).unwrap());
        self.by_bytes.insert(page.bytes.clone(), Arc::clone(&page));
        self.pages.insert((node, seqno), Arc::clone(&page));
        page
    }
}

impl Judge for Book {
    fn may_be_member(&self, _: &NodeId) -> bool {
        true
    }

    fn judge(&mut self, announcement: &[u8], _: &[u8], _: Option<&Arc<Record>>) -> Result<Arc<Verified>, Refusal> {
        self.by_bytes.get(announcement).cloned().ok_or(Refusal::ForgedIdentity)
    }
}

#[derive(Clone)]
enum Message {
    Update(RouteUpdate),
    Request(SeqnoRequest),
}

struct World<'a> {
    book: &'a mut Book,
    now: Instant,
    nodes: Vec<Routing>,
    links: BTreeMap<(usize, usize), Vec<Message>>,
    reliable: bool,
    rng: Rng,
}

impl World<'_> {
    fn new(book: &mut Book, nodes: usize, rng: Rng) -> World<'_> {
        let routings = (0..nodes).map(|i| Routing::new(book.page(i, 10), Instant(0))).collect();
        World { book, now: Instant(0), nodes: routings, links: BTreeMap::new(), reliable: false, rng }
    }

    fn neighbor(&self, a: usize, b: usize) -> Option<NeighborId> {
        self.nodes[a].find_neighbor(&self.book.identities[b].id())
    }

    fn up(&mut self, a: usize, b: usize, cost: Metric) {
        for (x, y) in [(a, b), (b, a)] {
            let id = self.book.identities[y].id();
            if self.neighbor(x, y).is_none() {
                self.nodes[x].neighbor_up(self.now, id, cost);
            }
            self.links.entry((x, y)).or_default();
        }
    }

    fn down(&mut self, a: usize, b: usize) {
        for (x, y) in [(a, b), (b, a)] {
            if let Some(n) = self.neighbor(x, y) {
                self.nodes[x].neighbor_down(self.now, n);
            }
            if self.reliable {
                self.links.remove(&(x, y));
            }
        }
    }

    /// Moves what the nodes want to say onto the links.
    fn drain(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                let Some(n) = self.neighbor(a, b) else { continue };
                let mut out = Vec::new();
                while let Some(update) = self.nodes[a].next_update(self.now, n) {
                    out.push(Message::Update(update));
                }
                while let Some(request) = self.nodes[a].next_request(n) {
                    out.push(Message::Request(request));
                }
                self.links.entry((a, b)).or_default().extend(out);
            }
            for event in self.nodes[a].take_events() {
                if event == Event::NeedSeqno
                    && let Some(own) = self.nodes[a].own()
                {
                    let page = self.book.page(a, own.seqno + 1);
                    self.nodes[a].set_own(self.now, page);
                }
            }
        }
    }

    /// Delivers one message; in bad weather any of them, maybe twice, maybe never.
    fn deliver(&mut self) -> bool {
        let busy: Vec<_> = self.links.iter().filter(|(_, q)| !q.is_empty()).map(|(k, _)| *k).collect();
        if busy.is_empty() {
            return false;
        }
        let (a, b) = busy[self.rng.below(busy.len() as u64) as usize];
        let queue = self.links.get_mut(&(a, b)).unwrap();
        let at = if self.reliable { 0 } else { self.rng.below(queue.len() as u64) as usize };
        let message = queue.remove(at);
        if !self.reliable && self.rng.chance(0.2) {
            return true;
        }
        if !self.reliable && self.rng.chance(0.1) {
            self.links.get_mut(&(a, b)).unwrap().push(message.clone());
        }
        if let Some(n) = self.neighbor(b, a) {
            match message {
                Message::Update(update) => {
                    self.nodes[b].handle_update(self.now, n, &update, self.book);
                }
                Message::Request(request) => self.nodes[b].handle_request(self.now, n, &request),
            }
        }
        true
    }

    fn step(&mut self) {
        let count = self.nodes.len() as u64;
        let (a, b) = (self.rng.below(count) as usize, self.rng.below(count) as usize);
        let cost = 1 + self.rng.below(20_000) as Metric;
        match self.rng.below(12) {
            0 if a != b => self.up(a, b, cost),
            1 if a != b => self.down(a, b),
            2 | 3 => {
                if let Some(n) = self.neighbor(a, b) {
                    self.nodes[a].neighbor_cost(self.now, n, cost);
                }
            }
            4 => self.now = self.now + Duration::from_millis(self.rng.below(200)),
            5 => {
                for node in &mut self.nodes {
                    node.handle_timeout(self.now);
                }
            }
            _ => {
                self.deliver();
            }
        }
        self.drain();
    }

    /// Follows next hops towards every origin from everywhere.
    fn assert_no_loop(&self) {
        let by_id: BTreeMap<NodeId, usize> =
            self.book.identities.iter().enumerate().map(|(i, id)| (id.id(), i)).collect();
        for (target, identity) in self.book.identities.iter().enumerate().take(self.nodes.len()) {
            for start in 0..self.nodes.len() {
                let mut seen = BTreeSet::new();
                let mut at = start;
                while at != target {
                    assert!(seen.insert(at), "loop towards {target}: {seen:?} then {at}");
                    let next = self.nodes[at].origin(&identity.id()).and_then(|o| self.nodes[at].next_hop(o));
                    let Some(next) = next else { break };
                    at = by_id[&next];
                }
            }
        }
    }

    fn calm(&mut self) {
        let pairs: BTreeSet<_> =
            self.links.keys().map(|(a, b)| (*a.min(b), *a.max(b))).filter(|(a, b)| a != b).collect();
        self.reliable = true;
        for (a, b) in pairs {
            let was_up = self.neighbor(a, b).is_some();
            self.down(a, b);
            if was_up {
                self.up(a, b, 1000);
            }
        }
        for _ in 0..400 {
            self.now = self.now + Duration::from_millis(50);
            for node in &mut self.nodes {
                node.handle_timeout(self.now);
            }
            self.drain();
            while self.deliver() {
                self.assert_no_loop();
                self.drain();
            }
        }
    }

    /// Who can be reached over links at all.
    fn component(&self, start: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([start]);
        let mut todo = vec![start];
        while let Some(a) = todo.pop() {
            for b in 0..self.nodes.len() {
                if self.neighbor(a, b).is_some() && found.insert(b) {
                    todo.push(b);
                }
            }
        }
        found
    }
}

#[test]
fn no_loop_at_any_instant_in_10_000_random_schedules() {
    let mut book = Book::new(7);
    for seed in 0..10_000u64 {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = Rng::from_seed(bytes);
        let nodes = 3 + rng.below(5) as usize;
        let mut world = World::new(&mut book, nodes, rng);
        for i in 1..nodes {
            let cost = 1 + world.rng.below(20_000) as Metric;
            let to = world.rng.below(i as u64) as usize;
            world.up(i, to, cost);
        }
        world.drain();
        for _ in 0..120 {
            world.step();
            world.assert_no_loop();
        }
    }
}

#[test]
fn everybody_reachable_has_a_route_after_the_storm() {
    let mut book = Book::new(7);
    for seed in 0..150u64 {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut world = World::new(&mut book, 7, Rng::from_seed(bytes));
        for i in 1..7 {
            let to = world.rng.below(i as u64) as usize;
            world.up(i, to, 1000);
        }
        for _ in 0..300 {
            world.step();
        }
        world.calm();
        for a in 0..7 {
            let component = world.component(a);
            for b in 0..7 {
                let origin = world.nodes[a].origin(&world.book.identities[b].id());
                let has_route = a == b || origin.is_some_and(|o| world.nodes[a].next_hop(o).is_some());
                assert_eq!(has_route, component.contains(&b), "seed {seed}: {a} to {b}");
            }
        }
    }
}

#[test]
fn a_route_that_gets_worse_stays_in_use_until_there_is_a_better_one() {
    // A line: 0-1-2, whose far link becomes ten times as long.
    let mut book = Book::new(3);
    let mut world = World::new(&mut book, 3, Rng::from_seed([1; 32]));
    world.up(0, 1, 1000);
    world.up(1, 2, 1000);
    world.calm();
    let (one, two) = (world.book.identities[1].id(), world.book.identities[2].id());
    let o = world.nodes[0].origin(&two).unwrap();
    let before = world.nodes[0].feasibility_distance(&two).unwrap();
    let n = world.neighbor(1, 2).unwrap();
    world.nodes[1].neighbor_cost(world.now, n, 10_000);
    for _ in 0..100 {
        world.now = world.now + Duration::from_millis(50);
        world.nodes.iter_mut().for_each(|node| node.handle_timeout(world.now));
        world.drain();
        while world.deliver() {
            assert_eq!(world.nodes[0].next_hop(o), Some(one));
            world.drain();
        }
    }
    assert_eq!(world.nodes[0].route(o).unwrap().metric, 11_000);
    let after = world.nodes[0].feasibility_distance(&two).unwrap();
    assert!(after.0 > before.0, "and a new sequence number was asked for: {before:?} {after:?}");
}

#[test]
fn a_link_that_gets_worse_is_left_for_a_way_that_was_not_feasible() {
    // Node 1 is as far from 2 as node 0 is: its route is no feasible one for node 0.
    let mut book = Book::new(3);
    let mut world = World::new(&mut book, 3, Rng::from_seed([1; 32]));
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        world.up(a, b, 1000);
    }
    world.reliable = true;
    let settle = |world: &mut World<'_>| {
        for _ in 0..100 {
            world.now = world.now + Duration::from_millis(5);
            world.drain();
            while world.deliver() {}
        }
    };
    settle(&mut world);
    let (one, two) = (world.book.identities[1].id(), world.book.identities[2].id());
    let o = world.nodes[0].origin(&two).unwrap();
    let route = world.nodes[0].route(o).unwrap();
    assert_eq!((route.next_hop, route.backup), (two, None));
    let n = world.neighbor(0, 2).unwrap();
    world.nodes[0].neighbor_cost(world.now, n, 200_000);
    settle(&mut world);
    let route = world.nodes[0].route(o).unwrap();
    assert_eq!((route.next_hop, route.metric), (one, 2000));
}

#[test]
fn a_backup_takes_over_in_the_same_call_and_split_horizon_holds() {
    // A triangle: 0-1, 1-2, 0-2. Node 0 reaches 2 directly; its backup is 1.
    let mut book = Book::new(3);
    let mut world = World::new(&mut book, 3, Rng::from_seed([1; 32]));
    for (a, b, cost) in [(0, 1, 1000), (1, 2, 1000), (0, 2, 1500)] {
        world.up(a, b, cost);
    }
    world.reliable = true;
    while {
        world.now = world.now + Duration::from_millis(50);
        world.drain();
        world.deliver()
    } {}
    let two = world.book.identities[2].id();
    let one = world.book.identities[1].id();
    let o = world.nodes[0].origin(&two).unwrap();
    let route = world.nodes[0].route(o).unwrap();
    assert_eq!((route.next_hop, route.backup, route.metric), (two, Some(one), 1500));
    let n = world.neighbor(0, 2).unwrap();
    world.nodes[0].neighbor_down(world.now, n);
    assert_eq!(world.nodes[0].next_hop(o), Some(one));
    let n = world.neighbor(0, 1).unwrap();
    assert_eq!(world.nodes[0].advertised(o, n).map(|a| a.1), Some(INFINITY), "poisoned towards the next hop");
}

#[test]
fn a_sequence_number_that_the_origin_has_not_signed_is_refused() {
    let mut book = Book::new(2);
    let mut world = World::new(&mut book, 2, Rng::from_seed([1; 32]));
    world.up(0, 1, 1000);
    world.calm();
    let n = world.neighbor(0, 1).unwrap();
    let o = world.nodes[0].origin(&world.book.identities[1].id()).unwrap();
    let slot = world.nodes[0].learned(n, o).slot;
    let forged = RouteUpdate { slots: vec![slot], seqnos: vec![99], metrics: vec![1], ..Default::default() };
    world.nodes[0].handle_update(world.now, n, &forged, world.book);
    assert_eq!(world.nodes[0].feasibility_distance(&world.book.identities[1].id()).unwrap().0, 10);
    assert_eq!(world.nodes[0].origins[o as usize].selected.unwrap().seqno, 10);
    // It asks for the announcement; what comes doesn't verify.
    let body = Body { slot, announcement: b"forged".to_vec(), record: vec![] };
    let update = RouteUpdate { bodies: vec![body], ..Default::default() };
    let refused = world.nodes[0].handle_update(world.now, n, &update, world.book);
    assert_eq!(refused, [Refusal::ForgedIdentity]);
    let unknown = RouteUpdate { slots: vec![7], seqnos: vec![1], metrics: vec![1], ..Default::default() };
    world.nodes[0].handle_update(world.now, n, &unknown, world.book);
    assert_eq!(world.nodes[0].counters.entries_refused, 1);
}
