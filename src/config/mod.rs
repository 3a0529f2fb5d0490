//! Floor 1: the configuration file. YAML → `raw` (typed, unknown keys refused) → [`Config`] (validated).
//! Every error names file, line, column, key and what was expected.

mod access;
mod chat;
mod dns;
mod error;
mod exit;
mod portal;
mod ports;
mod raw;
mod stealth;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

pub use access::{Access, AccessRule, GUESTS, PORTAL, Ports, Segment, SegmentPolicy, Where, Who};
pub use chat::Chat;
pub use dns::{HostNames, MeshNames, NameProtocol, NameServer};
pub use error::ConfigError;
pub use exit::{Bypass, ExitClient, ExitNode};
pub use portal::Portal;
pub use raw::{DEFAULT_PORT, check_network_name};
use raw::{Raw, Text};
use serde_saphyr::{Location, Spanned};
pub use stealth::{Front, Mode, Padding, Pages, Proxy, ProxyKind, Serve, Shaping, Site, Stealth};
use zeroize::Zeroizing;

use crate::{
    crypto::{Algorithm, Cipher},
    identity::{
        Admission, Certificate, Identity, Network,
        keyfile::{self, KeyFileError},
    },
    types::{IpPrefix, Metric, NodeId, Service, label_of_host},
};

/// Where things are kept unless the configuration says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/aegisray/peer.yaml";
pub const DEFAULT_STATE: &str = "/var/lib/aegisray";
pub const DEFAULT_INTERFACE: &str = "aegis0";
pub const DEFAULT_SOCKET: &str = "/run/aegisray/aegisray.sock";

/// A TURN server and what it knows this node by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// `HOST:PORT`.
    pub server: String,
    pub username: String,
    pub password: String,
}

/// Who gets answers to STUN requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StunClients {
    /// Who proves to know the network's key: strangers see nothing.
    Members,
    Everybody,
}

/// What a relay gives to others; `None`: as much as they want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayLimits {
    /// Bytes a second for all together.
    pub total: Option<u64>,
    /// Bytes a second for each neighbour.
    pub per_peer: Option<u64>,
    /// Neighbours at a time.
    pub peers: Option<usize>,
}

/// A validated configuration: everything is in range and every file that it names could be read.
#[derive(Debug)]
pub struct Config {
    pub path: PathBuf,
    /// What was read.
    pub text: String,
    pub name: String,
    pub network: Network,
    /// The network secret in clear, for invites.
    pub secret: Option<Zeroizing<String>>,
    pub allow: Option<HashSet<NodeId>>,
    pub accept: HashMap<NodeId, Vec<IpPrefix>>,
    pub authority_key: Option<Identity>,
    pub identity: Identity,
    pub certificate: Vec<u8>,
    /// Where a certificate is stored that the network grants.
    pub certificate_file: PathBuf,
    /// The invite with which this node joins, until it is certified.
    pub admission: Option<Admission>,
    pub admission_file: Option<PathBuf>,
    pub listen: SocketAddr,
    pub stealth: Stealth,
    /// Whom to ask for names; empty: whom this host asks.
    pub name_servers: Vec<NameServer>,
    /// What this node offers, for others to find by name.
    pub services: Vec<Service>,
    /// The names of the mesh; `None`: not served here.
    pub names: Option<MeshNames>,
    pub advertise: Vec<SocketAddr>,
    pub bootstrap: Vec<String>,
    pub max_peers: usize,
    pub lan_discovery: bool,
    /// Make holes in NATs for direct paths.
    pub punch: bool,
    /// `HOST:PORT` of STUN servers to ask where this node is seen.
    pub stun_servers: Vec<String>,
    /// A TURN server to be reached through where nothing else helps.
    pub turn: Option<Turn>,
    /// Whom to answer STUN requests; `None`: nobody.
    pub stun: Option<StunClients>,
    /// The second port that they may ask; 0: the kernel chooses.
    pub stun_port: u16,
    /// TCP port for who has no UDP; `None`: not offered.
    pub tcp_port: Option<u16>,
    /// Ask the router for a public port.
    pub port_mapping: bool,
    pub cost: Metric,
    pub link_costs: HashMap<NodeId, Metric>,
    pub relay: bool,
    pub relay_limits: RelayLimits,
    /// Networks behind this node.
    pub announce: Vec<IpPrefix>,
    /// Packets of the mesh for these networks get this node's address there.
    pub masquerade: bool,
    /// The exit that this node goes through.
    pub exit: ExitClient,
    /// What this node carries for others; `None`: nothing.
    pub exit_node: Option<ExitNode>,
    /// Who may open which connections.
    pub access: Access,
    /// Where WireGuard clients come in; `None`: nowhere.
    pub portal: Option<Portal>,
    /// The chat's service; `None`: it does not run here.
    pub chat: Option<Chat>,
    pub interface: String,
    pub mtu: u16,
    /// Super-packets at the TUN device.
    pub tun_offload: bool,
    /// Segmentation offload at the UDP socket.
    pub udp_offload: bool,
    /// Data plane threads per direction; `None`: as the processors suggest.
    pub queues: Option<usize>,
    pub ciphers: Vec<Cipher>,
    pub rekey_after: Duration,
    pub rekey_bytes: u64,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub log_level: String,
    /// What is taken as it is, and is probably not meant.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads and validates a configuration file and the key files that it names. One that holds secrets itself must not be
    /// readable by group or others, as key files must not.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = || {
            let file = std::fs::File::open(path)?;
            let mode = file.metadata()?.permissions().mode() & 0o7777;
            Ok((std::io::read_to_string(file)?, mode))
        };
        let (text, mode) = read().map_err(|e| ConfigError::unreadable(path, &e))?;
        Self::read(path, &text, Some(mode))
    }

    /// Validates a configuration's text; relative paths in it count from the file's directory.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::read(path, text, None)
    }

    fn read(path: &Path, text: &str, mode: Option<u32>) -> Result<Self, ConfigError> {
        let raw: Raw = serde_saphyr::from_str(text).map_err(|e| ConfigError::from_yaml(path, text, &e))?;
        let reader = Reader { path, text };
        reader.check_mode(&raw, mode.unwrap_or(0))?;
        reader.validate(raw)
    }
}

impl Config {
    /// Networks behind this node that it tells others of.
    #[must_use]
    pub fn behind(&self) -> Vec<IpPrefix> {
        let portal = self.portal.iter().filter(|p| !p.masquerade).flat_map(|p| p.networks);
        self.announce.iter().copied().chain(portal).collect()
    }

    /// Networks whose packets don't go into the mesh, whatever else does.
    #[must_use]
    pub fn near(&self) -> Vec<IpPrefix> {
        let portal = self.portal.iter().flat_map(|p| p.networks);
        self.announce.iter().copied().chain(portal).collect()
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn error(&self, at: &Location, message: impl Into<String>) -> ConfigError {
        ConfigError::at(self.path, self.text, at, message)
    }

    /// An error about a key that is missing: it is placed at its section.
    fn missing(&self, key: &str, message: &str) -> ConfigError {
        ConfigError::missing(self.path, self.text, key, message)
    }

    fn resolve(&self, file: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(file)
    }

    /// A file of this mode that others can read must not hold secrets.
    fn check_mode(&self, raw: &Raw, mode: u32) -> Result<(), ConfigError> {
        let network = &raw.network;
        let secrets = [
            network.secret.as_ref(),
            raw.peers.turn.as_ref().map(|turn| &turn.password),
            // User and password stand before an @.
            raw.stealth.proxy.as_ref().filter(|proxy| proxy.value.0.contains('@')),
        ];
        match secrets.into_iter().flatten().next() {
            Some(secret) if mode & 0o077 != 0 => {
                let why = KeyFileError::TooOpen(self.path.display().to_string(), mode);
                Err(self.error(&secret.referenced, why.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn secret(&self, raw: &Raw) -> Result<Option<Zeroizing<String>>, ConfigError> {
        let (text, at) = match (&raw.network.secret, &raw.network.secret_file) {
            (Some(_), Some(file)) => {
                return Err(self.error(&file.referenced, "give either network.secret or network.secret_file, not both"));
            }
            (Some(secret), None) => (secret.value.0.clone(), &secret.referenced),
            (None, Some(file)) => {
                let text = keyfile::read_secret(&self.resolve(&file.value.0))
                    .map_err(|e| self.error(&file.referenced, e.to_string()))?;
                (text, &file.referenced)
            }
            (None, None) => return Ok(None),
        };
        let text = Zeroizing::new(text);
        let secret = Zeroizing::new(text.trim().to_owned());
        if secret.len() < 20 {
            let message = format!(
                "the network secret must have at least 20 characters, this one has {} (make one with `aegisray init`)",
                secret.len()
            );
            return Err(self.error(at, message));
        }
        Ok(Some(secret))
    }

    fn authority(&self, raw: &Raw) -> Result<(Option<Vec<u8>>, Option<Identity>), ConfigError> {
        let key = match &raw.network.authority_key_file {
            Some(file) => Some(
                keyfile::read_identity(&self.resolve(&file.value.0))
                    .map_err(|e| self.error(&file.referenced, e.to_string()))?,
            ),
            None => None,
        };
        let public = match &raw.network.authority_file {
            Some(file) => Some(
                keyfile::read_public(&self.resolve(&file.value.0), "PUBLIC KEY")
                    .map_err(|e| self.error(&file.referenced, e.to_string()))?,
            ),
            None => key.as_ref().map(|k| k.spki().to_vec()),
        };
        if let (Some(key), Some(public), Some(file)) = (&key, &public, &raw.network.authority_key_file)
            && key.spki() != public
        {
            return Err(self.error(&file.referenced, "is not the private key of network.authority_file"));
        }
        Ok((public, key))
    }

    fn identity(&self, raw: &Raw, state_dir: &Path) -> Result<Identity, ConfigError> {
        match &raw.identity.key_file {
            Some(file) => keyfile::read_identity(&self.resolve(&file.value.0))
                .map_err(|e| self.error(&file.referenced, e.to_string())),
            None => {
                let path = state_dir.join("identity.pem");
                if path.exists() {
                    return keyfile::read_identity(&path)
                        .map_err(|e| self.missing("identity.key_file", &e.to_string()));
                }
                let identity = Identity::generate(raw.identity.algorithm.0)
                    .map_err(|_| self.missing("identity", "the system gave no randomness for a key"))?;
                keyfile::write_identity(&path, &identity)
                    .map_err(|e| self.missing("identity.key_file", &e.to_string()))?;
                Ok(identity)
            }
        }
    }

    /// The certificate, if there is one: what is not of this network's authority, or not for this node, is none.
    fn certificate(
        &self,
        raw: &Raw,
        state_dir: &Path,
        (authority, node): (Option<&[u8]>, NodeId),
    ) -> Result<(Vec<u8>, PathBuf), ConfigError> {
        let read = |path: &Path| {
            let bytes = keyfile::read_public(path, "AEGISRAY CERTIFICATE").map_err(|e| e.to_string())?;
            let file = path.display();
            let authority = authority.ok_or_else(|| format!("{file} is of no use: the network has no authority"))?;
            let certificate = Certificate::open(&bytes, authority)
                .map_err(|e| format!("{file} holds no certificate of this network's authority ({e})"))?;
            if certificate.node == node {
                Ok(bytes)
            } else {
                Err(format!("the certificate in {file} is for the node {}, this one is {node}", certificate.node))
            }
        };
        match &raw.identity.certificate_file {
            Some(file) => {
                let path = self.resolve(&file.value.0);
                let bytes = read(&path).map_err(|e| self.error(&file.referenced, e))?;
                Ok((bytes, path))
            }
            None => {
                let path = state_dir.join("certificate.pem");
                if !path.exists() {
                    return Ok((Vec::new(), path));
                }
                // It may be what is left of another network: the node asks for a new one, or does without.
                let bytes = read(&path).unwrap_or_else(|error| {
                    tracing::warn!(error, "a certificate is left out");
                    Vec::new()
                });
                Ok((bytes, path))
            }
        }
    }

    /// The invite, until it has served: then its file is gone.
    fn admission(&self, raw: &Raw) -> Result<(Option<Admission>, Option<PathBuf>), ConfigError> {
        let Some(file) = &raw.network.admission_file else { return Ok((None, None)) };
        let path = self.resolve(&file.value.0);
        if !path.exists() {
            return Ok((None, None));
        }
        let text = keyfile::read_secret(&path).map_err(|e| self.error(&file.referenced, e.to_string()))?;
        let wrong = || self.error(&file.referenced, format!("{} is not what `join` has written", path.display()));
        Ok((Some(Admission::from_text(&text).ok_or_else(wrong)?), Some(path)))
    }

    fn bootstrap(&self, entries: &[Spanned<Text>]) -> Result<Vec<String>, ConfigError> {
        let check = |entry: &Spanned<Text>| {
            let text = &entry.value.0;
            let is_name = text.rsplit_once(':').is_some_and(|(host, port)| {
                let plain = host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
                !host.is_empty() && plain && port.parse::<u16>().is_ok_and(|p| p != 0)
            });
            if is_name || text.parse::<SocketAddr>().is_ok() {
                return Ok(text.clone());
            }
            let expected = "expected HOST:PORT, for example relay.example.org:51900 or [2001:db8::1]:51900";
            Err(self.error(&entry.referenced, format!("{expected}; got `{text}`")))
        };
        entries.iter().map(check).collect()
    }

    fn validate(&self, raw: Raw) -> Result<Config, ConfigError> {
        let state_dir = self.resolve(raw.state_dir.as_deref().unwrap_or(DEFAULT_STATE));
        let secret = self.secret(&raw)?;
        let (authority, authority_key) = self.authority(&raw)?;
        if secret.is_none() && authority.is_none() {
            return Err(self.missing(
                "network",
                "needs a secret, secret_file or authority_file: without one, strangers could tell that a mesh is \
                 here (make a network with `aegisray init`, or join one with `aegisray join`)",
            ));
        }
        if raw.network.allow.as_ref().is_some_and(Vec::is_empty) {
            return Err(self.missing("network.allow", "is empty: that would admit nobody; leave it out to admit all"));
        }
        if let Some(default) = raw.routing.announce.iter().find(|p| p.value.0.prefix_len() == 0) {
            let message = "to carry everything for others is what `exit_node.enabled: true` is for";
            return Err(self.error(&default.referenced, message));
        }
        let listen = SocketAddr::new(raw.listen.address.0, raw.listen.port);
        let stealth = self.stealth(&raw.stealth, listen)?;
        let identity = self.identity(&raw, &state_dir)?;
        let portal = self.portal(&raw.portal, &identity.id())?;
        let access = self.access(&raw.access, portal.as_ref(), authority.is_some())?;
        let who = (authority.as_deref(), identity.id());
        let (certificate, certificate_file) = self.certificate(&raw, &state_dir, who)?;
        let mut warnings = Vec::new();
        let name = match &raw.name {
            Some(name) => name.0.clone(),
            None => {
                let (host, name) = host_name();
                name.unwrap_or_else(|| {
                    let why = format!("name: this host is called `{host}`, which no node may be called: it is `{NAMELESS}`; give a name");
                    warnings.push(why);
                    NAMELESS.to_owned()
                })
            }
        };
        let cipher = match raw.session.cipher.0.as_str() {
            "aes-256-gcm" => vec![Cipher::Aes256Gcm],
            "chacha20-poly1305" => vec![Cipher::ChaCha20Poly1305],
            "aegis-256x4" => vec![Cipher::Aegis256X4],
            _ => Cipher::all_here(),
        };
        let mut accept: HashMap<NodeId, Vec<IpPrefix>> = HashMap::new();
        for rule in &raw.routing.accept {
            accept.entry(rule.node.0).or_default().extend(rule.prefixes.iter().map(|p| p.0));
        }
        let (admission, admission_file) = self.admission(&raw)?;
        let mut config = Config {
            path: self.path.to_owned(),
            text: self.text.to_owned(),
            network: Network::new(&raw.network.name.0, secret.as_ref().map(|s| s.as_str()), authority, raw.mesh.cidr.0),
            name,
            secret,
            allow: raw.network.allow.map(|list| list.into_iter().map(|n| n.0).collect()),
            accept,
            authority_key,
            identity,
            certificate,
            certificate_file,
            admission,
            admission_file,
            listen,
            stealth,
            name_servers: self.name_servers(&raw.dns)?,
            services: self.services(&raw.dns)?,
            names: self.mesh_names(&raw.dns)?,
            advertise: raw.listen.advertise.iter().map(|e| e.0).collect(),
            bootstrap: self.bootstrap(&raw.peers.bootstrap)?,
            max_peers: raw.peers.max.0,
            lan_discovery: raw.peers.lan_discovery,
            punch: raw.peers.punch,
            stun_servers: self.bootstrap(&raw.peers.stun_servers)?,
            turn: match raw.peers.turn {
                None => None,
                Some(turn) => Some(Turn {
                    server: self.bootstrap(std::slice::from_ref(&turn.server))?.remove(0),
                    username: turn.username,
                    password: turn.password.value.0,
                }),
            },
            stun: raw.listen.stun.0,
            stun_port: raw.listen.stun_port,
            port_mapping: raw.listen.port_mapping,
            tcp_port: Some(raw.listen.tcp_port.unwrap_or(raw.listen.port)).filter(|p| *p != 0),
            cost: raw.routing.cost.0,
            link_costs: raw.routing.link_cost.iter().map(|l| (l.node.0, l.cost.0)).collect(),
            relay: raw.routing.relay,
            relay_limits: RelayLimits {
                total: raw.routing.relay_limit.mbit.map(|m| m.0 * 125_000),
                per_peer: raw.routing.relay_limit.peer_mbit.map(|m| m.0 * 125_000),
                peers: raw.routing.relay_limit.peers.map(|p| p.0),
            },
            announce: raw.routing.announce.iter().map(|p| p.value.0).collect(),
            masquerade: raw.routing.masquerade,
            exit: self.exit_client(raw.exit.as_ref(), raw.exit_options)?,
            exit_node: self.exit_node(raw.exit_node)?,
            access,
            portal,
            chat: self.chat(&raw.chat)?,
            interface: raw.mesh.interface.0,
            mtu: raw.mesh.mtu.0,
            tun_offload: raw.mesh.offload,
            udp_offload: raw.listen.offload,
            queues: raw.mesh.queues.map(|q| q.0),
            ciphers: cipher,
            rekey_after: raw.session.rekey_after.0,
            rekey_bytes: raw.session.rekey_mib.0 << 20,
            socket: self.resolve(raw.socket.as_deref().unwrap_or(DEFAULT_SOCKET)),
            state_dir,
            log_level: raw.log.level.0,
            warnings,
        };
        self.check_resources(&config)?;
        if let Some(portal) = &config.portal {
            if config.is_hidden() {
                return Err(
                    self.missing("portal", "WireGuard can be told from other UDP: not with stealth.mode `always`")
                );
            }
            let mesh = [config.network.cidr(), config.network.ula()];
            if let Some(both) = portal.networks.iter().zip(&mesh).find(|(a, b)| a.overlaps(b)) {
                let message = format!("{} overlaps the mesh's {}", both.0, both.1);
                return Err(self.missing("portal", &message));
            }
        }
        if config.is_hidden() {
            config.hide();
        }
        let asks_here = config.names.as_ref().is_some_and(|n| n.host.leads_all());
        if asks_here && !config.may_forward_names() {
            let why = "`file` or `resolvconf` with stealth.mode `always` would leave this host without names: nobody may be asked in the \
                       open. Choose an `exit` with the kill switch, or another value";
            return Err(self.missing("dns.host", why));
        }
        Ok(config)
    }
}

/// The default algorithm of new identities.
pub const DEFAULT_ALGORITHM: Algorithm = Algorithm::Rsa2048;

/// What a node is called whose configuration gives no name and whose host has none that a node may have.
const NAMELESS: &str = "node";

/// What this host is called, and the name that a node can have of it.
#[must_use]
pub fn host_name() -> (String, Option<String>) {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = label_of_host(&host);
    (host.trim().to_owned(), name)
}

#[cfg(test)]
mod tests;
