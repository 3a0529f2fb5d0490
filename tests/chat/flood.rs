//! A relay under many sources that each bring all they can.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use aegisray::{
    chat::{Author, Body, DeviceKey, Hlc, Kind, Replica, wire},
    chatd::bench,
    host,
    lab::{daemon::wait_for, topology::Internet},
};
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio_tungstenite::{client_async, tungstenite::Message};

use super::{
    harness::{Dir, program},
    running::Running,
};

const SOURCES: usize = 10_000;
/// Different messages of the flood.
const POOL: usize = 20_000;
const RELAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

type Socket = tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>;

/// A connection from an address of its own.
async fn connect(source: Ipv4Addr) -> Result<Socket, Box<dyn std::error::Error>> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source.into(), 0))?;
    let stream = socket.connect(RELAY).await?;
    let (mut socket, _) = client_async(format!("ws://{RELAY}/"), stream).await?;
    let hello = wire::Hello { version: 1, ..wire::Hello::default() };
    socket.send(frame(wire::frame::What::Hello(hello))).await?;
    Ok(socket)
}

fn frame(what: wire::frame::What) -> Message {
    Message::Binary(wire::Frame { what: Some(what) }.encode_to_vec().into())
}

fn bundle(messages: Vec<Vec<u8>>) -> Message {
    frame(wire::frame::What::Bundle(wire::Bundle { messages }))
}

/// Waits until a message is confirmed.
async fn confirmed(socket: &mut Socket, id: &[u8]) -> bool {
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(bytes) = message else { continue };
        let Ok(wire::Frame { what: Some(what) }) = wire::Frame::decode(&bytes[..]) else { continue };
        match what {
            wire::frame::What::Stored(ids) if ids.ids.iter().any(|i| i == id) => return true,
            wire::frame::What::Refused(refused) if refused.id == id => panic!("refused: {}", refused.reason),
            _ => {}
        }
    }
    false
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Does something on the loopback of a relay, which keeps everything in this directory; of it is told the relay's number.
fn beside_a_relay(dir: &Path, work: impl AsyncFn(u32) + Sync) {
    let mut internet = Internet::new().unwrap();
    let server = internet.public("203.0.113.100".parse().unwrap()).unwrap();
    let mut command = server.ns.command(program());
    command.args(["chat-relay", "--listen", "127.0.0.1:8080", "--dir"]).arg(dir);
    let relay = Running::start(command);
    let run = || {
        wait_for(Duration::from_secs(5), || std::net::TcpStream::connect(RELAY).ok()).expect("the relay listens");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work(relay.0.id()));
        Ok(())
    };
    server.ns.run(run).unwrap();
}

pub fn ten_thousand_sources() {
    let dir = Dir::new();
    host::raise_file_limit().unwrap();
    // What a relay has had in a week.
    let kept = std::env::var("FLOOD_MESSAGES").map_or(20_000, |n| n.parse().expect("a number of messages"));
    if let Err(error) = bench::run(&dir.0, kept, true, now_ms() - 7 * 86_400_000 / 2) {
        panic!("{error}");
    }
    beside_a_relay(&dir.0, flood);
    let size = std::fs::metadata(dir.0.join("chat.db")).unwrap().len() >> 20;
    println!("  the relay's database: {size} MiB, with {kept} messages from before");
}

async fn flood(relay: u32) {
    let now = |n: usize| Hlc(Hlc::from_ms(now_ms()).0 + n as u64 % 0xffff);
    let key = |i: u8| DeviceKey::new(&[i; 32], &[i + 100; 32]);
    let mut replica = Replica::default();
    let mut honest = Author::new(key(1), None);
    let genesis = honest.join(&mut replica, now_ms());
    let mut joins = vec![genesis.encode()];
    let mut bad: Vec<Author> = (2..66).map(|i| Author::new(key(i), Some(genesis.platform))).collect();
    joins.extend(bad.iter_mut().map(|b| b.join(&mut replica, now_ms()).encode()));
    let heads = replica.auth_heads();
    let text = |n: usize| {
        Body::Content(Some(wire::Text { text: format!("buy more ducks, {n}"), files: Vec::new() }.encode_to_vec()))
    };
    let pool: Vec<Vec<u8>> =
        (0..POOL).map(|n| bad[n % 64].say(now(n), heads.clone(), Kind::Text, &text(n), Vec::new()).encode()).collect();
    let mut mine = connect(Ipv4Addr::new(127, 200, 0, 1)).await.unwrap();
    for some in joins.chunks(10) {
        mine.send(bundle(some.to_vec())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2600)).await;
    }
    let publish = async |mine: &mut Socket, author: &mut Author, n: usize| {
        let message = author.say(now(n), heads.clone(), Kind::Text, &text(n), Vec::new());
        let start = Instant::now();
        mine.send(bundle(vec![message.encode()])).await.unwrap();
        assert!(confirmed(mine, &message.id.0).await);
        start.elapsed()
    };
    let quiet = publish(&mut mine, &mut honest, 900_000).await;

    let start = Instant::now();
    let mut sockets = Vec::with_capacity(SOURCES);
    for n in 0..SOURCES {
        let source = Ipv4Addr::new(127, 1 + (n / 60_000) as u8, (n / 250 % 240) as u8, 1 + (n % 250) as u8);
        sockets.push(connect(source).await.expect("the relay lets them in"));
    }
    println!("  {SOURCES} sources are connected after {:.1} s", start.elapsed().as_secs_f64());
    let mut sent = 0_u64;
    let mut times = Vec::new();
    let until = Instant::now() + Duration::from_secs(12);
    let mut at = 0;
    while Instant::now() < until {
        // Each source brings 25 at once when its turn comes: more than it may.
        for _ in 0..400 {
            let messages: Vec<Vec<u8>> = (0..25).map(|i| pool[(at * 7 + i) % POOL].clone()).collect();
            at += 1;
            // A source that the relay has closed is gone.
            if sockets[at % SOURCES].send(bundle(messages)).await.is_ok() {
                sent += 25;
            }
        }
        times.push(publish(&mut mine, &mut honest, times.len()).await);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    times.sort_unstable();
    let ms = |t: Duration| t.as_secs_f64() * 1e3;
    println!(
        "  {sent} messages of the flood in 12 s; an honest one is confirmed after {:.1} ms, the slowest of {} after {:.1} ms \
         ({:.1} ms before the flood); the relay's memory {} MiB",
        ms(times[times.len() / 2]),
        times.len(),
        ms(times[times.len() - 1]),
        ms(quiet),
        host::resident_kib(relay).unwrap() >> 10
    );
}

/// Visitors who ask for everything and read nothing.
const GREEDY: u32 = 60;
/// How often each asks.
const ASKS: usize = 3;

pub fn who_asks_and_does_not_read() {
    beside_a_relay(&Dir::new().0, greedy);
}

async fn greedy(relay: u32) {
    let now = |n: u64| Hlc(Hlc::from_ms(now_ms()).0 + n);
    let mut replica = Replica::default();
    let mut author = Author::new(DeviceKey::new(&[1; 32], &[2; 32]), None);
    let genesis = author.join(&mut replica, now_ms());
    let heads = replica.auth_heads();
    let text =
        |n: u64| wire::Text { text: format!("{n} {}", "so much ".repeat(6000)), files: Vec::new() }.encode_to_vec();
    let all: Vec<_> = (0..400)
        .map(|n| author.say(now(n), heads.clone(), Kind::Text, &Body::Content(Some(text(n))), Vec::new()))
        .collect();
    let mut mine = connect(Ipv4Addr::new(127, 200, 0, 1)).await.unwrap();
    mine.send(bundle(vec![genesis.encode()])).await.unwrap();
    // What others bring names it: until the relay has it, that would be refused.
    assert!(confirmed(&mut mine, &genesis.id.0).await);
    // Twenty at once, and as many again after five seconds: from so many addresses that it takes no time.
    for (n, some) in all.chunks(16).enumerate() {
        let mut socket = connect(Ipv4Addr::new(127, 201, 0, 1 + n as u8)).await.unwrap();
        socket.send(bundle(some.iter().map(|m| m.encode()).collect())).await.unwrap();
        // They are confirmed in their order.
        assert!(confirmed(&mut socket, &some[some.len() - 1].id.0).await);
    }
    let before = host::resident_kib(relay).unwrap() >> 10;
    let want = wire::Ids { ids: all.iter().map(|m| m.id.0.to_vec()).collect() };
    let mut greedy = Vec::new();
    for n in 0..GREEDY {
        let mut socket = connect(Ipv4Addr::new(127, 202, 0, 1 + n as u8)).await.unwrap();
        for _ in 0..ASKS {
            socket.send(frame(wire::frame::What::Want(want.clone()))).await.unwrap();
            // One by one: so much at the same moment would be refused.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        greedy.push(socket);
    }
    let mut most = 0;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        most = most.max(host::resident_kib(relay).unwrap() >> 10);
    }
    // Who reads is served meanwhile.
    let start = Instant::now();
    mine.send(frame(wire::frame::What::Want(want))).await.unwrap();
    let mut got = 0;
    while got < all.len() {
        let message = mine.next().await.expect("who reads is not cut off").unwrap();
        let Message::Binary(bytes) = message else { continue };
        if let Ok(wire::Frame { what: Some(wire::frame::What::Bundle(bundle)) }) = wire::Frame::decode(&bytes[..]) {
            got += bundle.messages.len();
        }
    }
    println!(
        "  {GREEDY} visitors asked for {} MiB each and read nothing: the relay's memory went from {before} to {most} MiB; who reads has its \
         {got} messages after {:.2} s",
        (ASKS * all.iter().map(|m| m.encode().len()).sum::<usize>()) >> 20,
        start.elapsed().as_secs_f64()
    );
    assert!(most < before + 256, "{before} MiB, then {most} MiB");
}
