//! The word that an invite travels as, and what mail programs, chats and terminals make of it.

use data_encoding::BASE32_NOPAD;

use super::invite::InviteError;
use crate::crypto::sha256;

/// A token is this head, then base32 of the message and the first 4 bytes of its SHA-256 (a half-copied one is seen).
const HEAD: &str = "aegis1-";
/// What other versions' tokens begin with.
const KIND: &str = "aegis";
/// No token is longer, and none is cut into more pieces.
const MAX_TOKEN: usize = 8192;
const MAX_PIECES: usize = 512;

pub(super) fn encode(body: &[u8]) -> String {
    let sum = sha256(&[body]);
    let (sum, _) = sum.split_at(4);
    HEAD.to_owned() + &BASE32_NOPAD.encode(&[body, sum].concat()).to_lowercase()
}

/// The message of the token in a text. Upper case, line breaks, spaces, quotation marks and what else stands around a token or between
/// its pieces does no harm, and neither does what follows: it ends where its checksum is right.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, InviteError> {
    let text: String = text.chars().filter(|c| !is_invisible(*c)).map(plain).collect();
    if text.chars().all(is_between) {
        return Err(InviteError::Nothing);
    }
    let Some(at) = text.find(HEAD) else {
        let other = text.split(is_between).find_map(|word| word.strip_prefix(KIND)?.split_once('-'));
        let is_version = other.is_some_and(|(n, _)| n.len() < 4 && n.parse::<u32>().is_ok());
        return Err(if is_version { InviteError::Version } else { InviteError::NoToken });
    };
    let rest = text.get(at + HEAD.len()..).unwrap_or_default();
    let mut word = String::new();
    for piece in rest.split(is_between).filter(|piece| !piece.is_empty()).take(MAX_PIECES) {
        word.push_str(piece);
        if word.len() > MAX_TOKEN {
            break;
        }
        if let Some(body) = BASE32_NOPAD.decode(word.to_uppercase().as_bytes()).ok().and_then(checked) {
            return Ok(body);
        }
    }
    let odd = rest.chars().find(|c| !is_between(*c) && !matches!(c, 'a'..='z' | '2'..='7'));
    Err(odd.map_or(InviteError::Damaged(word.len()), InviteError::Letter))
}

/// What was encoded, if the checksum behind it is right.
fn checked(bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    sha256(&[body]).starts_with(sum).then(|| body.to_vec())
}

/// What has no width, and the mark of a line that goes on in quoted-printable mail.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
        || (c.is_control() && !c.is_whitespace())
}

/// What a token is made of: programs that mean well replace hyphens.
fn plain(c: char) -> char {
    match c {
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe63}' | '\u{ff0d}' => '-',
        c => c.to_ascii_lowercase(),
    }
}

/// What may stand around a token, and where it was wrapped.
fn is_between(c: char) -> bool {
    c.is_whitespace()
        || (c.is_ascii_punctuation() && c != '-')
        || matches!(c, '\u{2018}'..='\u{201f}' | '«' | '»' | '‹' | '›' | '…' | '·')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_to_tokens_on_their_way_does_no_harm() {
        let body: Vec<u8> = (0..200).collect();
        let token = encode(&body);
        let wrapped = |width: usize, with: &str| {
            token
                .as_bytes()
                .chunks(width)
                .map(|c| String::from_utf8_lossy(c).into_owned())
                .collect::<Vec<_>>()
                .join(with)
        };
        for shape in [
            token.clone(),
            format!("  {token}\r\n"),
            token.to_uppercase(),
            wrapped(76, "\n"),
            wrapped(72, "\r\n> "),
            wrapped(75, "=\r\n"),
            wrapped(40, " "),
            wrapped(60, "\u{200b}"),
            format!("\u{feff}{token}\u{200b}"),
            format!("\"{token}\""),
            format!("“{token}”."),
            format!("<{token}>"),
            format!("`{token}`"),
            format!("*{token}*"),
            token.replace('-', "\u{2011}"),
            format!("sudo aegisray join {token}"),
            format!("{}\ngood for 24.0 h, usable once\n", wrapped(76, "\n")),
            format!("the token: {token}, bye (until 18:00)"),
        ] {
            assert_eq!(decode(&shape).as_deref(), Ok(&body[..]), "{shape}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said() {
        let token = encode(&[7; 60]);
        let cut = &token[..token.len() - 1];
        for (text, error) in [
            ("", InviteError::Nothing),
            (" \n\"\"", InviteError::Nothing),
            ("hello", InviteError::NoToken),
            ("aegis-x", InviteError::NoToken),
            ("aegis2-abcdef", InviteError::Version),
            (cut, InviteError::Damaged(cut.len() - HEAD.len())),
            ("aegis1-", InviteError::Damaged(0)),
            (&token.replacen("1-", "1-0", 1), InviteError::Letter('0')),
            (&token.replacen("1-", "1-é", 1), InviteError::Letter('é')),
        ] {
            assert_eq!(decode(text), Err(error), "{text}");
        }
        let mut other = token.into_bytes();
        other.swap(10, 30);
        other[12] = if other[12] == b'a' { b'b' } else { b'a' };
        assert!(matches!(decode(&String::from_utf8(other).unwrap()), Err(InviteError::Damaged(_))));
        assert!(decode(&format!("aegis1-{}", "a ".repeat(100_000))).is_err());
    }
}
