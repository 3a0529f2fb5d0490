//! Takes messages in: whatever comes is checked, kept, and judged by what the acts of its platform say. No sockets and no time of
//! its own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use super::{
    keys::{KeyError, Keys},
    platform::Platform,
    relay::Limits,
    store::{Hidden, Invitation, Result, Store, StoreError},
};
use crate::{
    chat::{Body, Clock, Draft, Head, Hlc, Id, Kind, MAX_PAYLOAD, Message, payload_of, verify_all},
    crypto::Rng,
};

/// Messages that wait for acts they name, or for their time.
const MAX_WAITING: usize = 10_000;

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is durable here: since now, or before.
    Stored {
        new: bool,
    },
    /// It names an act that is not here.
    Waits(Id),
    /// Its clock is far ahead.
    Early,
    Refused(&'static str),
}

/// What became of messages that came together.
pub struct Taken {
    /// In the order in which they came, with their ids.
    pub fates: Vec<(Id, Fate)>,
    /// All that is new here now, each after what it names.
    pub fresh: Vec<Arc<Message>>,
}

/// Something that people who look may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message is new, or what is seen of it has changed: its number in the store.
    Message(Id, i64),
    /// Members, names or roles have changed.
    Platform(Id),
    /// This identity is banned here: what was kept is deleted.
    Banned(Id),
    /// It no longer is.
    Unbanned(Id),
    /// Somebody invites to a private platform.
    Invited(Id),
    /// Another person's page says something to one's own.
    Signal { platform: Id, from: Id, data: String },
}

/// Why something asked for can't be done.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    No(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl Refusal {
    pub(super) fn no(why: impl Into<String>) -> Self {
        Self::No(why.into())
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(e: rusqlite::Error) -> Self {
        Self::Store(e.into())
    }
}

pub struct Engine {
    pub store: Store,
    pub keys: Keys,
    pub platforms: HashMap<Id, Platform>,
    /// Platforms that are being joined: their first act is awaited.
    pub expected: HashSet<Id>,
    /// Takes in platforms that nobody here takes part in.
    pub is_relay: bool,
    /// How long content is kept, in milliseconds; `None`: for ever.
    pub keep_ms: Option<u64>,
    pub clock: Clock,
    pub rng: Rng,
    /// By an act that they miss.
    waiting: HashMap<Id, Vec<Arc<Message>>>,
    waiting_count: usize,
    early: BTreeMap<(Hlc, Id), Arc<Message>>,
    /// Who has confirmed own messages of late; each with its platform, and whether it is an act.
    copies: HashMap<Id, (Id, bool, BTreeSet<String>)>,
    pub(super) events: Vec<Event>,
    /// What this device has written since it was asked last.
    written: Vec<Arc<Message>>,
    pub invitations: Vec<Invitation>,
    /// Files have come that are to be fetched.
    pub has_new_files: bool,
}

/// Messages taken in together.
struct Batch {
    now_ms: u64,
    /// Content to be judged: its platform and number.
    content: Vec<(Id, i64)>,
    /// What of it is new.
    new: HashMap<i64, Arc<Message>>,
    /// Platforms with new acts.
    dirty: BTreeMap<Id, Vec<Arc<Message>>>,
    fresh: Vec<Arc<Message>>,
    erased: bool,
}

impl Engine {
    pub fn new(store: Store, keys: Keys, relay: Option<Limits>, rng: Rng) -> Result<Self> {
        let mut platforms = HashMap::new();
        for place in store.places()? {
            platforms.insert(place.id, Platform::load(&store, place)?);
        }
        let mut clock = Clock::default();
        clock.observe(store.latest()?);
        let invitations = store.invitations()?;
        Ok(Self {
            store,
            keys,
            platforms,
            expected: HashSet::new(),
            is_relay: relay.is_some(),
            keep_ms: relay.map(|l| l.keep_ms),
            clock,
            rng,
            waiting: HashMap::new(),
            waiting_count: 0,
            early: BTreeMap::new(),
            copies: HashMap::new(),
            events: Vec::new(),
            written: Vec::new(),
            invitations,
            has_new_files: false,
        })
    }

    /// What this device has written since this was asked last, in its order.
    pub fn take_written(&mut self) -> Vec<Arc<Message>> {
        std::mem::take(&mut self.written)
    }

    /// What has happened since this was asked last.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Takes in messages as they travel, durably and all at once, at `now_ms` since 1970.
    pub fn ingest(&mut self, now_ms: u64, batch: Vec<Vec<u8>>) -> Result<Taken> {
        let mut fates: Vec<(Id, Fate)> = Vec::with_capacity(batch.len());
        let mut open: Vec<(usize, Arc<Message>)> = Vec::new();
        // The same bytes twice are one; the same id with another signature is not: one of them may be forged.
        let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut again = Vec::new();
        for bytes in batch {
            let at = fates.len();
            let message = match Message::decode(&bytes) {
                Ok(message) => Arc::new(message),
                Err(e) => {
                    fates.push((Id::default(), Fate::Refused(e.0)));
                    continue;
                }
            };
            let fate = match seen.entry(bytes) {
                Entry::Occupied(first) => {
                    again.push((at, *first.get()));
                    Fate::Stored { new: false }
                }
                Entry::Vacant(first) => {
                    first.insert(at);
                    match self.first_look(now_ms, &message)? {
                        Some(fate) => fate,
                        None => {
                            open.push((at, Arc::clone(&message)));
                            Fate::Stored { new: true }
                        }
                    }
                }
            };
            fates.push((message.id, fate));
        }
        let all: Vec<&Message> = open.iter().map(|(_, m)| &**m).collect();
        let good = verify_all(&all, &mut self.rng);
        let mut checked = Vec::with_capacity(open.len());
        for ((at, message), good) in open.into_iter().zip(good) {
            if good {
                checked.push((at, message));
            } else {
                fates[at].1 = Fate::Refused("a signature of its author");
            }
        }
        let mut fresh = Vec::new();
        if !checked.is_empty() {
            let mut all = checked.iter().map(|(_, m)| Arc::clone(m));
            fresh = self.transaction(now_ms, |engine, batch| all.try_for_each(|m| engine.settle(m, batch)))?;
        }
        for (at, message) in checked {
            if message.head.hlc.is_early(now_ms) {
                fates[at].1 = Fate::Early;
            } else if let Some(missing) = self.missing(&message) {
                fates[at].1 = Fate::Waits(missing);
            }
        }
        for (at, first) in again {
            fates[at].1 = match &fates[first].1 {
                Fate::Stored { .. } => Fate::Stored { new: false },
                other => other.clone(),
            };
        }
        Ok(Taken { fates, fresh })
    }

    /// What can be said before the signature is checked.
    fn first_look(&mut self, now_ms: u64, m: &Message) -> Result<Option<Fate>> {
        let Some(platform) = self.platforms.get(&m.platform) else {
            let welcome = self.is_relay || self.expected.contains(&m.platform);
            return Ok(if welcome { None } else { Some(Fate::Refused("a platform that is carried here")) });
        };
        if let Some(kept) = self.store.get(&m.id)? {
            if let (None, Some(payload), false) = (kept.message.payload(), m.payload(), kept.purged) {
                // Only its bytes were missing: they are what the header says they are.
                let verdict = platform.judge(&self.store, &kept.message, kept.author)?;
                if !verdict.erased {
                    self.store.fill_payload(kept.n, &payload)?;
                    if m.head.kind == Kind::File {
                        self.has_new_files |= self.note_file(kept.n, m, kept.author)?;
                    }
                    if let (false, Some(words)) = (self.is_relay, platform.words(m)) {
                        self.store.learn_words(kept.n, &words)?;
                    }
                    self.events.push(Event::Message(m.platform, kept.n));
                }
            }
            return Ok(Some(Fate::Stored { new: false }));
        }
        if self.early.len() >= MAX_WAITING && m.head.hlc.is_early(now_ms) {
            return Ok(Some(Fate::Refused("a clock that is not ahead")));
        }
        let author = platform.authority.identity(m.device);
        let is_content = !m.head.kind.is_authority();
        // What was deleted for its age is not to come back with the next who has it.
        let too_old = self.keep_ms.is_some_and(|keep| m.head.hlc.ms() + keep < now_ms);
        if is_content && too_old {
            return Ok(Some(Fate::Refused("content of these days")));
        }
        if is_content && !(self.is_relay || platform.place.joined || self.expected.contains(&m.platform)) {
            return Ok(Some(Fate::Refused("a platform that is carried here")));
        }
        if let (true, Some(author)) = (is_content, author)
            && platform.authority.excludes(m, author, author)
        {
            return Ok(Some(Fate::Refused("an author who is not banned")));
        }
        Ok(None)
    }

    /// Does something to the store, and what follows from it: all of it becomes durable, or nothing.
    fn transaction(
        &mut self,
        now_ms: u64,
        work: impl FnOnce(&mut Self, &mut Batch) -> Result<()>,
    ) -> Result<Vec<Arc<Message>>> {
        let mut batch = Batch {
            now_ms,
            content: Vec::new(),
            new: HashMap::new(),
            dirty: BTreeMap::new(),
            fresh: Vec::new(),
            erased: false,
        };
        self.store.begin()?;
        let done = work(self, &mut batch).and_then(|()| self.conclude(&mut batch)).and_then(|()| self.store.commit());
        if let Err(error) = done {
            self.store.roll_back();
            self.reload()?;
            return Err(error);
        }
        if batch.erased {
            self.store.clean_journal()?;
        }
        Ok(batch.fresh)
    }

    /// What is in memory is what is in the store again.
    fn reload(&mut self) -> Result<()> {
        self.platforms.clear();
        self.events.clear();
        for place in self.store.places()? {
            self.platforms.insert(place.id, Platform::load(&self.store, place)?);
        }
        Ok(())
    }

    fn missing(&self, m: &Message) -> Option<Id> {
        match self.platforms.get(&m.platform) {
            Some(platform) => platform.acts.missing(m),
            None => Some(m.platform).filter(|_| m.head.kind != Kind::Genesis),
        }
    }

    /// Keeps a message whose signature is good, and those that waited for it; or puts it off.
    fn settle(&mut self, message: Arc<Message>, batch: &mut Batch) -> Result<()> {
        let mut ready = vec![message];
        while let Some(message) = ready.pop() {
            if message.head.hlc.is_early(batch.now_ms) {
                self.early.insert((message.head.hlc, message.id), message);
                continue;
            }
            if let Some(missing) = self.missing(&message) {
                self.put_off(missing, message);
                continue;
            }
            if self.store.has(&message.id)? {
                continue;
            }
            if message.head.kind == Kind::Genesis && !self.platforms.contains_key(&message.platform) {
                let place = self.store.add_place(message.platform)?;
                self.platforms.insert(message.platform, Platform::load(&self.store, place)?);
            }
            let Some(platform) = self.platforms.get_mut(&message.platform) else { continue };
            let author = platform.authority.identity(message.device);
            let place = platform.place.n;
            let words = if self.is_relay { None } else { platform.words(&message) };
            let n = self.store.insert(place, &message, author, (batch.now_ms, words))?;
            self.clock.observe(message.head.hlc);
            if self.store.is_fork(place, &message)? {
                platform.forks = self.store.forks(place)?;
                batch.dirty.entry(message.platform).or_default();
            }
            if message.head.kind.is_authority() {
                platform.add(Arc::clone(&message));
                batch.dirty.entry(message.platform).or_default().push(Arc::clone(&message));
                let waited = self.waiting.remove(&message.id).unwrap_or_default();
                self.waiting_count -= waited.len();
                ready.extend(waited);
            } else {
                batch.content.push((message.platform, n));
                batch.new.insert(n, Arc::clone(&message));
                if message.head.kind != Kind::Retract {
                    self.store.odd_after(&message)?.into_iter().for_each(|n| batch.content.push((message.platform, n)));
                }
            }
            batch.fresh.push(message);
        }
        Ok(())
    }

    /// Keeps a message until the act that it misses is here. Of too many any may go: nobody can fill the room for good.
    fn put_off(&mut self, missing: Id, message: Arc<Message>) {
        if self.waiting_count >= MAX_WAITING
            && let Some(any) = self.waiting.keys().next().copied()
        {
            self.waiting_count -= self.waiting.remove(&any).map_or(0, |all| all.len());
        }
        let all = self.waiting.entry(missing).or_default();
        if all.iter().all(|m| m.id != message.id) {
            all.push(message);
            self.waiting_count += 1;
        }
    }

    /// Judges what is new, and what new acts change.
    fn conclude(&mut self, batch: &mut Batch) -> Result<()> {
        let mut doubtful: BTreeSet<(Id, i64)> = batch.content.iter().copied().collect();
        for (id, acts) in &batch.dirty {
            let Some(platform) = self.platforms.get_mut(id) else { continue };
            let place = platform.place.n;
            let (people, messages) = platform.resolve();
            if let (true, Some(device)) = (platform.private, self.keys.device())
                && platform.learn(&self.store, device)?
            {
                platform.resolve();
                let mut last = 0;
                while let some = self.store.by_index(place, false, last)?
                    && let Some(kept) = some.last()
                {
                    last = kept.n;
                    for kept in &some {
                        let Some(words) = platform.words(&kept.message) else { continue };
                        self.store.learn_words(kept.n, &words)?;
                        self.events.push(Event::Message(*id, kept.n));
                    }
                }
            }
            let is_harmless = |a: &Arc<Message>| {
                matches!(a.head.kind, Kind::Join | Kind::Profile | Kind::Info | Kind::Channel | Kind::Prekey)
            };
            let mut people: Vec<Id> = if acts.iter().all(is_harmless) && !acts.is_empty() {
                Vec::new()
            } else {
                for message in messages {
                    doubtful.extend(self.store.number_of(&message)?.map(|n| (*id, n)));
                }
                people.into_iter().collect()
            };
            for act in acts.iter().filter(|a| a.joins().is_some()) {
                if let Some(identity) = platform.authority.identity(act.device) {
                    self.store.set_author(place, act.device, identity)?;
                    people.push(act.device);
                }
            }
            for who in people {
                doubtful.extend(self.store.content_of(place, who)?.into_iter().map(|n| (*id, n)));
            }
            self.events.push(Event::Platform(*id));
        }
        let mut next: Vec<(Id, i64)> = doubtful.into_iter().collect();
        while let Some((id, n)) = next.pop() {
            for n in self.judge(id, n, batch)? {
                next.push((id, n));
            }
        }
        for id in batch.dirty.keys() {
            self.check_own_ban(*id, &mut batch.erased)?;
        }
        Ok(())
    }

    /// Judges one message of content. Returns what has to be judged for it.
    fn judge(&mut self, id: Id, n: i64, batch: &mut Batch) -> Result<Vec<i64>> {
        let Some(platform) = self.platforms.get(&id) else { return Ok(Vec::new()) };
        let new = batch.new.get(&n);
        let (message, author, before) = match new {
            Some(m) => (Arc::clone(m), platform.authority.identity(m.device), (Hidden::No, false)),
            None => match self.store.by_number(n)? {
                Some(kept) => (Arc::new(kept.message), kept.author, (kept.hidden, kept.purged)),
                None => return Ok(Vec::new()),
            },
        };
        let verdict = platform.judge(&self.store, &message, author)?;
        if verdict.erased && message.payload().is_some() {
            self.store.drop_payload(n, platform.words(&message))?;
            if message.head.kind == Kind::File {
                self.store.forget_file(n)?;
            }
            batch.erased = true;
        }
        if message.head.kind == Kind::Whisper && new.is_some() && matches!(verdict.hidden, Hidden::No) {
            self.hear(&message)?;
        }
        if message.head.kind == Kind::File && new.is_some() && !verdict.erased && verdict.hidden != Hidden::Banned {
            self.has_new_files |= self.note_file(n, &message, author)?;
        }
        let changed = before != (verdict.hidden, verdict.purged);
        if changed {
            self.store.set_standing(n, verdict.hidden, verdict.purged)?;
        }
        if new.is_some() || changed {
            self.events.push(Event::Message(id, n));
        }
        // What is taken back, and what edits this or reacts to it. Neither leads back here.
        match (message.head.kind, message.head.refs.first()) {
            (Kind::Retract, Some(target)) if new.is_some() || changed => {
                Ok(self.store.number_of(target)?.into_iter().collect())
            }
            (Kind::Text, _) if before.1 != verdict.purged => self.store.following(&message.id),
            _ => Ok(Vec::new()),
        }
    }

    /// A banned identity's own node deletes what it has, and remembers not to come back.
    fn check_own_ban(&mut self, id: Id, erased: &mut bool) -> Result<()> {
        let (Some(me), Some(platform)) = (self.keys.identity(), self.platforms.get_mut(&id)) else { return Ok(()) };
        let banned = platform.authority.now(me).banned;
        let place = platform.place.n;
        if banned && platform.place.joined {
            self.store.clear(place, false, |m| platform.words(m))?;
            platform.secrets.clear();
            self.store.set_joined(place, false)?;
            platform.place.joined = false;
            *erased = true;
            self.events.push(Event::Banned(id));
        } else if !banned && self.keys.is_banned_from(&id) {
            self.events.push(Event::Unbanned(id));
        }
        Ok(())
    }

    /// Another node has made these durable: `who` it is.
    pub fn confirmed(&mut self, ids: &[Id], who: &str) -> Result<()> {
        for id in ids {
            let Some((.., others)) = self.copies.get_mut(id) else { continue };
            if others.insert(who.to_owned()) {
                let count = u32::try_from(others.len()).unwrap_or(u32::MAX);
                if let Some((platform, n)) = self.store.set_copies(id, count)? {
                    self.events.push(Event::Message(platform, n));
                }
            }
        }
        Ok(())
    }

    /// Own messages of late that `who` has not confirmed, where it carries their platform, or only its acts.
    pub fn unconfirmed(&self, who: &str, carries: impl Fn(&Id, bool) -> bool) -> Vec<Id> {
        let missing =
            self.copies.iter().filter(|(_, (platform, act, by))| !by.contains(who) && carries(platform, *act));
        missing.map(|(id, _)| *id).collect()
    }

    /// Messages whose time has come.
    pub fn tick(&mut self, now_ms: u64) -> Result<Vec<Arc<Message>>> {
        let mut due = Vec::new();
        while let Some(first) = self.early.first_entry() {
            if first.get().head.hlc.is_early(now_ms) {
                break;
            }
            due.push(first.remove());
        }
        if due.is_empty() {
            return Ok(Vec::new());
        }
        self.transaction(now_ms, |engine, batch| due.into_iter().try_for_each(|m| engine.settle(m, batch)))
    }

    /// Says something as this device; `platform` is `None` for a new one. It is durable when this returns. On a private platform
    /// it is sealed for those who take part: the secrets that it takes are made and handed out before.
    pub fn write(
        &mut self,
        now_ms: u64,
        platform: Option<Id>,
        (channel, kind): ([u8; 16], Kind),
        body: &Body,
        target: Option<Id>,
    ) -> std::result::Result<Arc<Message>, Refusal> {
        let mut payload = payload_of(body);
        if let Some(id) = platform
            && kind.is_sealed()
            && self.platforms.get(&id).is_some_and(|p| p.private)
        {
            payload = self.seal(now_ms, id, (channel, kind), &payload)?;
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(Refusal::no(format!("too long: {} bytes, and at most {MAX_PAYLOAD} fit", payload.len())));
        }
        let (mut last, mut auth_heads) = (None, Vec::new());
        let key = self.keys.unlocked()?;
        if let Some(id) = platform {
            let platform = self.platforms.get(&id).ok_or_else(|| Refusal::no("this platform is not known here"))?;
            let kept = self.store.last_of(platform.place.n, key.device)?;
            last = kept.max(self.store.own(&id)?);
            auth_heads = platform.acts.newest(|| &platform.authority);
        }
        let refs = target.into_iter().collect();
        let head = Head { refs, channel, ..Head::after(last, self.clock.tick(now_ms), auth_heads, kind) };
        let bytes = key.sign(Draft { platform, head, payload });
        let message = Arc::new(Message::decode(&bytes).map_err(|e| Refusal::no(e.to_string()))?);
        let kept = Arc::clone(&message);
        if self.copies.len() >= MAX_WAITING {
            self.copies.clear();
        }
        self.copies.insert(message.id, (message.platform, message.head.kind.is_authority(), BTreeSet::new()));
        self.transaction(now_ms, |engine, batch| {
            engine.store.set_own(&kept.platform, kept.head.seq, &kept.id)?;
            engine.settle(kept, batch)
        })?;
        self.written.push(Arc::clone(&message));
        Ok(message)
    }

    /// This node's identity takes part from now on, or no longer.
    pub fn set_joined(&mut self, id: Id, joined: bool) -> Result<()> {
        let Some(platform) = self.platforms.get_mut(&id) else { return Ok(()) };
        platform.place.joined = joined;
        self.store.set_joined(platform.place.n, joined)
    }

    /// Forgets a platform with everything in it.
    pub fn forget(&mut self, id: Id) -> Result<()> {
        if let Some(platform) = self.platforms.remove(&id) {
            self.transaction(0, |engine, batch| {
                batch.erased = true;
                engine.store.drop_invitation(&id)?;
                engine.store.clear(platform.place.n, true, |m| platform.words(m))
            })?;
            self.invitations.retain(|i| i.platform != id);
        }
        Ok(())
    }

    /// What others may have of a message that is kept: nothing, or itself with or without its bytes.
    pub fn offer(&self, id: &Id) -> Result<Option<Vec<u8>>> {
        let kept = self.store.get(id)?.filter(|k| k.hidden != Hidden::Banned || k.message.head.kind.is_authority());
        Ok(kept.map(|k| k.message.encode()))
    }
}
