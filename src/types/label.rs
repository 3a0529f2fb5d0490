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
    #[error("expected a name of 1 to 63 letters, digits and hyphens, with a letter or digit at both ends, got `{0}`")]
    Shape(String),
    #[error(
        "`{0}` could be taken for a NodeId or for the beginning of one: choose a shorter name, or one with a hyphen"
    )]
    NodeId(String),
    #[error("`{0}` is a reserved word, because {1}: choose another name")]
    Reserved(String, &'static str),
}

/// Checks a member's name: letters, digits and hyphens (RFC 952, RFC 1123 §2.1), no encoded one (`xn--…`, RFC 5890 §2.3.1:
/// it would be shown as something else), not of a NodeId's shape, no reserved word. Names are compared without regard to case.
pub fn check_label(text: &str) -> Result<(), LabelError> {
    let bytes = text.as_bytes();
    let is_plain = bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    let ends = [bytes.first(), bytes.last()];
    let is_encoded = bytes.get(2..4) == Some(b"--");
    if !is_plain || is_encoded || bytes.len() > MAX_LABEL || ends.iter().any(|b| b.is_none_or(|b| *b == b'-')) {
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

/// A host's own name (hostname(7)) as a member's: its first label, without what no label has; `node` if nothing is left that a
/// member may be called.
#[must_use]
pub fn label_of_host(host: &str) -> String {
    let first = host.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    let plain: String = first.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let cut = &plain.trim_matches('-')[..plain.trim_matches('-').len().min(MAX_LABEL)];
    let name = cut.trim_end_matches('-').to_owned();
    if check_label(&name).is_ok() { name } else { "node".to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, proptest};

    use super::*;
    use crate::types::NodeId;

    #[test]
    fn what_members_may_be_called() {
        let longest = ["ab-"; 21].concat();
        for good in ["a", "alpha", "Alpha", "raspberry-pi-4", "4", "0af3", "mail", "test", "x--y", &longest[..62]] {
            assert_eq!(check_label(good), Ok(()), "{good}");
        }
        for shape in [
            "",
            "-",
            "a-",
            "-a",
            "a.b",
            "a_b",
            "_http",
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
            ("localhost.localdomain", "node"),
            ("", "node"),
            ("--", "node"),
            ("my_host", "myhost"),
            ("wpad", "node"),
            ("-edge-", "edge"),
        ] {
            assert_eq!(label_of_host(host), name, "{host:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_a_label_and_never_a_node_id(text in "[a-zA-Z0-9.é_-]{0,70}", raw in any::<[u8; 32]>(), len in 26..=52_usize) {
            if check_label(&text).is_ok() {
                prop_assert!((1..=63).contains(&text.len()) && text.parse::<NodeId>().is_err());
                prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
                prop_assert!(!text.starts_with('-') && !text.ends_with('-'));
                prop_assert_eq!(check_label(&text.to_ascii_uppercase()), check_label(&text.to_ascii_lowercase()));
            }
            prop_assert!(check_label(&NodeId(raw).to_string()[..len]).is_err());
            prop_assert_eq!(label_or_none(text.clone()).is_empty(), check_label(&text).is_err());
        }

        #[test]
        fn every_host_has_a_name(host in any::<String>()) {
            prop_assert_eq!(check_label(&label_of_host(&host)), Ok(()));
        }
    }
}
