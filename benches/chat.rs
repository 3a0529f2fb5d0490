//! Benches of the chat's core: what taking a message in costs, and what people see of many.

use std::{hint::black_box, sync::Arc};

use aegisray::{
    chat::{Author, Body, DeviceKey, Kind, Message, Replica, Role, verify_all},
    crypto::Rng,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A platform of `authors` with `texts` messages of 300 bytes and `grants` acts.
fn platform(authors: u8, texts: usize, grants: usize) -> (Replica, Vec<Arc<Message>>) {
    let key = |i: u8| DeviceKey::new(&[i + 1; 32], &[i + 101; 32]);
    let mut replica = Replica::default();
    let mut writers = vec![Author::new(key(0), None)];
    let mut all = vec![writers[0].join(&mut replica, 1000)];
    for i in 1..authors {
        let mut author = Author::new(key(i), Some(all[0].platform));
        all.push(author.join(&mut replica, 1000));
        writers.push(author);
    }
    for i in 0..grants {
        let target = writers[1 + i % (writers.len() - 1)].key.identity;
        let body = Body::Grant { target, role: Role::Moderator };
        all.push(writers[0].write(&mut replica, 2000, Kind::Grant, &body, Vec::new()));
    }
    for i in 0..texts {
        let body = Body::Content(Some(vec![i as u8; 300]));
        let who = i % writers.len();
        all.push(writers[who].write(&mut replica, 3000, Kind::Text, &body, Vec::new()));
    }
    (replica, all)
}

fn ingest(c: &mut Criterion) {
    let (_, all) = platform(64, 256, 0);
    let texts: Vec<&Message> = all.iter().rev().take(256).map(|m| &**m).collect();
    let mut rng = Rng::from_seed([1; 32]);
    let mut group = c.benchmark_group("chat/verify");
    group.throughput(Throughput::Elements(256));
    group.bench_function("one by one", |b| b.iter(|| texts.iter().filter(|m| m.verify().is_ok()).count()));
    group.bench_function("256 of 64 authors", |b| b.iter(|| black_box(verify_all(&texts, &mut rng))));
}

fn views(c: &mut Criterion) {
    let mut group = c.benchmark_group("chat/view");
    group.sample_size(20);
    for (texts, acts) in [(10_000, 50), (10_000, 500)] {
        let (replica, all) = platform(64, texts, acts);
        let viewer = all[0].joins().unwrap_or_default();
        group.bench_function(format!("{texts} messages, {acts} acts"), |b| b.iter(|| black_box(replica.view(viewer))));
    }
}

criterion_group!(benches, ingest, views);
criterion_main!(benches);
