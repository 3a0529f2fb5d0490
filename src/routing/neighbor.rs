//! A neighbour: what is to be sent to it, and the cells that each origin holds for it.

use std::collections::VecDeque;

use super::{BATCH_DELAY, PATIENCE, REST};
use crate::{
    types::{Duration, INFINITY, Instant, Metric, NodeId, SeqNo},
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
}

pub(super) const NO_SLOT: u32 = u32::MAX;

impl Default for Learned {
    fn default() -> Self {
        Self { seqno: 0, metric: INFINITY, slot: NO_SLOT }
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
}

impl Default for Sent {
    fn default() -> Self {
        Self { seqno: 0, metric: INFINITY, introduced: false, queued: false, lazy: false, forced: false }
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
    pub slots: Vec<Option<u32>>,
    pub requests: VecDeque<SeqnoRequest>,
    /// Slots of the neighbour to ask for, and whether the record is needed.
    pub wants: Vec<(u32, bool)>,
    /// Origins whose announcement the neighbour has asked for, and whether it needs the record.
    pub wanted: VecDeque<(u32, bool)>,
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
            slots: Vec::new(),
            requests: VecDeque::new(),
            wants: Vec::new(),
            wanted: VecDeque::new(),
        }
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
