//! Which of this host's sockets a peer's address is reached through.
//!
//! A node has one UDP port that everybody knows. Behind a symmetric NAT it may open more, and the NAT then lets a peer
//! through at one of them only. So an address can carry the number of a socket, in the flow information that the mesh
//! has no other use for; without one it means the port that everybody knows. On the wire addresses are plain.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// An address of this host that datagrams come to and leave from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    pub ip: IpAddr,
    /// Index of the interface that a link-local IPv6 address is one of (RFC 4007 §6); 0: the address is enough.
    pub scope: u32,
}

impl Local {
    /// `ip`, where something came to it on this interface.
    #[must_use]
    pub fn new(ip: IpAddr, interface: u32) -> Self {
        let needs_scope = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        Self { ip, scope: if needs_scope { interface } else { 0 } }
    }
}

/// `addr`, to be reached through socket `number`. 0 is the port that everybody knows.
#[must_use]
pub fn through(addr: SocketAddr, number: u32) -> SocketAddr {
    if number == 0 {
        return plain(addr);
    }
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddrV6::new(ip, addr.port(), number, 0).into()
}

/// Numbers from here up are of streams, which carry datagrams over TCP.
pub const FIRST_STREAM: u32 = 1 << 31;

/// The number of paths by way of a TURN server, which the port that everybody knows speaks with.
pub const TURN: u32 = FIRST_STREAM - 1;

/// Whether `addr` is reached through a stream or a TURN server: only until UDP leads there straight.
#[must_use]
pub fn is_makeshift(addr: SocketAddr) -> bool {
    socket_of(addr) >= TURN
}

/// Whether `addr` is reached through a stream.
#[must_use]
pub fn is_stream(addr: SocketAddr) -> bool {
    socket_of(addr) >= FIRST_STREAM
}

/// Whether `addr` is reached through a stream that is covered by TLS: those have the odd numbers.
#[must_use]
pub fn is_sealed(addr: SocketAddr) -> bool {
    is_stream(addr) && socket_of(addr) % 2 == 1
}

/// The number of the socket that leads to `addr`.
#[must_use]
pub fn socket_of(addr: SocketAddr) -> u32 {
    match addr {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(a) => a.flowinfo(),
    }
}

/// The address itself.
#[must_use]
pub fn plain(addr: SocketAddr) -> SocketAddr {
    if socket_of(addr) == 0 { addr } else { SocketAddr::new(addr.ip().to_canonical(), addr.port()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_can_be_told_and_taken_away() {
        for text in ["192.0.2.1:9", "[2001:db8::1]:9"] {
            let addr: SocketAddr = text.parse().unwrap();
            let other = through(addr, 7);
            assert_ne!(other, addr);
            assert_eq!((socket_of(other), plain(other), socket_of(addr), plain(addr)), (7, addr, 0, addr));
            assert_eq!((through(other, 0), through(addr, 0)), (addr, addr));
        }
    }
}
