//! The kill switch before everything else: at the start of the host, and before a daemon has read the rest of its configuration, for
//! which it may need a disk, a key or a name that isn't there. By routing alone, which takes no file and no program.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{access, border, gateway, names, state, tunnel};
use crate::{
    config::{Config, DEFAULT_INTERFACE, DEFAULT_STATE},
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
/// with a fault elsewhere its lines are looked at, and what they don't tell is as it was when a daemon ran last.
pub fn close(path: &Path) -> io::Result<Early> {
    let file = read(path);
    let state_dir = folder(path, &file);
    let options = &file["exit_options"];
    if !wants(&file).unwrap_or_else(|| tunnel::stood(&state_dir)) {
        return Ok(Early::NotWanted);
    }
    if state::is_taken(&state_dir) {
        return Ok(Early::Running);
    }
    let interface = interface(&file);
    let prefixes = options["bypass"]["prefixes"].as_array().into_iter().flatten();
    let bypass: Vec<IpPrefix> = prefixes.filter_map(|p| p.as_str()?.parse().ok()).collect();
    let lan = if options["lan"] == Value::Bool(false) { Vec::new() } else { tunnel::lan_here(&[]) };
    let mut netlink = Netlink::open()?;
    let (routes, rules) = (tunnel::routes(None, true), tunnel::rules(&bypass, &[], &lan, true));
    for ipv4 in [true, false] {
        netlink.sync_routes(interface, Table::Tunnel, &routes, ipv4)?;
        let fits = |rule: &crate::host::Rule| rule.fits(ipv4);
        let rules: Vec<crate::host::Rule> = rules.iter().copied().filter(fits).collect();
        netlink.sync_rules(interface, &rules, Some(Table::Tunnel), ipv4)?;
    }
    Ok(Early::Closed)
}

/// Whether the kill switch is wanted; `None`: the file doesn't tell. Words are taken as the configuration takes them, and what it would
/// refuse for a wish to be closed.
fn wants(file: &Value) -> Option<bool> {
    let keys = file.as_object()?;
    if file["exit_options"]["kill_switch"] == Value::Bool(false) {
        return Some(false);
    }
    match keys.get("exit") {
        None if keys.contains_key(FAULTY) => None,
        None | Some(Value::Null | Value::Bool(false)) => Some(false),
        Some(Value::String(choice)) => Some(!choice.parse().unwrap_or(ExitChoice::Auto).is_off()),
        Some(_) => Some(true),
    }
}

/// The key under which it stands that a file has a fault.
const FAULTY: &str = "";

fn read(path: &Path) -> Value {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    match serde_saphyr::from_str(&text) {
        Ok(file @ Value::Object(_)) => file,
        _ => by_lines(&text),
    }
}

/// What the lines of a file with a fault say, as far as they are understood by themselves.
fn by_lines(text: &str) -> Value {
    let mut file = json!({ FAULTY: true });
    let mut part = "";
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        if !key.starts_with(char::is_whitespace) {
            part = key;
        }
        let value = value.split(" #").next().unwrap_or_default().trim();
        let Ok(value) = serde_saphyr::from_str::<Value>(value) else { continue };
        match (part, key.trim()) {
            ("exit" | "state_dir", _) if key == part => file[part] = value,
            ("exit_options", "kill_switch") => file[part] = json!({ "kill_switch": value }),
            ("mesh", "interface") => file[part] = json!({ "interface": value }),
            _ => {}
        }
    }
    file
}

fn interface(file: &Value) -> &str {
    file["mesh"]["interface"].as_str().unwrap_or(DEFAULT_INTERFACE)
}

fn folder(path: &Path, file: &Value) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(file["state_dir"].as_str().unwrap_or(DEFAULT_STATE))
}

/// Takes away what a daemon with this configuration file has left that no longer runs: of the file only where it keeps its state and
/// what it calls the mesh's interface is read.
pub fn clean_up(path: &Path) -> io::Result<()> {
    let file = read(path);
    let state_dir = folder(path, &file);
    let interface = interface(&file);
    let lock = state::lock(&state_dir);
    if lock.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
        return lock.map(drop);
    }
    let before = fs::read_to_string(state_dir.join(INTERFACE)).ok().filter(|before| before != interface);
    before.into_iter().try_for_each(|before| take_away(&state_dir, &before))?;
    take_away(&state_dir, interface)
}

/// Whose name marks what a daemon has put into the kernel: that of the mesh's interface when it started last.
const INTERFACE: &str = "interface";

/// To be called once the kill switch is closed: takes away what this daemon has left on this host when its interface was called
/// otherwise. Returns whether there was something: the kill switch is to be closed once more.
pub(super) fn rename(config: &Config) -> bool {
    let file = config.state_dir.join(INTERFACE);
    let before = fs::read_to_string(&file).unwrap_or_default();
    if before == config.interface {
        return false;
    }
    if let Err(error) = fs::write(&file, &config.interface) {
        tracing::warn!(%error, file = %file.display(), "cannot note what the mesh's interface is called");
    }
    if !before.is_empty()
        && let Err(error) = take_away(&config.state_dir, &before)
    {
        tracing::error!(%error, interface = before, "what was done on this host under another name can't be taken back (mesh.interface)");
    }
    !before.is_empty()
}

/// Takes away what a daemon with this interface has put into the kernel.
fn take_away(state_dir: &Path, interface: &str) -> io::Result<()> {
    tunnel::clean_up(state_dir, interface)?;
    border::clean_up(interface)?;
    names::clean_up(interface)?;
    gateway::clean_up(state_dir, interface)?;
    access::clean_up(interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &[u8]) -> Option<bool> {
        let dir = std::env::temp_dir().join(format!("aegisray-early-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("peer.yaml");
        fs::write(&path, text).unwrap();
        let wanted = wants(&read(&path));
        fs::remove_dir_all(dir).unwrap();
        wanted
    }

    #[test]
    fn a_fault_elsewhere_opens_nothing() {
        let faults: [&[u8]; 6] =
            [b"\tname: x\n", b"name: \"x\n", b"name: a: b\n", b"name: a\nname: b\n", b"# K\xe4the\n", b"peers: [\n"];
        for fault in faults {
            for (exit, is_wanted) in
                [("auto", true), ("off", false), ("'home' # now", true), ("no", false), ("12", true)]
            {
                let text = [format!("exit: {exit}\n").as_bytes(), fault].concat();
                assert_eq!(wanted(&text), Some(is_wanted), "{}", String::from_utf8_lossy(&text));
            }
            let open = [b"exit: auto\nexit_options:\n  kill_switch: false # for now\n", fault].concat();
            assert_eq!(wanted(&open), Some(false));
        }
        for exit in ["true", "12345", "{}", "\"\"", "'wpad'"] {
            assert_eq!(wanted(format!("exit: {exit}\n").as_bytes()), Some(true), "{exit}");
        }
        assert_eq!(wanted(b"name: x\n"), Some(false));
        let names = by_lines("portal:\n  interface: wg0\nmesh:\n  interface: m0\nname: \"x\n");
        assert_eq!(interface(&names), "m0");
        // What was last is what counts.
        assert_eq!((wanted(b""), wanted(b"name: \"x\n")), (None, None));
    }
}
