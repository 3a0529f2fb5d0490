//! From the TUN device to the links: read until it is empty or a batch is full, route and seal, send in one call.

use std::io;

use super::{Counters, Input, Shared};
use crate::{
    node::{
        Snapshot,
        forward::{self, Drop, Egress},
    },
    transport::SendQueue,
    wire::ip,
};

/// The longest packet that a TUN device hands over.
const MAX_PACKET: usize = 65_536;

pub(super) fn run(shared: &Shared) {
    let mut packet = vec![0; MAX_PACKET];
    let mut queue = SendQueue::default();
    loop {
        if shared.tun.wait().is_err() {
            return;
        }
        let tables = shared.tables.load();
        while !queue.is_full() {
            match shared.tun.read(&mut packet) {
                Ok(n) => send(shared, &tables, &packet[..n], &mut queue),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The interface is down: reading works again once it is up.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => break,
                Err(_) => return,
            }
        }
        drop(tables);
        flush(shared, &mut queue);
    }
}

fn send(shared: &Shared, tables: &Snapshot, packet: &[u8], queue: &mut SendQueue) {
    match forward::egress(tables, packet, queue.buffer()) {
        Egress::Send { to, wake } => {
            queue.commit(to);
            Counters::add(&shared.counters.sent_packets, 1);
            Counters::add(&shared.counters.sent_bytes, packet.len() as u64);
            if let Some(session) = wake {
                shared.tell(Input::Activity(session));
            }
        }
        Egress::NeedSession(_) => shared.tell(Input::Packet(packet.to_vec())),
        Egress::TooBig(mtu) => too_big(shared, tables, packet, mtu, queue),
        Egress::NoRoute => {
            shared.counters.drop(Drop::NoRoute);
            if let Some(icmp) = ip::unreachable(packet) {
                shared.deliver(&icmp);
            }
        }
        Egress::Ignore => {}
    }
}

/// A packet longer than its path takes: cut it, or tell its sender how long it may be.
fn too_big(shared: &Shared, tables: &Snapshot, packet: &[u8], mtu: usize, queue: &mut SendQueue) {
    Counters::add(&shared.counters.too_big, 1);
    match ip::too_big(packet, mtu) {
        ip::TooBig::Fragments(pieces) => pieces.iter().for_each(|piece| send(shared, tables, piece, queue)),
        ip::TooBig::Icmp(icmp) => shared.deliver(&icmp),
        ip::TooBig::Drop => shared.counters.drop(Drop::Malformed),
    }
}

pub(super) fn flush(shared: &Shared, queue: &mut SendQueue) {
    if queue.is_empty() {
        return;
    }
    queue.flush(&shared.socket, |to, _| {
        Counters::add(&shared.counters.send_errors, 1);
        shared.tell(Input::SendError(to));
    });
}
