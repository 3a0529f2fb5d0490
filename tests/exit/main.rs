//! Exits: real daemons, a web server outside the mesh, and captures of what leaves a client.

mod access;
mod boot;
mod containers;
mod exits;
mod fence;
#[path = "../nat/firewall.rs"]
mod firewall;
mod firewalls;
mod guests;
#[path = "../e2e/harness.rs"]
mod harness;
mod leaks;
mod names;
#[path = "../stealth/nginx.rs"]
mod nginx;
mod portal;
mod reload;
#[path = "../e2e/running.rs"]
mod running;
mod subnets;
#[path = "../e2e/watch.rs"]
mod watch;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::run(&[
        ("the_world_sees_the_exit", exits::seen_from_outside),
        ("nothing_leaks_whatever_dies", leaks::whatever_dies),
        ("questions_are_no_answers", fence::questions_are_no_answers),
        ("closed_whatever_is_missing", fence::closed_whatever_is_missing),
        ("the_fence_is_there_first_at_boot", boot::the_fence_is_there_first),
        ("what_others_take_away_is_back", fence::what_others_take_away_is_back),
        ("the_interface_is_kept", fence::the_interface_is_kept),
        ("mesh_addresses_are_the_meshs", fence::mesh_addresses_are_the_meshs),
        ("an_exit_is_a_good_guest", fence::an_exit_is_a_good_guest),
        ("ports_of_the_exit_are_its_own", fence::ports_of_the_exit_are_its_own),
        ("an_interface_by_another_name", fence::an_interface_by_another_name),
        ("out_of_descriptors", fence::out_of_descriptors),
        ("two_daemons_on_one_host", fence::two_daemons_on_one_host),
        ("port_53_stays_free", guests::port_53_stays_free),
        ("beside_ufw_and_netfilter_persistent", firewalls::ufw_and_netfilter_persistent),
        ("beside_firewalld", firewalls::firewalld),
        ("with_a_read_only_proc_sys", containers::with_a_read_only_proc_sys),
        ("a_kernel_without_ipv6", containers::a_kernel_without_ipv6),
        ("names_without_nft", guests::names_without_nft),
        ("a_member_without_ipv6", guests::a_member_without_ipv6),
        ("other_rules_of_the_host_stay_as_they_are", exits::beside_others),
        ("a_host_without_ipv6", exits::without_ipv6),
        ("what_goes_past_the_tunnel", exits::bypass),
        ("a_network_behind_a_node", subnets::behind_a_node),
        ("the_configuration_changes_while_it_runs", reload::while_running),
        ("names_of_the_mesh", names::of_the_mesh),
        ("names_by_resolvconf", names::with_resolvconf),
        ("access_rules_are_what_happens", access::what_is_said_happens),
        ("stock_wireguard_clients", portal::stock_clients),
    ])
}
