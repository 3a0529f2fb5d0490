//! The path of one packet, the same code for the daemon's threads (over a frozen snapshot) and for the simulator
//! (over the live node): what an arriving datagram is, and where a packet from the TUN goes.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
};

use crate::{
    identity::Record,
    session::{Rejected, Transport, Via},
    types::{IpPrefix, NodeId, NodeTag, path::Local},
    wire::{
        frame::{FRAME, Mark},
        ip,
        packet::{self, DATA_OVERHEAD, Datagram, HOP_HEADER, HopHeader},
    },
};

/// How a datagram leaves towards a node.
#[derive(Clone, Debug)]
pub enum Hop {
    /// Over the link to the node itself.
    Direct(SocketAddr),
    /// To a neighbour, behind a hop header sealed with that neighbour's session.
    Relay(Arc<Transport>, SocketAddr),
}

/// Where packets for one node go.
#[derive(Clone, Debug)]
pub struct Destination {
    pub node: NodeId,
    /// The end-to-end session; `None`: not established yet.
    pub transport: Option<Arc<Transport>>,
    pub hop: Hop,
    /// The link's session, for its activity; the same as `transport` when direct.
    pub link: Arc<Transport>,
    /// Bytes of UDP payload that the link carries in one piece.
    pub underlay: usize,
}

/// The tables that packets are looked up in.
pub trait Tables {
    /// This node's tag.
    fn me(&self) -> NodeTag;
    /// The session behind a receiver index of ours.
    fn session(&self, index: u32) -> Option<&Arc<Transport>>;
    /// The session behind an index that isn't in the tables: one that is new, or that somebody only says to have made.
    fn claimed(&self, index: u32) -> Option<Arc<Transport>>;
    /// Where a datagram for this node goes next, if there is a route and this node relays.
    fn relay(&self, to: NodeTag) -> Option<(&Arc<Transport>, SocketAddr)>;
    /// Whether a packet from `node` may carry this inner source address.
    fn owns(&self, ip: IpAddr, node: &NodeId) -> bool;
    /// Whether packets for this inner address end here, or are carried on from here outside the mesh.
    fn is_for_us(&self, ip: IpAddr) -> bool;
    /// Where packets for an inner address go.
    fn destination(&self, ip: IpAddr) -> Option<Cow<'_, Destination>>;
}

/// Why a packet was dropped. Each has a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Drop {
    Malformed,
    UnknownSession,
    Forged,
    Replayed,
    /// The inner source address is not the sender's.
    SpoofedSource,
    /// The inner destination is neither this node's nor behind it.
    ForeignDestination,
    /// No route, for a packet of a user or for a relayed one.
    NoRoute,
    TtlExpired,
    /// More than this relay gives to the neighbour, or to all.
    RelayLimit,
    QueueFull,
}

impl Drop {
    pub const ALL: [Drop; 10] = [
        Drop::Malformed,
        Drop::UnknownSession,
        Drop::Forged,
        Drop::Replayed,
        Drop::SpoofedSource,
        Drop::ForeignDestination,
        Drop::NoRoute,
        Drop::TtlExpired,
        Drop::RelayLimit,
        Drop::QueueFull,
    ];

    /// The counter's name in `status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Drop::Malformed => "malformed",
            Drop::UnknownSession => "unknown_session",
            Drop::Forged => "forged",
            Drop::Replayed => "replayed",
            Drop::SpoofedSource => "spoofed_source",
            Drop::ForeignDestination => "foreign_destination",
            Drop::NoRoute => "no_route",
            Drop::TtlExpired => "ttl_expired",
            Drop::RelayLimit => "relay_limit",
            Drop::QueueFull => "queue_full",
        }
    }
}

impl From<Rejected> for Drop {
    fn from(value: Rejected) -> Self {
        match value {
            Rejected::Forged => Drop::Forged,
            Rejected::Replayed => Drop::Replayed,
            Rejected::Guest => Drop::RelayLimit,
        }
    }
}

/// How something came on a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub via: Via,
    /// The neighbour that relayed it, if one did and if it matters.
    pub by: Option<NodeId>,
    /// Nothing newer has come on the session: it tells where the peer is now.
    pub newest: bool,
    /// The interface on which it arrived (0: unknown).
    pub interface: u32,
    /// The address of this host that it came to, where that is known.
    pub local: Option<Local>,
}

/// What an arriving datagram turned out to be.
#[derive(Debug)]
pub enum Ingress<'t> {
    /// An IP packet for this host, authenticated, its source checked.
    Packet {
        session: &'t Arc<Transport>,
        at: Range<usize>,
        via: Via,
        counter: u64,
        newest: bool,
    },
    /// A frame of a session.
    Frame {
        session: &'t Arc<Transport>,
        at: Range<usize>,
        how: Arrival,
    },
    /// The peer changes its path, says this byte.
    Mark {
        mark: Mark,
        session: &'t Arc<Transport>,
        at: Range<usize>,
        via: Via,
        counter: u64,
        newest: bool,
    },
    /// Rewritten in place for the next hop.
    Forward {
        to: SocketAddr,
        link: &'t Arc<Transport>,
        /// The neighbour's session that it came on, and whether nothing newer has come on it.
        session: &'t Arc<Transport>,
        newest: bool,
    },
    /// A packet, frame or mark of a session that isn't in the tables: its peer has the keys, which is news.
    Claimed {
        session: Arc<Transport>,
        at: Range<usize>,
        how: Arrival,
    },
    /// A handshake or cookie at this offset, and the neighbour that relayed it.
    Handshake {
        offset: usize,
        via: Via,
        neighbor: Option<NodeId>,
    },
    Drop(Drop),
}

/// Judges a datagram from `from`. Opens and rewrites it in place.
pub fn ingress<'t>(tables: &'t impl Tables, from: SocketAddr, datagram: &mut [u8]) -> Ingress<'t> {
    match outer(tables, datagram) {
        Ok(None) => straight(tables, from, datagram),
        Ok(Some((link, header))) => behind(tables, link, &header, datagram),
        Err(reason) => Ingress::Drop(reason),
    }
}

/// Authenticates the hop header of a datagram that has one, by the neighbour's session that it came on.
pub fn outer<'t>(tables: &'t impl Tables, datagram: &[u8]) -> Result<Option<(&'t Arc<Transport>, HopHeader)>, Drop> {
    match packet::parse(datagram) {
        Ok(Datagram::Hop(header)) => {
            let link = tables.session(header.receiver).ok_or(Drop::UnknownSession)?;
            link.open_hop(&header, datagram)?;
            Ok(Some((link, header)))
        }
        Ok(_) => Ok(None),
        Err(_) => Err(Drop::Malformed),
    }
}

/// Judges a datagram without a hop header.
pub fn straight<'t>(tables: &'t impl Tables, from: SocketAddr, datagram: &mut [u8]) -> Ingress<'t> {
    inner(tables, (Via::Direct(from), None), 0, datagram)
}

/// Judges what is behind a hop header that [`outer`] has authenticated.
pub fn behind<'t>(
    tables: &'t impl Tables,
    link: &'t Arc<Transport>,
    header: &HopHeader,
    datagram: &mut [u8],
) -> Ingress<'t> {
    if header.dst == tables.me() {
        return inner(tables, (Via::Relayed(header.src), Some(link.peer)), HOP_HEADER, datagram);
    }
    let Some(ttl) = header.ttl.checked_sub(1).filter(|t| *t > 0) else {
        return Ingress::Drop(Drop::TtlExpired);
    };
    let Some((next, to)) = tables.relay(header.dst) else { return Ingress::Drop(Drop::NoRoute) };
    let newest = link.is_newest(header.counter);
    datagram[..HOP_HEADER].copy_from_slice(&next.seal_hop(ttl, header.dst, header.src));
    Ingress::Forward { to, link: next, session: link, newest }
}

/// A datagram for this node, at `offset`, that came straight or behind a hop header.
fn inner<'t>(
    tables: &'t impl Tables,
    (via, neighbor): (Via, Option<NodeId>),
    offset: usize,
    datagram: &mut [u8],
) -> Ingress<'t> {
    let body = &mut datagram[offset..];
    match packet::parse(body) {
        Ok(Datagram::Data { receiver, counter }) => {
            let Some(session) = tables.session(receiver) else {
                let Some(session) = tables.claimed(receiver) else { return Ingress::Drop(Drop::UnknownSession) };
                return match session.open(counter, body) {
                    Ok(at) => {
                        let (at, newest) = (at.start + offset..at.end + offset, session.is_newest(counter));
                        Ingress::Claimed {
                            session,
                            at,
                            how: Arrival { via, by: neighbor, newest, interface: 0, local: None },
                        }
                    }
                    Err(rejected) => Ingress::Drop(rejected.into()),
                };
            };
            let at = match session.open(counter, body) {
                Ok(at) => at,
                Err(rejected) => return Ingress::Drop(rejected.into()),
            };
            let newest = session.is_newest(counter);
            let at = at.start + offset..at.end + offset;
            let plain = &datagram[at.clone()];
            if plain.first() == Some(&FRAME) {
                return Ingress::Frame {
                    session,
                    at,
                    how: Arrival { via, by: neighbor, newest, interface: 0, local: None },
                };
            }
            if let Some(mark) = Mark::parse(plain) {
                return Ingress::Mark { mark, session, at, via, counter, newest };
            }
            match check(tables, session, plain) {
                Ok(()) => Ingress::Packet { session, at, via, counter, newest },
                Err(reason) => Ingress::Drop(reason),
            }
        }
        Ok(Datagram::Handshake(_) | Datagram::Cookie { .. }) => Ingress::Handshake { offset, via, neighbor },
        // A beacon comes by multicast, to a socket of its own.
        Ok(Datagram::Hop(_) | Datagram::Beacon(_)) | Err(_) => Ingress::Drop(Drop::Malformed),
    }
}

/// Whether a packet that came on a session may go on: its source is the sender's, and its destination is here or behind
/// this node.
pub fn check(tables: &impl Tables, session: &Transport, packet: &[u8]) -> Result<(), Drop> {
    match ip::addresses(packet) {
        Some((src, _)) if !tables.owns(src, &session.peer) => Err(Drop::SpoofedSource),
        Some((_, dst)) if !tables.is_for_us(dst) => Err(Drop::ForeignDestination),
        Some(_) => Ok(()),
        None => Err(Drop::Malformed),
    }
}

/// Whether a node with this record takes in packets for `ip`: its own addresses, the networks behind it, and, if it is an
/// exit, what is outside the mesh.
#[must_use]
pub fn is_for(record: &Record, ip: IpAddr, is_outside: impl Fn(IpAddr) -> bool) -> bool {
    let is_in = |p: &IpPrefix| p.contains(ip) && (p.prefix_len() > 0 || is_outside(ip));
    record.addresses.contains(&ip) || record.prefixes.iter().any(is_in)
}

/// What became of a packet from the TUN.
#[derive(Debug)]
pub enum Egress {
    /// Sealed into the buffer; send it there. `wake`: the link had asked to hear of traffic.
    Send {
        to: SocketAddr,
        wake: Option<Arc<Transport>>,
    },
    /// There is a route but no session yet: the control side establishes one and sends the packet then.
    NeedSession(NodeId),
    /// Longer than the path takes: this many bytes would fit.
    TooBig(usize),
    NoRoute,
    /// Multicast, link-local and the like: not for the mesh.
    Ignore,
}

/// The longest IP packet that fits a path of `underlay` bytes of UDP payload.
#[must_use]
pub fn inner_mtu(underlay: usize, relayed: bool) -> usize {
    underlay - DATA_OVERHEAD - if relayed { HOP_HEADER } else { 0 }
}

/// The least MTU of a link that carries IPv6.
pub const MIN_MTU: usize = 1280;

/// UDP payload of a 1,500-byte path over IPv6, the smaller of the two families.
pub const UNDERLAY: usize = 1452;

/// Where a packet from the TUN goes.
#[derive(Debug)]
pub enum Route<'t> {
    To(Cow<'t, Destination>),
    NoRoute,
    /// Multicast, link-local and the like: not for the mesh.
    Ignore,
}

impl Destination {
    /// The longest IP packet that the way there carries in one piece.
    #[must_use]
    pub fn mtu(&self) -> usize {
        inner_mtu(self.underlay, matches!(self.hop, Hop::Relay(..)))
    }

    /// The longest that `packet` may be: no less than IPv6 asks of a link (RFC 8200 §5), for which the datagram may
    /// have to be fragmented.
    #[must_use]
    pub fn limit(&self, packet: &[u8]) -> usize {
        let is_v6 = packet.first().is_some_and(|b| b >> 4 == 6);
        if is_v6 { self.mtu().max(MIN_MTU) } else { self.mtu() }
    }
}

/// Looks up where a packet goes.
pub fn route<'t>(tables: &'t impl Tables, packet: &[u8]) -> Route<'t> {
    let Some((_, dst)) = ip::addresses(packet) else { return Route::Ignore };
    let local = match dst {
        IpAddr::V4(a) => a.is_multicast() || a.is_broadcast() || a.is_link_local(),
        IpAddr::V6(a) => a.is_multicast() || a.is_unicast_link_local(),
    };
    if local {
        return Route::Ignore;
    }
    tables.destination(dst).map_or(Route::NoRoute, Route::To)
}

/// Routes and seals a packet from the TUN, appending the datagram to `out`.
pub fn egress(tables: &impl Tables, packet: &[u8], out: &mut Vec<u8>) -> Egress {
    let destination = match route(tables, packet) {
        Route::To(destination) => destination,
        Route::NoRoute => return Egress::NoRoute,
        Route::Ignore => return Egress::Ignore,
    };
    if packet.len() > destination.limit(packet) {
        return Egress::TooBig(destination.limit(packet));
    }
    let Some(transport) = &destination.transport else { return Egress::NeedSession(destination.node) };
    let to = seal_to(tables.me(), &destination, transport, out, |out| out.extend_from_slice(packet));
    let wake = destination.link.note_traffic(1).then(|| Arc::clone(&destination.link));
    Egress::Send { to, wake }
}

/// Appends a datagram for a node to `out`: what `plaintext` appends, sealed, behind the hop header where the way leads
/// through a relay.
pub fn seal_to(
    me: NodeTag,
    destination: &Destination,
    transport: &Transport,
    out: &mut Vec<u8>,
    plaintext: impl FnOnce(&mut Vec<u8>),
) -> SocketAddr {
    let to = match &destination.hop {
        Hop::Direct(addr) => *addr,
        Hop::Relay(relay, addr) => {
            out.extend_from_slice(&relay.seal_hop(packet::MAX_HOPS, destination.node.tag(), me));
            *addr
        }
    };
    transport.seal_with(out, plaintext);
    to
}
