//! Which messages two nodes don't both have: negentropy (range-based set reconciliation, protocol version 1).

use negentropy::{Id as Item, Negentropy, NegentropyStorageVector};

use super::{engine::Engine, store::Result};
use crate::chat::{Hlc, Id};

/// Bytes of one step: what is left follows in the next.
const FRAME: u64 = 512 << 10;
const DAY_MS: u64 = 86_400_000;

/// One of the sets that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    pub platform: Id,
    /// The acts of authority; or else content.
    pub acts: bool,
    /// Content of this time: `from <= hlc < to`.
    pub from: Hlc,
    pub to: Hlc,
}

/// What to compare with another node, in this order: acts, by which all else is judged; then content, newest first.
#[must_use]
pub fn scopes(platform: Id, now_ms: u64) -> Vec<Scope> {
    let all = |acts, from: u64, to: u64| Scope { platform, acts, from: Hlc(from), to: Hlc(to) };
    let ago = |days: u64| Hlc::from_ms(now_ms.saturating_sub(days * DAY_MS)).0;
    vec![all(true, 0, u64::MAX), all(false, ago(1), u64::MAX), all(false, ago(7), ago(1)), all(false, 0, ago(7))]
}

/// One side of a comparison.
pub struct Comparison {
    pub scope: Scope,
    /// How many messages this side has.
    pub items: usize,
    inner: Negentropy<'static, NegentropyStorageVector>,
}

/// What the side that asks has found out.
#[derive(Debug, Default)]
pub struct Found {
    /// Ids that only this side has.
    pub have: Vec<Id>,
    /// Ids that only the other side has.
    pub need: Vec<Id>,
}

#[derive(Debug, thiserror::Error)]
#[error("comparing messages: {0}")]
pub struct CompareError(#[from] negentropy::Error);

impl Comparison {
    pub fn new(scope: Scope, items: &[(Hlc, Id)]) -> std::result::Result<Self, CompareError> {
        let mut all = NegentropyStorageVector::with_capacity(items.len());
        for (hlc, id) in items {
            all.insert(hlc.0, Item::from_byte_array(id.0))?;
        }
        all.seal()?;
        Ok(Self { scope, items: items.len(), inner: Negentropy::owned(all, FRAME)? })
    }

    /// The first step of the side that asks.
    pub fn initiate(&mut self) -> std::result::Result<Vec<u8>, CompareError> {
        Ok(self.inner.initiate()?)
    }

    /// The answer of the other side.
    pub fn answer(&mut self, step: &[u8]) -> std::result::Result<Vec<u8>, CompareError> {
        Ok(self.inner.reconcile(step)?)
    }

    /// What the answer says, and the next step; `None`: that was all.
    pub fn proceed(&mut self, answer: &[u8]) -> std::result::Result<(Found, Option<Vec<u8>>), CompareError> {
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let next = self.inner.reconcile_with_ids(answer, &mut have, &mut need)?;
        let ids = |all: Vec<Item>| all.into_iter().map(|i| Id(i.to_bytes())).collect();
        Ok((Found { have: ids(have), need: ids(need) }, next))
    }
}

impl Engine {
    /// What this node has in a scope.
    pub fn items(&self, scope: &Scope) -> Result<Vec<(Hlc, Id)>> {
        match self.platforms.get(&scope.platform) {
            Some(platform) => self.store.items(platform.place.n, scope),
            None => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::compare;

    #[test]
    fn a_million_ids_of_which_a_hundred_differ() {
        let some = compare(1_000_000, 50).unwrap();
        assert!(some.bytes <= 200_000 && some.rounds <= 4, "{some:?}");
        let none = compare(100_000, 0).unwrap();
        assert!(none.bytes <= 1024 && none.rounds == 1, "{none:?}");
        println!("{some:?}\n{none:?}");
    }
}
