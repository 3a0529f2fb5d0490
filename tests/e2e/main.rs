//! End to end: real daemons, real TUN devices, in network namespaces. Runs as root, or re-executes itself in a user
//! namespace. Figures are printed, not asserted: a busy machine fails no test.

mod admission;
mod capture;
mod cli;
mod dataplane;
mod harness;
mod joining;
mod line;
mod strict;
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
        ("joining_names_are_checked_first_and_stand_as_they_are", joining::names),
        ("joining_a_name_with_an_underscore_resolves", joining::underscore),
        ("joining_can_be_repeated_and_overwrites_nothing", joining::repeated),
        ("joining_on_a_full_disk_leaves_nothing", joining::full_disks),
        ("joining_takes_tokens_as_they_come", joining::tokens),
        ("joining_names_the_clock", joining::clocks),
        ("joining_leaves_no_token_on_the_command_line", joining::command_line),
        ("closed_pipes_end_commands_quietly", strict::closed_pipes),
        ("check_refuses_what_a_start_refuses", strict::check_is_a_start),
        ("commands_answer_in_tables_and_json", cli::commands),
        ("wrong_configurations_exit_with_2", cli::exit_codes),
        ("bench_measures_two_builds_by_turns", cli::bench_against),
    ])
}
