//! Networks of namespaces: an internet, public hosts on it, homes behind NAT routers, point-to-point cables.

use std::{io, net::IpAddr};

use super::wire::{Weather, Wire};
use crate::{
    host::{NetNs, Netlink, masquerade},
    types::IpPrefix,
};

/// A switched network that hosts are plugged into.
pub struct Internet {
    ns: NetNs,
    ports: u32,
    weather: Option<Weather>,
    /// The namespaces in which cables with weather run.
    wires: Vec<(NetNs, Wire)>,
}

/// A host: a namespace with one or more interfaces.
pub struct Host {
    pub ns: NetNs,
    /// The port on the internet's switch, if the host is plugged in there.
    pub port: Option<String>,
}

fn everywhere() -> IpPrefix {
    IpPrefix::new([0, 0, 0, 0].into(), 0).expect("0 is in range")
}

impl Internet {
    pub fn new() -> io::Result<Self> {
        let ns = NetNs::new()?;
        ns.run(|| {
            let mut n = Netlink::open()?;
            n.add_bridge("br0")?;
            n.set_up("br0", true)
        })?;
        Ok(Self { ns, ports: 0, weather: None, wires: Vec::new() })
    }

    /// What the cables of hosts that are plugged in from now on do to frames.
    pub fn set_weather(&mut self, weather: Option<Weather>) {
        self.weather = weather;
    }

    fn plug(&mut self, into: &NetNs, interface: &str, address: IpAddr) -> io::Result<String> {
        self.ports += 1;
        let port = format!("port{}", self.ports);
        let middle = self.weather.map(|weather| NetNs::new().map(|ns| (weather, ns))).transpose()?;
        let (name, end) = middle.as_ref().map_or((interface, into), |(_, middle)| ("out", middle));
        self.ns.run(|| {
            let mut n = Netlink::open()?;
            n.add_veth(&port, name, end)?;
            n.set_master(&port, Some("br0"))?;
            n.set_up(&port, true)
        })?;
        if let Some((weather, middle)) = middle {
            middle.run(|| {
                let mut n = Netlink::open()?;
                n.add_veth("in", interface, into)?;
                n.set_up("in", true)?;
                n.set_up("out", true)
            })?;
            let wire = Wire::join(&middle, ["in", "out"], weather, u64::from(self.ports))?;
            self.wires.push((middle, wire));
        }
        into.run(|| {
            let mut n = Netlink::open()?;
            n.add_address(interface, address, 24)?;
            n.set_up(interface, true)
        })?;
        Ok(port)
    }

    /// A host with a public address; its interface is `eth0`.
    pub fn public(&mut self, address: IpAddr) -> io::Result<Host> {
        let ns = NetNs::new()?;
        let port = Some(self.plug(&ns, "eth0", address)?);
        Ok(Host { ns, port })
    }

    /// A home: a router with a public address that masquerades, and behind it one host. Returns (router, host). The
    /// LAN is `lan`.0/24: the router has .1, the host .2.
    pub fn home(&mut self, public: IpAddr, lan: [u8; 3]) -> io::Result<(Host, Host)> {
        let router = self.public(public)?;
        let inside = router.behind(lan)?;
        router.ns.run(|| masquerade("eth0"))?;
        Ok((router, inside))
    }

    /// Plugs a host's cable in or out at the switch.
    pub fn set_port(&self, host: &Host, up: bool) -> io::Result<()> {
        let Some(port) = &host.port else { return Err(io::Error::other("the host is not on the switch")) };
        self.ns.run(|| Netlink::open()?.set_up(port, up))
    }

    /// Takes a host's port off the switch, or puts it back: its carrier stays, but nothing passes any more, as when a
    /// device in the middle dies.
    pub fn set_silent(&self, host: &Host, silent: bool) -> io::Result<()> {
        let Some(port) = &host.port else { return Err(io::Error::other("the host is not on the switch")) };
        self.ns.run(|| Netlink::open()?.set_master(port, if silent { None } else { Some("br0") }))
    }

    /// A second interface of a host, `name`, on this switch. The host's port is then this one.
    pub fn plug_in(&mut self, host: &mut Host, name: &str, address: IpAddr) -> io::Result<()> {
        host.port = Some(self.plug(&host.ns, name, address)?);
        Ok(())
    }
}

impl Host {
    /// A host with no interface but loopback.
    pub fn bare() -> io::Result<Self> {
        Ok(Self { ns: NetNs::new()?, port: None })
    }

    /// A cable to another host, with an address at each end.
    pub fn cable(
        &self,
        to: &Host,
        (name, address): (&str, IpAddr),
        (peer, peer_address): (&str, IpAddr),
    ) -> io::Result<()> {
        self.ns.run(|| {
            let mut n = Netlink::open()?;
            n.add_veth(name, peer, &to.ns)?;
            n.add_address(name, address, 24)?;
            n.set_up(name, true)
        })?;
        to.ns.run(|| {
            let mut n = Netlink::open()?;
            n.add_address(peer, peer_address, 24)?;
            n.set_up(peer, true)
        })
    }

    /// A host behind this one, which forwards for it. The LAN is `lan`.0/24: this host has .1 on `lan0`, the new one .2
    /// on `eth0`.
    pub fn behind(&self, lan: [u8; 3]) -> io::Result<Self> {
        let inside = Self::bare()?;
        let at = |last| IpAddr::from([lan[0], lan[1], lan[2], last]);
        self.cable(&inside, ("lan0", at(1)), ("eth0", at(2)))?;
        self.ns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?;
        inside.ns.run(|| Netlink::open()?.add_route(everywhere(), Some(at(1)), None))?;
        Ok(inside)
    }

    /// Sets an interface up or down.
    pub fn set_interface(&self, name: &str, up: bool) -> io::Result<()> {
        self.ns.run(|| Netlink::open()?.set_up(name, up))
    }

    /// Sets an interface's MTU in bytes.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        self.ns.run(|| Netlink::open()?.set_mtu(name, mtu, 1000))
    }
}
