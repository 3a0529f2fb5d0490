//! Whom to link with, when, and what is sent to addresses that may be anybody's.

use super::*;

fn id(i: u16) -> NodeId {
    NodeId(crate::crypto::sha256(&[&i.to_be_bytes()]))
}

fn addr(i: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], i))
}

fn discovery(nodes: u16) -> Discovery {
    let mut d = Discovery::new(id(0), 50, Rng::from_seed([1; 32]));
    for i in 1..nodes {
        d.known(Instant(0), id(i), &[addr(i)]);
    }
    d
}

#[test]
fn small_networks_are_a_full_mesh_and_large_ones_a_connected_short_graph() {
    let mut small = discovery(30);
    assert!((1..30).all(|i| small.wants(&id(i))));
    let nodes = 400u16;
    let mut graph: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    for me in 0..nodes {
        let mut d = Discovery::new(id(me), 50, Rng::from_seed([1; 32]));
        for i in (0..nodes).filter(|i| *i != me) {
            d.known(Instant(0), id(i), &[addr(i)]);
        }
        d.update_wanted();
        for n in d.wanted.unwrap() {
            graph.entry(id(me)).or_default().insert(n);
            graph.entry(n).or_default().insert(id(me));
        }
    }
    assert!(graph.values().all(|links| links.len() <= 50));
    let mut depth = BTreeMap::from([(id(0), 0)]);
    let mut todo = std::collections::VecDeque::from([id(0)]);
    while let Some(n) = todo.pop_front() {
        for m in &graph[&n] {
            if !depth.contains_key(m) {
                depth.insert(*m, depth[&n] + 1);
                todo.push_back(*m);
            }
        }
    }
    assert_eq!(depth.len(), 400, "connected");
    assert!(*depth.values().max().unwrap() <= 8, "short");
}

#[test]
fn retries_back_off_and_start_again_when_the_network_changes() {
    let mut d = Discovery::new(id(0), 50, Rng::from_seed([1; 32]));
    d.set_bootstrap(Instant(0), &[addr(1)]);
    let mut times = Vec::new();
    while times.len() < 8 {
        let next = d.poll_timeout().unwrap();
        assert_eq!(d.poll(next).len(), 1);
        times.push(next);
    }
    assert!(times[7].since(times[6]) >= Duration::from_secs(24), "never gives up, never faster than this");
    d.retry_all(times[7]);
    assert_eq!(d.poll_timeout(), Some(times[7]));
    d.linked(times[7], id(5), addr(1));
    assert_eq!(d.poll_timeout(), None);
    d.unlinked(times[7], id(5));
    assert_eq!(d.poll(times[7]), [Attempt { addr: addr(1), expected: None, proven: true }]);
}

#[test]
fn a_node_that_changes_its_endpoints_again_and_again_is_followed_slowly() {
    let mut d = discovery(2);
    let mut attempts: Vec<Attempt> = Vec::new();
    let of = |tick: u16| {
        let [a, b] = tick.to_be_bytes();
        (0..4).map(|i| SocketAddr::from(([10, a, b, i], 9))).collect::<Vec<_>>()
    };
    // Ten times a second, ever other victims.
    for tick in 0..600u16 {
        let now = Instant(u64::from(tick) * 100_000);
        d.known(now, id(1), &of(tick));
        attempts.extend(d.poll(now));
    }
    assert!(attempts.len() <= 4 * (5 + 6 + 4), "{} in a minute", attempts.len());
    assert!(attempts.iter().all(|a| !a.proven) && d.counters.changes_deferred > 500);
    // The last word counts, and not a moment later than the next change is due.
    let last = of(599);
    let at = d.poll_timeout().unwrap();
    assert!(at.since(Instant(59_900_000)) <= Duration::from_secs(10));
    let tried: Vec<SocketAddr> = d.poll(at).iter().map(|a| a.addr).collect();
    assert_eq!(tried, last);
    // Nothing that was announced before is new.
    d.known(at, id(1), &last[..2]);
    assert!(d.poll(at).is_empty());
}

#[test]
fn addresses_that_never_answered_share_a_budget_and_proven_ones_are_free() {
    let mut d = Discovery::new(id(0), 1000, Rng::from_seed([1; 32]));
    let host = |i: u16, k: u8| SocketAddr::from(([10, (i >> 8) as u8, i as u8, k], 9));
    let endpoints = |i: u16| (0..4).map(|k| host(i, k)).collect::<Vec<_>>();
    (1..500).for_each(|i| d.known(Instant(0), id(i), &endpoints(i)));
    let mut sent = 0;
    let mut now = Instant(0);
    while let Some(at) = d.poll_timeout().filter(|at| at.since(Instant(0)) < Duration::from_secs(10)) {
        now = now.max(at);
        sent += d.poll(now).len();
    }
    assert!((128 + 250..=128 + 330).contains(&sent), "{sent}");
    assert!(d.counters.attempts_deferred > 0);
    d.linked(now, id(1), endpoints(1)[2]);
    d.unlinked(now, id(1));
    let mut proven = Vec::new();
    for _ in 0..200 {
        proven.extend(d.poll(now).into_iter().filter(|a| a.proven));
    }
    assert!(proven.iter().any(|a| a.addr == endpoints(1)[2]));
}

#[test]
fn many_nodes_that_name_one_host_get_it_no_more_than_a_few_attempts() {
    let mut d = Discovery::new(id(0), 1000, Rng::from_seed([1; 32]));
    let mut sent = 0;
    for tick in 0..100u16 {
        let now = Instant(u64::from(tick) * 100_000);
        (1..50).for_each(|i| d.known(now, id(i), &[addr(tick * 50 + i)]));
        sent += d.poll(now).len();
    }
    assert!((12..=12 + 10).contains(&sent), "{sent} in ten seconds");
    assert!(d.unproven.hosts.len() <= 1);
    d.known(Instant(10_000_000), id(60), &[SocketAddr::from(([198, 51, 100, 1], 9))]);
    let mut others = Vec::new();
    (0..100).for_each(|_| others.extend(d.poll(Instant(10_000_000))));
    assert!(others.iter().any(|a| a.expected == Some(id(60))), "others are not kept waiting");
}

/// So many members name four ports of the host of the node 200, and others each ten seconds. It has a second address, maybe, at which it
/// can't be reached from here. Returns the attempts at the one that works, in half an hour.
fn attempts_at_who_is_named(others: std::ops::Range<u16>, has_second: bool) -> usize {
    let mut d = Discovery::new(id(0), 50, Rng::from_seed([1; 32]));
    let (victim, works) = (id(200), addr(51_900));
    d.linked(Instant(0), id(250), SocketAddr::from(([198, 51, 100, 1], 9)));
    let mut attempts = 0;
    for tick in 0..18_200u64 {
        let now = Instant(tick * 100_000);
        for (n, other) in others.clone().enumerate() {
            if tick % 100 == (n * 100 / others.len()) as u64 {
                let port = 1000 + 64 * (tick / 100 % 500) as u16 + 4 * n as u16;
                d.known(now, id(other), &[0, 1, 2, 3].map(|i| addr(port + i)));
            }
        }
        if tick == 200 {
            let both = [SocketAddr::from(([203, 0, 113, 9], 51_900)), works];
            d.known(now, victim, if has_second { &both } else { &both[1..] });
        }
        attempts += d.poll(now).iter().filter(|a| a.expected == Some(victim) && a.addr == works).count();
    }
    attempts
}

#[test]
fn whoever_names_anothers_host_keeps_nobody_from_trying_it() {
    for has_second in [false, true] {
        let undisturbed = attempts_at_who_is_named(0..0, has_second);
        for others in [1..2, 1..5, 1..9, 1..17, 230..246] {
            let disturbed = attempts_at_who_is_named(others.clone(), has_second);
            assert!(disturbed + 1 >= undisturbed, "{others:?}: {disturbed} attempts instead of {undisturbed}");
        }
    }
}

/// How long after it came a node is tried, while others turn up all the time.
fn tried_beside_newcomers(every_ms: u64) -> Option<Duration> {
    let mut d = Discovery::new(id(0), 4000, Rng::from_seed([1; 32]));
    let (victim, came) = (id(200), Instant(20_000_000));
    d.linked(Instant(0), id(250), SocketAddr::from(([198, 51, 100, 1], 9)));
    for tick in 0..2000u64 {
        let now = Instant(tick * 50_000);
        if tick * 50 % every_ms == 0 {
            d.known(now, id(1000 + (tick * 50 / every_ms) as u16), &[]);
        }
        if now == came {
            d.known(now, victim, &[addr(51_900)]);
        }
        if d.poll(now).iter().any(|a| a.expected == Some(victim)) {
            return Some(now.since(came));
        }
    }
    None
}

#[test]
fn newcomers_keep_nobody_from_being_tried() {
    for every in [100, 500, 1000] {
        let after = tried_beside_newcomers(every);
        assert!(after.is_some_and(|after| after <= Duration::from_secs(20)), "one each {every} ms: {after:?}");
    }
}

#[test]
fn beyond_the_limit_ring_links_stay_and_unwanted_ones_go_first() {
    let mut d = discovery(400);
    let links: Vec<_> = (1..80)
        .map(|i| Candidate { node: id(i), temporary: i > 70, peer_wants: i % 2 == 0, since: Instant(0) })
        .collect();
    let mut left = links.clone();
    let mut gone = Vec::new();
    for _ in 0..30 {
        let now = d.surplus(Instant(60_000_000), &left);
        left.retain(|l| !now.contains(&l.node));
        gone.extend(now);
    }
    assert_eq!(left.len(), 50);
    assert!(left.iter().all(|l| !l.temporary || d.wants(&l.node) || d.is_ring(&l.node)), "no room for these");
    assert!(gone.iter().all(|n| !d.is_ring(n) && !d.wants(n)));
    assert!(
        gone.iter().all(|n| links.iter().any(|l| l.node == *n && (l.temporary || !l.peer_wants))),
        "nobody wants these"
    );
    assert!(d.surplus(Instant(60_000_000), &links[..50]).is_empty(), "no room is needed");
}
