//! A member gone bad: the library's node in a namespace, in real time, with somebody at its controls.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use aegisray::{
    config::Config,
    crypto::SigningKey,
    identity::{Identity, Network, Policy, RecordContent},
    lab::{
        daemon::{Daemon, wait_for},
        topology::Host,
    },
    node::{Event, Node, NodeConfig},
    types::{Instant, NodeId, path},
    wire::{
        frame::{self, Kind},
        proto::{ControlMessage, control_message},
    },
};

use super::harness::PATIENCE;

pub const PORT: u16 = 51_900;
/// The node looks at its timers so often at the least.
const TICK: Duration = Duration::from_millis(2);

type Order = Box<dyn FnOnce(&mut Hands<'_>) + Send>;
/// May change a datagram and its address; `false`: it is not sent, or not taken in.
pub type Hook = Box<dyn FnMut(&mut SocketAddr, &mut Vec<u8>) -> bool + Send>;

/// What an order gets hold of.
pub struct Hands<'a> {
    pub node: &'a mut Node,
    pub now: Instant,
    hooks: &'a mut Hooks,
}

#[derive(Default)]
struct Hooks {
    outgoing: Option<Hook>,
    incoming: Option<Hook>,
}

/// A member of the network, and at its controls whoever has this value.
pub struct Hostile {
    orders: Sender<Order>,
    stop: Arc<AtomicBool>,
    delivered: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// The network of a daemon, as its configuration has it.
pub fn network_of(daemon: &Daemon) -> Network {
    Config::load(&daemon.dir.join("peer.yaml")).unwrap().network
}

pub fn identity(seed: u64) -> Identity {
    let mut bytes = [0x77; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    Identity::new(SigningKey::ed25519_from_seed(&bytes)).unwrap()
}

pub fn unix() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

pub fn id_of(daemon: &Daemon) -> NodeId {
    let status = super::harness::need(daemon, "status", || daemon.status());
    status.node.node_id.parse().unwrap()
}

impl Hostile {
    /// Starts a member that says `content` of itself and looks for others at `bootstrap`.
    pub fn start(host: &Host, at: IpAddr, network: Network, key: Identity, content: RecordContent) -> Self {
        let at = SocketAddr::new(at, PORT);
        let content = RecordContent { endpoints: vec![at], ..content };
        let (orders, taken) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let delivered = Arc::new(Mutex::new(Vec::new()));
        let (stopped, sink) = (Arc::clone(&stop), Arc::clone(&delivered));
        let thread = host.ns.spawn(move || {
            let socket = UdpSocket::bind(at)?;
            socket.set_read_timeout(Some(TICK))?;
            let mut config = NodeConfig::new(network.clone(), content, unix());
            // Whoever it is, this node talks to it.
            config.policy = Policy::default();
            let seed = aegisray::host::random()?;
            let start = std::time::Instant::now();
            let node = Node::new(config, key, Box::new(network), seed, Instant(1)).map_err(io::Error::other)?;
            live(node, &socket, start, &taken, &stopped, &sink);
            Ok(())
        });
        Self { orders, stop, delivered, thread: Some(thread) }
    }

    /// Does something with the node and returns what comes of it.
    pub fn with<T: Send + 'static>(&self, order: impl FnOnce(&mut Hands<'_>) -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let order: Order = Box::new(move |hands| drop(answer.send(order(hands))));
        self.orders.send(order).expect("the hostile node runs");
        answered.recv().expect("the hostile node answers")
    }

    pub fn set_bootstrap(&self, addresses: &[&str]) {
        let all: Vec<SocketAddr> = addresses.iter().map(|a| format!("{a}:{PORT}").parse().unwrap()).collect();
        self.with(move |h| h.node.set_bootstrap(h.now, &all));
    }

    pub fn on_outgoing(&self, hook: Hook) {
        self.with(|h| h.hooks.outgoing = Some(hook));
    }

    pub fn on_incoming(&self, hook: Hook) {
        self.with(|h| h.hooks.incoming = Some(hook));
    }

    pub fn has_link(&self, to: NodeId) -> bool {
        self.with(move |h| h.node.link_costs().iter().any(|(id, _)| *id == to))
    }

    #[track_caller]
    pub fn need_link(&self, to: NodeId) {
        wait_for(PATIENCE, || self.has_link(to).then_some(())).expect("the hostile member gets a link");
    }

    /// Waits until this node has an announcement of another.
    #[track_caller]
    pub fn need_known(&self, other: NodeId) {
        wait_for(PATIENCE, || self.seqno_of(other)).expect("the hostile member hears of the other one");
    }

    /// The last sequence number that this node has of another.
    pub fn seqno_of(&self, other: NodeId) -> Option<u32> {
        self.with(move |h| {
            let routing = h.node.routing();
            Some(routing.announcement(routing.origin(&other)?)?.seqno)
        })
    }

    /// Says a frame to a node, on the real session with it.
    pub fn say(&self, to: NodeId, kind: Kind) {
        self.with(move |h| h.node.send_raw(h.now, to, frame::encode(kind)));
    }

    /// Says a control message to a neighbour, as soon as there is room.
    #[track_caller]
    pub fn tell(&self, to: NodeId, kind: control_message::Kind) {
        let message = prost::Message::encode_to_vec(&ControlMessage { kind: Some(kind) });
        let told = wait_for(PATIENCE, || {
            let message = message.clone();
            self.with(move |h| h.node.send_control_raw(h.now, to, message)).then_some(())
        });
        told.expect("the channel to the neighbour has room");
    }

    /// IP packets that came for this node, since the last call.
    pub fn take_delivered(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.delivered.lock().unwrap())
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn live(
    mut node: Node,
    socket: &UdpSocket,
    start: std::time::Instant,
    orders: &Receiver<Order>,
    stop: &AtomicBool,
    delivered: &Mutex<Vec<Vec<u8>>>,
) {
    let mut hooks = Hooks::default();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let now = || Instant(start.elapsed().as_micros() as u64 + 1);
        while let Ok(order) = orders.try_recv() {
            order(&mut Hands { node: &mut node, now: now(), hooks: &mut hooks });
        }
        let received = socket.recv_from(&mut buffer);
        if let Ok((n, mut from)) = received {
            let mut datagram = buffer[..n].to_vec();
            if hooks.incoming.as_mut().is_none_or(|hook| hook(&mut from, &mut datagram)) {
                node.handle_datagram(now(), from, 0, &mut datagram);
            }
        }
        if node.poll_timeout(now()) <= now() {
            node.handle_timeout(now());
        }
        while let Some(mut transmit) = node.poll_transmit() {
            transmit.to = path::plain(transmit.to);
            if hooks.outgoing.as_mut().is_none_or(|hook| hook(&mut transmit.to, &mut transmit.bytes)) {
                // What can't be sent is lost, as anything may be.
                let _ = socket.send_to(&transmit.bytes, transmit.to);
            }
        }
        while let Some(event) = node.poll_event() {
            if let Event::Deliver(packet) = event {
                delivered.lock().unwrap().push(packet);
            }
        }
        node.take_tables_changed();
    }
}
