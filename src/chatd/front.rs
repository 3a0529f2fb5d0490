//! Where others come in: HTTP, of which a WebSocket is opened; who asks for anything else gets a short page.

use std::{
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tokio_rustls::TlsAcceptor;
use tungstenite::handshake::derive_accept_key;

use super::net::{Net, Stream, prepare, source_of};

const HEAD_TIME: Duration = Duration::from_secs(10);
/// Connections at once: each takes a descriptor and some memory.
const MAX_VISITORS: usize = 20_000;
/// Of them, those of one address (IPv6: network of 64 bits), unless it is this host: a web server before this one has them all.
const MAX_OF_ONE: usize = 512;

/// Connections by where they come from.
#[derive(Default)]
struct Sources(Mutex<HashMap<String, usize>>);

impl Sources {
    fn all(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more from there.
    fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let source = source_of(ip);
        let mut all = self.all();
        let of = all.entry(source.clone()).or_default();
        if *of >= MAX_OF_ONE && !ip.to_canonical().is_loopback() {
            return None;
        }
        *of += 1;
        Some(Place { source, sources: Arc::clone(self) })
    }
}

/// Taken until it is dropped.
struct Place {
    source: String,
    sources: Arc<Sources>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.sources.all();
        if let Entry::Occupied(mut of) = all.entry(std::mem::take(&mut self.source)) {
            *of.get_mut() -= 1;
            if *of.get() == 0 {
                of.remove();
            }
        }
    }
}

/// Lets others in, for ever.
pub async fn serve(net: Net, listener: TcpListener, tls: Option<TlsAcceptor>, page: Arc<str>) {
    let room = Arc::new(Semaphore::new(MAX_VISITORS));
    let sources = Arc::new(Sources::default());
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((socket, from)) = listener.accept().await else {
            // Out of descriptors, as a rule.
            time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Some(source) = sources.enter(from.ip()) else { continue };
        let (net, tls, page) = (net.clone(), tls.clone(), Arc::clone(&page));
        tokio::spawn(async move {
            let place = Arc::new((place, source));
            let greeting = async {
                prepare(&socket)?;
                let stream: Box<dyn Stream> = match tls {
                    Some(tls) => Box::new(tls.accept(socket).await?),
                    None => Box::new(socket),
                };
                io::Result::Ok(stream)
            };
            if let Ok(Ok(stream)) = time::timeout(HEAD_TIME, greeting).await {
                visit(net, stream, from, page, place).await;
            }
        });
    }
}

type Places = (OwnedSemaphorePermit, Place);

async fn visit(net: Net, stream: Box<dyn Stream>, from: SocketAddr, page: Arc<str>, place: Arc<Places>) {
    let answer = service_fn(move |request| {
        let (net, page, place) = (net.clone(), Arc::clone(&page), Arc::clone(&place));
        async move { Ok::<_, Infallible>(answer(net, request, from, &page, place)) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(16 << 10);
    // How a visitor ends is of no interest.
    let _ = server.serve_connection(TokioIo::new(stream), answer).with_upgrades().await;
}

fn answer(
    net: Net,
    mut request: Request<Incoming>,
    from: SocketAddr,
    page: &str,
    place: Arc<Places>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(page.as_bytes())));
    let upgrade = request.headers().get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map(|k| derive_accept_key(k.as_bytes()));
    let (true, Some(key), &Method::GET) = (upgrade, key, request.method()) else {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        // Nobody needs the page twice.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    let Ok(key) = HeaderValue::from_str(&key) else { return response };
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.body_mut() = Full::default();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, key);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // Held as long as the link is.
        let _place = place;
        let Ok(stream) = upgraded.await else { return };
        let ip = from.ip().to_canonical();
        net.run(TokioIo::new(stream), (net.name_of(ip), source_of(ip), false), std::future::pending()).await;
    });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_all_places() {
        let sources = Arc::new(Sources::default());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut places: Vec<Place> = (0..MAX_OF_ONE).map(|_| sources.enter(ip("198.51.100.7")).unwrap()).collect();
        assert!(sources.enter(ip("198.51.100.7")).is_none() && sources.enter(ip("::ffff:198.51.100.7")).is_none());
        assert!(sources.enter(ip("198.51.100.8")).is_some());
        places.pop();
        assert!(sources.enter(ip("198.51.100.7")).is_some());
        let all: Vec<_> = (0..2 * MAX_OF_ONE).map(|_| sources.enter(ip("127.0.0.1"))).collect();
        assert!(all.iter().all(Option::is_some));
        drop((places, all));
        assert!(sources.all().is_empty());
    }
}
