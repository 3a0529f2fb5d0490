//! A relayed address at a TURN server: asked for, kept, and opened to the nodes that may need it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    config, host,
    transport::Sockets,
    wire::turn::{self, Credentials, Message},
};

const LIFETIME_S: u32 = 600;
/// Permissions last five minutes (RFC 8656 §9).
const PERMISSION: Duration = Duration::from_secs(240);
/// Peers that are let in at a time, and by one request.
pub(super) const MAX_PEERS: usize = 64;
const PER_REQUEST: usize = 8;
const RETRY: Duration = Duration::from_secs(30);
const UNAUTHORIZED: u16 = 401;
const STALE_NONCE: u16 = 438;

pub(super) struct TurnClient {
    account: config::Turn,
    server: Option<SocketAddr>,
    credentials: Option<Credentials>,
    relayed: Option<SocketAddr>,
    refresh: Instant,
    expires: Instant,
    permitted: BTreeMap<IpAddr, Instant>,
    /// Nothing is asked before then: the server refused.
    pause: Instant,
}

impl TurnClient {
    pub fn new(account: config::Turn) -> Self {
        let now = Instant::now();
        Self {
            account,
            server: None,
            credentials: None,
            relayed: None,
            refresh: now,
            expires: now,
            permitted: BTreeMap::new(),
            pause: now,
        }
    }

    /// The server's address, after its name was resolved.
    pub fn set_server(&mut self, sockets: &Sockets, servers: &[SocketAddr]) {
        let server = servers.iter().find(|s| s.is_ipv4()).copied();
        if server != self.server {
            self.server = server;
            self.relayed = None;
            sockets.set_turn_server(server);
        }
    }

    /// The address that peers can send to.
    pub fn relayed(&self) -> Option<SocketAddr> {
        self.relayed
    }

    /// To be called every second: asks for what is missing, and again for what was not answered. `peers`: who is to be
    /// let in.
    pub fn tick(&mut self, sockets: &Sockets, peers: &[IpAddr]) {
        let now = Instant::now();
        if self.relayed.is_some() && now >= self.expires {
            self.relayed = None;
        }
        if now < self.pause {
            return;
        }
        if self.relayed.is_none() {
            self.permitted.clear();
            self.ask(sockets, turn::allocate);
            return;
        }
        if now >= self.refresh {
            self.ask(sockets, |id, c| turn::refresh(id, LIFETIME_S, c));
        }
        // A server on the internet refuses addresses that mean nothing there, and all others of the same request.
        let is_private = |ip: &IpAddr| matches!(ip, IpAddr::V4(ip) if ip.is_private() || ip.is_link_local());
        let takes_private = self.server.is_some_and(|s| is_private(&s.ip()));
        let is_due = |ip: &&IpAddr| self.permitted.get(ip).is_none_or(|at| now >= *at);
        let wanted: Vec<IpAddr> =
            peers.iter().filter(is_due).filter(|ip| takes_private || !is_private(ip)).copied().collect();
        for some in wanted.chunks(PER_REQUEST) {
            self.ask(sockets, |id, c| turn::create_permission(id, some, c));
            // A lost request is repeated soon after what it asked for would have ended: the margin is a minute.
            self.permitted.extend(some.iter().map(|ip| (*ip, now + PERMISSION)));
        }
    }

    fn ask(&self, sockets: &Sockets, request: impl Fn(&[u8; 12], Option<&Credentials>) -> Vec<u8>) {
        let (Some(server), Ok(id)) = (self.server, host::random()) else { return };
        // What can't be sent now is sent at the next tick.
        let _ = sockets.send(server, &request(&id, self.credentials.as_ref()));
    }

    /// What the server answered. Only what comes from its address gets here.
    pub fn handle(&mut self, sockets: &Sockets, message: Message) {
        let now = Instant::now();
        match message {
            Message::Granted { kind: turn::ALLOCATE, relayed, lifetime_s, .. } => {
                self.relayed = relayed.or(self.relayed);
                self.keep(now, lifetime_s);
            }
            Message::Granted { kind: turn::REFRESH, lifetime_s, .. } => self.keep(now, lifetime_s),
            // The first refusal tells what to sign with. A second one means that the account is wrong.
            Message::Refused { code, realm: Some(realm), nonce, .. }
                if code == STALE_NONCE || code == UNAUTHORIZED && self.credentials.is_none() =>
            {
                let account = &self.account;
                self.credentials = Some(Credentials::new(&account.username, &account.password, &realm, &nonce));
                // Permissions that were refused are asked for again.
                self.permitted.clear();
                if self.relayed.is_none() {
                    self.ask(sockets, turn::allocate);
                }
            }
            // Some of these peers are not to its liking; the others are asked for again in time.
            Message::Refused { kind: turn::CREATE_PERMISSION, code, .. } => {
                tracing::debug!(code, "the TURN server does not let peers in");
            }
            Message::Refused { code, .. } => {
                let hint =
                    if code == UNAUTHORIZED { "wrong username or password" } else { "see RFC 8656 for the code" };
                tracing::warn!(code, hint, "the TURN server refuses (peers.turn)");
                self.pause = now + RETRY;
                self.relayed = None;
                self.credentials = None;
            }
            Message::Granted { .. } | Message::Data { .. } => {}
        }
    }

    fn keep(&mut self, now: Instant, lifetime_s: u32) {
        let lifetime = Duration::from_secs(u64::from(lifetime_s.clamp(60, 3600)));
        self.refresh = now + lifetime / 2;
        self.expires = now + lifetime;
    }

    /// Gives the address back.
    pub fn release(&self, sockets: &Sockets) {
        if self.relayed.is_some() {
            self.ask(sockets, |id, c| turn::refresh(id, 0, c));
        }
    }
}
