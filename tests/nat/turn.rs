//! A relayed address at a real TURN server (coturn).

use std::time::Duration;

use aegisray::{host::Netlink, lab::load};

use super::{
    harness::{Dir, bootstrap, need, need_route, node, program, quiet},
    matrix::is_direct,
    routers::{Kind, Site},
    running::Running,
};

const HUB: &str = "203.0.113.250";
const SERVER: &str = "203.0.113.240";
/// Its other address: with two it serves behaviour discovery.
const SECOND: &str = "203.0.113.241";

pub fn two_symmetric() {
    let dir = Dir::new();
    let mut internet = aegisray::lab::topology::Internet::new().unwrap();
    let hub_host = internet.public(HUB.parse().unwrap()).unwrap();
    let server = internet.public(SERVER.parse().unwrap()).unwrap();
    server.ns.run(|| Netlink::open()?.add_address("eth0", SECOND.parse().unwrap(), 24)).unwrap();
    let mut command = server.ns.command("turnserver");
    command.args([
        "-n",
        "-a",
        "-f",
        "-r",
        "example.org",
        "-u",
        "node:secret",
        "-L",
        SERVER,
        "-L",
        SECOND,
        "-p",
        "3478",
    ]);
    command.args(["--no-tls", "--no-dtls", "--no-cli", "--no-software-attribute", "--no-stdout-log"]);
    command.arg("--log-file").arg(dir.0.join("turn.log")).arg("--pidfile").arg(dir.0.join("turn.pid"));
    command.arg("--userdb").arg(dir.0.join("turn.db"));
    let _server = Running::start(command);
    let mut hub = node(&dir, "hub", &quiet());
    hub.start(&hub_host).unwrap();
    let sites = [1, 2].map(|n| Site::new(&mut internet, Kind::Symmetric, n));
    let turn = format!("  turn:\n    server: {SERVER}:3478\n    username: node\n    password: secret\n");
    let mut a = node(&dir, "A", &format!("{}{turn}", bootstrap(HUB)));
    let mut c = node(&dir, "C", &bootstrap(HUB));
    a.start(&sites[0].host).unwrap();
    c.start(&sites[1].host).unwrap();
    need_route(&a, "C");
    need_route(&c, "A");
    let relayed =
        need(&a, "relayed address", || a.status()?.node.endpoints.into_iter().find(|e| e.ip().to_string() == SERVER));
    let started = std::time::Instant::now();
    need(&a, "link by way of the TURN server", || is_direct(&a, &c).then_some(()));
    let link = need(&c, "link", || c.peers().into_iter().find(|p| p.name == "A")?.link);
    assert_eq!(link.addr, relayed, "C sends to the relayed address");
    println!("  two symmetric NATs are linked through coturn after {:.1} s", started.elapsed().as_secs_f64());
    let mut netcheck = sites[0].host.ns.command(program());
    netcheck.args(["netcheck", "--json", "--server", SERVER, "--config", "/nonexistent"]);
    let report: serde_json::Value = serde_json::from_slice(&netcheck.output().unwrap().stdout).unwrap();
    println!("  coturn as a STUN server: mapping {}, filtering {}", report["mapping"], report["filtering"]);
    assert_eq!([&report["mapping"], &report["filtering"]], ["address-and-port-dependent"; 2]);
    // Who is not known there is told so, and is a node all the same.
    let stranger = internet.public("203.0.113.3".parse().unwrap()).unwrap();
    let mut x = node(&dir, "X", &format!("{}{}", bootstrap(HUB), turn.replace("secret", "guess")));
    x.start(&stranger).unwrap();
    need(&x, "refusal", || x.log_tail().contains("wrong username or password").then_some(()));
    need_route(&x, "A");
    let to = need(&c, "addresses", || c.addresses()).0;
    let rate = load::tcp(&sites[0].host, &sites[1].host, to, load::Streams::one(Duration::from_secs(2))).unwrap() / 1e6;
    println!("  {rate:.0} Mbit/s through coturn");
    assert!(rate > 1.0 && is_direct(&a, &c));
}
