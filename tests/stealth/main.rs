//! The disguise: real daemons behind a real website.

mod borrowed;
mod capture;
#[path = "../e2e/certify.rs"]
mod certify;
mod detectors;
#[path = "../nat/firewall.rs"]
mod firewall;
#[path = "../e2e/harness.rs"]
mod harness;
mod members;
mod names;
mod nginx;
mod openings;
mod proxies;
#[path = "../e2e/running.rs"]
mod running;
mod shape;
mod site;
mod strangers;
#[path = "../e2e/watch.rs"]
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::run(&[
        ("strangers_see_the_website_and_nothing_else", strangers::see_the_website),
        ("strangers_see_the_borrowed_site_and_nothing_else", openings::see_the_decoy),
        ("a_folder_is_a_site", strangers::see_a_folder),
        ("openings_of_tls_end_and_cost_little", openings::end),
        ("behind_a_borrowed_site_members_meet", borrowed::members_meet),
        ("what_is_wrong_with_a_borrowed_site_is_said", borrowed::errors),
        ("with_tcp_443_alone_a_node_joins", members::tcp_443_alone),
        ("udp_that_loses_half_is_left_for_tls", members::throttled),
        ("always_means_nothing_but_tls", members::nothing_but_tls),
        ("what_is_wrong_is_said", members::errors),
        ("detectors_see_visits_of_a_website", detectors::judge),
        ("sizes_and_times_of_a_visit_tell_little", shape::sizes_and_times),
        ("cover_is_as_much_as_was_asked_for", shape::cover),
        ("connections_are_changed_without_loss", shape::rotation),
        ("names_are_resolved_over_tls_and_https", names::encrypted_dns),
        ("through_the_proxies_of_offices", proxies::both_kinds),
    ])
}
