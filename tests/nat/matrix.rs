//! Who reaches whom directly, and how soon.

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    time::{Duration, Instant},
};

use aegisray::{
    api::{Request, Response},
    lab::{daemon::Daemon, topology::Internet, wire::Weather},
    node::LinkStatus,
};

use super::{
    harness::{Dir, bootstrap, need, need_route, node, quiet},
    order::both_ways,
    routers::{Kind, Site},
};

const HUB: &str = "203.0.113.250";

pub fn echoes(from: &Daemon, to: &Daemon) -> bool {
    matches!(from.ask(&Request::Ping { node: to.name.clone(), size: 1000 }), Ok(Response::Pong { .. }))
}

pub fn is_direct(a: &Daemon, b: &Daemon) -> bool {
    a.has_link(&b.name) && b.has_link(&a.name)
}

/// Whether the two kinds get a direct path without luck: one end keeps its public port, and the other end's filter
/// lets in who it has sent to.
fn must_be_direct(a: Kind, b: Kind) -> bool {
    let strict = |k: Kind| matches!(k, Kind::PortRestricted | Kind::Double | Kind::Symmetric);
    !(a == Kind::Symmetric && strict(b) || b == Kind::Symmetric && strict(a))
}

pub fn every_pair() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let hub = internet.public(HUB.parse().unwrap()).unwrap();
    let mut b = node(&dir, "hub", &quiet());
    b.start(&hub).unwrap();
    let mut sites: Vec<(Site, Daemon)> = Vec::new();
    for (i, kind) in Kind::ALL.into_iter().chain(Kind::ALL).enumerate() {
        let site = Site::new(&mut internet, kind, 1 + i as u8);
        let name = format!("{}-{}", kind.name(), 1 + i / Kind::ALL.len());
        let mut daemon = node(&dir, &name, &bootstrap(HUB));
        daemon.start(&site.host).unwrap();
        sites.push((site, daemon));
    }
    let started = Instant::now();
    for (_, from) in &sites {
        for (_, to) in sites.iter().filter(|(_, d)| d.name != from.name) {
            need_route(from, &to.name);
        }
    }
    println!("  every node has a route to every other {:.1} s after the last start", started.elapsed().as_secs_f64());
    let (left, right) = sites.split_at(Kind::ALL.len());
    let routed = Instant::now();
    let mut direct: BTreeMap<(usize, usize), Duration> = BTreeMap::new();
    let (mut lost, mut sent) = (0, 0);
    while routed.elapsed() < Duration::from_secs(40) {
        let mut waiting = false;
        for (i, (a, from)) in left.iter().enumerate() {
            for (j, (b, to)) in right.iter().enumerate() {
                if direct.contains_key(&(i, j)) {
                    continue;
                }
                sent += 1;
                lost += usize::from(!echoes(from, to));
                if is_direct(from, to) {
                    direct.insert((i, j), routed.elapsed());
                } else {
                    waiting |= must_be_direct(a.kind, b.kind);
                }
            }
        }
        if !waiting && routed.elapsed() > Duration::from_secs(30) {
            break;
        }
    }
    println!("  {sent} echoes until then, {lost} lost");
    println!("\n| seconds until direct | {} |", Kind::ALL.map(Kind::name).join(" | "));
    println!("|---{}|", "|---".repeat(Kind::ALL.len()));
    for (i, (site, _)) in left.iter().enumerate() {
        let cell = |j: usize| direct.get(&(i, j)).map_or("relayed".to_owned(), |t| format!("{:.1}", t.as_secs_f64()));
        let cells: Vec<String> = (0..right.len()).map(cell).collect();
        println!("| {} | {} |", site.kind.name(), cells.join(" | "));
    }
    println!();
    // Who can't be direct is told why.
    let [symmetric, other] = [left, right].map(|side| &side.iter().find(|(s, _)| s.kind == Kind::Symmetric).unwrap().1);
    let peer = symmetric.peers().into_iter().find(|p| p.name == other.name);
    assert!(peer.is_some_and(|p| p.obstacle.is_some_and(|why| why.contains("symmetric"))));
    assert_eq!(lost, 0, "relays carry what has no direct path");
    for (i, (a, _)) in left.iter().enumerate() {
        for (j, (b, _)) in right.iter().enumerate() {
            let is_direct = direct.contains_key(&(i, j));
            assert!(is_direct || !must_be_direct(a.kind, b.kind), "{:?} and {:?} stay relayed", a.kind, b.kind);
        }
    }
}

/// A network of its own, so that many can run at the same time.
pub struct Pair {
    _internet: Internet,
    _dir: Dir,
    pub hub: Daemon,
    pub sites: [(Site, Daemon); 2],
}

/// Two sites and a hub.
pub fn pair(kinds: [Kind; 2], prepare: impl Fn(&[Site; 2])) -> Pair {
    pair_with(kinds, "", prepare)
}

/// Two sites and a hub, whose configuration gets `more`; `prepare` is called before the sites' daemons start.
pub fn pair_with(kinds: [Kind; 2], more: &str, prepare: impl Fn(&[Site; 2])) -> Pair {
    pair_in([None, None], kinds, more, prepare)
}

/// [`pair_with`], with weather on the cables of the hub and of the two sites.
pub fn pair_in(weather: [Option<Weather>; 2], kinds: [Kind; 2], more: &str, prepare: impl Fn(&[Site; 2])) -> Pair {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    internet.set_weather(weather[0]);
    let host = internet.public(HUB.parse().unwrap()).unwrap();
    internet.set_weather(weather[1]);
    let mut hub = node(&dir, "hub", &format!("{}{more}", quiet()));
    hub.start(&host).unwrap();
    let mut n = 0;
    let sites = kinds.map(|kind| {
        n += 1;
        Site::new(&mut internet, kind, n)
    });
    prepare(&sites);
    let sites = sites.map(|site| {
        let name = format!("{}-{}", site.kind.name(), site.n);
        let mut daemon = node(&dir, &name, &bootstrap(HUB));
        daemon.start(&site.host).unwrap();
        (site, daemon)
    });
    Pair { _internet: internet, _dir: dir, hub, sites }
}

const TRIALS: usize = 20;
/// Attempts last 20 seconds; the second one begins 5 seconds after the first one was offered.
const TRIAL: Duration = Duration::from_secs(45);

/// How often somebody else behind the same router begins a flow.
const OTHER_FLOWS: Duration = Duration::from_millis(200);

/// Pairs of these kinds, each in a network of its own, until all are direct or time is over. Returns the pairs, and how
/// long it took those that are direct.
fn trials(kinds: [Kind; 2]) -> (Vec<Pair>, BTreeMap<usize, Duration>) {
    let pairs: Vec<Pair> = (0..TRIALS).map(|_| pair(kinds, |_| ())).collect();
    for p in &pairs {
        need_route(&p.sites[0].1, &p.sites[1].1.name);
    }
    let start = Instant::now();
    let mut times: BTreeMap<usize, Duration> = BTreeMap::new();
    let mut flows = 0;
    while start.elapsed() < TRIAL && times.len() < TRIALS {
        let another = start.elapsed() > OTHER_FLOWS * flows;
        flows += u32::from(another);
        for (i, p) in pairs.iter().enumerate().filter(|(i, _)| !times.contains_key(i)).collect::<Vec<_>>() {
            let [(_, a), (_, b)] = &p.sites;
            assert!(echoes(a, b), "relays carry what has no direct path yet");
            if another {
                p.sites.iter().for_each(|(site, _)| other_flow(site));
            }
            if is_direct(a, b) {
                times.insert(i, start.elapsed());
            }
        }
    }
    let mut sorted: Vec<f64> = times.values().map(Duration::as_secs_f64).collect();
    sorted.sort_by(f64::total_cmp);
    println!(
        "  {} × {}: direct in {} of {TRIALS} trials, median after {:.1} s, the last after {:.1} s",
        kinds[0].name(),
        kinds[1].name(),
        times.len(),
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN),
        sorted.last().copied().unwrap_or(f64::NAN)
    );
    (pairs, times)
}

pub fn hard_pairs() {
    let (pairs, times) = trials([Kind::Symmetric, Kind::PortRestricted]);
    assert!(times.len() * 100 >= TRIALS * 95, "{times:?}");
    // A direct path outlives what routers remember of an idle flow.
    let [(_, a), (_, b)] = &pairs[*times.keys().next().unwrap()].sites;
    std::thread::sleep(Duration::from_secs(35));
    assert!(is_direct(a, b) && echoes(a, b) && echoes(b, a));
    // By now they have measured that, and leave long pauses once they have long been idle.
    let keepalive = |d: &Daemon| d.status().map(|s| s.node.keepalive_s).filter(|s| *s > 0);
    let pauses = [a, b].map(|d| need(d, "a measured keepalive", || keepalive(d)));
    println!("  routers forget after 30 s: idle links are probed every {pauses:?} s at the most rarely");
    assert!(pauses.iter().all(|s| (20..30).contains(s)), "{pauses:?}");
}

/// NATs that take one port after another, while other flows take some too.
pub fn counting_pairs() {
    let (_pairs, times) = trials([Kind::Counting, Kind::Counting]);
    let (_pairs, mixed) = trials([Kind::Counting, Kind::PortRestricted]);
    assert!(times.len() * 100 >= TRIALS * 95, "{times:?}");
    assert_eq!(mixed.len(), TRIALS, "{mixed:?}");
}

/// Takes a port of the site's router.
fn other_flow(site: &Site) {
    let sent = site.host.ns.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", "203.0.113.249:9"));
    sent.expect("the router takes it");
}

/// How long the first packets take over distance, with and without loss.
pub fn distance() {
    let delay = Duration::from_millis(20);
    for loss in [0.0, 0.05] {
        let weather = Weather { delay, jitter: Duration::from_millis(2), loss, rate: None };
        // Two symmetric NATs, whose packets go through the relay for ever; and two that meet.
        let relayed = pair_in([None, Some(weather)], [Kind::Symmetric, Kind::Symmetric], "", |_| ());
        let [(_, a), (_, b)] = &relayed.sites;
        need_route(a, &b.name);
        need_route(b, &a.name);
        let first = echo_time(a, b);
        let mut later: Vec<Duration> = (0..9).map(|_| echo_time(a, b)).collect();
        later.sort_unstable();
        let meets = pair_in([None, Some(weather)], [Kind::PortRestricted, Kind::Double], "", |_| ());
        let [(_, c), (_, d)] = &meets.sites;
        need_route(c, &d.name);
        let start = Instant::now();
        need(c, "direct path", || {
            echoes(c, d);
            is_direct(c, d).then_some(())
        });
        println!(
            "  80 ms round trip, {} % lost: first ping through the relay {} ms, later {} ms; direct {:.1} s after the route",
            loss * 100.0,
            first.as_millis(),
            later[4].as_millis(),
            start.elapsed().as_secs_f64()
        );
        assert!(later[4] > 4 * delay, "the cables are as long as they should be");
    }
}

fn echo_time(from: &Daemon, to: &Daemon) -> Duration {
    let start = Instant::now();
    need(from, "echo", || echoes(from, to).then_some(()));
    start.elapsed()
}

/// Two ways between two nodes, and the slow one is found first: the fast one is used soon, and stays in use.
pub fn better_place() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let ip = |text: &str| text.parse().unwrap();
    internet.set_weather(Some(Weather { delay: Duration::from_millis(10), ..Weather::default() }));
    let hosts = [internet.public(ip("203.0.113.1")).unwrap(), internet.public(ip("203.0.113.2")).unwrap()];
    let mut a = node(&dir, "A", &bootstrap("203.0.113.2"));
    let mut b = node(&dir, "B", &quiet());
    a.start(&hosts[0]).unwrap();
    b.start(&hosts[1]).unwrap();
    need_route(&a, "B");
    need_route(&b, "A");
    hosts[0].cable(&hosts[1], ("lan", ip("192.168.9.1")), ("lan", ip("192.168.9.2"))).unwrap();
    let places = || [(&a, "B"), (&b, "A")].map(|(d, peer)| d.peers().into_iter().find(|p| p.name == peer)?.link);
    let is_fast = |links: &[Option<LinkStatus>; 2]| {
        links.iter().flatten().filter(|l| l.addr.ip().to_string().starts_with("192.168.9.")).count() == 2
    };
    let addresses = [&a, &b].map(|d| need(d, "addresses", || d.addresses()).0);
    both_ways([&hosts[0], &hosts[1]], addresses, Duration::from_secs(12), || {
        let start = Instant::now();
        need(&a, "the fast way", || is_fast(&places()).then_some(()));
        println!("  from 40 ms to a cable beside it after {:.1} s", start.elapsed().as_secs_f64());
    });
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        assert!(echoes(&a, &b));
        std::thread::sleep(Duration::from_millis(50));
    }
    let links = places();
    assert!(is_fast(&links), "{links:?}");
    let moves: u64 = [&a, &b].map(|d| need(d, "status", || d.status()).node.counters["roams"]).iter().sum();
    assert!(moves <= 4, "the link wandered {moves} times");
}
