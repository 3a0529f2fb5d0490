use super::*;

const SECRET: [u8; 16] = [7; 16];

fn addr() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 9))
}

/// Drives a link whose probes are answered after `rtt` until `cut`, and returns when it is declared dead.
fn death(active: bool, rtt: Duration, cut: Instant, loss: f64) -> Option<Instant> {
    let mut rng = Rng::from_seed([3; 32]);
    let mut now = Instant(0);
    let mut link = Link::new(now, addr(), SECRET);
    link.up = true;
    let mut answers: VecDeque<(Instant, u32)> = VecDeque::new();
    let mut packets = 0;
    while now < cut + Duration::from_secs(30) {
        now = now + Duration::from_millis(1);
        if active {
            packets += 1;
            link.note_traffic(now, packets);
        }
        while answers.front().is_some_and(|a| a.0 <= now) {
            let (_, id) = answers.pop_front()?;
            link.replied(now, id);
        }
        if link.next_tick(now) > now {
            continue;
        }
        match link.tick(now) {
            Tick::Probe(id) if now + rtt < cut && !rng.chance(loss) => answers.push_back((now + rtt, id)),
            Tick::Dead => return Some(now),
            _ => {}
        }
    }
    None
}

#[test]
fn a_busy_link_is_dead_within_300_ms_and_an_idle_one_within_seconds() {
    let cut = Instant(20_000_000);
    for rtt in [1, 10, 20] {
        let died = death(true, Duration::from_millis(rtt), cut, 0.0).unwrap();
        assert!(died > cut && died.since(cut) <= Duration::from_millis(320), "{rtt} ms: {:?}", died.since(cut));
    }
    let died = death(false, Duration::from_millis(10), cut, 0.0).unwrap();
    assert!(died > cut && died.since(cut) <= Duration::from_secs(10));
}

#[test]
fn a_node_that_got_no_processor_asks_before_it_gives_a_link_up() {
    let mut link = Link::new(Instant(0), addr(), SECRET);
    link.up = true;
    link.note_traffic(Instant(0), 1);
    let Tick::Probe(id) = link.tick(Instant(0)) else { panic!("a probe first") };
    link.replied(Instant(1_000), id);
    let ticks: Vec<Tick> = (700..850).map(|ms| link.tick(Instant(ms * 1000))).collect();
    assert!(ticks[..90].iter().all(|t| *t != Tick::Dead) && ticks.contains(&Tick::Dead));
}

#[test]
fn loss_alone_does_not_kill_a_busy_link() {
    for loss in [0.05, 0.2, 0.5] {
        let cut = Instant(200_000_000);
        let died = death(true, Duration::from_millis(20), cut, loss).unwrap();
        assert!(died >= cut, "killed by {loss} loss at {died:?}");
    }
}

#[test]
fn a_lossy_link_is_watched_while_its_users_are_silent() {
    let mut rng = Rng::from_seed([5; 32]);
    let mut link = Link::new(Instant(0), addr(), SECRET);
    link.up = true;
    let (mut answer, mut throttled) = (None, Vec::new());
    for ms in 1..25_000u64 {
        let now = Instant(ms * 1000);
        // TCP sends nothing for seconds after its segments were lost again and again.
        if ms < 2000 {
            link.note_traffic(now, ms);
        }
        if let Some((_, id)) = answer.take_if(|(at, _)| *at <= ms) {
            link.replied(now, id);
        }
        if link.next_tick(now) <= now
            && let Tick::Probe(id) = link.tick(now)
            && (ms < 2000 || !rng.chance(0.45))
        {
            answer = Some((ms + 5, id));
        }
        if link.is_throttled(now) {
            throttled.push(ms);
        }
    }
    let (first, last) = (throttled[0], throttled[throttled.len() - 1]);
    assert!(first < 6000 && (10_000..18_000).contains(&last), "from {first} to {last} ms");
}

/// Drives a link that loses nearly half from the second second on, and comes back from each death. Returns after how many
/// milliseconds that is known, and the number of deaths.
fn found_throttled(seed: u8) -> (u64, u32) {
    let mut rng = Rng::from_seed([seed; 32]);
    let mut link = Link::new(Instant(0), addr(), SECRET);
    let (mut answers, mut deaths, mut packets) = (VecDeque::new(), 0, 0);
    for ms in 1..60_000u64 {
        let now = Instant(ms * 1000);
        // TCP's retransmissions (RFC 6298, 5.5).
        if ms < 2000 || [2200, 2600, 3400, 5000, 8200, 14_600, 27_400].contains(&ms) {
            packets += 1;
        }
        link.note_traffic(now, packets);
        while answers.front().is_some_and(|(at, _)| *at <= ms) {
            let Some((_, id)) = answers.pop_front() else { break };
            if link.replied(now, id).is_some() && !link.up {
                link.come_up(now);
            }
        }
        if link.is_throttled(now) {
            return (ms - 2000, deaths);
        }
        if link.next_tick(now) > now {
            continue;
        }
        match link.tick(now) {
            Tick::Probe(id) if ms < 2000 || !rng.chance(0.45) => answers.push_back((ms + 5, id)),
            Tick::Dead if link.up => {
                deaths += 1;
                link = link.reborn(now);
            }
            _ => {}
        }
    }
    (u64::MAX, deaths)
}

#[test]
fn loss_that_kills_a_link_is_not_forgotten() {
    let found: Vec<_> = (0..=255).map(found_throttled).collect();
    let dead = found.iter().filter(|(_, deaths)| *deaths > 0).count();
    let slowest = found.iter().map(|(ms, _)| *ms).max();
    println!("{dead} of 256 links died, found after {slowest:?} ms at most");
    assert!(dead > 10, "{dead}");
    assert!(slowest < Some(7000), "{slowest:?} ms");
}

#[test]
fn inside_tls_probes_are_no_clockwork() {
    let now = Instant(0);
    for id in [7, 1 << 20, 0xdead_beef] {
        let beats: Vec<f64> = (id..id + 200).map(beat).collect();
        let mean = beats.iter().sum::<f64>() / 200.0;
        let deviation = (beats.iter().map(|b| (b - mean).powi(2)).sum::<f64>() / 200.0).sqrt();
        assert!((0.9..1.1).contains(&mean) && deviation / mean > 0.3, "{mean} {deviation}");
    }
    let sealed = path::through(addr(), path::FIRST_STREAM + 1);
    for (addr, differs) in [(addr(), false), (sealed, true)] {
        let mut link = Link::new(now, addr, SECRET);
        link.up = true;
        link.tick(now);
        assert_eq!(link.probe_interval(now).0 != IDLE_PROBE, differs);
    }
}

#[test]
fn a_long_idle_link_is_probed_as_rarely_as_its_nat_allows() {
    let (mut now, mut last) = (Instant(0), Instant(0));
    let mut link = Link::new(now, addr(), SECRET);
    link.up = true;
    link.rest = Duration::from_secs(45);
    let mut gaps = Vec::new();
    while now < Instant(0) + Duration::from_secs(1800) {
        now = link.next_tick(now).max(now + Duration::from_millis(1));
        if let Tick::Probe(id) = link.tick(now) {
            gaps.push(now.since(last).as_secs());
            last = now;
            link.replied(now + Duration::from_millis(20), id);
        }
    }
    assert!(gaps[2] == 5 && gaps.last() == Some(&45), "{gaps:?}");
    assert!(gaps.windows(2).all(|g| g[0] <= g[1] + 1 && g[1] <= 45), "{gaps:?}");
    // Whoever uses it learns at once that it is dead.
    link.note_traffic(now, 1);
    let since = now;
    while link.tick(now) != Tick::Dead {
        now = link.next_tick(now).max(now + Duration::from_millis(1));
    }
    assert!(now.since(since) < Duration::from_millis(400), "{:?}", now.since(since));
}

#[test]
fn a_link_moves_only_where_it_is_clearly_better() {
    let other = SocketAddr::from(([192, 0, 2, 2], 9));
    let moves = |here_ms: u64, there_ms: u64, lost_here: bool, lost_there: bool| {
        let mut now = Instant(0);
        let mut link = Link::new(now, addr(), SECRET);
        link.come_up(now);
        (0..24).any(|i| {
            now = now + Duration::from_secs(1);
            let id = link.sent_probe(now, addr());
            if lost_here && i % 2 == 0 {
                link.loss += (1.0 - link.loss) * LOSS_WEIGHT;
            } else {
                link.replied(now + Duration::from_millis(here_ms), id);
            }
            link.ask_other(other);
            !(lost_there && i % 2 == 0) && link.compare(other, Duration::from_millis(there_ms))
        })
    };
    assert!(moves(40, 1, false, false) && moves(40, 20, false, false));
    assert!(!moves(40, 36, false, false) && !moves(3, 1, false, false));
    assert!(moves(40, 40, true, false), "away from loss");
    assert!(!moves(40, 20, false, true), "not into loss");
}

#[test]
fn cost_has_hysteresis() {
    let mut link = Link::new(Instant(0), addr(), SECRET);
    let mut now = Instant(0);
    let mut round = |link: &mut Link, rtt: u64| {
        now = now + Duration::from_secs(3);
        let id = link.sent_probe(now, addr());
        link.replied(now + Duration::from_micros(rtt), id);
        link.cost(now, 0)
    };
    assert_eq!(round(&mut link, 10_000), Some(6_500));
    assert_eq!(round(&mut link, 9_600), None);
    assert_eq!(round(&mut link, 2_000), Some(2_500));
    assert!((0..RTT_SAMPLES).any(|_| round(&mut link, 40_000) == Some(21_500)), "rises once old samples are gone");
}

#[test]
fn nobody_can_tell_the_number_of_the_next_probe() {
    let numbers = |secret| {
        let mut link = Link::new(Instant(0), addr(), secret);
        (0..1000).map(|_| link.sent_probe(Instant(0), addr())).collect::<Vec<u32>>()
    };
    let (one, other) = (numbers(SECRET), numbers([8; 16]));
    let steps: std::collections::BTreeSet<u32> = one.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.len() > 990, "no step is like another");
    assert!(one.iter().zip(&other).all(|(a, b)| a != b));
}
