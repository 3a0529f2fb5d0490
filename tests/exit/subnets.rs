//! Networks behind nodes.

use std::{
    fs,
    net::{IpAddr, TcpListener, TcpStream},
    time::Duration,
};

use aegisray::{
    api::Request,
    lab::{daemon::wait_for, topology::Internet},
};

use super::{
    harness::{Dir, bootstrap, need, need_route, node, quiet},
    world::{fetch, state_of, web_server},
};

const PATIENCE: Duration = Duration::from_secs(2);

pub fn behind_a_node() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let (router_host, printer) = internet.home([203, 0, 113, 50].into(), [192, 168, 7]).unwrap();
    let client_host = internet.public([203, 0, 113, 60].into()).unwrap();
    let other_host = internet.public([203, 0, 113, 61].into()).unwrap();
    let _server = web_server(&printer);
    let at: IpAddr = [192, 168, 7, 2].into();
    let before = state_of(&router_host);
    let announce = |masquerade: bool| format!("routing:\n  announce: [192.168.7.0/24]\n  masquerade: {masquerade}\n");
    let mut router = node(&dir, "router", &format!("{}{}", quiet(), announce(true)));
    router.start(&router_host).unwrap();
    let id = need(&router, "status", || router.status()).node.node_id;
    let accept = format!("routing:\n  accept:\n    - {{ node: {id}, prefixes: [192.168.7.0/24] }}\n");
    let accept = format!("{}{accept}", bootstrap("203.0.113.50"));
    let mut client = node(&dir, "client", &accept);
    client.start(&client_host).unwrap();
    need_route(&client, "router");
    let own = need(&client, "addresses", || client.addresses()).0;
    let seen = || fetch(&client_host, at, PATIENCE);
    assert_eq!(wait_for(Duration::from_secs(10), seen), Some([192, 168, 7, 1].into()), "as the router");
    // Nothing else of the router's networks is reached: its neighbour on the internet's side, say.
    let route = client_host
        .ns
        .run(|| aegisray::host::Netlink::open()?.add_route("198.51.100.0/24".parse().unwrap(), None, Some("aegis0")));
    assert!(route.is_ok());
    assert_eq!(fetch(&client_host, [198, 51, 100, 1].into(), PATIENCE), None);
    println!("  masqueraded: the printer sees its router");
    // Without masquerade, and the other way round too.
    let _ = router.ask(&Request::Stop);
    need(&router, "end", || router.status().is_none().then_some(()));
    router.kill();
    assert_eq!(state_of(&router_host), before, "the router's host is as it was");
    let file = router.dir.join("peer.yaml");
    let text = fs::read_to_string(&file).unwrap().replace(&announce(true), &announce(false));
    fs::write(&file, text).unwrap();
    router.start(&router_host).unwrap();
    let as_itself = wait_for(Duration::from_secs(20), || seen().filter(|ip| *ip == own));
    assert_eq!(as_itself, Some(own), "the printer sees the client itself");
    let listener = client_host.ns.run(|| TcpListener::bind((own, 8022))).unwrap();
    let back = printer.ns.run(|| TcpStream::connect_timeout(&(own, 8022).into(), PATIENCE));
    assert!(back.is_ok(), "{back:?}");
    drop(listener);
    println!("  routed: the printer sees the client's mesh address, and can open connections to it");
    // A second node announces the network too: one is used, the other one stands by and is said to.
    let twin_host = internet.public([203, 0, 113, 62].into()).unwrap();
    let mut twin = node(&dir, "twin", &format!("{}{}", bootstrap("203.0.113.50"), announce(true)));
    twin_host.ns.run(|| aegisray::host::Netlink::open()?.add_address("lo", at, 32)).unwrap();
    twin.start(&twin_host).unwrap();
    let twin_id = need(&twin, "status", || twin.status()).node.node_id;
    let both =
        accept.replace("accept:\n", &format!("accept:\n    - {{ node: {twin_id}, prefixes: [192.168.7.0/24] }}\n"));
    let mut third = node(&dir, "third", &both);
    let third_host = internet.public([203, 0, 113, 63].into()).unwrap();
    third.start(&third_host).unwrap();
    let _twin_server = web_server(&twin_host);
    let standby = || third.routes().into_iter().find(|r| !r.standby.is_empty()).map(|r| r.name);
    let standby = need(&third, "one who stands by", standby);
    need(&third, "a line about it", || third.log_tail().contains("several nodes announce a network").then_some(()));
    let reached = || fetch(&third_host, at, PATIENCE);
    wait_for(Duration::from_secs(10), reached).expect("the network is reached");
    if standby == "twin" {
        router.kill();
    } else {
        twin.kill();
    }
    let killed = std::time::Instant::now();
    wait_for(Duration::from_secs(20), reached).expect("the other one takes over");
    println!("  announced twice: {standby} stands by, and takes over after {:.1} s", killed.elapsed().as_secs_f64());
    twin.kill();
    if standby == "twin" {
        router.start(&router_host).unwrap();
    }
    // Who is in a network of that range stays there.
    other_host.ns.run(|| aegisray::host::Netlink::open()?.add_address("lo", [192, 168, 7, 9].into(), 32)).unwrap();
    let mut other = node(&dir, "other", &accept);
    other.start(&other_host).unwrap();
    need(&other, "a warning", || other.log_tail().contains("this host has an address in it").then_some(()));
    let line = other.log_tail().lines().find(|l| l.contains("has an address")).unwrap_or_default().to_owned();
    println!("  {}", line.split("WARN ").nth(1).unwrap_or(&line));
}
