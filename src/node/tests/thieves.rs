//! Relays that pass a part of what they are to pass, know questions by their length, and hand a way to each other.

use super::{
    reach::{next, stream, two_relays_at},
    *,
};
use crate::wire::proto;

/// The longest datagram that can hold no IP packet, the shortest of which has 20 bytes.
const SHORT: usize = packet::HOP_HEADER + packet::DATA_OVERHEAD + 19;

/// `who` tells node 1 that by it node 4 is so far away, the link to it included.
fn say(w: &mut Wires, who: u8, total: u32) {
    let (me, id, far) = (w.node(1).id(), w.node(who).id(), w.node(4).id());
    let link = w.node(1).peers.get(&id).unwrap().link.as_ref().unwrap().told_cost();
    let seqno = w.node(4).routing().own().unwrap().seqno;
    let update = proto::RouteUpdate {
        introductions: vec![proto::Introduction { slot: 9000, node_id: far.0.to_vec() }],
        slots: vec![9000],
        seqnos: vec![seqno],
        metrics: vec![total.saturating_sub(link)],
        ..Default::default()
    };
    let now = w.now;
    let message = proto::ControlMessage { kind: Some(proto::control_message::Kind::Routes(update)) };
    assert!(w.node(who).send_control_raw(now, me, prost::Message::encode_to_vec(&message)));
    w.run(Duration::from_millis(5));
}

/// Sends a packet each 20 ms; `before` sees the number of each. Returns how many arrived in the first and in the second half.
fn send_many(w: &mut Wires, count: u32, mut before: impl FnMut(&mut Wires, u32)) -> [usize; 2] {
    let mut half = |w: &mut Wires, numbers: std::ops::Range<u32>| {
        w.delivered.clear();
        for i in numbers {
            before(w, i);
            w.tape.clear();
            w.send(1, 4, 7);
            w.run(Duration::from_millis(20));
        }
        w.delivered.iter().filter(|(to, _)| *to == 4).count()
    };
    [half(w, 0..count / 2), half(w, count / 2..count)]
}

/// The relays 2 and 6 collude: each passes nothing but handshakes and questions. Twice a second the one in use gets worse by just
/// less than a tenth and 300 us, and the other one promises 1 us less than the first one had.
#[test]
fn two_that_hand_a_way_to_each_other_do_not_hold_it() {
    let network = network(None);
    let cost = |i| if i == 3 { 5000 } else { 0 };
    let nodes = [1, 2, 3, 4, 6].map(|i| (i, node_with(i, &network, |c| c.cost = cost(i))));
    let mut w = Wires::new(nodes.into());
    for end in [1, 4] {
        w.node(end).set_bootstrap(Instant(0), &[addr(2), addr(3), addr(6)]);
    }
    w.cut.push((1, 4));
    w.run(Duration::from_secs(5));
    assert!(stream(&mut w, 3).iter().all(|n| *n >= 48), "all are honest");
    w.thieves = (vec![2, 6], SHORT);
    let (mut promised, mut in_use) = (5500, 2);
    say(&mut w, in_use, promised);
    let arrived = send_many(&mut w, 3000, |w, i| {
        if i % 25 == 0 {
            say(w, in_use, promised + promised / 10 + 300);
            (promised, in_use) = (promised - 1, 8 - in_use);
            say(w, in_use, promised);
        }
    });
    assert!(arrived[0] >= 1200 && arrived[1] >= 1490, "{arrived:?} of 1500 each");
}

/// What relay 2 swallows of each window between two questions, of which it knows the number.
fn swallows_a_part(of_window: impl Fn(u32, u32) -> bool) -> [usize; 2] {
    let mut w = two_relays_at(5000);
    stream(&mut w, 3);
    assert_eq!(next(&mut w, 1, 4), 2, "the better one");
    let mut window = 0;
    send_many(&mut w, 6000, |w, i| {
        let is_question = |t: &&(u8, u8, Vec<u8>)| (t.0, t.1) == (1, 2) && t.2[0] == packet::HOP && t.2.len() <= SHORT;
        window += w.tape.iter().filter(is_question).count() as u32;
        w.thieves = (vec![2], if of_window(window, i) { SHORT } else { usize::MAX });
    })
}

#[test]
fn who_swallows_a_part_holds_nothing() {
    let quarter = swallows_a_part(|_, i| i % 4 == 0);
    let tenth = swallows_a_part(|_, i| i % 10 == 0);
    let by_windows = swallows_a_part(|window, i| window % 3 == 0 || i % 4 == 0);
    for (what, arrived) in [("a quarter", quarter), ("a tenth", tenth), ("all of every third window", by_windows)] {
        assert!(arrived[0] >= 2850 && arrived[1] >= 2970, "{what}: {arrived:?} of 3000 each");
    }
}

/// Relay 2 swallows handshakes, and hands the way to the honest relay 3 just before somebody is blamed.
#[test]
fn silence_before_there_is_a_session_is_not_held_against_who_comes_last() {
    let mut w = two_relays_at(1000);
    assert_eq!(next(&mut w, 1, 4), 2);
    w.dark.push((2, 4));
    let begin = w.now;
    let mut is_handed_over = false;
    while w.now.since(begin) < Duration::from_secs(10) {
        w.send(1, 4, 7);
        w.run(Duration::from_millis(5));
        if !is_handed_over && w.now.since(begin) >= Duration::from_millis(950) {
            is_handed_over = true;
            say(&mut w, 2, crate::types::INFINITY);
        }
    }
    say(&mut w, 2, 3500);
    w.run(Duration::from_secs(2));
    assert_eq!((next(&mut w, 1, 4), w.node(1).counters.ways_given_up), (3, 0));
}

/// Ways come and go, links too: tables that are made anew in part are what whole ones are. A way that comes and goes alone costs a
/// part.
#[test]
fn tables_made_in_part_are_what_whole_ones_are() {
    let mut w = two_relays_at(1000);
    let mut tables: HashMap<u8, Snapshot> = w.nodes.iter().map(|(i, node)| (*i, node.snapshot())).collect();
    let mut parts = 0;
    let mut rng = Rng::from_seed([9; 32]);
    for step in 0..400 {
        match rng.below(8) {
            0..3 => {
                say(&mut w, 2, if rng.chance(0.5) { crate::types::INFINITY } else { 3000 + rng.below(9000) as u32 })
            }
            3 => {
                w.cut.retain(|pair| *pair != (1, 4));
                w.run(Duration::from_secs(2));
            }
            4 => w.cut.push((1, 4)),
            5 => {
                let now = w.now;
                w.node(3).reconnect(now);
                w.carry();
            }
            _ => _ = stream(&mut w, 1),
        }
        for (i, node) in &mut w.nodes {
            parts += u32::from(!node.tables_dirty && !node.moved.is_empty());
            if let Some(after) = node.next_snapshot(&tables[i]) {
                tables.insert(*i, after);
            }
            let (part, whole) = (tables[i].outline(), node.snapshot().outline());
            let differ: Vec<_> = part.symmetric_difference(&whole).collect();
            assert!(differ.is_empty(), "step {step}, node {i}: {differ:#?}");
        }
    }
    assert!(parts >= 20, "{parts} were made in part");
}
