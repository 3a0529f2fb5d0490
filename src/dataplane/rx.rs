//! From the links to the TUN device: receive a batch, judge and open each datagram in place, put the packets of a flow
//! together and deliver them, pass on what is for others without copying it.

use std::{mem, net::SocketAddr, ops::Range, sync::Arc, time::Instant};

use super::{Answer, Counters, Input, Shared, codel::Codel, handshakes::Way, heard::Listener, order};
use crate::{
    node::{
        Arrival, Snapshot,
        forward::{self, Drop, Ingress},
    },
    session::{Transport, Via},
    transport::{Datagram, Datagrams, SendList, Stream, StreamReader, UdpTransport},
    tun::IoVectors,
    types::path,
    wire::{
        coalesce::{Coalescer, Group},
        frame::{Level, Mark},
        ip, mss,
        packet::HopHeader,
        stun::{self, Binding, Class},
        turn,
        vnet::VnetHeader,
    },
};

/// Receives from a stream until it ends. A stranger's, which no link came to use, concerns nobody.
pub(super) fn run_stream(shared: &Shared, stream: &Stream) {
    let mut reader = StreamReader::default();
    let mut receiver = Receiver::new(shared);
    while reader.read(stream).is_ok() {
        receiver.take_all(&mut reader.datagrams);
    }
    stream.close();
    if stream.is_proven() {
        shared.tell(Input::SendError(stream.path));
    }
}

/// Delivers, as long as the process lives, what has waited long enough for a link.
pub(super) fn run_links(shared: &Shared) {
    let mut receiver = Receiver::new(shared);
    shared.links.watch(|session, waiting| receiver.release(&shared.tables.load(), session, waiting));
}

/// What came by a link's new path, authenticated: `datagram.range` is all of `bytes`.
pub(super) struct Waiting {
    datagram: Datagram,
    bytes: Vec<u8>,
    content: Content,
}

enum Content {
    /// A hop header and what is behind it.
    Hop(HopHeader),
    /// A packet, or a mark of a route, with its counter.
    Plaintext(u64),
}

impl Waiting {
    fn new(datagram: &Datagram, at: Range<usize>, content: Content, buffer: &[u8]) -> Self {
        let bytes = buffer[at].to_vec();
        Self { datagram: Datagram { range: 0..bytes.len(), ..datagram.clone() }, bytes, content }
    }
}

struct Receiver<'a> {
    shared: &'a Shared,
    coalescer: Coalescer,
    coalesces: bool,
    vectors: IoVectors,
    relayed: SendList,
    codel: Codel,
    listener: Listener,
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
            listener: Listener::default(),
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
                if let Some(inner) = take_stun(shared, &datagram, &datagrams.buffer()[datagram.range.clone()]) {
                    self.take(&tables, &inner, datagrams.buffer());
                }
            } else {
                self.take(&tables, &datagram, datagrams.buffer());
            }
        }
        self.finish(datagrams.buffer());
        // Not before: who changes the tables waits for what was sent by these.
        drop(tables);
    }

    fn take(&mut self, tables: &Snapshot, datagram: &Datagram, buffer: &mut [u8]) {
        let (shared, interface, start) = (self.shared, datagram.interface, datagram.range.start);
        let from = order::address(datagram.from);
        let bytes = &mut buffer[datagram.range.clone()];
        let hop = match forward::outer(tables, bytes) {
            Ok(hop) => hop,
            Err(reason) => return shared.counters.drop(reason),
        };
        if let Some((link, header)) = hop {
            self.listener.hop(shared, tables, datagram, link, || link.is_newest(header.counter));
            if link.arrivals(Level::Link).came_by(from, header.counter) {
                let ingress = forward::behind(tables, link, &header, bytes);
                self.carry_out(tables, Some(link), ingress, datagram, buffer);
            } else {
                let waiting = Waiting::new(datagram, datagram.range.clone(), Content::Hop(header), buffer);
                self.wait(tables, link, (header.counter, from), waiting, buffer);
            }
            return;
        }
        let ingress = forward::straight(tables, datagram.from, bytes);
        self.listener.straight(shared, tables, datagram, &ingress, bytes);
        match ingress {
            Ingress::Mark { mark: Mark::Begin(Level::Link), session, via, counter, newest, .. } => {
                self.finish(buffer);
                shared.links.begin(session, (counter, from), |link, waiting| self.release(tables, link, waiting));
                if newest {
                    let how = Arrival { via, by: None, newest, interface, local: None };
                    shared.tell_place(Input::Marked { session: Arc::clone(session), how });
                } else {
                    self.note_place(tables, session, via, newest, interface);
                }
            }
            Ingress::Mark { mark: Mark::End(Level::Link), session, .. } => {
                self.finish(buffer);
                shared.links.end(session, from, |link, waiting| self.release(tables, link, waiting));
            }
            Ingress::Packet { session, at, via, counter, newest }
            | Ingress::Mark { session, at, via, counter, newest, .. }
                if !session.arrivals(Level::Link).came_by(from, counter) =>
            {
                let at = start + at.start..start + at.end;
                let waiting = Waiting::new(datagram, at, Content::Plaintext(counter), buffer);
                self.wait(tables, session, (counter, from), waiting, buffer);
                self.note_place(tables, session, via, newest, interface);
            }
            ingress => self.carry_out(tables, None, ingress, datagram, buffer),
        }
    }

    /// Takes in what did not come by the path of what came before it on its link.
    fn wait(
        &mut self,
        tables: &Snapshot,
        link: &Arc<Transport>,
        place: (u64, u64),
        waiting: Waiting,
        buffer: &mut [u8],
    ) {
        self.finish(buffer);
        let (shared, len) = (self.shared, waiting.bytes.len());
        shared.links.take(link, place, (waiting, len), |link, waiting| self.release(tables, link, waiting));
    }

    /// It is the turn of what waited for its link.
    fn release(&mut self, tables: &Snapshot, link: &Arc<Transport>, waiting: Waiting) {
        let Waiting { datagram, mut bytes, content } = waiting;
        match content {
            Content::Hop(header) => {
                let ingress = forward::behind(tables, link, &header, &mut bytes);
                self.carry_out(tables, Some(link), ingress, &datagram, &mut bytes);
            }
            Content::Plaintext(counter) => {
                let place = (counter, order::neighbor(&link.peer));
                match Mark::parse(&bytes) {
                    Some(mark) => self.mark(mark, link, place, &mut bytes),
                    None => self.packet(tables, link, place, datagram.ecn, datagram.range, &mut bytes),
                }
            }
        }
        self.finish(&mut bytes);
    }

    /// Does with a datagram what is to be done, in its turn; it came on `link` behind a hop header, or else straight.
    fn carry_out(
        &mut self,
        tables: &Snapshot,
        link: Option<&Arc<Transport>>,
        ingress: Ingress<'_>,
        datagram: &Datagram,
        buffer: &mut [u8],
    ) {
        let Datagram { from, local, interface, ecn, range } = datagram.clone();
        let shared = self.shared;
        let bytes = &mut buffer[range.clone()];
        let neighbor = |session: &Transport| order::neighbor(link.map_or(&session.peer, |link| &link.peer));
        match ingress {
            Ingress::Packet { session, at, via, counter, newest } => {
                let at = range.start + at.start..range.start + at.end;
                self.packet(tables, session, (counter, neighbor(session)), ecn, at, buffer);
                self.note_place(tables, session, via, newest, interface);
            }
            Ingress::Mark { mark, session, via, counter, newest, .. } => {
                self.mark(mark, session, (counter, neighbor(session)), buffer);
                self.note_place(tables, session, via, newest, interface);
            }
            Ingress::Frame { session, at, how } => {
                let (plaintext, how) = (bytes[at].to_vec(), Arrival { interface, local, ..how });
                shared.tell_frame(session, Input::Frame { session: Arc::clone(session), how, plaintext });
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
                    let how = Arrival { via: Via::Direct(from), by: None, newest, interface, local: None };
                    shared.tell_place(Input::Opened { session: Arc::clone(session), how });
                }
            }
            Ingress::Claimed { session, at, how } => {
                let (plaintext, how) = (bytes[at].to_vec(), Arrival { interface, local, ..how });
                shared.tell_frame(&Arc::clone(&session), Input::Claimed { session, how, plaintext });
            }
            Ingress::Handshake { offset, via, neighbor } => {
                shared.take_handshake(Way { via, neighbor, local, interface }, &bytes[offset..]);
            }
            Ingress::Drop(reason) => shared.counters.drop(reason),
        }
    }

    /// A packet for this host, and by which neighbour it came.
    fn packet(
        &mut self,
        tables: &Snapshot,
        session: &Arc<Transport>,
        (counter, neighbor): (u64, u64),
        ecn: u8,
        at: Range<usize>,
        buffer: &mut [u8],
    ) {
        let shared = self.shared;
        let ecn = if self.must_mark() { ip::CE } else { ecn };
        if !ip::leave_tunnel(&mut buffer[at.clone()], ecn) {
            Counters::add(&shared.counters.congested, 1);
            return;
        }
        mss::clamp(&mut buffer[at.clone()], || tables.mtu_to(&session.peer));
        Counters::add(&shared.counters.received_packets, 1);
        Counters::add(&shared.counters.received_bytes, at.len() as u64);
        if session.arrivals(Level::Route).came_by(neighbor, counter) {
            self.deliver(buffer, at);
            return;
        }
        self.flush(buffer);
        let waiting = (buffer[at.clone()].to_vec(), at.len());
        shared.routes.take(session, (counter, neighbor), waiting, |_, packet| shared.deliver(&packet));
    }

    /// A mark of a route, and by which neighbour it came. Those of links come straight and were taken before.
    fn mark(&mut self, mark: Mark, session: &Arc<Transport>, place: (u64, u64), buffer: &mut [u8]) {
        self.flush(buffer);
        let shared = self.shared;
        let deliver = |_: &Arc<Transport>, packet: Vec<u8>| shared.deliver(&packet);
        match mark {
            Mark::Begin(Level::Route) => shared.routes.begin(session, place, deliver),
            Mark::End(Level::Route) => shared.routes.end(session, place.1, deliver),
            Mark::Begin(Level::Link) | Mark::End(Level::Link) => shared.counters.drop(Drop::Malformed),
        }
    }

    /// Tells the control side of a peer that is somewhere else than it was, or has its keys now.
    fn note_place(&self, tables: &Snapshot, session: &Arc<Transport>, via: Via, newest: bool, interface: u32) {
        let moved = matches!(via, Via::Direct(a) if newest && !tables.is_at(session.local_index, a));
        if moved || !session.is_confirmed() {
            let how = Arrival { via, by: None, newest, interface, local: None };
            self.shared.tell_place(Input::Opened { session: Arc::clone(session), how });
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
fn take_stun(shared: &Shared, datagram: &Datagram, bytes: &[u8]) -> Option<Datagram> {
    let from = datagram.from;
    if shared.sockets.turn_server() == Some(from)
        && let Some(message) = turn::parse(bytes)
    {
        if let turn::Message::Data { peer, at } = message {
            let range = datagram.range.start + at.start..datagram.range.start + at.end;
            return Some(Datagram { from: path::through(peer, path::TURN), range, ..datagram.clone() });
        }
        shared.answer(Answer::Turn(message));
        return None;
    }
    match (Binding::parse(bytes), &shared.stun) {
        (Ok(request), Some(server)) if request.class == Class::Request => {
            Counters::add(&shared.counters.stun_requests, 1);
            if let Some(local) = datagram.local {
                server.handle(shared.socket(), local, from, &request);
            }
        }
        (Ok(Binding { class: Class::Success, id, mapped: Some(mapped), .. }), _) => {
            shared.answer(Answer::Stun { from, id, mapped });
        }
        _ => shared.counters.drop(Drop::Malformed),
    }
    None
}

fn write(shared: &Shared, vectors: &mut IoVectors, buffer: &[u8], header: &VnetHeader, group: &Group) {
    shared.write(header, group.pieces.iter().map(|at| &buffer[at.clone()]), vectors);
}
