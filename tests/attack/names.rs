//! Questions for names: one question costs the victim no more than an answer, and takes nothing from the mesh.

use std::{
    net::{IpAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use aegisray::{
    lab::{daemon::Daemon, topology::Host},
    wire::proto::{Body, Introduction, RouteUpdate, Service, control_message},
};

use super::{
    craft::forge,
    floods::{Pair, control_time, pair, pings, rss},
    harness::{need, need_route, node},
    hostile::{id_of, identity, unix},
    world::{counter, plain, public},
};

const A: u16 = 1;
const SRV: u16 = 33;
const TIME: Duration = Duration::from_secs(6);

fn question(name: &str, kind: u16, id: u16) -> Vec<u8> {
    let mut out = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    [&out[..], &[0], &kind.to_be_bytes(), &[0, 1]].concat()
}

/// A friend of the victim's, and a member that asks.
fn others(p: &mut Pair) -> ([Daemon; 2], [Host; 2], IpAddr) {
    let hosts = [9, 10].map(|n| public(&mut p.net, n));
    let [mut friend, mut asker] =
        ["friend", "asker"].map(|name| node(&p.dir, name, &plain(&["198.51.100.2"], "dns:\n  host: off\n")));
    friend.start(&hosts[0]).unwrap();
    asker.start(&hosts[1]).unwrap();
    need_route(&friend, "victim");
    need_route(&p.victim, "friend");
    need_route(&p.victim, "asker");
    let at = need(&p.victim, "addresses", || p.victim.addresses()).0;
    ([friend, asker], hosts, at)
}

/// Asks until it is told to stop, `rate` times a second. Returns how often, and how many answers came.
fn flood(from: &Host, to: IpAddr, what: (&str, u16), rate: u32, stop: &AtomicBool) -> (u64, u64) {
    let socket = from.ns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let (question, mut sent, mut answers, mut buffer) = (question(what.0, what.1, 7), 0, 0, [0; 2048]);
    let began = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        while f64::from(rate) * began.elapsed().as_secs_f64() > sent as f64 {
            sent += u64::from(socket.send_to(&question, (to, 53)).is_ok());
        }
        while socket.recv(&mut buffer).is_ok() {
            answers += 1;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    (sent, answers)
}

/// One member introduces many nodes of its making that all offer one service; another asks who offers it.
pub fn services() -> String {
    const IDENTITIES: u32 = 2000;
    let mut p = pair();
    let ([friend, _asker], [_, asker_host], at) = others(&mut p);
    let (to, before) = (id_of(&p.victim), rss(&p.victim));
    for chunk in 0..IDENTITIES / 16 {
        let (mut first, mut bodies) = (RouteUpdate::default(), Vec::new());
        for i in chunk * 16..chunk * 16 + 16 {
            let (key, seqno, slot) = (identity(u64::from(10_000 + i)), unix() as u32, 1000 + i);
            let forged = forge(&p.network, &key, seqno, |record| {
                record.name = format!("n{i}");
                record.services = (0..16).map(|n| Service { kind: "_http._tcp".into(), port: 1 + n }).collect();
            });
            first.introductions.push(Introduction { slot, node_id: key.id().0.to_vec() });
            first.slots.push(slot);
            first.seqnos.push(seqno);
            first.metrics.push(1);
            bodies.push(Body { slot, announcement: forged.announcement, record: forged.record });
        }
        p.mallory.tell(to, control_message::Kind::Routes(first));
        // They are taken in when they were asked for.
        std::thread::sleep(Duration::from_millis(60));
        for some in bodies.chunks(4) {
            let update = RouteUpdate { bodies: some.to_vec(), ..RouteUpdate::default() };
            p.mallory.tell(to, control_message::Kind::Routes(update));
        }
    }
    std::thread::sleep(Duration::from_secs(3));
    let (grown, known) = (rss(&p.victim).saturating_sub(before), p.victim.routes().len());
    assert!(known > IDENTITIES as usize / 4, "they are in the victim's tables: {known}");
    assert!(grown < 24 * known as u64, "{grown} KiB more for {known} nodes");
    let run = |what: (&str, u16)| {
        let (busy, stop, began) = (control_time(&p.victim), AtomicBool::new(false), Instant::now());
        let ((sent, answers), (good, all)) = std::thread::scope(|scope| {
            let asked = scope.spawn(|| flood(&asker_host, at, what, 450, &stop));
            let result = pings(&friend, "victim", TIME);
            stop.store(true, Ordering::Relaxed);
            (asked.join().unwrap(), result)
        });
        let busy = (control_time(&p.victim) - busy).as_secs_f64() / began.elapsed().as_secs_f64();
        println!("  {what:?}: {answers} answers to {sent} questions, {good} of {all} pings, control {:.0} %", 100.0 * busy);
        assert!(answers * 10 > sent * 3, "{answers} answers to {sent} questions");
        assert!(good * 10 >= all * 9, "{good} of {all} pings came back in time");
        busy
    };
    let (plain, many) = (run(("victim.aegis", A)), run(("_http._tcp.aegis", SRV)));
    // The answers were made by the loop that also carries probes: 4 % and 69 % of its time.
    assert!(many < plain + 0.15, "{plain:.2} and {many:.2} of the control loop's time");
    assert_eq!(counter(&p.victim, "links_down"), 0, "the victim has lost a link");
    format!("{known} nodes offer it, {} KiB for each: no link lost, control {:.0} % busy", grown / known as u64, 100.0 * many)
}

/// A member asks as fast as it can; another member, and programs of the victim's own host, ask now and then.
pub fn questions() -> String {
    let mut p = pair();
    let ([friend, _asker], [friend_host, asker_host], at) = others(&mut p);
    let counts = [&friend_host, &p.victim_host].map(|host| (host, AtomicU64::new(0), AtomicU64::new(0)));
    let stop = AtomicBool::new(false);
    let ask = |(host, asked, answered): &(&Host, AtomicU64, AtomicU64)| {
        let socket = host.ns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            let id = asked.fetch_add(1, Ordering::Relaxed) as u16;
            let _ = socket.send_to(&question("victim.aegis", A, id), (at, 53));
            while let Ok(n) = socket.recv(&mut buffer) {
                if n > 2 && buffer[..2] == id.to_be_bytes() {
                    answered.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let (sent, good, all) = std::thread::scope(|scope| {
        counts.iter().for_each(|count| drop(scope.spawn(|| ask(count))));
        let asked = scope.spawn(|| flood(&asker_host, at, ("victim.aegis", A), 30_000, &stop));
        let (good, all) = pings(&friend, "victim", TIME);
        stop.store(true, Ordering::Relaxed);
        (asked.join().unwrap().0, good, all)
    });
    let mut told = Vec::new();
    for (who, (_, asked, answered)) in ["the friend", "the host itself"].iter().zip(&counts) {
        let (asked, answered) = (asked.load(Ordering::Relaxed), answered.load(Ordering::Relaxed));
        assert!(answered * 10 >= asked * 9, "{who} had {answered} of {asked} questions answered");
        told.push(format!("{who} {answered} of {asked}"));
    }
    assert!(good * 10 >= all * 9, "{good} of {all} pings came back in time");
    format!("{:.0} questions a second: {}", sent as f64 / TIME.as_secs_f64(), told.join(", "))
}
