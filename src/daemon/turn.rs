//! A relayed address at a TURN server: asked for, kept, and opened to the nodes that may need it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    config, host,
    transport::Sockets,
    types::place,
    wire::turn::{self, Credentials, Message},
};

const LIFETIME_S: u32 = 600;
/// Permissions last five minutes (RFC 8656 §9).
const PERMISSION: Duration = Duration::from_secs(240);
/// Peers that are let in at a time, and by one request.
pub(super) const MAX_PEERS: usize = 64;
const PER_REQUEST: usize = 8;
const RETRY: Duration = Duration::from_secs(30);
/// An answer that comes later is not expected any more; requests are repeated before that.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that wait for their answers.
const MAX_OPEN: usize = 32;
/// The longest realm and nonce (RFC 8489 §14.9 and §14.10).
const MAX_TEXT: usize = 763;
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
    /// By their transactions.
    open: BTreeMap<[u8; 12], Open>,
    /// Nothing is asked before then: the server refused.
    pause: Instant,
}

/// A request without an answer.
struct Open {
    kind: u16,
    /// It proved who asks: then the answer has to prove who answers.
    signed: bool,
    until: Instant,
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
            open: BTreeMap::new(),
            pause: now,
        }
    }

    /// The server's address, after its name was resolved.
    pub fn set_server(&mut self, sockets: &Sockets, servers: &[SocketAddr]) {
        let server = servers.iter().find(|s| s.is_ipv4()).copied();
        if server != self.server {
            self.server = server;
            self.relayed = None;
            self.open.clear();
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
            self.ask(sockets, turn::ALLOCATE, turn::allocate);
            return;
        }
        if now >= self.refresh {
            self.ask(sockets, turn::REFRESH, |id, c| turn::refresh(id, LIFETIME_S, c));
        }
        // A server on the internet refuses addresses that mean nothing there, and all others of the same request.
        let is_private = |ip: &IpAddr| matches!(ip, IpAddr::V4(ip) if ip.is_private() || ip.is_link_local());
        let takes_private = self.server.is_some_and(|s| is_private(&s.ip()));
        let is_due = |ip: &&IpAddr| self.permitted.get(ip).is_none_or(|at| now >= *at);
        let wanted: Vec<IpAddr> =
            peers.iter().filter(is_due).filter(|ip| takes_private || !is_private(ip)).copied().collect();
        for some in wanted.chunks(PER_REQUEST) {
            self.ask(sockets, turn::CREATE_PERMISSION, |id, c| turn::create_permission(id, some, c));
            // A lost request is repeated soon after what it asked for would have ended: the margin is a minute.
            self.permitted.extend(some.iter().map(|ip| (*ip, now + PERMISSION)));
        }
    }

    fn ask(&mut self, sockets: &Sockets, kind: u16, request: impl Fn(&[u8; 12], Option<&Credentials>) -> Vec<u8>) {
        let (Some(server), Ok(id)) = (self.server, host::random()) else { return };
        let now = Instant::now();
        self.open.retain(|_, open| open.until > now);
        if self.open.len() >= MAX_OPEN
            && let Some(oldest) = self.open.iter().min_by_key(|(_, open)| open.until).map(|(id, _)| *id)
        {
            self.open.remove(&oldest);
        }
        self.open.insert(id, Open { kind, signed: self.credentials.is_some(), until: now + PATIENCE });
        // What can't be sent now is sent at the next tick.
        let _ = sockets.send(server, &request(&id, self.credentials.as_ref()));
    }

    /// What came from the server's address, which anybody can write on a datagram. It counts if it answers an open request
    /// and, once the server has asked who we are, proves to come from who knows the password; only the two errors with which
    /// it asks need no proof, and they end nothing. Returns whether it counted.
    pub fn handle(&mut self, sockets: &Sockets, message: Message) -> bool {
        let now = Instant::now();
        let (id, kind, integrity) = match &message {
            Message::Granted { id, kind, integrity, .. } | Message::Refused { id, kind, integrity, .. } => {
                (*id, *kind, integrity.as_ref())
            }
            Message::Data { .. } => return false,
        };
        let Some(open) = self.open.get(&id).filter(|open| open.kind == kind && open.until > now) else { return false };
        let was_signed = open.signed;
        let is_authentic = was_signed && self.credentials.as_ref().is_some_and(|c| c.have_signed(integrity));
        match message {
            // The first refusal tells what to sign with.
            Message::Refused { code: UNAUTHORIZED, realm: Some(realm), nonce, .. }
                if !was_signed && self.credentials.is_none() && realm.len().max(nonce.len()) <= MAX_TEXT =>
            {
                self.sign_with(sockets, &realm, &nonce);
            }
            Message::Refused { code: STALE_NONCE, realm, nonce, .. } if was_signed && nonce.len() <= MAX_TEXT => {
                let Some(known) = self.credentials.as_ref().map(|c| c.realm.clone()) else { return false };
                if realm.is_some_and(|realm| realm != known) {
                    return false;
                }
                self.sign_with(sockets, &known, &nonce);
            }
            // A second one means that the account is wrong. Who says it can't prove anything, so what is there stays.
            Message::Refused { code: UNAUTHORIZED, .. } if was_signed && self.relayed.is_none() => {
                self.give_up(now, UNAUTHORIZED, "wrong username or password");
            }
            _ if !is_authentic => return false,
            Message::Granted { kind: turn::ALLOCATE, relayed, lifetime_s, .. } => {
                let relayed = relayed.filter(|addr| place::is_host(addr.ip()) && addr.port() != 0);
                self.relayed = relayed.or(self.relayed);
                self.keep(now, lifetime_s);
            }
            Message::Granted { kind: turn::REFRESH, lifetime_s, .. } => self.keep(now, lifetime_s),
            // Some of these peers are not to its liking; the others are asked for again in time.
            Message::Refused { kind: turn::CREATE_PERMISSION, code, .. } => {
                tracing::debug!(code, "the TURN server does not let peers in");
            }
            Message::Refused { code, .. } => self.give_up(now, code, "see RFC 8656 for the code"),
            Message::Granted { .. } | Message::Data { .. } => {}
        }
        self.open.remove(&id);
        true
    }

    fn sign_with(&mut self, sockets: &Sockets, realm: &str, nonce: &[u8]) {
        let account = &self.account;
        self.credentials = Some(Credentials::new(&account.username, &account.password, realm, nonce));
        // Permissions that were refused are asked for again.
        self.permitted.clear();
        if self.relayed.is_none() {
            self.ask(sockets, turn::ALLOCATE, turn::allocate);
        }
    }

    fn give_up(&mut self, now: Instant, code: u16, hint: &str) {
        tracing::warn!(code, hint, "the TURN server refuses (peers.turn)");
        self.pause = now + RETRY;
        self.relayed = None;
        self.credentials = None;
        self.open.clear();
    }

    fn keep(&mut self, now: Instant, lifetime_s: u32) {
        let lifetime = Duration::from_secs(u64::from(lifetime_s.clamp(60, 3600)));
        self.refresh = now + lifetime / 2;
        self.expires = now + lifetime;
    }

    /// Gives the address back.
    pub fn release(&mut self, sockets: &Sockets) {
        if self.relayed.is_some() {
            self.ask(sockets, turn::REFRESH, |id, c| turn::refresh(id, 0, c));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{hmac_sha1, md5},
        transport::Offloads,
    };
    use std::net::UdpSocket;

    const SUCCESS: u16 = 0x0100;
    const ERROR: u16 = 0x0110;

    /// A server that does as it is told.
    struct Server {
        socket: UdpSocket,
        sockets: Sockets,
        client: TurnClient,
    }

    impl Server {
        fn new() -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap(), Offloads::default(), 1).unwrap();
            let (username, password) = ("node".to_owned(), "secret".to_owned());
            let mut client = TurnClient::new(config::Turn { server: String::new(), username, password });
            client.set_server(&sockets, &[socket.local_addr().unwrap()]);
            Self { socket, sockets, client }
        }

        /// Type and transaction of the next request.
        fn request(&self) -> (u16, [u8; 12]) {
            let mut buffer = [0; 1500];
            let (n, _) = self.socket.recv_from(&mut buffer).unwrap();
            assert!(n >= 20);
            (u16::from_be_bytes([buffer[0], buffer[1]]), buffer[8..20].try_into().unwrap())
        }

        fn tick(&mut self) -> (u16, [u8; 12]) {
            self.client.tick(&self.sockets, &[]);
            self.request()
        }

        /// Hands an answer to the client, signed with `password` if there is one.
        fn answer(&mut self, kind: u16, id: [u8; 12], attributes: &[(u16, Vec<u8>)], password: Option<&str>) -> bool {
            let mut out = kind.to_be_bytes().to_vec();
            out.extend_from_slice(&[0, 0, 0x21, 0x12, 0xa4, 0x42]);
            out.extend_from_slice(&id);
            for (name, value) in attributes {
                out.extend_from_slice(&name.to_be_bytes());
                out.extend_from_slice(&(value.len() as u16).to_be_bytes());
                out.extend_from_slice(value);
                out.resize(out.len().next_multiple_of(4), 0);
            }
            let signature = if password.is_some() { 24 } else { 0 };
            let len = (out.len() - 20 + signature) as u16;
            out[2..4].copy_from_slice(&len.to_be_bytes());
            if let Some(password) = password {
                let mac = hmac_sha1(&md5(format!("node:example.org:{password}").as_bytes()), &out);
                out.extend_from_slice(&[0, 8, 0, 20]);
                out.extend_from_slice(&mac);
            }
            self.client.handle(&self.sockets, turn::parse(&out).unwrap())
        }

        /// A client whose request was met with the question who it is; its signed request.
        fn asked() -> (Self, [u8; 12]) {
            let mut server = Self::new();
            let (kind, id) = server.tick();
            assert_eq!(kind, turn::ALLOCATE);
            assert!(server.answer(turn::ALLOCATE | ERROR, id, &challenge(1), None));
            let (kind, id) = server.request();
            assert_eq!(kind, turn::ALLOCATE);
            (server, id)
        }

        fn relaying() -> Self {
            let (mut server, id) = Self::asked();
            assert!(server.answer(turn::ALLOCATE | SUCCESS, id, &grant(), Some("secret")));
            assert_eq!(server.client.relayed(), Some("198.51.100.7:4000".parse().unwrap()));
            server
        }
    }

    fn code(code: u16) -> (u16, Vec<u8>) {
        (0x0009, vec![0, 0, (code / 100) as u8, (code % 100) as u8])
    }

    /// 401 or 438 with a realm and a nonce.
    fn challenge(which: u16) -> Vec<(u16, Vec<u8>)> {
        vec![code(400 + which), (0x0014, b"example.org".to_vec()), (0x0015, b"nonce".to_vec())]
    }

    /// 198.51.100.7:4000 for ten minutes.
    fn grant() -> Vec<(u16, Vec<u8>)> {
        let port = 4000u16 ^ 0x2112;
        let ip = u32::from(std::net::Ipv4Addr::new(198, 51, 100, 7)) ^ 0x2112_a442;
        let address = [&[0, 1][..], &port.to_be_bytes(), &ip.to_be_bytes()].concat();
        vec![(0x0016, address), (0x000d, 600u32.to_be_bytes().to_vec())]
    }

    #[test]
    fn only_the_server_that_was_asked_lends_an_address() {
        let mut server = Server::new();
        let (_, first) = server.tick();
        assert!(!server.answer(turn::ALLOCATE | SUCCESS, first, &grant(), None), "before it has proved anything");
        let (mut server, id) = Server::asked();
        let grants = turn::ALLOCATE | SUCCESS;
        assert!(!server.answer(grants, [9; 12], &grant(), Some("secret")), "to no request of ours");
        assert!(!server.answer(turn::REFRESH | SUCCESS, id, &grant(), Some("secret")), "to another kind of request");
        assert!(!server.answer(grants, id, &grant(), None), "without a proof");
        assert!(!server.answer(grants, id, &grant(), Some("guess")), "with a wrong one");
        assert_eq!(server.client.relayed(), None);
        assert!(server.answer(grants, id, &grant(), Some("secret")), "forgeries don't use up the request");
        assert!(server.client.relayed().is_some());
        assert!(!server.answer(grants, id, &grant(), Some("secret")), "once");
    }

    #[test]
    fn nobody_else_ends_what_was_lent() {
        let mut server = Server::relaying();
        server.client.refresh = Instant::now();
        let (kind, id) = server.tick();
        assert_eq!(kind, turn::REFRESH);
        for forged in [437, 403, 500, 401] {
            assert!(!server.answer(turn::REFRESH | ERROR, id, &[code(forged)], None), "{forged}");
            assert!(!server.answer(turn::REFRESH | ERROR, [9; 12], &[code(forged)], Some("secret")), "{forged}");
        }
        assert!(!server.answer(turn::REFRESH | ERROR, id, &challenge(1), None));
        assert!(server.client.relayed().is_some() && server.client.pause <= Instant::now());
        // A new nonce is only asked for once more.
        assert!(server.answer(turn::REFRESH | ERROR, id, &challenge(38), None));
        let (_, id) = server.tick();
        assert!(server.answer(turn::REFRESH | ERROR, id, &[code(437)], Some("secret")), "the server itself may");
        assert_eq!(server.client.relayed(), None);
    }

    #[test]
    fn a_wrong_account_is_told_and_open_requests_are_bounded() {
        let (mut server, id) = Server::asked();
        assert!(server.answer(turn::ALLOCATE | ERROR, id, &challenge(1), None));
        assert!(server.client.pause > Instant::now() && server.client.credentials.is_none());
        let mut server = Server::new();
        for _ in 0..200 {
            server.tick();
        }
        assert!(server.client.open.len() <= MAX_OPEN);
    }
}
