//! Behind somebody else's site, or behind the TLS of one's own: members are told by the pass in their ClientHello, and
//! everybody else's bytes go to the site and back as they are.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use rustls::{Connection, ServerConfig, ServerConnection};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::tcp::{ReadHalf, WriteHalf},
    sync::Semaphore,
};

use super::{
    Client, TlsSeal, decoy,
    hello::{FirstFlight, Hello},
    mask, own,
    pass::Guard,
    tls::Tls,
};
use crate::{config::Shaping, crypto::HmacKey, host};

/// Visitors at a time, as far as descriptors reach. They cost a task and two descriptors each.
const MAX_VISITORS: usize = 4096;
/// Of these, visitors from one place.
const MAX_FROM_ONE: usize = 256;
/// Descriptors that are left to everything else.
const RESERVED: u64 = 512;
const HANDSHAKE_TIME: Duration = Duration::from_secs(15);
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Certificates change; so does what they weigh.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
const RETRY: Duration = Duration::from_secs(10);
/// So long a visitor is waited for who says nothing although the site has closed.
const LINGER: Duration = Duration::from_secs(60);
const BACKLOG: i32 = 1024;

/// Stands before a decoy.
pub struct Borrowed {
    /// `HOST:PORT`.
    decoy: String,
    sni: String,
    network: HmacKey,
    shaping: Shaping,
    guard: Guard,
    /// How the decoy is looked at.
    client: Client,
    /// Where the decoy is, and what members are let in with.
    face: ArcSwapOption<(SocketAddr, decoy::Face, Arc<ServerConfig>)>,
}

impl Borrowed {
    #[must_use]
    pub fn new(decoy: &str, sni: &str, network: HmacKey, client: Client, shaping: Shaping) -> Arc<Self> {
        let (decoy, sni, guard) = (decoy.to_owned(), sni.to_owned(), Guard::new(network.clone()));
        Arc::new(Self { decoy, sni, network, shaping, guard, client, face: ArcSwapOption::empty() })
    }

    /// Sees what the decoy looks like now.
    fn look(&self) -> io::Result<()> {
        let addr = self.decoy.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))?;
        let face = decoy::look(addr, &self.sni, &self.client)?;
        if self.face.load().as_ref().is_some_and(|f| f.0 == addr && !f.1.differs(&face)) {
            return Ok(());
        }
        let config = decoy::wear(&face, &self.sni, &self.network)?;
        self.face.store(Some(Arc::new((addr, face, config))));
        Ok(())
    }

    /// Carries a stranger to the decoy and back. Returns the first flight if it is a member's, and the connection with it.
    async fn accompany(
        &self,
        mut visitor: tokio::net::TcpStream,
    ) -> io::Result<Option<(tokio::net::TcpStream, Vec<u8>)>> {
        let Some(face) = self.face.load_full() else { return Ok(None) };
        visitor.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
        SockRef::from(&visitor).set_tcp_keepalive(&keepalive)?;
        let connected = tokio::time::timeout(CONNECT_TIME, tokio::net::TcpStream::connect(face.0)).await;
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
    fn let_in(&self, mut socket: TcpStream, flight: &[u8]) -> io::Result<Option<(TcpStream, TlsSeal)>> {
        let Some(face) = self.face.load_full() else { return Ok(None) };
        socket.set_nonblocking(false)?;
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

/// Lets the connection end with a reset.
fn reset(socket: &tokio::net::TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// How many visitors are here from where. IPv6 hosts have a network of 64 bits to come from.
#[derive(Default)]
struct Origins(Mutex<HashMap<IpAddr, usize>>);

/// One of them; it leaves when this goes.
struct Origin(Arc<Origins>, IpAddr);

impl Origins {
    fn enter(all: &Arc<Self>, ip: IpAddr) -> Option<Origin> {
        let ip = match ip.to_canonical() {
            IpAddr::V6(ip) => IpAddr::from((u128::from(ip) & !u128::from(u64::MAX)).to_be_bytes()),
            ip => ip,
        };
        let mut here = all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = here.entry(ip).or_default();
        if *count >= MAX_FROM_ONE {
            return None;
        }
        *count += 1;
        Some(Origin(Arc::clone(all), ip))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let mut here = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = here.entry(self.1) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Receives visitors for ever, once the decoy has been seen: until then nobody listens, as where no site is. `admit` gets
/// the streams of members. `socket` is bound.
pub(super) fn serve(
    door: Arc<Borrowed>,
    socket: socket2::Socket,
    admit: impl Fn(TcpStream, TlsSeal) + Clone + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = move || {
        while let Err(error) = door.look() {
            tracing::error!(decoy = door.decoy, sni = door.sni, %error, "no site to stand before (stealth.serve.decoy): trying again");
            thread::sleep(RETRY);
        }
        if let Err(error) = runtime.block_on(receive(door, socket, admit)) {
            tracing::error!(%error, "no visitors are received (stealth.serve)");
        }
    };
    thread::Builder::new().name("aegis-door".to_owned()).spawn(run)?;
    Ok(())
}

async fn receive(
    door: Arc<Borrowed>,
    socket: socket2::Socket,
    admit: impl Fn(TcpStream, TlsSeal) + Clone + Send + 'static,
) -> io::Result<()> {
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(socket.into())?;
    let looker = Arc::clone(&door);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let door = Arc::clone(&looker);
            let looked = tokio::task::spawn_blocking(move || door.look()).await;
            if let Ok(Err(error)) = looked {
                tracing::warn!(decoy = looker.decoy, %error, "the decoy has changed or is down (stealth.serve.decoy)");
            }
        }
    });
    // Without that many descriptors there are fewer places; 1,024 is what the kernel gives everybody.
    let files = host::raise_file_limit().unwrap_or(1024);
    let places =
        usize::try_from(files.saturating_sub(RESERVED) / 2).map_or(MAX_VISITORS, |n| n.clamp(16, MAX_VISITORS));
    let places = Arc::new(Semaphore::new(places));
    let origins = Arc::new(Origins::default());
    loop {
        // Who finds no place waits in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let Ok((visitor, from)) = listener.accept().await else {
            // Out of descriptors, as a rule: the next visitor may have better luck.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Some(origin) = Origins::enter(&origins, from.ip()) else {
            reset(&visitor);
            continue;
        };
        let (door, admit) = (Arc::clone(&door), admit.clone());
        tokio::spawn(async move {
            // Whoever leaves in the middle is of no interest.
            let Ok(Some((visitor, flight))) = door.accompany(visitor).await else { return };
            let Ok(socket) = visitor.into_std() else { return };
            let _ = tokio::task::spawn_blocking(move || {
                if let Ok(Some((socket, seal))) = door.let_in(socket, &flight) {
                    admit(socket, seal);
                }
            })
            .await;
            drop((place, origin));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_does_not_fill_the_house() {
        let all = Arc::new(Origins::default());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut here: Vec<Origin> = (0..MAX_FROM_ONE as u16)
            .map(|n| Origins::enter(&all, IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n])).unwrap())
            .collect();
        assert!(Origins::enter(&all, ip("2001:db8:0:1::ffff:1")).is_none());
        assert!(Origins::enter(&all, ip("2001:db8:0:2::1")).is_some());
        here.pop();
        assert!(Origins::enter(&all, ip("2001:db8:0:1::9")).is_some());
        here.clear();
        assert!(all.0.lock().unwrap().is_empty());
    }
}
