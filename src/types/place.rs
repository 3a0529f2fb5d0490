//! Where a peer can be, of all that others say: nobody aims this node at hosts that have nothing to do with the mesh.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::IpPrefix;

/// Ports of one address that are tried: who has more is a target, not a peer.
const PORTS: usize = 4;

/// Whether a host can have this address at all: not unspecified, loopback, multicast, broadcast, reserved or link-local
/// (RFC 6890), which mean nothing or something else on another host.
#[must_use]
pub fn is_host(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.octets()[0] != 0 && ip < Ipv4Addr::new(224, 0, 0, 0) && !ip.is_loopback() && !ip.is_link_local()
        }
        IpAddr::V6(ip) => {
            let is_low = ip.segments()[..7] == [0; 7];
            !is_low && !ip.is_multicast() && !ip.is_unicast_link_local()
        }
    }
}

/// Whether an address means another host at another site: RFC 1918, a carrier's range (RFC 6598), unique local IPv6.
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64,
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Whether an address means the same host everywhere.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    is_host(ip) && !is_private(ip)
}

/// The network that an address is counted with, where addresses cost nothing within it: IPv4 of `v4` bits, IPv6 of `v6`.
#[must_use]
pub fn network(ip: IpAddr, v4: u8, v6: u8) -> IpPrefix {
    let ip = ip.to_canonical();
    IpPrefix::new(ip, if ip.is_ipv4() { v4.min(32) } else { v6.min(128) }).unwrap_or(IpPrefix::host(ip))
}

/// Whether two public addresses are of one site: the same IPv4 address, or the same IPv6 network.
fn is_one_site(a: IpAddr, b: IpAddr) -> bool {
    network(a, 32, 64) == network(b, 32, 64)
}

/// What this node knows of the networks around it; decides where peers are looked for.
///
/// A private address that a peer announces is another host's at another site. It is tried if the peer is of this site,
/// and an interface here has a prefix with the address in it. It is of this site if it shares a public address with this
/// node (behind IPv4's NAT; an IPv6 network of 64 bits), if a public address of it is on a link of this host, or if neither
/// has a public address: then all of the mesh is in private networks, which are routed or not. An address from this node's
/// own configuration is tried whatever it is; who is heard on the LAN is met there in any case.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The mesh's own ranges: a path through the mesh is no path to it.
    pub mesh: Vec<IpPrefix>,
    /// The prefixes of this host's interfaces; `None`: not told, every private address is as good as another.
    pub on_link: Option<Vec<IpPrefix>>,
    /// Where this node is in the internet, as far as it knows.
    pub public: Vec<IpAddr>,
    /// Addresses from this node's configuration.
    pub configured: Vec<SocketAddr>,
}

impl Surroundings {
    /// Of all the places that one peer is said to be at, those that are worth a datagram, in the same order.
    #[must_use]
    pub fn places(&self, said: &[SocketAddr]) -> Vec<SocketAddr> {
        let said: Vec<SocketAddr> = said.iter().map(|a| SocketAddr::new(a.ip().to_canonical(), a.port())).collect();
        let site = self.site(&said);
        let mut out: Vec<SocketAddr> = Vec::new();
        for addr in said {
            let alike = out.iter().filter(|a| a.ip() == addr.ip()).count();
            if alike < PORTS && !out.contains(&addr) && (self.configured.contains(&addr) || self.takes(addr, site)) {
                out.push(addr);
            }
        }
        out
    }

    fn takes(&self, addr: SocketAddr, site: Site) -> bool {
        let ip = addr.ip();
        if addr.port() == 0 || !is_host(ip) || self.mesh.iter().any(|mesh| mesh.contains(ip)) {
            return false;
        }
        let Some(on_link) = &self.on_link else { return true };
        let mut links = on_link.iter().filter(|link| link.contains(ip)).peekable();
        let is_near = links.peek().is_some();
        if links.any(|link| is_broadcast(link, ip)) {
            return false;
        }
        !is_private(ip) || site == Site::Private || site == Site::Same && is_near
    }

    fn site(&self, said: &[SocketAddr]) -> Site {
        let mut public = said.iter().map(SocketAddr::ip).filter(|ip| is_public(*ip)).peekable();
        if self.public.is_empty() && public.peek().is_none() {
            return Site::Private;
        }
        let on_link = self.on_link.as_deref().unwrap_or_default();
        let is_here = |ip: IpAddr| {
            self.public.iter().any(|own| is_one_site(*own, ip)) || on_link.iter().any(|link| link.contains(ip))
        };
        if public.any(is_here) { Site::Same } else { Site::Other }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Site {
    Same,
    Other,
    /// Nobody here has a public address.
    Private,
}

/// Whether an address on a link means all of its hosts, or none.
fn is_broadcast(link: &IpPrefix, ip: IpAddr) -> bool {
    match (link.addr(), ip) {
        (IpAddr::V4(net), IpAddr::V4(ip)) if link.prefix_len() < 31 => {
            let hosts = u32::MAX >> link.prefix_len();
            ip == net || u32::from(ip) & hosts == hosts
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn home() -> Surroundings {
        Surroundings {
            mesh: ["100.64.0.0/16", "fd11:2233::/64"].map(|p| p.parse().unwrap()).into(),
            on_link: Some(["192.168.1.0/24", "2001:db8:1::/64"].map(|p| p.parse().unwrap()).into()),
            public: vec![addr("203.0.113.7:1").ip(), addr("[2001:db8:1::7]:1").ip()],
            configured: vec![addr("10.9.9.9:51900")],
        }
    }

    #[test]
    fn nobody_aims_this_node_where_no_peer_can_be() {
        for aim in [
            "0.0.0.0:9",
            "0.1.2.3:9",
            "127.0.0.1:9",
            "169.254.1.1:9",
            "224.0.0.1:9",
            "255.255.255.255:9",
            "240.0.0.1:9",
            "198.51.100.1:0",
            "192.168.1.255:9",
            "192.168.1.0:9",
            "100.64.3.4:9",
            "[::]:9",
            "[::1]:9",
            "[fe80::1]:9",
            "[ff02::1]:9",
            "[fd11:2233::5]:9",
            "[::ffff:127.0.0.1]:9",
            "10.0.0.1:9",
        ] {
            let near = [addr(aim), addr("203.0.113.7:40000")];
            assert_eq!(home().places(&near), near[1..], "{aim}");
        }
        assert_eq!(home().places(&[addr("198.51.100.1:9"), addr("[2001:db8:9::1]:9")]).len(), 2);
        let ports: Vec<SocketAddr> = (1..100).map(|p| addr(&format!("198.51.100.1:{p}"))).collect();
        assert_eq!(home().places(&ports), ports[..PORTS], "not a port scan");
    }

    #[test]
    fn a_private_address_of_another_site_is_not_looked_for_on_ours() {
        let there = [addr("192.168.1.20:51900"), addr("198.51.100.9:51900")];
        assert_eq!(home().places(&there), there[1..]);
        assert_eq!(home().places(&there[..1]), [], "nor if it hides where it is");
        // Behind the same NAT, or in the same network of IPv6.
        for public in ["203.0.113.7:61000", "[2001:db8:1::99]:51900"] {
            let here = [addr("192.168.1.20:51900"), addr(public)];
            assert_eq!(home().places(&here), here);
            assert_eq!(home().places(&[addr("192.168.2.20:51900"), here[1]]), here[1..], "not on a link of ours");
        }
        let configured = [addr("10.9.9.9:51900")];
        assert_eq!(home().places(&configured), configured);
        // A mesh within private networks, routed ones included.
        let inside = Surroundings { public: vec![], ..home() };
        let peer = [addr("10.2.0.5:51900"), addr("192.168.1.20:51900")];
        assert_eq!(inside.places(&peer), peer);
        assert_eq!(inside.places(&there), there[1..], "one that has a public address is somewhere else");
        let untold = Surroundings { on_link: None, ..home() };
        assert_eq!(untold.places(&there), there);
    }
}
