//! One platform in memory: its acts, who may do what, and what everything is called. Its content is in the store.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    payload::text_of,
    store::{Hidden, Place, Result, Store},
};
use crate::chat::{
    Acts, Authority, Body, Channel, Hlc, Id, Kind, Message, open_name,
    sealed::{self, Secret, SecretId, secret_of},
};

pub struct Platform {
    pub place: Place,
    pub acts: Acts,
    pub authority: Authority,
    pub forks: HashMap<Id, u64>,
    /// By what they purge.
    tombstones: HashMap<Id, Vec<Arc<Message>>>,
    pub names: Names,
    /// Content and names are sealed, and takes part who was let in.
    pub private: bool,
    pub secrets: HashMap<SecretId, Secret>,
    /// By device the key to seal to.
    pub prekeys: HashMap<Id, (Hlc, [u8; 32])>,
    /// Which of the secrets are for names.
    pub name_secrets: HashSet<SecretId>,
    /// Good seals, by hybrid time.
    pub seals: Vec<Arc<Message>>,
    /// Who left, and was not let in again since.
    pub left: HashSet<Id>,
    /// Seals that this device can't open.
    deaf: HashSet<Id>,
    /// With whom it is a conversation of two, and what they were called before.
    pub direct: Option<(Id, String)>,
}

/// What things are called.
#[derive(Debug, Default)]
pub struct Names {
    pub platform: String,
    pub description: String,
    pub channels: BTreeMap<[u8; 16], Channel>,
    pub nicks: HashMap<Id, String>,
}

/// What becomes of a message of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub hidden: Hidden,
    /// Shown as purged.
    pub purged: bool,
    /// Its bytes go, shown or not.
    pub erased: bool,
}

impl Platform {
    pub fn load(store: &Store, place: Place) -> Result<Self> {
        let invitation = store.invitations()?.into_iter().find(|i| i.platform == place.id && i.direct);
        let mut platform = Self {
            place,
            private: false,
            acts: Acts::default(),
            authority: Authority::default(),
            forks: store.forks(place.n)?,
            tombstones: HashMap::new(),
            names: Names::default(),
            secrets: store.secrets(place.n)?,
            prekeys: HashMap::new(),
            name_secrets: HashSet::new(),
            seals: Vec::new(),
            left: HashSet::new(),
            deaf: HashSet::new(),
            direct: invitation.map(|i| (i.other, i.nick)),
        };
        // Each was kept after what it names: its number is higher.
        store.acts(place.n)?.into_iter().for_each(|act| platform.add(Arc::new(act)));
        platform.resolve();
        Ok(platform)
    }

    /// Adds an act of which nothing is missing.
    pub fn add(&mut self, act: Arc<Message>) {
        self.private |= act.id == self.place.id && act.founds_private();
        self.acts.add(act);
    }

    /// Decides anew who may do what. Returns messages, devices and identities of whose content the verdict may be another one.
    pub fn resolve(&mut self) -> (BTreeSet<Id>, BTreeSet<Id>) {
        let mut people: BTreeSet<Id> = self.authority.restricted().collect();
        let mut messages: BTreeSet<Id> = self.tombstones.keys().copied().collect();
        let before = std::mem::take(&mut self.authority);
        self.authority = Authority::resolve(self.place.id, &self.acts.list(), &self.forks);
        people.extend(self.authority.restricted());
        if let Some(now) = self.authority.admitted() {
            let before = before.admitted().cloned().unwrap_or_default();
            people.extend(now.symmetric_difference(&before));
        }
        self.tombstones.clear();
        let mut names = Names::default();
        let mut latest: HashMap<(Kind, Id), (Hlc, Id)> = HashMap::new();
        let (mut prekeys, mut seals) = (HashMap::new(), Vec::new());
        let mut name_secrets = HashSet::new();
        let (mut left, mut let_in): (HashMap<Id, Hlc>, HashMap<Id, Hlc>) = Default::default();
        for (act, author, good) in self.authority.acts() {
            let opened = match &act.body {
                Body::Sealed(_) => self.plain(act).and_then(|p| open_name(act.head.kind, act.device, p).ok()),
                _ => None,
            };
            let body = opened.as_ref().unwrap_or(&act.body);
            match body {
                Body::Prekey { key } if good => {
                    let entry = prekeys.entry(act.device).or_insert((act.head.hlc, *key));
                    *entry = (*entry).max((act.head.hlc, *key));
                }
                Body::Seal(seal) if good => {
                    seals.push(Arc::clone(act));
                    if seal.names {
                        name_secrets.extend(&seal.secrets);
                    }
                    seal.admits.iter().for_each(|id| later(&mut let_in, *id, act.head.hlc));
                }
                Body::Leave => later(&mut left, author, act.head.hlc),
                _ => {}
            }
            if let Body::Tombstone { targets, .. } = &act.body {
                for target in targets {
                    self.tombstones.entry(*target).or_default().push(Arc::clone(act));
                }
            }
            let mut of = author;
            if let Body::Channel(channel) = body {
                of = Id::default();
                of.0[..16].copy_from_slice(&channel.channel);
            } else if let Body::Info { .. } = body {
                of = Id::default();
            }
            let at = (act.head.hlc, act.id);
            let is_name = matches!(body, Body::Info { .. } | Body::Channel(_) | Body::Profile { .. });
            if !good || !is_name || latest.get(&(act.head.kind, of)).is_some_and(|before| *before > at) {
                continue;
            }
            latest.insert((act.head.kind, of), at);
            match body {
                Body::Info { name, description } => {
                    names.platform.clone_from(name);
                    names.description.clone_from(description);
                }
                Body::Channel(channel) => drop(names.channels.insert(channel.channel, channel.clone())),
                Body::Profile { nick } => drop(names.nicks.insert(author, nick.clone())),
                _ => {}
            }
        }
        self.names = names;
        seals.sort_unstable_by_key(|seal| (seal.head.hlc, seal.id));
        (self.prekeys, self.seals, self.name_secrets) = (prekeys, seals, name_secrets);
        left.retain(|who, at| let_in.get(who).is_none_or(|back| back < at));
        self.left = left.into_keys().collect();
        messages.extend(self.tombstones.keys());
        (people, messages)
    }

    /// What a message says to who has the secrets of its platform.
    #[must_use]
    pub fn plain(&self, m: &Message) -> Option<Vec<u8>> {
        let payload = m.payload()?;
        if !self.private || !m.head.kind.is_sealed() {
            return Some(payload);
        }
        let secret = self.secrets.get(&secret_of(&payload)?)?;
        let place =
            sealed::Place { platform: m.platform, device: m.device, kind: m.head.kind, channel: m.head.channel };
        sealed::open(secret, &place, &payload)
    }

    /// The words of a text or edit.
    #[must_use]
    pub fn words(&self, m: &Message) -> Option<String> {
        let is_text = matches!(m.head.kind, Kind::Text | Kind::Edit);
        self.plain(m).filter(|_| is_text).as_deref().and_then(text_of)
    }

    /// Takes the secrets that others have sealed for this device. Returns whether there were any.
    pub fn learn(&mut self, store: &Store, device: Id) -> Result<bool> {
        let mut found = false;
        let mut privates = None;
        for act in &self.seals {
            let Body::Seal(seal) = &act.body else { continue };
            let is_known = seal.secrets.iter().all(|id| self.secrets.contains_key(id)) || self.deaf.contains(&act.id);
            let Ok(at) = seal.boxes.binary_search_by_key(&device, |(device, _)| *device) else { continue };
            if is_known {
                continue;
            }
            let privates = match &privates {
                Some(keys) => keys,
                None => privates.insert(store.prekeys()?),
            };
            let (platform, sealed) = (&self.place.id, &seal.boxes[at].1);
            let open = |k: &super::store::Prekey| sealed::open_secrets(&k.private, platform, &act.device, sealed);
            let Some(secrets) = privates.iter().find_map(open) else {
                self.deaf.insert(act.id);
                continue;
            };
            for secret in secrets.into_iter().filter(|s| seal.secrets.contains(&sealed::name_of(s))) {
                store.add_secret(self.place.n, &secret)?;
                found |= self.secrets.insert(sealed::name_of(&secret), secret).is_none();
            }
        }
        Ok(found)
    }

    /// What becomes of a message of content.
    pub fn judge(&self, store: &Store, m: &Message, author: Option<Id>) -> Result<Verdict> {
        let Some(author) = author else { return Ok(Verdict { hidden: Hidden::Odd, purged: false, erased: false }) };
        let stranger = Id::default();
        let hidden = if self.authority.excludes(m, author, author) {
            Hidden::Banned
        } else if !self.authority.admits(author) || m.head.kind != Kind::Retract && store.is_odd(m)? {
            Hidden::Odd
        } else if self.authority.excludes(m, author, stranger) {
            Hidden::Shadowed
        } else {
            Hidden::No
        };
        let purged = self.is_purged(store, &m.id, author)?;
        // What edits a message or reacts to it goes with it.
        let follows = match m.head.refs.first() {
            Some(target) if matches!(m.head.kind, Kind::Edit | Kind::Reaction | Kind::File) => {
                let whose = store.author_of(target)?.unwrap_or(author);
                self.is_purged(store, target, whose)?
            }
            _ => false,
        };
        let purged = purged || follows;
        let erased = purged || self.authority.erases(m, author);
        Ok(Verdict { hidden, purged, erased })
    }

    fn is_purged(&self, store: &Store, id: &Id, author: Id) -> Result<bool> {
        let stones = self.tombstones.get(id).map_or(&[][..], |all| all);
        Ok(stones.iter().any(|t| self.authority.purges(t, author)) || store.is_retracted(id, author)?)
    }

    /// What somebody is called here: the name they gave themselves, or the beginning of their key.
    #[must_use]
    pub fn nick(&self, who: Id) -> String {
        self.names.nicks.get(&who).cloned().unwrap_or_else(|| who.to_string()[..8].to_owned())
    }

    #[must_use]
    pub fn name(&self) -> String {
        if let Some((other, nick)) = &self.direct {
            format!("@{}", self.names.nicks.get(other).unwrap_or(nick))
        } else if self.names.platform.is_empty() {
            self.place.id.to_string()[..8].to_owned()
        } else {
            self.names.platform.clone()
        }
    }
}

fn later(all: &mut HashMap<Id, Hlc>, who: Id, at: Hlc) {
    let entry = all.entry(who).or_insert(at);
    *entry = (*entry).max(at);
}
