//! Control messages beside datagrams: addresses of this host, arrival interface and time, traffic class, segment size.

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime},
};

use crate::types::path::Local;

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
    /// The address that it was sent to, which may be a group's.
    pub to: Option<IpAddr>,
    /// The address of this host that it was sent to, or that an answer to a group leaves from.
    pub local: Option<Local>,
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
                    let to = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    arrival.interface = info.ipi6_ifindex;
                    arrival.to = Some(to.to_canonical());
                    // The other message tells more of what came by IPv4 to a socket for both families.
                    if to.to_ipv4_mapped().is_none() && !to.is_multicast() {
                        arrival.local = Some(Local::new(to.into(), info.ipi6_ifindex));
                    }
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    let [to, local] =
                        [info.ipi_addr, info.ipi_spec_dst].map(|ip| Ipv4Addr::from(u32::from_be(ip.s_addr)));
                    arrival.interface = info.ipi_ifindex as u32;
                    arrival.to = Some(to.into());
                    arrival.local = (!local.is_unspecified()).then(|| Local::new(local.into(), 0));
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

    /// Has the datagram leave from this address of the host, which need not be the one that routing would choose. The
    /// interface is left to routing, but for an address that only an interface gives a meaning.
    pub fn add_source(&mut self, source: Local) {
        match source.ip {
            IpAddr::V4(ip) => {
                let [source, none] = [u32::from(ip).to_be(), 0].map(|s_addr| libc::in_addr { s_addr });
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: none };
                self.add(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            IpAddr::V6(ip) => {
                let ipi6_addr = libc::in6_addr { s6_addr: ip.octets() };
                let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: source.scope };
                self.add(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel is told.
    fn told(write: impl Fn(&mut Writer<'_>)) -> (Control, usize) {
        let mut control: Control = [0; CONTROL / 8];
        let mut writer = Writer::new(&mut control);
        write(&mut writer);
        let len = writer.len();
        (control, len)
    }

    #[test]
    fn a_source_is_told_beside_everything_else() {
        let sources = ["192.0.2.7", "2001:db8::7", "fe80::7"].map(|ip| Local::new(ip.parse().unwrap(), 3));
        assert_eq!(sources.map(|source| source.scope), [0, 0, 3]);
        for source in sources {
            let (control, len) = told(|writer| {
                writer.add(SOL_UDP, UDP_GRO, 1300);
                writer.add(libc::IPPROTO_IP, libc::IP_TOS, 1);
                writer.add_source(source);
            });
            let arrival = read(&control, len);
            assert_eq!((arrival.segment, arrival.ecn, arrival.local), (1300, 1, Some(source)));
            assert_eq!((arrival.interface, len.is_multiple_of(8)), (source.scope, true));
        }
    }

    #[test]
    fn an_ipv4_source_stands_where_the_kernel_looks_for_it() {
        let (control, len) = told(|writer| writer.add_source(Local::new([192, 0, 2, 7].into(), 3)));
        let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).take(len).collect();
        // Behind the header: no interface, the source, no destination.
        assert_eq!(bytes[16..28], [0, 0, 0, 0, 192, 0, 2, 7, 0, 0, 0, 0]);
    }

    #[test]
    fn what_came_to_a_group_is_answered_from_an_address_of_the_host() {
        let address = |ip: [u8; 4]| libc::in_addr { s_addr: u32::from_ne_bytes(ip) };
        let group = Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]);
        let (control, len) = told(|writer| {
            let mapped = Ipv4Addr::new(192, 0, 2, 255).to_ipv6_mapped().octets();
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: mapped }, ipi6_ifindex: 3 };
            writer.add(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            let (ipi_addr, ipi_spec_dst) = (address([192, 0, 2, 255]), address([192, 0, 2, 7]));
            writer.add(libc::IPPROTO_IP, libc::IP_PKTINFO, libc::in_pktinfo { ipi_ifindex: 3, ipi_spec_dst, ipi_addr });
        });
        let arrival = read(&control, len);
        assert_eq!(arrival.to, Some([192, 0, 2, 255].into()));
        assert_eq!((arrival.local, arrival.interface), (Some(Local::new([192, 0, 2, 7].into(), 0)), 3));
        let (control, len) = told(|writer| writer.add_source(Local::new(group.into(), 3)));
        assert_eq!((read(&control, len).to, read(&control, len).local), (Some(group.into()), None));
    }
}
