//! What the claims of nodes that are gone stood on: who had an address first keeps it for a while, should it come back.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use super::Title;
use crate::types::{Duration, Instant, NodeId};

/// Claims remembered; then the latest are forgotten.
pub(super) const MAX_REMEMBERED: usize = 4096;

type Key = (NodeId, IpAddr);

#[derive(Debug, Default)]
pub(super) struct Former {
    titles: HashMap<Key, (Title, Instant)>,
    /// The same in the order of the titles: many may go at once, and the latest is to be found each time.
    order: BTreeSet<(Title, Key)>,
}

impl Former {
    /// A node with this title to an address went at `now`.
    pub fn insert(&mut self, key: Key, title: Title, now: Instant) {
        self.take(&key);
        self.titles.insert(key, (title, now));
        self.order.insert((title, key));
        if self.titles.len() > MAX_REMEMBERED
            && let Some((_, latest)) = self.order.pop_last()
        {
            self.titles.remove(&latest);
        }
    }

    /// It is back.
    pub fn take(&mut self, key: &Key) -> Option<Title> {
        let (title, _) = self.titles.remove(key)?;
        self.order.remove(&(title, *key));
        Some(title)
    }

    /// Forgets who went longer ago than `time`.
    pub fn expire(&mut self, now: Instant, time: Duration) {
        let order = &mut self.order;
        self.titles.retain(|key, (title, gone)| {
            let keeps = now.since(*gone) < time;
            if !keeps {
                order.remove(&(*title, *key));
            }
            keeps
        });
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.titles.keys()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        assert_eq!(self.titles.len(), self.order.len());
        self.titles.len()
    }
}
