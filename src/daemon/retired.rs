//! Tables that are no longer in force, until no thread sends by them any more: what ends an old path goes out after
//! everything else that takes it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::node::{Snapshot, Transmit};

/// Threads let go of old tables when the batch at hand is done. One that the kernel keeps from running for longer may be late
/// with what it sends: a peer does not wait for a mark much longer.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often they are asked for.
pub const LOOK: Duration = Duration::from_millis(1);

struct Old<T> {
    tables: Arc<T>,
    ends: VecDeque<Transmit>,
    since: Instant,
}

/// Old tables, the oldest first.
pub struct Retired<T = Snapshot>(VecDeque<Old<T>>);

impl<T> Default for Retired<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Retired<T> {
    /// These are no longer in force; `ends` are to be sent after what is sent by them and by all before them.
    pub fn push(&mut self, tables: Arc<T>, ends: VecDeque<Transmit>) {
        self.0.push_back(Old { tables, ends, since: Instant::now() });
    }

    /// What may be sent now.
    pub fn pop(&mut self) -> Option<VecDeque<Transmit>> {
        let is_over = |old: &Old<T>| Arc::strong_count(&old.tables) == 1 || old.since.elapsed() >= PATIENCE;
        self.0.front().is_some_and(is_over).then(|| self.0.pop_front().map(|old| old.ends))?
    }

    /// Whether something waits to be sent.
    pub fn has_ends(&self) -> bool {
        self.0.iter().any(|old| !old.ends.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;

    use super::*;

    fn end(byte: u8) -> VecDeque<Transmit> {
        VecDeque::from([Transmit::new("192.0.2.1:1".parse().unwrap(), vec![byte])])
    }

    #[test]
    fn an_end_waits_for_whoever_sends_by_the_tables_before_it() {
        let (tables, mut retired) = (ArcSwap::from_pointee(0), Retired::default());
        let busy = tables.load();
        retired.push(tables.swap(Arc::new(1)), end(1));
        retired.push(tables.swap(Arc::new(2)), end(2));
        assert!(retired.has_ends());
        assert!(retired.pop().is_none(), "one still sends by the first tables");
        drop(busy);
        let sent: Vec<u8> = std::iter::from_fn(|| retired.pop()).flatten().map(|t| t.bytes[0]).collect();
        assert_eq!(sent, [1, 2]);
        assert!(!retired.has_ends() && retired.pop().is_none());
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (tables, mut retired) = (ArcSwap::from_pointee(0), Retired::default());
        let _stuck = tables.load();
        retired.push(tables.swap(Arc::new(1)), end(1));
        assert!(retired.pop().is_none());
        std::thread::sleep(PATIENCE);
        assert!(retired.pop().is_some());
    }
}
