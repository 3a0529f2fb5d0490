//! One UDP socket for both families.

use std::{
    io, mem,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::types::path::{self, Local};

use super::cmsg::{CONTROL, Control, SOL_UDP, UDP_GRO, UDP_SEGMENT, Writer};

const SOCKET_BUFFER: libc::c_int = 4 << 20;

/// Many datagrams in one piece: `UDP_SEGMENT` for sending, `UDP_GRO` for receiving.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    pub send: bool,
    pub receive: bool,
}

/// A UDP socket bound to `[::]` for both families, or to one address.
#[derive(Debug)]
pub struct UdpTransport {
    pub(super) socket: UdpSocket,
    pub(super) is_v6: bool,
    /// What paths through this socket carry ([`crate::types::path`]).
    pub(super) number: u32,
    send_segments: AtomicBool,
    receive_segments: bool,
}

impl UdpTransport {
    /// Binds. Where the host has no IPv6, `[::]` falls back to `0.0.0.0`. `wanted` offloads that this kernel does not
    /// know are left out.
    pub fn bind(addr: SocketAddr, wanted: Offloads) -> io::Result<Self> {
        match Self::bind_socket(addr, wanted, false) {
            Err(e) if addr.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) && is_family_missing(&e) => {
                Self::bind_socket(SocketAddr::from(([0, 0, 0, 0], addr.port())), wanted, false)
            }
            other => other,
        }
    }

    /// Further sockets at the address of this one. The kernel keeps each peer's datagrams on one of them all.
    pub fn bind_more(&self, wanted: Offloads, count: usize) -> io::Result<Vec<Self>> {
        // Only now: had it been set before, a second daemon could have joined in silence.
        set_option(&self.socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        let addr = self.local_addr()?;
        (0..count).map(|_| Self::bind_socket(addr, wanted, true)).collect()
    }

    fn bind_socket(addr: SocketAddr, wanted: Offloads, joins: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        crate::host::mark(&socket);
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        if joins {
            set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        // Large buffers are a wish: root may exceed the system's limits, others get what these allow.
        for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
            if set_option(&socket, libc::SOL_SOCKET, forced, SOCKET_BUFFER).is_err() {
                let _ = set_option(&socket, libc::SOL_SOCKET, plain, SOCKET_BUFFER);
            }
        }
        let on: libc::c_int = 1;
        // Fragmenting is better than a black hole: the path may be narrower than we think.
        let may_fragment: libc::c_int = libc::IP_PMTUDISC_DONT;
        if addr.is_ipv6() {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, on)?;
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, may_fragment)?;
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, on)?;
        }
        set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, on)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS, on)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, on)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, may_fragment)?;
        // Setting the segment size to 0 changes nothing and tells whether the kernel knows it (Linux 4.18).
        let send = wanted.send && set_option(&socket, SOL_UDP, UDP_SEGMENT, 0).is_ok();
        let receive = wanted.receive && set_option(&socket, SOL_UDP, UDP_GRO, on).is_ok();
        socket.bind(&addr.into())?;
        Ok(Self {
            socket: socket.into(),
            is_v6: addr.is_ipv6(),
            number: 0,
            send_segments: AtomicBool::new(send),
            receive_segments: receive,
        })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends one datagram from this address of the host; `None`: from one that routing chooses.
    pub fn send(&self, source: Option<Local>, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let Some(source) = source else {
            return self.socket.send_to(bytes, self.outward(to)).map(|_| ());
        };
        let name: socket2::SockAddr = self.outward(to).into();
        let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control: Control = [0; CONTROL / 8];
        let mut writer = Writer::new(&mut control);
        writer.add_source(source);
        let len = writer.len();
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_namelen = name.len();
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = len;
        // SAFETY: name, vector and control area outlive the call and have the sizes given; sendmsg only reads them.
        let n = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const header, 0) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends one datagram that must not be fragmented on the way (RFC 8899 §3, item 2). The other threads'
    /// datagrams share that for a moment; [`super::SendList`] repeats what the kernel then refuses.
    pub fn send_whole(&self, source: Option<Local>, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.set_fragmenting(to, libc::IP_PMTUDISC_PROBE)?;
        let sent = self.send(source, to, bytes);
        self.set_fragmenting(to, libc::IP_PMTUDISC_DONT)?;
        sent
    }

    fn set_fragmenting(&self, to: SocketAddr, how: libc::c_int) -> io::Result<()> {
        match path::plain(to) {
            SocketAddr::V4(_) => set_option(&self.socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, how),
            SocketAddr::V6(_) => set_option(&self.socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, how),
        }
    }

    /// The offloads that are in use.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        Offloads { send: self.send_segments.load(Ordering::Relaxed), receive: self.receive_segments }
    }

    /// The system refused a segmented send for a reason that will stay.
    pub(super) fn give_up_segments(&self) {
        self.send_segments.store(false, Ordering::Relaxed);
    }

    /// The address in the socket's family.
    pub(super) fn outward(&self, to: SocketAddr) -> SocketAddr {
        match path::plain(to) {
            SocketAddr::V4(a) if self.is_v6 => SocketAddrV6::new(a.ip().to_ipv6_mapped(), a.port(), 0, 0).into(),
            other => other,
        }
    }
}

fn is_family_missing(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

pub(super) fn set_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: `value` is a live c_int and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Datagrams, SendQueue, Sockets};

    const ALL: Offloads = Offloads { send: true, receive: true };
    const NONE: Offloads = Offloads { send: false, receive: false };

    fn bind(addr: &str, offloads: Offloads) -> UdpTransport {
        UdpTransport::bind(addr.parse().unwrap(), offloads).unwrap()
    }

    fn sockets(addr: &str, offloads: Offloads) -> Sockets {
        Sockets::bind(addr.parse().unwrap(), offloads, 1).unwrap()
    }

    #[test]
    fn batches_cross_a_dual_stack_socket_in_both_families_with_and_without_offloads() {
        for (sends, receives) in [(ALL, ALL), (NONE, NONE), (ALL, NONE), (NONE, ALL)] {
            let (a, sockets) = (bind("[::]:0", receives), sockets("127.0.0.1:0", sends));
            let b = &sockets.main()[0];
            let port = a.local_addr().unwrap().port();
            let mut queue = SendQueue::new(&sockets);
            // Runs of equal sizes, a shorter one at the end of each, ECN fields in between.
            let size = |i: usize| if i % 10 == 9 { 100 } else { 700 + i / 10 };
            let ecn = |i: usize| ((i / 30) % 4) as u8;
            for i in 0..200usize {
                queue.buffer().extend_from_slice(&vec![i as u8; size(i)]);
                queue.commit(SocketAddr::from(([127, 0, 0, 1], port)), ecn(i));
                if queue.is_full() {
                    queue.flush(&sockets, |to, e| panic!("{to}: {e}"));
                }
            }
            queue.flush(&sockets, |to, e| panic!("{to}: {e}"));
            let mut datagrams = Datagrams::new(&a);
            let mut next = 0;
            while next < 200 {
                assert_eq!(datagrams.receive(&a).unwrap(), 0);
                for i in 0..datagrams.len() {
                    let d = datagrams.get(i).unwrap();
                    assert_eq!(d.from, b.local_addr().unwrap(), "shown as IPv4, not as a mapped address");
                    assert_eq!((d.interface, d.range.len(), d.ecn), (1, size(next), ecn(next)));
                    assert!(datagrams.buffer()[d.range].iter().all(|byte| *byte == next as u8));
                    next += 1;
                }
            }
            if (sends, receives) == (ALL, ALL) {
                assert!(queue.calls() <= 2 && datagrams.calls() <= 10, "{} {}", queue.calls(), datagrams.calls());
            }
            a.send(None, b.local_addr().unwrap(), b"back").unwrap();
            let mut datagrams = Datagrams::new(b);
            datagrams.receive(b).unwrap();
            let range = datagrams.get(0).unwrap().range;
            assert_eq!(&datagrams.buffer()[range], b"back");
        }
    }

    #[test]
    fn a_refused_datagram_is_reported_and_the_others_leave() {
        let sockets = sockets("127.0.0.1:0", ALL);
        let b = bind("127.0.0.1:0", ALL);
        let mut queue = SendQueue::new(&sockets);
        let mut refused = Vec::new();
        for to in ["0.0.0.1:9".parse().unwrap(), b.local_addr().unwrap()] {
            queue.buffer().extend_from_slice(b"x");
            queue.commit(to, 0);
        }
        queue.flush(&sockets, |to, _| refused.push(to));
        assert_eq!(refused, ["0.0.0.1:9".parse().unwrap()]);
        let mut datagrams = Datagrams::new(&b);
        datagrams.receive(&b).unwrap();
        assert_eq!(datagrams.len(), 1);
    }

    #[test]
    fn segments_too_long_for_the_path_leave_in_fragments() {
        // The loopback's MTU is 65,536: a segment of 65,000 bytes fits, two of 40,000 don't fit one run.
        let (sockets, b) = (sockets("127.0.0.1:0", ALL), bind("127.0.0.1:0", NONE));
        let mut queue = SendQueue::new(&sockets);
        for _ in 0..2 {
            queue.buffer().extend_from_slice(&[7; 40_000]);
            queue.commit(b.local_addr().unwrap(), 0);
        }
        queue.flush(&sockets, |to, e| panic!("{to}: {e}"));
        let mut datagrams = Datagrams::new(&b);
        let mut too_long = 0;
        while too_long < 2 {
            too_long += datagrams.receive(&b).unwrap();
        }
        assert!(datagrams.is_empty(), "longer than any of ours: counted and left out");
    }

    #[test]
    fn scouts_send_and_receive_at_ports_of_their_own_until_they_are_closed() {
        let sockets = sockets("[::]:0", ALL);
        let peer = bind("127.0.0.1:0", ALL);
        let to = peer.local_addr().unwrap();
        let mut queue = SendQueue::new(&sockets);
        for number in [0, 5, 5, 6] {
            queue.buffer().extend_from_slice(&[number as u8; 9]);
            queue.commit(path::through(to, number), 0);
        }
        queue.flush(&sockets, |to, e| panic!("{to}: {e}"));
        let mut datagrams = Datagrams::new(&peer);
        let mut from = std::collections::BTreeMap::new();
        let mut count = 0;
        while count < 4 {
            datagrams.receive(&peer).unwrap();
            for i in 0..datagrams.len() {
                let d = datagrams.get(i).unwrap();
                from.entry(datagrams.buffer()[d.range][0]).or_insert(d.from);
                count += 1;
            }
        }
        assert_eq!((from.len(), sockets.extra()), (3, 2));
        assert_eq!(from[&0].port(), sockets.main()[0].local_addr().unwrap().port());
        peer.send(None, from[&6], b"back").unwrap();
        let scout = sockets.wait_for_scouts().pop().unwrap();
        let mut datagrams = Datagrams::new(&scout);
        datagrams.receive(&scout).unwrap();
        assert_eq!(datagrams.get(0).unwrap().from, path::through(to, 6), "it tells the socket");
        sockets.keep(&[6].into());
        assert_eq!(sockets.extra(), 1);
    }
}
