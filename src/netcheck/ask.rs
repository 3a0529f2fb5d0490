//! STUN transactions over a plain socket (RFC 8489 §6.2.1), one after another or many at once.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    time::{Duration, Instant},
};

use crate::{
    crypto::HmacKey,
    host,
    wire::stun::{Binding, Change, Class},
};

/// When a request is sent, counted from its start; and how long an answer is waited for.
const SENDS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(600)];
const PATIENCE: Duration = Duration::from_millis(1500);

/// What a server said.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub mapped: SocketAddr,
    pub other: Option<SocketAddr>,
    pub rtt: Duration,
}

/// A socket that asks.
pub(super) struct Asker {
    socket: UdpSocket,
    is_v6: bool,
    /// Proves to nodes of a network that a member asks.
    network: Option<HmacKey>,
}

impl Asker {
    pub fn open(network: Option<&HmacKey>) -> io::Result<Self> {
        let (socket, is_v6) = match host::bind_udp((Ipv6Addr::UNSPECIFIED, 0).into()) {
            Ok(socket) => (socket, true),
            Err(_) => (host::bind_udp((Ipv4Addr::UNSPECIFIED, 0).into())?, false),
        };
        socket.set_read_timeout(Some(Duration::from_millis(10)))?;
        Ok(Self { socket, is_v6, network: network.cloned() })
    }

    pub fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |a| a.port())
    }

    fn send(&self, to: SocketAddr, bytes: &[u8]) {
        let to = match to {
            SocketAddr::V4(a) if self.is_v6 => SocketAddrV6::new(a.ip().to_ipv6_mapped(), a.port(), 0, 0).into(),
            other => other,
        };
        // What can't be sent has no answer.
        let _ = self.socket.send_to(bytes, to);
    }

    fn receive(&self) -> Option<(SocketAddr, Binding)> {
        let mut buffer = [0; 1500];
        match self.socket.recv_from(&mut buffer) {
            Ok((n, from)) => {
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                Some((from, Binding::parse(&buffer[..n]).ok()?))
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => None,
            // An ICMP error of an earlier datagram: others may still be answered.
            Err(_) => None,
        }
    }

    /// Asks one server; the answer may come from elsewhere if `change` says so.
    pub fn ask(&self, server: SocketAddr, change: Change) -> Option<Answer> {
        self.transact(&[server], change).pop()?
    }

    /// Asks all servers at once.
    pub fn ask_all(&self, servers: &[SocketAddr]) -> Vec<Option<Answer>> {
        self.transact(servers, Change::default())
    }

    fn transact(&self, servers: &[SocketAddr], change: Change) -> Vec<Option<Answer>> {
        let mut answers = vec![None; servers.len()];
        let Ok(seed) = host::random::<12>() else { return answers };
        let id = |i: usize| {
            let mut id = seed;
            id[..2].copy_from_slice(&(i as u16).to_be_bytes());
            id
        };
        let start = Instant::now();
        let mut last_sent = start;
        let mut sends = SENDS.iter().peekable();
        while start.elapsed() < PATIENCE && answers.iter().any(Option::is_none) {
            if sends.next_if(|at| start.elapsed() >= **at).is_some() {
                last_sent = Instant::now();
                for (i, server) in servers.iter().enumerate().filter(|(i, _)| answers[*i].is_none()) {
                    self.send(*server, &self.proved(Binding::request(id(i), change)).encode());
                }
            }
            let Some((from, message)) = self.receive() else { continue };
            let Some(i) = (0..servers.len()).find(|i| id(*i) == message.id) else { continue };
            let moved = (from.ip() != servers[i].ip(), from.port() != servers[i].port());
            // A server that ignores what it was asked for proves nothing.
            let as_asked = moved == (change.ip, change.port);
            match (message.class, message.mapped) {
                (Class::Success, Some(mapped)) if as_asked => {
                    let rtt = last_sent.elapsed();
                    answers[i].get_or_insert(Answer { mapped, other: message.other, rtt });
                }
                (Class::Error, _) => return answers,
                _ => {}
            }
        }
        answers
    }

    /// Whether an answer of `server` that this socket asks for reaches `sleeper`, whose public port is `port`.
    pub fn wakes(&self, sleeper: &Self, server: SocketAddr, port: u16) -> bool {
        let Ok(id) = host::random() else { return false };
        let request = Binding { response_port: Some(port), ..self.proved(Binding::request(id, Change::default())) };
        let start = Instant::now();
        let mut sends = SENDS.iter().peekable();
        while start.elapsed() < PATIENCE {
            if sends.next_if(|at| start.elapsed() >= **at).is_some() {
                self.send(server, &request.encode());
            }
            if sleeper.receive().is_some_and(|(_, m)| m.id == id && m.class == Class::Success) {
                return true;
            }
        }
        false
    }

    /// A request that shows that a member asks.
    fn proved(&self, request: Binding) -> Binding {
        match &self.network {
            Some(network) => request.with_proof(network),
            None => request,
        }
    }

    /// Whether this socket and `other` reach each other at their public endpoints.
    pub fn meets(&self, other: &Self, own: SocketAddr, others: SocketAddr) -> bool {
        let request = Binding::request([0x5a; 12], Change::default());
        (0..10).any(|_| {
            self.send(others, &request.encode());
            other.send(own, &request.encode());
            [self, other].iter().any(|s| s.receive().is_some_and(|(_, m)| m.id == request.id))
        })
    }
}
