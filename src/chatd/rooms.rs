//! What people see: platforms, channels, messages, members, and who did what.

use super::{
    engine::{Engine, Refusal},
    payload::{reaction_of, text_of},
    platform::Platform,
    request::{Answer, AuditEntry, ChannelInfo, Entry, Member, PlatformInfo, Reaction, Role, State},
    store::{From, Kept},
};
use crate::chat::{self, Body, Hlc, Id, Kind};

type Result<T> = std::result::Result<T, Refusal>;

/// Messages of a page.
const PAGE: usize = 50;
const MAX_PAGE: usize = 500;
/// A message that comes so much after it was written is marked.
const LATE_MS: u64 = 600_000;

impl Engine {
    /// Who looks.
    pub(super) fn me(&self) -> Id {
        self.keys.identity().unwrap_or_default()
    }

    /// A platform by its name, or the beginning of its id.
    pub fn find_platform(&self, who: &str) -> Result<&Platform> {
        let mut found: Vec<&Platform> =
            self.platforms.values().filter(|p| p.name().eq_ignore_ascii_case(who)).collect();
        if found.is_empty() && who.len() >= 4 {
            found = self.platforms.values().filter(|p| p.place.id.to_string().starts_with(who)).collect();
        }
        if found.len() > 1 && found.iter().any(|p| p.place.joined) {
            found.retain(|p| p.place.joined);
        }
        match found[..] {
            [one] => Ok(one),
            [] => Err(Refusal::no(format!("no platform `{who}` here; `aegisray chat platforms` lists them"))),
            _ => Err(Refusal::no(format!("several platforms are called `{who}`: give the beginning of the id"))),
        }
    }

    pub fn find_channel(&self, platform: &Platform, name: &str) -> Result<[u8; 16]> {
        let name = name.strip_prefix('#').unwrap_or(name);
        let mut all = platform.names.channels.values().filter(|c| c.name.eq_ignore_ascii_case(name));
        match (all.next(), all.next()) {
            (Some(one), None) => Ok(one.channel),
            (Some(_), Some(_)) => Err(Refusal::no(format!("several channels are called `{name}`: rename one"))),
            _ => {
                let mut ids = platform.names.channels.keys().filter(|id| hex(*id).starts_with(name) && name.len() >= 4);
                ids.next().copied().ok_or_else(|| Refusal::no(format!("no channel `{name}` on {}", platform.name())))
            }
        }
    }

    /// Somebody by nick, or the beginning of the key.
    pub fn find_person(&self, platform: &Platform, who: &str) -> Result<Id> {
        let name = who.strip_prefix('@').unwrap_or(who);
        let members = platform.authority.members();
        let mut found: Vec<Id> =
            members.iter().copied().filter(|m| platform.nick(*m).eq_ignore_ascii_case(name)).collect();
        if found.is_empty() && name.len() >= 4 {
            found = members.into_iter().filter(|m| m.to_string().starts_with(name)).collect();
        }
        match found[..] {
            [one] => Ok(one),
            [] => Err(Refusal::no(format!("nobody here is called `{who}`; `aegisray chat members` lists all"))),
            _ => Err(Refusal::no(format!("several people are called `{who}`: give the beginning of the key"))),
        }
    }

    /// A message by the beginning of its id.
    pub fn find_message(&self, platform: &Platform, which: &str) -> Result<Kept> {
        let good = (6..=64).contains(&which.len()) && which.chars().all(|c| c.is_ascii_hexdigit());
        if !good {
            return Err(Refusal::no(format!("expected 6 or more digits of a message's id, got `{which}`")));
        }
        let mut found = self.store.by_prefix(platform.place.n, &which.to_ascii_lowercase())?;
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (None, _) => Err(Refusal::no(format!("no message `{which}` here"))),
            _ => Err(Refusal::no(format!("several messages begin with `{which}`: give more of the id"))),
        }
    }

    pub fn list_platforms(&self) -> Result<Answer> {
        let me = self.me();
        let mut out = Vec::new();
        for platform in self.platforms.values().filter(|p| p.place.joined) {
            let nick = platform.nick(me);
            let mut channels = Vec::new();
            for (id, channel) in &platform.names.channels {
                let (unread, mut mentions) = self.store.unread(platform.place.n, id, me, &nick)?;
                if platform.private && unread > 0 {
                    let newest = self.store.newest_unread(platform.place.n, id, me, MAX_PAGE)?;
                    let name = format!("@{nick}");
                    let to_me = |k: &&Kept| platform.words(&k.message).is_some_and(|words| words.contains(&name));
                    mentions = if platform.direct.is_some() { unread } else { newest.iter().filter(to_me).count() };
                }
                let (name, topic, archived) = (channel.name.clone(), channel.topic.clone(), channel.archived);
                channels.push(ChannelInfo { id: hex(id), name, topic, archived, unread, mentions });
            }
            channels.sort_by(|a, b| (a.archived, &a.name).cmp(&(b.archived, &b.name)));
            out.push(PlatformInfo {
                id: platform.place.id.to_string(),
                name: platform.name(),
                description: platform.names.description.clone(),
                role: role(platform.authority.now(me).role),
                members: platform.authority.members().len(),
                private: platform.private,
                direct: platform.direct.is_some(),
                channels,
            });
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Answer::Platforms { platforms: out })
    }

    pub fn read(
        &self,
        platform: &str,
        channel: &str,
        (before, after): (Option<&str>, Option<&str>),
        limit: Option<usize>,
    ) -> Result<Answer> {
        let platform = self.find_platform(platform)?;
        let channel = self.find_channel(platform, channel)?;
        let place = |which: &str| -> Result<(Hlc, Id)> {
            let found = self.find_message(platform, which)?;
            Ok((found.message.head.hlc, found.message.id))
        };
        let from = match (before, after) {
            (Some(before), _) => place(before).map(|(hlc, id)| From::Before(hlc, id))?,
            (None, Some(after)) => place(after).map(|(hlc, id)| From::After(hlc, id))?,
            (None, None) => From::Before(Hlc(u64::MAX), Id([255; 32])),
        };
        let limit = limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
        let mut page = self.store.page(platform.place.n, &channel, self.me(), from, limit + 1)?;
        let more = page.len() > limit;
        page.truncate(limit);
        if matches!(from, From::Before(..)) {
            page.reverse();
        }
        let messages = page.iter().map(|kept| self.entry(platform, kept)).collect::<Result<_>>()?;
        Ok(Answer::Messages { messages, more })
    }

    /// A message as it is shown: what reacts to it or edits it stands for it.
    pub fn entry_of(&self, platform: &Platform, kept: &Kept) -> Result<Option<Entry>> {
        let m = &kept.message;
        if m.head.kind == Kind::Text {
            return self.entry(platform, kept).map(Some);
        }
        let target = match m.head.refs.first() {
            Some(target) if !m.head.kind.is_authority() => self.store.get(target)?,
            _ => None,
        };
        target.filter(|t| t.message.head.kind == Kind::Text).map(|t| self.entry(platform, &t)).transpose()
    }

    fn entry(&self, platform: &Platform, kept: &Kept) -> Result<Entry> {
        let (m, me) = (&kept.message, self.me());
        let author = kept.author.unwrap_or_default();
        let own = author == me;
        let mut said = m;
        let mut edit;
        let (mut edited, mut reactions) = (false, Vec::<Reaction>::new());
        for (about, by) in self.store.about(&m.id, me)? {
            match about.head.kind {
                Kind::Edit if by == author => {
                    edit = about;
                    said = &edit;
                    edited = true;
                }
                Kind::Reaction => {
                    let Some(what) = platform.plain(&about).as_deref().and_then(reaction_of) else { continue };
                    let at = reactions.iter().position(|r| r.what == what).unwrap_or_else(|| {
                        reactions.push(Reaction { what, who: Vec::new(), own: false });
                        reactions.len() - 1
                    });
                    let who = platform.nick(by);
                    if !reactions[at].who.contains(&who) {
                        reactions[at].who.push(who);
                    }
                    reactions[at].own |= by == me;
                }
                _ => {}
            }
        }
        let plain = platform.plain(said);
        let text = plain.as_deref().and_then(text_of);
        let state = match &text {
            _ if !kept.is_seen_by(me) => State::Hidden,
            _ if kept.purged => State::Purged,
            None if said.payload().is_none() => State::Absent,
            None if plain.is_none() => State::Sealed,
            None => State::Text,
            Some(_) => State::Text,
        };
        if matches!(state, State::Purged | State::Hidden) {
            (edited, reactions) = (false, Vec::new());
        }
        let time_ms = m.head.hlc.ms();
        Ok(Entry {
            id: m.id.to_string(),
            platform: m.platform.to_string(),
            channel: hex(&m.head.channel),
            time_ms,
            order: format!("{:016x}{}", m.head.hlc.0, m.id),
            author: author.to_string(),
            nick: platform.nick(author),
            state,
            text: text.filter(|_| state == State::Text).unwrap_or_default(),
            edited,
            reply_to: m.head.refs.first().map(Id::to_string),
            files: if state == State::Text { self.files(platform, kept)? } else { Vec::new() },
            reactions,
            late: kept.received_ms.saturating_sub(time_ms) > LATE_MS,
            forked: platform.forks.get(&m.device).is_some_and(|from| m.head.seq >= *from),
            own,
            copies: kept.copies,
        })
    }

    pub fn show(&self, platform: &str, which: &str) -> Result<Answer> {
        let platform = self.find_platform(platform)?;
        let kept = self.find_message(platform, which)?;
        let messages = self.entry_of(platform, &kept)?.into_iter().collect();
        Ok(Answer::Messages { messages, more: false })
    }

    pub fn mark(&self, platform: &str, channel: &str, message: &str) -> Result<Answer> {
        let platform = self.find_platform(platform)?;
        let channel = self.find_channel(platform, channel)?;
        let kept = self.find_message(platform, message)?;
        self.store.mark(platform.place.n, &channel, kept.message.head.hlc)?;
        Ok(Answer::Done)
    }

    pub fn search(&self, platform: &str, words: &str, limit: Option<usize>) -> Result<Answer> {
        let platform = self.find_platform(platform)?;
        let limit = limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
        let quoted: Vec<String> =
            words.split_whitespace().map(|w| format!("\"{}\"*", w.replace('"', "\"\""))).collect();
        if quoted.is_empty() {
            return Err(Refusal::no("expected words to look for"));
        }
        let mut messages: Vec<Entry> = Vec::new();
        for kept in self.store.search(platform.place.n, &quoted.join(" "), self.me(), limit)? {
            let text = platform.words(&kept.message);
            let Some(entry) = self.entry_of(platform, &kept)? else { continue };
            // What was edited away is not found.
            if entry.state == State::Text && Some(&entry.text) == text.as_ref() && !messages.contains(&entry) {
                messages.push(entry);
            }
        }
        Ok(Answer::Messages { messages, more: false })
    }

    pub fn members(&self, platform: &str) -> Result<Answer> {
        let platform = self.find_platform(platform)?;
        let me = self.me();
        let member = |id: Id| {
            let now = platform.authority.now(id);
            let (id_text, nick) = (id.to_string(), platform.nick(id));
            Member { id: id_text, nick, role: role(now.role), banned: now.banned, own: id == me }
        };
        let mut members: Vec<Member> = platform.authority.members().into_iter().map(member).collect();
        members.sort_by_key(|m| (m.banned, std::cmp::Reverse(m.role as u8), m.nick.to_lowercase()));
        Ok(Answer::Members { members })
    }

    pub fn audit(&self, platform: &str) -> Result<Answer> {
        let platform = self.find_platform(platform)?;
        let person = |id: &Id| platform.nick(*id);
        let entry = |(m, author, good): (&std::sync::Arc<chat::Message>, Id, bool)| {
            let (act, target, reason) = match &m.body {
                Body::Grant { target, role } => (format!("GRANT {role:?}"), person(target), String::new()),
                Body::Revoke { target } => ("REVOKE".to_owned(), person(target), String::new()),
                Body::Ban(b) => {
                    (if b.purge { "BAN with purge" } else { "BAN" }.to_owned(), person(&b.target), b.reason.clone())
                }
                Body::Unban { target } => ("UNBAN".to_owned(), person(target), String::new()),
                Body::ShadowBan(b) => ("SHADOW_BAN".to_owned(), person(&b.target), b.reason.clone()),
                Body::Unshadow { target } => ("UNSHADOW".to_owned(), person(target), String::new()),
                Body::Tombstone { targets, reason } => {
                    let all: Vec<String> = targets.iter().map(|t| t.to_string()[..12].to_owned()).collect();
                    ("TOMBSTONE".to_owned(), all.join(" "), reason.clone())
                }
                Body::Checkpoint => ("CHECKPOINT".to_owned(), String::new(), String::new()),
                Body::Leave => ("LEAVE".to_owned(), String::new(), String::new()),
                Body::Channel(c) => ("CHANNEL".to_owned(), c.name.clone(), String::new()),
                Body::Info { name, .. } => ("INFO".to_owned(), name.clone(), String::new()),
                Body::Join { .. } if m.head.kind == Kind::Genesis => {
                    ("GENESIS".to_owned(), String::new(), String::new())
                }
                Body::Join { .. } => ("JOIN".to_owned(), String::new(), String::new()),
                Body::Seal(seal) if seal.admits.is_empty() => return None,
                Body::Seal(seal) => {
                    let all: Vec<String> = seal.admits.iter().map(person).collect();
                    ("INVITE".to_owned(), all.join(" "), String::new())
                }
                Body::Sealed(_) if m.head.kind == Kind::Profile => return None,
                Body::Sealed(_) => (format!("{:?}", m.head.kind).to_uppercase(), String::new(), String::new()),
                Body::Profile { .. } | Body::Prekey { .. } | Body::Content(_) => return None,
            };
            let (id, time_ms) = (m.id.to_string(), m.head.hlc.ms());
            Some(AuditEntry {
                id,
                time_ms,
                author: author.to_string(),
                nick: person(&author),
                act,
                target,
                reason,
                good,
            })
        };
        let mut acts: Vec<AuditEntry> = platform.authority.acts().filter_map(entry).collect();
        acts.sort_by_key(|a| a.time_ms);
        Ok(Answer::Audit { acts })
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

pub(super) fn role(role: chat::Role) -> Role {
    match role {
        chat::Role::Member => Role::Member,
        chat::Role::Moderator => Role::Moderator,
        chat::Role::Powernode => Role::Powernode,
        chat::Role::Founder => Role::Founder,
    }
}
