//! Floor 6: what the network between this host and others does to UDP: `aegisray netcheck`. It asks STUN servers, which
//! every node is, from sockets of its own, so that it works with and without a running daemon.

mod ask;
mod lifetime;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use serde::Serialize;

use self::ask::Asker;
pub use self::lifetime::lifetime;
use crate::{crypto::HmacKey, host, portmap, wire::stun::Change};

/// A host that answers nobody (TEST-NET-1, RFC 5737): who accepts a connection to it is in the middle.
const NOBODY: ([u8; 4], u16) = ([192, 0, 2, 1], 80);

/// On what a NAT's behaviour depends (RFC 4787 §4.1 and §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
    /// On the address, on the port, or on both: it took a server with two addresses to tell.
    Dependent,
    Unknown,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Any server answered.
    pub udp: bool,
    pub ipv4: bool,
    pub ipv6: bool,
    /// Where servers saw this host.
    pub endpoints: Vec<SocketAddr>,
    /// An address was translated on the way.
    pub nat: bool,
    pub mapping: Behaviour,
    pub filtering: Behaviour,
    /// Two sockets of this host reach each other over their public endpoints; `None`: could not be told.
    pub hairpin: Option<bool>,
    /// Something accepts TCP connections in others' names: a captive portal or a proxy.
    pub intercepted: bool,
    /// Protocols by which a router here gives out public ports.
    pub port_mapping: Vec<&'static str>,
    /// Servers by round trip, the nearest first.
    pub servers: Vec<Server>,
    /// What it all means for direct connections.
    pub verdict: &'static str,
}

/// A server that was asked.
#[derive(Debug, Clone, Serialize)]
pub struct Server {
    pub addr: SocketAddr,
    /// `None`: no answer.
    pub rtt_ms: Option<f64>,
    /// It can tell all kinds of NATs apart (RFC 5780).
    pub discovers: bool,
}

/// Examines the network with the help of `servers`; nodes among them answer members, who know the key `network`.
pub fn run(servers: &[SocketAddr], network: Option<&HmacKey>) -> io::Result<Report> {
    let interception = thread::spawn(|| host::connect(&NOBODY.into(), Duration::from_secs(2)).is_ok());
    let port_mapping = thread::spawn(portmap::probe);
    let main = Asker::open(network)?;
    let answers: Vec<_> = main.ask_all(servers);
    let mut list: Vec<Server> = servers
        .iter()
        .zip(&answers)
        .map(|(addr, answer)| Server {
            addr: *addr,
            rtt_ms: answer.as_ref().map(|a| a.rtt.as_secs_f64() * 1e3),
            discovers: answer.as_ref().is_some_and(|a| a.other.is_some()),
        })
        .collect();
    list.sort_by(|a, b| a.rtt_ms.unwrap_or(f64::MAX).total_cmp(&b.rtt_ms.unwrap_or(f64::MAX)));
    let mut endpoints: Vec<SocketAddr> = answers.iter().flatten().map(|a| a.mapped).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    let local: Vec<IpAddr> = host::interface_addresses()?.into_iter().map(|(_, ip)| ip).collect();
    let answered = |v4: bool| answers.iter().flatten().any(|a| a.mapped.is_ipv4() == v4);
    let port = main.port();
    let nat = endpoints.iter().any(|e| !local.contains(&e.ip()) || e.port() != port);
    // A server that can discover if there is one: it tells more.
    let best = servers.iter().zip(&answers).filter_map(|(s, a)| Some((*s, a.as_ref()?)));
    let best = best.min_by_key(|(s, a)| (!s.is_ipv4(), a.other.is_none(), a.rtt));
    let (mapping, filtering, hairpin) = match best {
        None => (Behaviour::Unknown, Behaviour::Unknown, None),
        Some((server, answer)) => {
            let alike = servers.iter().zip(&answers).filter_map(|(s, a)| Some((*s, a.as_ref()?)));
            let seen: Vec<(SocketAddr, SocketAddr)> =
                alike.filter(|(s, _)| s.is_ipv4() == server.is_ipv4()).map(|(s, a)| (s, a.mapped)).collect();
            let mapping = mapping(&main, server, answer, &seen);
            let filtering = match answer.other {
                Some(_) => filtering(server, network)?,
                None => Behaviour::Unknown,
            };
            let hairpin = if nat { hairpin((&main, network), server, answer.mapped, mapping)? } else { None };
            (mapping, filtering, hairpin)
        }
    };
    let mut report = Report {
        udp: !endpoints.is_empty(),
        ipv4: answered(true),
        ipv6: answered(false),
        endpoints,
        nat,
        mapping,
        filtering,
        hairpin,
        intercepted: interception.join().unwrap_or(false),
        port_mapping: port_mapping.join().unwrap_or_default(),
        servers: list,
        verdict: "",
    };
    report.verdict = verdict(&report);
    Ok(report)
}

/// RFC 5780 §4.3; without a server that has two addresses, the answers of several servers are compared.
fn mapping(main: &Asker, server: SocketAddr, first: &ask::Answer, seen: &[(SocketAddr, SocketAddr)]) -> Behaviour {
    if let Some(other) = first.other {
        let second = SocketAddr::new(other.ip(), server.port());
        match main.ask(second, Change::default()).map(|a| a.mapped) {
            Some(mapped) if mapped == first.mapped => return Behaviour::EndpointIndependent,
            Some(mapped) => {
                return match main.ask(other, Change::default()) {
                    Some(third) if third.mapped == mapped => Behaviour::AddressDependent,
                    Some(_) => Behaviour::AddressAndPortDependent,
                    None => Behaviour::Dependent,
                };
            }
            None => {}
        }
    }
    let elsewhere: Vec<_> = seen.iter().filter(|(s, _)| s.ip() != server.ip()).collect();
    if elsewhere.is_empty() {
        Behaviour::Unknown
    } else if elsewhere.iter().all(|(_, mapped)| *mapped == first.mapped) {
        Behaviour::EndpointIndependent
    } else {
        Behaviour::Dependent
    }
}

/// RFC 5780 §4.4, from a socket that has spoken with nobody else.
fn filtering(server: SocketAddr, network: Option<&HmacKey>) -> io::Result<Behaviour> {
    let fresh = Asker::open(network)?;
    if fresh.ask(server, Change::default()).is_none() {
        return Ok(Behaviour::Unknown);
    }
    Ok(if fresh.ask(server, Change { ip: true, port: true }).is_some() {
        Behaviour::EndpointIndependent
    } else if fresh.ask(server, Change { ip: false, port: true }).is_some() {
        Behaviour::AddressDependent
    } else {
        Behaviour::AddressAndPortDependent
    })
}

/// Whether a second socket reaches `mapped` from inside (RFC 5780 §4.5); each end speaks first, for filters' sake.
fn hairpin(
    (main, network): (&Asker, Option<&HmacKey>),
    server: SocketAddr,
    mapped: SocketAddr,
    mapping: Behaviour,
) -> io::Result<Option<bool>> {
    if mapping != Behaviour::EndpointIndependent {
        // Its public endpoint towards itself can't be known.
        return Ok(None);
    }
    let second = Asker::open(network)?;
    let Some(answer) = second.ask(server, Change::default()) else { return Ok(None) };
    Ok(Some(main.meets(&second, mapped, answer.mapped)))
}

fn verdict(report: &Report) -> &'static str {
    use Behaviour::{AddressAndPortDependent, AddressDependent, Dependent, EndpointIndependent, Unknown};
    match (report.udp, report.nat, report.mapping, report.filtering) {
        (false, ..) => "no UDP: no server answered; ask others with --server, or UDP is blocked here",
        (_, false, _, EndpointIndependent) => "no NAT, open: everybody reaches this host directly",
        (_, false, ..) => "no NAT, but a firewall may ask for this host to speak first: direct with nearly everybody",
        (_, _, EndpointIndependent, EndpointIndependent) => "full-cone NAT: direct with everybody",
        (_, _, EndpointIndependent, AddressDependent) => "address-restricted NAT: direct with everybody",
        (_, _, EndpointIndependent, _) => "port-restricted NAT: direct with all but symmetric NATs as a rule",
        (_, _, AddressDependent | AddressAndPortDependent | Dependent, _) => {
            "symmetric NAT: direct with open hosts and cones, else through a relay"
        }
        (_, _, Unknown, _) => "NAT of unknown kind: ask at least two servers at different addresses (--server)",
    }
}
