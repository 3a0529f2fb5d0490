//! What who is no member gets to see.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use aegisray::{
    crypto::HmacKey,
    lab::{
        daemon::wait_for,
        topology::{Host, Internet},
    },
    stealth,
};

use super::{
    harness::{Dir, need_route, node},
    site::{ADDRESS, NAME, Site, UPSTREAM},
};

/// Longer than the site's own.
const PATIENCE: Duration = Duration::from_secs(6);

/// Requests that a prober may try, inside TLS.
pub fn probes() -> Vec<Vec<u8>> {
    let head = format!("Host: {NAME}\r\n");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let cookie = "Cookie: sid=AAAAAAAAAAAAAAAAAAAAAA\r\n";
    let mut out: Vec<Vec<u8>> = [
        format!("GET / HTTP/1.1\r\n{head}Connection: close\r\n\r\n"),
        format!("HEAD / HTTP/1.1\r\n{head}Connection: close\r\n\r\n"),
        format!("GET /none HTTP/1.1\r\n{head}Connection: close\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{head}Content-Length: 3\r\nConnection: close\r\n\r\nabc"),
        format!("OPTIONS * HTTP/1.1\r\n{head}Connection: close\r\n\r\n"),
        format!("CONNECT {NAME}:443 HTTP/1.1\r\n{head}\r\n"),
        format!("TRACE / HTTP/1.1\r\n{head}Connection: close\r\n\r\n"),
        format!("PUT /x HTTP/1.1\r\n{head}Content-Length: 1\r\nConnection: close\r\n\r\nx"),
        format!("GET / HTTP/1.1\r\n{head}{upgrade}\r\n"),
        format!("GET / HTTP/1.1\r\n{head}{upgrade}{cookie}Connection: close\r\n\r\n"),
        format!("GET /chat HTTP/1.1\r\n{head}{upgrade}{cookie}Connection: close\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{head}{cookie}Connection: close\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{head}Connection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{head}\r\nGET /none HTTP/1.1\r\n{head}Connection: close\r\n\r\n"),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\n\r\n".to_owned(),
        "GET /\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "get / http/1.1\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{head}Host: other\r\nConnection: close\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{head}Content-Length: x\r\nConnection: close\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n"),
        format!("GET / HTTP/1.1\r\n{head}Range: bytes=0-3\r\nConnection: close\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{head}Expect: 100-continue\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"),
        format!("GET /{} HTTP/1.1\r\n{head}Connection: close\r\n\r\n", "a".repeat(7000)),
        format!("GET /{} HTTP/1.1\r\n{head}Connection: close\r\n\r\n", "a".repeat(9000)),
        format!("GET / HTTP/1.1\r\n{head}X: {}\r\nConnection: close\r\n\r\n", "b".repeat(40_000)),
        format!("GET /../../etc/passwd HTTP/1.1\r\n{head}Connection: close\r\n\r\n"),
        format!("GET / HTTP/1.1\n{}Connection: close\n\n", head.replace('\r', "")),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "\r\n\r\n".to_owned(),
        "EHLO example.org\r\n".to_owned(),
        "*1\r\n$4\r\nPING\r\n".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec();
    out.push(vec![0; 600]);
    out.push(vec![0xff; 600]);
    out.push([&[0x16, 3, 1, 2, 0, 1][..], &[7; 200]].concat());
    out.push([&[5, 1, 0][..], &[0; 20]].concat());
    // A datagram of the mesh as on a plain stream, and a SOCKS request.
    out.push([&[0, 64, 1][..], &[9; 63]].concat());
    out.push(vec![5, 1, 0, 1, 127, 0, 0, 1, 0, 80]);
    out.push((0..=255).collect());
    out
}

/// An answer without what changes by itself.
fn plain(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    text.lines().filter(|l| !l.starts_with("Date: ")).collect::<Vec<_>>().join("\n")
}

fn ask_nginx(site: &Site, probe: &[u8]) -> (String, Duration) {
    let asked = site.host.ns.run(|| {
        let start = Instant::now();
        let mut socket = TcpStream::connect(UPSTREAM)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(probe)?;
        let mut answer = Vec::new();
        // A reset in the middle ends the answer as well.
        let _ = socket.read_to_end(&mut answer);
        Ok((plain(&answer), start.elapsed()))
    });
    asked.unwrap()
}

/// Asks the site at `address`, inside TLS.
pub fn ask_site(site: &Site, visitor: &Host, address: &str, probe: &[u8]) -> (String, Duration) {
    let config = stealth::Client::new(Some(&site.authority), &HmacKey::new(&[7; 32])).unwrap().plain();
    let asked = visitor.ns.run(|| {
        let start = Instant::now();
        let mut socket = TcpStream::connect((address, 443))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = NAME.try_into().expect("a host name");
        let mut tls = rustls::ClientConnection::new(config, name).expect("a client");
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        stream.write_all(probe)?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        Ok((plain(&answer), start.elapsed()))
    });
    asked.unwrap()
}

pub fn see_the_website() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let site = Site::open(&dir, &mut internet, 10);
    let visitor = internet.public("203.0.113.66".parse().unwrap()).unwrap();
    wait_for(Duration::from_secs(5), || site.host.ns.run(|| TcpStream::connect(UPSTREAM)).ok()).expect("nginx runs");
    let probes = probes();
    // Some take seconds: all at once.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let (site, visitor) = (&site, &visitor);
        let ask = |probe| scope.spawn(move || (ask_nginx(site, probe), ask_site(site, visitor, ADDRESS, probe)));
        let asked: Vec<_> = probes.iter().map(|probe: &Vec<u8>| ask(probe)).collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect()
    });
    let different = differences(&probes, answers);
    println!("  {} openings inside TLS: {} answered otherwise than by the site itself", probes.len(), different.len());
    assert!(probes.len() >= 40 && different.is_empty(), "{different:#?}");
}

/// A site whose pages come out of a folder.
pub fn see_a_folder() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let site = Site::of_folder(&dir, &mut internet, "site", ADDRESS, "");
    let visitor = internet.public("203.0.113.66".parse().unwrap()).unwrap();
    let ask = |request: &str| ask_site(&site, &visitor, ADDRESS, request.as_bytes()).0;
    let page = ask("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("A site about ducks"), "{page}");
    assert!(ask("GET /none HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 404"));
    let host = internet.public("203.0.113.20".parse().unwrap()).unwrap();
    let mut member = node(&dir, "member", &site.way_in("always", NAME));
    member.start(&host).unwrap();
    need_route(&member, "site");
    println!("  a folder's pages for strangers, and a member behind them");
}

/// Where what the site itself says (first) and what the node says (second) is not the same at the same time.
pub fn differences<A: PartialEq + std::fmt::Debug>(
    probes: &[Vec<u8>],
    answers: Vec<((A, Duration), (A, Duration))>,
) -> Vec<String> {
    let mut different = Vec::new();
    for (i, (probe, ((expected, its_time), (seen, time)))) in probes.iter().zip(answers).enumerate() {
        // The site closes slow ones after three seconds; so does who stands before it.
        if expected != seen || time.abs_diff(its_time) > Duration::from_millis(1500) {
            let start: String = String::from_utf8_lossy(probe).chars().take(60).collect();
            different.push(format!("{i} {start:?}: {expected:?} after {its_time:?}; seen: {seen:?} after {time:?}"));
        }
    }
    different
}
