//! Asking STUN servers where this node is seen, with the socket of the mesh.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    crypto::HmacKey,
    host,
    transport::UdpTransport,
    wire::stun::{Binding, Change},
};

/// Requests per round that may stay without an answer.
const TRIES: u32 = 4;
const MAX_SERVERS: usize = 3;
/// A NAT's mapping may have moved: ask again.
const ROUND: Duration = Duration::from_secs(120);

pub(super) struct Reflexive {
    network: HmacKey,
    servers: Vec<SocketAddr>,
    /// The first so many are of the configuration; the others are peers.
    configured: usize,
    /// Requests without an answer: transaction and tries so far.
    open: HashMap<SocketAddr, ([u8; 12], u32)>,
    next_round: Option<Instant>,
}

impl Reflexive {
    /// `network` proves to peers that a member asks.
    pub fn new(network: HmacKey) -> Self {
        Self { network, servers: Vec::new(), configured: 0, open: HashMap::new(), next_round: None }
    }

    /// The servers of the configuration.
    pub fn set_servers(&mut self, servers: Vec<SocketAddr>) {
        self.configured = servers.len();
        self.servers = servers;
        self.ask_again();
    }

    /// A peer that answers STUN too. A few of them are enough.
    pub fn add_peer(&mut self, socket: &UdpTransport, addr: SocketAddr) {
        if self.servers.len() < MAX_SERVERS && !self.servers.contains(&addr) {
            self.servers.push(addr);
            self.ask_again();
            self.tick(socket);
        }
    }

    /// The network changed: what the servers said is void.
    pub fn ask_again(&mut self) {
        self.next_round = None;
    }

    /// To be called every second: an unanswered request is repeated then.
    pub fn tick(&mut self, socket: &UdpTransport) {
        if self.servers.is_empty() {
            return;
        }
        if self.next_round.is_none_or(|at| at <= Instant::now()) {
            self.next_round = Some(Instant::now() + ROUND);
            let Ok(seed) = host::random::<12>() else { return };
            self.open.clear();
            for (server, n) in self.servers.iter().zip(0u16..) {
                let mut id = seed;
                id[..2].copy_from_slice(&n.to_be_bytes());
                self.open.insert(*server, (id, 0));
            }
        }
        self.open.retain(|server, (id, tries)| {
            if *tries == TRIES {
                return false;
            }
            *tries += 1;
            // Without a way out now, there may be one at the next try.
            let _ = socket.send(
                None,
                *server,
                &Binding::request(*id, Change::default()).with_proof(&self.network).encode(),
            );
            true
        });
    }

    /// Whether an answer is one to an open request: if so, whether the server is one of the configuration.
    pub fn answered(&mut self, from: SocketAddr, id: [u8; 12]) -> Option<bool> {
        self.open.get(&from).filter(|(expected, _)| *expected == id)?;
        self.open.remove(&from);
        Some(self.servers[..self.configured.min(self.servers.len())].contains(&from))
    }
}
