//! From the links to the TUN device: receive a batch, judge and open each datagram in place, put the packets of a flow
//! together and deliver them, pass on what is for others without copying it.

use std::{
    mem,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
    time::Instant,
};

use super::{Counters, Input, Shared, codel::Codel, order};
use crate::{
    node::{
        Snapshot,
        forward::{self, Drop, Ingress},
    },
    session::Via,
    transport::{Datagram, Datagrams, SendList, Stream, StreamReader, UdpTransport},
    tun::IoVectors,
    types::path,
    wire::{
        coalesce::{Coalescer, Group},
        ip, mss,
        stun::{self, Binding, Class},
        turn,
        vnet::VnetHeader,
    },
};

/// Receives from a stream until it ends.
pub(super) fn run_stream(shared: &Shared, stream: &Stream) {
    let mut reader = StreamReader::default();
    let mut receiver = Receiver::new(shared);
    while reader.read(stream).is_ok() {
        receiver.take_all(&mut reader.datagrams);
    }
    stream.close();
    shared.tell(Input::SendError(stream.path));
}

struct Receiver<'a> {
    shared: &'a Shared,
    coalescer: Coalescer,
    coalesces: bool,
    vectors: IoVectors,
    relayed: SendList,
    codel: Codel,
    /// The next packet of a user is to be marked.
    marks: bool,
}

/// Receives from one of the main sockets.
pub(super) fn run(shared: &Shared, socket: usize) {
    let socket = &shared.sockets.main()[socket];
    let mut datagrams = Datagrams::new(socket);
    let mut receiver = Receiver::new(shared);
    loop {
        receiver.batch(socket, &mut datagrams);
    }
}

/// Receives from all scouts.
pub(super) fn run_scouts(shared: &Shared) {
    let mut datagrams = Datagrams::new(shared.socket());
    let mut receiver = Receiver::new(shared);
    loop {
        for scout in shared.sockets.wait_for_scouts() {
            receiver.batch(&scout, &mut datagrams);
        }
    }
}

impl<'a> Receiver<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            coalescer: Coalescer::new(shared.tun.offloads().udp),
            coalesces: shared.tun.offloads().tcp,
            vectors: IoVectors::default(),
            relayed: SendList::new(&shared.sockets),
            codel: Codel::default(),
            marks: false,
        }
    }

    /// Waits for what `socket` has, and does it all.
    fn batch(&mut self, socket: &UdpTransport, datagrams: &mut Datagrams) {
        // An asynchronous error (ICMP) of an earlier send shows up here; it concerns no datagram of ours.
        let Ok(too_long) = datagrams.receive(socket) else { return };
        (0..too_long).for_each(|_| self.shared.counters.drop(Drop::Malformed));
        self.take_all(datagrams);
    }

    fn take_all(&mut self, datagrams: &mut Datagrams) {
        let shared = self.shared;
        Counters::add(&shared.counters.udp_receives, 1);
        self.marks |= self.codel.is_due(Instant::now(), datagrams.waited(), datagrams.bytes());
        let tables = shared.tables.load();
        for i in 0..datagrams.len() {
            let Some(datagram) = datagrams.get(i) else { continue };
            if stun::is_stun(&datagrams.buffer()[datagram.range.clone()]) {
                let local = datagrams.local(&datagram);
                if let Some(inner) = take_stun(shared, &datagram, local, &datagrams.buffer()[datagram.range.clone()]) {
                    self.take(&tables, &inner, datagrams.buffer());
                }
            } else {
                self.take(&tables, &datagram, datagrams.buffer());
            }
        }
        drop(tables);
        self.finish(datagrams.buffer());
    }

    fn take(&mut self, tables: &Snapshot, datagram: &Datagram, buffer: &mut [u8]) {
        let Datagram { from, interface, ecn, range } = datagram.clone();
        let shared = self.shared;
        let bytes = &mut buffer[range.clone()];
        match forward::ingress(tables, from, bytes) {
            Ingress::Packet { session, at, via, counter, newest } => {
                let ecn = if self.must_mark() { ip::CE } else { ecn };
                if !ip::leave_tunnel(&mut bytes[at.clone()], ecn) {
                    Counters::add(&shared.counters.congested, 1);
                    return;
                }
                mss::clamp(&mut bytes[at.clone()], || tables.mtu_to(&session.peer));
                Counters::add(&shared.counters.received_packets, 1);
                Counters::add(&shared.counters.received_bytes, at.len() as u64);
                let path = order::number(from);
                let at = range.start + at.start..range.start + at.end;
                if session.came_by(path, counter) {
                    self.deliver(buffer, at);
                } else {
                    self.flush(buffer);
                    shared.order.take(session, (counter, path), &buffer[at], |packet| shared.deliver(packet));
                }
                let moved = matches!(via, Via::Direct(a) if newest && !tables.is_at(session.local_index, a));
                if moved || !session.is_confirmed() {
                    shared.tell(Input::Opened { session: Arc::clone(session), via, newest, interface });
                }
            }
            Ingress::Frame { session, at, via, newest } => {
                let plaintext = bytes[at].to_vec();
                shared.tell(Input::Frame { session: Arc::clone(session), via, newest, interface, plaintext });
            }
            Ingress::End(session) => {
                self.flush(buffer);
                shared.order.end(session, order::number(from), |packet| shared.deliver(packet));
            }
            Ingress::Begin { session, via, counter, newest } => {
                self.flush(buffer);
                shared.order.begin(session, (counter, order::number(from)), |packet| shared.deliver(packet));
                shared.tell(Input::Marked { session: Arc::clone(session), via, newest, interface });
            }
            Ingress::Forward { to, link, session, newest } => {
                if !shared.may_relay(&session.peer, bytes.len()) {
                    shared.counters.drop(Drop::RelayLimit);
                    return;
                }
                let ecn = match (self.must_mark(), ecn) {
                    (false, ecn) => ecn,
                    (true, 0) => {
                        Counters::add(&shared.counters.congested, 1);
                        return;
                    }
                    (true, _) => ip::CE,
                };
                Counters::add(&shared.counters.relayed_bytes, bytes.len() as u64);
                Counters::add(&shared.counters.relayed_packets, 1);
                self.relayed.push(to, ecn, range);
                if link.note_traffic(1) {
                    shared.tell(Input::Activity(Arc::clone(link)));
                }
                if newest && !tables.is_at(session.local_index, from) {
                    let via = Via::Direct(from);
                    shared.tell(Input::Opened { session: Arc::clone(session), via, newest: true, interface });
                }
            }
            Ingress::Control { offset, via } => {
                shared.tell(Input::Control { via, datagram: bytes[offset..].to_vec() });
            }
            Ingress::Drop(reason) => shared.counters.drop(reason),
        }
    }

    /// Whether the packet at hand is to tell its sender to slow down: by its ECN field, or else by its loss.
    fn must_mark(&mut self) -> bool {
        let marks = mem::take(&mut self.marks);
        if marks {
            Counters::add(&self.shared.counters.queue_marks, 1);
        }
        marks
    }

    fn deliver(&mut self, buffer: &mut [u8], at: Range<usize>) {
        if !self.coalesces {
            self.shared.write(&VnetHeader::default(), std::iter::once(&buffer[at]), &mut self.vectors);
            return;
        }
        let (shared, vectors) = (self.shared, &mut self.vectors);
        self.coalescer.push(buffer, at, &mut |buffer, header, group| write(shared, vectors, buffer, header, group));
    }

    /// What was held goes out.
    fn flush(&mut self, buffer: &mut [u8]) {
        let (shared, vectors) = (self.shared, &mut self.vectors);
        self.coalescer.flush(buffer, &mut |buffer, header, group| write(shared, vectors, buffer, header, group));
    }

    /// The batch is over.
    fn finish(&mut self, buffer: &mut [u8]) {
        self.flush(buffer);
        let shared = self.shared;
        if self.relayed.is_empty() {
            return;
        }
        let before = self.relayed.calls();
        self.relayed.flush(&shared.sockets, buffer, |to: SocketAddr, _| {
            Counters::add(&shared.counters.send_errors, 1);
            shared.tell(Input::SendError(to));
        });
        Counters::add(&shared.counters.udp_sends, self.relayed.calls() - before);
    }
}

/// A STUN message: requests are answered here, which takes no state; answers concern the control side. What our TURN
/// server passes on is returned: a peer's datagram.
fn take_stun(shared: &Shared, datagram: &Datagram, local: Option<IpAddr>, bytes: &[u8]) -> Option<Datagram> {
    let from = datagram.from;
    if shared.sockets.turn_server() == Some(from)
        && let Some(message) = turn::parse(bytes)
    {
        if let turn::Message::Data { peer, at } = message {
            let range = datagram.range.start + at.start..datagram.range.start + at.end;
            return Some(Datagram { from: path::through(peer, path::TURN), range, ..datagram.clone() });
        }
        shared.tell(Input::Turn(message));
        return None;
    }
    match (Binding::parse(bytes), &shared.stun) {
        (Ok(request), Some(server)) if request.class == Class::Request => {
            Counters::add(&shared.counters.stun_requests, 1);
            if let Some(local) = local {
                server.handle(shared.socket(), local, from, &request);
            }
        }
        (Ok(Binding { class: Class::Success, id, mapped: Some(mapped), .. }), _) => {
            shared.tell(Input::Stun { from, id, mapped });
        }
        _ => shared.counters.drop(Drop::Malformed),
    }
    None
}

fn write(shared: &Shared, vectors: &mut IoVectors, buffer: &[u8], header: &VnetHeader, group: &Group) {
    shared.write(header, group.pieces.iter().map(|at| &buffer[at.clone()]), vectors);
}
