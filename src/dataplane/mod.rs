//! Floor 5: the threads that move packets between the TUN device and the links. They read a frozen [`Snapshot`] of the
//! node's tables, share no lock, and hand to the control side only what is not a packet.

mod codel;
mod handshakes;
mod heard;
mod limits;
mod order;
mod rx;
mod tx;

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

pub use self::handshakes::{Handshakes, start as start_handshakes};
use self::{limits::RelayLimiter, order::Order};
use crate::{
    config::RelayLimits,
    crypto::HmacKey,
    node::{Arrival, Output, Snapshot, forward::Drop},
    session::Transport,
    transport::{Seal, Sockets, Stream, StunServer, UdpTransport},
    tun::{IoVectors, Tun},
    types::NodeId,
    wire::{frame::Level, ip, turn, vnet::VnetHeader},
};

/// What may wait for the control side.
pub const QUEUE: usize = 4096;
/// Frames of one session that may: what a channel has in flight, and some more. All sessions and claims of one peer together
/// take less than an eighth of the queue.
const MAX_FRAMES: u64 = 40;

/// What the threads hand to the control side.
#[derive(Debug)]
pub enum Input {
    /// A frame of a session, opened.
    Frame { session: Arc<Transport>, how: Arrival, plaintext: Vec<u8> },
    /// A session was confirmed, or its peer sent from a new address.
    Opened { session: Arc<Transport>, how: Arrival },
    /// The same, and its peer says that its old address still works.
    Marked { session: Arc<Transport>, how: Arrival },
    /// A packet, frame or mark of a session that isn't in the tables, opened.
    Claimed { session: Arc<Transport>, how: Arrival, plaintext: Vec<u8> },
    /// What came of handshakes.
    Porter(Output),
    /// A packet from the TUN device whose destination has no session yet.
    Packet(Vec<u8>),
    /// Users' packets began to flow on a session.
    Activity(Arc<Transport>),
    /// The system refused to send to this address.
    SendError(SocketAddr),
}

impl Input {
    /// The control side looks at it: more of its kind from the same session may wait.
    pub fn looked_at(&self) {
        match self {
            Self::Frame { session, .. } | Self::Claimed { session, .. } => session.leave_queue(),
            Self::Opened { session, .. } => session.moved.lower(),
            Self::Marked { session, .. } => session.marked.lower(),
            Self::Porter(_) | Self::Packet(_) | Self::Activity(_) | Self::SendError(_) => {}
        }
    }
}

/// What says that it answers a question of ours. Anybody can send such a thing: it has a queue of its own, so that it is at
/// the expense of nothing else.
#[derive(Debug)]
pub enum Answer {
    /// Of a STUN server, with its transaction's number: where the server saw us.
    Stun { from: SocketAddr, id: [u8; 12], mapped: SocketAddr },
    /// Of the TURN server.
    Turn(turn::Message),
}

/// Counters of the threads.
#[derive(Debug, Default)]
pub struct Counters {
    pub sent_packets: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub received_packets: AtomicU64,
    pub received_bytes: AtomicU64,
    pub relayed_packets: AtomicU64,
    pub relayed_bytes: AtomicU64,
    pub send_errors: AtomicU64,
    pub tun_errors: AtomicU64,
    pub too_big: AtomicU64,
    pub congested: AtomicU64,
    /// Packets marked or dropped because those before them had waited too long for us.
    pub queue_marks: AtomicU64,
    pub tun_reads: AtomicU64,
    pub tun_writes: AtomicU64,
    pub udp_sends: AtomicU64,
    pub udp_receives: AtomicU64,
    pub stun_requests: AtomicU64,
    /// Handshakes without the mac1 of this network.
    pub foreign_handshakes: AtomicU64,
    /// Datagrams at the port of LAN discovery that no neighbour sent to the group.
    pub beacons_ignored: AtomicU64,
    /// Answers in the TURN server's name that it can't be held to.
    pub turn_ignored: AtomicU64,
    drops: [AtomicU64; Drop::ALL.len()],
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn drop(&self, reason: Drop) {
        Self::add(&self.drops[reason as usize], 1);
    }

    #[must_use]
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }
}

/// What the threads share.
pub struct Shared {
    pub tables: ArcSwap<Snapshot>,
    pub counters: Counters,
    pub sockets: Sockets,
    pub stun: Option<StunServer>,
    pub tun: Tun,
    pub to_control: mpsc::Sender<Input>,
    answers: mpsc::Sender<Answer>,
    pub handshakes: Handshakes,
    gate: HmacKey,
    is_limited: AtomicBool,
    limiter: Mutex<RelayLimiter>,
    links: Order<rx::Waiting>,
    routes: Order<Vec<u8>>,
}

impl Shared {
    #[must_use]
    pub fn new(
        sockets: Sockets,
        stun: Option<StunServer>,
        tun: Tun,
        limits: RelayLimits,
        tables: Snapshot,
        gate: HmacKey,
        (to_control, answers): (mpsc::Sender<Input>, mpsc::Sender<Answer>),
    ) -> Self {
        Self {
            tables: ArcSwap::from_pointee(tables),
            counters: Counters::default(),
            sockets,
            stun,
            tun,
            to_control,
            answers,
            handshakes: Handshakes::default(),
            gate,
            is_limited: AtomicBool::new(limits != RelayLimits::default()),
            limiter: Mutex::new(RelayLimiter::new(limits, Instant::now())),
            links: Order::new(Level::Link),
            routes: Order::new(Level::Route),
        }
    }

    /// Gives others so much from now on.
    pub fn set_relay_limits(&self, limits: RelayLimits) {
        *self.limiter.lock().unwrap_or_else(PoisonError::into_inner) = RelayLimiter::new(limits, Instant::now());
        self.is_limited.store(limits != RelayLimits::default(), Ordering::Relaxed);
    }

    /// Whether a datagram of a neighbour may be relayed now. Nothing is locked where nothing is limited.
    fn may_relay(&self, from: &NodeId, bytes: usize) -> bool {
        if !self.is_limited.load(Ordering::Relaxed) {
            return true;
        }
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).admits(Instant::now(), *from, bytes)
    }

    /// The socket at the port that everybody knows.
    #[must_use]
    pub fn socket(&self) -> &UdpTransport {
        &self.sockets.main()[0]
    }

    /// [`Self::tell`] of what a session's peer sent, which has its share of the queue: nobody's frames keep another's probes out.
    fn tell_frame(&self, session: &Transport, input: Input) {
        if !tell_frame(&self.to_control, session, input) {
            self.counters.drop(Drop::QueueFull);
        }
    }

    /// [`Self::tell`] that a session's peer is somewhere else, or has its keys now. Nothing is lost if the control side has yet to
    /// look at what it was told before: the next packet from there tells it.
    fn tell_place(&self, input: Input) {
        if !tell_once(&self.to_control, input) {
            self.counters.drop(Drop::QueueFull);
        }
    }

    /// Hands something to the control side; counted when its queue is full.
    fn tell(&self, input: Input) {
        if self.to_control.try_send(input).is_err() {
            self.counters.drop(Drop::QueueFull);
        }
    }

    /// The same with what says that it is an answer.
    fn answer(&self, answer: Answer) {
        if self.answers.try_send(answer).is_err() {
            self.counters.drop(Drop::QueueFull);
        }
    }

    /// Writes a packet to the TUN device.
    pub fn deliver(&self, packet: &[u8]) {
        self.write(&VnetHeader::default(), std::iter::once(packet), &mut IoVectors::default());
    }

    /// Writes packets that stand in pieces to the TUN device; all of a flow to the same queue.
    fn write<'a>(&self, header: &VnetHeader, mut pieces: impl Iterator<Item = &'a [u8]>, vectors: &mut IoVectors) {
        Counters::add(&self.counters.tun_writes, 1);
        let Some(first) = pieces.next() else { return };
        let queue = ip::flow_hash(first) as usize % self.tun.queues();
        let pieces = std::iter::once(first).chain(pieces);
        if self.tun.write(queue, &header.encode(), pieces, vectors).is_err() {
            Counters::add(&self.counters.tun_errors, 1);
        }
    }
}

/// Whether there was room for a frame.
fn tell_frame(queue: &mpsc::Sender<Input>, session: &Transport, input: Input) -> bool {
    if !session.join_queue(MAX_FRAMES) {
        return false;
    }
    let has_room = queue.try_send(input).is_ok();
    if !has_room {
        session.leave_queue();
    }
    has_room
}

/// Whether there was room for what is told once, or none is needed.
fn tell_once(queue: &mpsc::Sender<Input>, input: Input) -> bool {
    let is_news = match &input {
        Input::Opened { session, .. } => session.moved.raise(),
        Input::Marked { session, .. } => session.marked.raise(),
        _ => true,
    };
    !is_news || queue.try_send(input).map_err(|e| e.into_inner().looked_at()).is_ok()
}

/// Starts a thread per queue of the TUN device, one per socket, one for all scouts and two for what waits. They end with the process.
pub fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let spawn = |name: &str, i: usize, run: fn(&Shared, usize)| {
        let shared = Arc::clone(shared);
        thread::Builder::new().name(format!("aegis-{name}{i}")).stack_size(256 << 10).spawn(move || run(&shared, i))
    };
    for queue in 0..shared.tun.queues() {
        spawn("tx", queue, tx::run)?;
    }
    for socket in 0..shared.sockets.main().len() {
        spawn("rx", socket, rx::run)?;
    }
    spawn("scouts", 0, |shared, _| rx::run_scouts(shared))?;
    spawn("links", 0, |shared, _| rx::run_links(shared))?;
    spawn("routes", 0, |shared, _| shared.routes.watch(|_, packet| shared.deliver(&packet)))?;
    if shared.stun.as_ref().is_some_and(|s| s.second_port().is_some()) {
        spawn("stun", 0, |shared, _| {
            if let Some(stun) = &shared.stun {
                stun.serve_second(shared.socket());
            }
        })?;
    }
    Ok(())
}

/// Takes in a TCP connection that carries datagrams, and starts its two threads. `is_ours`: this node made it.
pub fn start_stream(
    shared: &Arc<Shared>,
    socket: TcpStream,
    seal: Option<Box<dyn Seal>>,
    is_ours: bool,
) -> io::Result<Arc<Stream>> {
    let stream = shared.sockets.add_stream(socket, seal, is_ours)?;
    let thread = || thread::Builder::new().name("aegis-stream".to_owned()).stack_size(256 << 10);
    let writer = Arc::clone(&stream);
    thread().spawn(move || writer.write())?;
    let (shared, reader) = (Arc::clone(shared), Arc::clone(&stream));
    thread().spawn(move || rx::run_stream(&shared, &reader))?;
    Ok(stream)
}

/// Takes in the connections that come to `listener`.
pub fn accept_streams(shared: &Arc<Shared>, listener: TcpListener) -> io::Result<()> {
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new().name("aegis-accept".to_owned()).stack_size(256 << 10);
    thread.spawn(move || {
        for socket in listener.incoming() {
            match socket {
                // Too many, or already gone: whoever it is tries again, and the next one is not kept waiting for it.
                Ok(socket) => drop(start_stream(&shared, socket, None, false)),
                // The system is short of descriptors or memory: asking at once again would only burn time.
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Via;

    fn arrival(port: u16) -> Arrival {
        let via = Via::Direct(SocketAddr::from(([192, 0, 2, 1], port)));
        Arrival { via, by: None, newest: true, interface: 1, local: None }
    }

    #[test]
    fn what_one_session_says_of_its_place_waits_once_until_it_is_looked_at() {
        let (queue, mut inputs) = mpsc::channel(QUEUE);
        let [session, _] = Transport::pair(1).map(Arc::new);
        let opened = |port| Input::Opened { session: Arc::clone(&session), how: arrival(port) };
        let marked = |port| Input::Marked { session: Arc::clone(&session), how: arrival(port) };
        assert!((0..10_000).all(|port| tell_once(&queue, opened(port)) && tell_once(&queue, marked(port))));
        assert_eq!(inputs.len(), 2);
        while let Ok(input) = inputs.try_recv() {
            input.looked_at();
        }
        assert!(tell_once(&queue, opened(7)) && tell_once(&queue, marked(8)));
        assert!(
            matches!(inputs.try_recv(), Ok(Input::Opened { how, .. }) if how.via == arrival(7).via),
            "where it is now"
        );
        assert!(matches!(inputs.try_recv(), Ok(Input::Marked { how, .. }) if how.via == arrival(8).via));
        // What found no room is told later.
        let (full, mut rest) = mpsc::channel(1);
        let [other, _] = Transport::pair(2).map(Arc::new);
        let opened = || Input::Opened { session: Arc::clone(&other), how: arrival(7) };
        assert!(full.try_send(Input::Packet(vec![])).is_ok() && !tell_once(&full, opened()));
        assert!(rest.try_recv().is_ok() && tell_once(&full, opened()) && rest.try_recv().is_ok());
    }

    #[test]
    fn one_peer_leaves_seven_eighths_of_the_queue_to_others_and_a_window_of_segments_finds_room() {
        let (queue, mut inputs) = mpsc::channel(QUEUE);
        let sessions: Vec<_> = (0..12).map(|i| Transport::pair(i).map(Arc::new)[0].clone()).collect();
        let frame = |session: &Arc<Transport>| Input::Frame {
            session: Arc::clone(session),
            how: arrival(7),
            plaintext: vec![],
        };
        for session in &sessions {
            let taken = (0..1000).filter(|_| tell_frame(&queue, session, frame(session))).count();
            assert!(taken >= 32, "{taken}");
            for _ in 0..1000 {
                let (session, how) = (Arc::clone(session), arrival(7));
                assert!(tell_once(&queue, Input::Opened { session: Arc::clone(&session), how }));
                assert!(tell_once(&queue, Input::Marked { session, how }));
            }
        }
        assert!(inputs.len() <= QUEUE / 8, "{}", inputs.len());
        while let Ok(input) = inputs.try_recv() {
            input.looked_at();
        }
        assert!(sessions.iter().all(|session| tell_frame(&queue, session, frame(session))));
    }
}
