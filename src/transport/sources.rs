//! From which address of this host datagrams leave. A host may have many, and a stateful NAT or firewall before the peer
//! lets only that one in which the peer has sent to: so each path's datagrams leave from where those of its peer come to.
//! A path on which nothing authentic has come is left to routing.

use std::{
    collections::{HashSet, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};

use crate::types::{
    NodeId, Sharded,
    path::{self, Local},
};

/// Paths that are remembered although no link uses them yet: a member may send from as many addresses as it likes.
const MAX_YOUNG: usize = 1024;
/// An address that the system refused to send from is not tried again for so long.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// Whether an error in sending may be due to the source: the address is none of this host's any more, or no route leads on
/// from it.
pub(super) fn may_be_at_fault(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENODEV)
    )
}

/// How an authenticated datagram came.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    pub path: SocketAddr,
    /// Where it came to.
    pub local: Local,
    /// Index of the interface on which it arrived.
    pub interface: u32,
    /// Whose it is.
    pub by: NodeId,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    local: Local,
    interface: u32,
    by: NodeId,
    /// Until when the system's refusal counts, if it has refused.
    refused: Option<Instant>,
}

type Known = Sharded<SocketAddr, Entry>;

/// The addresses of this host by path.
#[derive(Default)]
pub struct Sources {
    known: ArcSwap<Known>,
    /// Held while something changes: the paths that no link was known to use when they were heard first.
    young: Mutex<VecDeque<SocketAddr>>,
    version: AtomicU64,
}

/// What is known at one moment.
pub(super) struct View(Guard<Arc<Known>>);

impl View {
    /// The address that datagrams to `to` leave from; `None`: routing chooses.
    pub fn of(&self, to: SocketAddr) -> Option<Local> {
        self.0.get(&to).filter(|entry| entry.refused.is_none()).map(|entry| entry.local)
    }
}

impl Sources {
    pub(super) fn view(&self) -> View {
        View(self.known.load())
    }

    /// The address that datagrams to `to` leave from; `None`: routing chooses.
    #[must_use]
    pub fn of(&self, to: SocketAddr) -> Option<Local> {
        self.view().of(to)
    }

    /// Changes whenever anything does.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// An authenticated datagram came. `is_there`: its node is known to be reached by this path. Without that it does not
    /// change what another node's datagrams have told: anybody can write another's address as a sender's.
    pub fn heard(&self, heard: &Heard, is_there: impl Fn() -> bool) {
        let is_news = |entry: &Entry| {
            let is_same = entry.local == heard.local;
            let is_over = entry.refused.is_some_and(|until| Instant::now() >= until);
            (!is_same || is_over) && (entry.by == heard.by || is_there())
        };
        if path::socket_of(heard.path) >= path::TURN || self.known.load().get(&heard.path).is_some_and(|e| !is_news(e))
        {
            return;
        }
        self.change(|known, young| {
            if known.get(&heard.path).is_none() {
                if young.len() >= MAX_YOUNG
                    && let Some(oldest) = young.pop_front()
                {
                    known.set(oldest, None);
                }
                young.push_back(heard.path);
            }
            let Heard { local, interface, by, .. } = *heard;
            known.set(heard.path, Some(Entry { local, interface, by, refused: None }));
            true
        });
    }

    /// The system refused to send to `to` from this address, and let it leave from another one.
    pub(super) fn refused(&self, to: SocketAddr, local: Local) {
        self.change(|known, _| {
            let Some(entry) = known.get(&to).copied().filter(|e| e.local == local) else { return false };
            known.set(to, Some(Entry { refused: Some(Instant::now() + REFUSED_FOR), ..entry }));
            true
        });
    }

    /// Forgets what came by an interface that is down: another way leads on, from another address.
    pub fn interface_down(&self, interface: u32) {
        self.change(|known, _| forget(known, |_, entry| entry.interface == interface));
    }

    /// Forgets all paths but those in use.
    pub fn keep(&self, in_use: &HashSet<SocketAddr>) {
        self.change(|known, young| {
            young.clear();
            forget(known, |path, _| !in_use.contains(&path))
        });
    }

    /// Has `change` make another table; it tells whether it did.
    fn change(&self, change: impl FnOnce(&mut Known, &mut VecDeque<SocketAddr>) -> bool) {
        let mut young = self.young.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = Known::clone(&self.known.load());
        if change(&mut known, &mut young) {
            self.known.store(Arc::new(known));
            self.version.fetch_add(1, Ordering::Release);
        }
    }
}

/// Whether anything was forgotten.
fn forget(known: &mut Known, goes: impl Fn(SocketAddr, &Entry) -> bool) -> bool {
    let gone: Vec<_> = known.iter().filter(|(path, entry)| goes(**path, entry)).map(|(path, _)| *path).collect();
    gone.iter().for_each(|path| known.set(*path, None));
    !gone.is_empty()
}
