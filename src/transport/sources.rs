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

    /// An authenticated datagram came. `is_there`: its node is known to be reached by this path. Without that it begins nothing, and
    /// does not change what another node's datagrams have told: anybody can write another's address as a sender's.
    pub fn heard(&self, heard: &Heard, is_there: impl Fn() -> bool) {
        let is_news = |entry: &Entry| {
            let is_same = entry.local == heard.local;
            let is_over = entry.refused.is_some_and(|until| Instant::now() >= until);
            (!is_same || is_over) && (entry.by == heard.by || is_there())
        };
        let counts = || self.known.load().get(&heard.path).map_or_else(&is_there, is_news);
        if path::socket_of(heard.path) >= path::TURN || !counts() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Datagrams, Offloads, SendQueue, Sockets, UdpTransport};

    const ME: NodeId = NodeId([1; 32]);
    const OTHER: NodeId = NodeId([2; 32]);

    fn local(ip: &str) -> Local {
        Local::new(ip.parse().unwrap(), 0)
    }

    fn path(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn heard(sources: &Sources, path: SocketAddr, ip: &str, by: NodeId, is_there: bool) {
        sources.heard(&Heard { path, local: local(ip), interface: 7, by }, || is_there);
    }

    #[test]
    fn a_path_leaves_from_where_its_own_node_was_heard_last() {
        let sources = Sources::default();
        assert_eq!(sources.of(path(1)), None, "routing chooses");
        heard(&sources, path(1), "10.0.0.3", OTHER, false);
        assert_eq!(sources.of(path(1)), None, "a forged sender begins nothing");
        heard(&sources, path(1), "10.0.0.1", ME, true);
        heard(&sources, path(1), "10.0.0.2", ME, false);
        assert_eq!(sources.of(path(1)), Some(local("10.0.0.2")));
        let before = sources.version();
        heard(&sources, path(1), "10.0.0.1", OTHER, false);
        assert_eq!((sources.of(path(1)), sources.version()), (Some(local("10.0.0.2")), before), "a forged sender");
        heard(&sources, path(1), "10.0.0.1", OTHER, true);
        assert_eq!(sources.of(path(1)), Some(local("10.0.0.1")), "it is there now");
        assert_ne!(sources.version(), before);
        for number in [path::TURN, path::FIRST_STREAM] {
            heard(&sources, path::through(path(1), number), "10.0.0.1", ME, true);
            assert_eq!(sources.of(path::through(path(1), number)), None);
        }
        sources.interface_down(8);
        assert!(sources.of(path(1)).is_some());
        sources.interface_down(7);
        assert_eq!(sources.of(path(1)), None);
    }

    #[test]
    fn what_the_system_refused_rests_and_another_address_counts_at_once() {
        let sources = Sources::default();
        heard(&sources, path(1), "10.0.0.1", ME, true);
        sources.refused(path(1), local("10.0.0.2"));
        assert!(sources.of(path(1)).is_some(), "it was of another one");
        sources.refused(path(1), local("10.0.0.1"));
        heard(&sources, path(1), "10.0.0.1", ME, true);
        assert_eq!(sources.of(path(1)), None);
        heard(&sources, path(1), "10.0.0.2", ME, false);
        assert_eq!(sources.of(path(1)), Some(local("10.0.0.2")));
        sources.refused(path(1), local("10.0.0.2"));
        std::thread::sleep(REFUSED_FOR);
        heard(&sources, path(1), "10.0.0.2", ME, false);
        assert_eq!(sources.of(path(1)), Some(local("10.0.0.2")), "it is back");
    }

    #[test]
    fn a_member_that_sends_from_everywhere_displaces_no_link() {
        let sources = Sources::default();
        heard(&sources, path(1), "10.0.0.1", ME, true);
        sources.keep(&[path(1)].into());
        for port in 2..5000 {
            heard(&sources, path(port), "10.0.0.1", OTHER, port % 2 == 0);
        }
        assert!(
            sources.of(path(1)).is_some()
                && sources.of(path(4998)).is_some()
                && sources.of(path(4999)).is_none()
                && sources.of(path(2)).is_none()
        );
        assert_eq!(sources.known.load().iter().count(), MAX_YOUNG + 1);
        sources.keep(&[path(1)].into());
        assert_eq!(sources.known.load().iter().count(), 1);
    }

    /// Runs and single datagrams leave from the address that was asked, by a socket for both families and by one for IPv4,
    /// and from any if that one is none of the host's.
    #[test]
    fn datagrams_leave_from_the_address_that_was_asked() {
        for (addr, send) in [("[::]:0", true), ("0.0.0.0:0", true), ("[::]:0", false)] {
            let offloads = Offloads { send, receive: true };
            let server = Sockets::bind(addr.parse().unwrap(), offloads, 1).unwrap();
            let port = server.main()[0].local_addr().unwrap().port();
            let client = UdpTransport::bind("127.0.0.1:0".parse().unwrap(), Offloads::default()).unwrap();
            let back = client.local_addr().unwrap();
            client.send(None, SocketAddr::from(([127, 0, 0, 9], port)), b"ask").unwrap();
            let mut datagrams = Datagrams::new(&server.main()[0]);
            datagrams.receive(&server.main()[0]).unwrap();
            let asked = datagrams.get(0).unwrap();
            assert_eq!((asked.local, asked.from, asked.interface), (Some(local("127.0.0.9")), back, 1));
            let answers = |queue: &mut SendQueue, count: usize| {
                server.send(back, b"single").unwrap();
                (0..count).for_each(|i| {
                    queue.buffer().extend_from_slice(&[i as u8; 900]);
                    queue.commit(back, 0);
                });
                queue.flush(&server, |to, e| panic!("{to}: {e}"));
                let mut from = Vec::new();
                let mut datagrams = Datagrams::new(&client);
                while from.len() <= count {
                    datagrams.receive(&client).unwrap();
                    from.extend((0..datagrams.len()).map(|i| datagrams.get(i).unwrap().from.ip().to_string()));
                }
                from.dedup();
                from
            };
            let mut queue = SendQueue::new(&server);
            assert_eq!(answers(&mut queue, 20), ["127.0.0.1"], "nothing was heard");
            heard(&server.sources, back, "127.0.0.9", ME, true);
            let before = queue.calls();
            assert_eq!(answers(&mut queue, 20), ["127.0.0.9"]);
            assert_eq!(queue.calls(), before + 1, "as many system calls as without");
            server.send_from(Some(local("127.0.0.8")), back, b"x").unwrap();
            let mut datagrams = Datagrams::new(&client);
            datagrams.receive(&client).unwrap();
            assert_eq!(datagrams.get(0).unwrap().from.ip().to_string(), "127.0.0.8", "one answer alone");
            heard(&server.sources, back, "192.0.2.77", ME, false);
            queue.buffer().extend_from_slice(&[1; 900]);
            queue.commit(back, 0);
            queue.flush(&server, |to, e| panic!("{to}: {e}"));
            assert_eq!(server.sources.of(back), None, "no address of this host");
            heard(&server.sources, back, "192.0.2.78", ME, false);
            assert_eq!(answers(&mut queue, 70), ["127.0.0.1"]);
            assert_eq!(server.sources.of(back), None);
        }
    }

    #[test]
    fn segments_too_long_for_the_path_keep_their_source_or_lose_it_together() {
        let server = Sockets::bind("[::]:0".parse().unwrap(), Offloads { send: true, receive: true }, 1).unwrap();
        let client = UdpTransport::bind("127.0.0.1:0".parse().unwrap(), Offloads::default()).unwrap();
        let back = client.local_addr().unwrap();
        for (ip, stays) in [("127.0.0.9", true), ("192.0.2.77", false)] {
            heard(&server.sources, back, ip, ME, true);
            let mut queue = SendQueue::new(&server);
            for i in 0..2 {
                queue.buffer().extend_from_slice(&[i; 40_000]);
                queue.commit(back, 0);
            }
            queue.flush(&server, |to, e| panic!("{to}: {e}"));
            assert_eq!(server.sources.of(back).is_some(), stays);
            let mut datagrams = Datagrams::new(&client);
            let mut too_long = 0;
            while too_long < 2 {
                too_long += datagrams.receive(&client).unwrap();
            }
        }
    }
}
