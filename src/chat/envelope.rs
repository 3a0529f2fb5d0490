//! The envelope: what is signed, its id, and who may have said it.
//!
//! The hash goes over two levels: without its payload a message still verifies, and the chain of its author holds.

use std::{collections::HashSet, fmt};

use ed25519_zebra::{Signature, SigningKey, VerificationKey, VerificationKeyBytes, batch};
use prost::Message as _;
use rand_core::{CryptoRng, RngCore};

use super::{
    body::{Body, Kind, body, payload_of},
    clock::Hlc,
    wire,
};
use crate::crypto::{Rng, sha256};

const ID: &[u8] = b"aegis/msg/1";
const SIGNED: &[u8] = b"aegis/sig/1";
const DEVICE: &[u8] = b"aegis/device/1";
pub const MAX_HEADER: usize = 1024;
pub const MAX_PAYLOAD: usize = 65_536;
/// Entries of `auth_heads` and of `refs`.
pub const MAX_LINKS: usize = 8;
/// An id, a device's key or an identity's.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 32]);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl Id {
    pub fn of(bytes: &[u8]) -> Result<Self, Invalid> {
        bytes.try_into().map(Self).map_err(|_| Invalid("an id of 32 bytes"))
    }
}

/// Why bytes are no message. It is for ever: nothing that comes later makes them one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message: expected {0}")]
pub struct Invalid(pub &'static str);

/// A message whose bytes are well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: Id,
    /// As it was signed.
    pub header: Vec<u8>,
    pub signature: [u8; 64],
    pub platform: Id,
    pub device: Id,
    pub head: Head,
    pub body: Body,
}

/// What the author says about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// From 1, per device and platform.
    pub seq: u64,
    /// The device's message before.
    pub prev: Option<Id>,
    pub hlc: Hlc,
    /// The newest acts of authority that the author knew.
    pub auth_heads: Vec<Id>,
    /// What content answers, edits, reacts to, retracts: at most one.
    pub refs: Vec<Id>,
    pub channel: [u8; 16],
    pub kind: Kind,
}

impl Head {
    /// What follows a device's last message (its number and id), or begins with the first.
    #[must_use]
    pub fn after(last: Option<(u64, Id)>, hlc: Hlc, auth_heads: Vec<Id>, kind: Kind) -> Self {
        let (seq, prev) = last.map_or((1, None), |(seq, id)| (seq + 1, Some(id)));
        Self { seq, prev, hlc, auth_heads, refs: Vec::new(), channel: [0; 16], kind }
    }
}

/// What an author decides about a message.
#[derive(Clone, Debug)]
pub struct Draft {
    /// `None`: a GENESIS.
    pub platform: Option<Id>,
    pub head: Head,
    pub payload: Vec<u8>,
}

/// The private key of a device.
pub struct DeviceKey {
    key: SigningKey,
    pub device: Id,
    /// The payload of this device's GENESIS or JOIN: whose it is.
    pub join: Vec<u8>,
    pub identity: Id,
}

impl DeviceKey {
    /// A device of the identity with this seed. Seeds are 32 random bytes.
    #[must_use]
    pub fn new(identity: &[u8; 32], device: &[u8; 32]) -> Self {
        let (root, key) = (SigningKey::from(*identity), SigningKey::from(*device));
        let public = |key: &SigningKey| Id(VerificationKeyBytes::from(key).into());
        let (identity, device) = (public(&root), public(&key));
        let signature: [u8; 64] = root.sign(&[DEVICE, &device.0].concat()).into();
        let (identity_bytes, signature) = (identity.0.to_vec(), signature.to_vec());
        let join = wire::Join { identity: identity_bytes, signature, private: false }.encode_to_vec();
        Self { key, device, join, identity }
    }

    pub(super) fn sign_bytes(&self, text: &[u8]) -> [u8; 64] {
        self.key.sign(text).into()
    }

    /// The payload of a GENESIS of a private platform.
    #[must_use]
    pub fn founds_private(&self) -> Vec<u8> {
        let join = wire::Join::decode(&*self.join).unwrap_or_default();
        wire::Join { private: true, ..join }.encode_to_vec()
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, draft: Draft) -> Vec<u8> {
        let sorted = |mut ids: Vec<Id>| {
            ids.sort_unstable();
            ids.dedup();
            ids.into_iter().map(|id| id.0.to_vec()).collect()
        };
        let header = wire::Header {
            version: 1,
            platform: draft.platform.map(|p| p.0.to_vec()).unwrap_or_default(),
            device: self.device.0.to_vec(),
            seq: draft.head.seq,
            prev: draft.head.prev.map(|p| p.0.to_vec()).unwrap_or_default(),
            hlc: draft.head.hlc.0,
            auth_heads: sorted(draft.head.auth_heads),
            refs: sorted(draft.head.refs),
            channel: if draft.head.channel == [0; 16] { Vec::new() } else { draft.head.channel.to_vec() },
            kind: draft.head.kind as u32,
            payload_len: draft.payload.len() as u32,
            payload_hash: sha256(&[&draft.payload]).to_vec(),
        }
        .encode_to_vec();
        let id = sha256(&[ID, &header]);
        let signature: [u8; 64] = self.key.sign(&[SIGNED, &id].concat()).into();
        wire::Message { header, signature: signature.to_vec(), payload: Some(draft.payload) }.encode_to_vec()
    }
}

/// Decodes what would be encoded the same way, and nothing else: one meaning has one form.
pub(super) fn canonical<M: prost::Message + Default>(bytes: &[u8], what: &'static str) -> Result<M, Invalid> {
    let message = M::decode(bytes).map_err(|_| Invalid(what))?;
    if message.encode_to_vec() == bytes { Ok(message) } else { Err(Invalid(what)) }
}

pub(super) fn ids(list: &[Vec<u8>], most: usize) -> Result<Vec<Id>, Invalid> {
    let all = list.iter().map(|b| Id::of(b)).collect::<Result<Vec<_>, _>>()?;
    let sorted = all.windows(2).all(|w| w[0] < w[1]);
    if sorted && all.len() <= most { Ok(all) } else { Err(Invalid("sorted ids, and few of them")) }
}

impl Message {
    /// Reads a message: shape, hashes and limits, but not the signature ([`Self::verify`]).
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let raw: wire::Message = canonical(bytes, "a message")?;
        Self::assemble(raw.header, &raw.signature, raw.payload)
    }

    /// The id that bytes would have if they are a message.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> Option<Id> {
        wire::Message::decode(bytes).ok().map(|raw| Id(sha256(&[ID, &raw.header])))
    }

    /// Puts a message together that was kept in parts.
    pub fn assemble(bytes: Vec<u8>, signature: &[u8], payload: Option<Vec<u8>>) -> Result<Self, Invalid> {
        if bytes.len() > MAX_HEADER {
            return Err(Invalid("a header of at most 1 KiB"));
        }
        let header: wire::Header = canonical(&bytes, "a header")?;
        let kind = Kind::ALL.into_iter().find(|k| *k as u32 == header.kind).ok_or(Invalid("a kind that is known"))?;
        let is_genesis = kind == Kind::Genesis;
        let good = header.version == 1
            && header.seq >= 1
            && header.prev.is_empty() == (header.seq == 1)
            && header.platform.is_empty() == is_genesis
            && (!is_genesis || header.seq == 1)
            && (header.seq == 1) == matches!(kind, Kind::Genesis | Kind::Join)
            && (is_genesis || !header.auth_heads.is_empty())
            && header.refs.len() <= usize::from(!kind.is_authority())
            && header.payload_len as usize <= MAX_PAYLOAD;
        if !good {
            return Err(Invalid("a header whose parts fit each other"));
        }
        let id = Id(sha256(&[ID, &bytes]));
        let device = Id::of(&header.device)?;
        if payload
            .as_ref()
            .is_some_and(|p| p.len() != header.payload_len as usize || sha256(&[p]) != *header.payload_hash)
        {
            return Err(Invalid("the payload that was signed"));
        }
        let channel = match header.channel.len() {
            0 => [0; 16],
            _ => header.channel.as_slice().try_into().map_err(|_| Invalid("a channel of 16 bytes"))?,
        };
        if header.channel == [0; 16] {
            return Err(Invalid("an empty channel as no bytes"));
        }
        Ok(Self {
            platform: if is_genesis { id } else { Id::of(&header.platform)? },
            device,
            head: Head {
                seq: header.seq,
                prev: if header.seq == 1 { None } else { Some(Id::of(&header.prev)?) },
                hlc: Hlc(header.hlc),
                auth_heads: ids(&header.auth_heads, MAX_LINKS)?,
                refs: ids(&header.refs, MAX_LINKS)?,
                channel,
                kind,
            },
            body: body(kind, device, payload)?,
            id,
            signature: signature.try_into().map_err(|_| Invalid("a signature of 64 bytes"))?,
            header: bytes,
        })
    }

    /// Checks the signature by the rules of ZIP 215, under which checking one by one and in batches always agree.
    pub fn verify(&self) -> Result<(), Invalid> {
        verify(self.device, &[SIGNED, &self.id.0].concat(), &self.signature)
    }

    /// As it travels: [`Self::decode`] reads it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (header, signature) = (self.header.clone(), self.signature.to_vec());
        wire::Message { header, signature, payload: self.payload() }.encode_to_vec()
    }

    /// The payload as it was signed, if it is here.
    #[must_use]
    pub fn payload(&self) -> Option<Vec<u8>> {
        match &self.body {
            Body::Content(payload) => payload.clone(),
            Body::Join { payload, .. } => Some(payload.clone()),
            act => Some(payload_of(act)),
        }
    }

    /// Whether it makes a private platform.
    #[must_use]
    pub fn founds_private(&self) -> bool {
        let private = |payload: &[u8]| wire::Join::decode(payload).is_ok_and(|join| join.private);
        matches!(&self.body, Body::Join { payload, .. } if self.head.kind == Kind::Genesis && private(payload))
    }

    /// The identity in a GENESIS or JOIN.
    #[must_use]
    pub fn joins(&self) -> Option<Id> {
        match &self.body {
            Body::Join { identity, .. } => Some(*identity),
            _ => None,
        }
    }
}

/// Whether each message is its author's. Many at once take half the time; the result is the same by ZIP 215, and a bad one
/// among them costs the others nothing but that time.
#[must_use]
pub fn verify_all(messages: &[&Message], rng: &mut Rng) -> Vec<bool> {
    let mut batch = batch::Verifier::new();
    let mut keys = HashSet::new();
    for m in messages {
        if keys.insert(m.device) && check_key(m.device).is_err() {
            return messages.iter().map(|m| m.verify().is_ok()).collect();
        }
        let text = [SIGNED, &m.id.0].concat();
        batch.queue((VerificationKeyBytes::from(m.device.0), Signature::from(m.signature), &text));
    }
    if batch.verify(Draw(rng)).is_ok() {
        return vec![true; messages.len()];
    }
    match messages {
        [] | [_] => messages.iter().map(|m| m.verify().is_ok()).collect(),
        // In which half? A good half is done with at once.
        _ => {
            let (first, second) = messages.split_at(messages.len() / 2);
            [verify_all(first, rng), verify_all(second, rng)].concat()
        }
    }
}

/// Our generator, as the batch asks for it.
struct Draw<'r>(&'r mut Rng);

impl RngCore for Draw<'_> {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        self.0.fill(out);
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.fill(out);
        Ok(())
    }
}

impl CryptoRng for Draw<'_> {}

/// Keys of small order would make signatures that are good for every message; keys in another form than their own would be
/// one author under two names.
pub fn check_key(key: Id) -> Result<VerificationKey, Invalid> {
    let point =
        curve25519_dalek::edwards::CompressedEdwardsY(key.0).decompress().ok_or(Invalid("a key on the curve"))?;
    if point.is_small_order() || point.compress().0 != key.0 {
        return Err(Invalid("a key of full order, in its own form"));
    }
    VerificationKey::try_from(VerificationKeyBytes::from(key.0)).map_err(|_| Invalid("a key on the curve"))
}

/// Whether `device` is this identity's, who says so.
pub(super) fn verify_device(identity: Id, device: Id, signature: &[u8]) -> Result<(), Invalid> {
    let signature = signature.try_into().map_err(|_| Invalid("a signature of 64 bytes"))?;
    verify(identity, &[DEVICE, &device.0].concat(), &signature)
}

pub(super) fn verify(key: Id, text: &[u8], signature: &[u8; 64]) -> Result<(), Invalid> {
    check_key(key)?.verify(&Signature::from(*signature), text).map_err(|_| Invalid("a signature of its author"))
}
