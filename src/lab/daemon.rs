//! A real daemon in a namespace of the lab.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::topology::Host;
use crate::{
    api::{self, DaemonStatus, Request, Response},
    identity::keyfile,
    node::{PeerStatus, RouteStatus},
};

/// A running daemon. It is killed when this value goes.
pub struct Daemon {
    pub name: String,
    pub dir: PathBuf,
    program: PathBuf,
    /// Added to its environment.
    pub environment: Vec<(String, String)>,
    child: Option<Child>,
    pub started: Instant,
}

impl Daemon {
    /// Writes a configuration for a node called `name` in `dir`; `more` is YAML that is added to it.
    pub fn configure(program: &Path, dir: &Path, name: &str, secret: &str, more: &str) -> io::Result<Self> {
        let dir = dir.join(name);
        fs::create_dir_all(&dir)?;
        let network = format!("network:\n  name: lab\n  secret: {secret}\n");
        let text = format!("name: {name}\n{network}state_dir: state\nsocket: api.sock\n{more}");
        keyfile::write_secret(&dir.join("peer.yaml"), text.as_bytes()).map_err(io::Error::other)?;
        Ok(Self::prepared(program, &dir, name))
    }

    /// A node whose directory has its `peer.yaml` already, with `socket: api.sock` or what `join` writes.
    #[must_use]
    pub fn prepared(program: &Path, dir: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            program: program.to_owned(),
            environment: Vec::new(),
            child: None,
            started: Instant::now(),
        }
    }

    /// A command of the same program on this host.
    pub fn command(&self, host: &Host) -> Command {
        host.ns.command(&self.program)
    }

    /// Starts the daemon on a host; its log goes to `daemon.log` in its directory.
    pub fn start(&mut self, host: &Host) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.join("daemon.log"))?;
        let mut command = self.command(host);
        command.arg("-config").arg(self.dir.join("peer.yaml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        self.started = Instant::now();
        self.child = Some(command.spawn()?);
        Ok(())
    }

    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends the daemon at once (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether the daemon still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// Asks a daemon that may be another build of this program.
    #[must_use]
    pub fn ask_any(&self, request: &Request) -> Option<serde_json::Value> {
        api::request_any(&self.socket(), request).ok()
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        let joined = self.dir.join("aegisray.sock");
        if joined.exists() { joined } else { self.dir.join("api.sock") }
    }

    pub fn ask(&self, request: &Request) -> Result<Response, api::ClientError> {
        api::request(&self.socket(), request)
    }

    pub fn status(&self) -> Option<DaemonStatus> {
        match self.ask(&Request::Status) {
            Ok(Response::Status(status)) => Some(*status),
            _ => None,
        }
    }

    pub fn routes(&self) -> Vec<RouteStatus> {
        match self.ask(&Request::Routes) {
            Ok(Response::Routes { routes }) => routes,
            _ => Vec::new(),
        }
    }

    pub fn peers(&self) -> Vec<PeerStatus> {
        match self.ask(&Request::Peers) {
            Ok(Response::Peers { peers }) => peers,
            _ => Vec::new(),
        }
    }

    /// The route to the node of that name.
    pub fn route_to(&self, name: &str) -> Option<RouteStatus> {
        self.routes().into_iter().find(|r| r.name == name)
    }

    /// The link to the node of that name is up.
    pub fn has_link(&self, name: &str) -> bool {
        self.peers().iter().any(|p| p.name == name && p.link.as_ref().is_some_and(|l| l.up))
    }

    /// This node's mesh addresses, IPv4 and IPv6.
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        let status = self.status()?;
        Some((*status.node.addresses.first()?, *status.node.addresses.get(1)?))
    }

    /// The end of the log, for when something went wrong.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `condition` gives a value, looking every few milliseconds; `None` after `limit`.
pub fn wait_for<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
