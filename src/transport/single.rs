//! One datagram at a time, with what the kernel knows of the way that it came.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use super::{
    cmsg::{self, Arrival, CONTROL, Control},
    receive::socket_addr,
    udp::set_option,
};

/// A datagram that came, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub len: usize,
    pub from: SocketAddr,
    /// The address that it was sent to, which may be a group's.
    pub to: Option<IpAddr>,
    /// Index of the interface on which it arrived; 0: unknown.
    pub interface: u32,
    /// What was left of its TTL.
    pub ttl: Option<u8>,
}

/// Has an IPv4 socket tell of each datagram where it was sent to, where it arrived, and its TTL.
pub fn tell_ways(socket: &impl AsRawFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)
}

/// Takes a datagram that is there; never waits. One that is longer than the buffer is an error (`InvalidData`), and gone.
pub fn receive_single(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Received> {
    // SAFETY: all-zero bytes are valid for both.
    let (mut name, mut header): (libc::sockaddr_storage, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control: Control = [0; CONTROL / 8];
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL;
    // SAFETY: name, vector, buffer and control area outlive the call and have the sizes given.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let len = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    let from = socket_addr(&name).filter(|_| header.msg_flags & libc::MSG_TRUNC == 0);
    let from = from.ok_or(io::ErrorKind::InvalidData)?;
    let Arrival { interface, to, ttl, .. } = cmsg::read(&control, header.msg_controllen);
    Ok(Received { len, from, to, interface, ttl })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn the_way_of_a_datagram_is_told() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        tell_ways(&b).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(receive_single(&b, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        a.set_ttl(77).unwrap();
        a.send_to(b"hello", b.local_addr().unwrap()).unwrap();
        let received = receive_single(&b, &mut buffer).unwrap();
        let expected = Received {
            len: 5,
            from: a.local_addr().unwrap(),
            to: Some("127.0.0.1".parse().unwrap()),
            interface: 1,
            ttl: Some(77),
        };
        assert_eq!((received, &buffer[..5]), (expected, &b"hello"[..]));
        a.send_to(&[0; 9], b.local_addr().unwrap()).unwrap();
        assert_eq!(receive_single(&b, &mut buffer).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
