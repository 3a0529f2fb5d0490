//! Floor 3, sans-IO: the mesh node, one state machine that owns sessions, routing and discovery and decides.
//!
//! The contract: call a `handle_*` with the present time, then drain [`Node::poll_transmit`] and
//! [`Node::poll_event`], then call [`Node::handle_timeout`] at [`Node::poll_timeout`] at the latest. A call too early
//! does nothing. The daemon, the simulator and the fuzzers run this very code.

mod channel;
mod claims;
mod door;
mod exit;
pub mod forward;
mod frames;
mod gate;
mod gauge;
mod join;
mod lan;
mod link;
mod links;
mod marks;
mod observers;
mod own;
mod owners;
mod passage;
mod paths;
mod peer;
mod peers;
mod pmtu;
mod prefix_map;
mod proof;
mod pump;
mod raw;
mod reach;
mod settle;
mod snapshot;
mod status;
mod transmit;
mod ways;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

pub use door::{Order, Output, Porter};
pub use exit::ExitOffer;
pub use gate::Invitation;
pub use owners::{NotFound, Owners};
pub use prefix_map::PrefixMap;
pub use snapshot::Snapshot;
pub use status::{Carrier, Counters, LinkStatus, PeerStatus, RouteStatus, Status};

pub use forward::Arrival;
use forward::{Destination, Egress, Hop, Ingress, Tables};
use peer::{Peer, Session};
use peers::Peers;
pub use transmit::{Source, Transmit};

use crate::{
    crypto::{Cipher, Rng},
    discovery::Discovery,
    identity::{Admission, Authority, Identity, Network, Policy, RecordContent, Refusal, Verify},
    punch::Puncher,
    routing::Routing,
    session::{PROVEN_TRIES, Sessions, Transport, Via},
    types::{Buckets, Duration, ExitChoice, Instant, Metric, NodeId, NodeTag, SeqNo, UnixTime, place::Surroundings},
    wire::{
        frame::{Level, Mark},
        ip,
        version::Versions,
    },
};

/// Everything a node is told at its start.
pub struct NodeConfig {
    pub network: Network,
    pub policy: Policy,
    /// Name, prefixes, certificate and configured endpoints.
    pub content: RecordContent,
    /// First sequence number: UNIX seconds, or one more than the last used.
    pub seqno: SeqNo,
    pub unix_now: UnixTime,
    pub max_peers: usize,
    pub ciphers: Vec<Cipher>,
    pub rekey_after: Duration,
    /// Plaintext bytes after which a session is renewed.
    pub rekey_bytes: u64,
    /// Added to every link's cost, in metric units (µs).
    pub cost: Metric,
    /// Added to the cost of links to these nodes.
    pub link_costs: HashMap<NodeId, Metric>,
    /// Make holes in NATs for direct paths.
    pub punch: bool,
    /// Where this host answers STUN beside the mesh's port; 0: nowhere.
    pub stun_port: u16,
    /// Lets this node issue certificates to the invited.
    pub authority: Option<Authority>,
    /// The invite with which this node joins; of no use to who has a certificate that is good.
    pub admission: Option<Admission>,
    pub invitations: Vec<Invitation>,
    /// The revocation list in force, as the authority signed it.
    pub revocations: Vec<u8>,
    /// What [`Node::held_until`] said in the run before; 0: nothing.
    pub held_until: UnixTime,
}

impl NodeConfig {
    /// A node that says `content` of itself, with the defaults of the configuration file.
    #[must_use]
    pub fn new(network: Network, content: RecordContent, unix_now: UnixTime) -> Self {
        Self {
            policy: Policy { need_certificate: network.authority().is_some(), ..Policy::default() },
            network,
            content,
            seqno: first_seqno(unix_now),
            unix_now,
            max_peers: 50,
            ciphers: Cipher::all_here(),
            rekey_after: Duration::from_secs(3600),
            rekey_bytes: 256 << 30,
            cost: 0,
            link_costs: HashMap::new(),
            punch: true,
            stun_port: 0,
            authority: None,
            admission: None,
            invitations: Vec::new(),
            revocations: Vec::new(),
            held_until: 0,
        }
    }
}

/// The first sequence number of a node that remembers none: the UNIX time, unless the clock is out of its mind. Should
/// others remember a higher one, they say so.
fn first_seqno(unix: UnixTime) -> SeqNo {
    SeqNo::try_from(unix).ok().filter(|s| *s < LAST_CLOCK).unwrap_or(1).max(1)
}

/// In 2096: what is beyond has to last for ever.
const LAST_CLOCK: SeqNo = 4_000_000_000;

/// What the owner of the node should do or know.
#[derive(Debug)]
pub enum Event {
    /// Write this IP packet to the TUN device.
    Deliver(Vec<u8>),
    /// This node's own addresses changed.
    AddressesChanged,
    /// Another node claims this address of this node's too, which keeps it, or has no other one to take.
    AddressContested {
        address: IpAddr,
        by: NodeId,
    },
    /// This node's own number or address, invitations or revocations changed: save them.
    StateChanged,
    /// What is known of others changed, which matters little: save it now and then.
    PeersChanged,
    /// The answer to [`Node::ping`].
    EchoReply {
        id: u64,
        from: NodeId,
    },
    /// The answer to one step of [`Node::trace`].
    TraceReply {
        id: u64,
        from: NodeId,
        next: Option<NodeId>,
        metric: Metric,
        link_rtt: Duration,
    },
    /// The network's authority has certified this node, which uses the certificate already: keep it.
    Certified(Vec<u8>),
    LinkUp {
        peer: NodeId,
        addr: SocketAddr,
    },
    LinkDown {
        peer: NodeId,
        reason: &'static str,
    },
    /// A peer answers STUN here too: two answers tell how a NAT maps.
    StunServer(SocketAddr),
    /// This node cannot announce what it would say of itself: others would refuse it for this.
    CannotAnnounce(Refusal),
    /// Someone was turned away, for the log (rate-limited by the owner).
    Refused(crate::identity::Refusal),
}

/// A mesh node.
pub struct Node {
    identity: Identity,
    network: Network,
    policy: Policy,
    verifier: Box<dyn Verify>,
    rng: Rng,
    own: own::Own,
    door: door::Door,
    claims: claims::Claims,
    /// From whom a beacon was heard, and when.
    heard: lan::Heard,
    /// Nodes that speak no version of the protocol that this one speaks.
    foreign: BTreeMap<NodeId, Versions>,
    routing: Routing,
    discovery: Discovery,
    puncher: Puncher,
    around: Surroundings,
    gauge: Option<gauge::Gauge>,
    /// The longest time between probes of an idle link.
    rest: Duration,
    peers: Peers,
    /// How often the link of each peer may come up.
    comings: Buckets<NodeId>,
    /// Links that went down, while the way round on which to tell the other end is still to be found.
    untold: Vec<(NodeId, Instant)>,
    /// Who was asked whether packets arrive, and when an answer is missing.
    asking: BTreeSet<(Instant, NodeId)>,
    by_index: HashMap<u32, Arc<Transport>>,
    by_tag: HashMap<NodeTag, NodeId>,
    /// The announcement of each origin that the book and discovery have.
    shown: HashMap<NodeId, (SeqNo, [u8; 32])>,
    /// Where sessions were made: a guest has no link.
    guest_addrs: HashMap<u32, SocketAddr>,
    book: Owners,
    hold: settle::Hold,
    proofs: proof::Proofs,
    exit: exit::Exit,
    config: Tuning,
    authority: Option<Authority>,
    invitations: Vec<Invitation>,
    revocations: Vec<u8>,
    unix: (Instant, UnixTime),
    housekeeping: Instant,
    transmits: VecDeque<Transmit>,
    /// Those that are to go out before the tables change.
    marks: VecDeque<Transmit>,
    ends: VecDeque<Transmit>,
    events: VecDeque<Event>,
    tables_dirty: bool,
    /// To whom packets go another way, where nothing else has changed in the tables.
    moved: BTreeSet<NodeId>,
    pub counters: Counters,
}

struct Tuning {
    rekey_after: Duration,
    rekey_bytes: u64,
    cost: Metric,
    link_costs: HashMap<NodeId, Metric>,
    punch: bool,
    stun_port: u16,
}

const HOUSEKEEPING: Duration = Duration::from_secs(1);

impl Node {
    /// Makes a node. `seed` feeds its random choices and Noise ephemerals. Fails if others would refuse what it says of itself.
    pub fn new(
        config: NodeConfig,
        identity: Identity,
        verifier: Box<dyn Verify>,
        seed: [u8; 32],
        now: Instant,
    ) -> Result<Self, Refusal> {
        let mut rng = Rng::from_seed(seed);
        let network = config.network;
        let content = RecordContent { boot: rng.next_u32(), ..config.content };
        let mut own = own::Own::new(content, config.seqno, config.admission, now);
        let announced = own.sign(&identity, &network)?;
        // Who is certified has no need to join.
        if announced.record.certificate.as_ref().is_some_and(|c| c.is_in_time(config.unix_now)) {
            own.admission = None;
        }
        let sessions = Sessions::new(network.clone(), &identity, &config.ciphers, rng.fork(), now);
        let mut door = door::Door::new(sessions);
        door.set_own(now, &announced, own.admission.as_ref());
        let me = identity.id();
        let hold = settle::Hold::new(now, config.unix_now, config.held_until);
        let mut book = Owners::new(me);
        book.recall(hold.is_held(now));
        book.insert(&announced, announced.record.prefixes.clone());
        book.recall(false);
        let mut node = Self {
            door,
            claims: claims::Claims::default(),
            heard: lan::Heard::default(),
            foreign: BTreeMap::new(),
            routing: Routing::new(announced, now),
            discovery: Discovery::new(me, config.max_peers, rng.fork()),
            puncher: Puncher::new(rng.fork()),
            around: Surroundings { mesh: vec![network.cidr(), network.ula()], ..Surroundings::default() },
            gauge: None,
            rest: Duration::ZERO,
            own,
            identity,
            network,
            policy: config.policy,
            verifier,
            rng,
            peers: Peers::default(),
            comings: Buckets::new(4096, (16, Duration::from_secs(1))),
            untold: Vec::new(),
            asking: BTreeSet::new(),
            by_index: HashMap::new(),
            by_tag: HashMap::new(),
            shown: HashMap::new(),
            guest_addrs: HashMap::new(),
            book,
            hold,
            proofs: proof::Proofs::default(),
            exit: exit::Exit { choice: ExitChoice::Off, current: None },
            config: Tuning {
                rekey_after: config.rekey_after,
                rekey_bytes: config.rekey_bytes,
                cost: config.cost,
                link_costs: config.link_costs,
                punch: config.punch,
                stun_port: config.stun_port,
            },
            authority: config.authority,
            invitations: config.invitations,
            revocations: Vec::new(),
            unix: (now, config.unix_now),
            housekeeping: now + HOUSEKEEPING,
            transmits: VecDeque::new(),
            marks: VecDeque::new(),
            ends: VecDeque::new(),
            events: VecDeque::new(),
            tables_dirty: true,
            moved: BTreeSet::new(),
            counters: Counters::default(),
        };
        node.set_revocations(now, &config.revocations);
        node.update_endpoints(now, false);
        Ok(node)
    }

    /// Hands all handshakes over to a porter, which the owner runs elsewhere: it gives it the orders of
    /// [`Self::poll_order`] and the handshakes that arrive, and brings back what comes of them
    /// ([`Self::handle_porter`]). `None`: there is one.
    pub fn hire_porter(&mut self) -> Option<Porter> {
        self.door.hire(&self.network, self.identity.id(), &self.policy, &self.invitations)
    }

    /// The next order for the porter.
    pub fn poll_order(&mut self) -> Option<Order> {
        self.door.poll_order()
    }

    /// Takes in what came of the porter's work.
    pub fn handle_porter(&mut self, now: Instant, output: Output) {
        self.on_handshake(now, output);
        self.pump(now);
    }

    /// Takes in what the porter has counted, and how many handshakes it holds.
    pub fn set_porter_counters(&mut self, counted: (crate::session::Counters, usize)) {
        self.door.set_counted(counted);
    }

    #[must_use]
    pub fn id(&self) -> NodeId {
        self.identity.id()
    }

    /// This node's mesh addresses: IPv4, then IPv6.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.routing.own().map_or([IpAddr::from([0, 0, 0, 0]); 2], |own| own.record.addresses)
    }

    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Who owns which address and name, as far as this node knows.
    #[must_use]
    pub fn owners(&self) -> &Owners {
        &self.book
    }

    #[must_use]
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// UNIX time by this node's reckoning.
    #[must_use]
    pub fn unix_now(&self, now: Instant) -> UnixTime {
        self.unix.1 + now.since(self.unix.0).as_secs()
    }

    /// The wall clock stepped, or simply went on.
    pub fn set_unix(&mut self, now: Instant, unix: UnixTime) {
        self.unix = (now, unix);
    }

    /// A datagram from the network; `interface` is where it arrived (0: unknown). It is opened in place.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, interface: u32, datagram: &mut [u8]) {
        let outcome = forward::ingress(self, from, datagram);
        match outcome {
            Ingress::Packet { session, at, via, newest, .. } => {
                let session = Arc::clone(session);
                self.handle_opened(now, &session, Arrival { via, by: None, newest, interface, local: None });
                self.events.push_back(Event::Deliver(datagram[at].to_vec()));
            }
            Ingress::Frame { session, at, how } => {
                let session = Arc::clone(session);
                self.handle_frame(now, &session, Arrival { interface, ..how }, &datagram[at]);
            }
            Ingress::Mark { mark, session, via, newest, .. } => {
                let (session, how) = (Arc::clone(session), Arrival { via, by: None, newest, interface, local: None });
                match mark {
                    Mark::Begin(Level::Link) => self.handle_mark(now, &session, how),
                    _ => self.handle_opened(now, &session, how),
                }
            }
            Ingress::Forward { to, link, session, newest } => {
                let (link, session) = (Arc::clone(link), Arc::clone(session));
                if newest {
                    let via = Via::Direct(from);
                    self.handle_opened(now, &session, Arrival { via, by: None, newest, interface, local: None });
                }
                self.counters.relayed += 1;
                self.transmits.push_back(Transmit::new(to, datagram.to_vec()));
                if link.note_traffic(1) {
                    self.handle_activity(now, &link);
                }
            }
            Ingress::Claimed { session, at, how } => {
                self.handle_claimed(now, &session, Arrival { interface, ..how }, &datagram[at]);
            }
            Ingress::Handshake { offset, via, neighbor } => {
                self.handle_handshake(now, via, neighbor, &datagram[offset..]);
            }
            Ingress::Drop(reason) => self.counters.drop(reason),
        }
        self.pump(now);
    }

    /// An IP packet from the TUN device.
    pub fn handle_tun(&mut self, now: Instant, packet: &[u8]) {
        let mut out = Vec::with_capacity(packet.len() + 128);
        match forward::egress(self, packet, &mut out) {
            Egress::Send { to, wake } => {
                self.transmits.push_back(Transmit::new(to, out));
                if let Some(session) = wake {
                    self.handle_activity(now, &session);
                }
            }
            Egress::NeedSession(node) => self.send_plaintext(now, node, packet.to_vec()),
            Egress::TooBig(mtu) => self.handle_too_big(now, packet, mtu),
            Egress::NoRoute => {
                self.counters.drop(forward::Drop::NoRoute);
                self.events.extend(ip::unreachable(packet).map(Event::Deliver));
            }
            Egress::Ignore => {}
        }
        self.pump(now);
    }

    fn handle_too_big(&mut self, now: Instant, packet: &[u8], mtu: usize) {
        match ip::too_big(packet, mtu) {
            ip::TooBig::Fragments(pieces) => pieces.iter().for_each(|piece| self.handle_tun(now, piece)),
            ip::TooBig::Icmp(icmp) => self.events.push_back(Event::Deliver(icmp)),
            ip::TooBig::Drop => self.counters.drop(forward::Drop::Malformed),
        }
    }

    /// Sends a plaintext (an IP packet or a frame) to any node, end to end sealed; establishes a session if need be.
    fn send_plaintext(&mut self, now: Instant, node: NodeId, plaintext: Vec<u8>) {
        let Some(destination) = self.destination_node(&node) else {
            self.counters.drop(forward::Drop::NoRoute);
            return;
        };
        if let Some(transport) = &destination.transport {
            let mut bytes = Vec::with_capacity(plaintext.len() + 128);
            let me = self.identity.id().tag();
            let to = forward::seal_to(me, &destination, transport, &mut bytes, |out| out.extend_from_slice(&plaintext));
            self.transmits.push_back(Transmit::new(to, bytes));
            return;
        }
        let Some(info) = self.routing.origin(&node).and_then(|o| self.routing.announcement(o)).cloned() else { return };
        let peer = self.peers.get_or_insert_with(node, || Peer::new(Arc::clone(&info), now));
        if !peer.wait(plaintext) {
            self.counters.drop(forward::Drop::QueueFull);
        }
        let via = Via::Relayed(node.tag());
        if !self.door.is_connecting(None, via) {
            self.door.connect(now, via, Some((node, info.record.noise_static)), PROVEN_TRIES);
        }
        self.packets_wait(now, node);
    }

    /// Whether the tables changed since the last call. Their [`Snapshot`] ([`Self::next_snapshot`]) has to be in force before the next
    /// datagram goes out: its answer may need the session that was just made.
    pub fn take_tables_changed(&mut self) -> bool {
        let has_moved = !std::mem::take(&mut self.moved).is_empty();
        std::mem::take(&mut self.tables_dirty) || has_moved
    }

    /// The next datagram that has to go out before the tables of [`Self::take_tables_changed`] are in force: what they send
    /// comes after it.
    pub fn poll_mark(&mut self) -> Option<Transmit> {
        self.marks.pop_front()
    }

    /// The datagrams that have to go out after all that was sent by the tables before those of
    /// [`Self::take_tables_changed`].
    pub fn take_ends(&mut self) -> VecDeque<Transmit> {
        std::mem::take(&mut self.ends)
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.poll_mark().or_else(|| self.ends.pop_front()).or_else(|| self.transmits.pop_front())
    }

    /// The next thing to act on.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn destination_node(&self, node: &NodeId) -> Option<Destination> {
        let next = self.routing.next_hop(self.routing.origin(node)?)?;
        let hop = self.hop_through(next, *node)?;
        let neighbor = self.peers.get(&next)?;
        let link = Arc::clone(neighbor.transport()?);
        let underlay = neighbor.link.as_ref()?.mtu.size();
        let transport = if next == *node { Some(&link) } else { self.peers.get(node).and_then(|p| p.transport()) };
        Some(Destination { node: *node, transport: transport.cloned(), hop, link, underlay })
    }

    /// How datagrams for a node go out through this neighbour, which may be the node itself.
    fn hop_through(&self, neighbor: NodeId, node: NodeId) -> Option<Hop> {
        let peer = self.peers.get(&neighbor)?;
        let addr = peer.link.as_ref().filter(|l| l.up)?.addr;
        Some(if neighbor == node { Hop::Direct(addr) } else { Hop::Relay(Arc::clone(peer.transport()?), addr) })
    }
}

impl Tables for Node {
    fn me(&self) -> NodeTag {
        self.identity.id().tag()
    }

    fn session(&self, index: u32) -> Option<&Arc<Transport>> {
        self.by_index.get(&index)
    }

    fn claimed(&self, index: u32) -> Option<Arc<Transport>> {
        self.claims.get(index).cloned()
    }

    fn relay(&self, to: NodeTag) -> Option<(&Arc<Transport>, SocketAddr)> {
        if self.own.content.no_relay {
            return None;
        }
        let next = self.routing.next_hop(self.routing.origin(self.by_tag.get(&to)?)?)?;
        let neighbor = self.peers.get(&next)?;
        Some((neighbor.transport()?, neighbor.link.as_ref().filter(|l| l.up)?.addr))
    }

    fn owns(&self, ip: IpAddr, node: &NodeId) -> bool {
        self.book.owns(ip, node).unwrap_or_else(|| self.exit_for(ip) == Some(*node))
    }

    fn is_for_us(&self, ip: IpAddr) -> bool {
        self.routing.own().is_some_and(|own| forward::is_for(&own.record, ip, |ip| self.is_outside(ip)))
    }

    fn destination(&self, ip: IpAddr) -> Option<Cow<'_, Destination>> {
        let mut owners = self.book.candidates(ip).peekable();
        // What the mesh knows is not an exit's.
        let exit = if owners.peek().is_none() { self.exit_for(ip) } else { None };
        let others = owners.chain(exit).filter(|n| *n != self.identity.id() && self.book.takes(n, ip));
        others.filter_map(|n| self.destination_node(&n)).map(Cow::Owned).next()
    }
}

#[cfg(test)]
mod tests;
