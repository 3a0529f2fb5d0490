//! The chat: real daemons in namespaces whose people talk, moderate, go away and come back.

mod browser;
#[path = "../e2e/certify.rs"]
mod certify;
mod commands;
mod files;
mod flood;
#[path = "../e2e/harness.rs"]
mod harness;
mod irc;
mod moderation;
mod page;
mod people;
mod private;
mod relay;
#[path = "../e2e/running.rs"]
mod running;
mod talk;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::run(&[
        ("people_talk", talk::people_talk),
        ("the_documented_commands", commands::documented),
        ("people_talk_over_three_hops", talk::three_hops),
        ("what_was_confirmed_survives_kill_9", talk::crash),
        ("moderation_reaches_every_file", moderation::every_file),
        ("two_people_in_browsers", page::two_people_in_browsers),
        ("irssi_joins_talks_and_is_kicked_by_a_ban", irc::irssi),
        ("a_relay_under_ten_thousand_sources", flood::ten_thousand_sources),
        ("a_relay_whose_visitors_do_not_read", flood::who_asks_and_does_not_read),
        ("files_over_a_relay", files::files),
        ("sealed_over_a_relay", private::sealed_over_a_relay),
        ("a_relay_keeps_what_is_said_for_who_is_away", relay::store_and_forward),
    ])
}
