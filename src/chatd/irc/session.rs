//! One client of the gateway.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::{
    super::{
        request::{Answer, Entry, Happened, Member, PlatformInfo, Request, Role, State},
        service::Handle,
    },
    NAME,
    line::{Line, lines, name},
};

/// Messages that a channel begins with.
const HISTORY: usize = 50;
/// Messages that are remembered as told.
const REMEMBERED: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    platform: String,
    channel: String,
    topic: String,
}

pub(super) struct Session {
    handle: Handle,
    nick: String,
    capabilities: Vec<String>,
    /// The number of the last event that is part of the welcome.
    pub last: u64,
    /// Channels that this client is in.
    places: BTreeMap<String, Place>,
    /// Channels that it has left.
    left: HashSet<String>,
    /// By platform, by identity.
    members: HashMap<String, HashMap<String, Member>>,
    told: HashSet<String>,
    told_order: VecDeque<String>,
    purged: HashSet<String>,
}

impl Session {
    pub async fn start(handle: Handle, nick: String, capabilities: Vec<String>) -> (Self, Vec<String>) {
        let last = match handle.ask(Request::Events { after: u64::MAX }).await {
            Answer::Events { last, .. } => last,
            _ => 0,
        };
        let mut session = Self {
            handle,
            nick,
            capabilities,
            last,
            places: BTreeMap::new(),
            left: HashSet::new(),
            members: HashMap::new(),
            told: HashSet::new(),
            told_order: VecDeque::new(),
            purged: HashSet::new(),
        };
        let mut out = vec![
            session.reply(1, ":Welcome to the chat of this node"),
            session.reply(2, &format!(":Your host is {NAME}, AegisRay {}", env!("CARGO_PKG_VERSION"))),
            session.reply(4, &format!("{NAME} aegisray o bnot")),
            session.reply(
                5,
                "CHANTYPES=# PREFIX=(qoh)~@% CHANMODES=b,,,nt CASEMAPPING=ascii NETWORK=AegisRay :are supported",
            ),
            session.reply(422, ":No message of the day"),
        ];
        out.extend(session.catch_up().await);
        (session, out)
    }

    fn reply(&self, code: u16, rest: &str) -> String {
        format!(":{NAME} {code:03} {} {rest}", self.nick)
    }

    fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|c| c == capability)
    }

    fn source(&self, member: &Member) -> String {
        if member.own {
            return format!("{}!you@{NAME}", self.nick);
        }
        format!("{}!{}@{NAME}", name(&member.nick), &member.id[..8])
    }

    /// Joins and leaves channels, and tells who has come and gone, so that the client sees what is so now.
    async fn catch_up(&mut self) -> Vec<String> {
        let Answer::Platforms { platforms } = self.handle.ask(Request::Platforms).await else { return Vec::new() };
        let mut out = Vec::new();
        let mut now: BTreeMap<String, Place> = BTreeMap::new();
        for p in &platforms {
            for c in p.channels.iter().filter(|c| !c.archived) {
                let (platform, channel, topic) = (p.id.clone(), c.id.clone(), c.topic.clone());
                now.insert(format!("#{}/{}", name(&p.name), name(&c.name)), Place { platform, channel, topic });
            }
        }
        let gone: Vec<String> = self.places.keys().filter(|n| !now.contains_key(*n)).cloned().collect();
        for name in gone {
            let platform = self.places.remove(&name).map(|p| p.platform).unwrap_or_default();
            let here = platforms.iter().any(|p| p.id == platform);
            if here {
                out.push(format!(":{}!you@{NAME} PART {name} :archived", self.nick));
            } else {
                // Banned, or left.
                out.push(format!(":{NAME} KICK {name} {} :you take no part any more", self.nick));
            }
        }
        for p in &platforms {
            out.extend(self.follow_members(p).await);
        }
        for (name, place) in now {
            let known = self.places.get(&name).cloned();
            if known.is_none() && !self.left.contains(&name) {
                self.places.insert(name.clone(), place);
                out.extend(self.enter(&name).await);
            } else if known.is_some_and(|k| k.topic != place.topic) {
                out.push(format!(":{NAME} TOPIC {name} :{}", place.topic));
                self.places.insert(name, place);
            }
        }
        out
    }

    /// Tells who has joined a platform, who is banned, and who got or lost a role.
    async fn follow_members(&mut self, platform: &PlatformInfo) -> Vec<String> {
        let Answer::Members { members } = self.handle.ask(Request::Members { platform: platform.id.clone() }).await
        else {
            return Vec::new();
        };
        let before = self.members.remove(&platform.id);
        let now: HashMap<String, Member> = members.into_iter().map(|m| (m.id.clone(), m)).collect();
        let mut out = Vec::new();
        let channels: Vec<&String> =
            self.places.iter().filter(|(_, p)| p.platform == platform.id).map(|(n, _)| n).collect();
        for member in now.values().filter(|m| !m.own) {
            let old = before.as_ref().and_then(|b| b.get(&member.id));
            for channel in &channels {
                let who = name(&member.nick);
                match old {
                    _ if before.is_none() => {}
                    None if !member.banned => out.push(format!(":{} JOIN {channel}", self.source(member))),
                    Some(old) if !old.banned && member.banned => {
                        out.push(format!(":{NAME} KICK {channel} {who} :banned"))
                    }
                    Some(old) if old.banned && !member.banned => {
                        out.push(format!(":{} JOIN {channel}", self.source(member)))
                    }
                    Some(old) if old.role != member.role => {
                        out.extend(mode(old.role).map(|m| format!(":{NAME} MODE {channel} -{m} {who}")));
                        out.extend(mode(member.role).map(|m| format!(":{NAME} MODE {channel} +{m} {who}")));
                    }
                    Some(old) if old.nick != member.nick && *channel == channels[0] => {
                        out.push(format!(":{} NICK {who}", self.source(old)));
                    }
                    _ => {}
                }
            }
        }
        self.members.insert(platform.id.clone(), now);
        out
    }

    /// Shows a channel, and what was said there last.
    async fn enter(&mut self, channel: &str) -> Vec<String> {
        let Some(place) = self.places.get(channel).cloned() else { return Vec::new() };
        let mut out = vec![format!(":{}!you@{NAME} JOIN {channel}", self.nick)];
        if !place.topic.is_empty() {
            out.push(self.reply(332, &format!("{channel} :{}", place.topic)));
        }
        out.extend(self.names(channel));
        // Without their times they would seem to be new.
        if self.can("server-time") {
            let (platform, channel_id) = (place.platform, place.channel);
            let read = Request::Read { platform, channel: channel_id, before: None, after: None, limit: Some(HISTORY) };
            if let Answer::Messages { messages, .. } = self.handle.ask(read).await {
                for entry in messages {
                    out.extend(self.tell(channel, &entry, true));
                }
            }
        }
        out
    }

    fn names(&self, channel: &str) -> Vec<String> {
        let members = self.places.get(channel).and_then(|p| self.members.get(&p.platform));
        let mut out = Vec::new();
        let all: Vec<String> =
            members.map(HashMap::values).into_iter().flatten().filter(|m| !m.banned).map(|m| self.listed(m)).collect();
        for some in all.chunks(20) {
            out.push(self.reply(353, &format!("= {channel} :{}", some.join(" "))));
        }
        out.push(self.reply(366, &format!("{channel} :End of names")));
        out
    }

    fn listed(&self, member: &Member) -> String {
        let sign = match member.role {
            Role::Founder => "~",
            Role::Powernode => "@",
            Role::Moderator => "%",
            Role::Member => "",
        };
        format!("{sign}{}", if member.own { self.nick.clone() } else { name(&member.nick) })
    }

    /// A message as lines; nothing if it was told already. `old`: it is told because the channel is shown.
    fn tell(&mut self, channel: &str, entry: &Entry, old: bool) -> Vec<String> {
        if entry.state == State::Purged && self.told.contains(&entry.id) && self.purged.insert(entry.id.clone()) {
            if self.can("draft/message-redaction") {
                return vec![format!(":{NAME} REDACT {channel} {} :purged", entry.id)];
            }
            return vec![format!(":{NAME} NOTICE {channel} :a message of {} was purged", name(&entry.nick))];
        }
        if entry.state != State::Text || !self.told.insert(entry.id.clone()) {
            return Vec::new();
        }
        self.told_order.push_back(entry.id.clone());
        if self.told_order.len() > REMEMBERED
            && let Some(first) = self.told_order.pop_front()
        {
            self.told.remove(&first);
        }
        // Where else this person has said it makes no difference; what this client said it has seen.
        let source = if entry.own {
            format!("{}!you@{NAME}", self.nick)
        } else {
            format!("{}!{}@{NAME}", name(&entry.nick), &entry.author[..8])
        };
        let mut tags = Vec::new();
        if self.can("server-time") {
            tags.push(format!("time={}", timestamp(entry.time_ms)));
        } else if old {
            return Vec::new();
        }
        if self.can("message-tags") {
            tags.push(format!("msgid={}", entry.id));
            tags.extend(entry.reply_to.as_ref().map(|id| format!("+draft/reply={id}")));
        }
        let tags = if tags.is_empty() { String::new() } else { format!("@{} ", tags.join(";")) };
        lines(&entry.lines()).into_iter().map(|l| format!("{tags}:{source} PRIVMSG {channel} :{l}")).collect()
    }

    pub async fn happened(&mut self, events: Vec<Happened>) -> Vec<String> {
        let mut out = Vec::new();
        let moved = |e: &Happened| !matches!(e, Happened::Message { .. });
        if events.iter().any(moved) {
            out.extend(self.catch_up().await);
        }
        for event in events {
            let Happened::Message { entry } = event else { continue };
            let place = self.places.iter().find(|(_, p)| p.platform == entry.platform && p.channel == entry.channel);
            if let Some(channel) = place.map(|(name, _)| name.clone()) {
                out.extend(self.tell(&channel, &entry, false));
            }
        }
        out
    }

    pub async fn line(&mut self, line: &Line) -> Vec<String> {
        let (first, second) = (line.arg(0), line.arg(1));
        match line.command.as_str() {
            "PING" => vec![format!(":{NAME} PONG {NAME} :{first}")],
            "PONG" | "USER" | "PASS" | "AWAY" | "CAP" => Vec::new(),
            "NICK" => {
                let old = std::mem::replace(&mut self.nick, name(first));
                vec![format!(":{old}!you@{NAME} NICK {}", self.nick)]
            }
            "JOIN" => {
                let mut out = Vec::new();
                for channel in first.split(',') {
                    self.left.remove(channel);
                }
                out.extend(self.catch_up().await);
                for channel in first.split(',').filter(|c| !self.places.contains_key(*c)) {
                    out.push(self.reply(403, &format!("{channel} :no such channel: join its platform first")));
                }
                out
            }
            "PART" => {
                let leave = |channel: &str| {
                    self.places.remove(channel)?;
                    self.left.insert(channel.to_owned());
                    Some(format!(":{}!you@{NAME} PART {channel}", self.nick))
                };
                first.split(',').filter_map(leave).collect()
            }
            "PRIVMSG" | "NOTICE" => self.say(first, second).await,
            "NAMES" => self.names(first),
            "WHO" => vec![self.reply(315, &format!("{first} :End of who"))],
            "LIST" => {
                let all = self.places.iter().map(|(n, p)| {
                    let members = self.members.get(&p.platform).map_or(0, HashMap::len);
                    self.reply(322, &format!("{n} {members} :{}", p.topic))
                });
                all.chain([self.reply(323, ":End of list")]).collect()
            }
            "TOPIC" if line.args.len() > 1 => {
                let Some(place) = self.places.get(first).cloned() else { return Vec::new() };
                let (platform, name, topic) = (place.platform, place.channel, Some(second.to_owned()));
                self.act(first, Request::Channel { platform, name, topic, rename: None, archived: None }).await
            }
            "TOPIC" => {
                let topic = self.places.get(first).map(|p| p.topic.clone()).unwrap_or_default();
                vec![self.reply(332, &format!("{first} :{topic}"))]
            }
            "KICK" => {
                let reason = line.arg(2).to_owned();
                self.about(first, second, |platform, who| Request::Ban { platform, who, reason, purge: false }).await
            }
            "MODE" => self.mode(first, second, line.arg(2)).await,
            "REDACT" => self.redact(first, second, line.arg(2)).await,
            other => vec![self.reply(421, &format!("{other} :unknown command"))],
        }
    }

    /// Does something; says why not.
    async fn act(&mut self, channel: &str, request: Request) -> Vec<String> {
        match self.handle.ask(request).await {
            Answer::Error { message } => vec![format!(":{NAME} NOTICE {channel} :{message}")],
            _ => Vec::new(),
        }
    }

    async fn about(
        &mut self,
        channel: &str,
        who: &str,
        request: impl FnOnce(String, String) -> Request,
    ) -> Vec<String> {
        let Some(place) = self.places.get(channel) else {
            return vec![self.reply(403, &format!("{channel} :no such channel"))];
        };
        let who = who.split('!').next().unwrap_or_default();
        let members = self.members.get(&place.platform).map(HashMap::values).into_iter().flatten();
        let found: Vec<&Member> =
            members.filter(|m| name(&m.nick) == who || m.id.starts_with(who) && who.len() >= 8).collect();
        match found[..] {
            [_, _, ..] => {
                vec![self.reply(401, &format!("{who} :several are called so: give the beginning of the key"))]
            }
            [m] => {
                let request = request(place.platform.clone(), m.id.clone());
                self.act(channel, request).await
            }
            [] => vec![self.reply(401, &format!("{who} :no such nick here"))],
        }
    }

    async fn say(&mut self, channel: &str, text: &str) -> Vec<String> {
        let Some(place) = self.places.get(channel).cloned() else {
            return vec![self.reply(403, &format!("{channel} :no such channel"))];
        };
        // CTCP ACTION is what people do, in words.
        let text = match text.strip_prefix("\u{1}ACTION ").map(|t| t.trim_end_matches('\u{1}')) {
            Some(act) => format!("* {act}"),
            None if text.starts_with('\u{1}') => return Vec::new(),
            None => text.to_owned(),
        };
        let send =
            Request::Send { platform: place.platform, channel: place.channel, text, reply_to: None, files: Vec::new() };
        match self.handle.ask(send).await {
            Answer::Id { id } => {
                if !self.can("echo-message") {
                    self.told.insert(id.clone());
                    self.told_order.push_back(id);
                }
                Vec::new()
            }
            Answer::Error { message } => vec![self.reply(404, &format!("{channel} :{message}"))],
            _ => Vec::new(),
        }
    }

    async fn mode(&mut self, channel: &str, change: &str, who: &str) -> Vec<String> {
        match change {
            _ if !channel.starts_with('#') => Vec::new(),
            "+b" if !who.is_empty() => {
                self.about(channel, who, |platform, who| Request::Ban {
                    platform,
                    who,
                    reason: String::new(),
                    purge: false,
                })
                .await
            }
            "-b" => self.about(channel, who, |platform, who| Request::Unban { platform, who }).await,
            "+o" => {
                self.about(channel, who, |platform, who| Request::Grant { platform, who, role: Role::Powernode }).await
            }
            "+h" => {
                self.about(channel, who, |platform, who| Request::Grant { platform, who, role: Role::Moderator }).await
            }
            "-o" | "-h" => self.about(channel, who, |platform, who| Request::Revoke { platform, who }).await,
            "b" | "+b" => vec![self.reply(368, &format!("{channel} :End of the list of bans"))],
            _ => vec![self.reply(324, &format!("{channel} +nt"))],
        }
    }

    async fn redact(&mut self, channel: &str, message: &str, reason: &str) -> Vec<String> {
        let Some(place) = self.places.get(channel).cloned() else { return Vec::new() };
        let (platform, message) = (place.platform, message.to_owned());
        let own = self.handle.ask(Request::Message { platform: platform.clone(), message: message.clone() }).await;
        let own = matches!(own, Answer::Messages { messages, .. } if messages.iter().any(|m| m.own));
        let request = if own {
            Request::Retract { platform, message }
        } else {
            Request::Tombstone { platform, messages: vec![message], reason: reason.to_owned() }
        };
        self.act(channel, request).await
    }
}

/// The letter of a role.
fn mode(role: Role) -> Option<char> {
    match role {
        Role::Founder => Some('q'),
        Role::Powernode => Some('o'),
        Role::Moderator => Some('h'),
        Role::Member => None,
    }
}

/// A time as server-time has it: `2026-11-22T08:14:00.000Z`.
fn timestamp(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    // Days since 1 March of the year 0, in cycles of 400 years (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let date = day_of_year - (153 * shifted + 2) / 5 + 1;
    let (h, m, s) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{date:02}T{h:02}:{m:02}:{s:02}.{:03}Z", rest % 1000)
}

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn times() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(1_795_335_240_123), "2026-11-22T08:14:00.123Z");
        assert_eq!(timestamp(951_782_400_000), "2000-02-29T00:00:00.000Z");
    }
}
