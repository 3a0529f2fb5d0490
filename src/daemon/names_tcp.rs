//! Questions for names over TCP (RFC 7766), with bounds: whoever is in the mesh may connect.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    net::{NetError, runtime::TokioTime, xfer::Protocol},
    proto::{rr::Record, serialize::binary::BinEncoder},
};
use hickory_server::{
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponse,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// Connections in all, and from one address.
const MOST: usize = 64;
const MOST_FROM_ONE: usize = 8;
/// A question is no longer, in bytes.
const MAX_QUESTION: usize = 4096;
/// A connection that asks nothing, or takes no answer, for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// After an accept that failed: out of descriptors, as a rule.
const PAUSE: Duration = Duration::from_millis(20);

/// What is under way, by the address that it is for. Each has a share, so that nobody has it all.
#[derive(Debug)]
pub(super) struct Shares {
    most: usize,
    most_of_one: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// Gives its place back when it goes.
pub(super) struct Share(Arc<Shares>, IpAddr);

impl Shares {
    pub fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self { most, most_of_one, taken: Mutex::default() })
    }

    pub fn take(self: &Arc<Self>, of: IpAddr) -> Option<Share> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = taken.values().sum::<usize>() < self.most;
        let mine = taken.get(&of).copied().unwrap_or_default();
        (has_room && mine < self.most_of_one).then(|| {
            taken.insert(of, mine + 1);
            Share(Arc::clone(self), of)
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.1) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(taken.remove(&self.1)),
        }
    }
}

/// Takes in connections for ever.
pub(super) async fn serve<H: RequestHandler + Clone>(listener: TcpListener, handler: H) {
    let shares = Shares::new(MOST, MOST_FROM_ONE);
    loop {
        let Ok((socket, from)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        if let Some(share) = shares.take(from.ip()) {
            let handler = handler.clone();
            tokio::spawn(async move {
                // How whoever asks ends is its own affair.
                let _ = answer_all(socket, from, handler).await;
                drop(share);
            });
        }
    }
}

async fn answer_all<H: RequestHandler>(mut socket: TcpStream, from: SocketAddr, handler: H) -> io::Result<()> {
    loop {
        let mut len = [0; 2];
        timeout(IDLE, socket.read_exact(&mut len)).await??;
        let len = usize::from(u16::from_be_bytes(len));
        if len > MAX_QUESTION {
            return Ok(());
        }
        let mut question = vec![0; len];
        timeout(IDLE, socket.read_exact(&mut question)).await??;
        let Ok(request) = Request::from_bytes(question, from, Protocol::Tcp) else { return Ok(()) };
        let answer = Answer::of_at_most(u16::MAX);
        handler.handle_request::<_, TokioTime>(&request, answer.clone()).await;
        let bytes = answer.take();
        let Ok(len) = u16::try_from(bytes.len()) else { return Ok(()) };
        timeout(IDLE, socket.write_all(&[&len.to_be_bytes()[..], &bytes].concat())).await??;
    }
}

/// Keeps what is answered.
#[derive(Clone)]
pub(super) struct Answer {
    /// Bytes: what is more is cut off, and the answer says so.
    most: u16,
    kept: Arc<Mutex<Vec<u8>>>,
}

impl Answer {
    pub fn of_at_most(most: u16) -> Self {
        Self { most, kept: Arc::default() }
    }

    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait::async_trait]
impl ResponseHandler for Answer {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(self.most);
        let info = response.destructive_emit(&mut encoder)?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all_of_what_is_shared() {
        let shares = Shares::new(6, 4);
        let ip = |n: u8| IpAddr::from([100, 64, 0, n]);
        let mine: Vec<Share> = (0..9).filter_map(|_| shares.take(ip(1))).collect();
        assert_eq!(mine.len(), 4);
        let others: Vec<Share> = (2..9).filter_map(|n| shares.take(ip(n))).collect();
        assert_eq!(others.len(), 2, "and no more than there are in all");
        drop(mine);
        assert!(shares.take(ip(1)).is_some());
        drop(others);
        assert!(shares.taken.lock().unwrap().is_empty(), "nothing is kept of who is gone");
    }
}
