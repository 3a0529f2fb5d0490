//! What is old: beacons that were recorded, sessions that nobody can renew.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use aegisray::{
    host::Netlink,
    identity::{Network, RecordContent},
    lab::{
        daemon::wait_for,
        topology::Internet,
        traffic::{Echo, first_echo},
    },
    node::{Node, NodeConfig},
    types,
};

use super::{
    capture::{Forger, Recorder},
    harness::{Dir, PATIENCE, need, node},
    hostile::{PORT, identity, network_of, unix},
    world::{add_addresses, nft, place, plain, public, v4},
};

const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 65, 82), 51_901);

/// A member's beacon that says that it is at `place`, as it was `age` seconds ago.
fn beacon_of(network: Network, place: SocketAddrV4, age: u64) -> Vec<u8> {
    let content = RecordContent { name: "walker".into(), ..RecordContent::default() };
    let config = NodeConfig::new(network.clone(), content, unix() - age);
    let mut node = Node::new(config, identity(age), Box::new(network), [1; 32], types::Instant(1)).unwrap();
    node.beacon(types::Instant(1), place.into())
}

/// A beacon that was heard once, sent again: from addresses of the same network and of others, to the group and to one
/// host, at the discovery's port and at the mesh's.
pub fn beacons() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let [laptop_host, node_host, stranger_host] = [2, 3, 4].map(|n| public(&mut net, n));
    let near: Vec<Ipv4Addr> = (100..120).map(v4).collect();
    let far: Vec<Ipv4Addr> = (1..20).map(|n| Ipv4Addr::new(203, 0, 113, n)).collect();
    add_addresses(&stranger_host, near.clone());
    add_addresses(&stranger_host, far.clone());
    let lan = "listen:\n  port_mapping: false\n";
    let mut laptop = node(&dir, "laptop", lan);
    let heard = stranger_host.ns.run(|| {
        let socket = UdpSocket::bind(("0.0.0.0", GROUP.port()))?;
        socket.join_multicast_v4(GROUP.ip(), &v4(4))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    });
    let heard = heard.unwrap();
    laptop.start(&laptop_host).unwrap();
    let mut buffer = [0; 1500];
    let (n, _) = heard.recv_from(&mut buffer).expect("a beacon");
    let beacon = buffer[..n].to_vec();
    laptop.kill();
    let mut other = node(&dir, "node", lan);
    other.start(&node_host).unwrap();
    need(&other, "status", || other.status());
    node_host
        .ns
        .run(|| Netlink::open()?.add_route("203.0.113.0/24".parse().unwrap(), Some(v4(4).into()), None))
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let group = "239.0.0.0/8".parse().unwrap();
    stranger_host.ns.run(|| Netlink::open()?.add_route(group, None, Some("eth0"))).unwrap();
    let recorder = Recorder::start(&stranger_host);
    let forger = Forger::open(&stranger_host);
    let mut sent = 0;
    for source in near.iter().chain(&far) {
        for to in [SocketAddrV4::new(v4(3), GROUP.port()), place(3), GROUP] {
            for port in [GROUP.port(), PORT, 4444] {
                forger.send(SocketAddrV4::new(*source, port), to, &beacon);
                sent += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    // A member's own ones: one that is too old, and later one that is not.
    let own = SocketAddrV4::new(near[10], PORT);
    let (old, new) = [600, 0].map(|age| beacon_of(network_of(&other), own, age)).into();
    forger.send(SocketAddrV4::new(near[10], GROUP.port()), GROUP, &old);
    std::thread::sleep(Duration::from_secs(4));
    let answers = recorder.take();
    let to_them =
        answers.iter().filter(|s| s.from.ip() == &v4(3) && (near.contains(s.to.ip()) || far.contains(s.to.ip())));
    let bytes: usize = to_them.map(|s| s.body.len()).sum();
    assert_eq!(bytes, 0, "bytes answered to forged sources, for {sent} beacons of {n} bytes");
    forger.send(SocketAddrV4::new(near[10], GROUP.port()), GROUP, &new);
    let answered = || recorder.take().iter().any(|s| s.from.ip() == &v4(3) && s.to == own).then_some(());
    wait_for(PATIENCE, answered).expect("a beacon that is new, from where it says, is answered");
    format!("0 bytes answered to {sent} beacons")
}

/// Who lets no handshake through can't keep two nodes on one key: the session ends.
pub fn no_renewal() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let [a_host, b_host] = [2, 3].map(|n| public(&mut net, n));
    let more = "listen:\n  tcp_port: 0\n  port_mapping: false\nsession:\n  rekey_after: 10\n";
    let mut a = node(&dir, "a", &plain(&[], more));
    let mut b = node(&dir, "b", &plain(&["198.51.100.2"], more));
    a.start(&a_host).unwrap();
    b.start(&b_host).unwrap();
    let address = need(&a, "addresses", || a.addresses()).0;
    let _echo = Echo::start(&a_host, address);
    first_echo(&b_host, address, PATIENCE).expect("a session");
    let held = "table inet held {
        chain in { type filter hook input priority 0; udp dport 51900 @th,64,8 0x41 drop; }
        chain out { type filter hook output priority 0; udp dport 51900 @th,64,8 0x41 drop; }
    }";
    nft(&b_host, held);
    let began = Instant::now();
    // Three times `rekey_after`, and what the last renewal before the cut may have left.
    let end = Duration::from_secs(45);
    let mut last = Duration::ZERO;
    while began.elapsed() < end {
        if first_echo(&b_host, address, Duration::from_millis(500)).is_some() {
            last = began.elapsed();
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(last < Duration::from_secs(40), "packets still pass on a key of {last:?}");
    nft(&b_host, "delete table inet held");
    first_echo(&b_host, address, PATIENCE).expect("a new session as soon as handshakes pass");
    format!("the session ended after {:.0} s", last.as_secs_f64())
}
