//! What the exhaustive check (`node::tests::explore`) sees of the handshakes that are under way.

use super::{Sessions, Via};

/// A handshake that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Half {
    pub began: bool,
    /// Which message is next or last, as on the wire.
    pub kind: u8,
    pub via: Via,
    pub local: u32,
    pub remote: u32,
    pub complete: bool,
}

impl Sessions {
    /// All of them, in no order.
    pub(crate) fn halves(&self) -> Vec<Half> {
        let ours = self.initiators.values().map(|i| Half {
            began: true,
            kind: i.kind.byte(),
            via: i.via,
            local: i.local_index,
            remote: i.remote_index,
            complete: i.complete,
        });
        let theirs = self.responders.iter().map(|((via, _), r)| Half {
            began: false,
            kind: r.kind.byte(),
            via: *via,
            local: r.local_index,
            remote: r.remote_index,
            complete: r.complete,
        });
        ours.chain(theirs).collect()
    }

    /// First messages remembered, and partial ones held.
    pub(crate) fn memory(&self) -> (usize, usize) {
        (self.seen.len(), self.reassembly.len())
    }
}
