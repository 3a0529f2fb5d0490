//! A neighbour that offers a way and withdraws it, by turns, keeps nobody from having the honest one.

use super::{
    liars::{SLOT, Scene},
    *,
};

/// What the liar (the first neighbour) does when its way was taken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trick {
    None,
    /// Says that it has lost it.
    Withdraw,
    /// Says that it has become much worse.
    Worsen,
    /// Its link goes down and comes up again.
    Reconnect,
    /// Goes back to an older sequence number.
    Older,
    /// Its link becomes much dearer: it says that it has no room for it.
    Cost,
}

/// The share of a minute in which there is a route; the honest neighbour has one, and the origin answers requests in 50 ms, at
/// most once a second.
fn share_with_a_route(trick: Trick) -> (f64, u64) {
    let mut s = Scene::new();
    (10..200).for_each(|seqno| drop(s.liars.book.page(3, seqno)));
    let (id, liar) = (s.liars.book.identities[3].id(), s.liars.book.identities[1].id());
    let mut seqno = 10;
    s.offer_at(1, seqno, 5000);
    let (mut with, mut total) = (0, 0);
    let (mut answer, mut answered): (Option<Instant>, _) = (None, Instant(0));
    let begin = s.now;
    while s.now.since(begin) < Duration::from_secs(60) {
        s.now = s.now + Duration::from_millis(10);
        s.node.handle_timeout(s.now);
        if s.asked(1) {
            let page = s.liars.book.page(3, seqno);
            s.bring(1, &page.bytes);
        }
        while let Some(request) = s.node.next_request(s.neighbors[1]) {
            if request.seqno > seqno && answer.is_none() {
                answer = Some((s.now + Duration::from_millis(50)).max(answered + Duration::from_secs(1)));
            }
        }
        if answer.is_some_and(|at| at <= s.now) {
            (answer, answered) = (None, s.now);
            seqno += 1;
            s.offer_at(1, seqno, 5000);
        }
        while s.node.next_request(s.neighbors[0]).is_some() {}
        let origin = s.node.origin(&id).unwrap();
        let selected = s.node.next_hop(origin);
        if selected == Some(liar) && total % 5 == 0 {
            let worse = |metric| RouteUpdate {
                slots: vec![SLOT],
                seqnos: vec![seqno],
                metrics: vec![metric],
                ..Default::default()
            };
            match trick {
                Trick::None => {}
                Trick::Withdraw => drop(s.say(0, &worse(INFINITY))),
                Trick::Worsen => drop(s.say(0, &worse(1_000_000))),
                Trick::Older => {
                    let (slots, seqnos, metrics) = (vec![SLOT], vec![seqno - 1], vec![0]);
                    s.say(0, &RouteUpdate { slots, seqnos, metrics, ..Default::default() });
                }
                Trick::Cost => s.node.neighbor_cost(s.now, s.neighbors[0], 200_010),
                Trick::Reconnect => {
                    s.node.neighbor_down(s.now, s.neighbors[0]);
                    s.neighbors[0] = s.node.neighbor_up(s.now, liar, 10);
                }
            }
        } else if selected.is_some() && selected != Some(liar) && trick != Trick::None {
            s.node.neighbor_cost(s.now, s.neighbors[0], 10);
            s.offer_at(0, seqno, 0);
        }
        total += 1;
        // A way through the liar is none: it swallows.
        with += u32::from(s.node.next_hop(origin).is_some_and(|hop| hop != liar));
    }
    (f64::from(with) / f64::from(total), s.node.counters.distrusted)
}

#[test]
fn a_way_that_comes_and_goes_is_the_last_choice() {
    assert_eq!(share_with_a_route(Trick::None), (1.0, 0));
    for trick in [Trick::Withdraw, Trick::Worsen, Trick::Reconnect, Trick::Cost, Trick::Older] {
        let (share, distrusted) = share_with_a_route(trick);
        assert!(share > 0.95 && distrusted >= 1, "{trick:?}: a route for {share} of the time, {distrusted}");
    }
}

/// Both neighbours offer a way to the node 3, the second one for 5, and its announcement is known.
fn both_offer(s: &mut Scene, first: Metric) -> u32 {
    s.offer_at(0, 10, first);
    s.offer_at(1, 10, 5);
    let page = s.liars.book.page(3, 10);
    for who in [0, 1] {
        if s.asked(who) {
            s.bring(who, &page.bytes);
        }
    }
    s.node.origin(&s.liars.book.identities[3].id()).unwrap()
}

#[test]
fn what_is_seen_of_a_way_outlives_its_link() {
    let mut s = Scene::new();
    let (id, liar) = (s.liars.book.identities[3].id(), s.liars.book.identities[1].id());
    let origin = both_offer(&mut s, 0);
    let honest = Some(s.liars.book.identities[2].id());
    assert_eq!(s.node.next_hop(origin), Some(liar));
    s.node.distrust(s.now, &id, &liar);
    for _ in 0..5 {
        assert_eq!(s.node.next_hop(origin), honest);
        s.node.neighbor_down(s.now, s.neighbors[0]);
        s.now = s.now + Duration::from_secs(1);
        s.neighbors[0] = s.node.neighbor_up(s.now, liar, 10);
        s.offer_at(0, 10, 0);
    }
    s.now = s.now + Duration::from_secs(400);
    s.offer_at(1, 10, 5000);
    s.offer_at(0, 10, 0);
    assert_eq!(s.node.next_hop(origin), Some(liar), "after its time it is tried again");
}

/// A request that travels one hop does not keep one from being passed on that is to go all the way.
#[test]
fn requests_that_do_not_travel_silence_nobody() {
    let mut s = Scene::new();
    s.offer_at(1, 10, 5);
    let page = s.liars.book.page(3, 10);
    if s.asked(1) {
        s.bring(1, &page.bytes);
    }
    let id = s.liars.book.identities[3].id();
    let request = |hops| SeqnoRequest { origin: id.0.to_vec(), seqno: 11, hops };
    s.node.handle_request(s.now, s.neighbors[0], &request(1));
    s.now = s.now + Duration::from_millis(10);
    s.node.handle_request(s.now, s.neighbors[2], &request(64));
    let passed: Vec<u32> = std::iter::from_fn(|| s.node.next_request(s.neighbors[1])).map(|r| r.hops).collect();
    assert_eq!(passed, [0, 63]);
    s.node.handle_request(s.now, s.neighbors[2], &request(64));
    assert!(s.node.next_request(s.neighbors[1]).is_none(), "once in a while");
}

/// The answer to the first question, which was without the record, comes when it has been asked for the record, too.
#[test]
fn a_late_answer_without_the_record_is_no_forgery() {
    let mut s = Scene::new();
    s.offer_at(1, 10, 5);
    let page = s.liars.book.page(3, 10);
    assert!(s.asked(1));
    s.bring(1, &page.bytes);
    s.offer_at(1, 11, 5);
    assert!(s.asked(1));
    s.now = s.now + Duration::from_millis(1300);
    s.node.handle_timeout(s.now);
    assert!(s.asked(1), "again");
    assert_eq!(s.bring(1, b"another record"), []);
    let page = s.liars.book.page(3, 11);
    assert_eq!(s.bring(1, &page.bytes), []);
    let origin = s.node.origin(&s.liars.book.identities[3].id()).unwrap();
    assert_eq!(s.node.announcement(origin).map(|a| a.seqno), Some(11));
    assert_eq!((s.node.next_hop(origin), s.node.counters.distrusted), (Some(s.liars.book.identities[2].id()), 0));
}

/// Of several that are in doubt, the one of which that was seen first is taken, however long it is in doubt.
#[test]
fn a_longer_doubt_is_no_worse_than_a_newer_one() {
    let mut s = Scene::new();
    let [first, second] = [1, 2].map(|i: usize| s.liars.book.identities[i].id());
    let id = s.liars.book.identities[3].id();
    let origin = both_offer(&mut s, 5);
    (0..4).for_each(|_| s.node.distrust(s.now, &id, &first));
    s.now = s.now + Duration::from_secs(1);
    s.node.distrust(s.now, &id, &second);
    assert_eq!(s.node.next_hop(origin), Some(first));
}

/// A neighbour that sends all the requests that it may leaves room for the one of another that asks now and then.
#[test]
fn who_asks_much_leaves_room_for_who_asks_little() {
    let mut s = Scene::new();
    both_offer(&mut s, 5);
    let id = s.liars.book.identities[3].id();
    let request = |seqno, hops| SeqnoRequest { origin: id.0.to_vec(), seqno, hops };
    let passed = |s: &mut Scene| std::iter::from_fn(|| s.node.next_request(s.neighbors[1])).count();
    let (mut asked, mut went) = (0, 0);
    for tick in 0..6000u32 {
        s.now = s.now + Duration::from_millis(10);
        s.node.handle_timeout(s.now);
        if tick % 5 == 0 {
            // Ever farther, so that none is a repeat.
            s.node.handle_request(s.now, s.neighbors[0], &request(11, 1 + tick / 5 % 50));
        }
        passed(&mut s);
        if tick % 300 == 150 {
            asked += 1;
            s.node.handle_request(s.now, s.neighbors[2], &request(11, 64));
            went += passed(&mut s);
        }
    }
    assert!(asked == 20 && went >= 18, "{went} of {asked}");
}

/// The liar claims a number first and answers for it just before the honest neighbour does; then it claims the highest, and never
/// answers.
#[test]
fn who_was_slower_than_a_liar_is_asked_at_once_all_the_same() {
    let mut s = Scene::new();
    both_offer(&mut s, 5);
    for seqno in 11..16 {
        s.offer_at(0, seqno, 5);
        s.asked(0);
        s.offer_at(1, seqno, 5);
        s.now = s.now + Duration::from_millis(650);
        s.node.handle_timeout(s.now);
        s.asked(1);
        let page = s.liars.book.page(3, seqno);
        s.bring(0, &page.bytes);
        s.bring(1, &page.bytes);
    }
    s.offer_at(0, SeqNo::MAX, 5);
    for _ in 0..6000 {
        s.now = s.now + Duration::from_millis(10);
        s.node.handle_timeout(s.now);
        s.asked(0);
    }
    s.offer_at(1, 16, 5);
    let waited = s.until_asked(1, 60);
    assert!(waited.is_some_and(|seconds| seconds < 1.0), "{waited:?}");
}

/// The honest neighbour's way gets worse by 1 us a while after it was taken; each time the liar offers one that is far better and
/// withdraws it.
#[test]
fn who_had_to_go_for_a_better_one_has_not_fallen() {
    let mut s = Scene::new();
    (10..40).for_each(|seqno| drop(s.liars.book.page(3, seqno)));
    let [id, liar, honest] = [3, 1, 2].map(|i| s.liars.book.identities[i].id());
    for (round, seqno) in (10..14).enumerate() {
        s.offer_at(1, seqno, 5000);
        let page = s.liars.book.page(3, seqno);
        for _ in 0..20 {
            s.now = s.now + Duration::from_millis(100);
            s.node.handle_timeout(s.now);
            if s.asked(1) {
                s.bring(1, &page.bytes);
            }
        }
        let origin = s.node.origin(&id).unwrap();
        assert_eq!(s.node.next_hop(origin), Some(honest), "{round}");
        for (who, metric) in [(1, 5001), (0, 0), (0, INFINITY)] {
            s.offer_at(who, seqno, metric);
            s.now = s.now + Duration::from_secs(1);
        }
    }
    let doubted: Vec<_> = s.node.offers(s.now, &id).filter(|o| o.1).map(|o| o.0).collect();
    assert!(!doubted.contains(&honest), "{doubted:?}");
    assert!(s.node.counters.distrusted >= 1, "but the liar is: {liar}");
}
