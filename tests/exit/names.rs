//! The names of the mesh, as `dig` sees them.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use aegisray::{
    api::Request,
    lab::{
        daemon::{Daemon, wait_for},
        topology::{Host, Internet},
    },
};

use super::{
    harness::{Dir, bootstrap, need, need_route, node, quiet},
    world::Background,
};

/// Somebody else's server, which says that every name has its own address.
fn elsewhere(host: &Host, at: Ipv4Addr) -> Background {
    let socket = host.ns.run(|| UdpSocket::bind((at, 53))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    Background::run(move || {
        let mut buffer = [0; 1500];
        let Ok((n, from)) = socket.recv_from(&mut buffer) else { return };
        let query = &buffer[..n];
        let Some(end) = query.get(12..).and_then(|q| q.iter().position(|b| *b == 0)) else { return };
        let Some(question) = query.get(12..12 + end + 5) else { return };
        let is_ipv4 = question.ends_with(&[0, 1, 0, 1]);
        let mut out = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0], question].concat();
        if is_ipv4 {
            out.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            out.extend(at.octets());
        }
        let _ = socket.send_to(&out, from);
    })
}

/// What `dig` prints, a line each.
fn dig(host: &Host, server: IpAddr, question: &[&str]) -> Vec<String> {
    let mut command = host.ns.command("dig");
    let output = command.args([&format!("@{server}"), "+short", "+time=2", "+tries=1"]).args(question).output();
    let output = output.expect("dig is installed (make setup-tests)");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// The code of the answer, as `dig` calls it.
fn code(host: &Host, server: IpAddr, question: &[&str]) -> String {
    let mut command = host.ns.command("dig");
    let output = command.args([&format!("@{server}"), "+time=2", "+tries=1"]).args(question).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("none").to_owned()
}

fn addresses(daemon: &Daemon) -> (IpAddr, IpAddr) {
    need(daemon, "addresses", || daemon.addresses())
}

/// How many of thirty connections to the server for names stay open; one of them announces a question that is far too long.
fn connections_kept(host: &Host, server: IpAddr) -> usize {
    let all = host.ns.run(|| {
        let mut all = Vec::new();
        for _ in 0..30 {
            let socket = TcpStream::connect_timeout(&(server, 53).into(), Duration::from_secs(2))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            all.push(socket);
        }
        Ok(all)
    });
    let is_open = |mut socket: &TcpStream| socket.read(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
    let mut kept: Vec<TcpStream> = all.unwrap().into_iter().filter(|socket| is_open(socket)).collect();
    let count = kept.len();
    if let Some(socket) = kept.first_mut() {
        socket.write_all(&[0xff, 0xff, 0]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(!is_open(socket), "a question of 65,535 bytes");
    }
    count
}

pub fn of_the_mesh() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let mut public = |last: u8| internet.public([203, 0, 113, last].into()).unwrap();
    let (alpha_host, beta_host, isp_host, corp_host) = (public(1), public(2), public(53), public(54));
    let _isp = elsewhere(&isp_host, [203, 0, 113, 53].into());
    let _corp = elsewhere(&corp_host, [203, 0, 113, 54].into());
    let resolv_conf = dir.0.join("resolv.conf");
    let before = "# by the provider\nnameserver 203.0.113.53\nsearch provider.example\noptions timeout:1\n";
    fs::write(&resolv_conf, before).unwrap();
    let names = format!(
        "dns:\n  host: file\n  resolv_conf: {}\n  split:\n    - {{ domain: corp.example, servers: [203.0.113.54] }}\n",
        resolv_conf.display()
    );
    let services = "dns:\n  services: [{ service: _http._tcp, port: 8080 }]\n";
    let mut alpha = node(&dir, "alpha", &format!("{}{services}", quiet()));
    let mut beta = node(&dir, "beta", &format!("{}{names}", bootstrap("203.0.113.1")));
    alpha.start(&alpha_host).unwrap();
    beta.start(&beta_host).unwrap();
    need_route(&beta, "alpha");
    let (alpha_at, own) = (addresses(&alpha), addresses(&beta));
    let ask = |question: &[&str]| dig(&beta_host, own.0, question);
    wait_for(Duration::from_secs(5), || (ask(&["alpha.aegis"]) == [alpha_at.0.to_string()]).then_some(()))
        .expect("a name");
    assert_eq!(ask(&["alpha.aegis", "AAAA"]), [alpha_at.1.to_string()]);
    assert_eq!(ask(&["-x", &alpha_at.0.to_string()]), ["alpha.aegis."]);
    assert_eq!(ask(&["-x", &alpha_at.1.to_string()]), ["alpha.aegis."]);
    assert_eq!(ask(&["+tcp", "ALPHA.aegis"]), [alpha_at.0.to_string()]);
    for name in ["_http._tcp.aegis", "_http._tcp.alpha.aegis"] {
        assert_eq!(ask(&[name, "SRV"]), ["0 0 8080 alpha.aegis."], "{name}");
    }
    assert_eq!(connections_kept(&alpha_host, own.0), 8, "of a member's thirty");
    assert_eq!(ask(&["+tcp", "alpha.aegis"]), [alpha_at.0.to_string()], "others find room");
    assert_eq!(code(&beta_host, own.0, &["nobody.aegis"]), "NXDOMAIN");
    assert_eq!(ask(&["www.example.org"]), ["203.0.113.53"], "the provider's server is asked");
    assert_eq!(ask(&["intra.corp.example"]), ["203.0.113.54"], "split");
    assert_eq!(dig(&beta_host, own.1, &["alpha.aegis"]), [alpha_at.0.to_string()], "over IPv6");
    // Other members get the mesh's names and no others.
    assert_eq!(dig(&alpha_host, own.0, &["beta.aegis"]), [own.0.to_string()]);
    assert_eq!(code(&alpha_host, own.0, &["www.example.org"]), "REFUSED");
    let mut long = beta_host.ns.command("dig");
    let long = long.args([&format!("@{}", own.0), "+nostats", "alpha.aegis"]).output().unwrap().stdout;
    let long = String::from_utf8_lossy(&long);
    assert!(long.contains("; EDNS: version: 0, flags:; udp: 1232"), "{long}");
    let log = fs::read_to_string(beta.dir.join("daemon.log")).unwrap();
    assert!(!log.contains("example.org"), "who asks for what is in the log:\n{log}");
    println!(
        "  dig alpha.aegis: {:?}, AAAA {:?}, PTR, SRV, TCP, split; strangers' names are refused to others",
        ask(&["alpha.aegis"]),
        ask(&["alpha.aegis", "AAAA"])
    );
    let during = fs::read_to_string(&resolv_conf).unwrap();
    println!("    {}", during.trim_end().replace('\n', "\n    "));
    assert!(during.contains(&format!("nameserver {}\n", own.0)) && during.contains("\nsearch provider.example\n"));
    assert!(during.contains("options timeout:1\n") && !during.contains("\nnameserver 203.0.113.53"));
    beta.kill();
    assert_eq!(fs::read_to_string(&resolv_conf).unwrap(), during, "kill -9 leaves it");
    beta.start(&beta_host).unwrap();
    need_route(&beta, "alpha");
    let back = || (ask(&["www.example.org"]) == ["203.0.113.53"]).then_some(());
    wait_for(Duration::from_secs(5), back).expect("names of others after a crash: it does not ask itself");
    // A DHCP client writes the file in another network: this host asks here again, and the new server for other names.
    fs::write(&resolv_conf, "nameserver 203.0.113.54\n").unwrap();
    let moved = || (ask(&["www.example.org"]) == ["203.0.113.54"]).then_some(());
    wait_for(Duration::from_secs(10), moved).expect("the new network's server is asked");
    assert!(fs::read_to_string(&resolv_conf).unwrap().contains(&format!("nameserver {}\n", own.0)));
    fs::write(&resolv_conf, before).unwrap();
    wait_for(Duration::from_secs(10), back).expect("and the first one's again");
    // Another suffix, and none at all, without a restart.
    let file = beta.dir.join("peer.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let reload = |text: String| {
        fs::write(&file, text).unwrap();
        beta.ask(&Request::Reload).unwrap();
    };
    reload(text.replace("dns:\n", "dns:\n  suffix: mesh.test\n"));
    assert_eq!(ask(&["alpha.mesh.test"]), [alpha_at.0.to_string()]);
    assert_eq!(ask(&["www.example.org"]), ["203.0.113.53"]);
    reload(text.replace("dns:\n", "dns:\n  serve: false\n"));
    let silent = || (code(&beta_host, own.0, &["alpha.aegis"]) == "none").then_some(());
    wait_for(Duration::from_secs(5), silent).expect("nobody answers");
    assert_eq!(fs::read_to_string(&resolv_conf).unwrap(), before, "and nobody is asked to");
    reload(text);
    let again = || (ask(&["alpha.aegis"]) == [alpha_at.0.to_string()]).then_some(());
    wait_for(Duration::from_secs(5), again).expect("names again");
    println!("  reload: another suffix, no names, and names again");
    let _ = beta.ask(&Request::Stop);
    let restored = || (fs::read_to_string(&resolv_conf).unwrap() == before).then_some(());
    wait_for(Duration::from_secs(5), restored).expect("the file as it was");
    println!("  resolv.conf is what it was: after an end, and after kill -9 and a start");
}

/// openresolv, with its directories in one of ours.
struct Resolvconf {
    script: PathBuf,
    dir: PathBuf,
}

impl Resolvconf {
    fn new(dir: &Path) -> Self {
        let dir = dir.join("openresolv");
        fs::create_dir_all(dir.join("bin")).unwrap();
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/openresolv");
        let text = fs::read_to_string(package.join("sbin/resolvconf")).expect("make setup-tests gets openresolv");
        let own = format!("VARDIR={}/run", dir.display());
        let text = text.replace("SYSCONFDIR=/etc\n", &format!("SYSCONFDIR={}\n", dir.display()));
        let text =
            text.replace("LIBEXECDIR=/lib/resolvconf\n", &format!("LIBEXECDIR={}/lib/resolvconf\n", package.display()));
        let text = text.replace("VARDIR=/run/resolvconf\n", &format!("{own}\n"));
        assert!(text.contains(&own), "openresolv has changed");
        let script = dir.join("bin/resolvconf");
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("resolvconf.conf"), format!("resolv_conf={}\n", dir.join("resolv.conf").display())).unwrap();
        Self { script, dir }
    }

    /// A DHCP client tells of a server.
    fn tell(&self, interface: &str, server: &str) {
        let shell = format!("echo nameserver {server} | {} -a {interface}", self.script.display());
        assert!(Command::new("sh").args(["-c", &shell]).status().unwrap().success());
    }

    fn text(&self) -> String {
        fs::read_to_string(self.dir.join("resolv.conf")).unwrap()
    }
}

pub fn with_resolvconf() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let mut public = |last: u8| internet.public([203, 0, 113, last].into()).unwrap();
    let (alpha_host, beta_host, isp_host, other_host) = (public(1), public(2), public(53), public(54));
    let _isps = [(&isp_host, 53), (&other_host, 54)].map(|(host, n)| elsewhere(host, [203, 0, 113, n].into()));
    let program = Resolvconf::new(&dir.0);
    program.tell("eth0", "203.0.113.53");
    let before = program.text();
    let mut alpha = node(&dir, "alpha", &quiet());
    let mut beta = node(&dir, "beta", &format!("{}dns:\n  host: resolvconf\n", bootstrap("203.0.113.1")));
    let path = format!("{}:{}", program.dir.join("bin").display(), std::env::var("PATH").unwrap());
    beta.environment.push(("PATH".to_owned(), path));
    alpha.start(&alpha_host).unwrap();
    beta.start(&beta_host).unwrap();
    need_route(&beta, "alpha");
    let (alpha_at, own) = (addresses(&alpha), addresses(&beta));
    let ask = |question: &str| dig(&beta_host, own.0, &[question]);
    let knows = |name: &str, at: String| {
        let answer = || (ask(name) == [at.clone()]).then_some(());
        wait_for(Duration::from_secs(10), answer).unwrap_or_else(|| panic!("{name}: {:?}", ask(name)));
    };
    knows("alpha.aegis", alpha_at.0.to_string());
    knows("www.example.org", "203.0.113.53".to_owned());
    let during = program.text();
    println!("    {}", during.trim_end().replace('\n', "\n    "));
    assert!(during.contains(&format!("nameserver {}", own.0)) && !during.contains("203.0.113.53"), "{during}");
    // Another network: its server is told, and the link changes.
    program.tell("eth0", "203.0.113.54");
    beta_host.ns.run(|| aegisray::host::Netlink::open()?.add_address("eth0", [198, 51, 100, 9].into(), 24)).unwrap();
    knows("www.example.org", "203.0.113.54".to_owned());
    program.tell("eth0", "203.0.113.53");
    beta.kill();
    assert!(program.text().contains(&own.0.to_string()), "kill -9 leaves it");
    beta.start(&beta_host).unwrap();
    need_route(&beta, "alpha");
    knows("www.example.org", "203.0.113.53".to_owned());
    let _ = beta.ask(&Request::Stop);
    let restored = || (program.text() == before).then_some(());
    wait_for(Duration::from_secs(5), restored).unwrap_or_else(|| panic!("{before}\n{}", program.text()));
    println!("  resolvconf(8) says what it said: after another network, kill -9, a start and an end");
}
