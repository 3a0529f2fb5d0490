//! What the daemon has changed on the host, kept in a file until it is undone: at the end, or at the next start after a
//! crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::resolv;
use crate::{
    host::{Netlink, firewall},
    identity::keyfile,
};

/// Marks rules of ours in tables of others.
pub(super) const COMMENT: &str = "aegisray";

#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Changes {
    tables: BTreeSet<String>,
    /// Policy routing and the tunnel's table.
    rules: bool,
    /// Rules of ours in others' tables.
    guests: bool,
    /// Files below /proc/sys, and what they held.
    sysctls: BTreeMap<PathBuf, String>,
    /// Other files: what they held, and what they hold now.
    files: BTreeMap<PathBuf, (String, String)>,
    /// What resolvconf(8) was told about this interface.
    resolvconf: Option<String>,
}

pub(super) struct Journal {
    file: PathBuf,
    changes: Changes,
}

impl Journal {
    /// Opens the journal of that name; what is in it was left by a daemon that crashed.
    pub fn open(state_dir: &Path, name: &str) -> Self {
        let file = state_dir.join(name);
        let changes = fs::read(&file).map(|bytes| serde_json::from_slice(&bytes));
        let changes = changes.unwrap_or_else(|_| Ok(Changes::default())).unwrap_or_else(|error| {
            tracing::error!(file = %file.display(), %error, "what was changed on this host is not known any more");
            Changes::default()
        });
        Self { file, changes }
    }

    fn save(&self) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.changes).map_err(io::Error::other)?;
        keyfile::write_secret(&self.file, &text).map_err(io::Error::other)
    }

    /// A table is about to be put in.
    pub fn note_table(&mut self, name: &str) -> io::Result<()> {
        self.changes.tables.insert(name.to_owned());
        self.save()
    }

    /// Policy routing is about to be set up.
    pub fn note_rules(&mut self) -> io::Result<()> {
        self.changes.rules = true;
        self.save()
    }

    /// Rules are about to be added to others' tables.
    pub fn note_guests(&mut self) -> io::Result<()> {
        self.changes.guests = true;
        self.save()
    }

    /// Values below /proc/sys are about to change.
    pub fn note_sysctls(&mut self, names: impl Iterator<Item = String>) -> io::Result<()> {
        for path in names.map(|name| Path::new("/proc/sys").join(name)) {
            let before = fs::read_to_string(&path)?.trim().to_owned();
            self.changes.sysctls.entry(path).or_insert(before);
        }
        self.save()
    }

    /// Sets a value below /proc/sys, like `net/ipv4/ip_forward`, if it is another one.
    pub fn set_sysctl(&mut self, name: &str, value: &str) -> io::Result<()> {
        let path = Path::new("/proc/sys").join(name);
        if fs::read_to_string(&path)?.trim() == value {
            return Ok(());
        }
        self.note_sysctls(std::iter::once(name.to_owned()))?;
        fs::write(path, value)
    }

    /// Writes a file that is somebody else's.
    pub fn replace_file(&mut self, path: &Path, text: &str) -> io::Result<()> {
        let before = fs::read_to_string(path)?;
        let before = self.changes.files.get(path).map_or(before, |(before, _)| before.clone());
        self.changes.files.insert(path.to_owned(), (before, text.to_owned()));
        self.save()?;
        fs::write(path, text)
    }

    /// resolvconf(8) is about to be told something.
    pub fn note_resolvconf(&mut self, interface: &str) -> io::Result<()> {
        self.changes.resolvconf = Some(interface.to_owned());
        self.save()
    }

    /// Whether all files hold what was written to them.
    #[must_use]
    pub fn files_hold(&self) -> bool {
        self.changes.files.iter().all(|(path, (_, ours))| fs::read_to_string(path).is_ok_and(|now| now == *ours))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes == Changes::default()
    }

    /// Puts everything back. What can't be is tried again at the next start.
    pub fn undo(&mut self) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        if self.changes.rules {
            let mut netlink = Netlink::open()?;
            netlink.remove_rules()?;
            netlink.remove_tunnel_routes();
        }
        for table in &self.changes.tables {
            firewall::remove_table(table)?;
        }
        if self.changes.guests {
            remove_guests()?;
        }
        // What is set for all interfaces is set for each of them, which may have had a value of its own.
        let (all, each): (Vec<_>, Vec<_>) =
            self.changes.sysctls.iter().partition(|(path, _)| path.iter().any(|p| p == "all"));
        for (path, before) in all.into_iter().chain(each) {
            // Its interface may be gone.
            if path.exists() {
                fs::write(path, before)?;
            }
        }
        for (path, (before, ours)) in &self.changes.files {
            // Who has written it since, a DHCP client say, knows better.
            if fs::read_to_string(path).is_ok_and(|now| now == *ours) {
                fs::write(path, before)?;
            }
        }
        if let Some(interface) = &self.changes.resolvconf {
            match resolv::resolvconf(&["-d", interface, "-f"], "") {
                // Who took the program away has taken what it was told with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => drop(other?),
            }
        }
        self.changes = Changes::default();
        match fs::remove_file(&self.file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// Takes our rules out of others' tables.
fn remove_guests() -> io::Result<()> {
    let rules = firewall::rules()?;
    let ours = rules["nftables"].as_array().into_iter().flatten().map(|item| &item["rule"]);
    let ours = ours.filter(|rule| rule["comment"] == COMMENT);
    let delete = ours.map(|rule| {
        let part = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
        format!("delete rule {} {} {} handle {}\n", part("family"), part("table"), part("chain"), rule["handle"])
    });
    firewall::load(&delete.collect::<String>())
}
