//! Exits: the one that this node goes through, and what it is one for others.

use std::net::IpAddr;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    ConfigError, Reader,
    raw::{Address, Mbit, Prefix, Text},
};
use crate::types::{ExitChoice, IpPrefix, is_country};

/// The public resolver that is asked through the tunnel unless the configuration names others.
const RESOLVERS: [&str; 2] = ["9.9.9.9", "2620:fe::fe"];

/// How this node goes through an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitClient {
    pub choice: ExitChoice,
    /// Nothing leaves past the tunnel, whatever happens to it.
    pub kill_switch: bool,
    /// Private networks around this host stay reachable.
    pub lan: bool,
    /// Who comes to this host directly is answered directly.
    pub inbound: bool,
    /// Whom the host's questions for names go to.
    pub dns: Vec<IpAddr>,
    pub bypass: Bypass,
}

/// What goes past the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bypass {
    pub prefixes: Vec<IpPrefix>,
    pub users: Vec<u32>,
    /// Paths below the root of cgroup v2.
    pub cgroups: Vec<String>,
}

/// What this node carries for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitNode {
    /// ISO 3166-1 alpha-2 in lower case, or empty.
    pub country: String,
    pub ipv6: bool,
    /// Everything but private and special addresses.
    pub internet: bool,
    /// Beside that.
    pub destinations: Vec<IpPrefix>,
    /// Bytes a second for each node, each way.
    pub per_peer: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawOptions {
    kill_switch: bool,
    lan: bool,
    inbound: bool,
    dns: Option<Vec<Address>>,
    bypass: RawBypass,
}

impl Default for RawOptions {
    fn default() -> Self {
        Self { kill_switch: true, lan: true, inbound: true, dns: None, bypass: RawBypass::default() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawBypass {
    prefixes: Vec<Prefix>,
    users: Vec<Spanned<Text>>,
    cgroups: Vec<Spanned<Text>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawExitNode {
    enabled: bool,
    country: Option<Spanned<Text>>,
    ipv6: bool,
    destinations: Option<Vec<Spanned<Text>>>,
    peer_mbit: Option<Mbit>,
}

impl Default for RawExitNode {
    fn default() -> Self {
        Self { enabled: false, country: None, ipv6: true, destinations: None, peer_mbit: None }
    }
}

impl Reader<'_> {
    pub(super) fn exit_client(
        &self,
        choice: Option<&Spanned<Text>>,
        raw: RawOptions,
    ) -> Result<ExitClient, ConfigError> {
        let choice = match choice {
            None => ExitChoice::Off,
            Some(text) => text.value.0.parse().map_err(|e: String| self.error(&text.referenced, e))?,
        };
        let user = |text: &Spanned<Text>| {
            user_id(&text.value.0).ok_or_else(|| {
                self.error(
                    &text.referenced,
                    format!("this host has no user `{}`: give a name or a number", text.value.0),
                )
            })
        };
        let cgroup = |text: &Spanned<Text>| {
            let path = text.value.0.trim_matches('/');
            let good = !path.is_empty() && path.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\');
            let message = "expected a path below /sys/fs/cgroup, like system.slice/transmission-daemon.service";
            if good { Ok(path.to_owned()) } else { Err(self.error(&text.referenced, message)) }
        };
        let resolvers = || RESOLVERS.iter().filter_map(|r| r.parse().ok()).collect();
        Ok(ExitClient {
            choice,
            kill_switch: raw.kill_switch,
            lan: raw.lan,
            inbound: raw.inbound,
            dns: raw.dns.map_or_else(resolvers, |list| list.into_iter().map(|a| a.0).collect()),
            bypass: Bypass {
                prefixes: raw.bypass.prefixes.into_iter().map(|p| p.0).collect(),
                users: raw.bypass.users.iter().map(user).collect::<Result<_, _>>()?,
                cgroups: raw.bypass.cgroups.iter().map(cgroup).collect::<Result<_, _>>()?,
            },
        })
    }

    pub(super) fn exit_node(&self, raw: RawExitNode) -> Result<Option<ExitNode>, ConfigError> {
        if !raw.enabled {
            return Ok(None);
        }
        let country = match &raw.country {
            None => String::new(),
            Some(text) if is_country(&text.value.0) => text.value.0.clone(),
            Some(text) => {
                let message = format!("expected a country code of two lower-case letters, got `{}`", text.value.0);
                return Err(self.error(&text.referenced, message));
            }
        };
        let (mut internet, mut destinations) = (raw.destinations.is_none(), Vec::new());
        for text in raw.destinations.iter().flatten() {
            match text.value.0.as_str() {
                "internet" => internet = true,
                prefix => destinations.push(prefix.parse().map_err(|e: crate::types::ParsePrefixError| {
                    self.error(&text.referenced, format!("expected `internet` or a prefix: {e}; got `{prefix}`"))
                })?),
            }
        }
        let per_peer = raw.peer_mbit.map(|m| m.0 * 125_000);
        Ok(Some(ExitNode { country, ipv6: raw.ipv6, internet, destinations, per_peer }))
    }
}

fn user_id(user: &str) -> Option<u32> {
    if let Ok(id) = user.parse() {
        // The last one is nobody's (chown(2)).
        return Some(id).filter(|id| *id != u32::MAX);
    }
    // passwd(5): name, password, number.
    let all = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = all.lines().find(|l| l.split(':').next() == Some(user))?;
    line.split(':').nth(2)?.parse().ok()
}
