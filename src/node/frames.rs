//! Frames of sessions: probes, the control channel, echo and trace, and what ends things.

use std::sync::Arc;

use super::{Arrival, Event, Node, Via, proof::Proofs};
#[cfg(test)]
use crate::types::mutants;
use crate::{
    identity::{RecordSource, Revocations, signed_seqno},
    session::Transport,
    types::{Duration, Instant, NodeId},
    wire::{
        self,
        frame::{self, Kind},
        proto,
    },
};

impl Node {
    /// A frame that a session's peer sent.
    pub fn handle_frame(&mut self, now: Instant, session: &Arc<Transport>, how: Arrival, plaintext: &[u8]) {
        let kind = frame::parse(plaintext);
        // Who only looks has not moved, and an answer comes from wherever we asked.
        let moves = !matches!(&kind, Ok(Kind::Probe(proto::Probe { looking: true, .. }) | Kind::ProbeReply(_)));
        self.handle_opened(now, session, Arrival { newest: how.newest && moves, ..how });
        let Ok(kind) = kind else {
            self.counters.drop(super::forward::Drop::Malformed);
            return;
        };
        let id = session.peer;
        // A session may have ended since the data plane opened this.
        if !self.by_index.contains_key(&session.local_index) {
            return;
        }
        let is_guest = self.peers.get(&id).is_none_or(|p| p.grant.is_some());
        if is_guest {
            return;
        }
        match (kind, how.via) {
            (Kind::Probe(probe), Via::Direct(from)) => self.on_probe(now, session, (from, how.local), &probe),
            (Kind::ProbeReply(reply), _) => self.on_probe_reply(now, id, &reply),
            (Kind::Segment(segment), Via::Direct(_)) => self.on_segment(now, session, segment),
            (Kind::Echo(echo), _) => {
                // An empty echo only confirms a session.
                if echo.id != 0 {
                    self.send_plaintext(now, id, frame::encode(Kind::EchoReply(echo)));
                }
            }
            // That it came is all that it has to say.
            (Kind::EchoReply(echo), _) if Proofs::is_answer(echo.id) => {}
            (Kind::EchoReply(echo), _) => self.events.push_back(Event::EchoReply { id: echo.id, from: id }),
            (Kind::TraceQuery(query), _) => self.on_trace_query(now, id, &query),
            (Kind::TraceReply(reply), _) => self.events.push_back(Event::TraceReply {
                id: reply.id,
                from: id,
                next: NodeId::from_slice(&reply.next),
                metric: reply.metric,
                link_rtt: Duration::from_micros(u64::from(reply.link_rtt_us)),
            }),
            (Kind::Reach(question), Via::Relayed(tag)) => self.on_reach(now, session, (tag, how.by), &question),
            // By the time it came there is a link.
            (Kind::Reach(_), Via::Direct(_)) => {}
            (Kind::Reached(answer), _) => self.on_reached(now, id, &answer),
            (Kind::PathDown(_), Via::Relayed(_)) => self.on_path_down(now, id),
            (Kind::Punch(punch), Via::Relayed(_)) => self.on_punch(now, session, &punch),
            (Kind::Goodbye(goodbye), _) => self.on_goodbye(now, session, &goodbye),
            (Kind::Granted(certificate), _) => self.on_granted(now, id, certificate),
            (Kind::Probe(_) | Kind::Segment(_) | Kind::PathDown(_) | Kind::Punch(_), _) => {
                self.counters.drop(super::forward::Drop::Malformed);
            }
        }
    }

    /// The peer has ended everything with us. What it has begun since, while that was on its way or held back, goes on.
    fn on_goodbye(&mut self, now: Instant, session: &Transport, goodbye: &proto::Goodbye) {
        let id = session.peer;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let at = peer.sessions.iter().position(|s| s.transport.local_index == session.local_index);
        let Some(at) = at else { return };
        let is_late = peer.sessions[at + 1..].iter().any(|s| s.transport.is_confirmed());
        #[cfg(test)]
        let is_late = is_late && !mutants::has(mutants::Mutant::LateGoodbye);
        if is_late {
            let gone = peer.sessions.drain(..=at).collect();
            return self.release_sessions(now, gone);
        }
        self.drop_peer(now, id, "the peer said goodbye");
        if goodbye.reason == "full" {
            self.discovery.refused(now, id);
        }
    }

    fn on_segment(&mut self, now: Instant, session: &Transport, segment: proto::Segment) {
        let id = session.peer;
        // A session that is over may be one with an earlier start of the peer, whose epochs mean nothing now.
        if !self.by_index.contains_key(&session.local_index) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(neighbor) = peer.neighbor else { return };
        let received = peer.channel.receive(now, segment);
        if received.peer_restarted {
            self.routing.forget_learned(now, neighbor);
        }
        if received.resend_all {
            self.routing.send_all(now, neighbor);
        }
        for message in received.messages {
            self.on_control(now, id, &message);
        }
    }

    fn on_control(&mut self, now: Instant, id: NodeId, message: &[u8]) {
        let Some(neighbor) = self.peers.get(&id).and_then(|p| p.neighbor) else { return };
        let Ok(message) = wire::decode::<proto::ControlMessage>(message, "control message") else {
            self.counters.drop(super::forward::Drop::Malformed);
            return;
        };
        match message.kind {
            Some(proto::control_message::Kind::Routes(update)) => {
                let mut gate = super::gate::Gate {
                    verifier: &*self.verifier,
                    policy: &self.policy,
                    invitations: &[],
                    me: self.identity.id(),
                    now: self.unix.1 + now.since(self.unix.0).as_secs(),
                };
                let refusals = self.routing.handle_update(now, neighbor, &update, &mut gate);
                for refusal in refusals {
                    self.counters.refuse(&refusal);
                    self.events.push_back(Event::Refused(refusal));
                }
            }
            Some(proto::control_message::Kind::SeqnoRequest(request)) => {
                self.routing.handle_request(now, neighbor, &request);
            }
            Some(proto::control_message::Kind::Revocations(list)) => {
                if list != self.revocations && self.may_check(now, id) {
                    self.set_revocations(now, &list);
                }
            }
            Some(proto::control_message::Kind::Yours(body)) => self.on_yours(now, id, &body),
            None => self.counters.drop(super::forward::Drop::Malformed),
        }
    }

    /// Whether one more signature that a neighbour brings, and that nobody asked for, is looked at: a few at once, and one a second.
    fn may_check(&mut self, now: Instant, id: NodeId) -> bool {
        self.peers.get_mut(&id).is_some_and(|peer| peer.checks.take(now))
    }

    /// A neighbour has a newer announcement of this node than this node itself: its state was lost, or its clock was ahead
    /// once. That it is ours, our signature shows: the next one goes beyond it.
    fn on_yours(&mut self, now: Instant, from: NodeId, body: &proto::Body) {
        let Some(present) = self.routing.own() else { return };
        let is_news = present.bytes != body.announcement
            && signed_seqno(&body.announcement, &present.id).is_some_and(|seqno| seqno >= present.seqno);
        if !is_news || !self.may_check(now, from) {
            return;
        }
        let own = self.verifier.verify(&body.announcement, RecordSource::Bytes(&body.record));
        match own {
            Ok(own) if own.id == self.identity.id() => self.own.go_beyond(own.seqno),
            _ => self.counters.drop(super::forward::Drop::Forged),
        }
    }

    /// Takes a revocation list into force if the authority signed it and it is newer: the revoked lose their
    /// sessions at once, and the list goes on to all neighbours. Returns whether it did.
    pub fn set_revocations(&mut self, now: Instant, list: &[u8]) -> bool {
        let Some(authority) = self.network.authority() else { return false };
        let Ok(revocations) = Revocations::open(list, authority) else {
            if !list.is_empty() {
                self.counters.drop(super::forward::Drop::Malformed);
            }
            return false;
        };
        if revocations.version <= self.policy.revocations.version {
            return false;
        }
        self.policy.revocations = revocations;
        self.door.judge(&self.policy, &self.invitations);
        self.revocations = list.to_vec();
        let kind = proto::control_message::Kind::Revocations(list.to_vec());
        let message = super::pump::encode_control(kind);
        for id in self.peers.ids() {
            if let Some(peer) = self.peers.get_mut(&id).filter(|p| p.is_up()) {
                peer.channel.send(&message);
            }
        }
        self.housekeeping(now);
        self.events.push_back(Event::StateChanged);
        self.pump(now);
        true
    }

    /// Sends an echo request to a node, end to end; the answer comes as an [`Event`]. `id` is not 0.
    pub fn ping(&mut self, now: Instant, node: NodeId, id: u64, size: usize) {
        let echo = proto::Echo { id, data: vec![0; size.min(1200)] };
        self.send_plaintext(now, node, frame::encode(Kind::Echo(echo)));
        self.pump(now);
    }

    /// Asks a node what its next hop towards `target` is; the answer comes as an [`Event`].
    pub fn trace(&mut self, now: Instant, node: NodeId, id: u64, target: NodeId) {
        if node == self.identity.id() {
            let (next, metric, link_rtt) = self.trace_step(&target);
            self.events.push_back(Event::TraceReply { id, from: node, next, metric, link_rtt });
        } else {
            let query = proto::TraceQuery { id, target: target.0.to_vec() };
            self.send_plaintext(now, node, frame::encode(Kind::TraceQuery(query)));
        }
        self.pump(now);
    }

    fn trace_step(&self, target: &NodeId) -> (Option<NodeId>, u32, Duration) {
        let route = self.routing.origin(target).and_then(|o| self.routing.route(o));
        let Some(route) = route else { return (None, crate::types::INFINITY, Duration::ZERO) };
        let link = self.peers.get(&route.next_hop).and_then(|p| p.link.as_ref());
        (Some(route.next_hop), route.metric, link.and_then(|l| l.srtt()).unwrap_or_default())
    }

    fn on_trace_query(&mut self, now: Instant, from: NodeId, query: &proto::TraceQuery) {
        let Some(target) = NodeId::from_slice(&query.target) else { return };
        let (next, metric, link_rtt) = self.trace_step(&target);
        let reply = proto::TraceReply {
            id: query.id,
            next: next.map(|n| n.0.to_vec()).unwrap_or_default(),
            metric,
            link_rtt_us: u32::try_from(link_rtt.as_micros()).unwrap_or(u32::MAX),
        };
        self.send_plaintext(now, from, frame::encode(Kind::TraceReply(reply)));
    }
}
