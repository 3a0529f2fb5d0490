//! What members may be called: one label of DNS, and nothing that already means something.

/// Names have at most so many characters (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;

/// A label of so many characters, all of them base32, is taken for a NodeId or the beginning of one: half of a NodeId's 52.
const LIKE_A_NODE_ID: usize = 26;

/// Words that nobody may be called, in lower case, and why. What programs ask for by themselves would be answered by whoever took the name
/// (US-CERT TA16-144A tells of WPAD); a word that means something to DNS or to our own configuration would not be found.
const RESERVED: &[(&[&str], &str)] = &[
    (&["wpad"], "browsers ask it for their proxy"),
    (&["isatap"], "hosts ask it for a router (RFC 5214 §8.3.2)"),
    (&["autodiscover", "autoconfig"], "mail programs ask it for their settings"),
    (
        &["localhost", "localdomain", "loopback", "broadcasthost", "ip6-localhost", "ip6-loopback"],
        "it is this host itself (RFC 6761 §6.3)",
    ),
    (
        &["local", "onion", "invalid", "alt", "arpa", "aegis"],
        "it is a domain of its own (RFC 6761, RFC 6762, RFC 7686, RFC 9476; `aegis` is the mesh's)",
    ),
    (
        &["any", "self", "internet", "portal", "auto", "off", "none"],
        "it means something else in the configuration and in commands",
    ),
];

/// Why a text is no name for a member.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LabelError {
    #[error(
        "expected a name of 1 to 63 letters, digits, `-` and `_`, with a letter or digit at both ends, got `{}`", shown(.0)
    )]
    Shape(String),
    #[error(
        "`{0}` could be taken for a NodeId or for the beginning of one: choose a shorter name, or one with a hyphen"
    )]
    NodeId(String),
    #[error("`{0}` is a reserved word, because {1}: choose another name")]
    Reserved(String, &'static str),
}

/// A text that may hold anything, for an error: what a terminal would act upon is shown as what it is.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// Checks a member's name: letters, digits and hyphens (RFC 952, RFC 1123 §2.1), and between them underscores, which many hosts have and
/// DNS carries (RFC 2181 §11; at the beginning they are for services); no encoded one (`xn--…`, RFC 5890 §2.3.1: it would be shown as
/// something else), not of a NodeId's shape, no reserved word. Names are compared without regard to case.
pub fn check_label(text: &str) -> Result<(), LabelError> {
    let bytes = text.as_bytes();
    let is_plain = bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let ends = [bytes.first(), bytes.last()];
    let is_encoded = bytes.get(2..4) == Some(b"--");
    let has_ends = ends.iter().all(|b| b.is_some_and(u8::is_ascii_alphanumeric));
    if !is_plain || is_encoded || bytes.len() > MAX_LABEL || !has_ends {
        return Err(LabelError::Shape(text.to_owned()));
    }
    let name = text.to_ascii_lowercase();
    if name.len() >= LIKE_A_NODE_ID && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')) {
        return Err(LabelError::NodeId(text.to_owned()));
    }
    match RESERVED.iter().find(|(words, _)| words.contains(&name.as_str())) {
        Some((_, why)) => Err(LabelError::Reserved(text.to_owned(), why)),
        None => Ok(()),
    }
}

/// What of a text may be a member's name: the text, or nothing.
#[must_use]
pub fn label_or_none(text: String) -> String {
    if check_label(&text).is_ok() { text } else { String::new() }
}

/// A host's own name (hostname(7)) as a member's: its first label in lower case, with `ä` as `ae`, `é` as `e` and the like, and a hyphen
/// for what is no letter and no digit. `None` if that is no name, or if letters would be lost.
#[must_use]
pub fn label_of_host(host: &str) -> Option<String> {
    let first = host.trim().split('.').next().unwrap_or_default().to_lowercase();
    let mut name = String::new();
    for c in first.chars() {
        match c {
            'a'..='z' | '0'..='9' | '-' | '_' => name.push(c),
            _ => match LATIN.iter().find(|(letters, _)| letters.contains(c)) {
                Some((_, plain)) => name.push_str(plain),
                // Accents that stand by themselves (Unicode, block "Combining Diacritical Marks").
                None if ('\u{300}'..='\u{36f}').contains(&c) => {}
                None if c.is_alphanumeric() => return None,
                None => name.push('-'),
            },
        }
    }
    let ends = ['-', '_'];
    name.truncate(name.trim_end_matches(ends).len());
    let mut name = name.trim_start_matches(ends).to_owned();
    name.truncate(MAX_LABEL);
    let name = name.trim_end_matches(ends).to_owned();
    check_label(&name).is_ok().then_some(name)
}

/// Letters of Latin scripts, in lower case, and how they are written without.
const LATIN: &[(&str, &str)] = &[
    ("äæ", "ae"),
    ("öœø", "oe"),
    ("ü", "ue"),
    ("ß", "ss"),
    ("å", "aa"),
    ("þ", "th"),
    ("àáâãāăą", "a"),
    ("çćĉċč", "c"),
    ("ðďđ", "d"),
    ("èéêëēĕėęě", "e"),
    ("ĝğġģ", "g"),
    ("ĥħ", "h"),
    ("ìíîïĩīĭįı", "i"),
    ("ĵ", "j"),
    ("ķ", "k"),
    ("ĺļľŀł", "l"),
    ("ñńņňŋ", "n"),
    ("òóôõōŏő", "o"),
    ("ŕŗř", "r"),
    ("śŝşšș", "s"),
    ("ţťŧț", "t"),
    ("ùúûũūŭůűų", "u"),
    ("ŵ", "w"),
    ("ýÿŷ", "y"),
    ("źżž", "z"),
];

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, proptest};

    use super::*;
    use crate::types::NodeId;

    #[test]
    fn what_members_may_be_called() {
        let longest = ["ab-"; 21].concat();
        for good in [
            "a",
            "alpha",
            "Alpha",
            "raspberry-pi-4",
            "4",
            "0af3",
            "mail",
            "test",
            "x--y",
            "web_01",
            "a_b",
            &longest[..62],
        ] {
            assert_eq!(check_label(good), Ok(()), "{good}");
        }
        for shape in [
            "",
            "-",
            "a-",
            "-a",
            "a.b",
            "a..b",
            ".lead",
            "trail.",
            "_http",
            "a_",
            "a b",
            "ä",
            "xn--bcher-kva",
            "a\0",
            "a\n",
            "${x}",
            &longest,
            &["ab-"; 22].concat(),
        ] {
            assert!(matches!(check_label(shape), Err(LabelError::Shape(_))), "{shape:?}");
        }
        for word in ["wpad", "WPAD", "isatap", "localhost", "local", "aegis", "any", "off", "Autoconfig"] {
            assert!(matches!(check_label(word), Err(LabelError::Reserved(..))), "{word}");
        }
        let id = NodeId([7; 32]).to_string();
        for like in [&id[..], &id[..26], &id.to_uppercase()] {
            assert!(matches!(check_label(like), Err(LabelError::NodeId(_))), "{like}");
        }
        assert_eq!(check_label(&format!("{}-", &id[..25]).replace('-', "x9")), Ok(()), "9 is no base32");
    }

    #[test]
    fn hosts_names() {
        for (host, name) in [
            ("Laptop.example.org\n", "laptop"),
            ("web01.example.org", "web01"),
            ("raspberrypi.local", "raspberrypi"),
            ("käthes-laptop", "kaethes-laptop"),
            ("ka\u{308}thes-laptop", "kathes-laptop"),
            ("Čeněk", "cenek"),
            ("Web_01", "web_01"),
            ("bob's pc", "bob-s-pc"),
            ("-edge-", "edge"),
        ] {
            assert_eq!(label_of_host(host).as_deref(), Some(name), "{host:?}");
        }
        for host in ["localhost.localdomain", "", "--", ".x", "wpad", "ноутбук-1", "xn--kthes-laptop-l8a"] {
            assert_eq!(label_of_host(host), None, "{host:?}");
        }
        let long = label_of_host(&["ab-"; 40].concat()).unwrap();
        assert_eq!(long, ["ab-"; 21].concat().trim_end_matches('-'));
    }

    proptest! {
        #[test]
        fn a_name_is_a_label_and_never_a_node_id(text in "[a-zA-Z0-9.é_-]{0,70}", raw in any::<[u8; 32]>(), len in 26..=52_usize) {
            if check_label(&text).is_ok() {
                prop_assert!((1..=63).contains(&text.len()) && text.parse::<NodeId>().is_err());
                prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
                prop_assert!(!text.starts_with(['-', '_']) && !text.ends_with(['-', '_']));
                prop_assert_eq!(check_label(&text.to_ascii_uppercase()), check_label(&text.to_ascii_lowercase()));
            }
            prop_assert!(check_label(&NodeId(raw).to_string()[..len]).is_err());
            prop_assert_eq!(label_or_none(text.clone()).is_empty(), check_label(&text).is_err());
        }

        #[test]
        fn what_a_host_is_called_is_a_name(host in any::<String>()) {
            if let Some(name) = label_of_host(&host) {
                prop_assert_eq!(check_label(&name), Ok(()));
            }
        }
    }
}
