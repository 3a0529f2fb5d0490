//! One copy of a platform: takes in messages in any order, any number of times.

use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    authority::Authority,
    body::{Body, Kind, payload_of},
    clock::{Clock, Hlc},
    envelope::{DeviceKey, Draft, Head, Id, MAX_LINKS, Message},
    view::{Timeline, View, forks},
};

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    New,
    Known,
    /// It names acts of authority that are not here yet: it is kept until they are.
    Waits,
    /// Its clock is far ahead: it is for whoever sent it to send it again.
    Early,
    /// Of another platform.
    Foreign,
}

/// The acts of a platform, each after all that it names.
#[derive(Clone, Debug, Default)]
pub struct Acts {
    all: HashMap<Id, Arc<Message>>,
    /// Acts that no other act here names.
    heads: BTreeSet<Id>,
    named: HashSet<Id>,
}

impl Acts {
    /// The first act that a message names and that is not here.
    #[must_use]
    pub fn missing(&self, message: &Message) -> Option<Id> {
        message.head.auth_heads.iter().copied().find(|h| !self.all.contains_key(h))
    }

    /// Adds an act of which nothing is [`Self::missing`].
    pub fn add(&mut self, act: Arc<Message>) {
        for head in &act.head.auth_heads {
            self.heads.remove(head);
            self.named.insert(*head);
        }
        if !self.named.contains(&act.id) {
            self.heads.insert(act.id);
        }
        self.all.insert(act.id, act);
    }

    #[must_use]
    pub fn list(&self) -> Vec<Arc<Message>> {
        self.all.values().cloned().collect()
    }

    #[must_use]
    pub fn get(&self, id: &Id) -> Option<&Arc<Message>> {
        self.all.get(id)
    }

    /// The newest acts, as a message names them. If there are many, those that count come before those that everybody may
    /// do or try, or else a crowd of strangers could keep an author from naming what gave him his role.
    #[must_use]
    pub fn newest<A: Borrow<Authority>>(&self, authority: impl FnOnce() -> A) -> Vec<Id> {
        if self.heads.len() <= MAX_LINKS {
            return self.heads.iter().copied().collect();
        }
        let authority = authority();
        let counts = |m: &Message| {
            authority.borrow().is_good(&m.id) && !matches!(m.head.kind, Kind::Join | Kind::Leave | Kind::Profile)
        };
        let heads = self.heads.iter().filter_map(|id| self.all.get(id));
        let mut all: Vec<((bool, Hlc), Id)> = heads.map(|m| ((counts(m), m.head.hlc), m.id)).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.truncate(MAX_LINKS);
        all.into_iter().map(|(_, id)| id).collect()
    }
}

/// The messages of a platform.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    platform: Id,
    acts: Acts,
    content: HashMap<Id, Arc<Message>>,
    /// By one of the acts that they miss.
    waiting: HashMap<Id, Vec<Arc<Message>>>,
    clock: Clock,
}

impl Replica {
    #[must_use]
    pub fn new(platform: Id) -> Self {
        Self { platform, ..Self::default() }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.acts.all.len() + self.content.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in a message whose signature is verified, at `now_ms` since 1970.
    pub fn insert(&mut self, now_ms: u64, message: Arc<Message>) -> Taken {
        if message.platform != self.platform {
            return Taken::Foreign;
        }
        if self.knows(&message.id) {
            return Taken::Known;
        }
        if message.head.hlc.is_early(now_ms) {
            return Taken::Early;
        }
        if let Some(missing) = self.acts.missing(&message) {
            let waiting = self.waiting.entry(missing).or_default();
            if waiting.iter().any(|m| m.id == message.id) {
                return Taken::Known;
            }
            waiting.push(message);
            return Taken::Waits;
        }
        let mut ready = vec![message];
        while let Some(message) = ready.pop() {
            if let Some(missing) = self.acts.missing(&message) {
                self.waiting.entry(missing).or_default().push(message);
                continue;
            }
            self.clock.observe(message.head.hlc);
            if message.head.kind.is_authority() {
                ready.extend(self.waiting.remove(&message.id).unwrap_or_default());
                self.acts.add(message);
            } else {
                self.content.insert(message.id, message);
            }
        }
        Taken::New
    }

    /// The newest acts, as a message names them.
    #[must_use]
    pub fn auth_heads(&self) -> Vec<Id> {
        self.acts.newest(|| self.authority(&HashMap::new()))
    }

    fn authority(&self, forks: &HashMap<Id, u64>) -> Authority {
        Authority::resolve(self.platform, &self.acts.list(), forks)
    }

    #[must_use]
    pub fn knows(&self, id: &Id) -> bool {
        self.acts.all.contains_key(id) || self.content.contains_key(id)
    }

    pub fn messages(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.acts.all.values().chain(self.content.values())
    }

    /// What an identity sees.
    #[must_use]
    pub fn view(&self, viewer: Id) -> View {
        self.views(&[viewer]).1.remove(0)
    }

    /// What each of these identities sees, and how many acts of authority are void.
    #[must_use]
    pub fn views(&self, viewers: &[Id]) -> (usize, Vec<View>) {
        let all: Vec<&Message> = self.messages().map(|m| &**m).collect();
        let forks = forks(&all);
        let authority = self.authority(&forks);
        let void = authority.acts().filter(|(_, _, good)| !good).count();
        let timeline = Timeline::new(&authority, &all, &forks);
        (void, viewers.iter().map(|viewer| timeline.view(*viewer)).collect())
    }
}

/// A device that writes on one platform.
pub struct Author {
    pub key: DeviceKey,
    platform: Option<Id>,
    /// Its last message: number and id.
    last: Option<(u64, Id)>,
}

impl Author {
    #[must_use]
    pub fn new(key: DeviceKey, platform: Option<Id>) -> Self {
        Self { key, platform, last: None }
    }

    /// Writes a message, as the replica has it now; `refs` are what it answers. It is taken in there.
    pub fn write(
        &mut self,
        replica: &mut Replica,
        now_ms: u64,
        kind: Kind,
        body: &Body,
        refs: Vec<Id>,
    ) -> Arc<Message> {
        let hlc = replica.clock.tick(now_ms);
        let message = Arc::new(self.say(hlc, replica.auth_heads(), kind, body, refs));
        if replica.is_empty() && kind == Kind::Genesis {
            replica.platform = message.platform;
        }
        replica.insert(now_ms, Arc::clone(&message));
        message
    }

    /// Writes a message that names these acts, and takes it in nowhere.
    pub fn say(&mut self, hlc: Hlc, auth_heads: Vec<Id>, kind: Kind, body: &Body, refs: Vec<Id>) -> Message {
        let head = Head { refs, ..Head::after(self.last, hlc, auth_heads, kind) };
        let draft = Draft { platform: self.platform, head, payload: payload_of(body) };
        let message = Message::decode(&self.key.sign(draft)).expect("what we write is well-formed");
        self.last = Some((message.head.seq, message.id));
        self.platform.get_or_insert(message.platform);
        message
    }

    /// Joins, or founds where there is no platform yet.
    pub fn join(&mut self, replica: &mut Replica, now_ms: u64) -> Arc<Message> {
        let kind = if self.platform.is_none() { Kind::Genesis } else { Kind::Join };
        let body = Body::Join { identity: self.key.identity, payload: self.key.join.clone() };
        self.write(replica, now_ms, kind, &body, Vec::new())
    }
}
