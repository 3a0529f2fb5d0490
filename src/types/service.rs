//! Services that nodes offer, as DNS names them.

use std::{fmt, str::FromStr};

/// A service by its name and protocol, like `_http._tcp` (RFC 2782), and the port it is at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    pub kind: ServiceKind,
    pub port: u16,
}

/// `_NAME._tcp` or `_NAME._udp`; the name has 1 to 15 letters, digits and hyphens (RFC 6335 §5.1), in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKind(String);

impl ServiceKind {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServiceKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix("._tcp").or_else(|| text.strip_suffix("._udp"));
        let good = name.and_then(|n| n.strip_prefix('_')).is_some_and(|name| {
            let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            (1..=15).contains(&name.len()) && plain && !name.starts_with('-') && !name.ends_with('-')
        });
        if good { Ok(Self(text.to_owned())) } else { Err(format!("expected a service like _http._tcp, got `{text}`")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services() {
        for good in ["_http._tcp", "_x-1._udp", "_a._tcp"] {
            assert!(good.parse::<ServiceKind>().is_ok(), "{good}");
        }
        for bad in
            ["", "http._tcp", "_http", "_HTTP._tcp", "_-a._tcp", "_sixteen-letters-x._tcp", "_a b._tcp", "_a._sctp"]
        {
            assert!(bad.parse::<ServiceKind>().is_err(), "{bad}");
        }
    }
}
