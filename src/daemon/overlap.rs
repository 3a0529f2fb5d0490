//! Others that use the mesh's range of IPv4 addresses, or what is around it: carriers' NATs and other VPNs share 100.64.0.0/10
//! (RFC 6598).

use std::{io, net::IpAddr};

use super::StartError;
use crate::{config::Config, host, types::IpPrefix};

const SHARED: &str = "100.64.0.0/10";

/// A mesh range that covers an address of this host would cut the host off: refuse.
pub(super) fn check(config: &Config) -> Result<(), StartError> {
    let mesh = config.network.cidr();
    match others(config)?.into_iter().find(|(_, ip)| mesh.contains(*ip)) {
        Some((interface, found)) => Err(StartError::Overlap { mesh, found, interface }),
        None => Ok(()),
    }
}

/// This host's addresses at other interfaces.
fn others(config: &Config) -> io::Result<Vec<(String, IpAddr)>> {
    let mut all = host::interface_addresses()?;
    all.retain(|(interface, _)| *interface != config.interface);
    Ok(all)
}

/// What the admin should know of it, a line for each interface.
pub(super) fn notes(config: &Config) -> Vec<String> {
    let mesh = config.network.cidr();
    judge(mesh, &others(config).unwrap_or_default())
}

fn judge(mesh: IpPrefix, others: &[(String, IpAddr)]) -> Vec<String> {
    let Some(shared) = SHARED.parse::<IpPrefix>().ok().filter(|shared| shared.overlaps(&mesh)) else {
        return Vec::new();
    };
    let note = |(interface, ip): &(String, IpAddr)| {
        if mesh.contains(*ip) {
            format!(
                "{interface} has {ip}, which is in the mesh's {mesh}: what is for one goes to the other; choose another mesh.cidr, \
                 the same on all nodes"
            )
        } else if interface.starts_with("tailscale") {
            format!(
                "Tailscale ({interface}) drops what comes from {SHARED} at other interfaces, so all IPv4 of the mesh ({mesh}): start it \
                 with --netfilter-mode=off, or choose another mesh.cidr, the same on all nodes"
            )
        } else {
            format!(
                "{interface} has {ip}, of {SHARED} as carriers' NATs use it: hosts of its network in {mesh} are not reached, all \
                 others are"
            )
        }
    };
    others.iter().filter(|(_, ip)| shared.contains(*ip)).map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_the_range_is_told_apart() {
        let mesh = "100.64.0.0/16".parse().unwrap();
        let others: Vec<(String, IpAddr)> =
            [("eth0", "192.168.1.2"), ("wwan0", "100.72.3.4"), ("tailscale0", "100.101.1.1"), ("eth1", "100.64.9.9")]
                .map(|(name, ip)| (name.to_owned(), ip.parse().unwrap()))
                .to_vec();
        let notes = judge(mesh, &others);
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes[0].starts_with("wwan0 has 100.72.3.4") && notes[0].contains("carriers"));
        assert!(notes[1].starts_with("Tailscale (tailscale0)"));
        assert!(notes[2].contains("choose another mesh.cidr"));
        assert_eq!(judge("10.9.0.0/16".parse().unwrap(), &others), Vec::<String>::new());
    }
}
