//! Sockets of the daemon's own. They are marked, so that what the tunnel is carried in never goes into the tunnel.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};

/// The mark (SO_MARK) of the daemon's own packets, which go past the tunnel; also the number of the tunnel's routing table.
pub const MARK: u32 = 0xae91;
/// The mark of answers to who came in from outside, which go past the tunnel, too.
pub const ANSWERS: u32 = MARK + 2;

/// Marks a socket. Without the right to do so (CAP_NET_ADMIN) there is no tunnel either.
pub fn mark(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_mark(MARK);
}

/// A TCP connection past the tunnel.
pub fn connect(addr: &SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(*addr), Type::STREAM, None)?;
    mark(&socket);
    socket.connect_timeout(&(*addr).into(), limit)?;
    Ok(socket.into())
}

/// A UDP socket past the tunnel.
pub fn bind_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(addr)?;
    mark(&socket);
    Ok(socket)
}

/// A TCP port whose connections are answered past the tunnel.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(addr)?;
    mark(&listener);
    Ok(listener)
}
