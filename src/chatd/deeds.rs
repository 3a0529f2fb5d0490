//! What people do: joining, writing, moderating.

use std::sync::Arc;

use super::{
    engine::Refusal,
    hub::{Hub, RELAYS},
    links::LinkId,
    net::parse_url,
    payload::{self, MAX_REACTION, MAX_TEXT},
    request::{Answer, Happened, Offer, Peer, Request, Role, Status},
    store::Invitation,
};
use crate::chat::{self, Ban, Body, Channel, Id, Kind, Message};

type Result<T> = std::result::Result<T, Refusal>;

/// Devices that a cut can name.
const MAX_CUT: usize = 64;
const MAIN: &str = "general";

impl Hub {
    /// Does what somebody asks for, at `now_ms` since 1970. What is to be sent for it comes with the next call of `handle`.
    pub fn request(&mut self, now_ms: u64, request: Request) -> Answer {
        let answer = self.carry_out(now_ms, request);
        let answer = answer.unwrap_or_else(|e| Answer::Error { message: e.to_string() });
        match self.after(now_ms) {
            Ok(()) => answer,
            Err(e) => Answer::Error { message: e.to_string() },
        }
    }

    fn carry_out(&mut self, now_ms: u64, request: Request) -> Result<Answer> {
        let engine = &mut self.engine;
        match request {
            Request::Status => return Ok(Answer::Status(self.status())),
            Request::Page => {
                let url = self.page.clone();
                let none = || Refusal::no("this node serves no page: set chat.page to a port");
                return url.map(|url| Answer::Page { url }).ok_or_else(none);
            }
            Request::IdentityNew { password, words } => {
                let words = engine.keys.create(&password, words.as_deref(), &mut engine.rng)?;
                return Ok(Answer::Identity { words });
            }
            Request::Unlock { password } => {
                engine.keys.unlock(&password)?;
                self.be_reachable(now_ms)?;
            }
            Request::Lock => engine.keys.lock(),
            Request::Password { old, new } => engine.keys.change_password(&old, &new, &mut engine.rng)?,
            Request::Words { password } => return Ok(Answer::Identity { words: engine.keys.words(&password)? }),
            Request::LinkNew { password } => return self.link_new(now_ms, password),
            Request::LinkCodes => return Ok(self.link_codes()),
            Request::LinkTake { code } => return self.link_take(now_ms, &code),
            Request::LinkAllow { code, password } => return self.link_allow(now_ms, &code, &password),
            Request::Found { name, nick, private } => {
                let id = self.found(now_ms, &name, &nick, private)?;
                return Ok(Answer::Id { id: id.to_string() });
            }
            Request::Invite { platform, who, from, history } => {
                let id = self.own(&platform)?;
                let (via, who) = self.person(&from, &who)?;
                self.engine.invite(now_ms, id, (via, who), history)?;
            }
            Request::Signal { platform, who, data } => {
                let to = self.person(&platform, &who)?;
                self.signal(now_ms, to, data)?;
            }
            Request::Direct { platform, who } => {
                let (via, who) = self.person(&platform, &who)?;
                return Ok(Answer::Id { id: self.direct(now_ms, via, who)?.to_string() });
            }
            Request::Discover => return Ok(self.discover()),
            Request::Join { platform, nick } => return self.join(now_ms, &platform, &nick),
            Request::Leave { platform } => {
                let id = self.own(&platform)?;
                self.act(now_ms, id, Kind::Leave, &Body::Leave)?;
                self.engine.set_joined(id, false)?;
                self.engine.forget(id)?;
                self.greet_again(now_ms);
            }
            Request::Platforms => return engine.list_platforms(),
            Request::Channel { platform, name, topic, rename, archived } => {
                return self.channel(now_ms, &platform, (&name, topic, rename, archived));
            }
            Request::Rename { platform, name, description } => {
                let id = self.own(&platform)?;
                return self.act(now_ms, id, Kind::Info, &Body::Info { name, description });
            }
            Request::Nick { platform, nick } => {
                let id = self.own(&platform)?;
                return self.act(now_ms, id, Kind::Profile, &Body::Profile { nick });
            }
            Request::FileNew { name, kind } => return engine.file_new(&name, kind),
            Request::FilePut { upload, bytes } => return engine.file_put(now_ms, upload, bytes.0),
            Request::FileGet { platform, message, file, piece } => {
                let (answer, fetch) = engine.file_get(&platform, &message, &file, piece)?;
                if let Some(n) = fetch {
                    engine.store.want_file(n, 2)?;
                    engine.has_new_files = true;
                }
                return Ok(answer);
            }
            Request::Send { platform, channel, text, reply_to, files } => {
                let found = engine.find_platform(&platform)?;
                let channel = engine.find_channel(found, &channel)?;
                if found.names.channels.get(&channel).is_some_and(|c| c.archived) {
                    return Err(Refusal::no("this channel is archived"));
                }
                let target = reply_to.map(|r| engine.find_message(found, &r).map(|k| k.message.id)).transpose()?;
                return self.say(now_ms, &platform, (channel, Kind::Text), (&text, &files), target);
            }
            Request::Edit { platform, message, text } => {
                let (channel, target) = self.own_message(&platform, &message)?;
                return self.say(now_ms, &platform, (channel, Kind::Edit), (&text, &[]), Some(target));
            }
            Request::React { platform, message, reaction } => {
                let found = engine.find_platform(&platform)?;
                let target = engine.find_message(found, &message)?.message;
                if payload::reaction_of(reaction.as_bytes()).is_none() {
                    return Err(Refusal::no(format!("expected a reaction of at most {MAX_REACTION} bytes")));
                }
                let body = Body::Content(Some(reaction.into_bytes()));
                let message =
                    self.write(now_ms, &platform, (target.head.channel, Kind::Reaction), &body, Some(target.id))?;
                return Ok(Answer::Id { id: message.id.to_string() });
            }
            Request::Retract { platform, message } => {
                let (channel, target) = self.own_message(&platform, &message)?;
                let body = Body::Content(Some(Vec::new()));
                let message = self.write(now_ms, &platform, (channel, Kind::Retract), &body, Some(target))?;
                return Ok(Answer::Id { id: message.id.to_string() });
            }
            Request::Read { platform, channel, before, after, limit } => {
                return engine.read(&platform, &channel, (before.as_deref(), after.as_deref()), limit);
            }
            Request::Message { platform, message } => return engine.show(&platform, &message),
            Request::Mark { platform, channel, message } => return engine.mark(&platform, &channel, &message),
            Request::Search { platform, words, limit } => return engine.search(&platform, &words, limit),
            Request::Members { platform } => return engine.members(&platform),
            Request::Audit { platform } => return engine.audit(&platform),
            Request::Grant { platform, who, role } => {
                let (id, target) = self.person(&platform, &who)?;
                let role = match role {
                    Role::Moderator => chat::Role::Moderator,
                    Role::Powernode => chat::Role::Powernode,
                    _ => return Err(Refusal::no("expected moderator or powernode")),
                };
                return self.act(now_ms, id, Kind::Grant, &Body::Grant { target, role });
            }
            Request::Revoke { platform, who } => {
                let (id, target) = self.person(&platform, &who)?;
                return self.act(now_ms, id, Kind::Revoke, &Body::Revoke { target });
            }
            Request::Ban { platform, who, reason, purge } => {
                let (id, target) = self.person(&platform, &who)?;
                let ban = self.ban(id, target, reason, purge)?;
                return self.act(now_ms, id, Kind::Ban, &Body::Ban(ban));
            }
            Request::Unban { platform, who } => {
                let (id, target) = self.person(&platform, &who)?;
                return self.act(now_ms, id, Kind::Unban, &Body::Unban { target });
            }
            Request::ShadowBan { platform, who, reason } => {
                let (id, target) = self.person(&platform, &who)?;
                let ban = self.ban(id, target, reason, false)?;
                return self.act(now_ms, id, Kind::ShadowBan, &Body::ShadowBan(ban));
            }
            Request::Unshadow { platform, who } => {
                let (id, target) = self.person(&platform, &who)?;
                return self.act(now_ms, id, Kind::Unshadow, &Body::Unshadow { target });
            }
            Request::Tombstone { platform, messages, reason } => {
                let found = engine.find_platform(&platform)?;
                let targets = messages.iter().map(|m| Ok(engine.find_message(found, m)?.message.id));
                let mut targets = targets.collect::<Result<Vec<Id>>>()?;
                targets.sort_unstable();
                targets.dedup();
                let id = found.place.id;
                return self.act(now_ms, id, Kind::Tombstone, &Body::Tombstone { targets, reason });
            }
            Request::Checkpoint { platform } => {
                let id = self.own(&platform)?;
                return self.act(now_ms, id, Kind::Checkpoint, &Body::Checkpoint);
            }
            Request::Peers => return Ok(self.peers()),
            Request::AddRelay { url } => self.set_relay(&url, true)?,
            Request::RemoveRelay { url } => self.set_relay(&url, false)?,
            Request::Events { after } => return self.happened(after),
        }
        Ok(Answer::Done)
    }

    fn status(&self) -> Status {
        let keys = &self.engine.keys;
        Status {
            identity: keys.identity().map(|id| id.to_string()),
            device: keys.device().map(|id| id.to_string()),
            unlocked: keys.is_unlocked(),
            banned_from: keys.banned_from().to_vec(),
            platforms: self.engine.platforms.values().filter(|p| p.place.joined).count(),
            peers: self.links.all.values().filter(|l| l.greeted).count(),
            pending: self.links.all.values().map(super::links::Link::pending).sum(),
            addresses: self.addresses.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// A platform that this identity takes part in.
    fn own(&self, platform: &str) -> Result<Id> {
        let found = self.engine.find_platform(platform)?;
        if found.place.joined {
            return Ok(found.place.id);
        }
        if self.engine.keys.is_banned_from(&found.place.id) {
            return Err(Refusal::no(format!("you are banned from {}", found.name())));
        }
        Err(Refusal::no(format!("you take no part in {}: `aegisray chat join`", found.name())))
    }

    fn person(&self, platform: &str, who: &str) -> Result<(Id, Id)> {
        let id = self.own(platform)?;
        Ok((id, self.engine.find_person(&self.engine.platforms[&id], who)?))
    }

    /// A message of one's own: its channel and id.
    fn own_message(&self, platform: &str, which: &str) -> Result<([u8; 16], Id)> {
        let found = self.engine.find_platform(platform)?;
        let kept = self.engine.find_message(found, which)?;
        if kept.author != self.engine.keys.identity() || kept.message.head.kind != Kind::Text {
            return Err(Refusal::no("this is no message of yours"));
        }
        Ok((kept.message.head.channel, kept.message.id))
    }

    fn write(
        &mut self,
        now_ms: u64,
        platform: &str,
        what: ([u8; 16], Kind),
        body: &Body,
        target: Option<Id>,
    ) -> Result<Arc<Message>> {
        let id = self.own(platform)?;
        self.engine.write(now_ms, Some(id), what, body, target)
    }

    fn say(
        &mut self,
        now_ms: u64,
        platform: &str,
        what: ([u8; 16], Kind),
        (text, files): (&str, &[i64]),
        target: Option<Id>,
    ) -> Result<Answer> {
        if (text.trim().is_empty() && files.is_empty()) || text.len() > MAX_TEXT {
            return Err(Refusal::no(format!("expected a text of 1 to {MAX_TEXT} bytes, got {}", text.len())));
        }
        let body = Body::Content(Some(self.engine.with_files(text, files)?));
        let message = self.write(now_ms, platform, what, &body, target)?;
        self.engine.attach(now_ms, &message, files)?;
        Ok(Answer::Id { id: message.id.to_string() })
    }

    /// An act of authority. What would not count is refused here, with what it takes.
    fn act(&mut self, now_ms: u64, platform: Id, kind: Kind, body: &Body) -> Result<Answer> {
        let message = self.engine.write(now_ms, Some(platform), ([0; 16], kind), body, None)?;
        let counts = self.engine.platforms.get(&platform).is_none_or(|p| p.authority.is_good(&message.id));
        let id = message.id.to_string();
        if counts {
            return Ok(Answer::Id { id });
        }
        Err(Refusal::no(match kind {
            Kind::Grant | Kind::Revoke | Kind::Info | Kind::Channel => "that takes a Powernode, above who it is about",
            Kind::Checkpoint => "that takes the founder",
            _ => "that takes a Moderator, above who it is about",
        }))
    }

    fn ban(&self, platform: Id, target: Id, reason: String, purge: bool) -> Result<Ban> {
        let place = self.engine.platforms[&platform].place.n;
        let mut cut = self.engine.store.devices_of(place, target)?;
        cut.truncate(MAX_CUT);
        cut.sort_unstable();
        Ok(Ban { target, cut, purge, reason })
    }

    pub(super) fn found(&mut self, now_ms: u64, name: &str, nick: &str, private: bool) -> Result<Id> {
        let key = self.engine.keys.unlocked()?;
        let payload = if private { key.founds_private() } else { key.join.clone() };
        let genesis = Body::Join { identity: key.identity, payload };
        // All that follows has to be good before anything is written.
        chat::check_names(name, nick).map_err(|e| Refusal::no(e.to_string()))?;
        let message = self.engine.write(now_ms, None, ([0; 16], Kind::Genesis), &genesis, None)?;
        let id = message.platform;
        self.engine.set_joined(id, true)?;
        self.engine.refresh_prekey(now_ms, id)?;
        let info = Body::Info { name: name.to_owned(), description: String::new() };
        self.act(now_ms, id, Kind::Info, &info)?;
        self.act(now_ms, id, Kind::Profile, &Body::Profile { nick: nick.to_owned() })?;
        let channel = self.engine.rng.bytes();
        let main = Channel { channel, name: MAIN.to_owned(), topic: String::new(), archived: false };
        self.act(now_ms, id, Kind::Channel, &Body::Channel(main))?;
        self.greet_again(now_ms);
        Ok(id)
    }

    fn channel(
        &mut self,
        now_ms: u64,
        platform: &str,
        (name, topic, rename, archived): (&str, Option<String>, Option<String>, Option<bool>),
    ) -> Result<Answer> {
        let id = self.own(platform)?;
        let found = &self.engine.platforms[&id];
        let name = name.strip_prefix('#').unwrap_or(name);
        let before = self.engine.find_channel(found, name).ok().and_then(|c| found.names.channels.get(&c).cloned());
        let mut channel = before.unwrap_or_else(|| Channel {
            channel: self.engine.rng.bytes(),
            name: name.to_owned(),
            topic: String::new(),
            archived: false,
        });
        channel.name = rename.unwrap_or(channel.name);
        channel.topic = topic.unwrap_or(channel.topic);
        channel.archived = archived.unwrap_or(channel.archived);
        if channel.name.contains(char::is_whitespace) || channel.name.contains('#') {
            return Err(Refusal::no("expected a channel's name without spaces"));
        }
        self.act(now_ms, id, Kind::Channel, &Body::Channel(channel))
    }

    fn discover(&self) -> Answer {
        let keys = &self.engine.keys;
        let joined = |id: &Id| self.engine.platforms.get(id).is_some_and(|p| p.place.joined);
        let offer = |id: Id, name: String, members: u32, by: Option<String>| Offer {
            id: id.to_string(),
            name,
            members,
            joined: joined(&id),
            banned: keys.is_banned_from(&id),
            by,
        };
        // Private ones are offered without a name, if at all.
        let offered = self.links.offered().into_iter().filter(|(_, o)| !o.name.is_empty());
        let mut offers: Vec<Offer> = offered.map(|(id, o)| offer(id, o.name, o.members, None)).collect();
        let invited = self.engine.invitations.iter().filter(|i| !i.direct);
        offers.extend(invited.map(|i| offer(i.platform, i.name.clone(), 0, Some(i.nick.clone()))));
        offers.sort_by(|a, b| (b.members, &a.name).cmp(&(a.members, &b.name)));
        Answer::Offers { offers }
    }

    fn join(&mut self, now_ms: u64, which: &str, nick: &str) -> Result<Answer> {
        self.engine.keys.unlocked()?;
        chat::check_names("platform", nick).map_err(|e| Refusal::no(e.to_string()))?;
        let id = self.find_offer(which)?;
        if self.engine.keys.is_banned_from(&id) {
            return Err(Refusal::no("you are banned from this platform; an UNBAN by its moderators lifts that"));
        }
        if self.engine.platforms.get(&id).is_some_and(|p| p.place.joined) {
            return Err(Refusal::no("you take part in it already"));
        }
        self.joining.insert(id, nick.to_owned());
        self.engine.expected.insert(id);
        self.greet_again(now_ms);
        self.join_what_came(now_ms);
        if self.joining.contains_key(&id) {
            return Ok(Answer::Joining { platform: id.to_string() });
        }
        Ok(Answer::Id { id: id.to_string() })
    }

    /// The conversation of two with somebody; it begins if there is none.
    fn direct(&mut self, now_ms: u64, via: Id, other: Id) -> Result<Id> {
        if Some(other) == self.engine.keys.identity() {
            return Err(Refusal::no("that is you"));
        }
        if let Some(known) = self.engine.invitations.iter().find(|i| i.direct && i.other == other) {
            let id = known.platform;
            if self.engine.platforms.get(&id).is_some_and(|p| p.left.contains(&other)) {
                self.engine.invite(now_ms, id, (via, other), false)?;
            }
            return Ok(id);
        }
        let from = &self.engine.platforms[&via];
        let (nick, own_nick) = (from.nick(other), from.nick(self.engine.me()));
        let id = self.found(now_ms, "direct", &own_nick, true)?;
        let (name, direct, accepted) = (String::new(), true, true);
        self.engine.keep_invitation(Invitation { platform: id, other, nick, own_nick, name, direct, accepted })?;
        self.engine.invite(now_ms, id, (via, other), true)?;
        Ok(id)
    }

    /// Takes part in conversations of two that others have begun, and where this identity takes part with another device.
    pub(super) fn accept_direct(&mut self, now_ms: u64) {
        let me = self.engine.me();
        let is_open =
            |i: &&Invitation| (i.direct || i.other == me) && !i.accepted && !self.joining.contains_key(&i.platform);
        let open: Vec<Invitation> = self.engine.invitations.iter().filter(is_open).cloned().collect();
        for invitation in open {
            if !self.engine.keys.is_unlocked() {
                return;
            }
            if let Err(error) = self.join(now_ms, &invitation.platform.to_string(), &invitation.own_nick) {
                tracing::debug!(%error, platform = %invitation.platform, "a conversation of two is not joined");
            }
        }
    }

    /// Publishes keys to seal to, where that is due.
    pub(super) fn be_reachable(&mut self, now_ms: u64) -> Result<()> {
        if self.engine.keys.is_unlocked() {
            let joined: Vec<Id> =
                self.engine.platforms.values().filter(|p| p.place.joined).map(|p| p.place.id).collect();
            joined.into_iter().try_for_each(|id| self.engine.refresh_prekey(now_ms, id))?;
        }
        Ok(())
    }

    /// A platform that is here or offered: by its name, its id or the beginning of it.
    fn find_offer(&self, which: &str) -> Result<Id> {
        let whole = data_encoding::HEXLOWER_PERMISSIVE.decode(which.as_bytes()).ok().and_then(|b| b.try_into().ok());
        if let Some(id) = whole {
            return Ok(Id(id));
        }
        let offered = self.links.offered().into_iter().map(|(id, o)| (id, o.name));
        let here = self.engine.platforms.values().map(|p| (p.place.id, p.name()));
        let invited = self.engine.invitations.iter().map(|i| (i.platform, i.name.clone()));
        let mut found: Vec<Id> = offered
            .chain(here)
            .chain(invited)
            .filter(|(id, name)| {
                name.eq_ignore_ascii_case(which) || (which.len() >= 4 && id.to_string().starts_with(which))
            })
            .map(|(id, _)| id)
            .collect();
        found.sort_unstable();
        found.dedup();
        match found[..] {
            [one] => Ok(one),
            [] => Err(Refusal::no(format!("nobody here offers a platform `{which}`: give its whole id"))),
            _ => Err(Refusal::no(format!("several platforms are called `{which}`: give the beginning of the id"))),
        }
    }

    /// Joins the platforms that were waited for and whose first acts have come.
    pub(super) fn join_what_came(&mut self, now_ms: u64) {
        // On a private platform there is nothing to say before one has a secret of it.
        let is_ready = |id: &Id| self.engine.platforms.get(id).is_some_and(|p| !p.private || !p.secrets.is_empty());
        let ready: Vec<Id> = self.joining.keys().copied().filter(is_ready).collect();
        for id in ready {
            let Some(nick) = self.joining.remove(&id) else { continue };
            self.engine.expected.remove(&id);
            if let Err(error) = self.join_now(now_ms, id, &nick) {
                tracing::warn!(%error, platform = %id, "cannot join");
            }
            self.greet_again(now_ms);
        }
    }

    fn join_now(&mut self, now_ms: u64, id: Id, nick: &str) -> Result<()> {
        let key = self.engine.keys.unlocked()?;
        let (device, identity) = (key.device, key.identity);
        let platform = &self.engine.platforms[&id];
        if platform.authority.now(identity).banned {
            self.engine.keys.set_banned_from(&id, true)?;
            return Err(Refusal::no("this identity is banned there"));
        }
        let is_known = platform.authority.identity(device).is_some();
        self.engine.set_joined(id, true)?;
        if !is_known {
            let key = self.engine.keys.unlocked()?;
            let body = Body::Join { identity, payload: key.join.clone() };
            self.act(now_ms, id, Kind::Join, &body)?;
        }
        self.engine.refresh_prekey(now_ms, id)?;
        if let Some(invitation) = self.engine.invitations.iter().find(|i| i.platform == id && !i.accepted) {
            self.engine.keep_invitation(Invitation { accepted: true, ..invitation.clone() })?;
        }
        if self.engine.platforms[&id].names.nicks.get(&identity).is_none_or(|n| n != nick) {
            self.act(now_ms, id, Kind::Profile, &Body::Profile { nick: nick.to_owned() })?;
        }
        Ok(())
    }

    fn peers(&self) -> Answer {
        let peer = |link: &super::links::Link| Peer {
            name: link.name.clone(),
            relay: link.is_relay,
            connected: link.greeted,
            platforms: link.carried.values().map(|c| c.name.clone()).collect(),
            pending: link.pending(),
            received: link.received,
        };
        let mut known: Vec<String> = self.known_relays.difference(&self.relays).cloned().collect();
        known.sort_unstable();
        Answer::Peers {
            peers: self.links.all.values().map(peer).collect(),
            relays: self.relays.iter().cloned().collect(),
            known,
        }
    }

    fn set_relay(&mut self, url: &str, keep: bool) -> Result<()> {
        let url = url.trim();
        if parse_url(url).is_none() {
            return Err(Refusal::no(format!("expected ws://HOST[:PORT] or wss://HOST[:PORT], got `{url}`")));
        }
        let changed = if keep { self.relays.insert(url.to_owned()) } else { self.relays.remove(url) };
        if !keep && !changed {
            return Err(Refusal::no(format!("there is no relay `{url}`")));
        }
        let lines: Vec<&str> = self.relays.iter().map(String::as_str).collect();
        self.engine.store.set_setting(RELAYS, &lines.join("\n"))?;
        let all: Vec<LinkId> = self.links.all.keys().copied().collect();
        all.into_iter().for_each(|link| self.tell_relays(link));
        Ok(())
    }

    fn happened(&self, after: u64) -> Result<Answer> {
        let (last, new) = self.events_after(after);
        let mut events = Vec::new();
        for event in new {
            use super::engine::Event;
            events.extend(match event {
                Event::Message(id, n) => self.seen(id, n)?,
                Event::Platform(id) => Some(Happened::Platform { platform: id.to_string() }),
                Event::Banned(id) => Some(Happened::Banned { platform: id.to_string() }),
                Event::Unbanned(id) => Some(Happened::Unbanned { platform: id.to_string() }),
                Event::Signal { platform, from, data } => {
                    let nick = self.engine.platforms.get(&platform).map(|p| p.nick(from)).unwrap_or_default();
                    Some(Happened::Signal { platform: platform.to_string(), from: from.to_string(), nick, data })
                }
                Event::Invited(id) => {
                    let invitation = self.engine.invitations.iter().find(|i| i.platform == id);
                    invitation.map(|i| Happened::Invited {
                        platform: id.to_string(),
                        nick: i.nick.clone(),
                        name: i.name.clone(),
                        direct: i.direct,
                    })
                }
            });
        }
        Ok(Answer::Events { last, events })
    }

    fn seen(&self, id: Id, n: i64) -> Result<Option<Happened>> {
        let Some(platform) = self.engine.platforms.get(&id).filter(|p| p.place.joined) else { return Ok(None) };
        let Some(kept) = self.engine.store.by_number(n)? else { return Ok(None) };
        let entry = self.engine.entry_of(platform, &kept)?;
        Ok(entry.map(|entry| Happened::Message { entry: Box::new(entry) }))
    }
}
