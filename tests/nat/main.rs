//! Through every NAT: real daemons behind real nftables routers.

#[path = "../e2e/harness.rs"]
mod harness;
mod matrix;
mod routers;
mod verdicts;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::run(&[
        ("netcheck_tells_every_nat", verdicts::every_nat),
        ("every_pair_of_nats_is_connected", matrix::every_pair),
        ("symmetric_and_port_restricted_meet", matrix::hard_pairs),
    ])
}
