//! What the daemon has changed on the host, kept in a file until it is undone: at the end, or at the next start after a
//! crash.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{guests, resolv};
use crate::identity::keyfile;

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Changes {
    /// The start of the host in which they were made (random(4), `boot_id`): what is in memory alone has gone with it.
    boot: String,
    /// Rules of ours in others' tables.
    guests: bool,
    /// Files below /proc/sys, and what they held.
    sysctls: BTreeMap<PathBuf, String>,
    /// Other files: what they held, if they were there, and what they hold now. In bytes: comments may be in any encoding.
    files: BTreeMap<PathBuf, (Option<Vec<u8>>, Vec<u8>)>,
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
        let mut journal = Self { file, changes };
        if journal.changes.boot != boot_id() {
            journal.changes.sysctls.clear();
        }
        journal
    }

    fn save(&mut self) -> io::Result<()> {
        self.changes.boot = boot_id();
        let text = serde_json::to_vec_pretty(&self.changes).map_err(io::Error::other)?;
        keyfile::write_secret(&self.file, &text).map_err(io::Error::other)
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

    /// Writes a file that is somebody else's and holds `before`.
    pub fn replace_file(&mut self, path: &Path, before: Option<Vec<u8>>, ours: Vec<u8>) -> io::Result<()> {
        let before = self.changes.files.get(path).map_or(before, |(before, _)| before.clone());
        self.changes.files.insert(path.to_owned(), (before, ours.clone()));
        self.save()?;
        fs::write(path, ours)
    }

    /// resolvconf(8) is about to be told something.
    pub fn note_resolvconf(&mut self, interface: &str) -> io::Result<()> {
        self.changes.resolvconf = Some(interface.to_owned());
        self.save()
    }

    /// Whether all files hold what was written to them.
    #[must_use]
    pub fn files_hold(&self) -> bool {
        self.changes.files.iter().all(|(path, (_, ours))| fs::read(path).is_ok_and(|now| now == *ours))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Changes { boot: _, guests, sysctls, files, resolvconf } = &self.changes;
        !guests && sysctls.is_empty() && files.is_empty() && resolvconf.is_none()
    }

    /// What a value below /proc/sys was before it was set.
    #[must_use]
    pub fn before(&self, name: &str) -> Option<&str> {
        self.changes.sysctls.get(&Path::new("/proc/sys").join(name)).map(String::as_str)
    }

    /// Puts everything back. What can't be stays noted, and stops nothing else; the first error is returned.
    pub fn undo(&mut self) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut first = Ok(());
        let mut note = |result: io::Result<()>| {
            let is_done = result.is_ok();
            if first.is_ok() {
                first = result;
            }
            is_done
        };
        let changes = &mut self.changes;
        if changes.guests && note(guests::remove()) {
            changes.guests = false;
        }
        // What is set for all interfaces is set for each of them, which may have had a value of its own.
        let mut sysctls: Vec<_> = std::mem::take(&mut changes.sysctls).into_iter().collect();
        sysctls.sort_by_key(|(path, _)| path.iter().all(|p| p != "all"));
        let bridge = some_bridge();
        for (path, before) in sysctls {
            // Containers and virtual machines may have come since, which rely on it and did not have to set it.
            if let Some(bridge) = bridge.as_ref().filter(|_| before == "0" && path.ends_with("forwarding")) {
                tracing::info!(file = %path.display(), bridge, "stays on: others forward, too");
                continue;
            }
            // Its interface may be gone, and nothing may have become of it.
            let is_back = fs::read_to_string(&path).map_or(true, |now| now.trim() == before);
            // With an end of line: nothing at all would not be written.
            if !is_back && !note(fs::write(&path, format!("{before}\n")).map_err(|e| at(&path, &e))) {
                changes.sysctls.insert(path, before);
            }
        }
        changes.files.retain(|path, (before, ours)| {
            // Who has written it since, a DHCP client say, knows better.
            let is_ours = fs::read(path).is_ok_and(|now| now == *ours);
            let mut put_back = || match before {
                Some(before) => fs::write(path, before),
                None => fs::remove_file(path),
            };
            is_ours && !note(put_back().map_err(|e| at(path, &e)))
        });
        if let Some(interface) = changes.resolvconf.take() {
            let told = match resolv::resolvconf(&["-d", &interface, "-f"], "") {
                // Who took the program away has taken what it was told with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other.map(drop),
            };
            changes.resolvconf = (!note(told)).then_some(interface);
        }
        if !self.is_empty() {
            return first.and(self.save());
        }
        match fs::remove_file(&self.file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => first,
        }
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// A bridge of this host, if it has one.
fn some_bridge() -> Option<String> {
    let all = fs::read_dir("/sys/class/net").ok()?.flatten();
    all.filter(|i| i.path().join("bridge").exists()).map(|i| i.file_name().to_string_lossy().into_owned()).next()
}

/// What a file holds, if it is there.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
