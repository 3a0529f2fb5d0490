//! Who writes others' addresses, or asks for more than its share.

use super::*;
use crate::wire::packet::handshake_header;

/// The virtual time between two looks, and between two datagrams of a flood: less than 100 a second, for which no cookies are
/// demanded.
const TICK: Duration = Duration::from_millis(12);

/// A datagram with a sound mac1 and whatever behind it.
fn fragment(b: &End, (at, of): (u8, u8), sender: u32, body: &[u8]) -> Vec<u8> {
    let header = handshake_header(HandshakeKind::Xx1, at, of, sender, 0);
    let mac1 = b.gate.network.gate().tag(&[&header, body]);
    [&header[..], &mac1, &[0; 16], body].concat()
}

fn sent(from: &mut End) -> Vec<Outgoing> {
    std::iter::from_fn(|| from.sessions.poll_transmit()).collect()
}

fn bytes(sent: &[Outgoing]) -> usize {
    sent.iter().map(|o| o.bytes.len()).sum()
}

/// A first message, as its body and the index of who sends it.
fn first_message(seed: u8) -> (Vec<u8>, u32) {
    let mut m = end(seed, "s", Some(seed));
    m.sessions.connect(Instant(0), Via::Direct("192.0.2.2:1".parse().unwrap()), None, PROVEN_TRIES);
    let initiator = m.sessions.initiators.values().next().unwrap();
    (initiator.message.clone(), initiator.local_index)
}

/// Begins a handshake from the victim's address with a message cut at `cut`, and goes on for a minute with `again`. What was
/// sent to `b`, and what `b` has sent.
fn reflect(b: &mut End, cut: usize, again: impl Fn(&[Vec<u8>]) -> Vec<u8>) -> (usize, usize) {
    let (message, index) = first_message(3);
    let rest: Vec<&[u8]> = message[cut..].chunks(1100).collect();
    let of = 1 + rest.len() as u8;
    let bodies = std::iter::once(&message[..cut]).chain(rest);
    let begin: Vec<Vec<u8>> = bodies.zip(0..).map(|(body, at)| fragment(b, (at, of), index, body)).collect();
    let victim: SocketAddr = "198.51.100.7:9".parse().unwrap();
    let (mut came, mut gone) = (0, 0);
    let mut send = |b: &mut End, at: u64, datagram: Vec<u8>| {
        came += datagram.len();
        b.receive(Instant(at), victim, datagram);
        b.sessions.handle_timeout(Instant(at));
        gone += bytes(&sent(b));
    };
    begin.iter().for_each(|datagram| send(b, 0, datagram.clone()));
    (1..1200).for_each(|i| send(b, i * 50_000, again(&begin)));
    (came, gone)
}

#[test]
fn an_address_that_never_answered_gets_three_times_of_what_came_from_it_at_the_most() {
    // RSA: the longest answers.
    let mut b = end(2, "s", None);
    let sender = |begin: &[Vec<u8>]| u32::from_be_bytes(begin[0][4..8].try_into().unwrap());
    let gate = end(2, "s", Some(2));
    let (came, gone) = reflect(&mut b, 1100, |begin| fragment(&gate, (0, begin.len() as u8), sender(begin), b"x"));
    assert!(gone > 1000 && gone <= MAX_GAIN * 1400, "{gone} bytes for one message, and {came} bytes that are none");
    assert!(b.sessions.counters.broken >= 100, "they are counted");
    assert_eq!(b.sessions.responders.len(), 0, "they keep nothing alive");
    // The same to the byte, and with as little of it as may be in the first fragment.
    for cut in [1100, 9] {
        let (came, gone) = reflect(&mut end(2, "s", None), cut, |begin| begin[0].clone());
        assert!(gone > 1000 && gone <= MAX_GAIN * came, "{gone} bytes for {came}");
        assert!(gone <= 20_000, "{gone} bytes");
        let mut long = end(2, "s", None);
        long.sessions.own.record.resize(2500, 0);
        let (came, gone) = reflect(&mut long, cut, |begin| begin[0].clone());
        assert!(gone > 0 && gone <= MAX_GAIN * came && long.sessions.pending() < 2, "{gone} bytes for {came}");
    }
}

#[test]
fn neighbors_in_turn_get_no_more_answers_than_one() {
    let mut b = end(2, "s", Some(2));
    let (message, index) = first_message(3);
    let datagrams = fragment::split(b.gate.network.gate(), None, (HandshakeKind::Xx1, index, 0), &message);
    let by = |i: u64| (Via::Relayed(NodeTag(3)), Some(NodeId([(i % 2) as u8; 32])));
    datagrams.iter().for_each(|d| b.receive_by(Instant(0), by(0), d.clone()));
    let answer = sent(&mut b).len();
    (1..50).for_each(|i| b.receive_by(Instant(i * 1000), by(i), datagrams[0].clone()));
    assert_eq!(sent(&mut b).len(), 0, "none before its time, whoever relays");
    b.receive_by(Instant(51_000), by(1), datagrams[0].clone());
    let again = sent(&mut b);
    assert_eq!(again.len(), answer);
    assert!(again.iter().all(|o| o.by == by(1).1), "by whom it came");
    for i in 52..60_000 {
        b.receive_by(Instant(i * 1000), by(i), datagrams[0].clone());
        b.sessions.handle_timeout(Instant(i * 1000));
    }
    assert_eq!(sent(&mut b).len(), answer * (MAX_ANSWERS as usize - 2));
}

#[test]
fn each_try_of_an_initiator_that_hears_nothing_is_answered() {
    for (ik, seed) in [(false, None), (true, None), (false, Some(2)), (true, Some(2))] {
        let (mut a, mut b) = (end(1, "s", seed.map(|_| 1)), end(2, "s", seed));
        connect(&mut a, &b, ik);
        let mut now = Instant(0);
        for try_ in 1..=PROVEN_TRIES {
            for Outgoing { bytes, .. } in sent(&mut a) {
                // It comes twice.
                b.receive(now, a.addr, bytes.clone());
                b.receive(now + Duration::from_millis(3), a.addr, bytes);
            }
            assert!(!sent(&mut b).is_empty(), "no answer to try {try_}, {ik}");
            now = a.sessions.poll_timeout().unwrap();
            a.sessions.handle_timeout(now);
            b.sessions.handle_timeout(now);
        }
    }
}

/// `a`, which `b` sees come by `way`, and a flood that comes first at each tick; from the time `at`, `a` tries. How long it
/// takes until both have keys.
fn siege(a: &mut End, b: &mut End, way: Way, at: u64, mut flood: impl FnMut(&mut End, Instant)) -> Option<Duration> {
    let back = match way {
        (Via::Direct(_), _) => (Via::Direct(b.addr), None),
        (Via::Relayed(_), by) => (Via::Relayed(b.identity.id().tag()), by),
    };
    let begins = Instant(at);
    let mut now = Instant(at.saturating_sub(5_000_000));
    let known = Some((b.identity.id(), b.identity.noise_public()));
    while now.since(begins) < Duration::from_secs(20) {
        flood(b, now);
        if now >= begins && now < begins + TICK {
            a.sessions.connect(now, back.0, known, PROVEN_TRIES);
        }
        for Outgoing { bytes, .. } in sent(a) {
            b.receive_by(now, way, bytes);
        }
        for Outgoing { via, by, bytes } in sent(b) {
            if (via, by) == way {
                a.receive_by(now, back, bytes);
            }
        }
        let both = b.established.iter().find(|y| a.established.iter().any(|x| x.local_index == y.remote_index));
        if let Some(index) = both.map(|y| y.local_index) {
            // A packet comes on it.
            b.sessions.confirmed(index);
            b.established.clear();
            a.established.clear();
            return Some(now.since(begins));
        }
        now = now + TICK;
        [&mut *a, &mut *b].into_iter().for_each(|end| end.sessions.handle_timeout(now));
        a.events();
    }
    None
}

const SOON: Duration = Duration::from_millis(700);

#[test]
fn who_writes_anothers_address_keeps_it_from_no_handshake() {
    let (mut a, mut b) = (end(1, "s", Some(1)), end(2, "s", Some(2)));
    let (from, mut index) = (a.addr, 0);
    let way = (Via::Direct(a.addr), None);
    let took = siege(&mut a, &mut b, way, 10_000_000, |b, now| {
        index += 1;
        let junk = fragment(b, (0, 1), index, &[&index.to_be_bytes()[..], b"some junk to read"].concat());
        b.receive(now, from, junk);
    });
    assert!(took.is_some_and(|t| t < SOON), "{took:?}");
}

#[test]
fn who_floods_by_a_relay_keeps_nobody_else_from_it() {
    let (mut a, mut b) = (end(1, "s", Some(1)), end(2, "s", Some(2)));
    let (tag, relay) = (a.identity.id().tag(), Some(NodeId([9; 32])));
    let mut index = 0;
    let took = siege(&mut a, &mut b, (Via::Relayed(tag), relay), 10_000_000, |b, now| {
        index += 1;
        let junk = fragment(b, (0, 1), index, &[&index.to_be_bytes()[..], b"some junk to read"].concat());
        // In made-up names, and in that of the honest one.
        let name = if index % 2 == 0 { tag } else { NodeTag(u64::from(index)) };
        b.receive_by(now, (Via::Relayed(name), relay), junk);
    });
    assert!(took.is_some_and(|t| t < SOON), "{took:?}");
}

#[test]
fn a_peer_that_was_here_before_has_a_reserve() {
    let (mut a, mut b) = (end(1, "s", Some(1)), end(2, "s", Some(2)));
    let mut stranger = end(3, "s", Some(3));
    let relay = NodeId([9; 32]);
    for (by_relay, begin) in [(true, 0), (false, 100_000_000)] {
        let way = |end: &End| match by_relay {
            true => (Via::Relayed(end.identity.id().tag()), Some(relay)),
            false => (Via::Direct(end.addr), None),
        };
        let (of_a, of_stranger) = (way(&a), way(&stranger));
        let first = siege(&mut a, &mut b, of_a, begin + 10_000_000, |_, _| {});
        assert!(first.is_some_and(|t| t < SOON));
        // So many that show cookies that nothing is left.
        let exhaust = |b: &mut End, now: Instant| {
            for i in 0..1500u64 {
                let at = SocketAddr::from(([0x2001, i as u16, 0, 0, 0, 0, 0, 1], 1));
                let taker = if by_relay { (Via::Relayed(NodeTag(i)), Some(relay)) } else { (Via::Direct(at), None) };
                let _ = b.sessions.budget.take(now, taker, true);
                let _ = b.sessions.budget.take(now, taker, false);
            }
        };
        assert_eq!(siege(&mut stranger, &mut b, of_stranger, begin + 20_000_000, exhaust), None);
        for at in [50_000_000, 60_000_000] {
            let took = siege(&mut a, &mut b, of_a, begin + at, exhaust);
            assert!(took.is_some_and(|t| t < SOON), "{took:?}");
        }
    }
}

#[test]
fn ten_thousand_networks_keep_nobody_out() {
    let (mut a, mut b) = (end(1, "s", Some(1)), end(2, "s", Some(2)));
    let way = (Via::Direct(a.addr), None);
    let mut i = 0u32;
    let mut flood = |b: &mut End, now: Instant| {
        // Each once in 4 s, with a cookie and as who writes its address.
        for _ in 0..30 {
            i = (i + 1) % 10_000;
            let at = SocketAddr::from(([0x2001, 0xdb8, 0, i as u16, 0, 0, 0, 1], 1));
            let _ = b.sessions.budget.take(now, (Via::Direct(at), None), true);
            let junk = fragment(b, (0, 1), i, &[&i.to_be_bytes()[..], b"some junk to read"].concat());
            b.receive(now, at, junk);
        }
    };
    for at in [10_000_000, 20_000_000] {
        let took = siege(&mut a, &mut b, way, at, &mut flood);
        assert!(took.is_some_and(|t| t < SOON), "{took:?}");
    }
}
