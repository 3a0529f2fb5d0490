//! The mesh beside others' programs on one host.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use aegisray::{
    api::Request,
    lab::{
        daemon::{Daemon, wait_for},
        topology::{Host, Internet},
    },
};

use super::harness::{Dir, bootstrap, need, need_route, node, quiet};

/// Another's server, until it goes.
struct Server(Child);

impl Server {
    fn start(host: &Host, command: &[&str]) -> Self {
        let mut start = host.ns.command(command[0]);
        Self(start.args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect(command[0]))
    }

    /// What it says when it gives up.
    fn complaint(mut self) -> Option<String> {
        self.0.try_wait().unwrap()?;
        let mut text = String::new();
        std::io::Read::read_to_string(self.0.stderr.as_mut().unwrap(), &mut text).unwrap();
        Some(text)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The answers that `dig` gets, a line each.
fn dig(host: &Host, server: IpAddr, question: &[&str]) -> String {
    let mut command = host.ns.command("dig");
    let output = command.args([&format!("@{server}"), "+short", "+time=1", "+tries=2"]).args(question).output();
    let text = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
    text.lines().filter(|l| !l.starts_with(";;")).collect::<Vec<_>>().join("\n")
}

pub fn until_it_says(host: &Host, server: IpAddr, question: &[&str], answer: &str) {
    let said = || (dig(host, server, question) == answer).then_some(());
    if wait_for(Duration::from_secs(10), said).is_none() {
        panic!("@{server} {question:?}: {:?}, not {answer}", dig(host, server, question));
    }
}

fn end(daemon: &mut Daemon) {
    let _ = daemon.ask(&Request::Stop);
    wait_for(Duration::from_secs(5), || (!daemon.is_running()).then_some(())).expect("the daemon ends");
}

/// Programs that want port 53, and often at every address of the host, have it: before the mesh, and after it.
pub fn port_53_stays_free() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let mut public = |last: u8| internet.public([203, 0, 113, last].into()).unwrap();
    let (household, other) = (public(1), public(2));
    let at: IpAddr = [203, 0, 113, 1].into();
    let conf = dir.0.join("unbound.conf");
    let text = "server:\n  interface: 0.0.0.0\n  interface: ::0\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  do-daemonize: no\n  access-control: 0.0.0.0/0 allow\n  module-config: \"iterator\"\n  local-zone: \"lan.\" static\n  local-data: \"printer.lan. A 192.168.7.9\"\nremote-control:\n  control-enable: no\n";
    fs::write(&conf, text).unwrap();
    let conf = conf.to_str().unwrap();
    let dnsmasq =
        ["dnsmasq", "-k", "-C", "/dev/null", "-h", "-R", "-u", "root", "--host-record=printer.lan,192.168.7.9"];
    let with = |option| [&dnsmasq[..], &[option]].concat();
    let servers: [(&str, Vec<&str>); 4] = [
        ("dnsmasq", dnsmasq.to_vec()),
        ("dnsmasq --bind-interfaces", with("--bind-interfaces")),
        ("dnsmasq --bind-dynamic", with("--bind-dynamic")),
        ("unbound", vec!["unbound", "-d", "-c", conf]),
    ];
    let mut alpha = node(&dir, "alpha", &quiet());
    let mut beta = node(&dir, "beta", &bootstrap("203.0.113.1"));
    beta.start(&other).unwrap();
    alpha.start(&household).unwrap();
    need_route(&alpha, "beta");
    let addresses = |daemon: &Daemon| need(daemon, "addresses", || daemon.addresses());
    let ((own4, own6), (beta4, _)) = (addresses(&alpha), addresses(&beta));
    let mesh_answers = || {
        for own in [own4, own6] {
            until_it_says(&household, own, &["beta.aegis"], &beta4.to_string());
            until_it_says(&household, own, &["+tcp", "beta.aegis"], &beta4.to_string());
            until_it_says(&other, own, &["beta.aegis"], &beta4.to_string());
            until_it_says(&other, own, &["+tcp", "beta.aegis"], &beta4.to_string());
        }
    };
    mesh_answers();
    for (name, command) in &servers {
        let server = Server::start(&household, command);
        until_it_says(&other, at, &["printer.lan"], "192.168.7.9");
        mesh_answers();
        // And the other way round.
        end(&mut alpha);
        alpha.start(&household).unwrap();
        need_route(&alpha, "beta");
        mesh_answers();
        until_it_says(&other, at, &["printer.lan"], "192.168.7.9");
        assert_eq!(server.complaint(), None, "{name}");
        println!("  {name}: starts after the mesh and before it; both answer");
    }
    let plain = household.ns.run(|| UdpSocket::bind("0.0.0.0:53")).expect("a server at every address");
    drop(plain);
    // What others see of the questions, they see at port 53: a rule for it holds.
    let nft = |rules: &str| {
        let mut command = household.ns.command("nft");
        assert!(command.args(rules.split(' ')).status().unwrap().success(), "{rules}");
    };
    nft("add table inet theirs");
    nft("add chain inet theirs input { type filter hook input priority 0 ; }");
    nft("add rule inet theirs input iifname != lo udp dport 53 drop");
    assert_eq!(dig(&other, own4, &["beta.aegis"]), "", "the host's firewall says no");
    nft("delete table inet theirs");
    let listed = household.ns.command("nft").args(["list", "table", "inet", "aegisray_names"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let ours = listed.lines().find(|l| l.contains("saddr") && l.contains("udp sport")).expect(&listed);
    let port = ours.split("udp sport ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert_eq!(dig(&other, own4, &["-p", port, "beta.aegis"]), "", "nor is there a way around it");
    // A flush of all rules: the names are back.
    nft("flush ruleset");
    let flushed = Instant::now();
    until_it_says(&household, own4, &["beta.aegis"], &beta4.to_string());
    println!("  answers {} ms after a flush of all rules", flushed.elapsed().as_millis());
    let used = household.ns.command("ss").args(["-Hlnu"]).output().unwrap();
    let used = String::from_utf8_lossy(&used.stdout).into_owned();
    for port in [53, 3478, 51_901, 51_902] {
        assert!(!used.contains(&format!(":{port} ")), "UDP {port} is taken:\n{used}");
    }
    end(&mut alpha);
    let tables = household.ns.command("nft").args(["list", "tables"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&tables.stdout), "", "nothing of it stays");
}

/// Without nft there is no other way than port 53 itself.
pub fn names_without_nft() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let host = internet.public([203, 0, 113, 1].into()).unwrap();
    let bare = dir.0.join("bin");
    fs::create_dir(&bare).unwrap();
    let mut alpha = node(&dir, "alpha", &quiet());
    alpha.environment.push(("PATH".into(), bare.to_str().unwrap().to_owned()));
    alpha.start(&host).unwrap();
    let own = need(&alpha, "addresses", || alpha.addresses()).0;
    until_it_says(&host, own, &["alpha.aegis"], &own.to_string());
    println!("  without nft: answers at port 53 of its own addresses");
}

/// Programs try IPv6 first. Of a host that has none nobody hears that it had.
pub fn a_member_without_ipv6() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let mut public = |last: u8| internet.public([203, 0, 113, last].into()).unwrap();
    let (alpha_host, beta_host) = (public(1), public(2));
    let sysctl = |value: &str| {
        let mut command = alpha_host.ns.command("sysctl");
        let names = ["all", "default"].map(|of| format!("net.ipv6.conf.{of}.disable_ipv6={value}"));
        assert!(command.arg("-qw").args(names).status().unwrap().success());
    };
    sysctl("1");
    let mut alpha = node(&dir, "alpha", &quiet());
    let mut beta = node(&dir, "beta", &bootstrap("203.0.113.1"));
    alpha.start(&alpha_host).unwrap();
    beta.start(&beta_host).unwrap();
    need_route(&beta, "alpha");
    let addresses = |daemon: &Daemon| need(daemon, "addresses", || daemon.addresses());
    let ((alpha4, alpha6), (beta4, _)) = (addresses(&alpha), addresses(&beta));
    until_it_says(&beta_host, beta4, &["alpha.aegis"], &alpha4.to_string());
    assert_eq!(dig(&beta_host, beta4, &["alpha.aegis", "AAAA"]), "");
    until_it_says(&alpha_host, alpha4, &["beta.aegis"], &beta4.to_string());
    // A program that has the address from elsewhere hears at once that nobody is there.
    let ping = || {
        let start = Instant::now();
        let output = beta_host.ns.command("ping").args(["-c1", "-W5", &alpha6.to_string()]).output().unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned(), start.elapsed())
    };
    let (said, time) = ping();
    assert!(said.contains("nreachable") && time < Duration::from_secs(1), "{time:?}: {said}");
    println!("  alpha has no IPv6: no AAAA, and ping by address ends after {} ms", time.as_millis());
    sysctl("0");
    until_it_says(&beta_host, beta4, &["alpha.aegis", "AAAA"], &alpha6.to_string());
    let answers = || ping().0.contains("1 received").then_some(());
    wait_for(Duration::from_secs(5), answers).expect("IPv6, once the host has it");
    sysctl("1");
    until_it_says(&beta_host, beta4, &["alpha.aegis", "AAAA"], "");
    println!("  it gets IPv6 and loses it while the daemon runs: others are told");
}
