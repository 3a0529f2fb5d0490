//! What an attacker who has the source tries on real daemons, in network namespaces: a stranger, a guest and a member
//! gone bad, built on the library. One line per finding. Runs as root, or re-executes itself in a user namespace.
//!
//! `AEGISRAY_BIN` names another daemon to attack than the one built along with these tests.

mod addresses;
mod admission;
mod capture;
mod craft;
mod floods;
mod freshness;
mod guest;
#[path = "../e2e/harness.rs"]
#[expect(dead_code, reason = "findings are run and printed otherwise than other tests")]
mod harness;
mod hostile;
mod names;
mod outside;
mod reflector;
mod replay;
mod routes;
mod runner;
mod secrets;
mod sources;
mod streams;
mod world;

use std::process::ExitCode;

use runner::{Finding, finding};

/// Those that wait more than they work: they run side by side.
const SIDE_BY_SIDE: &[Finding] = &[
    finding("21", "handshakes held back: a session ends", freshness::no_renewal),
    finding("17", "a lying metric to a dead exit", routes::dead_exit),
    finding("1", "junk and foreign certificates from a peer", admission::granted),
    finding("19", "observers that lie", outside::lying_observers),
    finding("2", "an invite heard by another than the inviter", admission::invite_overheard),
    finding("7", "beacons again, from elsewhere", freshness::beacons),
    finding("4", "a key ground for another's address", addresses::ground_key),
    finding("8", "a name of the guest's choice", admission::nameless_invite),
    finding("18a", "names that are NodeIds, or reserved", addresses::names),
    finding("23", "streams from one /64", streams::one_network),
    finding("16", "another's address as one's endpoints", reflector::endpoints),
    finding("20", "forged answers of a TURN server", outside::turn_answers),
    finding("28", "a guest that relays", guest::relays),
    finding("32", "a router's answers from a neighbour", outside::rogue_router),
    finding("25", "a passphrase is dear to guess", secrets::passphrase),
    finding("26", "a secret that others can read", secrets::modes),
    finding("34", "another's place, from which a member writes first", sources::steered_source),
    finding("34", "the place of a TURN server", sources::steered_turn),
];

/// Those that load the machine, or count every packet.
const ALONE: &[Finding] = &[
    finding("6", "introductions without end", floods::introductions),
    finding("6", "records without end", floods::records),
    finding("9", "requests for announcements", floods::seqno_requests),
    finding("10", "handshakes of a member, straight", floods::handshakes_direct),
    finding("10", "handshakes of a member, by relay", floods::handshakes_by_relay),
    finding("33", "questions for a service that many offer", names::services),
    finding("33", "questions for names without end", names::questions),
    finding("22", "junk at the port", floods::junk),
    finding("5", "replays of first messages", replay::first_messages),
    finding("5", "a recording of ten rekeys and three restarts, replayed", replay::whole_recording),
];

fn main() -> ExitCode {
    runner::run(SIDE_BY_SIDE, ALONE)
}
