//! `aegisray chat simulate`.

use clap::Args;

use super::super::{Failure, share};
use crate::chat::sim::{self, Options, Report};

#[derive(Args)]
pub(super) struct SimulateArgs {
    /// Replicas, each with an identity of its own: 2 to 200
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=200))]
    replicas: u32,
    /// Messages and acts of authority
    #[arg(long, default_value_t = 10_000)]
    operations: usize,
    /// Seeds to run, from --seed on
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first seed: the same options and seed replay the same run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The share of acts of authority, 0 to 0.9
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    acts: f64,
}

/// With `json`: a line per seed.
pub(super) fn run(args: &SimulateArgs, json: bool) -> Result<(), Failure> {
    let options =
        |seed| Options { replicas: args.replicas as usize, operations: args.operations, seed, acts: args.acts };
    let last = args.seed.saturating_add(args.seeds);
    let mut differing = 0;
    let mut run = |report: &Report| -> Result<(), Failure> {
        differing += usize::from(report.differing > 0);
        if json {
            println!("{}", serde_json::to_string(report)?);
        } else {
            print(report);
        }
        Ok(())
    };
    sim::run_all((args.seed..last).map(options), &mut |report| run(report).is_ok());
    if !json {
        println!("{} seeds, {differing} in which replicas differ", args.seeds);
    }
    if differing == 0 { Ok(()) } else { Err(Failure::Silent(1)) }
}

fn print(r: &Report) {
    println!(
        "seed {}: {} messages, {} acts ({} void); {} shown, {} purged, {} members banned; {} views compared, {} differ; {}",
        r.seed,
        r.operations,
        r.acts,
        r.void,
        r.shown,
        r.purged,
        r.banned,
        r.compared,
        r.differing,
        &r.digest[..16]
    );
}
