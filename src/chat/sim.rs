//! Many replicas, one platform, a network that loses, repeats, reorders and splits: whatever happens, all see the same in the end.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    thread,
};

use serde::Serialize;

use super::{Author, Ban, Body, DeviceKey, Id, Kind, Message, Replica, Role, Taken};
use crate::crypto::{Rng, sha256};

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Copies, each with its own identity: 2 to 200.
    pub replicas: usize,
    /// Messages and acts together.
    pub operations: usize,
    pub seed: u64,
    /// The share of acts of authority, 0 to 1.
    pub acts: f64,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub seed: u64,
    /// Messages and acts, with those of the beginning.
    pub operations: usize,
    pub acts: usize,
    /// Acts that are void in the end: never allowed, or removed by others.
    pub void: usize,
    pub shown: usize,
    pub purged: usize,
    pub banned: usize,
    /// Views that were compared: of four identities, at each replica.
    pub compared: usize,
    /// Views of one viewer that differ between replicas.
    pub differing: usize,
    /// SHA-256 over the views: the same options and seed give the same.
    pub digest: String,
}

struct World {
    rng: Rng,
    now_ms: u64,
    replicas: Vec<Replica>,
    authors: Vec<Author>,
    all: Vec<Arc<Message>>,
    /// Identities that were ever granted a role: they act more often.
    granted: Vec<usize>,
}

/// Runs many, on every processor; `report` gets each as it ends and says whether to go on.
pub fn run_all(options: impl Iterator<Item = Options> + Send, report: &mut (dyn FnMut(&Report) -> bool + Send)) {
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    let shared = Mutex::new((options, report, true));
    let next = || shared.lock().map_or(None, |mut s| if s.2 { s.0.next() } else { None });
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(options) = next() {
                    let done = run(&options);
                    if let Ok(mut s) = shared.lock() {
                        s.2 &= (s.1)(&done);
                    }
                }
            });
        }
    });
}

/// Runs one seed.
#[must_use]
pub fn run(options: &Options) -> Report {
    let mut world = World::new(options);
    world.live(options);
    world.deliver_everything();
    world.report(options)
}

impl World {
    fn new(options: &Options) -> Self {
        let mut rng = Rng::from_seed(sha256(&[b"chat", &options.seed.to_be_bytes()]));
        let mut key = || DeviceKey::new(&rng.bytes(), &rng.bytes());
        let mut founder = Author::new(key(), None);
        let mut first = Replica::default();
        let genesis = founder.join(&mut first, 1_000_000);
        let mut authors = vec![founder];
        authors.extend((1..options.replicas).map(|_| Author::new(key(), Some(genesis.platform))));
        let replicas = (0..options.replicas).map(|_| Replica::new(genesis.platform)).collect();
        let mut world =
            Self { rng, now_ms: 1_000_000, replicas, authors, all: vec![Arc::clone(&genesis)], granted: vec![0] };
        for i in 0..options.replicas {
            world.replicas[i].insert(world.now_ms, Arc::clone(&genesis));
            if i > 0 {
                let join = world.authors[i].join(&mut world.replicas[i], world.now_ms);
                world.all.push(join);
            }
        }
        world
    }

    /// Everybody writes, and what is written reaches some: now here, now there, and over a split not at all.
    fn live(&mut self, options: &Options) {
        let n = self.replicas.len();
        for step in 0..options.operations {
            self.now_ms += self.rng.below(200);
            let split = (step / (options.operations / 6).max(1)) % 2 == 1;
            let is_act = self.rng.chance(options.acts);
            // Those who may do something do most of what is done; who may not, tries too.
            let who = if is_act && self.rng.chance(0.3) {
                0
            } else if is_act && self.rng.chance(0.8) {
                self.granted[self.rng.below(self.granted.len() as u64) as usize]
            } else {
                self.rng.below(n as u64) as usize
            };
            let message = if is_act { self.act(who) } else { self.talk(who) };
            self.all.push(Arc::clone(&message));
            for to in 0..n {
                let is_cut = split && to % 2 != who % 2;
                if to != who && !is_cut && self.rng.chance(0.5) {
                    self.replicas[to].insert(self.now_ms, Arc::clone(&message));
                }
            }
            // Now and then one hears a few old things.
            let to = self.rng.below(n as u64) as usize;
            for _ in 0..self.rng.below(4) {
                let old = self.any();
                if !split {
                    self.replicas[to].insert(self.now_ms, old);
                }
            }
        }
    }

    fn any(&mut self) -> Arc<Message> {
        let at = self.rng.below(self.all.len() as u64) as usize;
        Arc::clone(&self.all[at])
    }

    fn identity(&mut self) -> (usize, Id) {
        let at = self.rng.below(self.authors.len() as u64) as usize;
        (at, self.authors[at].key.identity)
    }

    fn write(&mut self, who: usize, kind: Kind, body: &Body, refs: Vec<Id>) -> Arc<Message> {
        self.authors[who].write(&mut self.replicas[who], self.now_ms, kind, body, refs)
    }

    fn talk(&mut self, who: usize) -> Arc<Message> {
        let other = self.any();
        let answers = self.replicas[who].knows(&other.id) && other.head.kind == Kind::Text;
        let (kind, text, refs) = match self.rng.below(10) {
            0 if answers => (Kind::Reaction, b"+1".to_vec(), vec![other.id]),
            1 if answers => (Kind::Edit, b"better".to_vec(), vec![other.id]),
            2 if answers => (Kind::Retract, Vec::new(), vec![other.id]),
            _ => (Kind::Text, self.rng.bytes::<16>().to_vec(), Vec::new()),
        };
        self.write(who, kind, &Body::Content(Some(text)), refs)
    }

    fn act(&mut self, who: usize) -> Arc<Message> {
        let (at, target) = self.identity();
        let device = self.authors[at].key.device;
        let ban = |rng: &mut Rng| Ban {
            target,
            cut: vec![(device, rng.below(60))],
            purge: rng.chance(0.2),
            reason: String::new(),
        };
        let (kind, body) = match self.rng.below(100) {
            0..45 => {
                self.granted.push(at);
                let role = if self.rng.chance(0.6) { Role::Powernode } else { Role::Moderator };
                (Kind::Grant, Body::Grant { target, role })
            }
            45..53 => (Kind::Revoke, Body::Revoke { target }),
            53..61 => (Kind::Ban, Body::Ban(ban(&mut self.rng))),
            61..70 => (Kind::Unban, Body::Unban { target }),
            70..76 => (Kind::ShadowBan, Body::ShadowBan(ban(&mut self.rng))),
            76..80 => (Kind::Unshadow, Body::Unshadow { target }),
            80..82 => (Kind::Leave, Body::Leave),
            82 if self.rng.chance(0.1) => (Kind::Checkpoint, Body::Checkpoint),
            _ => {
                let targets = vec![self.any().id];
                (Kind::Tombstone, Body::Tombstone { targets, reason: String::new() })
            }
        };
        self.write(who, kind, &body, Vec::new())
    }

    /// Every message reaches every replica, in an order of its own, some of them twice.
    fn deliver_everything(&mut self) {
        self.now_ms += 10_000_000;
        for replica in &mut self.replicas {
            let mut order: Vec<usize> = (0..self.all.len()).collect();
            for i in (1..order.len()).rev() {
                order.swap(i, self.rng.below(i as u64 + 1) as usize);
            }
            for i in order {
                replica.insert(self.now_ms, Arc::clone(&self.all[i]));
                if self.rng.chance(0.05) {
                    assert_eq!(replica.insert(self.now_ms, Arc::clone(&self.all[i])), Taken::Known);
                }
            }
        }
    }

    fn report(&mut self, options: &Options) -> Report {
        let n = self.authors.len();
        let viewers = [0, 1, n / 2, n - 1].map(|i| self.authors[i].key.identity);
        let viewers: HashSet<Id> = viewers.into_iter().collect();
        let mut report = Report {
            seed: options.seed,
            operations: self.all.len(),
            acts: self.all.iter().filter(|m| m.head.kind.is_authority()).count(),
            compared: viewers.len() * self.replicas.len(),
            ..Report::default()
        };
        let mut sorted: Vec<Id> = viewers.into_iter().collect();
        sorted.sort_unstable();
        let mut first: Vec<[u8; 32]> = Vec::new();
        for replica in &self.replicas {
            let (void, views) = replica.views(&sorted);
            let digests: Vec<[u8; 32]> = views.iter().map(super::View::digest).collect();
            if first.is_empty() {
                first = digests;
                report.void = void;
                report.shown = views[0].entries.len();
                report.purged = views[0].entries.iter().filter(|e| e.shown == super::Shown::Purged).count();
                report.banned = views[0].members.iter().filter(|m| m.2).count();
            } else {
                report.differing += first.iter().zip(&digests).filter(|(a, b)| a != b).count();
            }
        }
        let digests = first.concat();
        report.digest = data_encoding::HEXLOWER.encode(&sha256(&[&digests]));
        report
    }
}
