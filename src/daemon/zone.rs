//! The names of the mesh: `NAME.SUFFIX` and `NODEID.SUFFIX` to addresses, and back.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use hickory_resolver::proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{PTR, SOA, SRV},
};

use crate::types::{IpPrefix, NodeId, Service};

/// An answer names no more places that have a service, and of one node no more ports of one kind: who asks can't have answers made that
/// are thrown away, since none so long arrives.
const MOST_PLACES: usize = 256;
const MOST_PORTS: usize = 2;
/// Seconds that others may keep an answer: nodes come and go.
const TTL: u32 = 30;

/// A node, as far as its name is concerned.
#[derive(Clone)]
pub(super) struct Host {
    pub id: NodeId,
    /// The name that it owns: no two nodes own one.
    pub name: Option<String>,
    /// The addresses that it owns.
    pub addresses: Vec<IpAddr>,
    pub services: Vec<Service>,
}

/// What there is to say to a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Records(Vec<Record>),
    /// The name is there, and has nothing of this type.
    Nothing,
    NoSuchName,
    /// The name is none of the mesh's.
    NotOurs,
}

#[derive(Default)]
pub(super) struct Zone {
    suffix: Name,
    /// The mesh's.
    ranges: Vec<IpPrefix>,
    hosts: HashMap<Name, Vec<IpAddr>>,
    names: HashMap<IpAddr, Name>,
    /// By `_http._tcp.NAME.SUFFIX` and, for all nodes, `_http._tcp.SUFFIX`: ports and who has them.
    services: HashMap<Name, Vec<(u16, Name)>>,
    /// Where the next answer of many places begins: each has its turn.
    turn: AtomicUsize,
}

impl Zone {
    pub fn new(suffix: &str, ranges: [IpPrefix; 2], all: Vec<Host>) -> Self {
        // By its letters alone: the rules for other scripts (IDNA), which the other way to make a name applies, refuse an underscore.
        let suffix = Name::from_ascii(format!("{suffix}.")).unwrap_or_default();
        let mut zone = Self {
            suffix,
            ranges: ranges.to_vec(),
            hosts: HashMap::new(),
            names: HashMap::new(),
            services: HashMap::new(),
            turn: AtomicUsize::new(0),
        };
        // NodeIds first: nothing takes their place.
        for host in &all {
            let Some(name) = zone.name(&host.id.to_string()) else { continue };
            zone.names.extend(host.addresses.iter().map(|ip| (*ip, name.clone())));
            zone.hosts.insert(name, host.addresses.clone());
        }
        for host in all {
            let Some(name) = host.name.as_deref().and_then(|label| zone.name(label)) else { continue };
            if zone.hosts.contains_key(&name) {
                continue;
            }
            zone.names.extend(host.addresses.iter().map(|ip| (*ip, name.clone())));
            zone.hosts.insert(name.clone(), host.addresses);
            for Service { kind, port } in &host.services {
                for domain in [&name, &zone.suffix] {
                    let Ok(of) = Name::from_ascii(kind.as_str()).and_then(|n| n.append_domain(domain)) else {
                        continue;
                    };
                    let places = zone.services.entry(of).or_default();
                    // Those of one node come one after another.
                    let before = places.iter().rev().take_while(|(_, of)| *of == name).count();
                    if before < MOST_PORTS || *domain != zone.suffix {
                        places.push((*port, name.clone()));
                    }
                }
            }
        }
        zone
    }

    fn name(&self, label: &str) -> Option<Name> {
        let name = Name::from_ascii(label).ok()?.append_domain(&self.suffix).ok()?;
        Some(name.to_lowercase())
    }

    /// `name` in lower case.
    pub fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        if let Ok(net) = name.parse_arpa_name() {
            let (ip, len) = (net.addr(), net.prefix_len());
            let is_ours = |range: &IpPrefix| range.contains(ip) && len >= range.prefix_len();
            if !self.ranges.iter().any(is_ours) {
                return Answer::NotOurs;
            }
            return match self.names.get(&ip) {
                Some(of) if kind == RecordType::PTR => record(name, RData::PTR(PTR(of.clone()))),
                Some(_) => Answer::Nothing,
                None => Answer::NoSuchName,
            };
        }
        if *name == self.suffix {
            return if kind == RecordType::SOA { Answer::Records(vec![self.authority()]) } else { Answer::Nothing };
        }
        if !self.suffix.zone_of(name) {
            return Answer::NotOurs;
        }
        if let Some(all) = self.services.get(name) {
            // None is better than another (RFC 2782: priority and weight).
            let srv = |(port, target): &(u16, Name)| RData::SRV(SRV::new(0, 0, *port, target.clone()));
            let turn = if all.len() > MOST_PLACES { self.turn.fetch_add(MOST_PLACES, Ordering::Relaxed) } else { 0 };
            let some = all.iter().cycle().skip(turn % all.len().max(1)).take(all.len().min(MOST_PLACES));
            let records = some.map(|of| Record::from_rdata(name.clone(), TTL, srv(of)));
            return if kind == RecordType::SRV { Answer::Records(records.collect()) } else { Answer::Nothing };
        }
        let Some(addresses) = self.hosts.get(name) else { return Answer::NoSuchName };
        let wanted = addresses.iter().filter(|ip| match kind {
            RecordType::A => ip.is_ipv4(),
            RecordType::AAAA => ip.is_ipv6(),
            RecordType::ANY => true,
            _ => false,
        });
        let records: Vec<Record> = wanted.map(|ip| Record::from_rdata(name.clone(), TTL, RData::from(*ip))).collect();
        if records.is_empty() { Answer::Nothing } else { Answer::Records(records) }
    }

    /// What stands beside an answer that there is nothing (RFC 2308).
    pub fn authority(&self) -> Record {
        let soa = SOA::new(self.suffix.clone(), self.suffix.clone(), 1, 60, 60, 60, TTL);
        Record::from_rdata(self.suffix.clone(), TTL, RData::SOA(soa))
    }
}

fn record(name: &Name, data: RData) -> Answer {
    Answer::Records(vec![Record::from_rdata(name.clone(), TTL, data)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u8, name: &str) -> Host {
        let addresses = vec![[100, 64, 0, n].into(), format!("fd00::{n}").parse().unwrap()];
        let services = vec![Service { kind: "_http._tcp".parse().unwrap(), port: 8000 + u16::from(n) }];
        Host { id: NodeId([n; 32]), name: (!name.is_empty()).then(|| name.to_owned()), addresses, services }
    }

    fn data(answer: Answer) -> Vec<String> {
        match answer {
            Answer::Records(all) => all.iter().map(|r| r.data.to_string()).collect(),
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn names_and_addresses_both_ways_and_nobody_takes_the_name_that_is_a_node_id() {
        let ranges = ["100.64.0.0/16", "fd00::/64"].map(|p| p.parse().unwrap());
        let [three, four] = [3, 4].map(|n| NodeId([n; 32]).to_string());
        let mut contested = host(6, "six");
        contested.addresses.remove(0);
        let all = vec![host(1, "Alpha"), host(2, ""), host(3, ""), host(4, "known"), host(9, &three), contested];
        let zone = Zone::new("aegis", ranges, all);
        let ask = |name: &str, kind| data(zone.answer(&Name::from_utf8(name).unwrap().to_lowercase(), kind));
        assert_eq!(ask("alpha.aegis.", RecordType::A), ["100.64.0.1"]);
        assert_eq!(ask("ALPHA.aegis.", RecordType::AAAA), ["fd00::1"]);
        assert_eq!(ask("alpha.aegis.", RecordType::TXT), ["Nothing"]);
        assert_eq!(ask("twin.aegis.", RecordType::A), ["NoSuchName"]);
        assert_eq!(ask("known.aegis.", RecordType::A), ["100.64.0.4"]);
        assert_eq!(ask(&format!("{three}.aegis."), RecordType::A), ["100.64.0.3"], "not the one that calls itself so");
        assert_eq!(ask(&format!("_http._tcp.{three}.aegis."), RecordType::SRV), ["NoSuchName"]);
        assert_eq!(ask(&format!("{four}.aegis."), RecordType::A), ["100.64.0.4"]);
        assert_eq!(ask("six.aegis.", RecordType::A), ["Nothing"], "another node has the address, or nobody");
        assert_eq!(ask("six.aegis.", RecordType::AAAA), ["fd00::6"]);
        assert_eq!(ask("6.0.64.100.in-addr.arpa.", RecordType::PTR), ["NoSuchName"]);
        assert_eq!(ask("1.0.64.100.in-addr.arpa.", RecordType::PTR), ["alpha.aegis."]);
        assert_eq!(ask("3.0.64.100.in-addr.arpa.", RecordType::PTR), [format!("{three}.aegis.")]);
        assert_eq!(ask("8.0.64.100.in-addr.arpa.", RecordType::PTR), ["NoSuchName"]);
        assert_eq!(ask("1.1.168.192.in-addr.arpa.", RecordType::PTR), ["NotOurs"]);
        assert_eq!(ask("www.example.org.", RecordType::A), ["NotOurs"]);
        assert_eq!(ask("aegis.", RecordType::A), ["Nothing"]);
        assert_eq!(ask("_http._tcp.alpha.aegis.", RecordType::SRV), ["0 0 8001 alpha.aegis."]);
        let mut all = ask("_http._tcp.aegis.", RecordType::SRV);
        all.sort();
        assert_eq!(all, ["0 0 8001 alpha.aegis.", "0 0 8004 known.aegis.", "0 0 8006 six.aegis."]);
        assert_eq!(ask("_http._tcp.alpha.aegis.", RecordType::A), ["Nothing"]);
        assert_eq!(ask("_smtp._tcp.alpha.aegis.", RecordType::SRV), ["NoSuchName"]);
    }

    /// An answer names some of those who offer a service, each in its turn, and of one node two ports.
    #[test]
    fn an_answer_of_many_places_has_a_bound() {
        let service = |port| Service { kind: "_http._tcp".parse().unwrap(), port };
        let one = |i: u32| Host {
            id: NodeId([i as u8 ^ (i >> 8) as u8; 32].map(|b| b ^ (i >> 4) as u8)),
            name: Some(format!("n{i}")),
            addresses: Vec::new(),
            services: (1..=16).map(service).collect(),
        };
        let zone = Zone::new(
            "aegis",
            ["100.64.0.0/16", "fd00::/64"].map(|p| p.parse().unwrap()),
            (0..1000).map(one).collect(),
        );
        let ask = |name: &str| data(zone.answer(&Name::from_ascii(name).unwrap(), RecordType::SRV));
        assert_eq!(ask("_http._tcp.n7.aegis.").len(), 16);
        let answers: Vec<Vec<String>> = (0..8).map(|_| ask("_http._tcp.aegis.")).collect();
        assert!(answers.iter().all(|a| a.len() == MOST_PLACES));
        let all: std::collections::BTreeSet<&String> = answers.iter().flatten().collect();
        assert_eq!(all.len(), 1000 * MOST_PORTS, "everybody had a turn");
    }

    /// What a member may be called resolves: forward, back, and its services.
    fn resolves(name: &str, suffix: &str) {
        let ranges = ["100.64.0.0/16", "fd00::/64"].map(|p| p.parse().unwrap());
        let zone = Zone::new(suffix, ranges, vec![host(1, name)]);
        let ask = |name: &str, kind| data(zone.answer(&Name::from_ascii(name).unwrap().to_lowercase(), kind));
        let full = format!("{name}.{suffix}.");
        let lower = full.to_lowercase();
        assert_eq!(ask(&full, RecordType::A), ["100.64.0.1"], "{name}");
        assert_eq!(ask(&full.to_uppercase(), RecordType::AAAA), ["fd00::1"], "{name}");
        assert_eq!(ask("1.0.64.100.in-addr.arpa.", RecordType::PTR), [lower.as_str()], "{name}");
        for of in [&full[..], &format!("{suffix}.")] {
            assert_eq!(ask(&format!("_http._tcp.{of}"), RecordType::SRV), [format!("0 0 8001 {lower}")], "{name}");
        }
    }

    #[test]
    fn underscores_and_the_longest_names_resolve() {
        let longest = ["ab-"; 21].concat();
        let suffix = [["x"; 63].concat(), ["y"; 63].concat(), ["z"; 32].concat()].join(".");
        for name in ["web_01", "a_b", "UPPER", "4", "x--y", &longest[..62]] {
            resolves(name, "aegis");
            resolves(name, &suffix);
        }
    }

    proptest::proptest! {
        #[test]
        fn every_name_that_is_taken_resolves(name in "[a-zA-Z0-9_-]{1,63}") {
            if crate::types::check_label(&name).is_ok() {
                resolves(&name, "aegis");
            }
        }
    }
}
