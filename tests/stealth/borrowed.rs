//! Members behind a site that is somebody else's.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use aegisray::{
    lab::{load, topology::Internet},
    node::Carrier,
};

use super::{
    harness::{Dir, need, need_route, node},
    members::carrier,
    site::{DECOY, NAME, Site},
};

pub fn members_meet() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let (site, _theirs) = Site::borrow(&dir, &mut internet);
    let host = internet.public("203.0.113.20".parse().unwrap()).unwrap();
    let mut client = node(&dir, "client", &site.way_in("always", NAME));
    let start = Instant::now();
    client.start(&host).unwrap();
    need_route(&client, "site");
    println!("  joined {:.1} s after its start", start.elapsed().as_secs_f64());
    assert_eq!(carrier(&client, "site"), Some(Carrier::Tls));
    let address = need(&site.daemon, "addresses", || site.daemon.addresses()).0;
    let rate = load::tcp(&host, &site.host, address, load::Streams::one(Duration::from_secs(3))).unwrap();
    println!("  {:.2} Gbit/s in one stream", rate / 1e9);
    // Comes back as often as it likes.
    client.kill();
    client.start(&host).unwrap();
    need_route(&client, "site");
}

/// A decoy that is down, a name that is not the decoy's, a clock that is wrong.
pub fn errors() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let (site, _theirs) = Site::borrow(&dir, &mut internet);
    let roots = site.authority.display();
    for (n, (what, serve, expected)) in [
        ("down", format!("decoy: \"203.0.113.98:443\", sni: {NAME}"), "no site to stand before (stealth.serve.decoy)"),
        ("another name", format!("decoy: \"{DECOY}:443\", sni: www.example.org"), "for other names: check the sni"),
    ]
    .into_iter()
    .enumerate()
    {
        let host = internet.public(format!("203.0.113.{}", 40 + n).parse().unwrap()).unwrap();
        let more = format!("stealth:\n  mode: auto\n  roots: {roots}\n  serve: {{ port: 443, {serve} }}\n");
        let mut server = node(&dir, &format!("server{n}"), &more);
        server.start(&host).unwrap();
        need(&server, "a clear error", || server.log_tail().contains(expected).then_some(()));
        let line = server.log_tail().lines().find(|l| l.contains(expected)).unwrap_or_default().to_owned();
        println!("  {what}: {}", line.split("ERROR ").nth(1).unwrap_or(&line));
        let refused = host.ns.run(|| TcpStream::connect(("127.0.0.1", 443)));
        assert!(refused.is_err(), "nobody listens where no site can be shown");
    }
    let faketime = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    for (n, offset) in ["+1d", "-1d"].into_iter().enumerate() {
        let host = internet.public(format!("203.0.113.{}", 50 + n).parse().unwrap()).unwrap();
        let mut client = node(&dir, &format!("client{n}"), &site.way_in("always", NAME));
        client.environment = [("LD_PRELOAD", &*faketime), ("FAKETIME", offset), ("DONT_FAKE_MONOTONIC", "1")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .to_vec();
        client.start(&host).unwrap();
        need(&client, "a clear error", || client.log_tail().contains("clock").then_some(()));
        let line = client.log_tail().lines().find(|l| l.contains("clock")).unwrap_or_default().to_owned();
        println!("  clock {offset}: {}", line.split("WARN ").nth(1).unwrap_or(&line));
        assert!(client.route_to("site").is_none());
    }
    // With the right time.
    let host = internet.public("203.0.113.60".parse().unwrap()).unwrap();
    let mut client = node(&dir, "client", &site.way_in("always", NAME));
    client.start(&host).unwrap();
    need_route(&client, "site");
}
