//! What the daemon learns of the network around it: addresses of names, where others see this node, ports that routers
//! and servers lend, and ways past a blocked UDP.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::{
    fallback::Fallback,
    lifetime::LifetimeMeter,
    mapping::PortMapper,
    reflexive::Reflexive,
    resolve::{self, Servers},
    turn::{self, TurnClient},
};
use crate::{
    config::Config,
    dataplane::{Counters, Shared},
    node::Node,
    stealth::Dialer,
    types::Instant,
    wire,
};

/// How long the router may take to take its port back when the daemon stops.
const UNMAP_TIME: Duration = Duration::from_millis(800);

/// What tasks and threads find out.
pub(super) enum News {
    Bootstrap(Vec<SocketAddr>),
    StunServers(Vec<SocketAddr>),
    TurnServers(Vec<SocketAddr>),
    /// The public address that the router keeps for this node; `None`: it does no more.
    Mapped(Option<SocketAddr>),
    /// A stream was opened, with this path.
    Opened(SocketAddr),
    /// What the NAT before this node remembers of idle flows, measured in the network of that number.
    Lifetime(u32, Option<Duration>),
}

pub(super) struct Outside {
    shared: Arc<Shared>,
    reflexive: Reflexive,
    fallback: Fallback,
    turn: Option<TurnClient>,
    mapper: Option<PortMapper>,
    mapped: Option<SocketAddr>,
    lifetime: LifetimeMeter,
}

impl Outside {
    /// Starts to look around. What is found is to be handed to [`Self::handle`].
    pub fn start(
        config: &Config,
        node: &Node,
        shared: &Arc<Shared>,
        dialer: Option<Dialer>,
        servers: &Servers,
    ) -> (Self, UnboundedReceiver<News>) {
        let (tell, news) = mpsc::unbounded_channel();
        let resolve = |names: Vec<String>, what| tokio::spawn(resolve::run(servers.clone(), names, tell.clone(), what));
        resolve(config.bootstrap.clone(), News::Bootstrap);
        resolve(config.stun_servers.clone(), News::StunServers);
        if let Some(turn) = &config.turn {
            resolve(vec![turn.server.clone()], News::TurnServers);
        }
        let port = shared.socket().local_addr().ok().filter(|_| config.port_mapping).map(|a| a.port());
        let outside = Self {
            shared: Arc::clone(shared),
            reflexive: Reflexive::new(node.network().gate().clone()),
            fallback: Fallback::new(config, dialer, tell.clone()),
            turn: config.turn.clone().map(TurnClient::new),
            mapper: port.and_then(|port| PortMapper::start(port, tell.clone())),
            mapped: None,
            lifetime: LifetimeMeter::new(node.network().gate().clone(), tell),
        };
        (outside, news)
    }

    pub fn handle(&mut self, now: Instant, node: &mut Node, news: News) {
        match news {
            News::Bootstrap(addresses) => {
                node.set_bootstrap(now, &addresses);
                self.fallback.set_addresses(addresses);
            }
            News::StunServers(servers) => self.reflexive.set_servers(servers),
            News::TurnServers(servers) => {
                if let Some(turn) = &mut self.turn {
                    turn.set_server(&self.shared.sockets, &servers);
                }
            }
            News::Mapped(external) => {
                if let Some(external) = external.filter(|_| external != self.mapped) {
                    tracing::info!(%external, "the router keeps a public port for this node");
                }
                self.mapped = external;
                node.set_mapped_endpoint(now, external);
            }
            News::Opened(path) => node.try_path(now, path),
            News::Lifetime(network, lifetime) => {
                if self.lifetime.is_current(network) {
                    node.set_flow_lifetime(lifetime);
                }
            }
        }
    }

    /// To be called every second.
    pub fn tick(&mut self, now: Instant, node: &mut Node) {
        self.fallback.tick(now, &self.shared, node);
        self.reflexive.tick(self.shared.socket());
        self.lifetime.tick();
        if let Some(turn) = &mut self.turn {
            turn.tick(&self.shared.sockets, &node.places_of_others(turn::MAX_PEERS));
            node.set_relayed_endpoint(now, turn.relayed());
        }
        self.shared.sockets.sources.keep(&node.places_in_use());
        // Sockets that no attempt and no link needs any more.
        if self.shared.sockets.extra() > 0 {
            self.shared.sockets.keep(&node.sockets_in_use(now));
        }
    }

    /// The network changed: what was learned of it may be void.
    pub fn network_changed(&mut self) {
        self.reflexive.ask_again();
        self.lifetime.again();
        if let Some(mapper) = &self.mapper {
            mapper.again();
        }
    }

    /// A peer answers STUN.
    pub fn add_stun_server(&mut self, addr: SocketAddr) {
        self.lifetime.set_server(addr);
        self.reflexive.add_peer(self.shared.socket(), addr);
    }

    /// A server saw this node at `mapped`.
    pub fn note_reflexive(
        &mut self,
        now: Instant,
        node: &mut Node,
        from: SocketAddr,
        id: [u8; 12],
        mapped: SocketAddr,
    ) {
        if let Some(configured) = self.reflexive.answered(from, id) {
            node.note_reflexive(now, from, mapped, configured);
        }
    }

    /// The TURN server answered.
    pub fn handle_turn(&mut self, message: wire::turn::Message) {
        if let Some(turn) = &mut self.turn
            && !turn.handle(&self.shared.sockets, message)
        {
            Counters::add(&self.shared.counters.turn_ignored, 1);
        }
    }

    /// Gives back what was lent.
    pub async fn stop(self) {
        if let Some(mut turn) = self.turn {
            turn.release(&self.shared.sockets);
        }
        if let Some(mapper) = self.mapper {
            mapper.stop(UNMAP_TIME).await;
        }
    }
}
