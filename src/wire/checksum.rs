//! The Internet checksum (RFC 1071), fast enough for every payload byte that passes.

/// A checksum in the making. Parts are added one after another; all but the last must have an even length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// A sum that starts from the pseudo-header of `protocol` (RFC 9293 §3.1, RFC 8200 §8.1): both addresses as they
    /// stand in the IP header, and the length of what follows it.
    #[must_use]
    pub fn pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> Self {
        let mut sum = Self::default();
        sum.add(addresses);
        sum.add(&(len as u32).to_be_bytes());
        sum.add(&[0, protocol]);
        sum
    }

    /// Adds bytes. The sum is independent of byte order (RFC 1071 §2.B), so words are taken as the machine has them.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut lanes = [0u64; 8];
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for i in 0..8 {
                lanes[i] += u64::from(u32::from_ne_bytes(words[i]));
            }
        }
        let mut sum = lanes.iter().sum::<u64>();
        let (pairs, last) = rest.as_chunks::<2>();
        for pair in pairs {
            sum += u64::from(u16::from_ne_bytes(*pair));
        }
        if let [last] = last {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        self.0 += sum;
    }

    fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum as it stands in a header.
    #[must_use]
    pub fn finish(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// The sum without the final complement: what a partial checksum holds.
    #[must_use]
    pub fn partial(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    /// Whether a sum over bytes that include their checksum comes out right.
    #[must_use]
    pub fn is_right(self) -> bool {
        self.fold() == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn equals_the_definition_and_verifies(bytes in prop::collection::vec(any::<u8>(), 0..3000), cut in 0usize..1500) {
            let mut sum = Checksum::default();
            let cut = (cut & !1).min(bytes.len());
            sum.add(&bytes[..cut]);
            sum.add(&bytes[cut..]);
            prop_assert_eq!(u16::from_be_bytes(sum.finish()), plain(&bytes));
            let mut whole = bytes.clone();
            whole.resize(whole.len().next_multiple_of(2), 0);
            whole.extend_from_slice(&sum.finish());
            let mut check = Checksum::default();
            check.add(&whole);
            prop_assert!(check.is_right());
        }
    }
}
