//! The fuzzer's bytes as a source of choices. When they are used up, every choice is the first one.

use libfuzzer_sys::arbitrary::Unstructured;

/// Values at which arithmetic goes wrong, if anywhere.
const EDGES: [u32; 8] = [0, 1, 2, 255, 65_535, i32::MAX as u32, u32::MAX - 1, u32::MAX];

pub struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    /// Nothing is left to choose with.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// 0 to `n` - 1; `n` is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.int_in_range(0..=n - 1).unwrap_or(0)
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    pub fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// A small number, an edge or any.
    pub fn number(&mut self) -> u32 {
        match self.below(4) {
            0 => self.below(40) as u32,
            1 => self.pick(&EDGES),
            _ => self.0.arbitrary().unwrap_or(0),
        }
    }

    pub fn wide(&mut self) -> u64 {
        match self.below(3) {
            0 => u64::from(self.number()),
            1 => u64::MAX - u64::from(self.number()),
            _ => self.0.arbitrary().unwrap_or(0),
        }
    }

    /// At most `max` bytes.
    pub fn bytes(&mut self, max: usize) -> Vec<u8> {
        let len = self.below(max + 1).min(self.0.len());
        self.0.bytes(len).map(<[u8]>::to_vec).unwrap_or_default()
    }

    /// `n` bytes.
    pub fn exactly(&mut self, n: usize) -> Vec<u8> {
        let mut out = self.bytes(n);
        out.resize(n, self.byte());
        out
    }

    /// The same bytes, or now and then others: one changed, some cut off, some added.
    pub fn mangle(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        if !self.once_in(8) || bytes.is_empty() {
            return bytes;
        }
        let at = self.below(bytes.len());
        match self.below(4) {
            0 => bytes[at] ^= self.byte().max(1),
            1 => bytes.truncate(at),
            2 => bytes.extend(self.bytes(40)),
            _ => drop(bytes.splice(at..at, self.bytes(8)).count()),
        }
        bytes
    }
}
