//! An emulated cable: delay, jitter, loss, reordering and rate, by a thread that carries frames between two interfaces
//! (the kernels that we test on have no netem).

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    crypto::Rng,
    host::{CableEnd, MAX_FRAME, NetNs, wait_for_frames},
};

/// Bytes that wait for their turn under a rate; more are dropped, as by a router.
const QUEUE: f64 = 256.0 * 1024.0;

/// What a cable does to frames, in each direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Each frame is this late.
    pub delay: Duration,
    /// And up to this much more, at random: frames overtake each other.
    pub jitter: Duration,
    /// Share that is lost, 0.0 to 1.0.
    pub loss: f64,
    /// Bits per second; `None`: as fast as can be.
    pub rate: Option<u64>,
}

/// A running cable; it is cut when this value goes.
pub struct Wire {
    stop: Arc<AtomicBool>,
}

impl Wire {
    /// Joins two interfaces of a namespace. The same seed makes the same decisions.
    pub fn join(ns: &NetNs, ends: [&str; 2], weather: Weather, seed: u64) -> io::Result<Self> {
        let [a, b] = ends;
        let ends = ns.run(|| Ok([CableEnd::open(a)?, CableEnd::open(b)?]))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_be_bytes());
        std::thread::Builder::new()
            .name("wire".to_owned())
            .spawn(move || carry(&ends, weather, Rng::from_seed(key), &stopped))?;
        Ok(Self { stop })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A frame on its way: when it arrives, in which order it came, to which end, and itself.
type Flying = (Reverse<(Instant, u64)>, usize, Vec<u8>);

fn carry(ends: &[CableEnd; 2], weather: Weather, mut rng: Rng, stop: &AtomicBool) {
    let mut flying: BinaryHeap<Flying> = BinaryHeap::new();
    let mut free_at = [Instant::now(); 2];
    let mut buffer = vec![0; MAX_FRAME];
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        while flying.peek().is_some_and(|f| f.0.0.0 <= now) {
            if let Some((_, to, frame)) = flying.pop() {
                // A full queue at the other end loses it, as on any cable.
                let _ = ends[to].send(&frame);
            }
        }
        let wait = flying.peek().map_or(Duration::from_millis(50), |f| f.0.0.0.saturating_duration_since(now));
        wait_for_frames([&ends[0], &ends[1]], wait.min(Duration::from_millis(50)));
        for from in 0..2 {
            while let Ok(Some(n)) = ends[from].receive(&mut buffer) {
                let now = Instant::now();
                if rng.chance(weather.loss) {
                    continue;
                }
                let mut at = now;
                if let Some(rate) = weather.rate {
                    let waiting = free_at[from].saturating_duration_since(now);
                    if waiting.as_secs_f64() * rate as f64 / 8.0 > QUEUE {
                        continue;
                    }
                    at = now.max(free_at[from]) + Duration::from_secs_f64(n as f64 * 8.0 / rate as f64);
                    free_at[from] = at;
                }
                let jitter = rng.below(weather.jitter.as_micros() as u64 + 1);
                let arrives = at + weather.delay + Duration::from_micros(jitter);
                count += 1;
                flying.push((Reverse((arrives, count)), 1 - from, buffer[..n].to_vec()));
            }
        }
    }
}
