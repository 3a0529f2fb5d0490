//! What one person sees of a platform: a pure function of the set of messages and of who looks.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    authority::Authority,
    body::{Body, Kind, Role},
    clock::Hlc,
    envelope::{Id, Message},
};
use crate::crypto::sha256;

/// A message as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: Id,
    pub hlc: Hlc,
    /// An identity.
    pub author: Id,
    pub channel: [u8; 16],
    pub shown: Shown,
    /// The edit whose text is shown.
    pub edit: Option<Id>,
    /// Who reacted with what.
    pub reactions: BTreeMap<Vec<u8>, BTreeSet<Id>>,
    /// Its device said two things under one number.
    pub forked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    Text(Vec<u8>),
    /// The bytes are not here; they may be had from others.
    Absent,
    /// By its author or by a tombstone.
    Purged,
}

/// A platform as one identity sees it, in the order of hybrid time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub entries: Vec<Entry>,
    /// Who has joined: role, and whether banned.
    pub members: Vec<(Id, Role, bool)>,
}

/// Devices that said two things under one number, and the lowest such number.
#[must_use]
pub fn forks(messages: &[&Message]) -> HashMap<Id, u64> {
    let mut said: HashMap<(Id, u64), Id> = HashMap::new();
    let mut forks: HashMap<Id, u64> = HashMap::new();
    for m in messages {
        if *said.entry((m.device, m.head.seq)).or_insert(m.id) != m.id {
            let from = forks.entry(m.device).or_insert(m.head.seq);
            *from = m.head.seq.min(*from);
        }
    }
    forks
}

/// The messages of a platform as far as it makes no difference who looks.
pub struct Timeline<'m> {
    authority: &'m Authority,
    /// Content that is in time and whose author is known, by hybrid time.
    content: Vec<(&'m Message, Id)>,
    purged: BTreeSet<Id>,
    forks: &'m HashMap<Id, u64>,
}

impl<'m> Timeline<'m> {
    /// `messages` holds with each message all acts that its `auth_heads` name; `forks` is what [`forks`] finds in them, and
    /// `authority` what comes of both.
    #[must_use]
    pub fn new(authority: &'m Authority, messages: &[&'m Message], forks: &'m HashMap<Id, u64>) -> Self {
        let by_id: HashMap<Id, &Message> = messages.iter().map(|m| (m.id, *m)).collect();
        let in_time = |m: &Message| {
            let before = m.head.prev.iter().chain(&m.head.auth_heads).chain(&m.head.refs);
            before.filter_map(|id| by_id.get(id)).all(|other| other.head.hlc < m.head.hlc)
        };
        let talk = |m: &&&Message| !m.head.kind.is_authority() && m.head.kind != Kind::Retract && in_time(m);
        let author = |m: &&'m Message| Some((*m, authority.identity(m.device).filter(|who| authority.admits(*who))?));
        let mut content: Vec<(&Message, Id)> = messages.iter().filter(talk).filter_map(author).collect();
        content.sort_unstable_by_key(|(m, _)| (m.head.hlc, m.id));
        Self { authority, content, purged: purged(authority, messages, &by_id), forks }
    }

    /// What `viewer` sees.
    #[must_use]
    pub fn view(&self, viewer: Id) -> View {
        let seen = || self.content.iter().filter(|(m, author)| !self.authority.excludes(m, *author, viewer));
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: HashMap<Id, usize> = HashMap::new();
        for (m, author) in seen().filter(|(m, _)| m.head.kind == Kind::Text) {
            let shown = match &m.body {
                _ if self.purged.contains(&m.id) => Shown::Purged,
                Body::Content(Some(text)) => Shown::Text(text.clone()),
                _ => Shown::Absent,
            };
            places.insert(m.id, entries.len());
            let forked = self.forks.get(&m.device).is_some_and(|from| m.head.seq >= *from);
            let (edit, reactions, author) = (None, BTreeMap::new(), *author);
            entries.push(Entry {
                id: m.id,
                hlc: m.head.hlc,
                author,
                channel: m.head.channel,
                shown,
                edit,
                reactions,
                forked,
            });
        }
        // The latest edit is shown: later ones take the place of earlier ones.
        for (m, author) in seen().filter(|(m, _)| m.head.kind != Kind::Text && !self.purged.contains(&m.id)) {
            let place = m.head.refs.first().and_then(|id| places.get(id));
            let Some(entry) = place.map(|p| &mut entries[*p]).filter(|e| e.shown != Shown::Purged) else { continue };
            let Body::Content(payload) = &m.body else { continue };
            if m.head.kind == Kind::Edit && *author == entry.author {
                entry.shown = payload.clone().map_or(Shown::Absent, Shown::Text);
                entry.edit = Some(m.id);
            } else if let (Kind::Reaction, Some(what)) = (m.head.kind, payload) {
                entry.reactions.entry(what.clone()).or_default().insert(*author);
            }
        }
        let standing = |id: Id| {
            let now = self.authority.now(id);
            (id, now.role, now.banned)
        };
        View { entries, members: self.authority.members().into_iter().map(standing).collect() }
    }
}

impl View {
    /// SHA-256 of all that is seen, but for whether the bytes are here: two that have the same messages have the same.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut out = Vec::with_capacity(self.entries.len() * 80);
        for e in &self.entries {
            out.extend(e.id.0);
            out.push(u8::from(e.shown == Shown::Purged) | u8::from(e.forked) << 1 | u8::from(e.edit.is_some()) << 2);
            out.extend(e.edit.unwrap_or_default().0);
            for (what, who) in &e.reactions {
                out.extend(sha256(&[what]));
                who.iter().for_each(|id| out.extend(id.0));
            }
        }
        for (id, role, banned) in &self.members {
            out.extend(id.0);
            out.extend([*role as u8, u8::from(*banned)]);
        }
        sha256(&[&out])
    }
}

/// Messages whose bytes are to go: by a good tombstone, or by their author.
fn purged(authority: &Authority, messages: &[&Message], by_id: &HashMap<Id, &Message>) -> BTreeSet<Id> {
    let mut out = BTreeSet::new();
    for m in messages {
        let author = authority.identity(m.device);
        let whose = |id: &Id| by_id.get(id).and_then(|t| authority.identity(t.device));
        match &m.body {
            Body::Tombstone { targets, .. } => {
                out.extend(
                    targets.iter().copied().filter(|t| whose(t).is_some_and(|author| authority.purges(m, author))),
                );
            }
            Body::Content(_) if m.head.kind == Kind::Retract && author.is_some() => {
                out.extend(m.head.refs.iter().copied().filter(|t| whose(t) == author));
            }
            _ => {}
        }
    }
    out
}
