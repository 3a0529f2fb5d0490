//! Floor 4: the TUN device.
#![allow(unsafe_code)] // ioctl, read, write and poll on the device

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

/// A TUN device without packet information headers. Reads and writes whole IP packets; any thread may.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
}

#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    padding: [u8; 22],
}

impl Tun {
    /// Opens `/dev/net/tun` and makes the interface `name` (1 to 15 bytes). Needs CAP_NET_ADMIN.
    pub fn open(name: &str) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open("/dev/net/tun")?;
        let fd = OwnedFd::from(file);
        let mut request = IfReq { name: [0; libc::IFNAMSIZ], flags: 0, padding: [0; 22] };
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface names have 1 to 15 bytes"));
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        request.flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: `request` is a whole `struct ifreq` (40 bytes) that outlives the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
        // SAFETY: fcntl with F_SETFL takes no pointer.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
        Ok(Self { fd, name: name.to_owned() })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until a packet can be read.
    pub fn wait(&self) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid pollfd that outlives the call.
        match check(unsafe { libc::poll(&raw mut poll, 1, -1) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Reads one packet. `WouldBlock` when none is there.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length are of a live, writable slice.
        let n = unsafe { libc::read(self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Writes one packet.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and length are of a live slice.
        let n = unsafe { libc::write(self.fd.as_raw_fd(), packet.as_ptr().cast(), packet.len()) };
        usize::try_from(n).map(|_| ()).map_err(|_| io::Error::last_os_error())
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
