//! A link: one transport path to a neighbour, and whether it works in both directions right now.
//!
//! A probe that comes back proves both directions. While users' packets flow, probes go every 100 ms, and every 30 ms
//! once one is missing; an idle link is probed every five seconds, and the longer it is idle the more rarely, as far as the
//! NAT before this node remembers its flows.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use super::{paths::BAD_LOSS, pmtu::PathMtu};
use crate::{
    crypto::{Rng, sha256},
    types::{Duration, Instant, Metric, path},
    wire::proto::Wish,
};

const ACTIVE_PROBE: Duration = Duration::from_millis(100);
const FAST_PROBE: Duration = Duration::from_millis(30);
const IDLE_PROBE: Duration = Duration::from_secs(5);
const HEARSAY_GAP: Duration = Duration::from_secs(1);
const IDLE_RETRY: Duration = Duration::from_millis(250);
/// A link is active so long after the last packet of a user.
const ACTIVE_FOR: Duration = Duration::from_secs(3);
/// And so much longer where much is lost: that makes users' programs fall silent.
const LOSSY_FOR: Duration = Duration::from_secs(12);
/// A link that works again so soon has not been cut: it loses much.
const BACK_SOON: Duration = Duration::from_secs(3);
/// What one probe counts in the share that is lost.
const LOSS_WEIGHT: f64 = 1.0 / 32.0;
/// What a hop costs beside its round trip, in µs: a direct path wins unless it is worse by more than that.
const HOP_COST: f64 = 1500.0;
/// Added to a link that will be given up for room, in µs, so that hardly any route comes to depend on it.
const TEMPORARY_COST: Metric = 200_000;
/// From this share of lost probes on, a stream does better.
const THROTTLED: f64 = 0.25;
/// For how long UDP is left alone then.
const DISTRUST: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));
const OUTSTANDING: usize = 64;
/// Probes in vain before a link is dead: who got no processor for a while has sent none, and knows nothing.
const IN_VAIN: u32 = 4;
/// Probes in vain before it may be this end's address that is to blame.
const UNHEARD: u32 = 3;
const RTT_SAMPLES: usize = 16;
/// Answers from another place before it is compared with the present one.
const COMPARED: u32 = 4;
/// Questions that a place leaves without any answer before it is left alone.
const SILENT: u32 = 3;
const MAX_OTHERS: usize = 16;
/// What a move has to gain, in µs, beside a third of the cost: or a link would wander between equals.
const MOVE_GAIN: f64 = 1000.0;
/// How long packets from a place that was left may still arrive.
const LEFT_FOR: Duration = Duration::from_secs(2);

/// What the passing of time means for a link.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tick {
    Nothing,
    Probe(u32),
    Dead,
}

/// What is known of another place where the peer answers.
#[derive(Debug, Default)]
struct Place {
    asked: u32,
    answered: u32,
    min_rtt: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub addr: SocketAddr,
    /// The interface on which the peer's packets arrive; 0: unknown.
    pub interface: u32,
    pub since: Instant,
    pub up: bool,
    pub peer_wish: Wish,
    /// It came up when this node had no room for it.
    pub temporary: bool,
    /// Its stream will be closed soon.
    pub worn: bool,
    pub mtu: PathMtu,
    /// A place where the peer may be now, being tried.
    pub candidate: Option<(SocketAddr, u32, Instant)>,
    outstanding: VecDeque<(u32, SocketAddr, Instant)>,
    /// Probes sent since the last one that came back.
    in_vain: u32,
    /// When the newest probe that came back had been sent: both directions worked then.
    confirmed: Instant,
    last_probe: Option<Instant>,
    /// What intervals are stretched by: inside TLS nothing comes like clockwork.
    beat: f64,
    active_until: Instant,
    /// Its sessions don't tell of traffic; they are to be asked once it is no longer active.
    awake: bool,
    /// The longest time between probes of an idle link.
    pub rest: Duration,
    traffic: u64,
    srtt: Option<Duration>,
    rttvar: Duration,
    samples: VecDeque<Duration>,
    /// Smoothed share of probes that did not come back, 0.0 to 1.0.
    loss: f64,
    /// How many probes were sent, from some number on.
    count: u32,
    /// What their numbers are made of: who could tell the next one would answer it before it comes.
    secret: [u8; 16],
    advertised: Metric,
    advertised_at: Instant,
    suspect: bool,
    /// When somebody else put it in doubt last.
    doubted: Option<Instant>,
    others: BTreeMap<SocketAddr, Place>,
    /// The address that the link was moved away from.
    left: Option<(SocketAddr, Instant)>,
    /// Until when UDP is not to be trusted, and for how long it was the last time.
    distrusted: (Instant, Duration),
}

/// What it costs to send over a path, in µs: a constant per hop and half a round trip, both stretched by loss.
fn path_cost(rtt: Duration, loss: f64) -> f64 {
    let delivered = (1.0 - loss).max(0.1);
    (HOP_COST + rtt.as_micros() as f64 / 2.0) / (delivered * delivered)
}

/// The number of the next probe.
fn number(secret: &[u8; 16], count: &mut u32) -> u32 {
    *count = count.wrapping_add(1);
    let [a, b, c, d, ..] = sha256(&[b"probe", secret, &count.to_be_bytes()]);
    u32::from_be_bytes([a, b, c, d])
}

/// A factor between 0.4 and 1.6 for a probe by its count. The first one is random, and the next ones are spread evenly
/// by Fibonacci hashing (Knuth, TAOCP 3, 6.4).
fn beat(count: u32) -> f64 {
    0.4 + 1.2 * f64::from(count.wrapping_mul(0x9e37_79b9)) / f64::from(u32::MAX)
}

impl Link {
    pub fn new(now: Instant, addr: SocketAddr, secret: [u8; 16]) -> Self {
        let [a, b, c, d, ..] = secret;
        Self {
            addr,
            interface: 0,
            since: now,
            up: false,
            peer_wish: Wish::Indifferent,
            temporary: false,
            worn: false,
            mtu: PathMtu::new(now, addr),
            candidate: None,
            outstanding: VecDeque::new(),
            in_vain: 0,
            confirmed: now,
            last_probe: None,
            beat: 1.0,
            active_until: now,
            awake: true,
            rest: IDLE_PROBE,
            traffic: 0,
            srtt: None,
            rttvar: Duration::ZERO,
            samples: VecDeque::new(),
            loss: 0.0,
            count: u32::from_be_bytes([a, b, c, d]),
            secret,
            advertised: 0,
            advertised_at: now,
            suspect: false,
            doubted: None,
            others: BTreeMap::new(),
            left: None,
            distrusted: (now, Duration::ZERO),
        }
    }

    /// The link after its death: to be probed anew, with what it lost still known.
    pub fn reborn(&self, now: Instant) -> Self {
        let unanswered = self.outstanding.iter().filter(|o| o.1 == self.addr).count();
        Self {
            interface: self.interface,
            loss: 1.0 - (1.0 - self.loss) * (1.0 - LOSS_WEIGHT).powi(unanswered as i32),
            active_until: self.active_end().max(now),
            count: self.count,
            ..Self::new(now, self.addr, self.secret)
        }
    }

    /// Where the peer is, and where it may be now.
    pub fn places(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.addr).chain(self.candidate.map(|c| c.0))
    }

    pub fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// The least of the last round trips: what load doesn't inflate.
    pub fn min_rtt(&self) -> Option<Duration> {
        self.samples.iter().min().copied()
    }

    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// Whether users' packets go over UDP and much of it is lost: that is how networks slow down what they don't know.
    pub fn is_throttled(&self, now: Instant) -> bool {
        self.up && self.is_active(now) && !path::is_makeshift(self.addr) && self.loss >= THROTTLED
    }

    /// Prefers `stream` to UDP, each time for longer.
    pub fn prefer(&mut self, now: Instant, stream: SocketAddr) {
        let span = (2 * self.distrusted.1).clamp(DISTRUST.0, DISTRUST.1);
        self.distrusted = (now + span, span);
        self.candidate = Some((stream, 0, now));
        self.loss = 0.0;
    }

    /// Whether `addr` is not to be used although the peer is there.
    pub fn distrusts(&self, now: Instant, addr: SocketAddr) -> bool {
        self.up && now < self.distrusted.0 && !path::is_makeshift(addr)
    }

    /// A round trip was confirmed: the link is usable.
    pub fn come_up(&mut self, now: Instant) {
        if now.since(self.since) >= BACK_SOON {
            self.loss = 0.0;
        } else if self.is_active(now) && self.loss > 0.0 {
            // Loss has killed it under its users, and they may be silent now.
            self.active_until = now + LOSSY_FOR;
        }
        self.up = true;
        self.since = now;
        self.mtu = PathMtu::new(now, self.addr);
        // What was asked before the other end was ready says nothing of the path.
        self.outstanding.clear();
    }

    pub fn is_active(&self, now: Instant) -> bool {
        now < self.active_end()
    }

    fn active_end(&self) -> Instant {
        self.active_until + if self.loss >= BAD_LOSS { LOSSY_FOR } else { Duration::ZERO }
    }

    /// Takes in the count of users' packets sent. Returns whether the link was idle and is no more.
    pub fn note_traffic(&mut self, now: Instant, count: u64) -> bool {
        let moved = count != self.traffic;
        self.traffic = count;
        if !moved {
            return false;
        }
        let was_idle = !self.is_active(now);
        self.active_until = now + ACTIVE_FOR;
        self.awake = true;
        if was_idle && self.up {
            // Detection counts from here: an idle link's last probe may be seconds old.
            self.confirmed = self.confirmed.max(now);
            self.mtu.wake(now);
        }
        was_idle
    }

    /// Whether the link has just become idle: its sessions are now to tell of the next packet of a user.
    pub fn falls_asleep(&mut self, now: Instant) -> bool {
        !self.is_active(now) && std::mem::take(&mut self.awake)
    }

    /// Something happened that puts the link in doubt (an interface changed, a send failed): probe at once.
    pub fn doubt(&mut self, now: Instant) {
        self.suspect = true;
        self.last_probe = None;
        if !self.is_active(now) {
            self.active_until = now + ACTIVE_FOR;
            self.awake = true;
            self.confirmed = self.confirmed.max(now);
        }
    }

    /// Somebody else says so: once a second at the most, since each makes a probe go out.
    pub fn doubt_by_hearsay(&mut self, now: Instant) {
        if !self.suspect && self.doubted.is_none_or(|at| now.since(at) >= HEARSAY_GAP) {
            self.doubted = Some(now);
            self.doubt(now);
        }
    }

    /// The time between probes; and from when on, without an answer, it will be how much shorter.
    fn probe_interval(&self, now: Instant) -> (Duration, Option<(Instant, Duration)>) {
        if !self.up {
            return (IDLE_RETRY, None);
        }
        let (interval, shorter) =
            if self.is_active(now) { (ACTIVE_PROBE, FAST_PROBE) } else { (self.idle_probe(now), IDLE_RETRY) };
        let interval = interval.mul_f64(self.beat);
        let overdue = self.confirmed + interval + self.patience();
        if self.suspect || now >= overdue { (shorter, None) } else { (interval, Some((overdue, shorter))) }
    }

    /// The time between probes of an idle link: an eighth of how long it has been idle.
    fn idle_probe(&self, now: Instant) -> Duration {
        (now.since(self.active_until) / 8).min(self.rest).max(IDLE_PROBE)
    }

    /// How long an answer may take.
    fn patience(&self) -> Duration {
        self.srtt.unwrap_or(Duration::from_millis(500)) + 4 * self.rttvar + Duration::from_millis(10)
    }

    /// Without a confirmed round trip for so long, the link is dead. On a lossy path it takes more missing answers:
    /// enough that chance alone would do it less than once in a million.
    fn dead_after(&self, now: Instant) -> Duration {
        if !self.up {
            return Duration::from_secs(8);
        }
        if !self.is_active(now) {
            return self.idle_probe(now).mul_f64(self.beat) + Duration::from_millis(2500) + 2 * self.patience();
        }
        let loss = self.loss.clamp(0.02, 0.9);
        let misses = (1e-6f64.ln() / loss.ln()).ceil().clamp(4.0, 40.0) as u32;
        ACTIVE_PROBE.mul_f64(self.beat) + 2 * self.patience() + FAST_PROBE * misses
    }

    pub fn next_tick(&self, now: Instant) -> Instant {
        let probe = match self.last_probe {
            None => now,
            Some(last) => {
                let (interval, sooner) = self.probe_interval(now);
                let sooner = sooner.map(|(from, interval)| from.max(last + interval));
                sooner.map_or(last + interval, |at| at.min(last + interval))
            }
        };
        let mut due = if self.in_vain >= IN_VAIN { probe.min(self.confirmed + self.dead_after(now)) } else { probe };
        if self.up {
            due = due.min(self.mtu.next_tick());
        }
        if self.awake { due.min(self.active_end()) } else { due }
    }

    pub fn tick(&mut self, now: Instant) -> Tick {
        if self.in_vain >= IN_VAIN && now.since(self.confirmed) >= self.dead_after(now) {
            return Tick::Dead;
        }
        if self.last_probe.is_some_and(|at| now < at + self.probe_interval(now).0) {
            return Tick::Nothing;
        }
        let patience = self.patience();
        while let Some((_, addr, at)) = self.outstanding.front().copied()
            && now.since(at) > 2 * patience + Duration::from_millis(100)
        {
            self.outstanding.pop_front();
            // What is lost while the link is down, or elsewhere, says nothing of how it is.
            if self.up && addr == self.addr {
                self.loss += (1.0 - self.loss) * LOSS_WEIGHT;
            }
        }
        self.last_probe = Some(now);
        self.in_vain = self.in_vain.saturating_add(1);
        let id = self.sent_probe(now, self.addr);
        self.beat = if path::is_sealed(self.addr) { beat(self.count) } else { 1.0 };
        Tick::Probe(id)
    }

    /// Whether so many probes stay without an answer that this end's address may be to blame: routing may have changed.
    pub fn is_unheard(&self) -> bool {
        self.in_vain >= UNHEARD
    }

    /// The path MTU probes to send now.
    pub fn mtu_probes(&mut self, now: Instant) -> Vec<(u32, usize)> {
        let patience = self.patience();
        let (secret, count) = (self.secret, &mut self.count);
        let number = || number(&secret, count);
        if self.up { self.mtu.tick(now, patience, number) } else { Vec::new() }
    }

    /// Notes a probe to `addr` and returns its number.
    pub fn sent_probe(&mut self, now: Instant, addr: SocketAddr) -> u32 {
        let id = number(&self.secret, &mut self.count);
        if self.outstanding.len() >= OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back((id, addr, now));
        id
    }

    /// A reply came back: returns the address that its probe went to, and the round trip, if we sent such a probe.
    pub fn replied(&mut self, now: Instant, id: u32) -> Option<(SocketAddr, Duration)> {
        let at = self.outstanding.iter().position(|o| o.0 == id)?;
        let (_, addr, sent) = self.outstanding.remove(at)?;
        if addr == self.addr {
            self.loss -= self.loss * LOSS_WEIGHT;
            self.confirm(sent, now);
        }
        Some((addr, now.since(sent)))
    }

    /// Notes that another place of the peer is asked.
    pub fn ask_other(&mut self, addr: SocketAddr) {
        if self.others.len() < MAX_OTHERS || self.others.contains_key(&addr) {
            self.others.entry(addr).or_default().asked += 1;
        }
    }

    /// Whether another place has been asked often enough to know that nobody is there, until all is forgotten again.
    pub fn is_silent(&self, addr: SocketAddr) -> bool {
        self.others.get(&addr).is_some_and(|place| place.answered == 0 && place.asked >= SILENT)
    }

    /// Takes in an answer from another place. Returns whether it is clearly better there.
    pub fn compare(&mut self, addr: SocketAddr, rtt: Duration) -> bool {
        let Some(here) = self.min_rtt().map(|rtt| path_cost(rtt, self.loss)) else { return false };
        let Some(place) = self.others.get_mut(&addr) else { return false };
        place.answered += 1;
        let best = place.min_rtt.map_or(rtt, |least| least.min(rtt));
        place.min_rtt = Some(best);
        // The answer to the last question may be on its way.
        let lost = place.asked.saturating_sub(place.answered + 1);
        let there = path_cost(best, f64::from(lost) / f64::from(place.asked));
        place.answered >= COMPARED && there + MOVE_GAIN < here * 2.0 / 3.0
    }

    /// Forgets what was measured elsewhere: paths change.
    pub fn forget_others(&mut self) {
        self.others.clear();
    }

    /// The link is about to be moved although it works.
    pub fn leave(&mut self, now: Instant) {
        self.left = Some((self.addr, now));
    }

    /// Whether the link has just been moved away from `addr`: packets that still come from there say nothing.
    pub fn has_left(&self, now: Instant, addr: SocketAddr) -> bool {
        self.left.is_some_and(|(left, at)| left == addr && now.since(at) < LEFT_FOR)
    }

    fn confirm(&mut self, sent: Instant, now: Instant) {
        self.confirmed = self.confirmed.max(sent);
        self.in_vain = 0;
        self.suspect = false;
        self.sample(now.since(sent));
    }

    fn sample(&mut self, rtt: Duration) {
        if self.samples.len() >= RTT_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(rtt);
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.rttvar = rtt / 2;
            }
            Some(srtt) => {
                // RFC 6298 §2.3.
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
    }

    /// Moves the link to another address that has just been confirmed, by this round trip.
    pub fn move_to(&mut self, now: Instant, addr: SocketAddr, rtt: Duration) {
        self.addr = addr;
        self.worn = false;
        self.others.clear();
        self.mtu = PathMtu::new(now, addr);
        self.candidate = None;
        self.confirmed = now;
        self.in_vain = 0;
        self.suspect = false;
        self.samples.clear();
        self.srtt = None;
        self.rttvar = Duration::ZERO;
        self.sample(rtt);
    }

    /// The link's cost in metric units (µs): a constant per hop, half a round trip, both stretched by loss, and what
    /// the configuration adds. Returns a new value only if it moved by more than a quarter and 300 µs (hysteresis),
    /// and not more often than every two seconds.
    pub fn cost(&mut self, now: Instant, configured: Metric) -> Option<Metric> {
        let cost = path_cost(self.min_rtt()?, self.loss) as Metric + configured;
        let parting = self.worn || self.temporary || self.peer_wish == Wish::NoRoom;
        let cost = cost + if parting { TEMPORARY_COST } else { 0 };
        let moved = cost.abs_diff(self.advertised);
        let first = self.advertised == 0;
        if first || (moved > self.advertised / 4 + 300 && now.since(self.advertised_at) > Duration::from_secs(2)) {
            self.advertised = cost.max(1);
            self.advertised_at = now;
            return Some(self.advertised);
        }
        None
    }

    /// The cost that routing has been told.
    pub fn told_cost(&self) -> Metric {
        self.advertised
    }

    /// Keeps idle probes of many links apart.
    pub fn spread(&mut self, now: Instant, rng: &mut Rng) {
        if self.up && !self.is_active(now) && self.probe_interval(now).0 >= IDLE_PROBE {
            let early = Duration::from_millis(rng.below(1000));
            self.last_probe = self.last_probe.map(|at| Instant(at.0.saturating_sub(early.as_micros() as u64)));
        }
    }
}

#[cfg(test)]
mod tests;
