//! Names to addresses, again when their time to live is over and again after a failure: of the servers that the configuration
//! names, by plain DNS, DoT or DoH, or else of those that this host asks.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::{
    Resolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::RuntimeProvider,
};
use tokio::sync::mpsc::UnboundedSender;

use super::{outside::News, past::PastTunnel};
use crate::{
    config::{Config, NameProtocol, NameServer},
    stealth::{self, Resolve, TlsError},
};

const MIN_TTL: Duration = Duration::from_secs(30);
const MAX_TTL: Duration = Duration::from_secs(600);
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Whom to ask.
#[derive(Clone, Default)]
pub(super) struct Servers {
    /// None: those that this host asks.
    named: Option<(ResolverConfig, Option<Arc<rustls::ClientConfig>>)>,
}

impl Servers {
    pub fn new(config: &Config) -> Result<Self, TlsError> {
        // A resolver on this host would ask through the tunnel, which is still to be made.
        let fenced = config.exit.kill_switch && !config.exit.choice.is_off() && !config.is_hidden();
        let for_the_fence: Vec<NameServer> =
            config.exit.dns.iter().filter(|_| fenced).map(|ip| NameServer::plain(*ip)).collect();
        let named = if config.name_servers.is_empty() { &for_the_fence } else { &config.name_servers };
        Self::of(named, config)
    }

    /// These; without any, those that this host asks.
    pub fn of(named: &[NameServer], config: &Config) -> Result<Self, TlsError> {
        if named.is_empty() {
            return Ok(Self::default());
        }
        let servers = named.iter().map(name_server).collect();
        let has_tls = named.iter().any(|s| s.over != NameProtocol::Plain);
        let roots = config.stealth.roots.as_deref();
        let tls = if has_tls { Some(Arc::new(stealth::public_client(roots)?)) } else { None };
        Ok(Self { named: Some((ResolverConfig::from_name_servers(servers), tls)) })
    }

    /// Whether they are those of the configuration.
    pub fn are_named(&self) -> bool {
        self.named.is_some()
    }

    /// Made anew each time: the host's resolver settings may have changed with the network.
    pub fn resolver<P: RuntimeProvider + Default>(&self) -> Result<Resolver<P>, String> {
        let builder = match &self.named {
            None => Resolver::builder(P::default()).map_err(|e| e.to_string())?,
            Some((config, tls)) => {
                let builder = Resolver::builder_with_config(config.clone(), P::default());
                match tls {
                    Some(tls) => builder.with_tls_config(rustls::ClientConfig::clone(tls)),
                    None => builder,
                }
            }
        };
        builder.build().map_err(|e| e.to_string())
    }

    /// For threads of their own, which may wait.
    pub fn blocking(&self) -> Resolve {
        let servers = self.clone();
        Arc::new(move |entry| {
            if let Ok(addr) = entry.parse() {
                return Ok(vec![addr]);
            }
            let (host, port) = entry.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let port: u16 = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let found = runtime.block_on(async {
                let resolver = servers.resolver::<PastTunnel>()?;
                resolver.lookup_ip(host).await.map_err(|e| e.to_string())
            });
            let found = found.map_err(|e| io::Error::other(format!("cannot resolve {host}: {e}")))?;
            Ok(found.iter().map(|ip| SocketAddr::new(ip, port)).collect())
        })
    }
}

fn name_server(server: &NameServer) -> NameServerConfig {
    let ip = server.addr.ip();
    let mut config = match &server.over {
        NameProtocol::Plain => NameServerConfig::udp_and_tcp(ip),
        NameProtocol::Tls { name } => NameServerConfig::tls(ip, Arc::from(&**name)),
        NameProtocol::Https { name, path } => NameServerConfig::https(ip, Arc::from(&**name), Some(Arc::from(&**path))),
    };
    config.connections.iter_mut().for_each(|c: &mut ConnectionConfig| c.port = server.addr.port());
    config
}

/// Resolves `entries` (`HOST:PORT`) for ever and tells the whole list of addresses whenever it was renewed, as news of the kind that `what`
/// makes.
pub(super) async fn run(
    servers: Servers,
    entries: Vec<String>,
    tell: UnboundedSender<News>,
    what: fn(Vec<SocketAddr>) -> News,
) {
    let fixed: Vec<SocketAddr> = entries.iter().filter_map(|e| e.parse().ok()).collect();
    let names: Vec<(&str, u16)> = entries
        .iter()
        .filter(|e| e.parse::<SocketAddr>().is_err())
        .filter_map(|e| e.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))))
        .collect();
    if tell.send(what(fixed.clone())).is_err() || names.is_empty() {
        return;
    }
    let mut wait = RETRY.0;
    loop {
        let mut all = fixed.clone();
        let mut next = MAX_TTL;
        let mut failed = false;
        let resolver = servers.resolver::<PastTunnel>();
        for (host, port) in &names {
            let answer = match &resolver {
                Ok(resolver) => resolver.lookup_ip(*host).await.map_err(|e| e.to_string()),
                Err(e) => Err(e.clone()),
            };
            match answer {
                Ok(lookup) => {
                    all.extend(lookup.iter().map(|ip| SocketAddr::new(ip, *port)));
                    let left = lookup.valid_until().saturating_duration_since(Instant::now());
                    next = next.min(left.max(MIN_TTL));
                }
                Err(error) => {
                    failed = true;
                    let hint = if servers.named.is_some() {
                        "; it was asked of dns.servers only: is one down, or its certificate for another name?"
                    } else {
                        ""
                    };
                    tracing::warn!(host, retry_s = wait.as_secs(), "cannot resolve a name: {error}{hint}");
                }
            }
        }
        if all.len() > fixed.len() && tell.send(what(all)).is_err() {
            return;
        }
        let pause = if failed { wait } else { next };
        wait = if failed { (wait * 2).min(RETRY.1) } else { RETRY.0 };
        tokio::time::sleep(pause).await;
    }
}
