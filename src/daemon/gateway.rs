//! Carrying others' packets out of the mesh, to the internet or to networks behind this node: forwarding, masquerade and
//! limits, in a table of our own, beside whatever other rules the host has.

use std::{
    fmt::Write as _,
    fs, io,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use serde_json::Value;

use super::{
    journal::{COMMENT, Journal},
    worker::Worker,
};
use crate::{
    config::{Config, ExitNode, Portal},
    host::{MARK, firewall},
    types::{IpPrefix, SPECIAL4, SPECIAL6},
};

const TABLE: &str = "aegisray_exit";
const JOURNAL: &str = "gateway.json";
/// The mark of what is to be masqueraded.
const MASQUERADE: u32 = MARK + 1;
/// Others may have made their rules anew.
const LOOK_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Gateway {
    interface: String,
    exit: Option<ExitNode>,
    /// Networks behind this node, and whether packets for them get this node's address.
    announced: Vec<IpPrefix>,
    masquerade: bool,
    portal: Option<Portal>,
    journal: Journal,
    guests: Option<Worker<()>>,
}

impl Gateway {
    /// Sets this host up for what its configuration offers. What a daemon that crashed has left is taken away.
    pub fn start(config: &Config) -> io::Result<Self> {
        let mut journal = Journal::open(&config.state_dir, JOURNAL);
        journal.undo()?;
        let mut gateway = Self {
            interface: config.interface.clone(),
            exit: config.exit_node.clone(),
            announced: config.announce.clone(),
            masquerade: config.masquerade,
            portal: config.portal.clone(),
            journal,
            guests: None,
        };
        if gateway.carries() {
            let ipv6 = gateway.portal.is_some() || gateway.announced.iter().any(|p| p.addr().is_ipv6());
            gateway.forward(ipv6 || gateway.exit.as_ref().is_some_and(|e| e.ipv6))?;
            gateway.journal.note_table(TABLE)?;
            firewall::put_table(TABLE, &gateway.rules())?;
            gateway.journal.note_guests()?;
            gateway.guests = Some(guests(gateway.inside())?);
        }
        Ok(gateway)
    }

    fn carries(&self) -> bool {
        self.exit.is_some() || !self.announced.is_empty() || self.portal.is_some()
    }

    /// The interfaces behind which the mesh and the portal's clients are.
    fn inside(&self) -> Vec<String> {
        std::iter::once(&self.interface).chain(self.portal.iter().map(|p| &p.interface)).cloned().collect()
    }

    fn forward(&mut self, ipv6: bool) -> io::Result<()> {
        self.forward_family("ipv4")?;
        if ipv6 && Path::new("/proc/sys/net/ipv6").exists() {
            // A host that forwards takes no router's word for its own address, unless it is told to (ip-sysctl: accept_ra).
            for interface in fs::read_dir("/proc/sys/net/ipv6/conf")?.flatten() {
                let name = format!("net/ipv6/conf/{}/accept_ra", interface.file_name().to_string_lossy());
                if fs::read_to_string(Path::new("/proc/sys").join(&name)).is_ok_and(|v| v.trim() == "1") {
                    self.journal.set_sysctl(&name, "2")?;
                }
            }
            self.forward_family("ipv6")?;
        }
        Ok(())
    }

    /// What is set for all interfaces is set for each of them: what each had is noted before.
    fn forward_family(&mut self, family: &str) -> io::Result<()> {
        let all = format!("net/{family}/conf/all/forwarding");
        if fs::read_to_string(Path::new("/proc/sys").join(&all))?.trim() == "1" {
            return Ok(());
        }
        let interfaces = fs::read_dir(format!("/proc/sys/net/{family}/conf"))?.flatten();
        let name = |i: fs::DirEntry| format!("net/{family}/conf/{}/forwarding", i.file_name().to_string_lossy());
        self.journal.note_sysctls(interfaces.map(name))?;
        self.journal.set_sysctl(&all, "1")
    }

    fn rules(&self) -> String {
        let mesh = &self.interface;
        let mut out = String::new();
        let inside = self.inside().iter().map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(", ");
        let inside = format!("{{ {inside} }}");
        let mut forward = vec![format!("iifname != {inside} oifname != {inside} accept")];
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
        let _ = write!(
            out,
            "chain carry {{\nmeta mark set {MASQUERADE:#x} accept\n}}\n\
             chain forward {{ type filter hook forward priority -10; policy accept;\n{}\n}}\n\
             chain postrouting {{ type nat hook postrouting priority srcnat; policy accept;\n\
             meta mark {MASQUERADE:#x} masquerade\n}}\n",
            forward.join("\n")
        );
        out
    }

    /// Puts everything back as it was.
    pub fn stop(&mut self) -> io::Result<()> {
        // First who would put rules in again.
        self.guests = None;
        self.journal.undo()
    }
}

/// A chain of somebody else's that drops what it doesn't know drops our packets too, whatever our own table says: it gets two
/// rules of ours on top, and stays as it is otherwise. A thread looks after them, since listing the rules of a host can take
/// longer than a link may be silent.
fn guests(interfaces: Vec<String>) -> io::Result<Worker<()>> {
    let invite = move || {
        let add = let_through(&firewall::rules()?, &interfaces);
        if add.is_empty() { Ok(()) } else { firewall::load(&add) }
    };
    invite()?;
    Worker::start("aegis-guests", move |jobs: &Receiver<()>| {
        while jobs.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Disconnected) {
            let looked: io::Result<()> = invite();
            if let Err(error) = looked {
                tracing::warn!(%error, "other rules of this host may not let packets through (exit_node, routing.announce)");
            }
        }
    })
}

/// The commands that put rules of ours on top of others' chains, where there are none yet.
fn let_through(rules: &Value, interfaces: &[String]) -> String {
    let items = || rules["nftables"].as_array().into_iter().flatten();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let place = |value: &Value, chain: &str| (text(value, "family"), text(value, "table"), text(value, chain));
    let all: Vec<&Value> = items().map(|i| &i["rule"]).filter(|r| r.is_object()).collect();
    let mut out = String::new();
    for chain in items().map(|i| &i["chain"]).filter(|c| c["hook"] == "forward" && c["type"] == "filter") {
        let at = place(chain, "name");
        let is_ours = at.1.starts_with("aegisray");
        let mut inside = all.iter().filter(|r| place(r, "chain") == at).peekable();
        let may_drop = chain["policy"] == "drop" || inside.peek().is_some();
        let has_ours = inside.any(|r| r["comment"] == COMMENT);
        if is_ours || !may_drop || has_ours || !["ip", "ip6", "inet"].contains(&&*at.0) {
            continue;
        }
        let chain = format!("insert rule {} {} {}", at.0, at.1, at.2);
        for i in interfaces {
            let _ = writeln!(out, "{chain} oifname \"{i}\" ct state established,related accept comment \"{COMMENT}\"");
            let _ = writeln!(out, "{chain} iifname \"{i}\" accept comment \"{COMMENT}\"");
        }
    }
    out
}

/// Takes away what a daemon that no longer runs has left.
pub(super) fn clean_up(state_dir: &Path) -> io::Result<()> {
    Journal::open(state_dir, JOURNAL).undo()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn others_chains_get_one_pair_of_rules_on_top_and_only_where_they_may_drop() {
        let chain = |table: &str, policy: &str| json!({"chain": {"family": "ip", "table": table, "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0, "policy": policy}});
        let rule = |table: &str, comment: &str| json!({"rule": {"family": "ip", "table": table, "chain": "FORWARD", "handle": 7, "comment": comment, "expr": []}});
        let rules = json!({"nftables": [
            chain("filter", "drop"), chain("empty", "accept"), chain("ufw", "accept"), rule("ufw", ""),
            chain("seen", "drop"), rule("seen", COMMENT), chain("aegisray_exit", "accept"), rule("aegisray_exit", ""),
        ]});
        let add = let_through(&rules, &["aegis0".to_owned()]);
        assert_eq!(add.lines().count(), 4, "{add}");
        assert!(add.starts_with("insert rule ip filter FORWARD oifname \"aegis0\""));
        assert!(add.contains("insert rule ip ufw FORWARD iifname \"aegis0\" accept comment \"aegisray\"\n"));
        assert_eq!(let_through(&json!({"nftables": []}), &["aegis0".to_owned()]), "");
    }
}
