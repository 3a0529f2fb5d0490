//! A client at home, a relay, two exits, and a web server that tells visitors their address.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use aegisray::{
    api::{ExitStatus, Request, Response},
    host::Netlink,
    lab::{
        daemon::{Daemon, wait_for},
        topology::{Host, Internet},
    },
};

use super::{
    firewall::nft,
    harness::{Dir, bootstrap, need, node, quiet},
    nginx::nginx,
    running::Running,
};

pub const RELAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const EXITS: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 8), Ipv4Addr::new(203, 0, 113, 9)];
pub const WEB: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
/// The client's own address in its LAN.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 2);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 2);

/// The IPv6 address of the host that has this IPv4 address.
pub fn v6(of: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(of.octets()[3]))
}

/// The client reaches the internet through its router, which lets UDP through to the relay alone.
const ONLY_THE_RELAY: &str = "
table inet censor {
  chain forward { type filter hook forward priority 0; policy accept;
    iifname lan0 udp dport { 53, 9999 } accept;
    iifname lan0 meta l4proto udp ip daddr != 203.0.113.1 drop;
    iifname lan0 meta l4proto udp ip6 daddr != 2001:db8:1::1 drop; }
}";

pub struct World {
    pub web: Host,
    pub router: Host,
    pub client_host: Arc<Host>,
    pub exit_hosts: Vec<Host>,
    pub client: Daemon,
    pub relay: Daemon,
    pub relay_host: Host,
    pub exits: Vec<Daemon>,
    _server: Running,
    _dir: Dir,
    internet: Internet,
}

impl World {
    /// Nothing runs yet but the web server. `client` and `exit` are added to the configurations of the client and of both
    /// exits.
    pub fn new(client: &str, exit: &str) -> Self {
        let dir = Dir::new();
        let mut internet = Internet::new().unwrap();
        let (web, relay_host) = (public(&mut internet, WEB), public(&mut internet, RELAY));
        let exit_hosts = EXITS.map(|at| public(&mut internet, at)).into_iter().collect();
        let (router, client_host) = internet.home(ROUTER.into(), [192, 168, 7]).unwrap();
        let everything = "::/0".parse().unwrap();
        let home = "2001:db8:7::/64".parse().unwrap();
        let gateway: IpAddr = "2001:db8:7::1".parse().unwrap();
        router
            .ns
            .run(|| {
                let mut n = Netlink::open()?;
                n.add_address("eth0", v6(ROUTER).into(), 64)?;
                n.add_address("lan0", gateway, 64)?;
                fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
            })
            .unwrap();
        client_host
            .ns
            .run(|| {
                let mut n = Netlink::open()?;
                n.add_address("eth0", CLIENT6.into(), 64)?;
                n.add_route(everything, Some(gateway), None)
            })
            .unwrap();
        web.ns.run(|| Netlink::open()?.add_route(home, Some(v6(ROUTER).into()), None)).unwrap();
        nft(&router, ONLY_THE_RELAY);
        let seen = "server { listen 80; listen [::]:80; location / { return 200 $remote_addr; } }";
        let server = nginx(&dir, &web, seen);
        let client = node(&dir, "client", &format!("{}{client}", bootstrap(&RELAY.to_string())));
        // Where it is asked for this host's public address is told from what leaks.
        let relay = node(&dir, "relay", &format!("{}listen: {{ stun_port: 3478 }}\n", quiet()));
        let exits = ["exit-a", "exit-b"].map(|name| {
            let country = if name == "exit-a" { "se" } else { "nl" };
            let exit = format!("exit_node:\n  enabled: true\n  country: {country}\n{exit}");
            node(&dir, name, &format!("{}{exit}", bootstrap(&RELAY.to_string())))
        });
        Self {
            web,
            router,
            client_host: Arc::new(client_host),
            exit_hosts,
            client,
            relay,
            relay_host,
            exits: exits.into_iter().collect(),
            _server: server,
            _dir: dir,
            internet,
        }
    }

    /// [`Self::new`], and everything runs: the client goes out by an exit.
    pub fn running(client: &str, exit: &str) -> Self {
        let mut world = Self::new(client, exit);
        world.start_others();
        world.start_client();
        world.exit_in_use();
        wait_for(Duration::from_secs(20), || world.seen_as(WEB.into())).expect("a way out");
        world
    }

    /// One more home with IPv4: its router, and a machine in it.
    pub fn home(&mut self, n: u8) -> (Host, Host) {
        self.internet.home([203, 0, 113, n].into(), [192, 168, n]).unwrap()
    }

    pub fn start_client(&mut self) {
        self.client.start(&self.client_host).unwrap();
    }

    /// Starts the relay and both exits.
    pub fn start_others(&mut self) {
        self.relay.start(&self.relay_host).unwrap();
        for (exit, host) in self.exits.iter_mut().zip(&self.exit_hosts) {
            exit.start(host).unwrap();
        }
    }

    /// Which exit the client goes through, once it has one.
    pub fn exit_in_use(&self) -> usize {
        let name = need(&self.client, "exit", || self.exit_status()?.name);
        self.exits.iter().position(|e| e.name == name).expect("an exit of ours")
    }

    pub fn exit_status(&self) -> Option<ExitStatus> {
        match self.client.ask(&Request::Exit { choice: None }) {
            Ok(Response::Exit(status)) => Some(*status),
            _ => None,
        }
    }

    /// What the web server says the client's address is.
    pub fn seen_as(&self, to: IpAddr) -> Option<IpAddr> {
        fetch(&self.client_host, to, Duration::from_secs(2))
    }

    /// What curl(1) prints at the client when it asks the web server.
    pub fn curl(&self, to: IpAddr) -> String {
        let mut command = self.client_host.ns.command("curl");
        let family = if to.is_ipv4() { "-4" } else { "-6" };
        let url = format!("http://{}/", SocketAddr::new(to, 80));
        let output =
            command.args([family, "-sS", "-m", "5", "--noproxy", "*", &url]).output().expect("curl is installed");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Runs a command of ours beside the client's daemon; returns what it prints.
    pub fn command(&self, args: &[&str]) -> String {
        let mut command = self.client.command(&self.client_host);
        let output = command.arg("--config").arg(self.client.dir.join("peer.yaml")).args(args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn public(internet: &mut Internet, at: Ipv4Addr) -> Host {
    let host = internet.public(at.into()).unwrap();
    host.ns.run(|| Netlink::open()?.add_address("eth0", v6(at).into(), 64)).unwrap();
    host
}

/// Asks the web server at `to` what it sees this host as.
pub fn fetch(host: &Host, to: IpAddr, patience: Duration) -> Option<IpAddr> {
    host.ns
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, 80), patience)?;
            stream.set_read_timeout(Some(patience))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text.rsplit("\r\n\r\n").next().and_then(|body| body.trim().parse().ok()))
        })
        .ok()
        .flatten()
}

/// A thread that goes on until this is dropped.
pub struct Background {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Does `step` over and over; it is to wait for something, but not for long.
    pub fn run(mut step: impl FnMut() + Send + 'static) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                step();
            }
        });
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A web server that tells every visitor its address.
pub fn web_server(host: &Host) -> Background {
    let listener = host.ns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80))).unwrap();
    listener.set_nonblocking(true).unwrap();
    Background::run(move || {
        let Ok((mut stream, from)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(5));
            return;
        };
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
        let _ = stream.read(&mut [0; 1024]);
        let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{}\n", from.ip().to_canonical());
    })
}

/// The rules of a host's firewall, its policy routing, and the values below /proc/sys that exits touch.
pub fn state_of(host: &Host) -> String {
    let run = |program: &str, args: &[&str]| {
        let mut command: Command = host.ns.command(program);
        String::from_utf8_lossy(&command.args(args).output().expect("installed").stdout).into_owned()
    };
    let sysctls = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.src_valid_mark"];
    let values = sysctls.map(|name| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        format!("{name} {}", host.ns.run(|| fs::read_to_string(path)).unwrap_or_default())
    });
    [
        run("nft", &["list", "ruleset"]),
        run("ip", &["rule"]),
        run("ip", &["-6", "rule"]),
        run("ip", &["route", "show", "table", "44689"]),
        run("ip", &["-6", "route", "show", "table", "44689"]),
        run("ip", &["route", "show", "table", "44690"]),
        run("ip", &["-6", "route", "show", "table", "44690"]),
        values.concat(),
    ]
    .join("\n")
}
