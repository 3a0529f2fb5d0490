//! Carrying others' packets out of the mesh, to the internet or to networks behind this node: forwarding, masquerade and
//! limits, in a table of our own, beside whatever other rules the host has.

use std::{collections::BTreeSet, fmt::Write as _, fs, io, path::Path, sync::Arc};

use super::{
    journal::Journal,
    keeper::{self, Keeper},
};
use crate::{
    config::{Config, ExitNode, Portal},
    host::{self, MARK},
    types::{IpPrefix, SPECIAL4, SPECIAL6},
};

const TABLE: &str = "aegisray_exit";
const JOURNAL: &str = "gateway.json";
/// The mark of what is to be masqueraded.
const MASQUERADE: u32 = MARK + 1;
/// Connections of one client at a time.
const MAX_FLOWS: u32 = 8192;
/// Ports for what is masqueraded: none below, and so many are enough.
const LOWEST: u16 = 10_000;
const ENOUGH_PORTS: u16 = 1024;
/// So many are taken from those from which this host asks, if there are none beside them.
const RESERVED: u16 = 4096;
const RESERVED_PORTS: &str = "net/ipv4/ip_local_reserved_ports";

pub(super) struct Gateway {
    interface: String,
    exit: Option<ExitNode>,
    /// Networks behind this node, and whether packets for them get this node's address.
    announced: Vec<IpPrefix>,
    masquerade: bool,
    portal: Option<Portal>,
    /// Ports of this host's own, which nothing that is masqueraded gets.
    taken: Vec<u16>,
    /// Those that it gets, and whether they are chosen by lot: this host may ask from them, too.
    ports: (u16, u16),
    by_lot: bool,
    keeper: Arc<Keeper>,
    journal: Journal,
}

impl Gateway {
    /// Sets this host up for what its configuration offers. What a daemon that crashed has left is taken away.
    pub fn start(config: &Config, keeper: &Arc<Keeper>) -> io::Result<Self> {
        let mut journal = Journal::open(&config.state_dir, JOURNAL);
        if let Err(error) = journal.undo() {
            tracing::error!(%error, "what an earlier daemon changed on this host can't be taken back (exit_node, routing.announce)");
        }
        let mut gateway = Self {
            interface: config.interface.clone(),
            exit: config.exit_node.clone(),
            announced: config.announce.clone(),
            masquerade: config.masquerade,
            portal: config.portal.clone(),
            taken: [Some(config.listen.port()), config.tcp_port]
                .into_iter()
                .flatten()
                .chain(host::listening())
                .collect(),
            ports: (LOWEST, u16::MAX),
            by_lot: false,
            keeper: Arc::clone(keeper),
            journal,
        };
        if gateway.carries() {
            gateway.find_ports();
            let ipv6 = gateway.portal.is_some() || gateway.announced.iter().any(|p| p.addr().is_ipv6());
            gateway.forward(ipv6 || gateway.exit.as_ref().is_some_and(|e| e.ipv6))?;
            gateway.keeper.put_table(TABLE, gateway.rules())?;
            gateway.journal.note_guests()?;
            gateway.keeper.invite(gateway.inside())?;
        } else {
            keeper.clear_table(TABLE);
        }
        Ok(gateway)
    }

    /// Ports for what is masqueraded. Where this host asks from nearly all, some are taken out of those.
    fn find_ports(&mut self) {
        if let Some(ports) = unshadowed(host::ephemeral_ports(), &self.taken) {
            self.ports = ports;
            return;
        }
        let (first, last) = unshadowed((LOWEST - 1, LOWEST - 1), &self.taken).unwrap_or((LOWEST, u16::MAX));
        self.ports = (first.max(last.saturating_sub(RESERVED)), last);
        let before = fs::read_to_string(Path::new("/proc/sys").join(RESERVED_PORTS)).unwrap_or_default();
        let range = format!("{}-{}", self.ports.0, self.ports.1);
        let all = [before.trim(), &range].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(",");
        match self.journal.set_sysctl(RESERVED_PORTS, &all) {
            Ok(()) => tracing::info!(
                range,
                "ports that are this host's own no more: what is masqueraded gets them ({RESERVED_PORTS})"
            ),
            Err(error) => {
                self.by_lot = true;
                tracing::warn!(%error, range, "cannot be reserved for what is masqueraded ({RESERVED_PORTS}): an answer to this host may go to a client; narrow net.ipv4.ip_local_port_range");
            }
        }
    }

    fn carries(&self) -> bool {
        self.exit.is_some() || !self.announced.is_empty() || self.portal.is_some()
    }

    /// The interfaces behind which the mesh and the portal's clients are.
    fn inside(&self) -> Vec<String> {
        std::iter::once(&self.interface).chain(self.portal.iter().map(|p| &p.interface)).cloned().collect()
    }

    /// The interfaces by which this host is in networks, but for ours and for bridges.
    fn uplinks(&self) -> Vec<String> {
        let ours = self.inside();
        let all = host::interface_addresses().unwrap_or_default().into_iter().map(|(interface, _)| interface);
        let is_bridge =
            |i: &String| ["bridge", "brport"].iter().any(|of| Path::new("/sys/class/net").join(i).join(of).exists());
        all.filter(|i| i != "lo" && !ours.contains(i) && !is_bridge(i)).collect()
    }

    fn forward(&mut self, ipv6: bool) -> io::Result<()> {
        self.forward_family("ipv4")?;
        if ipv6 && Path::new("/proc/sys/net/ipv6").exists() {
            // A host that forwards takes no router's word for its own address, unless it is told to (ip-sysctl: accept_ra).
            for interface in fs::read_dir("/proc/sys/net/ipv6/conf")?.flatten() {
                let name = format!("net/ipv6/conf/{}/accept_ra", interface.file_name().to_string_lossy());
                let takes = fs::read_to_string(Path::new("/proc/sys").join(&name)).is_ok_and(|v| v.trim() == "1");
                // In a container it is its engine that decides about this.
                if let Err(error) = if takes { self.journal.set_sysctl(&name, "2") } else { Ok(()) } {
                    tracing::warn!(name, %error, "cannot be set to 2: this host may lose its IPv6 address while it forwards");
                }
            }
            self.forward_family("ipv6")?;
        }
        Ok(())
    }

    /// What is set for all interfaces is set for each of them: what each had is noted before.
    fn forward_family(&mut self, family: &str) -> io::Result<()> {
        let all = forwarding(family);
        if fs::read_to_string(Path::new("/proc/sys").join(&all))?.trim() != "1" {
            let interfaces = fs::read_dir(format!("/proc/sys/net/{family}/conf"))?.flatten();
            let name = |i: fs::DirEntry| format!("net/{family}/conf/{}/forwarding", i.file_name().to_string_lossy());
            self.journal.note_sysctls(interfaces.map(name))?;
            self.journal.set_sysctl(&all, "1")?;
        }
        self.keeper.keep_sysctl(&all, "1");
        Ok(())
    }

    fn rules(&self) -> String {
        let mesh = &self.interface;
        let mut out = String::new();
        let inside = self.inside().iter().map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(", ");
        let inside = format!("{{ {inside} }}");
        // Between the networks that this host is in, nothing passes that did not before. Bridges belong to somebody who wants what is
        // behind them forwarded, containers say.
        let (mut forward, mut input) = (Vec::new(), Vec::new());
        let others: BTreeSet<String> = self.uplinks().iter().map(|i| format!("\"{i}\"")).collect();
        let others = others.into_iter().collect::<Vec<_>>().join(", ");
        for family in ["ipv4", "ipv6"] {
            if self.journal.before(&forwarding(family)) == Some("0") && !others.is_empty() {
                forward
                    .push(format!("meta nfproto {family} iifname {{ {others} }} oifname {{ {others} }} counter drop"));
            }
        }
        forward.push(format!("iifname != {inside} oifname != {inside} accept"));
        if let Some(rate) = self.exit.as_ref().and_then(|e| e.per_peer) {
            // What was not used for a second may come at once: so nftables counts.
            let limit = format!("limit rate over {rate} bytes/second burst 65536 bytes");
            for (family, kind) in [("ip", "ipv4_addr"), ("ip6", "ipv6_addr")] {
                for (way, interface, address) in [("up", "iifname", "saddr"), ("down", "oifname", "daddr")] {
                    let set = format!("{way}_{family}");
                    let _ =
                        writeln!(out, "set {set} {{ type {kind}; flags dynamic,timeout; timeout 1m; size 65535; }}");
                    forward.push(format!("{interface} \"{mesh}\" update @{set} {{ {family} {address} {limit} }} drop"));
                }
            }
        }
        forward.push("ct state established,related accept".to_owned());
        for (family, kind) in [("ip", "ipv4_addr"), ("ip6", "ipv6_addr")] {
            let _ = writeln!(out, "set clients_{family} {{ type {kind}; flags dynamic; size 65535; }}");
            let count = format!("ct count over {MAX_FLOWS}");
            let limit = format!(
                "iifname {inside} ct state new add @clients_{family} {{ {family} saddr {count} }} counter reject with icmpx type admin-prohibited"
            );
            // What they open with this host itself is remembered in the same table of the kernel.
            input.push(limit.clone());
            forward.push(limit);
        }
        if let Some(Portal { interface, masquerade, .. }) = &self.portal {
            let verdict = if *masquerade { "goto carry" } else { "accept" };
            forward.push(format!("iifname \"{interface}\" oifname \"{mesh}\" {verdict}"));
            forward.push(format!("iifname \"{interface}\" oifname \"{interface}\" accept"));
            if !masquerade {
                forward.push(format!("iifname \"{mesh}\" oifname \"{interface}\" accept"));
            }
        }
        for prefix in &self.announced {
            let family = prefix.family();
            let verdict = if self.masquerade { "goto carry" } else { "accept" };
            forward.push(format!("iifname {inside} {family} daddr {prefix} {verdict}"));
            forward.push(format!("oifname {inside} {family} saddr {prefix} accept"));
        }
        // Nobody outside opens connections into the mesh.
        forward.push(format!("oifname {inside} counter drop"));
        for prefix in self.exit.iter().flat_map(|e| &e.destinations) {
            let family = prefix.family();
            forward.push(format!("{family} daddr {prefix} goto carry"));
        }
        if self.exit.as_ref().is_some_and(|e| e.internet) {
            // An exit is no way into the networks around it.
            for (family, special) in [("ip", &SPECIAL4[..]), ("ip6", &SPECIAL6)] {
                let special = special.join(", ");
                forward.push(format!("{family} daddr {{ {special} }} counter reject with icmpx type admin-prohibited"));
            }
            forward.push("goto carry".to_owned());
        }
        forward.push("counter reject with icmpx type admin-prohibited".to_owned());
        let ((first, last), by_lot) = (self.ports, if self.by_lot { " fully-random" } else { "" });
        let _ = write!(
            out,
            "chain carry {{\nmeta mark set {MASQUERADE:#x} accept\n}}\n\
             chain input {{ type filter hook input priority -10; policy accept;\n{}\n}}\n\
             chain forward {{ type filter hook forward priority -10; policy accept;\n{}\n}}\n\
             chain postrouting {{ type nat hook postrouting priority srcnat; policy accept;\n\
             meta mark {MASQUERADE:#x} meta l4proto {{ tcp, udp }} masquerade to :{first}-{last}{by_lot}\n\
             meta mark {MASQUERADE:#x} masquerade\n}}\n",
            input.join("\n"),
            forward.join("\n")
        );
        out
    }

    /// Puts everything back as it was.
    pub fn stop(&mut self) -> io::Result<()> {
        // First who would put rules in again.
        self.keeper.invite(Vec::new())?;
        self.keeper.forget_sysctls(&[&forwarding("ipv4"), &forwarding("ipv6")]);
        self.keeper.remove_table(TABLE).and(self.journal.undo())
    }
}

fn forwarding(family: &str) -> String {
    format!("net/{family}/conf/all/forwarding")
}

/// Ports for what is masqueraded: the longest run in which this host neither asks from nor, as far as is known, listens. A client
/// that chose its port, and got the same one here, would be sent what is for this host's own programs (CVE-2021-3773).
fn unshadowed((first, last): (u16, u16), taken: &[u16]) -> Option<(u16, u16)> {
    let mut ends: Vec<u16> = taken.iter().copied().filter(|p| *p >= LOWEST && !(first..=last).contains(p)).collect();
    ends.extend([first, last]);
    ends.sort_unstable();
    let is_in = |at: u16| (first..=last).contains(&at);
    let begins = std::iter::once(LOWEST).chain(ends.iter().map(|e| e.saturating_add(1)));
    let ends = ends.iter().map(|e| e.saturating_sub(1)).chain([u16::MAX]);
    let runs = begins.zip(ends).filter(|(a, b)| a.saturating_add(ENOUGH_PORTS) <= *b && !is_in(*a));
    // High ports first: who listens does so below.
    runs.max_by_key(|(a, b)| u32::from((b - a).min(ENOUGH_PORTS)) * 65_536 + u32::from(*a))
}

/// Takes away what a daemon that no longer runs has left.
pub(super) fn clean_up(state_dir: &Path, interface: &str) -> io::Result<()> {
    keeper::remove_table(TABLE, interface)?;
    Journal::open(state_dir, JOURNAL).undo()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_masqueraded_gets_ports_that_nobody_else_has() {
        assert_eq!(unshadowed((32_768, 60_999), &[51_900, 443]), Some((61_000, 65_535)));
        assert_eq!(unshadowed((32_768, 60_999), &[62_000]), Some((62_001, 65_535)));
        assert_eq!(unshadowed((32_768, 65_000), &[51_900]), Some((10_000, 32_767)), "too few above");
        assert_eq!(unshadowed((1024, 65_535), &[]), None);
        let nowhere = (LOWEST - 1, LOWEST - 1);
        assert_eq!(unshadowed(nowhere, &[]), Some((LOWEST, u16::MAX)));
        assert_eq!(unshadowed(nowhere, &[51_820, 51_900]), Some((51_901, u16::MAX)));
    }
}
