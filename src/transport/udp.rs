//! One UDP socket for both families, with `recvmmsg` and `sendmmsg`.

use std::{
    io, mem,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd,
};

use socket2::{Domain, Protocol, Socket, Type};

/// Datagrams per system call.
const BATCH: usize = 64;
/// The longest datagram taken in; ours have at most 1,500 bytes.
const SLOT: usize = 2048;
const CONTROL: usize = 128;
const SOCKET_BUFFER: usize = 4 << 20;

/// A UDP socket bound to `[::]` for both families, or to one address.
#[derive(Debug)]
pub struct UdpTransport {
    socket: UdpSocket,
    is_v6: bool,
}

impl UdpTransport {
    /// Binds. Where the host has no IPv6, `[::]` falls back to `0.0.0.0`.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        match Self::bind_family(addr) {
            Err(e) if addr.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) && is_family_missing(&e) => {
                Self::bind_family(SocketAddr::from(([0, 0, 0, 0], addr.port())))
            }
            other => other,
        }
    }

    fn bind_family(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // Large buffers are a wish; the kernel grants what it allows.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        let on: libc::c_int = 1;
        // Fragmenting is better than a black hole: the path may be narrower than we think.
        let may_fragment: libc::c_int = libc::IP_PMTUDISC_DONT;
        if addr.is_ipv6() {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, on)?;
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, may_fragment)?;
        }
        set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, on)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, may_fragment)?;
        socket.bind(&addr.into())?;
        Ok(Self { socket: socket.into(), is_v6: addr.is_ipv6() })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends one datagram.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_to(bytes, self.outward(to)).map(|_| ())
    }

    /// The address in the socket's family.
    fn outward(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(a) if self.is_v6 => SocketAddrV6::new(a.ip().to_ipv6_mapped(), a.port(), 0, 0).into(),
            other => other,
        }
    }
}

fn is_family_missing(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn set_option(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
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

/// A received datagram.
#[derive(Debug)]
pub struct Datagram<'a> {
    pub from: SocketAddr,
    /// Index of the interface on which it arrived; 0: unknown.
    pub interface: u32,
    pub bytes: &'a mut [u8],
}

/// Buffers for receiving batches, made once.
pub struct Datagrams {
    buffers: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<[u64; CONTROL / 8]>,
    lengths: Vec<(usize, usize, bool)>,
}

impl Default for Datagrams {
    fn default() -> Self {
        // SAFETY: all-zero bytes are a valid sockaddr_storage.
        let name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            buffers: vec![0; BATCH * SLOT],
            names: vec![name; BATCH],
            controls: vec![[0; CONTROL / 8]; BATCH],
            lengths: Vec::with_capacity(BATCH),
        }
    }
}

impl Datagrams {
    /// Waits for datagrams and takes in as many as there are, up to a batch. Returns their number.
    pub fn receive(&mut self, socket: &UdpTransport) -> io::Result<usize> {
        self.lengths.clear();
        let mut vectors: Vec<libc::iovec> = self
            .buffers
            .chunks_exact_mut(SLOT)
            .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: SLOT })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = (0..BATCH)
            .map(|i| {
                // SAFETY: all-zero bytes are a valid mmsghdr.
                let mut h: libc::mmsghdr = unsafe { mem::zeroed() };
                h.msg_hdr.msg_name = (&raw mut self.names[i]).cast();
                h.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                h.msg_hdr.msg_iov = &raw mut vectors[i];
                h.msg_hdr.msg_iovlen = 1;
                h.msg_hdr.msg_control = (&raw mut self.controls[i]).cast();
                h.msg_hdr.msg_controllen = CONTROL;
                h
            })
            .collect();
        // SAFETY: every header points to a name, a vector, a buffer and a control area that outlive the call, and
        // gives their true sizes.
        let n = unsafe {
            libc::recvmmsg(
                socket.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        for h in &headers[..n] {
            let truncated = h.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            self.lengths.push((h.msg_len as usize, h.msg_hdr.msg_controllen, truncated));
        }
        Ok(n)
    }

    /// The datagram `i` of the last batch; `None` if it was longer than any of ours.
    pub fn get(&mut self, i: usize) -> Option<Datagram<'_>> {
        let (len, control, truncated) = *self.lengths.get(i)?;
        if truncated {
            return None;
        }
        let from = socket_addr(&self.names[i])?;
        let interface = interface_of(&self.controls[i], control);
        let bytes = &mut self.buffers[i * SLOT..][..len];
        Some(Datagram { from, interface, bytes })
    }
}

fn socket_addr(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in, which is smaller than the storage.
            let a = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            Some(SocketAddrV4::new(u32::from_be(a.sin_addr.s_addr).into(), u16::from_be(a.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6, which is smaller than the storage.
            let a = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(a.sin6_addr.s6_addr);
            let port = u16::from_be(a.sin6_port);
            Some(match ip.to_ipv4_mapped() {
                Some(v4) => SocketAddrV4::new(v4, port).into(),
                None => SocketAddrV6::new(ip, port, 0, a.sin6_scope_id).into(),
            })
        }
        _ => None,
    }
}

/// Reads the interface index out of a packet-info control message.
fn interface_of(control: &[u64; CONTROL / 8], len: usize) -> u32 {
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = len.min(CONTROL);
    // SAFETY: the control area is aligned for cmsghdr and its length is what the kernel wrote.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !cmsg.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return only headers that lie in the area.
        let (level, kind) = unsafe { ((*cmsg).cmsg_level, (*cmsg).cmsg_type) };
        if level == libc::IPPROTO_IPV6 && kind == libc::IPV6_PKTINFO {
            // SAFETY: the kernel wrote a whole in6_pktinfo behind this header.
            return unsafe { (*libc::CMSG_DATA(cmsg).cast::<libc::in6_pktinfo>()).ipi6_ifindex };
        }
        if level == libc::IPPROTO_IP && kind == libc::IP_PKTINFO {
            // SAFETY: the kernel wrote a whole in_pktinfo behind this header.
            return unsafe { (*libc::CMSG_DATA(cmsg).cast::<libc::in_pktinfo>()).ipi_ifindex as u32 };
        }
        // SAFETY: as above.
        cmsg = unsafe { libc::CMSG_NXTHDR(&raw const header, cmsg) };
    }
    0
}

/// Datagrams collected to leave in one system call.
#[derive(Default)]
pub struct SendQueue {
    bytes: Vec<u8>,
    entries: Vec<(SocketAddr, usize, usize)>,
}

impl SendQueue {
    /// The buffer to append the next datagram to; close it with [`Self::commit`].
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Makes what was appended since the last commit a datagram to `to`.
    pub fn commit(&mut self, to: SocketAddr) {
        let start = self.entries.last().map_or(0, |(_, start, len)| start + len);
        self.entries.push((to, start, self.bytes.len() - start));
    }

    /// Whether the batch should leave now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= BATCH
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sends everything; calls `failed` for each datagram that the system refused.
    pub fn flush(&mut self, socket: &UdpTransport, mut failed: impl FnMut(SocketAddr, io::Error)) {
        let mut names: Vec<socket2::SockAddr> =
            self.entries.iter().map(|(to, ..)| socket.outward(*to).into()).collect();
        let mut vectors: Vec<libc::iovec> = self
            .entries
            .iter()
            .map(|(_, start, len)| libc::iovec { iov_base: self.bytes[*start..].as_mut_ptr().cast(), iov_len: *len })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = names
            .iter_mut()
            .zip(&mut vectors)
            .map(|(name, vector)| {
                // SAFETY: all-zero bytes are a valid mmsghdr.
                let mut h: libc::mmsghdr = unsafe { mem::zeroed() };
                h.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
                h.msg_hdr.msg_namelen = name.len();
                h.msg_hdr.msg_iov = vector;
                h.msg_hdr.msg_iovlen = 1;
                h
            })
            .collect();
        let mut done = 0;
        while done < headers.len() {
            let rest = &mut headers[done..];
            // SAFETY: every header points to a name and a vector over `self.bytes`, all of which outlive the call.
            let n =
                unsafe { libc::sendmmsg(socket.socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0) };
            match usize::try_from(n) {
                Ok(n) if n > 0 => done += n,
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        failed(self.entries[done].0, error);
                        done += 1;
                    }
                }
            }
        }
        self.entries.clear();
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cross_a_dual_stack_socket_in_both_families() {
        let a = UdpTransport::bind("[::]:0".parse().unwrap()).unwrap();
        let b = UdpTransport::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = a.local_addr().unwrap().port();
        let mut queue = SendQueue::default();
        for i in 0..100u8 {
            queue.buffer().extend_from_slice(&vec![i; 10 + usize::from(i)]);
            queue.commit(SocketAddr::from(([127, 0, 0, 1], port)));
            if queue.is_full() {
                queue.flush(&b, |to, e| panic!("{to}: {e}"));
            }
        }
        queue.flush(&b, |to, e| panic!("{to}: {e}"));
        let mut datagrams = Datagrams::default();
        let mut next = 0u8;
        while next < 100 {
            for i in 0..datagrams.receive(&a).unwrap() {
                let d = datagrams.get(i).unwrap();
                assert_eq!(d.from, b.local_addr().unwrap(), "shown as IPv4, not as a mapped address");
                assert_eq!((d.interface, d.bytes.len(), d.bytes[0]), (1, 10 + usize::from(next), next));
                next += 1;
            }
        }
        a.send(b.local_addr().unwrap(), b"back").unwrap();
        assert_eq!(datagrams.receive(&b).unwrap(), 1);
        assert_eq!(datagrams.get(0).unwrap().bytes, b"back");
    }

    #[test]
    fn a_refused_datagram_is_reported_and_the_others_leave() {
        let a = UdpTransport::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let b = UdpTransport::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut queue = SendQueue::default();
        let mut refused = Vec::new();
        for to in ["0.0.0.1:9".parse().unwrap(), b.local_addr().unwrap()] {
            queue.buffer().extend_from_slice(b"x");
            queue.commit(to);
        }
        queue.flush(&a, |to, _| refused.push(to));
        assert_eq!(refused, ["0.0.0.1:9".parse().unwrap()]);
        assert_eq!(Datagrams::default().receive(&b).unwrap(), 1);
    }
}
