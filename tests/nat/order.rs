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

/// Two nodes that reach each other through relays only; a nearer relay joins while packets flow.
pub fn nearer_relay() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let public = |internet: &mut Internet, n: u8| internet.public([203, 0, 113, n].into()).unwrap();
    let hosts = [1, 2].map(|n| public(&mut internet, n));
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
    let near_host = public(&mut internet, 4);
    internet.set_weather(Some(Weather { delay: Duration::from_millis(10), ..Weather::default() }));
    let far_host = public(&mut internet, 3);
    let mut far = node(&dir, "far", &quiet());
    let [mut a, mut b] = ["A", "B"].map(|name| node(&dir, name, &bootstrap("203.0.113.3")));
    let mut near = node(&dir, "near", &bootstrap("203.0.113.3"));
    far.start(&far_host).unwrap();
    a.start(&hosts[0]).unwrap();
    b.start(&hosts[1]).unwrap();
    need_route(&a, "B");
    need_route(&b, "A");
    let addresses = [&a, &b].map(|d| need(d, "addresses", || d.addresses()).0);
    load::round_trips(&hosts[0], &hosts[1], addresses[1], 20, Duration::from_millis(10)).unwrap();
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
