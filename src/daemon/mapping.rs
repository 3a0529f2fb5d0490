//! Keeping a public port at the router, from a thread of its own: routers can be slow.

use std::{
    net::SocketAddr,
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;

use super::outside::News;
use crate::portmap::{Lease, PortMapError};

/// How long to wait after nobody took a mapping: short at first, for a network that is still coming up.
const RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1800));

enum Order {
    /// The network changed: the mapping may be void.
    Again,
    Stop,
}

/// The thread; it removes the mapping when it is told to stop.
pub(super) struct PortMapper {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

impl PortMapper {
    /// Maps UDP `port`, and tells the public address, and `None` when it is lost.
    pub fn start(port: u16, tell: UnboundedSender<News>) -> Option<Self> {
        let (orders, inbox) = mpsc::channel();
        let thread = thread::Builder::new().name("aegis-portmap".to_owned()).stack_size(256 << 10);
        let thread = thread.spawn(move || keep(port, &inbox, &tell)).ok()?;
        Some(Self { orders, thread })
    }

    pub fn again(&self) {
        // A thread that has ended needs no orders.
        let _ = self.orders.send(Order::Again);
    }

    /// Gives the port back, unless the router takes longer than `patience`.
    pub async fn stop(self, patience: Duration) {
        let _ = self.orders.send(Order::Stop);
        let end = std::time::Instant::now() + patience;
        while !self.thread.is_finished() && std::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn keep(port: u16, inbox: &mpsc::Receiver<Order>, tell: &UnboundedSender<News>) {
    let mut held: Option<Lease> = None;
    let mut wait = RETRY.0;
    let found = |external: Option<SocketAddr>| {
        // The daemon may be about to stop.
        let _ = tell.send(News::Mapped(external));
    };
    loop {
        let outcome = match held.take() {
            Some(mut lease) => lease.renew().map(|()| lease),
            None => Lease::get(port),
        };
        let pause = match outcome {
            Ok(lease) => {
                tracing::debug!(protocol = lease.protocol.name(), external = %lease.mapping.external, "port mapped");
                found(Some(lease.mapping.external));
                let pause = Duration::from_secs(u64::from(lease.mapping.lifetime_s.max(120) / 2));
                held = Some(lease);
                wait = RETRY.0;
                pause
            }
            Err(error) => {
                if !matches!(error, PortMapError::NoRouter) {
                    tracing::debug!(%error, "no port mapping");
                }
                found(None);
                wait = (wait * 2).min(RETRY.1);
                wait / 2
            }
        };
        match inbox.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Order::Again) => {
                // Wherever this host is now, it starts afresh there.
                held = None;
                wait = RETRY.0;
            }
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => {
                if let Some(Err(error)) = held.map(Lease::remove) {
                    tracing::debug!(%error, "the port mapping could not be removed; it expires");
                }
                return;
            }
        }
    }
}
