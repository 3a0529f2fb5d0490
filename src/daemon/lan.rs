//! LAN discovery: sealed beacons by IPv4 multicast (RFC 2365, administratively scoped).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 65, 82);
const PORT: u16 = 51_901;

pub(super) struct Lan {
    socket: UdpSocket,
    joined: Vec<Ipv4Addr>,
}

impl Lan {
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        crate::host::mark(&socket);
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, joined: Vec::new() })
    }

    /// Joins the group on interfaces that are new and sends a beacon on all of them: `beacon` makes it for an address.
    pub fn announce(&mut self, interfaces: &[(String, IpAddr)], mut beacon: impl FnMut(IpAddr) -> Vec<u8>) {
        let v4 = interfaces.iter().filter_map(|(_, ip)| match ip {
            IpAddr::V4(a) => Some(*a),
            IpAddr::V6(_) => None,
        });
        let addresses: Vec<Ipv4Addr> = v4.collect();
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

    pub async fn receive(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket.recv_from(buf).await
    }
}
