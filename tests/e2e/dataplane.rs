//! The data plane under load: offloads present and absent, keys and routes that change while packets flow.

use std::{net::IpAddr, time::Duration};

use aegisray::lab::{daemon::Daemon, load, topology::Host, traffic::tcp_stream};

use super::harness::{Dir, need, need_route, node, quiet};

struct Pair {
    hosts: Vec<Host>,
    daemons: Vec<Daemon>,
    dir: Dir,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two nodes, A (10.1.0.1) and B (10.1.0.2), with a cable between them; YAML for each.
fn pair(a: &str, b: &str) -> Pair {
    let dir = Dir::new();
    let hosts = vec![Host::bare().unwrap(), Host::bare().unwrap()];
    hosts[0].cable(&hosts[1], ("eth0", ip("10.1.0.1")), ("eth0", ip("10.1.0.2"))).unwrap();
    let peers = "peers:\n  bootstrap: [\"10.1.0.2:51900\"]\n  lan_discovery: false\n";
    let mut daemons = vec![node(&dir, "A", &format!("{peers}{a}")), node(&dir, "B", &format!("{}{b}", quiet()))];
    for (daemon, host) in daemons.iter_mut().zip(&hosts) {
        daemon.start(host).unwrap();
    }
    need_route(&daemons[0], "B");
    need_route(&daemons[1], "A");
    Pair { hosts, daemons, dir }
}

fn addresses(daemon: &Daemon) -> (IpAddr, IpAddr) {
    need(daemon, "status", || daemon.addresses())
}

pub fn without_offloads() {
    let off = "mesh:\n  offload: false\nlisten:\n  offload: false\n";
    for (a, b) in [(off, off), (off, ""), ("", off)] {
        let p = pair(a, b);
        for (daemon, more) in p.daemons.iter().zip([a, b]) {
            let offloads = need(daemon, "status", || daemon.status()).offloads;
            assert_eq!(offloads.len(), 4);
            assert!(more.is_empty() || offloads.values().all(|on| !on), "{offloads:?}");
            assert!(!more.is_empty() || offloads["tun_tcp"] && offloads["udp_send"], "{offloads:?}");
        }
        let (v4, v6) = addresses(&p.daemons[1]);
        for to in [v4, v6] {
            let rate = tcp_stream(&p.hosts[0], &p.hosts[1], to, Duration::from_millis(700)).expect("TCP passes intact");
            let flood = load::udp(&p.hosts[0], &p.hosts[1], to, 1200, 3000, Duration::from_millis(500)).unwrap();
            assert_eq!((flood.received, flood.reordered), (flood.sent, 0), "{to}");
            println!("  TCP with offloads {:?}: {:.2} Gbit/s", (a.is_empty(), b.is_empty()), rate * 8e-9);
        }
    }
}

pub fn nothing_lost() {
    for queues in [1, 3] {
        nothing_lost_with(queues);
    }
}

/// Counted datagrams in both directions while keys, routes and an address change.
fn nothing_lost_with(queues: usize) {
    let more = format!("session:\n  rekey_mib: 1\nmesh:\n  queues: {queues}\n");
    let mut p = pair(&more, &more);
    let status = |d: &Daemon| need(d, "status", || d.status());
    assert_eq!(status(&p.daemons[0]).queues, (queues, queues));
    let (to, back) = (addresses(&p.daemons[1]).0, addresses(&p.daemons[0]).0);
    // Both ends' first handshakes may have crossed: let them settle.
    load::round_trips(&p.hosts[0], &p.hosts[1], to, 20, Duration::from_millis(20)).unwrap();
    let count = |p: &Pair, name: &str| p.daemons[..2].iter().map(|d| status(d).node.counters[name]).sum::<u64>();
    let (rekeys, roams) = (count(&p, "rekeys"), count(&p, "roams"));
    let c = Host::bare().unwrap();
    c.cable(&p.hosts[1], ("eth0", ip("10.2.0.3")), ("eth1", ip("10.2.0.2"))).unwrap();
    let mut joining = node(&p.dir, "C", "peers:\n  bootstrap: [\"10.2.0.2:51900\"]\n  lan_discovery: false\n");
    let time = Duration::from_secs(5);
    let floods = std::thread::scope(|scope| {
        let there = scope.spawn(|| load::udp(&p.hosts[0], &p.hosts[1], to, 1000, 5000, time));
        let here = scope.spawn(|| load::udp(&p.hosts[1], &p.hosts[0], back, 1000, 5000, time));
        // New routes while packets flow.
        std::thread::sleep(Duration::from_secs(2));
        joining.start(&c).unwrap();
        need_route(&p.daemons[0], "C");
        // A sends from another address from now on: the narrower network is preferred, and nothing leaves from the first one,
        // to which B's datagrams still come.
        let roam = || aegisray::host::Netlink::open()?.add_address("eth0", ip("10.1.0.9"), 25);
        p.hosts[0].ns.run(roam).unwrap();
        let mut rule = p.hosts[0].ns.command("ip");
        assert!(rule.args(["rule", "add", "from", "10.1.0.1", "unreachable"]).status().unwrap().success());
        [there, here].map(|flood| flood.join().unwrap().unwrap())
    });
    p.daemons.push(joining);
    let (rekeys, roams) = (count(&p, "rekeys") - rekeys, count(&p, "roams") - roams);
    for flood in floods {
        println!(
            "  {queues} queues: {} datagrams over {rekeys} rekeys, a new route, {roams} roams: {} lost, {} reordered",
            flood.sent,
            flood.sent - flood.received,
            flood.reordered
        );
    }
    let drops: Vec<_> = p.daemons.iter().map(|d| (d.name.clone(), status(d).node.dropped)).collect();
    assert!(rekeys >= 2 && roams >= 1, "only {rekeys} rekeys, {roams} roams");
    for flood in floods {
        let logs = || p.daemons.iter().map(Daemon::log_tail).collect::<Vec<_>>().join("\n");
        assert_eq!((flood.received, flood.reordered), (flood.sent, 0), "{drops:?}\n{}", logs());
    }
}

pub fn shrinking_path() {
    let p = pair("", "");
    let to = addresses(&p.daemons[1]).0;
    let rate = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(1));
            p.hosts[0].set_mtu("eth0", 1280).unwrap();
            p.hosts[1].set_mtu("eth0", 1280).unwrap();
        });
        // Each write gets 10 seconds at most: a stall ends the transfer with an error.
        tcp_stream(&p.hosts[0], &p.hosts[1], to, Duration::from_secs(3))
    });
    println!("  a transfer over a path that shrinks to 1,280 bytes: {:.2} Gbit/s", rate.expect("no stall") * 8e-9);
    let sends = |name: &str| need(&p.daemons[0], "status", || p.daemons[0].status()).traffic[name];
    assert_eq!(sends("send_errors"), 0, "fragments are sent where segments don't fit");
}
