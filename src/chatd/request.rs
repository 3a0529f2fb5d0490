//! What people ask their node, and what it answers: the same for the command line, the page and the gateways. One JSON object each.

use serde::{Deserialize, Serialize};

/// Platforms, people and messages are named by the beginning of their id, platforms and channels by their names too, people by
/// their nicks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who this is, and how things are.
    Status,
    /// Makes an identity; with `words`: brings one back on this device.
    IdentityNew {
        password: String,
        words: Option<String>,
    },
    Unlock {
        password: String,
    },
    Lock,
    Password {
        old: String,
        new: String,
    },
    /// Makes a platform with one channel, `general`.
    Found {
        name: String,
        nick: String,
    },
    /// Platforms that others offer.
    Discover,
    Join {
        platform: String,
        nick: String,
    },
    Leave {
        platform: String,
    },
    /// Platforms that this identity takes part in, with channels and what is unread.
    Platforms,
    /// Makes a channel, or changes what is said about it.
    Channel {
        platform: String,
        name: String,
        topic: Option<String>,
        rename: Option<String>,
        archived: Option<bool>,
    },
    Rename {
        platform: String,
        name: String,
        description: String,
    },
    Nick {
        platform: String,
        nick: String,
    },
    Send {
        platform: String,
        channel: String,
        text: String,
        reply_to: Option<String>,
    },
    Edit {
        platform: String,
        message: String,
        text: String,
    },
    React {
        platform: String,
        message: String,
        reaction: String,
    },
    Retract {
        platform: String,
        message: String,
    },
    /// A page of a channel: the newest, or what is before or after a message.
    Read {
        platform: String,
        channel: String,
        before: Option<String>,
        after: Option<String>,
        limit: Option<usize>,
    },
    /// One message as it is seen now.
    Message {
        platform: String,
        message: String,
    },
    /// All up to this message is read.
    Mark {
        platform: String,
        channel: String,
        message: String,
    },
    Search {
        platform: String,
        words: String,
        limit: Option<usize>,
    },
    Members {
        platform: String,
    },
    Grant {
        platform: String,
        who: String,
        role: Role,
    },
    Revoke {
        platform: String,
        who: String,
    },
    Ban {
        platform: String,
        who: String,
        reason: String,
        purge: bool,
    },
    Unban {
        platform: String,
        who: String,
    },
    ShadowBan {
        platform: String,
        who: String,
        reason: String,
    },
    Unshadow {
        platform: String,
        who: String,
    },
    Tombstone {
        platform: String,
        messages: Vec<String>,
        reason: String,
    },
    Checkpoint {
        platform: String,
    },
    /// Who did what, and whether it counts.
    Audit {
        platform: String,
    },
    Peers,
    /// Keeps a connection to a relay: `ws://HOST[:PORT]` or `wss://…`.
    AddRelay {
        url: String,
    },
    RemoveRelay {
        url: String,
    },
    /// What has happened since the event of this number; waits for something for up to 25 s.
    Events {
        after: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Member,
    Moderator,
    Powernode,
    Founder,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Answer {
    Done,
    Status(Status),
    Identity {
        words: String,
    },
    Platforms {
        platforms: Vec<PlatformInfo>,
    },
    Offers {
        offers: Vec<Offer>,
    },
    /// It was made, or written: its id.
    Id {
        id: String,
    },
    /// The platform's acts have to come first.
    Joining {
        platform: String,
    },
    Messages {
        messages: Vec<Entry>,
        more: bool,
    },
    Members {
        members: Vec<Member>,
    },
    Audit {
        acts: Vec<AuditEntry>,
    },
    Peers {
        peers: Vec<Peer>,
        relays: Vec<String>,
        known: Vec<String>,
    },
    Events {
        last: u64,
        events: Vec<Happened>,
    },
    Error {
        message: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub identity: Option<String>,
    pub device: Option<String>,
    pub unlocked: bool,
    pub banned_from: Vec<String>,
    pub platforms: usize,
    pub peers: usize,
    /// Messages that are known to be elsewhere and are on their way.
    pub pending: usize,
    pub version: String,
    /// Where the page is, with its token; for who asks by the management socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlatformInfo {
    pub id: String,
    pub name: String,
    pub description: String,
    pub role: Role,
    pub members: usize,
    pub channels: Vec<ChannelInfo>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChannelInfo {
    pub id: String,
    pub name: String,
    pub topic: String,
    pub archived: bool,
    pub unread: usize,
    /// Of those, messages that name this person.
    pub mentions: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offer {
    pub id: String,
    pub name: String,
    pub members: u32,
    pub joined: bool,
    pub banned: bool,
}

/// A message as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub id: String,
    pub platform: String,
    pub channel: String,
    /// Milliseconds since 1970, by the author's clock.
    pub time_ms: u64,
    /// Orders messages: of the same moment too.
    pub order: String,
    pub author: String,
    pub nick: String,
    pub state: State,
    pub text: String,
    pub edited: bool,
    pub reply_to: Option<String>,
    pub reactions: Vec<Reaction>,
    /// It came long after its author's clock says it was written.
    pub late: bool,
    /// Its device said two things under one number.
    pub forked: bool,
    pub own: bool,
    /// Others that have it, as far as known; of own messages.
    pub copies: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Text,
    /// The bytes are not here; they may come.
    Absent,
    Purged,
    /// Not to be shown any more.
    Hidden,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaction {
    pub what: String,
    pub who: Vec<String>,
    pub own: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    pub id: String,
    pub nick: String,
    pub role: Role,
    pub banned: bool,
    pub own: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditEntry {
    pub id: String,
    pub time_ms: u64,
    pub author: String,
    pub nick: String,
    pub act: String,
    pub target: String,
    pub reason: String,
    /// Whether it counts.
    pub good: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    pub relay: bool,
    pub connected: bool,
    pub platforms: Vec<String>,
    pub pending: usize,
    pub received: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Happened {
    Message { entry: Box<Entry> },
    Platform { platform: String },
    Banned { platform: String },
    Unbanned { platform: String },
}
