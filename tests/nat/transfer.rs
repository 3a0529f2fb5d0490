//! A transfer that goes on while its path changes: relayed, direct, relayed again, from another address.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use aegisray::{
    host::Netlink,
    lab::{
        load,
        topology::Host,
        traffic::{Echo, echoes, first_echo},
        wire::Weather,
    },
    types::IpPrefix,
};

use super::{
    harness::{need, need_route},
    matrix::{Pair, echoes as echo, is_direct, pair, pair_in, pair_with},
    routers::{Kind, Site, nft},
};

const PORT: u16 = 7020;
/// Bytes a second: enough that a stall shows, not so many that the machine is the limit.
const RATE: usize = 12 << 20;
const BYTES: usize = 120 << 20;

/// What a transfer went through.
#[derive(Debug)]
struct Outcome {
    received: usize,
    wrong: usize,
    longest_stall: Duration,
}

fn byte(at: usize) -> u8 {
    ((at / 3) ^ (at >> 11)) as u8
}

fn transfer(from: &Host, to: &Host, address: IpAddr) -> io::Result<Outcome> {
    let listener = to.ns.run(|| TcpListener::bind((address, PORT)))?;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || -> io::Result<Outcome> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut outcome = Outcome { received: 0, wrong: 0, longest_stall: Duration::ZERO };
            let mut buffer = vec![0; 64 << 10];
            let mut last = Instant::now();
            loop {
                let n = stream.read(&mut buffer)?;
                if n == 0 {
                    return Ok(outcome);
                }
                outcome.longest_stall = outcome.longest_stall.max(last.elapsed());
                last = Instant::now();
                let start = outcome.received;
                outcome.wrong += buffer[..n].iter().enumerate().filter(|(i, b)| **b != byte(start + i)).count();
                outcome.received += n;
            }
        });
        from.ns.run(|| {
            let mut stream = TcpStream::connect_timeout(&(address, PORT).into(), Duration::from_secs(5))?;
            let (mut sent, start) = (0, Instant::now());
            while sent < BYTES {
                let chunk: Vec<u8> = (sent..(sent + (16 << 10)).min(BYTES)).map(byte).collect();
                stream.write_all(&chunk)?;
                sent += chunk.len();
                let due = Duration::from_secs_f64(sent as f64 / RATE as f64);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
            Ok(())
        })?;
        receiver.join().map_err(|_| io::Error::other("the receiver failed"))?
    })
}

/// Whether the routers let the two sites' packets pass directly.
fn allow_direct(router: &Host, other: u8, allowed: bool) {
    if allowed {
        nft(router, "delete table inet direct");
    } else {
        nft(
            router,
            &format!(
                "table inet direct {{
                    chain forward {{ type filter hook forward priority -10; policy accept;
                      ip daddr 203.0.113.{other} meta l4proto udp drop
                      ip saddr 203.0.113.{other} meta l4proto udp drop
                    }}
                }}"
            ),
        );
    }
}

/// Two sites that reach each other through the hub only, which is so far away, and the second one's address in the mesh.
fn relayed_pair(away: Option<Duration>) -> (Pair, IpAddr) {
    let weather = away.map(|delay| Weather { delay, ..Weather::default() });
    let p = pair_in([weather, None], [Kind::PortRestricted, Kind::PortRestricted], "", |sites| {
        allow_direct(&sites[0].routers[0], 2, false);
    });
    let [(_, a), (_, b)] = &p.sites;
    need_route(a, &b.name);
    need_route(b, &a.name);
    let address = need(b, "addresses", || b.addresses()).0;
    (p, address)
}

pub fn survives() {
    let (p, address) = relayed_pair(None);
    let [(site, a), (other, b)] = &p.sites;
    let router = &site.routers[0];
    let changes = |start: Instant| {
        let mut log = Vec::new();
        let mut note = |what: &str| log.push(format!("{what} after {:.1} s", start.elapsed().as_secs_f64()));
        std::thread::sleep(Duration::from_millis(1000));
        assert!(!is_direct(a, b), "relayed at first");
        allow_direct(router, 2, true);
        note("the hole may open");
        need(a, "direct path", || is_direct(a, b).then_some(()));
        note("direct");
        std::thread::sleep(Duration::from_millis(700));
        allow_direct(router, 2, false);
        note("the hole is closed");
        need(a, "end of the direct path", || (!is_direct(a, b)).then_some(()));
        note("relayed");
        std::thread::sleep(Duration::from_millis(700));
        site.host
            .ns
            .run(|| {
                let mut n = Netlink::open()?;
                n.remove_address("eth0", "192.168.1.2".parse().unwrap(), 24)?;
                n.add_address("eth0", "192.168.1.77".parse().unwrap(), 24)?;
                let everywhere = IpPrefix::new([0, 0, 0, 0].into(), 0).unwrap();
                n.add_route(everywhere, Some([192, 168, 1, 1].into()), None)
            })
            .unwrap();
        note("another address");
        log
    };
    let outcome = std::thread::scope(|scope| {
        let changes = scope.spawn(|| changes(Instant::now()));
        let outcome = transfer(&site.host, &other.host, address).expect("the transfer survives");
        println!("  {}", changes.join().unwrap().join(", "));
        outcome
    });
    println!(
        "  {} MiB, {} bytes wrong, longest stall {} ms",
        outcome.received >> 20,
        outcome.wrong,
        outcome.longest_stall.as_millis()
    );
    assert_eq!((outcome.received, outcome.wrong), (BYTES, 0));
    assert!(outcome.longest_stall < Duration::from_secs(1), "{:?}", outcome.longest_stall);
}

/// Two sites with a direct path, the second one's address in the mesh, and what answers there.
fn direct_pair(kinds: [Kind; 2]) -> (Pair, IpAddr, Echo) {
    let p = pair(kinds, |_| ());
    let [(_, a), (other, b)] = &p.sites;
    let address = need(b, "addresses", || b.addresses()).0;
    need_route(a, &b.name);
    need(a, "direct path", || is_direct(a, b).then_some(()));
    let echo = Echo::start(&other.host, address);
    (p, address, echo)
}

/// Routers forget all connections that they know of.
fn forget(routers: &[Host]) {
    for router in routers {
        let output = router.ns.command("conntrack").arg("-F").output().expect("conntrack is installed");
        assert!(output.status.success(), "{output:?}");
    }
}

/// The routers lose all they know of connections, as when they are started anew, while packets flow.
pub fn reboots() {
    for kinds in [[Kind::PortRestricted, Kind::PortRestricted], [Kind::FullCone, Kind::Symmetric]] {
        let (p, address, _echo) = direct_pair(kinds);
        let [(site, _), (other, _)] = &p.sites;
        let interval = Duration::from_millis(20);
        let reboot = || [&site.routers, &other.routers].into_iter().for_each(|routers| forget(routers));
        let run = (interval, Duration::from_secs(4));
        let seen = echoes(&site.host, address, run, 64, (Duration::from_secs(1), &reboot)).unwrap();
        let outage = seen.longest_outage(interval);
        println!("  {} and {}: outage {} ms", kinds[0].name(), kinds[1].name(), outage.as_millis());
        assert!(seen.answered.len() > 100 && outage <= Duration::from_secs(1), "{outage:?}");
    }
}

/// A laptop that slept for a while, and whose router has forgotten it meanwhile.
pub fn resumes() {
    for kinds in [[Kind::PortRestricted, Kind::PortRestricted], [Kind::Symmetric, Kind::FullCone]] {
        let (p, address, _echo) = direct_pair(kinds);
        let [(site, a), _] = &p.sites;
        first_echo(&site.host, address, Duration::from_secs(2)).expect("an echo before");
        let pid = a.pid().expect("it runs").to_string();
        let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
        signal("-STOP");
        std::thread::sleep(Duration::from_secs(12));
        forget(&site.routers);
        signal("-CONT");
        let first = first_echo(&site.host, address, Duration::from_secs(10)).expect("an echo after");
        println!("  {} and {}: an echo {} ms after the pause", kinds[0].name(), kinds[1].name(), first.as_millis());
        assert!(first <= Duration::from_secs(1), "{first:?}");
    }
}

/// What a relay is told to give is what it gives, and counts.
pub fn relay_limits() {
    let limits = "routing:\n  relay_limit:\n    mbit: 400\n    peer_mbit: 40\n    peers: 8\n";
    let p = pair_with([Kind::Symmetric, Kind::Symmetric], limits, |_| ());
    let [(site, a), (other, b)] = &p.sites;
    need_route(a, &b.name);
    let address = need(b, "addresses", || b.addresses()).0;
    let time = Duration::from_secs(3);
    let rate = load::tcp(&site.host, &other.host, address, load::Streams::one(time)).unwrap() / 1e6;
    let status = need(&p.hub, "status", || p.hub.status());
    println!(
        "  a relay limited to 40 Mbit/s a neighbour carries {rate:.1}, dropped {}, relayed {} bytes",
        status.node.dropped["relay_limit"], status.traffic["relayed_bytes"]
    );
    assert!((4.0..44.0).contains(&rate), "{rate}");
    assert!(status.node.dropped["relay_limit"] > 0 && status.traffic["relayed_bytes"] > 1_000_000);
}

/// Where no UDP passes, a node joins over TCP, and moves to UDP when that opens, in the middle of a transfer.
pub fn without_udp() {
    let p = pair([Kind::Blocked, Kind::PortRestricted], |_| ());
    let [(site, a), (other, b)] = &p.sites;
    let start = Instant::now();
    need_route(a, &b.name);
    need_route(b, &a.name);
    println!("  no UDP: a route over TCP after {:.1} s", start.elapsed().as_secs_f64());
    let address = need(b, "addresses", || b.addresses()).0;
    let rate = load::tcp(&site.host, &other.host, address, load::Streams::one(Duration::from_secs(2))).unwrap() / 1e9;
    println!("  {rate:.2} Gbit/s over TCP and a relay");
    let is_over_udp = || {
        let hub = a.peers().into_iter().find(|p| p.name == "hub")?;
        // The hub has seen the stream's port, which is not the mesh's.
        let seen = p.hub.peers().into_iter().find(|p| p.name == a.name)?.link?.addr;
        hub.link?.up.then_some(seen.port() == 51_900)
    };
    assert_eq!(is_over_udp(), Some(false));
    let outcome = std::thread::scope(|scope| {
        let opening = scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            nft(&site.routers[0], "flush chain inet fw forward");
            let start = Instant::now();
            need(a, "UDP", || is_over_udp().filter(|udp| *udp));
            start.elapsed()
        });
        let outcome = transfer(&site.host, &other.host, address).expect("the transfer survives");
        println!("  over UDP {:.1} s after it was let through", opening.join().unwrap().as_secs_f64());
        outcome
    });
    println!("  {} MiB, longest stall {} ms", outcome.received >> 20, outcome.longest_stall.as_millis());
    assert_eq!((outcome.received, outcome.wrong), (BYTES, 0));
}

/// Counted datagrams while a relayed path becomes a direct one, which is faster by many of them: by 10 ms, and by 150.
pub fn upgrade() {
    [5, 75].map(Duration::from_millis).into_iter().for_each(upgrade_from);
}

fn upgrade_from(away: Duration) {
    let (p, address) = relayed_pair(Some(away));
    let [(site, a), (other, b)] = &p.sites;
    load::round_trips(&site.host, &other.host, address, 20, Duration::from_millis(10)).unwrap();
    let flood = std::thread::scope(|scope| {
        let time = Duration::from_secs(8);
        let flood = scope.spawn(move || load::udp(&site.host, &other.host, address, 1000, 5000, time));
        std::thread::sleep(Duration::from_secs(1));
        assert!(!is_direct(a, b), "relayed at first");
        allow_direct(&site.routers[0], 2, true);
        need(a, "direct path", || is_direct(a, b).then_some(()));
        flood.join().unwrap().unwrap()
    });
    let lost = flood.sent - flood.received;
    println!(
        "  {} datagrams over an upgrade to a direct path, the relay {away:?} away: {lost} lost, {} reordered",
        flood.sent, flood.reordered
    );
    assert!(is_direct(a, b));
    assert_eq!((flood.received, flood.reordered), (flood.sent, 0));
}

/// IPv6 behind a stateful firewall: no NAT, and nothing comes in uninvited.
fn give_ipv6(site: &Site, other: u8) {
    let n = site.n;
    let ip = |text: String| -> IpAddr { text.parse().unwrap() };
    let router = &site.routers[0];
    let route = |to: String, length, via: IpAddr| {
        Netlink::open()?.add_route(IpPrefix::new(ip(to), length).expect("a prefix"), Some(via), None)
    };
    let sysctl = |key: &str, value: &str| std::fs::write(format!("/proc/sys/net/ipv6/conf/{key}"), value);
    let at_router = || {
        sysctl("all/forwarding", "1")?;
        sysctl("eth0/accept_dad", "0")?;
        sysctl("lan0/accept_dad", "0")?;
        Netlink::open()?.add_address("eth0", ip(format!("2001:db8:ffff::{n}")), 64)?;
        Netlink::open()?.add_address("lan0", ip(format!("2001:db8:{n}::1")), 64)?;
        route(format!("2001:db8:{other}::"), 48, ip(format!("2001:db8:ffff::{other}")))
    };
    let at_host = || {
        sysctl("eth0/accept_dad", "0")?;
        Netlink::open()?.add_address("eth0", ip(format!("2001:db8:{n}::2")), 64)?;
        route("::".to_owned(), 0, ip(format!("2001:db8:{n}::1")))
    };
    router.ns.run(at_router).unwrap();
    site.host.ns.run(at_host).unwrap();
}

/// Where IPv4 has two symmetric NATs, IPv6 has a way through two firewalls.
pub fn over_ipv6() {
    let p = pair([Kind::Symmetric, Kind::Symmetric], |sites| {
        give_ipv6(&sites[0], 2);
        give_ipv6(&sites[1], 1);
    });
    let [(site, a), (other, b)] = &p.sites;
    need_route(a, &b.name);
    need_route(b, &a.name);
    let start = Instant::now();
    let link = need(a, "a direct link", || {
        echo(a, b);
        a.peers().into_iter().find(|p| p.name == b.name)?.link.filter(|l| l.up)
    });
    println!("  direct over {} {:.1} s after the routes", link.addr, start.elapsed().as_secs_f64());
    assert!(link.addr.is_ipv6());
    let address = need(b, "addresses", || b.addresses()).0;
    let rate = load::tcp(&site.host, &other.host, address, load::Streams::one(Duration::from_secs(1))).unwrap();
    println!("  {:.2} Gbit/s over it", rate / 1e9);
    let mtu = need(a, "the path MTU", || a.peers().into_iter().find(|p| p.name == b.name)?.link?.path_mtu);
    assert_eq!(mtu, 1500);
}
