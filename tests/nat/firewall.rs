//! Rules for a host's firewall.

use aegisray::{host::firewall, lab::topology::Host};

/// Loads rules into a host's firewall.
pub fn nft(host: &Host, rules: &str) {
    host.ns.run(|| firewall::load(rules)).unwrap();
}
