//! `aegisray portal`.

use std::{io::IsTerminal as _, path::Path};

use clap::Subcommand;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};

use super::{
    Failure, hint,
    show::print_json,
    table::{bytes, duration, table},
};
use crate::{
    api::{Request, Response, request},
    portal::ClientStatus,
};

#[derive(Subcommand)]
pub(super) enum PortalCommand {
    /// Let in a WireGuard client; prints its configuration, and a QR code for phones where output is a terminal
    Add {
        /// What it is called in lists and in access rules
        name: String,
        /// Print the QR code wherever output goes
        #[arg(long)]
        qr: bool,
    },
    /// The clients
    List {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Shut a client out
    Remove { name: String },
}

pub(super) fn run(command: &PortalCommand, socket: &Path) -> Result<(), Failure> {
    let other = || Failure::Other(anyhow::anyhow!("the daemon is of another version than this program"));
    let ask = |r: Request| request(socket, &r).map_err(|e| Failure::Other(hint(e)));
    match command {
        PortalCommand::Add { name, qr } => {
            let Response::PortalClient { config, note } = ask(Request::PortalAdd { name: name.clone() })? else {
                return Err(other());
            };
            print!("{config}");
            eprintln!("\n# {note}");
            if *qr || std::io::stdout().is_terminal() {
                println!("\n{}", code(&config)?);
            }
        }
        PortalCommand::Remove { name } => {
            ask(Request::PortalRemove { name: name.clone() })?;
        }
        PortalCommand::List { json } => {
            let Response::PortalClients { clients } = ask(Request::PortalList)? else { return Err(other()) };
            if *json {
                return print_json(&clients);
            }
            print(&clients);
        }
    }
    Ok(())
}

/// Two rows of the code in a line of text.
fn code(text: &str) -> anyhow::Result<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L)?;
    // Dark text on a light terminal reads as well: scanners take both.
    Ok(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

fn print(clients: &[ClientStatus]) {
    if clients.is_empty() {
        println!("no clients; `aegisray portal add NAME` lets one in");
        return;
    }
    let row = |c: &ClientStatus| {
        vec![
            c.name.clone(),
            c.addresses[0].to_string(),
            c.addresses[1].to_string(),
            c.endpoint.map_or("-".to_owned(), |e| e.to_string()),
            c.handshake_s.map_or("never".to_owned(), |s| format!("{} ago", duration(s))),
            bytes(c.received),
            bytes(c.sent),
        ]
    };
    let text = table(
        &["NAME", "IPV4", "IPV6", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT"],
        &clients.iter().map(row).collect::<Vec<_>>(),
    );
    print!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_configuration_fits_a_code_that_fits_a_terminal() {
        let text = "x".repeat(500);
        let code = code(&text).unwrap();
        assert!(code.lines().all(|l| l.chars().count() <= 100), "{}", code.lines().next().unwrap().chars().count());
    }
}
