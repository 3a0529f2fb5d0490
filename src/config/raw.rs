//! The file's schema. Ranges are checked while a value is read, so that the error knows its place.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use super::{StunClients, access, chat, dns::RawDns, exit, portal, stealth::RawStealth};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_saphyr::Spanned;

use crate::{
    crypto::{Algorithm, Cipher},
    types::{IpPrefix, Metric, NodeId, check_label},
};

/// UDP port where none is configured.
pub const DEFAULT_PORT: u16 = 51_900;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub name: Option<NodeName>,
    pub network: RawNetwork,
    #[serde(default)]
    pub identity: RawIdentity,
    #[serde(default)]
    pub listen: RawListen,
    #[serde(default)]
    pub peers: RawPeers,
    #[serde(default)]
    pub mesh: RawMesh,
    #[serde(default)]
    pub routing: RawRouting,
    #[serde(default)]
    pub session: RawSession,
    #[serde(default)]
    pub exit: Option<Spanned<Text>>,
    #[serde(default)]
    pub exit_options: exit::RawOptions,
    #[serde(default)]
    pub exit_node: exit::RawExitNode,
    #[serde(default)]
    pub access: access::RawAccess,
    #[serde(default)]
    pub portal: portal::RawPortal,
    #[serde(default)]
    pub chat: chat::RawChat,
    #[serde(default)]
    pub stealth: RawStealth,
    #[serde(default)]
    pub dns: RawDns,
    #[serde(default)]
    pub log: RawLog,
    pub state_dir: Option<String>,
    pub socket: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetwork {
    pub name: Name,
    pub secret: Option<Spanned<Text>>,
    pub secret_file: Option<Spanned<Text>>,
    pub authority_file: Option<Spanned<Text>>,
    pub authority_key_file: Option<Spanned<Text>>,
    pub allow: Option<Vec<Id>>,
    pub admission_file: Option<Spanned<Text>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawIdentity {
    pub algorithm: KeyAlgorithm,
    pub key_file: Option<Spanned<Text>>,
    pub certificate_file: Option<Spanned<Text>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawListen {
    pub address: Address,
    pub port: u16,
    pub advertise: Vec<Endpoint>,
    pub offload: bool,
    pub stun: StunFor,
    pub stun_port: u16,
    pub port_mapping: bool,
    pub tcp_port: Option<u16>,
}

impl Default for RawListen {
    fn default() -> Self {
        Self {
            address: Address(Ipv6Addr::UNSPECIFIED.into()),
            port: DEFAULT_PORT,
            advertise: Vec::new(),
            offload: true,
            stun: StunFor(Some(StunClients::Members)),
            stun_port: 0,
            port_mapping: true,
            tcp_port: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPeers {
    pub bootstrap: Vec<Spanned<Text>>,
    pub max: MaxPeers,
    pub lan_discovery: bool,
    pub punch: bool,
    pub stun_servers: Vec<Spanned<Text>>,
    pub turn: Option<RawTurn>,
}

impl Default for RawPeers {
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            max: MaxPeers(50),
            lan_discovery: true,
            punch: true,
            stun_servers: Vec::new(),
            turn: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTurn {
    pub server: Spanned<Text>,
    pub username: String,
    pub password: Spanned<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMesh {
    pub cidr: MeshCidr,
    pub interface: Interface,
    pub mtu: Mtu,
    pub offload: bool,
    pub queues: Option<Queues>,
}

impl Default for RawMesh {
    fn default() -> Self {
        Self {
            cidr: MeshCidr(IpPrefix::new([100, 64, 0, 0].into(), 16).expect("16 is in range")),
            interface: Interface(super::DEFAULT_INTERFACE.to_owned()),
            mtu: Mtu(1420),
            offload: true,
            queues: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRouting {
    pub cost: Cost,
    pub link_cost: Vec<RawLinkCost>,
    pub relay: bool,
    pub relay_limit: RawRelayLimit,
    pub announce: Vec<Spanned<Prefix>>,
    pub accept: Vec<RawAccept>,
    pub masquerade: bool,
}

impl Default for RawRouting {
    fn default() -> Self {
        Self {
            cost: Cost(0),
            link_cost: Vec::new(),
            relay: true,
            relay_limit: RawRelayLimit::default(),
            announce: Vec::new(),
            accept: Vec::new(),
            masquerade: true,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLinkCost {
    pub node: Id,
    pub cost: Cost,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRelayLimit {
    pub mbit: Option<Mbit>,
    pub peer_mbit: Option<Mbit>,
    pub peers: Option<RelayPeers>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccept {
    pub node: Id,
    pub prefixes: Vec<Prefix>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSession {
    pub cipher: CipherName,
    pub rekey_after: Seconds,
    pub rekey_mib: RekeyMib,
}

impl Default for RawSession {
    fn default() -> Self {
        Self {
            cipher: CipherName("auto".to_owned()),
            rekey_after: Seconds(Duration::from_secs(3600)),
            rekey_mib: RekeyMib(256 * 1024),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub level: LogLevel,
}

impl Default for RawLog {
    fn default() -> Self {
        Self { level: LogLevel("info".to_owned()) }
    }
}

/// Makes a newtype whose values are checked while they are read.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident($inner:ty) from $source:ty, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub(super) struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = <$source>::deserialize(deserializer)?;
                let check: fn($source) -> Result<$inner, String> = $check;
                check(value).map(Self).map_err(D::Error::custom)
            }
        }
    };
}

fn ranged(value: i64, from: i64, to: i64, what: &str) -> Result<i64, String> {
    if (from..=to).contains(&value) {
        Ok(value)
    } else {
        Err(format!("expected {what} from {from} to {to}, got {value}"))
    }
}

/// Checks a network's name: 1 to 63 letters, digits, hyphens, dots and underscores. It is no part of any name in DNS.
pub fn check_network_name(text: &str) -> Result<(), String> {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let good = (1..=63).contains(&text.len()) && is_plain;
    if good { Ok(()) } else { Err(format!("expected 1 to 63 letters, digits, `-`, `.` or `_`, got `{text}`")) }
}

checked!(Text(String) from String, Ok);
checked!(
    /// What a member may be called.
    NodeName(String) from String, |s| check_label(&s).map(|()| s).map_err(|e| e.to_string())
);
checked!(Name(String) from String, |s| check_network_name(&s).map(|()| s));
checked!(Id(NodeId) from String, |s| s.parse().map_err(|e: crate::types::ParseNodeIdError| e.to_string()));
checked!(Prefix(IpPrefix) from String, |s| s.parse().map_err(|e: crate::types::ParsePrefixError| format!("{e}; got `{s}`")));
checked!(Address(IpAddr) from String, |s| s.parse().map_err(|_| format!("expected an IP address, for example 0.0.0.0 or ::, got `{s}`")));
checked!(Endpoint(SocketAddr) from String, |s| s.parse().map_err(|_| format!("expected ADDRESS:PORT, for example 203.0.113.5:51900, got `{s}`")));
checked!(
    /// The mesh's IPv4 range: length 8 to 28.
    MeshCidr(IpPrefix) from String, |s| {
        let prefix: IpPrefix = s.parse().map_err(|e: crate::types::ParsePrefixError| format!("{e}; got `{s}`"))?;
        let good = prefix.addr().is_ipv4() && (8..=28).contains(&prefix.prefix_len());
        if good { Ok(prefix) } else { Err(format!("expected an IPv4 prefix of length 8 to 28, got `{s}`")) }
    }
);
checked!(
    /// 1 to 15 characters, as Linux takes them.
    Interface(String) from String, |s| {
        let good = !s.is_empty() && s.len() <= 15 && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if good { Ok(s) } else { Err(format!("expected 1 to 15 letters, digits, `-` or `_`, got `{s}`")) }
    }
);
checked!(Mtu(u16) from i64, |v| ranged(v, 1280, 1420, "bytes").map(|v| v as u16));
checked!(Queues(usize) from i64, |v| ranged(v, 1, 16, "a number").map(|v| v as usize));
checked!(Mbit(u64) from i64, |v| ranged(v, 1, 1_000_000, "Mbit/s").map(|v| v as u64));
checked!(RelayPeers(usize) from i64, |v| ranged(v, 1, 1000, "a number").map(|v| v as usize));
checked!(MaxPeers(usize) from i64, |v| ranged(v, 8, 1000, "a number").map(|v| v as usize));
checked!(Cost(Metric) from i64, |v| ranged(v, 0, 1_000_000, "microseconds").map(|v| v as Metric));
checked!(Seconds(Duration) from i64, |v| ranged(v, 10, 86_400, "seconds").map(|v| Duration::from_secs(v as u64)));
checked!(RekeyMib(u64) from i64, |v| ranged(v, 1, 16_777_216, "MiB").map(|v| v as u64));
checked!(
    /// Whom to answer STUN requests.
    StunFor(Option<StunClients>) from String, |s| match s.as_str() {
        "members" => Ok(Some(StunClients::Members)),
        "everybody" => Ok(Some(StunClients::Everybody)),
        "off" => Ok(None),
        _ => Err(format!("expected `members`, `everybody` or `off`, got `{s}`")),
    }
);
checked!(CipherName(String) from String, |s| match s.as_str() {
    "aegis-256x4" if !Cipher::aes_in_hardware() => {
        Err("`aegis-256x4` needs AES instructions, which this processor has not: choose `auto`".to_owned())
    }
    "auto" | "aegis-256x4" | "aes-256-gcm" | "chacha20-poly1305" => Ok(s),
    _ => Err(format!("expected `auto`, `aegis-256x4`, `aes-256-gcm` or `chacha20-poly1305`, got `{s}`")),
});
checked!(LogLevel(String) from String, |s| match s.as_str() {
    "error" | "warn" | "info" | "debug" | "trace" => Ok(s),
    _ => Err(format!("expected `error`, `warn`, `info`, `debug` or `trace`, got `{s}`")),
});
checked!(KeyAlgorithm(Algorithm) from String, |s| match s.as_str() {
    "rsa-2048" => Ok(Algorithm::Rsa2048),
    "ed25519" => Ok(Algorithm::Ed25519),
    _ => Err(format!("expected `rsa-2048` or `ed25519`, got `{s}`")),
});

impl Default for KeyAlgorithm {
    fn default() -> Self {
        Self(super::DEFAULT_ALGORITHM)
    }
}
