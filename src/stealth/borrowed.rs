//! Behind somebody else's site, or behind the TLS of one's own: members are told by the pass in their ClientHello, and
//! everybody else's bytes go to the site and back as they are.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use rustls::{Connection, ServerConfig, ServerConnection};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpSocket,
        tcp::{ReadHalf, WriteHalf},
    },
};

use super::{
    Client, Resolve, TlsSeal, decoy,
    door::reset,
    hello::{FirstFlight, Hello},
    mask, own,
    pass::Guard,
    tls::Tls,
};
use crate::{
    config::{Shaping, Site},
    crypto::HmacKey,
    host,
};

const HANDSHAKE_TIME: Duration = Duration::from_secs(15);
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Certificates change; so does what they weigh.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
const RETRY: Duration = Duration::from_secs(10);
/// So long a visitor is waited for who says nothing although the site has closed.
const LINGER: Duration = Duration::from_secs(60);

/// Stands before a decoy.
pub struct Borrowed {
    decoy: Site,
    network: HmacKey,
    shaping: Shaping,
    guard: Guard,
    /// How the decoy is looked at.
    client: Client,
    resolve: Resolve,
    /// Where the decoy is, and what members are let in with.
    face: ArcSwapOption<(SocketAddr, decoy::Face, Arc<ServerConfig>)>,
}

impl Borrowed {
    #[must_use]
    pub fn new(decoy: Site, network: HmacKey, client: Client, resolve: Resolve, shaping: Shaping) -> Arc<Self> {
        let guard = Guard::new(network.clone());
        Arc::new(Self { decoy, network, shaping, guard, client, resolve, face: ArcSwapOption::empty() })
    }

    /// Waits until the decoy has been seen.
    pub(super) fn await_decoy(&self) {
        while let Err(error) = self.look() {
            let Site { address, sni } = &self.decoy;
            tracing::error!(decoy = address, sni, %error, "no site to stand before (stealth.serve.decoy): trying again");
            thread::sleep(RETRY);
        }
    }

    /// Looks again now and then.
    pub(super) async fn watch_decoy(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let looker = Arc::clone(&self);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || looker.look()).await {
                let decoy = &self.decoy.address;
                tracing::warn!(decoy, %error, "the decoy has changed or is down (stealth.serve.decoy)");
            }
        }
    }

    /// Sees what the decoy looks like now.
    fn look(&self) -> io::Result<()> {
        let addresses = (self.resolve)(&self.decoy.address)?;
        let addr = *addresses.first().ok_or_else(|| io::Error::other("the name has no address"))?;
        let face = decoy::look(addr, &self.decoy.sni, &self.client)?;
        if self.face.load().as_ref().is_some_and(|f| f.0 == addr && !f.1.differs(&face)) {
            return Ok(());
        }
        let config = decoy::wear(&face, &self.decoy.sni, &self.network)?;
        self.face.store(Some(Arc::new((addr, face, config))));
        Ok(())
    }

    /// Carries a stranger to the decoy and back. Returns the first flight if it is a member's, and the connection with it.
    pub(super) async fn accompany(
        &self,
        mut visitor: tokio::net::TcpStream,
    ) -> io::Result<Option<(tokio::net::TcpStream, Vec<u8>)>> {
        let Some(face) = self.face.load_full() else { return Ok(None) };
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
        SockRef::from(&visitor).set_tcp_keepalive(&keepalive)?;
        let socket = if face.0.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        host::mark(&socket);
        let connected = tokio::time::timeout(CONNECT_TIME, socket.connect(face.0)).await;
        let Ok(Ok(mut decoy)) = connected else {
            reset(&visitor);
            return Ok(None);
        };
        decoy.set_nodelay(true)?;
        let member = {
            let (from_visitor, to_visitor) = visitor.split();
            let (from_decoy, to_decoy) = decoy.split();
            let inwards = self.inwards(from_visitor, to_decoy);
            let outwards = carry(from_decoy, to_visitor);
            tokio::pin!(inwards, outwards);
            tokio::select! {
                member = &mut inwards => match member {
                    Ok(Some(flight)) => Ok(Some(flight)),
                    Ok(None) => outwards.await.map(|()| None),
                    Err(e) => Err(e),
                },
                done = &mut outwards => match done {
                    Ok(()) => tokio::time::timeout(LINGER, inwards).await.unwrap_or(Ok(None)).map(|_| None),
                    Err(e) => Err(e),
                },
            }
        };
        match member {
            Ok(flight) => Ok(flight.map(|f| (visitor, f))),
            Err(_) => {
                // One has broken off: so do we, both ways.
                reset(&visitor);
                reset(&decoy);
                Ok(None)
            }
        }
    }

    /// From the visitor to the decoy. Bytes are passed on at once but those that complete a ClientHello: these when it is
    /// no member's. The decoy does not answer half of one.
    async fn inwards(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<Option<Vec<u8>>> {
        let (mut flight, mut buffer) = (Vec::new(), vec![0; 4096]);
        loop {
            let n = from.read(&mut buffer).await?;
            if n == 0 {
                to.shutdown().await?;
                return Ok(None);
            }
            flight.extend_from_slice(&buffer[..n]);
            match FirstFlight::read(&flight) {
                FirstFlight::Hello(hello) if self.is_members(&hello) => return Ok(Some(flight)),
                FirstFlight::Incomplete => to.write_all(&buffer[..n]).await?,
                FirstFlight::Hello(_) | FirstFlight::Foreign => {
                    to.write_all(&buffer[..n]).await?;
                    drop((flight, buffer));
                    return carry(from, to).await.map(|()| None);
                }
            }
        }
    }

    fn is_members(&self, hello: &Hello) -> bool {
        self.guard.admits(hello)
    }

    /// Lets a member in, whose first flight has been read.
    pub(super) fn let_in(&self, mut socket: TcpStream, flight: &[u8]) -> io::Result<Option<(TcpStream, TlsSeal)>> {
        let Some(face) = self.face.load_full() else { return Ok(None) };
        socket.set_write_timeout(Some(HANDSHAKE_TIME))?;
        let tls = ServerConnection::new(Arc::clone(&face.2)).map_err(super::tls_error)?;
        let mut tls = Tls::from(Connection::from(tls));
        mask::begin();
        super::shake_hands(&mut tls, &mut socket, HANDSHAKE_TIME, flight, mask::finish)?;
        own::admit(tls, socket, &self.network, self.shaping, None)
    }
}

/// From one end to the other until it closes, which is passed on.
async fn carry(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}
