//! The running service: one thread for the connections, and one for the hub, which waits for the disk.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use socket2::{Domain, Socket, Type};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    time,
};
use tokio_rustls::TlsAcceptor;

use super::{
    engine::Engine,
    front,
    gate::Gate,
    hub::{Hub, Input, RELAYS},
    irc,
    keys::{KeyError, Keys},
    links::{LinkId, Output},
    net::{Net, Targets},
    outbox::{Load, Outgoing},
    page,
    relay::{self, Limits},
    request::{Answer, Request},
    store::{Store, StoreError},
};
use crate::{
    crypto::{Rng, sha256},
    identity::keyfile::KeyFileError,
};

/// Things that may wait for the hub.
const INBOX: usize = 4096;
const TICK: Duration = Duration::from_millis(500);
/// How long who asks for events waits for one.
const EVENT_TIME: Duration = Duration::from_secs(10);
/// Inputs that are handled together.
const TOGETHER: usize = 4096;
const BACKLOG: i32 = 1024;

/// How a node of the chat runs.
#[derive(Default)]
pub struct Options {
    /// Where `chat.db` and `identity.json` are.
    pub dir: PathBuf,
    /// Where others come in.
    pub listen: Vec<Listen>,
    /// The port of the page on loopback.
    pub page: Option<u16>,
    /// For HTTPS there.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// For relays behind HTTPS.
    pub client_tls: Option<Arc<rustls::ClientConfig>>,
    /// The port of the IRC gateway on loopback.
    pub irc: Option<u16>,
    /// The chat's port on mesh addresses.
    pub port: u16,
    /// Relays to be kept connected, beside those that were added by hand.
    pub relays: Vec<String>,
    /// Opens the identity at the start.
    pub password: Option<String>,
    /// Runs a relay; `None`: a person's node.
    pub relay: Option<Limits>,
    /// 32 random bytes.
    pub seed: [u8; 32],
}

/// Where others come in.
#[derive(Clone, Debug)]
pub struct Listen {
    addr: SocketAddr,
    /// Through this interface alone.
    interface: Option<String>,
}

impl Listen {
    #[must_use]
    pub fn at(addr: SocketAddr) -> Self {
        Self { addr, interface: None }
    }

    #[must_use]
    pub fn on(addr: SocketAddr, interface: &str) -> Self {
        Self { addr, interface: Some(interface.to_owned()) }
    }

    fn open(&self) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(self.addr), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if self.addr.ip().is_unspecified() && self.addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        if let Some(interface) = &self.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        socket.bind(&self.addr.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error("cannot listen on TCP {0}: {1}; is the port taken? (chat.port)")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("cannot serve the page at 127.0.0.1:{0}: {1} (chat.page)")]
    Page(u16, #[source] io::Error),
    #[error("cannot serve IRC at 127.0.0.1:{0}: {1} (chat.irc)")]
    Irc(u16, #[source] io::Error),
    #[error(transparent)]
    Token(#[from] KeyFileError),
    #[error("cannot start the chat: {0}")]
    System(#[from] io::Error),
}

/// What goes to the hub.
pub enum ToHub {
    Opened(Input, mpsc::UnboundedSender<Outgoing>),
    /// With its place in the room for what waits.
    Input(Input, Option<OwnedSemaphorePermit>),
    Call(Request, oneshot::Sender<Answer>),
}

/// Asks the service; can be copied.
#[derive(Clone)]
pub struct Handle {
    to_hub: mpsc::Sender<ToHub>,
    happened: watch::Receiver<u64>,
}

impl Handle {
    pub async fn ask(&self, request: Request) -> Answer {
        let mut happened = self.happened.clone();
        let deadline = time::Instant::now() + EVENT_TIME;
        loop {
            happened.mark_unchanged();
            let (answer, answered) = oneshot::channel();
            let gone = || Answer::Error { message: "the chat is stopping".to_owned() };
            if self.to_hub.send(ToHub::Call(request.clone(), answer)).await.is_err() {
                return gone();
            }
            let Ok(answer) = answered.await else { return gone() };
            let after = if let Request::Events { after } = &request { *after } else { 0 };
            let nothing_new = matches!(&answer, Answer::Events { events, last } if events.is_empty() && after <= *last);
            if !nothing_new || !matches!(time::timeout_at(deadline, happened.changed()).await, Ok(Ok(()))) {
                return answer;
            }
        }
    }
}

/// The service. It ends when this is dropped: what was confirmed is on the disk.
pub struct Service {
    handle: Handle,
    targets: watch::Sender<Targets>,
    stop: Option<watch::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    pub fn start(options: Options) -> Result<Self, ServiceError> {
        std::fs::create_dir_all(&options.dir)?;
        // Messages are nobody's business but this user's.
        std::fs::set_permissions(&options.dir, std::fs::Permissions::from_mode(0o700))?;
        let store = Store::open(&options.dir.join("chat.db"))?;
        let mut keys = Keys::open(&options.dir.join("identity.json"))?;
        if let (Some(password), Some(_)) = (&options.password, keys.identity()) {
            keys.unlock(password)?;
        }
        let added = store.setting(RELAYS)?.unwrap_or_default();
        let engine = Engine::new(store, keys, options.relay, Rng::from_seed(options.seed))?;
        let mut hub = Hub::new(engine, options.relay.map(|_| Gate::default()));
        hub.relays = added.lines().map(str::to_owned).chain(options.relays).collect();
        let (to_hub, inbox) = mpsc::channel(INBOX);
        let (tell, happened) = watch::channel(0);
        let first = Targets { own: Vec::new(), neighbours: BTreeMap::new(), relays: Vec::new(), port: options.port };
        let (targets, wanted) = watch::channel(first);
        let net = Net::new(to_hub.clone(), wanted, options.client_tls);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut listeners = Vec::new();
        for listen in options.listen {
            let _guard = runtime.enter();
            listeners.push(listen.open().map_err(|e| ServiceError::Listen(listen.addr, e))?);
        }
        let handle = Handle { to_hub, happened };
        let token = match (options.page, options.irc) {
            (None, None) => String::new(),
            _ => page::token(&options.dir.join("token"), sha256(&[b"page", &options.seed]))?,
        };
        let on_loopback = |port: u16| {
            let _guard = runtime.enter();
            Listen::at((Ipv4Addr::LOCALHOST, port).into()).open()
        };
        let page_server = match options.page {
            Some(port) => {
                let listener = on_loopback(port).map_err(|e| ServiceError::Page(port, e))?;
                hub.page = Some(format!("http://127.0.0.1:{port}/#{token}"));
                Some((listener, handle.clone(), Arc::new(page::Guard::new(port, token.clone()))))
            }
            None => None,
        };
        let gateway = match options.irc {
            Some(port) => Some((on_loopback(port).map_err(|e| ServiceError::Irc(port, e))?, handle.clone(), token)),
            None => None,
        };
        let (stop, mut stopped) = watch::channel(());
        let mut ended = stopped.clone();
        let tls = options.tls.map(TlsAcceptor::from);
        let greeting: Arc<str> = greeting(options.relay.is_some()).into();
        let carry = move || {
            runtime.block_on(async move {
                for listener in listeners {
                    tokio::spawn(front::serve(net.clone(), listener, tls.clone(), Arc::clone(&greeting)));
                }
                if let Some((listener, handle, guard)) = page_server {
                    tokio::spawn(page::serve(listener, handle, guard));
                }
                if let Some((listener, handle, token)) = gateway {
                    tokio::spawn(irc::serve(listener, handle, token));
                }
                tokio::spawn(net.dial_all());
                // The sender is gone, or says so: either way it is over.
                let _ = stopped.changed().await;
            });
        };
        let limits = options.relay;
        let keeper = targets.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            match runtime {
                Ok(runtime) => runtime.block_on(
                    Work { hub, tell, targets: keeper, limits, links: HashMap::new() }.run(inbox, &mut ended),
                ),
                Err(error) => tracing::error!(%error, "the chat's hub cannot start"),
            }
        };
        let threads = vec![
            thread::Builder::new().name("aegis-chat-net".to_owned()).spawn(carry)?,
            thread::Builder::new().name("aegis-chat".to_owned()).spawn(run)?,
        ];
        Ok(Self { handle, targets, stop: Some(stop), threads })
    }

    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Who is in the mesh: this node's own addresses, those of others, and what each is called.
    pub fn set_neighbours(&self, own: Vec<IpAddr>, neighbours: BTreeMap<IpAddr, String>) {
        self.targets.send_if_modified(|t| {
            let changed = t.neighbours != neighbours || t.own != own;
            (t.own, t.neighbours) = (own, neighbours);
            changed
        });
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the chat has panicked");
            }
        }
    }
}

fn greeting(is_relay: bool) -> &'static str {
    if is_relay {
        "This is a relay of AegisRay's chat: it keeps messages for who is away, for up to 7 days.\n\
         To use it, paste its URL under Peers, Manual Override, or: aegisray chat add-relay URL\n"
    } else {
        "AegisRay's chat\n"
    }
}

struct Work {
    hub: Hub,
    tell: watch::Sender<u64>,
    targets: watch::Sender<Targets>,
    limits: Option<Limits>,
    links: HashMap<LinkId, (mpsc::UnboundedSender<Outgoing>, Load)>,
}

impl Work {
    async fn run(mut self, mut inbox: mpsc::Receiver<ToHub>, ended: &mut watch::Receiver<()>) {
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut sweep = time::interval(relay::SWEEP);
        let mut room = time::interval(relay::MAKE_ROOM);
        loop {
            let mut is_tick = false;
            let first = tokio::select! {
                biased;
                _ = ended.changed() => return,
                _ = tick.tick() => {
                    is_tick = true;
                    None
                }
                _ = sweep.tick(), if self.limits.is_some() => {
                    self.keep_limits(true);
                    None
                }
                _ = room.tick(), if self.limits.is_some() => {
                    self.keep_limits(false);
                    None
                }
                () = std::future::ready(()), if self.hub.is_behind() => inbox.try_recv().ok(),
                first = inbox.recv() => match first {
                    Some(first) => Some(first),
                    None => return,
                },
            };
            let mut calls = Vec::new();
            let mut inputs = Vec::new();
            let mut places = Vec::new();
            let mut next = first;
            while let Some(item) = next {
                match item {
                    ToHub::Opened(input, outbox) => {
                        if let Input::Connected { link, load, .. } = &input {
                            self.links.insert(*link, (outbox, load.clone()));
                        }
                        inputs.push(input);
                    }
                    ToHub::Input(input, place) => {
                        inputs.push(input);
                        places.push(place);
                    }
                    ToHub::Call(request, answer) => calls.push((request, answer)),
                }
                next = if inputs.len() + calls.len() < TOGETHER { inbox.try_recv().ok() } else { None };
            }
            self.step(inputs, calls, is_tick);
        }
    }

    fn step(&mut self, inputs: Vec<Input>, calls: Vec<(Request, oneshot::Sender<Answer>)>, is_tick: bool) {
        let now_ms = now_ms();
        let ended: Vec<LinkId> =
            inputs.iter().filter_map(|i| if let Input::Disconnected(link) = i { Some(*link) } else { None }).collect();
        let mut done = self.hub.handle(now_ms, inputs);
        for link in ended {
            self.links.remove(&link);
        }
        if is_tick {
            self.drop_hogs();
        }
        if is_tick && let Ok(outputs) = &mut done {
            let targets = self.targets.borrow();
            self.hub.addresses.clone_from(&targets.own);
            // Who came before the mesh had told what they are called.
            for link in self.hub.links.all.values_mut() {
                if let Some(name) = link.name.parse().ok().and_then(|ip: IpAddr| targets.neighbours.get(&ip)) {
                    link.name.clone_from(name);
                }
            }
            drop(targets);
            match self.hub.tick(now_ms) {
                Ok(more) => outputs.extend(more),
                Err(e) => done = Err(e),
            }
        }
        for (request, answer) in calls {
            let reply = self.hub.request(now_ms, request);
            // Who asked may be gone.
            let _ = answer.send(reply);
            match (&mut done, self.hub.handle(now_ms, Vec::new())) {
                (Ok(outputs), Ok(more)) => outputs.extend(more),
                (_, Err(e)) => done = Err(e),
                _ => {}
            }
        }
        match done {
            Ok(outputs) => self.carry_out(outputs),
            Err(error) => {
                tracing::error!(%error, "the chat's database");
                // What came was not confirmed: whoever brought it compares again.
                self.links.clear();
            }
        }
        self.targets.send_if_modified(|t| {
            let changed = !t.relays.iter().eq(&self.hub.relays);
            if changed {
                t.relays = self.hub.relays.iter().cloned().collect();
            }
            changed
        });
        let last = self.hub.last_event();
        self.tell.send_if_modified(|n| std::mem::replace(n, last) != last);
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(link, frame) => {
                    if let Some((outbox, _)) = self.links.get(&link) {
                        // Where nobody listens any more it is not missed.
                        let _ = outbox.send(frame);
                    }
                }
                Output::Close(link, why) => {
                    tracing::debug!(link, why, "a link of the chat is closed");
                    self.links.remove(&link);
                }
            }
        }
    }

    /// Ends links on which most waits, until what waits is not too much: they compare when they are back.
    fn drop_hogs(&mut self) {
        let mut over = self.links.values().next().map_or(0, |(_, load)| load.too_much());
        if over == 0 {
            return;
        }
        let mut all: Vec<(usize, LinkId)> = self.links.iter().map(|(id, (_, load))| (load.own(), *id)).collect();
        all.sort_unstable();
        while over > 0
            && let Some((own, link)) = all.pop()
        {
            tracing::debug!(link, own, "a link of the chat is closed: it does not read");
            if let Some((_, load)) = self.links.remove(&link) {
                load.cut();
            }
            over = over.saturating_sub(own);
        }
    }

    fn keep_limits(&mut self, too_old: bool) {
        let Some(limits) = &self.limits else { return };
        let store = &self.hub.engine.store;
        let done = if too_old { relay::sweep(store, limits, now_ms()) } else { relay::make_room(store, limits) };
        match done {
            Ok(0) => {}
            Ok(n) => tracing::info!(messages = n, "deleted"),
            Err(error) => tracing::error!(%error, "cannot delete what is too old or too much"),
        }
    }
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
