//! Comparing what two nodes have, step by step. The side that asks keeps its set until it knows; of the side that answers many may ask at once, and
//! each answer can be given from a set that is read anew.

use std::collections::VecDeque;

use super::{
    hub::Hub,
    links::{Link, LinkId},
    store::Result,
    sync::{Comparison, Scope},
};
use crate::chat::{
    Hlc, Id,
    wire::{self, frame::What},
};

/// Messages in the sets that are kept for others' comparisons, unless one alone has more; and for how long.
const MAX_COMPARED: usize = 1 << 20;
const COMPARED_MS: u64 = 60_000;
/// Bytes of others' questions that may wait.
const MAX_QUESTIONS: usize = 16 << 20;

/// Others' questions what differs.
pub struct Answering {
    /// Those that take a set to be read from the disk: one at a time.
    questions: VecDeque<(LinkId, wire::Sync)>,
    /// Who was answered, and when, the last one at the end: their sets are still there.
    answered: VecDeque<(LinkId, u64)>,
    /// Messages in those sets.
    pub most: usize,
}

impl Default for Answering {
    fn default() -> Self {
        Self { questions: VecDeque::new(), answered: VecDeque::new(), most: MAX_COMPARED }
    }
}

impl Answering {
    pub fn forget_link(&mut self, link: LinkId) {
        self.questions.retain(|(asks, _)| *asks != link);
        self.answered.retain(|(asked, _)| *asked != link);
    }

    pub fn is_behind(&self) -> bool {
        !self.questions.is_empty()
    }
}

/// What a step of a comparison is about.
fn scope_of(sync: &wire::Sync) -> Option<Scope> {
    let platform = sync.platform.as_slice().try_into().map(Id).ok()?;
    Some(Scope { platform, acts: sync.acts, from: Hlc(sync.from), to: Hlc(sync.to) })
}

impl Hub {
    /// The other side of a link asks what differs.
    pub(super) fn question(&mut self, from: LinkId, sync: wire::Sync) {
        let waiting: usize = self.answering.questions.iter().map(|(_, sync)| sync.step.len()).sum();
        let Some(link) = self.links.all.get(&from) else { return };
        // What it was answered from before may have had to go.
        if !sync.first && link.comparison.is_some() {
            self.answer(from, &sync);
        } else if self.answering.questions.iter().any(|(asks, _)| *asks == from) {
            self.links.close(from, "it asks before it is answered");
        } else if waiting + sync.step.len() > MAX_QUESTIONS {
            self.links.close(from, "too many ask at once");
        } else {
            self.answering.questions.push_back((from, sync));
        }
    }

    /// Answers who has waited for longest.
    pub(super) fn answer_next(&mut self, now_ms: u64) -> Result<()> {
        if let Some((from, sync)) = self.answering.questions.pop_front() {
            self.read_set(now_ms, from, &sync)?;
            self.answer(from, &sync);
        }
        Ok(())
    }

    /// Goes on with a comparison that this side began.
    pub(super) fn compare(&mut self, from: LinkId, sync: &wire::Sync) {
        let Some(link) = self.links.all.get_mut(&from) else { return };
        let Some(comparison) = link.comparison.as_mut().filter(|c| scope_of(sync) == Some(c.scope)) else { return };
        match comparison.proceed(&sync.step) {
            Ok((found, next)) => {
                link.want(found.need, false);
                if next.is_none() {
                    link.comparison = None;
                }
                self.links.announce(from, &found.have);
                if let Some(step) = next {
                    self.links.send(from, What::Sync(wire::Sync { first: false, step, ..sync.clone() }));
                }
            }
            Err(error) => self.links.close(from, error.to_string()),
        }
    }

    /// Reads the set that is asked about. Many of them are not kept: whoever goes on later is answered from a new one.
    fn read_set(&mut self, now_ms: u64, from: LinkId, sync: &wire::Sync) -> Result<()> {
        let Some(scope) = scope_of(sync) else { return Ok(()) };
        let items = self.engine.items(&scope)?;
        let Some(link) = self.links.all.get_mut(&from) else { return Ok(()) };
        link.comparison = Comparison::new(scope, &items).ok();
        self.answering.answered.retain(|(asked, _)| *asked != from);
        self.answering.answered.push_back((from, now_ms));
        self.drop_sets(now_ms);
        Ok(())
    }

    /// Drops the sets of comparisons that are over, or too many: the oldest first.
    pub(super) fn drop_sets(&mut self, now_ms: u64) {
        let items = |link: &Link| link.comparison.as_ref().map_or(0, |c| c.items);
        let mut kept: usize =
            self.answering.answered.iter().filter_map(|(id, _)| self.links.all.get(id)).map(items).sum();
        while let Some((oldest, at)) = self.answering.answered.front().copied()
            && (at + COMPARED_MS < now_ms || kept > self.answering.most && self.answering.answered.len() > 1)
        {
            self.answering.answered.pop_front();
            if let Some(link) = self.links.all.get_mut(&oldest) {
                kept -= items(link);
                link.comparison = None;
            }
        }
    }

    /// Answers a step of a comparison that the other side began.
    fn answer(&mut self, from: LinkId, sync: &wire::Sync) {
        let Some(link) = self.links.all.get_mut(&from) else { return };
        let comparison = link.comparison.as_mut().filter(|c| scope_of(sync) == Some(c.scope));
        let answer = comparison.map(|c| c.answer(&sync.step));
        match answer {
            Some(Ok(_)) if !link.load.has_room() => self.links.close(from, "it does not read what it is answered"),
            Some(Ok(step)) => {
                self.links.send(from, What::Sync(wire::Sync { first: false, step, ..sync.clone() }));
            }
            Some(Err(error)) => self.links.close(from, error.to_string()),
            None => self.links.close(from, "it asks about something else than before"),
        }
    }
}
