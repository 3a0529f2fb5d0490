//! `access`: who of the mesh may open which connections to this node and what is behind it.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{ConfigError, Reader, portal::Portal, raw::Text};
use crate::types::{IpPrefix, NodeId, check_label};

/// The group whose members may do nothing that a rule does not allow.
pub const GUESTS: &str = "guests";
/// The segment of the portal's clients.
pub const PORTAL: &str = "portal";

/// What is decided about connections that come in from the mesh, and from the portal's clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The first that fits decides.
    pub rules: Vec<AccessRule>,
    /// Then the segment of whoever opens the connection.
    pub segments: Vec<Segment>,
    /// Then this: whether members may do what no rule speaks of.
    pub default_allow: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    pub allow: bool,
    /// Who opens the connection: any of these.
    pub who: Vec<Who>,
    /// Where to; empty: anywhere.
    pub to: Vec<Where>,
    /// Empty: every protocol and port.
    pub ports: Vec<Ports>,
    /// Where the rule begins in the file.
    pub line: u64,
}

/// Who opens a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Anyone,
    /// Members whose certificate says so.
    Group(String),
    /// The member to whom a certificate gives this name.
    Named(String),
    Node(NodeId),
    Segment(String),
    /// A client of this node's portal.
    Client(String),
    Prefix(IpPrefix),
}

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// This host itself.
    Here,
    /// All that is outside the mesh, but private and special addresses.
    Internet,
    Segment(String),
    Prefix(IpPrefix),
}

/// Protocols and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// `first` to `last`, of TCP, UDP or both.
    Range { tcp: bool, udp: bool, first: u16, last: u16 },
    /// ICMP and ICMPv6.
    Icmp,
}

/// Networks, and what those in them may do that no rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub name: String,
    pub prefixes: Vec<IpPrefix>,
    pub policy: SegmentPolicy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentPolicy {
    /// Nothing.
    Strict,
    /// Reach the internet, through exits, and nothing in the mesh or around it.
    InternetOnly,
    /// Reach the mesh and private networks, but not the internet.
    LocalOnly,
}

impl fmt::Display for SegmentPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SegmentPolicy::Strict => "strict",
            SegmentPolicy::InternetOnly => "internet_only",
            SegmentPolicy::LocalOnly => "local_only",
        })
    }
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((kind, name)) = text.split_once(':')
            && ["group", "segment", PORTAL].contains(&kind)
        {
            let name = name.to_owned();
            return Ok(match kind {
                "group" => Who::Group(name),
                "segment" => Who::Segment(name),
                _ => Who::Client(name),
            });
        }
        Ok(match text {
            "" => return Err("expected who opens the connection".to_owned()),
            "any" => Who::Anyone,
            PORTAL => Who::Segment(PORTAL.to_owned()),
            _ if text.contains('/') => Who::Prefix(prefix(text)?),
            _ => match (text.parse::<IpAddr>(), text.parse::<NodeId>()) {
                (Ok(ip), _) => Who::Prefix(IpPrefix::host(ip)),
                (_, Ok(id)) => Who::Node(id),
                _ => Who::Named(text.to_owned()),
            },
        })
    }
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "self" => Where::Here,
            "internet" => Where::Internet,
            PORTAL => Where::Segment(PORTAL.to_owned()),
            _ => match text.split_once("segment:") {
                Some(("", name)) => Where::Segment(name.to_owned()),
                _ => Where::Prefix(prefix(text)?),
            },
        })
    }
}

fn prefix(text: &str) -> Result<IpPrefix, String> {
    if let Ok(ip) = text.parse() {
        return Ok(IpPrefix::host(ip));
    }
    text.parse().map_err(|e| format!("{e}; got `{text}`"))
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected a port like 22/tcp, 53, 8000-8080/udp, or icmp; got `{text}`");
        if text == "icmp" {
            return Ok(Ports::Icmp);
        }
        let (range, protocol) = text.split_once('/').unwrap_or((text, "both"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else { return Err(expected()) };
        let good = first >= 1 && first <= last && ["tcp", "udp", "both"].contains(&protocol);
        let ports = Ports::Range { tcp: protocol != "udp", udp: protocol != "tcp", first, last };
        if good { Ok(ports) } else { Err(expected()) }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Anyone => f.write_str("any"),
            Who::Group(name) => write!(f, "group:{name}"),
            Who::Named(name) => f.write_str(name),
            Who::Node(id) => f.write_str(&id.short()),
            Who::Segment(name) if name == PORTAL => f.write_str(PORTAL),
            Who::Segment(name) => write!(f, "segment:{name}"),
            Who::Client(name) => write!(f, "portal:{name}"),
            Who::Prefix(prefix) => write!(f, "{prefix}"),
        }
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Where::Here => f.write_str("self"),
            Where::Internet => f.write_str("internet"),
            Where::Segment(name) if name == PORTAL => f.write_str(PORTAL),
            Where::Segment(name) => write!(f, "segment:{name}"),
            Where::Prefix(prefix) => write!(f, "{prefix}"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ports::Range { tcp, udp, first, last } = self else { return f.write_str("icmp") };
        write!(f, "{first}")?;
        if first != last {
            write!(f, "-{last}")?;
        }
        f.write_str(match (tcp, udp) {
            (true, false) => "/tcp",
            (false, true) => "/udp",
            _ => "",
        })
    }
}

impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allow { "allow " } else { "deny " })?;
        list(f, &self.who)?;
        if !self.to.is_empty() {
            f.write_str(" to ")?;
            list(f, &self.to)?;
        }
        if !self.ports.is_empty() {
            f.write_str(" ports ")?;
            list(f, &self.ports)?;
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, of: &[impl fmt::Display]) -> fmt::Result {
    f.write_str(&of.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAccess {
    default: Option<Spanned<Text>>,
    rules: Vec<RawRule>,
    segments: Vec<RawSegment>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    allow: Option<Spanned<Vec<Spanned<Text>>>>,
    deny: Option<Spanned<Vec<Spanned<Text>>>>,
    #[serde(default)]
    to: Vec<Spanned<Text>>,
    #[serde(default)]
    ports: Vec<Spanned<Text>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSegment {
    name: Spanned<Text>,
    cidr: Vec<Spanned<Text>>,
    policy: SegmentPolicy,
}

impl Reader<'_> {
    pub(super) fn access(
        &self,
        raw: &RawAccess,
        portal: Option<&Portal>,
        has_authority: bool,
    ) -> Result<Access, ConfigError> {
        let default_allow = match raw.default.as_ref().map(|t| (t.value.0.as_str(), &t.referenced)) {
            None | Some(("allow", _)) => true,
            Some(("deny", _)) => false,
            Some((other, at)) => return Err(self.error(at, format!("expected `allow` or `deny`, got `{other}`"))),
        };
        let mut segments = Vec::new();
        for segment in &raw.segments {
            let name = segment.name.value.0.clone();
            if name == PORTAL || segments.iter().any(|s: &Segment| s.name == name) {
                let message = format!("there is a segment of the name `{name}` already");
                return Err(self.error(&segment.name.referenced, message));
            }
            let read = |t: &Spanned<Text>| prefix(&t.value.0).map_err(|e| self.error(&t.referenced, e));
            let prefixes = segment.cidr.iter().map(read).collect::<Result<_, _>>()?;
            segments.push(Segment { name, prefixes, policy: segment.policy });
        }
        segments.extend(portal.map(Portal::segment));
        let rules = raw.rules.iter().map(|rule| self.access_rule(rule, &segments, has_authority));
        let rules = rules.collect::<Result<_, _>>()?;
        Ok(Access { rules, segments, default_allow })
    }

    fn access_rule(&self, raw: &RawRule, segments: &[Segment], has_authority: bool) -> Result<AccessRule, ConfigError> {
        let (allow, list) = match (&raw.allow, &raw.deny) {
            (Some(list), None) => (true, list),
            (None, Some(list)) => (false, list),
            (Some(at), Some(_)) => return Err(self.error(&at.referenced, "a rule has either `allow` or `deny`")),
            (None, None) => {
                return Err(self.missing("access.rules", "each rule has `allow` or `deny`, with a list of who"));
            }
        };
        let known = |name: &str| segments.iter().any(|s| s.name == name);
        let no_segment = |name: &str| match name {
            PORTAL => "this node has no portal (portal.enabled)".to_owned(),
            _ => format!("no segment is called `{name}` (access.segments)"),
        };
        let who = |text: &Spanned<Text>| {
            let who: Who = text.value.0.parse().map_err(|e| self.error(&text.referenced, e))?;
            let wrong = match &who {
                Who::Group(_) | Who::Named(_) if !has_authority => {
                    "names and groups are what certificates say, and this network has no authority: give a NodeId or a prefix".to_owned()
                }
                // Nobody would ever be meant.
                Who::Named(name) => match check_label(name) {
                    Ok(()) => return Ok(who),
                    Err(e) => format!("no node is called so: {e}"),
                },
                Who::Segment(name) if !known(name) => no_segment(name),
                Who::Client(_) if !known(PORTAL) => no_segment(PORTAL),
                _ => return Ok(who),
            };
            Err(self.error(&text.referenced, format!("{wrong}; got `{}`", text.value.0)))
        };
        let to = |text: &Spanned<Text>| {
            let to = text.value.0.parse().map_err(|e| {
                self.error(&text.referenced, format!("expected `self`, `internet`, `segment:NAME` or a prefix: {e}"))
            })?;
            match &to {
                Where::Segment(name) if !known(name) => Err(self.error(&text.referenced, no_segment(name))),
                _ => Ok(to),
            }
        };
        let ports = |text: &Spanned<Text>| text.value.0.parse().map_err(|e: String| self.error(&text.referenced, e));
        if list.value.is_empty() {
            return Err(self.error(&list.referenced, "expected who opens the connection; `any` is everybody"));
        }
        Ok(AccessRule {
            allow,
            who: list.value.iter().map(who).collect::<Result<_, _>>()?,
            to: raw.to.iter().map(to).collect::<Result<_, _>>()?,
            ports: raw.ports.iter().map(ports).collect::<Result<_, _>>()?,
            line: list.referenced.line(),
        })
    }
}
