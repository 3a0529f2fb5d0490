//! `aegisray acl`.

use std::path::Path;

use clap::Subcommand;

use super::{Failure, hint, show::print_json};
use crate::{
    access::Protocol,
    api::{AccessAnswer, Request, Response, request},
};

#[derive(Subcommand)]
pub(super) enum AclCommand {
    /// What becomes of a connection, and why. Exit code 1: it is refused
    Test {
        /// Who opens it: a node, an address, or portal:NAME
        source: String,
        /// Where to: NODE:PORT, ADDRESS:PORT, [IPV6]:PORT or self:PORT, with /tcp (default) or /udp; or PLACE/icmp
        #[arg(value_parser = target)]
        target: Target,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// The rules in force
    List,
}

#[derive(Clone)]
pub(super) struct Target {
    place: String,
    protocol: Protocol,
}

fn target(text: &str) -> Result<Target, String> {
    let wrong = || "expected PLACE:PORT, like self:22, alpha:53/udp or [fd00::1]:443, or PLACE/icmp".to_owned();
    let (rest, kind) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let place = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_owned();
    if kind == "icmp" {
        return Ok(Target { place: place(rest), protocol: Protocol::Icmp });
    }
    let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let protocol = match kind {
        "tcp" => Protocol::Tcp(port),
        "udp" => Protocol::Udp(port),
        _ => return Err(wrong()),
    };
    // An IPv6 address without brackets would lose its last group.
    let is_whole = !host.contains(':') || host.starts_with('[');
    if host.is_empty() || !is_whole { Err(wrong()) } else { Ok(Target { place: place(host), protocol }) }
}

pub(super) fn run(command: &AclCommand, socket: &Path) -> Result<(), Failure> {
    let other = || Failure::Other(anyhow::anyhow!("the daemon is of another version than this program"));
    let ask = |r: Request| request(socket, &r).map_err(|e| Failure::Other(hint(e)));
    match command {
        AclCommand::List => {
            let Response::AccessList { lines } = ask(Request::AccessList)? else { return Err(other()) };
            lines.iter().for_each(|line| println!("{line}"));
            Ok(())
        }
        AclCommand::Test { source, target, json } => {
            let question =
                Request::AccessTest { source: source.clone(), target: target.place.clone(), protocol: target.protocol };
            let Response::Access(answer) = ask(question)? else { return Err(other()) };
            if *json {
                print_json(&answer)?;
            } else {
                print(&answer);
            }
            if answer.allowed { Ok(()) } else { Err(Failure::Silent(1)) }
        }
    }
}

fn print(a: &AccessAnswer) {
    let verdict = if a.allowed { "allowed" } else { "REFUSED" };
    println!("{verdict}: {} to {} {}", a.source, a.target, a.protocol);
    println!("  {}", a.reason);
    if !a.note.is_empty() {
        println!("  {}", a.note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_halves_of_addresses_are_not() {
        let read = |text: &str| target(text).map(|t| (t.place, t.protocol)).ok();
        assert_eq!(read("self:22"), Some(("self".to_owned(), Protocol::Tcp(22))));
        assert_eq!(read("alpha:53/udp"), Some(("alpha".to_owned(), Protocol::Udp(53))));
        assert_eq!(read("[fd00::1]:443"), Some(("fd00::1".to_owned(), Protocol::Tcp(443))));
        assert_eq!(read("fd00::1/icmp"), Some(("fd00::1".to_owned(), Protocol::Icmp)));
        for bad in ["self", "self:x", ":22", "fd00::1:22", "self:22/sctp"] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
