//! Floor 7: the daemon: reads the configuration, sets up the interface, starts the data plane, and runs the node.

mod access;
mod border;
mod calls;
mod chat;
mod control;
mod early;
mod fallback;
mod follow;
mod gateway;
mod guests;
mod journal;
mod keeper;
mod lan;
mod lifetime;
mod mapping;
mod names;
mod names_tcp;
mod names_udp;
mod outside;
mod overlap;
mod past;
mod portal;
mod prepare;
mod reflexive;
mod reload;
mod resolv;
mod resolve;
mod retired;
mod routes;
mod seen;
mod state;
mod tunnel;
mod turn;
mod zone;

use std::{io, net::IpAddr, sync::Arc, time::SystemTime};

use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;

use crate::{
    api,
    config::{self, Config, StunClients},
    dataplane::{self, Shared},
    host::{self, Netlink},
    identity::{Authority, Policy, RecordContent, Refusal, Verify},
    node::{Node, NodeConfig},
    stealth::{self, Door, TlsError},
    transport::{self, Sockets, StunServer},
    tun::{self, Tun},
    types::{Instant, IpPrefix, UnixTime},
};

/// What says that it answers a question of ours, and may wait.
const ANSWER_QUEUE: usize = 128;
/// Packets that the kernel may queue on the TUN device.
const TUN_QUEUE: u32 = 1000;

/// Why the daemon can't start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot make the interface {0}: {1}; run as root, or give the program CAP_NET_ADMIN")]
    Tun(String, #[source] io::Error),
    #[error("cannot set up the interface {0}: {1}")]
    Interface(String, #[source] io::Error),
    #[error("cannot listen on UDP {0}: {1}; is another daemon running, or the port taken? (listen.port)")]
    Listen(std::net::SocketAddr, #[source] io::Error),
    #[error(
        "cannot listen on TCP {0}: {1}; does a web server run there? Move it behind this one (stealth.serve.upstream)"
    )]
    Door(std::net::SocketAddr, #[source] io::Error),
    #[error("{0} (stealth)")]
    Tls(#[from] TlsError),
    #[error("cannot open the management socket: {0}")]
    Api(#[source] io::Error),
    #[error(
        "the mesh's range {mesh} overlaps {found} on interface {interface}: choose another mesh.cidr, the same on all nodes"
    )]
    Overlap { mesh: IpPrefix, found: IpAddr, interface: String },
    #[error("cannot have {0} for this daemon: {1}; is another one running with it? (state_dir)")]
    State(std::path::PathBuf, #[source] io::Error),
    #[error("cannot close the fence around the tunnel: {0} (exit)")]
    Exit(#[source] io::Error),
    #[error("cannot carry others' packets out of the mesh: {0} (exit_node, routing.announce)")]
    Gateway(#[source] io::Error),
    #[error("cannot open the portal: {0} (portal)")]
    Portal(#[source] io::Error),
    #[error("cannot start the chat: {0} (chat)")]
    Chat(String),
    #[error("cannot put the access rules in force: {0} (access)")]
    Access(#[source] io::Error),
    #[error(
        "others would refuse what this node says of itself: {0} (name, routing.announce, dns.services, identity.certificate_file)"
    )]
    Own(#[source] Refusal),
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Resolves names as a node with this configuration does.
pub fn resolver(config: &Config) -> Result<stealth::Resolve, StartError> {
    Ok(resolve::Servers::new(config)?.blocking())
}

pub use early::{Early, clean_up, close};
pub use prepare::{check, surroundings};

/// Resolves names as this host does.
#[must_use]
pub fn host_resolver() -> stealth::Resolve {
    resolve::Servers::default().blocking()
}

/// Changes how much is logged, to a level as the configuration names it.
pub type SetLevel = Box<dyn Fn(&str)>;

/// Runs a node until it is told to stop.
pub fn run(config: Config, set_level: SetLevel) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run_async(config, set_level))
}

async fn run_async(config: Config, set_level: SetLevel) -> Result<(), StartError> {
    overlap::check(&config)?;
    if let Err(error) = host::raise_file_limit() {
        tracing::warn!(%error, "no more files than usual can be open at a time");
    }
    // Before anything is changed on the host: it may be another daemon's.
    let lock = state::lock(&config.state_dir).map_err(|e| StartError::State(config.state_dir.clone(), e));
    if let Err(StartError::State(_, e)) = &lock
        && e.kind() == io::ErrorKind::WouldBlock
    {
        return lock.map(drop);
    }
    // The fence needs no file: a disk that is full or can't be written does not leave it open.
    let keeper = Arc::new(keeper::Keeper::start(&config.interface).map_err(StartError::Exit)?);
    let mut tunnel = tunnel::Tunnel::new(&config, Arc::clone(&keeper));
    tunnel.begin().map_err(StartError::Exit)?;
    if early::rename(&config) {
        tunnel.begin().map_err(StartError::Exit)?;
    }
    let _lock = lock?;
    let prepare::Prepared { servers, dialer, door } = prepare::prepare(&config)?;
    prepare::doubts(&config).iter().for_each(|doubt| tracing::warn!("{doubt}"));
    let door = door.zip(config.stealth.serve.as_ref()).map(|(door, serve)| open_door(door, serve)).transpose()?;
    let udp = transport::Offloads { send: config.udp_offload, receive: config.udp_offload };
    let queues = config.queues.unwrap_or_else(default_queues);
    let sockets = Sockets::bind(config.listen, udp, queues).map_err(|e| StartError::Listen(config.listen, e))?;
    let sockets = if config.is_hidden() { sockets.streams_only() } else { sockets };
    let main = sockets.main()[0].local_addr()?;
    let stun = config.stun.map(|clients| {
        let members = (clients == StunClients::Members).then(|| config.network.gate().clone());
        let (stun, error) = StunServer::new(main, config.stun_port, &public_addresses(&config), members);
        if let Some(error) = error {
            tracing::warn!(port = config.stun_port, %error, "nobody learns here whether its NAT tells ports apart (listen.stun_port)");
        }
        stun
    });
    let stun_port = stun.as_ref().and_then(StunServer::second_port).unwrap_or(0);
    let tun = tun::Offloads { tcp: config.tun_offload, udp: config.tun_offload };
    let tun = Tun::open(&config.interface, tun, queues).map_err(|e| StartError::Tun(config.interface.clone(), e))?;
    let calls = api::serve(&config.socket).map_err(StartError::Api)?;
    let clock = control::Clock::new();
    let files = state::StateFile::new(&config.state_dir);
    let state = files.load();
    let mut node = make_node(&config, &state, stun_port, clock.now())?;
    let (to_control, inputs) = mpsc::channel(dataplane::QUEUE);
    let (to_answers, answers) = mpsc::channel(ANSWER_QUEUE);
    let (tables, queues) = (node.snapshot(), (to_control, to_answers));
    let gate = config.network.gate().clone();
    let shared = Arc::new(Shared::new(sockets, stun, tun, config.relay_limits, tables, gate, queues));
    if let Some(mut porter) = node.hire_porter() {
        let (mut file, seen) = seen::SeenFile::open(&config.state_dir);
        porter.remember(seen);
        dataplane::start_handshakes(&shared, porter, move || clock.now(), move |key| file.add(key))?;
    }
    let addresses = node.addresses();
    let set_up = set_up_interface(&config, &addresses);
    let has_ipv6 = set_up.map_err(|e| StartError::Interface(config.interface.clone(), e))?;
    node.set_ipv4_only(!has_ipv6);
    let networks = [config.network.cidr(), config.network.ula()].map(|n| n.prefix_len());
    let kept = addresses.into_iter().zip(networks).filter(|(ip, _)| ip.is_ipv4() || has_ipv6);
    keeper.keep_addresses(kept.collect());
    let border = border::Border::start(&config, &keeper);
    let border = border.map_err(|e| StartError::Interface(config.interface.clone(), e))?;
    let portal = config.portal.as_ref().map(|portal| {
        let file = config.state_dir.join("portal.json");
        crate::portal::Portal::start(portal, config.mtu, &file).map_err(StartError::Portal)
    });
    let portal = portal.transpose()?;
    let gateway = gateway::Gateway::start(&config, &keeper).map_err(StartError::Gateway)?;
    let facts = access::facts(&config, &node, portal.as_deref());
    let access = access::AccessRules::start(&config, &facts, &keeper).map_err(StartError::Access)?;
    dataplane::start(&shared)?;
    if let Some((door, socket)) = door {
        let inside = Arc::clone(&shared);
        door.serve(socket, move |socket, seal| {
            // Too many streams: the member tries again.
            let _ = dataplane::start_stream(&inside, socket, Some(Box::new(seal)), false);
        })?;
    }
    if let Some(port) = config.tcp_port {
        let addr = std::net::SocketAddr::new(main.ip(), port);
        match host::listen(addr) {
            Ok(listener) => dataplane::accept_streams(&shared, listener)?,
            Err(error) => tracing::warn!(%addr, %error, "cannot offer TCP to peers without UDP (listen.tcp_port)"),
        }
    }
    tracing::info!(
        name = config.name,
        node = %node.id(),
        network = node.network().name(),
        ipv4 = %addresses[0],
        ipv6 = %addresses[1],
        listen = %shared.socket().local_addr()?,
        "started"
    );
    let outside = outside::Outside::start(&config, &node, &shared, dialer, &servers);
    let host_resolver = resolv::HostResolver::new(&config.state_dir)?;
    let chat = config.chat.as_ref().map(|chat| chat::start(&config, chat)).transpose()?;
    let parts = control::Parts { keeper, border, tunnel, gateway, access, host_resolver, portal, chat, set_level };
    control::Control::new(config, node, shared, files, clock, outside, parts).run((inputs, answers), calls).await;
    Ok(())
}

/// The site's door, and where visitors come in.
fn open_door(door: Door, serve: &config::Serve) -> Result<(Door, Socket), StartError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(serve.listen), Type::STREAM, None)?;
        host::mark(&socket);
        socket.set_reuse_address(true)?;
        socket.bind(&serve.listen.into())?;
        Ok(socket)
    };
    Ok((door, bind().map_err(|e| StartError::Door(serve.listen, e))?))
}

fn make_node(config: &Config, state: &state::State, stun_port: u16, now: Instant) -> Result<Node, StartError> {
    let unix = unix_now();
    // The identity was read for the configuration; the node gets its own copy from the same key.
    let identity = config.identity.duplicate().map_err(|_| io::Error::other("the identity key can't be copied"))?;
    let authority = match &config.authority_key {
        Some(key) => {
            Some(Authority::new(key.duplicate().map_err(|_| io::Error::other("the authority's key can't be copied"))?))
        }
        None => None,
    };
    let content = RecordContent {
        name: config.name.clone(),
        ipv4_attempt: state.ipv4_attempt,
        prefixes: announced(config),
        country: config.exit_node.as_ref().map(|e| e.country.clone()).unwrap_or_default(),
        endpoints: config.advertise.clone(),
        certificate: config.certificate.clone(),
        no_relay: !config.relay,
        services: config.services.clone(),
        ..RecordContent::default()
    };
    let defaults = NodeConfig::new(config.network.clone(), content, unix);
    let node_config = NodeConfig {
        policy: Policy { allow: config.allow.clone(), accept: config.accept.clone(), ..defaults.policy },
        seqno: defaults.seqno.max(state.seqno.saturating_add(1)),
        max_peers: config.max_peers,
        ciphers: config.ciphers.clone(),
        rekey_after: config.rekey_after,
        rekey_bytes: config.rekey_bytes,
        cost: config.cost,
        link_costs: config.link_costs.clone(),
        punch: config.punch,
        stun_port,
        authority,
        admission: config.admission.clone(),
        invitations: state.invitations.clone(),
        revocations: state.revocations.clone(),
        held_until: state.held_until,
        ..defaults
    };
    let verifier: Box<dyn Verify> = Box::new(config.network.clone());
    let mut node = Node::new(node_config, identity, verifier, host::random()?, now).map_err(StartError::Own)?;
    for peer in &state.peers {
        node.add_known(now, &peer.announcement, &peer.record);
    }
    Ok(node)
}

/// What this node announces beside its addresses.
fn announced(config: &Config) -> Vec<IpPrefix> {
    let mut all = config.behind();
    if let Some(exit) = &config.exit_node {
        all.extend(IpPrefix::new([0, 0, 0, 0].into(), 0));
        all.extend(IpPrefix::new([0u16; 8].into(), 0).filter(|_| exit.ipv6));
    }
    all
}

/// Half the processors: the other half is for those who use the tunnel.
fn default_queues() -> usize {
    std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, 4))
}

/// The IPv4 addresses of this host under which the internet may know it.
fn public_addresses(config: &Config) -> Vec<IpAddr> {
    let all = host::interface_addresses().unwrap_or_default().into_iter();
    let carrier: IpPrefix = IpPrefix::new([100, 64, 0, 0].into(), 10).expect("10 is in range");
    all.filter(|(interface, ip)| *interface != config.interface && !carrier.contains(*ip))
        .map(|(_, ip)| ip)
        .filter(|ip| matches!(ip, IpAddr::V4(a) if !a.is_private()))
        .collect()
}

/// Returns whether there is an IPv6 address now.
fn set_up_interface(config: &Config, addresses: &[IpAddr; 2]) -> io::Result<bool> {
    let mut has_ipv6 = true;
    let mut netlink = Netlink::open()?;
    netlink.set_mtu(&config.interface, u32::from(config.mtu), TUN_QUEUE)?;
    netlink.set_up(&config.interface, true)?;
    // When the address changes, the new one is there before the old one goes, and stays: with it the routes of the interface. Where
    // this can't be set, they come back a moment later.
    let promote = format!("/proc/sys/net/ipv4/conf/{}/promote_secondaries", config.interface);
    if let Err(error) = std::fs::write(&promote, "1") {
        tracing::debug!(file = promote, %error, "cannot be set");
    }
    for (address, network) in addresses.iter().zip([config.network.cidr(), config.network.ula()]) {
        match netlink.add_address(&config.interface, *address, network.prefix_len()) {
            // A host without IPv6 still gets IPv4.
            Err(error) if address.is_ipv6() => {
                tracing::warn!(%error, "no IPv6 address on the mesh interface: others are told, and reach this node over IPv4");
                has_ipv6 = false;
            }
            other => other?,
        }
    }
    Ok(has_ipv6)
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> UnixTime {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
