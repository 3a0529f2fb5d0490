//! Where handshakes are held: in the node itself, or by a [`Porter`] that its owner runs on a thread of its own, so that a
//! busy gate keeps no probe waiting.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::gate::{Gate, Invitation};
use crate::{
    identity::{Admission, Network, Policy, Verified, Verify},
    session::{Counters, Event, Outgoing, Sessions, Via},
    types::{Instant, NodeId, UnixTime},
    wire::packet::{self, Datagram},
};

use super::claims::ClaimTable;

/// What the node has decided about handshakes.
pub enum Order {
    Connect {
        via: Via,
        remote: Option<(NodeId, [u8; 32])>,
        tries: u32,
    },
    /// The next try is due: there is another way.
    Hurry(Via),
    /// What this node says of itself, and the invite that it joins with.
    SetOwn(Arc<Verified>, Option<Admission>),
    /// Whom to let in.
    Judge(Box<(Policy, Vec<Invitation>)>),
    /// The peer of this session has its keys.
    Confirmed(u32),
    /// The session is over.
    Release(u32),
}

/// What came of handshakes.
#[derive(Debug)]
pub enum Output {
    Event(Event),
    /// A first message to remember over a restart, by the beginning of its key.
    Seen(u64),
    Send(Outgoing),
}

/// Runs the handshakes of a node.
pub struct Porter {
    sessions: Sessions,
    verifier: Box<dyn Verify + Send>,
    me: NodeId,
    policy: Policy,
    invitations: Vec<Invitation>,
    claims: Arc<ClaimTable>,
}

impl Porter {
    /// A handshake fragment or a cookie that came over `via`; `neighbor` is who relayed it. `unix` is the present time.
    pub fn handle_datagram(&mut self, now: Instant, unix: UnixTime, via: Via, neighbor: Option<NodeId>, bytes: &[u8]) {
        match packet::parse(bytes) {
            Ok(Datagram::Handshake(fragment)) => {
                let (policy, invitations) = (&self.policy, &self.invitations);
                let mut gate = Gate { verifier: &*self.verifier, policy, invitations, me: self.me, now: unix };
                self.sessions.handle_handshake(now, (via, neighbor), &fragment, &mut gate);
            }
            Ok(Datagram::Cookie { receiver, body }) => self.sessions.handle_cookie(now, receiver, body),
            _ => {}
        }
    }

    /// Does what the node has decided.
    pub fn obey(&mut self, now: Instant, order: Order) {
        match order {
            Order::Judge(rules) => (self.policy, self.invitations) = *rules,
            other => obey(&mut self.sessions, now, other),
        }
    }

    /// First messages that an earlier start of this node has read ([`Output::Seen`]).
    pub fn remember(&mut self, seen: impl IntoIterator<Item = u64>) {
        self.sessions.remember(seen);
    }

    /// What is to be told to the node ([`super::Node::handle_porter`]), kept or sent. Sessions can be opened once they are told.
    pub fn poll(&mut self) -> Option<Output> {
        poll(&mut self.sessions, &self.claims)
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sessions.poll_timeout()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.sessions.handle_timeout(now);
    }

    /// Its counters, and how many handshakes are under way.
    #[must_use]
    pub fn counters(&self) -> (Counters, usize) {
        (self.sessions.counters, self.sessions.pending())
    }
}

fn poll(sessions: &mut Sessions, claims: &ClaimTable) -> Option<Output> {
    if let Some(event) = sessions.poll_event() {
        claims.note(&event);
        return Some(Output::Event(event));
    }
    let seen = sessions.poll_seen().map(Output::Seen);
    seen.or_else(|| sessions.poll_transmit().map(Output::Send))
}

fn obey(sessions: &mut Sessions, now: Instant, order: Order) {
    match order {
        Order::Connect { via, remote, tries } => sessions.connect(now, via, remote, tries),
        Order::Hurry(via) => sessions.hurry(now, via),
        Order::SetOwn(own, admission) => sessions.set_own(&own, admission),
        Order::Confirmed(index) => sessions.confirmed(index),
        Order::Release(index) => sessions.release(index),
        Order::Judge(_) => {}
    }
}

/// The node's side.
pub(super) struct Door {
    /// `None`: a porter has them.
    here: Option<Sessions>,
    orders: VecDeque<Order>,
    /// Where handshakes of ours are under way, with whom, and how many.
    under_way: HashMap<Via, (Option<NodeId>, u32)>,
    counted: (Counters, usize),
    pub claims: Arc<ClaimTable>,
}

impl Door {
    pub fn new(sessions: Sessions) -> Self {
        let claims = Arc::default();
        let counted = Default::default();
        Self { here: Some(sessions), orders: VecDeque::new(), under_way: HashMap::new(), counted, claims }
    }

    /// Hands the handshakes over to a porter; there is one at the most.
    pub fn hire(
        &mut self,
        network: &Network,
        me: NodeId,
        policy: &Policy,
        invitations: &[Invitation],
    ) -> Option<Porter> {
        Some(Porter {
            sessions: self.here.take()?,
            verifier: Box::new(network.clone()),
            me,
            policy: policy.clone(),
            invitations: invitations.to_vec(),
            claims: Arc::clone(&self.claims),
        })
    }

    fn order(&mut self, now: Instant, order: Order) {
        match &mut self.here {
            Some(sessions) => obey(sessions, now, order),
            None => self.orders.push_back(order),
        }
    }

    /// The next order for the porter.
    pub fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// Other rules hold from now on.
    pub fn judge(&mut self, policy: &Policy, invitations: &[Invitation]) {
        if self.here.is_none() {
            self.orders.push_back(Order::Judge(Box::new((policy.clone(), invitations.to_vec()))));
        }
    }

    pub fn set_own(&mut self, now: Instant, own: &Arc<Verified>, admission: Option<&Admission>) {
        self.order(now, Order::SetOwn(Arc::clone(own), admission.cloned()));
    }

    pub fn connect(&mut self, now: Instant, via: Via, remote: Option<(NodeId, [u8; 32])>, tries: u32) {
        let entry = self.under_way.entry(via).or_insert((None, 0));
        *entry = (remote.map(|r| r.0).or(entry.0), entry.1 + 1);
        self.order(now, Order::Connect { via, remote, tries });
    }

    /// Whether a handshake of ours with `peer`, or over `via`, is under way.
    pub fn is_connecting(&self, peer: Option<NodeId>, via: Via) -> bool {
        self.under_way.contains_key(&via) || peer.is_some() && self.under_way.values().any(|(with, _)| *with == peer)
    }

    /// Handshakes of ours over `via` go another way from now on: the next try is due at once.
    pub fn hurry(&mut self, now: Instant, via: Via) {
        self.order(now, Order::Hurry(via));
    }

    pub fn confirmed(&mut self, now: Instant, index: u32) {
        self.order(now, Order::Confirmed(index));
    }

    pub fn release(&mut self, now: Instant, index: u32) {
        self.claims.remove(index);
        self.order(now, Order::Release(index));
    }

    /// The handshakes, unless a porter has them.
    pub fn here(&mut self) -> Option<&mut Sessions> {
        self.here.as_mut()
    }

    /// The next thing that came of the node's own handshakes.
    pub fn poll(&mut self) -> Option<Output> {
        poll(self.here.as_mut()?, &self.claims)
    }

    /// A handshake that this node began at `asked` is over.
    pub fn ended(&mut self, asked: Via) {
        if let Some(entry) = self.under_way.get_mut(&asked) {
            entry.1 -= 1;
            if entry.1 == 0 {
                self.under_way.remove(&asked);
            }
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.here.as_ref().and_then(Sessions::poll_timeout)
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(sessions) = &mut self.here {
            sessions.handle_timeout(now);
        }
    }

    /// What the porter has counted.
    pub fn set_counted(&mut self, counted: (Counters, usize)) {
        self.counted = counted;
    }

    pub fn counters(&self) -> (Counters, usize) {
        self.here.as_ref().map_or(self.counted, |s| (s.counters, s.pending()))
    }
}
