//! Over TCP to the bootstrap nodes when UDP leads nowhere.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::outside::News;
use crate::dataplane::{self, Shared};

/// So long without any link, and UDP is taken to be blocked.
const PATIENCE: Duration = Duration::from_secs(3);
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
const CONNECT_TIME: Duration = Duration::from_secs(4);
/// Tried beside the bootstrap entry's own port: often the only one that is open.
const HTTPS: u16 = 443;

pub(super) struct Fallback {
    addresses: Vec<SocketAddr>,
    /// When the last link was seen, or the daemon started.
    linked: Instant,
    next: Instant,
    wait: Duration,
    opened: mpsc::UnboundedSender<News>,
}

impl Fallback {
    /// `opened` is told of each stream that could be opened.
    pub fn new(opened: mpsc::UnboundedSender<News>) -> Self {
        let now = Instant::now();
        Self { addresses: Vec::new(), linked: now, next: now, wait: RETRY.0, opened }
    }

    pub fn set_addresses(&mut self, addresses: Vec<SocketAddr>) {
        self.addresses = addresses;
    }

    /// To be called every second or so.
    pub fn tick(&mut self, shared: &Arc<Shared>, has_links: bool) {
        let now = Instant::now();
        if has_links {
            self.linked = now;
            self.wait = RETRY.0;
            return;
        }
        if self.addresses.is_empty() || now.duration_since(self.linked) < PATIENCE || now < self.next {
            return;
        }
        self.next = now + self.wait;
        self.wait = (self.wait * 2).min(RETRY.1);
        let mut all: Vec<SocketAddr> = self.addresses.clone();
        all.extend(self.addresses.iter().map(|a| SocketAddr::new(a.ip(), HTTPS)));
        all.sort_unstable();
        all.dedup();
        let (shared, opened) = (Arc::clone(shared), self.opened.clone());
        // One after another, in a thread that ends: connecting can take seconds.
        let connect = move || {
            for addr in all {
                let stream = TcpStream::connect_timeout(&addr, CONNECT_TIME);
                if let Ok(stream) = stream.and_then(|s| dataplane::start_stream(&shared, s)) {
                    tracing::info!(%addr, "no UDP path: trying TCP");
                    // The daemon may be about to stop.
                    let _ = opened.send(News::Opened(stream.path));
                    return;
                }
            }
        };
        // Without a thread now, there may be one at the next try.
        let _ = thread::Builder::new().name("aegis-connect".to_owned()).stack_size(256 << 10).spawn(connect);
    }
}
