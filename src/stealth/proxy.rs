//! Through a proxy that a network asks for: SOCKS5 (RFC 1928, RFC 1929) and HTTP CONNECT (RFC 9110 §9.3.6). Names are left to
//! the proxy, so that no DNS query tells where this node goes.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
};

use crate::config::{Proxy, ProxyKind};

/// Longer answers are no proxy's.
const MAX_ANSWER: usize = 8192;

/// Makes `socket`, which is connected to the proxy, a connection to `target` (`HOST:PORT`).
pub(super) fn pass(socket: &mut TcpStream, proxy: &Proxy, target: &str) -> io::Result<()> {
    match proxy.kind {
        ProxyKind::Socks5 => socks5(socket, proxy, target),
        ProxyKind::Http => connect(socket, proxy, target),
    }
}

fn refused(why: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("the proxy refuses: {why} (stealth.proxy)"))
}

fn socks5(socket: &mut TcpStream, proxy: &Proxy, target: &str) -> io::Result<()> {
    let method = if proxy.login.is_some() { 2 } else { 0 };
    socket.write_all(&[5, 1, method])?;
    let mut answer = [0; 2];
    socket.read_exact(&mut answer)?;
    if answer != [5, method] {
        return Err(refused(if answer[0] == 5 {
            "it asks for another way to log in"
        } else {
            "it doesn't speak SOCKS5"
        }));
    }
    if let Some((user, password)) = &proxy.login {
        let mut login = vec![1];
        for text in [user, password] {
            login.push(u8::try_from(text.len()).map_err(|_| refused("name and password have at most 255 bytes"))?);
            login.extend_from_slice(text.as_bytes());
        }
        socket.write_all(&login)?;
        socket.read_exact(&mut answer)?;
        if answer[1] != 0 {
            return Err(refused("wrong name or password"));
        }
    }
    let mut request = vec![5, 1, 0];
    let port = match target.parse::<SocketAddr>() {
        Ok(addr) => {
            match addr.ip() {
                IpAddr::V4(ip) => request.extend([&[1][..], &ip.octets()].concat()),
                IpAddr::V6(ip) => request.extend([&[4][..], &ip.octets()].concat()),
            }
            addr.port()
        }
        Err(_) => {
            let (host, port) = target.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            request.extend([3, u8::try_from(host.len()).map_err(|_| io::ErrorKind::InvalidInput)?]);
            request.extend_from_slice(host.as_bytes());
            port.parse().map_err(|_| io::ErrorKind::InvalidInput)?
        }
    };
    request.extend(port.to_be_bytes());
    socket.write_all(&request)?;
    let mut head = [0; 4];
    socket.read_exact(&mut head)?;
    // RFC 1928 §6.
    let why =
        ["", "it failed", "its rules", "no network", "no host", "nobody listens", "timed out", "command", "address"];
    if head[1] != 0 {
        return Err(refused(why.get(usize::from(head[1])).unwrap_or(&"unknown reason")));
    }
    let len = match head[3] {
        1 => 4,
        4 => 16,
        _ => {
            let mut len = [0];
            socket.read_exact(&mut len)?;
            usize::from(len[0])
        }
    };
    socket.read_exact(&mut vec![0; len + 2])
}

fn connect(socket: &mut TcpStream, proxy: &Proxy, target: &str) -> io::Result<()> {
    let login = proxy.login.as_ref().map_or(String::new(), |(user, password)| {
        let both = data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes());
        format!("Proxy-Authorization: Basic {both}\r\n")
    });
    socket.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n").as_bytes())?;
    // One byte after another: what follows the head is TLS.
    let (mut head, mut byte) = (Vec::new(), [0]);
    while super::http::head_end(&head).is_none() {
        if head.len() > MAX_ANSWER || socket.read(&mut byte)? == 0 {
            return Err(refused("it doesn't speak HTTP"));
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head);
    let line = text.lines().next().unwrap_or_default();
    let code = line.split(' ').nth(1).unwrap_or_default();
    if code.len() == 3 && code.starts_with('2') { Ok(()) } else { Err(refused(line)) }
}
