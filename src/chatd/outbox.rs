//! What waits to be sent, and how much of it: of each link, and of all together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Bytes that may wait, of all links together.
const MOST: usize = 128 << 20;
/// Bytes of one link that wait when nothing more is read for it from the disk.
const WINDOW: usize = 1 << 20;
/// What a frame takes beside its bytes.
const BESIDE: usize = 64;

/// How much waits on a link.
#[derive(Clone, Debug, Default)]
pub struct Load {
    own: Arc<Own>,
    all: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Own {
    bytes: AtomicUsize,
    cut: Notify,
}

impl Load {
    /// That of another link.
    pub fn beside(&self) -> Self {
        Self { own: Arc::default(), all: Arc::clone(&self.all) }
    }

    pub fn own(&self) -> usize {
        self.own.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of all links that are too many.
    pub fn too_much(&self) -> usize {
        self.all.load(Ordering::Relaxed).saturating_sub(MOST)
    }

    /// Whether who reads slowly keeps others waiting.
    pub fn is_short(&self) -> bool {
        self.all.load(Ordering::Relaxed) > MOST / 2
    }

    /// Whether more is to be read for this link from the disk.
    pub fn has_room(&self) -> bool {
        self.own() < WINDOW && !self.is_short()
    }

    /// Ends the link, with all that waits.
    pub fn cut(&self) {
        self.own.cut.notify_one();
    }

    pub async fn is_cut(&self) {
        self.own.cut.notified().await;
    }

    /// A frame that waits from now on.
    pub fn hold(&self, bytes: Vec<u8>) -> Outgoing {
        let size = bytes.len() + BESIDE;
        self.own.bytes.fetch_add(size, Ordering::Relaxed);
        self.all.fetch_add(size, Ordering::Relaxed);
        Outgoing { bytes, size, load: self.clone() }
    }
}

/// A frame. It counts until it is dropped, wherever that is.
#[derive(Debug)]
pub struct Outgoing {
    pub bytes: Vec<u8>,
    size: usize,
    load: Load,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.load.own.bytes.fetch_sub(self.size, Ordering::Relaxed);
        self.load.all.fetch_sub(self.size, Ordering::Relaxed);
    }
}
