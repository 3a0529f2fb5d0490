//! The reliable, ordered channel of control messages between two neighbours, over datagrams that may be lost.
//!
//! Each end has an epoch, which grows: it is the time in microseconds, since its process began, at which it started
//! afresh, with nothing said and nothing heard. It does so when its link comes up, and when its neighbour has started
//! afresh after taking something that will not be said again. Segments of an older epoch than the newest one seen are
//! stragglers. Epochs of another process never meet these: the owner makes a new channel when the neighbour's process
//! was started anew.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    types::{Bucket, Duration, Instant},
    wire::{MAX_MESSAGE, proto::Segment},
};

/// Payload bytes of one segment.
const CHUNK: usize = 1000;
/// Segments in flight.
const WINDOW: u32 = 32;
/// Segments queued beyond the window: above this the owner is asked for no more.
const BACKLOG: usize = 64;
const ACK_DELAY: Duration = Duration::from_millis(20);
const MIN_RTO: Duration = Duration::from_millis(200);
const MAX_RTO: Duration = Duration::from_secs(3);
/// New epochs of the neighbour that are heard: so many at once, and one more after each pause. Each makes us forget what it had said.
const EPOCHS: (u32, Duration) = (8, Duration::from_secs(1));

/// What a received segment means for the owner.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// The neighbour started afresh: forget what it had said, before the messages.
    pub peer_restarted: bool,
    /// The neighbour has nothing of what we had said: say it again.
    pub resend_all: bool,
    pub messages: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct InFlight {
    payload: Vec<u8>,
    more: bool,
    sent: Option<Instant>,
    tries: u32,
}

#[derive(Debug)]
pub(super) struct Channel {
    epoch: u64,
    next_seq: u32,
    acked: u32,
    /// The neighbour has taken something of this epoch, in order or not.
    taken: bool,
    flight: BTreeMap<u32, InFlight>,
    backlog: VecDeque<(Vec<u8>, bool)>,
    /// The neighbour's epoch that is being heard; 0: none yet.
    peer_epoch: u64,
    /// The newest epoch seen of the neighbour.
    newest: u64,
    /// New epochs of the neighbour that are heard.
    epochs: Bucket,
    received: u32,
    ahead: BTreeMap<u32, (Vec<u8>, bool)>,
    partial: Vec<u8>,
    ack_due: Option<Instant>,
    rto: Duration,
    next: Option<Instant>,
}

impl Channel {
    /// A channel that starts at `now`, later than any earlier one with this neighbour.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now.0 + 1,
            next_seq: 1,
            acked: 0,
            taken: false,
            flight: BTreeMap::new(),
            backlog: VecDeque::new(),
            peer_epoch: 0,
            newest: 0,
            epochs: Bucket::new(EPOCHS.0, EPOCHS.1),
            received: 0,
            ahead: BTreeMap::new(),
            partial: Vec::new(),
            ack_due: None,
            rto: MIN_RTO,
            next: None,
        }
    }

    /// A new channel with the same neighbour, of which nothing is known but how often it started afresh.
    pub fn renew(&mut self, now: Instant) {
        *self = Self { epochs: self.epochs, ..Self::new(now) };
    }

    fn restart(&mut self, now: Instant) {
        *self = Self {
            epoch: (self.epoch + 1).max(now.0 + 1),
            newest: self.newest,
            epochs: self.epochs,
            rto: self.rto,
            ..Self::new(now)
        };
    }

    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rto = (rtt * 3).clamp(MIN_RTO, MAX_RTO);
    }

    /// Whether the owner may hand in more messages.
    pub fn has_room(&self) -> bool {
        self.backlog.len() < BACKLOG
    }

    pub fn send(&mut self, message: &[u8]) {
        let chunks = message.chunks(CHUNK);
        let last = chunks.len().saturating_sub(1);
        self.backlog.extend(chunks.enumerate().map(|(i, c)| (c.to_vec(), i < last)));
        self.reschedule();
    }

    /// Everything said has arrived.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.flight.is_empty() && self.backlog.is_empty()
    }

    /// The segments to send now.
    pub fn poll(&mut self, now: Instant) -> Vec<Segment> {
        while self.next_seq - self.acked <= WINDOW {
            let Some((payload, more)) = self.backlog.pop_front() else { break };
            self.flight.insert(self.next_seq, InFlight { payload, more, sent: None, tries: 0 });
            self.next_seq += 1;
        }
        let mut out = Vec::new();
        let (head, rto) = (self.head(), self.rto);
        for (seq, piece) in &mut self.flight {
            let wait = (rto * (1 << piece.tries.min(4))).min(MAX_RTO);
            if piece.sent.is_none_or(|sent| now >= sent + wait) {
                piece.tries += u32::from(piece.sent.is_some());
                piece.sent = Some(now);
                out.push(Segment { seq: *seq, payload: piece.payload.clone(), more: piece.more, ..head.clone() });
            }
        }
        if out.is_empty() && self.ack_due.is_some_and(|due| due <= now) {
            out.push(head);
        }
        if !out.is_empty() {
            self.ack_due = None;
        }
        self.reschedule();
        out
    }

    /// When [`Self::poll`] has something to send.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    fn reschedule(&mut self) {
        let resend = self.flight.values().map(|p| match p.sent {
            Some(sent) => sent + (self.rto * (1 << p.tries.min(4))).min(MAX_RTO),
            None => Instant::default(),
        });
        let fresh = (!self.backlog.is_empty() && self.next_seq - self.acked <= WINDOW).then(Instant::default);
        self.next = resend.chain(self.ack_due).chain(fresh).min();
    }

    pub fn receive(&mut self, now: Instant, segment: Segment) -> Received {
        let out = self.take_in(now, segment);
        self.reschedule();
        out
    }

    fn take_in(&mut self, now: Instant, segment: Segment) -> Received {
        let mut out = Received::default();
        if segment.epoch < self.newest.max(1) {
            return out;
        }
        if segment.epoch != self.peer_epoch {
            // More of the newest, which we are not in: the first one was paid for, and we start afresh at most once for all.
            if segment.epoch > self.newest && !self.epochs.take(now) {
                return out;
            }
            self.newest = segment.epoch;
            out.peer_restarted = self.peer_epoch != 0;
            let for_us = segment.peer_epoch == 0 || segment.peer_epoch == self.epoch;
            if self.taken {
                self.restart(now);
                out.resend_all = true;
            }
            self.ack_due = Some(now);
            if !for_us {
                // Our earlier self may have taken some of what the neighbour said in this epoch. The answer shows it
                // our epoch, and it starts afresh if that is so.
                self.peer_epoch = 0;
                return out;
            }
            self.peer_epoch = segment.epoch;
            self.received = 0;
            self.ahead.clear();
            self.partial.clear();
        }
        if segment.peer_epoch == self.epoch {
            self.acknowledge(&segment);
        }
        if segment.seq > 0 {
            self.ack_due = Some(self.ack_due.unwrap_or(now + ACK_DELAY));
            // Nobody cuts longer pieces, and nobody sends more of them ahead.
            let is_next = segment.seq > self.received && segment.seq - self.received <= WINDOW;
            if is_next && segment.payload.len() <= CHUNK {
                self.ahead.insert(segment.seq, (segment.payload, segment.more));
            } else {
                self.ack_due = Some(now);
            }
            self.collect(&mut out.messages);
        }
        out
    }

    fn collect(&mut self, messages: &mut Vec<Vec<u8>>) {
        while let Some((payload, more)) = self.ahead.remove(&(self.received + 1)) {
            self.received += 1;
            if self.partial.len() + payload.len() <= MAX_MESSAGE {
                self.partial.extend_from_slice(&payload);
            }
            if !more {
                messages.push(std::mem::take(&mut self.partial));
            }
        }
    }

    fn acknowledge(&mut self, segment: &Segment) {
        if segment.ack >= self.next_seq {
            return;
        }
        self.acked = self.acked.max(segment.ack);
        self.taken |= segment.ack > 0 || segment.sack != 0;
        let acked = self.acked;
        self.flight.retain(|seq, _| {
            let selective = *seq >= acked + 2 && *seq < acked + 66 && segment.ack == acked;
            *seq > acked && !(selective && segment.sack & (1 << (seq - acked - 2)) != 0)
        });
    }

    fn head(&self) -> Segment {
        let sack = self.ahead.keys().filter_map(|s| s.checked_sub(self.received + 2)).filter(|i| *i < 64);
        Segment {
            epoch: self.epoch,
            peer_epoch: self.peer_epoch,
            ack: self.received,
            sack: sack.fold(0, |bits, i| bits | 1 << i),
            ..Segment::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Rng;
    use proptest::{prelude::*, proptest};

    proptest! {
        #[test]
        fn every_message_arrives_once_in_order_whatever_the_weather(seed: [u8; 32], sizes in prop::collection::vec(1usize..4000, 1..40)) {
            let mut rng = crate::crypto::Rng::from_seed(seed);
            let (mut a, mut b) = (Channel::new(Instant(7)), Channel::new(Instant(9)));
            let messages: Vec<Vec<u8>> = sizes.iter().map(|s| rng_bytes(&mut rng, *s)).collect();
            for m in &messages {
                a.send(m);
            }
            let mut got = Vec::new();
            let mut now = Instant(0);
            let mut air: Vec<(bool, Segment)> = Vec::new();
            for _ in 0..20_000 {
                now = now + Duration::from_millis(10);
                air.extend(a.poll(now).into_iter().map(|s| (true, s)));
                air.extend(b.poll(now).into_iter().map(|s| (false, s)));
                for _ in 0..4 {
                    if air.is_empty() { break }
                    let (to_b, s) = air.swap_remove(rng.below(air.len() as u64) as usize);
                    if rng.chance(0.3) { continue }
                    if rng.chance(0.1) { air.push((to_b, s.clone())); }
                    if to_b { got.extend(b.receive(now, s).messages); } else { a.receive(now, s); }
                }
                if got.len() == messages.len() && a.is_idle() { break }
            }
            prop_assert_eq!(got, messages);
            prop_assert!(a.is_idle());
        }
    }

    /// One end as its owner drives it: it has `facts` to tell, and tells them all again when it is asked to.
    struct End {
        channel: Channel,
        facts: Vec<Vec<u8>>,
        heard: Vec<Vec<u8>>,
    }

    impl End {
        fn new(now: Instant, name: u8) -> Self {
            let facts: Vec<Vec<u8>> = (0..5).map(|i| vec![name, i]).collect();
            let mut channel = Channel::new(now);
            facts.iter().for_each(|f| channel.send(f));
            Self { channel, facts, heard: Vec::new() }
        }

        fn receive(&mut self, now: Instant, segment: Segment) {
            let received = self.channel.receive(now, segment);
            if received.peer_restarted {
                self.heard.clear();
            }
            if received.resend_all {
                self.facts.iter().for_each(|f| self.channel.send(f));
            }
            self.heard.extend(received.messages);
        }
    }

    proptest! {
        #[test]
        fn after_any_restarts_each_end_hears_all_that_the_other_has_to_say(seed: [u8; 32]) {
            let mut rng = crate::crypto::Rng::from_seed(seed);
            let mut now = Instant(0);
            let mut ends = [End::new(now, 0), End::new(now, 1)];
            let mut air: Vec<(usize, Segment)> = Vec::new();
            let settled = |ends: &[End; 2]| {
                (0..2).all(|i| ends[i].heard == ends[1 - i].facts && ends[i].channel.is_idle())
            };
            for step in 0..8000 {
                now = now + Duration::from_millis(10);
                if step < 300 && rng.chance(0.02) {
                    let i = rng.below(2) as usize;
                    ends[i] = End::new(now, i as u8);
                }
                if step < 300 && rng.chance(0.05) {
                    let i = rng.below(2) as usize;
                    let fact = vec![i as u8, 100 + ends[i].facts.len() as u8];
                    ends[i].channel.send(&fact);
                    ends[i].facts.push(fact);
                }
                for (i, end) in ends.iter_mut().enumerate() {
                    air.extend(end.channel.poll(now).into_iter().map(|s| (1 - i, s)));
                }
                for _ in 0..4 {
                    if air.is_empty() { break }
                    let (to, s) = air.swap_remove(rng.below(air.len() as u64) as usize);
                    if !rng.chance(0.3) { ends[to].receive(now, s); }
                }
                if step > 300 && settled(&ends) { break }
            }
            prop_assert!(settled(&ends), "{:?} {:?}", ends[0].channel, ends[1].channel);
        }
    }

    fn rng_bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        rng.fill(&mut out);
        out
    }

    fn carry(now: Instant, from: &mut Channel, to: &mut Channel, sum: &mut Received) {
        for s in from.poll(now + Duration::from_secs(1)) {
            let r = to.receive(now, s);
            sum.peer_restarted |= r.peer_restarted;
            sum.resend_all |= r.resend_all;
            sum.messages.extend(r.messages);
        }
    }

    fn exchange(now: Instant, a: &mut Channel, b: &mut Channel) -> (Received, Received) {
        let (mut to_a, mut to_b) = (Received::default(), Received::default());
        for _ in 0..4 {
            carry(now, a, b, &mut to_b);
            carry(now, b, a, &mut to_a);
        }
        (to_a, to_b)
    }

    #[test]
    fn a_neighbour_that_starts_afresh_without_end_is_heard_once_a_second() {
        let mut channel = Channel::new(Instant(1));
        let mut restarts = 0;
        for i in 0..10_000u64 {
            let segment = Segment { epoch: 10 + i, seq: 1, payload: vec![7], ..Segment::default() };
            restarts += u64::from(channel.receive(Instant(1000 * i), segment).peer_restarted);
        }
        assert!((9..=u64::from(EPOCHS.0) + 10).contains(&restarts), "{restarts} in 10 s");
    }

    #[test]
    fn what_is_still_in_flight_keeps_no_new_epoch_from_being_heard() {
        let now = Instant(1_000_000);
        let mut channel = Channel::new(now);
        let before = channel.epoch;
        for seq in 1..=WINDOW {
            let late = Segment { epoch: 500, peer_epoch: 77, seq, payload: vec![1], ..Segment::default() };
            assert_eq!(channel.receive(now, late), Received::default(), "it was for our earlier self");
        }
        assert_eq!(channel.epoch, before, "and makes nobody start afresh");
        let fresh = Segment { epoch: 501, peer_epoch: before, seq: 1, payload: vec![2], ..Segment::default() };
        assert_eq!(channel.receive(now, fresh).messages, [vec![2]]);
    }

    #[test]
    fn each_time_that_we_start_afresh_costs_the_neighbour_a_token() {
        let now = Instant(1_000_000);
        let mut channel = Channel::new(now);
        let mut restarts = 0;
        for epoch in 1..=100u64 {
            // In each epoch it takes something that we say, and it says again and again that it knows us not.
            for (is_for_us, ack) in [(false, 0), (true, 1), (false, 0), (true, 1), (false, 0)] {
                channel.send(b"fact");
                channel.poll(now);
                let peer_epoch = if is_for_us { channel.epoch } else { 77 };
                let segment = Segment { epoch, peer_epoch, ack, ..Segment::default() };
                restarts += u32::from(channel.receive(now, segment).resend_all);
            }
        }
        assert_eq!(restarts, EPOCHS.0 - 1);
    }

    #[test]
    fn a_restart_of_one_end_makes_both_start_afresh() {
        let now = Instant(0);
        let (mut a, mut b) = (Channel::new(Instant(7)), Channel::new(Instant(9)));
        a.send(b"one");
        b.send(b"two");
        let (to_a, to_b) = exchange(now, &mut a, &mut b);
        assert_eq!((to_a.messages, to_b.messages), (vec![b"two".to_vec()], vec![b"one".to_vec()]));
        let mut b = Channel::new(Instant(1234));
        b.send(b"hello again");
        let (to_a, to_b) = exchange(now, &mut a, &mut b);
        assert!(to_a.peer_restarted && to_a.resend_all, "{to_a:?}");
        assert_eq!(to_a.messages, [b"hello again".to_vec()]);
        assert!(!to_b.resend_all);
        a.send(b"everything");
        let (_, to_b) = exchange(now, &mut a, &mut b);
        assert_eq!(to_b.messages, [b"everything".to_vec()]);
    }
}
