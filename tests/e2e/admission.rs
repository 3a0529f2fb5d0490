//! Who gets in, and what the others see: nothing.

use std::{fs, net::IpAddr, process::Command, time::Duration};

use aegisray::lab::{
    daemon::Daemon,
    topology::{Host, Internet},
    traffic::{Echo, first_echo},
};

use super::capture::capture;
use super::harness::{Dir, PATIENCE, SECRET, bootstrap, need, need_route, node, program, quiet};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn two_hosts() -> (Internet, Host, Host) {
    let mut net = Internet::new().unwrap();
    let a = net.public(ip("198.51.100.1")).unwrap();
    let b = net.public(ip("198.51.100.2")).unwrap();
    (net, a, b)
}

fn refused(daemon: &Daemon, reason: &str) -> u64 {
    daemon.status().and_then(|s| s.node.refused.get(reason).copied()).unwrap_or(0)
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub fn wrong_secret() {
    let dir = Dir::new();
    let (_net, a, b) = two_hosts();
    let mut inside = node(&dir, "inside", &quiet());
    inside.start(&b).unwrap();
    need(&inside, "status", || inside.status());
    let more = format!("identity:\n  algorithm: ed25519\n{}", bootstrap("198.51.100.2"));
    let mut stranger = Daemon::configure(program(), &dir.0, "stranger", "quite-another-secret-indeed", &more).unwrap();
    // The stranger's host hears not one datagram from the other one's port.
    let from_b: [u8; 4] = [198, 51, 100, 2];
    let port = 51_900u16.to_be_bytes();
    let answer = [&from_b[..], &[198, 51, 100, 1], &port, &port].concat();
    let (answers, frames) = capture(&a, &answer, || {
        stranger.start(&a).unwrap();
        // Nor does it get an answer to STUN, neither as a stranger's netcheck nor as a stranger's node.
        for config in ["/nonexistent".into(), stranger.dir.join("peer.yaml")] {
            let ask = ["netcheck", "--json", "--server", "198.51.100.2:51900", "--config"];
            let found = run(a.ns.command(program()).args(ask).arg(config));
            assert!(found.contains("\"udp\": false"), "{found}");
        }
        std::thread::sleep(Duration::from_secs(4));
    })
    .unwrap();
    assert!(frames > 0, "the stranger knocked");
    assert_eq!(answers, 0, "it was answered");
    need(&inside, "refusal", || (refused(&inside, "wrong network secret, name or authority") > 0).then_some(()));
    assert!(inside.peers().is_empty() && stranger.peers().is_empty());
}

fn init_authority(dir: &Dir) -> Daemon {
    let home = dir.0.join("root");
    run(Command::new(program())
        .args(["init", "--authority", "--name", "root", "--network", "strict", "--advertise", "198.51.100.2:51900"])
        .args(["--algorithm", "ed25519", "--dir"])
        .arg(&home));
    Daemon::prepared(program(), &home, "root")
}

fn invite(root: &Daemon, host: &Host, valid: &str, name: &str) -> String {
    run(root.command(host).args(["invite", "--valid", valid, "--name", name, "--socket"]).arg(root.socket()))
}

fn join(dir: &Dir, name: &str, token: &str) -> Daemon {
    let home = dir.0.join(name);
    run(Command::new(program()).args(["join", token, "--no-start", "--name", name, "--dir"]).arg(&home));
    Daemon::prepared(program(), &home, name)
}

pub fn authority() {
    let dir = Dir::new();
    let (mut net, a, b) = two_hosts();
    let mut root = init_authority(&dir);
    root.start(&b).unwrap();
    need(&root, "status", || root.status());

    // One invite, one member.
    let token = invite(&root, &b, "1h", "member");
    let mut member = join(&dir, "member", &token);
    member.start(&a).unwrap();
    need_route(&member, "root");
    let certificate = member.dir.join("state/certificate.pem");
    need(&member, "certificate", || certificate.exists().then_some(()));
    let shown = run(Command::new(program()).args(["cert", "show"]).arg(&certificate));
    assert!(shown.contains("valid:") && shown.contains("name       member"), "{shown}");

    // The same token does not serve a second node.
    let c = net.public(ip("198.51.100.3")).unwrap();
    let mut second = join(&dir, "second", &token);
    second.start(&c).unwrap();
    need(&root, "refusal", || (refused(&root, "no certificate") > 0).then_some(()));
    assert!(root.route_to("second").is_none() && second.peers().is_empty());
    second.kill();

    // After a restart the member needs no invite: it has its certificate.
    member.kill();
    member.start(&a).unwrap();
    need_route(&member, "root");

    // An expired certificate is refused, and counted.
    let mut late = join(&dir, "late", &invite(&root, &b, "1h", "late"));
    let late_id = run(Command::new(program()).arg("check").arg("-config").arg(late.dir.join("peer.yaml")));
    let late_id = late_id.split(['(', ')']).nth(1).unwrap().to_owned();
    let state = late.dir.join("state");
    fs::create_dir_all(&state).unwrap();
    run(Command::new(program())
        .args(["cert", "issue", "--days", "0", "--node", &late_id, "--name", "late", "--authority-key"])
        .arg(root.dir.join("authority.pem"))
        .arg("--out")
        .arg(state.join("certificate.pem")));
    let yaml = fs::read_to_string(late.dir.join("peer.yaml")).unwrap();
    let without: String = yaml.lines().filter(|l| !l.contains("admission")).map(|l| format!("{l}\n")).collect();
    fs::write(late.dir.join("peer.yaml"), without).unwrap();
    late.start(&c).unwrap();
    need(&root, "refusal", || (refused(&root, "certificate expired or not yet valid") > 0).then_some(()));
    need(&root, "end of the late one's route", || root.route_to("late").is_none().then_some(()));
    late.kill();

    // Revocation ends the live session at once.
    assert!(root.route_to("member").is_some());
    let id = member.status().unwrap().node.node_id;
    run(root
        .command(&b)
        .args(["cert", "revoke", "--node", &id, "--authority-key"])
        .arg(root.dir.join("authority.pem"))
        .arg("--list")
        .arg(root.dir.join("revoked.pem"))
        .arg("--socket")
        .arg(root.socket()));
    assert!(root.route_to("member").is_none(), "the route is gone with the command's return");
    assert!(root.peers().is_empty());
    need(&root, "refusal", || (refused(&root, "revoked") > 0).then_some(()));
}

pub fn prefixes() {
    let dir = Dir::new();
    let (_net, a, b) = two_hosts();
    let announcing = |more: &str| format!("{more}routing:\n  announce: [\"192.168.50.0/24\"]\n");
    let mut router = node(&dir, "router", &announcing(&bootstrap("198.51.100.2")));
    let mut plain = node(&dir, "plain", &quiet());
    plain.start(&b).unwrap();
    router.start(&a).unwrap();
    let reason = "announced a network that it may not: nothing is sent to it for that";
    need(&plain, "refusal", || (refused(&plain, reason) > 0).then_some(()));
    // It is a node like any other, but for that network.
    assert!(need_route(&plain, "router").prefixes.is_empty());
    // A host address of that LAN, on the router itself: the node is reached, its network is not.
    let lan = ip("192.168.50.1");
    a.ns.run(|| aegisray::host::Netlink::open()?.add_address("lo", lan, 32)).unwrap();
    let itself = need(&router, "addresses", || router.addresses()).0;
    let _echoes = [lan, itself].map(|at| Echo::start(&a, at));
    first_echo(&b, itself, PATIENCE).expect("the node itself is reached");
    assert!(first_echo(&b, lan, Duration::from_secs(3)).is_none(), "a network that it may not announce");

    // A receiver that accepts it routes to it, from one moment to the next.
    let id = router.status().unwrap().node.node_id;
    let accept = format!("routing:\n  accept:\n    - node: {id}\n      prefixes: [\"192.168.50.0/24\"]\n");
    let text = fs::read_to_string(plain.dir.join("peer.yaml")).unwrap();
    fs::write(plain.dir.join("peer.yaml"), text + &accept).unwrap();
    plain.ask(&aegisray::api::Request::Reload).unwrap();
    let route = need(&plain, "the network", || plain.route_to("router").filter(|r| !r.prefixes.is_empty()));
    assert_eq!(route.prefixes, ["192.168.50.0/24"]);
    first_echo(&b, lan, PATIENCE).expect("the LAN behind the router is reached");
    assert!(SECRET.len() >= 20);
}
