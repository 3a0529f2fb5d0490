//! What taking in, keeping, reading and comparing many messages costs, on this machine's disk.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    engine::{Engine, Refusal},
    keys::Keys,
    relay::Limits,
    store::Store,
    sync::{CompareError, Comparison, Found, Scope},
};
use crate::{
    chat::{Author, Body, DeviceKey, Hlc, Id, Kind, Replica, verify_all},
    crypto::Rng,
    host,
};

const AUTHORS: u8 = 64;
/// Messages that are taken in together.
const BATCH: usize = 1024;
const TEXT: &str = "the quick brown fox jumps over the lazy dog while a quiet owl watches";

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub messages: usize,
    /// A second, on one processor, in batches of 256.
    pub verified_per_s: f64,
    /// A second, checked, judged, indexed and on the disk.
    pub durable_per_s: f64,
    pub bytes_per_message: f64,
    pub page_ms: f64,
    pub search_ms: f64,
    /// Both sides' sets are made and found to be the same.
    pub compare_ms: f64,
    pub rss_mib: f64,
    /// As many with sets of which 50 messages each are one side's own.
    pub compared: Compared,
}

/// What a comparison of two sets cost.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// Messages that both sides have, and those that one has alone.
    pub common: usize,
    pub own: usize,
    /// Of both directions.
    pub bytes: usize,
    pub rounds: usize,
    /// Of both sides, their sets being made: the fastest of some runs.
    pub ms: f64,
}

/// Compares two sets of so many messages of a year, of which so many are each side's own.
///
/// # Errors
/// The sides do not find out how they differ.
pub fn compare(common: usize, own: usize) -> Result<Compared, Refusal> {
    const RUNS: usize = 3;
    let scope = Scope { platform: Id::default(), acts: false, from: Hlc(0), to: Hlc(u64::MAX) };
    let mut rng = Rng::from_seed([1; 32]);
    let mut items = |n: usize| -> Vec<(Hlc, Id)> {
        (0..n).map(|_| (Hlc::from_ms(1_700_000_000_000 + rng.below(1 << 35)), Id(rng.bytes()))).collect()
    };
    let (common_items, ours, theirs) = (items(common), items(own), items(own));
    let sorted = |items: &[(Hlc, Id)]| items.iter().map(|(_, id)| *id).collect::<BTreeSet<Id>>();
    let mut out = Compared { common, own, bytes: 0, rounds: 0, ms: f64::MAX };
    for _ in 0..RUNS {
        let side = |own: &[(Hlc, Id)]| Comparison::new(scope, &[&common_items[..], own].concat());
        let (mut one, mut other) = (side(&ours)?, side(&theirs)?);
        let mut found = Found::default();
        (out.bytes, out.rounds) = (0, 0);
        let start = Instant::now();
        let mut step = Some(one.initiate()?);
        while let Some(question) = step {
            let answer = other.answer(&question)?;
            out.bytes += question.len() + answer.len();
            out.rounds += 1;
            let (more, next) = one.proceed(&answer)?;
            found.have.extend(more.have);
            found.need.extend(more.need);
            step = next;
        }
        out.ms = out.ms.min(start.elapsed().as_secs_f64() * 1e3);
        let [have, need] = [found.have, found.need].map(|ids| ids.into_iter().collect::<BTreeSet<Id>>());
        if have != sorted(&ours) || need != sorted(&theirs) {
            return Err(Refusal::no("the two sides have not found how they differ"));
        }
    }
    Ok(out)
}

impl From<CompareError> for Refusal {
    fn from(error: CompareError) -> Self {
        Self::no(error.to_string())
    }
}

/// Runs in a new directory, which stays behind, with messages that came from `start_ms` on. `relay`: without the index of words, as
/// relays do it.
pub fn run(dir: &Path, messages: usize, relay: bool, start_ms: u64) -> Result<Figures, Refusal> {
    std::fs::create_dir_all(dir).map_err(|e| Refusal::no(format!("cannot make {}: {e}", dir.display())))?;
    let store = Store::open(&dir.join("chat.db"))?;
    let limits = Limits { keep_ms: u64::MAX >> 20, quota: u64::MAX };
    let relay_limits = relay.then_some(limits);
    let mut engine =
        Engine::new(store, Keys::open(&dir.join("identity.json"))?, relay_limits, Rng::from_seed([1; 32]))?;
    // The authors' side: as many devices as nodes would have.
    let key = |i: u8| DeviceKey::new(&[i + 1; 32], &[i + 101; 32]);
    let mut replica = Replica::default();
    let mut authors = vec![Author::new(key(0), None)];
    let mut acts = vec![authors[0].join(&mut replica, start_ms)];
    let platform = acts[0].platform;
    engine.expected.insert(platform);
    for i in 1..AUTHORS {
        let mut author = Author::new(key(i), Some(platform));
        acts.push(author.join(&mut replica, start_ms));
        authors.push(author);
    }
    engine.ingest(start_ms, acts.iter().map(|m| m.encode()).collect())?;
    engine.set_joined(platform, true)?;
    let heads = replica.auth_heads();
    let (mut taken, mut verified, mut verifying, mut ingesting) = (0, 0, Duration::ZERO, Duration::ZERO);
    let mut rng = Rng::from_seed([2; 32]);
    while taken < messages {
        let now_ms = start_ms + 1000 + taken as u64;
        let batch: Vec<_> = (0..BATCH.min(messages - taken))
            .map(|i| {
                let text = super::payload::text(&format!("{TEXT} {}", taken + i), Vec::new());
                let author = &mut authors[i % usize::from(AUTHORS)];
                let hlc = Hlc::from_ms(now_ms);
                author.say(Hlc(hlc.0 + i as u64), heads.clone(), Kind::Text, &Body::Content(Some(text)), Vec::new())
            })
            .collect();
        let some: Vec<_> = batch.iter().take(256).collect();
        let start = Instant::now();
        verified += verify_all(&some, &mut rng).into_iter().filter(|good| *good).count();
        verifying += start.elapsed();
        let bytes: Vec<Vec<u8>> = batch.iter().map(|m| m.encode()).collect();
        let start = Instant::now();
        taken += engine.ingest(now_ms, bytes)?.fresh.len();
        ingesting += start.elapsed();
    }
    let time = |work: &mut dyn FnMut() -> Result<(), Refusal>| -> Result<f64, Refusal> {
        let start = Instant::now();
        (0..10).try_for_each(|_| work())?;
        Ok(start.elapsed().as_secs_f64() * 100.0)
    };
    let found = engine.platforms.get(&platform).ok_or_else(|| Refusal::no("no platform"))?;
    let place = found.place.n;
    let newest = super::store::From::Before(Hlc(u64::MAX), Id([255; 32]));
    let page_ms = time(&mut || {
        Ok(engine.store.page(place, &[0; 16], Id::default(), newest, 50).map(|p| assert_eq!(p.len(), 50))?)
    })?;
    let query = format!("\"owl\"* \"{}\"*", messages / 2);
    let search_ms = time(&mut || Ok(engine.store.search(place, &query, Id::default(), 50).map(drop)?))?;
    let rss_mib = host::resident_kib(std::process::id()).unwrap_or(0) as f64 / 1024.0;
    let start = Instant::now();
    let scope = Scope { platform, acts: false, from: Hlc(0), to: Hlc(u64::MAX) };
    let items = engine.items(&scope)?;
    let (mut one, mut other) = (Comparison::new(scope, &items)?, Comparison::new(scope, &items)?);
    let answer = other.answer(&one.initiate()?)?;
    let (found, next) = one.proceed(&answer)?;
    assert!(found.have.is_empty() && found.need.is_empty() && next.is_none(), "they are the same");
    let compare_ms = start.elapsed().as_secs_f64() * 1e3;
    Ok(Figures {
        messages: taken,
        verified_per_s: verified as f64 / verifying.as_secs_f64(),
        durable_per_s: taken as f64 / ingesting.as_secs_f64(),
        bytes_per_message: engine.store.bytes()? as f64 / taken as f64,
        page_ms,
        search_ms,
        compare_ms,
        rss_mib,
        compared: compare(messages, 50)?,
    })
}
