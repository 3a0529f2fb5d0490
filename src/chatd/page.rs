//! The page on loopback, and what it asks. A token keeps out other users of this machine; the names of host and origin keep out
//! other websites in the same browser (DNS rebinding, cross-site requests).

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, ORIGIN},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, time};

use super::{
    request::{self, Answer},
    service::Handle,
};
use crate::{
    crypto::sha256,
    identity::keyfile::{KeyFileError, read_secret, write_secret},
};

const HEAD_TIME: Duration = Duration::from_secs(30);
/// A piece of a file, and something around it.
const MAX_REQUEST: usize = 512 << 10;
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const FILES: [(&str, &str, &str); 6] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("page/app.js")),
    ("/call.js", "text/javascript; charset=utf-8", include_str!("page/call.js")),
    ("/files.js", "text/javascript; charset=utf-8", include_str!("page/files.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
];

/// The token in this file; it is made if there is none.
pub fn token(file: &Path, random: [u8; 32]) -> Result<String, KeyFileError> {
    if let Ok(token) = read_secret(file)
        && token.trim().len() >= 32
    {
        return Ok(token.trim().to_owned());
    }
    let token = data_encoding::BASE64URL_NOPAD.encode(&random);
    write_secret(file, token.as_bytes())?;
    Ok(token)
}

/// Who may ask.
pub struct Guard {
    port: u16,
    token: String,
}

impl Guard {
    #[must_use]
    pub fn new(port: u16, token: String) -> Self {
        Self { port, token }
    }

    fn is_own(&self, place: &str) -> bool {
        ["127.0.0.1", "localhost", "[::1]"].iter().any(|host| place == format!("{host}:{}", self.port))
    }

    /// Whether a request names this page as its host, and comes from it.
    fn is_at_home<B>(&self, request: &Request<B>) -> bool {
        let text = |v: &HeaderValue| v.to_str().unwrap_or("?").to_owned();
        let host = request.headers().get(HOST).map(text).unwrap_or_default();
        let origin = request.headers().get(ORIGIN).map(text);
        let good = |origin: &String| origin.strip_prefix("http://").is_some_and(|place| self.is_own(place));
        self.is_own(&host) && origin.as_ref().is_none_or(good)
    }

    fn has_token<B>(&self, request: &Request<B>) -> bool {
        let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let given = given.strip_prefix("Bearer ").unwrap_or_default();
        // Hashes take as long to compare whatever they have in common.
        sha256(&[given.as_bytes()]) == sha256(&[self.token.as_bytes()])
    }
}

/// Serves the page, for ever.
pub async fn serve(listener: TcpListener, handle: Handle, guard: Arc<Guard>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (handle, guard) = (handle.clone(), Arc::clone(&guard));
        let service = service_fn(move |request| {
            let (handle, guard) = (handle.clone(), Arc::clone(&guard));
            async move { Ok::<_, Infallible>(answer(&handle, &guard, request).await) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
        // How a visitor ends is of no interest.
        tokio::spawn(async move { server.serve_connection(TokioIo::new(socket), service).await });
    }
}

async fn answer(handle: &Handle, guard: &Guard, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if !guard.is_at_home(&request) {
        return plain(StatusCode::FORBIDDEN, "this page answers on its own address alone");
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, path) => match FILES.iter().find(|(name, ..)| *name == path) {
            Some((_, kind, text)) => with(StatusCode::OK, kind, Bytes::from_static(text.as_bytes())),
            None => plain(StatusCode::NOT_FOUND, "there is nothing here"),
        },
        (&Method::POST, "/api") if !guard.has_token(&request) => {
            plain(StatusCode::UNAUTHORIZED, "the token is missing: open the address that `aegisray chat page` prints")
        }
        (&Method::POST, "/api") => {
            let Ok(body) = Limited::new(request.into_body(), MAX_REQUEST).collect().await else {
                return plain(StatusCode::PAYLOAD_TOO_LARGE, "too long");
            };
            let reply = match serde_json::from_slice::<request::Request>(&body.to_bytes()) {
                Ok(request) => handle.ask(request).await,
                Err(e) => Answer::Error { message: format!("not a request: {e}") },
            };
            with(StatusCode::OK, "application/json", serde_json::to_vec(&reply).unwrap_or_default().into())
        }
        _ => plain(StatusCode::METHOD_NOT_ALLOWED, "GET the page, POST to /api"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    with(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn with(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sites_and_other_users_stay_out() {
        let guard = Guard::new(8006, "secret".to_owned());
        let request = |host: &str, origin: Option<&str>, token: &str| {
            let mut r = Request::builder().header(HOST, host).header(AUTHORIZATION, format!("Bearer {token}"));
            if let Some(origin) = origin {
                r = r.header(ORIGIN, origin);
            }
            r.body(()).unwrap()
        };
        for (host, origin, good) in [
            ("127.0.0.1:8006", None, true),
            ("localhost:8006", Some("http://localhost:8006"), true),
            ("127.0.0.1:8006", Some("http://evil.example"), false),
            ("127.0.0.1:8006", Some("null"), false),
            ("127.0.0.1:8006", Some("http://127.0.0.1:9"), false),
            ("evil.example:8006", None, false),
            ("127.0.0.1", None, false),
        ] {
            assert_eq!(guard.is_at_home(&request(host, origin, "")), good, "{host} {origin:?}");
        }
        assert!(guard.has_token(&request("", None, "secret")) && !guard.has_token(&request("", None, "secre")));
        assert!(!guard.has_token(&Request::builder().body(()).unwrap()));
    }
}
