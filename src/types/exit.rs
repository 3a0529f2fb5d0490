//! Which exit a node goes through.

use std::{fmt, str::FromStr};

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

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("country:")) {
            ("off", _) => Ok(Self::Off),
            ("auto", _) => Ok(Self::Auto),
            (_, Some(code)) if is_country(code) => Ok(Self::Country(code.to_owned())),
            (_, Some(code)) => Err(format!("expected two lower-case letters, like country:se, got `{code}`")),
            ("", None) => Err("expected `off`, `auto`, `country:XX` or a node".to_owned()),
            (node, None) => Ok(Self::Node(node.to_owned())),
        }
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
