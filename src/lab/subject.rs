//! What `aegisray bench` measures: two hosts with a tunnel between them, of ours or of another VPN's program.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use super::{
    daemon::{Daemon, wait_for},
    load,
    topology::Host,
};
use crate::{
    api::{Request, Response},
    host,
};

/// Two hosts with a tunnel, or none, between them.
pub(super) struct Subject {
    hosts: Vec<Host>,
    /// The far end's address.
    pub to: IpAddr,
    /// The near end's address; `None`: the far end can't open connections to it.
    pub back: Option<IpAddr>,
    daemons: Vec<Daemon>,
    others: Vec<Child>,
    /// Of another's program, with a space before it.
    pub version: String,
}

impl Drop for Subject {
    fn drop(&mut self) {
        for child in &mut self.others {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Subject {
    pub fn near(&self) -> &Host {
        &self.hosts[0]
    }

    pub fn far(&self) -> &Host {
        &self.hosts[self.hosts.len() - 1]
    }

    fn pids(&self) -> Vec<u32> {
        self.daemons.iter().filter_map(Daemon::pid).chain(self.others.iter().map(Child::id)).collect()
    }

    /// Processor seconds used by all daemons so far.
    pub fn cpu(&self) -> f64 {
        self.pids().into_iter().filter_map(|pid| host::cpu_seconds(pid).ok()).sum()
    }

    pub fn rss(&self) -> f64 {
        self.pids().into_iter().map(rss_mib).fold(0.0, f64::max)
    }

    /// (packets, system calls) of the near daemon.
    pub fn calls(&self) -> (u64, u64) {
        let Some(status) = self.daemons.first().and_then(|d| d.ask_any(&Request::Status)) else { return (0, 0) };
        let of = |name: &str| status["traffic"][name].as_u64().unwrap_or(0);
        (of("sent_packets"), of("tun_reads") + of("udp_sends"))
    }
}

fn rss_mib(pid: u32) -> f64 {
    host::resident_kib(pid).map_or(0.0, |kib| kib as f64 / 1024.0)
}

/// In the form that `init` makes.
const SECRET: &str = "YmVuY2ggYmVuY2ggYmVuY2ggYmVuY2ggYmVuY2ggYmU";

const CABLE: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2))];

pub(super) fn bare() -> io::Result<Subject> {
    let (a, b) = (Host::bare()?, Host::bare()?);
    a.cable(&b, ("eth0", CABLE[0]), ("eth0", CABLE[1]))?;
    Ok(Subject {
        hosts: vec![a, b],
        to: CABLE[1],
        back: Some(CABLE[0]),
        daemons: vec![],
        others: vec![],
        version: String::new(),
    })
}

/// A line of `count` nodes, each with a cable to the next; `more` is added to the configuration of each.
pub(super) fn mesh(dir: &Path, name: &str, count: usize, more: &dyn Fn(usize) -> &'static str) -> io::Result<Subject> {
    mesh_of(&std::env::current_exe()?, dir, name, count, more)
}

/// The same of another build of this program. Its configuration has only keys that all builds know, and its answers are
/// read as far as they are needed.
pub(super) fn mesh_of(
    program: &Path,
    dir: &Path,
    name: &str,
    count: usize,
    more: &dyn Fn(usize) -> &'static str,
) -> io::Result<Subject> {
    let hosts: Vec<Host> = (0..count).map(|_| Host::bare()).collect::<io::Result<_>>()?;
    for i in 1..count {
        let at = |last: u8| IpAddr::from([192, 0, 2 + i as u8, last]);
        hosts[i - 1].cable(&hosts[i], ("eth1", at(1)), ("eth0", at(2)))?;
    }
    let mut daemons = Vec::new();
    for (i, host) in hosts.iter().enumerate() {
        let bootstrap =
            if i > 0 { format!("peers:\n  bootstrap: [\"192.0.{}.1:51900\"]\n", 2 + i) } else { String::new() };
        let node = format!("{name}-{i}");
        let mut daemon = Daemon::configure(program, dir, &node, SECRET, &format!("{bootstrap}{}", more(i)))?;
        #[cfg(feature = "bench-plaintext")]
        if name == "open" {
            daemon.environment.push((crate::crypto::PLAINTEXT.to_owned(), "1".to_owned()));
        }
        daemon.start(host)?;
        daemons.push(daemon);
    }
    let last = format!("{name}-{}", count - 1);
    let started = wait_for(Duration::from_secs(10), || {
        let answer = daemons[0].ask_any(&Request::Routes)?;
        answer["routes"].as_array()?.iter().find(|route| route["name"] == last)?;
        Some((first_address(&daemons[count - 1])?, first_address(&daemons[0])?))
    });
    let Some((to, back)) = started else {
        return Err(io::Error::other(format!("the mesh did not come up:\n{}", daemons[0].log_tail())));
    };
    let subject = Subject { hosts, to, back: Some(back), daemons, others: vec![], version: String::new() };
    load::round_trips(subject.near(), subject.far(), to, 10, Duration::from_millis(10))?;
    Ok(subject)
}

/// A daemon's IPv4 mesh address.
fn first_address(daemon: &Daemon) -> Option<IpAddr> {
    daemon.ask_any(&Request::Status)?["addresses"][0].as_str()?.parse().ok()
}

/// A client, its exit, and a host outside the mesh that is reached through it; `None` without `nft`.
pub(super) fn through_exit(dir: &Path) -> io::Result<Option<Subject>> {
    if host::firewall::rules().is_err() {
        return Ok(None);
    }
    let mut subject = mesh(dir, "exit", 2, &|i| if i == 0 { "exit: auto\n" } else { "exit_node:\n  enabled: true\n" })?;
    let outside = Host::bare()?;
    let [near, far] = [1, 2].map(|last| IpAddr::from([203, 0, 113, last]));
    subject.far().cable(&outside, ("eth1", near), ("eth0", far))?;
    subject.hosts.push(outside);
    let led = wait_for(Duration::from_secs(10), || match subject.daemons[0].ask(&Request::Exit { choice: None }) {
        Ok(Response::Exit(status)) => status.name,
        _ => None,
    });
    if led.is_none() {
        return Err(io::Error::other(format!("there is no exit:\n{}", subject.daemons[0].log_tail())));
    }
    (subject.to, subject.back) = (far, None);
    load::round_trips(subject.near(), subject.far(), far, 10, Duration::from_millis(10))?;
    Ok(Some(subject))
}

/// Two ends of a WireGuard program with the cross-platform interface (`wg`'s UAPI); `None` where it isn't installed.
/// `number` tells those of one run apart.
pub(super) fn wireguard(dir: &Path, number: usize, program: &Path, arguments: &[&str]) -> io::Result<Option<Subject>> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let here = std::path::absolute(program).ok().filter(|_| program.components().count() > 1);
    let Some(program): Option<PathBuf> =
        here.into_iter().chain(std::env::split_paths(&paths).map(|p| p.join(program))).find(|p| p.is_file())
    else {
        return Ok(None);
    };
    let mut subject = bare()?;
    subject.version = version(&program);
    let inner = [IpAddr::from([10, 9, 0, 1]), IpAddr::from([10, 9, 0, 2])];
    let key = |i: usize| [0x40 | (1 + i as u8); 32];
    let hex = |bytes: &[u8; 32]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    for i in 0..2 {
        let interface = format!("awg{}n{number}{i}", std::process::id() % 10_000);
        let log = std::fs::File::create(dir.join(format!("{interface}.log")))?;
        let mut command = subject.hosts[i].ns.command(&program);
        command.args(arguments).arg("-f").arg(&interface).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        subject.others.push(command.spawn()?);
        let socket = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
        let set = format!(
            "set=1\nprivate_key={}\nlisten_port=51820\npublic_key={}\nendpoint={}:51820\nreplace_allowed_ips=true\nallowed_ip={}/32\n\n",
            hex(&key(i)),
            hex(&crate::crypto::x25519_public(&key(1 - i))),
            CABLE[1 - i],
            inner[1 - i]
        );
        let accepted = wait_for(Duration::from_secs(5), || {
            use std::io::{Read as _, Write as _};
            let mut stream = std::os::unix::net::UnixStream::connect(&socket).ok()?;
            stream.write_all(set.as_bytes()).ok()?;
            let mut answer = [0; 64];
            let n = stream.read(&mut answer).ok()?;
            String::from_utf8_lossy(&answer[..n]).contains("errno=0").then_some(())
        });
        if accepted.is_none() {
            return Err(io::Error::other(format!("{} did not take its configuration", program.display())));
        }
        subject.hosts[i].ns.run(|| {
            let mut n = crate::host::Netlink::open()?;
            n.set_mtu(&interface, 1420, 1000)?;
            n.add_address(&interface, inner[i], 24)?;
            n.set_up(&interface, true)
        })?;
    }
    (subject.to, subject.back) = (inner[1], Some(inner[0]));
    load::round_trips(subject.near(), subject.far(), inner[1], 20, Duration::from_millis(20))?;
    Ok(Some(subject))
}

/// The first word of what `program --version` prints that holds a digit, with a space before it.
fn version(program: &Path) -> String {
    let Ok(output) = std::process::Command::new(program).arg("--version").output() else { return String::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let word =
        text.split_whitespace().find(|w| w.starts_with(|c: char| c == 'v' || c.is_ascii_digit()) && w.contains('.'));
    word.map(|w| format!(" {}", w.trim_start_matches('v'))).unwrap_or_default()
}
