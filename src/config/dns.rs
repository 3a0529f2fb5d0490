//! `dns`: whom to ask for names.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{ConfigError, Reader, raw::Text};

/// A server to ask for names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    pub addr: SocketAddr,
    pub over: NameProtocol,
}

/// How it is asked. The names are those that its certificate must be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameProtocol {
    /// UDP, and TCP for long answers (RFC 1035).
    Plain,
    /// RFC 7858.
    Tls { name: String },
    /// RFC 8484, with the path of its URI.
    Https { name: String, path: String },
}

impl NameServer {
    /// Reads `IP[:PORT]`, `tls://IP[:PORT]#NAME` or `https://IP[:PORT]/PATH#NAME`.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let (rest, name) = rest.split_once('#').map_or((rest, ""), |(rest, name)| (rest, name));
        let (place, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (default, over) = match scheme {
            "" if name.is_empty() && path.is_empty() => (53, NameProtocol::Plain),
            "tls" if !name.is_empty() && path.is_empty() => (853, NameProtocol::Tls { name: name.to_owned() }),
            "https" if !name.is_empty() && path.len() > 1 => {
                (443, NameProtocol::Https { name: name.to_owned(), path: path.to_owned() })
            }
            _ => return None,
        };
        let bare = place.trim_start_matches('[').trim_end_matches(']');
        let addr = match bare.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, default),
            Err(_) => place.parse().ok()?,
        };
        Some(Self { addr, over })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDns {
    servers: Vec<Spanned<Text>>,
}

impl Reader<'_> {
    pub(super) fn name_servers(&self, raw: &RawDns) -> Result<Vec<NameServer>, ConfigError> {
        let read = |text: &Spanned<Text>| {
            NameServer::parse(&text.value.0).ok_or_else(|| {
                let expected = "expected IP[:PORT], tls://IP[:PORT]#NAME or https://IP[:PORT]/PATH#NAME, like \
                                https://192.0.2.1/dns-query#dns.example.org";
                self.error(&text.referenced, format!("{expected}; got `{}`", text.value.0))
            })
        };
        raw.servers.iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        let server = |text: &str| NameServer::parse(text);
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let name = || "dns.example.org".to_owned();
        for (text, addr, over) in [
            ("192.0.2.1", "192.0.2.1:53", NameProtocol::Plain),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353", NameProtocol::Plain),
            ("tls://2001:db8::1#dns.example.org", "[2001:db8::1]:853", NameProtocol::Tls { name: name() }),
            (
                "https://192.0.2.1:8443/dns-query#dns.example.org",
                "192.0.2.1:8443",
                NameProtocol::Https { name: name(), path: "/dns-query".to_owned() },
            ),
        ] {
            assert_eq!(server(text), Some(NameServer { addr: at(addr), over }), "{text}");
        }
        for text in ["", "dns.example.org", "tls://192.0.2.1", "https://192.0.2.1#x", "udp://192.0.2.1", "192.0.2.1/x"]
        {
            assert_eq!(server(text), None, "{text}");
        }
    }
}
