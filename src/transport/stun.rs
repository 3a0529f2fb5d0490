//! The STUN server of a node: it answers on the port of the mesh and on a second one, so that a NAT whose mapping
//! depends on the port shows itself; where the host has two public addresses, it also serves behaviour discovery
//! (RFC 5780).

use std::net::{IpAddr, SocketAddr};

use super::{Datagrams, Offloads, UdpTransport};
use crate::{
    crypto::HmacKey,
    types::path::Local,
    wire::stun::{Binding, Change, Class},
};

/// Attributes that not every server understands: `CHANGE-REQUEST` takes two addresses.
const CHANGE_REQUEST: u16 = 0x0003;
const RESPONSE_PORT: u16 = 0x0027;
const UNKNOWN_ATTRIBUTE: u16 = 420;

/// Answers Binding requests. It keeps no state.
pub struct StunServer {
    port: u16,
    second: Option<(u16, UdpTransport)>,
    addresses: Option<[IpAddr; 2]>,
    /// Only members of this network are answered; `None`: everybody.
    members: Option<HmacKey>,
}

impl StunServer {
    /// A server beside the socket at `main`. Its second port is `port`; 0: one that the kernel chooses, since this host may
    /// want those with names for others. `public`: the addresses of this host under which the internet knows it. `members`:
    /// the key of a network whose members alone are answered. Without its second port, and why, where that is taken.
    #[must_use]
    pub fn new(
        main: SocketAddr,
        port: u16,
        public: &[IpAddr],
        members: Option<HmacKey>,
    ) -> (Self, Option<std::io::Error>) {
        let bind = || {
            let socket = UdpTransport::bind(SocketAddr::new(main.ip(), port), Offloads::default())?;
            Ok((socket.local_addr()?.port(), socket))
        };
        let (second, error) = match bind() {
            Ok(second) => (Some(second), None),
            Err(e) => (None, Some(e)),
        };
        let addresses = public.first_chunk::<2>().copied();
        (Self { port: main.port(), second, addresses, members }, error)
    }

    /// The second port; `None`: it was taken.
    #[must_use]
    pub fn second_port(&self) -> Option<u16> {
        self.second.as_ref().map(|(port, _)| *port)
    }

    /// Answers a request that came from `from` to `local`, an address of this host, on the `main` socket.
    pub fn handle(&self, main: &UdpTransport, local: Local, from: SocketAddr, request: &Binding) {
        self.answer(main, (local, self.port), from, request);
    }

    fn answer(&self, main: &UdpTransport, (local, port): (Local, u16), from: SocketAddr, request: &Binding) {
        if self.members.as_ref().is_some_and(|network| !request.is_members(network)) {
            return;
        }
        let (source, to, answer) = self.decide(SocketAddr::new(local.ip, port), from, request);
        let socket = self.second.as_ref().filter(|(port, _)| *port == source.port()).map_or(main, |(_, socket)| socket);
        // A lost answer is asked for again.
        let _ = socket.send(Some(Local { ip: source.ip(), ..local }), to, &answer.encode());
    }

    /// The answer to a request, from where and to where it goes (RFC 5780 §6.1).
    fn decide(&self, local: SocketAddr, from: SocketAddr, request: &Binding) -> (SocketAddr, SocketAddr, Binding) {
        let other = (|| {
            let (second, addresses) = (self.second_port()?, self.addresses?);
            let ip = addresses.into_iter().find(|ip| *ip != local.ip())?;
            let port = if local.port() == second { self.port } else { second };
            addresses.contains(&local.ip()).then_some(SocketAddr::new(ip, port))
        })();
        let mut unknown = request.unknown.clone();
        if request.change != Change::default() && other.is_none() {
            unknown.push(CHANGE_REQUEST);
        }
        // Nobody else gets to say where answers go.
        if request.response_port.is_some() && self.members.is_none() {
            unknown.push(RESPONSE_PORT);
        }
        if !unknown.is_empty() {
            return (local, from, Binding { error: Some(UNKNOWN_ATTRIBUTE), unknown, ..request.answer(Class::Error) });
        }
        let changed = other.unwrap_or(local);
        let source = SocketAddr::new(
            if request.change.ip { changed.ip() } else { local.ip() },
            if request.change.port { changed.port() } else { local.port() },
        );
        let answer = Binding { mapped: Some(from), origin: Some(source), other, ..request.answer(Class::Success) };
        let to = request.response_port.map_or(from, |port| SocketAddr::new(from.ip(), port));
        (source, to, answer)
    }

    /// Serves the second port for ever, if there is one.
    pub fn serve_second(&self, main: &UdpTransport) {
        let Some((port, socket)) = &self.second else { return };
        let mut datagrams = Datagrams::new(socket);
        loop {
            if datagrams.receive(socket).is_err() {
                continue;
            }
            for i in 0..datagrams.len() {
                let Some(datagram) = datagrams.get(i) else { continue };
                let Some(local) = datagram.local else { continue };
                match Binding::parse(&datagrams.buffer()[datagram.range]) {
                    Ok(request) if request.class == Class::Request => {
                        self.answer(main, (local, *port), datagram.from, &request);
                    }
                    _ => {}
                }
            }
        }
    }
}
