//! This host's own questions for names, brought to the mesh's server: by resolv.conf(5), or by systemd-resolved for the names of
//! the mesh alone.

use std::{
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::journal::{self, Journal};
use crate::config::HostNames;

const JOURNAL: &str = "names.json";
const HEADER: &[u8] = b"# Written by aegisray; what was here before comes back when it ends.\n";
/// Before lines that are out of force.
const WAS: &[u8] = b"#was: ";
const RESOLVED: &str = "/run/systemd/resolve";

pub(super) struct HostResolver {
    journal: Journal,
    /// Where systemd-resolved keeps what it was told of our interface, and our address.
    told: Option<(PathBuf, String)>,
}

impl HostResolver {
    /// Takes back what a daemon that crashed has left.
    pub fn new(state_dir: &Path) -> io::Result<Self> {
        let mut journal = Journal::open(state_dir, JOURNAL);
        journal.undo()?;
        Ok(Self { journal, told: None })
    }

    /// Lets this host ask `own`. The suffix of the mesh becomes no search domain: who looks for `intranet` or `mail` in the host's own
    /// network must not find a member that calls itself so.
    pub fn lead(&mut self, how: &HostNames, interface: &str, own: [IpAddr; 2], suffix: &str) -> io::Result<()> {
        match how {
            HostNames::Off => Ok(()),
            HostNames::Auto if !Path::new(RESOLVED).exists() => Ok(()),
            // What is set for a link goes with the link.
            HostNames::Auto => {
                let [own4, own6] = own.map(|ip| ip.to_string());
                resolvectl(&["dns", interface, &own4, &own6])?;
                resolvectl(&["domain", interface, &format!("~{suffix}")])?;
                let index = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).unwrap_or_default();
                let file = Path::new(RESOLVED).join("netif").join(index.trim());
                self.told = Some((file, own4)).filter(is_told);
                Ok(())
            }
            HostNames::Resolvconf => {
                self.journal.note_resolvconf(interface)?;
                let text = format!("nameserver {}\nnameserver {}\n", own[0], own[1]);
                // Before all others, and they are not asked (openresolv's resolvconf(8)).
                resolvconf(&["-a", interface, "-m", "0", "-x"], &text).map(drop)
            }
            HostNames::File(path) => {
                let before = journal::read(path)?.map(|text| original(&text));
                let ours = leading(before.as_deref().unwrap_or_default(), own);
                self.journal.replace_file(path, before, ours)
            }
        }
    }

    /// Whether somebody has taken over what was set: a DHCP client in a new network, say.
    pub fn has_lost(&self) -> bool {
        !self.journal.files_hold() || self.told.as_ref().is_some_and(|told| !is_told(told))
    }

    pub fn stop(&mut self) -> io::Result<()> {
        self.told = None;
        self.journal.undo()
    }
}

fn is_told((file, address): &(PathBuf, String)) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.contains(address))
}

/// A resolv.conf(5) that names our servers. All else stays as it is and where it is: of `domain` and `search` the last one counts.
fn leading(before: &[u8], own: [IpAddr; 2]) -> Vec<u8> {
    let mut text = HEADER.to_vec();
    own.iter().for_each(|ip| text.extend(format!("nameserver {ip}\n").as_bytes()));
    for line in before.split_inclusive(|b| *b == b'\n') {
        if is_keyword(&String::from_utf8_lossy(line), "nameserver") {
            text.extend(WAS);
        }
        text.extend(line);
    }
    text
}

/// What was there before [`leading`] wrote it: the note of that may be lost.
pub(super) fn original(text: &[u8]) -> Vec<u8> {
    let Some(rest) = text.strip_prefix(HEADER) else { return text.to_vec() };
    let lines = rest.split_inclusive(|b| *b == b'\n');
    let theirs = lines.filter(|line| !is_keyword(&String::from_utf8_lossy(line), "nameserver"));
    theirs.flat_map(|line| line.strip_prefix(WAS).unwrap_or(line)).copied().collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_else_is_in_a_resolv_conf_stays() {
        let own = [IpAddr::from([100, 64, 0, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])];
        let before = b"# K\xe4the\nsearch a.example b.example\nnameserver 192.0.2.1\n\tnameserver 192.0.2.2\ndomain corp.example\nlast";
        let after = leading(before, own);
        let rest = b"nameserver 100.64.0.1\nnameserver fd00::1\n# K\xe4the\nsearch a.example b.example\n#was: nameserver 192.0.2.1\n#was: \tnameserver 192.0.2.2\ndomain corp.example\nlast";
        assert_eq!(after, [HEADER, &rest[..]].concat());
        assert_eq!((original(&after), original(before)), (before.to_vec(), before.to_vec()));
        assert_eq!(servers(&String::from_utf8_lossy(before)).len(), 2);
    }
}
