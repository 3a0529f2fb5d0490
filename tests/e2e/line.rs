//! Three hosts in a line: A and C know only B.

use std::{
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use aegisray::{
    host,
    lab::{
        daemon::Daemon,
        topology::{Host, Internet},
        traffic::{Echo, echoes, first_echo, tcp_stream},
    },
};

use super::capture::capture;
use super::harness::{Dir, PATIENCE, bootstrap, need, need_route, node, quiet};

pub struct Line {
    pub hosts: [Host; 3],
    pub daemons: [Daemon; 3],
    _dir: Dir,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A (10.1.0.1) – B (10.1.0.2, 10.2.0.2) – C (10.2.0.3), started.
pub fn line() -> Line {
    let dir = Dir::new();
    let hosts = [Host::bare().unwrap(), Host::bare().unwrap(), Host::bare().unwrap()];
    hosts[0].cable(&hosts[1], ("eth0", ip("10.1.0.1")), ("eth0", ip("10.1.0.2"))).unwrap();
    hosts[2].cable(&hosts[1], ("eth0", ip("10.2.0.3")), ("eth1", ip("10.2.0.2"))).unwrap();
    let mut daemons =
        [node(&dir, "A", &bootstrap("10.1.0.2")), node(&dir, "B", &quiet()), node(&dir, "C", &bootstrap("10.2.0.2"))];
    for i in [1, 0, 2] {
        daemons[i].start(&hosts[i]).unwrap();
    }
    Line { hosts, daemons, _dir: dir }
}

pub fn everything_passes() {
    let line = line();
    let [a, b, c] = &line.daemons;
    let (v4, v6) = need(c, "status", || c.addresses());
    let _echo4 = Echo::start(&line.hosts[2], v4);
    first_echo(&line.hosts[0], v4, PATIENCE).expect("A reaches C");
    println!("  first ping from A to C {:.0} ms after the last start", c.started.elapsed().as_secs_f64() * 1e3);
    let _echo6 = Echo::start(&line.hosts[2], v6);
    first_echo(&line.hosts[0], v6, PATIENCE).expect("IPv6 passes");
    // Large pings: 9,000 bytes, cut by the kernel and cut again for the relay.
    for to in [v4, v6] {
        let large = echoes(
            &line.hosts[0],
            to,
            (Duration::from_millis(20), Duration::from_secs(1)),
            9000,
            (Duration::ZERO, &|| {}),
        )
        .unwrap();
        assert!(large.answered.len() * 10 >= large.sent * 8, "{} of {} large pings", large.answered.len(), large.sent);
    }
    let rate = tcp_stream(&line.hosts[0], &line.hosts[2], v4, Duration::from_secs(1)).expect("TCP passes intact");
    let back =
        tcp_stream(&line.hosts[2], &line.hosts[0], need(a, "status", || a.addresses()).1, Duration::from_secs(1));
    let back = back.expect("TCP over IPv6 passes intact");
    println!("  TCP through the relay: {:.2} Gbit/s, {:.2} back over IPv6", rate * 8e-9, back * 8e-9);

    // What crosses B is sealed: a marker sent from A to C is in no frame there.
    let marker = b"a marker that nobody between us may read";
    let (hits, bytes) = capture(&line.hosts[1], marker, || {
        line.hosts[0]
            .ns
            .run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                (0..100).try_for_each(|_| socket.send_to(marker, (v4, 7007)).map(|_| ()))
            })
            .unwrap();
    })
    .unwrap();
    assert_eq!(hits, 0, "plain bytes at the relay");
    assert!(bytes >= 100 * (marker.len() + 28), "the capture saw only {bytes} bytes");
    let (hits, _) = capture(&line.hosts[2], marker, || {
        line.hosts[0].ns.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(marker, (v4, 7007))).unwrap();
    })
    .unwrap();
    assert!(hits > 0, "the capture would have found the marker: C's TUN device shows it");
    // B's sessions end at B: it has none for A with C.
    assert_eq!(b.peers().len(), 2);
    assert!(b.status().unwrap().traffic["relayed_packets"] > 1000);
    assert_eq!(need_route(a, "C").next_hop_name, "B");
}

pub fn narrow_path() {
    let line = line();
    line.hosts[0].set_mtu("eth0", 1280).unwrap();
    line.hosts[1].set_mtu("eth0", 1280).unwrap();
    let [a, b, c] = &line.daemons;
    for (to, name) in [(c, "C"), (b, "B")] {
        let (v4, _) = need(to, "status", || to.addresses());
        need_route(a, name);
        let server = if name == "C" { 2 } else { 1 };
        let rate = tcp_stream(&line.hosts[0], &line.hosts[server], v4, Duration::from_secs(1));
        println!("  TCP to {name} over a path of 1,280 bytes: {:.2} Gbit/s", rate.expect("no black hole") * 8e-9);
    }
}

pub fn kill_and_restart() {
    let mut line = line();
    let (v4, _) = need(&line.daemons[2], "status", || line.daemons[2].addresses());
    let _echo = Echo::start(&line.hosts[2], v4);
    first_echo(&line.hosts[0], v4, PATIENCE).expect("A reaches C");
    for victim in [2, 1] {
        let before = line.daemons[victim].addresses().unwrap();
        line.daemons[victim].kill();
        let host = &line.hosts[victim];
        line.daemons[victim].start(host).unwrap();
        let restarted = Instant::now();
        // C's address is there again once its daemon is.
        let _echo = Echo::start(&line.hosts[2], v4);
        first_echo(&line.hosts[0], v4, PATIENCE).expect("A reaches C again");
        let name = &line.daemons[victim].name;
        println!("  A reaches C {:.0} ms after the restart of {name}", restarted.elapsed().as_secs_f64() * 1e3);
        let daemon = &line.daemons[victim];
        assert_eq!(need(daemon, "status", || daemon.addresses()), before, "the mesh address stays");
    }
}

pub fn lan_discovery() {
    let dir = Dir::new();
    let mut lan = Internet::new().unwrap();
    let hosts = [lan.public(ip("192.168.7.1")).unwrap(), lan.public(ip("192.168.7.2")).unwrap()];
    let mut daemons = [node(&dir, "A", ""), node(&dir, "B", "")];
    for (daemon, host) in daemons.iter_mut().zip(&hosts) {
        daemon.start(host).unwrap();
    }
    let [a, _] = &daemons;
    need(a, "link to B", || a.has_link("B").then_some(()));
}

pub fn idle() {
    let line = line();
    need_route(&line.daemons[0], "C");
    std::thread::sleep(Duration::from_secs(3));
    let pids: Vec<u32> = line.daemons.iter().filter_map(Daemon::pid).collect();
    let before: Vec<f64> = pids.iter().map(|p| host::cpu_seconds(*p).unwrap()).collect();
    std::thread::sleep(Duration::from_secs(10));
    for (pid, before) in pids.iter().zip(before) {
        let rss = host::resident_kib(*pid).unwrap();
        let percent = (host::cpu_seconds(*pid).unwrap() - before) * 10.0;
        println!("  idle: {:.1} MiB resident, {percent:.1} % CPU", rss as f64 / 1024.0);
        assert!(rss < 64 * 1024, "{rss} KiB");
    }
}

/// The two nodes of `docker/compose.yaml`, with its commands and addresses, without a container engine.
pub fn compose_mesh() {
    let dir = Dir::new();
    let mut underlay = Internet::new().unwrap();
    let mut daemons = Vec::new();
    for (name, address) in [("alpha", "172.30.0.2"), ("beta", "172.30.0.3")] {
        let host = underlay.public(ip(address)).unwrap();
        let home = dir.0.join(name);
        std::fs::create_dir_all(&home).unwrap();
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docker/config/{name}.yaml"));
        // Containers have file systems of their own; here the places are told apart.
        let text = std::fs::read_to_string(source).unwrap() + "state_dir: state\nsocket: api.sock\n";
        aegisray::identity::keyfile::write_secret(&home.join("peer.yaml"), text.as_bytes()).unwrap();
        let mut daemon = Daemon::prepared(super::harness::program(), &home, name);
        daemon.start(&host).unwrap();
        daemons.push((daemon, host));
    }
    let (alpha, host) = &daemons[0];
    need_route(alpha, "beta");
    let ping = alpha.command(host).args(["ping", "beta", "-c", "2", "--socket"]).arg(alpha.socket()).output().unwrap();
    assert!(ping.status.success());
}
