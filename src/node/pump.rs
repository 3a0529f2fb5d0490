//! The switchboard: carries what each machine has to say to the one that it concerns, until all are quiet.

use prost::Message as _;

use super::{Event, Node, Transmit, Via, forward::Tables as _, peer::Peer};
use crate::{
    discovery::Attempt,
    identity::{RecordSource, Refusal, Verified},
    routing::{self, Routing},
    session::{HEARSAY_TRIES, PROVEN_TRIES},
    types::{Duration, Instant, IpPrefix, NodeId},
    wire::{
        frame::Kind,
        packet::MAX_HOPS,
        proto::{self, control_message},
        version::Versions,
    },
};
use std::{collections::HashMap, net::SocketAddr};

/// Invitations that may be open at the same time.
const MAX_INVITATIONS: usize = 256;

pub(super) fn encode_control(kind: control_message::Kind) -> Vec<u8> {
    proto::ControlMessage { kind: Some(kind) }.encode_to_vec()
}

/// When a neighbour's channel has something to send: routing has news and there is room, or a segment is due.
fn channel_due(peer: &Peer, routing: &Routing) -> Option<Instant> {
    let news = peer.neighbor.filter(|_| peer.channel.has_room()).and_then(|n| routing.due(n));
    [news, peer.channel.poll_timeout()].into_iter().flatten().min()
}

impl Node {
    /// When [`Self::handle_timeout`] wants to be called at the latest.
    #[must_use]
    pub fn poll_timeout(&mut self, now: Instant) -> Instant {
        let mut next = self.routing.poll_timeout().min(self.housekeeping).min(self.own_timeout());
        next = self.door.poll_timeout().map_or(next, |t| t.min(next));
        next = self.discovery.poll_timeout().map_or(next, |t| t.min(next));
        next = self.puncher.poll_timeout().map_or(next, |t| t.min(next));
        next = self.gauge_timeout().map_or(next, |t| t.min(next));
        next = self.reach_timeout().map_or(next, |t| t.min(next));
        self.settle_agenda(now);
        next = self.peers.next().map_or(next, |t| t.min(next));
        // Never in the past, and never in a tight loop.
        next.max(now + Duration::from_micros(100))
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.door.handle_timeout(now);
        self.routing.handle_timeout(now);
        self.tick_links(now);
        self.tick_gauge(now);
        self.tick_reach(now);
        self.send_punches(now);
        if now >= self.housekeeping {
            self.housekeeping = now + super::HOUSEKEEPING;
            self.housekeeping(now);
        }
        for attempt in self.discovery.poll(now) {
            self.attempt(now, &attempt);
        }
        self.pump(now);
    }

    /// The addresses to begin with, after names were resolved.
    pub fn set_bootstrap(&mut self, now: Instant, addresses: &[SocketAddr]) {
        self.discovery.set_bootstrap(now, addresses);
        self.around.configured = addresses.to_vec();
        self.look_anew(now);
        self.handle_timeout(now);
    }

    /// A record from an earlier run, those known for the longest time first. Refused ones are counted and ignored.
    pub fn add_known(&mut self, now: Instant, announcement: &[u8], record: &[u8]) {
        let unix = self.unix_now(now);
        let verified = self
            .verifier
            .verify(announcement, RecordSource::Bytes(record))
            .and_then(|v| self.policy.admit(&v, unix).map(|()| v));
        match verified {
            Ok(verified) => {
                self.routing.learn(now, verified);
            }
            Err(refusal) => self.counters.refuse(&refusal),
        }
        self.book.recall(true);
        self.pump(now);
        self.book.recall(false);
    }

    fn attempt(&mut self, now: Instant, attempt: &Attempt) {
        let Attempt { addr, expected, proven } = *attempt;
        let via = Via::Direct(addr);
        // Its own address may be on everybody's list.
        if self.own.has_local(addr) {
            return;
        }
        let has_link = expected.and_then(|id| self.peers.get(&id)).is_some_and(|p| p.is_up());
        let busy = self.door.is_connecting(None, via);
        let is_linked = self.peers.values().any(|p| p.link.as_ref().is_some_and(|l| l.up && l.addr == addr));
        if has_link || busy || is_linked {
            return;
        }
        let known = expected.and_then(|id| self.routing.announcement(self.routing.origin(&id)?));
        // It would be in vain: it says itself that it speaks no version that we speak.
        let is_foreign = known.is_some_and(|k| k.record.versions.common(Versions::OURS).is_none());
        if is_foreign {
            return;
        }
        let remote = known.map(|known| (known.id, known.record.noise_static));
        // Where others say that a node is may be anybody's.
        let tries = if proven { PROVEN_TRIES } else { HEARSAY_TRIES };
        self.door.connect(now, via, remote, tries);
    }

    /// To be called after [`Self::handle_frame`] and [`Self::handle_opened`], which may come in bursts.
    pub fn settle(&mut self, now: Instant) {
        self.pump(now);
    }

    /// Ends all sessions and starts anew: others are to see this node's new certificate.
    pub fn reconnect(&mut self, now: Instant) {
        self.shutdown();
        self.peers.ids().into_iter().for_each(|id| self.drop_peer(now, id, "starting anew"));
        self.discovery.retry_all(now);
        self.handle_timeout(now);
    }

    /// The node that owns an inner address.
    #[must_use]
    pub fn owner_of(&self, ip: std::net::IpAddr) -> Option<NodeId> {
        self.book.candidates(ip).next()
    }

    /// The prefixes beside mesh addresses that reachable nodes announce.
    #[must_use]
    pub fn announced_prefixes(&self) -> Vec<crate::types::IpPrefix> {
        let me = self.identity.id();
        let reachable =
            |n: &NodeId| *n != me && self.routing.origin(n).and_then(|o| self.routing.next_hop(o)).is_some();
        self.book.subnets().iter().filter(|(_, nodes)| nodes.iter().any(reachable)).map(|(p, _)| p).collect()
    }

    /// Networks that several reachable nodes announce: the network, who is used, and who would be if that one were gone.
    #[must_use]
    pub fn standbys(&self) -> Vec<(IpPrefix, NodeId, NodeId)> {
        let reachable = |n: &&NodeId| self.routing.origin(n).and_then(|o| self.routing.next_hop(o)).is_some();
        let mut out = Vec::new();
        for (prefix, nodes) in self.book.subnets().iter() {
            let mut there = nodes.iter().filter(reachable);
            if let Some(used) = there.next() {
                out.extend(there.map(|standby| (prefix, *used, *standby)));
            }
        }
        out
    }

    /// Carries everything until nothing is left to carry.
    pub(super) fn pump(&mut self, now: Instant) {
        loop {
            let mut moved = self.pump_sessions(now);
            moved |= self.pump_routing(now);
            moved |= self.announce_if_due(now);
            moved |= self.pump_channels(now);
            if !moved {
                break;
            }
        }
        self.tell_of_lost_links(now);
    }

    fn pump_sessions(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(output) = self.door.poll() {
            moved = true;
            self.on_handshake(now, output);
        }
        moved
    }

    /// Sends a datagram straight, or behind a hop header by way of routing.
    pub(super) fn send_via(&mut self, via: Via, bytes: Vec<u8>) {
        self.send_by(via, None, bytes);
    }

    /// [`Self::send_via`], but through this neighbour, as long as there is a link to it.
    pub(super) fn send_by(&mut self, via: Via, by: Option<NodeId>, bytes: Vec<u8>) {
        match via {
            Via::Direct(to) => self.transmits.push_back(Transmit::new(to, bytes)),
            Via::Relayed(tag) => {
                let hop = |next: NodeId| {
                    let neighbor = self.peers.get(&next)?;
                    Some((neighbor.transport()?, neighbor.link.as_ref().filter(|l| l.up)?.addr))
                };
                let routed = || hop(self.routing.next_hop(self.routing.origin(self.by_tag.get(&tag)?)?)?);
                // Without a way of our own nothing else could be sent there yet: it asks again.
                if let Some((relay, to)) = routed().map(|own| by.and_then(hop).unwrap_or(own)) {
                    let header = relay.seal_hop(MAX_HOPS, tag, self.me());
                    self.transmits.push_back(Transmit::new(to, [&header[..], &bytes].concat()));
                }
            }
        }
    }

    fn pump_routing(&mut self, now: Instant) -> bool {
        let events = self.routing.take_events();
        let moved = !events.is_empty();
        let has_news = events.iter().any(|e| matches!(e, routing::Event::Changed(_)));
        for event in events {
            match event {
                routing::Event::NeedSeqno => self.own.need(),
                routing::Event::Known(seqno) => self.own.go_beyond(seqno),
                routing::Event::Changed(o) => self.on_origin_changed(now, o),
                routing::Event::Left(o, neighbor) => {
                    if let Some(id) = self.routing.announcement(o).map(|known| known.id) {
                        self.mark_route(id, self.hop_through(neighbor, id));
                    }
                }
                // The node may be dead: an idle link would not tell for seconds.
                routing::Event::Doubted(id) => {
                    if let Some(link) = self.peers.get_mut(&id).and_then(|p| p.link.as_mut()).filter(|l| l.up) {
                        link.doubt_by_hearsay(now);
                    }
                }
                routing::Event::Gone(id) => self.on_origin_gone(id),
            }
        }
        if has_news {
            self.choose_exit(now);
        }
        moved
    }

    /// Gone from the table: who is no longer there is no longer wanted.
    fn on_origin_gone(&mut self, id: NodeId) {
        self.moved.insert(id);
        let is_back = self.routing.origin(&id).is_some_and(|o| self.routing.announcement(o).is_some());
        if !is_back {
            self.tables_dirty = true;
            self.by_tag.remove(&id.tag());
            self.book.remove(&id);
            self.shown.remove(&id);
            self.discovery.forget(&id);
        }
    }

    fn on_origin_changed(&mut self, now: Instant, o: u32) {
        let Some(known) = self.routing.announcement(o).cloned() else {
            // What it was is not known any more.
            self.tables_dirty = true;
            return;
        };
        self.moved.insert(known.id);
        self.note_way(now, o, known.id);
        let is_new = self.by_tag.insert(known.id.tag(), known.id).is_none();
        let shown = self.shown.get(&known.id);
        if is_new || shown.is_none_or(|shown| shown.0 != known.seqno) {
            self.tables_dirty |= is_new || shown.is_none_or(|shown| shown.1 != known.record.hash);
            self.shown.insert(known.id, (known.seqno, known.record.hash));
            self.enter(&known);
            self.discovery.known(now, known.id, &self.around.places(&known.record.endpoints));
            self.settle_address(now);
            let id = known.id;
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.info = known;
                self.ask_whether_restarted(now, id);
            }
            self.events.push_back(Event::PeersChanged);
        }
    }

    /// Enters a node in the address book, with the networks that it may announce.
    fn enter(&mut self, known: &Verified) {
        let granted = self.policy.granted(known);
        if granted.len() < known.record.prefixes.len() && known.id != self.identity.id() {
            self.counters.refuse(&Refusal::ForeignPrefix);
            self.events.push_back(Event::Refused(Refusal::ForeignPrefix));
        }
        self.book.insert(known, granted);
    }

    /// Networks that are accepted from nodes without a certificate for them, from now on.
    pub fn set_accepted(&mut self, accept: HashMap<NodeId, Vec<IpPrefix>>) {
        self.policy.accept = accept;
        let me = self.identity.id();
        let all: Vec<_> = self.routing.announcements().filter(|k| k.id != me).cloned().collect();
        all.iter().for_each(|known| self.enter(known));
        self.tables_dirty = true;
    }

    /// Brings the agenda up to date with whom routing has news for and what happened to links and channels.
    pub(super) fn settle_agenda(&mut self, now: Instant) {
        for id in self.routing.take_woken() {
            self.peers.get_mut(&id);
        }
        let routing = &self.routing;
        self.peers.settle(|peer| {
            let link = peer.link.as_ref()?;
            let channel = channel_due(peer, routing).filter(|_| link.up);
            Some(channel.map_or(link.next_tick(now), |at| at.min(link.next_tick(now))))
        });
    }

    fn pump_channels(&mut self, now: Instant) -> bool {
        let mut moved = false;
        self.settle_agenda(now);
        for id in self.peers.due(now) {
            let Some(peer) = self.peers.get(&id) else { continue };
            let due = peer.is_up() && channel_due(peer, &self.routing).is_some_and(|at| at <= now);
            let (Some(neighbor), true) = (peer.neighbor, due) else { continue };
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            while peer.channel.has_room() {
                let Some(request) = self.routing.next_request(neighbor) else { break };
                peer.channel.send(&encode_control(control_message::Kind::SeqnoRequest(request)));
            }
            while peer.channel.has_room() {
                let Some(update) = self.routing.next_update(now, neighbor) else { break };
                peer.channel.send(&encode_control(control_message::Kind::Routes(update)));
            }
            let segments = peer.channel.poll(now);
            let (Some(transport), Some(link)) = (peer.transport().cloned(), &peer.link) else { continue };
            let via = Via::Direct(link.addr);
            for segment in segments {
                moved = true;
                self.counters.control_sent += 1;
                self.send_on(&transport, via, Kind::Segment(segment));
            }
        }
        moved
    }
}

impl Node {
    /// Hands out an invitation: whoever brings its secret in time gets a certificate, once. Needs the authority's key.
    pub fn invite(&mut self, now: Instant, invitation: super::Invitation) -> Result<(), Refusal> {
        if self.authority.is_none() {
            return Err(Refusal::NoCertificate);
        }
        let unix = self.unix_now(now);
        self.invitations.retain(|i| i.expires > unix);
        if self.invitations.len() >= MAX_INVITATIONS {
            return Err(Refusal::TooMuch);
        }
        self.invitations.push(invitation);
        self.door.judge(&self.policy, &self.invitations);
        self.events.push_back(Event::StateChanged);
        Ok(())
    }

    /// All invitations, for the state file.
    #[must_use]
    pub fn invitations(&self) -> &[super::Invitation] {
        &self.invitations
    }

    /// The revocation list in force, as it was signed.
    #[must_use]
    pub fn revocations(&self) -> &[u8] {
        &self.revocations
    }
}
