//! A relay's housekeeping: messages go after a week, and the oldest first when there are too many.

use std::time::Duration;

use super::store::{Result, Store};

/// How often it is looked for what is too old.
pub const SWEEP: Duration = Duration::from_secs(3600);
/// How often it is looked for what is too much.
pub const MAKE_ROOM: Duration = Duration::from_secs(10);

/// What a relay keeps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long messages are kept after they came, in milliseconds. Acts of authority are kept for ever.
    pub keep_ms: u64,
    /// Bytes of the database.
    pub quota: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { keep_ms: 7 * 86_400_000, quota: 20 << 30 }
    }
}

/// Deletes what is too old; returns how many messages.
pub fn sweep(store: &Store, limits: &Limits, now_ms: u64) -> Result<usize> {
    let gone = store.delete_older(now_ms.saturating_sub(limits.keep_ms))?;
    if gone > 0 {
        store.clean_journal()?;
    }
    Ok(gone)
}

/// Deletes what is too much; returns how many messages.
pub fn make_room(store: &Store, limits: &Limits) -> Result<usize> {
    let mut gone = 0;
    while store.bytes()? > limits.quota {
        // Files first.
        let n = match store.drop_oldest_pieces()? {
            0 => store.delete_oldest()?,
            n => n,
        };
        if n == 0 {
            break;
        }
        gone += n;
    }
    if gone > 0 {
        store.clean_journal()?;
    }
    Ok(gone)
}
