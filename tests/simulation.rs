//! The node state machine under virtual time: convergence, no loops, and runs that replay.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aegisray::sim::{Meter, Options, Plan, Report, Way, run};

/// So that hostile runs can tell what a node holds.
#[global_allocator]
static ALLOCATOR: Meter = Meter;

fn simulate(options: &Options) -> Report {
    run(options, &mut |_| {})
}

#[track_caller]
fn assert_good(report: &Report) {
    assert!(report.is_good(), "{report:#?}");
}

#[test]
fn a_hundred_nodes_converge_without_a_loop() {
    let report = simulate(&Options { nodes: 100, ..Options::default() });
    println!("{report:#?}");
    assert_good(&report);
    assert!(report.stretch < 1.25, "routes are near the shortest: {}", report.stretch);
}

#[test]
fn the_same_seed_replays_the_same_run_and_another_one_does_not() {
    let options = Options {
        nodes: 24,
        loss: 0.1,
        duplicate: 0.05,
        churn: 20.0,
        chaos: Duration::from_secs(20),
        idle: Duration::from_secs(5),
        ..Options::default()
    };
    let (first, second) = (simulate(&options), simulate(&options));
    assert_eq!(first.trace_hash, second.trace_hash);
    assert_eq!(first.events, second.events);
    let other = simulate(&Options { seed: 2, ..options });
    assert_ne!(first.trace_hash, other.trace_hash);
}

#[test]
fn loss_churn_and_partitions_leave_nothing_broken() {
    for seed in 1..=6 {
        let options = Options {
            nodes: 30,
            seed,
            loss: 0.15,
            duplicate: 0.05,
            jitter: Duration::from_millis(30),
            churn: 30.0,
            partition: Duration::from_secs(15),
            chaos: Duration::from_secs(40),
            idle: Duration::ZERO,
            ..Options::default()
        };
        let report = simulate(&options);
        println!("seed {seed}: converged {:.1} s after the chaos, {} crashes", report.convergence_s, report.crashes);
        assert_good(&report);
    }
}

#[test]
fn two_nodes_are_a_network() {
    assert_good(&simulate(&Options { nodes: 2, idle: Duration::ZERO, ..Options::default() }));
}

fn hostile(way: Option<Way>, seconds: u64) -> Options {
    let plan = Plan { length: Duration::from_secs(seconds), only: way, ..Plan::new(3) };
    Options { nodes: 30, hostile: Some(plan), ..Options::default() }
}

/// One run per way, on as many threads as there are processors: a run is single-threaded, and so is its count of memory.
#[test]
fn hostile_nodes_harm_nobody_in_whichever_way() {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some(way) = Way::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Whoever swallows packets is found out in seconds: of a short run that would be too much.
            let seconds = if matches!(way, Way::Lies | Way::Hole | Way::GreyHole) { 150 } else { 30 };
            let report = simulate(&hostile(Some(*way), seconds));
            let summary = report.hostile.as_ref().map(|h| (h.kept, h.memory_ratio, h.evictions));
            println!("{way}: {summary:?}, {:.1} s", report.wall_s);
            if !report.is_good() {
                failed.lock().unwrap().push(format!("{way}: {:?}", report.problems));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_hostile_run_replays_too() {
    let options = hostile(None, 20);
    let (first, second) = (simulate(&options), simulate(&options));
    assert_eq!(first.trace_hash, second.trace_hash);
    assert_eq!(first.events, second.events);
}
