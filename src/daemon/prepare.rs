//! What of a start depends on the configuration alone, for the start and for `check`; and what this host will say to it.

use std::{io, net::UdpSocket, path::Path};

use socket2::{Domain, Socket, Type};

use super::{StartError, chat, make_node, overlap, resolve::Servers, state, unix_now};
use crate::{
    config::{Config, Front, Mode, Pages},
    host::firewall,
    identity::Certificate,
    stealth::{self, Dialer, Door},
    types::{Instant, span, utc},
};

/// What a node needs beside the host.
pub(super) struct Prepared {
    pub servers: Servers,
    /// Goes to sites as a visitor.
    pub dialer: Option<Dialer>,
    /// This node as a site.
    pub door: Option<Door>,
}

pub(super) fn prepare(config: &Config) -> Result<Prepared, StartError> {
    let stealth = &config.stealth;
    let goes_out = stealth.mode != Mode::Off && !stealth.sites.is_empty();
    let gate = config.network.gate();
    let servers = Servers::new(config)?;
    let tls = goes_out.then(|| stealth::Client::new(stealth.roots.as_deref(), gate)).transpose()?;
    let dialer = tls.map(|tls| Dialer::new(tls, gate.clone(), stealth, servers.blocking()));
    let door = stealth.serve.as_ref().map(|serve| make_door(config, &serve.site, &servers)).transpose()?;
    Ok(Prepared { servers, dialer, door })
}

fn make_door(config: &Config, site: &Front, servers: &Servers) -> Result<Door, StartError> {
    let network = config.network.gate().clone();
    let shaping = config.stealth.shaping;
    Ok(match site {
        Front::Own { certificate, key, pages } => {
            let upstream = match pages {
                Pages::Upstream(upstream) => *upstream,
                Pages::Folder(folder) => stealth::serve_pages(folder)?,
            };
            Door::Own(stealth::Own::new(stealth::server_config(certificate, key)?, network, upstream, shaping))
        }
        Front::Borrowed(decoy) => {
            let client = stealth::Client::new(config.stealth.roots.as_deref(), &network)?;
            Door::Borrowed(stealth::Borrowed::new(decoy.clone(), network, client, servers.blocking(), shaping))
        }
    })
}

/// Makes all of a node that a configuration alone decides, as a start does. What comes back is taken as it is, and is probably not meant.
pub fn check(config: &Config) -> Result<Vec<String>, StartError> {
    prepare(config)?;
    make_node(config, &state::State::default(), 0, Instant::default())?;
    config.chat.as_ref().map(chat::password).transpose()?;
    Ok(doubts(config))
}

/// What a node runs with, and nobody wants.
pub(super) fn doubts(config: &Config) -> Vec<String> {
    let mut out = config.warnings.clone();
    let [cidr, ula] = [config.network.cidr(), config.network.ula()];
    let certificate = config.network.authority().and_then(|key| Certificate::open(&config.certificate, key).ok());
    if let Some(certificate) = certificate {
        let now = unix_now();
        let clock = format!("by this machine's clock, which says {}: is it right?", utc(now));
        if now < certificate.not_before {
            let ahead = span(certificate.not_before - now);
            out.push(format!(
                "this node's certificate will be valid in {ahead}, from {} on, {clock} Others refuse this node until then",
                utc(certificate.not_before)
            ));
        } else if now >= certificate.not_after {
            let ago = span(now - certificate.not_after);
            out.push(format!(
                "this node's certificate expired {ago} ago, at {}, {clock} If it is, ask for a new certificate: others refuse this node",
                utc(certificate.not_after)
            ));
        }
        for address in certificate.addresses.iter().filter(|a| !cidr.contains(**a) && !ula.contains(**a)) {
            out.push(format!(
                "this node's certificate gives it {address}, which is not in the mesh's {cidr} and {ula} (mesh.cidr)"
            ));
        }
    }
    for network in config.announce.iter().filter(|network| network.overlaps(&cidr) || network.overlaps(&ula)) {
        out.push(format!(
            "routing.announce: {network} overlaps the mesh's own {cidr} and {ula}: what is there is reached as members"
        ));
    }
    out
}

/// What a start with this configuration would meet on this host now. Nothing if a daemon runs with it already.
#[must_use]
pub fn surroundings(config: &Config) -> Vec<String> {
    if state::is_taken(&config.state_dir) {
        return Vec::new();
    }
    let mut out = Vec::new();
    match overlap::check(config) {
        Err(e) => out.push(e.to_string()),
        Ok(()) => out.extend(overlap::notes(config)),
    }
    if !Path::new("/dev/net/tun").exists() {
        out.push(
            "there is no /dev/net/tun: load the kernel's module `tun`, or give the container the device".to_owned(),
        );
    }
    if !firewall::is_there() {
        out.push("there is no program `nft`: install nftables; access rules, exits and portals need it".to_owned());
    }
    if let Err(e) = UdpSocket::bind(config.listen) {
        out.push(StartError::Listen(config.listen, e).to_string());
    }
    if let Some(serve) = &config.stealth.serve
        && let Err(e) = try_stream(serve.listen)
    {
        out.push(StartError::Door(serve.listen, e).to_string());
    }
    if let Some(portal) = &config.portal
        && let Err(e) = UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, portal.port))
    {
        out.push(format!("cannot listen on UDP {}: {e} (portal.port)", portal.port));
    }
    out
}

/// Whether a stream socket can be had there.
fn try_stream(addr: std::net::SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(1)
}
