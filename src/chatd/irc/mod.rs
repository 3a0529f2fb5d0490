//! A gateway on loopback for programs that speak IRC: platforms' channels are `#platform/channel`, whose messages carry their
//! time and id (IRCv3 server-time and message-tags). To kick somebody is to ban them.

mod line;
mod session;

use std::{io, sync::Arc, time::Duration};

use data_encoding::BASE64;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::mpsc,
    time,
};

use super::{
    request::{Answer, Request},
    service::Handle,
};
use crate::crypto::sha256;
use line::{Line, MAX_LINE, MAX_TAGS};
use session::Session;

/// What this server is called.
const NAME: &str = "aegis";
/// How long a client may take to say who it is.
const LOGIN_TIME: Duration = Duration::from_secs(60);
const PING_EVERY: Duration = Duration::from_secs(60);
/// What clients may ask for.
const CAPABILITIES: [&str; 5] =
    ["server-time", "message-tags", "echo-message", "draft/message-redaction", "sasl=PLAIN"];
const MAX_CLIENTS: usize = 16;

/// Serves clients that know the token, for ever.
pub async fn serve(listener: TcpListener, handle: Handle, token: String) {
    let token = Arc::new(token);
    let room = Arc::new(tokio::sync::Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (handle, token) = (handle.clone(), Arc::clone(&token));
        tokio::spawn(async move {
            let _place = place;
            // How a client ends is of no interest.
            let _ = converse(socket, handle, &token).await;
        });
    }
}

struct Lines(BufReader<tokio::net::tcp::OwnedReadHalf>);

impl Lines {
    /// The next line; `None`: the client is gone, or its line too long.
    async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let most = (MAX_LINE + MAX_TAGS) as u64;
            let n = (&mut self.0).take(most).read_until(b'\n', &mut bytes).await?;
            if n == 0 || bytes.last() != Some(&b'\n') {
                return Ok(None);
            }
            let text = String::from_utf8_lossy(&bytes);
            if let Some(line) = Line::parse(text.trim_end_matches(['\r', '\n'])) {
                return Ok(Some(line));
            }
        }
    }
}

async fn converse(socket: TcpStream, handle: Handle, token: &str) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (read, mut write) = socket.into_split();
    let mut lines = Lines(BufReader::new(read));
    let Ok(greeted) = time::timeout(LOGIN_TIME, greet(&mut lines, &mut write, token)).await else { return Ok(()) };
    let Some((nick, capabilities)) = greeted? else { return Ok(()) };
    let (mut session, welcome) = Session::start(handle.clone(), nick, capabilities).await;
    send(&mut write, &welcome).await?;
    let (tell, mut events) = mpsc::channel(8);
    let mut last = session.last;
    let follow = tokio::spawn(async move {
        loop {
            match handle.ask(Request::Events { after: last }).await {
                Answer::Events { last: now, events } => {
                    last = now;
                    if tell.send(events).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    });
    let mut ping = time::interval(PING_EVERY);
    ping.tick().await;
    loop {
        let out = tokio::select! {
            line = lines.next() => match line? {
                Some(line) if line.command == "QUIT" => break,
                Some(line) => session.line(&line).await,
                None => break,
            },
            happened = events.recv() => match happened {
                Some(happened) => session.happened(happened).await,
                None => break,
            },
            _ = ping.tick() => vec![format!("PING {NAME}")],
        };
        send(&mut write, &out).await?;
    }
    follow.abort();
    send(&mut write, &[format!("ERROR :{NAME} closes the link")]).await
}

async fn send(write: &mut OwnedWriteHalf, lines: &[String]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let text: String = lines.iter().map(|l| format!("{l}\r\n")).collect();
    write.write_all(text.as_bytes()).await
}

/// Learns who the client is and what it can; `None`: it does not have the token.
async fn greet(
    lines: &mut Lines,
    write: &mut OwnedWriteHalf,
    token: &str,
) -> io::Result<Option<(String, Vec<String>)>> {
    let is_token = |given: &str| sha256(&[given.as_bytes()]) == sha256(&[token.as_bytes()]);
    let (mut nick, mut user, mut good, mut negotiating) = (String::new(), false, false, false);
    let mut capabilities: Vec<String> = Vec::new();
    while let Some(line) = lines.next().await? {
        let mut out = Vec::new();
        match (line.command.as_str(), line.arg(0)) {
            ("PASS", given) => good |= is_token(given),
            ("NICK", given) => nick = line::name(given),
            ("USER", _) => user = true,
            ("PING", given) => out.push(format!(":{NAME} PONG {NAME} :{given}")),
            ("CAP", "LS") => {
                negotiating = true;
                out.push(format!(":{NAME} CAP * LS :{}", CAPABILITIES.join(" ")));
            }
            ("CAP", "REQ") => {
                negotiating = true;
                let asked: Vec<&str> = line.arg(1).split_ascii_whitespace().collect();
                let known = |a: &&str| CAPABILITIES.iter().any(|c| c.split('=').next() == Some(a));
                let word = if asked.iter().all(known) { "ACK" } else { "NAK" };
                if word == "ACK" {
                    capabilities.extend(asked.iter().map(|a| (*a).to_owned()));
                }
                out.push(format!(":{NAME} CAP * {word} :{}", asked.join(" ")));
            }
            ("CAP", "END") => negotiating = false,
            ("AUTHENTICATE", "PLAIN") => out.push("AUTHENTICATE +".to_owned()),
            ("AUTHENTICATE", given) => {
                // Authorization identity, name and password, by zero bytes (RFC 4616).
                let plain = BASE64.decode(given.as_bytes()).unwrap_or_default();
                let password = plain.rsplit(|b| *b == 0).next().unwrap_or_default();
                good |= std::str::from_utf8(password).is_ok_and(is_token);
                let (code, text) =
                    if good { (903, "SASL authentication successful") } else { (904, "SASL authentication failed") };
                out.push(format!(":{NAME} {code} {} :{text}", if nick.is_empty() { "*" } else { &nick }));
            }
            ("QUIT", _) => return Ok(None),
            _ => {}
        }
        send(write, &out).await?;
        if !nick.is_empty() && user && !negotiating {
            if good {
                return Ok(Some((nick, capabilities)));
            }
            let text = "the password is what `aegisray chat page` prints behind the #";
            send(write, &[format!(":{NAME} 464 {nick} :{text}"), format!("ERROR :{text}")]).await?;
            return Ok(None);
        }
    }
    Ok(None)
}
