//! Reachability is proven end to end: a short way on offer attracts, and holds nobody.

use super::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A client (1) and two nodes that offer `prefixes` (4 and 5), each behind a relay of its own (2 and 3). The way over the first relay is the
/// shorter one.
fn two_ways(prefixes: &[&str], accept: bool) -> Wires {
    let network = network(None);
    let prefixes: Vec<crate::types::IpPrefix> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
    let offered = |seed: u8| {
        let prefixes = prefixes.clone();
        node_with(seed, &network, |c| {
            c.content.prefixes = prefixes;
            c.punch = false;
        })
    };
    let plain = |seed: u8, cost: Metric| {
        let accepted = if accept { prefixes.clone() } else { vec![] };
        node_with(seed, &network, |c| {
            (c.cost, c.punch) = (cost, false);
            c.policy.accept = [4, 5].map(|i| (identity(i).id(), accepted.clone())).into();
        })
    };
    let nodes = vec![(1, plain(1, 0)), (2, plain(2, 0)), (3, plain(3, 30_000)), (4, offered(4)), (5, offered(5))];
    let mut w = Wires::new(nodes);
    w.cut = vec![(1, 4), (1, 5), (2, 3), (2, 5), (3, 4), (4, 5)];
    for (node, at) in [(1, vec![addr(2), addr(3)]), (4, vec![addr(2)]), (5, vec![addr(3)])] {
        w.node(node).set_bootstrap(Instant(0), &at);
    }
    w
}

/// Runs until the client's exit is the one given; returns the seconds that it took.
fn until_exit(w: &mut Wires, exit: u8, limit: u64) -> Option<u64> {
    let id = w.node(exit).id();
    (0..limit).find(|_| {
        w.run(secs(1));
        w.node(1).exit() == Some(id)
    })
}

fn use_exit(w: &mut Wires, choice: &str) {
    w.run(secs(5));
    let now = w.now;
    w.node(1).set_exit(now, choice.parse().unwrap());
}

#[test]
fn a_dead_exit_behind_a_liar_is_left_for_one_that_answers() {
    let mut w = two_ways(&["0.0.0.0/0"], false);
    // The relay offers a short way to the exit, and lets nothing through. To everybody in the mesh it looks like a way.
    w.dark.push((2, 4));
    use_exit(&mut w, "auto");
    let (dead, live) = (w.node(4).id(), w.node(5).id());
    assert_eq!(w.node(1).exit(), Some(dead), "the metric attracts");
    let took = until_exit(&mut w, 5, 15);
    assert!(took.is_some_and(|s| s <= 5), "the other one answers, this one never did: {took:?} s");
    for _ in 0..120 {
        w.run(secs(5));
        assert_eq!(w.node(1).exit(), Some(live), "and it holds nobody, for ten minutes");
    }
    let now = w.now;
    let offers = w.node(1).exit_offers(now);
    assert!(offers.iter().any(|o| o.node_id == dead.to_string() && o.silent), "people see it");
    assert_eq!(w.node(1).status().counters["unanswered_end_to_end"], 4, "asked ever more rarely");
}

#[test]
fn an_exit_that_was_good_is_left_when_it_no_longer_answers() {
    let mut w = two_ways(&["0.0.0.0/0"], false);
    use_exit(&mut w, "auto");
    let (first, second) = (w.node(4).id(), w.node(5).id());
    w.run(secs(60));
    assert_eq!(w.node(1).exit(), Some(first), "the nearest one, as long as it answers");
    w.dark.push((2, 4));
    let mut took = 0;
    while w.node(1).exit() != Some(second) {
        let mut packet = w.packet(1, 5, 7);
        packet[16..20].copy_from_slice(&[198, 51, 100, 7]);
        let now = w.now;
        w.node(1).handle_tun(now, &packet);
        w.run(Duration::from_millis(500));
        took += 1;
        assert!(took < 32, "within 16 s");
    }
    // It answers again, and is so much nearer that it is worth the connections over the other one.
    w.dark.clear();
    let back = until_exit(&mut w, 4, 180);
    assert!(back.is_some_and(|s| s > 30), "after a while: {back:?} s");
}

#[test]
fn a_network_behind_two_routers_is_reached_through_the_one_that_answers() {
    let mut w = two_ways(&["10.7.0.0/16"], true);
    w.run(secs(5));
    let ids = [4, 5].map(|i| (i, w.node(i).id()));
    let (first, second) = if ids[0].1 < ids[1].1 { (ids[0], ids[1]) } else { (ids[1], ids[0]) };
    let inside: IpAddr = [10, 7, 0, 1].into();
    let used = |w: &mut Wires| w.node(1).destination(inside).map(|d| d.node);
    assert_eq!(used(&mut w), Some(first.1));
    w.dark.push((first.0 - 2, first.0));
    let mut packet = w.packet(1, 5, 7);
    packet[16..20].copy_from_slice(&[10, 7, 0, 1]);
    w.tape.clear();
    w.run(secs(120));
    let idle = w.tape.iter().filter(|t| t.0 == 1 && t.2[0] == packet::HOP).count();
    assert_eq!(idle, 0, "nobody is asked for a network that nobody uses");
    for _ in 0..10 {
        let now = w.now;
        w.node(1).handle_tun(now, &packet);
        w.run(secs(1));
    }
    assert_eq!(used(&mut w), Some(second.1));
    assert_eq!(w.node(1).snapshot().destination(inside).map(|d| d.node), Some(second.1), "and for the data plane");
    assert!(w.delivered.iter().any(|(to, p)| *to == second.0 && *p == packet));
    assert!(w.node(1).owns(inside, &first.1), "the other one may still send");
}
