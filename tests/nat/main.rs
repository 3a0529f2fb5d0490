//! Through every NAT: real daemons behind real nftables routers.

mod firewall;
#[path = "../e2e/harness.rs"]
mod harness;
mod mapping;
mod matrix;
mod order;
mod routers;
#[path = "../e2e/running.rs"]
mod running;
mod sources;
mod transfer;
mod turn;
mod verdicts;
#[path = "../e2e/watch.rs"]
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::run(&[
        ("netcheck_tells_every_nat", verdicts::every_nat),
        ("routers_give_public_ports_and_take_them_back", mapping::every_protocol),
        ("every_pair_of_nats_is_connected", matrix::every_pair),
        ("a_transfer_survives_every_change_of_path", transfer::survives),
        ("an_upgrade_loses_and_reorders_nothing", transfer::upgrade),
        ("a_nearer_relay_loses_and_reorders_nothing", order::nearer_relay),
        ("a_link_to_a_relay_that_moves_loses_and_reorders_nothing", order::relay_on_a_cable),
        ("a_relay_keeps_to_its_limits", transfer::relay_limits),
        ("without_udp_a_node_joins_over_tcp", transfer::without_udp),
        ("routers_that_reboot_cost_less_than_a_second", transfer::reboots),
        ("after_a_pause_traffic_flows_at_once", transfer::resumes),
        ("over_distance_and_loss", matrix::distance),
        ("ipv6_leads_past_symmetric_nats", transfer::over_ipv6),
        ("the_better_place_is_found", matrix::better_place),
        ("two_symmetric_nats_meet_at_a_turn_server", turn::two_symmetric),
        ("symmetric_and_port_restricted_meet", matrix::hard_pairs),
        ("counting_nats_meet", matrix::counting_pairs),
        ("answers_leave_from_the_floating_address_that_was_asked", sources::floating),
        ("answers_leave_by_the_uplink_that_was_asked", sources::two_uplinks),
        ("answers_leave_from_the_ipv6_address_that_was_asked", sources::ipv6),
        ("a_node_follows_another_default_route", sources::another_default_route),
    ])
}
