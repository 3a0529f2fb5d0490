//! Policy routing: rules that say which routing table is asked, and the tunnel's own table.

use std::io;

use super::{
    direct::MARK,
    netlink::{Message, Netlink},
};
use crate::{types::IpPrefix, wire::encode_ip};

/// Which packets a rule is about, and what it does. All rules are tried in the order of their priorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Packets with the mark: the main table.
    Marked,
    /// To this prefix: the main table, but for its default route unless `default`.
    To { prefix: IpPrefix, default: bool },
    /// From sockets of this user: the main table.
    User(u32),
    /// All: the tunnel's table.
    Rest,
}

/// Attribute numbers of `linux/fib_rules.h`.
mod attr {
    pub const DST: u16 = 1;
    pub const PRIORITY: u16 = 6;
    pub const FWMARK: u16 = 10;
    pub const SUPPRESS_PREFIXLEN: u16 = 14;
    pub const TABLE: u16 = 15;
    pub const UID_RANGE: u16 = 20;
}

const PRIORITIES: [u32; 4] = [5170, 5171, 5172, 5173];
const TO_TABLE: u8 = 1;
/// As bad as a route can be: used when the other one is gone with its interface.
const LAST_RESORT: u32 = u32::MAX;

impl Rule {
    fn priority(&self) -> u32 {
        PRIORITIES[match self {
            Self::Marked => 0,
            Self::To { .. } => 1,
            Self::User(_) => 2,
            Self::Rest => 3,
        }]
    }
}

/// fib_rule_hdr: family, lengths, tos, table, two reserved, action, flags.
fn header(ipv4: bool, dst_len: u8, action: u8) -> Vec<u8> {
    let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
    [&[family, dst_len, 0, 0, 0, 0, 0, action][..], &[0; 4]].concat()
}

impl Netlink {
    /// Adds a rule for one family.
    pub fn add_rule(&mut self, rule: &Rule, ipv4: bool) -> io::Result<()> {
        let number = |n: u32| n.to_ne_bytes();
        let dst_len = if let Rule::To { prefix, .. } = rule { prefix.prefix_len() } else { 0 };
        let table = if *rule == Rule::Rest { MARK } else { u32::from(libc::RT_TABLE_MAIN) };
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut message = Message::new(libc::RTM_NEWRULE, flags, &header(ipv4, dst_len, TO_TABLE))
            .attribute(attr::PRIORITY, &number(rule.priority()))
            .attribute(attr::TABLE, &number(table));
        match rule {
            Rule::Marked => message = message.attribute(attr::FWMARK, &number(MARK)),
            Rule::To { prefix, default } => {
                message = message.attribute(attr::DST, &encode_ip(prefix.addr()));
                if !default {
                    message = message.attribute(attr::SUPPRESS_PREFIXLEN, &number(0));
                }
            }
            Rule::User(id) => message = message.attribute(attr::UID_RANGE, &[number(*id), number(*id)].concat()),
            Rule::Rest => {}
        }
        self.request(message)
    }

    /// Removes every rule that [`Self::add_rule`] can have added, also those of a daemon that is dead.
    pub fn remove_rules(&mut self) -> io::Result<()> {
        for ipv4 in [true, false] {
            for priority in PRIORITIES {
                loop {
                    let message = Message::new(libc::RTM_DELRULE, libc::NLM_F_ACK, &header(ipv4, 0, 0))
                        .attribute(attr::PRIORITY, &priority.to_ne_bytes());
                    match self.request(message) {
                        Ok(()) => {}
                        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => break,
                        // No such family on this host.
                        Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => break,
                        Err(e) => return Err(e),
                    }
                }
            }
        }
        Ok(())
    }

    /// The default route of the tunnel's table: into `interface`. It goes with the interface.
    pub fn set_tunnel_route(&mut self, interface: &str, ipv4: bool) -> io::Result<()> {
        let index = self.index(interface)?;
        let message = tunnel_route(libc::RTM_NEWROUTE, ipv4, libc::RTN_UNICAST);
        self.request(message.attribute(libc::RTA_OIF, &index.to_ne_bytes()))
    }

    /// What the tunnel's table says when its interface is gone: nothing can be reached.
    pub fn set_tunnel_dead_end(&mut self, ipv4: bool) -> io::Result<()> {
        let message = tunnel_route(libc::RTM_NEWROUTE, ipv4, libc::RTN_UNREACHABLE);
        self.request(message.attribute(libc::RTA_PRIORITY, &LAST_RESORT.to_ne_bytes()))
    }

    /// Empties the tunnel's table.
    pub fn remove_tunnel_routes(&mut self) {
        for ipv4 in [true, false] {
            for kind in [libc::RTN_UNICAST, libc::RTN_UNREACHABLE] {
                // They may not be there.
                let _ = self.request(tunnel_route(libc::RTM_DELROUTE, ipv4, kind));
            }
        }
    }
}

/// rtmsg: family, lengths, tos, table, protocol, scope, type, flags.
fn tunnel_route(kind: u16, ipv4: bool, route: u8) -> Message {
    let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
    let is_new = kind == libc::RTM_NEWROUTE;
    let scope = if is_new && ipv4 && route == libc::RTN_UNICAST { libc::RT_SCOPE_LINK } else { 0 };
    let scope = if is_new { scope } else { libc::RT_SCOPE_NOWHERE };
    let protocol = if is_new { libc::RTPROT_STATIC } else { 0 };
    let header = [family, 0, 0, 0, 0, protocol, scope, route, 0, 0, 0, 0];
    let flags = if is_new { libc::NLM_F_CREATE | libc::NLM_F_REPLACE } else { 0 };
    Message::new(kind, flags | libc::NLM_F_ACK, &header).attribute(libc::RTA_TABLE, &MARK.to_ne_bytes())
}
