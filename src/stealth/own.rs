//! A site of one's own, whose certificate this node holds: to members a way into the mesh, to everybody else a website.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::{Connection, ServerConfig, ServerConnection};

use super::{
    http::{self, Proofs},
    seal::TlsSeal,
    tls::Tls,
};
use crate::{config::Shaping, crypto::HmacKey, transport::Seal as _};

const HANDSHAKE_TIME: Duration = Duration::from_secs(15);
/// A visitor who says nothing for so long is gone, if the site itself has not closed before.
const IDLE_TIME: Duration = Duration::from_secs(180);
const UPSTREAM_TIME: Duration = Duration::from_secs(5);

/// A website with its own certificate.
pub struct Own {
    tls: Arc<ServerConfig>,
    network: HmacKey,
    /// The website, plain HTTP.
    upstream: SocketAddr,
    shaping: Shaping,
}

impl Own {
    #[must_use]
    pub fn new(tls: Arc<ServerConfig>, network: HmacKey, upstream: SocketAddr, shaping: Shaping) -> Arc<Self> {
        Arc::new(Self { tls, network, upstream, shaping })
    }

    /// Receives a visitor; returns the stream if it is a member.
    pub(super) fn receive(&self, mut socket: TcpStream) -> io::Result<Option<(TcpStream, TlsSeal)>> {
        socket.set_write_timeout(Some(HANDSHAKE_TIME))?;
        let tls = ServerConnection::new(Arc::clone(&self.tls)).map_err(super::tls_error)?;
        let mut tls = Tls::from(Connection::from(tls));
        super::shake_hands(&mut tls, &mut socket, HANDSHAKE_TIME, &[], |_| ())?;
        // Members get in although the site is down.
        let upstream = TcpStream::connect_timeout(&self.upstream, UPSTREAM_TIME).ok();
        admit(tls, socket, &self.network, self.shaping, upstream)
    }
}

/// Carries a visitor's requests to the site, if there is one, until the visitor proves to be a member: then returns the
/// stream.
pub(super) fn admit(
    tls: Tls,
    mut socket: TcpStream,
    network: &HmacKey,
    shaping: Shaping,
    upstream: Option<TcpStream>,
) -> io::Result<Option<(TcpStream, TlsSeal)>> {
    let proofs = Proofs::of(&tls, network)?;
    let seal = TlsSeal::new(tls, shaping)?;
    if let Some(upstream) = &upstream {
        upstream.set_read_timeout(Some(IDLE_TIME))?;
    }
    socket.set_read_timeout(Some(IDLE_TIME))?;
    let visit = Visit { socket: &socket, seal: &seal, upstream: upstream.as_ref(), proofs: &proofs };
    if !visit.accompany()? {
        return Ok(None);
    }
    let mut out = Vec::new();
    seal.seal(&http::answer(&proofs, seal.shape(http::ANSWER).1), &mut out)?;
    socket.write_all(&out)?;
    socket.set_read_timeout(None)?;
    Ok(Some((socket, seal)))
}

/// A visitor between the door and the site.
#[derive(Clone, Copy)]
struct Visit<'a> {
    socket: &'a TcpStream,
    seal: &'a TlsSeal,
    upstream: Option<&'a TcpStream>,
    proofs: &'a Proofs,
}

impl Visit<'_> {
    /// Carries bytes between the visitor and the site until either is done, or the visitor proves to be a member: then
    /// the site has seen the beginning of a request, and nothing of its end. Returns whether it is one.
    fn accompany(self) -> io::Result<bool> {
        let is_member = AtomicBool::new(false);
        thread::scope(|scope| {
            // Without a thread for the way back this visitor has to go, and nobody else.
            let is_member = &is_member;
            let begin = |upstream| {
                let thread = thread::Builder::new().name("aegis-visitor".to_owned()).stack_size(256 << 10);
                thread.spawn_scoped(scope, move || self.outwards(upstream, is_member))
            };
            let outwards = self.upstream.map(begin).transpose()?;
            let outcome = self.inwards();
            is_member.store(matches!(outcome, Ok(true)), Ordering::Relaxed);
            if let Some(upstream) = self.upstream {
                // The site learns that the visitor is gone, or has closed already.
                let _ = upstream.shutdown(if matches!(outcome, Ok(true)) { Shutdown::Both } else { Shutdown::Write });
            }
            // What it ended with is the visitor's or the site's affair.
            let _ = outwards.map(thread::ScopedJoinHandle::join);
            outcome
        })
    }

    /// From the site to the visitor.
    fn outwards(self, mut upstream: &TcpStream, is_member: &AtomicBool) -> io::Result<()> {
        let (mut socket, mut buffer, mut out) = (self.socket, vec![0; 16 << 10], Vec::new());
        while let Ok(n @ 1..) = upstream.read(&mut buffer) {
            out.clear();
            self.seal.seal(&buffer[..n], &mut out)?;
            socket.write_all(&out)?;
        }
        if is_member.load(Ordering::Relaxed) {
            return Ok(());
        }
        out.clear();
        self.seal.say_goodbye(&mut out)?;
        socket.write_all(&out)?;
        socket.shutdown(Shutdown::Both)
    }

    /// From the visitor to the site. Every byte is passed on at once but those that complete the head of the first
    /// request: with these it is decided who this is.
    fn inwards(self) -> io::Result<bool> {
        let (mut socket, mut buffer, mut plain) = (self.socket, vec![0; 16 << 10], Vec::new());
        let (mut passed, mut undecided) = (0, true);
        // What came with the last bytes of the handshake.
        let mut received = 0;
        loop {
            let opened = self.seal.open(&buffer[..received], &mut plain);
            if undecided {
                let end = http::head_end(&plain);
                if end == Some(plain.len()) && http::shows(&plain, &self.proofs.client) {
                    return Ok(true);
                }
                undecided = end.is_none() && plain.len() <= http::MAX_HEAD;
            }
            if let Some(mut upstream) = self.upstream {
                upstream.write_all(&plain[passed..])?;
            } else if !undecided {
                return Err(io::Error::other("the site is down"));
            }
            passed = plain.len();
            if !undecided {
                plain.clear();
                passed = 0;
            }
            if let Err(e) = opened {
                let mut out = Vec::new();
                // What TLS has to say of the visitor's mistake.
                self.seal.seal(&[], &mut out)?;
                socket.write_all(&out)?;
                return Err(e);
            }
            received = socket.read(&mut buffer)?;
            if received == 0 {
                return Ok(false);
            }
        }
    }
}
