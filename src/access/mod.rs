//! Floor 2: access rules: which connections that come in from the mesh may go on. Decided here, to be explained; carried
//! out by the host's firewall, which tracks connections, with the rules that [`Policy::table`] writes.

mod table;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    config::{Access, AccessRule, GUESTS, PORTAL, Ports, SegmentPolicy, Where, Who},
    types::{IpPrefix, NodeId, SPECIAL4, SPECIAL6},
};

/// What rules are about, as it is now.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The mesh's ranges.
    pub ranges: Vec<IpPrefix>,
    /// Addresses of this host, on every interface.
    pub here: Vec<IpAddr>,
    pub members: Vec<Member>,
    /// The portal's clients.
    pub clients: Vec<(String, Vec<IpAddr>)>,
    /// Interfaces on which connections come in that are judged: the mesh's, then the portal's.
    pub interfaces: Vec<String>,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Member {
    pub id: NodeId,
    /// The name that its certificate gives it, or empty.
    pub name: String,
    /// No other one's certificate does.
    pub owns_name: bool,
    /// The groups that its certificate puts it in.
    pub groups: Vec<String>,
    /// Those that are its own: what it claims and another one has, or nobody, says nothing of it.
    pub addresses: Vec<IpAddr>,
}

/// What a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Tcp(u16),
    Udp(u16),
    Icmp,
}

/// What is decided about a connection, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub because: Because,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// The rule of this number, from 0.
    Rule(usize),
    /// The portal's clients may ask this node for names.
    Names,
    Segment(String, SegmentPolicy),
    /// Whoever opens it is in the group `guests`.
    Guest,
    Default,
}

/// Rules with names and groups looked up.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    segments: Vec<(String, Vec<IpPrefix>, SegmentPolicy)>,
    guests: Vec<IpPrefix>,
    default_allow: bool,
    /// What is not the internet.
    special: Vec<IpPrefix>,
    here: Vec<IpAddr>,
    interfaces: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    allow: bool,
    /// `None`: anybody.
    who: Option<Vec<IpPrefix>>,
    /// Empty: anywhere.
    to: Vec<Target>,
    ports: Vec<Ports>,
}

#[derive(Debug)]
enum Target {
    Here,
    Internet,
    Prefix(IpPrefix),
}

impl Policy {
    #[must_use]
    pub fn new(access: &Access, facts: &Facts) -> Self {
        let special = SPECIAL4.iter().chain(&SPECIAL6).filter_map(|p| p.parse().ok());
        Self {
            rules: access.rules.iter().map(|rule| Rule::new(rule, access, facts)).collect(),
            segments: access.segments.iter().map(|s| (s.name.clone(), s.prefixes.clone(), s.policy)).collect(),
            guests: facts.addresses_of(&|m| m.groups.iter().any(|g| g == GUESTS)),
            default_allow: access.default_allow,
            special: special.chain(facts.ranges.iter().copied()).collect(),
            here: facts.here.clone(),
            interfaces: facts.interfaces.clone(),
        }
    }

    /// Whether it would let everything through.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_about_guests() && self.guests.is_empty()
    }

    /// Whether it is only guests that it keeps from anything.
    #[must_use]
    pub fn is_about_guests(&self) -> bool {
        self.rules.is_empty() && self.segments.is_empty() && self.default_allow
    }

    /// What becomes of a connection that `source` opens.
    #[must_use]
    pub fn decide(&self, source: IpAddr, to: IpAddr, protocol: Protocol) -> Decision {
        let segment = self.segments.iter().find(|(_, prefixes, _)| contains(prefixes, source));
        let asks = matches!(protocol, Protocol::Tcp(53) | Protocol::Udp(53)) && self.here.contains(&to);
        let is_client = || self.segments.iter().any(|(name, all, _)| name == PORTAL && contains(all, source));
        if asks && is_client() {
            return Decision { allowed: true, because: Because::Names };
        }
        let mut rules = self.rules.iter().enumerate();
        if let Some((n, rule)) = rules.find(|(_, rule)| rule.fits(self, source, to, protocol)) {
            return Decision { allowed: rule.allow, because: Because::Rule(n) };
        }
        if let Some((name, _, policy)) = segment {
            let allowed = match policy {
                SegmentPolicy::Strict => false,
                SegmentPolicy::InternetOnly => self.is_internet(to),
                SegmentPolicy::LocalOnly => !self.is_internet(to),
            };
            return Decision { allowed, because: Because::Segment(name.clone(), *policy) };
        }
        if contains(&self.guests, source) {
            return Decision { allowed: false, because: Because::Guest };
        }
        Decision { allowed: self.default_allow, because: Because::Default }
    }

    /// How many addresses and networks each rule's `who` comes to; `None`: anybody.
    #[must_use]
    pub fn sizes(&self) -> Vec<Option<usize>> {
        self.rules.iter().map(|rule| rule.who.as_ref().map(Vec::len)).collect()
    }

    fn is_internet(&self, ip: IpAddr) -> bool {
        !contains(&self.special, ip) && !self.here.contains(&ip)
    }
}

fn contains(prefixes: &[IpPrefix], ip: IpAddr) -> bool {
    prefixes.iter().any(|p| p.contains(ip))
}

impl Facts {
    fn addresses_of(&self, is: &dyn Fn(&Member) -> bool) -> Vec<IpPrefix> {
        let members = self.members.iter().filter(|m| is(m));
        members.flat_map(|m| m.addresses.iter().copied().map(IpPrefix::host)).collect()
    }

    /// The addresses behind a name in a rule; `None`: all there are. Of two members that are certified for one name, a rule allows neither
    /// and refuses both.
    fn resolve(&self, who: &Who, allow: bool, access: &Access) -> Option<Vec<IpPrefix>> {
        Some(match who {
            Who::Anyone => return None,
            Who::Group(group) => self.addresses_of(&|m| m.groups.contains(group)),
            Who::Named(name) => self.addresses_of(&|m| m.name.eq_ignore_ascii_case(name) && (m.owns_name || !allow)),
            Who::Node(id) => self.addresses_of(&|m| m.id == *id),
            Who::Segment(name) => segment(access, name),
            Who::Client(name) => {
                let clients = self.clients.iter().filter(|(client, _)| client == name);
                clients.flat_map(|(_, ips)| ips.iter().copied().map(IpPrefix::host)).collect()
            }
            Who::Prefix(prefix) => vec![*prefix],
        })
    }
}

fn segment(access: &Access, name: &str) -> Vec<IpPrefix> {
    access.segments.iter().filter(|s| s.name == name).flat_map(|s| s.prefixes.clone()).collect()
}

impl Rule {
    fn new(rule: &AccessRule, access: &Access, facts: &Facts) -> Self {
        let who: Option<Vec<Vec<IpPrefix>>> = rule.who.iter().map(|w| facts.resolve(w, rule.allow, access)).collect();
        let to = rule.to.iter().flat_map(|to| match to {
            Where::Here => vec![Target::Here],
            Where::Internet => vec![Target::Internet],
            Where::Segment(name) => segment(access, name).into_iter().map(Target::Prefix).collect(),
            Where::Prefix(prefix) => vec![Target::Prefix(*prefix)],
        });
        Self { allow: rule.allow, who: who.map(|all| all.concat()), to: to.collect(), ports: rule.ports.clone() }
    }

    fn fits(&self, policy: &Policy, source: IpAddr, to: IpAddr, protocol: Protocol) -> bool {
        let leads = |target: &Target| match target {
            Target::Here => policy.here.contains(&to),
            Target::Internet => policy.is_internet(to),
            Target::Prefix(prefix) => prefix.contains(to),
        };
        let carries = |ports: &Ports| match (*ports, protocol) {
            (Ports::Icmp, Protocol::Icmp) => true,
            (Ports::Range { tcp: true, first, last, .. }, Protocol::Tcp(port))
            | (Ports::Range { udp: true, first, last, .. }, Protocol::Udp(port)) => (first..=last).contains(&port),
            _ => false,
        };
        self.who.as_ref().is_none_or(|who| contains(who, source))
            && (self.to.is_empty() || self.to.iter().any(leads))
            && (self.ports.is_empty() || self.ports.iter().any(carries))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protocol::Tcp(port) => write!(f, "{port}/tcp"),
            Protocol::Udp(port) => write!(f, "{port}/udp"),
            Protocol::Icmp => f.write_str("icmp"),
        }
    }
}
