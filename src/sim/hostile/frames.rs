//! Malice in sessions: frames and packets, sealed as they should be.

use std::{net::IpAddr, time::Duration};

use super::{Behaviour, Hand, stream};
use crate::{
    sim::happening::udp_packet,
    wire::{
        encode_endpoint,
        frame::{FRAME, Kind},
        proto,
    },
};

/// Some frame of each kind, with anything in it.
fn any_frame(hand: &mut Hand<'_>) -> Kind {
    let number = hand.rng.next_u32();
    let wide = if hand.rng.chance(0.3) { u64::MAX } else { hand.rng.next_u64() };
    match hand.below(13) {
        0 => Kind::Probe(proto::Probe {
            id: number,
            wish: hand.below(5) as i32,
            padding: hand.any_bytes(1200),
            looking: hand.rng.chance(0.5),
        }),
        1 => Kind::ProbeReply(proto::ProbeReply {
            id: number,
            observed: if hand.rng.chance(0.5) { encode_endpoint(hand.outsider()) } else { hand.any_bytes(20) },
            wish: hand.below(5) as i32,
            stun_port: number % 80_000,
            received: wide,
        }),
        2 => Kind::Segment(proto::Segment {
            epoch: wide,
            peer_epoch: if hand.rng.chance(0.5) { 0 } else { hand.rng.next_u64() },
            seq: number % 100,
            ack: if hand.rng.chance(0.5) { u32::MAX } else { number },
            sack: hand.rng.next_u64(),
            payload: hand.any_bytes(1000),
            more: hand.rng.chance(0.8),
        }),
        3 => Kind::Echo(proto::Echo { id: wide, data: hand.any_bytes(1200) }),
        4 => Kind::EchoReply(proto::Echo { id: wide, data: hand.any_bytes(1200) }),
        5 => Kind::TraceQuery(proto::TraceQuery { id: wide, target: hand.any_bytes(33) }),
        6 => Kind::TraceReply(proto::TraceReply {
            id: wide,
            next: hand.any_bytes(33),
            metric: number,
            link_rtt_us: number,
        }),
        7 => Kind::PathDown(proto::PathDown {}),
        8 => Kind::Goodbye(proto::Goodbye {
            reason: if hand.rng.chance(0.5) { "full".to_owned() } else { "é".repeat(hand.below(500)) },
        }),
        9 => any_punch(hand),
        10 => Kind::Reach(proto::Reach { id: number, urgent: true }),
        11 => Kind::Reached(proto::Reached { id: number % 64, received: wide }),
        _ => Kind::Granted(hand.any_bytes(800)),
    }
}

fn any_punch(hand: &mut Hand<'_>) -> Kind {
    let places = |hand: &mut Hand<'_>, n: usize| (0..n).map(|_| encode_endpoint(hand.outsider())).collect();
    Kind::Punch(proto::Punch {
        endpoints: places(hand, 20),
        reflexive: places(hand, 6),
        mapping: hand.below(4) as i32,
        answer: hand.rng.chance(0.5),
        last_port: hand.rng.next_u32() % 70_000,
        step: hand.rng.next_u32() % 20,
    })
}

pub(super) struct Frames;

impl Behaviour for Frames {
    fn act(&mut self, hand: &mut Hand<'_>) {
        for _ in 0..4 {
            let to = hand.scene.ids[hand.somebody()];
            match hand.below(8) {
                0 => {
                    // Marks, and what is neither frame nor packet.
                    let plaintext = vec![hand.below(8) as u8; hand.below(3)];
                    hand.plaintext(to, plaintext);
                }
                1 => {
                    let mut plaintext = hand.any_bytes(1300);
                    plaintext.insert(0, FRAME);
                    hand.plaintext(to, plaintext);
                }
                2 | 3 => {
                    let kind = any_frame(hand);
                    hand.relayed_frame(to, kind);
                }
                _ => {
                    let kind = any_frame(hand);
                    hand.frame(to, kind);
                }
            }
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(50)
    }
}

pub(super) struct Granted;

impl Behaviour for Granted {
    fn act(&mut self, hand: &mut Hand<'_>) {
        for _ in 0..2 {
            let victim = hand.victim();
            let certificate = match hand.below(4) {
                0 => hand.any_bytes(600),
                1 => hand.scene.old[victim].clone(),
                2 => hand.scene.certificates[hand.me].clone(),
                _ => {
                    let mut damaged = hand.scene.certificates[victim].clone();
                    let at = hand.below(damaged.len());
                    damaged[at] ^= 1;
                    damaged
                }
            };
            hand.frame(hand.scene.ids[victim], Kind::Granted(certificate));
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(100)
    }
}

pub(super) struct Echoes;

impl Behaviour for Echoes {
    fn act(&mut self, hand: &mut Hand<'_>) {
        let victim = hand.scene.ids[hand.victim()];
        for _ in 0..10 {
            let id = hand.rng.next_u64();
            hand.frame(victim, Kind::Echo(proto::Echo { id, data: vec![7; 1200] }));
            let target = hand.scene.ids[hand.somebody()].0.to_vec();
            hand.frame(victim, Kind::TraceQuery(proto::TraceQuery { id, target }));
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(100)
    }
}

pub(super) struct Punches;

impl Behaviour for Punches {
    fn act(&mut self, hand: &mut Hand<'_>) {
        let victim = hand.scene.ids[hand.victim()];
        let punch = any_punch(hand);
        hand.relayed_frame(victim, punch);
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(100)
    }
}

pub(super) struct Packets;

impl Behaviour for Packets {
    fn act(&mut self, hand: &mut Hand<'_>) {
        let (victim, other) = (hand.victim(), hand.somebody());
        let addresses = |hand: &Hand<'_>, i: usize| {
            let routing = hand.node.routing();
            let known = routing.origin(&hand.scene.ids[i]).and_then(|o| routing.announcement(o));
            known.map(|k| k.record.addresses)
        };
        let (Some(to), Some(not_mine)) = (addresses(hand, victim), addresses(hand, other)) else { return };
        for k in 0..2 {
            let mut packet = udp_packet(not_mine[k], to[k], &stream::forged());
            if hand.rng.chance(0.5) {
                // It may be cut off, or say anything of itself.
                packet.truncate(1 + hand.below(packet.len()));
                let at = hand.below(packet.len().min(40));
                packet[at] = hand.rng.next_u32() as u8;
            }
            hand.plaintext(hand.scene.ids[victim], packet);
        }
        let outside = IpAddr::from([198, 51, 100, hand.below(256) as u8]);
        let packet = udp_packet(hand.node.addresses()[0], outside, &stream::forged());
        hand.plaintext(hand.scene.ids[victim], packet);
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(50)
    }
}
