//! Which version of the protocol two nodes can speak with each other.

/// What this node speaks.
pub const VERSION: u32 = 1;
/// The oldest version that it still speaks.
pub const OLDEST: u32 = 1;

/// The versions that a node speaks: from `oldest` to `version`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Versions {
    pub version: u32,
    pub oldest: u32,
}

impl Versions {
    /// This node's.
    pub const OURS: Self = Self { version: VERSION, oldest: OLDEST };

    /// As a message tells them: 0 stands for 1, and an oldest one that is not told, or newer than the newest, is the newest.
    #[must_use]
    pub fn told(version: u32, oldest: u32) -> Self {
        let version = version.max(1);
        Self { version, oldest: if oldest == 0 { version } else { oldest.min(version) } }
    }

    /// The newest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.version.min(other.version);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_that_both_speak() {
        let of = Versions::told;
        assert_eq!(of(0, 0), Versions { version: 1, oldest: 1 });
        assert_eq!(of(3, 7), Versions { version: 3, oldest: 3 });
        assert_eq!(of(3, 1).common(of(1, 1)), Some(1));
        assert_eq!(of(3, 2).common(of(4, 3)), Some(3));
        assert_eq!(of(3, 2).common(of(1, 1)), None);
        assert_eq!(of(1, 0).common(of(2, 2)), None);
    }
}
