//! `aegisray netcheck`.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use clap::Args;

use super::{Failure, show::print_json};
use crate::{
    config::Config,
    daemon,
    netcheck::{self, Behaviour, Report},
    wire::stun,
};

#[derive(Args)]
pub(super) struct NetcheckArgs {
    /// STUN server or node to ask, HOST or HOST:PORT; may be repeated. Without: those of the configuration
    #[arg(long, value_name = "HOST[:PORT]")]
    server: Vec<String>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &NetcheckArgs, config: &Path) -> Result<(), Failure> {
    // Nodes answer members only; other servers can be asked without a configuration.
    let config = if args.server.is_empty() || config.exists() { Some(Config::load(config)?) } else { None };
    let mut names = args.server.clone();
    if let Some(config) = config.as_ref().filter(|_| names.is_empty()) {
        names = [&config.bootstrap[..], &config.stun_servers].concat();
    }
    if names.is_empty() {
        return Err(anyhow::anyhow!(
            "nobody to ask: the configuration names no peers.bootstrap and no peers.stun_servers; give --server HOST:PORT"
        )
        .into());
    }
    let resolve =
        config.as_ref().map_or_else(|| Ok(daemon::host_resolver()), daemon::resolver).map_err(anyhow::Error::from)?;
    let mut servers: Vec<SocketAddr> = Vec::new();
    for name in &names {
        match resolve(&with_port(name, stun::PORT)) {
            Ok(found) => servers.extend(found),
            Err(e) => eprintln!("aegisray: {name}: {e}; going on with the others"),
        }
    }
    let report = netcheck::run(&servers, config.as_ref().map(|c| c.network.gate()))?;
    if args.json {
        print_json(&report)
    } else {
        print(&report);
        Ok(())
    }
}

/// `HOST`, `IP` or either with a port, as `HOST:PORT`.
fn with_port(name: &str, port: u16) -> String {
    match name.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) if name.contains(':') => name.to_owned(),
        Err(_) => format!("{name}:{port}"),
    }
}

fn behaviour(of: Behaviour) -> &'static str {
    match of {
        Behaviour::EndpointIndependent => "endpoint-independent",
        Behaviour::AddressDependent => "address-dependent",
        Behaviour::AddressAndPortDependent => "address- and port-dependent",
        Behaviour::Dependent => "depends on where to",
        Behaviour::Unknown => "unknown (no server with two addresses among those asked)",
    }
}

fn print(r: &Report) {
    let yes = |b: bool| if b { "yes" } else { "no" };
    println!("UDP        {}", yes(r.udp));
    println!("IPv4       {}", yes(r.ipv4));
    println!("IPv6       {}", yes(r.ipv6));
    let endpoints: Vec<String> = r.endpoints.iter().map(ToString::to_string).collect();
    println!("seen at    {}", if endpoints.is_empty() { "nowhere".to_owned() } else { endpoints.join(", ") });
    if r.udp {
        println!("NAT        {}", yes(r.nat));
        println!("mapping    {}", behaviour(r.mapping));
        println!("filtering  {}", behaviour(r.filtering));
        println!("hairpin    {}", r.hairpin.map_or("unknown", yes));
    }
    match &r.port_mapping[..] {
        [] => println!("router     gives out no ports"),
        protocols => println!("router     gives out ports by {}", protocols.join(", ")),
    }
    println!(
        "portal     {}",
        if r.intercepted { "TCP is answered in others' names: captive portal or proxy" } else { "none seen" }
    );
    for s in &r.servers {
        let rtt = s.rtt_ms.map_or("no answer".to_owned(), |ms| format!("{ms:.1} ms"));
        println!("server     {} {rtt}{}", s.addr, if s.discovers { ", discovers NAT behaviour" } else { "" });
    }
    println!("verdict    {}", r.verdict);
}
