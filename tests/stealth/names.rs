//! Names where DNS can't be trusted: DoT and DoH, with servers of the test's own.

use std::{
    io,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::Arc,
};

use aegisray::{lab::topology::Internet, stealth::server_config};

use super::{
    certify::certify,
    harness::{Dir, need, need_route, node, quiet},
    nginx::nginx,
};

const SERVER: &str = "203.0.113.9";
const NAME: &str = "dns.example.test";
const NODE: &str = "203.0.113.10";
/// Where DNS messages come that nginx has taken out of HTTPS.
const BEHIND: &str = "127.0.0.1:8053";

/// The answer to a query: for IPv4, the node's address.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let name_end = 12 + query.get(12..)?.iter().position(|b| *b == 0)?;
    let question = query.get(12..name_end + 5)?;
    let is_ipv4 = question.ends_with(&[0, 1, 0, 1]);
    let mut out = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0], question].concat();
    if is_ipv4 {
        out.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        out.extend(NODE.parse::<Ipv4Addr>().ok()?.octets());
    }
    Some(out)
}

/// One connection with DNS over TLS (RFC 7858).
fn serve_tls(mut socket: TcpStream, config: Arc<rustls::ServerConfig>) -> io::Result<()> {
    let mut tls = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    loop {
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(len))];
        stream.read_exact(&mut query)?;
        let answer = answer(&query).ok_or(io::ErrorKind::InvalidData)?;
        stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat())?;
    }
}

/// One request with a DNS message in it, from nginx.
fn serve_http(mut socket: TcpStream) -> io::Result<()> {
    let (mut request, mut buffer) = (Vec::new(), [0; 2048]);
    let query = loop {
        let n = socket.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let len = text
            .split_once("content-length: ")
            .and_then(|(_, rest)| rest.split_once('\r'))
            .and_then(|l| l.0.parse::<usize>().ok());
        let head = request.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        if let (Some(len), Some(head)) = (len, head)
            && request.len() >= head + len
        {
            break request[head..head + len].to_vec();
        }
    };
    let answer = answer(&query).ok_or(io::ErrorKind::InvalidData)?;
    let head =
        format!("HTTP/1.0 200 OK\r\nContent-Type: application/dns-message\r\nContent-Length: {}\r\n\r\n", answer.len());
    socket.write_all(&[head.as_bytes(), &answer].concat())
}

pub fn encrypted_dns() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    certify(&dir.0, NAME, 10);
    let server = internet.public(SERVER.parse().unwrap()).unwrap();
    let (certificate, key) = (dir.0.join(format!("{NAME}.pem")), dir.0.join(format!("{NAME}.key")));
    let mut config = rustls::ServerConfig::clone(&server_config(&certificate, &key).unwrap());
    config.alpn_protocols = vec![b"dot".to_vec()];
    let config = Arc::new(config);
    let dot = server.ns.run(|| TcpListener::bind((SERVER, 853))).unwrap();
    let behind = server.ns.run(|| TcpListener::bind(BEHIND)).unwrap();
    std::thread::spawn(move || {
        for socket in dot.incoming().flatten() {
            let config = Arc::clone(&config);
            // It ends when the client leaves.
            std::thread::spawn(move || serve_tls(socket, config));
        }
    });
    std::thread::spawn(move || {
        for socket in behind.incoming().flatten() {
            // Whoever leaves in the middle asks again.
            let _ = serve_http(socket);
        }
    });
    let d = dir.0.display();
    let https = format!(
        "server {{ listen {SERVER}:443 ssl http2; ssl_certificate {d}/{NAME}.pem; ssl_certificate_key {d}/{NAME}.key;
           location /dns-query {{ proxy_pass http://{BEHIND}; }} }}"
    );
    let _nginx = nginx(&dir, &server, &https);
    let there = internet.public(NODE.parse().unwrap()).unwrap();
    let mut node_there = node(&dir, "there", &quiet());
    node_there.start(&there).unwrap();
    for (n, (what, from)) in [
        ("DoT", format!("tls://{SERVER}#{NAME}")),
        ("DoH", format!("https://{SERVER}/dns-query#{NAME}")),
        ("wrong name", format!("tls://{SERVER}#www.example.test")),
    ]
    .into_iter()
    .enumerate()
    {
        let host = internet.public(format!("203.0.113.{}", 20 + n).parse().unwrap()).unwrap();
        let more = format!(
            "peers:\n  lan_discovery: false\n  bootstrap: [\"there.example.test:51900\"]\ndns:\n  servers: [\"{from}\"]\n\
             stealth:\n  roots: {d}/ca.pem\n"
        );
        let mut client = node(&dir, &format!("client{n}"), &more);
        client.start(&host).unwrap();
        if what == "wrong name" {
            need(&client, "an error", || client.log_tail().contains("cannot resolve a name").then_some(()));
            let line = client.log_tail().lines().find(|l| l.contains("cannot resolve")).unwrap_or_default().to_owned();
            println!("  {what}: {}", line.split("WARN ").nth(1).unwrap_or(&line));
            assert!(client.route_to("there").is_none());
        } else {
            need_route(&client, "there");
            // Who asks this node is answered from there too.
            let own = need(&client, "addresses", || client.addresses()).0.to_string();
            let mut dig = host.ns.command("dig");
            let output = dig.args([&*format!("@{own}"), "+short", "+time=3", "any.example.test"]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), NODE);
            println!(
                "  {what}: the bootstrap node's name is resolved, and the node found; dig gets its answer from there"
            );
        }
    }
}
