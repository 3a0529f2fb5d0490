//! A TLS connection after its handshake, shared by the thread that reads and the one that writes.

use std::{
    io::{self, Read as _, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustls::Connection;

use super::{
    shape::{End, Shaper},
    tls_error,
};
use crate::{config::Shaping, host, transport::Seal};

/// Seals and opens what crosses the socket.
pub struct TlsSeal {
    connection: Mutex<Connection>,
    shaper: Mutex<Shaper>,
}

impl TlsSeal {
    /// `shaping` is what this end does for its looks.
    pub fn new(mut connection: Connection, shaping: Shaping) -> io::Result<Self> {
        // What is handed over was taken from a bounded queue.
        connection.set_buffer_limit(None);
        let end = if matches!(connection, Connection::Client(_)) { End::Visitor } else { End::Site };
        let shaper = Shaper::new(end, shaping, host::random()?, Instant::now());
        Ok(Self { connection: Mutex::new(connection), shaper: Mutex::new(shaper) })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that nothing more comes: `out` is to be sent last.
    pub fn say_goodbye(&self, out: &mut Vec<u8>) -> io::Result<()> {
        self.lock().send_close_notify();
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
        let mut connection = self.lock();
        connection.writer().write_all(plaintext)?;
        while connection.wants_write() {
            connection.write_tls(out)?;
        }
        Ok(())
    }

    fn open(&self, mut received: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let mut connection = self.lock();
        // Once at least: something may have come with the end of the handshake.
        loop {
            if !received.is_empty() {
                connection.read_tls(&mut received)?;
            }
            let state = connection.process_new_packets().map_err(tls_error)?;
            let start = out.len();
            out.resize(start + state.plaintext_bytes_to_read(), 0);
            connection.reader().read_exact(&mut out[start..])?;
            if state.peer_has_closed() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if received.is_empty() {
                return Ok(());
            }
        }
    }
}
