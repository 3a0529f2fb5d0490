//! Where peers can be reached: offers of direct paths to who is reached through relays, and better places for who is
//! reached already.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
};

use super::{Node, Via, link::Link};
use crate::{
    punch::{Counter, Places},
    session::{PROVEN_TRIES, Transport},
    types::{Instant, IpPrefix, NodeId, path},
    wire::{decode_endpoint, encode_endpoint, frame::Kind, proto},
};

const MAX_ENDPOINTS: usize = 16;
const MAX_REFLEXIVE: usize = 4;
const UDP_EVERY_S: u64 = 5;
/// Other places are compared in these seconds of every minute of a link: a new address of the peer takes a while to be
/// known.
const LOOKS_S: Range<u64> = 2..10;
const LOOK_EVERY_S: u64 = 60;
/// From this share of lost probes on, other places are compared at once.
pub(super) const BAD_LOSS: f64 = 0.1;

impl Node {
    /// Offers an attempt to a peer that users talk to and that has no direct link.
    pub(super) fn offer_punch(&mut self, now: Instant, id: NodeId) {
        let Some(peer) = self.peers.get(&id).filter(|p| !p.is_up() && p.grant.is_none()) else { return };
        let Some(transport) = peer.transport().cloned() else { return };
        let bytes = peer.sessions.iter().map(|s| s.transport.sent_bytes() + s.transport.received_bytes()).sum();
        if self.config.punch && self.puncher.offers(now, id, bytes) && !self.start_gauge(now, id, None) {
            self.send_punch(&transport, false, None);
        }
    }

    /// Offers an attempt, with what was measured for it.
    pub(super) fn send_offer(&mut self, id: NodeId, counter: Option<Counter>) {
        if let Some(transport) = self.peers.get(&id).and_then(|p| p.transport()).cloned() {
            self.send_punch(&transport, false, counter);
        }
    }

    fn send_punch(&mut self, transport: &Transport, answer: bool, counter: Option<Counter>) {
        let list = |addresses: &[SocketAddr]| addresses.iter().map(|a| encode_endpoint(*a)).collect();
        let reflexive = self.own.reflexive();
        let punch = proto::Punch {
            endpoints: list(&self.own.content.endpoints),
            reflexive: list(&reflexive[..reflexive.len().min(MAX_REFLEXIVE)]),
            mapping: self.own.mapping().into(),
            answer,
            last_port: counter.map_or(0, |c| c.port.into()),
            step: counter.map_or(0, |c| c.step.into()),
        };
        self.send_on(transport, Via::Relayed(transport.peer.tag()), Kind::Punch(punch));
    }

    /// A peer offers an attempt, or answers an offer.
    pub(super) fn on_punch(&mut self, now: Instant, session: &Arc<Transport>, punch: &proto::Punch) {
        let id = session.peer;
        if !self.config.punch || self.peers.get(&id).is_none_or(|p| p.is_up()) {
            return;
        }
        let list = |endpoints: &[Vec<u8>], most| -> Vec<SocketAddr> {
            endpoints.iter().take(most).filter_map(|e| decode_endpoint(e).ok()).collect()
        };
        let counter = match (u16::try_from(punch.last_port), u16::try_from(punch.step)) {
            (Ok(port), Ok(step @ 1..)) => Some(Counter { port, step }),
            _ => None,
        };
        let theirs = Places {
            endpoints: list(&punch.endpoints, MAX_ENDPOINTS),
            reflexive: list(&punch.reflexive, MAX_REFLEXIVE),
            mapping: punch.mapping(),
            counter,
        };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.mapping = theirs.mapping;
        }
        let theirs = self.worth_trying(theirs);
        if punch.answer {
            if self.puncher.has_offered(&id) {
                self.begin_punch(now, id, &theirs);
            }
        } else if self.puncher.accepts(now, self.own.mapping(), &id, &theirs)
            && !self.start_gauge(now, id, Some(&theirs))
        {
            self.take_part(now, id, &theirs, None);
        }
    }

    /// What a peer said of itself, without the places where no peer can be.
    fn worth_trying(&self, theirs: Places) -> Places {
        let all: Vec<SocketAddr> = theirs.reflexive.iter().chain(&theirs.endpoints).copied().collect();
        let places = self.around.places(&all);
        let keep = |mut list: Vec<SocketAddr>| {
            list.retain(|a| places.contains(a));
            list
        };
        Places { endpoints: keep(theirs.endpoints), reflexive: keep(theirs.reflexive), ..theirs }
    }

    /// What this node knows of the networks around it has changed: so has where others are looked for.
    pub(super) fn look_anew(&mut self, now: Instant) {
        let me = self.identity.id();
        for known in self.routing.announcements().filter(|known| known.id != me) {
            self.discovery.known(now, known.id, &self.around.places(&known.record.endpoints));
        }
    }

    /// The prefixes of this host's interfaces, from now on. Private addresses that others announce are tried only within
    /// them, and only if the others are at this site ([`crate::types::place::Surroundings`]); before the first call all are.
    pub fn set_on_link(&mut self, now: Instant, prefixes: Vec<IpPrefix>) {
        if self.around.on_link.as_ref() != Some(&prefixes) {
            self.around.on_link = Some(prefixes);
            self.look_anew(now);
            self.pump(now);
        }
    }

    /// Answers an offer, and begins.
    pub(super) fn take_part(&mut self, now: Instant, id: NodeId, theirs: &Places, counter: Option<Counter>) {
        let Some(transport) = self.peers.get(&id).filter(|p| !p.is_up()).and_then(|p| p.transport()).cloned() else {
            return;
        };
        self.send_punch(&transport, true, counter);
        self.begin_punch(now, id, theirs);
    }

    fn begin_punch(&mut self, now: Instant, id: NodeId, theirs: &Places) {
        self.counters.punches += 1;
        let leads = self.identity.id() < id;
        self.puncher.begin(now, id, (self.own.mapping(), leads), theirs);
    }

    /// The probes that attempts want sent.
    pub(super) fn send_punches(&mut self, now: Instant) {
        for (id, addr) in self.puncher.poll(now) {
            let secret = self.rng.bytes();
            let Some(peer) = self.peers.get_mut(&id).filter(|p| !p.is_up()) else {
                self.puncher.end(now, &id);
                continue;
            };
            if peer.refuses(now, addr) {
                continue;
            }
            peer.link.get_or_insert_with(|| Link::new(now, addr, secret));
            self.send_probe(now, id, addr);
        }
    }

    /// Once a second: whether the peer can be reached better elsewhere. A new link is compared with the other places
    /// where the peer may be, and a link in use again every minute, or at once when it loses packets. A link over a stream
    /// or a TURN server is a makeshift: UDP is tried every few seconds.
    pub(super) fn look_around(&mut self, now: Instant, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(link) = peer.link.as_mut().filter(|l| l.up) else { return };
        let age = now.since(link.since).as_secs();
        let phase = age % LOOK_EVERY_S;
        let looks = if path::is_makeshift(link.addr) {
            age.is_multiple_of(UDP_EVERY_S)
        } else {
            let is_due = LOOKS_S.contains(&phase) && (age < LOOK_EVERY_S || link.is_active(now));
            is_due || link.is_active(now) && link.loss() > BAD_LOSS
        };
        if phase == 0 {
            link.forget_others();
        }
        if !looks {
            return;
        }
        let current = link.addr;
        let mut places = self.around.places(&peer.info.record.endpoints);
        places.truncate(MAX_ENDPOINTS);
        // A visitor of a website gets no datagrams where it came from: it may not want to be seen with any.
        if !path::is_sealed(current) {
            places.push(path::plain(current));
        }
        places.retain(|place| *place != current);
        if let Some(link) = &mut peer.link {
            let is_makeshift = path::is_makeshift(current);
            // Who is not there may be somebody else.
            places.retain(|place| !link.distrusts(now, *place) && (is_makeshift || !link.is_silent(*place)));
            places.iter().for_each(|place| link.ask_other(*place));
        }
        places.into_iter().for_each(|place| self.send_probe(now, id, place));
    }

    /// The IPv4 addresses where nodes without a direct link may be: who is to be let in by a TURN server. Where there is no room for
    /// all, nodes that packets go to come first, and each has one address before any has a second one.
    #[must_use]
    pub fn places_of_others(&self, most: usize) -> Vec<IpAddr> {
        let routing = &self.routing;
        let unlinked = self.by_tag.values().filter(|id| self.peers.get(id).is_none_or(|p| !p.is_up()));
        let mut turns = Vec::new();
        for id in unlinked {
            let is_in_use = self.peers.get(id).is_some_and(|p| p.transport().is_some());
            let Some(known) = routing.origin(id).and_then(|o| routing.announcement(o)) else { continue };
            let mut all: Vec<IpAddr> =
                self.around.places(&known.record.endpoints).iter().map(|place| place.ip()).collect();
            all.retain(IpAddr::is_ipv4);
            all.sort_unstable();
            all.dedup();
            turns.extend(all.into_iter().enumerate().map(|(turn, ip)| (!is_in_use, turn, ip)));
        }
        turns.sort_unstable();
        let mut places: Vec<IpAddr> = Vec::new();
        for (.., ip) in turns {
            if places.len() < most && !places.contains(&ip) {
                places.push(ip);
            }
        }
        places.sort_unstable();
        places
    }

    /// Tries a path that was opened: a stream to a node that may be anybody.
    pub fn try_path(&mut self, now: Instant, path: SocketAddr) {
        self.door.connect(now, Via::Direct(path), None, PROVEN_TRIES);
        self.pump(now);
    }

    /// A stream will be closed soon: what goes over it is to find another way before.
    pub fn part_with(&mut self, now: Instant, path: SocketAddr) {
        for id in self.peers.ids() {
            if let Some(link) = self.peers.get_mut(&id).and_then(|p| p.link.as_mut()).filter(|l| l.addr == path) {
                link.worn = true;
                self.send_probe(now, id, path);
            }
        }
    }

    /// Whether UDP passes so badly on a link in use that a stream would do better.
    #[must_use]
    pub fn is_throttled(&self, now: Instant) -> bool {
        self.peers.values().filter_map(|p| p.link.as_ref()).any(|l| l.is_throttled(now))
    }

    /// Whether any link is up.
    #[must_use]
    pub fn has_links(&self) -> bool {
        self.peers.values().any(super::Peer::is_up)
    }

    /// The sockets beside the main one that are in use, by their numbers ([`path`]).
    #[must_use]
    pub fn sockets_in_use(&self, now: Instant) -> std::collections::BTreeSet<u32> {
        let mut used = self.puncher.scouts(now);
        let links = self.peers.values().filter_map(|p| p.link.as_ref());
        used.extend(links.flat_map(Link::places).map(path::socket_of));
        used
    }

    /// Where neighbours are, or may be.
    #[must_use]
    pub fn places_in_use(&self) -> std::collections::HashSet<SocketAddr> {
        self.peers.values().filter_map(|p| p.link.as_ref()).flat_map(Link::places).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::NodeConfig;
    use super::*;
    use crate::{
        crypto::SigningKey,
        identity::{Identity, Network, RecordContent},
        types::Duration,
    };

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn node(seed: u8, endpoints: Vec<SocketAddr>) -> Node {
        let network = Network::new("n", Some("secret"), None, "100.64.0.0/16".parse().unwrap());
        let content = RecordContent { endpoints, ..Default::default() };
        let identity = Identity::new(SigningKey::ed25519_from_seed(&[seed; 32])).unwrap();
        let config = NodeConfig::new(network.clone(), content, 1000);
        Node::new(config, identity, Box::new(network), [seed; 32], Instant(0)).unwrap()
    }

    /// Where a node sends to in a minute after it has learned of a peer with these endpoints.
    fn tried(node: &mut Node, endpoints: &[&str]) -> std::collections::BTreeSet<SocketAddr> {
        let peer = self::node(9, endpoints.iter().map(|e| addr(e)).collect());
        let said = std::sync::Arc::clone(peer.routing.own().unwrap());
        node.add_known(Instant(1), &said.bytes, &said.record.bytes);
        let mut sent = std::collections::BTreeSet::new();
        for tick in 0..600 {
            node.handle_timeout(Instant(1) + Duration::from_millis(100) * tick);
            sent.extend(std::iter::from_fn(|| node.poll_transmit()).map(|t| t.to));
        }
        sent
    }

    #[test]
    fn what_others_announce_aims_this_node_at_nobody() {
        let good = "198.51.100.9:51900";
        let mut plain = node(1, vec![addr("203.0.113.7:51900")]);
        let aims = [
            "127.0.0.1:9",
            "224.0.0.1:9",
            "169.254.1.1:9",
            "255.255.255.255:9",
            "198.51.100.9:0",
            "100.64.1.2:9",
            good,
        ];
        assert_eq!(tried(&mut plain, &aims), [addr(good)].into());
        let mut told = node(1, vec![addr("203.0.113.7:51900")]);
        told.set_on_link(Instant(0), vec!["192.168.1.0/24".parse().unwrap()]);
        let aims = ["192.168.1.20:51900", "10.0.0.1:51900", good];
        assert_eq!(tried(&mut told, &aims), [addr(good)].into(), "these are hosts of another site");
        let mut told = node(1, vec![addr("203.0.113.7:51900")]);
        told.set_on_link(Instant(0), vec!["192.168.1.0/24".parse().unwrap()]);
        let here = ["192.168.1.20:51900", "203.0.113.7:40000"];
        assert_eq!(tried(&mut told, &here), here.map(addr).into(), "behind the same NAT");
    }

    #[test]
    fn the_other_uses_of_announced_places_are_filtered_too() {
        let mut me = node(1, vec![addr("203.0.113.7:51900")]);
        me.set_on_link(Instant(0), vec!["192.168.1.0/24".parse().unwrap()]);
        tried(&mut me, &["127.0.0.1:9", "192.168.1.20:51900", "198.51.100.9:51900"]);
        assert_eq!(me.places_of_others(9), [addr("198.51.100.9:1").ip()], "permissions at a TURN server");
        // Members with many addresses, and low ones, leave room for others.
        for h in 0..20 {
            let places = (0..16).map(|i| SocketAddr::from(([20, 0, h, i + 1], 9)));
            let said = std::sync::Arc::clone(node(20 + h, places.collect()).routing.own().unwrap());
            me.add_known(Instant(1), &said.bytes, &said.record.bytes);
        }
        let all = me.places_of_others(64);
        assert!(all.len() == 64 && all.contains(&addr("198.51.100.9:1").ip()), "{all:?}");
        let said = Places {
            endpoints: vec![addr("127.0.0.1:9"), addr("198.51.100.9:51900")],
            reflexive: vec![addr("192.168.1.20:51900"), addr("198.51.100.9:4000")],
            ..Places::default()
        };
        let places = me.worth_trying(said);
        assert_eq!(
            (places.endpoints, places.reflexive),
            (vec![addr("198.51.100.9:51900")], vec![addr("198.51.100.9:4000")])
        );
    }
}
