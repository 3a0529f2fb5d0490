//! The door of a site: receives visitors, only so many at a time and from one place, and hands over the streams of members.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::{IpAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use socket2::{SockRef, Socket};
use tokio::sync::Semaphore;

use super::{Borrowed, Own, TlsSeal};
use crate::host;

/// Visitors at a time of a borrowed site, as far as descriptors reach: they cost a task and two descriptors each.
const MAX_VISITORS: usize = 4096;
/// The same of a site of one's own, where they cost two threads and two descriptors.
const MAX_OWN_VISITORS: usize = 512;
/// The part of these places that visitors from one place may take: one of so many.
const SHARE_OF_ONE: usize = 8;
/// Descriptors that are left to everything else.
const RESERVED: u64 = 512;
const BACKLOG: i32 = 1024;
const STACK: usize = 256 << 10;

/// What visitors come to.
#[derive(Clone)]
pub enum Door {
    Own(Arc<Own>),
    Borrowed(Arc<Borrowed>),
}

impl Door {
    /// Receives visitors for ever; `admit` gets the streams of members. `socket` is bound. Before a decoy it listens once
    /// that has been seen: until then nobody does, as where no site is.
    pub fn serve(self, socket: Socket, admit: impl Fn(TcpStream, TlsSeal) + Clone + Send + 'static) -> io::Result<()> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime
            .enable_all()
            .thread_name("aegis-visitor")
            .thread_stack_size(STACK)
            .max_blocking_threads(MAX_OWN_VISITORS);
        let runtime = runtime.build()?;
        let run = move || {
            if let Self::Borrowed(borrowed) = &self {
                borrowed.await_decoy();
            }
            if let Err(error) = runtime.block_on(self.receive(socket, admit)) {
                tracing::error!(%error, "no visitors are received (stealth.serve)");
            }
        };
        thread::Builder::new().name("aegis-door".to_owned()).spawn(run)?;
        Ok(())
    }

    fn places(&self) -> usize {
        let limit = match self {
            Self::Own(_) => MAX_OWN_VISITORS,
            Self::Borrowed(_) => MAX_VISITORS,
        };
        // Without that many descriptors there are fewer places; 1,024 is what the kernel gives everybody.
        let files = host::raise_file_limit().unwrap_or(1024);
        usize::try_from(files.saturating_sub(RESERVED) / 2).map_or(limit, |n| n.clamp(16, limit))
    }

    async fn receive(
        self,
        socket: Socket,
        admit: impl Fn(TcpStream, TlsSeal) + Clone + Send + 'static,
    ) -> io::Result<()> {
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(socket.into())?;
        if let Self::Borrowed(borrowed) = &self {
            tokio::spawn(Arc::clone(borrowed).watch_decoy());
        }
        let places = self.places();
        let origins = Arc::new(Origins::new(places / SHARE_OF_ONE));
        let places = Arc::new(Semaphore::new(places));
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
            let (door, admit) = (self.clone(), admit.clone());
            tokio::spawn(async move {
                // Whoever leaves in the middle is of no interest.
                if let Ok(Some((socket, seal))) = door.welcome(visitor).await {
                    admit(socket, seal);
                }
                drop((place, origin));
            });
        }
    }

    /// Accompanies a visitor until the end; returns the stream if it is a member's.
    async fn welcome(self, visitor: tokio::net::TcpStream) -> io::Result<Option<(TcpStream, TlsSeal)>> {
        visitor.set_nodelay(true)?;
        match self {
            Self::Own(own) => in_thread(visitor, move |socket| own.receive(socket)).await,
            Self::Borrowed(borrowed) => {
                let Some((visitor, flight)) = borrowed.accompany(visitor).await? else { return Ok(None) };
                in_thread(visitor, move |socket| borrowed.let_in(socket, &flight)).await
            }
        }
    }
}

/// Runs `work`, which waits for the socket, in a thread of its own.
async fn in_thread<T: Send + 'static>(
    visitor: tokio::net::TcpStream,
    work: impl FnOnce(TcpStream) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let socket = visitor.into_std()?;
    socket.set_nonblocking(false)?;
    tokio::task::spawn_blocking(move || work(socket)).await?
}

/// Lets the connection end with a reset.
pub(super) fn reset(socket: &tokio::net::TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// How many visitors are here from where. IPv6 hosts have a network of 64 bits to come from.
struct Origins {
    limit: usize,
    here: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them; it leaves when this goes.
struct Origin(Arc<Origins>, IpAddr);

impl Origins {
    fn new(limit: usize) -> Self {
        Self { limit, here: Mutex::default() }
    }

    fn enter(all: &Arc<Self>, ip: IpAddr) -> Option<Origin> {
        let ip = match ip.to_canonical() {
            IpAddr::V6(ip) => IpAddr::from((u128::from(ip) & !u128::from(u64::MAX)).to_be_bytes()),
            ip => ip,
        };
        let mut here = all.here.lock().unwrap_or_else(PoisonError::into_inner);
        let count = here.entry(ip).or_default();
        if *count >= all.limit {
            return None;
        }
        *count += 1;
        Some(Origin(Arc::clone(all), ip))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let mut here = self.0.here.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = here.entry(self.1) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_does_not_fill_the_house() {
        let all = Arc::new(Origins::new(3));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut here: Vec<Origin> =
            (0..3).map(|n| Origins::enter(&all, IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n])).unwrap()).collect();
        assert!(Origins::enter(&all, ip("2001:db8:0:1::ffff:1")).is_none());
        assert!(Origins::enter(&all, ip("2001:db8:0:2::1")).is_some());
        here.pop();
        assert!(Origins::enter(&all, ip("2001:db8:0:1::9")).is_some());
        here.clear();
        assert!(all.here.lock().unwrap().is_empty());
    }
}
