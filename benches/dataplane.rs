//! Benches of the data plane and of large tables: what the kernel leaves whole, what a relay does, what a change of
//! routes costs.

mod common;

use std::{collections::HashMap, hint::black_box, sync::Arc};

use aegisray::{
    crypto::SigningKey,
    identity::{Identity, Network, Record, RecordContent, Refusal, Verified},
    node::{
        Node,
        forward::{self, Ingress},
    },
    routing::{Judge, Routing},
    types::{Instant, NodeId},
    wire::{
        checksum::Checksum,
        coalesce::Coalescer,
        proto::{Body, Introduction, RouteUpdate},
        vnet::{GSO_TCPV4, Split, VnetHeader},
    },
};
use common::{addr, node};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const MSS: usize = 1368;
const SEGMENTS: usize = 45;
const HEADERS: usize = 52;

/// A TCP super-packet over IPv4 with timestamps.
fn super_packet() -> (VnetHeader, Vec<u8>) {
    let mut p = vec![0u8; HEADERS + MSS * SEGMENTS];
    let len = (p.len() as u16).to_be_bytes();
    p[..20].copy_from_slice(&[0x45, 0, len[0], len[1], 0, 1, 0x40, 0, 64, 6, 0, 0, 100, 64, 0, 1, 100, 64, 0, 2]);
    p[20..24].copy_from_slice(&[0x30, 0x39, 0, 80]);
    p[32] = 0x80;
    p[33] = 0x10;
    p[40..44].copy_from_slice(&[1, 1, 8, 10]);
    let header = VnetHeader {
        needs_checksum: true,
        gso_type: GSO_TCPV4,
        header_len: HEADERS as u16,
        gso_size: MSS as u16,
        csum_start: 20,
        csum_offset: 16,
    };
    (header, p)
}

fn offloads(c: &mut Criterion) {
    let (header, packet) = super_packet();
    let mut group = c.benchmark_group("super-packet of 45 segments");
    group.throughput(Throughput::Bytes((MSS * SEGMENTS) as u64));
    let mut out = Vec::with_capacity(80_000);
    group.bench_function("split", |b| {
        b.iter(|| {
            out.clear();
            let split = Split::new(&header, black_box(&packet), 1420).expect("a sound super-packet");
            (0..split.count()).for_each(|i| split.write(i, &mut out));
            black_box(out.len())
        });
    });
    let split = Split::new(&header, &packet, 1420).expect("a sound super-packet");
    let mut segments = Vec::new();
    (0..split.count()).for_each(|i| split.write(i, &mut segments));
    let mut coalescer = Coalescer::new(true);
    group.bench_function("coalesce", |b| {
        b.iter_batched_ref(
            || segments.clone(),
            |buffer| {
                let mut writes = 0;
                for i in 0..SEGMENTS {
                    let at = i * (HEADERS + MSS);
                    coalescer.push(buffer, at..at + HEADERS + MSS, &mut |_, _, _| writes += 1);
                }
                coalescer.flush(buffer, &mut |_, _, _| writes += 1);
                assert_eq!(writes, 1);
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
    let mut group = c.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(1420));
    group.bench_function("1420 bytes", |b| {
        b.iter(|| {
            let mut sum = Checksum::default();
            sum.add(black_box(&packet[..1420]));
            black_box(sum.finish())
        });
    });
}

/// A line of three nodes, settled: 1 and 3 know only 2, and can't hear each other.
fn line() -> Vec<Node> {
    let mut nodes: Vec<Node> = (1..4).map(node).collect();
    for i in [0, 2] {
        nodes[i].set_bootstrap(Instant(0), &[addr(2)]);
    }
    for ms in 1..60 {
        let now = Instant(ms * 50_000);
        carry(now, &mut nodes);
        nodes.iter_mut().for_each(|n| n.handle_timeout(now));
    }
    nodes
}

fn carry(now: Instant, nodes: &mut [Node]) {
    loop {
        let mut quiet = true;
        for from in 0..nodes.len() {
            while let Some(mut t) = nodes[from].poll_transmit() {
                quiet = false;
                let Some(to) = (0..nodes.len()).find(|i| addr(*i as u8 + 1) == t.to) else { continue };
                if from.abs_diff(to) == 1 {
                    nodes[to].handle_datagram(now, addr(from as u8 + 1), 1, &mut t.bytes);
                }
            }
        }
        if quiet {
            return;
        }
    }
}

fn relay(c: &mut Criterion) {
    let mut nodes = line();
    let now = Instant(4_000_000);
    let (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) = (nodes[0].addresses()[0], nodes[2].addresses()[0])
    else {
        return;
    };
    let mut packet = vec![0u8; 1360];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&1360u16.to_be_bytes());
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    nodes[0].handle_tun(now, &packet);
    carry(now, &mut nodes);
    let tables = nodes[1].snapshot();
    let mut group = c.benchmark_group("relay");
    group.throughput(Throughput::Bytes(1360));
    group.bench_function("authenticate and rewrite a hop header", |b| {
        b.iter_batched_ref(
            || {
                nodes[0].handle_tun(now, &packet);
                nodes[0].poll_transmit().expect("a relayed datagram").bytes
            },
            |datagram| {
                let forwarded = matches!(forward::ingress(&tables, addr(1), datagram), Ingress::Forward { .. });
                assert!(forwarded);
            },
            BatchSize::SmallInput,
        );
    });
}

/// Believes what it has made itself.
struct Maker(HashMap<Vec<u8>, Arc<Verified>>);

impl Judge for Maker {
    fn may_be_member(&self, _: &NodeId) -> bool {
        true
    }

    fn judge(&mut self, announcement: &[u8], _: &[u8], _: Option<&Arc<Record>>) -> Result<Arc<Verified>, Refusal> {
        self.0.get(announcement).cloned().ok_or(Refusal::ForgedIdentity)
    }
}

fn routing(c: &mut Criterion) {
    let network = Network::new("bench", None, None, "100.64.0.0/10".parse().expect("a prefix"));
    let announce = |i: u32| {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&i.to_be_bytes());
        let identity = Identity::new(SigningKey::ed25519_from_seed(&seed)).expect("a seed makes an identity");
        Arc::new(identity.announce(&network, &RecordContent::default(), 10, 7200).expect("a sound record"))
    };
    let all: Vec<Arc<Verified>> = (0..10_001).map(announce).collect();
    for routes in [1_000u32, 10_000] {
        let mut maker = Maker(all.iter().map(|v| (v.bytes.clone(), Arc::clone(v))).collect());
        let mut table = Routing::new(Arc::clone(&all[0]), Instant(0));
        let neighbors: Vec<_> =
            (0..8u8).map(|i| table.neighbor_up(Instant(0), NodeId([i + 1; 32]), 1_000 + u32::from(i))).collect();
        let update = |from: u32, to: u32, metric: u32, first: bool| RouteUpdate {
            introductions: (from..to)
                .filter(|_| first)
                .map(|o| Introduction { slot: o, node_id: all[o as usize].id.0.to_vec() })
                .collect(),
            bodies: (from..to)
                .filter(|_| first)
                .map(|o| Body { slot: o, announcement: all[o as usize].bytes.clone(), record: Vec::new() })
                .collect(),
            slots: (from..to).collect(),
            seqnos: vec![10; (to - from) as usize],
            metrics: vec![metric; (to - from) as usize],
            ..RouteUpdate::default()
        };
        for n in &neighbors {
            for from in (1..=routes).step_by(100) {
                let refused = table.handle_update(Instant(0), *n, &update(from, from + 100, 50_000, true), &mut maker);
                assert!(refused.is_empty());
            }
        }
        assert_eq!(table.reachable(), routes as usize);
        let mut group = c.benchmark_group("routing update");
        group.throughput(Throughput::Elements(u64::from(routes)));
        let mut metric = 50_000;
        group.bench_function(format!("a neighbour's whole table, {routes} routes, 8 neighbours"), |b| {
            b.iter(|| {
                // Better by a tenth, then back: every route moves to this neighbour, and away again.
                metric = if metric == 50_000 { 40_000 } else { 50_000 };
                for from in (1..=routes).step_by(100) {
                    let update = update(from, from + 100, metric, false);
                    table.handle_update(Instant(1), neighbors[3], &update, &mut maker);
                }
                while neighbors.iter().any(|n| table.next_update(Instant(1_000_000_000), *n).is_some()) {}
                black_box(table.take_events().len())
            });
        });
        group.finish();
    }
}

criterion_group!(benches, offloads, relay, routing);
criterion_main!(benches);
