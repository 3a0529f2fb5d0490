//! Access rules: what `acl test` says is what happens.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use aegisray::{
    access::Protocol,
    api::{Request, Response},
    lab::{
        daemon::{Daemon, wait_for},
        topology::{Host, Internet},
    },
};

use super::{
    harness::{Dir, need, need_route, program},
    world::{Background, state_of},
};

const PORTS: [u16; 3] = [22, 80, 8080];
const PATIENCE: Duration = Duration::from_millis(1500);
const RULES: &str = "access:
  rules:
    - allow: [group:admins]
      to: [self]
      ports: [22/tcp, icmp]
    - deny: [any]
      to: [self]
      ports: [20-23]
    - allow: [guest]
      to: [self]
      ports: [8000-8080/tcp, 8080/udp]
    - deny: [bob]
      ports: [8080/udp]
";

/// Echoes on TCP and UDP ports of a host.
fn echoes(host: &Host) -> Vec<Background> {
    let both = |port| {
        let at = SocketAddr::from(([0u16; 8], port));
        let (listener, socket) = host.ns.run(|| Ok((TcpListener::bind(at)?, UdpSocket::bind(at)?))).unwrap();
        listener.set_nonblocking(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut streams: Vec<TcpStream> = Vec::new();
        let tcp = Background::run(move || {
            if let Ok((stream, _)) = listener.accept() {
                let _ = stream.set_nonblocking(true);
                streams.push(stream);
            }
            let mut buf = [0; 64];
            for stream in &mut streams {
                if let Ok(n) = stream.read(&mut buf) {
                    let _ = stream.write_all(&buf[..n]);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        });
        let udp = Background::run(move || {
            let mut buf = [0; 64];
            if let Ok((n, from)) = socket.recv_from(&mut buf) {
                let _ = socket.send_to(&buf[..n], from);
            }
        });
        [tcp, udp]
    };
    PORTS.into_iter().flat_map(both).collect()
}

/// Whether an echo comes back.
fn works(host: &Host, to: IpAddr, protocol: Protocol) -> bool {
    let tried = host.ns.run(|| match protocol {
        Protocol::Tcp(port) => echo(&mut TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE)?),
        Protocol::Udp(port) => {
            let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect((to, port))?;
            socket.send(b"echo")?;
            socket.recv(&mut [0; 8])
        }
        Protocol::Icmp => unreachable!("not asked"),
    });
    tried.is_ok()
}

fn echo(stream: &mut TcpStream) -> std::io::Result<usize> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"echo")?;
    match stream.read(&mut [0; 8])? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        n => Ok(n),
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn said(root: &Daemon, source: &str, target: &str, protocol: Protocol) -> (bool, String) {
    let (source, target) = (source.to_owned(), target.to_owned());
    match root.ask(&Request::AccessTest { source, target, protocol }) {
        Ok(Response::Access(a)) => (a.allowed, a.reason),
        other => panic!("{other:?}"),
    }
}

fn join(dir: &Path, root: &Daemon, root_host: &Host, host: &Host, name: &str, group: Option<&str>) -> Daemon {
    let mut invite = root.command(root_host);
    invite.args(["invite", "--name", name, "--socket"]).arg(root.socket());
    let token = run(invite.args(group.iter().flat_map(|g| ["--group", g])));
    let home = dir.join(name);
    run(Command::new(program()).args(["join", &token, "--no-start", "--name", name, "--dir"]).arg(&home));
    let mut daemon = Daemon::prepared(program(), &home, name);
    daemon.start(host).unwrap();
    need_route(&daemon, "root");
    need_route(root, name);
    daemon
}

pub fn what_is_said_happens() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let [root_host, admin_host, bob_host, guest_host] =
        [2, 3, 4, 5].map(|n| internet.public([198, 51, 100, n].into()).unwrap());
    let home = dir.0.join("root");
    run(Command::new(program())
        .args(["init", "--authority", "--name", "root", "--network", "ruled", "--advertise", "198.51.100.2:51900"])
        .args(["--algorithm", "ed25519", "--dir"])
        .arg(&home));
    let file = home.join("peer.yaml");
    let open = fs::read_to_string(&file).unwrap();
    let mut root = Daemon::prepared(program(), &home, "root");
    let untouched = state_of(&root_host);
    root.start(&root_host).unwrap();
    need(&root, "status", || root.status());
    assert!(!state_of(&root_host).contains("aegisray_access"), "without rules there is no table");
    let admin = join(&dir.0, &root, &root_host, &admin_host, "admin", Some("admins"));
    let bob = join(&dir.0, &root, &root_host, &bob_host, "bob", None);
    let guest = join(&dir.0, &root, &root_host, &guest_host, "guest", Some("guests"));
    let at = need(&root, "addresses", || root.addresses());
    let bob_at = need(&bob, "addresses", || bob.addresses());
    let _echoes = [echoes(&root_host), echoes(&bob_host), echoes(&guest_host)];
    let reload = |rules: &str| {
        fs::write(&file, format!("{open}{rules}")).unwrap();
        root.ask(&Request::Reload).unwrap()
    };

    // A guest is shut out from the start, by every node; all others come in.
    let refused = || (!works(&guest_host, at.0, Protocol::Tcp(80))).then_some(());
    wait_for(Duration::from_secs(5), refused).expect("guests have nothing without a rule");
    let refused = || (!works(&guest_host, bob_at.0, Protocol::Tcp(80))).then_some(());
    wait_for(Duration::from_secs(5), refused).expect("at other nodes neither");
    assert!(works(&bob_host, at.0, Protocol::Tcp(22)) && works(&admin_host, bob_at.1, Protocol::Udp(80)));
    // Who is asked answers, whatever the rules for its own questions are.
    let guest_at = need(&guest, "addresses", || guest.addresses());
    assert!(works(&bob_host, guest_at.0, Protocol::Tcp(80)) && works(&bob_host, guest_at.1, Protocol::Udp(80)));

    let compare = |rules: &str| {
        reload(rules);
        let settled = || state_of(&root_host).contains("aegisray_access").then_some(());
        wait_for(Duration::from_secs(5), settled).expect("a table");
        std::thread::sleep(Duration::from_millis(300));
        let mut allowed = Vec::new();
        for (name, host) in [("admin", &admin_host), ("bob", &bob_host), ("guest", &guest_host)] {
            for port in PORTS {
                for (protocol, to) in
                    [(Protocol::Tcp(port), at.0), (Protocol::Tcp(port), at.1), (Protocol::Udp(port), at.0)]
                {
                    let (expected, why) = said(&root, name, &to.to_string(), protocol);
                    assert_eq!(works(host, to, protocol), expected, "{name} to {to} {protocol}: {why}");
                    if expected {
                        allowed.push(format!("{name} {protocol}"));
                    }
                }
            }
        }
        allowed.dedup();
        println!("  as `acl test` says, of 27 tries: {}", allowed.join(", "));
    };
    compare(RULES);
    let (_, why) = said(&root, "bob", "self", Protocol::Tcp(22));
    assert!(
        why.contains("rule 2 (") && why.contains("peer.yaml:") && why.contains("deny any to self ports 20-23"),
        "{why}"
    );
    println!("    {why}");
    // A connection that a rule allowed ends when it goes.
    let mut lasting = guest_host.ns.run(|| TcpStream::connect((at.0, 8080))).unwrap();
    assert!(echo(&mut lasting).is_ok());
    compare(
        "access:\n  default: deny\n  rules:\n    - allow: [group:admins, 0.0.0.0/0]\n      to: [self, 10.0.0.0/8]\n      ports: [1-80, 70-90/tcp]\n",
    );
    assert!(echo(&mut lasting).is_err(), "it goes on");
    // A segment: what the mesh offers, and what it doesn't.
    let segment = |policy: &str| {
        format!("access:\n  segments:\n    - {{ name: lab, cidr: [{}, {}], policy: {policy} }}\n", bob_at.0, bob_at.1)
    };
    compare(&segment("internet_only"));
    compare(&segment("strict"));
    compare(&segment("local_only"));
    // Mistakes are named, and change nothing.
    for (rules, expected) in [
        ("access:\n  rules:\n    - allow: [any]\n      ports: [ssh]\n", "expected a port like 22/tcp"),
        ("access:\n  rules:\n    - allow: [\"segment:x\"]\n", "no segment is called `x`"),
        ("access:\n  rules:\n    - to: [self]\n", "each rule has `allow` or `deny`"),
        ("access:\n  rules:\n    - allow: [portal]\n", "this node has no portal"),
    ] {
        fs::write(&file, format!("{open}{rules}")).unwrap();
        let error = root.ask(&Request::Reload).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let list = run(root.command(&root_host).args(["acl", "list", "--socket"]).arg(root.socket()));
    println!("    {}", list.replace('\n', "\n    "));
    assert!(list.contains("segment lab") && list.contains("local_only"), "{list}");
    drop((admin, guest));
    // A daemon that dies leaves its rules; one that ends takes them with it.
    root.kill();
    assert!(state_of(&root_host).contains("aegisray_access"));
    fs::write(&file, &open).unwrap();
    root.start(&root_host).unwrap();
    need(&root, "status", || root.status());
    let _ = root.ask(&Request::Stop);
    let back = || (state_of(&root_host) == untouched).then_some(());
    wait_for(Duration::from_secs(5), back).expect("nothing left on the host");
}
