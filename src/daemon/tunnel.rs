//! Everything through an exit: policy routing into the mesh's interface, and a fence of nftables so that nothing goes
//! past it.
//!
//! Packets of our own are marked and go out as ever, and so do answers to who came in from outside. Both routing and fence are the
//! kernel's: they stand when the daemon dies. Each closes alone, too: a host without `nft`, or with a state directory that can't be
//! written, is not left open.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    journal::Journal,
    keeper::{self, Keeper, Part},
};
use crate::{
    config::{Bypass, Config, ExitClient},
    host::{self, ANSWERS, MARK, Netlink, Route, Rule, Table},
    types::{IpPrefix, SPECIAL4, SPECIAL6},
};

const TABLE: &str = "aegisray_guard";
/// Who answers begins nothing.
const SYN_ALONE: &str = "tcp flags & (syn | ack) == syn";
const JOURNAL: &str = "tunnel.json";
/// There while the kill switch is wanted, for a start whose configuration can't be read.
const STOOD: &str = "closed";
const VALID_MARK: &str = "net/ipv4/conf/all/src_valid_mark";
/// Private and link-local addresses (RFC 1918, 3927, 4193, 4291): a network that this host is on is its LAN if it is one of these.
const PRIVATE: [&str; 6] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"];
/// Multicast and broadcast, and IPv6's link-local addresses, never leave the links that this host is on.
const NEAR4: [&str; 3] = ["169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"];
const NEAR6: [&str; 2] = ["fe80::/10", "ff00::/8"];

pub(super) struct Tunnel {
    interface: String,
    options: ExitClient,
    /// The mesh's ranges: IPv4, then IPv6.
    ranges: [IpPrefix; 2],
    /// Whose packets go out with their own source: networks behind this node.
    behind: Vec<IpPrefix>,
    /// What does not go into the tunnel.
    near: Vec<IpPrefix>,
    /// The private networks that this host is on, and what never leaves a link.
    lan: Vec<IpPrefix>,
    /// The portal's interface.
    portal: Option<String>,
    keeper: Arc<Keeper>,
    journal: Journal,
    stood: PathBuf,
    /// What is in force of the fence.
    cgroups: Vec<Option<u64>>,
    /// The ports from which this host asks.
    ephemeral: (u16, u16),
    is_up: bool,
    /// Packets are led into the tunnel, if it carries them.
    leads: Option<bool>,
    /// Nothing of it is on this host, as far as that could be seen to.
    is_clear: bool,
}

impl Tunnel {
    pub fn new(config: &Config, keeper: Arc<Keeper>) -> Self {
        let mut tunnel = Self {
            interface: config.interface.clone(),
            options: config.exit.clone(),
            ranges: [config.network.cidr(), config.network.ula()],
            behind: config.behind(),
            near: config.near(),
            lan: Vec::new(),
            portal: config.portal.as_ref().map(|p| p.interface.clone()),
            keeper,
            journal: Journal::open(&config.state_dir, JOURNAL),
            stood: config.state_dir.join(STOOD),
            cgroups: Vec::new(),
            ephemeral: host::ephemeral_ports(),
            is_up: false,
            leads: None,
            is_clear: false,
        };
        tunnel.lan = tunnel.lan_here();
        tunnel
    }

    /// To be called before anything else happens: closes the fence if there is to be one, and takes away what a daemon
    /// has left that had one. It is closed by routing, which takes no program and no file, and by nftables: if either can't be, the
    /// other one is enough to go on.
    pub fn begin(&mut self) -> io::Result<()> {
        self.note_wish();
        if self.options.choice.is_off() {
            // What can't be taken away is said, and no reason to stay down.
            if let Err(error) = self.release() {
                tracing::error!(%error, "what an earlier daemon did on this host can't be taken back (exit)");
            }
            return Ok(());
        }
        if !self.options.kill_switch {
            self.put_fence();
            return Ok(());
        }
        let routed = self.route(false);
        let is_fenced = self.put_fence();
        match routed {
            Err(error) if is_fenced => {
                tracing::error!(%error, "no policy routing: the fence of nftables alone is closed (exit)");
                Ok(())
            }
            other => other,
        }
    }

    /// Without the note, a start whose configuration can't be read leaves the host open; nothing else depends on it.
    fn note_wish(&self) {
        let noted = if self.stands() { fs::write(&self.stood, "") } else { fs::remove_file(&self.stood) };
        match noted {
            Err(e) if e.kind() != io::ErrorKind::NotFound || self.stands() => {
                tracing::warn!(error = %e, file = %self.stood.display(), "cannot note whether the kill switch is wanted");
            }
            _ => {}
        }
    }

    /// Whether it is there now. The keeper goes on trying.
    fn put_fence(&mut self) -> bool {
        self.is_clear = false;
        self.cgroups = self.cgroup_ids();
        self.keeper.put_table(TABLE, self.rules()).is_ok()
    }

    /// Rules know cgroups by numbers, which change when services start, and the ports from which this host asks: to be called now and
    /// then.
    pub fn follow_host(&mut self) {
        let asks = host::ephemeral_ports() != std::mem::replace(&mut self.ephemeral, host::ephemeral_ports());
        if self.is_up && (asks || self.cgroup_ids() != self.cgroups) {
            self.put_fence();
        }
    }

    fn lan_here(&self) -> Vec<IpPrefix> {
        lan_here(&[Some(&self.interface), self.portal.as_ref()].map(|i| i.map_or("", |i| i)))
    }

    /// The networks that this host is on have changed, perhaps.
    pub fn follow_networks(&mut self) -> io::Result<()> {
        let lan = self.lan_here();
        if lan == self.lan {
            return Ok(());
        }
        self.lan = lan;
        if !self.is_up {
            return Ok(());
        }
        self.put_fence();
        self.leads.map_or(Ok(()), |has_exit| self.route(has_exit))
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
            self.put_fence();
            self.is_up = true;
            match self.journal.set_sysctl(VALID_MARK, "1") {
                Ok(()) => self.keeper.keep_sysctl(VALID_MARK, "1"),
                Err(error) => {
                    tracing::warn!(%error, "cannot set src_valid_mark: with a strict rp_filter, links stop working");
                }
            }
        }
        if has_exit || self.options.kill_switch {
            // The last resort is there before the rule that needs it, and the rule before the interface: nothing opens in between.
            if self.leads.is_none() {
                self.route(true)?;
            }
            self.leads = Some(true);
        } else if self.leads.take().is_some() {
            self.unroute()?;
        }
        Ok(())
    }

    /// Policy routing as it is wanted; `into`: into the interface, too, else nowhere.
    fn route(&self, into: bool) -> io::Result<()> {
        let interface = into.then_some(&*self.interface);
        self.keeper.set_routes(Part::Tunnel, routes(interface, self.options.kill_switch))?;
        let lan = if self.options.lan { &*self.lan } else { &[] };
        let lan: Vec<IpPrefix> = lan.iter().chain(&self.near).copied().collect();
        let Bypass { prefixes, users, .. } = &self.options.bypass;
        self.keeper.set_rules(Part::Tunnel, rules(prefixes, users, &lan, self.options.kill_switch))
    }

    fn unroute(&self) -> io::Result<()> {
        let rules = self.keeper.set_rules(Part::Tunnel, Vec::new());
        rules.and(self.keeper.set_routes(Part::Tunnel, Vec::new()))
    }

    /// Goes on as these options say. The fence, if there is one before and after, is not opened in between.
    pub fn change(&mut self, options: &ExitClient, (behind, near): (Vec<IpPrefix>, Vec<IpPrefix>)) {
        (self.is_up, self.leads) = (false, None);
        self.options = options.clone();
        self.note_wish();
        (self.behind, self.near) = (behind, near);
    }

    /// Puts everything back as it was. To be called as often as one likes: what is done is not done again.
    pub fn release(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_clear, true) {
            return Ok(());
        }
        (self.is_up, self.leads) = (false, None);
        self.keeper.forget_sysctls(&[VALID_MARK]);
        let all = [self.unroute(), self.keeper.remove_table(TABLE), self.journal.undo()];
        all.into_iter().collect()
    }

    /// At the end of the daemon: what keeps packets from going past the tunnel stays.
    pub fn end(&mut self) -> io::Result<()> {
        if self.stands() { Ok(()) } else { self.release() }
    }

    /// What of it is not in force, and why; or nothing.
    pub fn complaint(&self) -> String {
        let missing = self.keeper.report().missing;
        let ours = missing.iter().filter(|(what, _)| what.contains(TABLE) || !what.starts_with("nftables"));
        ours.map(|(what, why)| format!("{what}: {why}")).collect::<Vec<_>>().join("; ")
    }

    /// Whether there is a fence that outlives the daemon.
    pub fn stands(&self) -> bool {
        !self.options.choice.is_off() && self.options.kill_switch
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
        let answers = format!("{ANSWERS:#x}");
        // Nobody answers by a question for names.
        let mut outgoing = vec![
            format!("ct direction reply ct mark {answers} {SYN_ALONE} ct mark set 0"),
            format!("ct direction reply ct mark {answers} udp dport != {{ 53, 853 }} meta mark set {answers}"),
            format!("ct direction reply ct mark {answers} tcp dport != {{ 53, 853 }} meta mark set {answers}"),
            format!("ct direction reply ct mark {answers} meta l4proto != {{ tcp, udp }} meta mark set {answers}"),
        ];
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
            // Whoever sends a datagram to a port from which this host asks only wants its questions to look like answers.
            let (first, last) = self.ephemeral;
            // What comes to all of a link is dropped by TCP without a word, and conntrack goes on to remember it.
            let new = format!("iifname != {inside} meta pkttype host ct state new fib daddr type local");
            let mark = format!("ct mark set {answers}");
            incoming.push(format!("{new} meta l4proto {{ udp, sctp }} th dport != {first}-{last} {mark}"));
            incoming.push(format!("{new} tcp flags & (syn | ack | rst | fin) == syn {mark}"));
            incoming.push(format!("{new} meta l4proto {{ icmp, icmpv6 }} {mark}"));
        }
        for mark in [&mark, &answers] {
            incoming.push(format!("iifname != \"{mesh}\" ct mark {mark} meta mark set {mark}"));
        }
        chain("incoming", "type filter hook prerouting priority mangle", &incoming);
        chain("names", "type nat hook output priority -100", &self.names(&mark));
        chain("sources", "type nat hook postrouting priority srcnat", &self.sources(&mark));
        if !o.kill_switch {
            return out;
        }
        let mut fence = vec![
            format!("oifname {inside} accept"),
            format!("meta mark {{ {mark}, {answers} }} accept"),
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
            // Names are asked of nobody here, by DNS or by shouting (NetBIOS, LLMNR).
            around.push("udp dport { 53, 137, 853, 5355 } reject".to_owned());
            around.push("tcp dport { 53, 853 } reject with tcp reset".to_owned());
            for family in ["ip", "ip6"] {
                let lan: Vec<String> =
                    self.lan.iter().filter(|p| p.family() == family).map(ToString::to_string).collect();
                around.push(format!("{family} daddr {{ {} }} accept", lan.join(", ")));
            }
        }
        let end = "counter reject with icmpx type admin-prohibited".to_owned();
        fence.extend(around.iter().cloned().chain([end.clone()]));
        chain("fence", "type filter hook output priority 300", &fence);
        let mut transit = vec![
            format!("oifname {inside} accept"),
            format!("iifname \"{mesh}\" accept"),
            format!("meta mark {{ {mark}, {answers} }} accept"),
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
            let marks = format!("{{ {mark}, {ANSWERS:#x} }}");
            out.push(format!(
                "oifname != {{ \"lo\", \"{mesh}\" }} meta mark {marks} {family} saddr {range} masquerade"
            ));
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

/// The private networks that this host is on, but for those behind these interfaces; and what never leaves a link.
pub(super) fn lan_here(but: &[&str]) -> Vec<IpPrefix> {
    let private: Vec<IpPrefix> = PRIVATE.iter().filter_map(|p| p.parse().ok()).collect();
    let is_private =
        |p: &IpPrefix| private.iter().any(|all| all.prefix_len() <= p.prefix_len() && all.contains(p.addr()));
    let networks = host::interface_networks().unwrap_or_default();
    let others = networks.iter().filter(|a| !but.contains(&&*a.interface));
    let lan = others.filter_map(|a| IpPrefix::new(a.ip, a.prefix_len)).filter(is_private);
    let mut out: Vec<IpPrefix> = NEAR4.iter().chain(&NEAR6).filter_map(|p| p.parse().ok()).chain(lan).collect();
    out.sort_unstable();
    out.dedup();
    out
}

/// The routes of the tunnel's table: into the interface, if there is one, and nowhere where nothing may go past it. IPv6 may be off on
/// the interface: then it ends here, too.
pub(super) fn routes(interface: Option<&str>, is_closed: bool) -> Vec<Route> {
    let all = [IpPrefix::new([0, 0, 0, 0].into(), 0), IpPrefix::new([0u16; 8].into(), 0)];
    let mut out = Vec::new();
    for to in all.into_iter().flatten() {
        if is_closed || to.addr().is_ipv6() {
            out.push(Route { to, into: None });
        }
        out.extend(interface.map(|name| Route { to, into: Some(name.to_owned()) }));
    }
    out
}

/// The rules that lead into that table all but what goes past: `past` and who asks as one of `users` for certain, and `near` unless it is
/// a question for a name. `is_closed`: what finds no way there has none.
pub(super) fn rules(past: &[IpPrefix], users: &[u32], near: &[IpPrefix], is_closed: bool) -> Vec<Rule> {
    let mut out: Vec<Rule> = past.iter().map(|p| Rule::Past(*p)).collect();
    out.extend(users.iter().map(|user| Rule::User(*user)));
    for port in [53, 853] {
        out.extend([libc::IPPROTO_UDP, libc::IPPROTO_TCP].map(|p| Rule::Names { protocol: p as u8, port }));
    }
    out.extend(near.iter().map(|p| Rule::Near(*p)));
    out.push(Rule::Rest);
    out.extend(is_closed.then_some(Rule::Nowhere));
    out
}

/// Whether a daemon with this directory had the kill switch when it ran last.
pub(super) fn stood(state_dir: &Path) -> bool {
    state_dir.join(STOOD).exists()
}

/// Takes away what a daemon that no longer runs has left.
pub(super) fn clean_up(state_dir: &Path, interface: &str) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    for ipv4 in [true, false] {
        netlink.sync_rules(interface, &[], None, ipv4)?;
        for table in [Table::Tunnel, Table::Mesh] {
            netlink.sync_routes(interface, table, &[], ipv4)?;
        }
    }
    keeper::remove_table(TABLE, interface)?;
    let _ = fs::remove_file(state_dir.join(STOOD));
    Journal::open(state_dir, JOURNAL).undo()
}
