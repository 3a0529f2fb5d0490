//! Everything that a member can make others keep or do has a bound.

use std::{
    net::UdpSocket,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aegisray::{
    api::{Request, Response},
    crypto::{Cipher, Rng},
    host::resident_kib,
    identity::{Network, RecordContent},
    lab::{
        daemon::Daemon,
        topology::{Host, Internet},
        traffic::{Echo, echoes, first_echo},
    },
    session::{Outgoing, PROVEN_TRIES, Sessions, Via},
    types,
    wire::{
        frame::Kind,
        packet::{self, Datagram, HOP, HOP_HEADER, HandshakeKind},
        proto::{Echo as EchoFrame, Introduction, RouteUpdate, SeqnoRequest, control_message},
    },
};

use super::{
    craft::{forge, offer},
    harness::{Dir, PATIENCE, need, need_route, node},
    hostile::{Hostile, id_of, identity, network_of, unix},
    world::{counter, ip, place, plain, public, v4},
};

/// A victim, and a member with a link to it.
pub struct Pair {
    pub victim: Daemon,
    pub victim_host: Host,
    pub mallory: Hostile,
    pub mallory_host: Host,
    pub network: Network,
    pub net: Internet,
    pub dir: Dir,
}

pub fn pair() -> Pair {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let [victim_host, mallory_host] = [2, 3].map(|n| public(&mut net, n));
    let mut victim = node(&dir, "victim", &plain(&[], ""));
    victim.start(&victim_host).unwrap();
    need(&victim, "status", || victim.status());
    let network = network_of(&victim);
    let content = RecordContent { name: "mallory".into(), ..RecordContent::default() };
    let mallory = Hostile::start(&mallory_host, v4(3).into(), network.clone(), identity(1), content);
    mallory.set_bootstrap(&["198.51.100.2"]);
    mallory.need_link(id_of(&victim));
    Pair { victim, victim_host, mallory, mallory_host, network, net, dir }
}

pub fn rss(daemon: &Daemon) -> u64 {
    resident_kib(daemon.pid().expect("it runs")).expect("it runs")
}

/// A node that comes later is reached and reaches the victim.
fn newcomer(p: &mut Pair) -> Duration {
    let host = public(&mut p.net, 9);
    let mut late = node(&p.dir, "late", &plain(&["198.51.100.2"], ""));
    late.start(&host).unwrap();
    need_route(&p.victim, "late");
    let address = need(&late, "addresses", || late.addresses()).0;
    let _echo = Echo::start(&host, address);
    first_echo(&p.victim_host, address, PATIENCE).expect("the victim reaches the newcomer");
    late.started.elapsed()
}

pub fn introductions() -> String {
    let mut p = pair();
    let (to, before) = (id_of(&p.victim), rss(&p.victim));
    let mut rng = Rng::from_seed([5; 32]);
    for chunk in 0..80u32 {
        let introductions = (0..250)
            .map(|i| Introduction { slot: (chunk * 250 + i) % 16_000 + 300, node_id: rng.bytes::<32>().to_vec() })
            .collect();
        p.mallory.tell(to, control_message::Kind::Routes(RouteUpdate { introductions, ..RouteUpdate::default() }));
    }
    std::thread::sleep(Duration::from_secs(2));
    let took = newcomer(&mut p);
    let grown = rss(&p.victim).saturating_sub(before);
    assert!(grown < 24 << 10, "{grown} KiB more");
    assert!(p.victim.is_running());
    format!("20,000 introductions: {grown} KiB more, a newcomer is reached after {:.1} s", took.as_secs_f64())
}

pub fn records() -> String {
    const IDENTITIES: u32 = 1500;
    let mut p = pair();
    let (to, before) = (id_of(&p.victim), rss(&p.victim));
    let mut rng = Rng::from_seed([6; 32]);
    for i in 0..IDENTITIES {
        let (key, seqno) = (identity(u64::from(10_000 + i)), unix() as u32);
        let mut junk = vec![0; 15_000];
        rng.fill(&mut junk);
        let forged = forge(&p.network, &key, seqno, |record| {
            record.certificate = junk;
            record.name = format!("n{i}");
        });
        p.mallory.tell(to, offer(1000 + i, &key, seqno, 1, forged));
    }
    std::thread::sleep(Duration::from_secs(2));
    let grown = rss(&p.victim).saturating_sub(before);
    assert!(grown < 12 << 10, "{grown} KiB more for {IDENTITIES} records");
    let took = newcomer(&mut p);
    format!("{IDENTITIES} records of 15 kB: {grown} KiB more, a newcomer is reached after {:.1} s", took.as_secs_f64())
}

pub fn seqno_requests() -> String {
    const TIME: Duration = Duration::from_secs(6);
    let mut p = pair();
    let friend_host = public(&mut p.net, 9);
    let mut friend = node(&p.dir, "friend", &plain(&["198.51.100.2"], ""));
    friend.start(&friend_host).unwrap();
    need_route(&friend, "victim");
    need_route(&p.victim, "friend");
    let to = id_of(&p.victim);
    p.mallory.need_known(to);
    std::thread::sleep(Duration::from_secs(2));
    let before = p.mallory.seqno_of(to).unwrap();
    let (began, mut asked) = (Instant::now(), 0);
    while began.elapsed() < TIME {
        let seqno = before + 1 + asked + if asked % 2 == 0 { 0 } else { 1 << 28 };
        let request = SeqnoRequest { origin: to.0.to_vec(), seqno, hops: 8 };
        p.mallory.tell(to, control_message::Kind::SeqnoRequest(request));
        asked += 1;
    }
    std::thread::sleep(Duration::from_secs(1));
    let made = p.mallory.seqno_of(to).unwrap() - before;
    let allowed = 2 * TIME.as_secs() as u32 + 4;
    assert!(made <= allowed, "{made} announcements in {TIME:?} for {asked} requests");
    assert_eq!(counter(&p.victim, "links_down"), 0, "the victim has lost a link");
    assert!(friend.has_link("victim"));
    format!("{made} announcements in {} s for {asked} requests", TIME.as_secs())
}

/// First messages of handshakes as fast as they can be made, each for `send`. Returns how many.
fn first_messages(network: &Network, stop: &AtomicBool, mut send: impl FnMut(&[Vec<u8>])) -> u64 {
    let key = identity(77);
    let rng = Rng::from_seed(aegisray::host::random().unwrap());
    let mut sessions = Sessions::new(network.clone(), &key, &Cipher::all_here(), rng, types::Instant(1));
    let nobody = Via::Direct(place(250).into());
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        sessions.connect(types::Instant(1), nobody, None, PROVEN_TRIES);
        let datagrams: Vec<Vec<u8>> = std::iter::from_fn(|| sessions.poll_transmit()).map(|o| o.bytes).collect();
        send(&datagrams);
        made += 1;
        // It keeps 512 at a time.
        if made % 500 == 0 {
            let rng = Rng::from_seed(aegisray::host::random().unwrap());
            sessions = Sessions::new(network.clone(), &key, &Cipher::all_here(), rng, types::Instant(1));
        }
    }
    made
}

/// Pings by the control loop of `from` to `to`, while a flood goes on: how many of how many came back in time.
pub fn pings(from: &Daemon, to: &str, time: Duration) -> (usize, usize) {
    let (began, mut good, mut all) = (Instant::now(), 0, 0);
    while began.elapsed() < time {
        let asked = Instant::now();
        let pong = from.ask(&Request::Ping { node: to.to_owned(), size: 56 });
        all += 1;
        good += usize::from(matches!(pong, Ok(Response::Pong { .. })) && asked.elapsed() < Duration::from_secs(1));
        std::thread::sleep(Duration::from_millis(50).saturating_sub(asked.elapsed()));
    }
    (good, all)
}

/// Runs a flood for six seconds while `friend` pings `victim`. Says what came of it.
fn withstand(victim: &Daemon, friend: &Daemon, flood: impl FnOnce(&AtomicBool) -> u64 + Send) -> String {
    const TIME: Duration = Duration::from_secs(6);
    let stop = AtomicBool::new(false);
    let down = [victim, friend].map(|d| counter(d, "links_down"));
    let (made, (good, all)) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&stop));
        std::thread::sleep(Duration::from_millis(500));
        let result = pings(friend, "victim", TIME);
        stop.store(true, Ordering::Relaxed);
        (flood.join().unwrap(), result)
    });
    let rate = made as f64 / TIME.as_secs_f64();
    assert!(good * 10 >= all * 9, "{good} of {all} pings in time, with {rate:.0} a second");
    assert_eq!([victim, friend].map(|d| counter(d, "links_down")), down, "links were lost");
    format!("{good} of {all} pings in time, with {rate:.0} a second")
}

/// Handshakes from one address by somebody who answers cookies as well; returns how many were begun. Counts what is answered.
fn answering_flood(network: &Network, socket: &UdpSocket, answers: &AtomicU64, stop: &AtomicBool) -> u64 {
    let key = identity(78);
    let fresh = || {
        let rng = Rng::from_seed(aegisray::host::random().unwrap());
        Sessions::new(network.clone(), &key, &Cipher::all_here(), rng, types::Instant(1))
    };
    let (mut sessions, mut made, mut buffer) = (fresh(), 0, [0; 2048]);
    socket.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::Relaxed) {
        sessions.connect(types::Instant(1), Via::Direct(place(2).into()), None, PROVEN_TRIES);
        made += 1;
        while let Ok(n) = socket.recv(&mut buffer) {
            match packet::parse(&buffer[..n]) {
                Ok(Datagram::Cookie { receiver, body }) => sessions.handle_cookie(types::Instant(1), receiver, body),
                Ok(Datagram::Handshake(f)) if f.kind == HandshakeKind::Xx2 && f.fragment == 0 => {
                    answers.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        while let Some(Outgoing { bytes: datagram, .. }) = sessions.poll_transmit() {
            let _ = socket.send_to(&datagram, place(2));
        }
        // It keeps 512 at a time.
        if made % 500 == 0 {
            sessions = fresh();
        }
    }
    made
}

pub fn handshakes_direct() -> String {
    // 30 a second and 120 at once, and a reserve.
    const ALLOWED: u64 = 400;
    let mut p = pair();
    let friend_host = public(&mut p.net, 9);
    let mut friend = node(&p.dir, "friend", &plain(&["198.51.100.2"], ""));
    friend.start(&friend_host).unwrap();
    need_route(&friend, "victim");
    need_route(&p.victim, "friend");
    let socket = p.mallory_host.ns.run(|| UdpSocket::bind((v4(3), 4444))).unwrap();
    let (network, answers) = (p.network.clone(), AtomicU64::new(0));
    let note = withstand(&p.victim, &friend, |stop| answering_flood(&network, &socket, &answers, stop));
    let answers = answers.into_inner();
    assert!(answers <= ALLOWED, "{answers} handshakes of one address answered; {note}");
    format!("{note}, {answers} answered")
}

pub fn handshakes_by_relay() -> String {
    let dir = Dir::new();
    let hosts = [Host::bare().unwrap(), Host::bare().unwrap(), Host::bare().unwrap()];
    hosts[0].cable(&hosts[1], ("eth0", ip("10.1.0.1")), ("eth0", ip("10.1.0.2"))).unwrap();
    hosts[2].cable(&hosts[1], ("eth0", ip("10.2.0.3")), ("eth1", ip("10.2.0.2"))).unwrap();
    let [mallory_host, relay_host, victim_host] = &hosts;
    let mut relay = node(&dir, "relay", &plain(&[], ""));
    let mut victim = node(&dir, "victim", &plain(&["10.2.0.2"], ""));
    relay.start(relay_host).unwrap();
    victim.start(victim_host).unwrap();
    need_route(&relay, "victim");
    let network = network_of(&victim);
    let content = RecordContent { name: "mallory".into(), ..RecordContent::default() };
    let mallory = Hostile::start(mallory_host, ip("10.1.0.1"), network.clone(), identity(1), content);
    mallory.set_bootstrap(&["10.1.0.2"]);
    mallory.need_link(id_of(&relay));
    let to = id_of(&victim);
    mallory.need_known(to);
    // Each datagram that goes to the victim by way of the relay gets something else behind its header.
    mallory.say(to, Kind::Echo(EchoFrame::default()));
    std::thread::sleep(Duration::from_secs(1));
    let load: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let taken = Arc::clone(&load);
    mallory.on_outgoing(Box::new(move |_, bytes| {
        if bytes.first() == Some(&HOP)
            && let Some(datagram) = taken.lock().unwrap().pop()
        {
            bytes.truncate(HOP_HEADER);
            bytes.extend(datagram);
        }
        true
    }));
    withstand(&victim, &relay, |stop| {
        let flooded = AtomicU64::new(0);
        first_messages(&network, stop, |datagrams| {
            // In the order in which they are taken: the last one first.
            load.lock().unwrap().extend(datagrams.iter().rev().cloned());
            if flooded.fetch_add(1, Ordering::Relaxed) % 32 == 31 {
                let load = Arc::clone(&load);
                mallory.with(move |h| {
                    let waiting = load.lock().unwrap().len();
                    let frame = aegisray::wire::frame::encode(Kind::Echo(EchoFrame::default()));
                    (0..waiting).for_each(|_| h.node.send_raw(h.now, to, frame.clone()));
                });
            }
        })
    })
}

/// CPU time of a daemon's control loop, which is its first thread.
pub fn control_time(daemon: &Daemon) -> Duration {
    let pid = daemon.pid().expect("it runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).expect("it runs");
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds"))
}

/// Sends junk of every kind, less than 10,000 datagrams a second, until it is stopped. Returns how much.
fn junk_flood(socket: &UdpSocket, stop: &AtomicBool) -> u64 {
    let mut rng = Rng::from_seed([9; 32]);
    let mut all: Vec<Vec<u8>> = Vec::new();
    for i in 0..600 {
        let mut junk = vec![0; 60 + rng.below(1100) as usize];
        rng.fill(&mut junk);
        junk[0] = [0x41, 0x42, 0x45, 0x41, 0x43, 0x44][i % 6];
        junk[1..4].copy_from_slice(&[1 + (i % 5) as u8, 0, 1]);
        all.push(junk);
    }
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for some in all.chunks(20) {
            some.iter().for_each(|junk| sent += u64::from(socket.send_to(junk, place(2)).is_ok()));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    sent
}

/// Junk of every kind at the port of a node whose link is in use.
pub fn junk() -> String {
    const EVERY: Duration = Duration::from_millis(5);
    const TIME: Duration = Duration::from_secs(6);
    let p = pair();
    let friend_host = Host::bare().unwrap();
    p.victim_host.cable(&friend_host, ("eth1", ip("10.1.0.2")), ("eth0", ip("10.1.0.9"))).unwrap();
    let mut friend = node(&p.dir, "friend", &plain(&["10.1.0.2"], ""));
    friend.start(&friend_host).unwrap();
    let address = need(&p.victim, "addresses", || p.victim.addresses()).0;
    let _echo = Echo::start(&p.victim_host, address);
    first_echo(&friend_host, address, PATIENCE).expect("the friend reaches the victim");
    let down = [&p.victim, &friend].map(|d| counter(d, "links_down"));
    let socket = p.mallory_host.ns.run(|| UdpSocket::bind((v4(3), 4444))).unwrap();
    let load = |flood: bool| {
        let (stop, before) = (AtomicBool::new(!flood), control_time(&p.victim));
        let (sent, run, control) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| junk_flood(&socket, &stop));
            let control = scope.spawn(|| pings(&friend, "victim", TIME));
            let run = echoes(&friend_host, address, (EVERY, TIME), 64, (Duration::ZERO, &|| {})).unwrap();
            let control = control.join().unwrap();
            stop.store(true, Ordering::Relaxed);
            (flood.join().unwrap(), run, control)
        });
        (sent, run, control, control_time(&p.victim) - before)
    };
    let quiet = load(false).3;
    let (sent, run, (good, all), busy) = load(true);
    let (lost, rate) = (run.sent - run.answered.len(), sent / TIME.as_secs());
    assert!(lost * 100 <= run.sent, "{lost} of {} packets lost, with {rate} datagrams a second", run.sent);
    assert!(good * 10 >= all * 9, "{good} of {all} pings in time, with {rate} datagrams a second");
    assert_eq!([&p.victim, &friend].map(|d| counter(d, "links_down")), down, "links were lost");
    // What has no sound MAC never gets to the control loop.
    let each = busy.saturating_sub(quiet).as_nanos() as f64 / sent as f64;
    assert!(each < 250.0, "{each:.0} ns of the control loop for each of {sent} datagrams of junk");
    format!(
        "{lost} of {} packets lost, {each:.0} ns of the control loop for each of {rate} datagrams a second",
        run.sent
    )
}
