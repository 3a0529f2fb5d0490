//! What is known of one origin.

use std::sync::Arc;

use super::{
    ASK_AGAIN, NeighborId, REQUEST_FIRST,
    doubt::Doubt,
    neighbor::{Learned, Sent},
};
use crate::{
    identity::Verified,
    types::{Bucket, Duration, INFINITY, Instant, Metric, NodeId, SeqNo},
};

/// New announcements of one node that are asked for at once, and one more after each pause. It makes none but for news of its own,
/// and one a second on request.
const NEWS: (u32, Duration) = (8, Duration::from_secs(1));

/// A selected route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selected {
    pub neighbor: NeighborId,
    pub seqno: SeqNo,
    /// Ours: the neighbour's plus the link's cost.
    pub metric: Metric,
}

/// A request that was to be passed on: the number asked for, when, and how far it was to travel; 0: there was no room for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forwarded {
    pub seqno: SeqNo,
    pub at: Instant,
    pub hops: u32,
}

#[derive(Debug)]
pub(super) struct Origin {
    pub id: NodeId,
    pub announcement: Option<Arc<Verified>>,
    /// When it was first heard of.
    pub since: Instant,
    /// Its node has shown that it is there and holds its key: it makes room for nobody.
    pub met: bool,
    /// Who brought its announcement, if not itself.
    pub bringer: Option<NodeId>,
    /// An announcement with this sequence number was refused: it isn't asked for again.
    pub refused: SeqNo,
    /// Who was asked for the announcement, and when.
    pub asked: Option<(NeighborId, Instant)>,
    /// How often in vain.
    pub asks: u32,
    /// New announcements that were taken in: each is a signature to check, and news for everybody.
    pub news: Bucket,
    pub expires: Instant,
    /// The feasibility distance; retained when the route is lost.
    pub fd: (SeqNo, Metric),
    pub selected: Option<Selected>,
    /// When its neighbour was chosen, and the metric that it had then.
    pub chosen: (Instant, Metric),
    /// No request of ours for this origin before this time.
    pub request_after: Instant,
    pub request_wait: Duration,
    /// The sequence number with which the record last changed: news that everybody wants.
    pub renewed: SeqNo,
    /// The last request that was passed on, so that it isn't passed on again at once, and for whom.
    pub forwarded: Option<Forwarded>,
    pub requesters: Vec<NeighborId>,
    /// What each neighbour advertised, in the order of their places. An update asks for one origin and all neighbours,
    /// so this is kept by origin: the other way round, every cell was a cache miss.
    pub learned: Vec<Learned>,
    /// What each neighbour was told.
    pub sent: Vec<Sent>,
    /// Neighbours whose offers are the last choice, or may soon be.
    pub doubts: Vec<Doubt>,
}

impl Origin {
    /// The newest sequence number that the origin is known to have signed.
    pub fn signed(&self) -> SeqNo {
        self.announcement.as_ref().map_or(0, |a| a.seqno)
    }

    pub fn learned(&self, n: NeighborId) -> Learned {
        self.learned.get(n.slot()).copied().unwrap_or_default()
    }

    pub fn learned_mut(&mut self, n: NeighborId) -> &mut Learned {
        if self.learned.len() <= n.slot() {
            self.learned.reserve_exact(n.slot() + 1 - self.learned.len());
            self.learned.resize(n.slot() + 1, Learned::default());
        }
        &mut self.learned[n.slot()]
    }

    pub fn sent_mut(&mut self, n: NeighborId) -> &mut Sent {
        if self.sent.len() <= n.slot() {
            self.sent.reserve_exact(n.slot() + 1 - self.sent.len());
            self.sent.resize(n.slot() + 1, Sent::default());
        }
        &mut self.sent[n.slot()]
    }

    /// How long an answer may take; ever longer for who never gives one.
    pub fn ask_wait(&self) -> Duration {
        ASK_AGAIN * (1 << self.asks.min(7))
    }

    pub fn new(now: Instant, id: NodeId) -> Self {
        Self {
            id,
            since: now,
            met: false,
            bringer: None,
            announcement: None,
            refused: 0,
            asked: None,
            asks: 0,
            news: Bucket::new(NEWS.0, NEWS.1),
            expires: Instant::default(),
            fd: (0, INFINITY),
            selected: None,
            chosen: (Instant::default(), INFINITY),
            request_after: Instant::default(),
            request_wait: REQUEST_FIRST,
            renewed: 0,
            forwarded: None,
            requesters: Vec::new(),
            learned: Vec::new(),
            sent: Vec::new(),
            doubts: Vec::new(),
        }
    }
}
