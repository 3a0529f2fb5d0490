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
    assert_eq!(p.refused, 100 - u64::from(BEGIN.0 - KEPT));
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

/// A member begins an attempt, goes, and comes back, as fast as it can.
#[test]
fn who_goes_and_comes_back_takes_no_more_than_who_stays() {
    let mut p = Puncher::new(Rng::from_seed([1; 32]));
    let own = Mapping::Independent;
    let mut begun = 0;
    for tenth in 0..600u64 {
        let now = Instant(tenth * 100_000);
        if p.accepts(now, own, &id(1), &places(own)) {
            p.begin(now, id(1), (own, true), &places(own));
            begun += 1;
        }
        assert!(!p.offers(now, id(1), 1_000_000) || p.accepts(now, own, &id(1), &places(own)), "no offer in vain");
        p.end(now, &id(1));
        assert!(p.accepts(now, own, &id(2), &places(own)), "others rest for themselves");
    }
    assert_eq!((begun, p.refused), (3, 0));
    p.reset();
    assert!(p.accepts(Instant(59_900_000), own, &id(1), &places(own)));
}

/// As many identities as one likes, each once.
#[test]
fn strangers_leave_half_of_the_attempts_to_who_has_been_a_neighbour() {
    let mut p = Puncher::new(Rng::from_seed([1; 32]));
    let own = Mapping::Independent;
    let stranger = |i: u32| NodeId(std::array::from_fn(|at| i.to_be_bytes()[at % 4]));
    p.meet(Instant(0), &id(1));
    for i in 0..=2000u32 {
        let now = Instant(u64::from(i) * 10_000);
        p.begin(now, stranger(i), (own, true), &places(own));
        p.end(now, &stranger(i));
        assert!(p.resting.len() <= 64 + 100, "{} rest", p.resting.len());
    }
    let now = Instant(2000 * 10_000);
    p.begin(now, id(2), (own, true), &places(own));
    p.begin(now, id(1), (own, true), &places(own));
    assert_eq!(p.attempts.keys().collect::<Vec<_>>(), [&id(1)]);
    (0..2 * MAX_MET as u32).for_each(|i| p.meet(now, &stranger(i)));
    assert_eq!(p.met.len(), MAX_MET);
    assert!(!p.met.contains_key(&id(1)) && p.met.contains_key(&stranger(2 * MAX_MET as u32 - 1)));
}
