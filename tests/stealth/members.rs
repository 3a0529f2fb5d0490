//! What members can do.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aegisray::{
    lab::{
        daemon::{Daemon, wait_for},
        load,
        topology::Internet,
    },
    node::Carrier,
};

use super::{
    certify::certify,
    firewall::nft,
    harness::{Dir, bootstrap, need, need_route, node},
    site::{ADDRESS, NAME, Site},
    watch::watch,
};

const ONLY_443: &str = "
table inet censor {
  chain out { type filter hook output priority 0; policy accept;
    oifname eth0 tcp dport 443 accept; oifname eth0 meta l4proto { tcp, udp } drop; }
}";

pub fn carrier(d: &Daemon, peer: &str) -> Option<Carrier> {
    d.peers().into_iter().find(|p| p.name == peer)?.link.filter(|l| l.up).map(|l| l.over)
}

pub fn tcp_443_alone() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let site = Site::open(&dir, &mut internet, 10);
    let host = internet.public("203.0.113.20".parse().unwrap()).unwrap();
    nft(&host, ONLY_443);
    let mut client = node(&dir, "client", &format!("{}{}", bootstrap(ADDRESS), site.way_in("auto", NAME)));
    let start = Instant::now();
    client.start(&host).unwrap();
    need_route(&client, "site");
    println!("  joined over TLS {:.1} s after its start", start.elapsed().as_secs_f64());
    assert_eq!(carrier(&client, "site"), Some(Carrier::Tls));
    let mut check = client.command(&host);
    let report = check.arg("--config").arg(client.dir.join("peer.yaml")).args(["stealth", "check"]).output().unwrap();
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    println!("    {}", report.trim_end().replace('\n', "\n    "));
    for part in
        ["mode          auto", "JA4           t13d", "passes as TLS", ": a node answers; TCP ", "not asked (--dns)"]
    {
        assert!(report.contains(part), "{part}: {report}");
    }
    let address = need(&site.daemon, "addresses", || site.daemon.addresses()).0;
    let rate = load::tcp(&host, &site.host, address, load::Streams::one(Duration::from_secs(4))).unwrap();
    println!("  {:.2} Gbit/s in one stream, {:.0} MB in 4 s", rate / 1e9, rate / 2e6);
    std::thread::scope(|scope| {
        let transfer =
            scope.spawn(|| load::tcp(&host, &site.host, address, load::Streams::one(Duration::from_secs(14))));
        std::thread::sleep(Duration::from_secs(2));
        nft(&host, "flush chain inet censor out");
        let open = Instant::now();
        need(&client, "UDP", || (carrier(&client, "site") == Some(Carrier::Udp)).then_some(()));
        println!("  over UDP {:.1} s after it was let through", open.elapsed().as_secs_f64());
        assert!(open.elapsed() <= Duration::from_secs(10));
        let rate = transfer.join().unwrap().expect("the transfer survives");
        println!("  {:.2} Gbit/s over the change", rate / 1e9);
    });
}

pub fn nothing_but_tls() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let site = Site::open(&dir, &mut internet, 10);
    let other_host = internet.public("203.0.113.30".parse().unwrap()).unwrap();
    let mut other = node(&dir, "other", &bootstrap(ADDRESS));
    other.start(&other_host).unwrap();
    let host = internet.public("203.0.113.20".parse().unwrap()).unwrap();
    // What it is told of UDP doesn't count.
    let peers = format!("peers:\n  bootstrap: [\"{ADDRESS}:51900\"]\n  stun_servers: [\"203.0.113.30:3478\"]\n");
    let mut client = node(&dir, "client", &format!("{peers}{}", site.way_in("always", NAME)));
    let mut sent: BTreeMap<String, usize> = BTreeMap::new();
    let see = |frame: &[u8]| {
        let Some(what) = sent_from(frame, [203, 0, 113, 20]) else { return };
        *sent.entry(what).or_default() += 1;
    };
    watch(&host, see, || {
        client.start(&host).unwrap();
        need_route(&client, "site");
        need_route(&client, "other");
        let address = need(&other, "addresses", || other.addresses()).0;
        load::tcp(&host, &other_host, address, load::Streams::one(Duration::from_secs(1))).unwrap();
        // Time for whatever happens every few seconds.
        std::thread::sleep(Duration::from_secs(12));
        assert_eq!(carrier(&client, "site"), Some(Carrier::Tls));
        client.kill();
    })
    .unwrap();
    println!("  sent: {sent:?}");
    let to_the_site = format!("TCP to {ADDRESS}:443");
    assert!(sent.keys().all(|what| *what == to_the_site || what == "ARP"), "{sent:?}");
    assert!(sent[&to_the_site] > 100);
}

/// What a frame is, if this host sent it. The kernel's own IPv6 neighbour discovery is not the daemon's.
fn sent_from(frame: &[u8], ip: [u8; 4]) -> Option<String> {
    let kind = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    match kind {
        0x0806 => Some("ARP".to_owned()),
        0x0800 if frame.get(26..30)? == ip => {
            let to = frame.get(30..34)?;
            let name = match frame[23] {
                6 => "TCP",
                17 => "UDP",
                _ => return Some(format!("IP protocol {}", frame[23])),
            };
            let at = 14 + usize::from(frame[14] & 15) * 4;
            let port = u16::from_be_bytes([*frame.get(at + 2)?, *frame.get(at + 3)?]);
            Some(format!("{name} to {}.{}.{}.{}:{port}", to[0], to[1], to[2], to[3]))
        }
        0x86dd if frame.get(20) != Some(&58) && frame.get(20) != Some(&0) => Some("IPv6".to_owned()),
        _ => None,
    }
}

/// Each mistake is named, and nothing goes out undisguised instead.
pub fn errors() {
    let cases: [(&str, i32, &str, &str); 3] = [
        ("expired", -1, NAME, "has expired, or this host's clock"),
        ("another name", 10, "www.example.org", "for other names: check the sni"),
        ("another authority", 10, NAME, "see stealth.roots"),
    ];
    for (what, days, sni, expected) in cases {
        let dir = Dir::new();
        let mut internet = Internet::new().unwrap();
        let mut site = Site::open(&dir, &mut internet, days);
        if what == "another authority" {
            let other = dir.0.join("other");
            std::fs::create_dir_all(&other).unwrap();
            certify(&other, "x.test", 10);
            site.authority = other.join("ca.pem");
        }
        let host = internet.public("203.0.113.20".parse().unwrap()).unwrap();
        let mut client = node(&dir, "client", &site.way_in("always", sni));
        client.start(&host).unwrap();
        need(&client, "a clear error", || client.log_tail().contains(expected).then_some(()));
        let line = client.log_tail().lines().find(|l| l.contains(expected)).unwrap_or_default().to_owned();
        println!("  {what}: {}", line.split("WARN ").nth(1).unwrap_or(&line));
        std::thread::sleep(Duration::from_secs(2));
        assert!(client.route_to("site").is_none());
    }
}

const LOSSY_UDP: &str = "
table inet slow {
  chain out { type filter hook output priority 0; policy accept;
    oifname eth0 meta l4proto udp numgen random mod 100 < 45 drop; }
}";

/// A network that lets UDP through, and loses half of it.
pub fn throttled() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let site = Site::open(&dir, &mut internet, 10);
    let host = internet.public("203.0.113.20".parse().unwrap()).unwrap();
    let mut client = node(&dir, "client", &format!("{}{}", bootstrap(ADDRESS), site.way_in("auto", NAME)));
    client.start(&host).unwrap();
    need_route(&client, "site");
    assert_eq!(carrier(&client, "site"), Some(Carrier::Udp));
    let address = need(&site.daemon, "addresses", || site.daemon.addresses()).0;
    std::thread::scope(|scope| {
        let transfer =
            scope.spawn(|| load::tcp(&host, &site.host, address, load::Streams::one(Duration::from_secs(25))));
        std::thread::sleep(Duration::from_secs(2));
        nft(&host, LOSSY_UDP);
        let slow = Instant::now();
        need(&client, "TLS", || (carrier(&client, "site") == Some(Carrier::Tls)).then_some(()));
        println!("  over TLS {:.1} s after half of UDP was lost", slow.elapsed().as_secs_f64());
        let rate = transfer.join().unwrap().expect("the transfer survives");
        println!("  {:.2} Gbit/s on average, the slow time with it", rate / 1e9);
        assert!(rate > 1e8, "{rate}");
    });
    // It stays, though single probes over UDP come back.
    assert_eq!(carrier(&client, "site"), Some(Carrier::Tls));
    nft(&host, "flush chain inet slow out");
    let good = Instant::now();
    let over_udp = || (carrier(&client, "site") == Some(Carrier::Udp)).then_some(());
    wait_for(Duration::from_secs(60), over_udp).expect("UDP again");
    println!("  over UDP {:.1} s after it was good again", good.elapsed().as_secs_f64());
}
