//! Links and sessions of peers: coming up, moving, going down.

use std::{net::SocketAddr, sync::Arc};

use super::{
    Arrival, Event, Node, Peer, Session, Source, Transmit,
    join::session_life,
    link::{Link, Tick},
    observers::Observer,
    paths::BAD_LOSS,
};
use crate::{
    discovery::Candidate,
    session::{PROVEN_TRIES, Transport, Via},
    types::{
        Duration, Instant, NodeId,
        path::{self, Local},
    },
    wire::{
        frame::{self, Kind},
        packet::DATA_OVERHEAD,
        proto::{self, Wish},
    },
};

/// A place where a peer was seen is tried so often at the most.
const CANDIDATE_GAP: Duration = Duration::from_millis(50);
/// End-to-end sessions without a link are dropped after so long without a packet.
const IDLE_SESSION: Duration = Duration::from_secs(900);
/// By then the other end has noticed by itself that a busy link is gone.
const TELL_FOR: Duration = Duration::from_secs(2);

impl Node {
    /// Begins what a new session is for: a link, where it was made straight, and what waits for it.
    pub(super) fn open_link(
        &mut self,
        now: Instant,
        id: NodeId,
        transport: &Arc<Transport>,
        via: Via,
        initiator: bool,
    ) {
        let secret = self.rng.bytes();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Via::Direct(addr) = via
            && !peer.refuses(now, addr)
        {
            match &mut peer.link {
                // Whichever end finds UDP bad has opened the stream.
                Some(link)
                    if link.up
                        && path::is_stream(addr)
                        && !path::is_makeshift(link.addr)
                        && (link.is_throttled(now) || !initiator && link.loss() >= BAD_LOSS) =>
                {
                    link.prefer(now, addr);
                }
                // A makeshift was made because UDP leads nowhere: that UDP comes in says only half.
                Some(link) if !link.up && path::is_makeshift(addr) >= path::is_makeshift(link.addr) => link.addr = addr,
                Some(_) => {}
                none => *none = Some(Link::new(now, addr, secret)),
            }
            self.send_probe(now, id, addr);
        } else if initiator {
            self.send_on(transport, via, Kind::Echo(proto::Echo::default()));
        }
        self.flush_waiting(now, id);
        if initiator && matches!(via, Via::Relayed(_)) {
            self.came_by_relay(now, id);
            self.offer_punch(now, id);
        }
    }

    /// The peer was started anew: its earlier sessions are void, and so is every route that it had told us of. It has
    /// lost its feasibility distances; a route through its earlier self could close a loop.
    pub(super) fn forget_earlier_starts(&mut self, now: Instant, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some((boot, _)) = peer.boot else { return };
        let gone = peer.outdated_sessions(boot);
        if gone.is_empty() {
            return;
        }
        if let Some(neighbor) = peer.neighbor {
            peer.channel.renew(now);
            self.routing.forget_learned(now, neighbor);
            self.routing.send_all(now, neighbor);
        }
        self.release_sessions(now, gone);
    }

    /// Others have an announcement of an earlier or a later start of the peer than the one that this node has sessions with. A
    /// handshake tells which it is: if the peer was started anew, packets for its earlier self are lost meanwhile; if not,
    /// nothing has happened.
    pub(super) fn ask_whether_restarted(&mut self, now: Instant, id: NodeId) {
        let Some(peer) = self.peers.get(&id).filter(|p| p.grant.is_none()) else { return };
        let is_another = peer.boot.is_some_and(|(boot, _)| boot != peer.info.record.boot);
        let Some(transport) = peer.transport().filter(|_| is_another).cloned() else { return };
        self.renew(now, &transport);
    }

    /// Begins a handshake with the peer of a session, where it is reached now.
    fn renew(&mut self, now: Instant, transport: &Transport) {
        let id = transport.peer;
        let Some(peer) = self.peers.get(&id) else { return };
        let via = match &peer.link {
            Some(link) if link.up => Via::Direct(link.addr),
            _ => Via::Relayed(id.tag()),
        };
        let remote = (id, peer.info.record.noise_static);
        if !self.door.is_connecting(None, via) {
            self.counters.rekeys += 1;
            self.door.connect(now, via, Some(remote), PROVEN_TRIES);
        }
    }

    /// A packet of this session was opened: its peer has the keys and is where it came from.
    pub fn handle_opened(&mut self, now: Instant, session: &Arc<Transport>, how: Arrival) {
        let Arrival { via, newest, interface, .. } = how;
        let id = session.peer;
        self.redeem(now, session);
        if self.by_index.contains_key(&session.local_index) && session.confirm() {
            self.door.confirmed(now, session.local_index);
            self.tables_dirty = true;
            self.flush_waiting(now, id);
        }
        let Via::Direct(from) = via else { return };
        let may_be_there = |p: &&mut Peer| p.grant.is_none() && !p.refuses(now, from);
        let Some(peer) = self.peers.get_mut(&id).filter(may_be_there) else { return };
        let link = peer.link.get_or_insert_with(|| Link::new(now, from, self.rng.bytes()));
        if link.addr == from {
            if interface != 0 {
                link.interface = interface;
            }
            return;
        }
        if link.up && path::is_makeshift(from) && !path::is_makeshift(link.addr) && !link.distrusts(now, link.addr) {
            // What was still on its way over the stream when the link moved to UDP.
            return;
        }
        if link.has_left(now, from) || link.distrusts(now, from) {
            return;
        }
        #[cfg(test)]
        if newest && crate::types::mutants::has(crate::types::mutants::Mutant::MoveAtOnce) {
            link.addr = from;
            return;
        }
        let recently = link.candidate.is_some_and(|(_, _, at)| now.since(at) < CANDIDATE_GAP);
        if newest && !recently {
            // Roaming: it is there once a probe to the new address comes back.
            link.candidate = Some((from, interface, now));
            self.send_probe(now, id, from);
        }
    }

    pub(super) fn flush_waiting(&mut self, now: Instant, id: NodeId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.transport().is_none() {
            return;
        }
        for plaintext in std::mem::take(&mut peer.waiting) {
            self.send_plaintext(now, id, plaintext);
        }
    }

    pub(super) fn send_probe(&mut self, now: Instant, id: NodeId, addr: SocketAddr) {
        let wish = self.wish(&id);
        let Some(peer) = self.peers.get_mut(&id).filter(|p| !p.refuses(now, addr)) else { return };
        let transport = peer.probe_transport().cloned();
        let (Some(link), Some(transport)) = (&mut peer.link, transport) else { return };
        let number = link.sent_probe(now, addr);
        let is_here = addr == link.addr;
        let looking = link.up && !is_here;
        if is_here {
            self.count_from(&transport, number);
        }
        let probe = proto::Probe { id: number, wish: wish.into(), looking, ..Default::default() };
        self.send_on(&transport, Via::Direct(addr), Kind::Probe(probe));
    }

    /// Probes of given lengths that must arrive in one piece.
    fn send_padded(&mut self, transport: &Transport, to: SocketAddr, wish: i32, probes: &[(u32, usize)]) {
        for (id, size) in probes {
            // Too long by its headers first; their length is the same once they are taken off.
            let mut probe = proto::Probe { id: *id, wish, padding: vec![0; *size], ..Default::default() };
            let excess = frame::encode(Kind::Probe(probe.clone())).len() + DATA_OVERHEAD - size;
            probe.padding.truncate(size - excess);
            let mut bytes = Vec::with_capacity(*size);
            transport.seal(&frame::encode(Kind::Probe(probe)), &mut bytes);
            debug_assert_eq!(bytes.len(), *size);
            self.transmits.push_back(Transmit { whole: true, ..Transmit::new(to, bytes) });
        }
    }

    /// What this node thinks of a link to `id`.
    fn wish(&mut self, id: &NodeId) -> Wish {
        let link = self.peers.get(id).and_then(|p| p.link.as_ref());
        if link.is_some_and(|l| l.worn) {
            return Wish::NoRoom;
        }
        let no_room = link.filter(|l| l.up).map_or(!self.discovery.has_room(), |l| l.temporary);
        if self.discovery.wants(id) || self.discovery.is_ring(id) {
            Wish::Wanted
        } else if no_room {
            Wish::NoRoom
        } else {
            Wish::Indifferent
        }
    }

    /// Seals a frame and sends it.
    pub(super) fn send_on(&mut self, transport: &Transport, via: Via, kind: Kind) {
        let mut bytes = Vec::with_capacity(128);
        transport.seal(&frame::encode(kind), &mut bytes);
        self.send_via(via, bytes);
    }

    /// A probe asks at `local`, an address of this host, if that is known.
    pub(super) fn on_probe(
        &mut self,
        now: Instant,
        session: &Arc<Transport>,
        (from, local): (SocketAddr, Option<Local>),
        probe: &proto::Probe,
    ) {
        let id = session.peer;
        let may_be_there = |p: &&mut Peer| p.grant.is_none() && !p.refuses(now, from);
        let Some(peer) = self.peers.get_mut(&id).filter(may_be_there) else { return };
        if let Some(link) = &mut peer.link {
            link.peer_wish = probe.wish();
        }
        let is_new = peer.link.as_ref().is_some_and(|l| !l.up && l.srtt().is_none());
        let observed = crate::wire::encode_endpoint(from);
        let wish = self.wish(&id).into();
        let stun_port = u32::from(self.config.stun_port);
        let received = session.users_bytes().1;
        let reply = proto::ProbeReply { id: probe.id, observed, wish, stun_port, received };
        let source = local.map_or(Source::Path, Source::Asked);
        self.send_straight(session, source, from, Kind::ProbeReply(reply));
        if is_new {
            self.send_probe(now, id, from);
        }
    }

    pub(super) fn on_probe_reply(&mut self, now: Instant, id: NodeId, reply: &proto::ProbeReply) {
        let Some(link) = self.peers.get_mut(&id).and_then(|p| p.link.as_mut()) else { return };
        if let Some(changed) = link.mtu.answered(now, reply.id, link.is_active(now)) {
            self.tables_dirty |= changed;
            return;
        }
        let Some((addr, rtt)) = link.replied(now, reply.id) else { return };
        link.peer_wish = reply.wish();
        let observed = crate::wire::decode_endpoint(&reply.observed);
        if let Ok(observed) = observed
            && self.gauge_answered(now, addr, observed)
        {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id).filter(|p| !p.refuses(now, addr)) else { return };
        let Some(link) = &mut peer.link else { return };
        if addr == link.addr {
            if link.up && peer.passage.answered(now, reply.id, reply.received) && self.leave_place(now, id) {
                return;
            }
        } else {
            if link.distrusts(now, addr) {
                return;
            }
            let is_better = link.up && link.compare(addr, rtt);
            let interface = match link.candidate.filter(|c| c.0 == addr) {
                Some((_, interface, _)) => interface,
                // Any place where the peer answers is a good one to begin with.
                None if !link.up || path::is_makeshift(link.addr) || is_better => 0,
                None => return,
            };
            let (moved, old) = (link.up, link.addr);
            // A makeshift is no longer needed, or the peer has left by itself: what is still on its way says nothing.
            let still_works = is_better || moved && (path::is_makeshift(link.addr) || link.has_left(now, link.addr));
            if still_works {
                link.leave(now);
            }
            link.move_to(now, addr, rtt);
            peer.passage.restart();
            link.interface = interface;
            self.tables_dirty = true;
            self.counters.roams += u64::from(moved);
            if still_works {
                self.mark_link(&id, old);
            }
        }
        // What a stream comes from is no place for datagrams.
        let is_stream = path::is_stream(addr);
        // Nor is what a TURN server lends the place where this node is.
        if let (Ok(observed), false) = (observed, path::is_makeshift(addr)) {
            self.note_observed(now, Observer::Peer(id), (addr, false), observed);
        }
        self.link_confirmed(now, id);
        let is_new = self.peers.get(&id).and_then(|p| p.link.as_ref()).is_some_and(|l| l.since == now);
        if let (true, Ok(port @ 1..)) = (is_new && !is_stream, u16::try_from(reply.stun_port)) {
            self.events.push_back(Event::StunServer(SocketAddr::new(path::plain(addr).ip(), port)));
        }
    }

    fn link_confirmed(&mut self, now: Instant, id: NodeId) {
        let configured = self.config.cost + self.config.link_costs.get(&id).copied().unwrap_or(0);
        let temporary = self.wish(&id) == Wish::NoRoom;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(link) = &mut peer.link else { return };
        if !link.worn {
            link.temporary = temporary;
        }
        peer.channel.set_rtt(link.srtt().unwrap_or_default());
        let cost = link.cost(now, configured);
        if link.up {
            if let (Some(cost), Some(neighbor)) = (cost, peer.neighbor) {
                self.routing.neighbor_cost(now, neighbor, cost);
            }
            return;
        }
        if !self.comings.take(now, id) {
            return;
        }
        link.come_up(now);
        peer.passage.restart();
        let (addr, cost) = (link.addr, link.told_cost());
        peer.channel.renew(now);
        if !self.revocations.is_empty() {
            let kind = proto::control_message::Kind::Revocations(self.revocations.clone());
            peer.channel.send(&super::pump::encode_control(kind));
        }
        peer.neighbor = Some(self.routing.neighbor_up(now, id, cost));
        self.tell_behind(&id);
        self.discovery.linked(now, id, addr);
        self.puncher.meet(now, &id);
        self.tables_dirty = true;
        self.counters.links_up += 1;
        self.events.push_back(Event::LinkUp { peer: id, addr: path::plain(addr) });
        self.flush_waiting(now, id);
    }

    /// A neighbour has lost its state, or its clock was ahead once: with the announcement that others have of it, it can go on
    /// where it was.
    pub(super) fn tell_behind(&mut self, id: &NodeId) {
        let Some(peer) = self.peers.get_mut(id).filter(|p| p.is_behind && p.is_up() && p.channel.has_room()) else {
            return;
        };
        peer.is_behind = false;
        let (announcement, record) = (peer.info.bytes.clone(), peer.info.record.bytes.clone());
        let kind = proto::control_message::Kind::Yours(proto::Body { slot: 0, announcement, record });
        peer.channel.send(&super::pump::encode_control(kind));
    }

    /// A link stopped working, and the other end is to know.
    pub(super) fn link_down(&mut self, now: Instant, id: NodeId, reason: &'static str) {
        if self.take_down(now, id, reason) {
            self.untold.push((id, now));
        }
    }

    /// A link is no longer used. It is probed for a while longer; routing has already moved on. Returns whether it was up.
    fn take_down(&mut self, now: Instant, id: NodeId, reason: &'static str) -> bool {
        let Some(link) = self.peers.get_mut(&id).and_then(|p| p.link.as_mut()).filter(|l| l.up) else { return false };
        *link = link.reborn(now);
        self.drop_neighbor(now, id);
        self.counters.links_down += 1;
        self.events.push_back(Event::LinkDown { peer: id, reason });
        true
    }

    /// The other ends of lost links may not have noticed: tell them the long way round, as soon as there is one.
    pub(super) fn tell_of_lost_links(&mut self, now: Instant) {
        for (id, since) in std::mem::take(&mut self.untold) {
            if now.since(since) > TELL_FOR || self.peers.get(&id).is_none_or(Peer::is_up) {
                continue;
            }
            match self.destination_node(&id).and_then(|d| d.transport) {
                Some(transport) => {
                    self.send_on(&transport, Via::Relayed(id.tag()), Kind::PathDown(proto::PathDown {}));
                }
                None => self.untold.push((id, since)),
            }
        }
    }

    /// The peer said that it no longer uses the direct path.
    pub(super) fn on_path_down(&mut self, now: Instant, id: NodeId) {
        if self.peers.get_mut(&id).is_some_and(|peer| peer.downs.take(now)) {
            self.take_down(now, id, "the peer no longer hears us");
        }
    }

    fn drop_neighbor(&mut self, now: Instant, id: NodeId) {
        if let Some(neighbor) = self.peers.get_mut(&id).and_then(|p| p.neighbor.take()) {
            self.routing.neighbor_down(now, neighbor);
        }
        self.discovery.unlinked(now, id);
        self.tables_dirty = true;
    }

    /// Ends everything with a peer.
    pub(super) fn drop_peer(&mut self, now: Instant, id: NodeId, reason: &'static str) {
        let was_up = self.peers.get(&id).is_some_and(Peer::is_up);
        if was_up {
            self.events.push_back(Event::LinkDown { peer: id, reason });
        }
        self.drop_neighbor(now, id);
        self.puncher.end(now, &id);
        if let Some(peer) = self.peers.remove(&id) {
            self.release_sessions(now, peer.sessions);
            self.routing.unmeet(&id);
        }
    }

    pub(super) fn release_sessions(&mut self, now: Instant, gone: Vec<Session>) {
        for session in gone {
            self.by_index.remove(&session.transport.local_index);
            self.door.release(now, session.transport.local_index);
            self.tables_dirty = true;
        }
    }

    /// Users' packets began to flow on a session that had asked to be told.
    pub fn handle_activity(&mut self, now: Instant, session: &Arc<Transport>) {
        let Some(peer) = self.peers.get_mut(&session.peer) else { return };
        let traffic = peer.traffic();
        if let Some(link) = &mut peer.link {
            link.note_traffic(now, traffic);
        }
        self.pump(now);
    }

    /// An interface of this host went up or down, or its addresses changed.
    pub fn handle_interface(&mut self, now: Instant, interface: u32, up: bool) {
        for id in self.peers.ids() {
            let Some(link) = self.peers.get_mut(&id).and_then(|p| p.link.as_mut()) else { continue };
            if !up && link.interface == interface {
                self.link_down(now, id, "its interface went down");
            } else {
                link.doubt(now);
            }
        }
        self.discovery.retry_all(now);
        self.puncher.reset();
        self.pump(now);
    }

    /// The operating system refused to send to this address.
    pub fn handle_send_error(&mut self, now: Instant, to: SocketAddr) {
        for id in self.peers.ids() {
            let link = self.peers.get_mut(&id).and_then(|p| p.link.as_mut());
            if let Some(link) = link.filter(|l| l.addr == to && l.up) {
                link.doubt(now);
            }
        }
        self.puncher.turned_away(to);
        self.pump(now);
    }

    /// Probes, losses and repeats that are due.
    pub(super) fn tick_links(&mut self, now: Instant) {
        self.settle_agenda(now);
        for id in self.peers.due(now) {
            let wish = self.wish(&id).into();
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            if peer.link.as_ref().is_none_or(|l| l.next_tick(now) > now) {
                continue;
            }
            let traffic = peer.traffic();
            let transport = peer.probe_transport().cloned();
            let Some(link) = &mut peer.link else { continue };
            link.rest = self.rest;
            link.note_traffic(now, traffic);
            if link.falls_asleep(now) {
                peer.sessions.iter().for_each(|s| s.transport.sleep());
            }
            let before = link.mtu.size();
            let (padded, addr) = (link.mtu_probes(now), link.addr);
            self.tables_dirty |= link.mtu.size() != before;
            if let Some(transport) = transport.as_ref().filter(|_| !padded.is_empty()) {
                self.send_padded(transport, addr, wish, &padded);
            }
            let Some(link) = self.peers.get_mut(&id).and_then(|p| p.link.as_mut()) else { continue };
            match link.tick(now) {
                Tick::Nothing => {}
                Tick::Probe(probe_id) => {
                    let source = if link.is_unheard() { Source::Any } else { Source::Path };
                    let addr = link.addr;
                    link.spread(now, &mut self.rng);
                    if let Some(transport) = transport {
                        self.count_from(&transport, probe_id);
                        let probe = proto::Probe { id: probe_id, wish, ..Default::default() };
                        self.send_straight(&transport, source, addr, Kind::Probe(probe));
                    }
                }
                Tick::Dead if link.up => self.link_down(now, id, "no answer"),
                Tick::Dead => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.link = None;
                    }
                    self.discovery.unlinked(now, id);
                }
            }
        }
    }

    /// Once a second: renewals, expiries, grants, room.
    pub(super) fn housekeeping(&mut self, now: Instant) {
        self.tick_hold(now);
        self.tick_proofs(now);
        self.expire_claims(now);
        let life = session_life(self.config.rekey_after);
        let ids = self.peers.ids();
        let unix = self.unix_now(now);
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let refusal = self.policy.admit(&peer.info, unix).err().filter(|_| peer.grant.is_none());
            if let Some(refusal) = refusal {
                self.counters.refuse(&refusal);
                self.drop_peer(now, id, "no longer admitted");
                continue;
            }
            let gone = peer.expire_sessions(now, IDLE_SESSION, life);
            self.release_sessions(now, gone);
            self.repeat_grant(id);
            self.rekey_if_due(now, id);
            self.offer_punch(now, id);
            self.look_around(now, id);
            self.look_after(now, id);
            let Some(peer) = self.peers.get(&id) else { continue };
            if peer.sessions.is_empty()
                && peer.link.is_none()
                && !self.door.is_connecting(Some(id), Via::Relayed(id.tag()))
            {
                self.drop_peer(now, id, "over");
            }
        }
        let policy = &self.policy;
        self.routing.retain(now, |origin| policy.admit(origin, unix).is_ok());
        let links: Vec<_> = self
            .peers
            .iter()
            .filter_map(|(id, p)| Some((*id, p.link.as_ref().filter(|l| l.up)?)))
            .map(|(node, l)| Candidate {
                node,
                temporary: l.temporary,
                peer_wants: l.peer_wish == Wish::Wanted,
                since: l.since,
            })
            .collect();
        for id in self.discovery.surplus(now, &links) {
            self.say_goodbye(id, "full");
            self.drop_peer(now, id, "no room");
            self.discovery.refused(now, id);
        }
    }

    fn rekey_if_due(&mut self, now: Instant, id: NodeId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let Some(current) = peer.transport() else { return };
        let Some(session) = peer.sessions.iter().find(|s| s.transport.local_index == current.local_index) else {
            return;
        };
        let t = &session.transport;
        // The end that began the session renews it; the other one steps in if that doesn't happen.
        let limit = if session.initiator { self.config.rekey_after } else { self.config.rekey_after * 6 / 5 };
        let by_volume = t.sent_bytes().max(t.received_bytes()) >= self.config.rekey_bytes
            || t.sent_packets() >= crate::session::ReplayWindow::LIMIT / 2;
        let newest_is_current = peer.sessions.last().is_some_and(|s| s.transport.local_index == t.local_index);
        if !(now.since(session.since) >= limit || (by_volume && (session.initiator || t.sent_bytes() > 0)))
            || !newest_is_current
        {
            return;
        }
        let transport = Arc::clone(t);
        self.renew(now, &transport);
    }

    fn say_goodbye(&mut self, id: NodeId, reason: &str) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (Some(link), Some(transport)) = (&peer.link, peer.transport().cloned()) else { return };
        let via = Via::Direct(link.addr);
        self.send_on(&transport, via, Kind::Goodbye(proto::Goodbye { reason: reason.to_owned() }));
    }

    /// This node stops: its neighbours need not wait to find out.
    pub fn shutdown(&mut self) {
        self.peers.ids().into_iter().for_each(|id| self.say_goodbye(id, "shutdown"));
    }
}
