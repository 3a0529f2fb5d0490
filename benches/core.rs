//! Benches of the core: what one packet, one handshake and one lookup cost.

mod common;

use std::hint::black_box;

use aegisray::{
    crypto::{AeadKey, Cipher},
    node::{Node, PrefixMap},
    types::{Instant, IpPrefix},
    wire::ip,
};
use common::{addr, node};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

fn aead(c: &mut Criterion) {
    for cipher in Cipher::all_here() {
        let mut group = c.benchmark_group(format!("aead/{}", cipher.name()));
        let key = AeadKey::new(cipher, &[7; 32]);
        for size in [64usize, 1420] {
            group.throughput(Throughput::Bytes(size as u64));
            let mut buf = vec![0u8; size];
            let mut counter = 0;
            group.bench_function(format!("seal/{size}"), |b| {
                b.iter(|| {
                    counter += 1;
                    black_box(key.seal(counter, &[0; 16], &mut buf))
                });
            });
            let mut sealed = vec![0u8; size];
            let tag = key.seal(1, &[0; 16], &mut sealed);
            sealed.extend_from_slice(&tag);
            group.bench_function(format!("open/{size}"), |b| {
                b.iter_batched_ref(|| sealed.clone(), |s| black_box(key.open(1, &[0; 16], s)), BatchSize::SmallInput);
            });
        }
    }
}

fn lookup(c: &mut Criterion) {
    for routes in [10u32, 1_000, 10_000] {
        let mut map: PrefixMap<u32> = PrefixMap::default();
        for i in 0..routes {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + i * 256);
            let prefix = IpPrefix::new(address.into(), 24).expect("24 is in range");
            map.entry(prefix).or_insert(i);
        }
        let target = std::net::Ipv4Addr::from(0x0a00_0000 + (routes / 2) * 256 + 7).into();
        c.bench_function(&format!("prefix lookup/{routes} routes"), |b| {
            b.iter(|| black_box(map.matches(black_box(target)).next()));
        });
    }
}

fn carry(now: Instant, a: &mut Node, b: &mut Node) {
    loop {
        let mut quiet = true;
        while let Some(mut t) = a.poll_transmit() {
            quiet = false;
            b.handle_datagram(now, addr(1), 1, &mut t.bytes);
        }
        while let Some(mut t) = b.poll_transmit() {
            quiet = false;
            a.handle_datagram(now, addr(2), 1, &mut t.bytes);
        }
        if quiet {
            return;
        }
    }
}

/// Two nodes with a link between them.
fn linked() -> (Node, Node) {
    let (mut a, mut b) = (node(1), node(2));
    b.set_bootstrap(Instant(0), &[addr(1)]);
    for ms in 1..20 {
        let now = Instant(ms * 50_000);
        carry(now, &mut a, &mut b);
        a.handle_timeout(now);
        b.handle_timeout(now);
    }
    (a, b)
}

fn handshake(c: &mut Criterion) {
    c.bench_function("handshake XX, both ends, with ML-KEM-768", |b| {
        b.iter_batched(
            || (node(1), node(2)),
            |(mut a, mut b)| {
                b.set_bootstrap(Instant(0), &[addr(1)]);
                carry(Instant(0), &mut a, &mut b);
                black_box((a.counters.handshakes, b.counters.handshakes))
            },
            BatchSize::SmallInput,
        );
    });
}

fn packet(c: &mut Criterion) {
    let (mut a, mut b) = linked();
    let (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) = (a.addresses()[0], b.addresses()[0]) else { return };
    let mut packet = vec![0u8; 1420];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&1420u16.to_be_bytes());
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let mut group = c.benchmark_group("packet of 1420 bytes through two nodes");
    group.throughput(Throughput::Bytes(1420));
    group.bench_function("route, seal, open, check", |bench| {
        bench.iter(|| {
            a.handle_tun(Instant(1_000_000), &packet);
            while let Some(mut t) = a.poll_transmit() {
                b.handle_datagram(Instant(1_000_000), addr(1), 1, &mut t.bytes);
            }
            while b.poll_event().is_some() {}
        });
    });
    group.finish();
    c.bench_function("ICMP for a packet that is too big", |b| {
        packet[6] = 0x40;
        b.iter(|| black_box(ip::too_big(&packet, 1372)));
    });
}

criterion_group!(benches, aead, lookup, handshake, packet);
criterion_main!(benches);
