//! Runs the attacks: some side by side, the others alone, each with a line of its own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use aegisray::host;

/// So many attacks run at a time.
const LANES: usize = 4;

/// An attack on what a finding of the review was about. It panics where the attacker wins, and else says what it measured.
pub struct Finding {
    number: &'static str,
    title: &'static str,
    attack: fn() -> String,
}

pub const fn finding(number: &'static str, title: &'static str, attack: fn() -> String) -> Finding {
    Finding { number, title, attack }
}

impl Finding {
    fn name(&self) -> String {
        format!("finding {}: {}", self.number, self.title)
    }

    /// Whether the attack was withstood.
    fn try_it(&self) -> bool {
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(self.attack));
        let took = started.elapsed().as_secs_f64();
        match &outcome {
            Ok(note) => println!("{} … ok ({note}; {took:.1} s)", self.name()),
            Err(_) => println!("{} … FAILED ({took:.1} s)", self.name()),
        }
        outcome.is_ok()
    }
}

pub fn run(side_by_side: &[Finding], alone: &[Finding]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let is_chosen = |f: &&Finding| filters.is_empty() || filters.iter().any(|text| f.name().contains(text.as_str()));
    if args.iter().any(|a| a == "--list") {
        side_by_side.iter().chain(alone).for_each(|f| println!("{}: test", f.name()));
        return ExitCode::SUCCESS;
    }
    if !host::can_make_namespaces() {
        return match host::become_root_in_user_namespace() {
            Ok(code) => ExitCode::from(code as u8),
            Err(e) => {
                println!("the attacks need root or user namespaces: {e}");
                ExitCode::FAILURE
            }
        };
    }
    let started = Instant::now();
    let lanes: Vec<&Finding> = side_by_side.iter().filter(is_chosen).collect();
    let alone: Vec<&Finding> = alone.iter().filter(is_chosen).collect();
    let (next, withstood) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some(finding) = lanes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    withstood.fetch_add(usize::from(finding.try_it()), Ordering::Relaxed);
                }
            });
        }
    });
    withstood.fetch_add(alone.iter().filter(|f| f.try_it()).count(), Ordering::Relaxed);
    let (all, good) = (lanes.len() + alone.len(), withstood.into_inner());
    let took = started.elapsed().as_secs_f64();
    println!("\n{good} of {all} attacks were withstood ({took:.0} s)");
    if good == all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
