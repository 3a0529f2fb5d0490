//! What stands around the mesh and the tunnel, and what others do to it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aegisray::{
    api::Request,
    host::CableEnd,
    lab::{daemon::wait_for, topology::Host},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{
    firewall::nft,
    harness::need,
    leaks::{kind, try_everything},
    watch::watch,
    world::{CLIENT, EXITS, WEB, World, fetch, state_of, web_server},
};

const LAN_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
/// From which a host asks, unless it is told otherwise.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// A UDP datagram that says that it comes from somebody else.
fn datagram((from, from_port): (Ipv4Addr, u16), (to, to_port): (Ipv4Addr, u16)) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(from_port.to_be_bytes());
    packet.extend(to_port.to_be_bytes());
    packet.extend([0, 9, 0, 0, 0]);
    packet
}

/// One datagram to each port of the client, as if from those servers: each makes the client's firewall remember a connection.
fn spray(router: &Host, servers: &[(Ipv4Addr, u16)]) {
    let sent = router.ns.run(|| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        let to = SockAddr::from(std::net::SocketAddr::from((CLIENT, 0)));
        for server in servers {
            for port in EPHEMERAL {
                let packet = datagram(*server, (CLIENT, port));
                while raw.send_to(&packet, &to).is_err() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        Ok(())
    });
    sent.unwrap();
}

/// A SYN to each port of the client, as if from this server, to all of the link: TCP drops such packets without an answer.
fn spray_syns(router: &Host, (from, from_port): (Ipv4Addr, u16)) {
    let cable = router.ns.run(|| CableEnd::open("lan0")).unwrap();
    for port in EPHEMERAL {
        let mut tcp =
            [&from_port.to_be_bytes()[..], &port.to_be_bytes(), &[0, 0, 0, 7, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff]]
                .concat();
        tcp.extend([0; 4]);
        let pseudo = [&from.octets()[..], &CLIENT.octets(), &[0, 6, 0, 20], &tcp].concat();
        tcp[16..18].copy_from_slice(&checksum(&pseudo));
        let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
        ip.extend([from.octets(), CLIENT.octets()].concat());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);
        // No offloads (virtio_net_hdr).
        let frame = [&[0; 10][..], &[0xff; 6], &[2, 0, 0, 0, 0, 1], &[8, 0], &ip, &tcp].concat();
        let put = || cable.send(&frame).ok();
        wait_for(Duration::from_secs(1), put).expect("a frame goes out");
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum & 0xffff) as u16 + (sum >> 16) as u16)).to_be_bytes()
}

/// Connections of programs that have bound the address in the LAN.
fn connect_bound(host: &Host, to: (Ipv4Addr, u16)) {
    let opened = host.ns.run(|| {
        let mut all = Vec::new();
        for _ in 0..50 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.bind(&std::net::SocketAddr::from((CLIENT, 0)).into())?;
            let _ = socket.connect(&std::net::SocketAddr::from(to).into());
            all.push(socket);
        }
        std::thread::sleep(Duration::from_millis(1500));
        Ok(all)
    });
    drop(opened.unwrap());
}

/// Who makes questions of the client look like answers has none of them sent past the tunnel.
pub fn questions_are_no_answers() {
    let world = World::running("exit: exit-a\n", "");
    let servers = [(LAN_ROUTER, 53), (WEB, 53), (WEB, 443)];
    for rp_filter in ["0", "1", "2"] {
        let client = &world.client_host;
        let set = |i: &&str| fs::write(format!("/proc/sys/net/ipv4/conf/{i}/rp_filter"), rp_filter);
        client.ns.run(|| ["all", "eth0"].iter().try_for_each(set)).unwrap();
        spray(&world.router, &servers);
        let remembered = client.ns.run(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count")).unwrap();
        let ask = || {
            let asked = client.ns.run(|| {
                for to in servers {
                    for _ in 0..200 {
                        let _ = UdpSocket::bind("0.0.0.0:0")?.send_to(b"question", to);
                    }
                }
                Ok(())
            });
            asked.unwrap();
        };
        let leaks = leaks_while(client, ask);
        spray_syns(&world.router, (WEB, 80));
        let connections = leaks_while(client, || connect_bound(client, (WEB, 80)));
        assert!(connections.is_empty(), "after SYNs to all of the link: {connections:?}");
        println!(
            "  rp_filter {rp_filter}: {} of 600 questions past the tunnel, {} connections remembered",
            leaks.len(),
            remembered.trim()
        );
        assert!(remembered.trim().parse::<usize>().unwrap() > 10_000, "the spray has come in");
        assert!(leaks.is_empty(), "{leaks:?}");
    }
    assert_eq!(world.seen_as(WEB.into()), Some(EXITS[0].into()), "and the tunnel works");
}

/// What leaves the client in the clear meanwhile.
fn leaks_while(host: &Host, during: impl FnOnce()) -> Vec<String> {
    let mut leaks = Vec::new();
    watch(host, |frame| leaks.extend(kind(frame).filter(|what| what != "ours")), during).unwrap();
    leaks
}

/// What leaves the client in the clear while everything is tried for a second.
fn leaks_of(host: &Arc<Host>) -> Vec<String> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| try_everything(host, &done));
        let leaks = leaks_while(host, || std::thread::sleep(Duration::from_secs(1)));
        done.store(true, Ordering::Relaxed);
        leaks
    })
}

fn sh(host: &Host, line: &str) {
    let mut command: Command = host.ns.command("sh");
    let output = command.args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// As after the start of the host: nothing of ours is in the kernel.
fn forget_everything(host: &Host) {
    sh(
        host,
        "nft flush ruleset; for f in -4 -6; do for n in 5170 5171 5172 5173 5174 5175 5176 5177 5178 5179; do while ip $f rule del pref $n 2>/dev/null; do :; done; done; ip $f route flush table 44689; ip $f route flush table 44690; done; true",
    );
}

/// The kill switch is closed before a daemon, without one, and by one that cannot start.
pub fn closed_whatever_is_missing() {
    let mut world = World::new("exit: exit-a\n", "");
    world.start_others();
    world.start_client();
    world.exit_in_use();
    let host = Arc::clone(&world.client_host);
    let out = |world: &World| wait_for(Duration::from_secs(20), || world.seen_as(WEB.into()));
    assert_eq!(out(&world), Some(EXITS[0].into()));
    let pid = world.client.pid().unwrap();
    // SAFETY: the pid is of a child that was not waited for.
    unsafe { libc::kill(pid as i32, libc::SIGTERM) };
    wait_for(Duration::from_secs(5), || (!world.client.is_running()).then_some(())).expect("it ends");
    assert_eq!((leaks_of(&host), world.seen_as(WEB.into())), (vec![], None), "after SIGTERM");
    world.start_client();
    assert_eq!(out(&world), Some(EXITS[0].into()), "and goes on");
    world.client.kill();

    let state = world.client.dir.join("state");
    let aside = world.client.dir.join("state.aside");
    fs::rename(&state, &aside).unwrap();
    let path = state.display();
    let (make, end) = (format!("mkdir -p {path}"), format!("rm -rf {path}"));
    let mounted = |options: &str| format!("{make}; mount -t tmpfs -o {options} none {path}");
    let unmount = format!("umount {path}; {end}");
    let cases = [
        ("a full disk", format!("{}; head -c 1M /dev/zero >{path}/full || true", mounted("size=64k")), unmount.clone()),
        ("a read-only one", mounted("ro"), unmount),
        ("none", format!("touch {path}"), end),
    ];
    for (what, before, after) in cases {
        sh(&host, &before);
        forget_everything(&host);
        world.start_client();
        std::thread::sleep(Duration::from_secs(1));
        let runs = world.client.is_running();
        assert_eq!((leaks_of(&host), world.seen_as(WEB.into()).filter(|_| !runs)), (vec![], None), "{what}");
        println!(
            "  a state directory on {what}: closed, and the daemon {}",
            if runs { "runs" } else { "does not run" }
        );
        world.client.kill();
        sh(&host, &after);
    }
    fs::rename(&aside, &state).unwrap();
    forget_everything(&host);
    // A mount namespace in which there is no nft that runs.
    let config = world.client.dir.join("peer.yaml");
    let program = env!("CARGO_BIN_EXE_aegisray");
    let line = format!("mount --bind /dev/null /usr/sbin/nft && exec {program} -config {}", config.display());
    let mut without = host.ns.command("unshare").args(["-m", "sh", "-c", &line]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    // Who binds an interface is held by routing, too.
    assert_eq!(leaks_of(&host), Vec::<String>::new(), "without nft");
    let told = world.command(&["exit"]);
    println!(
        "  without nft: closed by routing; `aegisray exit` says: {}",
        told.lines().nth(2).unwrap_or_default().trim()
    );
    assert!(told.contains("NOT ALL IN FORCE: nftables table aegisray_guard"), "{told}");
    let _ = (without.kill(), without.wait());
}

/// Whoever loads a firewall anew takes ours away: it is back within a second, and said.
pub fn what_others_take_away_is_back() {
    let world = World::running("exit: exit-a\naccess:\n  default: deny\n", "");
    // Without counts, in whatever order tables were loaded.
    let ruled = |host: &Host| {
        let text = state_of(host);
        let mut lines: Vec<String> =
            text.lines().map(|l| l.split("counter").next().unwrap_or(l).trim_end().to_owned()).collect();
        lines.retain(|l| !l.contains("ct count over 8192 }"));
        lines.sort();
        lines.join("\n")
    };
    let hosts: [(&str, &Host); 2] = [("client", &world.client_host), ("exit", &world.exit_hosts[0])];
    for (what, host) in hosts {
        let before = ruled(host);
        for line in [
            "nft flush ruleset",
            "ip rule del pref 5172; ip -6 rule del pref 5170",
            "ip route del unreachable 100.64.0.0/16 table 44690 metric 4294967295; ip -6 route flush table 44690",
        ] {
            sh(host, line);
            let begin = Instant::now();
            let back = wait_for(Duration::from_secs(5), || (ruled(host) == before).then_some(()));
            println!("  {what}: back {:?} after `{line}`", begin.elapsed());
            assert!(
                back.is_some() && begin.elapsed() < Duration::from_secs(1),
                "before:\n{before}\nafter:\n{}",
                ruled(host)
            );
        }
    }
    sh(&world.exit_hosts[0], "sysctl -qw net.ipv4.ip_forward=0");
    wait_for(Duration::from_secs(2), || world.seen_as(WEB.into())).expect("the exit forwards again");
    let restored = need(&world.client, "what was put back", || world.client.status().map(|s| s.restored));
    println!("  `aegisray status` of the client: put back {restored:?}");
    let tables = ["nftables table aegisray", "nftables table aegisray_guard", "nftables table aegisray_access"];
    for what in tables.into_iter().chain(["policy rules", "routes"]) {
        assert!(restored.get(what).is_some_and(|n| *n >= 1), "{what}: {restored:?}");
    }
    let log = fs::read_to_string(world.client.dir.join("daemon.log")).unwrap();
    assert!(log.contains("somebody took it away: it is back"));
    flushed_again_and_again(&world);
    let _ = world.client.ask(&Request::Stop);
}

/// `nft flush ruleset` every two seconds: ordinary programs lose nothing to the LAN, and those that insist on an interface not a
/// second later.
fn flushed_again_and_again(world: &World) {
    let host = Arc::clone(&world.client_host);
    let flushed = Mutex::new(Instant::now());
    let (mut early, mut late) = (0, Vec::new());
    let see = |frame: &[u8]| {
        if let Some(what) = kind(frame).filter(|what| what != "ours") {
            if flushed.lock().unwrap().elapsed() < Duration::from_secs(1) { early += 1 } else { late.push(what) }
        }
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| try_everything(&host, &done));
        let flush = || {
            for _ in 0..6 {
                nft(&host, "flush ruleset");
                *flushed.lock().unwrap() = Instant::now();
                std::thread::sleep(Duration::from_secs(2));
            }
        };
        watch(&host, see, flush).unwrap();
        done.store(true, Ordering::Relaxed);
    });
    println!("  flushed 6 times: {early} packets in the first second after, {} later", late.len());
    assert!(late.is_empty(), "{late:?}");
}

/// A neighbour in the LAN neither reaches the client's mesh address nor speaks for a member, and leads nothing astray by routes.
pub fn mesh_addresses_are_the_meshs() {
    let mut world = World::new("", "");
    world.start_others();
    world.start_client();
    let client = need(&world.client, "addresses", || world.client.addresses()).0;
    let relay = need(&world.relay, "addresses", || world.relay.addresses()).0;
    need(&world.client, "a route", || world.client.routes().iter().any(|r| r.name == "relay").then_some(()));
    let IpAddr::V4(client4) = client else { panic!("IPv4 first") };
    let host = Arc::clone(&world.client_host);
    let socket = host.ns.run(|| UdpSocket::bind((client, 7000))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let all = host.ns.run(|| UdpSocket::bind(("0.0.0.0", 7001))).unwrap();
    all.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    sh(&world.router, &format!("ip route add {client4}/32 via {CLIENT} dev lan0"));
    let mut buf = [0; 64];
    // From the LAN to the address in the mesh.
    let sent = world.router.ns.run(|| UdpSocket::bind("192.168.7.1:0")?.send_to(b"neighbour", (client, 7000)));
    sent.unwrap();
    assert!(socket.recv_from(&mut buf).is_err(), "a neighbour reached the mesh address");
    // In a member's name.
    let IpAddr::V4(relay4) = relay else { panic!("IPv4 first") };
    let forged = datagram((relay4, 9), (CLIENT, 7001));
    let sent = world.router.ns.run(|| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        raw.send_to(&forged, &SockAddr::from(std::net::SocketAddr::from((CLIENT, 0))))
    });
    sent.unwrap();
    assert!(all.recv_from(&mut buf).is_err(), "a neighbour spoke in a member's name");
    // By the mesh, both arrive.
    let sent = world.relay_host.ns.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"member", (client, 7000)));
    sent.unwrap();
    assert!(socket.recv_from(&mut buf).is_ok());
    // DHCP says that the relay's address is behind the router (RFC 3442).
    sh(&host, &format!("ip route add {relay4}/32 via {LAN_ROUTER} dev eth0"));
    let route = host.ns.command("ip").args(["route", "get", &relay4.to_string()]).output().unwrap();
    let route = String::from_utf8_lossy(&route.stdout).into_owned();
    println!("  ip route get: {}", route.lines().next().unwrap_or_default());
    assert!(route.contains("dev aegis0"), "{route}");
}

/// Whoever takes the interface down, or its addresses away, has them back.
pub fn the_interface_is_kept() {
    let world = World::running("exit: exit-a\n", "");
    let carried = || (world.seen_as(WEB.into()) == Some(EXITS[0].into())).then_some(());
    for change in [
        "ip addr flush dev aegis0",
        "ip link set aegis0 down; sleep 0.2; ip link set aegis0 up",
        "ip link set aegis0 down",
    ] {
        let changed = Instant::now();
        sh(&world.client_host, change);
        wait_for(Duration::from_secs(10), carried)
            .unwrap_or_else(|| panic!("after {change}: {}", state_of(&world.client_host)));
        println!("  `{change}`: carried again {} ms later", changed.elapsed().as_millis());
    }
    let restored = world.client.status().unwrap().restored;
    assert!(restored.keys().any(|what| what.contains("addresses of aegis0")), "{restored:?}");
}

/// An exit is no way to other addresses of its host, nor between the networks that its host is in; and iptables reads on.
pub fn an_exit_is_a_good_guest() {
    let mut world = World::new("exit: exit-a\n", "");
    let host = &world.exit_hosts[0];
    sh(host, "ip address add 192.168.44.1/24 dev lo");
    let server = web_server(host);
    // Docker's rules, by the program that Docker uses.
    sh(
        host,
        "iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -P FORWARD DROP; iptables -A FORWARD -j DOCKER-USER; iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE; ip6tables -P FORWARD DROP",
    );
    let saved = |host: &Host| {
        let output = host.ns.command("iptables-save").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let rules: Vec<String> = text.lines().filter(|l| l.starts_with("-A")).map(str::to_owned).collect();
        (output.status.code(), rules)
    };
    let before = saved(host);
    assert!(before.1.len() >= 4, "{before:?}");
    world.start_others();
    world.start_client();
    world.exit_in_use();
    let out = wait_for(Duration::from_secs(20), || world.seen_as(WEB.into()));
    assert_eq!(out, Some(EXITS[0].into()), "{}", world.client.log_tail());
    let host = &world.exit_hosts[0];
    let during = saved(host);
    let listed = host.ns.command("iptables").args(["-nvL", "FORWARD"]).output().unwrap();
    println!("  iptables-save with the exit: rc {:?}, {} rules, {} before", during.0, during.1.len(), before.1.len());
    assert!(during.0 == Some(0) && listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(before.1.iter().all(|rule| during.1.contains(rule)), "{during:?}");
    // The exit's other address, at which a server listens.
    let inside = fetch(host, "192.168.44.1".parse().unwrap(), Duration::from_secs(2));
    let through = world.seen_as("192.168.44.1".parse().unwrap());
    println!("  the exit's own 192.168.44.1: from itself {inside:?}, from a member {through:?}");
    assert!(inside.is_some() && through.is_none());
    // Its public address is everybody's.
    assert_eq!(world.seen_as(EXITS[0].into()).map(|ip| ip.is_ipv4()), Some(true));
    // Nothing that comes from one network of the exit's goes to another one.
    let rules = state_of(host);
    let plain = rules.replace(['{', '}'], "").replace("  ", " ");
    assert!(plain.contains("iifname \"eth0\" oifname \"eth0\" counter"), "{rules}");
    assert!(rules.contains("masquerade to :"), "{rules}");
    drop(server);
}

/// What is for the exit's own programs is no client's, on a host that asks from nearly all ports, too.
pub fn ports_of_the_exit_are_its_own() {
    const PORT: u16 = 51_820;
    let mut world = World::new("exit: exit-a\n", "");
    sh(&world.exit_hosts[0], "sysctl -qw net.ipv4.ip_local_port_range='1024 65535'");
    world.start_others();
    world.start_client();
    world.exit_in_use();
    wait_for(Duration::from_secs(10), || world.seen_as(WEB.into())).expect("a way out");
    let open = |host: &Host| {
        let socket = host.ns.run(|| UdpSocket::bind(("0.0.0.0", PORT))).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    };
    let [exit, web, client] = [&world.exit_hosts[0], &world.web, &*world.client_host].map(open);
    let mut buffer = [0; 64];
    client.send_to(b"mine", (WEB, PORT)).unwrap();
    let (_, from) = web.recv_from(&mut buffer).expect("it goes out");
    web.send_to(b"for the exit", (EXITS[0], PORT)).unwrap();
    let got = exit.recv_from(&mut buffer);
    println!("  a client's port {PORT} is {} at the exit, whose own {PORT} hears {}", from.port(), got.is_ok());
    assert_eq!(from.ip(), EXITS[0]);
    assert!(from.port() != PORT && got.is_ok(), "{from}, {got:?}");
    web.send_to(b"for the client", from).unwrap();
    assert!(client.recv_from(&mut buffer).is_ok(), "and the client its answer");
    let reserved =
        |host: &Host| host.ns.run(|| fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports")).unwrap();
    let during = reserved(&world.exit_hosts[0]);
    assert!(during.trim().contains('-'), "{during:?}");
    let _ = world.exits[0].ask(&Request::Stop);
    let back = || reserved(&world.exit_hosts[0]).trim().is_empty().then_some(());
    wait_for(Duration::from_secs(5), back).expect("the host has its ports back");
}

/// What a daemon closed whose interface is called otherwise now is its own to open.
pub fn an_interface_by_another_name() {
    let mut world = World::running("exit: exit-a\n", "");
    world.client.kill();
    let file = world.client.dir.join("peer.yaml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("mesh:"));
    fs::write(&file, format!("{text}mesh: {{ interface: aegis9 }}\n")).unwrap();
    world.start_client();
    world.exit_in_use();
    let carried = || (world.seen_as(WEB.into()) == Some(EXITS[0].into())).then_some(());
    let told = || format!("{}\n{}", world.client.log_tail(), state_of(&world.client_host));
    wait_for(Duration::from_secs(10), carried).unwrap_or_else(|| panic!("out by the exit: {}", told()));
    let state = state_of(&world.client_host);
    assert!(state.contains("5178:") && !state.contains("table inet aegisray_guard {"), "{state}");
    println!("  {}", world.command(&["exit", "off"]).lines().next().unwrap_or_default());
    let open = || (!state_of(&world.client_host).contains("5178:")).then_some(());
    wait_for(Duration::from_secs(5), open).expect("nothing stays closed");
    let direct = || world.seen_as(WEB.into()).filter(|ip| *ip != IpAddr::from(EXITS[0])).map(drop);
    wait_for(Duration::from_secs(5), direct).expect("out directly");
}

/// Whoever takes all descriptors of the daemon for a moment does not end its management socket.
pub fn out_of_descriptors() {
    let world = World::new("", "");
    let config = world.client.dir.join("peer.yaml");
    let mut command = world.client_host.ns.command("prlimit");
    let program = env!("CARGO_BIN_EXE_aegisray");
    let mut daemon = command.args(["--nofile=64:64", program, "-config"]).arg(config).spawn().unwrap();
    wait_for(Duration::from_secs(10), || world.client.status()).expect("it runs");
    let many: Vec<_> = (0..100).filter_map(|_| UnixStream::connect(world.client.socket()).ok()).collect();
    std::thread::sleep(Duration::from_millis(500));
    println!("  {} connections beside 64 descriptors", many.len());
    drop(many);
    let answers = wait_for(Duration::from_secs(3), || world.client.status());
    let _ = (daemon.kill(), daemon.wait());
    assert!(answers.is_some(), "the management socket is gone");
}

/// Two networks on one host leave each other's tables, rules and routes alone.
pub fn two_daemons_on_one_host() {
    let mut world = World::new("access:\n  default: deny\nexit: exit-a\n", "");
    world.start_others();
    world.start_client();
    world.exit_in_use();
    let dir = world.client.dir.join("second");
    fs::create_dir_all(&dir).unwrap();
    let config = "name: second\nnetwork: { name: other, secret: a-secret-of-another-network-000000 }\nmesh: { interface: aegis1, cidr: 10.99.0.0/16 }\n\
                  listen: { port: 51999 }\nstate_dir: state\nsocket: api.sock\naccess: { default: deny }\n";
    fs::write(dir.join("peer.yaml"), config).unwrap();
    fs::set_permissions(dir.join("peer.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
    let log = fs::File::create(dir.join("log")).unwrap();
    let mut command = world.client_host.ns.command(env!("CARGO_BIN_EXE_aegisray"));
    let mut second = command.arg("-config").arg(dir.join("peer.yaml")).stderr(log).spawn().unwrap();
    let both = || {
        let state = state_of(&world.client_host);
        let tables = ["aegisray", "aegisray_access", "aegisray_aegis1", "aegisray_access_aegis1"];
        let routes = ["100.64.0.0/16 dev aegis0", "10.99.0.0/16 dev aegis1", "unreachable 10.99.0.0/16"];
        let has = tables.iter().all(|t| state.contains(&format!("table inet {t} {{")))
            && routes.iter().all(|r| state.contains(r));
        has.then_some(())
    };
    let together = wait_for(Duration::from_secs(10), both);
    assert!(together.is_some(), "{}\n{}", fs::read_to_string(dir.join("log")).unwrap(), state_of(&world.client_host));
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(100));
        assert!(
            state_of(&world.client_host).contains("5178:"),
            "the second one has no exit, and leaves the first one's closed"
        );
    }
    assert!(both().is_some(), "and stay");
    let restored = world.client.status().map(|s| s.restored);
    let _ = (second.kill(), second.wait());
    let told = fs::read_to_string(dir.join("log")).unwrap();
    println!("  put back by the first one: {restored:?}");
    assert!(restored.is_some_and(|all| all.is_empty()) && !told.contains("took it away"), "{told}");
    // The first one dies, and a second one comes.
    world.client.kill();
    let mut command = world.client_host.ns.command(env!("CARGO_BIN_EXE_aegisray"));
    let mut second = command.arg("-config").arg(dir.join("peer.yaml")).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    sh(&world.client_host, "nft flush ruleset");
    let leaks = leaks_of(&world.client_host);
    let _ = (second.kill(), second.wait());
    assert_eq!((leaks, world.seen_as(WEB.into())), (vec![], None), "closed still");
}
