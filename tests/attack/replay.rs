//! Everything that was ever heard on the wire, again: from any address, in any order.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddrV4, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use aegisray::{
    crypto::Rng,
    lab::{
        daemon::Daemon,
        topology::{Host, Internet},
        traffic::{Echo, echoes, first_echo},
    },
};

use super::{
    capture::{Forger, Recorder, Seen},
    harness::{Dir, PATIENCE, need, need_route, node},
    world::{add_addresses, counter, place, plain, public, v4},
};

const HANDSHAKE: u8 = 0x41;
/// Packets of 1,228 bytes in the MiB after which keys are renewed, less a few.
const MIB: u64 = 840;

/// Two daemons with a link, and somebody who hears it all.
struct Overheard {
    a: Daemon,
    b: Daemon,
    a_host: Host,
    b_host: Host,
    stranger_host: Host,
    recorder: Recorder,
    tape: Vec<Seen>,
    rekeys: u64,
    _net: Internet,
    _dir: Dir,
}

fn overheard() -> Overheard {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let [a_host, b_host, stranger_host] = [2, 3, 4].map(|n| public(&mut net, n));
    add_addresses(&stranger_host, (100..110).map(v4));
    // One datagram at a time, so that the recording has each as it was; keys renewed after each MiB.
    let more = "listen:\n  offload: false\n  port_mapping: false\nmesh:\n  offload: false\nsession:\n  rekey_mib: 1\n";
    let mut a = node(&dir, "a", &plain(&["198.51.100.3"], more));
    let mut b = node(&dir, "b", &plain(&[], more));
    let recorder = Recorder::start(&b_host);
    b.start(&b_host).unwrap();
    a.start(&a_host).unwrap();
    need_route(&a, "b");
    need_route(&b, "a");
    let tape = Vec::new();
    Overheard { a, b, a_host, b_host, stranger_host, recorder, tape, rekeys: 0, _net: net, _dir: dir }
}

impl Overheard {
    fn address_of(daemon: &Daemon) -> IpAddr {
        need(daemon, "addresses", || daemon.addresses()).0
    }

    /// Traffic from A to B until the keys were renewed so many times more.
    fn renew(&mut self, times: u64) {
        let to = Self::address_of(&self.b);
        first_echo_or_any(&self.a_host, to);
        let wanted = counter(&self.a, "rekeys") + counter(&self.b, "rekeys") + times;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let socket = self.a_host.ns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
                let mut sent = 0;
                while !done.load(Ordering::Relaxed) {
                    // The sink's port is closed, which changes nothing.
                    let _ = socket.send_to(&[7; 1200], (to, 9));
                    sent += 1;
                    // Slowly towards the end, so that of the session in use nothing is lost on its way: it would be new
                    // to its receiver when it is replayed.
                    let is_slow = sent % MIB > MIB - 60 || sent >= MIB * times;
                    std::thread::sleep(Duration::from_micros(if is_slow { 5000 } else { 500 }));
                }
            });
            need(&self.a, "renewal of the keys", || {
                (counter(&self.a, "rekeys") + counter(&self.b, "rekeys") >= wanted).then_some(())
            });
            done.store(true, Ordering::Relaxed);
        });
        self.rekeys += times;
    }

    fn restart(&mut self, which: char) {
        self.tape.extend(self.recorder.take());
        let (daemon, host) = if which == 'a' { (&mut self.a, &self.a_host) } else { (&mut self.b, &self.b_host) };
        daemon.kill();
        daemon.start(host).unwrap();
        need_route(&self.a, "b");
        need_route(&self.b, "a");
        let to = Self::address_of(&self.b);
        first_echo_or_any(&self.a_host, to);
    }

    /// What was recorded between the two, each datagram once.
    fn recording(&mut self) -> Vec<Seen> {
        std::thread::sleep(Duration::from_millis(300));
        self.tape.extend(self.recorder.take());
        let ours = |s: &Seen| [place(2), place(3)].contains(&s.from) && [place(2), place(3)].contains(&s.to);
        let mut known = HashSet::new();
        self.tape.retain(|s| ours(s) && known.insert(s.body.clone()));
        std::mem::take(&mut self.tape)
    }

    /// Pings from A to B, `every` so often for so long, while `attack` runs.
    fn pings(&self, every: Duration, time: Duration, attack: &(dyn Fn() + Sync)) -> (usize, usize) {
        let to = Self::address_of(&self.b);
        let _echo = Echo::start(&self.b_host, to);
        first_echo(&self.a_host, to, PATIENCE).expect("a live session");
        let run = echoes(&self.a_host, to, (every, time), 64, (Duration::from_millis(200), attack)).unwrap();
        (run.sent - run.answered.len(), run.sent)
    }
}

/// Makes sure that there is a way, whether or not somebody answers there.
fn first_echo_or_any(from: &Host, to: IpAddr) {
    let _ = first_echo(from, to, Duration::from_millis(200));
}

/// What went out to a stranger's addresses: how many bytes, and how each datagram begins.
fn answered(recorder: &Recorder) -> (usize, Vec<String>) {
    let is_stranger = |s: &&Seen| s.to.ip() == &v4(4) || (100..110).any(|n| s.to.ip() == &v4(n));
    let is_ours = |s: &&Seen| [v4(2), v4(3)].contains(s.from.ip());
    let all: Vec<Seen> = recorder.take().into_iter().filter(|s| is_ours(&s) && is_stranger(&s)).collect();
    let heads = all.iter().map(|s| format!("{:02x?} of {}", &s.body[..s.body.len().min(4)], s.body.len())).collect();
    (all.iter().map(|s| s.body.len()).sum(), heads)
}

/// Addresses that a stranger sends from: its own, and those of the two.
fn sources(of: &Seen) -> [SocketAddrV4; 4] {
    [of.from, place(4), place(100), SocketAddrV4::new(v4(105), 4444)]
}

/// First messages of old handshakes, one after another, after both ends were started anew.
pub fn first_messages() -> String {
    let mut o = overheard();
    o.renew(4);
    o.restart('a');
    o.renew(4);
    o.restart('b');
    let tape = o.recording();
    let is_first = |s: &&Seen| s.body.len() > 44 && s.body[0] == HANDSHAKE && [1, 4].contains(&s.body[1]);
    let firsts: Vec<&Seen> = tape.iter().filter(is_first).collect();
    // Fragments of one message have one sender's index.
    let mut messages: Vec<Vec<&Seen>> = Vec::new();
    for seen in firsts {
        match messages.iter_mut().find(|m| m[0].body[4..8] == seen.body[4..8] && m[0].from == seen.from) {
            Some(message) => message.push(seen),
            None => messages.push(vec![seen]),
        }
    }
    let stranger = Recorder::start(&o.stranger_host);
    let forger = Forger::open(&o.stranger_host);
    let (lost, sent) = o.pings(Duration::from_millis(5), Duration::from_secs(8), &|| {
        for turn in 0..4 {
            for message in &messages {
                for seen in message {
                    forger.send(sources(seen)[(turn + 1) % 4], seen.to, &seen.body);
                }
                std::thread::sleep(Duration::from_millis(1600) / messages.len() as u32);
            }
        }
    });
    let (bytes, heads) = answered(&stranger);
    assert_eq!((lost, bytes), (0, 0), "of {sent} pings lost, and bytes answered: {heads:?}");
    format!("0 of {sent} pings lost, 0 bytes answered, for {} first messages", messages.len())
}

/// A recording of ten rekeys and three restarts, every datagram of it from several addresses, in random order.
pub fn whole_recording() -> String {
    let mut o = overheard();
    for which in ['b', 'a', 'b'] {
        o.renew(3);
        o.restart(which);
    }
    o.renew(3);
    let tape = o.recording();
    let stranger = Recorder::start(&o.stranger_host);
    let forger = Forger::open(&o.stranger_host);
    let time = Duration::from_secs(20);
    let mut rng = Rng::from_seed([3; 32]);
    let mut order: Vec<(usize, usize)> = (0..tape.len()).flat_map(|i| (0..4).map(move |j| (i, j))).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i as u64 + 1) as usize);
    }
    // Those that begin something first of all, too, and in the order in which they were.
    let begins = (0..tape.len()).filter(|i| tape[*i].body[0] == HANDSHAKE).flat_map(|i| (0..4).map(move |j| (i, j)));
    let order: Vec<(usize, usize)> = begins.chain(order).collect();
    let (lost, sent) = o.pings(Duration::from_millis(2), time, &|| {
        let began = Instant::now();
        for (k, (i, j)) in order.iter().enumerate() {
            let seen = &tape[*i];
            forger.send(sources(seen)[*j], seen.to, &seen.body);
            let due = (time - Duration::from_secs(1)).mul_f64((k + 1) as f64 / order.len() as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    });
    let (bytes, heads) = answered(&stranger);
    let (rekeys, replayed) = (o.rekeys, order.len());
    assert_eq!((lost, bytes), (0, 0), "of {sent} pings lost, and bytes answered: {heads:?}");
    assert!(sent >= 9_900, "only {sent} pings");
    format!("{rekeys} rekeys, 3 restarts, {replayed} datagrams replayed: 0 of {sent} pings lost, 0 bytes answered")
}
