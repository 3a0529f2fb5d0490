//! Private platforms and conversations of two: who gets the secrets, when there is a new one, and invitations.
//!
//! A writer seals under the newest secret that nobody has who was banned or has left; if there is none, or it is a week old, it
//! makes one and seals it for the devices of all who take part. A device that has none yet gets it from the next who writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message as _;

use super::{
    engine::{Engine, Event, Refusal},
    store::{Invitation, Prekey, Result as StoreResult},
};
use crate::{
    chat::{
        Body, Id, Kind, Message, Seal,
        sealed::{self, Secret, SecretId, name_of},
        wire::{self, whispered::What},
    },
    crypto::{CryptoError, x25519_public},
};

type Result<T> = std::result::Result<T, Refusal>;

const WEEK_MS: u64 = 7 * 86_400_000;
/// How long this device can still open what was sealed to a key that has a successor.
const KEEP_PREKEYS_MS: u64 = 30 * 86_400_000;
/// Devices of a seal.
const MAX_BOXES: usize = 256;
/// Secrets of a seal, so that it fits into a payload with that many devices.
const MAX_SECRETS: usize = 4;
/// Invitations that wait for an answer.
const MAX_INVITATIONS: usize = 256;

impl From<CryptoError> for Refusal {
    fn from(e: CryptoError) -> Self {
        Self::no(format!("cannot seal: {e}"))
    }
}

impl Engine {
    /// Sees to it that others can seal to this device on a platform.
    pub fn refresh_prekey(&mut self, now_ms: u64, id: Id) -> Result<()> {
        let device = self.keys.unlocked()?.device;
        let all = self.store.prekeys()?;
        let current = match all.first().filter(|k| k.made_ms + WEEK_MS > now_ms) {
            Some(key) => *key,
            None => {
                let private = self.rng.bytes();
                let key = Prekey { public: x25519_public(&private), private, made_ms: now_ms };
                self.store.add_prekey(&key)?;
                key
            }
        };
        let published = |p: &super::platform::Platform| p.prekeys.get(&device).map(|(_, key)| *key);
        for old in all.iter().filter(|k| k.made_ms + WEEK_MS + KEEP_PREKEYS_MS < now_ms) {
            // Others seal to what was published last, however old it is.
            if self.platforms.values().all(|p| published(p) != Some(old.public)) {
                self.store.drop_prekey(old)?;
            }
        }
        let Some(platform) = self.platforms.get(&id).filter(|p| p.place.joined) else { return Ok(()) };
        if published(platform) != Some(current.public) {
            let body = Body::Prekey { key: current.public };
            self.write(now_ms, Some(id), ([0; 16], Kind::Prekey), &body, None)?;
        }
        Ok(())
    }

    /// The newest prekeys of the devices of some people, from all platforms that are known here.
    fn devices_of(&self, who: impl Fn(&Id) -> bool) -> BTreeMap<Id, (Id, [u8; 32])> {
        let mut newest: HashMap<Id, (crate::chat::Hlc, [u8; 32])> = HashMap::new();
        let mut out = BTreeMap::new();
        for platform in self.platforms.values() {
            for (device, found) in &platform.prekeys {
                let Some(whose) = platform.authority.identity(*device).filter(&who) else { continue };
                let best = newest.entry(*device).or_insert(*found);
                *best = (*best).max(*found);
                out.insert(*device, (whose, best.1));
            }
        }
        out
    }

    /// Who is to read what is written now on a private platform.
    fn readers(&self, id: Id) -> BTreeMap<Id, [u8; 32]> {
        let platform = &self.platforms[&id];
        let reads = |who: &Id| {
            platform.authority.admits(*who) && !platform.authority.now(*who).banned && !platform.left.contains(who)
        };
        self.devices_of(reads).into_iter().map(|(device, (_, prekey))| (device, prekey)).collect()
    }

    /// Seals the payload of a message.
    pub(super) fn seal(
        &mut self,
        now_ms: u64,
        id: Id,
        (channel, kind): ([u8; 16], Kind),
        plain: &[u8],
    ) -> Result<Vec<u8>> {
        let device = self.keys.unlocked()?.device;
        if !self.platforms.get(&id).is_some_and(|p| p.authority.admits(self.me())) {
            return Err(Refusal::no("this platform is private, and nobody has let you in yet"));
        }
        self.refresh_prekey(now_ms, id)?;
        let secret = self.current_secret(now_ms, id, kind.is_authority(), false)?;
        let place = sealed::Place { platform: id, device, kind, channel };
        Ok(sealed::seal(&secret, &place, plain, &mut self.rng))
    }

    /// The secret to seal names or content under, after all who are to read it have it; with `fresh` a new one.
    fn current_secret(&mut self, now_ms: u64, id: Id, names: bool, fresh: bool) -> Result<Secret> {
        let readers = self.readers(id);
        let platform = &self.platforms[&id];
        let mut given: HashMap<SecretId, (u64, BTreeSet<Id>)> = HashMap::new();
        for act in &platform.seals {
            let Body::Seal(seal) = &act.body else { continue };
            for name in seal.secrets.iter().filter(|_| seal.names == names) {
                let entry = given.entry(*name).or_insert_with(|| (act.head.hlc.ms(), BTreeSet::new()));
                entry.1.extend(seal.boxes.iter().map(|(device, _)| *device));
                entry.1.insert(act.device);
            }
        }
        let good = given.iter().filter(|(name, (made_ms, devices))| {
            let is_new = made_ms + WEEK_MS > now_ms;
            is_new && platform.secrets.contains_key(*name) && devices.iter().all(|d| readers.contains_key(d))
        });
        let newest = good.max_by_key(|(name, (made_ms, _))| (*made_ms, **name));
        if let Some((name, (_, devices))) = newest.filter(|_| !fresh) {
            let secret = platform.secrets[name];
            let missing: Vec<Id> = readers.keys().filter(|d| !devices.contains(*d)).copied().collect();
            if !missing.is_empty() {
                self.share(now_ms, id, (&[secret], names), &missing, Vec::new())?;
            }
            return Ok(secret);
        }
        let secret: Secret = self.rng.bytes();
        let place = platform.place.n;
        self.store.add_secret(place, &secret)?;
        if let Some(platform) = self.platforms.get_mut(&id) {
            platform.secrets.insert(name_of(&secret), secret);
        }
        let all: Vec<Id> = readers.into_keys().collect();
        self.share(now_ms, id, (&[secret], names), &all, Vec::new())?;
        Ok(secret)
    }

    /// Hands secrets of some of those here to devices.
    fn share_some(&mut self, now_ms: u64, id: Id, devices: &[Id], which: impl Fn(&SecretId) -> bool) -> Result<()> {
        for names in [true, false] {
            let platform = &self.platforms[&id];
            let chosen =
                |(name, _): &(&SecretId, &Secret)| platform.name_secrets.contains(*name) == names && which(name);
            let secrets: Vec<Secret> = platform.secrets.iter().filter(chosen).map(|(_, secret)| *secret).collect();
            self.share(now_ms, id, (&secrets, names), devices, Vec::new())?;
        }
        Ok(())
    }

    /// Hands secrets, for names or for content, to devices, and lets people in.
    fn share(
        &mut self,
        now_ms: u64,
        id: Id,
        (secrets, names): (&[Secret], bool),
        devices: &[Id],
        mut admits: Vec<Id>,
    ) -> Result<()> {
        let from = self.keys.unlocked()?.device;
        let known = self.devices_of(|_| true);
        for secrets in secrets.chunks(MAX_SECRETS) {
            for some in devices.chunks(MAX_BOXES) {
                let prekeys = some.iter().filter_map(|d| Some((*d, known.get(d)?.1)));
                let boxes = prekeys.map(|(d, key)| Ok((d, sealed::seal_secrets(&key, &id, &from, secrets)?)));
                let mut boxes = boxes.collect::<std::result::Result<Vec<_>, CryptoError>>()?;
                boxes.sort_unstable();
                let (admits, secrets) = (std::mem::take(&mut admits), secrets.iter().map(name_of).collect());
                let body = Body::Seal(Seal { admits, secrets, boxes, names });
                self.write(now_ms, Some(id), ([0; 16], Kind::Seal), &body, None)?;
            }
        }
        Ok(())
    }

    /// Gives this identity's other devices what this one can read, on all private platforms.
    pub fn share_with_own(&mut self, now_ms: u64) -> Result<()> {
        let me = self.me();
        if self.devices_of(|who| *who == me).len() < 2 {
            return Ok(());
        }
        let private = self.platforms.values().filter(|p| p.private && p.place.joined).map(|p| p.place.id);
        let private: Vec<Id> = private.collect();
        private.into_iter().try_for_each(|id| self.share_one_with_own(now_ms, id))
    }

    fn share_one_with_own(&mut self, now_ms: u64, id: Id) -> Result<()> {
        let (device, me) = (self.keys.unlocked()?.device, self.me());
        let Some(platform) = self.platforms.get(&id) else { return Ok(()) };
        let own: Vec<Id> = self.devices_of(|who| *who == me).into_keys().filter(|d| *d != device).collect();
        let has = |device: &Id, name: &SecretId| {
            platform.seals.iter().any(|act| match &act.body {
                Body::Seal(s) => {
                    s.secrets.contains(name) && (act.device == *device || s.boxes.iter().any(|(d, _)| d == device))
                }
                _ => false,
            })
        };
        for other in own {
            let missing: BTreeSet<SecretId> =
                platform.secrets.keys().filter(|name| !has(&other, name)).copied().collect();
            if missing.is_empty() {
                continue;
            }
            let public =
                |p: &&super::platform::Platform| !p.private && p.place.joined && p.authority.identity(other).is_some();
            let via = self.platforms.values().find(public).map(|p| p.place.id);
            let (with, nick) = platform.direct.clone().unzip();
            let invitation = wire::Invitation {
                platform: id.0.to_vec(),
                name: platform.name(),
                direct: platform.direct.is_some(),
                other: with.map(|id| id.0.to_vec()).unwrap_or_default(),
                nick: nick.unwrap_or_default(),
            };
            let is_new = platform.authority.identity(other).is_none();
            self.share_some(now_ms, id, &[other], |name| missing.contains(name))?;
            if let Some(via) = via.filter(|_| is_new) {
                self.whisper(now_ms, via, &[other], What::Invitation(invitation))?;
            }
            // What is left comes with the next act, and this one was an act.
            return Ok(());
        }
        Ok(())
    }

    /// Lets somebody of the platform `via` in to the private platform `id`, and tells them.
    pub fn invite(&mut self, now_ms: u64, id: Id, (via, who): (Id, Id), history: bool) -> Result<()> {
        let platform = self.platforms.get(&id).filter(|p| p.place.joined && p.private);
        let platform = platform.ok_or_else(|| Refusal::no("expected a private platform that you take part in"))?;
        if platform.authority.now(who).banned {
            return Err(Refusal::no("they are banned there; a moderator's UNBAN lifts that"));
        }
        let name = if platform.direct.is_some() { String::new() } else { platform.name() };
        let direct = platform.direct.is_some();
        let devices: Vec<Id> = self.devices_of(|whose| *whose == who).into_keys().collect();
        if devices.is_empty() {
            return Err(Refusal::no("their node has published no key to seal to yet: it does when they unlock"));
        }
        // What was said before is under secrets that they don't get.
        let current = self.current_secret(now_ms, id, false, !history)?;
        self.share(now_ms, id, (&[current], false), &devices, vec![who])?;
        let is_name = self.platforms[&id].name_secrets.clone();
        let which = |name: &SecretId| is_name.contains(name) || (history && *name != name_of(&current));
        self.share_some(now_ms, id, &devices, which)?;
        let invitation = wire::Invitation { platform: id.0.to_vec(), name, direct, ..Default::default() };
        self.whisper(now_ms, via, &devices, What::Invitation(invitation))
    }

    /// Something for the devices of one person on a platform.
    pub(super) fn seal_for(&mut self, via: Id, who: Id, what: What) -> Result<Vec<u8>> {
        let devices: Vec<Id> = self.devices_of(|whose| *whose == who).into_keys().collect();
        if devices.is_empty() {
            return Err(Refusal::no("their node has published no key to seal to yet: it does when they unlock"));
        }
        self.seal_whisper(via, &devices, what)
    }

    fn seal_whisper(&mut self, via: Id, devices: &[Id], what: What) -> Result<Vec<u8>> {
        let from = self.keys.unlocked()?.device;
        let known = self.devices_of(|_| true);
        let prekeys: Vec<(Id, [u8; 32])> = devices.iter().filter_map(|d| Some((*d, known.get(d)?.1))).collect();
        let plain = wire::Whispered { what: Some(what) }.encode_to_vec();
        Ok(sealed::whisper(&prekeys, &via, &from, &plain, &mut self.rng)?)
    }

    fn whisper(&mut self, now_ms: u64, via: Id, devices: &[Id], what: What) -> Result<()> {
        let payload = self.seal_whisper(via, devices, what)?;
        self.write(now_ms, Some(via), ([0; 16], Kind::Whisper), &Body::Content(Some(payload)), None)?;
        Ok(())
    }

    /// Somebody whispers: it may be to this device.
    pub(super) fn hear(&mut self, m: &Message) -> StoreResult<()> {
        let (Some(device), Some(payload)) = (self.keys.device(), m.payload()) else { return Ok(()) };
        let Some(platform) = self.platforms.get(&m.platform).filter(|p| p.place.joined) else { return Ok(()) };
        let privates: Vec<[u8; 32]> = self.store.prekeys()?.iter().map(|k| k.private).collect();
        let Some(plain) = sealed::hear(&privates, &device, &m.platform, &m.device, &payload) else { return Ok(()) };
        let Ok(wire::Whispered { what: Some(What::Invitation(i)) }) = wire::Whispered::decode(&*plain) else {
            return Ok(());
        };
        let (Ok(id), Some(other)) = (Id::of(&i.platform), platform.authority.identity(m.device)) else {
            return Ok(());
        };
        let is_known = self.invitations.iter().any(|i| i.platform == id) || self.invitations.len() >= MAX_INVITATIONS;
        let is_in = self.platforms.get(&id).is_some_and(|p| p.place.joined);
        if is_known || is_in || self.keys.is_banned_from(&id) {
            return Ok(());
        }
        // Another device of one's own says with whom it is.
        let is_own = Some(other) == self.keys.identity();
        let (other, nick) = match Id::of(&i.other) {
            Ok(with) if is_own && i.direct => (with, i.nick.clone()),
            _ => (other, platform.nick(other)),
        };
        let invitation = Invitation {
            platform: id,
            other,
            nick,
            own_nick: platform.nick(self.me()),
            name: i.name.chars().filter(|c| !c.is_control()).take(64).collect(),
            direct: i.direct,
            accepted: false,
        };
        self.keep_invitation(invitation)?;
        self.events.push(Event::Invited(id));
        Ok(())
    }

    /// Notes an invitation, or that it was accepted.
    pub fn keep_invitation(&mut self, invitation: Invitation) -> StoreResult<()> {
        self.store.set_invitation(&invitation)?;
        if let Some(platform) = self.platforms.get_mut(&invitation.platform).filter(|_| invitation.direct) {
            platform.direct = Some((invitation.other, invitation.nick.clone()));
        }
        self.invitations.retain(|i| i.platform != invitation.platform);
        self.invitations.push(invitation);
        Ok(())
    }
}
