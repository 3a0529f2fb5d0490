//! Through the proxies that networks ask for: microsocks and tinyproxy, with passwords.

use std::fs;

use aegisray::lab::topology::Internet;

use super::{
    firewall::nft,
    harness::{Dir, need, need_route, node},
    running::Running,
    site::{NAME, Site},
};

const PROXY: &str = "203.0.113.50";

pub fn both_kinds() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let site = Site::open(&dir, &mut internet, 10);
    let middle = internet.public(PROXY.parse().unwrap()).unwrap();
    let mut socks = middle.ns.command("microsocks");
    socks.args(["-i", PROXY, "-p", "1080", "-u", "guest", "-P", "open"]);
    let _socks = Running::start(socks);
    let config = format!(
        "Port 8888\nListen {PROXY}\nTimeout 60\nMaxClients 20\nConnectPort 443\nBasicAuth guest open\nPidFile \"{}\"\n",
        dir.0.join("tinyproxy.pid").display()
    );
    fs::write(dir.0.join("tinyproxy.conf"), config).unwrap();
    let mut http = middle.ns.command("tinyproxy");
    http.arg("-d").arg("-c").arg(dir.0.join("tinyproxy.conf"));
    let _http = Running::start(http);
    for (n, scheme, port) in [(1, "socks5", 1080), (2, "http", 8888)] {
        let host = internet.public(format!("203.0.113.{}", 20 + n).parse().unwrap()).unwrap();
        nft(
            &host,
            &format!(
                "table inet office {{ chain out {{ type filter hook output priority 0; policy accept;
                   oifname eth0 ip daddr {PROXY} accept; oifname eth0 meta l4proto {{ tcp, udp }} drop;\n }}\n }}"
            ),
        );
        let through = |password: &str| {
            format!("{}  proxy: \"{scheme}://guest:{password}@{PROXY}:{port}\"\n", site.way_in("always", NAME))
        };
        let mut wrong = node(&dir, &format!("wrong-{n}"), &through("guess"));
        wrong.start(&host).unwrap();
        need(&wrong, "the refusal", || wrong.log_tail().contains("the proxy refuses").then_some(()));
        let line = wrong.log_tail().lines().find(|l| l.contains("the proxy refuses")).unwrap_or_default().to_owned();
        println!("  {scheme}: {}", line.split("error=").nth(1).unwrap_or(&line));
        wrong.kill();
        let mut client = node(&dir, &format!("client-{n}"), &through("open"));
        client.start(&host).unwrap();
        need_route(&client, "site");
        println!("  {scheme}: joined through the proxy");
    }
}
