//! Through every NAT: real daemons behind real nftables routers.

#[path = "../e2e/harness.rs"]
mod harness;
mod matrix;
mod routers;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::run(&[("every_pair_of_nats_is_connected", matrix::every_pair)])
}
