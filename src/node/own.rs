//! What this node says of itself: its record, and when it is announced anew.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    Event, Node,
    observers::{Claim, Observer, Observers},
};
use crate::{
    identity::{Admission, Identity, MAX_ENDPOINTS, Network, RecordContent, Refusal, Verified},
    types::{Bucket, Duration, Instant, IpPrefix, SeqNo, Service, path, place},
};

/// How long others keep an announcement.
pub(super) const LIFETIME_S: u32 = 7200;
const REFRESH: Duration = Duration::from_secs(3300);
/// Whoever asks for a new sequence number, the next one comes no sooner: each costs a signature here, and a check everywhere.
const ON_REQUEST: Duration = Duration::from_secs(1);
/// Two announcements of a changed record are at least this far apart.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// And so many may come one after the other for what others observe, and one more after each pause: everybody in the mesh hears
/// of each.
const CHANGES: (u32, Duration) = (20, Duration::from_secs(5));

pub(super) struct Own {
    pub content: RecordContent,
    /// The invite with which this node joins.
    pub admission: Option<Admission>,
    seqno: SeqNo,
    configured: Vec<SocketAddr>,
    local: Vec<SocketAddr>,
    /// The public port that the router keeps for this node.
    mapped: Option<SocketAddr>,
    /// Where a TURN server takes in datagrams for this node.
    relayed: Option<SocketAddr>,
    observers: Observers,
    dirty: bool,
    /// It is, by what others observe of this node's address: they decide how often.
    observed: bool,
    changes: Bucket,
    /// Somebody asks for a new sequence number.
    asked: bool,
    /// One of our own announcements, which others have, is as new as this.
    known: SeqNo,
    announced: Instant,
    /// When this node last announced because somebody asked.
    answered: Option<Instant>,
}

impl Own {
    pub fn new(content: RecordContent, seqno: SeqNo, admission: Option<Admission>, now: Instant) -> Self {
        Self {
            configured: content.endpoints.clone(),
            content,
            admission,
            seqno,
            local: Vec::new(),
            mapped: None,
            relayed: None,
            observers: Observers::default(),
            dirty: false,
            observed: false,
            changes: Bucket::new(CHANGES.0, CHANGES.1),
            asked: false,
            known: 0,
            announced: now,
            answered: None,
        }
    }

    pub fn sign(&self, identity: &Identity, network: &Network) -> Result<Arc<Verified>, Refusal> {
        identity.announce(network, &self.content, self.seqno, LIFETIME_S).map(Arc::new)
    }

    /// To be announced at once.
    pub fn set_certificate(&mut self, certificate: Vec<u8>) {
        self.content.certificate = certificate;
        self.dirty = true;
        self.announced = Instant::default();
    }

    /// Prefixes beside the addresses, the country of the exit, and services.
    pub fn set_offer(&mut self, prefixes: Vec<IpPrefix>, country: String, services: Vec<Service>) {
        let before = self.content.clone();
        let content = RecordContent { prefixes, country, services, ..before };
        self.dirty |= self.content != content;
        self.content = content;
    }

    /// Whether this host has no IPv6.
    pub fn set_ipv4_only(&mut self, ipv4_only: bool) {
        self.dirty |= self.content.ipv4_only != ipv4_only;
        self.content.ipv4_only = ipv4_only;
    }

    /// Another IPv4 address from now on.
    pub fn set_ipv4_attempt(&mut self, attempt: u32) {
        self.content.ipv4_attempt = attempt;
        self.dirty = true;
    }

    pub fn seqno(&self) -> SeqNo {
        self.seqno
    }

    /// Somebody says that it needs a newer sequence number than the present one.
    pub fn need(&mut self) {
        self.asked = true;
    }

    /// Others have an announcement of ours, signed by us, with this sequence number, which is not the present one.
    pub fn go_beyond(&mut self, seqno: SeqNo) {
        if seqno >= self.seqno {
            self.known = self.known.max(seqno);
        }
    }

    /// Whether this is an address of this host on which this node listens.
    pub fn has_local(&self, addr: SocketAddr) -> bool {
        self.local.contains(&addr)
    }

    /// Where others saw this node, beside the host's own addresses; the best first.
    pub fn reflexive(&self) -> Vec<SocketAddr> {
        let mut all = self.observers.believed();
        all.retain(|addr| !self.local.contains(addr));
        all
    }

    /// What is known of the NAT before this node.
    pub fn mapping(&self) -> crate::wire::proto::Mapping {
        self.observers.mapping(&self.local)
    }

    /// Where this node is in the internet.
    pub fn public(&self) -> Vec<IpAddr> {
        let all = self
            .configured
            .iter()
            .copied()
            .chain(self.observers.public_port(self.mapped))
            .chain(self.local.iter().copied());
        let mut all: Vec<IpAddr> = all.chain(self.observers.believed()).map(|a| a.ip()).collect();
        all.retain(|ip| place::is_public(*ip));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Returns whether they have changed.
    fn update_endpoints(&mut self) -> bool {
        let mut endpoints = self.configured.clone();
        let found = self.observers.public_port(self.mapped).into_iter().chain(self.local.iter().copied());
        for addr in found.chain(self.observers.believed()).chain(self.relayed) {
            if !endpoints.contains(&addr) && endpoints.len() < MAX_ENDPOINTS {
                endpoints.push(addr);
            }
        }
        let is_new = endpoints != self.content.endpoints;
        self.content.endpoints = endpoints;
        is_new
    }

    fn due(&self) -> Instant {
        if self.known >= self.seqno && self.known > 0 && self.seqno < SeqNo::MAX {
            // Each costs a signature, and everybody hears of it.
            self.announced + ON_REQUEST
        } else if self.asked {
            self.answered.map_or(Instant::default(), |at| at + ON_REQUEST).min(self.announced + REFRESH)
        } else if self.dirty {
            self.announced + DEBOUNCE
        } else if self.observed {
            (self.announced + DEBOUNCE).max(self.changes.next())
        } else {
            self.announced + REFRESH
        }
    }
}

impl Node {
    /// The addresses of this host on which it can be reached, with the port it listens on.
    pub fn set_local_endpoints(&mut self, now: Instant, endpoints: Vec<SocketAddr>) {
        if self.own.local != endpoints {
            self.own.local = endpoints;
            self.update_endpoints(now, false);
            self.pump(now);
        }
    }

    /// This node's endpoints follow from what is known now, and so does where it looks for others. `observed`: by others.
    pub(super) fn update_endpoints(&mut self, now: Instant, observed: bool) {
        let is_new = self.own.update_endpoints();
        *if observed { &mut self.own.observed } else { &mut self.own.dirty } |= is_new;
        let public = self.own.public();
        if public != self.around.public {
            self.around.public = public;
            self.look_anew(now);
        }
    }

    /// The router keeps this public port for this node, or none any more.
    pub fn set_mapped_endpoint(&mut self, now: Instant, mapped: Option<SocketAddr>) {
        if self.own.mapped != mapped {
            self.own.mapped = mapped;
            self.update_endpoints(now, false);
            self.pump(now);
        }
    }

    /// A TURN server takes in datagrams for this node at this address, or none does any more.
    pub fn set_relayed_endpoint(&mut self, now: Instant, relayed: Option<SocketAddr>) {
        if self.own.relayed != relayed {
            self.own.relayed = relayed;
            self.update_endpoints(now, false);
            self.pump(now);
        }
    }

    /// NATs and firewalls before this node remember an idle flow for so long; `None`: not known, or not long. Idle links
    /// are then probed as rarely as that allows.
    pub fn set_flow_lifetime(&mut self, lifetime: Option<Duration>) {
        self.rest = lifetime.map_or(Duration::ZERO, |t| t * 9 / 10);
    }

    /// The IPv4 attempt in use and the last sequence number, to be kept across restarts.
    #[must_use]
    pub fn own_state(&self) -> (u32, SeqNo) {
        (self.own.content.ipv4_attempt, self.own.seqno())
    }

    /// A STUN server saw this node at `mapped`. `configured`: it is one of this node's own configuration.
    pub fn note_reflexive(&mut self, now: Instant, server: SocketAddr, mapped: SocketAddr, configured: bool) {
        self.note_observed(now, Observer::Server(server), (server, configured), mapped);
        self.pump(now);
    }

    /// An observer, at this path, saw this node at `seen`.
    pub(super) fn note_observed(
        &mut self,
        now: Instant,
        by: Observer,
        (path, configured): (SocketAddr, bool),
        seen: SocketAddr,
    ) {
        let from = path::plain(path).ip().to_canonical();
        let configured = configured || self.around.configured.iter().any(|a| a.ip().to_canonical() == from);
        let seen = SocketAddr::new(seen.ip().to_canonical(), seen.port());
        if self.around.mesh.iter().any(|mesh| mesh.contains(seen.ip())) {
            return;
        }
        if self.own.observers.note(now, Claim { by, from, configured, seen }) {
            self.update_endpoints(now, true);
        }
    }

    pub(super) fn own_timeout(&self) -> Instant {
        self.own.due()
    }

    /// Announces anew if that is due. Returns whether it did.
    pub(super) fn announce_if_due(&mut self, now: Instant) -> bool {
        if now < self.own.due() {
            return false;
        }
        // A request raises the number by one, whatever it asks for (RFC 8966 §3.8.1.2); only our own signature says that a
        // higher one was in use already.
        let last = self.own.seqno;
        self.own.seqno = last.max(self.own.known).saturating_add(1);
        if std::mem::take(&mut self.own.asked) {
            self.own.answered = Some(now);
        }
        self.own.known = 0;
        self.own.dirty = false;
        if std::mem::take(&mut self.own.observed) {
            self.own.changes.take(now);
        }
        self.own.announced = now;
        let before = self.addresses();
        let announced = match self.own.sign(&self.identity, &self.network) {
            Ok(announced) if self.own.seqno > last => announced,
            refused => {
                // Others would refuse it: what they have stays in force.
                self.own.seqno = last;
                self.events.push_back(Event::CannotAnnounce(refused.err().unwrap_or(Refusal::TooMuch)));
                return false;
            }
        };
        self.door.set_own(now, &announced, self.own.admission.as_ref());
        self.book.insert(&announced, announced.record.prefixes.clone());
        self.routing.set_own(now, announced);
        if self.addresses() != before {
            self.events.push_back(Event::AddressesChanged);
        }
        self.events.push_back(Event::StateChanged);
        self.tables_dirty = true;
        true
    }
}
