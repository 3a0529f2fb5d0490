//! Notes to which address of this host a path's datagrams come, so that ours leave from there. Only authenticated ones
//! count, and only the newest: what was recorded and comes late tells nothing.

use std::net::SocketAddr;

use super::Shared;
use crate::{
    node::{Snapshot, forward::Ingress},
    session::{Transport, Via},
    transport::{Datagram, Heard},
    types::path::{self, Local},
    wire::{
        frame::{self, Kind},
        proto,
    },
};

const SLOTS: usize = 64;

/// The last paths of a receiver that were found to be known. Almost every datagram is of one of these, and costs no more
/// than a look.
pub(super) struct Listener {
    slots: Box<[Option<(u64, SocketAddr, Local)>; SLOTS]>,
}

impl Default for Listener {
    fn default() -> Self {
        Self { slots: Box::new([None; SLOTS]) }
    }
}

fn slot(path: SocketAddr) -> usize {
    (super::order::address(path) >> 32) as usize % SLOTS
}

impl Listener {
    /// A datagram behind a hop header that is authentic: `link` is its session, and `newest` whether nothing newer came.
    pub fn hop(
        &mut self,
        shared: &Shared,
        tables: &Snapshot,
        datagram: &Datagram,
        link: &Transport,
        newest: impl FnOnce() -> bool,
    ) {
        if let Some(local) = self.news(shared, datagram)
            && newest()
        {
            self.note(shared, tables, datagram, local, link);
        }
    }

    /// A datagram that came straight, and what it turned out to be; what was sealed is open in `bytes`.
    pub fn straight(
        &mut self,
        shared: &Shared,
        tables: &Snapshot,
        datagram: &Datagram,
        ingress: &Ingress<'_>,
        bytes: &[u8],
    ) {
        let Some(local) = self.news(shared, datagram) else { return };
        let session = match ingress {
            Ingress::Packet { session, newest: true, .. } | Ingress::Mark { session, newest: true, .. } => session,
            Ingress::Frame { session, at, how } if how.newest && !only_looks(&bytes[at.clone()]) => session,
            Ingress::Claimed { session, how, .. } if how.newest && matches!(how.via, Via::Direct(_)) => session,
            _ => return,
        };
        self.note(shared, tables, datagram, local, session);
    }

    /// The address that a datagram came to, unless its path is known to come there, or is not one of UDP.
    fn news(&self, shared: &Shared, datagram: &Datagram) -> Option<Local> {
        let local = datagram.local.filter(|_| path::socket_of(datagram.from) < path::TURN)?;
        let known = (shared.sockets.sources.version(), datagram.from, local);
        (self.slots[slot(datagram.from)] != Some(known)).then_some(local)
    }

    fn note(&mut self, shared: &Shared, tables: &Snapshot, datagram: &Datagram, local: Local, session: &Transport) {
        let (sources, path) = (&shared.sockets.sources, datagram.from);
        let heard = Heard { path, local, interface: datagram.interface, by: session.peer };
        // A new link has no ways yet; but who dialled and got its answer there is there.
        sources.heard(&heard, || session.answered == Some(path) || tables.is_linked(&session.peer, path));
        // In this order: what changes in between makes it void.
        let version = sources.version();
        if sources.of(path) == Some(local) {
            self.slots[slot(path)] = Some((version, path, local));
        }
    }
}

/// Whether a frame is a probe of a path that its sender does not use: it is answered where it asks, and moves nothing.
fn only_looks(plaintext: &[u8]) -> bool {
    matches!(frame::parse(plaintext), Ok(Kind::Probe(proto::Probe { looking: true, .. })))
}
