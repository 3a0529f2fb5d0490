//! DNS on the mesh's addresses of this node: the names of the mesh, and for this host all others too.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hickory_resolver::{
    Resolver,
    net::{
        NetError,
        runtime::{Time, TokioRuntimeProvider},
    },
    proto::{
        op::{Edns, Metadata, OpCode, ResponseCode},
        rr::{LowerName, Name, Record, RecordType},
    },
};
use hickory_server::{
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use socket2::{Domain, Socket, Type};
use tokio::{sync::watch, task::JoinSet};

use super::{
    keeper::{self, Keeper},
    names_tcp::{self, Shares},
    names_udp,
    resolv::{original, resolvconf_servers, servers},
    resolve::Servers,
    zone::{Answer, Host, Zone},
};
use crate::{
    config::{Config, HostNames, MeshNames, NameServer},
    node::Node,
    types::IpPrefix,
};

const PORT: u16 = 53;
const TABLE: &str = "aegisray_names";
/// UDP answers are no longer, whatever whoever asks would take: what every path carries (DNS Flag Day 2020).
pub(super) const MAX_PAYLOAD: u16 = 1232;
const BACKLOG: i32 = 64;
const BETWEEN_ZONES: Duration = Duration::from_millis(200);
/// Questions that wait for other servers' answers: each is a socket. Of them those of one address.
const FORWARDED: (usize, usize) = (256, 32);
/// What this host asks may change with its network.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

type Forward = Resolver<TokioRuntimeProvider>;

/// Whom to ask for what is not the mesh's.
struct Forwarder {
    servers: Servers,
    resolver: Mutex<Option<(Instant, Arc<Forward>)>>,
}

impl Forwarder {
    pub fn new(servers: Servers) -> Self {
        Self { servers, resolver: Mutex::default() }
    }

    fn resolver(&self) -> Result<Arc<Forward>, String> {
        let mut kept = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, resolver)) = &*kept
            && (self.servers.are_named() || since.elapsed() < LOOK_AGAIN)
        {
            return Ok(Arc::clone(resolver));
        }
        let resolver = Arc::new(self.servers.resolver::<TokioRuntimeProvider>()?);
        *kept = Some((Instant::now(), Arc::clone(&resolver)));
        Ok(resolver)
    }
}

/// What questions are answered from.
struct Book {
    zone: ArcSwap<Zone>,
    /// This node's addresses, and the mesh's ranges: who asks from another one of these is another member.
    own: Vec<IpAddr>,
    ranges: [IpPrefix; 2],
    /// Whether anybody is told other names than the mesh's, and whether other members are: they go out through this node.
    forwards: bool,
    serves_all: bool,
    forward: Forwarder,
    forwarded: Arc<Shares>,
    /// By domain, for what only certain servers know.
    split: Vec<(LowerName, Forwarder)>,
}

/// The running server. It ends when this goes.
pub(super) struct NameService {
    /// Where it answers.
    own: Vec<IpAddr>,
    book: Arc<ArcSwap<Book>>,
    suffix: String,
    /// Those who are in the mesh, for a zone to be made of them.
    hosts: watch::Sender<Members>,
    _lead: Option<Lead>,
}

/// The suffix, and the nodes.
type Members = (String, Vec<Host>);

/// The sockets at one address.
struct Place {
    udp: Socket,
    tcp: Socket,
}

struct Places {
    all: Vec<Place>,
    lead: Option<Lead>,
}

/// What leads port 53 to the ports of our sockets, until it goes.
struct Lead(Arc<Keeper>);

impl Drop for Lead {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove_table(TABLE) {
            tracing::warn!(%error, "cannot take away what led port 53 of the mesh's addresses to this daemon");
        }
    }
}

#[derive(Clone)]
struct Handler(Arc<ArcSwap<Book>>);

impl Book {
    fn new(config: &Config, names: &MeshNames, own: &[IpAddr]) -> io::Result<Self> {
        let mut upstream = config.name_servers.clone();
        if upstream.is_empty() {
            // What this host asked before it asked us.
            let before = match &names.host {
                HostNames::File(path) => {
                    servers(&String::from_utf8_lossy(&original(&std::fs::read(path).unwrap_or_default())))
                }
                HostNames::Resolvconf => resolvconf_servers(own)?,
                HostNames::Auto | HostNames::Off => Vec::new(),
            };
            upstream = before.into_iter().map(NameServer::plain).collect();
        }
        let forwarder =
            |servers: &[NameServer]| Servers::of(servers, config).map(Forwarder::new).map_err(io::Error::other);
        let split = names.split.iter().map(|(domain, servers)| {
            let domain = Name::from_utf8(format!("{domain}.")).unwrap_or_default();
            Ok((LowerName::from(domain), forwarder(servers)?))
        });
        Ok(Self {
            zone: ArcSwap::default(),
            own: own.to_vec(),
            ranges: [config.network.cidr(), config.network.ula()],
            forwards: config.may_forward_names(),
            serves_all: config.exit_node.is_some(),
            forward: forwarder(&upstream)?,
            forwarded: Shares::new(FORWARDED.0, FORWARDED.1),
            split: split.collect::<io::Result<_>>()?,
        })
    }

    /// Whether whoever is there is told names that are not the mesh's: this host and its containers are.
    fn may_ask(&self, from: IpAddr) -> bool {
        let is_member = self.ranges.iter().any(|range| range.contains(from)) && !self.own.contains(&from);
        self.forwards && (self.serves_all || !is_member)
    }

    async fn forward(&self, from: IpAddr, name: &LowerName, plain: Name, kind: RecordType) -> Reply {
        let failed = (ResponseCode::ServFail, Vec::new(), Vec::new());
        // This host's own questions are its own affair.
        let share = self.forwarded.take(from);
        if share.is_none() && !self.own.contains(&from) {
            return failed;
        }
        let split = self.split.iter().filter(|(domain, _)| domain.zone_of(name));
        let forwarder = split.max_by_key(|(domain, _)| domain.num_labels()).map_or(&self.forward, |(_, f)| f);
        let Ok(resolver) = forwarder.resolver() else { return failed };
        match resolver.lookup(plain, kind).await {
            Ok(lookup) => (ResponseCode::NoError, lookup.answers().to_vec(), Vec::new()),
            Err(e) => match code(&e) {
                None => failed,
                Some(code) => {
                    let authority = e.into_soa().map(|soa| soa.into_record_of_rdata());
                    (code, Vec::new(), authority.into_iter().collect())
                }
            },
        }
    }
}

impl NameService {
    /// Answers at port 53 of this node's addresses.
    fn start(config: &Config, names: &MeshNames, own: Vec<IpAddr>, keeper: &Arc<Keeper>) -> io::Result<Self> {
        let book = Book::new(config, names, &own)?;
        let book = Arc::new(ArcSwap::from_pointee(book));
        let suffix = names.suffix.clone();
        let places = open(&own, keeper)?;
        let (hosts, members) = watch::channel((suffix.clone(), Vec::new()));
        let handler = Handler(Arc::clone(&book));
        let thread = thread::Builder::new().name("aegis-names".to_owned()).stack_size(512 << 10);
        thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let served = runtime.and_then(|runtime| runtime.block_on(serve(places.all, handler, members)));
            if let Err(error) = served {
                tracing::error!(%error, "the names of the mesh are not served (dns.serve)");
            }
        })?;
        Ok(Self { own, book, suffix, hosts, _lead: places.lead })
    }

    /// Answers as this configuration says: the server that ran `before`, if it is at these addresses, or a new one.
    pub fn go_on(
        before: Option<Self>,
        config: &Config,
        names: &MeshNames,
        own: Vec<IpAddr>,
        keeper: &Arc<Keeper>,
    ) -> io::Result<Self> {
        let Some(mut service) = before.filter(|b| b.own == own) else {
            return Self::start(config, names, own, keeper);
        };
        let book = Book::new(config, names, &own)?;
        book.zone.store(service.book.load().zone.load_full());
        service.book.store(Arc::new(book));
        service.suffix.clone_from(&names.suffix);
        Ok(service)
    }

    /// Those who are in the mesh, at once: after another configuration.
    pub fn begin(&self, node: &Node) {
        let members = (self.suffix.clone(), hosts(node));
        Handler(Arc::clone(&self.book)).follow(&members);
        self.hosts.send_replace(members);
    }

    /// To be called when nodes have come or gone.
    pub fn update(&self, node: &Node) {
        self.hosts.send_replace((self.suffix.clone(), hosts(node)));
    }
}

/// Who is in the mesh, as far as names are concerned.
fn hosts(node: &Node) -> Vec<Host> {
    let owners = node.owners();
    let all = node.routing().announcements().map(|known| Host {
        id: known.id,
        name: owners.name(&known.id).map(str::to_owned),
        addresses: owners.addresses_of(&known.id).filter(|ip| owners.takes(&known.id, *ip)).collect(),
        services: known.record.services.clone(),
    });
    all.collect()
}

/// Answers until the service is dropped. On a thread of its own: what others ask doesn't keep the mesh waiting.
async fn serve(places: Vec<Place>, handler: Handler, mut members: watch::Receiver<Members>) -> io::Result<()> {
    let mut all = JoinSet::new();
    // Nobody hears that there are no names, before they are known.
    if members.changed().await.is_err() {
        return Ok(());
    }
    handler.follow(&members.borrow_and_update());
    for Place { udp, tcp } in places {
        let socket = tokio::net::UdpSocket::from_std(udp.into())?;
        all.spawn(names_udp::serve(socket, handler.clone()));
        tcp.listen(BACKLOG)?;
        let listener = tokio::net::TcpListener::from_std(tcp.into())?;
        all.spawn(names_tcp::serve(listener, handler.clone()));
    }
    while members.changed().await.is_ok() {
        handler.follow(&members.borrow_and_update());
        // Others can come and go as often as they like.
        tokio::time::sleep(BETWEEN_ZONES).await;
    }
    Ok(())
}

/// Sockets at all of these addresses. Port 53 stays free for a server for names that this host may run for others and that wants it at
/// every address: nftables leads what comes for it here to ports that the kernel chooses. Where it can't, port 53 is taken.
fn open(own: &[IpAddr], keeper: &Arc<Keeper>) -> io::Result<Places> {
    let (all, chains) = bind_all(own, 0)?;
    match keeper.try_table(TABLE, chains) {
        Ok(()) => Ok(Places { all, lead: Some(Lead(Arc::clone(keeper))) }),
        Err(error) => {
            tracing::info!(%error, "port 53 of the mesh's addresses is taken: nftables can't lead it to another one");
            Ok(Places { all: bind_all(own, PORT)?.0, lead: None })
        }
    }
}

/// Sockets, and the chains that lead to them. On a kernel without IPv6, IPv4's addresses are all that there is to ask at.
fn bind_all(own: &[IpAddr], port: u16) -> io::Result<(Vec<Place>, String)> {
    let (mut all, mut leads, mut failed) = (Vec::new(), Leads::default(), None);
    for ip in own {
        let addr = SocketAddr::new(*ip, port);
        match bind(addr, Type::DGRAM).and_then(|udp| Ok(Place { udp, tcp: bind(addr, Type::STREAM)? })) {
            Ok(place) => {
                for (protocol, socket) in [("udp", &place.udp), ("tcp", &place.tcp)] {
                    let at = socket.local_addr()?.as_socket().map_or(port, |at| at.port());
                    leads.add(*ip, protocol, at);
                }
                all.push(place);
            }
            Err(e) if is_without_family(&e) => failed = Some(e),
            Err(e) => return Err(e),
        }
    }
    match failed {
        Some(e) if all.is_empty() => Err(e),
        _ => Ok((all, leads.chains())),
    }
}

/// Whether this kernel has no such addresses (IPv6 is off).
fn is_without_family(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Rules, one for each socket. Everybody else's see port 53, so that what is said of it holds: the port changes last on the way in,
/// and first on the way out. Who asks at our ports themselves has gone around that.
#[derive(Default)]
struct Leads {
    around: Vec<String>,
    questions: Vec<String>,
    answers: Vec<String>,
}

impl Leads {
    fn add(&mut self, ip: IpAddr, protocol: &str, port: u16) {
        let family = IpPrefix::host(ip).family();
        self.around.push(format!("{family} daddr {ip} {protocol} dport {port} drop"));
        self.questions.push(format!("{family} daddr {ip} {protocol} dport {PORT} {protocol} dport set {port}"));
        self.answers.push(format!("{family} saddr {ip} {protocol} sport {port} {protocol} sport set {PORT}"));
    }

    fn chains(&self) -> String {
        let chain = |name: &str, hook: &str, rules: &[String]| {
            format!("chain {name} {{ type filter hook {hook}; policy accept;\n{}\n}}\n", rules.join("\n"))
        };
        chain("around", "input priority -310", &self.around)
            + &chain("questions", "input priority 310", &self.questions)
            + &chain("answers", "output priority -310", &self.answers)
    }
}

/// Takes away what a daemon that no longer runs has left.
pub(super) fn clean_up(interface: &str) -> io::Result<()> {
    keeper::remove_table(TABLE, interface)
}

fn bind(addr: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, None)?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
    }
    // Connections to the server before this one may not be over.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

impl Handler {
    /// Makes the zone of those who are in the mesh now.
    fn follow(&self, (suffix, hosts): &Members) {
        let book = self.0.load();
        book.zone.store(Arc::new(Zone::new(suffix, book.ranges, hosts.clone())));
    }
}

impl names_udp::Members for Handler {
    fn is_own(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.0.load().own.contains(&ip)
    }
}

/// A code, the answers, and what is said of the zone beside them.
type Reply = (ResponseCode, Vec<Record>, Vec<Record>);

impl Handler {
    async fn reply(&self, from: IpAddr, name: &LowerName, kind: RecordType) -> (bool, Reply) {
        let book = self.0.load_full();
        let zone = book.zone.load_full();
        let plain: Name = Name::from(name);
        let nothing = |code| (true, (code, Vec::new(), vec![zone.authority()]));
        match zone.answer(&plain, kind) {
            Answer::Records(records) => (true, (ResponseCode::NoError, records, Vec::new())),
            Answer::Nothing => nothing(ResponseCode::NoError),
            Answer::NoSuchName => nothing(ResponseCode::NXDomain),
            Answer::NotOurs if book.may_ask(from) => (false, book.forward(from, name, plain, kind).await),
            Answer::NotOurs => (false, (ResponseCode::Refused, Vec::new(), Vec::new())),
        }
    }
}

/// What a failed lookup says of the name, if it says something.
fn code(e: &NetError) -> Option<ResponseCode> {
    if e.is_nx_domain() {
        Some(ResponseCode::NXDomain)
    } else {
        e.is_no_records_found().then_some(ResponseCode::NoError)
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut out: R) -> ResponseInfo {
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, MAX_PAYLOAD));
            edns
        });
        let mut meta = Metadata::response_from_request(&request.metadata);
        meta.recursion_available = true;
        let (mut answers, mut authorities) = (Vec::new(), Vec::new());
        match request.request_info() {
            _ if request.metadata.op_code != OpCode::Query => meta.response_code = ResponseCode::NotImp,
            Ok(info) => {
                let from = request.src().ip().to_canonical();
                let (ours, reply) = self.reply(from, info.query.name(), info.query.query_type()).await;
                meta.authoritative = ours;
                (meta.response_code, answers, authorities) = reply;
            }
            Err(_) => meta.response_code = ResponseCode::FormErr,
        }
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(meta, answers.iter(), authorities.iter(), std::iter::empty(), std::iter::empty());
        match out.send_response(response).await {
            Ok(info) => info,
            // Whoever asked is gone.
            Err(_) => hickory_resolver::proto::op::Header { metadata: meta, counts: Default::default() }.into(),
        }
    }
}
