//! Floor 5: the portal: stock WireGuard clients come in here, on an interface of their own. What they send is the host's to
//! forward, as from any network behind this node.

mod device;
mod store;

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use arc_swap::ArcSwap;
use boringtun::{
    noise::{Tunn, rate_limiter::RateLimiter},
    x25519::{PublicKey, StaticSecret},
};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::{
    config,
    host::{self, Netlink},
    tun::{Offloads, Tun},
    types::IpPrefix,
};
use store::{Entry, Store};

/// Handshakes a second before clients have to prove their addresses.
const HANDSHAKES: u64 = 200;
/// Packets that wait in the interface's queue.
const QUEUE: u32 = 1000;
const MAX_CLIENTS: usize = 1000;

/// The running portal.
pub struct Portal {
    tun: Tun,
    socket: std::net::UdpSocket,
    private: StaticSecret,
    public: PublicKey,
    limiter: RateLimiter,
    networks: [IpPrefix; 2],
    clients: ArcSwap<Clients>,
    store: Mutex<Store>,
}

/// The clients by number, by key and by address.
#[derive(Default)]
struct Clients {
    by_number: HashMap<u32, Arc<Peer>>,
    by_key: HashMap<[u8; 32], Arc<Peer>>,
    by_address: HashMap<IpAddr, Arc<Peer>>,
}

struct Peer {
    name: String,
    addresses: [IpAddr; 2],
    session: Mutex<Session>,
    received: AtomicU64,
    sent: AtomicU64,
}

/// What changes of a client. It is under one lock, so that there is no order in which locks are to be taken.
struct Session {
    tunn: Tunn,
    /// Where it was last heard.
    endpoint: Option<SocketAddr>,
}

/// A client as the portal sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClientStatus {
    pub name: String,
    pub addresses: [IpAddr; 2],
    pub public_key: String,
    pub endpoint: Option<SocketAddr>,
    /// Since the last handshake.
    pub handshake_s: Option<u64>,
    /// Bytes of packets from it and to it.
    pub received: u64,
    pub sent: u64,
}

/// What a new client has to know of where it goes.
pub struct Offer {
    /// `HOST:PORT`.
    pub endpoint: String,
    /// Whom it asks for names; empty: whom it likes.
    pub dns: Vec<String>,
    pub mtu: u16,
    /// What it sends here.
    pub allowed: Vec<IpPrefix>,
}

/// This node's own address in a network of the portal: its first.
#[must_use]
pub fn own_address(network: IpPrefix) -> IpAddr {
    nth(network, 1)
}

fn nth(network: IpPrefix, n: u32) -> IpAddr {
    match network.addr() {
        IpAddr::V4(a) => Ipv4Addr::from(u32::from(a).wrapping_add(n)).into(),
        IpAddr::V6(a) => Ipv6Addr::from(u128::from(a).wrapping_add(n.into())).into(),
    }
}

/// A lock whose holder can't have left anything half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(text: &str) -> io::Result<[u8; 32]> {
    let bytes = BASE64.decode(text.as_bytes()).ok().and_then(|b| b.try_into().ok());
    bytes.ok_or_else(|| io::Error::other("a key in the portal's file is no base64 of 32 bytes"))
}

impl Portal {
    /// Opens the portal: its interface, its port, and the clients that `file` holds. Needs CAP_NET_ADMIN.
    pub fn start(config: &config::Portal, mtu: u16, file: &Path) -> io::Result<Arc<Self>> {
        let elsewhere = host::interface_addresses()?.into_iter().filter(|(name, _)| *name != config.interface);
        for (interface, ip) in elsewhere {
            if let Some(network) = config.networks.iter().find(|n| n.contains(ip)) {
                let family = if ip.is_ipv4() { "portal.ipv4" } else { "portal.ipv6" };
                return Err(io::Error::other(format!(
                    "{network} overlaps {ip} on {interface}: choose another {family}"
                )));
            }
        }
        let store = Store::open(file)?;
        let private = StaticSecret::from(key(&store.private_key)?);
        let public = PublicKey::from(&private);
        let socket = bind(config.port)?;
        let tun = Tun::open(&config.interface, Offloads::default(), 1)?;
        let mut netlink = Netlink::open()?;
        netlink.set_mtu(&config.interface, u32::from(mtu), QUEUE)?;
        netlink.set_up(&config.interface, true)?;
        for network in config.networks {
            match netlink.add_address(&config.interface, own_address(network), network.prefix_len()) {
                // A host without IPv6 still gets IPv4.
                Err(error) if network.addr().is_ipv6() => tracing::warn!(%error, "no IPv6 for the portal's clients"),
                other => other?,
            }
        }
        let portal = Arc::new(Self {
            tun,
            socket,
            limiter: RateLimiter::new(&public, HANDSHAKES),
            private,
            public,
            networks: config.networks,
            clients: ArcSwap::default(),
            store: Mutex::new(store),
        });
        portal.admit()?;
        let (inward, outward) = (Arc::clone(&portal), Arc::clone(&portal));
        let thread = |name: &str| thread::Builder::new().name(name.to_owned()).stack_size(256 << 10);
        thread("aegis-portal-rx").spawn(move || inward.receive())?;
        thread("aegis-portal-tx").spawn(move || outward.send())?;
        Ok(portal)
    }

    /// Makes the clients of the store those that are let in. Who was in before keeps its session.
    fn admit(&self) -> io::Result<()> {
        let before = self.clients.load_full();
        let mut clients = Clients::default();
        for entry in &lock(&self.store).clients {
            let public = key(&entry.public_key)?;
            let peer = match before.by_key.get(&public) {
                Some(peer) => Arc::clone(peer),
                None => Arc::new(self.peer(entry, public)?),
            };
            for ip in peer.addresses {
                clients.by_address.insert(ip, Arc::clone(&peer));
            }
            clients.by_number.insert(entry.number, Arc::clone(&peer));
            clients.by_key.insert(public, peer);
        }
        self.clients.store(Arc::new(clients));
        Ok(())
    }

    fn peer(&self, entry: &Entry, public: [u8; 32]) -> io::Result<Peer> {
        // Who may ask for handshakes is decided before.
        let unlimited = Arc::new(RateLimiter::new(&self.public, u64::MAX));
        let shared = Some(key(&entry.preshared_key)?);
        let tunn = Tunn::new(self.private.clone(), public.into(), shared, None, entry.number, Some(unlimited));
        Ok(Peer {
            name: entry.name.clone(),
            addresses: self.networks.map(|n| nth(n, entry.number)),
            session: Mutex::new(Session { tunn, endpoint: entry.endpoint }),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        })
    }

    /// Lets in a new client; returns its configuration (wg-quick(8)), which is kept nowhere else.
    pub fn add(&self, name: &str, offer: &Offer) -> Result<String, String> {
        let random = || host::random::<32>().map_err(|e| format!("the system gave no randomness: {e}"));
        let private = StaticSecret::from(random()?);
        let entry = {
            let mut store = lock(&self.store);
            if store.clients.iter().any(|c| c.name == name) {
                return Err(format!("there is a client `{name}` already; `aegisray portal remove {name}` removes it"));
            }
            let taken: BTreeSet<u32> = store.clients.iter().map(|c| c.number).collect();
            let number = (2..=self.last()).find(|n| !taken.contains(n));
            let Some(number) = number.filter(|_| taken.len() < MAX_CLIENTS) else {
                return Err(format!("no address is left in {} for another client (portal.ipv4)", self.networks[0]));
            };
            let entry = Entry {
                name: name.to_owned(),
                number,
                public_key: BASE64.encode(PublicKey::from(&private).as_bytes()),
                preshared_key: BASE64.encode(&random()?),
                endpoint: None,
            };
            store.clients.push(entry.clone());
            if let Err(e) = store.save() {
                store.clients.pop();
                return Err(format!("cannot keep the client: {e}"));
            }
            entry
        };
        self.admit().map_err(|e| e.to_string())?;
        let addresses = self.networks.map(|n| IpPrefix::host(nth(n, entry.number)).to_string());
        let list = |all: &[IpPrefix]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let dns = if offer.dns.is_empty() { String::new() } else { format!("DNS = {}\n", offer.dns.join(", ")) };
        Ok(format!(
            "[Interface]\nPrivateKey = {}\nAddress = {}\n{dns}MTU = {}\n\n\
             [Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = {}\nEndpoint = {}\nPersistentKeepalive = 25\n",
            BASE64.encode(private.as_bytes()),
            addresses.join(", "),
            offer.mtu,
            BASE64.encode(self.public.as_bytes()),
            entry.preshared_key,
            list(&offer.allowed),
            offer.endpoint,
        ))
    }

    /// The last number that has an address: the one after it is the broadcast address.
    fn last(&self) -> u32 {
        let bits = 32 - u32::from(self.networks[0].prefix_len());
        ((1u64 << bits) - 2).try_into().unwrap_or(u32::MAX)
    }

    /// Keeps where clients are, for the next start.
    fn remember(&self) {
        let clients = self.clients.load();
        let mut store = lock(&self.store);
        let mut changed = false;
        for entry in &mut store.clients {
            let now = clients.by_number.get(&entry.number).and_then(|peer| lock(&peer.session).endpoint);
            changed |= entry.endpoint != now;
            entry.endpoint = now;
        }
        if changed && let Err(error) = store.save() {
            tracing::warn!(%error, "cannot keep where the portal's clients are");
        }
    }

    /// Shuts a client out.
    pub fn remove(&self, name: &str) -> Result<(), String> {
        {
            let mut store = lock(&self.store);
            let Some(at) = store.clients.iter().position(|c| c.name == name) else {
                return Err(format!("the portal has no client `{name}`; `aegisray portal list` lists them"));
            };
            let gone = store.clients.remove(at);
            if let Err(e) = store.save() {
                store.clients.insert(at, gone);
                return Err(format!("cannot forget the client: {e}"));
            }
        }
        self.admit().map_err(|e| e.to_string())
    }

    /// The clients, by name.
    #[must_use]
    pub fn list(&self) -> Vec<ClientStatus> {
        let clients = self.clients.load();
        let status = |(key, peer): (&[u8; 32], &Arc<Peer>)| {
            let session = lock(&peer.session);
            ClientStatus {
                name: peer.name.clone(),
                addresses: peer.addresses,
                public_key: BASE64.encode(key),
                endpoint: session.endpoint.map(|e| SocketAddr::new(e.ip().to_canonical(), e.port())),
                handshake_s: session.tunn.time_since_last_handshake().map(|t| t.as_secs()),
                received: peer.received.load(Ordering::Relaxed),
                sent: peer.sent.load(Ordering::Relaxed),
            }
        };
        let mut all: Vec<_> = clients.by_key.iter().map(status).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// The portal's port, for both families where the host has both.
fn bind(port: u16) -> io::Result<std::net::UdpSocket> {
    let any = SocketAddr::from(([0u16; 8], port));
    let socket = host::bind_udp(any).or_else(|_| host::bind_udp(SocketAddr::from(([0, 0, 0, 0], port))));
    socket.map_err(|e| io::Error::new(e.kind(), format!("cannot use UDP port {port} (portal.port): {e}")))
}
