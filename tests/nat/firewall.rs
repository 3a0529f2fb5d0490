//! Rules for a host's firewall.

use std::{io::Write as _, process::Stdio};

use aegisray::lab::topology::Host;

/// Loads rules into a host's firewall.
pub fn nft(host: &Host, rules: &str) {
    let mut child = host.ns.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is installed");
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "nft refused:\n{rules}");
}
