//! What exits carry.

use std::{fs, net::IpAddr, path::PathBuf, time::Duration};

use aegisray::{
    host,
    lab::{daemon::wait_for, load},
};

use super::{
    firewall::nft,
    harness::need,
    world::{CLIENT6, EXITS, ROUTER, WEB, World, state_of, v6},
};

pub fn seen_from_outside() {
    let mut world = World::new("", "");
    let at_home = wait_for(Duration::from_secs(10), || world.seen_as(WEB.into()));
    assert_eq!(at_home, Some(ROUTER.into()), "before there is a mesh");
    // Neighbours need a moment to be sure of their addresses.
    let over_v6 = wait_for(Duration::from_secs(10), || world.seen_as(v6(WEB).into()));
    assert_eq!(over_v6, Some(CLIENT6.into()));
    world.start_others();
    world.start_client();
    let offers = need(&world.client, "two offers", || world.exit_status().map(|s| s.offers).filter(|o| o.len() == 2));
    assert!(offers.iter().all(|o| o.ipv4 && o.ipv6), "{offers:?}");
    println!("    {}", world.command(&["exit"]).trim_end().replace('\n', "\n    "));
    let without_tunnel = state_of(&world.client_host);
    for (choice, exit) in [("exit-a", 0), ("country:nl", 1), ("auto", 2), ("off", 3)] {
        println!("  aegisray exit {choice}");
        let printed = world.command(&["exit", choice]);
        println!("    {}", printed.lines().next().unwrap_or_default());
        let expected = match exit {
            2 => world.exit_in_use(),
            other => other,
        };
        let (v4_seen, v6_seen): (IpAddr, IpAddr) = match EXITS.get(expected) {
            Some(exit) => ((*exit).into(), v6(*exit).into()),
            None => (ROUTER.into(), CLIENT6.into()),
        };
        let [over_v4, over_v6] = [WEB.into(), v6(WEB).into()].map(|to| world.curl(to));
        println!("    curl -4: {over_v4}; curl -6: {over_v6}");
        assert_eq!([over_v4, over_v6], [v4_seen.to_string(), v6_seen.to_string()], "{choice}: {printed}");
    }
    assert!(world.command(&["exit", "relay"]).contains("is no exit"));
    assert!(world.command(&["exit", "country:Sweden"]).contains("two letters"));
    assert_eq!(ruled(&state_of(&world.client_host)), ruled(&without_tunnel), "off leaves nothing behind");
    world.command(&["exit", "exit-a"]);
    // A second daemon by mistake leaves the first one's fence alone.
    let led = state_of(&world.client_host);
    let second = world.command(&[]);
    println!("  {}", second.trim_end());
    assert!(second.contains("is another one running with it?"), "{second}");
    assert_eq!(ruled(&state_of(&world.client_host)), ruled(&led));
    // The exit's own network is none of the client's business.
    let private = world.exit_hosts[0]
        .ns
        .run(|| aegisray::host::Netlink::open()?.add_address("eth0", "10.9.9.1".parse().unwrap(), 24));
    private.unwrap();
    assert_eq!(world.seen_as("10.9.9.1".parse().unwrap()), None);
    let exit = need(&world.exits[0], "addresses", || world.exits[0].addresses()).0;
    let time = Duration::from_secs(3);
    let (mut mesh, mut outside) = (0.0_f64, 0.0_f64);
    for _ in 0..3 {
        mesh = mesh.max(load::tcp(&world.client_host, &world.exit_hosts[0], exit, load::Streams::one(time)).unwrap());
        outside = outside.max(load::tcp(&world.client_host, &world.web, WEB.into(), load::Streams::one(time)).unwrap());
    }
    println!(
        "  through a relay: {:.2} Gbit/s to the exit, {:.2} Gbit/s through it to the web server: {:.2} ×",
        mesh / 1e9,
        outside / 1e9,
        outside / mesh
    );
}

/// Without counts.
fn ruled(state: &str) -> String {
    let all = state.lines().map(|l| l.split("counter").next().unwrap_or(l).trim_end().to_owned() + "\n");
    all.collect()
}

const DOCKER_AND_UFW: &str = "
table ip filter {
  chain DOCKER-USER { counter return; }
  chain FORWARD { type filter hook forward priority filter; policy drop;
    jump DOCKER-USER; oifname \"docker0\" ct state established,related accept; iifname \"docker0\" accept; }
  chain INPUT { type filter hook input priority filter; policy accept; tcp dport 22 accept; }
}
table ip6 filter {
  chain ufw6-before-forward { ct state established,related accept; }
  chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw6-before-forward; }
}
table inet firewalld {
  chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept; iifname \"lo\" accept; reject with icmpx admin-prohibited; }
}
table ip nat {
  chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept;
    ip saddr 172.17.0.0/16 oifname != \"docker0\" counter masquerade; }
}";

/// A host with the rules of Docker, ufw and firewalld.
pub fn beside_others() {
    let mut world = World::new("exit: exit-a\n", "  peer_mbit: 50\n");
    nft(&world.exit_hosts[0], DOCKER_AND_UFW);
    let before = state_of(&world.exit_hosts[0]);
    world.start_others();
    world.start_client();
    world.exit_in_use();
    let out = || world.seen_as(WEB.into()).zip(world.seen_as(v6(WEB).into()));
    let seen = wait_for(Duration::from_secs(20), out).expect("a way out");
    assert_eq!(seen, (EXITS[0].into(), v6(EXITS[0]).into()));
    let during = state_of(&world.exit_hosts[0]);
    let others: Vec<&str> = before.lines().filter(|l| !l.contains("counter") && !l.contains("net.")).collect();
    for line in &others {
        assert!(during.contains(line), "gone: {line}\n{during}");
    }
    println!(
        "  {} lines of others' rules untouched, {} of ours beside them",
        others.len(),
        during.lines().count() - before.lines().count()
    );
    let limited =
        load::tcp(&world.client_host, &world.web, WEB.into(), load::Streams::one(Duration::from_secs(8))).unwrap();
    println!("  peer_mbit: 50: {:.1} Mbit/s", limited / 1e6);
    // A second's worth may come at once.
    assert!((30e6..60e6).contains(&limited), "{limited}");
    // Docker makes its chain anew.
    nft(&world.exit_hosts[0], "flush chain ip filter FORWARD");
    let again = wait_for(Duration::from_secs(30), || world.seen_as(WEB.into()));
    assert_eq!(again, Some(EXITS[0].into()), "a chain that was made anew is seen to");
    nft(
        &world.exit_hosts[0],
        "table ip filter { chain FORWARD { jump DOCKER-USER; oifname \"docker0\" ct state established,related accept; iifname \"docker0\" accept; }; }",
    );
    // A crash leaves things as they are until the next start; an end puts them back.
    world.exits[0].kill();
    assert_ne!(state_of(&world.exit_hosts[0]), before);
    world.exits[0].start(&world.exit_hosts[0]).unwrap();
    need(&world.exits[0], "status", || world.exits[0].status());
    let _ = world.exits[0].ask(&aegisray::api::Request::Stop);
    let end =
        wait_for(Duration::from_secs(5), || (ruled(&state_of(&world.exit_hosts[0])) == ruled(&before)).then_some(()));
    assert!(end.is_some(), "before:\n{before}\nafter:\n{}", state_of(&world.exit_hosts[0]));
}

/// A host whose IPv6 is switched off has a tunnel for IPv4, and leaks nothing else.
pub fn without_ipv6() {
    let mut world = World::new("exit: exit-a\n", "");
    let off = || {
        ["all", "default"]
            .iter()
            .try_for_each(|i| std::fs::write(format!("/proc/sys/net/ipv6/conf/{i}/disable_ipv6"), "1"))
    };
    world.client_host.ns.run(off).unwrap();
    let before = state_of(&world.client_host);
    world.start_others();
    world.start_client();
    world.exit_in_use();
    let out = wait_for(Duration::from_secs(10), || world.seen_as(WEB.into()));
    assert_eq!(out, Some(EXITS[0].into()), "{}", world.client.log_tail());
    assert_eq!(world.seen_as(v6(WEB).into()), None);
    let _ = world.client.ask(&aegisray::api::Request::Stop);
    let back = || (state_of(&world.client_host) == before).then_some(());
    let end = wait_for(Duration::from_secs(5), back);
    assert!(end.is_some(), "before:\n{before}\nafter:\n{}", state_of(&world.client_host));
    println!("  out over IPv4, and nothing over IPv6");
}

/// A cgroup that goes with the test.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Split tunnel, and who comes from outside.
pub fn bypass() {
    // In a namespace that an ordinary user has made there is no other user.
    let all = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let has_users = all.split_whitespace().nth(2).is_some_and(|n| n.parse::<u64>().is_ok_and(|n| n > 12_346));
    let users = if has_users { "    users: [12345]\n" } else { "" };
    let group = Cgroup(host::cgroup_root().join(format!("aegisray-test-{}", std::process::id())));
    let name = group.0.file_name().unwrap().to_string_lossy().into_owned();
    let cgroups = format!("    cgroups: [{name}]\n");
    let prefixes = "    prefixes: [203.0.113.80/32]\n";
    let options = format!("exit: exit-a\nexit_options:\n  bypass:\n{prefixes}{users}{cgroups}");
    let mut world = World::new(&options, "");
    world.start_others();
    world.start_client();
    world.exit_in_use();
    let over_v6 = wait_for(Duration::from_secs(10), || world.seen_as(v6(WEB).into()));
    assert_eq!(over_v6, Some(v6(EXITS[0]).into()));
    assert_eq!(world.seen_as(WEB.into()), Some(ROUTER.into()), "by prefix");
    let fetch_as = |user: &str| {
        let mut command = world.client_host.ns.command("setpriv");
        let url = format!("http://[{}]/", v6(WEB));
        let output = command.args([&format!("--reuid={user}"), "curl", "-s", "-m", "3", &url]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    if has_users {
        assert_eq!(fetch_as("12345"), CLIENT6.to_string(), "by user");
        assert_eq!(fetch_as("12346"), v6(EXITS[0]).to_string());
    }
    // A service that starts later, stops, and starts again: its cgroup is another one each time.
    let url = format!("http://[{}]/", v6(WEB));
    let has_groups = fs::create_dir(&group.0).is_ok();
    for _ in 0..if has_groups { 2 } else { 0 } {
        let _ = fs::create_dir(&group.0);
        let inside = || {
            let mut command = world.client_host.ns.command("sh");
            let script = format!("echo $$ > {}/cgroup.procs && exec curl -s -m 3 '{url}'", group.0.display());
            let output = command.args(["-c", &script]).output().unwrap();
            (String::from_utf8_lossy(&output.stdout).trim() == CLIENT6.to_string()).then_some(())
        };
        wait_for(Duration::from_secs(5), inside).expect("by cgroup");
        fs::remove_dir(&group.0).unwrap();
    }
    assert_eq!(world.seen_as(v6(WEB).into()), Some(v6(EXITS[0]).into()));
    println!("  past the tunnel by prefix, by user ({has_users}), by cgroup ({has_groups}), and nobody else");
    // A visitor from outside is answered the way it came, and the LAN is where it was.
    let visitor: IpAddr = "2001:db8:7::2".parse().unwrap();
    let listener = world.client_host.ns.run(|| std::net::TcpListener::bind(("::", 8022))).unwrap();
    let visit =
        world.web.ns.run(|| std::net::TcpStream::connect_timeout(&(visitor, 8022).into(), Duration::from_secs(2)));
    assert!(visit.is_ok(), "{visit:?}");
    drop(listener);
    let lan = world.router.ns.run(|| std::net::TcpListener::bind(("192.168.7.1", 80))).unwrap();
    let local = std::net::SocketAddr::from(([192, 168, 7, 1], 80));
    let reached = world.client_host.ns.run(|| std::net::TcpStream::connect_timeout(&local, Duration::from_secs(2)));
    assert!(reached.is_ok(), "{reached:?}");
    drop(lan);
    println!("  visitors are answered the way they came; the LAN is reached");
}
