//! A neighbour that lies about announcements keeps nobody's from coming.

use std::collections::HashSet;

use super::*;
use crate::wire::proto::Introduction;

/// What a neighbour may bring: a page of the book, one of a node that is turned away, or something made up.
pub(super) struct Liars {
    pub book: Book,
    expired: HashSet<Vec<u8>>,
    judged: usize,
}

impl Judge for Liars {
    fn may_be_member(&self, _: &NodeId) -> bool {
        true
    }

    fn judge(
        &mut self,
        announcement: &[u8],
        record: &[u8],
        known: Option<&Arc<Record>>,
    ) -> Result<Arc<Verified>, Refusal> {
        self.judged += 1;
        match announcement {
            b"too large" => Err(Refusal::TooLarge),
            b"another record" => Err(Refusal::RecordMismatch),
            bytes if self.expired.contains(bytes) => Err(Refusal::ExpiredCertificate),
            bytes => self.book.judge(bytes, record, known),
        }
    }
}

/// A node (0), what it hears of the node 3 from the neighbours 1 and 2, and the node 4, which is a neighbour too.
pub(super) struct Scene {
    pub node: Routing,
    pub liars: Liars,
    pub now: Instant,
    pub neighbors: [NeighborId; 3],
}

pub(super) const SLOT: u32 = 5;

impl Scene {
    pub fn new() -> Self {
        let mut book = Book::new(5);
        let mut node = Routing::new(book.page(0, 10), Instant(0));
        let neighbors = [1, 2, 4].map(|i: usize| node.neighbor_up(Instant(0), book.identities[i].id(), 10));
        let liars = Liars { book, expired: HashSet::new(), judged: 0 };
        let mut scene = Self { node, liars, now: Instant(1), neighbors };
        scene.asked(0);
        scene
    }

    pub fn say(&mut self, who: usize, update: &RouteUpdate) -> Vec<Refusal> {
        self.node.handle_update(self.now, self.neighbors[who], update, &mut self.liars)
    }

    /// A neighbour offers a way to the node 3 with this sequence number.
    fn offer(&mut self, who: usize, seqno: SeqNo) {
        self.offer_at(who, seqno, 7);
    }

    pub fn offer_at(&mut self, who: usize, seqno: SeqNo, metric: Metric) {
        let id = self.liars.book.identities[3].id();
        let introductions = vec![Introduction { slot: SLOT, node_id: id.0.to_vec() }];
        let (slots, seqnos, metrics) = (vec![SLOT], vec![seqno], vec![metric]);
        self.say(who, &RouteUpdate { introductions, slots, seqnos, metrics, ..Default::default() });
    }

    pub fn bring(&mut self, who: usize, announcement: &[u8]) -> Vec<Refusal> {
        let body = Body { slot: SLOT, announcement: announcement.to_vec(), record: vec![] };
        self.say(who, &RouteUpdate { bodies: vec![body], ..Default::default() })
    }

    /// Whether the neighbour is asked for the announcement now.
    pub fn asked(&mut self, who: usize) -> bool {
        let mut asked = false;
        while let Some(update) = self.node.next_update(self.now, self.neighbors[who]) {
            asked |= update.wants.contains(&SLOT) || update.wants_record.contains(&SLOT);
        }
        asked
    }

    /// The honest neighbour answers as soon as it is asked; the seconds until then.
    pub fn until_asked(&mut self, who: usize, limit: u64) -> Option<f64> {
        let begin = self.now;
        while self.now.since(begin) < Duration::from_secs(limit) {
            if self.asked(who) {
                return Some(self.now.since(begin).as_secs_f64());
            }
            self.now = self.now + Duration::from_millis(10);
            self.node.handle_timeout(self.now);
        }
        None
    }

    fn seqno(&self) -> SeqNo {
        let o = self.node.origin(&self.liars.book.identities[3].id());
        o.and_then(|o| self.node.announcement(o)).map_or(0, |a| a.seqno)
    }
}

/// What the liar brings is junk, or an old announcement that is refused: whatever number it had offered, the next one of the
/// node is asked for and comes.
#[test]
fn junk_with_a_high_number_turns_nobody_away() {
    for is_junk in [true, false] {
        let mut s = Scene::new();
        let (old, first, next) = (s.liars.book.page(3, 9), s.liars.book.page(3, 10), s.liars.book.page(3, 11));
        s.liars.expired.insert(old.bytes.clone());
        s.offer(0, SeqNo::MAX);
        assert!(s.until_asked(0, 1).is_some());
        s.bring(0, if is_junk { b"too large" } else { &old.bytes });
        s.offer(1, 10);
        assert!(s.until_asked(1, 5).is_some(), "the one who tells the truth is asked");
        s.bring(1, &first.bytes);
        assert_eq!(s.seqno(), 10);
        s.offer(0, SeqNo::MAX);
        s.until_asked(0, 5);
        s.bring(0, if is_junk { b"too large" } else { &old.bytes });
        s.offer(1, 11);
        assert!(s.until_asked(1, 5).is_some());
        s.bring(1, &next.bytes);
        assert_eq!(s.seqno(), 11);
    }
}

#[test]
fn two_who_offer_and_never_answer_keep_nobody_from_being_asked() {
    let mut s = Scene::new();
    let page = s.liars.book.page(3, 10);
    s.offer(0, SeqNo::MAX);
    s.offer(1, SeqNo::MAX);
    s.asked(0);
    s.offer(2, 10);
    let after = s.until_asked(2, 30);
    assert!(after.is_some_and(|seconds| seconds < 5.0), "asked after {after:?} s");
    s.bring(2, &page.bytes);
    assert_eq!(s.seqno(), 10);
}

#[test]
fn what_nobody_asked_for_costs_no_signature_check() {
    let mut s = Scene::new();
    let page = s.liars.book.page(3, 10);
    s.offer(0, 10);
    assert!(s.until_asked(0, 1).is_some());
    for _ in 0..1000 {
        s.bring(1, &page.bytes);
    }
    assert_eq!((s.liars.judged, s.seqno()), (0, 0));
    s.bring(0, &page.bytes);
    for _ in 0..1000 {
        s.bring(0, &page.bytes);
    }
    assert_eq!((s.liars.judged, s.seqno()), (1, 10));
}

#[test]
fn a_neighbour_that_takes_no_question_makes_us_keep_one() {
    let mut s = Scene::new();
    s.offer(0, 10);
    for _ in 0..10_000 {
        s.bring(0, b"another record");
        s.offer(0, 10);
    }
    assert!(s.node.neighbor(s.neighbors[0]).unwrap().wants.len() <= 1);
}

/// A neighbour that starts afresh again and again, and introduces others each time.
#[test]
fn starting_afresh_gives_no_more_places() {
    let mut s = Scene::new();
    for round in 0..500u32 {
        let introduction = |i: u32| Introduction {
            slot: i,
            node_id: crate::crypto::sha256(&[&(round * 100 + i).to_be_bytes()]).to_vec(),
        };
        let introductions = (0..100).map(introduction).collect();
        s.say(0, &RouteUpdate { introductions, ..Default::default() });
        s.node.forget_learned(s.now, s.neighbors[0]);
    }
    assert!(s.node.places() < 10, "{} places", s.node.places());
}

/// A neighbour that introduces ever others, all as the same slot.
#[test]
fn one_slot_is_one_place_whomever_it_stands_for() {
    let mut s = Scene::new();
    let page = s.liars.book.page(3, 10);
    let node_id = |i: u32| crate::crypto::sha256(&[&i.to_be_bytes()]).to_vec();
    for i in 0..18_000 {
        let introductions = vec![Introduction { slot: 7, node_id: node_id(i) }];
        s.say(0, &RouteUpdate { introductions, ..Default::default() });
        if i == 9000 {
            s.offer(1, 10);
            let introductions = vec![Introduction { slot: 7, node_id: page.id.0.to_vec() }];
            s.say(0, &RouteUpdate { introductions, ..Default::default() });
        }
        assert!(s.node.places() <= 3, "{} places", s.node.places());
    }
    assert!(s.until_asked(1, 1).is_some(), "whom another neighbour speaks of too keeps its place");
    s.bring(1, &page.bytes);
    assert_eq!((s.seqno(), s.node.counters.table_full), (10, 0));
    assert_eq!(s.node.neighbor(s.neighbors[0]).unwrap().unproven, 1);
    let free: HashSet<u32> = s.node.free.iter().copied().collect();
    assert_eq!(free.len(), s.node.free.len(), "each is given back once");
    assert!(s.node.index.iter().all(|(id, o)| s.node.origins[*o as usize].id == *id && !free.contains(o)));
}

/// A slot that stands for it keeps nobody's place whose announcement has expired, and it finds another when it is back.
#[test]
fn who_has_expired_gives_its_place_back() {
    let mut s = Scene::new();
    let pages = [10, 11].map(|seqno| s.liars.book.page(3, seqno));
    s.offer(1, 10);
    assert!(s.until_asked(1, 1).is_some());
    s.bring(1, &pages[0].bytes);
    let before = s.node.places();
    let later = |s: &mut Scene, seconds: u64| {
        s.now = s.now + Duration::from_secs(seconds);
        s.node.handle_timeout(s.now);
        while s.neighbors.into_iter().any(|n| s.node.next_update(s.now, n).is_some()) {}
    };
    later(&mut s, 7201);
    assert_eq!((s.seqno(), s.node.places()), (0, before));
    (0..8).for_each(|_| later(&mut s, 5));
    assert_eq!(s.node.places(), before - 1);
    s.offer(1, 11);
    assert!(s.until_asked(1, 1).is_some());
    s.bring(1, &pages[1].bytes);
    assert_eq!(s.seqno(), 11);
}

#[test]
fn who_has_expired_counts_against_its_bringer() {
    let mut s = Scene::new();
    let id = |i: u32| NodeId(crate::crypto::sha256(&[&i.to_be_bytes()]));
    let liar = s.node.neighbor(s.neighbors[0]).map(|n| n.id);
    for i in 0..MAX_BROUGHT as u32 {
        let o = s.node.new_origin(s.now, id(i), places::Right::Talk).unwrap();
        s.node.origins[o as usize].bringer = liar;
    }
    let [liar, honest, _] = s.neighbors;
    assert!(!s.node.may_bring(liar, &id(u32::MAX)) && s.node.may_bring(honest, &id(u32::MAX)));
    assert!(s.node.may_bring(liar, &id(0)), "it may bring the next announcement of one that it has brought");
}

/// A better way lacks only the present number, with which neighbours don't hurry: it is asked for that, and the origin signs nothing.
#[test]
fn a_better_way_that_is_late_is_asked_for_with_the_present_number() {
    let mut s = Scene::new();
    let page = s.liars.book.page(3, 11);
    s.offer_at(1, 11, 40_000);
    assert!(s.until_asked(1, 1).is_some());
    s.bring(1, &page.bytes);
    s.offer_at(0, 10, 7);
    s.now = s.now + Duration::from_secs(40);
    s.node.handle_timeout(s.now);
    let asked = |s: &mut Scene, who: usize| s.node.next_request(s.neighbors[who]).map(|request| request.seqno);
    assert_eq!((asked(&mut s, 0), asked(&mut s, 1)), (Some(11), Some(12)));
}

/// A liar offers, brings junk, and offers again, for many nodes by turns: it is asked ever more rarely.
#[test]
fn who_brings_junk_is_asked_ever_more_rarely() {
    let mut s = Scene::new();
    let begin = s.now;
    while s.now.since(begin) < Duration::from_secs(60) {
        s.offer(0, SeqNo::MAX);
        if s.asked(0) {
            s.bring(0, b"too large");
        }
        s.now = s.now + Duration::from_millis(10);
        s.node.handle_timeout(s.now);
    }
    assert!((2..=20).contains(&s.liars.judged), "{} looked at in 60 s", s.liars.judged);
}

/// A node signs a new announcement as soon as it is asked for the last one.
#[test]
fn who_makes_itself_new_all_the_time_is_asked_once_a_second() {
    let mut s = Scene::new();
    let (mut changed, begin) = (0, s.now);
    let mut newest = 0;
    for seqno in 10..3010 {
        s.now = s.now + Duration::from_millis(1);
        s.node.handle_timeout(s.now);
        newest = seqno;
        s.offer_at(0, seqno, 5);
        if s.asked(0) {
            let page = s.liars.book.page(3, seqno);
            s.bring(0, &page.bytes);
        }
        changed += s.node.take_events().iter().filter(|e| matches!(e, Event::Changed(_))).count();
    }
    let seconds = s.now.since(begin).as_secs() as usize + 1;
    assert!(
        s.liars.judged <= 9 + seconds && changed <= 2 * (9 + seconds),
        "{} checks and {changed} changes",
        s.liars.judged
    );
    // The last one is taken in once it is its turn.
    assert!(s.until_asked(0, 10).is_some_and(|waited| waited <= 2.0));
    let page = s.liars.book.page(3, newest);
    s.bring(0, &page.bytes);
    assert_eq!(s.seqno(), newest);
}
