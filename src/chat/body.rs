//! What messages say: kinds, and the payloads of acts of authority.

use prost::Message as _;

use super::{
    envelope::{Id, Invalid, canonical, ids, verify_device},
    sealed::{SecretId, secret_of},
    wire,
};
use crate::crypto::SEAL_OVERHEAD;

const MAX_TARGETS: usize = 64;
const MAX_REASON: usize = 512;
/// Bytes of a name.
pub const MAX_NAME: usize = 64;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Kind {
    Text = 1,
    Edit = 2,
    Reaction = 3,
    Retract = 4,
    Whisper = 5,
    File = 6,
    Genesis = 16,
    Join = 17,
    Grant = 18,
    Revoke = 19,
    Leave = 20,
    Ban = 21,
    Unban = 22,
    ShadowBan = 23,
    Unshadow = 24,
    Tombstone = 25,
    Checkpoint = 26,
    Info = 27,
    Channel = 28,
    Profile = 29,
    Seal = 30,
    Prekey = 31,
}

impl Kind {
    pub(super) const ALL: [Kind; 22] = [
        Kind::Text,
        Kind::Edit,
        Kind::Reaction,
        Kind::Retract,
        Kind::Whisper,
        Kind::File,
        Kind::Genesis,
        Kind::Join,
        Kind::Grant,
        Kind::Revoke,
        Kind::Leave,
        Kind::Ban,
        Kind::Unban,
        Kind::ShadowBan,
        Kind::Unshadow,
        Kind::Tombstone,
        Kind::Checkpoint,
        Kind::Info,
        Kind::Channel,
        Kind::Profile,
        Kind::Seal,
        Kind::Prekey,
    ];

    /// Whether it is an act of authority: those are kept for ever, with their payloads.
    #[must_use]
    pub fn is_authority(self) -> bool {
        self as u32 >= Kind::Genesis as u32
    }

    /// Whether its payload is sealed on a private platform.
    #[must_use]
    pub fn is_sealed(self) -> bool {
        matches!(self, Kind::Text | Kind::Edit | Kind::Reaction | Kind::Info | Kind::Channel | Kind::Profile)
    }
}

/// What members may do beside talking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Member,
    Moderator,
    Powernode,
    Founder,
}

/// An act of authority, or content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The payload of content; `None`: not here.
    Content(Option<Vec<u8>>),
    /// GENESIS and JOIN: the identity that the device belongs to.
    Join {
        identity: Id,
        /// As it was signed.
        payload: Vec<u8>,
    },
    Grant {
        target: Id,
        role: Role,
    },
    Revoke {
        target: Id,
    },
    Leave,
    Ban(Ban),
    Unban {
        target: Id,
    },
    ShadowBan(Ban),
    Unshadow {
        target: Id,
    },
    Tombstone {
        targets: Vec<Id>,
        reason: String,
    },
    Checkpoint,
    /// What the platform is called, and what it is about.
    Info {
        name: String,
        description: String,
    },
    Channel(Channel),
    /// What the author is called.
    Profile {
        nick: String,
    },
    Seal(Seal),
    /// The X25519 key to seal to for this device.
    Prekey {
        key: [u8; 32],
    },
    /// INFO, CHANNEL or PROFILE for who has the secret: [`open_name`] reads it.
    Sealed(Vec<u8>),
}

/// Secrets of a private platform, for devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// Identities that take part from now on.
    pub admits: Vec<Id>,
    /// The names of the secrets.
    pub secrets: Vec<SecretId>,
    /// For each device all of them.
    pub boxes: Vec<(Id, Vec<u8>)>,
    /// They are for names, and not for content.
    pub names: bool,
}

/// A place within a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    pub channel: [u8; 16],
    pub name: String,
    pub topic: String,
    /// Nobody writes there any more.
    pub archived: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub target: Id,
    /// Up to where the messages of its devices stay; of others none do.
    pub cut: Vec<(Id, u64)>,
    /// They don't stay either.
    pub purge: bool,
    pub reason: String,
}

impl Ban {
    /// Whether a message is within the cut.
    #[must_use]
    pub fn keeps(&self, device: Id, seq: u64) -> bool {
        self.cut.iter().any(|(d, last)| *d == device && seq <= *last)
    }
}

/// What a payload of this kind says.
pub(super) fn body(kind: Kind, device: Id, payload: Option<Vec<u8>>) -> Result<Body, Invalid> {
    if !kind.is_authority() {
        return Ok(Body::Content(payload));
    }
    let payload = payload.ok_or(Invalid("an act of authority with its payload"))?;
    let target = |bytes: &[u8]| Id::of(&canonical::<wire::Target>(bytes, "a target")?.target);
    Ok(match kind {
        Kind::Genesis | Kind::Join => {
            let join: wire::Join = canonical(&payload, "whose device it is")?;
            let identity = Id::of(&join.identity)?;
            verify_device(identity, device, &join.signature)?;
            if join.private && kind == Kind::Join {
                return Err(Invalid("a JOIN that makes no platform"));
            }
            Body::Join { identity, payload }
        }
        Kind::Grant => {
            let grant: wire::Grant = canonical(&payload, "a grant")?;
            let role = match grant.role {
                1 => Role::Moderator,
                2 => Role::Powernode,
                _ => return Err(Invalid("a role that can be granted")),
            };
            Body::Grant { target: Id::of(&grant.target)?, role }
        }
        Kind::Revoke => Body::Revoke { target: target(&payload)? },
        Kind::Unban => Body::Unban { target: target(&payload)? },
        Kind::Unshadow => Body::Unshadow { target: target(&payload)? },
        Kind::Ban => Body::Ban(ban(&payload)?),
        Kind::ShadowBan => Body::ShadowBan(ban(&payload)?),
        Kind::Tombstone => {
            let raw: wire::Tombstone = canonical(&payload, "a tombstone")?;
            if raw.reason.len() > MAX_REASON || raw.targets.is_empty() {
                return Err(Invalid("a tombstone with targets and a short reason"));
            }
            Body::Tombstone { targets: ids(&raw.targets, MAX_TARGETS)?, reason: raw.reason }
        }
        Kind::Info | Kind::Channel | Kind::Profile if secret_of(&payload).is_some() => Body::Sealed(payload),
        Kind::Seal => Body::Seal(seal(&payload)?),
        Kind::Prekey => {
            let raw: wire::Prekey = canonical(&payload, "a prekey")?;
            Body::Prekey { key: raw.key.try_into().map_err(|_| Invalid("a key of 32 bytes"))? }
        }
        Kind::Info => {
            let raw: wire::Info = canonical(&payload, "a name of the platform")?;
            check_name(&raw.name, &raw.description)?;
            Body::Info { name: raw.name, description: raw.description }
        }
        Kind::Channel => {
            let raw: wire::Channel = canonical(&payload, "a channel")?;
            check_name(&raw.name, &raw.topic)?;
            let channel = raw.channel.as_slice().try_into().map_err(|_| Invalid("a channel of 16 bytes"))?;
            Body::Channel(Channel { channel, name: raw.name, topic: raw.topic, archived: raw.archived })
        }
        Kind::Profile => {
            let raw: wire::Profile = canonical(&payload, "a name of the author")?;
            check_name(&raw.nick, "")?;
            Body::Profile { nick: raw.nick }
        }
        _ if !payload.is_empty() => return Err(Invalid("no payload")),
        Kind::Leave => Body::Leave,
        _ => Body::Checkpoint,
    })
}

/// Whether these can be names.
pub fn check_names(one: &str, other: &str) -> Result<(), Invalid> {
    check_name(one, "").and_then(|()| check_name(other, ""))
}

/// Names are short, on one line, and not empty.
fn check_name(name: &str, about: &str) -> Result<(), Invalid> {
    let good = !name.trim().is_empty() && name.len() <= MAX_NAME && about.len() <= MAX_REASON;
    if good && !name.chars().any(char::is_control) { Ok(()) } else { Err(Invalid("a short name on one line")) }
}

/// What an INFO, CHANNEL or PROFILE says that was sealed.
pub fn open_name(kind: Kind, device: Id, plain: Vec<u8>) -> Result<Body, Invalid> {
    match body(kind, device, Some(plain))? {
        name @ (Body::Info { .. } | Body::Channel(_) | Body::Profile { .. }) => Ok(name),
        _ => Err(Invalid("a name")),
    }
}

fn seal(payload: &[u8]) -> Result<Seal, Invalid> {
    let raw: wire::Seal = canonical(payload, "a seal")?;
    let secrets = raw.secrets.iter().map(|s| s.as_slice().try_into().map_err(|_| Invalid("a secret's name")));
    let secrets = secrets.collect::<Result<Vec<SecretId>, Invalid>>()?;
    let boxes = boxes(raw.boxes)?;
    let whole = SEAL_OVERHEAD + 32 * secrets.len();
    if secrets.is_empty() || secrets.len() > MAX_TARGETS || boxes.iter().any(|(_, sealed)| sealed.len() != whole) {
        return Err(Invalid("a seal with secrets, and whole boxes"));
    }
    Ok(Seal { admits: ids(&raw.admits, MAX_TARGETS)?, secrets, boxes, names: raw.names })
}

/// Boxes sorted by device, one for each.
pub(super) fn boxes(raw: Vec<wire::Box>) -> Result<Vec<(Id, Vec<u8>)>, Invalid> {
    let boxes = raw.into_iter().map(|b| Ok((Id::of(&b.device)?, b.sealed))).collect::<Result<Vec<_>, Invalid>>()?;
    if boxes.windows(2).all(|w| w[0].0 < w[1].0) { Ok(boxes) } else { Err(Invalid("sorted boxes")) }
}

pub(super) fn to_wire(boxes: &[(Id, Vec<u8>)]) -> Vec<wire::Box> {
    boxes.iter().map(|(device, sealed)| wire::Box { device: device.0.to_vec(), sealed: sealed.clone() }).collect()
}

fn ban(payload: &[u8]) -> Result<Ban, Invalid> {
    let raw: wire::Ban = canonical(payload, "a ban")?;
    let cut = raw.cut.iter().map(|c| Ok((Id::of(&c.device)?, c.seq))).collect::<Result<Vec<_>, Invalid>>()?;
    let sorted = cut.windows(2).all(|w| w[0].0 < w[1].0);
    if !sorted || cut.len() > MAX_TARGETS || raw.reason.len() > MAX_REASON {
        return Err(Invalid("a ban with a sorted cut and a short reason"));
    }
    Ok(Ban { target: Id::of(&raw.target)?, cut, purge: raw.purge, reason: raw.reason })
}

/// The payload of an act of authority.
#[must_use]
pub fn payload_of(body: &Body) -> Vec<u8> {
    let target = |id: &Id| wire::Target { target: id.0.to_vec() }.encode_to_vec();
    let ban = |b: &Ban| {
        let cut = b.cut.iter().map(|(d, seq)| wire::Cut { device: d.0.to_vec(), seq: *seq });
        wire::Ban { target: b.target.0.to_vec(), cut: cut.collect(), purge: b.purge, reason: b.reason.clone() }
            .encode_to_vec()
    };
    match body {
        Body::Content(payload) => payload.clone().unwrap_or_default(),
        Body::Join { payload, .. } | Body::Sealed(payload) => payload.clone(),
        Body::Seal(seal) => wire::Seal {
            admits: seal.admits.iter().map(|id| id.0.to_vec()).collect(),
            secrets: seal.secrets.iter().map(|s| s.to_vec()).collect(),
            boxes: to_wire(&seal.boxes),
            names: seal.names,
        }
        .encode_to_vec(),
        Body::Prekey { key } => wire::Prekey { key: key.to_vec() }.encode_to_vec(),
        Body::Leave | Body::Checkpoint => Vec::new(),
        Body::Grant { target, role } => {
            let role = if *role == Role::Moderator { 1 } else { 2 };
            wire::Grant { target: target.0.to_vec(), role }.encode_to_vec()
        }
        Body::Revoke { target: t } | Body::Unban { target: t } | Body::Unshadow { target: t } => target(t),
        Body::Ban(b) | Body::ShadowBan(b) => ban(b),
        Body::Info { name, description } => {
            wire::Info { name: name.clone(), description: description.clone() }.encode_to_vec()
        }
        Body::Channel(c) => {
            let (channel, name, topic) = (c.channel.to_vec(), c.name.clone(), c.topic.clone());
            wire::Channel { channel, name, topic, archived: c.archived }.encode_to_vec()
        }
        Body::Profile { nick } => wire::Profile { nick: nick.clone() }.encode_to_vec(),
        Body::Tombstone { targets, reason } => {
            let mut all = targets.clone();
            all.sort_unstable();
            wire::Tombstone { targets: all.iter().map(|t| t.0.to_vec()).collect(), reason: reason.clone() }
                .encode_to_vec()
        }
    }
}
