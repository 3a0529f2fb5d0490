//! Hosts and daemons that the attacks share.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    path::Path,
    process::Command,
};

use aegisray::{
    host::{Netlink, firewall},
    identity::keyfile,
    lab::{
        daemon::Daemon,
        topology::{Host, Internet},
    },
    types::NodeId,
};

use super::{
    harness::{Dir, need, need_route, program},
    hostile::PORT,
};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// 198.51.100.`n`, where the hosts of these tests are.
pub fn v4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, n)
}

pub fn place(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new(v4(n), PORT)
}

pub fn public(net: &mut Internet, n: u8) -> Host {
    net.public(v4(n).into()).unwrap()
}

/// Gives a host more addresses: whoever answers them is heard.
pub fn add_addresses(host: &Host, all: impl IntoIterator<Item = Ipv4Addr> + Send) {
    host.ns
        .run(|| {
            let mut n = Netlink::open()?;
            all.into_iter().try_for_each(|a| n.add_address("eth0", a.into(), 24))
        })
        .unwrap();
}

pub fn nft(host: &Host, rules: &str) {
    host.ns.run(|| firewall::load(rules)).unwrap();
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A node without much ado around it: no discovery in the LAN, no router asked.
pub fn plain(bootstrap: &[&str], more: &str) -> String {
    let all: Vec<String> = bootstrap.iter().map(|b| format!("\"{b}:{PORT}\"")).collect();
    format!("peers:\n  bootstrap: [{}]\n  lan_discovery: false\n{more}", all.join(", "))
}

/// A network with an authority, and the node that invites.
pub struct Strict {
    pub root: Daemon,
    pub root_host: Host,
}

impl Strict {
    /// Starts the inviting node at 198.51.100.2; `more` is added to its configuration.
    pub fn start(dir: &Dir, net: &mut Internet, more: &str) -> Self {
        let root_host = public(net, 2);
        let home = dir.0.join("root");
        run(Command::new(program())
            .args(["init", "--authority", "--name", "root", "--network", "strict", "--advertise", "198.51.100.2:51900"])
            .args(["--algorithm", "ed25519", "--dir"])
            .arg(&home));
        add_config(&home, more);
        let mut root = Daemon::prepared(program(), &home, "root");
        root.start(&root_host).unwrap();
        need(&root, "status", || root.status());
        Self { root, root_host }
    }

    pub fn invite(&self, more: &[&str]) -> String {
        let mut invite = self.root.command(&self.root_host);
        run(invite.args(["invite", "--valid", "1h", "--socket"]).arg(self.root.socket()).args(more))
    }

    /// Starts a node that joins with an invite, and waits until it is a member.
    pub fn member(&self, dir: &Dir, host: &Host, name: &str, invite: &[&str]) -> Daemon {
        let mut daemon = join(dir, name, &self.invite(&[invite, &["--name", name]].concat()));
        daemon.start(host).unwrap();
        need_route(&daemon, "root");
        need_route(&self.root, name);
        let file = certificate_of(&daemon);
        need(&daemon, "certificate", || file.exists().then_some(()));
        daemon
    }

    /// A certificate of the authority, beside the invites.
    pub fn certify(&self, node: NodeId, more: &[&str]) -> Vec<u8> {
        certify(&self.root.dir, node, more)
    }
}

/// A certificate by the authority whose key is in `dir`.
pub fn certify(dir: &Path, node: NodeId, more: &[&str]) -> Vec<u8> {
    let out = dir.join(format!("{}.pem", node.short()));
    let mut issue = Command::new(program());
    issue.args(["cert", "issue", "--node", &node.to_string(), "--authority-key"]).arg(dir.join("authority.pem"));
    run(issue.arg("--out").arg(&out).args(more));
    keyfile::read_public(&out, "AEGISRAY CERTIFICATE").unwrap()
}

pub fn certificate_of(daemon: &Daemon) -> std::path::PathBuf {
    daemon.dir.join("state/certificate.pem")
}

/// Writes the files of a node that joins with a token.
pub fn join(dir: &Dir, name: &str, token: &str) -> Daemon {
    let home = dir.0.join(name);
    run(Command::new(program()).args(["join", token, "--no-start", "--name", name, "--dir"]).arg(&home));
    Daemon::prepared(program(), &home, name)
}

/// Adds YAML to a node's configuration.
pub fn add_config(home: &Path, more: &str) {
    let file = home.join("peer.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + more).unwrap();
}

/// Where a node says that it can be reached.
pub fn endpoints(daemon: &Daemon) -> Vec<IpAddr> {
    daemon.status().map(|s| s.node.endpoints.iter().map(|e| e.ip()).collect()).unwrap_or_default()
}

pub fn counter(daemon: &Daemon, name: &str) -> u64 {
    daemon.status().and_then(|s| s.node.counters.get(name).copied()).unwrap_or(0)
}
