//! Floor 4: the TUN device.
#![allow(unsafe_code)] // ioctl, read, writev and poll on the device

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use crate::wire::vnet::VNET_HEADER;

const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

/// What the kernel leaves to us, and takes from us, in one piece.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// TCP segments of one flow, and checksums.
    pub tcp: bool,
    /// UDP datagrams of one flow (Linux 6.2).
    pub udp: bool,
}

/// A TUN device. Reads and writes whole IP packets, each behind a [`crate::wire::vnet::VnetHeader`]; any thread may.
///
/// With several queues the kernel keeps a flow on the queue to which the flow's other direction was last written.
#[derive(Debug)]
pub struct Tun {
    queues: Vec<OwnedFd>,
    name: String,
    offloads: Offloads,
}

#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    padding: [u8; 22],
}

impl Tun {
    /// Opens `/dev/net/tun` and makes the interface `name` (1 to 15 bytes). Needs CAP_NET_ADMIN. `wanted` offloads that
    /// this kernel does not know are left out; where the interface exists and has one queue, so has the device.
    pub fn open(name: &str, wanted: Offloads, queues: usize) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface names have 1 to 15 bytes"));
        }
        let queues = if queues < 2 {
            vec![open_queue(name, 0)?]
        } else {
            match (0..queues).map(|_| open_queue(name, libc::IFF_MULTI_QUEUE)).collect() {
                Ok(queues) => queues,
                Err(_) => vec![open_queue(name, 0)?],
            }
        };
        let mut tun = Self { queues, name: name.to_owned(), offloads: Offloads::default() };
        for offloads in [wanted, Offloads { udp: false, ..wanted }] {
            if tun.set_offloads(offloads).is_ok() {
                tun.offloads = offloads;
                break;
            }
        }
        Ok(tun)
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let tcp = if offloads.tcp { TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 } else { 0 };
        let udp = if offloads.udp { TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6 } else { 0 };
        let flags = libc::c_ulong::from(tcp | udp);
        // The device has them, not the queue.
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.queues[0].as_raw_fd(), libc::TUNSETOFFLOAD, flags) }).map(|_| ())
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The offloads that are in use.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// The number of queues, at least 1.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Waits until a packet can be read from `queue`.
    pub fn wait(&self, queue: usize) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.queues[queue].as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid pollfd that outlives the call.
        match check(unsafe { libc::poll(&raw mut poll, 1, -1) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Reads one packet behind its header from `queue`. `WouldBlock` when none is there.
    pub fn read(&self, queue: usize, buf: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length are of a live, writable slice.
        let n = unsafe { libc::read(self.queues[queue].as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Writes one packet that stands in pieces, at most 1,023, behind `header`, to `queue`.
    pub fn write<'a>(
        &self,
        queue: usize,
        header: &[u8; VNET_HEADER],
        pieces: impl Iterator<Item = &'a [u8]>,
        vectors: &mut IoVectors,
    ) -> io::Result<()> {
        let vector = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        vectors.0.clear();
        vectors.0.push(vector(header));
        vectors.0.extend(pieces.map(vector));
        // SAFETY: every vector covers a slice that outlives the call, and writev only reads from it.
        let n =
            unsafe { libc::writev(self.queues[queue].as_raw_fd(), vectors.0.as_ptr(), vectors.0.len() as libc::c_int) };
        vectors.0.clear();
        usize::try_from(n).map(|_| ()).map_err(|_| io::Error::last_os_error())
    }
}

/// Room for the vectors of a write, used again and again.
#[derive(Default)]
pub struct IoVectors(Vec<libc::iovec>);

fn open_queue(name: &str, more: libc::c_int) -> io::Result<OwnedFd> {
    let fd = OwnedFd::from(File::options().read(true).write(true).open("/dev/net/tun")?);
    let mut request = IfReq { name: [0; libc::IFNAMSIZ], flags: 0, padding: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    request.flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more) as libc::c_short;
    // SAFETY: `request` is a whole `struct ifreq` (40 bytes) that outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: fcntl with F_SETFL takes no pointer.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(fd)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
