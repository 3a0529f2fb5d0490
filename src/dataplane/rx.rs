//! From the links to the TUN device: receive a batch, judge and open each datagram in place, deliver or pass on.

use super::{Counters, Input, Shared};
use crate::{
    node::forward::{self, Drop, Ingress},
    session::Via,
    transport::{Datagrams, SendQueue},
};

pub(super) fn run(shared: &Shared) {
    let mut datagrams = Datagrams::default();
    let mut queue = SendQueue::default();
    loop {
        // An asynchronous error (ICMP) of an earlier send shows up here; it concerns no datagram of ours.
        let Ok(n) = datagrams.receive(&shared.socket) else { continue };
        let tables = shared.tables.load();
        for i in 0..n {
            let Some(datagram) = datagrams.get(i) else {
                shared.counters.drop(Drop::Malformed);
                continue;
            };
            let (from, interface, bytes) = (datagram.from, datagram.interface, datagram.bytes);
            match forward::ingress(&**tables, from, bytes) {
                Ingress::Packet { session, at, via, newest } => {
                    Counters::add(&shared.counters.received_packets, 1);
                    Counters::add(&shared.counters.received_bytes, at.len() as u64);
                    shared.deliver(&bytes[at]);
                    let moved = matches!(via, Via::Direct(a) if newest && !tables.is_at(session.local_index, a));
                    if moved || !session.is_confirmed() {
                        shared.tell(Input::Opened { session, via, newest, interface });
                    }
                }
                Ingress::Frame { session, at, via, newest } => {
                    let plaintext = bytes[at].to_vec();
                    shared.tell(Input::Frame { session, via, newest, interface, plaintext });
                }
                Ingress::Forward { to, link, newest } => {
                    Counters::add(&shared.counters.relayed_packets, 1);
                    queue.buffer().extend_from_slice(bytes);
                    queue.commit(to);
                    if link.note_traffic() {
                        shared.tell(Input::Activity(link));
                    }
                    if let Some(session) = newest.filter(|s| !tables.is_at(s.local_index, from)) {
                        let via = Via::Direct(from);
                        shared.tell(Input::Opened { session, via, newest: true, interface });
                    }
                }
                Ingress::Control { offset, via } => {
                    shared.tell(Input::Control { via, datagram: bytes[offset..].to_vec() });
                }
                Ingress::Drop(reason) => shared.counters.drop(reason),
            }
        }
        drop(tables);
        super::tx::flush(shared, &mut queue);
    }
}
