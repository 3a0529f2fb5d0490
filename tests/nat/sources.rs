//! A host with several addresses answers from the one that was asked: nothing else passes the NAT or the firewall before
//! who asks. There is no TCP, so that UDP has to do it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
    time::{Duration, Instant},
};

use aegisray::{
    host::{Netlink, masquerade},
    lab::{
        daemon::Daemon,
        load,
        topology::{Host, Internet},
        traffic::{Echo, echoes as flow},
    },
};

use super::{
    harness::{Dir, need, node},
    matrix::echoes,
    routers::{Kind, Site, nft},
    watch::watch,
};

const PORT: u16 = 51_900;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What `ip` of iproute2 does on a host; `args` are words with spaces between them.
fn run_ip(host: &Host, args: &str) {
    let output = host.ns.command("ip").args(args.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {args}: {output:?}");
}

/// A router passes on nothing that fits `what`.
fn drop_forwarded(router: &Host, what: &str) {
    nft(
        router,
        &format!(
            "table inet only {{
               chain forward {{
                 type filter hook forward priority -10
                 {what} drop
               }}
             }}"
        ),
    );
}

/// A node without TCP that is told of these.
fn udp_node(dir: &Dir, name: &str, bootstrap: &[&str]) -> Daemon {
    let peers: Vec<String> = bootstrap.iter().map(|at| format!("\"{at}:{PORT}\"")).collect();
    let peers = format!("peers:\n  bootstrap: [{}]\n  lan_discovery: false\n", peers.join(", "));
    node(dir, name, &format!("listen:\n  tcp_port: 0\n{peers}"))
}

/// Source and destination of a UDP datagram that a node sends from the port of the mesh.
fn datagram(frame: &[u8]) -> Option<(IpAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let ipv4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    let ipv6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
    let (from, to, udp) = match port(12)? {
        0x0800 if *frame.get(23)? == 17 => (ipv4(26)?, ipv4(30)?, 14 + usize::from(*frame.get(14)? & 15) * 4),
        0x86dd if *frame.get(20)? == 17 => (ipv6(22)?, ipv6(38)?, 54),
        _ => return None,
    };
    (port(udp)? == PORT).then_some((from, SocketAddr::new(to, port(udp + 2)?)))
}

/// From which addresses a host sends to another one's port of the mesh while `during` runs, and how many datagrams.
fn sources(host: &Host, to: IpAddr, during: impl FnOnce()) -> BTreeMap<IpAddr, usize> {
    let seen = Mutex::new(BTreeMap::new());
    let see = |frame: &[u8]| {
        if let Some((from, _)) = datagram(frame).filter(|(_, at)| *at == SocketAddr::new(to, PORT)) {
            *seen.lock().unwrap().entry(from).or_default() += 1;
        }
    };
    watch(host, see, during).unwrap();
    seen.into_inner().unwrap()
}

/// Where `from` reaches the node of that name.
fn place(from: &Daemon, name: &str) -> Option<IpAddr> {
    Some(from.peers().into_iter().find(|p| p.name == name)?.link.filter(|l| l.up)?.addr.ip())
}

#[track_caller]
fn need_place(from: &Daemon, name: &str, at: IpAddr) {
    let start = Instant::now();
    need(from, "link by the address that works", || (place(from, name) == Some(at)).then_some(()));
    println!("  {} reaches {name} at {at} after {:.1} s", from.name, start.elapsed().as_secs_f64());
}

/// Packets both ways, by the hundred and by the stream.
fn traffic(hosts: [&Host; 2], nodes: [&Daemon; 2]) {
    let address = need(nodes[1], "addresses", || nodes[1].addresses()).0;
    need(nodes[0], "an echo", || echoes(nodes[0], nodes[1]).then_some(()));
    need(nodes[1], "an echo", || echoes(nodes[1], nodes[0]).then_some(()));
    load::round_trips(hosts[0], hosts[1], address, 100, Duration::from_millis(5)).unwrap();
    let rate = load::tcp(hosts[0], hosts[1], address, load::Streams::one(Duration::from_secs(1))).unwrap();
    println!("  {:.0} Mbit/s", rate / 1e6);
}

/// A floating address comes to a server that runs, is all that a client behind a stateful NAT is told and reaches, and goes
/// again.
pub fn floating() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let server = internet.public(ip("203.0.113.1")).unwrap();
    let mut a = udp_node(&dir, "server", &[]);
    a.start(&server).unwrap();
    need(&a, "status", || a.status());
    let address = |add: bool| {
        server.ns.run(|| {
            let (mut n, at) = (Netlink::open()?, ip("203.0.113.100"));
            if add { n.add_address("eth0", at, 24) } else { n.remove_address("eth0", at, 24) }
        })
    };
    address(true).unwrap();
    let site = Site::new(&mut internet, Kind::PortRestricted, 7);
    drop_forwarded(&site.routers[0], "ip daddr 203.0.113.1");
    let mut b = udp_node(&dir, "client", &["203.0.113.100"]);
    let seen = sources(&server, ip("203.0.113.7"), || {
        b.start(&site.host).unwrap();
        need_place(&b, "server", ip("203.0.113.100"));
        traffic([&site.host, &server], [&b, &a]);
        traffic([&server, &site.host], [&a, &b]);
        // Longer than other places are looked at.
        std::thread::sleep(Duration::from_secs(10));
        assert!(echoes(&a, &b));
    });
    println!("  the server's datagrams left from {seen:?}");
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [ip("203.0.113.100")]);
    nft(&site.routers[0], "delete table inet only");
    address(false).unwrap();
    need_place(&b, "server", ip("203.0.113.1"));
    traffic([&site.host, &server], [&b, &a]);
    address(true).unwrap();
    traffic([&server, &site.host], [&a, &b]);
    assert!(a.is_running() && b.is_running());
}

/// A host with two providers, of which each passes on only what comes from the address that it gave; the interface by
/// which all leaves that no rule leads elsewhere is `up1`. The addresses begin with 198.51.100 and 192.0.2.
fn with_two_uplinks(internet: &mut Internet) -> (Host, [Host; 2]) {
    let host = Host::bare().unwrap();
    let providers = [(11, "up1", "198.51.100"), (12, "up2", "192.0.2")].map(|(n, name, net)| {
        let provider = internet.public(IpAddr::from([203, 0, 113, n])).unwrap();
        provider.cable(&host, ("lan0", ip(&format!("{net}.1"))), (name, ip(&format!("{net}.2")))).unwrap();
        provider.ns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap();
        drop_forwarded(&provider, &format!("iifname lan0 ip saddr != {net}.0/24"));
        provider
    });
    run_ip(&host, "route add default via 198.51.100.1");
    (host, providers)
}

/// The ways to the providers' networks, for a host on the switch.
fn know_providers(host: &Host) {
    run_ip(host, "route add 198.51.100.0/24 via 203.0.113.11");
    run_ip(host, "route add 192.0.2.0/24 via 203.0.113.12");
}

/// A server with two uplinks, whose rules lead each source by its own; one of them fails.
pub fn two_uplinks() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let (server, providers) = with_two_uplinks(&mut internet);
    run_ip(&server, "route add default via 192.0.2.1 table 2");
    run_ip(&server, "rule add from 192.0.2.2 lookup 2");
    let site = Site::new(&mut internet, Kind::PortRestricted, 7);
    know_providers(&site.routers[0]);
    drop_forwarded(&site.routers[0], "ip daddr 198.51.100.2");
    let mut a = udp_node(&dir, "server", &[]);
    let mut b = udp_node(&dir, "client", &["192.0.2.2"]);
    a.start(&server).unwrap();
    let seen = sources(&server, ip("203.0.113.7"), || {
        b.start(&site.host).unwrap();
        need_place(&b, "server", ip("192.0.2.2"));
        traffic([&site.host, &server], [&b, &a]);
        traffic([&server, &site.host], [&a, &b]);
    });
    println!("  the server's datagrams left from {seen:?}");
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [ip("192.0.2.2")]);
    nft(&site.routers[0], "delete table inet only");
    providers[1].set_interface("lan0", false).unwrap();
    need_place(&b, "server", ip("198.51.100.2"));
    traffic([&site.host, &server], [&b, &a]);
    assert!(a.is_running());
}

/// A client with two uplinks, of which routing takes the other one from some moment on; the address of the first stays. The
/// other one is behind a NAT: only the client can begin there.
pub fn another_default_route() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let (client, providers) = with_two_uplinks(&mut internet);
    let server = internet.public(ip("203.0.113.1")).unwrap();
    providers[1].ns.run(|| masquerade("eth0")).unwrap();
    run_ip(&server, "route add 198.51.100.0/24 via 203.0.113.11");
    let mut a = udp_node(&dir, "server", &[]);
    let mut b = udp_node(&dir, "client", &["203.0.113.1"]);
    a.start(&server).unwrap();
    b.start(&client).unwrap();
    need_place(&a, "client", ip("198.51.100.2"));
    let address = need(&a, "addresses", || a.addresses()).0;
    let _echo = Echo::start(&server, address);
    let interval = Duration::from_millis(20);
    let change = || run_ip(&client, "route replace default via 192.0.2.1");
    let run = (interval, Duration::from_secs(6));
    let seen = flow(&client, address, run, 64, (Duration::from_secs(1), &change)).unwrap();
    let outage = seen.longest_outage(interval);
    println!("  outage {} ms", outage.as_millis());
    let last = seen.answered.last().expect("answers").0;
    assert!(last > Duration::from_secs(5), "the last echo that came back left after {last:?}");
    need_place(&a, "client", ip("203.0.113.12"));
    assert!(outage <= Duration::from_secs(2), "{outage:?}");
}

/// Two IPv6 addresses, of which routing would choose the other one, before a client behind a stateful firewall.
pub fn ipv6() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let server = internet.public(ip("203.0.113.1")).unwrap();
    let router = internet.public(ip("203.0.113.7")).unwrap();
    let client = router.behind([192, 168, 7]).unwrap();
    run_ip(&server, "addr add 2001:db8::1/64 dev eth0 nodad");
    run_ip(&router, "addr add 2001:db8::7/64 dev eth0 nodad");
    run_ip(&router, "addr add 2001:db8:7::1/64 dev lan0 nodad");
    run_ip(&client, "addr add 2001:db8:7::2/64 dev eth0 nodad");
    run_ip(&client, "route add default via 2001:db8:7::1");
    run_ip(&server, "route add 2001:db8:7::/64 via 2001:db8::7");
    router.ns.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")).unwrap();
    nft(
        &router,
        "table inet fw {
           chain forward {
             type filter hook forward priority 0
             ct state established,related accept
             iifname eth0 drop
           }
         }",
    );
    drop_forwarded(&router, "ip6 daddr 2001:db8::1");
    let mut a = udp_node(&dir, "server", &[]);
    let mut b = udp_node(&dir, "client", &["[2001:db8::100]"]);
    a.start(&server).unwrap();
    need(&a, "status", || a.status());
    // One that floats is deprecated from the beginning (RFC 4862 §5.5.4): routing does not choose it.
    run_ip(&server, "addr add 2001:db8::100/64 dev eth0 nodad preferred_lft 0");
    let seen = sources(&server, ip("2001:db8:7::2"), || {
        b.start(&client).unwrap();
        need_place(&b, "server", ip("2001:db8::100"));
        traffic([&client, &server], [&b, &a]);
        traffic([&server, &client], [&a, &b]);
    });
    println!("  the server's datagrams left from {seen:?}");
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [ip("2001:db8::100")]);
    nft(&router, "delete table inet only");
    run_ip(&server, "addr del 2001:db8::100/64 dev eth0");
    need_place(&b, "server", ip("2001:db8::1"));
    traffic([&client, &server], [&b, &a]);
    assert!(a.is_running());
}
