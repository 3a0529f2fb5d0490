//! Floor 6: the simulator. The node state machine that the daemon runs, under virtual time and a seeded network.
//!
//! A run has three phases: *chaos* (loss, churn, partitions; only safety is checked), *calm* (it must converge: every
//! living node has a route to every other, and following the next hops arrives), and *idle* (what the mesh costs when
//! nothing happens). The same options and seed give the same trace, whose hash is in the report.

mod happening;
mod hostile;
mod invariants;
mod meter;
mod verifier;
mod world;

use std::time::Duration;

use serde::Serialize;

pub use hostile::{HostileReport, Plan, Way};
pub use meter::Meter;

use world::World;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Options {
    /// 2 to 20,000.
    pub nodes: usize,
    pub seed: u64,
    /// Share of datagrams lost, 0.0 to 0.9. Half of it stays on in the calm phase.
    pub loss: f64,
    /// Share of datagrams delivered twice.
    pub duplicate: f64,
    /// Random delay added to each datagram: the cause of reordering.
    pub jitter: Duration,
    /// Crashes per minute during chaos; each node comes back with an empty memory after 2 to 12 seconds.
    pub churn: f64,
    /// How long the network is split into two halves during chaos.
    pub partition: Duration,
    /// Length of the chaos phase.
    pub chaos: Duration,
    /// The calm phase fails after this long.
    pub limit: Duration,
    /// Length of the idle phase.
    pub idle: Duration,
    /// Some of the nodes behave maliciously, after the calm phase, in a network that has an authority.
    pub hostile: Option<Plan>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 100,
            seed: 1,
            loss: 0.0,
            duplicate: 0.0,
            jitter: Duration::from_millis(3),
            churn: 0.0,
            partition: Duration::ZERO,
            chaos: Duration::ZERO,
            limit: Duration::from_secs(300),
            idle: Duration::from_secs(60),
            hostile: None,
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub nodes: usize,
    pub seed: u64,
    pub converged: bool,
    /// Virtual seconds from the last start (or the end of chaos) until every route stood.
    pub convergence_s: f64,
    pub links_per_node: f64,
    pub longest_path: usize,
    /// Metric of the routes, relative to the shortest paths over the links that exist: the mean over all pairs.
    pub stretch: f64,
    pub datagrams_per_node: f64,
    pub bytes_per_node: f64,
    /// What a node sends in an hour when nothing happens.
    pub idle_bytes_per_node_hour: f64,
    pub loops_seen: u64,
    /// For how many destinations next hops were followed at every change of a table.
    pub destinations_watched: usize,
    pub pings_delivered: usize,
    pub pings_sent: usize,
    pub crashes: u64,
    pub events: u64,
    pub trace_hash: String,
    pub peak_memory_mib: u64,
    pub wall_s: f64,
    /// With hostile nodes only.
    pub hostile: Option<HostileReport>,
    /// What went wrong, if anything.
    pub problems: Vec<String>,
}

impl Report {
    /// Whether the run showed what it must.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.converged && self.loops_seen == 0 && self.problems.is_empty() && self.pings_delivered == self.pings_sent
    }
}

/// Runs a simulation. `progress` hears of the phases.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Report {
    let started = std::time::Instant::now();
    let baseline = options.hostile.as_ref().map(|_| {
        progress("the same without hostile nodes");
        let mut world = World::new(options);
        world.behave();
        world.start_all();
        world.calm();
        world.hostile_phase();
        world.baseline()
    });
    let mut world = World::new(options);
    progress("starting the nodes");
    if options.hostile.as_ref().is_some_and(|plan| plan.early) {
        world.let_loose();
    }
    world.start_all();
    if options.chaos > Duration::ZERO {
        progress("chaos");
        world.chaos();
    }
    progress("calm: waiting for every route");
    let calm_from = world.now();
    let converged = world.calm();
    let convergence = converged.map(|at| at.since(calm_from));
    let (datagrams, bytes) = world.sent_per_node();
    let hostile = baseline.map(|baseline| {
        progress("hostile nodes, and packets between the others");
        world.hostile_phase();
        world.hostile_report(options, &baseline)
    });
    // Hostile nodes don't end, so nothing is ever idle among them, and their own packets are nobody's concern.
    let is_friendly = hostile.is_none();
    progress("sending packets through the mesh");
    let (pings_delivered, pings_sent) = if converged.is_some() && is_friendly { world.ping_pairs(32) } else { (0, 0) };
    progress("idle");
    let idle_bytes = if is_friendly { world.idle() } else { 0.0 };
    let graph = world.graph();
    Report {
        nodes: options.nodes,
        seed: options.seed,
        converged: converged.is_some(),
        convergence_s: convergence.unwrap_or(options.limit).as_secs_f64(),
        links_per_node: graph.links_per_node,
        longest_path: graph.longest_path,
        stretch: graph.stretch,
        datagrams_per_node: datagrams,
        bytes_per_node: bytes,
        idle_bytes_per_node_hour: idle_bytes,
        loops_seen: world.loops(),
        destinations_watched: world.watched(),
        pings_delivered,
        pings_sent,
        crashes: world.crashes(),
        events: world.events(),
        trace_hash: format!("{:016x}", world.trace_hash()),
        peak_memory_mib: peak_memory_mib(),
        wall_s: started.elapsed().as_secs_f64(),
        hostile,
        problems: world.problems(),
    }
}

/// The most memory that this process ever held (`VmHWM`), in MiB; 0 where /proc does not tell.
fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
