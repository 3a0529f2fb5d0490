//! Relays that pass a part of what they are to pass, know questions by their length, and hand a way to each other.

use super::{
    reach::{next, stream, two_relays_at},
    *,
};
use crate::{types::INFINITY, wire::proto};

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
        metrics: vec![if total < INFINITY { total.saturating_sub(link) } else { total }],
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
            say(&mut w, 2, INFINITY);
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
            0..3 => say(&mut w, 2, if rng.chance(0.5) { INFINITY } else { 3000 + rng.below(9000) as u32 }),
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

/// A packet of that many bytes.
fn send_long(w: &mut Wires, bytes: usize) {
    let mut packet = w.packet(1, 4, 9);
    packet.resize(bytes, 9);
    packet[2..4].copy_from_slice(&(bytes as u16).to_be_bytes());
    let now = w.now;
    w.node(1).handle_tun(now, &packet);
    w.carry();
}

/// Relay 2 passes so many packets each 5 ms for a quarter of a minute, then swallows all but questions while a packet comes each
/// `pause`: after how many seconds it is left.
fn seconds_after_plenty(packets: usize, pause: Duration) -> u64 {
    let mut w = two_relays_at(5000);
    stream(&mut w, 3);
    for _ in 0..3000 {
        (0..packets).for_each(|_| send_long(&mut w, 1200));
        w.tape.clear();
        w.delivered.clear();
        w.run(Duration::from_millis(5));
    }
    assert_eq!(next(&mut w, 1, 4), 2, "the better one, and honest");
    w.thieves = (vec![2], SHORT);
    let begin = w.now;
    while next(&mut w, 1, 4) == 2 && w.now.since(begin) < Duration::from_secs(120) {
        send_long(&mut w, 100);
        w.run(pause);
    }
    w.now.since(begin).as_secs()
}

#[test]
fn plenty_that_arrived_hides_nothing_of_what_is_swallowed_later() {
    for packets in [0, 1, 20] {
        let found = [200, 1000].map(|pause| seconds_after_plenty(packets, Duration::from_millis(pause)));
        assert!(found[0] <= 6 && found[1] <= 20, "after {packets} packets each 5 ms: left after {found:?} s");
    }
}

fn hop(w: &mut Wires) -> u8 {
    let id = w.node(4).id();
    let routing = w.node(1).routing();
    let hop = routing.next_hop(routing.origin(&id).unwrap());
    w.nodes.iter().find(|(_, node)| Some(node.id()) == hop).map_or(0, |n| n.0)
}

/// Ten relays collude. Each in turn offers the best way, swallows what comes until a question shows it, and withdraws. Returns how
/// many of a hundred packets arrived in each 2 s; at the beginning the link to the honest relay gets a little dearer twice.
#[test]
fn ten_that_hand_a_way_on_are_the_last_choice_one_after_the_other() {
    let network = network(None);
    let thieves: Vec<u8> = (6..=15).collect();
    let cost = |i| if i == 3 { 30_000 } else { 0 };
    let nodes = [1, 3, 4].iter().chain(&thieves).map(|i| (*i, node_with(*i, &network, |c| c.cost = cost(*i))));
    let mut w = Wires::new(nodes.collect());
    let relays: Vec<SocketAddr> = thieves.iter().chain(&[3]).map(|i| addr(*i)).collect();
    [1, 4].iter().for_each(|end| w.node(*end).set_bootstrap(Instant(0), &relays));
    w.cut.push((1, 4));
    w.run(Duration::from_secs(8));
    stream(&mut w, 3);
    thieves.iter().for_each(|thief| say(&mut w, *thief, INFINITY));
    w.run(Duration::from_secs(61));
    let (honest, far) = (w.node(3).id(), w.node(4).id());
    assert_eq!(hop(&mut w), 3, "nobody else offers a way");
    for (round, thief) in [6, 7].into_iter().enumerate() {
        for metric in [5000, INFINITY] {
            say(&mut w, thief, metric);
            w.node(4).own.need();
            w.run(Duration::from_secs(4));
        }
        let now = w.now;
        let node = w.node(1);
        let peer = node.peers.get(&honest).unwrap();
        let (neighbor, cost) = (peer.neighbor.unwrap(), peer.link.as_ref().unwrap().told_cost());
        node.routing.neighbor_cost(now, neighbor, cost + 1 + round as u32);
        say(&mut w, thief, 5000);
    }
    let now = w.now;
    let doubted: Vec<bool> = w.node(1).routing().offers(now, &far).filter(|o| o.0 == honest).map(|o| o.1).collect();
    assert_eq!(doubted, [false], "the honest one is held to nothing");

    let arrived: Vec<usize> = (0..60).map(|i| turn_of(&mut w, thieves[i % thieves.len()], i)).collect();
    let (first, last) = (arrived[..30].iter().sum::<usize>(), arrived[30..].iter().sum::<usize>());
    assert!(first >= 2400 && last >= 2950, "{first} and {last} of 3000 each: {arrived:?}");
}

fn turn_of(w: &mut Wires, thief: u8, turn: usize) -> usize {
    if turn.is_multiple_of(5) {
        w.node(4).own.need();
    }
    w.thieves = (vec![thief], SHORT);
    say(w, thief, 5000);
    w.delivered.clear();
    let mut questions = 0;
    for i in 0..100 {
        w.thieves.1 = if i < 3 { SHORT } else { 0 };
        w.tape.clear();
        w.send(1, 4, 7);
        w.run(Duration::from_millis(20));
        let is_question =
            |t: &&(u8, u8, Vec<u8>)| (t.0, t.1) == (1, thief) && t.2[0] == packet::HOP && t.2.len() <= SHORT;
        questions += w.tape.iter().filter(is_question).count();
        if questions >= 3 {
            say(w, thief, INFINITY);
        }
    }
    w.delivered.iter().filter(|(to, _)| *to == 4).count()
}
