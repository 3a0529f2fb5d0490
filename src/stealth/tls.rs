//! TLS without a socket: bytes in, bytes out. rustls at either end, or a browser's TLS at the visitor's.

use std::io::{self, Read as _, Write as _};

use rustls::Connection;

#[cfg(feature = "browser-hello")]
use super::browser;
use super::tls_error;

/// The label for secrets that a connection makes for us (RFC 9266 §3).
const EXPORTER: &str = "EXPORTER-Channel-Binding";

/// One end of a connection.
pub(super) enum Tls {
    Rustls(Box<Connection>),
    #[cfg(feature = "browser-hello")]
    Browser(Box<browser::Stream>),
}

impl From<Connection> for Tls {
    fn from(connection: Connection) -> Self {
        Self::Rustls(Box::new(connection))
    }
}

impl Tls {
    /// Takes in what was received.
    pub fn feed(&mut self, mut received: &[u8]) -> io::Result<()> {
        match self {
            Self::Rustls(c) => {
                while !received.is_empty() {
                    c.read_tls(&mut received)?;
                    c.process_new_packets().map_err(io::Error::other)?;
                }
                Ok(())
            }
            #[cfg(feature = "browser-hello")]
            Self::Browser(s) => s.feed(received),
        }
    }

    /// Appends what is to be sent.
    pub fn take(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Rustls(c) => {
                while c.wants_write() {
                    c.write_tls(out)?;
                }
            }
            #[cfg(feature = "browser-hello")]
            Self::Browser(s) => s.take(out),
        }
        Ok(())
    }

    pub fn is_handshaking(&self) -> bool {
        match self {
            Self::Rustls(c) => c.is_handshaking(),
            #[cfg(feature = "browser-hello")]
            Self::Browser(s) => s.is_handshaking(),
        }
    }

    /// Covers plaintext, to be taken with [`Self::take`].
    pub fn write(&mut self, plaintext: &[u8]) -> io::Result<()> {
        match self {
            Self::Rustls(c) => c.writer().write_all(plaintext),
            #[cfg(feature = "browser-hello")]
            Self::Browser(s) => s.write(plaintext),
        }
    }

    /// Takes in what was received and appends the plaintext in it. An error if the other end has closed.
    pub fn open(&mut self, mut received: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            // Once at least: something may have come with the end of the handshake.
            Self::Rustls(c) => loop {
                if !received.is_empty() {
                    c.read_tls(&mut received)?;
                }
                let state = c.process_new_packets().map_err(tls_error)?;
                let start = out.len();
                out.resize(start + state.plaintext_bytes_to_read(), 0);
                c.reader().read_exact(&mut out[start..])?;
                if state.peer_has_closed() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if received.is_empty() {
                    return Ok(());
                }
            },
            #[cfg(feature = "browser-hello")]
            Self::Browser(s) => s.open(received, out),
        }
    }

    /// Says that nothing more comes.
    pub fn close(&mut self) {
        match self {
            Self::Rustls(c) => c.send_close_notify(),
            #[cfg(feature = "browser-hello")]
            Self::Browser(s) => s.close(),
        }
    }

    /// Lets [`Self::write`] take as much as it is given.
    pub fn unlimit(&mut self) {
        match self {
            Self::Rustls(c) => c.set_buffer_limit(None),
            #[cfg(feature = "browser-hello")]
            Self::Browser(_) => {}
        }
    }

    pub fn is_visitor(&self) -> bool {
        match self {
            Self::Rustls(c) => matches!(**c, Connection::Client(_)),
            #[cfg(feature = "browser-hello")]
            Self::Browser(_) => true,
        }
    }

    /// A secret that both ends of this connection have, and nobody else (RFC 9266).
    pub fn binding(&self) -> io::Result<[u8; 32]> {
        match self {
            Self::Rustls(c) => match &**c {
                Connection::Client(c) => c.export_keying_material([0; 32], EXPORTER.as_bytes(), None),
                Connection::Server(c) => c.export_keying_material([0; 32], EXPORTER.as_bytes(), None),
            }
            .map_err(tls_error),
            #[cfg(feature = "browser-hello")]
            Self::Browser(s) => s.binding(EXPORTER),
        }
    }

    /// The numbers of the cipher suite and of the group of the key exchange.
    pub fn choice(&self) -> Option<(u16, u16)> {
        match self {
            Self::Rustls(c) => {
                Some((c.negotiated_cipher_suite()?.suite().into(), c.negotiated_key_exchange_group()?.name().into()))
            }
            #[cfg(feature = "browser-hello")]
            Self::Browser(s) => s.choice(),
        }
    }
}
