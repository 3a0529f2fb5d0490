//! Where others saw this node, and how far they are believed.
//!
//! Anybody may say anything. A server or bootstrap entry of this node's own configuration is believed; where these differ, those
//! that most of them name. Of all others, two have to say the same, and not from the same network (IPv4 of 24 bits, IPv6 of
//! 48): keys cost nothing. What a single one says is a hint, and counts only where nobody knows better.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use crate::{
    types::{Duration, Instant, IpPrefix, NodeId, place},
    wire::proto::Mapping,
};

/// Addresses that are believed at a time.
const MAX_BELIEVED: usize = 2;
const MAX_CLAIMS: usize = 64;
/// What nobody has repeated for so long is forgotten. Idle links and servers are asked every two minutes at least.
const LIFE: Duration = Duration::from_secs(600);

/// Who saw this node at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Observer {
    Peer(NodeId),
    /// A STUN server.
    Server(SocketAddr),
}

/// What an observer says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub by: Observer,
    /// Where the observer is.
    pub from: IpAddr,
    /// This node's own configuration names it.
    pub configured: bool,
    pub seen: SocketAddr,
}

impl Claim {
    /// Observers of one network count once.
    fn network(&self) -> IpPrefix {
        place::network(self.from, 24, 48)
    }
}

/// The latest claim of each observer, the latest of all last.
#[derive(Debug, Default)]
pub(super) struct Observers {
    claims: Vec<(Instant, Claim)>,
}

impl Observers {
    /// Takes in a claim. Returns whether it is a new one.
    pub fn note(&mut self, now: Instant, claim: Claim) -> bool {
        if !place::is_host(claim.seen.ip()) || claim.seen.port() == 0 {
            return false;
        }
        if let Some((at, known)) = self.claims.iter_mut().find(|(_, c)| c.by == claim.by)
            && (known.seen, known.configured, known.from) == (claim.seen, claim.configured, claim.from)
        {
            *at = now;
            return false;
        }
        self.claims.retain(|(at, c)| c.by != claim.by && now.since(*at) < LIFE);
        if self.claims.len() >= MAX_CLAIMS {
            self.forget_one();
        }
        self.claims.push((now, claim));
        true
    }

    /// Makes room: the oldest claim goes of the network that has most of them, so that who floods displaces itself.
    fn forget_one(&mut self) {
        let mut counts: BTreeMap<IpPrefix, usize> = BTreeMap::new();
        for (_, claim) in self.claims.iter().filter(|(_, c)| !c.configured) {
            *counts.entry(claim.network()).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, n)| *n).map(|(network, _)| network);
        let is_least = |claim: &Claim| !claim.configured && Some(claim.network()) == most;
        let least = self.claims.iter().position(|(_, claim)| is_least(claim)).unwrap_or(0);
        self.claims.remove(least);
    }

    fn latest_first(&self) -> impl Iterator<Item = &Claim> {
        self.claims.iter().rev().map(|(_, claim)| claim)
    }

    /// Whether two independent observers say something of which `what` is true.
    fn agree(&self, what: impl Fn(&Claim) -> bool) -> bool {
        let mut networks = self.latest_first().filter(|c| what(c)).map(Claim::network);
        let Some(first) = networks.next() else { return false };
        networks.any(|other| other != first)
    }

    /// By address, the machines of the configuration that see this node there; of each family, and of public and private
    /// ones, those that most name.
    fn configured(&self) -> BTreeMap<IpAddr, BTreeSet<IpAddr>> {
        let mut hosts: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
        for claim in self.latest_first().filter(|c| c.configured) {
            hosts.entry(claim.seen.ip()).or_default().insert(claim.from);
        }
        let class = |ip: &IpAddr| (ip.is_ipv4(), place::is_private(*ip));
        let mut most: BTreeMap<(bool, bool), usize> = BTreeMap::new();
        for (ip, named_by) in &hosts {
            let most = most.entry(class(ip)).or_default();
            *most = named_by.len().max(*most);
        }
        hosts.retain(|ip, named_by| most.get(&class(ip)) == Some(&named_by.len()));
        hosts
    }

    /// What servers of the configuration say, and what independent others agree on; public addresses first.
    fn established(&self) -> Vec<SocketAddr> {
        let hosts = self.configured();
        let configured = self.latest_first().filter(|c| c.configured && hosts.contains_key(&c.seen.ip()));
        let same = self.latest_first().filter(|c| self.agree(|other| other.seen == c.seen));
        // A NAT that takes another port for each of them: they agree on the address alone.
        let alike = self.latest_first().filter(|c| self.agree(|other| other.seen.ip() == c.seen.ip()));
        let mut out: Vec<SocketAddr> = Vec::new();
        for claim in configured.chain(same) {
            if !out.contains(&claim.seen) {
                out.push(claim.seen);
            }
        }
        for claim in alike {
            if !out.iter().any(|a| a.ip() == claim.seen.ip()) {
                out.push(claim.seen);
            }
        }
        out.sort_by_key(|a| place::is_private(a.ip()));
        out.truncate(MAX_BELIEVED);
        out
    }

    /// The addresses at which this node can be said to be, the best first.
    pub fn believed(&self) -> Vec<SocketAddr> {
        let mut out = self.established();
        if !out.iter().any(|a| place::is_public(a.ip()))
            && let Some(hint) = self.latest_first().find(|c| out.is_empty() || place::is_public(c.seen.ip()))
        {
            out.insert(0, hint.seen);
        }
        out.truncate(MAX_BELIEVED);
        out
    }

    /// The port that the router says it keeps, if it leads in from the internet: a router behind another one has none
    /// there, and what isn't where others see this node is some other machine's.
    pub fn public_port(&self, mapped: Option<SocketAddr>) -> Option<SocketAddr> {
        mapped.filter(|m| place::is_public(m.ip()) && m.port() != 0 && !self.contradict(m.ip()))
    }

    /// Whether what is known for sure has an address of this family, and not this one.
    fn contradict(&self, ip: IpAddr) -> bool {
        let known = self.established();
        let mut known = known.iter().map(|a| a.ip()).filter(|k| k.is_ipv4() == ip.is_ipv4() && place::is_public(*k));
        known.clone().next().is_some() && !known.any(|k| k == ip)
    }

    /// What is known of the NAT before this node; `local` are the host's own addresses.
    pub fn mapping(&self, local: &[SocketAddr]) -> Mapping {
        let Some(latest) = self.believed().into_iter().find(SocketAddr::is_ipv4) else { return Mapping::Unknown };
        if local.contains(&latest) {
            return Mapping::Independent;
        }
        let claims: Vec<&Claim> = self.latest_first().filter(|c| c.seen.ip() == latest.ip()).collect();
        let ports = claims.iter().filter(|c| c.configured).map(|c| c.seen.port()).collect::<Vec<u16>>();
        if ports.len() >= 2 {
            return configured_mapping(&claims);
        }
        // Networks of others by the port that they have seen.
        let mut seen: BTreeMap<u16, BTreeSet<IpPrefix>> = BTreeMap::new();
        for claim in claims.iter().filter(|c| !c.configured) {
            seen.entry(claim.seen.port()).or_default().insert(claim.network());
        }
        let others: BTreeSet<&IpPrefix> = seen.values().flatten().collect();
        let support = |port: &u16| seen.get(port).map_or(0, BTreeSet::len);
        if let Some(port) = ports.first() {
            let (with, against) = (support(port), others.len() - support(port).min(others.len()));
            return match (with, against) {
                (1.., _) if with + 1 > against => Mapping::Independent,
                (_, 2..) => Mapping::Dependent,
                _ => Mapping::Unknown,
            };
        }
        let most = seen.values().map(BTreeSet::len).max().unwrap_or(0);
        match others.len() {
            0 | 1 => Mapping::Unknown,
            all if most >= 2 && 2 * most > all => Mapping::Independent,
            _ => Mapping::Dependent,
        }
    }
}

/// What machines of the configuration say of the NAT, each of which may have seen this node at several ports of its own.
fn configured_mapping(claims: &[&Claim]) -> Mapping {
    let mut hosts: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    for claim in claims.iter().filter(|c| c.configured) {
        hosts.entry(claim.from).or_default().insert(claim.seen.port());
    }
    let mut ports: BTreeMap<u16, usize> = BTreeMap::new();
    for seen in hosts.values().filter(|seen| seen.len() == 1) {
        seen.iter().for_each(|port| *ports.entry(*port).or_default() += 1);
    }
    let most = ports.into_values().max().unwrap_or(0);
    if 2 * most > hosts.len() { Mapping::Independent } else { Mapping::Dependent }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn claim(i: u8, from: &str, seen: &str) -> Claim {
        let configured = from.starts_with("192.0.2.");
        Claim { by: Observer::Peer(NodeId([i; 32])), from: from.parse().unwrap(), configured, seen: addr(seen) }
    }

    fn observers(claims: &[(u8, &str, &str)]) -> Observers {
        let mut all = Observers::default();
        for (i, from, seen) in claims {
            all.note(Instant(0), claim(*i, from, seen));
        }
        all
    }

    const TRUE: &str = "203.0.113.5:1000";
    const FALSE: &str = "198.51.100.66:9";

    #[test]
    fn liars_do_not_displace_what_others_agree_on() {
        let mut all = observers(&[(1, "10.1.0.1", TRUE), (2, "10.2.0.1", TRUE)]);
        // Two liars, and then a hundred, of one network.
        for i in 3..103 {
            all.note(Instant(1), claim(i, "10.3.0.9", &format!("198.51.100.66:{i}")));
            assert_eq!(all.believed()[0], addr(TRUE), "after {i}");
        }
        assert!(all.believed().iter().all(|a| *a == addr(TRUE)), "{:?}", all.believed());
        assert_eq!(all.mapping(&[]), Mapping::Independent);
        assert!(all.claims.len() <= MAX_CLAIMS);
    }

    #[test]
    fn a_single_claim_is_a_hint_until_somebody_knows_better() {
        let mut all = observers(&[(1, "10.1.0.1", FALSE)]);
        assert_eq!((all.believed(), all.mapping(&[])), (vec![addr(FALSE)], Mapping::Unknown));
        all.note(Instant(1), claim(9, "192.0.2.1", TRUE));
        assert_eq!(all.believed(), [addr(TRUE)], "a server of the configuration outranks it");
        all.note(Instant(2), claim(1, "10.1.0.1", "203.0.113.5:2000"));
        assert_eq!((all.believed(), all.mapping(&[])), (vec![addr(TRUE)], Mapping::Unknown), "one voice is not enough");
        all.note(Instant(2), claim(2, "10.1.0.2", "203.0.113.5:3000"));
        assert_eq!(all.mapping(&[]), Mapping::Unknown, "nor are two of one network");
        all.note(Instant(2), claim(3, "10.2.0.2", "203.0.113.5:4000"));
        assert_eq!(all.mapping(&[]), Mapping::Dependent);
    }

    #[test]
    fn a_router_that_lies_is_not_repeated() {
        let (mapped, rogue) = (Some(addr("203.0.113.5:51900")), Some(addr(FALSE)));
        let mut all = Observers::default();
        assert_eq!((all.public_port(mapped), all.public_port(None)), (mapped, None));
        for private in ["192.168.1.7:51900", "100.64.0.9:51900", "127.0.0.1:51900", "203.0.113.5:0"] {
            assert_eq!(all.public_port(Some(addr(private))), None, "{private}");
        }
        all.note(Instant(0), claim(1, "10.1.0.1", TRUE));
        assert_eq!(all.public_port(rogue), rogue, "one peer may lie as well");
        all.note(Instant(0), claim(2, "10.2.0.1", "203.0.113.5:7"));
        assert_eq!((all.public_port(rogue), all.public_port(mapped)), (None, mapped));
        let ipv6 = Some(addr("[2001:db8::1]:1"));
        assert_eq!(all.public_port(ipv6), ipv6, "nothing is known of IPv6");
    }

    #[test]
    fn where_the_configuration_names_liars_most_of_its_entries_win() {
        let mut all = observers(&[(1, "192.0.2.1", TRUE), (2, "192.0.2.2", TRUE)]);
        for moment in 1..20 {
            all.note(Instant(moment), claim(3, "192.0.2.3", &format!("198.18.3.{moment}:6003")));
            all.note(Instant(moment), claim(4, "192.0.2.4", &format!("198.18.4.{moment}:6004")));
            assert_eq!(all.believed(), [addr(TRUE)]);
        }
        all.note(Instant(30), claim(4, "192.0.2.4", "203.0.113.5:9"));
        assert_eq!(all.mapping(&[]), Mapping::Independent, "one of three about the port");
        assert_eq!(
            observers(&[(1, "192.0.2.1", TRUE), (2, "192.0.2.2", "203.0.113.5:9")]).mapping(&[]),
            Mapping::Dependent
        );
        let symmetric = [1, 2, 3].map(|i| (i, ["192.0.2.1", "192.0.2.1", "192.0.2.2"][usize::from(i) - 1]));
        let symmetric = symmetric
            .map(|(i, from)| (i, from, ["203.0.113.5:1", "203.0.113.5:2", "203.0.113.5:3"][usize::from(i) - 1]));
        assert_eq!(observers(&symmetric).mapping(&[]), Mapping::Dependent);
    }

    #[test]
    fn nats_are_told_by_who_is_believed() {
        let both = |a, b| observers(&[(1, "192.0.2.1", a), (2, "192.0.2.1", b)]);
        assert_eq!(both(TRUE, TRUE).mapping(&[]), Mapping::Independent);
        assert_eq!(both(TRUE, "203.0.113.5:1001").mapping(&[]), Mapping::Dependent, "two ports of one server");
        let peers = |b| observers(&[(1, "10.1.0.1", TRUE), (2, "10.2.0.1", b)]);
        assert_eq!(peers(TRUE).mapping(&[]), Mapping::Independent);
        assert_eq!(peers("203.0.113.5:7").mapping(&[]), Mapping::Dependent);
        assert_eq!(peers("203.0.113.5:7").believed()[0].ip(), addr(TRUE).ip(), "they agree on the address");
        assert_eq!(peers(FALSE).mapping(&[]), Mapping::Unknown);
        assert_eq!(observers(&[(1, "10.1.0.1", TRUE)]).mapping(&[addr(TRUE)]), Mapping::Independent, "no NAT");
        let split = [(1, "10.1.0.1", TRUE), (2, "10.2.0.1", TRUE), (3, "10.3.0.1", "203.0.113.5:7")];
        assert_eq!(observers(&split).mapping(&[]), Mapping::Independent, "one of three");
    }

    #[test]
    fn what_nobody_repeats_is_forgotten() {
        let mut all = observers(&[(1, "10.1.0.1", TRUE), (2, "10.2.0.1", TRUE)]);
        let later = Instant(0) + LIFE;
        assert!(all.note(later, claim(3, "10.3.0.1", "203.0.113.9:1")));
        assert_eq!(all.believed(), [addr("203.0.113.9:1")], "this node has moved");
        for odd in ["127.0.0.1:9", "0.0.0.0:9", "203.0.113.5:0", "224.0.0.1:9"] {
            assert!(!all.note(later, claim(4, "10.4.0.1", odd)), "{odd}");
        }
    }
}
