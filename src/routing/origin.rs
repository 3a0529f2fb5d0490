//! What is known of one origin.

use std::sync::Arc;

use super::{NeighborId, REQUEST_FIRST};
use crate::{
    identity::Verified,
    types::{Duration, INFINITY, Instant, Metric, NodeId, SeqNo},
};

/// A selected route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selected {
    pub neighbor: NeighborId,
    pub seqno: SeqNo,
    /// Ours: the neighbour's plus the link's cost.
    pub metric: Metric,
}

#[derive(Debug)]
pub(super) struct Origin {
    pub id: NodeId,
    pub announcement: Option<Arc<Verified>>,
    /// An announcement with this sequence number was refused: it isn't asked for again.
    pub refused: SeqNo,
    /// Who was asked for the announcement, and when.
    pub asked: Option<(NeighborId, Instant)>,
    pub expires: Instant,
    /// The feasibility distance; retained when the route is lost.
    pub fd: (SeqNo, Metric),
    pub selected: Option<Selected>,
    /// No request of ours for this origin before this time.
    pub request_after: Instant,
    pub request_wait: Duration,
    /// The last request that was passed on, so that it isn't passed on again at once.
    pub forwarded: Option<(SeqNo, Instant)>,
}

impl Origin {
    /// The newest sequence number that the origin is known to have signed.
    pub fn signed(&self) -> SeqNo {
        self.announcement.as_ref().map_or(0, |a| a.seqno)
    }

    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            announcement: None,
            refused: 0,
            asked: None,
            expires: Instant::default(),
            fd: (0, INFINITY),
            selected: None,
            request_after: Instant::default(),
            request_wait: REQUEST_FIRST,
            forwarded: None,
        }
    }
}
