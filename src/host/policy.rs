//! Policy routing: rules that say which routing table is asked, and the tables of our own. What is wanted is compared with what the
//! kernel has, so that setting it up twice, or after somebody else took a part away, comes to the same.

use std::io;

use super::{
    direct::{ANSWERS, MARK},
    netlink::{Message, Netlink, attributes, word},
};
use crate::{
    types::IpPrefix,
    wire::{decode_ip, encode_ip},
};

/// Which packets a rule is about, and what it does. All rules are tried in the order of their priorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Packets of the daemon itself: past all rules of ours, to [`Rule::Others`].
    Marked,
    /// Answers to who came in from outside: the main table.
    Answers,
    /// All: the mesh's table, for what is in it.
    Mesh,
    /// To this prefix: the main table.
    Past(IpPrefix),
    /// From sockets of this user: the main table.
    User(u32),
    /// To a port of servers for names (of this IP protocol): the tunnel's table.
    Names { protocol: u8, port: u16 },
    /// To this prefix: the main table, but for its default route.
    Near(IpPrefix),
    /// All: the tunnel's table.
    Rest,
    /// All, and those of sockets that are bound to another interface, too: nowhere.
    Nowhere,
    /// Does nothing: what comes here meets the rules of the host, as those that lead each address by its own uplink.
    Others,
}

/// A routing table of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// What is in the mesh.
    Mesh,
    /// Everything, through the tunnel.
    Tunnel,
}

/// A route in a table of ours: into an interface, or, as the last resort, nowhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub to: IpPrefix,
    pub into: Option<String>,
}

/// Attribute numbers of `linux/fib_rules.h`.
mod attr {
    pub const DST: u16 = 1;
    pub const GOTO: u16 = 4;
    pub const PRIORITY: u16 = 6;
    pub const FWMARK: u16 = 10;
    pub const SUPPRESS_PREFIXLEN: u16 = 14;
    pub const TABLE: u16 = 15;
    pub const UID_RANGE: u16 = 20;
    pub const PROTOCOL: u16 = 21;
    pub const IP_PROTO: u16 = 22;
    pub const DPORT_RANGE: u16 = 24;
}

const FIRST: u32 = 5170;
const PRIORITIES: std::ops::RangeInclusive<u32> = FIRST..=OTHERS;
/// Those that send packets into the tunnel, or nowhere; the others are the mesh's.
const TUNNELS: std::ops::RangeInclusive<u32> = FIRST + 3..=FIRST + 8;
/// The last one of ours.
const OTHERS: u32 = FIRST + 9;
const TO_TABLE: u8 = 1;
const GOTO: u8 = 2;
const NOTHING: u8 = 3;
const UNREACHABLE: u8 = 7;
/// As bad as a route can be: used when the other one is gone with its interface.
const LAST_RESORT: u32 = u32::MAX;
const MAIN: u32 = libc::RT_TABLE_MAIN as u32;

impl Rule {
    /// Whether it says something of this family.
    #[must_use]
    pub fn fits(&self, ipv4: bool) -> bool {
        !matches!(self, Self::Past(prefix) | Self::Near(prefix) if prefix.addr().is_ipv4() != ipv4)
    }
}

impl Table {
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Tunnel => MARK,
            Self::Mesh => MARK + 1,
        }
    }
}

/// A rule as the kernel keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    priority: u32,
    action: u8,
    table: u32,
    /// The priority to go on at.
    goto: Option<u32>,
    to: Option<IpPrefix>,
    mark: Option<u32>,
    suppresses: Option<u32>,
    user: Option<u32>,
    /// IP protocol and port.
    port: Option<(u8, u16)>,
    /// Whose it is; 0: nobody says.
    owner: u8,
}

/// A prefix of everything is none: the kernel does not tell it.
fn narrowed(prefix: IpPrefix) -> Option<IpPrefix> {
    Some(prefix).filter(|p| p.prefix_len() > 0)
}

impl From<&Rule> for Entry {
    fn from(rule: &Rule) -> Self {
        let (goto, to, mark, suppresses, user, port) = Default::default();
        let plain = |n: u32, table: u32| {
            let action = if table > 0 { TO_TABLE } else { UNREACHABLE };
            Self { priority: FIRST + n, action, table, goto, to, mark, suppresses, user, port, owner: 0 }
        };
        match *rule {
            Rule::Marked => Self { action: GOTO, goto: Some(OTHERS), mark: Some(MARK), ..plain(0, 0) },
            Rule::Answers => Self { mark: Some(ANSWERS), ..plain(1, MAIN) },
            Rule::Mesh => plain(2, Table::Mesh.number()),
            Rule::Past(prefix) => Self { to: narrowed(prefix), ..plain(3, MAIN) },
            Rule::User(id) => Self { user: Some(id), ..plain(4, MAIN) },
            Rule::Names { protocol, port } => Self { port: Some((protocol, port)), ..plain(5, Table::Tunnel.number()) },
            Rule::Near(prefix) => Self { to: narrowed(prefix), suppresses: Some(0), ..plain(6, MAIN) },
            Rule::Rest => plain(7, Table::Tunnel.number()),
            Rule::Nowhere => plain(8, 0),
            Rule::Others => Self { action: NOTHING, ..plain(9, 0) },
        }
    }
}

impl Entry {
    /// From fib_rule_hdr and its attributes.
    fn parse(body: &[u8]) -> Option<Self> {
        let (dst_len, table, action) = (*body.get(1)?, u32::from(*body.get(4)?), *body.get(7)?);
        let (goto, to, mark, suppresses, user, port) = Default::default();
        let mut entry = Self { priority: 0, action, table, goto, to, mark, suppresses, user, port, owner: 0 };
        let (mut protocol, mut first_port) = (0, None);
        for (kind, value) in attributes(body.get(12..)?) {
            match kind {
                attr::PRIORITY => entry.priority = word(value)?,
                attr::TABLE => entry.table = word(value)?,
                attr::GOTO => entry.goto = word(value),
                attr::PROTOCOL => entry.owner = *value.first()?,
                attr::FWMARK => entry.mark = word(value),
                attr::DST => entry.to = IpPrefix::new(decode_ip(value).ok()?, dst_len),
                // All ones: it suppresses nothing.
                attr::SUPPRESS_PREFIXLEN => entry.suppresses = word(value).filter(|n| *n != u32::MAX),
                attr::UID_RANGE => entry.user = word(value),
                attr::IP_PROTO => protocol = *value.first()?,
                attr::DPORT_RANGE => first_port = Some(u16::from_ne_bytes([*value.first()?, *value.get(1)?])),
                _ => {}
            }
        }
        entry.port = first_port.map(|port| (protocol, port));
        Some(entry)
    }

    fn message(&self, kind: u16, ipv4: bool) -> Message {
        let number = |n: u32| n.to_ne_bytes();
        let flags = if kind == libc::RTM_NEWRULE { libc::NLM_F_CREATE | libc::NLM_F_EXCL } else { 0 };
        let dst_len = self.to.map_or(0, |prefix| prefix.prefix_len());
        let mut message = Message::new(kind, flags | libc::NLM_F_ACK, &rule_header(ipv4, dst_len, self.action))
            .attribute(attr::PRIORITY, &number(self.priority));
        if self.table > 0 {
            message = message.attribute(attr::TABLE, &number(self.table));
        }
        if self.owner > 0 {
            message = message.attribute(attr::PROTOCOL, &[self.owner]);
        }
        if let Some(priority) = self.goto {
            message = message.attribute(attr::GOTO, &number(priority));
        }
        if let Some(mark) = self.mark {
            message = message.attribute(attr::FWMARK, &number(mark));
        }
        if let Some(prefix) = self.to {
            message = message.attribute(attr::DST, &encode_ip(prefix.addr()));
        }
        if let Some(len) = self.suppresses {
            message = message.attribute(attr::SUPPRESS_PREFIXLEN, &number(len));
        }
        if let Some((protocol, port)) = self.port {
            let port = port.to_ne_bytes();
            message =
                message.attribute(attr::IP_PROTO, &[protocol]).attribute(attr::DPORT_RANGE, &[port, port].concat());
        }
        if let Some(id) = self.user {
            message = message.attribute(attr::UID_RANGE, &[number(id), number(id)].concat());
        }
        message
    }
}

fn family(ipv4: bool) -> u8 {
    if ipv4 { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// fib_rule_hdr: family, lengths, tos, table, two reserved, action, flags.
fn rule_header(ipv4: bool, dst_len: u8, action: u8) -> Vec<u8> {
    [&[family(ipv4), dst_len, 0, 0, 0, 0, 0, action][..], &[0; 4]].concat()
}

/// rtmsg: family, lengths, tos, table, protocol, scope, type, flags.
fn route_message(kind: u16, table: Table, route: &Route, index: u32, owner: u8) -> Message {
    let ipv4 = route.to.addr().is_ipv4();
    let (is_new, is_dead_end) = (kind == libc::RTM_NEWROUTE, route.into.is_none());
    let scope = match (is_new, ipv4 && !is_dead_end) {
        (false, _) => libc::RT_SCOPE_NOWHERE,
        (true, true) => libc::RT_SCOPE_LINK,
        (true, false) => libc::RT_SCOPE_UNIVERSE,
    };
    let kind_of = if is_dead_end { libc::RTN_UNREACHABLE } else { libc::RTN_UNICAST };
    let protocol = if is_new { owner } else { 0 };
    let header = [family(ipv4), route.to.prefix_len(), 0, 0, 0, protocol, scope, kind_of, 0, 0, 0, 0];
    let flags = if is_new { libc::NLM_F_CREATE | libc::NLM_F_REPLACE } else { 0 };
    let message = Message::new(kind, flags | libc::NLM_F_ACK, &header)
        .attribute(libc::RTA_TABLE, &table.number().to_ne_bytes())
        .attribute(libc::RTA_DST, &encode_ip(route.to.addr()));
    if is_dead_end {
        message.attribute(libc::RTA_PRIORITY, &LAST_RESORT.to_ne_bytes())
    } else {
        message.attribute(libc::RTA_OIF, &index.to_ne_bytes())
    }
}

/// A host without that family has none of its rules and routes.
fn is_no_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP))
}

/// What marks rules and routes as those of the daemon with this interface: the routing protocol that they are said to come from, of those
/// that are nobody's (200 to 249). Two daemons on one host have each its own, so that neither takes the other's tunnel away.
fn owner(interface: &str) -> u8 {
    let sum = interface.bytes().fold(0u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b)));
    200 + u8::try_from(sum % 50).unwrap_or(0)
}

/// Whether a rule with this priority is ours, and of this table's part or of any.
fn is_of(priority: u32, part: Option<Table>) -> bool {
    let is_tunnels = TUNNELS.contains(&priority);
    PRIORITIES.contains(&priority) && part.is_none_or(|part| is_tunnels == matches!(part, Table::Tunnel))
}

impl Netlink {
    /// Makes the rules of one family those of ours that are wanted: first come those that are missing, then those go that are too
    /// many. Of a tunnel alone, the mesh's stay as they are: another daemon may have put them there. What leads into the tunnel of another
    /// daemon than that with `interface` stays, and the mesh's rules stay while another one has routes. Returns the number of the missing ones.
    pub fn sync_rules(&mut self, interface: &str, wanted: &[Rule], of: Option<Table>, ipv4: bool) -> io::Result<usize> {
        let owner = owner(interface);
        let present = match self.dump(Message::new(libc::RTM_GETRULE, libc::NLM_F_DUMP, &rule_header(ipv4, 0, 0))) {
            Err(error) if is_no_family(&error) => return Ok(0),
            other => other?,
        };
        let present: Vec<Entry> = present.iter().filter_map(|body| Entry::parse(body)).collect();
        let is_ours = |e: &Entry| is_of(e.priority, of) && (!TUNNELS.contains(&e.priority) || e.owner == owner);
        let mut ours: Vec<Entry> = present.into_iter().filter(is_ours).collect();
        let mut missing = 0;
        for rule in wanted {
            let entry = Entry::from(rule);
            if let Some(at) = ours.iter().position(|other| Entry { owner: 0, ..*other } == entry) {
                ours.swap_remove(at);
                continue;
            }
            match self.request(Entry { owner, ..entry }.message(libc::RTM_NEWRULE, ipv4)) {
                Ok(()) => missing += 1,
                // Another daemon's.
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                Err(e) => return Err(e),
            }
        }
        if ours.iter().any(|e| !TUNNELS.contains(&e.priority)) && self.others_route(interface) {
            ours.retain(|e| TUNNELS.contains(&e.priority));
        }
        for entry in ours {
            match self.request(entry.message(libc::RTM_DELRULE, ipv4)) {
                Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(e),
                _ => {}
            }
        }
        Ok(missing)
    }

    /// Whether another daemon than that with `interface` leads packets into its mesh.
    fn others_route(&mut self, interface: &str) -> bool {
        let own = self.index(interface).ok();
        [true, false].into_iter().any(|ipv4| {
            let into = self.routes_of(Table::Mesh, ipv4).unwrap_or_default();
            into.iter().any(|route| route.index.is_some() && route.index != own)
        })
    }

    fn routes_of(&mut self, table: Table, ipv4: bool) -> io::Result<Vec<Present>> {
        let ask = Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &[family(ipv4), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .attribute(libc::RTA_TABLE, &table.number().to_ne_bytes());
        let present = match self.dump(ask) {
            // There is no such table yet.
            Err(error) if is_no_family(&error) || error.raw_os_error() == Some(libc::ENOENT) => Vec::new(),
            other => other?,
        };
        Ok(present.iter().filter_map(|body| parse_route(body, table.number(), ipv4)).collect())
    }

    /// Makes the routes of one family in a table of ours those that are wanted, the last resorts first. A route into an interface that
    /// is not there, or does not take this family, is left out. What leads into another interface than `interface` is another daemon's,
    /// and stays with its last resort, as does the last resort of another one's tunnel. Returns the number of those that were missing.
    pub fn sync_routes(&mut self, interface: &str, table: Table, wanted: &[Route], ipv4: bool) -> io::Result<usize> {
        let (owner, own) = (owner(interface), self.index(interface).ok());
        let present = self.routes_of(table, ipv4)?;
        let others: Vec<(IpPrefix, u32)> = {
            let into = present.iter().filter_map(|route| Some((route.to, route.index?)));
            into.filter(|(_, index)| Some(*index) != own).collect()
        };
        let is_others =
            |route: &Present| matches!(table, Table::Tunnel) && route.index.is_none() && route.owner != owner;
        let mut present: Vec<(IpPrefix, Option<u32>)> =
            present.iter().filter(|route| !is_others(route)).map(|route| (route.to, route.index)).collect();
        let mut wanted: Vec<&Route> = wanted.iter().filter(|r| r.to.addr().is_ipv4() == ipv4).collect();
        wanted.sort_by_key(|route| route.into.is_some());
        let mut missing = 0;
        for route in wanted {
            let index = match &route.into {
                None => None,
                Some(name) => match self.index(name) {
                    Ok(index) => Some(index),
                    Err(_) => continue,
                },
            };
            if let Some(at) = present.iter().position(|other| *other == (route.to, index)) {
                present.swap_remove(at);
                continue;
            }
            match self.request(route_message(libc::RTM_NEWROUTE, table, route, index.unwrap_or_default(), owner)) {
                Ok(()) => missing += 1,
                Err(e) if is_no_family(&e) => return Ok(0),
                // The interface is down, or takes no IPv6.
                Err(_) if route.into.is_some() && !ipv4 => {}
                Err(e) => return Err(e),
            }
        }
        for (to, index) in present {
            if others.iter().any(|(other, into)| *other == to && index.is_none_or(|index| index == *into)) {
                continue;
            }
            let route = Route { to, into: index.map(|_| String::new()) };
            // It may have gone with its interface.
            let _ = self.request(route_message(libc::RTM_DELROUTE, table, &route, index.unwrap_or_default(), owner));
        }
        Ok(missing)
    }
}

/// A route in a table of ours.
struct Present {
    to: IpPrefix,
    /// Of the interface that it leads into; `None`: it is a last resort.
    index: Option<u32>,
    owner: u8,
}

fn parse_route(body: &[u8], table: u32, ipv4: bool) -> Option<Present> {
    let (len, mut at, owner, kind) = (*body.get(1)?, u32::from(*body.get(4)?), *body.get(5)?, *body.get(7)?);
    let nowhere = if ipv4 { [0; 4].into() } else { [0u16; 8].into() };
    let (mut to, mut index) = (nowhere, None);
    for (attribute, value) in attributes(body.get(12..)?) {
        match attribute {
            libc::RTA_TABLE => at = word(value)?,
            libc::RTA_DST => to = decode_ip(value).ok()?,
            libc::RTA_OIF => index = word(value),
            _ => {}
        }
    }
    let index = index.filter(|_| kind == libc::RTN_UNICAST);
    (at == table).then_some(Present { to: IpPrefix::new(to, len)?, index, owner })
}
