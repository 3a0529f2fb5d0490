//! A TLS connection after its handshake, shared by the thread that reads and the one that writes.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    shape::{End, Shaper},
    tls::Tls,
};
use crate::{config::Shaping, host, transport::Seal};

/// Seals and opens what crosses the socket.
pub struct TlsSeal {
    inner: Mutex<Inner>,
    shaper: Mutex<Shaper>,
}

struct Inner {
    tls: Tls,
    /// Plaintext that was read ahead.
    ahead: Vec<u8>,
}

impl TlsSeal {
    /// `shaping` is what this end does for its looks.
    pub(super) fn new(mut tls: Tls, shaping: Shaping) -> io::Result<Self> {
        // What is handed over was taken from a bounded queue.
        tls.unlimit();
        let end = if tls.is_visitor() { End::Visitor } else { End::Site };
        let shaper = Shaper::new(end, shaping, host::random()?, Instant::now());
        Ok(Self { inner: Mutex::new(Inner { tls, ahead: Vec::new() }), shaper: Mutex::new(shaper) })
    }

    /// What was opened and belongs to what is opened next.
    pub(super) fn put_back(&self, plaintext: Vec<u8>) {
        self.lock().ahead = plaintext;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that nothing more comes: `out` is to be sent last.
    pub fn say_goodbye(&self, out: &mut Vec<u8>) -> io::Result<()> {
        self.lock().tls.close();
        self.seal(&[], out)
    }
}

impl Seal for TlsSeal {
    fn shape(&self, queued: usize) -> (Duration, usize) {
        self.shaper.lock().unwrap_or_else(PoisonError::into_inner).shape(queued, Instant::now())
    }

    fn patience(&self) -> Duration {
        self.shaper.lock().unwrap_or_else(PoisonError::into_inner).patience(Instant::now())
    }

    fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let tls = &mut self.lock().tls;
        tls.write(plaintext)?;
        tls.take(out)
    }

    fn open(&self, received: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let mut inner = self.lock();
        out.append(&mut inner.ahead);
        inner.tls.open(received, out)
    }
}
