//! `dns`: whom to ask for names, and what this node answers.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use hickory_resolver::proto::rr::Name;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{ConfigError, Reader, raw::Text};
use crate::{identity::MAX_SERVICES, types::Service};

/// What DNS takes (RFC 1035 §2.3.4), without the lengths and the root.
const MAX_DOMAIN: usize = 253;
/// The longest question of the mesh has a service's name (17 bytes), its protocol (5) and a node's name (64) before the suffix.
const MAX_SUFFIX: usize = MAX_DOMAIN - 86;

/// Letters, digits and hyphens, none at the ends; one that encodes other letters has to be what they are encoded to.
fn is_domain_label(label: &str) -> bool {
    let is_plain = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let is_encoded = label.get(2..4) == Some("--");
    let is_label = (1..=63).contains(&label.len()) && is_plain && !label.starts_with('-') && !label.ends_with('-');
    is_label && (!is_encoded || Name::from_utf8(label).is_ok())
}

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
    /// Port 53 of a server, plain.
    #[must_use]
    pub fn plain(ip: IpAddr) -> Self {
        Self { addr: SocketAddr::new(ip, 53), over: NameProtocol::Plain }
    }

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

/// The names of the mesh, served at this node's mesh addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshNames {
    pub suffix: String,
    /// Servers for certain domains.
    pub split: Vec<(String, Vec<NameServer>)>,
    pub host: HostNames,
}

/// How this host comes to ask this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostNames {
    Off,
    /// systemd-resolved, where it runs, for the names of the mesh.
    Auto,
    /// This file (resolv.conf(5)), for all names.
    File(PathBuf),
    /// The program resolvconf(8), for all names.
    Resolvconf,
}

impl HostNames {
    /// Whether this node is asked for every name.
    #[must_use]
    pub fn leads_all(&self) -> bool {
        matches!(self, Self::File(_) | Self::Resolvconf)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDns {
    servers: Vec<Spanned<Text>>,
    serve: bool,
    suffix: Option<Spanned<Text>>,
    split: Vec<RawSplit>,
    services: Vec<RawService>,
    host: Option<Spanned<Text>>,
    resolv_conf: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    service: Spanned<Text>,
    port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSplit {
    domain: Spanned<Text>,
    servers: Vec<Spanned<Text>>,
}

impl Default for RawDns {
    fn default() -> Self {
        let resolv_conf = PathBuf::from("/etc/resolv.conf");
        Self {
            servers: Vec::new(),
            serve: true,
            suffix: None,
            split: Vec::new(),
            services: Vec::new(),
            host: None,
            resolv_conf,
        }
    }
}

impl Reader<'_> {
    pub(super) fn name_servers(&self, raw: &RawDns) -> Result<Vec<NameServer>, ConfigError> {
        self.servers(&raw.servers)
    }

    pub(super) fn services(&self, raw: &RawDns) -> Result<Vec<Service>, ConfigError> {
        let read = |s: &RawService| {
            let kind = s.service.value.0.parse().map_err(|e: String| self.error(&s.service.referenced, e))?;
            match s.port {
                0 => Err(self.error(&s.service.referenced, "expected a port from 1 to 65535")),
                port => Ok(Service { kind, port }),
            }
        };
        match raw.services.get(MAX_SERVICES) {
            Some(s) => {
                Err(self.error(&s.service.referenced, format!("a node tells of at most {MAX_SERVICES} services")))
            }
            None => raw.services.iter().map(read).collect(),
        }
    }

    pub(super) fn mesh_names(&self, raw: &RawDns) -> Result<Option<MeshNames>, ConfigError> {
        if !raw.serve {
            return Ok(None);
        }
        let domain = |text: &Spanned<Text>, longest: usize| {
            let name = text.value.0.trim_matches('.').to_lowercase();
            let good = name.len() <= longest && name.split('.').all(is_domain_label);
            let message = || {
                format!(
                    "expected a domain like `aegis` or `mesh.example.org` of at most {longest} characters, got `{}`",
                    text.value.0
                )
            };
            if good { Ok(name) } else { Err(self.error(&text.referenced, message())) }
        };
        let split = |s: &RawSplit| Ok((domain(&s.domain, MAX_DOMAIN)?, self.servers(&s.servers)?));
        let host = match &raw.host {
            None => HostNames::Auto,
            Some(text) => match text.value.0.as_str() {
                "auto" => HostNames::Auto,
                "off" => HostNames::Off,
                "file" => HostNames::File(raw.resolv_conf.clone()),
                "resolvconf" => HostNames::Resolvconf,
                other => {
                    let message = format!("expected `auto`, `file`, `resolvconf` or `off`, got `{other}`");
                    return Err(self.error(&text.referenced, message));
                }
            },
        };
        Ok(Some(MeshNames {
            suffix: raw.suffix.as_ref().map_or(Ok("aegis".to_owned()), |text| domain(text, MAX_SUFFIX))?,
            split: raw.split.iter().map(split).collect::<Result<_, ConfigError>>()?,
            host,
        }))
    }

    fn servers(&self, list: &[Spanned<Text>]) -> Result<Vec<NameServer>, ConfigError> {
        let read = |text: &Spanned<Text>| {
            NameServer::parse(&text.value.0).ok_or_else(|| {
                let expected = "expected IP[:PORT], tls://IP[:PORT]#NAME or https://IP[:PORT]/PATH#NAME, like \
                                https://192.0.2.1/dns-query#dns.example.org";
                self.error(&text.referenced, format!("{expected}; got `{}`", text.value.0))
            })
        };
        list.iter().map(read).collect()
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
