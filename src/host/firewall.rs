//! nftables by way of the `nft` program: whole tables of our own, loaded and taken away in one transaction.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

/// Loads rules; all of them or none.
pub fn load(rules: &str) -> io::Result<()> {
    let mut nft = nft().args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(missing)?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    let output = nft.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("nft refuses: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// Puts a table of the family `inet` in the place of the one of that name, if there is one. `chains` is what it holds.
pub fn put_table(name: &str, chains: &str) -> io::Result<()> {
    load(&format!("table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n{chains}}}\n"))
}

/// Takes a table away, if it is there.
pub fn remove_table(name: &str) -> io::Result<()> {
    load(&format!("table inet {name}\ndelete table inet {name}\n"))
}

/// A table as nft prints it, without counters and what its sets hold; nothing if it isn't there.
pub fn list_table(name: &str) -> io::Result<String> {
    let output =
        nft().stdout(Stdio::piped()).args(["-s", "-t", "list", "table", "inet", name]).output().map_err(missing)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The rules of the whole host as JSON (libnftables-json(5)).
pub fn rules() -> io::Result<serde_json::Value> {
    let output = nft().stdout(Stdio::piped()).args(["-j", "-a", "list", "ruleset"]).output().map_err(missing)?;
    serde_json::from_slice(&output.stdout).map_err(io::Error::other)
}

/// Whether this host has the program.
#[must_use]
pub fn is_there() -> bool {
    nft().arg("--version").status().is_ok()
}

/// Where distributions keep it: a daemon's PATH may be short.
fn nft() -> Command {
    let found = ["/usr/sbin/nft", "/sbin/nft"].into_iter().find(|p| std::path::Path::new(p).exists());
    let mut command = Command::new(found.unwrap_or("nft"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn missing(e: io::Error) -> io::Error {
    if e.kind() != io::ErrorKind::NotFound {
        return e;
    }
    io::Error::new(io::ErrorKind::NotFound, "the program nft is missing: install the package nftables")
}
