//! Control messages beside datagrams: arrival interface and time, traffic class, segment size.

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime},
};

/// Room for the control messages of one call.
pub(super) const CONTROL: usize = 192;
pub(super) type Control = [u64; CONTROL / 8];

/// `SOL_UDP`, `UDP_SEGMENT` and `UDP_GRO` of linux/udp.h.
pub(super) const SOL_UDP: libc::c_int = 17;
pub(super) const UDP_SEGMENT: libc::c_int = 103;
pub(super) const UDP_GRO: libc::c_int = 104;

/// What came beside a datagram.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Arrival {
    /// Index of the interface; 0: unknown.
    pub interface: u32,
    /// The address that it was sent to.
    pub local: Option<IpAddr>,
    /// Bytes per datagram where the kernel put several together; 0: there is one.
    pub segment: usize,
    /// The ECN field of the IP header (RFC 3168 §5).
    pub ecn: u8,
    /// The TTL of the IPv4 header, where the socket asks for it.
    pub ttl: Option<u8>,
    /// When the kernel took it in.
    pub at: Option<SystemTime>,
}

/// Reads the first `len` bytes of a control area.
pub(super) fn read(control: &Control, len: usize) -> Arrival {
    let mut arrival = Arrival::default();
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = len.min(CONTROL);
    // SAFETY: the control area is aligned for cmsghdr and its length is what the kernel wrote.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !cmsg.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return only headers that lie in the area, with their data behind them.
        let (level, kind, data) = unsafe { ((*cmsg).cmsg_level, (*cmsg).cmsg_type, libc::CMSG_DATA(cmsg)) };
        // SAFETY: the kernel wrote a whole structure of the kind's type (a byte for IP_TOS, an int for the TTL,
        // the traffic class and the segment size, a timespec for the time); it may be unaligned.
        unsafe {
            match (level, kind) {
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    arrival.interface = info.ipi6_ifindex;
                    arrival.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if arrival.interface == 0 => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    arrival.interface = info.ipi_ifindex as u32;
                    arrival.local = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => arrival.ecn = *data & 3,
                (libc::IPPROTO_IP, libc::IP_TTL) => {
                    arrival.ttl = u8::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    arrival.ecn = data.cast::<libc::c_int>().read_unaligned() as u8 & 3;
                }
                (SOL_UDP, UDP_GRO) => {
                    arrival.segment = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).unwrap_or(0);
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let at = data.cast::<libc::timespec>().read_unaligned();
                    let since = Duration::new(at.tv_sec.try_into().unwrap_or(0), at.tv_nsec.try_into().unwrap_or(0));
                    arrival.at = SystemTime::UNIX_EPOCH.checked_add(since);
                }
                _ => {}
            }
            cmsg = libc::CMSG_NXTHDR(&raw const header, cmsg);
        }
    }
    arrival
}

/// Writes control messages into an area, one after another.
pub(super) struct Writer<'a> {
    control: &'a mut Control,
    len: usize,
}

impl<'a> Writer<'a> {
    pub fn new(control: &'a mut Control) -> Self {
        Self { control, len: 0 }
    }

    pub fn add<T>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let size = mem::size_of::<T>() as libc::c_uint;
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space, len) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size) as usize) };
        assert!(self.len + space <= CONTROL, "the control area has room for all that is ever written");
        // SAFETY: the header and its data lie in the area, which is aligned for cmsghdr: lengths are multiples of 8.
        unsafe {
            let cmsg = self.control.as_mut_ptr().cast::<u8>().add(self.len).cast::<libc::cmsghdr>();
            (*cmsg).cmsg_level = level;
            (*cmsg).cmsg_type = kind;
            (*cmsg).cmsg_len = len;
            libc::CMSG_DATA(cmsg).cast::<T>().write_unaligned(value);
        }
        self.len += space;
    }

    pub fn len(&self) -> usize {
        self.len
    }
}
