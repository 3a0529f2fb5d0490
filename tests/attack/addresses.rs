//! Addresses and names belong to whom they were given.

use std::{net::IpAddr, time::Duration};

use aegisray::{
    identity::{IPV4_ATTEMPTS, Identity, Network, RecordContent},
    lab::{
        daemon::wait_for,
        topology::{Host, Internet},
        traffic::{Echo, first_echo},
    },
    types::NodeId,
};

use super::{
    craft::{forge, offer},
    harness::{Dir, PATIENCE, need, need_route, node},
    hostile::{Hostile, id_of, identity, network_of, unix},
    world::{Strict, plain, public, run, v4},
};

const ECHO_PORT: u16 = 7007;

/// A key that comes before `victim`'s, and with which an address of the network is derived for its owner too.
fn grind(network: &Network, victim: NodeId, address: IpAddr) -> (Identity, u32) {
    let found = (1000..1_000_000).find_map(|seed| {
        let key = identity(seed);
        let attempt = (0..IPV4_ATTEMPTS).find(|a| IpAddr::from(network.ipv4(&key.id(), *a)) == address)?;
        (key.id() < victim).then_some((key, attempt))
    });
    found.expect("a key for any address is soon found")
}

/// An echo request in UDP over IPv4.
fn echo_request(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("IPv4 only") };
    let mut packet = vec![0x45, 0, 0, 36, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum: u32 = packet.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet.extend([ECHO_PORT, ECHO_PORT, 16, 0].map(u16::to_be_bytes).concat());
    packet.extend(b"hostile!");
    packet
}

/// With a key that derives the victim's address, and comes first, a guest takes neither the address nor its rights.
pub fn ground_key() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let rules = format!(
        "access:\n  default: deny\n  rules:\n    - allow: [group:admins]\n      to: [self]\n      ports: [{ECHO_PORT}/udp]\n"
    );
    let strict = Strict::start(&dir, &mut net, &rules);
    let [victim_host, mallory_host] = [3, 4].map(|n| public(&mut net, n));
    let mut victim = strict.member(&dir, &victim_host, "victim", &["--group", "admins"]);
    let network = network_of(&strict.root);
    // The certificate may have given the victim an address of its own.
    let victim_id = id_of(&victim).to_string();
    let address = need(&strict.root, "victim's address", || {
        strict.root.routes().into_iter().find(|r| r.node_id == victim_id)?.addresses.first().copied()
    });
    wait_for(PATIENCE, || victim.addresses().filter(|a| a.0 == address)).expect("the victim has its address");
    let root_address = strict.root.addresses().unwrap().0;
    let _echo = Echo::start(&strict.root_host, root_address);
    let _back = Echo::start(&victim_host, address);
    first_echo(&victim_host, root_address, PATIENCE).expect("the victim may");
    let (key, attempt) = grind(&network, id_of(&victim), address);
    let certificate = strict.certify(key.id(), &["--name", "mallory", "--group", "guests"]);
    let content =
        RecordContent { name: "mallory".into(), ipv4_attempt: attempt, certificate, ..RecordContent::default() };
    let mallory = Hostile::start(&mallory_host, v4(4).into(), network, key, content);
    mallory.set_bootstrap(&["198.51.100.2", "198.51.100.3"]);
    mallory.need_link(id_of(&strict.root));
    let claims = |h: &Hostile| h.with(|h| h.node.addresses()[0]);
    assert_eq!(claims(&mallory), address, "mallory claims the victim's address");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(victim.addresses().unwrap().0, address, "the victim has lost its address");
    first_echo(&strict.root_host, address, Duration::from_secs(3)).expect("the address leads to the victim");
    first_echo(&victim_host, root_address, Duration::from_secs(3)).expect("the victim still may");
    // While the victim sleeps, its address gets nobody in.
    victim.kill();
    for _ in 0..30 {
        let request = echo_request(address, root_address);
        mallory.with(move |h| h.node.handle_tun(h.now, &request));
        std::thread::sleep(Duration::from_millis(100));
    }
    let answers = mallory.take_delivered();
    assert!(answers.is_empty(), "{} packets for the victim's address went to mallory", answers.len());
    format!("{address} stays, 0 of 30 packets in its name answered")
}

fn dig(host: &Host, server: IpAddr, name: &str) -> String {
    let mut command = host.ns.command("dig");
    run(command.args([&format!("@{server}"), "+short", "+time=2", "+tries=2", name]))
}

/// Nodes that call themselves what others are, or what a host's own network has.
pub fn names() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let [asker_host, victim_host, mallory_host] = [2, 3, 4].map(|n| public(&mut net, n));
    let mut asker = node(&dir, "asker", &plain(&[], ""));
    let mut victim = node(&dir, "victim", &plain(&["198.51.100.2"], ""));
    asker.start(&asker_host).unwrap();
    victim.start(&victim_host).unwrap();
    need_route(&asker, "victim");
    let network = network_of(&asker);
    let content = RecordContent { name: "mallory".into(), ..RecordContent::default() };
    let mallory = Hostile::start(&mallory_host, v4(4).into(), network.clone(), identity(1), content);
    mallory.set_bootstrap(&["198.51.100.2"]);
    let to = id_of(&asker);
    mallory.need_link(to);
    let server = need(&asker, "addresses", || asker.addresses()).0;
    let address = need(&victim, "addresses", || victim.addresses()).0.to_string();
    let id = id_of(&victim).to_string();
    let by_id = format!("{id}.aegis");
    wait_for(PATIENCE, || (dig(&asker_host, server, &by_id) == address).then_some(())).expect("a NodeId is a name");
    let claims = [&id[..], "wpad", "isatap", "localhost", "a.victim", "_http._tcp.victim"];
    let (network, mallory) = (&network, &mallory);
    for (i, name) in claims.iter().enumerate() {
        let (key, slot, seqno) = (identity(10 + i as u64), 2000 + i as u32, unix() as u32);
        let forged = forge(network, &key, seqno, |record| record.name = (*name).to_owned());
        mallory.tell(to, offer(slot, &key, seqno, 1, forged));
        std::thread::sleep(Duration::from_millis(1000 / (i as u64 + 1)));
        assert_eq!(dig(&asker_host, server, &by_id), address, "the victim's NodeId leads elsewhere");
    }
    std::thread::sleep(Duration::from_secs(1));
    for name in ["wpad", "isatap", "a.victim", "_http._tcp.victim"] {
        let found = dig(&asker_host, server, &format!("{name}.aegis"));
        assert_eq!(found, "", "{name}.aegis is a hostile member");
    }
    assert_eq!(dig(&asker_host, server, "victim.aegis"), address);
    format!("{} claims", claims.len())
}
