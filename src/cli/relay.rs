//! `aegisray chat-relay`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::Failure;
use crate::{
    chatd::{Limits, Listen, Options, Service},
    host, stealth,
};

#[derive(Args)]
pub(super) struct RelayArgs {
    /// Where nodes come in
    #[arg(long, default_value = "[::]:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Certificate chain in PEM, for HTTPS (wss://). Without: HTTP (ws://), for behind a web server that has TLS
    #[arg(long, requires = "key", value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, requires = "certificate", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Where messages are kept
    #[arg(long, default_value = "/var/lib/aegisray-relay", value_name = "DIR")]
    dir: PathBuf,
    /// Messages are deleted so many days after they came
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=365))]
    keep_days: u64,
    /// GiB of messages; the oldest of who has most go first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    quota: u64,
}

/// Runs until a signal comes.
pub(super) fn run(args: &RelayArgs) -> Result<(), Failure> {
    host::raise_file_limit()?;
    let tls = match (&args.certificate, &args.key) {
        (Some(certificate), Some(key)) => Some(stealth::server_config(certificate, key)?),
        _ => None,
    };
    let limits = Limits { keep_ms: args.keep_days * 86_400_000, quota: args.quota << 30 };
    let options = Options {
        dir: args.dir.clone(),
        listen: vec![Listen::at(args.listen)],
        tls,
        relay: Some(limits),
        seed: host::random()?,
        ..Options::default()
    };
    let service = Service::start(options)?;
    tracing::info!(listen = %args.listen, dir = %args.dir.display(), "the relay is ready");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut end = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::io::Result::Ok(())
    })?;
    drop(service);
    Ok(())
}
