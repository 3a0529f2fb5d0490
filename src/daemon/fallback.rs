//! Over TCP when UDP leads nowhere, or is not to be used: through the sites of the disguise, or else to the bootstrap nodes.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::outside::News;
use crate::{
    config::{Config, Site},
    dataplane::{self, Shared},
    host,
    node::Node,
    stealth::{Client, Dialer},
    transport::Stream,
    types,
};

/// So long without any link, and UDP is taken to be blocked.
const PATIENCE: Duration = Duration::from_secs(3);
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
const CONNECT_TIME: Duration = Duration::from_secs(4);
/// So long the connection before the present one is in use as before, and so long it stays open.
const OVERLAP: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(8));
/// Tried beside the bootstrap entry's own port: often the only one that is open.
const HTTPS: u16 = 443;

pub(super) struct Fallback {
    dialer: Option<Dialer>,
    sites: Vec<Site>,
    patience: Duration,
    addresses: Vec<SocketAddr>,
    /// When the last link was seen, or the daemon started.
    linked: Instant,
    next: Instant,
    wait: Duration,
    opened: mpsc::UnboundedSender<News>,
    /// The thread that connects; it returns the stream through a site that it has opened.
    connecting: Option<JoinHandle<Option<Arc<Stream>>>>,
    /// How long a stream through a site is used, on average.
    rotation: Duration,
    /// The stream through a site, and until when it is used.
    current: Option<(Arc<Stream>, Instant)>,
    /// Since when UDP passes badly.
    throttled: Option<Instant>,
    /// The one before, and since when: soon it is used no more, and then closed.
    old: Option<(Arc<Stream>, Instant)>,
}

impl Fallback {
    /// `dialer` goes to sites; `opened` is told of each stream that could be opened.
    pub fn new(config: &Config, dialer: Option<Dialer>, opened: mpsc::UnboundedSender<News>) -> Self {
        let now = Instant::now();
        let sites = config.stealth.sites.clone();
        let patience = if config.is_hidden() { Duration::ZERO } else { PATIENCE };
        Self {
            dialer,
            sites,
            patience,
            addresses: Vec::new(),
            linked: now,
            next: now,
            wait: RETRY.0,
            opened,
            connecting: None,
            rotation: config.stealth.rotation,
            current: None,
            throttled: None,
            old: None,
        }
    }

    pub fn set_addresses(&mut self, addresses: Vec<SocketAddr>) {
        self.addresses = addresses;
    }

    /// To be called every second or so.
    pub fn tick(&mut self, mesh_now: types::Instant, shared: &Arc<Shared>, node: &mut Node) {
        let now = Instant::now();
        if let Some((stream, since)) = &self.old {
            let age = now.duration_since(*since);
            if age >= OVERLAP.1 || stream.is_closed() {
                stream.close();
                self.old = None;
            } else if age >= OVERLAP.0 {
                node.part_with(mesh_now, stream.path);
            }
        }
        let is_throttled = node.is_throttled(mesh_now);
        self.current.take_if(|(stream, _)| stream.is_closed());
        if let Some(ended) = self.connecting.take_if(|t| t.is_finished())
            && let Ok(Some(stream)) = ended.join()
        {
            let current = self.current.replace((stream, now + self.lifetime()));
            self.old = current.map(|(stream, _)| (stream, now));
        }
        if self.connecting.is_some() {
            return;
        }
        if node.has_links() {
            self.linked = now;
            self.wait = RETRY.0;
            let is_worn = self.current.as_ref().is_some_and(|(_, until)| *until <= now);
            self.throttled = self.throttled.filter(|_| is_throttled).or_else(|| is_throttled.then_some(now));
            let has_enough = self.throttled.is_some_and(|since| now.duration_since(since) >= PATIENCE);
            if has_enough && now >= self.next && self.dialer.is_some() {
                tracing::info!("UDP passes badly: trying TLS");
                self.next = now + RETRY.1;
                self.connect(shared, Vec::new());
            } else if is_worn && self.old.is_none() && self.rotation > Duration::ZERO {
                self.connect(shared, Vec::new());
            }
            return;
        }
        let has_nowhere = self.addresses.is_empty() && self.dialer.is_none();
        if has_nowhere || now.duration_since(self.linked) < self.patience || now < self.next {
            return;
        }
        self.next = now + self.wait;
        self.wait = (self.wait * 2).min(RETRY.1);
        let mut all: Vec<SocketAddr> = self.addresses.clone();
        all.extend(self.addresses.iter().map(|a| SocketAddr::new(a.ip(), HTTPS)));
        all.sort_unstable();
        all.dedup();
        self.connect(shared, all);
    }

    /// The mean, half of it more or less.
    fn lifetime(&self) -> Duration {
        let share = host::random().map_or(0.5, |b| f64::from(u16::from_be_bytes(b)) / 65_536.0);
        self.rotation.mul_f64(0.5 + share)
    }

    /// Tries the sites, then plain TCP to these addresses, one after another, in a thread that ends: connecting can take
    /// seconds.
    fn connect(&mut self, shared: &Arc<Shared>, addresses: Vec<SocketAddr>) {
        let (shared, opened) = (Arc::clone(shared), self.opened.clone());
        // Every site gets its turn, and none is always the first.
        if !self.sites.is_empty() {
            self.sites.rotate_left(1);
        }
        let (dialer, sites) = (self.dialer.clone(), self.sites.clone());
        let connect = move || {
            for (dialer, site) in dialer.iter().flat_map(|d| sites.iter().map(move |s| (d, s))) {
                let stream = dialer.dial(site);
                match stream.and_then(|(s, seal)| dataplane::start_stream(&shared, s, Some(Box::new(seal)), true)) {
                    Ok(stream) => {
                        tracing::info!(address = site.address, sni = site.sni, hello = Client::HELLO, "over TLS");
                        // The daemon may be about to stop.
                        let _ = opened.send(News::Opened(stream.path));
                        return Some(stream);
                    }
                    Err(error) => {
                        tracing::warn!(address = site.address, sni = site.sni, %error, "no way in (stealth.sites)")
                    }
                }
            }
            for addr in addresses {
                let stream = host::connect(&addr, CONNECT_TIME);
                if let Ok(stream) = stream.and_then(|s| dataplane::start_stream(&shared, s, None, true)) {
                    tracing::info!(%addr, "no UDP path: trying TCP");
                    // The daemon may be about to stop.
                    let _ = opened.send(News::Opened(stream.path));
                    return None;
                }
            }
            None
        };
        // Without a thread now, there may be one at the next try.
        self.connecting =
            thread::Builder::new().name("aegis-connect".to_owned()).stack_size(256 << 10).spawn(connect).ok();
    }
}
