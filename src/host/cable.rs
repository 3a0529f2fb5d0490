//! Whole frames of an interface: what an emulated cable takes in at one end and gives out at the other.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use super::Netlink;

const SOL_PACKET: libc::c_int = 263;
/// Frames come and go behind a virtio header, so that the kernel's super-packets stay whole (linux/if_packet.h).
const PACKET_VNET_HDR: libc::c_int = 15;
const SOCKET_BUFFER: libc::c_int = 16 << 20;
/// The longest frame: a super-packet, its link header and the virtio header.
pub const MAX_FRAME: usize = 70_000;

/// One end of a cable: an interface of this namespace, whose frames pass through this process alone.
pub struct CableEnd(OwnedFd);

impl CableEnd {
    /// Opens an interface in the calling thread's namespace. Needs CAP_NET_RAW.
    pub fn open(interface: &str) -> io::Result<Self> {
        let every_protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket takes no pointer; a result that isn't negative is a descriptor of ours alone.
        let fd = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            let fd = check(libc::socket(libc::AF_PACKET, kind, libc::c_int::from(every_protocol)))?;
            OwnedFd::from_raw_fd(fd)
        };
        for (level, name, value) in [
            (SOL_PACKET, PACKET_VNET_HDR, 1),
            (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, SOCKET_BUFFER),
            (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SOCKET_BUFFER),
        ] {
            let size = mem::size_of::<libc::c_int>() as libc::socklen_t;
            // SAFETY: the value is a live c_int and its size is given.
            let set = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) };
            // Larger buffers are a wish, whole super-packets are not.
            if set < 0 && level == SOL_PACKET {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every_protocol;
        address.sll_ifindex = Netlink::open()?.index(interface)? as libc::c_int;
        let size = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` is a whole sockaddr_ll that outlives the call.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) })?;
        Ok(Self(fd))
    }

    /// The next frame that came in; `None`: none is there. What this process put out is left out.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            // SAFETY: all-zero bytes are a valid sockaddr_ll.
            let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
            let mut size = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: buffer and address are live and writable, and their sizes are given.
            let n = unsafe {
                let (fd, at) = (self.0.as_raw_fd(), buffer.as_mut_ptr().cast());
                libc::recvfrom(fd, at, buffer.len(), 0, (&raw mut from).cast(), &raw mut size)
            };
            match usize::try_from(n) {
                Ok(_) if from.sll_pkttype == libc::PACKET_OUTGOING => {}
                Ok(n) => return Ok(Some(n)),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
                }
            }
        }
    }

    /// Puts a frame out.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the slice is live and its length is given.
        let n = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Waits until a frame is at one of the ends, at most for `time`.
pub fn wait_for_frames(ends: [&CableEnd; 2], time: Duration) {
    let mut polls = ends.map(|e| libc::pollfd { fd: e.0.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let time = libc::timespec { tv_sec: time.as_secs() as libc::time_t, tv_nsec: i64::from(time.subsec_nanos()) };
    // SAFETY: two pollfds and a timespec that outlive the call. Interrupted or not, the caller looks.
    unsafe { libc::ppoll(polls.as_mut_ptr(), 2, &raw const time, std::ptr::null()) };
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
