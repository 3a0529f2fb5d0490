//! What this node holds of another one: sessions, link, channel, packets that wait.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use super::{channel::Channel, link::Link, passage::Passage, reach::Reach};
use crate::{
    identity::Verified,
    routing::NeighborId,
    session::Transport,
    types::{Bucket, Duration, Instant},
    wire::proto::Mapping,
};

/// Sessions kept per peer: the one in use, its predecessor, and handshakes that crossed.
const MAX_SESSIONS: usize = 6;
/// Packets that wait for a session.
const MAX_WAITING: usize = 64;
const UNCONFIRMED_LIFE: Duration = Duration::from_secs(20);
/// A session that another one replaced goes after so long without a packet from the peer.
const SUPERSEDED_LIFE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Session {
    pub transport: Arc<Transport>,
    pub since: Instant,
    /// Which start of the peer the session is with.
    pub boot: u32,
    pub initiator: bool,
    /// When a newer session took over.
    pub superseded: Option<Instant>,
    /// For idle detection: user traffic and bytes at the last look.
    pub seen: (u64, Instant),
}

#[derive(Debug)]
pub(super) struct Peer {
    /// The newest that is known of it.
    pub info: Arc<Verified>,
    pub sessions: Vec<Session>,
    /// The start of it that it has proven last, and since when that is known.
    pub boot: Option<(u32, Instant)>,
    /// It came with an older announcement than others have of it.
    pub is_behind: bool,
    pub link: Option<Link>,
    pub neighbor: Option<NeighborId>,
    pub channel: Channel,
    pub waiting: VecDeque<Vec<u8>>,
    /// What the peer said of its NAT.
    pub mapping: Mapping,
    /// A certificate to hand over: the peer is a guest until it comes back with it.
    pub grant: Option<(Vec<u8>, u32)>,
    /// Signatures that it brings unasked and that are looked at.
    pub checks: Bucket,
    /// How often it may say that it no longer hears this node.
    pub downs: Bucket,
    /// Whether packets arrive that go to it by way of relays.
    pub reach: Reach,
    /// Whether they arrive over its link.
    pub passage: Passage,
    /// Its place on the agenda.
    pub due: Option<Instant>,
    /// That place is to be found anew.
    pub touched: bool,
}

impl Peer {
    pub fn new(info: Arc<Verified>, now: Instant) -> Self {
        Self {
            info,
            sessions: Vec::new(),
            boot: None,
            is_behind: false,
            link: None,
            neighbor: None,
            channel: Channel::new(now),
            waiting: VecDeque::new(),
            mapping: Mapping::Unknown,
            grant: None,
            checks: Bucket::new(8, Duration::from_secs(1)),
            downs: Bucket::new(4, Duration::from_secs(1)),
            reach: Reach::default(),
            passage: Passage::default(),
            due: None,
            touched: false,
        }
    }

    /// The session to send on: the newest one that the peer has confirmed, else one that we started. After handshakes
    /// that crossed, each end may use another one; both stay as long as the other end sends on them.
    pub fn transport(&self) -> Option<&Arc<Transport>> {
        let newest = self.sessions.iter().rev().find(|s| s.transport.is_confirmed());
        newest.or_else(|| self.sessions.iter().rev().find(|s| s.initiator)).map(|s| &s.transport)
    }

    /// The session that probes go on: the newest one if we may send on it, so that the probe confirms it.
    pub fn probe_transport(&self) -> Option<&Arc<Transport>> {
        let newest = self.sessions.last().filter(|s| s.initiator || s.transport.is_confirmed());
        newest.map(|s| &s.transport).or_else(|| self.transport())
    }

    /// Users' packets sent on all sessions.
    pub fn traffic(&self) -> u64 {
        self.sessions.iter().map(|s| s.transport.traffic()).sum()
    }

    /// Adds a session; returns those that had to make room: the oldest first, and never the one that is sent on. One that is new
    /// and not yet confirmed stays: where handshakes crossed, the peer is about to send on it.
    pub fn add_session(&mut self, session: Session) -> Vec<Session> {
        self.sessions.push(session);
        let mut gone = Vec::new();
        while self.sessions.len() > MAX_SESSIONS {
            let current = self.transport().map(|t| t.local_index);
            let oldest = self.sessions.iter().position(|s| Some(s.transport.local_index) != current);
            let Some(i) = oldest else { break };
            gone.push(self.sessions.remove(i));
        }
        gone
    }

    /// Queues a plaintext until there is a session. False: the oldest was dropped for it.
    pub fn wait(&mut self, plaintext: Vec<u8>) -> bool {
        self.waiting.push_back(plaintext);
        if self.waiting.len() > MAX_WAITING {
            self.waiting.pop_front();
            return false;
        }
        true
    }

    /// Takes out the sessions with earlier starts of the peer.
    pub fn outdated_sessions(&mut self, boot: u32) -> Vec<Session> {
        let (kept, gone) = std::mem::take(&mut self.sessions).into_iter().partition(|s| s.boot == boot);
        self.sessions = kept;
        gone
    }

    /// Whether it is not to be looked for at `addr`, nor taken to be there.
    pub fn refuses(&self, now: Instant, addr: SocketAddr) -> bool {
        self.passage.refuses(now, addr, &self.info.record.endpoints)
    }

    pub fn is_up(&self) -> bool {
        self.link.as_ref().is_some_and(|l| l.up)
    }

    /// Removes sessions whose time is over; `idle` is how long an end-to-end session without a link may rest, and `life` how
    /// long any session may last: whoever keeps it from being renewed ends it.
    pub fn expire_sessions(&mut self, now: Instant, idle: Duration, life: Duration) -> Vec<Session> {
        let current = self.transport().map(|t| t.local_index);
        let has_link = self.link.is_some();
        for s in &mut self.sessions {
            let count = s.transport.traffic() + s.transport.received_bytes();
            if s.seen.0 != count {
                s.seen = (count, now);
            }
            if Some(s.transport.local_index) == current {
                s.superseded = None;
            } else if s.transport.is_confirmed() && s.superseded.is_none() {
                s.superseded = Some(now);
            }
        }
        let (gone, kept) = std::mem::take(&mut self.sessions).into_iter().partition(|s: &Session| {
            let unconfirmed = !s.transport.is_confirmed() && now.since(s.since) > UNCONFIRMED_LIFE;
            let superseded = s.superseded.is_some_and(|at| now.since(at.max(s.seen.1)) > SUPERSEDED_LIFE);
            let is_worn = now.since(s.since) >= life || s.transport.is_exhausted();
            unconfirmed || superseded || is_worn || (!has_link && now.since(s.seen.1) > idle)
        });
        self.sessions = kept;
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::SigningKey,
        identity::{Identity, Network, RecordContent},
    };

    /// Two renewals in a row cross: what this end has begun and the other one has not used yet is not what makes room.
    #[test]
    fn sessions_make_room_in_the_order_of_their_age() {
        let network = Network::new("n", Some("s"), None, "100.64.0.0/16".parse().unwrap());
        let identity = Identity::new(SigningKey::ed25519_from_seed(&[7; 32])).unwrap();
        let info = Arc::new(identity.announce(&network, &RecordContent::default(), 1, 600).unwrap());
        let mut peer = Peer::new(info, Instant(0));
        let mut gone = Vec::new();
        for index in 1..=20u32 {
            let [transport, _] = Transport::pair(index).map(Arc::new);
            let initiator = index.is_multiple_of(2);
            if !initiator {
                transport.confirm();
            }
            let (since, superseded, seen) = (Instant(index.into()), None, (0, Instant(index.into())));
            let session = Session { transport, since, boot: 1, initiator, superseded, seen };
            gone.extend(peer.add_session(session).iter().map(|s| s.transport.local_index));
        }
        assert_eq!(gone, (1..=20 - MAX_SESSIONS as u32).collect::<Vec<u32>>());
        assert_eq!(peer.transport().map(|t| t.local_index), Some(19));
    }
}
