//! What members show in a ClientHello: a session id that is random to everybody else.
//!
//! TLS 1.3 keeps the session id of TLS 1.2 as 32 bytes that mean nothing (RFC 8446 §4.1.2). A member's are 16 random bytes
//! and a MAC under the network's key over them, the time, and the key share of the same hello: it is worth nothing with
//! another key share, a second time, or two minutes later.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use super::hello::Hello;
use crate::{crypto::HmacKey, host};

/// Seconds in which passes are all alike.
const STEP: u64 = 10;
/// Steps by which the clocks of the two ends may differ.
const REACH: u64 = 12;
const LABEL: &[u8] = b"aegisray pass v1";

/// The step that it is now.
fn step_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs() / STEP)
}

fn tag(network: &HmacKey, nonce: &[u8], share: &[u8], step: u64) -> [u8; 16] {
    network.tag(&[LABEL, nonce, &step.to_be_bytes(), share])
}

/// A session id for a hello with this key share.
pub(super) fn session_id(network: &HmacKey, share: &[u8]) -> io::Result<[u8; 32]> {
    let nonce: [u8; 16] = host::random()?;
    let mut id = [0; 32];
    id[..16].copy_from_slice(&nonce);
    id[16..].copy_from_slice(&tag(network, &nonce, share, step_now()));
    Ok(id)
}

/// Tells members' hellos from all others.
pub(super) struct Guard {
    network: HmacKey,
    /// What came before this node's start may have been shown before.
    since: u64,
    /// Nonces that were shown, and when.
    seen: Mutex<HashMap<[u8; 16], u64>>,
}

impl Guard {
    pub fn new(network: HmacKey) -> Self {
        Self::starting_at(network, step_now())
    }

    pub fn starting_at(network: HmacKey, since: u64) -> Self {
        Self { network, since, seen: Mutex::default() }
    }

    /// Whether this hello is a member's, and the first of its kind.
    pub fn admits(&self, hello: &Hello) -> bool {
        self.admits_at(hello, step_now())
    }

    fn admits_at(&self, hello: &Hello, now: u64) -> bool {
        let (nonce, shown) = hello.session_id.split_at(16);
        // A clock that was set back since the start must not keep members out until it has caught up.
        let is_set_back = now + REACH < self.since;
        let first = now.saturating_sub(REACH).max(if is_set_back { 0 } else { self.since + 1 });
        // All of them are tried, so that the time this takes says nothing of the clock.
        let hit = |step: u64| {
            // Without a key share in it: from clients whose TLS does not tell theirs.
            [&hello.share[..], &[]].into_iter().any(|share| {
                let tag = tag(&self.network, nonce, share, step);
                aws_lc_rs::constant_time::verify_slices_are_equal(&tag, shown).is_ok()
            })
        };
        if (first..=now + REACH).filter(|step| hit(*step)).count() == 0 {
            return false;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Members alone get here, so that this stays small. Twice the reach: a clock ahead keeps a pass alive as long.
        seen.retain(|_, step| *step + 2 * REACH >= now);
        let mut key = [0; 16];
        key.copy_from_slice(nonce);
        seen.insert(key, now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(network: &HmacKey, share: &[u8], step: u64) -> Hello {
        let mut session_id = [3; 32];
        let tag = tag(network, &[3; 16], share, step);
        session_id[16..].copy_from_slice(&tag);
        Hello { session_id, share: share.to_vec() }
    }

    fn guard(network: &HmacKey) -> Guard {
        Guard::starting_at(network.clone(), 1000)
    }

    #[test]
    fn a_pass_is_good_once_for_two_minutes_and_with_its_own_key_share() {
        let network = HmacKey::new(&[1; 32]);
        let good = hello(&network, b"share", 2000);
        for (now, expected) in [(1987, false), (1988, true), (2000, true), (2012, true), (2013, false)] {
            assert_eq!(guard(&network).admits_at(&good, now), expected, "{now}");
        }
        let other_share = Hello { share: b"other".to_vec(), ..hello(&network, b"share", 2000) };
        assert!(!guard(&network).admits_at(&other_share, 2000));
        assert!(!guard(&HmacKey::new(&[2; 32])).admits_at(&good, 2000));
        let guard = guard(&network);
        assert!(guard.admits_at(&good, 2000));
        for now in 1988..2030 {
            assert!(!guard.admits_at(&good, now), "shown again at {now}");
        }
    }

    #[test]
    fn a_pass_from_before_the_start_may_have_been_shown_already() {
        let network = HmacKey::new(&[1; 32]);
        assert!(!guard(&network).admits_at(&hello(&network, b"", 1000), 1000));
        assert!(!guard(&network).admits_at(&hello(&network, b"", 999), 1001));
        assert!(guard(&network).admits_at(&hello(&network, b"", 1001), 1001));
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nobody_out() {
        let network = HmacKey::new(&[1; 32]);
        let guard = guard(&network);
        let pass = hello(&network, b"", 500);
        assert!(guard.admits_at(&pass, 500));
        assert!(!guard.admits_at(&pass, 501));
    }

    #[test]
    fn what_is_made_now_is_good_now() {
        let network = HmacKey::new(&[1; 32]);
        let guard = Guard::starting_at(network.clone(), 0);
        let session_id = session_id(&network, b"share").unwrap();
        assert!(guard.admits(&Hello { session_id, share: b"share".to_vec() }));
    }
}
