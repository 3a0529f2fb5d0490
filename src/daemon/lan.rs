//! LAN discovery: sealed beacons by IPv4 multicast (RFC 2365, administratively scoped).
//!
//! Only what was sent on the same link counts: to the group and not to this host, with a TTL that no router has lowered
//! (RFC 5082), from an address within a prefix of the interface that it came on. The group's range is not routed unless
//! somebody sets up routers for it; beyond one its beacons are ignored.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

use crate::{
    dataplane::Counters,
    host,
    transport::{self, Received},
    types::IpPrefix,
};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 65, 82);
const PORT: u16 = 51_901;
/// Routers lower it, so nobody beyond one can send with it.
const TTL: u8 = 255;

pub(super) struct Lan {
    socket: UdpSocket,
    joined: Vec<Ipv4Addr>,
    /// What is on the links of the interfaces, by their numbers.
    networks: Vec<(u32, IpPrefix)>,
}

impl Lan {
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        crate::host::mark(&socket);
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.set_multicast_ttl_v4(TTL.into())?;
        socket.set_multicast_loop_v4(true)?;
        transport::tell_ways(&socket)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, joined: Vec::new(), networks: Vec::new() })
    }

    /// Joins the group on interfaces that are new and sends a beacon on all of them, the one that is made for the
    /// interface's address.
    pub fn announce(&mut self, interfaces: &[(String, IpAddr)], mut beacon: impl FnMut(IpAddr) -> Vec<u8>) {
        let v4 = interfaces.iter().filter_map(|(_, ip)| match ip {
            IpAddr::V4(a) => Some(*a),
            IpAddr::V6(_) => None,
        });
        let addresses: Vec<Ipv4Addr> = v4.collect();
        let networks = host::interface_networks().unwrap_or_default().into_iter();
        let networks = networks.filter(|n| interfaces.iter().any(|(_, ip)| *ip == n.ip));
        self.networks = networks.filter_map(|n| Some((n.index, IpPrefix::new(n.ip, n.prefix_len)?))).collect();
        self.joined.retain(|a| addresses.contains(a));
        for address in addresses {
            if !self.joined.contains(&address) && self.socket.join_multicast_v4(GROUP, address).is_ok() {
                self.joined.push(address);
            }
            // One socket, many interfaces: choose the way out before each send. A failure is just a quiet LAN.
            let socket = socket2::SockRef::from(&self.socket);
            if socket.set_multicast_if_v4(&address).is_ok() {
                let _ = self.socket.try_send_to(&beacon(address.into()), SocketAddr::from((GROUP, PORT)));
            }
        }
    }

    /// Waits for a datagram of a neighbour. Others are counted.
    pub async fn receive(&self, buf: &mut [u8], counters: &Counters) -> io::Result<(usize, SocketAddr)> {
        loop {
            let take = || transport::receive_single(&self.socket, buf);
            match self.socket.async_io(Interest::READABLE, take).await {
                Ok(received) if is_of_link(&received, &self.networks) => return Ok((received.len, received.from)),
                Ok(_) => Counters::add(&counters.beacons_ignored, 1),
                Err(e) if e.kind() == io::ErrorKind::InvalidData => Counters::add(&counters.beacons_ignored, 1),
                Err(e) => return Err(e),
            }
        }
    }
}

/// Whether a datagram was sent to the group from the link that it came on.
fn is_of_link(received: &Received, networks: &[(u32, IpPrefix)]) -> bool {
    let from = received.from.ip();
    let is_on_link = |(index, network): &(u32, IpPrefix)| *index == received.interface && network.contains(from);
    received.to == Some(GROUP.into()) && received.ttl == Some(TTL) && networks.iter().any(is_on_link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_on_this_link_to_the_group_is_a_beacon() {
        let networks = [(3, "192.168.1.0/24".parse().unwrap()), (4, "192.168.2.0/24".parse().unwrap())];
        let good = Received {
            len: 9,
            from: "192.168.1.7:51901".parse().unwrap(),
            to: Some(GROUP.into()),
            interface: 3,
            ttl: Some(255),
        };
        assert!(is_of_link(&good, &networks));
        let from = |text: &str| text.parse().unwrap();
        let bad = [
            ("to this host", Received { to: Some(from("192.168.1.5")), ..good }),
            ("to who knows whom", Received { to: None, ..good }),
            ("through a router", Received { ttl: Some(254), ..good }),
            ("without a TTL", Received { ttl: None, ..good }),
            ("from the internet", Received { from: SocketAddr::new(from("203.0.113.9"), 9), ..good }),
            ("from another link", Received { interface: 4, ..good }),
        ];
        for (what, received) in bad {
            assert!(!is_of_link(&received, &networks), "{what}");
        }
    }
}
