//! Who owns which address, which name and which network: the one place that is asked. What a record says of addresses and names is
//! a claim; whose they are is decided here, from all claims that this node knows.

mod former;

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map},
    net::{IpAddr, Ipv4Addr},
};

use self::former::Former;
use super::PrefixMap;
use crate::{
    identity::{Network, Verified},
    types::{Duration, Instant, IpPrefix, NodeId, UnixTime},
};

/// A node that has just met others can't tell which of two claims is the older one. After this time it can: what is new to it then is new.
pub(super) const SETTLE: Duration = Duration::from_secs(60);

/// Who had an address first and is gone keeps it for so long, should it come back: as long as it does by itself (`settle`).
const REMEMBERED: Duration = Duration::from_secs(super::own::LIFETIME_S as u64);

/// A beginning of a NodeId that stands for the node has at least so many characters.
const MIN_BEGINNING: usize = 6;

/// What gives a node its claim on an address; the best one is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Title {
    /// Its certificate names the address; of two such certificates the older one.
    Granted { not_before: UnixTime, serial: [u8; 16] },
    /// It derives from the NodeId. `since` counts what was learned, so that the first holder keeps it.
    Derived { since: u64, known: Known },
}

/// How this node came to know of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    /// From an earlier run, in the order of that time.
    Recalled,
    /// From others, before this node could tell who was first.
    Early,
    /// When it was new.
    Late,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    title: Title,
    node: NodeId,
}

/// A node as it is entered.
#[derive(Debug)]
struct Entry {
    addresses: [IpAddr; 2],
    networks: Vec<IpPrefix>,
    /// As the node writes it; empty: none.
    name: String,
    ipv4_only: bool,
    /// When it was entered first, by count.
    since: u64,
    /// Behind whom else it stands for networks that others announce too.
    rank: u8,
}

/// Why nobody is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFound {
    Unknown,
    /// Several nodes are meant, or claim to be.
    Several,
}

/// The book of owners.
///
/// An **address** belongs to whom a certificate grants it, else to the first node that this one knew to derive it from its NodeId, as long as it
/// claims it. Of those that others told this node of before it had settled, none was first: two of them own nothing. A **name** belongs to
/// the one node that is certified for it, else to the only one that claims it. Several nodes may announce one **network**; they are
/// alternatives, in the order of their ranks.
#[derive(Debug)]
pub struct Owners {
    me: NodeId,
    hosts: HashMap<IpAddr, Vec<Claim>>,
    /// By name in lower case: claims, certified ones first.
    names: HashMap<String, Vec<(bool, NodeId)>>,
    subnets: PrefixMap<Vec<NodeId>>,
    /// Who offers to be an exit.
    exits: BTreeSet<NodeId>,
    entries: HashMap<NodeId, Entry>,
    /// What the claims of nodes that are gone stood on, and when they went.
    former: Former,
    count: u64,
    /// The time of the last tick.
    now: Instant,
    /// When this node has met others long enough; `None`: it has met nobody.
    settles: Option<Instant>,
    is_settled: bool,
    /// What comes now is remembered from an earlier run.
    recalls: bool,
    /// Somebody was learned of.
    has_met: bool,
}

impl Owners {
    /// The book of the node `me`.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            hosts: HashMap::new(),
            names: HashMap::new(),
            subnets: PrefixMap::default(),
            exits: BTreeSet::new(),
            entries: HashMap::new(),
            former: Former::default(),
            count: 0,
            now: Instant::default(),
            settles: None,
            is_settled: false,
            recalls: false,
            has_met: false,
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        self.now = now;
        self.former.expire(now, REMEMBERED);
        if self.has_met {
            self.is_settled |= now >= *self.settles.get_or_insert(now + SETTLE);
        }
    }

    /// Whether what is entered from now on was known to this node in an earlier run, in this order.
    pub(super) fn recall(&mut self, recalls: bool) {
        self.recalls = recalls;
    }

    /// Enters a node with the networks that it may announce. What it has claimed before and claims still, it has claimed since then.
    pub fn insert(&mut self, node: &Verified, networks: Vec<IpPrefix>) {
        let record = &node.record;
        self.has_met |= node.id != self.me && !self.recalls;
        self.count += 1;
        let before = self.take_out(&node.id);
        let known = match (self.recalls, self.is_settled) {
            (true, _) => Known::Recalled,
            (false, true) => Known::Late,
            (false, false) => Known::Early,
        };
        for ip in record.addresses {
            let certificate = record.certificate.as_ref().filter(|c| c.addresses.contains(&ip));
            let titles = before.as_ref().map_or(&[][..], |(_, titles)| titles);
            let present = titles.iter().find(|(of, _)| *of == ip).map(|(_, title)| *title);
            let former = self.former.take(&(node.id, ip));
            let title = match (certificate, present.or(former)) {
                (Some(c), _) => Title::Granted { not_before: c.not_before, serial: c.serial },
                (None, Some(title @ Title::Derived { .. })) => title,
                _ => Title::Derived { since: self.count, known },
            };
            let claims = self.hosts.entry(ip).or_default();
            claims.push(Claim { title, node: node.id });
            claims.sort_unstable();
        }
        if !record.name.is_empty() {
            let is_certified = record.certificate.as_ref().is_some_and(|c| !c.name.is_empty());
            let claims = self.names.entry(record.name.to_ascii_lowercase()).or_default();
            claims.push((!is_certified, node.id));
            claims.sort_unstable();
        }
        if networks.iter().any(|p| p.prefix_len() == 0) {
            self.exits.insert(node.id);
        }
        let (since, rank) = before.map_or((self.count, 0), |(e, _)| (e.since, e.rank));
        let entry = Entry { addresses: record.addresses, networks, name: record.name.clone(), ipv4_only: record.ipv4_only, since, rank };
        for prefix in entry.networks.iter().filter(|p| p.prefix_len() > 0) {
            let nodes = self.subnets.entry(*prefix).or_default();
            if !nodes.contains(&node.id) {
                nodes.push(node.id);
            }
        }
        self.entries.insert(node.id, entry);
        self.sort_networks(&node.id);
    }

    /// A node is gone: its announcement has expired, it is no longer admitted, or there was no room for it. Nobody takes its
    /// address for good while it is away.
    pub fn remove(&mut self, id: &NodeId) {
        let Some((_, titles)) = self.take_out(id) else { return };
        for (ip, title) in titles.into_iter().filter(|(_, title)| matches!(title, Title::Derived { .. })) {
            self.former.insert((*id, ip), title, self.now);
        }
    }

    /// Takes a node out; returns what it was, and what its claims stood on.
    fn take_out(&mut self, id: &NodeId) -> Option<(Entry, Vec<(IpAddr, Title)>)> {
        let entry = self.entries.remove(id)?;
        self.exits.remove(id);
        let mut titles = Vec::with_capacity(entry.addresses.len());
        for ip in entry.addresses {
            if let Some(claims) = self.hosts.get_mut(&ip) {
                titles.extend(claims.iter().filter(|c| c.node == *id).map(|c| (ip, c.title)));
                claims.retain(|c| c.node != *id);
                if claims.is_empty() {
                    self.hosts.remove(&ip);
                }
            }
        }
        if let hash_map::Entry::Occupied(mut claims) = self.names.entry(entry.name.to_ascii_lowercase()) {
            claims.get_mut().retain(|(_, n)| n != id);
            if claims.get().is_empty() {
                claims.remove();
            }
        }
        for prefix in &entry.networks {
            if let hash_map::Entry::Occupied(mut nodes) = self.subnets.entry(*prefix) {
                nodes.get_mut().retain(|n| n != id);
                if nodes.get().is_empty() {
                    nodes.remove();
                    self.subnets.remove(prefix);
                }
            }
        }
        Some((entry, titles))
    }

    /// The owner of a mesh address.
    #[must_use]
    pub fn host(&self, ip: &IpAddr) -> Option<NodeId> {
        owner(self.hosts.get(ip)?)
    }

    /// Whether a packet from `node` may carry this source address; `None`: it is nobody's in the mesh.
    #[must_use]
    pub fn owns(&self, ip: IpAddr, node: &NodeId) -> Option<bool> {
        match self.hosts.get(&ip) {
            Some(claims) => Some(owner(claims) == Some(*node)),
            None => self.subnets.matches(ip).next().map(|nodes| nodes.contains(node)),
        }
    }

    /// The nodes to which packets for `ip` may go, best match first.
    pub fn candidates(&self, ip: IpAddr) -> impl Iterator<Item = NodeId> {
        let claims = self.hosts.get(&ip);
        let host = claims.and_then(|c| owner(c));
        let subnets = self.subnets.matches(ip).flatten().copied();
        host.into_iter().chain(subnets.filter(move |_| claims.is_none()))
    }

    /// All mesh addresses that somebody claims, with their owners; `None`: they are contested.
    pub fn hosts(&self) -> impl Iterator<Item = (&IpAddr, Option<NodeId>)> {
        self.hosts.iter().map(|(ip, claims)| (ip, owner(claims)))
    }

    /// The addresses that a node owns, IPv4 first.
    pub fn addresses_of(&self, id: &NodeId) -> impl Iterator<Item = IpAddr> {
        let claimed = self.entries.get(id).map(|e| e.addresses);
        claimed.into_iter().flatten().filter(|ip| self.host(ip) == Some(*id))
    }

    /// Whether packets for `ip` reach a node: not over IPv6 if its host has none.
    pub fn takes(&self, id: &NodeId, ip: IpAddr) -> bool {
        ip.is_ipv4() || self.entries.get(id).is_none_or(|e| !e.ipv4_only)
    }

    /// The addresses that a node claims and does not own.
    pub fn contested(&self, id: &NodeId) -> impl Iterator<Item = IpAddr> {
        let claimed = self.entries.get(id).map(|e| e.addresses);
        claimed.into_iter().flatten().filter(|ip| self.host(ip) != Some(*id))
    }

    /// How many addresses several nodes claim.
    #[must_use]
    pub fn contested_count(&self) -> u64 {
        self.hosts.values().filter(|claims| claims.len() > 1).count() as u64
    }

    /// Who else claims an address of this node's.
    pub(super) fn rivals(&self, ip: &IpAddr) -> impl Iterator<Item = Rival> {
        let others = self.hosts.get(ip).into_iter().flatten().filter(|c| c.node != self.me);
        others.map(|c| Rival {
            node: c.node,
            is_granted: matches!(c.title, Title::Granted { .. }),
            is_recalled: matches!(c.title, Title::Derived { known: Known::Recalled, .. }),
        })
    }

    /// Whether anybody claims this address.
    #[must_use]
    pub(super) fn is_claimed(&self, ip: &IpAddr) -> bool {
        self.hosts.contains_key(ip)
    }

    /// An IPv4 address that nobody claims or has claimed lately and that is not in `taken`, to be granted: the first one from `place` on,
    /// which may be any number. `None`: the range is full.
    #[must_use]
    pub fn free_ipv4(&self, network: &Network, taken: &[IpAddr], place: u64) -> Option<Ipv4Addr> {
        let former = self.former.keys().map(|(_, ip)| ip);
        let taken: HashSet<&IpAddr> = taken.iter().chain(self.hosts.keys()).chain(former).collect();
        network.ipv4_from(place).find(|ip| !taken.contains(&IpAddr::V4(*ip)))
    }

    /// The owner of a name, in any case.
    #[must_use]
    pub fn name_owner(&self, name: &str) -> Option<NodeId> {
        name_owner(self.names.get(&name.to_ascii_lowercase())?)
    }

    /// A node that is certified for a name, in any case, which nobody else may be then.
    #[must_use]
    pub fn certified_name_owner(&self, name: &str) -> Option<NodeId> {
        let first = self.names.get(&name.to_ascii_lowercase())?.first()?;
        (!first.0).then_some(first.1)
    }

    /// What a node is called, if the name is its own.
    #[must_use]
    pub fn name(&self, id: &NodeId) -> Option<&str> {
        let name = &self.entries.get(id)?.name;
        (self.name_owner(name) == Some(*id)).then_some(name)
    }

    /// The name that a node claims and does not own.
    #[must_use]
    pub fn contested_name(&self, id: &NodeId) -> Option<&str> {
        let name = &self.entries.get(id)?.name;
        (!name.is_empty() && self.name_owner(name) != Some(*id)).then_some(name)
    }

    /// What a node is called, for people: its own name, or the start of its NodeId.
    #[must_use]
    pub fn display(&self, id: &NodeId) -> String {
        self.name(id).map_or_else(|| id.short(), str::to_owned)
    }

    /// A node by its NodeId, its name, or the beginning of its NodeId (6 characters or more). A name that is not certified doesn't hide
    /// a node whose NodeId begins so.
    pub fn find(&self, who: &str) -> Result<NodeId, NotFound> {
        if let Ok(id) = who.parse() {
            return Ok(id);
        }
        let claims = self.names.get(&who.to_ascii_lowercase()).map_or(&[][..], |c| c);
        if claims.first().is_some_and(|(uncertified, _)| !uncertified) {
            return name_owner(claims).ok_or(NotFound::Several);
        }
        let is_beginning = who.len() >= MIN_BEGINNING && who.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        let begins = |id: &&NodeId| is_beginning && id.to_string().starts_with(who);
        let meant: BTreeSet<NodeId> =
            claims.iter().map(|(_, id)| *id).chain(self.entries.keys().filter(begins).copied()).collect();
        match (meant.first(), meant.len()) {
            (Some(one), 1) => Ok(*one),
            (None, _) => Err(NotFound::Unknown),
            _ => Err(NotFound::Several),
        }
    }

    /// All nodes, those known for the longest time first.
    #[must_use]
    pub fn by_age(&self) -> Vec<NodeId> {
        let mut all: Vec<_> = self.entries.iter().map(|(id, e)| (e.since, *id)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// The networks that a node announces and may announce.
    #[must_use]
    pub fn networks(&self, id: &NodeId) -> &[IpPrefix] {
        self.entries.get(id).map_or(&[], |e| &e.networks)
    }

    /// Whether a node is an exit for IPv4, or for IPv6.
    #[must_use]
    pub fn carries_out(&self, id: &NodeId, ipv4: bool) -> bool {
        self.networks(id).iter().any(|p| p.prefix_len() == 0 && p.addr().is_ipv4() == ipv4)
    }

    pub fn exits(&self) -> impl Iterator<Item = &NodeId> {
        self.exits.iter()
    }

    #[must_use]
    pub fn subnets(&self) -> &PrefixMap<Vec<NodeId>> {
        &self.subnets
    }

    /// Puts a node behind all of a lower rank, for networks that several announce. Returns whether that changes anything.
    pub(super) fn set_rank(&mut self, id: &NodeId, rank: u8) -> bool {
        let Some(entry) = self.entries.get_mut(id).filter(|e| e.rank != rank) else { return false };
        entry.rank = rank;
        self.sort_networks(id);
        true
    }

    /// Brings those who announce what this node announces into their order.
    fn sort_networks(&mut self, id: &NodeId) {
        let Some(entry) = self.entries.get(id) else { return };
        for prefix in entry.networks.iter().filter(|p| p.prefix_len() > 0) {
            let nodes = self.subnets.entry(*prefix).or_default();
            nodes.sort_unstable_by_key(|n| (self.entries.get(n).map_or(0, |e| e.rank), *n));
        }
    }
}

/// Another node that claims an address of this one.
pub(super) struct Rival {
    pub node: NodeId,
    /// A certificate grants it this address.
    pub is_granted: bool,
    /// It had the address when this node ran before.
    pub is_recalled: bool,
}

/// Whose an address is, of those that claim it, the best first.
fn owner(claims: &[Claim]) -> Option<NodeId> {
    let is_early = |c: &Claim| matches!(c.title, Title::Derived { known: Known::Early, .. });
    match claims {
        [first, second, ..] if is_early(first) && is_early(second) => None,
        [first, ..] => Some(first.node),
        [] => None,
    }
}

/// Whose a name is, of those that claim it, certified ones first.
fn name_owner(claims: &[(bool, NodeId)]) -> Option<NodeId> {
    match claims {
        [one] => Some(one.1),
        [first, second, ..] if !first.0 && second.0 => Some(first.1),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
