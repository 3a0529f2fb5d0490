//! What `aegisray netcheck` says of each kind of NAT.

use aegisray::{host::Netlink, lab::topology::Internet};

use super::{
    harness::{Dir, need, node, program, quiet},
    routers::{Kind, Site},
};

/// (UDP, NAT, mapping, filtering, hairpin) as netcheck should print them.
fn expected(kind: Kind) -> (bool, bool, &'static str, &'static str, Option<bool>) {
    let (independent, address, port) = ("endpoint-independent", "address-dependent", "address-and-port-dependent");
    match kind {
        Kind::Open => (true, false, independent, independent, None),
        Kind::FullCone => (true, true, independent, independent, Some(false)),
        Kind::Hairpin => (true, true, independent, independent, Some(true)),
        Kind::AddressRestricted => (true, true, independent, address, Some(false)),
        Kind::PortRestricted | Kind::Double => (true, true, independent, port, Some(false)),
        Kind::Symmetric | Kind::Counting => (true, true, port, port, None),
        Kind::Blocked => (false, false, "unknown", "unknown", None),
    }
}

pub fn every_nat() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    // A node with two public addresses serves behaviour discovery.
    let hub = internet.public("203.0.113.250".parse().unwrap()).unwrap();
    hub.ns.run(|| Netlink::open()?.add_address("eth0", "203.0.113.251".parse().unwrap(), 24)).unwrap();
    let mut daemon = node(&dir, "hub", &quiet());
    daemon.start(&hub).unwrap();
    need(&daemon, "status", || daemon.status());
    let mut wrong = Vec::new();
    for (kind, n) in Kind::ALL.into_iter().chain([Kind::Counting, Kind::Hairpin, Kind::Blocked]).zip(1..) {
        let site = Site::new(&mut internet, kind, n);
        let ask = |format: &[&str]| {
            let servers = ["netcheck", "--server", "203.0.113.250:51900", "--config"];
            let mut command = site.host.ns.command(program());
            let output = command.args(servers).arg(daemon.dir.join("peer.yaml")).args(format).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let report: serde_json::Value = serde_json::from_str(&ask(&["--json"])).unwrap();
        let text = |key: &str| report[key].as_str().unwrap().to_owned();
        let flag = |key: &str| report[key].as_bool();
        let found = (flag("udp").unwrap(), flag("nat").unwrap(), text("mapping"), text("filtering"), flag("hairpin"));
        let (udp, nat, mapping, filtering, hairpin) = expected(kind);
        println!("  {:<11} {}", kind.name(), text("verdict"));
        if found != (udp, nat, mapping.to_owned(), filtering.to_owned(), hairpin) {
            wrong.push((kind, found));
        }
        if kind == Kind::PortRestricted {
            print!("{}", ask(&[]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
