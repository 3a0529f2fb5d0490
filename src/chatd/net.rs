//! Connections: a WebSocket to each neighbour and relay, one frame of the chat per message. They are dialed again when they end.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    body::Bytes,
    header::{CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, Semaphore, mpsc, oneshot, watch},
    time,
};
use tungstenite::handshake::{client::generate_key, derive_accept_key};

use super::{
    frames::{Incoming, ROOM, Reader, SILENCE, Writer},
    hub::Input,
    links::LinkId,
    outbox::Load,
    service::ToHub,
};

const PING_EVERY: Duration = Duration::from_secs(2);
/// Until what was sent is confirmed (TCP_USER_TIMEOUT): after a cut, a new connection is there sooner than the old one's next try.
const UNCONFIRMED: Duration = Duration::from_secs(4);
/// Bytes that the kernel takes before it has sent those that it has.
const UNSENT: u32 = 128 << 10;
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// How soon the next try follows; where nothing listens, ever later.
const SOON: Duration = Duration::from_millis(500);
const LATE: Duration = Duration::from_secs(30);

/// Whom to dial: mesh addresses by who answers there, and URLs of relays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// This node's own addresses: of two nodes the one with the lower address dials.
    pub own: Vec<IpAddr>,
    pub neighbours: BTreeMap<IpAddr, String>,
    pub relays: Vec<String>,
    /// The port of the chat on mesh addresses.
    pub port: u16,
}

#[derive(Clone)]
pub struct Net {
    to_hub: mpsc::Sender<ToHub>,
    targets: watch::Receiver<Targets>,
    next: Arc<AtomicU64>,
    /// KiB of frames that may wait for the hub.
    room: Arc<Semaphore>,
    /// What waits to be sent on all links.
    load: Load,
    /// For relays behind HTTPS.
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Net {
    pub fn new(
        to_hub: mpsc::Sender<ToHub>,
        targets: watch::Receiver<Targets>,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Self {
        let (next, room) = (Arc::new(AtomicU64::new(1)), Arc::new(Semaphore::new(ROOM)));
        Self { to_hub, targets, next, room, load: Load::default(), tls }
    }

    /// Keeps a connection to everybody it should, for ever.
    pub async fn dial_all(self) {
        // Whose sender is dropped ends, and says so.
        let mut running: HashMap<String, oneshot::Sender<()>> = HashMap::new();
        let mut targets = self.targets.clone();
        loop {
            let wanted = targets.borrow_and_update().clone();
            let mut all: HashMap<String, String> = HashMap::new();
            for (ip, name) in &wanted.neighbours {
                let own = wanted.own.iter().find(|own| own.is_ipv4() == ip.is_ipv4());
                if own.is_some_and(|own| own < ip) {
                    all.insert(format!("ws://{}/", SocketAddr::new(*ip, wanted.port)), name.clone());
                }
            }
            all.extend(wanted.relays.iter().map(|url| (url.clone(), url.clone())));
            running.retain(|url, _| all.contains_key(url));
            for (url, name) in all {
                let net = self.clone();
                running.entry(url.clone()).or_insert_with(|| {
                    let (stop, stopped) = oneshot::channel();
                    tokio::spawn(net.keep(url, name, stopped));
                    stop
                });
            }
            if targets.changed().await.is_err() {
                return;
            }
        }
    }

    /// Keeps a connection to one place until it is told to stop.
    async fn keep(self, url: String, name: String, mut stopped: oneshot::Receiver<()>) {
        let is_relay = name == url;
        let (mut pause, mut told) = (SOON, String::new());
        loop {
            let connected = tokio::select! {
                connected = self.connect(&url) => connected,
                _ = &mut stopped => return,
            };
            match connected {
                Ok(socket) => {
                    pause = SOON;
                    let until = async { drop((&mut stopped).await) };
                    self.run(socket, (name.clone(), String::new(), true), until).await;
                }
                Err(error) => {
                    // Somebody who says no is asked ever less; a neighbour who is out of reach may be back any moment.
                    let no = matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::Other);
                    pause = if no || is_relay { (pause * 2).min(LATE) } else { SOON };
                    let error = error.to_string();
                    if is_relay && error != told {
                        tracing::warn!(url, error, "the relay is not reached");
                        told = error;
                    }
                }
            }
            if stopped.is_terminated() {
                return;
            }
            tokio::select! {
                () = time::sleep(pause) => {}
                _ = &mut stopped => return,
            }
        }
    }

    async fn connect(&self, url: &str) -> io::Result<TokioIo<Upgraded>> {
        let (secure, host, port) =
            parse_url(url).ok_or_else(|| io::Error::other("expected ws://HOST or wss://HOST"))?;
        let connecting = TcpStream::connect((host.trim_matches(['[', ']']), port));
        let socket = time::timeout(CONNECT_TIME, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        prepare(&socket)?;
        let greeting = async {
            let stream: Box<dyn Stream> = if secure {
                let tls = self.tls.clone().ok_or_else(|| io::Error::other("no TLS here"))?;
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
                Box::new(tokio_rustls::TlsConnector::from(tls).connect(name, socket).await?)
            } else {
                Box::new(socket)
            };
            greet(stream, url).await
        };
        time::timeout(SILENCE, greeting).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// What the neighbour at this address is called.
    pub fn name_of(&self, ip: IpAddr) -> String {
        self.targets.borrow().neighbours.get(&ip).cloned().unwrap_or_else(|| ip.to_string())
    }

    /// Carries frames until either end has had enough. Of whom: the name, whose limits count, and whether this side dialed.
    pub async fn run<S: AsyncRead + AsyncWrite>(
        &self,
        stream: S,
        (name, source, dialed): (String, String, bool),
        until: impl Future<Output = ()>,
    ) {
        let link: LinkId = self.next.fetch_add(1, Ordering::Relaxed);
        // Who reads too slowly is closed by the hub, which counts bytes.
        let (outbox, mut outgoing) = mpsc::unbounded_channel();
        let load = self.load.beside();
        let opened = ToHub::Opened(Input::Connected { link, name, source, dialed, load: load.clone() }, outbox);
        if self.to_hub.send(opened).await.is_err() {
            return;
        }
        let (read, write) = tokio::io::split(stream);
        let mut reader = Reader::new(read, !dialed, Arc::clone(&self.room));
        let mut writer = Writer::new(write, dialed, load.clone());
        // The last ping that is to be answered: earlier ones need not be (RFC 6455 §5.5.3).
        let (asked, is_asked) = (Mutex::new(None), Notify::new());
        let reading = async {
            while let Ok(incoming) = reader.next().await {
                match incoming {
                    Incoming::Message(bytes, place) => {
                        if self.to_hub.send(ToHub::Input(Input::Frame { link, bytes }, Some(place))).await.is_err() {
                            return;
                        }
                    }
                    Incoming::Ping(bytes) => {
                        *asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
                        is_asked.notify_one();
                    }
                    Incoming::Pong => {}
                    Incoming::Close => return,
                }
            }
        };
        let writing = async {
            let mut ping = time::interval(PING_EVERY);
            loop {
                let sent = tokio::select! {
                    frame = outgoing.recv() => match frame {
                        Some(frame) => writer.message(frame).await,
                        None => return,
                    },
                    () = is_asked.notified() => {
                        let bytes = asked.lock().unwrap_or_else(PoisonError::into_inner).take();
                        writer.pong(bytes.unwrap_or_default()).await
                    }
                    _ = ping.tick() => writer.ping().await,
                };
                if sent.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
            () = until => {}
            () = load.is_cut() => {}
        }
        drop(outgoing);
        let _ = self.to_hub.send(ToHub::Input(Input::Disconnected(link), None)).await;
        writer.close().await;
    }
}

/// Asks for a WebSocket (RFC 6455 §4.1).
async fn greet(stream: Box<dyn Stream>, url: &str) -> io::Result<TokioIo<Upgraded>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    let (_, rest) = url.split_once("://").unwrap_or_default();
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let key = generate_key();
    let request = Request::get(if path.starts_with('/') { path } else { "/" })
        .header(HOST, host)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key)
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let accepted =
        response.headers().get(SEC_WEBSOCKET_ACCEPT).is_some_and(|a| *a == derive_accept_key(key.as_bytes()));
    if response.status() != StatusCode::SWITCHING_PROTOCOLS || !accepted {
        return Err(io::Error::other(format!("expected a relay there: it answers {}", response.status())));
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await.map_err(io::Error::other)?))
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Small frames go at once, and a cut is noticed.
pub fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    // What is not sent yet waits where it is counted.
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(UNCONFIRMED))
}

/// Whether it is `wss`, the host and the port.
#[must_use]
pub fn parse_url(url: &str) -> Option<(bool, &str, u16)> {
    let (secure, rest) = match url.split_once("://")? {
        ("ws", rest) => (false, rest),
        ("wss", rest) => (true, rest),
        _ => return None,
    };
    let place = rest.split(['/', '?', '#']).next()?;
    let default = if secure { 443 } else { 80 };
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && (!host.contains(':') || host.ends_with(']')) => {
            (host, port.parse().ok()?)
        }
        _ => (place, default),
    };
    let inner = host.trim_matches(['[', ']']);
    let good = !inner.is_empty() && inner.chars().all(|c| c.is_ascii_alphanumeric() || ".-:".contains(c));
    good.then_some((secure, host, port))
}

/// Whose limits count for an address: itself, or its network of 64 bits (RFC 4291 §2.5.4).
#[must_use]
pub fn source_of(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_relays() {
        assert_eq!(parse_url("ws://relay.example.org:8080/"), Some((false, "relay.example.org", 8080)));
        assert_eq!(parse_url("wss://relay.example.org"), Some((true, "relay.example.org", 443)));
        assert_eq!(parse_url("ws://[fd00::1]:8007/"), Some((false, "[fd00::1]", 8007)));
        for bad in ["relay.example.org", "http://x", "ws://", "ws://a b", "ws://x:99999", "ws://:80"] {
            assert_eq!(parse_url(bad), None, "{bad}");
        }
        assert_eq!(source_of("2001:db8:1:2:3:4:5:6".parse().unwrap()), "2001:db8:1:2::");
        assert_eq!(source_of("::ffff:198.51.100.7".parse().unwrap()), "198.51.100.7");
    }
}
