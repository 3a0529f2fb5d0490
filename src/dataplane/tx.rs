//! From the TUN device to the links: read until it is empty or a batch is full, route and split and seal, send in one
//! call.

use std::{io, sync::Arc, thread};

use super::{Counters, Input, Shared};
use crate::{
    node::{
        Snapshot,
        forward::{self, Destination, Drop, Route, Tables as _},
    },
    session::Transport,
    transport::{SendQueue, YIELDS},
    wire::{
        ip, mss,
        vnet::{self, GSO_NONE, Split, VNET_HEADER, VnetHeader},
    },
};

/// The longest packet that a TUN device hands over.
const MAX_PACKET: usize = 65_536;
/// Segments of a super-packet that wait while its session is being established.
const WAITING_SEGMENTS: usize = 16;

struct Sender<'a> {
    shared: &'a Shared,
    queue: SendQueue,
}

pub(super) fn run(shared: &Shared, queue: usize) {
    let mut buffer = vec![0; VNET_HEADER + MAX_PACKET];
    let mut sender = Sender { shared, queue: SendQueue::new(&shared.sockets) };
    let mut idle = 0;
    loop {
        let tables = shared.tables.load();
        let mut reads = 0;
        let emptied = loop {
            if sender.queue.is_full() {
                break false;
            }
            match shared.tun.read(queue, &mut buffer) {
                Ok(n) => {
                    reads += 1;
                    sender.take(&tables, &mut buffer[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // `EIO`: the interface is down; reading works again once it is up.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock || e.raw_os_error() == Some(libc::EIO) => break true,
                Err(_) => return,
            }
        };
        Counters::add(&shared.counters.tun_reads, reads);
        sender.flush();
        // Not before: who changes the tables waits for what was sent by these.
        drop(tables);
        idle = if reads > 0 { 0 } else { idle + 1 };
        if emptied && idle < YIELDS {
            thread::yield_now();
        } else if emptied && shared.tun.wait(queue).is_err() {
            return;
        }
    }
}

impl Sender<'_> {
    /// One read's worth: a packet, or many in one.
    fn take(&mut self, tables: &Snapshot, read: &mut [u8]) {
        let Some((header, packet)) = read.split_first_chunk_mut::<VNET_HEADER>() else { return };
        let header = VnetHeader::parse(header);
        let destination = match forward::route(tables, packet) {
            Route::To(destination) => destination,
            Route::NoRoute => {
                self.shared.counters.drop(Drop::NoRoute);
                if let Some(icmp) = ip::unreachable(packet) {
                    self.shared.deliver(&icmp);
                }
                return;
            }
            Route::Ignore => return,
        };
        let done = if header.gso_type == GSO_NONE {
            vnet::finish_checksum(&header, packet).map(|()| {
                mss::clamp(packet, || destination.mtu());
                self.single(tables, &destination, packet);
            })
        } else {
            Split::new(&header, packet, destination.mtu()).map(|split| self.split(tables, &destination, &split))
        };
        if done.is_err() {
            self.shared.counters.drop(Drop::Malformed);
        }
    }

    fn single(&mut self, tables: &Snapshot, destination: &Destination, packet: &[u8]) {
        if packet.len() > destination.limit(packet) {
            self.too_big(tables, destination, packet);
            return;
        }
        let Some(transport) = &destination.transport else {
            self.shared.tell(Input::Packet(packet.to_vec()));
            return;
        };
        self.seal(tables, destination, transport, ip::ecn(packet), packet.len(), |out| out.extend_from_slice(packet));
        self.note(destination, 1);
    }

    fn split(&mut self, tables: &Snapshot, destination: &Destination, split: &Split<'_>) {
        let count = split.count();
        let Some(transport) =
            destination.transport.as_ref().filter(|_| split.longest() <= destination.limit(split.packet()))
        else {
            // No session yet, or datagrams that are too long: one by one, which need not be fast.
            let mut packet = Vec::new();
            let limit = if destination.transport.is_none() { WAITING_SEGMENTS } else { count };
            for i in 0..count.min(limit) {
                packet.clear();
                split.write(i, &mut packet);
                self.single(tables, destination, &packet);
            }
            return;
        };
        for i in 0..count {
            self.seal(tables, destination, transport, split.ecn(), split.longest(), |out| split.write(i, out));
        }
        self.note(destination, count as u64);
    }

    /// Seals one packet into the send queue.
    fn seal(
        &mut self,
        tables: &Snapshot,
        destination: &Destination,
        transport: &Transport,
        ecn: u8,
        len: usize,
        plaintext: impl FnOnce(&mut Vec<u8>),
    ) {
        let to = forward::seal_to(tables.me(), destination, transport, self.queue.buffer(), plaintext);
        self.queue.commit(to, ecn);
        Counters::add(&self.shared.counters.sent_packets, 1);
        Counters::add(&self.shared.counters.sent_bytes, len as u64);
    }

    /// Users' packets went over a link.
    fn note(&self, destination: &Destination, packets: u64) {
        if destination.link.note_traffic(packets) {
            self.shared.tell(Input::Activity(Arc::clone(&destination.link)));
        }
    }

    /// A packet longer than its path takes: cut it, or tell its sender how long it may be.
    fn too_big(&mut self, tables: &Snapshot, destination: &Destination, packet: &[u8]) {
        Counters::add(&self.shared.counters.too_big, 1);
        match ip::too_big(packet, destination.limit(packet)) {
            ip::TooBig::Fragments(pieces) => pieces.iter().for_each(|piece| self.single(tables, destination, piece)),
            ip::TooBig::Icmp(icmp) => self.shared.deliver(&icmp),
            ip::TooBig::Drop => self.shared.counters.drop(Drop::Malformed),
        }
    }

    fn flush(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let (shared, before) = (self.shared, self.queue.calls());
        self.queue.flush(&shared.sockets, |to, _| {
            Counters::add(&shared.counters.send_errors, 1);
            shared.tell(Input::SendError(to));
        });
        Counters::add(&shared.counters.udp_sends, self.queue.calls() - before);
    }
}
