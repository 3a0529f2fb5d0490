//! Questions for names over UDP, with bounds: whoever is in the mesh may ask.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::net::{runtime::TokioTime, xfer::Protocol};
use hickory_server::server::{Request, RequestHandler};
use tokio::{
    net::UdpSocket,
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::names_tcp::Answer;
use crate::types::{self, Bucket, Buckets};

/// Questions of one address at once, and the time after which it may ask one more.
const OF_ONE: (u32, Duration) = (400, Duration::from_millis(5));
/// Addresses whose questions are counted.
const MOST: usize = 4096;
/// The same for all others than this host: whoever has many addresses.
const OF_ALL: (u32, Duration) = (4000, Duration::from_micros(100));
/// Questions that are being answered, of this host and of others. Those for other servers take longest.
const AT_WORK: usize = 512;
/// A question is no longer, in bytes.
const MAX_QUESTION: usize = 4096;
/// So many are taken in before others' work has its turn.
const RUN: usize = 64;
/// After an error of the socket: an answer that didn't arrive, as a rule.
const PAUSE: Duration = Duration::from_millis(2);

/// Who asks.
pub(super) trait Members {
    /// Whether an address is this host's: its questions are its own affair.
    fn is_own(&self, ip: IpAddr) -> bool;
}

/// Answers for ever.
pub(super) async fn serve<H: RequestHandler + Members + Clone>(socket: UdpSocket, handler: H) {
    let socket = Arc::new(socket);
    let start = Instant::now();
    let (mut shares, mut all) = (Buckets::new(MOST, OF_ONE), Bucket::new(OF_ALL.0, OF_ALL.1));
    let places = [AT_WORK, AT_WORK].map(|n| Arc::new(Semaphore::new(n)));
    let mut question = vec![0; MAX_QUESTION + 1];
    let mut taken = 0;
    loop {
        let Ok((len, from)) = socket.recv_from(&mut question).await else {
            sleep(PAUSE).await;
            continue;
        };
        taken += 1;
        if taken % RUN == 0 {
            tokio::task::yield_now().await;
        }
        let now = types::Instant(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        let ip = from.ip().to_canonical();
        let is_own = handler.is_own(ip);
        if len > MAX_QUESTION || !(is_own || shares.take(now, ip) && all.take(now)) {
            continue;
        }
        let Ok(place) = Arc::clone(&places[usize::from(is_own)]).try_acquire_owned() else { continue };
        let Ok(request) = Request::from_bytes(question[..len].to_vec(), from, Protocol::Udp) else { continue };
        let (handler, socket) = (handler.clone(), Arc::clone(&socket));
        tokio::spawn(async move {
            answer(&socket, from, &request, &handler).await;
            drop(place);
        });
    }
}

async fn answer<H: RequestHandler>(socket: &UdpSocket, from: SocketAddr, request: &Request, handler: &H) {
    let limit = request.edns.as_ref().map_or(512, |edns| edns.max_payload().clamp(512, super::names::MAX_PAYLOAD));
    let answer = Answer::of_at_most(limit);
    handler.handle_request::<_, TokioTime>(request, answer.clone()).await;
    // Whoever asked asks again.
    let _ = socket.send_to(&answer.take(), from).await;
}
