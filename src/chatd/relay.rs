//! A relay's housekeeping: messages go after a week, and the oldest first when there are too many.

use std::time::Duration;

use super::{engine::Engine, store::Result};

/// How often it is looked for what is too old.
pub const SWEEP: Duration = Duration::from_secs(3600);

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

/// Deletes what is too old or too much; returns how many messages.
pub fn sweep(engine: &mut Engine, limits: &Limits, now_ms: u64) -> Result<usize> {
    let mut gone = engine.store.delete_older(now_ms.saturating_sub(limits.keep_ms))?;
    while engine.store.bytes()? > limits.quota {
        let n = engine.store.delete_oldest()?;
        if n == 0 {
            break;
        }
        gone += n;
    }
    if gone > 0 {
        engine.store.clean_journal()?;
    }
    Ok(gone)
}
