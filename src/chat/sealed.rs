//! What only some may read: secrets of private platforms, what is sealed under them, and what is sealed for the devices of one
//! person.
//!
//! A secret is for all who take part at some time. Who writes makes a new one when somebody is to read no more. Who has an old
//! one reads what was sealed under it for as long as he keeps it: there is no forward secrecy within a secret's time.

use prost::Message as _;

use super::{
    body::{Kind, boxes, to_wire},
    envelope::{Id, canonical},
    wire,
};
use crate::crypto::{AeadKey, Cipher, CryptoError, Rng, hkdf_sha256, open_sealed, seal_to, sha256};

/// The name of a secret: who has it can tell, nobody else can.
pub type SecretId = [u8; 16];
/// A secret of a private platform.
pub type Secret = [u8; 32];

const NAME: &[u8] = b"aegis/secret/1";
const SEALED: &[u8] = b"aegis/sealed/1";
const SEAL: &[u8] = b"aegis/seal/1";
const WHISPER: &[u8] = b"aegis/whisper/1";
/// What is sealed is as long as the next multiple of this.
const BLOCK: usize = 64;

/// What a secret is called.
#[must_use]
pub fn name_of(secret: &Secret) -> SecretId {
    let hash = sha256(&[NAME, secret]);
    std::array::from_fn(|i| hash[i])
}

/// Where something is sealed: it opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub platform: Id,
    pub device: Id,
    pub kind: Kind,
    pub channel: [u8; 16],
}

impl Place {
    fn bytes(&self) -> Vec<u8> {
        [&self.platform.0[..], &self.device.0, &(self.kind as u32).to_be_bytes(), &self.channel].concat()
    }
}

/// The secret under which a payload is sealed; `None`: it is not sealed.
#[must_use]
pub fn secret_of(payload: &[u8]) -> Option<SecretId> {
    let raw: wire::Sealed = canonical(payload, "a sealed payload").ok()?;
    let whole = raw.salt.len() == 16 && raw.r#box.len() > BLOCK;
    raw.secret.try_into().ok().filter(|_| whole)
}

fn key(secret: &Secret, salt: &[u8]) -> AeadKey {
    let mut key = [0; 32];
    hkdf_sha256(salt, secret, &[SEALED], &mut key);
    AeadKey::new(Cipher::Aes256Gcm, &key)
}

/// Seals a payload. Each has a key of its own, by its salt.
#[must_use]
pub fn seal(secret: &Secret, place: &Place, plain: &[u8], rng: &mut Rng) -> Vec<u8> {
    let salt: [u8; 16] = rng.bytes();
    let mut sealed = pad(plain);
    let tag = key(secret, &salt).seal(0, &place.bytes(), &mut sealed);
    sealed.extend(tag);
    wire::Sealed { secret: name_of(secret).to_vec(), salt: salt.to_vec(), r#box: sealed }.encode_to_vec()
}

/// Opens a payload; `None`: it is not for this secret, or not what was sealed here.
#[must_use]
pub fn open(secret: &Secret, place: &Place, payload: &[u8]) -> Option<Vec<u8>> {
    let raw: wire::Sealed = canonical(payload, "a sealed payload").ok()?;
    let mut sealed = raw.r#box;
    let n = key(secret, &raw.salt).open(0, &place.bytes(), &mut sealed).ok()?;
    unpad(sealed.get(..n)?)
}

/// ISO/IEC 7816-4: a one, then zeros.
fn pad(plain: &[u8]) -> Vec<u8> {
    let mut out = plain.to_vec();
    out.push(0x80);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

fn unpad(padded: &[u8]) -> Option<Vec<u8>> {
    let end = padded.iter().rposition(|b| *b != 0)?;
    (padded[end] == 0x80).then(|| padded[..end].to_vec())
}

fn info(what: &[u8], platform: &Id, author: &Id) -> Vec<u8> {
    [what, &platform.0, &author.0].concat()
}

/// Secrets for a device with this prekey, from a device of `author` on a platform.
pub fn seal_secrets(prekey: &[u8; 32], platform: &Id, author: &Id, secrets: &[Secret]) -> Result<Vec<u8>, CryptoError> {
    seal_to(prekey, &info(SEAL, platform, author), &secrets.concat())
}

/// The secrets that a device was given.
#[must_use]
pub fn open_secrets(private: &[u8; 32], platform: &Id, author: &Id, sealed: &[u8]) -> Option<Vec<Secret>> {
    let plain = open_sealed(private, &info(SEAL, platform, author), sealed).ok()?;
    plain.chunks(32).map(|s| s.try_into().ok()).collect()
}

/// The payload of a WHISPER for devices with these prekeys.
pub fn whisper(
    prekeys: &[(Id, [u8; 32])],
    platform: &Id,
    author: &Id,
    plain: &[u8],
    rng: &mut Rng,
) -> Result<Vec<u8>, CryptoError> {
    let (once, info): ([u8; 32], _) = (rng.bytes(), info(WHISPER, platform, author));
    let seal = |(device, prekey): &(Id, [u8; 32])| Ok((*device, seal_to(prekey, &info, &once)?));
    let mut boxes = prekeys.iter().map(seal).collect::<Result<Vec<_>, CryptoError>>()?;
    boxes.sort_unstable();
    boxes.dedup_by_key(|b| b.0);
    let mut sealed = pad(plain);
    let tag = AeadKey::new(Cipher::Aes256Gcm, &once).seal(0, &info, &mut sealed);
    sealed.extend(tag);
    Ok(wire::Whisper { boxes: to_wire(&boxes), sealed }.encode_to_vec())
}

/// What was whispered to a device with one of these prekeys.
#[must_use]
pub fn hear(privates: &[[u8; 32]], device: &Id, platform: &Id, author: &Id, payload: &[u8]) -> Option<Vec<u8>> {
    let raw: wire::Whisper = canonical(payload, "a whisper").ok()?;
    let boxes = boxes(raw.boxes).ok()?;
    let at = boxes.binary_search_by_key(device, |(device, _)| *device).ok()?;
    let info = info(WHISPER, platform, author);
    let once = privates.iter().find_map(|private| open_sealed(private, &info, &boxes[at].1).ok())?;
    let mut sealed = raw.sealed;
    let once = once.try_into().ok()?;
    let n = AeadKey::new(Cipher::Aes256Gcm, &once).open(0, &info, &mut sealed).ok()?;
    unpad(sealed.get(..n)?)
}
