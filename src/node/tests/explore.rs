//! An exhaustive check: the node's machines as they ship, and an attacker that may drop, delay, repeat, reflect and
//! re-address every datagram, restart nodes, and take part with nodes of its own. Everything that can happen in so many
//! steps is tried, and after each step the rules of [`rules`] must hold. Faults that were mended once are put back, one at a
//! time, and have to be found.
//!
//! `EXPLORE_SECONDS=600 cargo test --lib explore -- --nocapture` searches deeper, for so long.

mod rules;
mod scenes;
mod search;
mod world;

use std::{process::Command, time::Instant as Clock};

use crate::types::mutants::{self, Mutant};
use scenes::{SCENES, Scene};
use search::search;

/// Set in the process that does the search, which is one of its own.
const ALONE: &str = "AEGISRAY_EXPLORES";
/// Of so many states at the end of a search, one is left to the network alone, to see that packets pass again.
const HEAL_EVERY: u64 = 8;
/// A fault that was put back has to be found within so many steps.
const DEEPEST: u32 = 4;

const MUTANTS: &[(Mutant, &str)] = &[
    (Mutant::AnyGranted, "joined"),
    (Mutant::BearerProof, "invitation"),
    (Mutant::ActOnClaim, "second life"),
    (Mutant::NoStaleRule, "held back"),
    (Mutant::MoveAtOnce, "renewal"),
    (Mutant::LateGoodbye, "goodbye"),
    (Mutant::Mirror, "seeking"),
];

#[test]
fn nothing_that_an_attacker_does_to_the_datagrams_breaks_a_promise() {
    if std::env::var_os(ALONE).is_none() {
        // A process with one thread can fork.
        let name = "node::tests::explore::nothing_that_an_attacker_does_to_the_datagrams_breaks_a_promise";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let seconds: Option<u64> = std::env::var("EXPLORE_SECONDS").ok().and_then(|s| s.parse().ok());
    let only = std::env::var("EXPLORE_ONLY").unwrap_or_default();
    for scene in SCENES.iter().filter(|s| s.name.contains(&only)) {
        let end = seconds.map(|s| Clock::now() + std::time::Duration::from_secs(s) / SCENES.len() as u32);
        let found = deepen(scene, end);
        assert!(found.is_none(), "{}: {}", scene.name, found.unwrap_or_default());
    }
    for (mutant, scene) in MUTANTS.iter().filter(|(m, _)| only.is_empty() || format!("{m:?}") == only) {
        let scene = SCENES.iter().find(|s| s.name == *scene).unwrap();
        mutants::put_back(Some(*mutant));
        // This one alone is found by what does not heal.
        let heal_every = if *mutant == Mutant::Mirror { 1 } else { u64::MAX };
        let fault = (1..=DEEPEST).find_map(|depth| search(&mut (scene.set)(), depth, heal_every, None).fault);
        mutants::put_back(None);
        match fault {
            Some(fault) => println!("{mutant:?}, put back, is found in \"{}\":\n  {fault}", scene.name),
            None => panic!("{mutant:?} is not found in {DEEPEST} steps from \"{}\"", scene.name),
        }
    }
}

/// Searches a scene, deeper as long as there is time. Returns what must not be.
fn deepen(scene: &Scene, end: Option<Clock>) -> Option<String> {
    let mut depth = scene.depth;
    loop {
        let found = search(&mut (scene.set)(), depth, HEAL_EVERY, end.filter(|_| depth > scene.depth));
        let search::Found { states, transitions, pruned, healed, seconds, .. } = found;
        println!(
            "{} ({}): {} {depth} steps, {states} states, {transitions} transitions, {pruned} pruned, {healed} healed, {seconds:.1} s",
            scene.name,
            scene.what,
            if found.late { "not all of" } else { "all of" },
        );
        if found.fault.is_some() || found.late || end.is_none_or(|end| Clock::now() >= end) {
            return found.fault;
        }
        depth += 1;
    }
}
