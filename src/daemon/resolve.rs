//! Names to addresses, again when their time to live is over and again after a failure.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hickory_resolver::TokioResolver;
use tokio::sync::mpsc::UnboundedSender;

use super::outside::News;

const MIN_TTL: Duration = Duration::from_secs(30);
const MAX_TTL: Duration = Duration::from_secs(600);
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Resolves `entries` (`HOST:PORT`) for ever and tells the whole list of addresses whenever it was renewed, as news of the kind that `what`
/// makes.
pub(super) async fn run(entries: Vec<String>, tell: UnboundedSender<News>, what: fn(Vec<SocketAddr>) -> News) {
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
        // Made anew each time: the host's resolver settings may have changed with the network.
        let resolver = TokioResolver::builder_tokio().and_then(|b| b.build());
        for (host, port) in &names {
            let answer = match &resolver {
                Ok(resolver) => resolver.lookup_ip(*host).await.map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            };
            match answer {
                Ok(lookup) => {
                    all.extend(lookup.iter().map(|ip| SocketAddr::new(ip, *port)));
                    let left = lookup.valid_until().saturating_duration_since(Instant::now());
                    next = next.min(left.max(MIN_TTL));
                }
                Err(error) => {
                    failed = true;
                    tracing::warn!(host, error, retry_s = wait.as_secs(), "cannot resolve a name");
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
