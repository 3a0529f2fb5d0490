//! For the exhaustive check of the node's machines alone (`node::tests::explore`), and in no other build: faults that were
//! mended once, to be put back, and what an attacker's node reads and says in place of what an honest one would.

use std::cell::{Cell, RefCell};

use super::NodeId;

/// A fault that the check has to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Any peer's `Granted` becomes this node's own certificate, unverified.
    AnyGranted,
    /// The proof of an invite is bound to nobody and no handshake, and is said to every peer.
    BearerProof,
    /// The first message of `IK` is acted on at once.
    ActOnClaim,
    /// What was held back until its sender had started anew counts as if it were new.
    NoStaleRule,
    /// A link moves to wherever the newest packet came from, before a probe has come back.
    MoveAtOnce,
    /// A goodbye ends everything with the peer, on whichever session it was said.
    LateGoodbye,
    /// A node answers its own first message, sent back to it as if by whom it was meant for.
    Mirror,
}

thread_local! {
    static MUTANT: Cell<Option<Mutant>> = const { Cell::new(None) };
    static HEARD: RefCell<Vec<(NodeId, Vec<u8>)>> = const { RefCell::new(Vec::new()) };
    static STOLEN: RefCell<Option<(NodeId, Vec<u8>)>> = const { RefCell::new(None) };
}

/// From now on this fault is there, or none.
pub fn put_back(mutant: Option<Mutant>) {
    MUTANT.set(mutant);
}

#[must_use]
pub fn has(mutant: Mutant) -> bool {
    MUTANT.get() == Some(mutant)
}

/// `reader` has read this proof of an invite in a handshake.
pub fn hear(reader: NodeId, proof: &[u8]) {
    if !proof.is_empty() {
        HEARD.with_borrow_mut(|heard| heard.push((reader, proof.to_vec())));
    }
}

/// The last proof that `reader` has read.
#[must_use]
pub fn heard(reader: NodeId) -> Option<Vec<u8>> {
    HEARD.with_borrow(|heard| heard.iter().rev().find(|(by, _)| *by == reader).map(|(_, proof)| proof.clone()))
}

/// `thief` shows this proof from now on.
pub fn steal(thief: NodeId, proof: Vec<u8>) {
    STOLEN.with_borrow_mut(|stolen| *stolen = Some((thief, proof)));
}

/// What `me` shows, if it has stolen one.
#[must_use]
pub fn stolen(me: NodeId) -> Option<Vec<u8>> {
    STOLEN.with_borrow(|stolen| stolen.as_ref().filter(|(thief, _)| *thief == me).map(|(_, proof)| proof.clone()))
}
