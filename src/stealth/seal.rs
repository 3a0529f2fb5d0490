//! A TLS connection after its handshake, shared by the thread that reads and the one that writes.

use std::{
    io::{self, Read as _, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustls::Connection;

use super::tls_error;
use crate::transport::Seal;

/// Seals and opens what crosses the socket.
pub struct TlsSeal(Mutex<Connection>);

impl TlsSeal {
    #[must_use]
    pub fn new(mut connection: Connection) -> Self {
        // What is handed over was taken from a bounded queue.
        connection.set_buffer_limit(None);
        Self(Mutex::new(connection))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that nothing more comes: `out` is to be sent last.
    pub fn say_goodbye(&self, out: &mut Vec<u8>) -> io::Result<()> {
        self.lock().send_close_notify();
        self.seal(&[], out)
    }
}

impl Seal for TlsSeal {
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
