//! What others say of the network around a node: observed addresses, TURN servers, routers.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use aegisray::{
    host::{Netlink, masquerade},
    identity::RecordContent,
    lab::{
        daemon::wait_for,
        topology::{Host, Internet},
    },
};

use super::{
    capture::Forger,
    harness::{Dir, PATIENCE, need, need_route, node},
    hostile::{Hostile, id_of, identity, network_of},
    world::{endpoints, ip, place, plain, public, v4},
};

/// Where the liars say that the victim is.
fn is_lie(at: &IpAddr) -> bool {
    matches!(at, IpAddr::V4(a) if a.octets()[..2] == [198, 18])
}

/// A member that tells whoever asks where it is seen another address every two seconds, the same as its accomplices.
fn liar(host: &Host, n: u8, network: aegisray::identity::Network, of: IpAddr) -> Hostile {
    let content = RecordContent { name: format!("liar{n}"), ..RecordContent::default() };
    let liar = Hostile::start(host, v4(n).into(), network, identity(u64::from(n)), content);
    let start = Instant::now();
    // Its node believes that the victim is where it says.
    let true_place = std::sync::Arc::new(std::sync::Mutex::new(None));
    let known = std::sync::Arc::clone(&true_place);
    liar.on_incoming(Box::new(move |from, _| {
        if from.ip() == of {
            *known.lock().unwrap() = Some(*from);
            let moment = (start.elapsed().as_secs() / 2 % 200) as u8;
            *from = SocketAddr::from(([198, 18, 0, moment + 1], 6000));
        }
        true
    }));
    liar.on_outgoing(Box::new(move |to, _| {
        if is_lie(&to.ip())
            && let Some(place) = *true_place.lock().unwrap()
        {
            *to = place;
        }
        true
    }));
    liar
}

pub fn lying_observers() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let honest_hosts = [2, 3].map(|n| public(&mut net, n));
    let liar_hosts = [4, 5].map(|n| public(&mut net, n));
    let home: IpAddr = v4(50).into();
    let (_router, victim_host) = net.home(home, [192, 168, 7]).unwrap();
    let mut honest = [("p1", &[][..]), ("p2", &["198.51.100.2"])].map(|(n, to)| node(&dir, n, &plain(to, "")));
    for (daemon, host) in honest.iter_mut().zip(&honest_hosts) {
        daemon.start(host).unwrap();
        need(daemon, "status", || daemon.status());
    }
    let liars: Vec<Hostile> =
        [4, 5].iter().zip(&liar_hosts).map(|(n, host)| liar(host, *n, network_of(&honest[0]), home)).collect();
    liars.iter().for_each(|l| l.set_bootstrap(&["198.51.100.2"]));
    let mut victim = node(&dir, "victim", &plain(&["198.51.100.2"], "listen:\n  port_mapping: false\n"));
    victim.start(&victim_host).unwrap();
    let id = id_of(&victim);
    liars.iter().for_each(|l| l.need_link(id));
    need(&victim, "true address", || endpoints(&victim).contains(&home).then_some(()));
    let (began, mut samples) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(15) {
        std::thread::sleep(Duration::from_millis(250));
        let all = endpoints(&victim);
        assert!(all.contains(&home), "after {:?} the victim no longer says where it is: {all:?}", began.elapsed());
        assert!(!all.iter().any(is_lie), "after {:?} the victim says what liars told it: {all:?}", began.elapsed());
        samples += 1;
    }
    format!("the true address alone in {samples} looks")
}

/// A TURN answer that says that `relayed` was given.
fn allocated(id: [u8; 12], relayed: SocketAddrV4) -> Vec<u8> {
    let mut out = vec![0x01, 0x03, 0, 20, 0x21, 0x12, 0xa4, 0x42];
    out.extend(id);
    let port = relayed.port() ^ 0x2112;
    let address = u32::from(*relayed.ip()) ^ 0x2112_a442;
    // XOR-RELAYED-ADDRESS, then LIFETIME.
    out.extend([0, 0x16, 0, 8, 0, 1]);
    out.extend(port.to_be_bytes());
    out.extend(address.to_be_bytes());
    out.extend([0, 0x0d, 0, 4, 0, 0, 2, 0x58]);
    out
}

/// Whoever can forge the address of a TURN server's answers says that it has lent the victim another's address.
pub fn turn_answers() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let [victim_host, _server_host, stranger_host] = [2, 3, 4].map(|n| public(&mut net, n));
    let turn = "  turn:\n    server: \"198.51.100.3:3478\"\n    username: user\n    password: password\n";
    let mut victim = node(&dir, "victim", &plain(&[], turn));
    victim.start(&victim_host).unwrap();
    need(&victim, "status", || victim.status());
    let forger = Forger::open(&stranger_host);
    let lent = SocketAddrV4::new(Ipv4Addr::new(198, 18, 9, 9), 7777);
    let began = Instant::now();
    let mut sent = 0u64;
    while began.elapsed() < Duration::from_secs(6) {
        let id: [u8; 12] = aegisray::host::random().unwrap();
        forger.send(SocketAddrV4::new(v4(3), 3478), place(2), &allocated(id, lent));
        sent += 1;
        let all = endpoints(&victim);
        assert!(!all.iter().any(is_lie), "after {sent} forged answers the victim says: {all:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    format!("{sent} forged answers")
}

/// Answers like a router with UPnP, from another host of the LAN.
fn rogue(host: &Host, at: Ipv4Addr, stop: &AtomicBool) -> std::io::Result<u64> {
    let (ssdp, http) = host.ns.run(|| {
        let ssdp = UdpSocket::bind(("0.0.0.0", 1900))?;
        ssdp.join_multicast_v4(&Ipv4Addr::new(239, 255, 255, 250), &at)?;
        ssdp.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok((ssdp, TcpListener::bind((at, 5000))?))
    })?;
    http.set_nonblocking(true)?;
    let (mut buffer, mut asked) = ([0; 4096], 0);
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, from)) = ssdp.recv_from(&mut buffer) {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
                 LOCATION: http://{at}:5000/root.xml\r\n\r\n"
            );
            ssdp.send_to(answer.as_bytes(), from)?;
        }
        let Ok((mut stream, _)) = http.accept() else { continue };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        let n = stream.read(&mut buffer)?;
        let request = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let body = if request.starts_with("GET") {
            "<root><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
             <controlURL>/ctl</controlURL></service></root>"
        } else if request.contains("GetExternalIPAddress") {
            asked += 1;
            "<NewExternalIPAddress>198.18.9.9</NewExternalIPAddress>"
        } else {
            "<ok></ok>"
        };
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?;
    }
    Ok(asked)
}

/// A neighbour in the LAN answers in the router's place, with a public address of its choice.
pub fn rogue_router() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let peer_host = public(&mut net, 2);
    let mut router = public(&mut net, 50);
    let mut lan = Internet::new().unwrap();
    let at = |n| IpAddr::from([192, 168, 7, n]);
    lan.plug_in(&mut router, "lan0", at(1)).unwrap();
    let (victim_host, rogue_host) = (lan.public(at(2)).unwrap(), lan.public(at(3)).unwrap());
    router.ns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap();
    router.ns.run(|| masquerade("eth0")).unwrap();
    for host in [&victim_host, &rogue_host] {
        host.ns.run(|| Netlink::open()?.add_route("0.0.0.0/0".parse().unwrap(), Some(at(1)), None)).unwrap();
    }
    let mut peer = node(&dir, "peer", &plain(&[], ""));
    peer.start(&peer_host).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let rogue = scope.spawn(|| rogue(&rogue_host, Ipv4Addr::new(192, 168, 7, 3), &stop));
        let mut victim = node(&dir, "victim", &plain(&["198.51.100.2"], ""));
        victim.start(&victim_host).unwrap();
        need_route(&victim, "peer");
        let lied = wait_for(PATIENCE / 2, || endpoints(&victim).iter().any(is_lie).then_some(()));
        stop.store(true, Ordering::Relaxed);
        let asked = rogue.join().unwrap().unwrap();
        assert!(lied.is_none(), "the victim says what a neighbour told it: {:?}", endpoints(&victim));
        assert!(endpoints(&victim).contains(&ip("198.51.100.50")), "{:?}", endpoints(&victim));
        format!("the rogue was asked {asked} times and not believed")
    })
}
