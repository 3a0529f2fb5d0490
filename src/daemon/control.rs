//! The control loop: feeds the node with what happens and carries out what it decides.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time,
};

use super::{
    SetLevel,
    access::AccessRules,
    border::Border,
    calls::Pending,
    gateway::Gateway,
    keeper::Keeper,
    lan::Lan,
    names::NameService,
    outside::{News, Outside},
    overlap,
    resolv::HostResolver,
    retired::{self, Retired},
    routes::MeshRoutes,
    state::{Saving, StateFile},
    tunnel::Tunnel,
    unix_now,
};
use crate::{
    api::Call,
    chatd::Service,
    config::{Config, HostNames},
    dataplane::{Answer, Input, Shared},
    host::{self, LinkChange, Monitor, Netlink},
    identity::{Refusal, keyfile},
    node::{Event, Node, Source, Transmit},
    portal::Portal,
    types::{Instant, IpPrefix, NodeId, utc},
};

const BEACON: Duration = Duration::from_secs(30);
/// Items taken from the data plane before the node's timers are looked at again.
const BURST: usize = 256;

/// This process' monotonic clock as the node's [`Instant`].
#[derive(Clone, Copy)]
pub(super) struct Clock {
    start: std::time::Instant,
}

impl Clock {
    pub fn new() -> Self {
        Self { start: std::time::Instant::now() }
    }

    pub fn now(&self) -> Instant {
        Instant(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn at(&self, instant: Instant) -> time::Instant {
        time::Instant::from_std(self.start + Duration::from_micros(instant.0))
    }
}

/// What is set up on the host before the loop runs.
pub(super) struct Parts {
    pub keeper: Arc<Keeper>,
    pub border: Border,
    pub tunnel: Tunnel,
    pub gateway: Gateway,
    pub access: AccessRules,
    pub host_resolver: HostResolver,
    pub portal: Option<Arc<Portal>>,
    pub chat: Option<Service>,
    pub set_level: SetLevel,
}

pub(super) struct Control {
    pub config: Config,
    pub node: Node,
    pub shared: Arc<Shared>,
    pub clock: Clock,
    pub pending: Pending,
    /// Tables that threads may still send by.
    retired: Retired,
    pub stopping: bool,
    /// Whoever stops it wants the host to be as it was, the kill switch included.
    pub opens: bool,
    files: StateFile,
    pub addresses: [IpAddr; 2],
    pub routes: MeshRoutes,
    /// The exit in use.
    exit: Option<NodeId>,
    pub members_changed: bool,
    pub names_error: Option<String>,
    /// When this host's network has changed, until the servers are looked for.
    pub names_due: Option<time::Instant>,
    saving: Saving,
    refusals: HashMap<std::mem::Discriminant<Refusal>, (u64, std::time::Instant)>,
    wall: (std::time::Instant, SystemTime),
    outside: Outside,
    pub keeper: Arc<Keeper>,
    pub border: Border,
    pub tunnel: Tunnel,
    pub gateway: Gateway,
    pub access: AccessRules,
    pub portal: Option<Arc<Portal>>,
    pub chat: Option<Service>,
    pub set_level: SetLevel,
    pub host_resolver: HostResolver,
    pub names: Option<NameService>,
    /// Whether the mesh's interface can have an IPv6 address.
    pub has_ipv6: bool,
    /// What of this host stands in the mesh's way.
    pub overlaps: Vec<String>,
    /// The configuration's text at the start.
    pub started_with: String,
    news: mpsc::UnboundedReceiver<News>,
}

impl Control {
    pub fn new(
        config: Config,
        node: Node,
        shared: Arc<Shared>,
        files: StateFile,
        clock: Clock,
        (outside, news): (Outside, mpsc::UnboundedReceiver<News>),
        Parts { keeper, border, tunnel, gateway, access, host_resolver, portal, chat, set_level }: Parts,
    ) -> Self {
        let addresses = node.addresses();
        let started_with = config.text.clone();
        let has_ipv6 = host::has_ipv6(&config.interface);
        let routes = MeshRoutes::new(&config.interface, &config.behind());
        Self {
            routes,
            config,
            node,
            shared,
            clock,
            pending: Pending::default(),
            retired: Retired::default(),
            stopping: false,
            opens: false,
            files,
            addresses,
            exit: None,
            members_changed: false,
            names_error: None,
            names_due: None,
            saving: Saving::default(),
            refusals: HashMap::new(),
            wall: (std::time::Instant::now(), SystemTime::now()),
            outside,
            keeper,
            border,
            tunnel,
            gateway,
            access,
            portal,
            chat,
            set_level,
            host_resolver,
            names: None,
            has_ipv6,
            overlaps: Vec::new(),
            started_with,
            news,
        }
    }

    pub async fn run(
        mut self,
        (mut inputs, mut answers): (mpsc::Receiver<Input>, mpsc::Receiver<Answer>),
        mut calls: mpsc::Receiver<Call>,
    ) {
        let mut second = time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut changes = watch_links();
        let mut lan = self.open_lan();
        let mut lan_buf = [0; 512];
        let mut beacon = time::interval(BEACON);
        beacon.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals else {
            tracing::error!("cannot listen for signals");
            return;
        };
        self.refresh_endpoints();
        if let Err(e) = host::drop_privileges() {
            tracing::warn!(error = %e, "cannot give up privileges that are no longer needed");
        }
        self.node.set_exit(self.clock.now(), self.config.exit.choice.clone());
        self.check_exit();
        self.serve_names();
        host::sd_notify("READY=1");
        let mut burst = Vec::with_capacity(BURST);
        while !self.stopping {
            self.carry_out();
            let now = self.clock.now();
            let wake = self.clock.at(self.node.poll_timeout(now));
            let save_at = self.saving.at.unwrap_or(wake + Duration::from_secs(3600));
            tokio::select! {
                biased;
                _ = terminate.recv() => self.stopping = true,
                _ = interrupt.recv() => self.stopping = true,
                _ = hangup.recv() => self.reload_and_log(),
                Some(call) = calls.recv() => self.handle_call(call),
                n = inputs.recv_many(&mut burst, BURST) => {
                    if n == 0 { break }
                    burst.drain(..).for_each(|input| self.handle_input(input));
                }
                Some(answer) = answers.recv() => self.handle_answer(answer),
                Some(change) = changes.recv() => self.handle_change(change),
                Some(news) = self.news.recv() => {
                    let now = self.clock.now();
                    self.outside.handle(now, &mut self.node, news);
                }
                _ = second.tick() => {
                    self.check_clock();
                    self.node.set_porter_counters(self.shared.handshakes.counters());
                    let now = self.clock.now();
                    self.outside.tick(now, &mut self.node);
                    self.follow_members();
                    self.follow_ipv6();
                    self.tunnel.follow_host();
                }
                Some(Ok((n, from))) = lan_receive(&lan, &mut lan_buf, &self.shared) => {
                    let now = self.clock.now();
                    self.node.handle_beacon(now, from, &lan_buf[..n]);
                }
                _ = beacon.tick() => self.send_beacon(&mut lan),
                () = time::sleep_until(save_at) => self.save(),
                () = time::sleep(retired::LOOK), if self.retired.has_ends() => {}
                () = time::sleep_until(self.pending.next_timeout(wake)) => {
                    self.pending.expire();
                    let now = self.clock.now();
                    self.node.handle_timeout(now);
                }
            }
            // The timer may be starved by a steady stream of inputs.
            let now = self.clock.now();
            if self.node.poll_timeout(now) <= now + Duration::from_micros(200) {
                self.node.handle_timeout(now);
            }
        }
        host::sd_notify("STOPPING=1");
        self.node.shutdown();
        self.carry_out();
        self.save();
        self.outside.stop().await;
        let fence = if self.opens { self.tunnel.release() } else { self.tunnel.end() };
        // What stays needs the daemon's own packets told from others'.
        let border = if self.tunnel.stands() && !self.opens { Ok(()) } else { self.border.stop() };
        for undone in [self.host_resolver.stop(), fence, border, self.gateway.stop(), self.access.stop()] {
            if let Err(error) = undone {
                tracing::error!(%error, "cannot put the host back as it was: the next start tries again");
            }
        }
        // Whoever asked for the end gets an answer.
        time::sleep(Duration::from_millis(10)).await;
        let _ = std::fs::remove_file(&self.config.socket);
        tracing::info!("stopped");
    }

    fn open_lan(&self) -> Option<Lan> {
        if !self.config.lan_discovery {
            return None;
        }
        Lan::open().inspect_err(|e| tracing::warn!(error = %e, "no LAN discovery")).ok()
    }

    fn handle_input(&mut self, input: Input) {
        let now = self.clock.now();
        input.looked_at();
        match input {
            Input::Frame { session, how, plaintext } => {
                self.node.handle_frame(now, &session, how, &plaintext);
                self.node.settle(now);
            }
            Input::Opened { session, how } => {
                self.node.handle_opened(now, &session, how);
                self.node.settle(now);
            }
            Input::Marked { session, how } => {
                self.node.handle_mark(now, &session, how);
                self.node.settle(now);
            }
            Input::Claimed { session, how, plaintext } => {
                self.node.handle_claimed(now, &session, how, &plaintext);
                self.node.settle(now);
            }
            Input::Porter(output) => self.node.handle_porter(now, output),
            Input::Packet(packet) => self.node.handle_tun(now, &packet),
            Input::Activity(session) => self.node.handle_activity(now, &session),
            Input::SendError(to) => self.node.handle_send_error(now, to),
        }
    }

    fn handle_answer(&mut self, answer: Answer) {
        let now = self.clock.now();
        match answer {
            Answer::Turn(message) => self.outside.handle_turn(message),
            Answer::Stun { from, id, mapped } => self.outside.note_reflexive(now, &mut self.node, from, id, mapped),
        }
    }

    fn handle_change(&mut self, change: LinkChange) {
        let now = self.clock.now();
        let (index, up) = match change {
            LinkChange::Interface { index, up } => (index, up),
            LinkChange::Address { index } => (index, true),
        };
        let ours = Netlink::open().and_then(|n| n.index(&self.config.interface)).unwrap_or(0);
        if index != ours {
            self.outside.network_changed();
            if !up {
                self.shared.sockets.sources.interface_down(index);
            }
            self.node.handle_interface(now, index, up);
            self.refresh_endpoints();
            // Another network has other servers; whoever finds them takes a moment.
            if self.config.names.as_ref().is_some_and(|n| n.host == HostNames::Resolvconf) {
                self.names_due = Some(time::Instant::now());
            }
        }
    }

    /// Others may come that use the same addresses.
    fn look_for_overlaps(&mut self) {
        let notes = overlap::notes(&self.config);
        notes.iter().filter(|note| !self.overlaps.contains(note)).for_each(|note| tracing::warn!("{note}"));
        self.overlaps = notes;
    }

    fn refresh_endpoints(&mut self) {
        self.look_for_overlaps();
        // Who is hidden can't be reached by datagrams.
        if self.config.is_hidden() {
            return;
        }
        let now = self.clock.now();
        let Ok(port) = self.shared.socket().local_addr().map(|a| a.port()) else { return };
        let (cidr, ula) = (self.node.network().cidr(), self.node.network().ula());
        let mut networks = host::interface_networks().unwrap_or_default();
        networks.retain(|n| n.interface != self.config.interface && !cidr.contains(n.ip) && !ula.contains(n.ip));
        if let Err(error) = self.tunnel.follow_networks() {
            tracing::warn!(%error, "the LAN's networks can't be reached past the tunnel (exit_options.lan)");
        }
        self.node.set_on_link(now, networks.iter().filter_map(|n| IpPrefix::new(n.ip, n.prefix_len)).collect());
        self.node.set_local_endpoints(now, networks.iter().map(|n| SocketAddr::new(n.ip, port)).collect());
    }

    fn send_beacon(&mut self, lan: &mut Option<Lan>) {
        let Some(lan) = lan else { return };
        let Ok(port) = self.shared.socket().local_addr().map(|a| a.port()) else { return };
        let mut interfaces = host::interface_addresses().unwrap_or_default();
        interfaces.retain(|(name, _)| *name != self.config.interface);
        let now = self.clock.now();
        lan.announce(&interfaces, |ip| self.node.beacon(now, SocketAddr::new(ip, port)));
    }

    /// After a suspend or a clock step, everything that was given up for a while is worth a try at once.
    fn check_clock(&mut self) {
        let now = self.clock.now();
        self.node.set_unix(now, unix_now());
        let (mono, wall) = (self.wall.0.elapsed(), self.wall.1.elapsed().unwrap_or_default());
        self.wall = (std::time::Instant::now(), SystemTime::now());
        if wall.abs_diff(mono) > Duration::from_secs(5) {
            tracing::info!(seconds = wall.abs_diff(mono).as_secs(), "the clock jumped: checking all links");
            self.node.handle_interface(now, 0, true);
        }
    }

    /// Publishes, sends and delivers what the node wants.
    fn carry_out(&mut self) {
        loop {
            while let Some(order) = self.node.poll_order() {
                self.shared.handshakes.order(order);
            }
            while let Some(mark) = self.node.poll_mark() {
                self.transmit(&mark);
            }
            if let Some(tables) = self.node.next_snapshot(&self.shared.tables.load()) {
                let before = self.shared.tables.swap(Arc::new(tables));
                self.retired.push(before, self.node.take_ends());
                self.members_changed = true;
                self.routes.follow(&self.border, self.node.announced_prefixes());
                let node = &self.node;
                self.routes.report(node.standbys(), |id| node.owners().display(id));
                self.check_exit();
            }
            if let Some(transmit) = self.node.poll_transmit() {
                self.transmit(&transmit);
            } else if let Some(event) = self.node.poll_event() {
                self.handle_event(event);
            } else {
                break;
            }
        }
        while let Some(ends) = self.retired.pop() {
            ends.iter().for_each(|end| self.transmit(end));
        }
    }

    /// Leads packets into the tunnel as the choice of an exit and what can be reached want it.
    pub fn follow_exit(&mut self) -> io::Result<()> {
        if self.node.exit_choice().is_off() {
            return self.tunnel.release();
        }
        self.tunnel.lead(self.node.exit().is_some())
    }

    fn check_exit(&mut self) {
        let exit = self.node.exit();
        if exit != self.exit && !self.node.exit_choice().is_off() {
            let name = exit.map_or("none can be reached".to_owned(), |id| self.name_of(&id));
            tracing::info!(exit = name, "the way out of the mesh");
        }
        self.exit = exit;
        if let Err(error) = self.follow_exit() {
            tracing::error!(%error, "cannot lead packets into the tunnel (exit)");
        }
    }

    fn transmit(&mut self, transmit: &Transmit) {
        let (sockets, Transmit { to, bytes, .. }) = (&self.shared.sockets, transmit);
        let sent = match transmit.source {
            _ if transmit.whole => {
                // One that doesn't even fit the first cable is as good as lost.
                let _ = sockets.send_whole(*to, bytes);
                return;
            }
            Source::Path => sockets.send(*to, bytes),
            Source::Asked(local) => sockets.send_from(Some(local), *to, bytes),
            Source::Any => sockets.send_in_doubt(*to, bytes),
        };
        if let Err(error) = sent {
            tracing::trace!(%to, %error, "cannot send");
            let now = self.clock.now();
            self.node.handle_send_error(now, *to);
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Deliver(packet) => self.shared.deliver(&packet),
            Event::AddressesChanged => self.change_addresses(),
            Event::StateChanged => self.saving.hurry(time::Instant::now()),
            Event::PeersChanged => self.saving.wait(time::Instant::now()),
            Event::EchoReply { id, from } => {
                let name = self.name_of(&from);
                self.pending.pong(id, &from, name);
            }
            Event::TraceReply { id, from, next, metric, link_rtt } => {
                let next_name = next.map(|n| self.name_of(&n)).unwrap_or_default();
                self.pending.step(id, &from, next, next_name, metric, link_rtt);
            }
            Event::StunServer(addr) => self.outside.add_stun_server(addr),
            Event::Certified(certificate) => self.keep_certificate(certificate),
            Event::LinkUp { peer, addr } => {
                tracing::info!(peer = self.name_of(&peer), %addr, "link up");
            }
            Event::LinkDown { peer, reason } => {
                tracing::info!(peer = self.name_of(&peer), reason, "link down");
            }
            Event::CannotAnnounce(refusal) => {
                tracing::error!(reason = %refusal, "others would refuse what this node would say of itself: it says what it said before");
            }
            Event::AddressContested { address, by } => {
                let other = self.name_of(&by);
                let advice = "certify the address for one of them (`aegisray cert issue --address`)";
                tracing::warn!(%address, other, "another node claims this node's mesh address too, which keeps it: {advice}");
            }
            Event::Refused(refusal) => self.log_refusal(refusal),
        }
    }

    /// One line per kind of refusal and minute; the counters have them all.
    fn log_refusal(&mut self, refusal: Refusal) {
        let text = refusal.to_string();
        let entry = self
            .refusals
            .entry(std::mem::discriminant(&refusal))
            .or_insert((0, std::time::Instant::now() - Duration::from_secs(60)));
        entry.0 += 1;
        if entry.1.elapsed() >= Duration::from_secs(60) {
            if refusal == Refusal::ExpiredCertificate {
                let clock = utc(unix_now());
                tracing::warn!(
                    reason = text,
                    times = entry.0,
                    clock,
                    "refused a node or an announcement: is this machine's clock right?"
                );
            } else {
                tracing::warn!(reason = text, times = entry.0, "refused a node or an announcement");
            }
            *entry = (0, std::time::Instant::now());
        }
    }

    fn keep_certificate(&mut self, certificate: Vec<u8>) {
        let pem = keyfile::pem_encode("AEGISRAY CERTIFICATE", &certificate);
        match keyfile::write_secret(&self.config.certificate_file, pem.as_bytes()) {
            Ok(()) => tracing::info!(file = %self.config.certificate_file.display(), "certified by the network"),
            Err(e) => {
                tracing::error!(error = %e, "cannot keep the certificate; it is in use until the daemon stops");
                return;
            }
        }
        // It has served.
        if let Some(file) = &self.config.admission_file
            && let Err(error) = std::fs::remove_file(file)
        {
            tracing::warn!(file = %file.display(), %error, "cannot remove the used invite");
        }
    }

    fn change_addresses(&mut self) {
        let new = self.node.addresses();
        let networks = [self.node.network().cidr(), self.node.network().ula()];
        self.keeper.keep_addresses(new.into_iter().zip(networks.map(|n| n.prefix_len())).collect());
        let Ok(mut netlink) = Netlink::open() else { return };
        for ((old, new), network) in self.addresses.iter().zip(&new).zip(networks) {
            if old == new {
                continue;
            }
            tracing::info!(%old, %new, "this node's mesh address changed");
            if let Err(e) = netlink.add_address(&self.config.interface, *new, network.prefix_len()) {
                tracing::error!(error = %e, address = %new, "cannot set the mesh address");
            }
            let _ = netlink.remove_address(&self.config.interface, *old, network.prefix_len());
            // Where secondary addresses aren't promoted (a sysctl), the kernel takes away all of a network with the first of them.
            if let Err(e) = netlink.add_address(&self.config.interface, *new, network.prefix_len()) {
                tracing::error!(error = %e, address = %new, "the mesh address is gone again");
            }
        }
        self.addresses = new;
        self.serve_names();
    }

    fn save(&mut self) {
        self.saving.done(time::Instant::now());
        if let Err(e) = self.files.save(&self.node, self.clock.now()) {
            tracing::warn!(error = %e, "cannot save the state");
        }
    }

    /// What a node is called, for people.
    pub fn name_of(&self, id: &NodeId) -> String {
        self.node.owners().display(id)
    }
}

async fn lan_receive(
    lan: &Option<Lan>,
    buf: &mut [u8],
    shared: &Shared,
) -> Option<std::io::Result<(usize, SocketAddr)>> {
    match lan {
        Some(lan) => Some(lan.receive(buf, &shared.counters).await),
        None => std::future::pending().await,
    }
}

/// News of interfaces from a thread that waits for them.
fn watch_links() -> mpsc::UnboundedReceiver<LinkChange> {
    let (changes, receiver) = mpsc::unbounded_channel();
    let started = Monitor::open().and_then(|mut monitor| {
        std::thread::Builder::new().name("aegis-links".to_owned()).stack_size(256 << 10).spawn(move || {
            while let Ok(news) = monitor.wait() {
                for change in news {
                    if changes.send(change).is_err() {
                        return;
                    }
                }
            }
        })
    });
    if let Err(e) = started {
        tracing::warn!(error = %e, "no news of interfaces: link failures are found by probes alone");
    }
    receiver
}
