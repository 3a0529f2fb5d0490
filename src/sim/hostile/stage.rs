//! The part of the world that a run with hostile nodes has beside: who they are, when they act, what they overhear.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use super::{
    Behaviour, Hand, Plan, Way, casting,
    hand::{Heard, Scene},
    judge::Judge,
    stream::Stream,
};
use crate::{
    crypto::Rng,
    identity::{Admission, Identity, InviteKey, Network},
    node::NodeConfig,
    sim::{
        Options,
        happening::{Happening, address},
        world::World,
    },
    types::{Instant, NodeId, NodeTag, SeqNo},
    wire::packet::{HANDSHAKE, HOP},
};

/// Datagrams that a hostile node remembers.
const HEARD: usize = 512;
/// The share of other nodes' datagrams that a hostile node on their way gets to hear; all of their handshakes.
const EARS: f64 = 0.002;
/// Sessions are renewed more often than they would be, so that a run sees it.
const REKEY_AFTER: Duration = Duration::from_secs(300);
/// How long the first bout of each lasts: all at once.
const FIRST_BOUT: Duration = Duration::from_secs(20);

/// A hostile node's injector.
pub(super) struct Player {
    pub identity: Identity,
    pub rng: Rng,
    pub ways: Vec<Way>,
    pub behaviours: Vec<Box<dyn Behaviour>>,
    /// Until when the present bout of each way lasts.
    pub bouts: Vec<Instant>,
    /// Messages of each way.
    pub done: Vec<u64>,
    pub heard: VecDeque<Heard>,
    pub seqno: SeqNo,
}

impl Player {
    fn hear(&mut self, from: SocketAddr, to: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.heard.len() >= HEARD {
            // Any of them, so that some stay long.
            let i = self.rng.below(self.heard.len() as u64) as usize;
            self.heard.swap_remove_back(i);
        }
        self.heard.push_back(Heard { from, to, bytes: bytes.to_vec() });
    }

    /// When the way is to be acted in next.
    fn next(&mut self, now: Instant, way: usize) -> Instant {
        let behaviour = &self.behaviours[way];
        let next = now + self.rng.jitter(behaviour.pause(), 50);
        if next < self.bouts[way] || behaviour.is_steady() {
            return next;
        }
        let begin = now + Duration::from_millis(20_000 + self.rng.below(60_000));
        self.bouts[way] = begin + Duration::from_millis(3_000 + self.rng.below(5_000));
        begin
    }
}

pub(in crate::sim) struct Stage {
    pub(super) plan: Plan,
    /// The run with which the other one is compared: the hostile nodes behave.
    pub(in crate::sim) is_quiet: bool,
    pub(super) scene: Scene,
    pub(super) players: BTreeMap<usize, Player>,
    pub(super) stream: Stream,
    pub(super) judge: Judge,
    /// From when to when the packets of honest pairs count.
    pub(super) phase: Option<(Instant, Instant)>,
    ears: Rng,
}

impl Stage {
    pub(in crate::sim) fn new(plan: &Plan, options: &Options, keys: &mut [[u8; 32]]) -> Self {
        let (scene, players) = casting::cast(plan, options, keys);
        let mut rng = Rng::from_seed(crate::crypto::sha256(&[b"stage", &options.seed.to_be_bytes()]));
        Self {
            plan: plan.clone(),
            is_quiet: false,
            stream: Stream::new(rng.fork(), &scene),
            judge: Judge::default(),
            scene,
            players,
            phase: None,
            ears: rng.fork(),
        }
    }

    pub(in crate::sim) fn network(&self) -> &Network {
        &self.scene.network
    }

    pub(in crate::sim) fn is_honest(&self, i: usize) -> bool {
        !self.scene.hostile[i]
    }

    /// What a node's configuration has in such a run.
    pub(in crate::sim) fn prepare(&self, i: usize, config: &mut NodeConfig) {
        config.content.certificate = self.scene.certificates[i].clone();
        config.rekey_after = REKEY_AFTER;
        // A small network would be a full mesh, in which nobody relays.
        config.max_peers = config.max_peers.min(self.scene.ids.len() / 2).max(8);
        // Every other one joined by an invite of a node that is hostile now, and still has it.
        let inviter = self.players.keys().next().map(|i| self.scene.ids[*i]);
        if let (true, Some(inviter), Some(key)) = (i.is_multiple_of(2), inviter, InviteKey::from_slice(&[7; 32])) {
            config.admission = Some(Admission { inviter, key });
        }
    }

    pub(in crate::sim) fn is_acting(&self) -> bool {
        !self.is_quiet && (self.plan.early || self.phase.is_some())
    }

    /// Whether a hostile node does not send this though it should.
    pub(in crate::sim) fn swallows(&mut self, from: usize, bytes: &[u8]) -> bool {
        if !self.is_acting() {
            return false;
        }
        let Some(player) = self.players.get_mut(&from) else { return false };
        let source = bytes.get(24..32).and_then(|tag| tag.try_into().ok()).map(u64::from_be_bytes);
        if bytes.first() != Some(&HOP) || source.map(NodeTag) == Some(self.scene.ids[from].tag()) {
            return false;
        }
        let by = player.behaviours.iter().position(|b| b.swallows(bytes.len()));
        if let Some(way) = by {
            player.done[way] += 1;
        }
        by.is_some()
    }

    /// A datagram is on its way: hostile nodes hear what is for them, and some of the rest.
    pub(in crate::sim) fn overhear(&mut self, from: usize, to: SocketAddr, target: Option<usize>, bytes: &[u8]) {
        if self.is_quiet {
            return;
        }
        let Some(target) = target else {
            if self.is_honest(from) {
                self.judge.note_stray(to, bytes.len());
            }
            return;
        };
        if let Some(player) = self.players.get_mut(&target) {
            player.hear(address(from), target, bytes);
        }
        let is_handshake = bytes.first() == Some(&HANDSHAKE);
        if !self.scene.hostile[from] && (is_handshake || self.ears.chance(EARS)) {
            let ears = self.ears.below(self.players.len() as u64) as usize;
            if let Some(player) = self.players.values_mut().nth(ears) {
                player.hear(address(from), target, bytes);
            }
        }
    }

    pub(in crate::sim) fn delivered(&mut self, i: usize, packet: &[u8]) {
        self.stream.arrived(i, packet);
    }

    /// Node `i` lost its link to `peer`.
    pub(in crate::sim) fn link_lost(&mut self, i: usize, peer: &NodeId, reason: &'static str) {
        let other = self.scene.ids.iter().position(|id| id == peer);
        if self.phase.is_some() && self.is_honest(i) && other.is_some_and(|j| self.is_honest(j)) {
            self.judge.note_link_lost(reason);
        }
    }
}

impl World {
    /// Lets the hostile nodes loose, if they are not yet.
    pub(in crate::sim) fn let_loose(&mut self) {
        let now = self.now();
        let Some(stage) = &mut self.stage else { return };
        if stage.is_quiet {
            return;
        }
        let mut begin = Vec::new();
        for (i, player) in &mut stage.players {
            for way in 0..player.ways.len() {
                let at = now + Duration::from_millis(player.rng.below(5_000));
                player.bouts[way] = at + FIRST_BOUT;
                begin.push((at, *i, way));
            }
        }
        for (at, node, way) in begin {
            self.agenda.push(at, Happening::Mischief { node, way });
        }
    }

    /// A hostile node does the next thing in one of its ways.
    pub(in crate::sim) fn mischief(&mut self, i: usize, way: usize) {
        let now = self.now();
        let (Some(stage), Some(node)) = (&mut self.stage, &mut self.places[i].node) else { return };
        let Some(player) = stage.players.get_mut(&i) else { return };
        let mut hand = Hand {
            now,
            me: i,
            node,
            rng: &mut player.rng,
            identity: &player.identity,
            scene: &stage.scene,
            heard: &player.heard,
            seqno: &mut player.seqno,
            said: Vec::new(),
            count: 0,
        };
        player.behaviours[way].act(&mut hand);
        let (said, count) = (hand.said, hand.count);
        player.done[way] += count;
        let next = player.next(now, way);
        self.agenda.push(next, Happening::Mischief { node: i, way });
        self.drain(i);
        for (source, to, bytes) in said {
            self.carry(i, source, to, bytes);
        }
    }
}
