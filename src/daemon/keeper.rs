//! What the daemon wants of the kernel, and keeps there: tables of nftables, policy rules, routes in tables of its own, and values
//! below /proc/sys. Others may take a part away: a firewall that is loaded anew, a network manager that tidies up. A thread listens
//! to the kernel's news, and puts back within a second what is missing.
//!
//! Everything has names or numbers of our own. So nothing has to be noted to be taken away later, and nothing stands in the way of
//! putting it there: no file, no lock.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::guests;
use crate::config::DEFAULT_INTERFACE;
use crate::host::{self, Changed, Netlink, Route, Rule, Table, Watch, firewall};

/// The thread looks at least so often; and waits so long after news for what comes with them.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const GATHER: Duration = Duration::from_millis(30);
/// It asks for rules of nftables without news so often: that takes a program.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// What can't be done is tried again so often.
const TRY_AGAIN: Duration = Duration::from_secs(3);

/// Whose policy rules and routes they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Mesh,
    Tunnel,
}

/// A table of nftables that is wanted.
#[derive(Debug, Default)]
struct Kept {
    chains: String,
    /// As nft lists it once it is there.
    listed: String,
}

#[derive(Default)]
struct Wanted {
    /// The mesh's, which makes names of tables this daemon's own.
    interface: String,
    tables: BTreeMap<&'static str, Kept>,
    rules: BTreeMap<Part, Vec<Rule>>,
    routes: BTreeMap<Part, Vec<Route>>,
    sysctls: BTreeMap<PathBuf, String>,
    /// Of the mesh's interface, which is up; with the lengths of their networks.
    addresses: Vec<(IpAddr, u8)>,
    /// Interfaces whose packets others' chains are to let through.
    guests: Vec<String>,
    /// How often each was put back, and what can't be, and why.
    restored: BTreeMap<String, u64>,
    missing: BTreeMap<String, String>,
    stops: bool,
}

/// What became of the daemon's part of the kernel.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    /// What others took away, and how often it was put back.
    pub restored: BTreeMap<String, u64>,
    /// What is not there, and why.
    pub missing: BTreeMap<String, String>,
}

/// Ends its thread when it goes; what is in the kernel stays.
pub(super) struct Keeper {
    wanted: Arc<Mutex<Wanted>>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub fn start(interface: &str) -> io::Result<Self> {
        let wanted = Wanted { interface: interface.to_owned(), ..Wanted::default() };
        let wanted = Arc::new(Mutex::new(wanted));
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let of_thread = Arc::clone(&wanted);
        let watch = Watch::open()?;
        let thread = thread::Builder::new().name("aegis-keeper".to_owned()).stack_size(256 << 10);
        let thread = thread.spawn(move || keep(&of_thread, watch, woken))?;
        Ok(Self { wanted, wake, thread: Some(thread) })
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a table of the family `inet` there, and keeps it. If that fails it is tried again until it isn't wanted any more.
    pub fn put_table(&self, name: &'static str, chains: String) -> io::Result<()> {
        let mut wanted = self.wanted();
        wanted.tables.insert(name, Kept { chains, listed: String::new() });
        let put = wanted.put(name);
        let what = wanted.label(name);
        wanted.note(&what, put.as_ref().err());
        put
    }

    /// As [`Self::put_table`], without waiting for it.
    pub fn want_table(&self, name: &'static str, chains: String) {
        self.wanted().tables.insert(name, Kept { chains, listed: String::new() });
        // It is full: then the thread wakes anyway.
        let _ = (&self.wake).write(&[1]);
    }

    /// As [`Self::put_table`], but what fails is not wanted any more.
    pub fn try_table(&self, name: &'static str, chains: String) -> io::Result<()> {
        let mut wanted = self.wanted();
        wanted.tables.insert(name, Kept { chains, listed: String::new() });
        wanted.put(name).inspect_err(|_| drop(wanted.tables.remove(name)))
    }

    /// Takes a table away.
    pub fn remove_table(&self, name: &'static str) -> io::Result<()> {
        let mut wanted = self.wanted();
        wanted.tables.remove(name);
        let what = wanted.label(name);
        wanted.missing.remove(&what);
        remove_table(name, &wanted.interface)
    }

    /// Takes away what an earlier daemon may have left. Where that can't be, it is said, and no reason to stay down.
    pub fn clear_table(&self, name: &'static str) {
        if let Err(error) = self.remove_table(name) {
            tracing::error!(table = name, %error, "cannot see to it that an earlier daemon's table is gone");
        }
    }

    /// Sets the policy rules of one part, for IPv4 and IPv6: what is about addresses of one family is about that alone.
    pub fn set_rules(&self, part: Part, rules: Vec<Rule>) -> io::Result<()> {
        let mut wanted = self.wanted();
        wanted.rules.insert(part, rules);
        wanted.sync_rules().map(drop)
    }

    pub fn set_routes(&self, part: Part, routes: Vec<Route>) -> io::Result<()> {
        let mut wanted = self.wanted();
        wanted.routes.insert(part, routes);
        wanted.sync_routes().map(drop)
    }

    /// Keeps a value below /proc/sys that was set.
    pub fn keep_sysctl(&self, name: &str, value: &str) {
        self.wanted().sysctls.insert(Path::new("/proc/sys").join(name), value.to_owned());
    }

    /// Keeps the mesh's interface up, and these addresses on it.
    pub fn keep_addresses(&self, addresses: Vec<(IpAddr, u8)>) {
        self.wanted().addresses = addresses;
    }

    pub fn forget_sysctls(&self, names: &[&str]) {
        let mut wanted = self.wanted();
        names.iter().for_each(|name| drop(wanted.sysctls.remove(&Path::new("/proc/sys").join(name))));
    }

    /// Has rules of ours in others' chains that drop what they don't know.
    pub fn invite(&self, interfaces: Vec<String>) -> io::Result<()> {
        self.wanted().guests.clone_from(&interfaces);
        if interfaces.is_empty() { Ok(()) } else { guests::invite(&interfaces) }
    }

    /// Something else that others took away was put back.
    pub fn note_restored(&self, what: &str) {
        self.wanted().was_lost(what.to_owned());
    }

    pub fn report(&self) -> Report {
        let wanted = self.wanted();
        Report { restored: wanted.restored.clone(), missing: wanted.missing.clone() }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.wanted().stops = true;
        let _ = (&self.wake).write(&[1]);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What a table is called: two daemons on one host, each with an interface, have each its own.
fn full_name(name: &str, interface: &str) -> String {
    if interface == DEFAULT_INTERFACE {
        return name.to_owned();
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("{name}_{}", interface.chars().map(plain).collect::<String>())
}

/// Where there is no nft, there is no table.
pub(super) fn remove_table(name: &str, interface: &str) -> io::Result<()> {
    match firewall::remove_table(&full_name(name, interface)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Wanted {
    fn label(&self, name: &str) -> String {
        format!("nftables table {}", full_name(name, &self.interface))
    }

    fn put(&mut self, name: &'static str) -> io::Result<()> {
        let Some(kept) = self.tables.get_mut(name) else { return Ok(()) };
        kept.listed.clear();
        if kept.chains.is_empty() {
            remove_table(name, &self.interface)?;
            self.tables.remove(name);
            return Ok(());
        }
        let name = full_name(name, &self.interface);
        firewall::put_table(&name, &kept.chains)?;
        kept.listed = firewall::list_table(&name)?;
        Ok(())
    }

    /// Puts tables there that are new; and, if asked to look, those that are not as they were left.
    fn settle_tables(&mut self, looks: bool) -> bool {
        let names: Vec<&'static str> = self.tables.keys().copied().collect();
        let mut all_there = true;
        for name in names {
            let Some(kept) = self.tables.get(name) else { continue };
            let is_new = kept.listed.is_empty();
            let there = || firewall::list_table(&full_name(name, &self.interface));
            let is_lost = || looks && there().is_ok_and(|now| now != kept.listed);
            if !is_new && !is_lost() {
                continue;
            }
            let put = self.put(name);
            all_there &= put.is_ok();
            if put.is_ok() && !is_new {
                self.was_lost(self.label(name));
            }
            let what = self.label(name);
            self.note(&what, put.as_ref().err());
        }
        all_there
    }

    fn was_lost(&mut self, what: String) {
        tracing::warn!(what, "somebody took it away: it is back");
        *self.restored.entry(what).or_default() += 1;
    }

    /// Whether something is there, or why not; said once.
    fn note(&mut self, what: &str, error: Option<&io::Error>) {
        let Some(error) = error else {
            if self.missing.remove(what).is_some() {
                tracing::info!(what, "is there now");
            }
            return;
        };
        let error = error.to_string();
        if self.missing.get(what) != Some(&error) {
            tracing::error!(what, error, "is not in force; trying again");
            self.missing.insert(what.to_owned(), error);
        }
    }

    fn sync_rules(&mut self) -> io::Result<usize> {
        if self.rules.is_empty() {
            return Ok(0);
        }
        let mut netlink = Netlink::open()?;
        let mut missing = 0;
        // Before the mesh is there, its rules are no affair of ours.
        let of = (!self.rules.contains_key(&Part::Mesh)).then_some(Table::Tunnel);
        for ipv4 in [true, false] {
            let all: Vec<Rule> = self.rules.values().flatten().filter(|rule| rule.fits(ipv4)).copied().collect();
            missing += netlink.sync_rules(&self.interface, &all, of, ipv4)?;
        }
        Ok(missing)
    }

    fn sync_routes(&mut self) -> io::Result<usize> {
        let mut netlink = Netlink::open()?;
        let mut missing = 0;
        for (part, routes) in &self.routes {
            let table = match part {
                Part::Mesh => Table::Mesh,
                Part::Tunnel => Table::Tunnel,
            };
            for ipv4 in [true, false] {
                missing += netlink.sync_routes(&self.interface, table, routes, ipv4)?;
            }
        }
        Ok(missing)
    }

    /// Returns how many of the interface's addresses were missing.
    fn sync_addresses(&mut self) -> io::Result<usize> {
        if self.addresses.is_empty() {
            return Ok(0);
        }
        let there = host::interface_networks()?;
        let is_there = |ip: IpAddr| there.iter().any(|a| a.interface == self.interface && a.ip == ip);
        let has_ipv6 = host::has_ipv6(&self.interface);
        let missing: Vec<&(IpAddr, u8)> =
            self.addresses.iter().filter(|(ip, _)| (ip.is_ipv4() || has_ipv6) && !is_there(*ip)).collect();
        if !missing.is_empty() {
            let mut netlink = Netlink::open()?;
            // Without it there is no way to any member: that it is gone, or called otherwise, is told.
            netlink.index(&self.interface)?;
            netlink.set_up(&self.interface, true)?;
            for (ip, len) in &missing {
                netlink.add_address(&self.interface, *ip, *len)?;
            }
        }
        Ok(missing.len())
    }

    fn settle_routing(&mut self) {
        let synced = self.sync_addresses();
        let what = format!("addresses of {}", self.interface);
        if synced.as_ref().is_ok_and(|n| *n > 0) {
            self.was_lost(what.clone());
        }
        self.note(&what, synced.as_ref().err());
        for (what, synced) in [("routes", self.sync_routes()), ("policy rules", self.sync_rules())] {
            if synced.as_ref().is_ok_and(|n| *n > 0) {
                self.was_lost(what.to_owned());
            }
            self.note(what, synced.as_ref().err());
        }
    }

    fn settle_sysctls(&mut self) {
        let mut wrong = Vec::new();
        for (path, value) in &self.sysctls {
            if fs::read_to_string(path).is_ok_and(|now| now.trim() != value) {
                wrong.push((path.display().to_string(), fs::write(path, value)));
            }
        }
        for (what, written) in wrong {
            if written.is_ok() {
                self.was_lost(what.clone());
            }
            self.note(&what, written.as_ref().err());
        }
    }
}

/// What the thread does.
fn keep(of_all: &Mutex<Wanted>, mut watch: Watch, mut woken: UnixStream) {
    let (mut asked, mut failed) = (Instant::now(), None::<Instant>);
    loop {
        let changed = match watch.wait(&woken, LOOK_EVERY) {
            Ok(changed) => changed,
            Err(_) => {
                thread::sleep(LOOK_EVERY);
                Changed { firewall: true, routing: true }
            }
        };
        let _ = woken.read(&mut [0; 64]);
        if changed != Changed::default() {
            thread::sleep(GATHER);
        }
        let mut wanted = of_all.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.stops {
            return;
        }
        wanted.settle_routing();
        wanted.settle_sysctls();
        let looks = changed.firewall || asked.elapsed() >= ASK_EVERY;
        if looks {
            asked = Instant::now();
        }
        if failed.is_none_or(|at| at.elapsed() >= TRY_AGAIN) || looks {
            failed = (!wanted.settle_tables(looks)).then(Instant::now);
        }
        let guests = wanted.guests.clone();
        drop(wanted);
        // Listing the rules of a host can take longer than anybody should wait for the lock.
        if looks && !guests.is_empty() {
            let invited = guests::invite(&guests);
            let mut wanted = of_all.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.note("rules in others' chains", invited.as_ref().err());
        }
    }
}
