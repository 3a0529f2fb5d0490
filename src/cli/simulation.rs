//! What a simulation showed, for people.

use super::table::bytes;
use crate::sim::{HostileReport, Report};

pub(super) fn report(r: &Report) {
    let yes = |good: bool| if good { "yes" } else { "NO" };
    println!("nodes               {} (seed {}, {} crashes)", r.nodes, r.seed, r.crashes);
    println!("converged           {} after {:.1} s of virtual time", yes(r.converged), r.convergence_s);
    println!("loops seen          {} ({} destinations watched at every change)", r.loops_seen, r.destinations_watched);
    println!("packets delivered   {} of {} end to end", r.pings_delivered, r.pings_sent);
    println!("links per node      {:.1}, longest path {} hops", r.links_per_node, r.longest_path);
    println!("stretch             {:.3} (route metric to shortest path)", r.stretch);
    println!("sent per node       {:.0} datagrams, {}", r.datagrams_per_node, bytes(r.bytes_per_node as u64));
    println!("idle                {} per node and hour", bytes(r.idle_bytes_per_node_hour as u64));
    if let Some(hostile) = &r.hostile {
        report_hostile(hostile);
    }
    println!("peak memory         {} MiB", r.peak_memory_mib);
    println!("wall time           {:.1} s for {} events", r.wall_s, r.events);
    println!("trace hash          {}", r.trace_hash);
    for problem in &r.problems {
        println!("problem             {problem}");
    }
}

fn report_hostile(h: &HostileReport) {
    println!("hostile             {} nodes, {:.1} node-hours", h.hostile, h.node_hours);
    for (way, done) in &h.deeds {
        println!("  {way:<18}{done}");
    }
    let lost = format!("{} swallowed, {} lost otherwise", h.packets_swallowed, h.packets_lost);
    println!("honest packets      {} of {}; {lost}", h.packets_arrived, h.packets_sent);
    println!("kept                {:.3} % ({:.3} % without them)", 100.0 * h.kept, 100.0 * h.kept_without);
    println!("  in the first 20 s {:.3} %, later {:.3} %", 100.0 * h.kept_at_first, 100.0 * h.kept_later);
    for (second, share) in h.worst_times.iter().take(8) {
        println!("  from {second:>5} s      {:.1} % lost", 100.0 * share);
    }
    println!("not its sender's    {} forged, {} misled", h.forged, h.misled);
    let memory = format!("{} and {} without them, mean", bytes(h.memory as u64), bytes(h.memory_without as u64));
    let worst = (h.worst_memory_ratio, bytes(h.worst_memory_extra as u64));
    println!("memory per node     {memory}: {:.2} times as much", h.memory_ratio);
    println!("  at worst          {:.2} times as much, or {} more", worst.0, worst.1);
    println!("evictions           {}", h.evictions);
    for (reason, count) in &h.links_lost {
        println!(
            "  link lost         {count} ({} without them): {reason}",
            h.links_lost_without.get(reason).unwrap_or(&0)
        );
    }
    let sent = (bytes(h.bytes_per_node as u64), bytes(h.bytes_per_node_without as u64));
    println!("sent per node       {} ({} without them)", sent.0, sent.1);
    println!("sent to a stranger  {} at most", bytes(h.most_to_a_stranger));
    println!("announcements       {} at most ({} without them)", h.announcements, h.announcements_without);
    println!("panics              {}", h.panics);
}

/// One line of several runs.
pub(super) fn line(r: &Report) {
    let verdict = if r.is_good() { "holds" } else { "FAILS" };
    let mut text = format!("seed {:>3}  {verdict}  {}  {:>5.1} s", r.seed, r.trace_hash, r.wall_s);
    if let Some(h) = &r.hostile {
        text += &format!(
            "  kept {:.3} % ({:.3} % after 20 s)  memory {:.2}  evictions {}  panics {}",
            100.0 * h.kept,
            100.0 * h.kept_later,
            h.memory_ratio,
            h.evictions,
            h.panics
        );
    }
    println!("{text}");
    for problem in r.problems.iter().take(4) {
        println!("          {problem}");
    }
}

/// What several runs showed together.
pub(super) fn sum(reports: &[Report]) {
    let good = reports.iter().filter(|r| r.is_good()).count();
    let hours: f64 = reports.iter().filter_map(|r| r.hostile.as_ref()).map(|h| h.node_hours).sum();
    print!("{good} of {} hold", reports.len());
    if hours > 0.0 {
        print!("; {hours:.0} node-hours of hostile simulation");
    }
    println!();
}
