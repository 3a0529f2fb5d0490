//! Where a path's datagrams leave from is told by who is there, not by who writes first.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use aegisray::{
    host::Netlink,
    identity::RecordContent,
    lab::{
        daemon::{Daemon, wait_for},
        topology::Internet,
    },
    types::IpPrefix,
    wire::{
        frame::{self, Kind},
        proto::Echo as EchoFrame,
    },
};

use super::{
    capture::{Forger, Recorder},
    floods::pair,
    harness::{Dir, need, node},
    hostile::{Hostile, PORT, id_of, identity, network_of},
    world::{place, plain, public, v4},
};

const LIMIT: Duration = Duration::from_secs(90);
/// The victim's other address, from which nothing comes back: that of a bridge for containers, say.
const INSIDE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

fn linked(victim: &Daemon, name: &str, limit: Duration) -> Option<f64> {
    let began = Instant::now();
    wait_for(limit, || victim.has_link(name).then_some(())).map(|()| began.elapsed().as_secs_f64())
}

/// A victim whose only bootstrap node comes up after a member of its LAN has a link with it. `forged`: so many datagrams has the member
/// sent before, sealed by its own session, in the name of the bootstrap node, to the victim's other address. Returns after how long the
/// victim had its link, and after how long once the member was gone.
fn round(forged: u64) -> (Option<f64>, Option<f64>) {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let [honest_host, mallory_host, victim_host] = [2, 3, 4].map(|n| public(&mut net, n));
    victim_host.ns.run(|| Netlink::open()?.add_address("eth0", INSIDE.into(), 16)).unwrap();
    let mut victim = node(&dir, "victim", &plain(&["198.51.100.2"], ""));
    victim.start(&victim_host).unwrap();
    need(&victim, "status", || victim.status());
    let content = RecordContent { name: "mallory".into(), ..RecordContent::default() };
    let mallory = Hostile::start(&mallory_host, v4(3).into(), network_of(&victim), identity(1), content);
    mallory.set_bootstrap(&["198.51.100.4"]);
    let to = id_of(&victim);
    mallory.need_link(to);
    std::thread::sleep(Duration::from_secs(2));
    let way = || Netlink::open()?.add_route(IpPrefix::host(INSIDE.into()), Some(v4(4).into()), None);
    mallory_host.ns.run(way).unwrap();
    let forger = Forger::open(&mallory_host);
    for _ in 0..forged {
        let sealed = mallory.with(move |h| {
            let session = h.node.session_raw(&to).expect("there is a link");
            let mut out = Vec::new();
            session.seal(&frame::encode(Kind::Echo(EchoFrame::default())), &mut out);
            out
        });
        forger.send(place(2), SocketAddrV4::new(INSIDE, PORT), &sealed);
    }
    std::thread::sleep(Duration::from_secs(2));
    let recorder = Recorder::start(&victim_host);
    let mut honest = node(&dir, "honest", &plain(&[], ""));
    honest.start(&honest_host).unwrap();
    let took = linked(&victim, "honest", LIMIT);
    let outgoing = recorder.take().into_iter().filter(|s| s.to == place(2));
    let (wrong, right): (Vec<_>, Vec<_>) = outgoing.partition(|s| *s.from.ip() == INSIDE);
    let still = mallory.has_link(to);
    drop(mallory);
    let after = if took.is_none() { linked(&victim, "honest", LIMIT) } else { None };
    println!(
        "  {forged} forged: link after {took:?} s, mallory's link {still}; to the bootstrap node {} datagrams left from {INSIDE}, {} from the \
         right address; link after {after:?} s more without mallory",
        wrong.len(),
        right.len()
    );
    (took, after)
}

/// One datagram of a member in another's name decides from where the victim's datagrams to that one leave.
pub fn steered_source() -> String {
    let quiet = round(0).0.expect("without an attacker there is a link");
    let attacked = round(1).0;
    let attacked = attacked.expect("one forged datagram keeps the victim from its bootstrap node");
    format!("link after {quiet:.1} s, and after {attacked:.1} s with one forged datagram")
}

/// The same for what is no node at all: requests to the TURN server of the victim's configuration.
pub fn steered_turn() -> String {
    let mut p = pair();
    let server_host = public(&mut p.net, 5);
    let host = public(&mut p.net, 4);
    host.ns.run(|| Netlink::open()?.add_address("eth0", INSIDE.into(), 16)).unwrap();
    let turn = "  turn:\n    server: \"198.51.100.5:3478\"\n    username: node\n    password: secret\n";
    let mut victim = node(&p.dir, "turner", &plain(&["198.51.100.3"], turn));
    let recorder = Recorder::start(&host);
    victim.start(&host).unwrap();
    let to = id_of(&victim);
    p.mallory.need_link(to);
    let server = SocketAddrV4::new(v4(5), 3478);
    let count = |recorder: &Recorder| {
        let all: Vec<_> = recorder.take().into_iter().filter(|s| s.to == server).collect();
        let wrong = all.iter().filter(|s| *s.from.ip() == INSIDE).count();
        (all.len() - wrong, wrong)
    };
    std::thread::sleep(Duration::from_secs(10));
    let before = count(&recorder);
    let way = || Netlink::open()?.add_route(IpPrefix::host(INSIDE.into()), Some(v4(4).into()), None);
    p.mallory_host.ns.run(way).unwrap();
    let sealed = p.mallory.with(move |h| {
        let session = h.node.session_raw(&to).expect("there is a link");
        let mut out = Vec::new();
        session.seal(&frame::encode(Kind::Echo(EchoFrame::default())), &mut out);
        out
    });
    Forger::open(&p.mallory_host).send(server, SocketAddrV4::new(INSIDE, PORT), &sealed);
    std::thread::sleep(Duration::from_secs(1));
    count(&recorder);
    std::thread::sleep(Duration::from_secs(30));
    let after = count(&recorder);
    drop(server_host);
    let note = format!(
        "requests from the right address and from {INSIDE}: {before:?} in 10 s before, {after:?} in 30 s after one forged datagram"
    );
    println!("  {note}");
    assert!(after.0 > 0, "{note}");
    note
}
