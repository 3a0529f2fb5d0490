//! Stock WireGuard clients that come in through a node.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use aegisray::{
    api::{Request, Response},
    lab::{daemon::wait_for, load, topology::Host},
    portal::ClientStatus,
};

use super::{
    firewall::nft,
    harness::{need, need_route},
    world::{EXITS, WEB, World, fetch, state_of, v6, web_server},
};

const PORTAL: &str = "exit: exit-a
portal:
  enabled: true
  endpoint: 203.0.113.50
access:
  rules:
    - allow: [\"portal:phone\"]
  segments:
    - { name: visitors, cidr: [10.86.86.3], policy: internet_only }
    - { name: printers, cidr: [10.86.86.4], policy: local_only }
";
/// The router sends what comes to the portal's port on to the client behind it.
const FORWARDING: &str = "table ip portal {
  chain prerouting { type nat hook prerouting priority dstnat; policy accept;
    iifname eth0 udp dport 51820 dnat to 192.168.7.2; }
}
insert rule inet censor forward iifname lan0 udp sport 51820 accept
";
const PATIENCE: Duration = Duration::from_secs(2);

/// A machine with Debian's programs for WireGuard, and no part of ours.
struct Stock<'h> {
    host: &'h Host,
    file: PathBuf,
    path: String,
}

impl<'h> Stock<'h> {
    /// `wg-quick up` with a configuration.
    fn up(host: &'h Host, dir: &Path, name: &str, config: &str) -> Self {
        let tools = dir.join(format!("tools-{name}"));
        fs::create_dir_all(&tools).unwrap();
        // What the machine would be told about names.
        let script = format!("#!/bin/sh\n[ \"$1\" = -a ] && cat > {}/resolv.conf\nexit 0\n", tools.display());
        fs::write(tools.join("resolvconf"), script).unwrap();
        fs::set_permissions(tools.join("resolvconf"), fs::Permissions::from_mode(0o755)).unwrap();
        // The name is the interface's, and that of a socket which all namespaces see.
        let file = dir.join(format!("{name}{}.conf", std::process::id()));
        fs::write(&file, config).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let path = format!("{}:{}:/usr/sbin:/sbin", tools.display(), std::env::var("PATH").unwrap());
        let stock = Self { host, file, path };
        stock.quick("up").unwrap_or_else(|e| panic!("wg-quick up: {e}"));
        stock
    }

    fn quick(&self, verb: &str) -> Result<(), String> {
        let mut command = self.host.ns.command("wg-quick");
        command.env("PATH", &self.path).env("WG_QUICK_USERSPACE_IMPLEMENTATION", "wireguard-go");
        let output = command.arg(verb).arg(&self.file).output().expect("wg-quick is installed");
        let good = output.status.success();
        if good { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    fn names(&self) -> String {
        fs::read_to_string(Path::new(self.path.split(':').next().unwrap()).join("resolv.conf")).unwrap()
    }
}

impl Drop for Stock<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.quick("down") {
            println!("  wg-quick down: {e}");
        }
    }
}

fn clients(world: &World) -> Vec<ClientStatus> {
    match world.client.ask(&Request::PortalList) {
        Ok(Response::PortalClients { clients }) => clients,
        other => panic!("{other:?}"),
    }
}

pub fn stock_clients() {
    if fs::create_dir_all("/var/run/wireguard").is_err() {
        println!("  not tried: wireguard-go keeps its sockets in /var/run/wireguard, which only root may write to");
        return;
    }
    let mut world = World::new(PORTAL, "");
    let [(_r0, phone), (_r1, tablet), (_r2, printer)] = [70, 71, 72].map(|n| world.home(n));
    nft(&world.router, FORWARDING);
    let untouched = state_of(&world.client_host);
    let dir = world.client.dir.clone();
    world.start_others();
    world.start_client();
    world.exit_in_use();
    need_route(&world.client, "relay");
    let relay = need(&world.relay, "addresses", || world.relay.addresses());
    let client_id = need(&world.client, "status", || world.client.status()).node.node_id;
    let portal = need(&world.client, "addresses", || world.client.addresses());
    let _inside = web_server(&world.relay_host);

    let printed = world.command(&["portal", "add", "phone", "--qr"]);
    println!("    {}", printed.lines().filter(|l| !l.contains("Key")).collect::<Vec<_>>().join("\n    "));
    let config: String =
        printed.lines().take_while(|l| !l.starts_with('#') && !l.contains('█')).map(|l| format!("{l}\n")).collect();
    assert!(
        config.contains("Endpoint = 203.0.113.50:51820\n") && config.contains("AllowedIPs = 0.0.0.0/0, ::/0\n"),
        "{config}"
    );
    let phone_up = Stock::up(&phone, &dir, "phone", &config);
    assert!(phone_up.names().contains("nameserver 10.86.86.1\n"), "{}", phone_up.names());
    // Nodes of the mesh, over both families: they see the portal's node.
    let reach = |host: &Host, to: IpAddr| wait_for(Duration::from_secs(10), || fetch(host, to, PATIENCE));
    assert_eq!(reach(&phone, relay.0), Some(portal.0));
    assert_eq!(reach(&phone, relay.1), Some(portal.1));
    for to in [relay.0, relay.1] {
        let mut ping = phone.ns.command("ping");
        let output =
            ping.args(["-c", "3", "-i", "0.2", "-W", "2", &to.to_string()]).output().expect("ping is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        println!("    {}", text.trim_end().lines().rev().take(2).collect::<Vec<_>>().join("; "));
        assert!(output.status.success() && text.contains(" 0% packet loss"), "{text}");
    }
    // The world sees the exit that the portal's node goes through.
    assert_eq!(reach(&phone, WEB.into()), Some(EXITS[0].into()));
    assert_eq!(reach(&phone, v6(WEB).into()), Some(v6(EXITS[0]).into()));
    println!("  wg-quick and wireguard-go: nodes see the portal's node, the world sees the exit, IPv4 and IPv6");
    let dig = |host: &Host| {
        let mut command = host.ns.command("dig");
        let output = command.args(["+short", "+time=2", "+tries=1", "@10.86.86.1", "relay.aegis"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(dig(&phone), relay.0.to_string());
    // Whoever looks at the clients does not stop them.
    let (speed, looks) = std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            load::tcp(&phone, &world.relay_host, relay.0, load::Streams::one(Duration::from_secs(3))).unwrap()
        });
        let mut looks = 0;
        while !stream.is_finished() {
            assert_eq!(clients(&world).len(), 1);
            looks += 1;
        }
        (stream.join().unwrap(), looks)
    });
    println!("  through the portal into the mesh: {:.2} Gbit/s in one stream, beside {looks} looks at it", speed / 1e9);

    // Others may do what their segment's policy says; strangers to all rules may ask for names.
    let add = |name: &str| {
        let text = world.command(&["portal", "add", name]);
        text.lines().take_while(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect::<String>()
    };
    let tablet_up = Stock::up(&tablet, &dir, "tablet", &add("tablet"));
    let printer_up = Stock::up(&printer, &dir, "printer", &add("printer"));
    assert_eq!(reach(&tablet, WEB.into()), Some(EXITS[0].into()));
    assert_eq!(fetch(&tablet, relay.0, PATIENCE), None, "internet_only");
    assert_eq!(reach(&printer, relay.0), Some(portal.0));
    assert_eq!(fetch(&printer, WEB.into(), PATIENCE), None, "local_only");
    assert_eq!(dig(&printer), relay.0.to_string());
    for (who, to, expected) in [
        ("portal:phone", "203.0.113.80:443", "allowed"),
        ("portal:tablet", "relay:22", "REFUSED"),
        ("portal:printer", "203.0.113.80:443", "REFUSED"),
        ("portal:printer", "relay:631", "allowed"),
    ] {
        let answer = world.command(&["acl", "test", who, to]);
        println!("    acl test {who} {to}: {}", answer.trim_end().replace("\n", "\n     "));
        assert!(answer.starts_with(expected), "{answer}");
    }
    let twice = world.command(&["portal", "add", "phone"]);
    assert!(twice.contains("there is a client `phone` already"), "{twice}");
    let unknown = world.command(&["portal", "remove", "fridge"]);
    assert!(unknown.contains("no client `fridge`"), "{unknown}");

    // The daemon dies and comes back: clients go on with what they have.
    std::thread::sleep(Duration::from_secs(2));
    world.client.kill();
    // This time with addresses of their own in the mesh.
    let file = world.client.dir.join("peer.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("  endpoint:", "  masquerade: false\n  endpoint:")).unwrap();
    let relay_file = world.relay.dir.join("peer.yaml");
    let accept = format!("routing:\n  accept:\n    - {{ node: {client_id}, prefixes: [10.86.86.0/24] }}\n");
    fs::write(&relay_file, fs::read_to_string(&relay_file).unwrap() + &accept).unwrap();
    world.relay.ask(&Request::Reload).unwrap();
    world.start_client();
    let started = std::time::Instant::now();
    world.exit_in_use();
    let again = wait_for(Duration::from_secs(30), || fetch(&phone, WEB.into(), PATIENCE));
    assert_eq!(again, Some(EXITS[0].into()), "{}", world.client.log_tail());
    println!("  kill -9 and a start: the phone goes on after {:.1} s", started.elapsed().as_secs_f64());
    let own: IpAddr = [10, 86, 86, 2].into();
    let as_itself = wait_for(Duration::from_secs(10), || fetch(&phone, relay.0, PATIENCE).filter(|seen| *seen == own));
    assert_eq!(as_itself, Some(own), "nodes see the phone itself");
    let _on_the_phone = web_server(&phone);
    assert_eq!(reach(&world.relay_host, own), Some(relay.0), "and reach it");
    println!("  without masquerade: nodes see the phone itself, and reach it");
    println!("    {}", world.command(&["portal", "list"]).trim_end().replace('\n', "\n    "));
    let listed = clients(&world);
    assert_eq!(listed.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["phone", "printer", "tablet"]);
    let seen = listed[0].endpoint.map(|e| e.ip());
    assert_eq!(seen.map(|ip| ip.to_canonical()), Some([203, 0, 113, 70].into()));
    assert!(listed[0].handshake_s.is_some() && listed[0].received > 0 && listed[0].sent > 0);

    world.command(&["portal", "remove", "phone"]);
    assert_eq!(fetch(&phone, relay.0, PATIENCE), None, "shut out");
    assert_eq!(reach(&tablet, WEB.into()), Some(EXITS[0].into()), "the others are not");
    drop((phone_up, tablet_up, printer_up));
    let _ = world.client.ask(&Request::Stop);
    let back = || (state_of(&world.client_host) == untouched).then_some(());
    let end = wait_for(Duration::from_secs(5), back);
    assert!(end.is_some(), "before:\n{untouched}\nafter:\n{}", state_of(&world.client_host));
    println!("  removed: shut out at once; the end leaves nothing behind");
}
