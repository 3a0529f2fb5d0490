//! Proof of life, end to end. A route is hearsay: whoever offers a short one to an exit or a router that is dead, or lets nothing through to it,
//! would keep those who choose by metric for good. So where there is a choice, the few best are asked for an answer that only they can give, on
//! sessions with them: who answers goes before who doesn't.

use std::collections::{BTreeMap, BTreeSet};

use super::{Node, Peer};
use crate::{
    types::{Duration, Instant, NodeId},
    wire::{
        frame::{self, FRAME, Kind},
        proto,
    },
};

/// Numbers of echoes from here up are questions of this module.
const FIRST_ID: u64 = 1 << 63;
/// Of those who could do it, so many are asked.
const ASKED: usize = 3;
/// Nodes asked at the same time, for whatever.
const MAX_ASKED: usize = 32;
/// Nodes about whom something is remembered.
const MAX_JUDGED: usize = 128;
/// Who is silent for so long is asked: with packets on their way to it, in use without any, and in reserve.
const SILENCE: [Duration; 3] = [Duration::from_secs(3), Duration::from_secs(30), Duration::from_secs(60)];
/// A question is repeated after.
const REPEAT: Duration = Duration::from_secs(2);
/// Who has never answered, and does not by then, goes behind those who do.
const PATIENCE: Duration = Duration::from_secs(3);
/// Who does not answer for so long is suspect.
const LATE: Duration = Duration::from_secs(10);
/// For so long at first, and at most.
const SUSPICION: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// A network is in use for so long after a packet to it.
const IN_USE: Duration = Duration::from_secs(60);

/// Ranks, the best first: it answers; it wasn't asked long enough; it was suspect a short time ago and answers again; it hasn't answered; it
/// is suspect.
pub(super) const PROVEN: u8 = 0;
pub(super) const UNKNOWN: u8 = 1;
pub(super) const RETURNED: u8 = 2;
const SILENT: u8 = 3;
const SUSPECT: u8 = 4;

/// What is known of one node.
#[derive(Debug)]
struct Judged {
    /// What was received on its sessions, and sent by users, at the last look.
    received: u64,
    traffic: u64,
    /// When it was looked at first.
    since: Instant,
    /// The last sign of life.
    alive: Option<Instant>,
    /// When users' packets went there last.
    used: Option<Instant>,
    /// Since when it is asked and hasn't answered, and when it was asked last.
    asked: Option<(Instant, Instant)>,
    suspect_until: Instant,
    /// It became suspect, and hasn't shown since that it is alive.
    has_failed: bool,
    /// For how long it is suspect the next time.
    suspicion: Duration,
    wanted: Instant,
}

impl Judged {
    fn new(now: Instant) -> Self {
        Self {
            received: 0,
            traffic: 0,
            since: now,
            alive: None,
            used: None,
            asked: None,
            suspect_until: Instant::default(),
            has_failed: false,
            suspicion: SUSPICION.0,
            wanted: now,
        }
    }

    /// Looks at what came from the node, and went there. Only what came since the look before is a sign of life.
    fn look(&mut self, now: Instant, peer: &Peer) {
        let sessions = peer.sessions.iter();
        let received = sessions.clone().map(|s| s.transport.received_bytes()).sum();
        let proven = sessions.filter(|s| s.initiator || s.transport.is_confirmed()).map(|s| s.since).max();
        let is_new = self.since == now;
        let was_made = proven.is_some_and(|made| made >= self.alive.unwrap_or(self.since)) && self.asked.is_some();
        if !is_new && (received > self.received || was_made) {
            self.alive = Some(now);
            self.asked = None;
            self.has_failed = false;
        }
        let traffic = peer.traffic();
        let waits = peer.waiting.iter().any(|plaintext| plaintext.first() != Some(&FRAME));
        if !is_new && traffic > self.traffic || waits {
            self.used = Some(now);
        }
        (self.received, self.traffic) = (received, traffic);
    }

    fn is_in_use(&self, now: Instant) -> bool {
        self.used.is_some_and(|used| now.since(used) < IN_USE)
    }

    fn rank(&self, now: Instant) -> u8 {
        if now < self.suspect_until {
            // Who lets something through now and then must not get the packets back each time.
            if self.alive.is_some() { RETURNED } else { SUSPECT }
        } else if self.alive.is_some() {
            PROVEN
        } else if self.has_failed || self.asked.is_some_and(|(first, _)| now.since(first) >= PATIENCE) {
            SILENT
        } else {
            UNKNOWN
        }
    }

    /// Whether to ask the node now, which is used or stands by.
    fn ask(&mut self, now: Instant, is_used: bool) -> bool {
        if let Some((first, last)) = self.asked {
            if now.since(first) >= LATE {
                if now.since(self.suspect_until) >= SUSPICION.1 {
                    self.suspicion = SUSPICION.0;
                }
                self.suspect_until = now + self.suspicion;
                self.suspicion = (self.suspicion * 2).min(SUSPICION.1);
                (self.asked, self.alive, self.has_failed) = (None, None, true);
                return false;
            }
            if now.since(last) < REPEAT {
                return false;
            }
            self.asked = Some((first, now));
            return true;
        }
        let is_busy = self.used.is_some_and(|used| now.since(used) < LATE);
        let silence = match (is_used, is_busy) {
            (true, true) => SILENCE[0],
            (true, false) => SILENCE[1],
            (false, _) => SILENCE[2],
        };
        let is_due = self.alive.is_none_or(|alive| now.since(alive) >= silence);
        let asks = is_due && (is_used || now >= self.suspect_until);
        if asks {
            self.asked = Some((now, now));
        }
        asks
    }
}

/// Who has shown to be alive.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    judged: BTreeMap<NodeId, Judged>,
    questions: u64,
    /// How often somebody became suspect.
    pub suspected: u64,
}

impl Proofs {
    pub fn rank(&self, now: Instant, node: &NodeId) -> u8 {
        self.judged.get(node).map_or(UNKNOWN, |j| j.rank(now))
    }

    /// Whether an echo that came back is the answer to a question of ours.
    pub fn is_answer(id: u64) -> bool {
        id >= FIRST_ID
    }

    /// Forgets those who haven't been wanted for the longest time; returns them.
    fn bound(&mut self) -> Vec<NodeId> {
        let mut all: Vec<_> = self.judged.iter().map(|(id, j)| (j.wanted, *id)).collect();
        all.sort_unstable();
        all.truncate(self.judged.len().saturating_sub(MAX_JUDGED));
        all.into_iter().filter_map(|(_, id)| self.judged.remove(&id).map(|_| id)).collect()
    }
}

impl Node {
    /// Once a second: looks for signs of life, asks, and chooses anew.
    pub(super) fn tick_proofs(&mut self, now: Instant) {
        let wanted = self.wanted_proofs(now);
        let mut questions = Vec::new();
        for (id, is_used) in &wanted {
            let Some(judged) = self.proofs.judged.get_mut(id) else { continue };
            judged.wanted = now;
            let was_suspect = judged.rank(now) == SUSPECT;
            if judged.ask(now, *is_used) {
                questions.push(*id);
            }
            self.proofs.suspected += u64::from(!was_suspect && judged.rank(now) == SUSPECT);
        }
        for id in questions {
            self.proofs.questions += 1;
            let echo = proto::Echo { id: FIRST_ID + self.proofs.questions, data: Vec::new() };
            self.send_plaintext(now, id, frame::encode(Kind::Echo(echo)));
        }
        let forgotten = self.proofs.bound().into_iter().map(|id| (id, UNKNOWN));
        let ranks: Vec<_> = forgotten.chain(self.proofs.judged.iter().map(|(id, j)| (*id, j.rank(now)))).collect();
        for (id, rank) in ranks {
            // Who wasn't asked long enough is not put behind anybody.
            let rank = if rank == UNKNOWN { PROVEN } else { rank };
            self.tables_dirty |= self.book.set_rank(&id, rank);
        }
        self.choose_exit(now);
    }

    /// Those who are to show that they are alive, and whether they are in use: the exit, the next best ones, and those who announce a network in
    /// use that others announce too.
    fn wanted_proofs(&mut self, now: Instant) -> Vec<(NodeId, bool)> {
        let exits = self.alternative_exits(now);
        let used = self.exit().filter(|_| exits.len() > 1);
        let standbys = exits.iter().filter(|id| Some(**id) != used).take(ASKED);
        let mut wanted: Vec<(NodeId, bool)> = used.iter().map(|id| (*id, true)).collect();
        wanted.extend(standbys.filter(|_| exits.len() > 1).map(|id| (*id, false)));
        let shared = self.shared_networks();
        let all: BTreeSet<NodeId> =
            wanted.iter().map(|(id, _)| *id).chain(shared.iter().flatten().copied()).take(MAX_ASKED).collect();
        for id in all {
            let judged = self.proofs.judged.entry(id).or_insert_with(|| Judged::new(now));
            if let Some(peer) = self.peers.get(&id) {
                judged.look(now, peer);
            }
        }
        for announcers in shared {
            let in_use = |id: &NodeId| self.proofs.judged.get(id).is_some_and(|j| j.is_in_use(now));
            if announcers.iter().any(in_use) {
                wanted.extend(announcers.iter().enumerate().map(|(place, id)| (*id, place == 0)));
            }
        }
        let mut seen = BTreeSet::new();
        wanted.retain(|(id, _)| seen.insert(*id) && self.proofs.judged.contains_key(id));
        wanted
    }

    /// For each network that several reachable nodes announce, the first of them.
    fn shared_networks(&self) -> BTreeSet<Vec<NodeId>> {
        let me = self.identity.id();
        let reachable = |n: &&NodeId| self.routing.origin(n).and_then(|o| self.routing.next_hop(o)).is_some();
        let shared = self.book.subnets().iter().filter(|(_, nodes)| nodes.len() > 1 && !nodes.contains(&me));
        let there = shared.map(|(_, nodes)| nodes.iter().filter(reachable).take(ASKED).copied().collect::<Vec<_>>());
        there.filter(|nodes| nodes.len() > 1).collect()
    }
}
