//! Whether packets keep their order while their path changes for a faster one.

use std::{net::IpAddr, time::Duration};

use aegisray::lab::{
    daemon::Daemon,
    load,
    topology::{Host, Internet},
    wire::Weather,
};

use super::{
    firewall::nft,
    harness::{Dir, bootstrap, need, need_route, node, quiet},
};

/// The host that ends with 3.
const RELAY: &str = "203.0.113.3";

/// Counted datagrams both ways while `change` happens and for `time` in all: nothing is lost, nothing overtakes.
pub fn both_ways(hosts: [&Host; 2], addresses: [IpAddr; 2], time: Duration, change: impl FnOnce()) {
    let floods = std::thread::scope(|scope| {
        let floods = [(0, 1), (1, 0)].map(|(from, to)| {
            let (from, address, to) = (hosts[from], addresses[to], hosts[to]);
            scope.spawn(move || load::udp(from, to, address, 1000, 3000, time))
        });
        change();
        floods.map(|flood| flood.join().unwrap().unwrap())
    });
    for flood in floods {
        let lost = flood.sent - flood.received;
        println!("  {} datagrams one way meanwhile: {lost} lost, {} reordered", flood.sent, flood.reordered);
        assert_eq!((lost, flood.reordered), (0, 0));
    }
}

fn public(internet: &mut Internet, n: u8) -> Host {
    internet.public([203, 0, 113, n].into()).unwrap()
}

/// Two hosts, of addresses that end with 1 and 2, which don't reach each other.
fn apart(internet: &mut Internet) -> [Host; 2] {
    let hosts = [1, 2].map(|n| public(internet, n));
    for (host, other) in hosts.iter().zip([2, 1]) {
        nft(
            host,
            &format!(
                "table inet apart {{
                   chain input {{
                     type filter hook input priority 0
                     ip saddr 203.0.113.{other} drop
                   }}
                 }}"
            ),
        );
    }
    hosts
}

/// Nodes A and B there, which have found each other through [`RELAY`], and their addresses.
fn joined(dir: &Dir, hosts: &[Host; 2]) -> ([Daemon; 2], [IpAddr; 2]) {
    let [mut a, mut b] = ["A", "B"].map(|name| node(dir, name, &bootstrap(RELAY)));
    a.start(&hosts[0]).unwrap();
    b.start(&hosts[1]).unwrap();
    need_route(&a, "B");
    need_route(&b, "A");
    let addresses = [&a, &b].map(|d| need(d, "addresses", || d.addresses()).0);
    load::round_trips(&hosts[0], &hosts[1], addresses[1], 20, Duration::from_millis(10)).unwrap();
    ([a, b], addresses)
}

/// Two nodes that reach each other through a relay only, 20 ms away; one of them gets a cable to it while packets flow.
pub fn relay_on_a_cable() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    internet.set_weather(Some(Weather { delay: Duration::from_millis(10), ..Weather::default() }));
    let hosts = apart(&mut internet);
    let relay_host = public(&mut internet, 3);
    let mut relay = node(&dir, "relay", &quiet());
    relay.start(&relay_host).unwrap();
    let ([a, _b], addresses) = joined(&dir, &hosts);
    both_ways([&hosts[0], &hosts[1]], addresses, Duration::from_secs(12), || {
        std::thread::sleep(Duration::from_secs(1));
        let ends = ["192.168.9.1", "192.168.9.2"].map(|ip| ("lan", ip.parse().unwrap()));
        hosts[0].cable(&relay_host, ends[0], ends[1]).unwrap();
        let is_fast = |d: &Daemon, peer: &str| {
            let link = d.peers().into_iter().find(|p| p.name == peer)?.link?;
            Some(link.addr.ip().to_string().starts_with("192.168.9."))
        };
        need(&a, "the cable", || {
            let both = [is_fast(&a, "relay"), is_fast(&relay, "A")];
            both.iter().all(|fast| *fast == Some(true)).then_some(())
        });
        println!("  from 20 ms to a cable");
    });
}

/// Two nodes that reach each other through relays only; a nearer relay joins while packets flow.
pub fn nearer_relay() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let hosts = apart(&mut internet);
    let near_host = public(&mut internet, 4);
    internet.set_weather(Some(Weather { delay: Duration::from_millis(10), ..Weather::default() }));
    let far_host = public(&mut internet, 3);
    let mut far = node(&dir, "far", &quiet());
    let mut near = node(&dir, "near", &bootstrap(RELAY));
    far.start(&far_host).unwrap();
    let ([a, b], addresses) = joined(&dir, &hosts);
    let next = |d: &Daemon, to: &str| d.route_to(to).map(|route| route.next_hop_name);
    assert_eq!(next(&a, "B").as_deref(), Some("far"));
    both_ways([&hosts[0], &hosts[1]], addresses, Duration::from_secs(10), || {
        std::thread::sleep(Duration::from_secs(1));
        near.start(&near_host).unwrap();
        need(&a, "the nearer relay", || {
            let both = [next(&a, "B"), next(&b, "A")];
            both.iter().all(|n| n.as_deref() == Some("near")).then_some(())
        });
    });
}
