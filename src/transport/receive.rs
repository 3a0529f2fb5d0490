//! Receiving in batches.

use std::{
    io, mem,
    net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    ops::Range,
    os::fd::AsRawFd,
    thread,
    time::{Duration, SystemTime},
};

use crate::types::path::{self, Local};

use super::{
    UdpTransport, YIELDS,
    cmsg::{self, Arrival, CONTROL, Control},
};

/// Messages per system call and bytes for each, where a message may hold many datagrams, and where it holds one.
const JOINED: (usize, usize) = (16, 65_536);
const SINGLE: (usize, usize) = (64, 2048);

/// A received datagram: its bytes are `range` of [`Datagrams::buffer`].
#[derive(Debug, Clone)]
pub struct Datagram {
    pub from: SocketAddr,
    /// The address of this host that it was sent to; `None`: unknown, or it came over a stream.
    pub local: Option<Local>,
    /// Index of the interface on which it arrived; 0: unknown.
    pub interface: u32,
    /// The ECN field of its IP header.
    pub ecn: u8,
    pub range: Range<usize>,
}

/// Buffers for receiving batches, made once.
pub struct Datagrams {
    slots: usize,
    slot: usize,
    buffer: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    list: Vec<Datagram>,
    waited: Duration,
    calls: u64,
}

impl Datagrams {
    /// Buffers for what `socket` receives.
    #[must_use]
    pub fn new(socket: &UdpTransport) -> Self {
        Self::with_room(if socket.offloads().receive { JOINED } else { SINGLE })
    }

    /// Room for what comes over a stream.
    pub(super) fn for_stream() -> Self {
        Self::with_room((1, SINGLE.0 * SINGLE.1))
    }

    fn with_room((slots, slot): (usize, usize)) -> Self {
        // SAFETY: all-zero bytes are a valid sockaddr_storage.
        let name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            slots,
            slot,
            buffer: vec![0; slots * slot],
            names: vec![name; slots],
            controls: vec![[0; CONTROL / 8]; slots],
            list: Vec::new(),
            waited: Duration::ZERO,
            calls: 0,
        }
    }

    /// Waits for datagrams and takes in as many as there are, up to a batch. Those that are longer than any of ours
    /// are left out; their number is returned.
    pub fn receive(&mut self, socket: &UdpTransport) -> io::Result<u64> {
        self.list.clear();
        let mut vectors: [libc::iovec; 64] = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 64];
        for (vector, bytes) in vectors.iter_mut().zip(self.buffer.chunks_exact_mut(self.slot)) {
            *vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: self.slot };
        }
        // SAFETY: all-zero bytes are valid mmsghdrs.
        let mut headers: [libc::mmsghdr; 64] = unsafe { mem::zeroed() };
        for (i, h) in headers[..self.slots].iter_mut().enumerate() {
            h.msg_hdr.msg_name = (&raw mut self.names[i]).cast();
            h.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            h.msg_hdr.msg_iov = &raw mut vectors[i];
            h.msg_hdr.msg_iovlen = 1;
            h.msg_hdr.msg_control = (&raw mut self.controls[i]).cast();
            h.msg_hdr.msg_controllen = CONTROL;
        }
        let (fd, slots) = (socket.socket.as_raw_fd(), self.slots as libc::c_uint);
        let mut receive = |flags| {
            // SAFETY: each of the first `slots` headers points to a name, a vector, a buffer and a control area that
            // outlive the call, and gives their true sizes.
            let n = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), slots, flags, std::ptr::null_mut()) };
            usize::try_from(n).map_err(|_| io::Error::last_os_error())
        };
        let mut yields = 0;
        let n = loop {
            match receive(if yields < YIELDS { libc::MSG_DONTWAIT } else { libc::MSG_WAITFORONE }) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && yields < YIELDS => {
                    yields += 1;
                    thread::yield_now();
                }
                n => break n?,
            }
        };
        self.calls += 1;
        self.waited = Duration::ZERO;
        let mut too_long = 0;
        for (i, h) in headers[..n].iter().enumerate() {
            let from = socket_addr(&self.names[i]);
            let (Some(from), true) = (from, h.msg_hdr.msg_flags & libc::MSG_TRUNC == 0) else {
                too_long += 1;
                continue;
            };
            let Arrival { interface, local, segment, ecn, at, .. } =
                cmsg::read(&self.controls[i], h.msg_hdr.msg_controllen);
            if i == 0 {
                let waited = at.and_then(|at| SystemTime::now().duration_since(at).ok());
                self.waited = waited.unwrap_or_default();
            }
            let from = path::through(from, socket.number);
            let (begin, end) = (i * self.slot, i * self.slot + h.msg_len as usize);
            let step = if segment == 0 { h.msg_len as usize } else { segment };
            let starts = (begin..end).step_by(step.max(1));
            self.list.extend(starts.map(|at| Datagram { from, local, interface, ecn, range: at..end.min(at + step) }));
        }
        Ok(too_long)
    }

    /// The buffer and the list, for who fills them from elsewhere.
    pub(super) fn parts(&mut self) -> (&mut [u8], &mut Vec<Datagram>) {
        (&mut self.buffer, &mut self.list)
    }

    /// How long the first of the last batch had waited in the kernel; zero where it does not say.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Bytes of the last batch.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.list.iter().map(|d| d.range.len()).sum()
    }

    /// The number of datagrams of the last batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Datagram `i` of the last batch.
    #[must_use]
    pub fn get(&self, i: usize) -> Option<Datagram> {
        self.list.get(i).cloned()
    }

    /// The bytes of all of them.
    pub fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// System calls made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls
    }
}

pub(super) fn socket_addr(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
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
