//! The random generator that the state machines are handed: ChaCha20 from a 32-byte seed, so that a simulated node
//! replays exactly and a real one is as good as its seed from the operating system.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

#[derive(Debug, Clone)]
pub struct Rng(ChaCha20Rng);

impl Rng {
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// A generator of its own stream, for a part that must not disturb this one's sequence.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::from_seed(self.bytes())
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }

    #[must_use]
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    #[must_use]
    pub fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    #[must_use]
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0. The bias is below 2⁻³² for every bound in use.
    #[must_use]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True with probability `p`, which is in 0.0 to 1.0.
    #[must_use]
    pub fn chance(&mut self, p: f64) -> bool {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64 <= p && p > 0.0
    }

    /// `base` ± `percent` %, uniform.
    #[must_use]
    pub fn jitter(&mut self, base: std::time::Duration, percent: u64) -> std::time::Duration {
        let micros = base.as_micros() as u64;
        let spread = micros / 100 * percent;
        std::time::Duration::from_micros(micros - spread + self.below(2 * spread + 1))
    }
}
