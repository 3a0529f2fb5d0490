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
        let history = self.history.entry(id).or_insert_with(|| History::new(now));
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
        if self.history.get(id).is_some_and(|h| now < h.rest) {
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
        if !self.begun.take(now) {
            self.refused += 1;
            return;
        }
        let accepted = self.accepts(now, own, &id, theirs);
        let history = self.history.entry(id).or_insert_with(|| History::new(now));
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
        let history = self.history.entry(id).or_insert_with(|| History::new(now));
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
        self.history.entry(id).or_insert_with(|| History::new(now)).counter = counter;
    }

    /// The attempt is over: there is a link, or the peer is gone.
    pub fn end(&mut self, now: Instant, id: &NodeId) {
        if let Some(Attempt { search: Some(Search::Scouts { numbers, sent: 1.., .. }), .. }) = self.attempts.remove(id)
        {
            self.close_later(now, numbers);
        }
        self.history.remove(id);
    }

    /// The network changed: what failed may work now.
    pub fn reset(&mut self) {
        self.history.clear();
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
mod tests {
    use super::{attempt::ROUNDS, *};

    fn id(i: u8) -> NodeId {
        NodeId([i; 32])
    }

    fn places(mapping: Mapping) -> Places {
        let reflexive = vec!["198.51.100.7:4000".parse().unwrap()];
        Places { endpoints: vec!["10.0.0.7:51900".parse().unwrap()], reflexive, mapping, counter: None }
    }

    fn run(p: &mut Puncher, mut now: Instant, until: Instant) -> Vec<(Instant, SocketAddr)> {
        let mut sent = Vec::new();
        while let Some(at) = p.poll_timeout().filter(|at| *at < until) {
            now = now.max(at);
            sent.extend(p.poll(now).into_iter().map(|(_, to)| (now, to)));
        }
        sent
    }

    #[test]
    fn a_birthday_attempt_keeps_to_its_budget_and_ends() {
        let start = Instant(1_000_000);
        for (own, theirs) in [(Mapping::Dependent, Mapping::Independent), (Mapping::Unknown, Mapping::Dependent)] {
            let mut p = Puncher::new(Rng::from_seed([1; 32]));
            p.begin(start, id(1), (own, true), &places(theirs));
            let sent = run(&mut p, start, start + Duration::from_secs(60));
            let extra: Vec<_> = sent.iter().filter(|(_, to)| !places(theirs).reflexive.contains(to)).collect();
            for (at, _) in &extra {
                let second = extra.iter().filter(|(t, _)| *t >= *at && t.since(*at) < Duration::from_secs(1)).count();
                assert!(second <= 64 + ROUNDS.len() * 2, "{second} in a second");
            }
            let sockets: BTreeSet<u32> = sent.iter().map(|(_, to)| path::socket_of(*to)).collect();
            if own == Mapping::Dependent {
                assert_eq!(sockets.len(), 257);
            } else {
                let ports: BTreeSet<u16> = sent.iter().map(|(_, to)| to.port()).collect();
                assert!(sockets.len() == 1 && ports.len() > 1000, "{}", ports.len());
            }
            assert!(sent.iter().all(|(at, _)| at.since(start) <= LIFE) && p.poll_timeout().is_none());
            assert!(p.scouts(start + LIFE).is_empty(), "nothing stays open");
        }
    }

    /// Two NATs that count, with other flows in between.
    fn counted(others: [u16; 2]) -> bool {
        let start = Instant(1_000_000);
        let ips: [IpAddr; 2] = ["198.51.100.1".parse().unwrap(), "198.51.100.2".parse().unwrap()];
        let counters = [Counter { port: 40_000, step: 1 }, Counter { port: 50_000, step: 2 }];
        let ends = [0, 1].map(|i: usize| {
            let mut p = Puncher::new(Rng::from_seed([1; 32]));
            let other = 1 - i;
            p.note_counter(start, id(9), Some(counters[i]));
            let reflexive = vec![SocketAddr::new(ips[other], 7)];
            let theirs =
                Places { endpoints: vec![], reflexive, mapping: Mapping::Dependent, counter: Some(counters[other]) };
            assert!(p.accepts(start, Mapping::Dependent, &id(9), &theirs));
            p.begin(start, id(9), (Mapping::Dependent, i == 0), &theirs);
            run(&mut p, start, start + Duration::from_secs(60))
        });
        // From which port of its NAT each end has sent where: a new port per socket and destination.
        let sent = [0, 1].map(|i: usize| {
            let mut ports: BTreeMap<SocketAddr, u16> = BTreeMap::new();
            for (_, to) in &ends[i] {
                let next = counters[i].nth(u32::from(others[i]) + ports.len() as u32 + 1).unwrap();
                ports.entry(*to).or_insert(next);
            }
            ports.into_iter().map(|(to, port)| (port, path::plain(to))).collect::<BTreeSet<_>>()
        });
        sent[0].iter().any(|(port, to)| sent[1].contains(&(to.port(), SocketAddr::new(ips[0], *port))))
    }

    #[test]
    fn counting_nats_meet_whatever_else_they_see() {
        for others in [[0, 0], [5, 0], [0, 40], [30, 30]] {
            assert!(counted(others), "{others:?}");
        }
        assert!(!counted([60, 60]), "a test that can fail");
    }

    #[test]
    fn scouts_outlive_a_met_peer_for_a_moment() {
        let start = Instant(1_000_000);
        let mut p = Puncher::new(Rng::from_seed([1; 32]));
        p.begin(start, id(1), (Mapping::Dependent, true), &places(Mapping::Independent));
        run(&mut p, start, start + Duration::from_secs(3));
        let met = start + Duration::from_secs(3);
        p.end(met, &id(1));
        assert_eq!(p.scouts(met + LINGER / 2).len(), SHARED.len());
        assert!(p.scouts(met + LINGER).is_empty() && p.poll_timeout().is_none());
    }

    #[test]
    fn offers_back_off_and_follow_use() {
        let mut p = Puncher::new(Rng::from_seed([1; 32]));
        let mut now = Instant(0);
        let mut offers = Vec::new();
        for second in 0..3600u64 {
            now = Instant(second * 1_000_000);
            if p.offers(now, id(1), 1000 + second * 1000) {
                offers.push(second);
            }
        }
        assert!(offers[0] == 0 && offers.len() < 16 && *offers.last().unwrap() > 2400, "{offers:?}");
        let mut idle = Puncher::new(Rng::from_seed([1; 32]));
        assert!(idle.offers(now, id(1), 1000));
        assert!(!idle.offers(now + Duration::from_secs(60), id(1), 1000), "nobody uses it");
        idle.end(now, &id(1));
        assert!(idle.offers(now + Duration::from_secs(60), id(1), 1000));
    }

    #[test]
    fn counting_is_tried_again_soon_and_then_ever_more_rarely() {
        let mut p = Puncher::new(Rng::from_seed([1; 32]));
        let counter = Some(Counter { port: 40_000, step: 1 });
        let theirs = Places { counter, ..places(Mapping::Dependent) };
        let mut offers = Vec::new();
        for tenth in 0..36_000u64 {
            let now = Instant(tenth * 100_000);
            p.poll(now);
            if p.offers(now, id(1), 1000 + tenth * 1000) {
                offers.push(tenth / 10);
                // An offer is never made in vain: the other end's rest is over as well.
                assert!(p.accepts(now, Mapping::Dependent, &id(1), &theirs));
                p.note_counter(now, id(1), counter);
                p.begin(now, id(1), (Mapping::Dependent, true), &theirs);
            }
        }
        assert!(offers[5] <= 45 && offers.len() < 20 && *offers.last().unwrap() > 2400, "{offers:?}");
    }

    #[test]
    fn searches_wait_for_their_turn() {
        let start = Instant(0);
        for (own, theirs, most) in
            [(Mapping::Independent, Mapping::Dependent, 2), (Mapping::Dependent, Mapping::Unknown, 8)]
        {
            let mut p = Puncher::new(Rng::from_seed([1; 32]));
            let of = |i: u8| Places { reflexive: vec![SocketAddr::from(([198, 51, 100, i], 4000))], ..places(theirs) };
            for i in 1..=12 {
                assert!(p.accepts(start, own, &id(i), &of(i)));
                p.begin(start, id(i), (own, true), &of(i));
            }
            let mut now = start;
            let mut searching = BTreeSet::new();
            while let Some(at) = p.poll_timeout().filter(|at| at.since(start) < Duration::from_secs(3)) {
                now = now.max(at);
                let probes = p.poll(now).into_iter();
                searching.extend(
                    probes
                        .filter(|(i, to)| !of(i.0[0]).reflexive.contains(to) && is_public(path::plain(*to).ip()))
                        .map(|(id, _)| id),
                );
            }
            assert_eq!(searching.len(), most);
            // Who has met makes room for the next one.
            let met = *searching.first().unwrap();
            p.end(now, &met);
            let later = run(&mut p, now, now + Duration::from_secs(1));
            assert!(later.len() > 64 * (most - 1));
            let going_on = p.attempts.values().filter(|a| a.searching().is_some()).count();
            assert_eq!(going_on, most);
        }
    }

    #[test]
    fn nobody_can_keep_us_sending_or_aim_us_at_ourselves() {
        let mut p = Puncher::new(Rng::from_seed([1; 32]));
        let hard = places(Mapping::Dependent);
        let mut sent = 0;
        for second in 0..300u64 {
            let now = Instant(second * 1_000_000);
            if p.accepts(now, Mapping::Independent, &id(1), &hard) {
                p.begin(now, id(1), (Mapping::Independent, true), &hard);
            }
            sent += run(&mut p, now, now + Duration::from_secs(1)).len();
        }
        assert!(sent < 300 * 64 * 9 / 10, "{sent}");
        // Many peers that may be one: a hundred aim at the same address, and a thousand begin at once.
        let mut p = Puncher::new(Rng::from_seed([1; 32]));
        (1..=100).for_each(|i| p.begin(Instant(0), id(i), (Mapping::Independent, true), &hard));
        assert_eq!(p.refused, 36);
        let sprayed = run(&mut p, Instant(0), Instant(19_000_000)).into_iter();
        let sprayed = sprayed.filter(|(_, to)| is_public(to.ip()) && !hard.reflexive.contains(to)).count();
        assert!(sprayed <= 19 * 64, "{sprayed} in 19 seconds");
        for aim in ["127.0.0.1:9", "224.0.0.1:9", "0.0.0.0:9", "255.255.255.255:9", "192.168.1.1:9"] {
            let mut p = Puncher::new(Rng::from_seed([1; 32]));
            let theirs = Places { reflexive: vec![aim.parse().unwrap()], ..places(Mapping::Dependent) };
            p.begin(Instant(0), id(1), (Mapping::Independent, true), &theirs);
            assert!(run(&mut p, Instant(0), Instant(60_000_000)).len() <= 2 * ROUNDS.len(), "{aim}");
        }
    }
}
