//! TCP for members without UDP, and who takes all of it.

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use aegisray::{
    host::Netlink,
    lab::{
        daemon::wait_for,
        topology::{Host, Internet},
    },
};
use socket2::{Domain, Socket, Type};

use super::{
    harness::{Dir, PATIENCE, need, node},
    hostile::PORT,
    world::{nft, plain, public},
};

const ADDRESSES: u16 = 16;

fn v6(host: u16, n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, host, 0, 0, 0, n)
}

fn give(host: &Host, all: impl IntoIterator<Item = Ipv6Addr> + Send) {
    host.ns
        .run(|| {
            let mut n = Netlink::open()?;
            all.into_iter().try_for_each(|a| n.add_address("eth0", a.into(), 56))
        })
        .unwrap();
}

/// Streams that are open, of these.
fn still_open(streams: &[Socket]) -> usize {
    let waits = |s: &&Socket| {
        let peeked = s.peek(&mut [std::mem::MaybeUninit::uninit(); 1]);
        peeked.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    };
    streams.iter().filter(waits).count()
}

/// One network opens streams from many addresses; it holds no more than one source may, and a member without UDP gets in.
pub fn one_network() -> String {
    const ASKED: usize = 200;
    const ALLOWED: usize = 80;
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let [victim_host, stranger_host, member_host] = [2, 3, 4].map(|n| public(&mut net, n));
    give(&victim_host, [v6(1, 2)]);
    give(&stranger_host, (1..=ADDRESSES).map(|n| v6(3, n)));
    let mut victim = node(&dir, "victim", &plain(&[], ""));
    victim.start(&victim_host).unwrap();
    need(&victim, "status", || victim.status());
    let to = SocketAddr::from((v6(1, 2), PORT));
    let open = |n: usize| {
        let from = SocketAddr::from((v6(3, (n % usize::from(ADDRESSES)) as u16 + 1), 0));
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(1))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    // An address is usable once it is known that nobody else has it.
    wait_for(PATIENCE, || stranger_host.ns.run(|| open(ASKED - 1)).ok()).expect("the stranger's addresses are usable");
    let streams: Vec<Socket> = stranger_host.ns.run(|| Ok((0..ASKED).filter_map(|n| open(n).ok()).collect())).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let held = still_open(&streams);
    let censor = "table inet censor {\n chain out { type filter hook output priority 0; meta l4proto udp drop; }\n}";
    nft(&member_host, censor);
    let mut member = node(&dir, "member", &plain(&["198.51.100.2"], ""));
    member.start(&member_host).unwrap();
    need(&member, "link over TCP", || member.has_link("victim").then_some(()));
    // Threads cost something, too: one after the other, which it closes itself, it gets no more than its pace.
    let refused = || victim.status().and_then(|s| s.traffic.get("streams_refused").copied()).unwrap_or(0);
    let (before, begun) = (refused(), Instant::now());
    let opened = stranger_host.ns.run(|| Ok((0..1000).filter_map(|n| open(n).ok()).count())).unwrap();
    let most = 32 + 10 * (begun.elapsed().as_secs() as usize + 1);
    let taken = |refused: u64| opened.saturating_sub((refused - before) as usize);
    let is_held_back = wait_for(PATIENCE, || (taken(refused()) <= most).then_some(()));
    assert!(is_held_back.is_some(), "{} of {opened} streams were taken in", taken(refused()));
    assert!(held <= ALLOWED, "one /64 holds {held} streams of {} that it opened", streams.len());
    format!("{held} of {} streams of one /64 held", streams.len())
}
