//! Fetching files: pieces are asked of whoever carries their platform, a few at a time, so that messages get through beside them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{
    engine::Event,
    hub::Hub,
    links::{LinkId, ids, to_wire},
    payload::{Hash, PIECE},
    store::Result,
};
use crate::chat::{
    Id,
    wire::{self, frame::What},
};

/// Pieces that are asked of a link at once.
const WINDOW: usize = 3;
/// Files that are fetched at the same time.
const MAX_FILES: usize = 256;
/// Pieces that a frame may ask for.
const MAX_ASKED: usize = 16;
/// How long a link is left alone that does not have a file: at first, and at most.
const ABSENT_MS: u64 = 1_000;
const MAX_ABSENT_MS: u64 = 600_000;
/// How long it may take to send a piece.
const ANSWER_MS: u64 = 30_000;

/// What is being fetched.
#[derive(Default)]
pub struct Fetching {
    /// By the number of its FILE.
    files: BTreeMap<i64, Fetch>,
    /// Pieces that were asked for: of whom, of which file, and when.
    asked: HashMap<Hash, (LinkId, i64, u64)>,
    /// Who does not have a file: until when it is not asked, and for how long that is.
    absent: HashMap<(LinkId, i64), (u64, u64)>,
    /// There may be more in the store than is here.
    pub stale: bool,
}

struct Fetch {
    platform: Id,
    left: VecDeque<Hash>,
}

impl Fetching {
    pub fn new() -> Self {
        Self { stale: true, ..Self::default() }
    }

    pub fn forget_link(&mut self, link: LinkId) {
        let gone: Vec<(Hash, i64)> =
            self.asked.iter().filter(|(_, (l, ..))| *l == link).map(|(hash, (_, n, _))| (*hash, *n)).collect();
        for (hash, n) in gone {
            self.asked.remove(&hash);
            self.put_back(n, hash);
        }
        self.absent.retain(|(l, _), _| *l != link);
    }

    /// It is asked again later, and ever later. Several answers to what was asked at once are one.
    fn is_absent(&mut self, now_ms: u64, link: LinkId, n: i64) {
        let (until, pause) = self.absent.entry((link, n)).or_insert((0, ABSENT_MS / 2));
        if *until <= now_ms {
            *pause = (*pause * 2).min(MAX_ABSENT_MS);
            *until = now_ms + *pause;
        }
    }

    fn put_back(&mut self, n: i64, hash: Hash) {
        if let Some(file) = self.files.get_mut(&n) {
            file.left.push_front(hash);
        }
    }
}

impl Hub {
    /// Asks for pieces, as many as may be under way.
    pub(super) fn ask_for_pieces(&mut self, now_ms: u64) -> Result<()> {
        if std::mem::take(&mut self.fetching.stale) {
            let wanted = self.engine.store.wanted_files(MAX_FILES)?;
            let under_way: Vec<i64> = self.fetching.asked.values().map(|(_, n, _)| *n).collect();
            let stays = |n: &i64| under_way.contains(n) || wanted.iter().any(|(w, _)| w == n);
            self.fetching.files.retain(|n, _| stays(n));
            self.fetching.absent.retain(|(_, n), _| stays(n));
            for (n, platform) in wanted {
                if let std::collections::btree_map::Entry::Vacant(entry) = self.fetching.files.entry(n) {
                    entry.insert(Fetch { platform, left: self.engine.store.missing_pieces(n)?.into() });
                }
            }
        }
        let fetching = &mut self.fetching;
        if fetching.files.is_empty() {
            return Ok(());
        }
        let late: Vec<Hash> =
            fetching.asked.iter().filter(|(_, a)| now_ms.saturating_sub(a.2) > ANSWER_MS).map(|(h, _)| *h).collect();
        for hash in late {
            if let Some((link, n, _)) = fetching.asked.remove(&hash) {
                fetching.is_absent(now_ms, link, n);
                fetching.put_back(n, hash);
            }
        }
        let mut questions: Vec<(LinkId, Vec<Id>)> = Vec::new();
        for (id, link) in self.links.all.iter().filter(|(_, l)| l.greeted) {
            let mut free = WINDOW.saturating_sub(fetching.asked.values().filter(|a| a.0 == *id).count());
            let mut ask = Vec::new();
            for (n, file) in &mut fetching.files {
                let is_absent = fetching.absent.get(&(*id, *n)).is_some_and(|(until, _)| *until > now_ms);
                if free == 0 || !link.carries(&file.platform, false) || is_absent {
                    continue;
                }
                // Two files may have a piece in common.
                while free > 0
                    && let Some(at) = file.left.iter().position(|hash| !fetching.asked.contains_key(hash))
                    && self.gate.as_mut().is_none_or(|gate| gate.may_ask(now_ms, *id, PIECE))
                    && let Some(hash) = file.left.remove(at)
                {
                    fetching.asked.insert(hash, (*id, *n, now_ms));
                    ask.push(Id(hash));
                    free -= 1;
                }
            }
            if !ask.is_empty() {
                questions.push((*id, ask));
            }
        }
        for (link, ask) in questions {
            self.links.send(link, What::WantPieces(to_wire(&ask)));
        }
        Ok(())
    }

    /// Somebody asks for pieces.
    pub(super) fn give_pieces(&mut self, to: LinkId, list: &wire::Ids) -> Result<()> {
        for id in ids(list).into_iter().take(MAX_ASKED) {
            let here = if self.links.has_room(to) { self.engine.store.piece(&id.0)? } else { None };
            let piece = wire::Piece { hash: id.0.to_vec(), bytes: here.unwrap_or_default() };
            self.links.send(to, What::Piece(piece));
        }
        Ok(())
    }

    /// A piece comes that was asked for, or word that it is not there.
    pub(super) fn take_piece(&mut self, now_ms: u64, from: LinkId, piece: wire::Piece) -> Result<()> {
        let Ok(hash) = Hash::try_from(piece.hash) else { return Ok(()) };
        let Some((_, n, _)) = self.fetching.asked.get(&hash).copied().filter(|a| a.0 == from) else { return Ok(()) };
        self.fetching.asked.remove(&hash);
        if let Some(gate) = &mut self.gate {
            gate.give_back(now_ms, from, PIECE.saturating_sub(piece.bytes.len()));
        }
        if piece.bytes.is_empty() {
            self.fetching.is_absent(now_ms, from, n);
            self.fetching.put_back(n, hash);
            return Ok(());
        }
        self.fetching.absent.remove(&(from, n));
        if !self.engine.take_piece(now_ms, &hash, &piece.bytes)? {
            self.fetching.put_back(n, hash);
            self.links.close(from, "it sends what is not the piece that was asked for");
            return Ok(());
        }
        let done = self.fetching.files.get(&n).is_some_and(|f| f.left.is_empty())
            && self.fetching.asked.values().all(|(_, other, _)| *other != n);
        if done {
            self.fetching.files.remove(&n);
            // There may have been too many to begin with all.
            self.fetching.stale = true;
            if let Some(kept) = self.engine.store.by_number(n)? {
                self.engine.events.push(Event::Message(kept.message.platform, n));
            }
        }
        Ok(())
    }
}
