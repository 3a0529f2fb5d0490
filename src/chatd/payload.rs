//! What people say, as the payload of a message.

use prost::Message as _;

use crate::{
    chat::wire,
    crypto::{AeadKey, Cipher, CryptoError, TAG_LEN, sha256},
};

/// Bytes of a reaction.
pub const MAX_REACTION: usize = 64;
/// Bytes of a text: what fits into a payload, with files beside it.
pub const MAX_TEXT: usize = 56_000;
/// Files of a message.
pub const MAX_FILES: usize = 16;
/// Bytes of a file in a piece.
pub const PIECE: usize = 256 << 10;
/// Pieces of a file.
pub const MAX_PIECES: usize = 1024;
const MAX_NAME: usize = 255;

const FILE: &[u8] = b"aegis/file/1";
const AAD: &[u8] = b"aegis/piece/1";

/// By what a file is found without its key.
pub type Mark = [u8; 16];
/// SHA-256 of a piece.
pub type Hash = [u8; 32];

/// The payload of a text.
#[must_use]
pub fn text(text: &str, files: Vec<wire::File>) -> Vec<u8> {
    wire::Text { text: text.to_owned(), files }.encode_to_vec()
}

/// The text in a payload; `None`: it has another form, or there is none.
#[must_use]
pub fn text_of(payload: &[u8]) -> Option<String> {
    wire::Text::decode(payload).ok().map(|t| t.text).filter(|t| !t.is_empty())
}

/// The files of a payload that make sense, with their keys.
#[must_use]
pub fn files_of(payload: &[u8]) -> Vec<(wire::File, [u8; 32])> {
    let files = wire::Text::decode(payload).map(|t| t.files).unwrap_or_default();
    let good = |f: &wire::File| is_name(&f.name) && f.kind.len() <= MAX_NAME && pieces(f.size).is_some();
    let keyed = |f: wire::File| f.key.as_slice().try_into().ok().map(|key| (f, key));
    files.into_iter().take(MAX_FILES).filter(good).filter_map(keyed).collect()
}

/// Whether this is the name of a file, and no way to another directory.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let odd = |c: char| c.is_control() || matches!(c, '/' | '\\');
    !name.is_empty() && name.len() <= MAX_NAME && !name.contains(odd) && !matches!(name, "." | "..")
}

/// How many pieces a file of this size has; `None`: it is too large.
#[must_use]
pub fn pieces(size: u64) -> Option<usize> {
    let n = usize::try_from(size.div_ceil(PIECE as u64).max(1)).ok()?;
    (n <= MAX_PIECES).then_some(n)
}

#[must_use]
pub fn mark_of(key: &[u8; 32]) -> Mark {
    let hash = sha256(&[FILE, key]);
    std::array::from_fn(|i| hash[i])
}

/// A piece as it travels.
#[must_use]
pub fn seal_piece(key: &[u8; 32], n: usize, mut bytes: Vec<u8>) -> Vec<u8> {
    let tag = AeadKey::new(Cipher::Aes256Gcm, key).seal(n as u64, AAD, &mut bytes);
    bytes.extend(tag);
    bytes
}

pub fn open_piece(key: &[u8; 32], n: usize, mut sealed: Vec<u8>) -> Result<Vec<u8>, CryptoError> {
    let len = AeadKey::new(Cipher::Aes256Gcm, key).open(n as u64, AAD, &mut sealed)?;
    sealed.truncate(len);
    Ok(sealed)
}

/// The payload of a FILE.
#[must_use]
pub fn manifest(mark: &Mark, size: u64, hashes: &[Hash]) -> Vec<u8> {
    let pieces = hashes.iter().map(|h| h.to_vec()).collect();
    wire::Pieces { mark: mark.to_vec(), size, pieces }.encode_to_vec()
}

/// What a FILE says: mark, size, and the hashes of the pieces.
#[must_use]
pub fn manifest_of(payload: &[u8]) -> Option<(Mark, u64, Vec<Hash>)> {
    let raw = wire::Pieces::decode(payload).ok()?;
    let hashes = raw.pieces.into_iter().map(|h| h.try_into().ok()).collect::<Option<Vec<Hash>>>()?;
    let whole = pieces(raw.size) == Some(hashes.len());
    Some((raw.mark.try_into().ok()?, raw.size, hashes)).filter(|_| whole)
}

/// Whether bytes may be a piece.
#[must_use]
pub fn fits(bytes: &[u8], hash: &Hash) -> bool {
    (TAG_LEN..=PIECE + TAG_LEN).contains(&bytes.len()) && sha256(&[bytes]) == *hash
}

/// A reaction: a short word or a picture, on one line.
#[must_use]
pub fn reaction_of(payload: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(payload).ok()?;
    let good = !text.trim().is_empty() && payload.len() <= MAX_REACTION && !text.chars().any(char::is_control);
    good.then(|| text.to_owned())
}
