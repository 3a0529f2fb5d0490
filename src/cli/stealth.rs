//! `aegisray stealth`.

use std::path::Path;

use clap::{Args, Subcommand};

use super::{Failure, show::print_json};
use crate::{
    config::Config,
    daemon,
    stealth::check::{self, Report, SiteReport},
};

#[derive(Subcommand)]
pub(super) enum StealthCommand {
    /// What somebody who watches sees of this node, and what the disguise costs
    Check(CheckArgs),
}

#[derive(Args)]
pub(super) struct CheckArgs {
    /// Look the sites' names up as well: whoever watches DNS sees that
    #[arg(long)]
    dns: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &StealthCommand, config: &Path) -> Result<(), Failure> {
    let StealthCommand::Check(args) = command;
    let config = Config::load(config)?;
    let report = check::run(&config, daemon::resolver(&config)?, args.dns).map_err(anyhow::Error::from)?;
    if args.json {
        print_json(&report)?
    } else {
        print(&report)
    }
    if report.sites.iter().any(|s| s.error.is_some()) { Err(Failure::Silent(1)) } else { Ok(()) }
}

fn print(r: &Report) {
    let line = |what: &str, text: String| println!("{what:<14}{text}");
    line(
        "mode",
        match r.mode {
            "always" => "always: nothing leaves this host but visits of the sites".to_owned(),
            "auto" => "auto: plain UDP where it passes, and that is not disguised".to_owned(),
            mode => format!("{mode}: no visits; what follows is what they would show"),
        },
    );
    line("hello", format!("{}, {} bytes, ALPN {}", r.hello, r.hello_bytes, r.alpn.join(", ")));
    let whose = if r.is_browsers { "a browser's" } else { "NO BROWSER'S: build with --features browser-hello" };
    line("JA4", format!("{}  {whose}", r.ja4));
    line("JA3", format!("{}  another one for each connection, as a browser's", r.ja3));
    let passes = |of: Option<&str>| of.map_or("BLOCKED by that rule".to_owned(), |why| format!("passes as {why}"));
    line("first packet", format!("{} (rule against what looks encrypted)", passes(r.first_packet)));
    if r.mode != "always" {
        line("plain packets", format!("{}, where it is applied to them", passes(r.plain_packet)));
    }
    if r.sites.is_empty() {
        line("sites", "none (stealth.sites)".to_owned());
    }
    for site in &r.sites {
        print_site(site);
    }
    let c = &r.costs;
    line(
        "framing",
        format!("{:.1} % in bulk, {:.1} % for a single packet of 1,400 bytes", c.framing_bulk, c.framing_single),
    );
    line(
        "connections",
        format!("one at a time, two for 8 s when it is changed; about {:.0} a day", c.connections_a_day),
    );
    match c.padding_start {
        0 => line("padding", "none: SIZES OF THE FIRST RECORDS TELL WHAT RUNS INSIDE (stealth.padding)".to_owned()),
        n => line(
            "padding",
            format!("the first {} KiB each way look like a visit; no more than that is added", n / 1024),
        ),
    }
    if !c.padded_to.is_empty() {
        let all: Vec<String> = c.padded_to.iter().map(|(from, to)| format!("{from} bytes to {to}")).collect();
        line("", format!("then always: {}", all.join(", ")));
    }
    line("cover", format!("{:.0} MB a day each way", c.cover_mb_a_day));
    line("jitter", format!("{:.1} ms on average for each message", c.jitter_ms));
}

fn print_site(s: &SiteReport) {
    let outcome = match (&s.error, s.connect_ms, s.handshake_ms) {
        (None, Some(connect), Some(handshake)) => {
            // One round trip each; what the handshake takes beyond that can be measured by who is in between.
            format!("a node answers; TCP {connect:.1} ms, TLS {handshake:.1} ms")
        }
        (error, ..) => format!("NO WAY IN: {}", error.as_deref().unwrap_or("no answer")),
    };
    println!("{:<14}{} as {}: {outcome}", "site", s.address, s.sni);
    let found = s.dns.as_ref().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    let text = match (found, s.is_in_dns) {
        (None, _) => "not asked (--dns)".to_owned(),
        (Some(_), None) => "the site is given by name: nothing to compare".to_owned(),
        (Some(found), Some(true)) => format!("{found}: the name is this site's"),
        (Some(found), Some(false)) if found.is_empty() => {
            "NO ADDRESS: who compares the name with DNS can tell".to_owned()
        }
        (Some(found), Some(false)) => format!("{found}: NOT THIS SITE'S: who compares the name with DNS can tell"),
    };
    println!("{:<14}{text}", "  its name");
}
