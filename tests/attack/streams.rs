//! TCP for members without UDP, and who takes all of it.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
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

/// One network opens all the streams that it can, from many addresses; a member without UDP still gets in.
pub fn one_network() -> String {
    let dir = Dir::new();
    let mut net = Internet::new().unwrap();
    let [victim_host, stranger_host, member_host] = [2, 3, 4].map(|n| public(&mut net, n));
    give(&victim_host, [v6(1, 2)]);
    give(&stranger_host, (1..=ADDRESSES).map(|n| v6(3, n)));
    let mut victim = node(&dir, "victim", &plain(&[], ""));
    victim.start(&victim_host).unwrap();
    need(&victim, "status", || victim.status());
    let to = SocketAddr::from((v6(1, 2), PORT));
    let stop = AtomicBool::new(false);
    let stranger = || {
        let mut open: Vec<Socket> = Vec::new();
        let mut opened = 0u64;
        while !stop.load(Ordering::Relaxed) {
            // An address is usable once its uniqueness is checked; what fails is tried again.
            let from = SocketAddr::from((v6(3, (opened % u64::from(ADDRESSES)) as u16 + 1), 0));
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            if socket.bind(&from.into()).is_ok()
                && socket.connect_timeout(&to.into(), Duration::from_millis(300)).is_ok()
            {
                socket.set_nonblocking(true)?;
                open.push(socket);
            } else {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened += 1;
            if open.len() > 300 {
                let ended = |s: &Socket| matches!(s.peek(&mut [std::mem::MaybeUninit::uninit(); 1]), Ok(0));
                open.retain(|s| !ended(s));
                if open.len() > 600 {
                    open.drain(..50);
                }
            }
        }
        Ok(opened)
    };
    let censor = "table inet censor {\n chain out { type filter hook output priority 0; meta l4proto udp drop; }\n}";
    nft(&member_host, censor);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| stranger_host.ns.run(stranger));
        std::thread::sleep(Duration::from_secs(4));
        let mut member = node(&dir, "member", &plain(&["198.51.100.2"], ""));
        member.start(&member_host).unwrap();
        let link = wait_for(2 * PATIENCE, || member.has_link("victim").then_some(()));
        stop.store(true, Ordering::Relaxed);
        let opened = flood.join().unwrap().unwrap();
        assert!(link.is_some(), "no stream for a member, while a stranger opened {opened}");
        format!(
            "a member's link after {:.1} s, while a stranger opened {opened}",
            member.started.elapsed().as_secs_f64()
        )
    })
}
