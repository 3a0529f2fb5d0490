//! For how long the NAT before this node remembers idle flows: measured once per network, in a thread of its own.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use tokio::sync::mpsc::UnboundedSender;

use super::outside::News;
use crate::{crypto::HmacKey, netcheck};

pub(super) struct LifetimeMeter {
    gate: HmacKey,
    tell: UnboundedSender<News>,
    /// Counts the networks that this host has been in.
    network: Arc<AtomicU32>,
    server: Option<SocketAddr>,
    started: bool,
}

impl LifetimeMeter {
    pub fn new(gate: HmacKey, tell: UnboundedSender<News>) -> Self {
        Self { gate, tell, network: Arc::default(), server: None, started: false }
    }

    /// The network changed: what was measured is void.
    pub fn again(&mut self) {
        let network = self.network.fetch_add(1, Ordering::Relaxed) + 1;
        self.started = false;
        // The daemon may be about to stop.
        let _ = self.tell.send(News::Lifetime(network, None));
    }

    /// Whether this is the network that the host is in.
    pub fn is_current(&self, network: u32) -> bool {
        self.network.load(Ordering::Relaxed) == network
    }

    /// A node that answers STUN.
    pub fn set_server(&mut self, server: SocketAddr) {
        self.server = Some(server);
    }

    /// To be called every second: measures, unless that was done in this network.
    pub fn tick(&mut self) {
        let Some(server) = self.server.filter(|_| !self.started) else { return };
        self.started = true;
        let (gate, tell, current) = (self.gate.clone(), self.tell.clone(), Arc::clone(&self.network));
        let network = current.load(Ordering::Relaxed);
        let measure = move || {
            let goes_on = || current.load(Ordering::Relaxed) == network && !tell.is_closed();
            match netcheck::lifetime(server, &gate, goes_on) {
                Ok(lifetime) => {
                    tracing::debug!(?lifetime, "idle flows are remembered");
                    // The daemon may be about to stop.
                    let _ = tell.send(News::Lifetime(network, lifetime));
                }
                Err(error) => tracing::debug!(%error, "how long idle flows are remembered can't be measured"),
            }
        };
        // Without a thread, links are probed as often as any NAT asks for.
        let _ = thread::Builder::new().name("aegis-lifetime".to_owned()).stack_size(256 << 10).spawn(measure);
    }
}
