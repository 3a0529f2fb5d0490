//! What must hold however hostile nodes behave, and the report of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::Serialize;

use super::stream::Kept;
use crate::sim::{Options, happening::Happening, meter, world::World};

/// What an honest node may hold on average, relative to the same run without hostile nodes.
const MAX_MEMORY: f64 = 1.5;
/// And how much more any single one, whoever it has as neighbours: buffers have bounds, not shares.
const MAX_EXTRA: f64 = 1_048_576.0;
/// The least share of packets that honest pairs keep, from the first second on.
const MIN_KEPT: f64 = 0.99;
/// The first seconds, in which all hostile nodes begin at once and are found out, are shown by themselves, too: so many tens.
const FOUND_OUT: usize = 2;
/// Until nodes have had their addresses for a minute, they give way to others: hostile nodes wait for it.
const SETTLING: Duration = Duration::from_secs(65);
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long what is wrong may be about to be mended, and how often it is looked at meanwhile: who was well in between was mended.
const LOOK_AGAIN: (u32, Duration) = (30, Duration::from_millis(100));
/// The longest run without hostile nodes.
const QUIET: Duration = Duration::from_secs(120);
/// What was sent last may still arrive.
const AFTERMATH: Duration = Duration::from_secs(10);

/// Counts while a run goes on.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// Addresses of honest nodes when the hostile ones were let loose.
    owned: Vec<[IpAddr; 2]>,
    /// Who was not what it should be to whom at all of the last looks, and how many there were.
    suspects: Vec<(usize, usize)>,
    looks: u32,
    evictions: u64,
    examples: Vec<String>,
    links_lost: BTreeMap<&'static str, u64>,
    strays: BTreeMap<SocketAddr, u64>,
    panics: u64,
}

impl Judge {
    /// An honest node sends to an address where no node is.
    pub fn note_stray(&mut self, to: SocketAddr, bytes: usize) {
        *self.strays.entry(SocketAddr::new(to.ip(), 0)).or_default() += bytes as u64;
    }

    pub fn note_link_lost(&mut self, reason: &'static str) {
        *self.links_lost.entry(reason).or_default() += 1;
    }

    fn evicted(&mut self, what: impl FnOnce() -> String) {
        self.evictions += 1;
        if self.examples.len() < 5 {
            self.examples.push(what());
        }
    }
}

/// What a run with hostile nodes showed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct HostileReport {
    pub hostile: usize,
    /// Virtual time for which they were hostile, times all nodes.
    pub node_hours: f64,
    /// Messages and dropped datagrams by way.
    pub deeds: BTreeMap<&'static str, u64>,
    pub packets_sent: u64,
    pub packets_arrived: u64,
    /// Lost where the way led through a hostile node, although there was another.
    pub packets_swallowed: u64,
    pub packets_lost: u64,
    /// The share of the packets between honest nodes that arrived; 0.99 is asked for.
    pub kept: f64,
    /// The same of those sent in the first 20 seconds, and of those sent after that.
    pub kept_at_first: f64,
    pub kept_later: f64,
    /// The same in the run without hostile nodes.
    pub kept_without: f64,
    /// Packets whose source was not their sender's and that were delivered nevertheless, and packets that came to others.
    pub forged: u64,
    pub misled: u64,
    /// Seconds since the beginning, and the share lost, where it was more than a hundredth in ten seconds.
    pub worst_times: Vec<(u64, f64)>,
    /// What honest nodes held at most, in bytes: the mean, and the mean in the run without hostile nodes.
    pub memory: f64,
    pub memory_without: f64,
    /// The ratio of the two; 1.5 is allowed.
    pub memory_ratio: f64,
    /// The same of the honest node for which it is largest, and the most bytes that one held more; 1 MiB is allowed.
    pub worst_memory_ratio: f64,
    pub worst_memory_extra: f64,
    /// How often an honest node did not know, reach or rightly address another one.
    pub evictions: u64,
    /// Links between honest nodes that were lost, by reason; and those in the run without hostile nodes.
    pub links_lost: BTreeMap<&'static str, u64>,
    pub links_lost_without: BTreeMap<&'static str, u64>,
    /// Bytes that an honest node sent, on average; and in the run without hostile nodes.
    pub bytes_per_node: f64,
    pub bytes_per_node_without: f64,
    /// The most bytes that honest nodes sent to one host which is not a node of the mesh.
    pub most_to_a_stranger: u64,
    /// How often an honest node announced itself anew, at most; and in the run without hostile nodes.
    pub announcements: u32,
    pub announcements_without: u32,
    pub panics: u64,
}

/// What the run without hostile nodes showed, for comparison.
#[derive(Debug, Default)]
pub(in crate::sim) struct Baseline {
    memory: Vec<isize>,
    kept: Kept,
    links_lost: BTreeMap<&'static str, u64>,
    bytes: f64,
    announcements: u32,
}

impl World {
    /// The islands of honest nodes that honest links connect: a number for each node.
    pub(super) fn honest_islands(&self) -> Vec<usize> {
        fn root(islands: &mut [usize], mut i: usize) -> usize {
            while islands[i] != i {
                islands[i] = islands[islands[i]];
                i = islands[i];
            }
            i
        }
        let mut islands: Vec<usize> = (0..self.places.len()).collect();
        let Some(stage) = &self.stage else { return islands };
        for (i, place) in self.places.iter().enumerate().filter(|(i, _)| stage.is_honest(*i)) {
            let Some(node) = &place.node else { continue };
            for (peer, _) in node.link_costs() {
                if let Some(j) = self.by_id.get(&peer).copied().filter(|j| stage.is_honest(*j)) {
                    let (a, b) = (root(&mut islands, i), root(&mut islands, j));
                    islands[a] = b;
                }
            }
        }
        (0..islands.len()).map(|i| root(&mut islands, i)).collect()
    }

    /// Whether the way from one node to another leads through a hostile one.
    pub(super) fn is_exposed(&self, from: usize, to: usize) -> bool {
        let Some(stage) = &self.stage else { return false };
        let (mut at, mut steps) = (from, 0);
        while at != to && steps <= self.places.len() {
            let Some(next) = self.next(at, &self.places[to].id) else { return false };
            if !stage.is_honest(next) {
                return true;
            }
            at = next;
            steps += 1;
        }
        false
    }

    /// A call into a node panicked.
    pub(in crate::sim) fn panicked(&mut self, i: usize, text: &str) {
        self.problem(format!("n{i} panicked at {:?}: {text}", self.now()));
        if let Some(stage) = &mut self.stage {
            stage.judge.panics += 1;
        }
    }

    /// Lets the hostile nodes loose, and packets flow, for as long as the plan says.
    pub(in crate::sim) fn hostile_phase(&mut self) {
        self.run_until(self.now() + SETTLING);
        let begin = self.now();
        for place in &mut self.places {
            place.memory.1 = place.memory.0;
            place.bytes = 0;
        }
        let owned = self.places.iter().map(|p| p.node.as_ref().map(|n| n.addresses())).collect::<Vec<_>>();
        let Some(stage) = &mut self.stage else { return };
        // Two minutes tell what it is like without hostile nodes.
        let length = if stage.is_quiet { stage.plan.length.min(QUIET) } else { stage.plan.length };
        let end = begin + length;
        stage.phase = Some((begin, end));
        stage.judge.owned = owned.into_iter().map(|a| a.unwrap_or([IpAddr::from([0, 0, 0, 0]); 2])).collect();
        if !stage.plan.early {
            self.let_loose();
        }
        self.agenda.push(begin, Happening::Packets);
        self.agenda.push(begin + LOOK_EVERY, Happening::Inspection);
        self.run_until(end + AFTERMATH);
        let now = self.now();
        if let Some(stage) = &mut self.stage {
            stage.stream.give_up(now, begin, true);
        }
    }

    /// What is wrong with how one honest node sees another, if anything.
    fn complaint(&self, i: usize, j: usize, owned: &[[IpAddr; 2]]) -> Option<String> {
        let Some(node) = &self.places[i].node else { return Some(format!("n{i} is down")) };
        if i == j {
            let gave_up = node.addresses() != owned[i];
            return gave_up.then(|| format!("n{i} gave its address up"));
        }
        let (routing, id) = (node.routing(), self.places[j].id);
        let origin = routing.origin(&id);
        if origin.and_then(|o| routing.announcement(o)).is_none() {
            return Some(format!("n{i} does not know n{j}"));
        }
        if origin.and_then(|o| routing.next_hop(o)).is_none() {
            return Some(format!("n{i} does not reach n{j}"));
        }
        let foreign = owned[j].iter().find(|a| node.owner_of(**a) != Some(id));
        foreign.map(|address| format!("for n{i}, {address} is not n{j}'s"))
    }

    /// Looks whether every honest node knows, reaches and rightly addresses every other. What is wrong may be about to be
    /// mended: it counts if it is so all the time for a little while.
    pub(in crate::sim) fn inspect(&mut self) {
        let now = self.now();
        let Some(mut stage) = self.stage.take() else { return };
        let judge = &mut stage.judge;
        let honest: Vec<usize> = (0..self.places.len()).filter(|i| !stage.scene.hostile[*i]).collect();
        let is_again = !judge.suspects.is_empty();
        judge.looks = if is_again { judge.looks + 1 } else { 0 };
        let is_last = judge.looks >= LOOK_AGAIN.0;
        let pairs: Vec<(usize, usize)> = if is_again {
            std::mem::take(&mut judge.suspects)
        } else {
            honest.iter().flat_map(|i| honest.iter().map(move |j| (*i, *j))).collect()
        };
        for (i, j) in pairs {
            let Some(complaint) = self.complaint(i, j, &judge.owned) else { continue };
            if is_last {
                judge.evicted(|| format!("{complaint}, at {:?}", Duration::from_micros(now.0)));
            } else {
                judge.suspects.push((i, j));
            }
        }
        let next = if judge.suspects.is_empty() { LOOK_EVERY } else { LOOK_AGAIN.1 };
        let is_over = stage.phase.is_none_or(|(_, end)| now >= end);
        self.stage = Some(stage);
        if !is_over {
            self.agenda.push(now + next, Happening::Inspection);
        }
    }

    fn honest(&self) -> impl Iterator<Item = usize> + '_ {
        let stage = self.stage.as_ref();
        (0..self.places.len()).filter(move |i| stage.is_some_and(|s| s.is_honest(*i)))
    }

    pub(in crate::sim) fn baseline(&self) -> Baseline {
        let Some(stage) = &self.stage else { return Baseline::default() };
        let count = self.honest().count().max(1) as f64;
        Baseline {
            memory: self.places.iter().map(|p| p.memory.1).collect(),
            kept: stage.stream.kept,
            links_lost: stage.judge.links_lost.clone(),
            bytes: self.honest().map(|i| self.places[i].bytes as f64).sum::<f64>() / count,
            announcements: self.honest().map(|i| self.announcements(i)).max().unwrap_or(0),
        }
    }

    /// How often a node has announced itself since it began.
    fn announcements(&self, i: usize) -> u32 {
        let started = super::super::world::EPOCH as u32;
        self.places[i].node.as_ref().map_or(0, |n| n.own_state().1.saturating_sub(started))
    }

    /// Compares the run with that without hostile nodes.
    pub(in crate::sim) fn hostile_report(&mut self, options: &Options, without: &Baseline) -> HostileReport {
        let with = self.baseline();
        let Some(stage) = &self.stage else { return HostileReport::default() };
        let honest: Vec<usize> = self.honest().collect();
        let mean = |memory: &[isize]| honest.iter().map(|i| memory[*i] as f64).sum::<f64>() / honest.len() as f64;
        let ratio = |i: &usize| with.memory[*i] as f64 / (without.memory[*i] as f64).max(1.0);
        let extra = |i: &usize| with.memory[*i] as f64 - without.memory[*i] as f64;
        let mut deeds = BTreeMap::new();
        for player in stage.players.values() {
            for (way, done) in player.ways.iter().zip(&player.done) {
                *deeds.entry(way.name()).or_default() += done;
            }
        }
        let share = |kept: &Kept| if kept.sent == 0 { 0.0 } else { kept.arrived as f64 / kept.sent as f64 };
        let arrived = |tens: &[(u64, u64)]| {
            let (sent, lost) = tens.iter().fold((0, 0), |sum, ten| (sum.0 + ten.0, sum.1 + ten.1));
            if sent == 0 { 1.0 } else { 1.0 - lost as f64 / sent as f64 }
        };
        let (first, rest) = stage.stream.course.split_at(FOUND_OUT.min(stage.stream.course.len()));
        let course = stage.stream.course.iter().enumerate();
        let worst = course.filter(|(_, (sent, lost))| *lost as f64 > 0.01 * *sent as f64);
        let report = HostileReport {
            hostile: stage.players.len(),
            node_hours: stage.plan.length.as_secs_f64() / 3600.0 * options.nodes as f64,
            deeds,
            packets_sent: with.kept.sent,
            packets_arrived: with.kept.arrived,
            packets_swallowed: with.kept.swallowed,
            packets_lost: with.kept.lost,
            kept: share(&with.kept),
            kept_at_first: arrived(first),
            kept_later: arrived(rest),
            kept_without: share(&without.kept),
            forged: with.kept.forged,
            misled: with.kept.misled,
            worst_times: worst.map(|(ten, (sent, lost))| (ten as u64 * 10, *lost as f64 / *sent as f64)).collect(),
            memory: mean(&with.memory),
            memory_without: mean(&without.memory),
            memory_ratio: mean(&with.memory) / mean(&without.memory).max(1.0),
            worst_memory_ratio: honest.iter().map(ratio).fold(0.0, f64::max),
            worst_memory_extra: honest.iter().map(extra).fold(0.0, f64::max),
            evictions: stage.judge.evictions,
            links_lost: with.links_lost.clone(),
            links_lost_without: without.links_lost.clone(),
            bytes_per_node: with.bytes,
            bytes_per_node_without: without.bytes,
            most_to_a_stranger: stage.judge.strays.values().copied().max().unwrap_or(0),
            announcements: with.announcements,
            announcements_without: without.announcements,
            panics: stage.judge.panics,
        };
        let examples = stage.judge.examples.clone();
        let losses = stage.stream.losses.len();
        let most = stage.stream.losses.iter().max_by_key(|(_, lost)| **lost).map(|((a, b), lost)| (*a, *b, *lost));
        let worst_node = honest.iter().max_by(|a, b| extra(a).total_cmp(&extra(b))).copied().unwrap_or(0);
        for example in examples {
            self.problem(example);
        }
        if report.kept < MIN_KEPT {
            self.problem(format!("kept {:.2} % of the packets; {losses} pairs lost some", 100.0 * report.kept));
            if let Some((from, to, lost)) = most {
                self.problem(format!("of those from n{from} to n{to}, {lost} were lost"));
            }
        }
        if report.memory_ratio > MAX_MEMORY {
            self.problem(format!("honest nodes held {:.2} times as much as without hostile ones", report.memory_ratio));
        }
        if report.worst_memory_extra > MAX_EXTRA {
            let (has, had) = (with.memory[worst_node], without.memory[worst_node]);
            self.problem(format!("n{worst_node} held {has} bytes, and {had} without hostile nodes"));
        }
        if report.evictions > 0 {
            self.problem(format!("{} times an honest node was not what it should be to another", report.evictions));
        }
        if report.forged + report.misled > 0 {
            self.problem(format!("{} forged and {} misled packets were delivered", report.forged, report.misled));
        }
        if !meter::is_there() {
            self.problem("memory was not measured: the program's allocator is not the meter".to_owned());
        }
        report
    }
}
