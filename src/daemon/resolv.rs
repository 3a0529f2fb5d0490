//! This host's own questions for names, brought to the mesh's server: by resolv.conf(5), or by systemd-resolved for the names of
//! the mesh alone.

use std::{
    io::{self, Write as _},
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
};

use super::journal::Journal;
use crate::config::HostNames;

const JOURNAL: &str = "names.json";
const RESOLVED: &str = "/run/systemd/resolve";

pub(super) struct HostResolver {
    journal: Journal,
}

impl HostResolver {
    /// Takes back what a daemon that crashed has left.
    pub fn new(state_dir: &Path) -> io::Result<Self> {
        let mut journal = Journal::open(state_dir, JOURNAL);
        journal.undo()?;
        Ok(Self { journal })
    }

    /// Lets this host ask `own`. The suffix of the mesh becomes no search domain: who looks for `intranet` or `mail` in the host's own
    /// network must not find a member that calls itself so.
    pub fn lead(&mut self, how: &HostNames, interface: &str, own: [IpAddr; 2], suffix: &str) -> io::Result<()> {
        match how {
            HostNames::Off => Ok(()),
            HostNames::Auto if !Path::new(RESOLVED).exists() => Ok(()),
            // What is set for a link goes with the link.
            HostNames::Auto => {
                let own = own.map(|ip| ip.to_string());
                resolvectl(&["dns", interface, &own[0], &own[1]])?;
                resolvectl(&["domain", interface, &format!("~{suffix}")])
            }
            HostNames::Resolvconf => {
                self.journal.note_resolvconf(interface)?;
                let text = format!("nameserver {}\nnameserver {}\n", own[0], own[1]);
                // Before all others, and they are not asked (openresolv's resolvconf(8)).
                resolvconf(&["-a", interface, "-m", "0", "-x"], &text).map(drop)
            }
            HostNames::File(path) => {
                let before = std::fs::read_to_string(path)?;
                let rest = before.lines().filter(|l| !is_keyword(l, "nameserver"));
                let mut text = "# Written by aegisray; what was here before comes back when it ends.\n".to_owned();
                text += &format!("nameserver {}\nnameserver {}\n", own[0], own[1]);
                rest.for_each(|line| text += &format!("{line}\n"));
                self.journal.replace_file(path, &text)
            }
        }
    }

    /// Whether somebody has taken the files over: a DHCP client in a new network, say.
    pub fn has_lost(&self) -> bool {
        !self.journal.files_hold()
    }

    pub fn stop(&mut self) -> io::Result<()> {
        self.journal.undo()
    }
}

/// The servers that others have told resolvconf(8).
pub(super) fn resolvconf_servers(own: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
    let mut all = servers(&resolvconf(&["-l"], "")?);
    all.retain(|ip| !own.contains(ip));
    Ok(all)
}

/// Runs resolvconf(8) with something to read; returns what it prints.
pub(super) fn resolvconf(args: &[&str], input: &str) -> io::Result<String> {
    // A daemon's PATH may be short.
    let places = ["resolvconf", "/usr/sbin/resolvconf", "/sbin/resolvconf"];
    let start = |place: &&str| {
        let mut command = Command::new(place);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the program resolvconf is missing: install openresolv");
    let mut child = places.iter().find_map(|p| start(p).ok()).ok_or_else(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("resolvconf {} fails: {why}", args.join(" "))))
}

/// The servers in a resolv.conf(5).
pub(super) fn servers(text: &str) -> Vec<IpAddr> {
    let values = text.lines().filter(|l| is_keyword(l, "nameserver")).filter_map(|l| l.split_whitespace().nth(1));
    values.filter_map(|v| v.parse().ok()).collect()
}

fn is_keyword(line: &str, keyword: &str) -> bool {
    line.split_whitespace().next() == Some(keyword)
}

fn resolvectl(args: &[&str]) -> io::Result<()> {
    let mut command = Command::new("resolvectl");
    let status = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("resolvectl {} fails", args.join(" ")))) }
}
