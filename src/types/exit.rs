//! Which exit a node goes through.

use std::{fmt, net::IpAddr, str::FromStr};

use super::{LabelError, check_label};

/// The node through which packets go to what is outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ExitChoice {
    /// None: they go as they would without a mesh.
    #[default]
    Off,
    /// Whichever is nearest.
    Auto,
    /// The nearest one that says to be in this country (ISO 3166-1 alpha-2, lower case).
    Country(String),
    /// One, by its name, its NodeId or the beginning of it (6 characters or more).
    Node(String),
}

impl ExitChoice {
    #[must_use]
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

/// Whether this is a country code.
#[must_use]
pub fn is_country(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|b| b.is_ascii_lowercase())
}

impl FromStr for ExitChoice {
    type Err = String;

    /// What means "none" in YAML or elsewhere is no node's name, however it is written.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.trim().to_ascii_lowercase();
        match (&*lower, lower.strip_prefix("country:").map(str::trim)) {
            ("off" | "no" | "false" | "none" | "null" | "~", _) => Ok(Self::Off),
            ("auto", _) => Ok(Self::Auto),
            (_, Some(code)) if is_country(code) => Ok(Self::Country(code.to_owned())),
            (_, Some(code)) => Err(format!("expected two letters, like country:se, got `{code}`")),
            ("", None) => Err("expected `off`, `auto`, `country:XX` or a node".to_owned()),
            (_, None) => node(text.trim()).map(Self::Node),
        }
    }
}

/// What a node can be named by: its name, its NodeId or the beginning of it, its address.
fn node(text: &str) -> Result<String, String> {
    let is_id = (1..=52).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
    match check_label(text) {
        Err(e @ (LabelError::Shape(_) | LabelError::Reserved(..))) if text.parse::<IpAddr>().is_err() => {
            Err(format!("no node is called so: {e}"))
        }
        Err(LabelError::NodeId(_)) if !is_id => Err(format!("no NodeId and no beginning of one: `{text}`")),
        _ => Ok(text.to_owned()),
    }
}

impl fmt::Display for ExitChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Auto => f.write_str("auto"),
            Self::Country(code) => write!(f, "country:{code}"),
            Self::Node(node) => f.write_str(node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_mean_none_are_no_nodes() {
        for off in ["off", "Off", "OFF", "no", "No", "false", "False", "none", "None", "null", "~", " off "] {
            assert_eq!(off.parse(), Ok(ExitChoice::Off), "{off}");
        }
        assert_eq!("Country:NL".parse(), Ok(ExitChoice::Country("nl".to_owned())));
        assert_eq!("Auto".parse(), Ok(ExitChoice::Auto));
        assert_eq!("Nora".parse(), Ok(ExitChoice::Node("Nora".to_owned())));
        for node in ["web_01", "100.64.0.7", "fd00::1", &"a".repeat(52), "abcdef"] {
            assert_eq!(node.parse(), Ok(ExitChoice::Node(node.to_owned())));
        }
        for wrong in ["a b", "a..b", "-x", "wpad", &"a".repeat(53), &"A".repeat(30)] {
            assert!(wrong.parse::<ExitChoice>().is_err(), "{wrong}");
        }
        assert!("country:Sweden".parse::<ExitChoice>().is_err() && "".parse::<ExitChoice>().is_err());
    }
}
