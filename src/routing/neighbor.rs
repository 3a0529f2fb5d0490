//! A neighbour: what is to be sent to it, and the cells that each origin holds for it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{BATCH_DELAY, PATIENCE, REST, WINDOW};
use crate::{
    types::{Bucket, Duration, INFINITY, Instant, Metric, NodeId, SeqNo},
    wire::proto::SeqnoRequest,
};

/// A neighbour's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighborId(pub(super) u16);

impl NeighborId {
    pub(super) fn slot(self) -> usize {
        usize::from(self.0)
    }
}

/// What the neighbour advertised for an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Learned {
    pub seqno: SeqNo,
    pub metric: Metric,
    /// The neighbour's slot for this origin, or [`NO_SLOT`].
    pub slot: u32,
    /// It takes one of the places that the neighbour has for introductions without an announcement.
    pub unproven: bool,
    /// The neighbour was asked for the announcement, and has not answered.
    pub asked: Asked,
    /// Answers of the neighbour's that were of no use: after a few it is asked in its turn only.
    pub useless: u8,
}

/// What a neighbour was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Asked {
    #[default]
    Nothing,
    Announcement,
    WithRecord,
}

/// What a neighbour's slot stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Slot {
    /// Nothing that we know of.
    #[default]
    Empty,
    Origin(u32),
    /// A node with which we have nothing to do.
    Ignored,
}

impl Slot {
    pub fn origin(self) -> Option<u32> {
        match self {
            Self::Origin(o) => Some(o),
            Self::Empty | Self::Ignored => None,
        }
    }
}

/// What a neighbour's slots stand for. The neighbour chooses their numbers, which cost nothing.
#[derive(Debug, Default)]
pub(super) struct Slots(HashMap<u32, Slot>);

impl Slots {
    pub fn get(&self, slot: u32) -> Slot {
        self.0.get(&slot).copied().unwrap_or_default()
    }

    /// Says what a slot stands for; returns what it stood for before.
    pub fn set(&mut self, slot: u32, bound: Slot) -> Slot {
        let before = if bound == Slot::Empty { self.0.remove(&slot) } else { self.0.insert(slot, bound) };
        before.unwrap_or_default()
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

pub(super) const NO_SLOT: u32 = u32::MAX;
/// Beyond [`WINDOW`], at most so many introductions may lack their announcements.
const MAX_WINDOW: u32 = 1024;
/// Sequence-number requests of a neighbour that are taken: so many at once, and one more after each pause.
const REQUESTS: (u32, Duration) = (64, Duration::from_millis(50));

/// Of those that are passed on, so many are few: half of these at once, and one more after each pause.
const ASKED_OF_OTHERS: (u32, Duration) = (16, Duration::from_secs(1));

impl Default for Learned {
    fn default() -> Self {
        Self { seqno: 0, metric: INFINITY, slot: NO_SLOT, unproven: false, asked: Asked::Nothing, useless: 0 }
    }
}

/// What the neighbour was told of an origin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub seqno: SeqNo,
    pub metric: Metric,
    /// The neighbour knows which NodeId our slot stands for.
    pub introduced: bool,
    /// Waits in the queue.
    pub queued: bool,
    /// Waits among the things that can wait.
    pub lazy: bool,
    /// Is to be told again though nothing changed.
    pub forced: bool,
    /// Waits for room for its introduction.
    pub blocked: bool,
}

impl Default for Sent {
    fn default() -> Self {
        Self {
            seqno: 0,
            metric: INFINITY,
            introduced: false,
            queued: false,
            lazy: false,
            forced: false,
            blocked: false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Neighbor {
    pub id: NodeId,
    pub queue: VecDeque<u32>,
    /// When the queue is to be sent.
    pub due: Option<Instant>,
    /// What can wait, and until when.
    pub lazy: VecDeque<u32>,
    pub lazy_due: Option<Instant>,
    /// The last update with metrics, and how many came without rest.
    pub updated: Instant,
    pub streak: u32,
    /// The owner has been told, or is about to be, that there is something to send.
    pub woken: bool,
    /// The neighbour's slots: which origin of ours each is.
    pub slots: Slots,
    pub requests: VecDeque<SeqnoRequest>,
    /// Slots of the neighbour to ask for, and whether the record is needed: each at most once.
    pub wants: BTreeMap<u32, bool>,
    /// Origins whose announcement the neighbour has asked for, and whether it needs the record.
    pub wanted: VecDeque<(u32, bool)>,
    /// Introductions sent since the channel began, how many the neighbour takes, and what waits for more.
    pub introduced: u32,
    pub room: u32,
    pub blocked: Vec<u32>,
    /// Introductions received since the channel began, those of them that still lack an announcement, those that have got
    /// one, and how many the neighbour was told that it may send.
    pub received: u32,
    pub unproven: u32,
    pub proven: u32,
    /// Origins of the neighbour's that were turned away and have kept their places.
    pub turned_away: u32,
    pub granted: u32,
    /// Something named a slot that stands for nothing: all is to be asked for again.
    pub lost: bool,
    pub asked_again: Option<Instant>,
    pub told_again: Option<Instant>,
    /// Sequence-number requests of the neighbour, and those of others that are passed on to it.
    requests_taken: Bucket,
    requests_passed: Bucket,
    /// Those of the neighbour that are passed on to others.
    asked_of_others: Bucket,
}

impl Neighbor {
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            queue: VecDeque::new(),
            due: None,
            lazy: VecDeque::new(),
            lazy_due: None,
            updated: Instant::default(),
            streak: 0,
            woken: false,
            slots: Slots::default(),
            requests: VecDeque::new(),
            wants: BTreeMap::new(),
            wanted: VecDeque::new(),
            introduced: 0,
            room: WINDOW,
            blocked: Vec::new(),
            received: 0,
            unproven: 0,
            proven: 0,
            turned_away: 0,
            granted: WINDOW,
            lost: false,
            asked_again: None,
            told_again: None,
            requests_taken: Bucket::new(REQUESTS.0, REQUESTS.1),
            requests_passed: Bucket::new(REQUESTS.0 / 2, REQUESTS.1 * 2),
            asked_of_others: Bucket::new(ASKED_OF_OTHERS.0, ASKED_OF_OTHERS.1),
        }
    }

    /// Whether one more sequence-number request of the neighbour is taken.
    pub fn takes_request(&mut self, now: Instant) -> bool {
        self.requests_taken.take(now)
    }

    /// Whether one more request of another is passed on to the neighbour: half of what it takes is for this node's own, and the last
    /// half of the other half for who asks little.
    pub fn passes_on(&mut self, now: Instant, is_quiet: bool) -> bool {
        self.requests_passed.take_above(now, if is_quiet { 0 } else { REQUESTS.0 / 4 })
    }

    /// A request of the neighbour is to be passed on: whether it has made few of late.
    pub fn asks_little(&mut self, now: Instant) -> bool {
        let is_quiet = self.asked_of_others.has_above(now, ASKED_OF_OTHERS.0 / 2);
        self.asked_of_others.take(now);
        is_quiet
    }

    /// How many introductions may lack an announcement at a time: half as many more as have got one, so that the table of a large
    /// mesh comes in a dozen round trips.
    fn open(&self) -> u32 {
        WINDOW + (self.proven / 2).min(MAX_WINDOW)
    }

    /// An introduction has got no announcement in time.
    pub fn lapse(&mut self) {
        self.unproven -= 1;
        self.proven /= 2;
    }

    /// Whether one more introduction is taken that may be of nobody. A little more than was told: what the neighbour goes by may
    /// be of an earlier channel.
    pub fn has_place(&self) -> bool {
        self.unproven < self.open() + WINDOW / 4
    }

    /// How many introductions the neighbour may have sent in all: what has not been shown yet may be as much as what has,
    /// and a little more to begin with.
    pub fn window(&self) -> u32 {
        self.received.saturating_add(self.open().saturating_sub(self.unproven))
    }

    /// An update with metrics goes out.
    pub fn note_update(&mut self, now: Instant) {
        self.streak = if now.since(self.updated) < REST { self.streak.saturating_add(1) } else { 0 };
        self.updated = now;
    }

    /// How long ordinary changes wait for company: when a whole network comes up, every link would otherwise carry
    /// each of the improvements that come with the first few hundred milliseconds on its own.
    pub fn batch_delay(&self, now: Instant) -> Duration {
        let streak = if now.since(self.updated) < REST { self.streak } else { 0 };
        BATCH_DELAY * (1 << (streak / PATIENCE).min(3))
    }

    /// Something is to be sent at `due` at the latest.
    pub fn hurry(&mut self, due: Instant) {
        self.due = Some(self.due.map_or(due, |d| d.min(due)));
    }
}
