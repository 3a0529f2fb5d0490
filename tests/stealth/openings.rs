//! What who is no member gets to see of TLS itself.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use aegisray::{
    host,
    lab::{daemon::wait_for, topology::Host, topology::Internet},
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, version};

use super::{
    capture::{Segment, records},
    harness::{Dir, need_route, node},
    site::{ADDRESS, DECOY, NAME, Site},
    strangers::{ask_site, differences, probes},
    watch::watch,
};

/// Longer than the site's own.
const PATIENCE: Duration = Duration::from_secs(6);

/// What rustls says first to `name`.
fn hello(name: &str, versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut out = Vec::new();
    client.write_tls(&mut out).unwrap();
    out
}

/// The same handshake message in records of `size` bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    hello[5..].chunks(size).flat_map(|c| [&[22, 3, 1][..], &(c.len() as u16).to_be_bytes(), c].concat()).collect()
}

/// With `change` applied.
fn changed(hello: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = hello.to_vec();
    change(&mut out);
    out
}

/// First flights that a prober may try. Those that are cut short are followed by silence.
fn flights() -> Vec<Vec<u8>> {
    let good = hello(NAME, &[&version::TLS13], &["http/1.1"]);
    let alert = [21, 3, 3, 0, 2, 1, 0];
    let ccs = [20, 3, 3, 0, 1, 1];
    vec![
        good.clone(),
        hello("other.example.test", &[&version::TLS13], &[]),
        hello("203.0.113.10", &[&version::TLS13], &[]),
        hello(NAME, &[&version::TLS13], &["h2", "http/1.1"]),
        hello(NAME, &[&version::TLS13], &["acme-tls/1"]),
        good[..1].to_vec(),
        good[..4].to_vec(),
        good[..60].to_vec(),
        good[..good.len() - 1].to_vec(),
        in_records(&good, 100),
        in_records(&good, 1),
        [&good[..], &good].concat(),
        [&good[..], &ccs, &ccs, &ccs].concat(),
        [&good[..], &ccs.repeat(40)].concat(),
        [&good[..], b"GET / HTTP/1.1\r\n\r\n"].concat(),
        [&good[..], &alert].concat(),
        [&good[..], &[23, 3, 3, 0, 40], &[9; 40]].concat(),
        // Session ids: another length, and one that is no member's.
        changed(&good, |h| h[43] = 31),
        changed(&good, |h| h[44..76].fill(0xaa)),
        changed(&good, |h| h[11..43].fill(0)),
        // A record's, a message's, and an extension's length that is wrong.
        changed(&good, |h| h[4] = h[4].wrapping_add(1)),
        changed(&good, |h| h[8] = h[8].wrapping_add(1)),
        changed(&good, |h| *h.last_mut().unwrap() ^= 1),
        changed(&good, |h| h[1] = 9),
        changed(&good, |h| h[9] = 9),
        changed(&good, |h| h[5] = 2),
        alert.to_vec(),
        ccs.to_vec(),
        vec![23, 3, 3, 0, 4, 1, 2, 3, 4],
        vec![22, 3, 1, 0, 0],
        vec![22, 3, 1, 0xff, 0xff, 1, 0, 0],
        vec![22, 3, 1, 0x40, 1, 1, 0, 0x3f, 0xfc],
        // SSL 2.
        vec![0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80, 3, 0, 0x80, 7, 0, 0xc0],
        b"GET / HTTP/1.1\r\nHost: www.example.test\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        b"\r\n".to_vec(),
        vec![0; 300],
        vec![0xff; 300],
        (0..=255).collect(),
        // The mesh's own framing on a plain stream.
        [&[0, 64, 1][..], &[9; 63]].concat(),
        Vec::new(),
    ]
}

/// What can be seen of an answer: records by kind and length, or text, and how it ends. Signatures are of one of three
/// lengths, by chance: whole flights differ by no more than that.
#[derive(Debug)]
struct Seen {
    kinds: Vec<u8>,
    lengths: Vec<usize>,
    len: usize,
    text: String,
    end: &'static str,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        let rest = |s: &Self| (s.kinds.clone(), s.text.clone(), s.end);
        rest(self) == rest(other) && self.len.abs_diff(other.len) <= 3
    }
}

impl Seen {
    fn of(answer: &[u8], end: &'static str) -> Self {
        let (kinds, lengths): (Vec<u8>, Vec<usize>) = records(answer).into_iter().unzip();
        let text = if kinds.is_empty() { String::from_utf8_lossy(answer).into_owned() } else { String::new() };
        let text = text.lines().filter(|l| !l.starts_with("Date: ")).collect::<Vec<_>>().join("\n");
        Self { kinds, lengths, len: answer.len(), text, end }
    }
}

/// Opens a connection to `address` with these bytes, all at once or each in a segment of its own.
fn open(visitor: &Host, address: &str, flight: &[u8], then: Then) -> (Seen, Duration) {
    let opened = visitor.ns.run(|| {
        let start = Instant::now();
        let mut socket = TcpStream::connect((address, 443))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let parts = if matches!(then, Then::Dripping) { flight.len().div_ceil(40).max(1) } else { flight.len().max(1) };
        for part in flight.chunks(parts) {
            // It may be refused in the middle.
            if socket.write_all(part).is_err() {
                break;
            }
            if matches!(then, Then::Dripping) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if matches!(then, Then::Closing) {
            let _ = socket.shutdown(Shutdown::Write);
        }
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        let end = loop {
            match socket.read(&mut buffer) {
                Ok(0) => break "closed",
                Ok(n) => answer.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break "open",
                Err(_) => break "reset",
            }
        };
        Ok((Seen::of(&answer, end), start.elapsed()))
    });
    opened.unwrap()
}

/// What comes after a first flight.
#[derive(Clone, Copy)]
enum Then {
    Waiting,
    Closing,
    /// It comes in pieces.
    Dripping,
}

/// Openings of TLS and inside TLS, sent to the decoy and to who stands before it.
pub fn see_the_decoy() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let (site, _theirs) = Site::borrow(&dir, &mut internet);
    let visitor = internet.public("203.0.113.66".parse().unwrap()).unwrap();
    let member_host = internet.public("203.0.113.20".parse().unwrap()).unwrap();
    let listens = || visitor.ns.run(|| TcpStream::connect((ADDRESS, 443))).ok();
    wait_for(Duration::from_secs(15), listens).expect("the node has seen the decoy");
    // A member's own first flight, which is then shown again by others.
    let mut replayed = Vec::new();
    let mut answer = Vec::new();
    let see = |frame: &[u8]| {
        let Some(segment) = Segment::of(frame) else { return };
        if segment.from_port == 443 && answer.len() < 1 << 14 {
            answer.extend_from_slice(segment.payload);
        } else if segment.from_port != 443 && replayed.is_empty() {
            replayed = segment.payload.to_vec();
        }
    };
    let mut member = node(&dir, "member", &site.way_in("always", NAME));
    watch(&member_host, see, || {
        member.start(&member_host).unwrap();
        need_route(&member, "site");
    })
    .unwrap();
    assert!(replayed.len() > 500, "a member's hello was seen");
    // What is seen of the answer is what everybody is answered with: as many records, as long.
    let (theirs, _) = open(&visitor, DECOY, &flights()[0], Then::Waiting);
    let flight = |kinds: &[u8]| kinds.iter().take(theirs.kinds.len()).copied().collect::<Vec<u8>>();
    let ours = Seen::of(&answer, "");
    assert_eq!(flight(&ours.kinds), theirs.kinds);
    let lengths = |seen: &Seen| seen.lengths.iter().take(theirs.lengths.len()).copied().collect::<Vec<usize>>();
    println!("  records of the decoy's answer: {:?}; of a member's: {:?}", theirs.lengths, lengths(&ours));
    assert!(lengths(&ours).iter().zip(&theirs.lengths).all(|(a, b)| a.abs_diff(*b) <= 3));
    let mut all: Vec<(Vec<u8>, Then)> = flights().into_iter().map(|f| (f, Then::Waiting)).collect();
    all.push((replayed.clone(), Then::Waiting));
    all.push((replayed.clone(), Then::Dripping));
    // With somebody else's key share.
    all.push((changed(&replayed, |h| *h.last_mut().unwrap() ^= 1), Then::Waiting));
    for f in [&replayed[..], &replayed[..100], &flights()[0], b"GET / HTTP/1.1\r\n\r\n", b""] {
        all.push((f.to_vec(), Then::Closing));
    }
    all.push((flights()[0].clone(), Then::Dripping));
    all.push((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Then::Dripping));
    let answers = std::thread::scope(|scope| {
        let visitor = &visitor;
        let ask = |(flight, then): &(Vec<u8>, Then)| {
            let (flight, then) = (flight.clone(), *then);
            scope.spawn(move || (open(visitor, DECOY, &flight, then), open(visitor, ADDRESS, &flight, then)))
        };
        let asked: Vec<_> = all.iter().map(ask).collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect::<Vec<_>>()
    });
    let answered = answers.iter().filter(|((a, _), _)| a.len > 0).count();
    let flights: Vec<Vec<u8>> = all.into_iter().map(|(flight, _)| flight).collect();
    let different = differences(&flights, answers);
    println!(
        "  {} first flights ({answered} get an answer, {} bytes of a member's among them): {} answered otherwise than by the \
         decoy",
        flights.len(),
        replayed.len(),
        different.len()
    );
    assert!(flights.len() >= 40 && different.is_empty(), "{different:#?}");

    let probes = probes();
    let answers = std::thread::scope(|scope| {
        let (site, visitor) = (&site, &visitor);
        let ask = |probe| {
            scope.spawn(move || (ask_site(site, visitor, DECOY, probe), ask_site(site, visitor, ADDRESS, probe)))
        };
        let asked: Vec<_> = probes.iter().map(|probe: &Vec<u8>| ask(probe)).collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect::<Vec<_>>()
    });
    let different = differences(&probes, answers);
    println!("  {} openings inside TLS: {} answered otherwise than by the decoy", probes.len(), different.len());
    assert!(different.is_empty(), "{different:#?}");
    assert!(member.has_link("site"), "the member is still there");
}

/// A node with a certificate of its own is its own TLS stack: whatever comes, it ends, and the site goes on.
pub fn end() {
    const LIMIT: Duration = Duration::from_secs(20);
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let site = Site::open(&dir, &mut internet, 10);
    let visitor = internet.public("203.0.113.66".parse().unwrap()).unwrap();
    let pid = site.daemon.pid().unwrap();
    let before = host::cpu_seconds(pid).unwrap();
    let open = |flight: Vec<u8>| {
        let ended = visitor.ns.run(|| {
            let start = Instant::now();
            let mut socket = TcpStream::connect((ADDRESS, 443))?;
            socket.set_read_timeout(Some(LIMIT))?;
            let _ = socket.write_all(&flight);
            let ended =
                !matches!(socket.read_to_end(&mut Vec::new()), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
            Ok(ended.then(|| start.elapsed()))
        });
        ended.unwrap()
    };
    let flights = flights();
    let took: Vec<Option<Duration>> = std::thread::scope(|scope| {
        let open = &open;
        let all: Vec<_> = flights.iter().map(|f| scope.spawn(move || open(f.clone()))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let used = host::cpu_seconds(pid).unwrap() - before;
    let longest = took.iter().flatten().max().unwrap();
    println!(
        "  {} first flights: all ended, the last after {:.1} s; {used:.2} s of processor",
        flights.len(),
        longest.as_secs_f64()
    );
    assert!(took.iter().all(Option::is_some), "{took:?}");
    assert!(used < 2.0, "{used}");
    let (page, _) = ask_site(&site, &visitor, ADDRESS, b"GET / HTTP/1.0\r\n\r\n");
    assert!(page.contains("A site about ducks"), "{page}");
}
