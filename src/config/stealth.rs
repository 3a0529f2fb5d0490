//! `stealth`: how this node looks to who watches.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::{Config, ConfigError, Reader, raw::Text};
use crate::identity::keyfile;

const MIN_ROTATION_S: u64 = 10;
const MAX_ROTATION_S: u64 = 30 * 86_400;
const MAX_JITTER_MS: u64 = 200;
const MAX_COVER_KBIT: u32 = 100_000;

/// When the disguise is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Off,
    /// Where UDP does not pass.
    Auto,
    /// Nothing leaves this host but TLS to the sites.
    Always,
}

impl Mode {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }
}

/// A website behind which a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// `HOST:PORT`.
    pub address: String,
    /// The name in the ClientHello; the site's certificate must be valid for it.
    pub sni: String,
}

/// The website that this node is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serve {
    pub listen: SocketAddr,
    pub site: Front,
}

/// Where a site's pages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pages {
    /// A web server, by plain HTTP.
    Upstream(SocketAddr),
    Folder(PathBuf),
}

/// Whose website it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Front {
    /// One's own, with its certificate.
    Own { certificate: PathBuf, key: PathBuf, pages: Pages },
    /// Whatever answers at `decoy` (`HOST:PORT`) by TLS of its own, for the name `sni`.
    Borrowed(Site),
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    Socks5,
    /// CONNECT.
    Http,
}

/// A proxy between this host and the sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    pub kind: ProxyKind,
    /// `HOST:PORT`.
    pub address: String,
    pub login: Option<(String, String)>,
}

impl Proxy {
    /// Reads `socks5://[USER:PASSWORD@]HOST:PORT` or `http://…`.
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = match text.split_once("://")? {
            ("socks5", rest) => (ProxyKind::Socks5, rest),
            ("http", rest) => (ProxyKind::Http, rest),
            _ => return None,
        };
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login.split_once(':')?), address),
            None => (None, rest),
        };
        let address = address.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':')?;
        let is_good = !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0);
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        is_good.then(|| Self { kind, address: address.to_owned(), login })
    }
}

/// What is padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    Off,
    /// The first 64 kB of each way.
    Start,
    /// Everything, to a few sizes.
    Always,
}

/// What is done for the looks of a connection in size and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shaping {
    pub padding: Padding,
    /// The longest that something is held back.
    pub jitter: Duration,
    /// Kilobits per second that are sent in vain, each way; 0: none.
    pub cover_kbit: u32,
}

/// The section, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stealth {
    pub mode: Mode,
    pub sites: Vec<Site>,
    /// On the way to all sites.
    pub proxy: Option<Proxy>,
    /// PEM file with the authorities to trust; `None`: those of this host.
    pub roots: Option<PathBuf>,
    pub serve: Option<Serve>,
    pub shaping: Shaping,
    /// How long one connection is used, on average; zero: for ever.
    pub rotation: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStealth {
    mode: Spanned<Text>,
    sites: Vec<RawSite>,
    pub(super) proxy: Option<Spanned<Text>>,
    roots: Option<String>,
    serve: Option<RawServe>,
    padding: Spanned<Text>,
    jitter_ms: Spanned<u64>,
    cover_kbit: Spanned<u32>,
    rotation_interval: Spanned<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSite {
    address: Spanned<Text>,
    sni: Spanned<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServe {
    #[serde(default = "https")]
    port: u16,
    certificate: Option<String>,
    key: Option<String>,
    upstream: Option<Spanned<Text>>,
    folder: Option<Spanned<Text>>,
    decoy: Option<Spanned<Text>>,
    sni: Option<Spanned<Text>>,
}

fn https() -> u16 {
    443
}

impl Default for RawStealth {
    fn default() -> Self {
        fn unknown<T>(value: T) -> Spanned<T> {
            Spanned::new(value, Location::UNKNOWN, Location::UNKNOWN)
        }
        Self {
            mode: unknown(Text("off".to_owned())),
            sites: Vec::new(),
            proxy: None,
            roots: None,
            serve: None,
            padding: unknown(Text("start".to_owned())),
            jitter_ms: unknown(0),
            cover_kbit: unknown(0),
            rotation_interval: unknown(1800),
        }
    }
}

impl Reader<'_> {
    pub(super) fn stealth(&self, raw: &RawStealth, listen: SocketAddr) -> Result<Stealth, ConfigError> {
        let at = &raw.mode.referenced;
        let mode = match raw.mode.value.0.as_str() {
            "off" => Mode::Off,
            "auto" => Mode::Auto,
            "always" => Mode::Always,
            other => return Err(self.error(at, format!("expected `off`, `auto` or `always`; got `{other}`"))),
        };
        let proxy = match &raw.proxy {
            None => None,
            Some(text) => {
                let expected = "expected socks5://[USER:PASSWORD@]HOST:PORT or http://[USER:PASSWORD@]HOST:PORT";
                let proxy = Proxy::parse(&text.value.0).ok_or_else(|| self.error(&text.referenced, expected))?;
                if mode == Mode::Always && proxy.address.parse::<SocketAddr>().is_err() {
                    let message = "with mode `always` give IP:PORT: asking DNS for a name would be seen";
                    return Err(self.error(&text.referenced, message));
                }
                Some(proxy)
            }
        };
        let mut sites = Vec::new();
        for site in &raw.sites {
            let address = self.bootstrap(std::slice::from_ref(&site.address))?.remove(0);
            // A proxy resolves names itself.
            if mode == Mode::Always && proxy.is_none() && address.parse::<SocketAddr>().is_err() {
                let message = "with mode `always` give IP:PORT: asking DNS for a name would be seen";
                return Err(self.error(&site.address.referenced, message));
            }
            sites.push(Site { address, sni: self.host_name(&site.sni)? });
        }
        let serve = match &raw.serve {
            None => None,
            Some(serve) => {
                let listen = SocketAddr::new(listen.ip(), serve.port);
                Some(Serve { listen, site: self.front(serve, mode, at)? })
            }
        };
        if mode != Mode::Off && sites.is_empty() && serve.is_none() {
            return Err(self.error(at, "needs stealth.sites to go to, or stealth.serve to be one"));
        }
        let roots = raw.roots.as_deref().map(|file| self.resolve(file));
        let rotation = &raw.rotation_interval;
        if (1..MIN_ROTATION_S).contains(&rotation.value) {
            let message = format!("expected 0 (never) or at least {MIN_ROTATION_S} seconds");
            return Err(self.error(&rotation.referenced, message));
        }
        let rotation = Duration::from_secs(rotation.value.min(MAX_ROTATION_S));
        Ok(Stealth { mode, sites, proxy, roots, serve, shaping: self.shaping(raw)?, rotation })
    }

    fn shaping(&self, raw: &RawStealth) -> Result<Shaping, ConfigError> {
        let padding = match raw.padding.value.0.as_str() {
            "off" => Padding::Off,
            "start" => Padding::Start,
            "always" => Padding::Always,
            other => {
                let message = format!("expected `off`, `start` or `always`; got `{other}`");
                return Err(self.error(&raw.padding.referenced, message));
            }
        };
        if raw.jitter_ms.value > MAX_JITTER_MS {
            let message = format!("expected at most {MAX_JITTER_MS} ms: links would seem dead");
            return Err(self.error(&raw.jitter_ms.referenced, message));
        }
        if raw.cover_kbit.value > MAX_COVER_KBIT {
            let message = format!("expected at most {MAX_COVER_KBIT} kbit/s");
            return Err(self.error(&raw.cover_kbit.referenced, message));
        }
        let jitter = Duration::from_millis(raw.jitter_ms.value);
        Ok(Shaping { padding, jitter, cover_kbit: raw.cover_kbit.value })
    }

    fn host_name(&self, text: &Spanned<Text>) -> Result<String, ConfigError> {
        let name = &text.value.0;
        let is_name = name.contains('.')
            && name.parse::<std::net::IpAddr>().is_err()
            && name
                .split('.')
                .all(|l| !l.is_empty() && l.len() < 64 && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
        if is_name {
            return Ok(name.clone());
        }
        Err(self.error(&text.referenced, format!("expected a host name like www.example.org; got `{name}`")))
    }

    fn front(&self, serve: &RawServe, mode: Mode, at: &Location) -> Result<Front, ConfigError> {
        let own = |certificate: &str, key: &str, pages: Pages| Front::Own {
            certificate: self.resolve(certificate),
            key: self.resolve(key),
            pages,
        };
        if let Some(key) = &serve.key {
            keyfile::check_mode(&self.resolve(key)).map_err(|e| self.error(at, e.to_string()))?;
        }
        match (&serve.certificate, &serve.key, &serve.upstream, &serve.folder, &serve.decoy) {
            (Some(certificate), Some(key), None, Some(folder), None) => {
                let path = self.resolve(&folder.value.0);
                if !path.is_dir() {
                    return Err(self.error(&folder.referenced, format!("{} is no folder", path.display())));
                }
                Ok(own(certificate, key, Pages::Folder(path)))
            }
            (Some(certificate), Some(key), Some(upstream), None, None) => {
                let text = &upstream.value.0;
                let addr = text.parse().map_err(|_| {
                    let message = format!("expected IP:PORT of a plain HTTP server, like 127.0.0.1:8080; got `{text}`");
                    self.error(&upstream.referenced, message)
                })?;
                Ok(own(certificate, key, Pages::Upstream(addr)))
            }
            (None, None, None, None, Some(decoy)) => {
                let address = self.bootstrap(std::slice::from_ref(decoy))?.remove(0);
                if mode == Mode::Always && address.parse::<SocketAddr>().is_err() {
                    let message = "with mode `always` give IP:PORT: asking DNS for a name would be seen";
                    return Err(self.error(&decoy.referenced, message));
                }
                let sni = match &serve.sni {
                    Some(sni) => self.host_name(sni)?,
                    None => {
                        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host).to_owned();
                        let host = Spanned::new(Text(host), decoy.referenced, decoy.defined);
                        self.host_name(&host).map_err(|_| {
                            self.error(&decoy.referenced, "needs `sni` beside it, the name of the site at this address")
                        })?
                    }
                };
                Ok(Front::Borrowed(Site { address, sni }))
            }
            _ => {
                let message = "stealth.serve needs either certificate, key, and upstream or folder (a site of your own) or decoy (whatever \
                               site answers there)";
                Err(self.error(at, message))
            }
        }
    }
}

impl Config {
    /// Turns off all that would be seen beside TLS.
    pub(super) fn hide(&mut self) {
        // Sockets there have nowhere to go.
        self.listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        self.advertise.clear();
        self.bootstrap.clear();
        self.lan_discovery = false;
        self.punch = false;
        self.stun_servers.clear();
        self.turn = None;
        self.stun = None;
        self.tcp_port = None;
        self.port_mapping = false;
    }

    /// Whether names that are not the mesh's may be asked of others. A hidden node asks nobody, but through a tunnel.
    #[must_use]
    pub fn may_forward_names(&self) -> bool {
        !self.is_hidden() || (self.exit.kill_switch && !self.exit.choice.is_off())
    }

    /// Whether nothing but TLS may leave this host.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.stealth.mode == Mode::Always
    }
}
