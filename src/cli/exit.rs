//! `aegisray exit`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    Failure, hint,
    show::print_json,
    table::{duration, table},
};
use crate::{
    api::{ClientError, ExitStatus, Request, Response, request},
    daemon,
    types::ExitChoice,
};

#[derive(Args)]
pub(super) struct ExitArgs {
    /// `auto`, `country:XX`, a node's name or NodeId, or `off`. Without: what is in use, and what is on offer
    exit: Option<ExitChoice>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ExitArgs, config: &Path, socket: Result<PathBuf, Failure>) -> Result<(), Failure> {
    let choice = args.exit.as_ref().map(ToString::to_string);
    let is_off = args.exit.as_ref().is_some_and(ExitChoice::is_off);
    let socket = match socket {
        // A configuration that is no good has let no daemon start, and may have closed the fence.
        Err(_) if is_off => return open(config),
        other => other?,
    };
    let status = match request(&socket, &Request::Exit { choice }) {
        Ok(Response::Exit(status)) => status,
        Ok(_) => return Err(Failure::Other(anyhow::anyhow!("the daemon is of another version than this program"))),
        // A daemon that died has left its fence standing: that is what a kill switch is for.
        Err(ClientError::NoDaemon(..)) if is_off => return open(config),
        Err(e) => return Err(Failure::Other(hint(e))),
    };
    if args.json {
        return print_json(&status);
    }
    print(&status);
    Ok(())
}

fn open(config: &Path) -> Result<(), Failure> {
    daemon::clean_up(config).map_err(anyhow::Error::from)?;
    println!("no daemon is running; what one had left of its tunnel on this host is taken away");
    Ok(())
}

fn print(s: &ExitStatus) {
    let way = match (&s.name, s.choice.as_str()) {
        (_, "off") => "off: packets for the internet leave this host as they would without a mesh".to_owned(),
        (Some(name), choice) if choice == name => format!("{name}, for {}", duration(s.since_s)),
        (Some(name), choice) => format!("{choice}: {name}, for {}", duration(s.since_s)),
        (None, choice) if s.kill_switch => {
            format!("{choice}: NONE CAN BE REACHED, nothing leaves this host but for the mesh")
        }
        (None, choice) => {
            format!("{choice}: NONE CAN BE REACHED, packets leave this host as they would without a mesh")
        }
    };
    println!("exit         {way}");
    if s.choice != "off" {
        println!("kill switch  {}", if s.kill_switch { "on" } else { "off" });
        if !s.open.is_empty() {
            println!("             NOT ALL IN FORCE: {}", s.open);
        }
    }
    if s.offers.is_empty() {
        println!("on offer     none (a node offers itself with exit_node.enabled)");
        return;
    }
    let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
    let rows: Vec<Vec<String>> = s
        .offers
        .iter()
        .map(|o| {
            let metric = format!("{:.1} ms", f64::from(o.metric) / 1000.0);
            let country = if o.country.is_empty() { "-".to_owned() } else { o.country.clone() };
            let in_use = yes(o.in_use) + if o.silent { " (does not answer)" } else { "" };
            vec![o.name.clone(), country, yes(o.ipv4), yes(o.ipv6), metric, in_use, o.node_id[..10].to_owned()]
        })
        .collect();
    println!();
    print!("{}", table(&["EXIT", "COUNTRY", "IPV4", "IPV6", "METRIC", "IN USE", "NODE ID"], &rows));
}
