//! A site's pages out of a folder, by plain HTTP on loopback, for who runs no web server.

use std::{
    convert::Infallible,
    fs,
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::{Duration, SystemTime},
};

use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{ALLOW, CONTENT_TYPE, HeaderValue, IF_MODIFIED_SINCE, LAST_MODIFIED},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// Larger files are none of a site that hides something.
const MAX_FILE: u64 = 64 << 20;
/// What is read of a file at a time, for each visitor.
const PIECE: usize = 64 << 10;
const HEAD_TIME: Duration = Duration::from_secs(30);
/// What is served as what.
const TYPES: [(&str, &str); 14] = [
    ("html", "text/html; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("css", "text/css"),
    ("js", "text/javascript"),
    ("json", "application/json"),
    ("txt", "text/plain; charset=utf-8"),
    ("xml", "application/xml"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("ico", "image/x-icon"),
    ("woff2", "font/woff2"),
];

/// Serves the files below `folder` for ever, and returns where.
pub fn serve(folder: &Path) -> io::Result<SocketAddr> {
    let folder = Arc::new(fs::canonicalize(folder)?);
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = move || runtime.block_on(accept(listener, folder));
    thread::Builder::new().name("aegis-pages".to_owned()).spawn(move || {
        if let Err(error) = run() {
            tracing::error!(%error, "the site's pages are not served (stealth.serve.folder)");
        }
    })?;
    Ok(addr)
}

async fn accept(listener: std::net::TcpListener, folder: Arc<PathBuf>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors, as a rule: the next visitor may have better luck.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let folder = Arc::clone(&folder);
        let answer = service_fn(move |request| {
            let folder = Arc::clone(&folder);
            async move { Ok::<_, Infallible>(answer(&folder, &request)) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
        // How a visitor ends is of no interest.
        tokio::spawn(async move { server.serve_connection(TokioIo::new(socket), answer).await });
    }
}

type Content = Either<Full<Bytes>, Pieces>;

/// A file, piece by piece: visitors that take their time hold no more of it.
struct Pieces {
    file: fs::File,
    left: u64,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let len = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        if len == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; len];
        let read = self.file.read_exact(&mut piece);
        self.left -= len as u64;
        Poll::Ready(Some(read.map(|()| Frame::data(piece.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

fn answer(folder: &Path, request: &Request<Incoming>) -> Response<Content> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED);
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let Some((file, modified)) = find(folder, request.uri().path()) else { return page(StatusCode::NOT_FOUND) };
    // Seconds are all that HTTP knows.
    let stamp = httpdate::fmt_http_date(modified);
    let known = request.headers().get(IF_MODIFIED_SINCE).is_some_and(|v| v.as_bytes() == stamp.as_bytes());
    let kind = file.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let kind = TYPES.iter().find(|t| t.0 == kind).map_or("application/octet-stream", |t| t.1);
    let mut answer = if known {
        Response::new(Either::Left(Full::default()))
    } else {
        let opened = fs::File::open(&file).and_then(|file| Ok(Pieces { left: file.metadata()?.len(), file }));
        match opened {
            Ok(pieces) => Response::new(Either::Right(pieces)),
            Err(_) => return page(StatusCode::NOT_FOUND),
        }
    };
    if known {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(stamp) = HeaderValue::from_str(&stamp) {
        headers.insert(LAST_MODIFIED, stamp);
    }
    answer
}

/// The file for a path of a URI, and when it was changed. `None` if there is none below the folder.
fn find(folder: &Path, path: &str) -> Option<(PathBuf, SystemTime)> {
    let path = String::from_utf8(decode(path)?).ok()?;
    let mut file = fs::canonicalize(folder.join(path.trim_start_matches('/'))).ok()?;
    if file.is_dir() {
        file = fs::canonicalize(file.join("index.html")).ok()?;
    }
    let about = fs::metadata(&file).ok().filter(|m| m.is_file() && m.len() <= MAX_FILE)?;
    // Wherever dots and links lead.
    file.starts_with(folder).then_some(())?;
    Some((file, about.modified().ok()?))
}

/// Takes percent-encoding away (RFC 3986 §2.1).
fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut rest, mut out) = (text.as_bytes(), Vec::new());
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits = after.get(..2)?;
            out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = &after[2..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    (!out.contains(&0)).then_some(out)
}

/// A page that says what is wrong.
fn page(status: StatusCode) -> Response<Content> {
    let reason = status.canonical_reason().unwrap_or_default();
    let text = format!("<html><head><title>{reason}</title></head><body><h1>{reason}</h1></body></html>\n");
    let mut answer = Response::new(Either::Left(Full::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    answer
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use super::*;

    fn ask(at: SocketAddr, request: &str) -> String {
        let mut socket = TcpStream::connect(at).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(at: SocketAddr, path: &str) -> String {
        ask(at, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    #[test]
    fn files_below_the_folder_are_served_and_no_others() {
        let dir = std::env::temp_dir().join(format!("aegisray-pages-{}", std::process::id()));
        let folder = dir.join("pages");
        fs::create_dir_all(folder.join("more")).unwrap();
        fs::write(folder.join("index.html"), "<h1>Ducks</h1>").unwrap();
        fs::write(folder.join("more/a b.css"), "b{}").unwrap();
        fs::write(dir.join("secret.html"), "secret").unwrap();
        std::os::unix::fs::symlink(dir.join("secret.html"), folder.join("link.html")).unwrap();
        let at = serve(&folder).unwrap();
        let front = get(at, "/");
        assert!(front.starts_with("HTTP/1.1 200 OK") && front.ends_with("<h1>Ducks</h1>"), "{front}");
        let style = get(at, "/more/a%20b.css?v=1").to_lowercase();
        assert!(style.contains("content-type: text/css") && style.ends_with("b{}"), "{style}");
        for path in
            ["/none", "/more", "/../secret.html", "/%2e%2e/secret.html", "/link.html", "/%zz", "/%00", "//etc/passwd"]
        {
            assert!(get(at, path).starts_with("HTTP/1.1 404"), "{path}");
        }
        let stamp =
            front.lines().find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case("last-modified")));
        let again = format!(
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIf-Modified-Since: {}\r\n\r\n",
            stamp.unwrap().1
        );
        assert!(ask(at, &again).starts_with("HTTP/1.1 304"));
        assert!(ask(at, "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ends_with("\r\n\r\n"));
        assert!(ask(at, "PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(ask(at, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
        fs::remove_dir_all(dir).unwrap();
    }
    #[test]
    fn a_file_is_held_a_piece_at_a_time() {
        let path = std::env::temp_dir().join(format!("aegisray-pieces-{}", std::process::id()));
        fs::write(&path, vec![7; 5 * PIECE + 9]).unwrap();
        let mut pieces = Pieces { left: 5 * PIECE as u64 + 9, file: fs::File::open(&path).unwrap() };
        fs::remove_file(path).unwrap();
        let mut lengths = Vec::new();
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(frame)) = Pin::new(&mut pieces).poll_frame(&mut context) {
            lengths.push(frame.unwrap().into_data().unwrap().len());
        }
        assert_eq!(lengths, [PIECE, PIECE, PIECE, PIECE, PIECE, 9]);
    }
}
