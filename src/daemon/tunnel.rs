//! Everything through an exit: policy routing into the mesh's interface, and a fence of nftables so that nothing goes
//! past it.
//!
//! Packets of our own are marked and go out as ever. Both routing and fence are the kernel's: they stand when the daemon
//! dies.

use std::{fmt::Write as _, fs, io, os::unix::fs::MetadataExt as _, path::Path};

use super::{journal::Journal, state};
use crate::{
    config::{Config, ExitClient},
    host::{self, MARK, Netlink, Rule, firewall},
    types::{IpPrefix, SPECIAL4, SPECIAL6},
};

const TABLE: &str = "aegisray_guard";
const JOURNAL: &str = "tunnel.json";
/// Private and link-local addresses (RFC 1918, 3927, 4193, 4291), multicast and broadcast.
const LAN4: [&str; 6] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"];
const LAN6: [&str; 3] = ["fc00::/7", "fe80::/10", "ff00::/8"];

pub(super) struct Tunnel {
    interface: String,
    options: ExitClient,
    /// The mesh's ranges: IPv4, then IPv6.
    ranges: [IpPrefix; 2],
    /// Whose packets go out with their own source: networks behind this node.
    behind: Vec<IpPrefix>,
    /// What does not go into the tunnel.
    near: Vec<IpPrefix>,
    /// The portal's interface.
    portal: Option<String>,
    journal: Journal,
    is_up: bool,
    cgroups: Vec<Option<u64>>,
    /// Packets are led into the tunnel.
    leads: bool,
}

impl Tunnel {
    pub fn new(config: &Config) -> Self {
        Self {
            interface: config.interface.clone(),
            options: config.exit.clone(),
            ranges: [config.network.cidr(), config.network.ula()],
            behind: config.behind(),
            near: config.near(),
            portal: config.portal.as_ref().map(|p| p.interface.clone()),
            journal: Journal::open(&config.state_dir, JOURNAL),
            is_up: false,
            cgroups: Vec::new(),
            leads: false,
        }
    }

    /// To be called before anything else happens: closes the fence if there is to be one, and takes away what a daemon
    /// has left that had one.
    pub fn begin(&mut self) -> io::Result<()> {
        if self.options.choice.is_off() { self.journal.undo() } else { self.put_fence() }
    }

    fn put_fence(&mut self) -> io::Result<()> {
        self.journal.note_table(TABLE)?;
        self.cgroups = self.cgroup_ids();
        firewall::put_table(TABLE, &self.rules())
    }

    /// Rules know cgroups by numbers, which change when services start: to be called now and then.
    pub fn follow_cgroups(&mut self) -> io::Result<()> {
        if self.is_up && self.cgroup_ids() != self.cgroups { self.put_fence() } else { Ok(()) }
    }

    /// The numbers of the cgroups that are there.
    fn cgroup_ids(&self) -> Vec<Option<u64>> {
        let all = &self.options.bypass.cgroups;
        if all.is_empty() {
            return Vec::new();
        }
        let root = host::cgroup_root();
        all.iter().map(|c| fs::metadata(root.join(c)).ok().map(|m| m.ino())).collect()
    }

    /// Leads everything into the tunnel, if it carries it (`has_exit`) or nothing may go past it; else leaves it where it
    /// would go.
    pub fn lead(&mut self, has_exit: bool) -> io::Result<()> {
        if !self.is_up {
            self.put_fence()?;
            self.is_up = true;
            if let Err(error) = self.journal.set_sysctl("net/ipv4/conf/all/src_valid_mark", "1") {
                tracing::warn!(%error, "cannot set src_valid_mark: with a strict rp_filter, links stop working");
            }
        }
        let leads = has_exit || self.options.kill_switch;
        if leads == self.leads {
            return Ok(());
        }
        let mut netlink = Netlink::open()?;
        netlink.remove_rules()?;
        if leads {
            self.journal.note_rules()?;
            let both = self.set_rules(&mut netlink, true).and_then(|()| self.set_rules(&mut netlink, false));
            if both.is_err() {
                netlink.remove_rules()?;
            }
            both?;
        }
        self.leads = leads;
        Ok(())
    }

    fn set_rules(&self, netlink: &mut Netlink, ipv4: bool) -> io::Result<()> {
        let led = netlink.set_tunnel_route(&self.interface, ipv4);
        if let Err(error) = led {
            // IPv6 may be off on this host, or on the interface: then it ends here.
            if ipv4 {
                return Err(error);
            }
            match netlink.set_tunnel_dead_end(ipv4) {
                Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(()),
                other => other?,
            }
        } else if self.options.kill_switch {
            netlink.set_tunnel_dead_end(ipv4)?;
        }
        netlink.add_rule(&Rule::Marked, ipv4)?;
        let fits = |p: &IpPrefix| p.addr().is_ipv4() == ipv4;
        for prefix in self.options.bypass.prefixes.iter().copied().filter(fits) {
            netlink.add_rule(&Rule::To { prefix, default: true }, ipv4)?;
        }
        let lan = LAN4.iter().chain(&LAN6).filter(|_| self.options.lan).filter_map(|p| p.parse().ok());
        for prefix in lan.chain(self.ranges).chain(self.near.iter().copied()).filter(fits) {
            netlink.add_rule(&Rule::To { prefix, default: false }, ipv4)?;
        }
        for user in &self.options.bypass.users {
            netlink.add_rule(&Rule::User(*user), ipv4)?;
        }
        netlink.add_rule(&Rule::Rest, ipv4)
    }

    /// Goes on as these options say. The fence, if there is one before and after, is not opened in between.
    pub fn change(&mut self, options: &ExitClient, (behind, near): (Vec<IpPrefix>, Vec<IpPrefix>)) -> io::Result<()> {
        if self.leads {
            Netlink::open()?.remove_rules()?;
        }
        self.is_up = false;
        self.leads = false;
        self.options = options.clone();
        (self.behind, self.near) = (behind, near);
        Ok(())
    }

    /// Puts everything back as it was.
    pub fn release(&mut self) -> io::Result<()> {
        self.is_up = false;
        self.leads = false;
        self.journal.undo()
    }

    /// The chains of our table.
    fn rules(&self) -> String {
        let o = &self.options;
        let (mark, mesh) = (format!("{MARK:#x}"), &self.interface);
        let portal = self.portal.iter().map(|p| format!(", \"{p}\"")).collect::<String>();
        let inside = format!("{{ \"lo\", \"{mesh}\"{portal} }}");
        let mut out = String::new();
        let mut chain = |name: &str, kind: &str, rules: &[String]| {
            let _ = write!(out, "chain {name} {{ {kind}; policy accept;\n{}\n}}\n", rules.join("\n"));
        };
        // What goes past the tunnel gets the mark, before it is decided where it goes.
        let mut outgoing = vec![format!("ct direction reply ct mark {mark} meta mark set {mark}")];
        let root = host::cgroup_root();
        for cgroup in o.bypass.cgroups.iter().filter(|c| root.join(c).exists()) {
            let level = cgroup.split('/').count();
            // nft looks below this directory, wherever cgroup v2 is mounted.
            let path = root.strip_prefix("/sys/fs/cgroup").unwrap_or(Path::new("")).join(cgroup);
            outgoing.push(format!("socket cgroupv2 level {level} \"{}\" meta mark set {mark}", path.display()));
        }
        outgoing.push(format!("meta mark {mark} ct mark set {mark}"));
        chain("outgoing", "type route hook output priority mangle", &outgoing);
        let mut incoming = Vec::new();
        if o.inbound {
            incoming.push(format!("iifname != {inside} ct state new fib daddr type local ct mark set {mark}"));
        }
        incoming.push(format!("iifname != \"{mesh}\" ct mark {mark} meta mark set {mark}"));
        chain("incoming", "type filter hook prerouting priority mangle", &incoming);
        chain("names", "type nat hook output priority -100", &self.names(&mark));
        chain("sources", "type nat hook postrouting priority srcnat", &self.sources(&mark));
        if !o.kill_switch {
            return out;
        }
        let mut fence = vec![
            format!("oifname {inside} accept"),
            format!("meta mark {mark} accept"),
            // What keeps the host on its own network: neighbours, routers, addresses.
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept".to_owned(),
            "udp sport 68 udp dport 67 accept".to_owned(),
            "udp sport 546 udp dport 547 accept".to_owned(),
        ];
        for user in &o.bypass.users {
            fence.push(format!("meta skuid {user} accept"));
        }
        let mut around: Vec<String> = Vec::new();
        for prefix in &o.bypass.prefixes {
            around.push(format!("{} daddr {prefix} accept", prefix.family()));
        }
        if o.lan {
            // Names are asked of nobody here.
            around.push("udp dport { 53, 853 } reject".to_owned());
            around.push("tcp dport { 53, 853 } reject with tcp reset".to_owned());
            around.push(format!("ip daddr {{ {} }} accept", LAN4.join(", ")));
            around.push(format!("ip6 daddr {{ {} }} accept", LAN6.join(", ")));
        }
        let end = "counter reject with icmpx type admin-prohibited".to_owned();
        fence.extend(around.iter().cloned().chain([end.clone()]));
        chain("fence", "type filter hook output priority 300", &fence);
        let mut transit = vec![
            format!("oifname {inside} accept"),
            format!("iifname \"{mesh}\" accept"),
            format!("meta mark {mark} accept"),
        ];
        transit.extend(around.into_iter().chain([end]));
        chain("transit", "type filter hook forward priority 300", &transit);
        out
    }

    /// Questions for names go to servers that are asked through the tunnel, whomever the host would have asked.
    fn names(&self, mark: &str) -> Vec<String> {
        let mut out = Vec::new();
        for (family, own, range) in [("ip", "127.0.0.0/8", self.ranges[0]), ("ip6", "::1", self.ranges[1])] {
            let Some(server) = self.options.dns.iter().find(|s| IpPrefix::host(**s).family() == family) else {
                continue;
            };
            let users = self.options.bypass.users.iter().map(|u| format!("meta skuid != {u} ")).collect::<String>();
            for protocol in ["udp", "tcp"] {
                out.push(format!(
                    "meta mark != {mark} {users}{family} daddr != {{ {own}, {range} }} {protocol} dport 53 dnat {family} to {server}"
                ));
            }
        }
        out
    }

    /// Sources are those of the way that packets take: sockets may have been made for another one.
    fn sources(&self, mark: &str) -> Vec<String> {
        let mut out = Vec::new();
        for (family, protocol, range) in [("ip", "ipv4", self.ranges[0]), ("ip6", "ipv6", self.ranges[1])] {
            let mesh = &self.interface;
            out.push(format!("oifname != {{ \"lo\", \"{mesh}\" }} meta mark {mark} {family} saddr {range} masquerade"));
            out.push(format!("oifname \"{mesh}\" {family} saddr {range} return"));
            // To the internet they go as this node does: the exit need not know of them.
            let special = if family == "ip" { SPECIAL4.join(", ") } else { SPECIAL6.join(", ") };
            for own in self.behind.iter().filter(|p| p.family() == family) {
                out.push(format!("oifname \"{mesh}\" {family} saddr {own} {family} daddr {{ {special} }} return"));
            }
            out.push(format!("oifname \"{mesh}\" meta nfproto {protocol} masquerade"));
        }
        out
    }
}

/// Takes away what a daemon that no longer runs has left.
pub fn clean_up(state_dir: &Path) -> io::Result<()> {
    let _lock = state::lock(state_dir)?;
    Journal::open(state_dir, JOURNAL).undo()?;
    super::gateway::clean_up(state_dir)?;
    super::access::clean_up(state_dir)
}
