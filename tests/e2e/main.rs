//! End to end: real daemons, real TUN devices, in network namespaces. Runs as root, or re-executes itself in a user
//! namespace. Figures are printed, not asserted: a busy machine fails no test.

mod admission;
mod capture;
mod cli;
mod dataplane;
mod harness;
mod line;
mod triangle;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::run(&[
        ("line_everything_passes_and_the_relay_sees_nothing", line::everything_passes),
        ("narrow_path_is_no_black_hole", line::narrow_path),
        ("killed_node_comes_back_with_its_address", line::kill_and_restart),
        ("lan_discovery_needs_no_bootstrap", line::lan_discovery),
        ("compose_mesh_runs_without_an_engine", line::compose_mesh),
        ("idle_node_is_small_and_quiet", line::idle),
        ("triangle_silent_cut", triangle::silent_cut),
        ("triangle_interface_down", triangle::interface_down),
        ("roaming_keeps_a_transfer", triangle::roaming),
        ("offloads_off_at_either_end_still_work", dataplane::without_offloads),
        ("nothing_is_lost_or_reordered_by_rekeys_routes_and_roams", dataplane::nothing_lost),
        ("a_path_that_shrinks_stalls_no_transfer", dataplane::shrinking_path),
        ("wrong_secret_learns_nothing_and_is_counted", admission::wrong_secret),
        ("authority_invite_once_revoke_expire", admission::authority),
        ("foreign_prefix_is_refused_and_granted_one_routed", admission::prefixes),
        ("commands_answer_in_tables_and_json", cli::commands),
        ("wrong_configurations_exit_with_2", cli::exit_codes),
        ("bench_measures_two_builds_by_turns", cli::bench_against),
    ])
}
