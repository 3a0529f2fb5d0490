//! What a neighbour said, and what it was told: columns indexed by origin.

use std::collections::VecDeque;

use crate::{
    types::{INFINITY, Instant, Metric, NodeId, SeqNo},
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
    /// Is to be told again though nothing changed.
    pub forced: bool,
}

impl Default for Sent {
    fn default() -> Self {
        Self { seqno: 0, metric: INFINITY, introduced: false, queued: false, forced: false }
    }
}

#[derive(Debug)]
pub(super) struct Neighbor {
    pub id: NodeId,
    pub cost: Metric,
    pub learned: Vec<Learned>,
    pub sent: Vec<Sent>,
    pub queue: VecDeque<u32>,
    /// When the queue is to be sent.
    pub due: Option<Instant>,
    /// The neighbour's slots: which origin of ours each is.
    pub slots: Vec<Option<u32>>,
    pub requests: VecDeque<SeqnoRequest>,
    /// Slots of the neighbour to ask for, and whether the record is needed.
    pub wants: Vec<(u32, bool)>,
    /// Origins whose announcement the neighbour has asked for, and whether it needs the record.
    pub wanted: VecDeque<(u32, bool)>,
}

impl Neighbor {
    pub fn new(id: NodeId, cost: Metric) -> Self {
        Self {
            id,
            cost,
            learned: Vec::new(),
            sent: Vec::new(),
            queue: VecDeque::new(),
            due: None,
            slots: Vec::new(),
            requests: VecDeque::new(),
            wants: Vec::new(),
            wanted: VecDeque::new(),
        }
    }

    pub fn forget_sent(&mut self) {
        self.sent.clear();
        self.queue.clear();
        self.wanted.clear();
        self.due = None;
    }

    /// The origin's number is about to mean another origin: the neighbour has to be introduced to it.
    pub fn reuse_origin(&mut self, o: u32) {
        if let Some(learned) = self.learned.get_mut(o as usize) {
            *learned = Learned::default();
        }
        if let Some(sent) = self.sent.get_mut(o as usize) {
            *sent = Sent::default();
        }
    }

    pub fn learned_mut(&mut self, o: u32) -> &mut Learned {
        let o = o as usize;
        if self.learned.len() <= o {
            self.learned.resize(o + 1, Learned::default());
        }
        &mut self.learned[o]
    }

    pub fn sent_mut(&mut self, o: u32) -> &mut Sent {
        let o = o as usize;
        if self.sent.len() <= o {
            self.sent.resize(o + 1, Sent::default());
        }
        &mut self.sent[o]
    }

    pub fn enqueue(&mut self, o: u32, due: Instant) {
        let sent = self.sent_mut(o);
        if !std::mem::replace(&mut sent.queued, true) {
            self.queue.push_back(o);
        }
        self.hurry(due);
    }

    /// Something is to be sent at `due` at the latest.
    pub fn hurry(&mut self, due: Instant) {
        self.due = Some(self.due.map_or(due, |d| d.min(due)));
    }
}
