//! Sessions that somebody *says* to have made: the first message of `IK` may be a recording. Nothing of it has any effect
//! until a packet is opened on the session, which only who holds the key now can have sealed.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    session::{Event, Outcome, Transport},
    types::{Duration, Instant},
};

/// At most so many at a time; the oldest goes first.
const MAX_CLAIMS: usize = 512;
/// And of those that say to be one node: a node asks at four of another's addresses at the same time.
const MAX_OF_ONE: usize = 6;
/// Who is there sends its first packet as soon as it is answered, and repeats it.
const LIFE: Duration = Duration::from_secs(5);

/// All sessions, by this node's index, those that somebody only says to have made included. Asked for datagrams for which the
/// data plane's tables have no session (yet): these are made anew a moment after a session is.
#[derive(Debug, Default)]
pub struct ClaimTable(RwLock<HashMap<u32, Arc<Transport>>>);

impl ClaimTable {
    #[must_use]
    pub fn get(&self, index: u32) -> Option<Arc<Transport>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&index).cloned()
    }

    /// A handshake ended so: its session can be opened from now on.
    pub(super) fn note(&self, event: &Event) {
        let (Event::Claimed(outcome) | Event::Established { outcome, .. }) = event else { return };
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(outcome.transport.local_index, Arc::clone(&outcome.transport));
    }

    pub(super) fn remove(&self, index: u32) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&index);
    }
}

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Claims {
    all: HashMap<u32, Outcome>,
}

impl Claims {
    /// Adds one; returns the session that had to make room.
    pub fn add(&mut self, outcome: Outcome) -> Option<u32> {
        let id = outcome.peer.id;
        self.all.insert(outcome.transport.local_index, outcome);
        let of_one = self.all.values().filter(|claim| claim.peer.id == id).count();
        if of_one <= MAX_OF_ONE && self.all.len() <= MAX_CLAIMS {
            return None;
        }
        let spare = self.all.iter().filter(|(_, claim)| of_one <= MAX_OF_ONE || claim.peer.id == id);
        let oldest = spare.min_by_key(|(index, claim)| (claim.since, **index)).map(|(index, _)| *index)?;
        self.all.remove(&oldest).map(|_| oldest)
    }

    pub fn get(&self, index: u32) -> Option<&Arc<Transport>> {
        self.all.get(&index).map(|claim| &claim.transport)
    }

    /// A packet was opened on this session: the claim is true.
    pub fn take(&mut self, index: u32) -> Option<Outcome> {
        self.all.remove(&index)
    }

    /// Takes out those that have not come true in time.
    pub fn expire(&mut self, now: Instant) -> Vec<u32> {
        let old = self.all.iter().filter(|(_, claim)| now.since(claim.since) > LIFE);
        let gone: Vec<u32> = old.map(|(index, _)| *index).collect();
        gone.iter().for_each(|index| {
            self.all.remove(index);
        });
        gone
    }

    /// All of them.
    #[cfg(test)]
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Transport>> {
        self.all.values().map(|claim| &claim.transport)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::SigningKey,
        identity::{Identity, Network, RecordContent, Verified},
        session::Via,
    };

    fn peer(seed: u8) -> Arc<Verified> {
        let network = Network::new("n", Some("s"), None, "100.64.0.0/16".parse().unwrap());
        let identity = Identity::new(SigningKey::ed25519_from_seed(&[seed; 32])).unwrap();
        Arc::new(identity.announce(&network, &RecordContent::default(), 1, 600).unwrap())
    }

    fn claim(peer: &Arc<Verified>, index: u32) -> Outcome {
        let [transport, _] = Transport::pair(index).map(Arc::new);
        let via = Via::Direct("192.0.2.1:1".parse().unwrap());
        Outcome { transport, peer: Arc::clone(peer), via, since: Instant(index.into()) }
    }

    #[test]
    fn who_claims_to_be_one_node_over_and_over_makes_room_for_itself() {
        let (honest, copied) = (peer(1), peer(2));
        let mut claims = Claims::default();
        assert_eq!(claims.add(claim(&honest, 1)), None);
        let gone: Vec<u32> = (2..1000).filter_map(|i| claims.add(claim(&copied, i))).collect();
        assert_eq!(gone, (2..1000 - MAX_OF_ONE as u32).collect::<Vec<_>>(), "its own, the oldest first");
        assert!(claims.get(1).is_some(), "what another node claims stays");
        assert_eq!(claims.len(), 1 + MAX_OF_ONE);
        assert!(claims.take(1).is_some() && claims.take(1).is_none());
        assert_eq!(claims.expire(Instant(1000) + LIFE).len(), MAX_OF_ONE);
        assert_eq!(claims.len(), 0);
    }

    #[test]
    fn claims_have_a_bound() {
        let peers: Vec<_> = (0..=255).map(peer).collect();
        let mut claims = Claims::default();
        let count = 3 * MAX_CLAIMS as u32;
        let gone = (0..count).filter_map(|i| claims.add(claim(&peers[i as usize % 256], i))).count();
        assert_eq!((claims.len(), gone), (MAX_CLAIMS, 2 * MAX_CLAIMS));
    }
}
