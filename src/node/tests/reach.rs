//! Ways by relays that swallow are found out by the two ends and left.

use super::*;

/// Nodes 1 and 4, which reach each other by the relays 2 and 3 only; how much dearer 3 is than 2.
pub(super) fn two_relays_at(more: u32) -> Wires {
    let network = network(None);
    let cost = |i| if i == 3 { more } else { 0 };
    let mut nodes: Vec<(u8, Node)> = (1..=4).map(|i| (i, node_with(i, &network, |c| c.cost = cost(i)))).collect();
    for end in [0, 3] {
        nodes[end].1.set_bootstrap(Instant(0), &[addr(2), addr(3)]);
    }
    let mut w = Wires::new(nodes);
    w.cut.push((1, 4));
    w.run(Duration::from_secs(5));
    w
}

fn two_relays() -> Wires {
    two_relays_at(0)
}

pub(super) fn next(w: &mut Wires, from: u8, to: u8) -> u8 {
    let id = w.node(to).id();
    let routing = w.node(from).routing();
    let hop = routing.next_hop(routing.origin(&id).unwrap()).unwrap();
    w.nodes.iter().find(|(_, node)| node.id() == hop).unwrap().0
}

/// Sends for `seconds`, a packet each 20 ms; returns how many arrived in each second.
pub(super) fn stream(w: &mut Wires, seconds: usize) -> Vec<usize> {
    let second = |w: &mut Wires| {
        let before = w.delivered.iter().filter(|(to, _)| *to == 4).count();
        for _ in 0..50 {
            w.send(1, 4, 7);
            w.run(Duration::from_millis(20));
        }
        w.delivered.iter().filter(|(to, _)| *to == 4).count() - before
    };
    (0..seconds).map(|_| second(w)).collect()
}

#[test]
fn a_relay_that_swallows_is_left_within_seconds_and_stays_left() {
    let mut w = two_relays();
    assert!(stream(&mut w, 3).iter().all(|n| *n >= 48), "both relays are honest");
    let liar = next(&mut w, 1, 4);
    w.dark.push((liar, 4));
    let arrived = stream(&mut w, 60);
    let silent = arrived.iter().filter(|n| **n < 45).count();
    assert!(silent <= 6, "packets a second: {arrived:?}");
    assert!(arrived[10..].iter().all(|n| *n >= 48), "it takes nobody in again: {arrived:?}");
    assert_ne!(next(&mut w, 1, 4), liar);
    assert!(w.node(1).counters.ways_given_up >= 1);
}

#[test]
fn a_relay_that_swallows_from_the_beginning_keeps_no_session_from_coming_about() {
    let mut w = two_relays();
    let liar = next(&mut w, 1, 4);
    w.dark.push((liar, 4));
    let arrived = stream(&mut w, 20);
    assert!(arrived[12..].iter().all(|n| *n >= 45), "packets a second: {arrived:?}");
}

#[test]
fn nobody_is_asked_while_nothing_is_sent() {
    let mut w = two_relays();
    stream(&mut w, 3);
    w.run(Duration::from_secs(10));
    w.tape.clear();
    w.run(Duration::from_secs(60));
    let relayed = w.tape.iter().filter(|t| t.2[0] == packet::HOP).count();
    assert_eq!(relayed, 0);
}

#[test]
fn a_relay_that_swallows_and_reconnects_stays_left() {
    for every in [2, 3, 5] {
        let mut w = two_relays_at(5000);
        stream(&mut w, 3);
        assert_eq!(next(&mut w, 1, 4), 2, "the better one");
        w.dark.push((2, 4));
        let mut arrived = 0;
        for second in 0..60 {
            if second % every == 0 {
                let now = w.now;
                w.node(2).reconnect(now);
                w.carry();
            }
            arrived += stream(&mut w, 1)[0];
        }
        assert!(arrived >= 2600, "reconnecting every {every} s: {arrived} of 3000 arrived");
    }
}

#[test]
fn who_passes_probes_alone_is_not_taken_for_a_direct_way_for_long() {
    let mut w = two_relays_at(5000);
    stream(&mut w, 3);
    assert_eq!(next(&mut w, 1, 4), 2);
    w.proxy = Some(2000);
    stream(&mut w, 5);
    let far = w.node(4).id();
    let link = |w: &mut Wires| w.node(1).peers.get(&far).and_then(|p| p.link.as_ref()).filter(|l| l.up).map(|l| l.addr);
    assert_eq!(link(&mut w), Some(addr(5)), "the ends think that they have a link");
    // From now on nothing longer than an answer to a probe passes there, and nothing by the relay.
    w.proxy = Some(90);
    w.dark.push((2, 4));
    let arrived = stream(&mut w, 60);
    assert!(arrived[10..].iter().all(|n| *n >= 45), "packets a second: {arrived:?}");
    assert_eq!((link(&mut w), next(&mut w, 1, 4)), (None, 3));
    assert_eq!(w.node(1).counters.places_left, 1);
}

/// Node 4 hears nothing for a while. That is no relay's fault: afterwards the better way is in use as before.
#[test]
fn a_node_that_is_away_brings_doubt_on_nobody() {
    let mut w = two_relays_at(5000);
    assert_eq!(next(&mut w, 1, 4), 2, "the better one");
    w.dark.extend([(2, 4), (3, 4)]);
    stream(&mut w, 31);
    assert!(w.node(1).counters.ways_given_up >= 4, "both were tried");
    w.dark.clear();
    w.delivered.clear();
    let arrived = stream(&mut w, 10);
    assert!(arrived[5..].iter().all(|n| *n >= 48), "packets a second: {arrived:?}");
    assert_eq!(next(&mut w, 1, 4), 2, "the better one");
    assert!(w.node(1).routing().counters.distrusted >= 4);
}

/// As above, for so short that only one way was found silent.
#[test]
fn a_node_that_is_away_for_a_moment_brings_doubt_on_nobody() {
    for away in [2, 3, 6] {
        let mut w = two_relays_at(5000);
        stream(&mut w, 3);
        assert_eq!(next(&mut w, 1, 4), 2, "the better one");
        w.dark.extend([(2, 4), (3, 4)]);
        stream(&mut w, away);
        w.dark.clear();
        stream(&mut w, 5);
        assert!(w.node(1).counters.ways_given_up >= 1);
        assert_eq!(next(&mut w, 1, 4), 2, "{away} s: the better one");
    }
}

/// Relay 2 swallows whenever its way is in use, and answers when it isn't.
#[test]
fn who_answers_only_when_its_way_is_not_used_is_pardoned_once() {
    let mut w = two_relays_at(5000);
    stream(&mut w, 3);
    let mut arrived = 0;
    for _ in 0..6000 {
        // The honest one loses the question that goes with the change.
        w.dark = if next(&mut w, 1, 4) == 2 { vec![(2, 4), (3, 4)] } else { Vec::new() };
        w.delivered.clear();
        w.tape.clear();
        w.send(1, 4, 7);
        w.run(Duration::from_millis(20));
        arrived += w.delivered.iter().filter(|(to, _)| *to == 4).count();
    }
    assert!(arrived >= 5800, "{arrived} of 6000");
    assert_eq!(w.node(1).counters.ways_given_up, 2);
}
