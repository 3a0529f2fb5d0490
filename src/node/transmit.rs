//! What a node sends, and from which address of its host.

use std::net::SocketAddr;

use super::Node;
use crate::{
    session::Transport,
    types::path::Local,
    wire::frame::{self, Kind},
};

/// From which address of the host a datagram leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// That which the path's datagrams come to.
    Path,
    /// This one, which is asked for an answer.
    Asked(Local),
    /// Both that of the path and the one that routing chooses: nothing comes back.
    Any,
}

/// A datagram to send.
#[derive(Debug, PartialEq, Eq)]
pub struct Transmit {
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
    /// It must not be fragmented on the way, and may be lost.
    pub whole: bool,
    pub source: Source,
}

impl Transmit {
    pub(crate) fn new(to: SocketAddr, bytes: Vec<u8>) -> Self {
        Self { to, bytes, whole: false, source: Source::Path }
    }
}

impl Node {
    /// Seals a frame and sends it straight to `to`.
    pub(super) fn send_straight(&mut self, transport: &Transport, source: Source, to: SocketAddr, kind: Kind) {
        let mut bytes = Vec::with_capacity(128);
        transport.seal(&frame::encode(kind), &mut bytes);
        self.transmits.push_back(Transmit { source, ..Transmit::new(to, bytes) });
    }
}
