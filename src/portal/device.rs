//! The portal's two threads: datagrams to packets, and packets to datagrams.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use boringtun::noise::{Packet, Tunn, TunnResult, handshake::parse_handshake_anon};

use super::{Peer, Portal, lock};
use crate::{
    tun::IoVectors,
    types::{self, Buckets, IpPrefix, place},
    wire::vnet::VNET_HEADER,
};

/// Room for any datagram or packet, and for what WireGuard adds.
const BUFFER: usize = 65_536 + 64;
/// How often keepalives and rekeys are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How often it is written down where clients are.
const REMEMBER: Duration = Duration::from_secs(2);
/// The number of a client in the receiver index of its sessions: the lowest byte is the session's.
const NUMBER_SHIFT: u32 = 8;

/// First messages of handshakes from one address or IPv6 network of 64 bits: so many at once, and one more after each pause. Whoever sends
/// more has this thread work for nobody else. So many sources are held to it.
const HANDSHAKES: (u32, types::Duration) = (20, types::Duration::from_millis(50));
const MAX_SOURCES: usize = 4096;

/// Who begins handshakes, and how often.
struct Pace {
    begun: Instant,
    sources: Buckets<IpPrefix>,
}

impl Pace {
    fn new() -> Self {
        Self { begun: Instant::now(), sources: Buckets::new(MAX_SOURCES, HANDSHAKES) }
    }

    /// Whether a datagram is worth a look: all are but first messages of handshakes (WireGuard's protocol, §5.4.2) beyond the pace.
    fn lets_in(&mut self, datagram: &[u8], from: IpAddr) -> bool {
        let now = types::Instant(u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        datagram.first() != Some(&1) || self.sources.take(now, place::network(from, 32, 64))
    }
}

impl Portal {
    /// Takes in datagrams, as long as the process lives.
    pub(super) fn receive(&self) {
        let (mut datagram, mut out) = (vec![0; BUFFER], vec![0; BUFFER]);
        let mut vectors = IoVectors::default();
        let (mut ticked, mut remembered) = (Instant::now(), Instant::now());
        let mut pace = Pace::new();
        self.greet(&mut out);
        // Without it, rekeys would wait for the next datagram.
        let _ = self.socket.set_read_timeout(Some(TICK));
        loop {
            match self.socket.recv_from(&mut datagram) {
                Ok((n, from)) if pace.lets_in(&datagram[..n], from.ip()) => {
                    self.take_in(&datagram[..n], from, &mut out, &mut vectors);
                }
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                // An ICMP error to something sent, say.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick(&mut out);
            }
            if remembered.elapsed() >= REMEMBER {
                remembered = Instant::now();
                self.remember();
            }
        }
    }

    fn take_in(&self, datagram: &[u8], from: SocketAddr, out: &mut [u8], vectors: &mut IoVectors) {
        let clients = self.clients.load();
        let found = match self.limiter.verify_packet(Some(from.ip()), datagram, out) {
            Err(TunnResult::WriteToNetwork(cookie)) => {
                // Lost is lost.
                let _ = self.socket.send_to(cookie, from);
                return;
            }
            Err(_) => return,
            Ok(Packet::HandshakeInit(init)) => {
                let Ok(half) = parse_handshake_anon(&self.private, &self.public, &init) else { return };
                clients.by_key.get(&half.peer_static_public)
            }
            Ok(Packet::HandshakeResponse(p)) => clients.by_number.get(&(p.receiver_idx >> NUMBER_SHIFT)),
            Ok(Packet::PacketCookieReply(p)) => clients.by_number.get(&(p.receiver_idx >> NUMBER_SHIFT)),
            Ok(Packet::PacketData(p)) => clients.by_number.get(&(p.receiver_idx >> NUMBER_SHIFT)),
        };
        let Some(peer) = found else { return };
        let mut session = lock(&peer.session);
        let mut input = datagram;
        loop {
            match session.tunn.decapsulate(None, input, out) {
                TunnResult::Err(_) => return,
                TunnResult::Done => break,
                TunnResult::WriteToNetwork(reply) => {
                    let _ = self.socket.send_to(reply, from);
                    // What has waited for the session follows.
                    input = &[];
                }
                TunnResult::WriteToTunnelV4(packet, ip) => {
                    self.deliver(peer, packet, ip.into(), vectors);
                    break;
                }
                TunnResult::WriteToTunnelV6(packet, ip) => {
                    self.deliver(peer, packet, ip.into(), vectors);
                    break;
                }
            }
        }
        session.endpoint = Some(from);
    }

    fn deliver(&self, peer: &Peer, packet: &[u8], source: IpAddr, vectors: &mut IoVectors) {
        if !peer.addresses.contains(&source) {
            return;
        }
        peer.received.fetch_add(packet.len() as u64, Ordering::Relaxed);
        // What the interface has no room for is lost, as on any link.
        let _ = self.tun.write(0, &[0; VNET_HEADER], std::iter::once(packet), vectors);
    }

    /// Asks those who were here before a restart for new sessions: they would take 15 s to notice that theirs are gone.
    fn greet(&self, out: &mut [u8]) {
        for peer in self.clients.load().by_number.values() {
            let mut session = lock(&peer.session);
            // Who was never heard can't be told anything.
            let Some(to) = session.endpoint else { continue };
            let asked = session.tunn.format_handshake_initiation(out, false);
            self.send_on(to, asked);
        }
    }

    fn tick(&self, out: &mut [u8]) {
        self.limiter.reset_count();
        for peer in self.clients.load().by_number.values() {
            let mut session = lock(&peer.session);
            let due = session.tunn.update_timers(out);
            if let Some(to) = session.endpoint {
                self.send_on(to, due);
            }
        }
    }

    /// Returns whether there was anything to send.
    fn send_on(&self, to: SocketAddr, result: TunnResult<'_>) -> bool {
        let TunnResult::WriteToNetwork(datagram) = result else { return false };
        // Lost is lost.
        let _ = self.socket.send_to(datagram, to);
        true
    }

    /// Sends what the host has for clients, as long as the process lives.
    pub(super) fn send(&self) {
        let (mut packet, mut out) = (vec![0; BUFFER], vec![0; BUFFER]);
        loop {
            if let Err(error) = self.tun.wait(0) {
                tracing::error!(%error, "the portal's interface is gone: clients get no answers until a restart");
                return;
            }
            while let Ok(n) = self.tun.read(0, &mut packet) {
                let Some(packet) = packet[..n].get(VNET_HEADER..) else { continue };
                let to = Tunn::dst_address(packet);
                let clients = self.clients.load();
                if let Some(peer) = to.and_then(|ip| clients.by_address.get(&ip)) {
                    self.encapsulate(peer, packet, &mut out);
                }
            }
        }
    }

    fn encapsulate(&self, peer: &Arc<Peer>, packet: &[u8], out: &mut [u8]) {
        let mut session = lock(&peer.session);
        let Some(to) = session.endpoint else { return };
        if self.send_on(to, session.tunn.encapsulate(packet, out)) {
            peer.sent.fetch_add(packet.len() as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_floods_handshakes_leaves_others_their_packets() {
        let (mut pace, flood, other) = (Pace::new(), IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let worked_on = (0..10_000).filter(|_| pace.lets_in(&[1; 148], flood)).count();
        assert!((20..60).contains(&worked_on), "{worked_on} of 10,000 first messages");
        assert!(pace.lets_in(&[4; 100], flood), "packets of sessions have no pace");
        assert!(pace.lets_in(&[1; 148], other));
    }
}
