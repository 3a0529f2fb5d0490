//! Floor 2, sans-IO: making holes in NATs. When two nodes that talk through relays agree to try, both send probes at
//! the same time to all places where the other one may be (simultaneous open, RFC 5128 §3.3). If one of them is behind
//! a NAT that takes another public port for each destination, that one opens many ports and the other one tries many:
//! by the birthday paradox two of them meet soon.
//!
//! It is polite: at most 64 datagrams a second to a target, at most 256 ports of our own, which all attempts share, an end
//! after 20 seconds, and ever longer pauses between attempts.

mod attempt;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

pub use self::attempt::Counter;
use self::attempt::{Attempt, COUNT_LIFE, COUNTED, LIFE, Search};
use crate::{
    crypto::Rng,
    types::{Bucket, Duration, Instant, NodeId, path, place},
    wire::proto::Mapping,
};

/// The scouts that all attempts share: behind a symmetric NAT, each of them has another public port for each peer.
const SHARED: Range<u32> = 1..257;
/// Scouts stay open so long after a link was found: both ends may have met more than one, and may not have settled on
/// the same yet.
const LINGER: Duration = Duration::from_secs(5);
/// How long an answer to an offer may take.
const ANSWER_TIME: Duration = Duration::from_secs(1);
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// Bytes on a session below which nobody is said to use it.
const USED: u64 = 400;
const MAX_PLACES: usize = 16;
/// Attempts with the same peer begin at least so far apart, whoever offers them: nobody can keep us sending.
const BEGIN_GAP: Duration = Duration::from_secs(25);
/// Counting takes few datagrams; another flow that comes at the wrong moment makes it fail.
const COUNT_GAP: Duration = Duration::from_secs(7);
/// Attempts with all peers together: so many at once, and one more each pause. Keys cost nothing: many peers may be one.
const BEGIN: (u32, Duration) = (64, Duration::from_millis(250));
/// What is left of that for peers to which there has been a link.
const KEPT: u32 = BEGIN.0 / 2;
/// Peers remembered to which there has been a link; the one whose last link came up first is forgotten first.
const MAX_MET: usize = 1024;
/// So many times it is tried again without a longer pause.
const COUNT_TRIES: u32 = 5;

/// What a peer said of where it may be.
#[derive(Debug, Clone, Default)]
pub struct Places {
    pub endpoints: Vec<SocketAddr>,
    /// Where others have seen it, the latest first.
    pub reflexive: Vec<SocketAddr>,
    pub mapping: Mapping,
    /// Its NAT counts.
    pub counter: Option<Counter>,
}

#[derive(Debug)]
struct History {
    wait: Duration,
    next: Instant,
    /// Attempts in which both NATs were counted.
    counts: u32,
    /// When an offer was sent that has no answer yet.
    offered: Option<Instant>,
    /// When the next attempt may begin.
    rest: Instant,
    /// Bytes on the sessions with the peer when the last attempt was over.
    bytes: u64,
    /// What the last offer or answer said of this node's NAT.
    counter: Option<Counter>,
}

impl History {
    fn new(now: Instant) -> Self {
        Self { wait: RETRY.0, next: now, counts: 0, offered: None, rest: now, bytes: 0, counter: None }
    }
}

/// All attempts of a node.
#[derive(Debug)]
pub struct Puncher {
    attempts: BTreeMap<NodeId, Attempt>,
    history: BTreeMap<NodeId, History>,
    /// Peers whose attempts are over, or that are gone, and until when they rest. They are at most as many as attempts may begin
    /// in the longest rest.
    resting: BTreeMap<NodeId, Instant>,
    /// Peers to which there has been a link; larger is later.
    met: BTreeMap<NodeId, u64>,
    turn: u64,
    /// Scouts whose attempts ended with a link, and until when they stay open.
    closing: Vec<(Instant, Range<u32>)>,
    next_number: u32,
    begun: Bucket,
    rng: Rng,
    /// Attempts that were not begun because there were too many.
    pub refused: u64,
}

impl Puncher {
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self {
            attempts: BTreeMap::new(),
            history: BTreeMap::new(),
            resting: BTreeMap::new(),
            met: BTreeMap::new(),
            turn: 0,
            closing: Vec::new(),
            next_number: SHARED.end,
            begun: Bucket::new(BEGIN.0, BEGIN.1),
            rng,
            refused: 0,
        }
    }

    /// Whether to offer an attempt to a node that is reached through relays only; notes that it is offered. `bytes`:
    /// what its sessions have carried so far.
    pub fn offers(&mut self, now: Instant, id: NodeId, bytes: u64) -> bool {
        let history = enter(&mut self.history, &self.resting, now, id);
        if self.attempts.contains_key(&id) || history.offered.is_some_and(|at| now.since(at) < ANSWER_TIME) {
            history.bytes = bytes;
            return false;
        }
        if now < history.next || bytes < history.bytes + USED {
            return false;
        }
        history.offered = Some(now);
        history.bytes = bytes;
        history.next = now + self.rng.jitter(history.wait, 20);
        history.wait = (history.wait * 2).min(RETRY.1);
        true
    }

    /// Whether to take part in an attempt that `id` offers.
    #[must_use]
    pub fn accepts(&self, now: Instant, own: Mapping, id: &NodeId, theirs: &Places) -> bool {
        if self.rest(id) > now {
            return false;
        }
        // Counting takes that nobody else counts.
        let is_disturbed = role(own, theirs.mapping) == Role::Count
            && theirs.counter.is_some()
            && self.attempts.values().any(|a| a.search.is_some());
        !is_disturbed && !self.attempts.contains_key(id)
    }

    /// Whether this node has offered an attempt to `id` and waits for the answer.
    #[must_use]
    pub fn has_offered(&self, id: &NodeId) -> bool {
        self.history.get(id).is_some_and(|h| h.offered.is_some())
    }

    /// Both ends have agreed: send from now on. `own`: what is known of this node's NAT; `leads`: of the two ends of a
    /// path, it is true at one.
    pub fn begin(&mut self, now: Instant, id: NodeId, (own, leads): (Mapping, bool), theirs: &Places) {
        if self.attempts.contains_key(&id) {
            return;
        }
        let kept = if self.met.contains_key(&id) { 0 } else { KEPT };
        if !self.begun.take_above(now, kept) {
            self.refused += 1;
            return;
        }
        let accepted = self.accepts(now, own, &id, theirs);
        let history = self.history(now, id);
        history.offered = None;
        let mut places: Vec<SocketAddr> = theirs.reflexive.clone();
        places.extend(theirs.endpoints.iter().filter(|e| !theirs.reflexive.contains(e)));
        places.retain(|place| place.port() != 0 && place::is_host(place.ip()));
        places.truncate(MAX_PLACES);
        let counter = history.counter.take();
        let target = theirs.reflexive.first().copied().filter(|_| accepted);
        let role = role(own, theirs.mapping);
        let search = match (role, target) {
            (Role::Scouts, Some(target)) => Some(Search::Scouts { target, numbers: SHARED, sent: 0 }),
            (Role::Spray, Some(target)) if is_public(target.ip()) => {
                Some(Search::Spray { target: target.ip(), counter: theirs.counter, sent: 0 })
            }
            (Role::Count, Some(target)) if is_public(target.ip()) && counter.is_some() => {
                self.count(theirs.counter, target.ip(), leads)
            }
            _ => None,
        };
        let counts = role == Role::Count && search.is_some();
        let (gap, life) = if counts { (COUNT_GAP, COUNT_LIFE) } else { (BEGIN_GAP, LIFE) };
        let history = self.history(now, id);
        history.rest = now + gap;
        // Before that the other end would not take part; it may have begun a little later.
        history.next = history.next.max(history.rest + ANSWER_TIME);
        if counts && history.counts < COUNT_TRIES {
            history.counts += 1;
            history.wait = RETRY.0;
        }
        self.attempts.insert(id, Attempt::new(now, places, search, life));
    }

    /// Both NATs count. One end opens the ports that come next, all to the same port of the other end's NAT, some way
    /// ahead. The other end sends to these one after another, and with one of the datagrams its NAT has come to the port
    /// that is ahead: they meet there, however many other flows either NAT sees meanwhile, up to that distance.
    fn count(&mut self, theirs: Option<Counter>, target: IpAddr, leads: bool) -> Option<Search> {
        let counter = theirs?;
        Some(if leads {
            let target = SocketAddr::new(target, counter.nth(COUNTED)?);
            Search::Scouts { target, numbers: self.take_numbers(COUNTED), sent: 0 }
        } else {
            Search::Follow { target, counter, sent: 0 }
        })
    }

    fn take_numbers(&mut self, count: u32) -> Range<u32> {
        if self.next_number + count > path::TURN {
            self.next_number = SHARED.end;
        }
        let numbers = self.next_number..self.next_number + count;
        self.next_number = numbers.end;
        numbers
    }

    /// Scouts for a question that is answered at once or never.
    pub fn lend_scouts(&mut self, now: Instant, count: u32) -> Range<u32> {
        let numbers = self.take_numbers(count);
        self.close_later(now, numbers.clone());
        numbers
    }

    fn close_later(&mut self, now: Instant, numbers: Range<u32>) {
        self.closing.retain(|(until, _)| *until > now);
        self.closing.push((now + LINGER, numbers));
    }

    /// Notes what `id` is told of this node's NAT.
    pub fn note_counter(&mut self, now: Instant, id: NodeId, counter: Option<Counter>) {
        self.history(now, id).counter = counter;
    }

    /// What is known of a peer.
    fn history(&mut self, now: Instant, id: NodeId) -> &mut History {
        enter(&mut self.history, &self.resting, now, id)
    }

    /// Until when no attempt with a peer begins.
    fn rest(&self, id: &NodeId) -> Instant {
        let known = self.history.get(id).map(|h| h.rest);
        known.or_else(|| self.resting.get(id).copied()).unwrap_or_default()
    }

    /// There is a link to the peer.
    pub fn meet(&mut self, now: Instant, id: &NodeId) {
        self.end(now, id);
        self.turn += 1;
        self.met.insert(*id, self.turn);
        if self.met.len() > MAX_MET
            && let Some(oldest) = self.met.iter().min_by_key(|(_, turn)| **turn).map(|(id, _)| *id)
        {
            self.met.remove(&oldest);
        }
    }

    /// The attempt is over: there is a link, or the peer is gone.
    pub fn end(&mut self, now: Instant, id: &NodeId) {
        if let Some(Attempt { search: Some(Search::Scouts { numbers, sent: 1.., .. }), .. }) = self.attempts.remove(id)
        {
            self.close_later(now, numbers);
        }
        if let Some(history) = self.history.remove(id).filter(|h| h.rest > now) {
            self.resting.retain(|_, rest| *rest > now);
            self.resting.insert(*id, history.rest);
        }
    }

    /// The network changed: what failed may work now.
    pub fn reset(&mut self) {
        self.history.clear();
        self.resting.clear();
    }

    /// An address refuses what is sent there: no more sprays to it.
    pub fn turned_away(&mut self, addr: SocketAddr) {
        let aims_there = |a: &Attempt| match &a.search {
            Some(Search::Spray { target, .. } | Search::Follow { target, .. }) => *target == addr.ip(),
            _ => false,
        };
        self.attempts.retain(|_, a| !aims_there(a));
    }

    /// The numbers of the scouts that attempts need, or needed a moment ago.
    pub fn scouts(&self, now: Instant) -> BTreeSet<u32> {
        let used = self.attempts.values().filter_map(|a| match &a.search {
            Some(Search::Scouts { numbers, .. }) => Some(numbers),
            _ => None,
        });
        let closing = self.closing.iter().filter(|(until, _)| *until > now).map(|(_, numbers)| numbers);
        used.chain(closing).cloned().flatten().collect()
    }

    /// When [`Self::poll`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.attempts.values().map(Attempt::next).min()
    }

    /// The probes to send now: to whom, and where.
    pub fn poll(&mut self, now: Instant) -> Vec<(NodeId, SocketAddr)> {
        self.attempts.retain(|_, a| !a.is_over(now));
        let mut going_on: Vec<_> =
            self.attempts.values().filter_map(Attempt::searching).map(|s| (mem::discriminant(s), s.aim())).collect();
        for a in self.attempts.values_mut() {
            if let Some((kind, limit, aim)) = a.due_search(now).map(|s| (mem::discriminant(s), s.limit(), s.aim())) {
                // Whoever speaks with many tongues gets no address more datagrams than one peer could.
                let is_aimed_at = going_on.iter().any(|(_, at)| *at == aim);
                if !is_aimed_at && going_on.iter().filter(|(k, _)| *k == kind).count() < limit {
                    going_on.push((kind, aim));
                } else {
                    a.postpone(now);
                }
            }
        }
        let rng = &mut self.rng;
        let probes =
            |(id, a): (&NodeId, &mut Attempt)| -> Vec<_> { a.poll(now, rng).into_iter().map(|to| (*id, to)).collect() };
        self.attempts.iter_mut().flat_map(probes).collect()
    }
}

/// What is known of a peer. Nobody rests the less for having been gone.
fn enter<'a>(
    all: &'a mut BTreeMap<NodeId, History>,
    resting: &BTreeMap<NodeId, Instant>,
    now: Instant,
    id: NodeId,
) -> &'a mut History {
    all.entry(id).or_insert_with(|| match resting.get(&id) {
        Some(rest) if *rest > now => History { rest: *rest, next: *rest + ANSWER_TIME, ..History::new(now) },
        _ => History::new(now),
    })
}

/// Whether this can be the public address of a NAT: no network of ours is sprayed because a peer says so.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    ip.is_ipv4() && place::is_public(ip)
}

/// What an end does beside probing the places that it was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Plain,
    /// Behind a symmetric NAT: many ports of ours look for one.
    Scouts,
    /// The other end is: one port of ours looks for many.
    Spray,
    /// Both are: only where both NATs count is there hope.
    Count,
}

fn role(own: Mapping, theirs: Mapping) -> Role {
    match (own, theirs) {
        (Mapping::Dependent, Mapping::Dependent) => Role::Count,
        (Mapping::Dependent, _) => Role::Scouts,
        (_, Mapping::Dependent) => Role::Spray,
        _ => Role::Plain,
    }
}

#[cfg(test)]
mod tests;
