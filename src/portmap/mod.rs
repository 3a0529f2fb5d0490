//! Floor 4: asking the router for a public port: PCP, NAT-PMP or UPnP, whichever it knows.

pub mod pcp;
pub mod upnp;

use std::{
    fs, io, iter,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use self::pcp::Request;
use crate::host;

/// What is asked for; routers may grant less.
const LIFETIME_S: u32 = 3600;
/// When requests are sent, counted from the start, and for how long answers are waited.
const SENDS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(750)];
const PATIENCE: Duration = Duration::from_millis(1250);

/// A public port that leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub external: SocketAddr,
    pub lifetime_s: u32,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum PortMapError {
    #[error("no router here takes port mappings (PCP, NAT-PMP, UPnP)")]
    NoRouter,
    #[error("the router refused, code {0}")]
    Refused(u16),
    #[error("the router has no public address")]
    NoAddress,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl PartialEq for PortMapError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

/// A protocol that a router speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    Pcp(Ipv4Addr),
    NatPmp(Ipv4Addr),
    Upnp(upnp::Gateway),
}

impl Protocol {
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pcp(_) => "PCP",
            Self::NatPmp(_) => "NAT-PMP",
            Self::Upnp(_) => "UPnP",
        }
    }
}

/// A mapping that is held, to be renewed and removed.
#[derive(Debug)]
pub struct Lease {
    pub protocol: Protocol,
    pub mapping: Mapping,
    nonce: [u8; 12],
    port: u16,
}

impl Lease {
    /// Asks the router for a mapping of UDP `port`: by PCP, then NAT-PMP, then UPnP. Nobody else in the local network is
    /// believed to be it.
    pub fn get(port: u16) -> Result<Self, PortMapError> {
        let nonce = host::random()?;
        let mut why = PortMapError::NoRouter;
        let gateway = home_router()?;
        let by_datagram = [Protocol::Pcp(gateway), Protocol::NatPmp(gateway)].map(Ok);
        for protocol in by_datagram.into_iter().chain(iter::once_with(|| upnp::find(gateway).map(Protocol::Upnp))) {
            let tried = protocol.and_then(|p| map(&p, port, port, LIFETIME_S, nonce).map(|mapping| (p, mapping)));
            match tried {
                Ok((protocol, mapping)) => return Ok(Self { protocol, mapping, nonce, port }),
                // What a router says matters more than that another protocol had no answer.
                Err(PortMapError::NoRouter) => {}
                Err(other) => why = other,
            }
        }
        Err(why)
    }

    /// Renews the mapping; it may move.
    pub fn renew(&mut self) -> Result<(), PortMapError> {
        self.mapping = map(&self.protocol, self.port, self.mapping.external.port(), LIFETIME_S, self.nonce)?;
        Ok(())
    }

    /// Gives the port back.
    pub fn remove(self) -> Result<(), PortMapError> {
        let outside = self.mapping.external.port();
        match &self.protocol {
            Protocol::Upnp(gateway) => gateway.remove(outside),
            other => map(other, self.port, outside, 0, self.nonce).map(|_| ()),
        }
    }
}

/// The protocols that routers here speak, by name.
#[must_use]
pub fn probe() -> Vec<&'static str> {
    let Ok(gateway) = home_router() else { return Vec::new() };
    let upnp = std::thread::Builder::new().spawn(move || upnp::find(gateway));
    let mut found = Vec::new();
    if ask(gateway, &pcp::announce_request(), |d| pcp::is_pcp(d).then_some(())).is_ok() {
        found.push("PCP");
    }
    if ask(gateway, &pcp::natpmp_address_request(), |d| pcp::natpmp_address(d).map(|_| ())).is_ok() {
        found.push("NAT-PMP");
    }
    if upnp.is_ok_and(|upnp| upnp.join().is_ok_and(|found| found.is_ok())) {
        found.push("UPnP");
    }
    found
}

/// The router that may have a public address for this host. Who has one already asks nobody.
fn home_router() -> Result<Ipv4Addr, PortMapError> {
    let gateway = default_gateway().ok_or(PortMapError::NoRouter)?;
    let local = local_address(gateway)?;
    let is_carriers = local.octets()[0] == 100 && local.octets()[1] & 0xc0 == 64;
    if local.is_private() || is_carriers { Ok(gateway) } else { Err(PortMapError::NoRouter) }
}

fn map(p: &Protocol, port: u16, outside: u16, lifetime_s: u32, nonce: [u8; 12]) -> Result<Mapping, PortMapError> {
    match p {
        Protocol::Upnp(gateway) => gateway.add(port, outside, lifetime_s),
        Protocol::Pcp(gateway) => {
            let client = local_address(*gateway)?;
            let request = Request { client, port, outside, lifetime_s, nonce };
            let mapping = ask(*gateway, &pcp::pcp_request(&request), |d| pcp::pcp_answer(&request, d))??;
            if lifetime_s > 0 && mapping.external.ip().is_unspecified() {
                return Err(PortMapError::NoAddress);
            }
            Ok(mapping)
        }
        Protocol::NatPmp(gateway) => {
            let request = Request { client: Ipv4Addr::UNSPECIFIED, port, outside, lifetime_s, nonce };
            let ip = ask(*gateway, &pcp::natpmp_address_request(), pcp::natpmp_address)??;
            let (outside, lifetime_s) =
                ask(*gateway, &pcp::natpmp_request(&request), |d| pcp::natpmp_answer(&request, d))??;
            Ok(Mapping { external: SocketAddr::new(ip.into(), outside), lifetime_s })
        }
    }
}

/// One question to a router, repeated until it answers. The socket is connected: what others send doesn't get here.
fn ask<T>(router: Ipv4Addr, question: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Result<T, PortMapError> {
    let socket = crate::host::bind_udp((Ipv4Addr::UNSPECIFIED, 0).into())?;
    socket.connect((router, pcp::PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let start = Instant::now();
    let mut sends = SENDS.iter().peekable();
    let mut buffer = [0; 1100];
    while start.elapsed() < PATIENCE {
        if sends.next_if(|at| start.elapsed() >= **at).is_some() {
            socket.send(question)?;
        }
        match socket.recv(&mut buffer) {
            Ok(n) => {
                if let Some(answer) = read(&buffer[..n]) {
                    return Ok(answer);
                }
            }
            // Nobody listens there, as an ICMP message says.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Err(PortMapError::NoRouter),
            Err(_) => {}
        }
    }
    Err(PortMapError::NoRouter)
}

fn local_address(towards: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = crate::host::bind_udp((Ipv4Addr::UNSPECIFIED, 0).into())?;
    socket.connect((towards, pcp::PORT))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(io::Error::other("the router's address is IPv4")),
    }
}

/// The router that IPv4's default route names.
#[must_use]
pub fn default_gateway() -> Option<Ipv4Addr> {
    parse_routes(&fs::read_to_string("/proc/self/net/route").ok()?)
}

/// Reads `/proc/net/route`: interface, destination, gateway, flags, and so on; addresses in hexadecimal, as in memory.
fn parse_routes(table: &str) -> Option<Ipv4Addr> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| u32::from_str_radix(fields.get(i)?, 16).ok();
        let is_default = number(1)? == 0 && *fields.get(7)? == "00000000";
        let gateway = number(2).filter(|g| *g != 0)?;
        is_default.then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_is_found() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(parse_routes(table), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(parse_routes(table.lines().next().unwrap()), None);
        assert_eq!(parse_routes("x\neth0 zz"), None);
    }
}
