//! What people ask their node, and what it answers: the same for the command line, the page and the gateways. One JSON object each.

use std::net::IpAddr;

use clap::{Subcommand, ValueEnum};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// Platforms, people and messages are named by the beginning of their id, platforms and channels by their names too, people by
/// their nicks. The command line offers these as they are, but for those that are skipped.
#[derive(Debug, Clone, Serialize, Deserialize, Subcommand)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who this is, and how things are
    Status,
    /// The address of the page, with its token.
    #[command(skip)]
    Page,
    /// Makes an identity; with `words`: brings one back on this device.
    #[command(skip)]
    IdentityNew { password: String, words: Option<String> },
    #[command(skip)]
    Unlock { password: String },
    /// Forget the password until the next `unlock`
    Lock,
    /// The words of the identity, again.
    #[command(skip)]
    Words { password: String },
    /// Asks for the identity of another device, which this one is to get too.
    #[command(skip)]
    LinkNew { password: String },
    /// The codes to type in there.
    #[command(skip)]
    LinkCodes,
    /// Takes the identity from where this code was typed in.
    #[command(skip)]
    LinkTake { code: String },
    /// Gives the identity to the device that shows this code.
    #[command(skip)]
    LinkAllow { code: String, password: String },
    #[command(skip)]
    Password { old: String, new: String },
    /// Make a platform with one channel, `general`: you are its founder
    Found {
        name: String,
        /// What you are called there
        #[arg(long)]
        nick: String,
        /// Sealed end to end; takes part who is invited
        #[arg(long)]
        #[serde(default)]
        private: bool,
    },
    /// Let somebody in to a private platform, whom you know from another one
    Invite {
        platform: String,
        who: String,
        /// The platform where they are called so
        #[arg(long)]
        from: String,
        /// They may read what was said before
        #[arg(long)]
        #[serde(default)]
        history: bool,
    },
    /// Talk with one person alone, sealed end to end: prints the conversation's id, which is also called @NICK
    Direct {
        /// Where you know them from
        platform: String,
        who: String,
    },
    /// Platforms that others offer, and invitations
    Discover,
    /// Take part in a platform
    Join {
        /// Its name as `discover` shows it, or its id
        platform: String,
        /// What you are called there
        #[arg(long)]
        nick: String,
    },
    /// Take part no longer, and delete what is here of it
    Leave { platform: String },
    /// Platforms you take part in, with channels and what is unread
    Platforms,
    /// Make a channel, or change it
    Channel {
        platform: String,
        name: String,
        #[arg(long)]
        topic: Option<String>,
        #[arg(long)]
        rename: Option<String>,
        /// `true`: nobody writes there any more
        #[arg(long)]
        archived: Option<bool>,
    },
    /// Call the platform something else
    Rename {
        platform: String,
        name: String,
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Call yourself something else
    Nick { platform: String, nick: String },
    #[command(skip)]
    Send {
        platform: String,
        channel: String,
        text: String,
        reply_to: Option<String>,
        /// Files that were handed in, by their numbers.
        #[serde(default)]
        files: Vec<i64>,
    },
    /// A file to be handed in, piece by piece.
    #[command(skip)]
    FileNew { name: String, kind: String },
    /// The next 256 KiB of it; less in the last piece alone.
    #[command(skip)]
    FilePut { upload: i64, bytes: Bytes },
    /// A piece of a file that is attached to a message; if it is not here, it is fetched.
    #[command(skip)]
    FileGet { platform: String, message: String, file: String, piece: usize },
    #[command(skip)]
    Edit { platform: String, message: String, text: String },
    /// React to a message
    React { platform: String, message: String, reaction: String },
    /// Take back a message of yours: its bytes are deleted everywhere
    Retract { platform: String, message: String },
    /// Read a channel: the newest, or what is before or after a message
    Read {
        platform: String,
        channel: String,
        #[arg(long, value_name = "MESSAGE")]
        before: Option<String>,
        #[arg(long, value_name = "MESSAGE")]
        after: Option<String>,
        /// How many messages
        #[arg(short = 'n', long = "number", default_value = "20")]
        limit: Option<usize>,
    },
    /// One message as it is seen now
    #[command(name = "show")]
    Message { platform: String, message: String },
    /// All up to this message is read
    Mark { platform: String, channel: String, message: String },
    #[command(skip)]
    Search { platform: String, words: String, limit: Option<usize> },
    /// Who is there
    Members { platform: String },
    /// Give somebody a role
    Grant { platform: String, who: String, role: Role },
    /// Take somebody's role
    Revoke { platform: String, who: String },
    /// Shut somebody out: their node deletes the platform, and nobody takes messages of theirs any more
    Ban {
        platform: String,
        who: String,
        #[arg(long, default_value = "")]
        reason: String,
        /// What they wrote before goes too
        #[arg(long)]
        purge: bool,
    },
    /// Let somebody in again
    Unban { platform: String, who: String },
    /// Let somebody talk to nobody: they see their messages, all others don't
    ShadowBan {
        platform: String,
        who: String,
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// End a shadow ban
    Unshadow { platform: String, who: String },
    /// Delete the bytes of messages everywhere
    Tombstone {
        platform: String,
        #[arg(required = true)]
        messages: Vec<String>,
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// As the founder: what you know now is final
    Checkpoint { platform: String },
    /// Who did what, and whether it counts
    Audit { platform: String },
    /// Tells the pages of another person something, at once or never: how calls are set up.
    #[command(skip)]
    Signal { platform: String, who: String, data: String },
    /// The nodes and relays of the chat that this one talks to
    Peers,
    /// Keep a connection to a relay, which keeps messages for who is away: `ws://HOST` or `wss://HOST`, with `:PORT` if it is another one
    AddRelay { url: String },
    /// Leave a relay
    RemoveRelay { url: String },
    /// What has happened since the event of this number; waits for something for up to 10 s.
    #[command(skip)]
    Events { after: u64 },
}

/// Bytes, as BASE64 in JSON (RFC 4648).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    #[value(skip)]
    Member,
    Moderator,
    Powernode,
    #[value(skip)]
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
    Page {
        url: String,
    },
    /// This node has the identity now, too.
    Linked {
        node: String,
    },
    Codes {
        codes: Vec<Code>,
    },
    Upload {
        upload: i64,
    },
    /// A piece of a file.
    Piece {
        bytes: Bytes,
    },
    /// It is not here yet: so many of so many pieces are.
    Fetching {
        here: usize,
        pieces: usize,
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
    /// This node's addresses in the mesh.
    pub addresses: Vec<IpAddr>,
    pub version: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlatformInfo {
    pub id: String,
    pub name: String,
    pub description: String,
    pub role: Role,
    pub members: usize,
    /// Sealed end to end.
    pub private: bool,
    /// A conversation of two.
    pub direct: bool,
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
    /// Who invites to it: it is a private one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
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
    pub files: Vec<File>,
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
    /// The secret that opens it is not here: it was written before one was let in, say.
    Sealed,
    Purged,
    /// Not to be shown any more.
    Hidden,
}

impl Entry {
    /// The text, and a line for each file.
    #[must_use]
    pub fn lines(&self) -> String {
        let file = |f: &File| format!("[file: {}, {} bytes]", f.name, f.size);
        let text = Some(self.text.clone()).filter(|t| !t.is_empty());
        text.into_iter().chain(self.files.iter().map(file)).collect::<Vec<_>>().join("\n")
    }
}

/// What to type in at another device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    pub node: String,
    pub code: String,
    /// Somebody there says that it was typed in.
    pub given: bool,
}

/// A file that is attached to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// By which it is asked for.
    pub file: String,
    pub name: String,
    /// A media type, as its author says.
    pub kind: String,
    pub size: u64,
    /// Pieces of 256 KiB, and how many of them are here.
    pub pieces: usize,
    pub here: usize,
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
    Message {
        entry: Box<Entry>,
    },
    Platform {
        platform: String,
    },
    Banned {
        platform: String,
    },
    Unbanned {
        platform: String,
    },
    /// From another person's page.
    Signal {
        platform: String,
        from: String,
        nick: String,
        data: String,
    },
    /// To a private platform.
    Invited {
        platform: String,
        nick: String,
        name: String,
        direct: bool,
    },
}
