//! The thread that holds handshakes. Each costs some hundred microseconds, whoever asks for it; probes and routing wait
//! for none of them.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use super::{Input, Shared};
use crate::{
    node::{Order, Output, Porter, forward::Drop},
    session::{Counters, Event, Outgoing, Via},
    transport::Heard,
    types::{Instant, NodeId, UnixTime, path::Local},
    wire::packet::HANDSHAKE,
};

/// Handshake datagrams that may wait. All of them carry a sound mac1.
const MAX_HANDSHAKES: usize = 1024;
/// Cookies that may wait: nothing shows yet that they answer anything.
const MAX_COOKIES: usize = 64;
/// The clocks of what waits for no datagram.
const LONGEST: Duration = Duration::from_secs(1);

/// How a datagram came.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub via: Via,
    /// Who relayed it.
    pub neighbor: Option<NodeId>,
    /// The address of this host that it came to, if it came straight and that is known.
    pub local: Option<Local>,
    /// Index of the interface; 0: unknown.
    pub interface: u32,
}

impl Way {
    /// The peer of a handshake is who it says it is, and got our answer where it is.
    fn heard(&self, event: &Event) -> Option<Heard> {
        let (Event::Established { outcome, .. }, Some(local)) = (event, self.local) else { return None };
        let (path, interface, by) = (outcome.transport.answered?, self.interface, outcome.transport.peer);
        (self.via == Via::Direct(path)).then_some(Heard { path, local, interface, by })
    }
}

#[derive(Default)]
struct Waiting {
    /// What the node has decided; bounded by what it begins and keeps.
    orders: VecDeque<Order>,
    handshakes: VecDeque<Come>,
    cookies: VecDeque<Come>,
    counted: (Counters, usize),
}

/// A datagram as it came.
struct Come {
    way: Way,
    bytes: Vec<u8>,
}

/// What waits for the thread.
#[derive(Default)]
pub struct Handshakes {
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

impl Handshakes {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that the node has decided.
    pub fn order(&self, order: Order) {
        self.lock().orders.push_back(order);
        self.ready.notify_one();
    }

    /// A handshake or a cookie. False: there is no room.
    fn put(&self, way: Way, bytes: &[u8]) -> bool {
        let mut waiting = self.lock();
        let is_handshake = bytes.first() == Some(&HANDSHAKE);
        let queue = if is_handshake { &mut waiting.handshakes } else { &mut waiting.cookies };
        let has_room = queue.len() < if is_handshake { MAX_HANDSHAKES } else { MAX_COOKIES };
        if has_room {
            queue.push_back(Come { way, bytes: bytes.to_vec() });
            self.ready.notify_one();
        }
        has_room
    }

    /// What the thread has counted, and how many handshakes it holds.
    #[must_use]
    pub fn counters(&self) -> (Counters, usize) {
        self.lock().counted
    }
}

/// Runs a porter as long as the process lives; `now` reads the node's clock, and `keep` keeps what is to be remembered over a
/// restart.
fn run(shared: &Shared, mut porter: Porter, now: &dyn Fn() -> Instant, keep: &mut dyn FnMut(u64)) {
    loop {
        let wait = porter.poll_timeout().map_or(LONGEST, |at| at.since(now())).min(LONGEST);
        let mut waiting = shared.handshakes.lock();
        waiting.counted = porter.counters();
        let is_idle = |w: &mut Waiting| w.orders.is_empty() && w.handshakes.is_empty() && w.cookies.is_empty();
        let (mut waiting, _) =
            shared.handshakes.ready.wait_timeout_while(waiting, wait, is_idle).unwrap_or_else(PoisonError::into_inner);
        let orders = std::mem::take(&mut waiting.orders);
        let come = waiting.handshakes.pop_front().into_iter().chain(waiting.cookies.pop_front());
        let come: Vec<Come> = come.collect();
        drop(waiting);
        orders.into_iter().for_each(|order| porter.obey(now(), order));
        let mut goes_on = carry_out(shared, &mut porter, None, keep);
        for Come { way, bytes } in come {
            porter.handle_datagram(now(), unix_now(), way.via, way.neighbor, &bytes);
            goes_on &= carry_out(shared, &mut porter, Some(way), keep);
        }
        if porter.poll_timeout().is_some_and(|at| at <= now()) {
            porter.handle_timeout(now());
            goes_on &= carry_out(shared, &mut porter, None, keep);
        }
        if !goes_on {
            return;
        }
    }
}

/// Does what the porter wants after something has come this way, if something has. What answers it leaves from the address
/// that was asked. False: nobody listens any more.
fn carry_out(shared: &Shared, porter: &mut Porter, way: Option<Way>, keep: &mut dyn FnMut(u64)) -> bool {
    let sockets = &shared.sockets;
    while let Some(output) = porter.poll() {
        match output {
            Output::Seen(key) => keep(key),
            Output::Send(Outgoing { via: Via::Direct(to), bytes, .. }) => {
                let asked = way.filter(|way| way.via == Via::Direct(to)).and_then(|way| way.local);
                if sockets.send_from(asked.or_else(|| sockets.sources.of(to)), to, &bytes).is_err() {
                    shared.tell(Input::SendError(to));
                }
            }
            // The node is to know of a session before anything comes on it: what is sent afterwards makes it come.
            other => {
                if let (Output::Event(event), Some(way)) = (&other, way)
                    && let Some(heard) = way.heard(event)
                {
                    sockets.sources.heard(&heard, || true);
                }
                if shared.to_control.blocking_send(Input::Porter(other)).is_err() {
                    return false;
                }
            }
        }
    }
    true
}

impl Shared {
    /// Hands on a handshake or a cookie, if it is worth it.
    pub(super) fn take_handshake(&self, way: Way, bytes: &[u8]) {
        let is_sound = bytes.first() != Some(&HANDSHAKE) || crate::session::has_mac1(&self.gate, bytes);
        if !is_sound {
            super::Counters::add(&self.counters.foreign_handshakes, 1);
        } else if !self.handshakes.put(way, bytes) {
            self.counters.drop(Drop::QueueFull);
        }
    }
}

/// Starts the thread. `now` reads the node's clock, and `keep` keeps what is to be remembered over a restart.
pub fn start(
    shared: &Arc<Shared>,
    porter: Porter,
    now: impl Fn() -> Instant + Send + 'static,
    mut keep: impl FnMut(u64) + Send + 'static,
) -> std::io::Result<()> {
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("aegis-gate".to_owned()).stack_size(512 << 10);
    thread.spawn(move || run(&shared, porter, &now, &mut keep))?;
    Ok(())
}

fn unix_now() -> UnixTime {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
