//! The same policy as rules of nftables.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{Policy, Rule, Target};
use crate::{
    config::{PORTAL, Ports, SegmentPolicy},
    types::IpPrefix,
};

/// The two families: what rules call them, their sets, and how packets of any address are told.
const FAMILIES: [(&str, &str, &str); 2] =
    [("ip", "ipv4_addr", "meta nfproto ipv4"), ("ip6", "ipv6_addr", "meta nfproto ipv6")];

impl Policy {
    /// Sets and chains of a table of the family `inet`.
    ///
    /// Packets in the direction in which a connection was opened are judged one by one, so that what a rule no longer
    /// allows ends at once; answers, and errors about connections, pass.
    #[must_use]
    pub fn table(&self) -> String {
        let mut sets = String::new();
        let mut rules =
            vec!["ct direction reply ct state established accept".to_owned(), "ct state related accept".to_owned()];
        if let (Some(portal), true) = (self.interfaces.get(1), self.segments.iter().any(|(name, ..)| name == PORTAL)) {
            for protocol in ["udp", "tcp"] {
                rules.push(format!("iifname \"{portal}\" fib daddr type local {protocol} dport 53 accept"));
            }
        }
        for (family, kind, _) in FAMILIES {
            set(&mut sets, &format!("special_{family}"), kind, family, &self.special);
            set(&mut sets, &format!("guests_{family}"), kind, family, &self.guests);
        }
        for (n, rule) in self.rules.iter().enumerate() {
            for (family, kind, any) in FAMILIES {
                let name = format!("rule{n}_{family}");
                let who = match &rule.who {
                    None => any.to_owned(),
                    Some(all) if all.iter().any(|p| p.family() == family) => {
                        set(&mut sets, &name, kind, family, all);
                        format!("{family} saddr @{name}")
                    }
                    Some(_) => continue,
                };
                rule.write(&who, family, &mut rules);
            }
        }
        for (_, prefixes, policy) in &self.segments {
            for prefix in prefixes {
                let family = prefix.family();
                let from = format!("{family} saddr {prefix}");
                rules.extend(match policy {
                    SegmentPolicy::Strict => vec![format!("{from} goto refuse")],
                    SegmentPolicy::InternetOnly => {
                        let around = format!("{from} {family} daddr @special_{family} goto refuse");
                        vec![around, format!("{from} fib daddr type local goto refuse"), format!("{from} accept")]
                    }
                    SegmentPolicy::LocalOnly => {
                        let far = format!("{family} daddr != @special_{family} fib daddr type != local");
                        vec![format!("{from} {far} goto refuse"), format!("{from} accept")]
                    }
                });
            }
        }
        for (family, ..) in FAMILIES {
            rules.push(format!("{family} saddr @guests_{family} goto refuse"));
        }
        rules.push(if self.default_allow { "accept" } else { "goto refuse" }.to_owned());
        let interfaces = self.interfaces.iter().map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(", ");
        let mut out = sets;
        let _ = write!(
            out,
            "chain refuse {{\ncounter\nmeta l4proto tcp reject with tcp reset\n\
             reject with icmpx type admin-prohibited\n}}\n\
             chain judge {{\n{}\n}}\n",
            rules.join("\n")
        );
        for hook in ["input", "forward"] {
            let _ = write!(
                out,
                "chain {hook} {{ type filter hook {hook} priority -5; policy accept;\n\
                 iifname {{ {interfaces} }} goto judge\n}}\n"
            );
        }
        out
    }
}

impl Rule {
    fn write(&self, who: &str, family: &str, out: &mut Vec<String>) {
        let to: Vec<String> = self
            .to
            .iter()
            .filter_map(|target| match target {
                Target::Here => Some("fib daddr type local".to_owned()),
                Target::Internet => Some(format!("{family} daddr != @special_{family} fib daddr type != local")),
                Target::Prefix(p) => (p.family() == family).then(|| format!("{family} daddr {p}")),
            })
            .collect();
        let to = if self.to.is_empty() { vec![String::new()] } else { to };
        let verdict = if self.allow { "accept" } else { "goto refuse" };
        for to in &to {
            for ports in ports(&self.ports, family) {
                out.push(
                    [who, to, &ports, verdict].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" "),
                );
            }
        }
    }
}

fn ports(all: &[Ports], family: &str) -> Vec<String> {
    if all.is_empty() {
        return vec![String::new()];
    }
    let mut out: Vec<String> = ["tcp", "udp"]
        .into_iter()
        .filter_map(|protocol| {
            let of = |p: &Ports| match *p {
                Ports::Range { tcp, udp, first, last } if (protocol == "tcp" && tcp) || (protocol == "udp" && udp) => {
                    Some((first, last))
                }
                _ => None,
            };
            let ranges: Vec<String> =
                joined(all.iter().filter_map(of).collect()).into_iter().map(|(a, b)| format!("{a}-{b}")).collect();
            (!ranges.is_empty()).then(|| format!("{protocol} dport {{ {} }}", ranges.join(", ")))
        })
        .collect();
    if all.contains(&Ports::Icmp) {
        out.push(format!("meta l4proto {}", if family == "ip" { "icmp" } else { "ipv6-icmp" }));
    }
    out
}

/// Ranges that don't overlap: sets in a rule want that.
fn joined(mut all: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    all.sort_unstable();
    let mut out: Vec<(u16, u16)> = Vec::new();
    for (first, last) in all {
        match out.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

fn set(out: &mut String, name: &str, kind: &str, of: &str, elements: &[IpPrefix]) {
    let all: BTreeSet<String> = elements.iter().filter(|p| p.family() == of).map(ToString::to_string).collect();
    let _ = write!(out, "set {name} {{ type {kind}; flags interval; auto-merge;");
    if !all.is_empty() {
        let _ = write!(out, " elements = {{ {} }};", all.into_iter().collect::<Vec<_>>().join(", "));
    }
    out.push_str(" }\n");
}
