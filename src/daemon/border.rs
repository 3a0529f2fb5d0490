//! What always stands around the mesh on this host: its addresses are reached and spoken for through its interface alone, what is
//! for it never leaves another way, and who comes through it reaches this host at its addresses in the mesh.
//!
//! Neighbours in a LAN can claim to be members, ask for this host's address in the mesh, and announce routes that are narrower than
//! the mesh's. So the mesh has a routing table of its own before the main one, with a last resort that leads nowhere.

use std::{io, sync::Arc};

use super::keeper::{self, Keeper, Part};
use crate::{
    config::Config,
    host::{MARK, Route, Rule},
    types::{IpPrefix, SPECIAL4, SPECIAL6},
};

const TABLE: &str = "aegisray";

pub(super) struct Border {
    interface: String,
    /// The mesh's ranges: IPv4, then IPv6.
    ranges: [IpPrefix; 2],
    keeper: Arc<Keeper>,
}

impl Border {
    /// Draws the line. Where there is no `nft`, routing alone keeps packets in: that is said, and tried again.
    pub fn start(config: &Config, keeper: &Arc<Keeper>) -> io::Result<Self> {
        let ranges = [config.network.cidr(), config.network.ula()];
        let border = Self { interface: config.interface.clone(), ranges, keeper: Arc::clone(keeper) };
        border.route(&[])?;
        keeper.set_rules(Part::Mesh, vec![Rule::Others, Rule::Marked, Rule::Answers, Rule::Mesh])?;
        border.follow(config);
        Ok(border)
    }

    /// What this node is beside a member may have changed.
    pub fn follow(&self, config: &Config) {
        // It is noted what is not in force.
        let _ = self.keeper.put_table(TABLE, rules(config, self.ranges));
    }

    /// Leads into the mesh what is for its ranges, and for these networks behind other nodes.
    pub fn route(&self, networks: &[IpPrefix]) -> io::Result<()> {
        let into = |to: &IpPrefix| Route { to: *to, into: Some(self.interface.clone()) };
        let nowhere = |to: &IpPrefix| Route { to: *to, into: None };
        let all = || self.ranges.iter().chain(networks);
        self.keeper.set_routes(Part::Mesh, all().map(nowhere).chain(all().map(into)).collect())
    }

    /// Takes the line away.
    pub fn stop(&self) -> io::Result<()> {
        let rules = self.keeper.set_rules(Part::Mesh, Vec::new());
        let routes = self.keeper.set_routes(Part::Mesh, Vec::new());
        rules.and(routes).and(self.keeper.remove_table(TABLE))
    }
}

fn rules(config: &Config, ranges: [IpPrefix; 2]) -> String {
    let mesh = &config.interface;
    let portal = config.portal.as_ref();
    let inside: String = portal.iter().map(|p| format!(", \"{}\"", p.interface)).collect();
    let inside = format!("{{ \"lo\", \"{mesh}\"{inside} }}");
    let reject = "counter reject with icmpx type admin-prohibited";
    // Members may be neighbours beyond a carrier's NAT, with addresses like the mesh's.
    let mut incoming = vec![format!("iifname {inside} accept"), format!("udp dport {} accept", config.listen.port())];
    let mut outgoing = vec![format!("oifname {inside} accept"), format!("meta mark {MARK:#x} accept")];
    // What answers this host's own packets was asked for, wherever they were sent from.
    let mut here = vec!["ct direction reply accept".to_owned()];
    for range in ranges {
        let family = range.family();
        incoming.push(format!("{family} saddr {range} counter drop"));
        incoming.push(format!("{family} daddr {range} fib daddr type local counter drop"));
        outgoing.push(format!("{family} daddr {range} {reject}"));
        let portal = portal.iter().flat_map(|p| p.networks);
        let destinations = config.exit_node.iter().flat_map(|e| e.destinations.iter().copied());
        let named = config.announce.iter().copied().chain(destinations).chain(portal);
        let mine: Vec<String> =
            std::iter::once(range).chain(named.filter(|p| p.family() == family)).map(|p| p.to_string()).collect();
        here.push(format!("{family} daddr {{ {} }} accept", mine.join(", ")));
        // This host's other addresses in networks of its own are no business of members and clients; public ones are everybody's.
        let special = if range.addr().is_ipv4() { SPECIAL4.join(", ") } else { SPECIAL6.join(", ") };
        here.push(format!("{family} daddr {{ {special} }} fib daddr type local {reject}"));
    }
    let inside: Vec<String> =
        std::iter::once(mesh).chain(portal.map(|p| &p.interface)).map(|i| format!("\"{i}\"")).collect();
    let own = format!("iifname {{ {} }} jump here", inside.join(", "));
    format!(
        "chain here {{\n{}\n}}\n\
         chain incoming {{ type filter hook prerouting priority raw; policy accept;\n{}\n}}\n\
         chain own {{ type filter hook input priority -10; policy accept;\n{own}\n}}\n\
         chain outgoing {{ type filter hook output priority 290; policy accept;\n{outgoing}\n}}\n\
         chain transit {{ type filter hook forward priority 290; policy accept;\n{outgoing}\n}}\n",
        here.join("\n"),
        incoming.join("\n"),
        outgoing = outgoing.join("\n"),
    )
}

/// Takes away what a daemon that no longer runs has left.
pub(super) fn clean_up(interface: &str) -> io::Result<()> {
    keeper::remove_table(TABLE, interface)
}
