//! rtnetlink (RFC 3549): the few requests that a VPN makes, and news of links and addresses.

use std::{
    ffi::CString,
    io, mem,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use crate::{types::IpPrefix, wire::encode_ip};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;

/// A netlink message under construction.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// `family_header` is what follows the netlink header: ifinfomsg, ifaddrmsg, …
    pub fn new(kind: u16, flags: libc::c_int, family_header: &[u8]) -> Self {
        let mut out = vec![0; HEADER];
        out[4..6].copy_from_slice(&kind.to_ne_bytes());
        out[6..8].copy_from_slice(&(flags as u16 | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        out.extend_from_slice(family_header);
        Self(out)
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let len = 4 + value.len();
        self.0.extend_from_slice(&(len as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// An attribute that holds attributes.
    pub fn nested(self, kind: u16, inner: Message) -> Self {
        self.attribute(kind | libc::NLA_F_NESTED as u16, &inner.0[HEADER..])
    }

    /// Attributes only, for [`Self::nested`].
    pub fn attributes() -> Self {
        Self(vec![0; HEADER])
    }

    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

pub(super) fn open(protocol: libc::c_int, groups: u32) -> io::Result<OwnedFd> {
    // SAFETY: socket takes no pointer; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero bytes are a valid sockaddr_nl.
    let mut addr: libc::sockaddr_nl = unsafe { mem::zeroed() };
    addr.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    addr.nl_groups = groups;
    // SAFETY: `addr` is a whole sockaddr_nl that outlives the call.
    let result = unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

pub(super) fn send(fd: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and length are of a live slice.
    let n = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn receive(fd: &OwnedFd, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length are of a live, writable slice.
    let n = unsafe { libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// The messages in a buffer: kind, sequence number, body.
pub(super) fn messages(buf: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    let mut rest = buf;
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        if len < HEADER || len > rest.len() {
            return None;
        }
        let kind = u16::from_ne_bytes(rest[4..6].try_into().ok()?);
        let sequence = u32::from_ne_bytes(rest[8..12].try_into().ok()?);
        let body = &rest[HEADER..len];
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, body))
    })
}

/// Reads until the acknowledgement of `sequence`; its error, if it is one.
pub(super) fn acknowledged(fd: &OwnedFd, sequence: u32) -> io::Result<()> {
    answers(fd, sequence).map(drop)
}

/// The bodies of the messages that answer `sequence`, up to its end.
fn answers(fd: &OwnedFd, sequence: u32) -> io::Result<Vec<Vec<u8>>> {
    let mut buf = vec![0; 64 * 1024];
    let mut all = Vec::new();
    loop {
        let n = receive(fd, &mut buf)?;
        for (kind, _, body) in messages(&buf[..n]).filter(|(_, seq, _)| *seq == sequence) {
            match kind {
                NLMSG_ERROR | NLMSG_DONE => {
                    let code = word(body).map_or(0, u32::cast_signed);
                    return if code == 0 { Ok(all) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => all.push(body.to_vec()),
            }
        }
    }
}

/// The attributes of a message, without their flags.
pub(super) fn attributes(body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !(libc::NLA_F_NESTED as u16), value))
    })
}

/// The first four bytes as a number.
pub(super) fn word(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes)
}

/// A connection to rtnetlink in the network namespace of the thread that opens it.
pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        Ok(Self { fd: open(libc::NETLINK_ROUTE, 0)?, sequence: 0 })
    }

    pub(super) fn request(&mut self, message: Message) -> io::Result<()> {
        self.sequence += 1;
        send(&self.fd, &message.finish(self.sequence))?;
        acknowledged(&self.fd, self.sequence)
    }

    /// What the kernel has of a kind; where it can, only what the message asks for.
    pub(super) fn dump(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        let strict: libc::c_int = 1;
        // SAFETY: the pointer and length are of a live integer. Kernels that don't know it send more.
        unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_GET_STRICT_CHK,
                (&raw const strict).cast(),
                mem::size_of_val(&strict) as libc::socklen_t,
            )
        };
        self.sequence += 1;
        send(&self.fd, &message.finish(self.sequence))?;
        answers(&self.fd, self.sequence)
    }

    /// The index of an interface.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        let name = CString::new(name)?;
        // SAFETY: `name` is a NUL-terminated string that outlives the call.
        match unsafe { libc::if_nametoindex(name.as_ptr()) } {
            0 => Err(io::Error::last_os_error()),
            index => Ok(index),
        }
    }

    /// Sets an interface up or down.
    pub fn set_up(&mut self, name: &str, up: bool) -> io::Result<()> {
        let flags = if up { libc::IFF_UP as u32 } else { 0 };
        let header = link_header(self.index(name)?, flags, libc::IFF_UP as u32);
        self.request(Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &header))
    }

    /// Sets MTU (bytes) and transmit queue length (packets).
    pub fn set_mtu(&mut self, name: &str, mtu: u32, queue: u32) -> io::Result<()> {
        let message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &link_header(self.index(name)?, 0, 0))
            .attribute(libc::IFLA_MTU, &mtu.to_ne_bytes())
            .attribute(libc::IFLA_TXQLEN, &queue.to_ne_bytes());
        self.request(message)
    }

    /// Adds an address with the prefix length of its network; it is no error if it is there already.
    pub fn add_address(&mut self, name: &str, address: IpAddr, prefix_len: u8) -> io::Result<()> {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.change_address(libc::RTM_NEWADDR, flags, name, address, prefix_len)
    }

    pub fn remove_address(&mut self, name: &str, address: IpAddr, prefix_len: u8) -> io::Result<()> {
        self.change_address(libc::RTM_DELADDR, libc::NLM_F_ACK, name, address, prefix_len)
    }

    fn change_address(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        name: &str,
        address: IpAddr,
        prefix_len: u8,
    ) -> io::Result<()> {
        // ifaddrmsg: family, prefix length, flags (no duplicate address detection), scope, index.
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
        let nodad = if address.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
        let mut header = vec![family, prefix_len, nodad, 0];
        header.extend_from_slice(&self.index(name)?.to_ne_bytes());
        let bytes = encode_ip(address);
        let message =
            Message::new(kind, flags, &header).attribute(libc::IFA_LOCAL, &bytes).attribute(libc::IFA_ADDRESS, &bytes);
        self.request(message)
    }

    /// Adds a route through a gateway or an interface. A route to the same prefix that is there already stays: an error.
    pub fn add_route(&mut self, to: IpPrefix, gateway: Option<IpAddr>, interface: Option<&str>) -> io::Result<()> {
        self.change_route(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, to, gateway, interface)
    }

    pub fn remove_route(&mut self, to: IpPrefix, interface: Option<&str>) -> io::Result<()> {
        self.change_route(libc::RTM_DELROUTE, 0, to, None, interface)
    }

    fn change_route(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        to: IpPrefix,
        gateway: Option<IpAddr>,
        interface: Option<&str>,
    ) -> io::Result<()> {
        let family = if to.addr().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
        let scope = if gateway.is_none() && to.addr().is_ipv4() { libc::RT_SCOPE_LINK } else { 0 };
        // rtmsg: family, lengths, tos, table, protocol, scope, type, flags.
        let header = [
            family,
            to.prefix_len(),
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            scope,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let mut message =
            Message::new(kind, flags | libc::NLM_F_ACK, &header).attribute(libc::RTA_DST, &encode_ip(to.addr()));
        if let Some(gateway) = gateway {
            message = message.attribute(libc::RTA_GATEWAY, &encode_ip(gateway));
        }
        if let Some(interface) = interface {
            message = message.attribute(libc::RTA_OIF, &self.index(interface)?.to_ne_bytes());
        }
        self.request(message)
    }

    /// Makes a pair of virtual Ethernet interfaces: `name` here, `peer` in the namespace behind `peer_ns`.
    pub fn add_veth(&mut self, name: &str, peer: &str, peer_ns: &super::NetNs) -> io::Result<()> {
        const VETH_INFO_PEER: u16 = 1;
        let peer_link = Message(vec![0; HEADER])
            .raw(&link_header(0, 0, 0))
            .attribute(libc::IFLA_IFNAME, &name_bytes(peer))
            .attribute(libc::IFLA_NET_NS_FD, &peer_ns.as_raw_fd().to_ne_bytes());
        let data = Message::attributes().nested(VETH_INFO_PEER, peer_link);
        let info = Message::attributes().attribute(libc::IFLA_INFO_KIND, b"veth").nested(libc::IFLA_INFO_DATA, data);
        self.add_link(name, info)
    }

    /// Makes a bridge.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        self.add_link(name, Message::attributes().attribute(libc::IFLA_INFO_KIND, b"bridge"))
    }

    fn add_link(&mut self, name: &str, info: Message) -> io::Result<()> {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let message = Message::new(libc::RTM_NEWLINK, flags, &link_header(0, 0, 0))
            .attribute(libc::IFLA_IFNAME, &name_bytes(name))
            .nested(libc::IFLA_LINKINFO, info);
        self.request(message)
    }

    /// Puts an interface on a bridge, or takes it off.
    pub fn set_master(&mut self, name: &str, bridge: Option<&str>) -> io::Result<()> {
        let master = match bridge {
            Some(bridge) => self.index(bridge)?,
            None => 0,
        };
        let message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &link_header(self.index(name)?, 0, 0))
            .attribute(libc::IFLA_MASTER, &master.to_ne_bytes());
        self.request(message)
    }
}

impl Message {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// ifinfomsg: family, type, index, flags, change mask.
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}

fn name_bytes(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// Something changed on this host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// An interface is running, or no longer is.
    Interface { index: u32, up: bool },
    /// Addresses changed on an interface.
    Address { index: u32 },
}

/// News of links and addresses from the kernel.
pub struct Monitor {
    fd: OwnedFd,
    buf: Vec<u8>,
}

impl Monitor {
    pub fn open() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        Ok(Self { fd: open(libc::NETLINK_ROUTE, groups as u32)?, buf: vec![0; 64 * 1024] })
    }

    /// Waits for news.
    pub fn wait(&mut self) -> io::Result<Vec<LinkChange>> {
        let n = match receive(&self.fd, &mut self.buf) {
            // The kernel dropped news for lack of room: whatever they were, something changed.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(vec![LinkChange::Address { index: 0 }]),
            other => other?,
        };
        Ok(messages(&self.buf[..n]).filter_map(|(kind, _, body)| change(kind, body)).collect())
    }
}

fn change(kind: u16, body: &[u8]) -> Option<LinkChange> {
    let word = |at: usize| body.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    match kind {
        libc::RTM_NEWLINK => {
            let running = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
            Some(LinkChange::Interface { index: word(4)?, up: word(8)? & running == running })
        }
        libc::RTM_DELLINK => Some(LinkChange::Interface { index: word(4)?, up: false }),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(LinkChange::Address { index: word(4)? }),
        _ => None,
    }
}
