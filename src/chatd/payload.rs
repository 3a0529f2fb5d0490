//! What people say, as the payload of a message.

use prost::Message as _;

use crate::chat::wire;

/// Bytes of a reaction.
pub const MAX_REACTION: usize = 64;
/// Bytes of a text: what fits into a payload.
pub const MAX_TEXT: usize = 60_000;

#[must_use]
pub fn text(text: &str) -> Vec<u8> {
    wire::Text { text: text.to_owned() }.encode_to_vec()
}

/// The text in a payload; `None`: it has another form.
#[must_use]
pub fn text_of(payload: &[u8]) -> Option<String> {
    wire::Text::decode(payload).ok().map(|t| t.text).filter(|t| !t.is_empty())
}

/// A reaction: a short word or a picture, on one line.
#[must_use]
pub fn reaction_of(payload: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(payload).ok()?;
    let good = !text.trim().is_empty() && payload.len() <= MAX_REACTION && !text.chars().any(char::is_control);
    good.then(|| text.to_owned())
}
