//! One platform in memory: its acts, who may do what, and what everything is called. Its content is in the store.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::store::{Hidden, Place, Result, Store};
use crate::chat::{Acts, Authority, Body, Channel, Hlc, Id, Kind, Message};

pub struct Platform {
    pub place: Place,
    pub acts: Acts,
    pub authority: Authority,
    pub forks: HashMap<Id, u64>,
    /// By what they purge.
    tombstones: HashMap<Id, Vec<Arc<Message>>>,
    pub names: Names,
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
        let mut acts = Acts::default();
        let mut open: Vec<Arc<Message>> = store.acts(place.n)?.into_iter().map(Arc::new).collect();
        // Each was kept after what it names: its number is higher.
        open.drain(..).for_each(|act| acts.add(act));
        let forks = store.forks(place.n)?;
        let (authority, tombstones, names) = (Authority::default(), HashMap::new(), Names::default());
        let mut platform = Self { place, acts, authority, forks, tombstones, names };
        platform.resolve();
        Ok(platform)
    }

    /// Decides anew who may do what. Returns messages, devices and identities of whose content the verdict may be another one.
    pub fn resolve(&mut self) -> (BTreeSet<Id>, BTreeSet<Id>) {
        let mut people: BTreeSet<Id> = self.authority.restricted().collect();
        let mut messages: BTreeSet<Id> = self.tombstones.keys().copied().collect();
        self.authority = Authority::resolve(self.place.id, &self.acts.list(), &self.forks);
        people.extend(self.authority.restricted());
        self.tombstones.clear();
        let mut names = Names::default();
        let mut latest: HashMap<(Kind, Id), (Hlc, Id)> = HashMap::new();
        for (act, author, good) in self.authority.acts() {
            if let Body::Tombstone { targets, .. } = &act.body {
                for target in targets {
                    self.tombstones.entry(*target).or_default().push(Arc::clone(act));
                }
            }
            let mut of = author;
            if let Body::Channel(channel) = &act.body {
                of = Id::default();
                of.0[..16].copy_from_slice(&channel.channel);
            } else if let Body::Info { .. } = &act.body {
                of = Id::default();
            }
            let at = (act.head.hlc, act.id);
            let is_name = matches!(act.body, Body::Info { .. } | Body::Channel(_) | Body::Profile { .. });
            if !good || !is_name || latest.get(&(act.head.kind, of)).is_some_and(|before| *before > at) {
                continue;
            }
            latest.insert((act.head.kind, of), at);
            match &act.body {
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
        messages.extend(self.tombstones.keys());
        (people, messages)
    }

    /// What becomes of a message of content.
    pub fn judge(&self, store: &Store, m: &Message, author: Option<Id>) -> Result<Verdict> {
        let Some(author) = author else { return Ok(Verdict { hidden: Hidden::Odd, purged: false, erased: false }) };
        let stranger = Id::default();
        let hidden = if self.authority.excludes(m, author, author) {
            Hidden::Banned
        } else if m.head.kind != Kind::Retract && store.is_odd(m)? {
            Hidden::Odd
        } else if self.authority.excludes(m, author, stranger) {
            Hidden::Shadowed
        } else {
            Hidden::No
        };
        let stones = self.tombstones.get(&m.id).map_or(&[][..], |all| all);
        let purged = stones.iter().any(|t| self.authority.purges(t, author)) || store.is_retracted(&m.id, author)?;
        let erased = purged || self.authority.erases(m, author);
        Ok(Verdict { hidden, purged, erased })
    }

    /// What somebody is called here: the name they gave themselves, or the beginning of their key.
    #[must_use]
    pub fn nick(&self, who: Id) -> String {
        self.names.nicks.get(&who).cloned().unwrap_or_else(|| who.to_string()[..8].to_owned())
    }

    #[must_use]
    pub fn name(&self) -> String {
        if self.names.platform.is_empty() {
            self.place.id.to_string()[..8].to_owned()
        } else {
            self.names.platform.clone()
        }
    }
}
