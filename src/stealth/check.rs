//! What somebody who watches sees of this node's visits, and what the disguise costs.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::Serialize;

use super::{
    Client, Dialer, Resolve,
    fingerprint::{Fingerprint, passes_as},
    shape::{START, rung},
};
use crate::{
    config::{Config, Padding, Site, Stealth},
    host,
};

/// What one record costs: header, type and tag (RFC 8446 §5.2).
const RECORD: f64 = 22.0;
/// What stands before each datagram in it.
const LENGTH: f64 = 2.0;
const PACKET: f64 = 1400.0;
const FULL_RECORD: f64 = 16_384.0;
const DAY_S: f64 = 86_400.0;

#[derive(Debug, Serialize)]
pub struct Report {
    pub mode: &'static str,
    /// Which TLS says hello.
    pub hello: &'static str,
    pub ja3: String,
    pub ja4: String,
    /// Whether a browser says hello like that.
    pub is_browsers: bool,
    pub alpn: Vec<String>,
    pub hello_bytes: usize,
    /// Why a rule against what looks encrypted lets the first packet pass; `None`: it doesn't.
    pub first_packet: Option<&'static str>,
    /// The same of the mesh's own datagrams, which `auto` sends where UDP passes.
    pub plain_packet: Option<&'static str>,
    pub sites: Vec<SiteReport>,
    pub costs: Costs,
}

#[derive(Debug, Serialize)]
pub struct SiteReport {
    pub address: String,
    pub sni: String,
    /// Milliseconds until the connection stood, and from the ClientHello to the end of the handshake.
    pub connect_ms: Option<f64>,
    pub handshake_ms: Option<f64>,
    /// Why there is no way in.
    pub error: Option<String>,
    /// What DNS says of the SNI, if it was asked, and whether the address is among it.
    pub dns: Option<Vec<IpAddr>>,
    pub is_in_dns: Option<bool>,
}

/// What the disguise takes.
#[derive(Debug, Serialize)]
pub struct Costs {
    /// Percent more than the datagrams themselves: in bulk, and for one packet of 1,400 bytes.
    pub framing_bulk: f64,
    pub framing_single: f64,
    /// Bytes of padding of one connection, each way at most.
    pub padding_start: usize,
    /// Connections a day, on average.
    pub connections_a_day: f64,
    /// What `padding: always` makes of packets of these lengths.
    pub padded_to: BTreeMap<usize, usize>,
    /// Megabytes a day that are sent in vain, each way.
    pub cover_mb_a_day: f64,
    /// Milliseconds that a message waits, on average.
    pub jitter_ms: f64,
}

/// Visits every site of the configuration once. `ask_dns` looks their names up, which whoever watches DNS can see.
pub fn run(config: &Config, resolve: Resolve, ask_dns: bool) -> Result<Report, super::TlsError> {
    let (stealth, network) = (&config.stealth, config.network.gate());
    let client = Client::new(stealth.roots.as_deref(), network)?;
    let name = stealth.sites.first().map_or("www.example.org", |s| &s.sni);
    let unreadable = |e: io::Error| super::TlsError::Mismatch(e.to_string());
    let flight = client.first_flight(name, network).map_err(unreadable)?;
    let hello = Fingerprint::of(&flight).ok_or_else(|| super::TlsError::Mismatch("no ClientHello".to_owned()))?;
    let random: [u8; 200] = host::random().map_err(unreadable)?;
    let dialer = Dialer::new(client, network.clone(), stealth, Arc::clone(&resolve));
    let sites = stealth.sites.iter().map(|site| visit(&dialer, site, ask_dns.then_some(&resolve))).collect();
    Ok(Report {
        mode: stealth.mode.name(),
        hello: Client::HELLO,
        ja3: hello.ja3,
        ja4: hello.ja4,
        is_browsers: hello.has_grease,
        alpn: hello.alpn,
        hello_bytes: hello.len,
        first_packet: passes_as(&flight),
        plain_packet: passes_as(&random),
        sites,
        costs: costs(stealth),
    })
}

fn visit(dialer: &Dialer, site: &Site, ask: Option<&Resolve>) -> SiteReport {
    let visited = dialer.visit(site);
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1000.0;
    let dns: Option<Vec<IpAddr>> = ask.map(|resolve| {
        let found = resolve(&format!("{}:443", site.sni));
        found.map_or_else(|_| Vec::new(), |all| all.iter().map(SocketAddr::ip).collect())
    });
    // Behind a proxy the site's address may be a name, which says nothing.
    let ip = site.address.parse::<SocketAddr>().ok().map(|a| a.ip());
    let is_in_dns = dns.as_ref().and_then(|found| ip.map(|ip| found.contains(&ip)));
    let (connect_ms, handshake_ms, error) = match visited {
        Ok(v) => (Some(ms(v.connect)), Some(ms(v.handshake)), None),
        Err(e) => (None, None, Some(e.to_string())),
    };
    SiteReport { address: site.address.clone(), sni: site.sni.clone(), connect_ms, handshake_ms, error, dns, is_in_dns }
}

fn costs(stealth: &Stealth) -> Costs {
    let shaping = &stealth.shaping;
    let framed = |n: usize| n + LENGTH as usize;
    let padded = [100, 600, 1400].map(|n| (n, rung(framed(n))));
    let rotation = stealth.rotation.as_secs_f64();
    Costs {
        framing_bulk: 100.0 * (LENGTH / PACKET + RECORD / FULL_RECORD),
        framing_single: 100.0 * (LENGTH + RECORD) / PACKET,
        padding_start: if shaping.padding == Padding::Off { 0 } else { START },
        connections_a_day: if rotation > 0.0 { DAY_S / rotation } else { 1.0 },
        padded_to: if shaping.padding == Padding::Always { BTreeMap::from(padded) } else { BTreeMap::new() },
        cover_mb_a_day: f64::from(shaping.cover_kbit) * DAY_S / 8000.0,
        jitter_ms: shaping.jitter.as_secs_f64() * 500.0,
    }
}
