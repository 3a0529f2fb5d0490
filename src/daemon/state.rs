//! What a daemon remembers across restarts: known peers, its own sequence number and address, invitations,
//! revocations. A damaged file is set aside, not trusted and not fatal.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
};

use prost::Message as _;
use tokio::time::{self, Duration};

use crate::{
    identity::{InviteKey, keyfile},
    node::{Invitation, Node},
    types::{Instant, NodeId, UnixTime},
    wire::proto,
};

/// A change is saved after so long, with what comes meanwhile.
const SAVE_AFTER: Duration = Duration::from_secs(2);
/// What others say of themselves is saved at most so often: they give themselves new numbers all the time.
const PEERS_EVERY: Duration = Duration::from_secs(60);
/// How often a lock is tried, and the pause after each.
const LOCK_TRIES: u32 = 10;
const LOCK_WAIT: Duration = Duration::from_millis(50);
/// Known peers kept.
const MAX_PEERS: usize = 1000;

pub(super) struct StateFile {
    path: PathBuf,
}

/// When the state is to be saved.
#[derive(Default)]
pub(super) struct Saving {
    pub at: Option<time::Instant>,
    last: Option<time::Instant>,
}

impl Saving {
    /// Something has changed that this node must not forget.
    pub fn hurry(&mut self, now: time::Instant) {
        let at = now + SAVE_AFTER;
        self.at = Some(self.at.map_or(at, |before| before.min(at)));
    }

    /// Something has changed that can wait.
    pub fn wait(&mut self, now: time::Instant) {
        let rest = self.last.map_or(now, |last| last + PEERS_EVERY);
        self.at.get_or_insert(rest.max(now + SAVE_AFTER));
    }

    /// It is saved.
    pub fn done(&mut self, now: time::Instant) {
        (self.at, self.last) = (None, Some(now));
    }
}

/// The state as it was read.
#[derive(Default)]
pub(super) struct State {
    pub peers: Vec<proto::Body>,
    pub ipv4_attempt: u32,
    pub held_until: UnixTime,
    pub seqno: u32,
    pub revocations: Vec<u8>,
    pub invitations: Vec<Invitation>,
}

/// Takes a state directory for this process alone, as long as the file lives.
pub(super) fn lock(dir: &Path) -> io::Result<File> {
    fs::create_dir_all(dir)?;
    let file = File::options().write(true).create(true).truncate(false).open(dir.join("lock"))?;
    // A program that a daemon had begun to start when it was killed holds it for a moment.
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_WAIT),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "it is taken"))
}

/// Whether a process has taken it.
pub(super) fn is_taken(dir: &Path) -> bool {
    File::open(dir.join("lock")).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

impl StateFile {
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.join("state.bin") }
    }

    pub fn load(&self) -> State {
        let Ok(bytes) = std::fs::read(&self.path) else { return State::default() };
        let Ok(raw) = proto::PeerStore::decode(&*bytes) else {
            let aside = self.path.with_extension("damaged");
            tracing::warn!(file = %self.path.display(), moved_to = %aside.display(), "state file is damaged; starting without it");
            let _ = std::fs::rename(&self.path, aside);
            return State::default();
        };
        let invitation = |i: proto::Invitation| {
            Some(Invitation {
                key: InviteKey::from_slice(&i.key)?,
                expires: i.expires,
                name: i.name,
                groups: i.groups,
                used_by: NodeId::from_slice(&i.used_by).map(|node| (node, i.certificate)),
            })
        };
        State {
            peers: raw.peers,
            ipv4_attempt: raw.own_ipv4_attempt % crate::identity::IPV4_ATTEMPTS,
            held_until: raw.own_held_until,
            seqno: raw.own_seqno,
            revocations: raw.revocations,
            invitations: raw.invitations.into_iter().filter_map(invitation).collect(),
        }
    }

    pub fn save(&self, node: &Node, now: Instant) -> io::Result<()> {
        let (own_ipv4_attempt, own_seqno) = node.own_state();
        let me = node.id();
        // In this order they are known again after a restart: who had an address first keeps it.
        let known = node.owners().by_age().into_iter().filter(|id| *id != me);
        let routing = node.routing();
        let peers = known.filter_map(|id| routing.announcement(routing.origin(&id)?)).take(MAX_PEERS);
        let store = proto::PeerStore {
            peers: peers
                .map(|a| proto::Body { slot: 0, announcement: a.bytes.clone(), record: a.record.bytes.clone() })
                .collect(),
            own_ipv4_attempt,
            own_held_until: node.held_until(now),
            own_seqno,
            revocations: node.revocations().to_vec(),
            invitations: node
                .invitations()
                .iter()
                .map(|i| proto::Invitation {
                    key: i.key.bytes().to_vec(),
                    expires: i.expires,
                    name: i.name.clone(),
                    groups: i.groups.clone(),
                    used_by: i.used_by.as_ref().map(|(node, _)| node.0.to_vec()).unwrap_or_default(),
                    certificate: i.used_by.as_ref().map(|(_, c)| c.clone()).unwrap_or_default(),
                })
                .collect(),
        };
        keyfile::write_secret(&self.path, &store.encode_to_vec()).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Others change ten times a second for ten minutes; whether this node does once in a while; how often that is saved.
    fn saved(own: impl Fn(u32) -> bool) -> (u32, Duration) {
        let (start, mut saving) = (time::Instant::now(), Saving::default());
        let (mut count, mut longest, mut since) = (0, Duration::ZERO, None);
        for tenth in 0..6000u32 {
            let now = start + Duration::from_millis(100) * tenth;
            saving.wait(now);
            if own(tenth) {
                saving.hurry(now);
                since.get_or_insert(now);
            }
            if saving.at.is_some_and(|at| at <= now) {
                saving.done(now);
                count += 1;
                longest = longest.max(since.take().map_or(Duration::ZERO, |since| now - since));
            }
        }
        (count, longest)
    }

    #[test]
    fn what_others_say_is_saved_once_a_minute_and_ones_own_at_once() {
        assert_eq!(saved(|_| false), (10, Duration::ZERO));
        let (count, longest) = saved(|tenth| tenth % 900 == 450);
        assert!((10..=18).contains(&count) && longest == SAVE_AFTER, "{count} times, after {longest:?}");
    }
}
