//! The STUN server of a node: it answers on the port of the mesh, and where the host has two public addresses it also
//! serves NAT behaviour discovery (RFC 5780), for which it opens a second port.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use super::{Datagrams, Offloads, UdpTransport};
use crate::wire::stun::{self, Binding, Change, Class};

/// `CHANGE-REQUEST`, which a server with one address does not understand.
const CHANGE_REQUEST: u16 = 0x0003;
const UNKNOWN_ATTRIBUTE: u16 = 420;

/// Answers Binding requests. It keeps no state.
pub struct StunServer {
    port: u16,
    alternate: Option<Alternate>,
}

struct Alternate {
    addresses: [IpAddr; 2],
    port: u16,
    socket: UdpTransport,
}

impl StunServer {
    /// A server beside `main`. With two or more `public` addresses of the host it opens a second port, 3478 if that is
    /// free.
    pub fn new(main: &UdpTransport, public: &[IpAddr]) -> io::Result<Self> {
        let main = main.local_addr()?;
        let alternate = match public {
            [first, second, ..] => [stun::PORT, main.port().wrapping_add(2)]
                .into_iter()
                .filter(|port| *port != main.port() && *port != 0)
                .find_map(|port| UdpTransport::bind(SocketAddr::new(main.ip(), port), Offloads::default()).ok())
                .and_then(|socket| {
                    let port = socket.local_addr().ok()?.port();
                    Some(Alternate { addresses: [*first, *second], port, socket })
                }),
            _ => None,
        };
        Ok(Self { port: main.port(), alternate })
    }

    /// Whether it serves behaviour discovery.
    #[must_use]
    pub fn has_alternate(&self) -> bool {
        self.alternate.is_some()
    }

    /// Answers a request that came from `from` to `local`, an address of this host, on the `main` socket.
    pub fn handle(&self, main: &UdpTransport, local: IpAddr, from: SocketAddr, request: &Binding) {
        self.answer(main, SocketAddr::new(local, self.port), from, request);
    }

    fn answer(&self, main: &UdpTransport, local: SocketAddr, from: SocketAddr, request: &Binding) {
        let (source, answer) = self.decide(local, from, request);
        let socket = self.alternate.as_ref().filter(|a| a.port == source.port()).map_or(main, |a| &a.socket);
        // A lost answer is asked for again.
        let _ = socket.send_from(source.ip(), from, &answer.encode());
    }

    /// The answer to a request, and from where it goes (RFC 5780 §6.1).
    fn decide(&self, local: SocketAddr, from: SocketAddr, request: &Binding) -> (SocketAddr, Binding) {
        let other = self.alternate.as_ref().and_then(|a| {
            let ip = a.addresses.iter().find(|ip| **ip != local.ip())?;
            a.addresses.contains(&local.ip()).then_some(())?;
            Some(SocketAddr::new(*ip, if local.port() == a.port { self.port } else { a.port }))
        });
        let mut unknown = request.unknown.clone();
        if request.change != Change::default() && other.is_none() {
            unknown.push(CHANGE_REQUEST);
        }
        if !unknown.is_empty() {
            return (local, Binding { error: Some(UNKNOWN_ATTRIBUTE), unknown, ..request.answer(Class::Error) });
        }
        let changed = other.unwrap_or(local);
        let source = SocketAddr::new(
            if request.change.ip { changed.ip() } else { local.ip() },
            if request.change.port { changed.port() } else { local.port() },
        );
        let answer = Binding { mapped: Some(from), origin: Some(source), other, ..request.answer(Class::Success) };
        (source, answer)
    }

    /// Serves the second port for ever, if there is one.
    pub fn serve_alternate(&self, main: &UdpTransport) {
        let Some(alternate) = &self.alternate else { return };
        let mut datagrams = Datagrams::new(&alternate.socket);
        loop {
            if datagrams.receive(&alternate.socket).is_err() {
                continue;
            }
            for i in 0..datagrams.len() {
                let Some(datagram) = datagrams.get(i) else { continue };
                let Some(local) = datagrams.local(&datagram) else { continue };
                match Binding::parse(&datagrams.buffer()[datagram.range]) {
                    Ok(request) if request.class == Class::Request => {
                        self.answer(main, SocketAddr::new(local, alternate.port), datagram.from, &request);
                    }
                    _ => {}
                }
            }
        }
    }
}
