//! The kill switch before everything else: at the start of the host, and before a daemon has read the rest of its configuration, for
//! which it may need a disk, a key or a name that isn't there. By routing alone, which takes no file and no program.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{access, border, gateway, names, state, tunnel};
use crate::{
    config::{DEFAULT_INTERFACE, DEFAULT_STATE},
    host::{Netlink, Table},
    types::{ExitChoice, IpPrefix},
};

/// What became of the kill switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// The configuration has none.
    NotWanted,
    /// A daemon runs, and sees to it.
    Running,
    /// Nothing leaves this host but what may go past the tunnel.
    Closed,
}

/// Closes the kill switch that a configuration file wants, if it wants one. Of the file only that is read, and whatever else is in it:
/// a file that can't be read at all wants nothing.
pub fn close(path: &Path) -> io::Result<Early> {
    let file = read(path);
    let choice = match &file["exit"] {
        Value::String(choice) => choice.parse().unwrap_or(ExitChoice::Auto),
        _ => ExitChoice::Off,
    };
    let options = &file["exit_options"];
    if choice.is_off() || options["kill_switch"] == Value::Bool(false) {
        return Ok(Early::NotWanted);
    }
    if state::is_taken(&folder(path, &file)) {
        return Ok(Early::Running);
    }
    let prefixes = options["bypass"]["prefixes"].as_array().into_iter().flatten();
    let bypass: Vec<IpPrefix> = prefixes.filter_map(|p| p.as_str()?.parse().ok()).collect();
    let lan = if options["lan"] == Value::Bool(false) { Vec::new() } else { tunnel::lan_here(&[]) };
    let mut netlink = Netlink::open()?;
    let (routes, rules) = (tunnel::routes(None, true), tunnel::rules(&bypass, &[], &lan, true));
    for ipv4 in [true, false] {
        netlink.sync_routes(Table::Tunnel, &routes, ipv4)?;
        let fits = |rule: &crate::host::Rule| rule.fits(ipv4);
        netlink.sync_rules(&rules.iter().copied().filter(fits).collect::<Vec<_>>(), Some(Table::Tunnel), ipv4)?;
    }
    Ok(Early::Closed)
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_default();
    serde_saphyr::from_str(&text).unwrap_or_default()
}

fn folder(path: &Path, file: &Value) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(file["state_dir"].as_str().unwrap_or(DEFAULT_STATE))
}

/// Takes away what a daemon with this configuration file has left that no longer runs: of the file only where it keeps its state and
/// what it calls the mesh's interface is read.
pub fn clean_up(path: &Path) -> io::Result<()> {
    let file = read(path);
    let state_dir = folder(path, &file);
    let interface = file["mesh"]["interface"].as_str().unwrap_or(DEFAULT_INTERFACE);
    let lock = state::lock(&state_dir);
    if lock.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
        return lock.map(drop);
    }
    tunnel::clean_up(&state_dir, interface)?;
    border::clean_up(interface)?;
    names::clean_up(interface)?;
    gateway::clean_up(&state_dir, interface)?;
    access::clean_up(interface)
}
