//! The kill switch: what leaves a client while things die.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aegisray::lab::{daemon::wait_for, topology::Host};
use socket2::SockRef;

use super::{
    watch::watch,
    world::{CLIENT, EXITS, RELAY, WEB, World, fetch, state_of, v6},
};

/// Ports at which packets tell that they are users'.
const USERS: u16 = 9999;

/// Keeps trying to reach the internet in every way that programs have.
pub(super) fn try_everything(host: &Host, done: &AtomicBool) {
    let to_web: [IpAddr; 2] = [WEB.into(), v6(WEB).into()];
    let _ = host.ns.run(|| {
        while !done.load(Ordering::Relaxed) {
            for ip in to_web {
                let any: SocketAddr = if ip.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
                let socket = UdpSocket::bind(any)?;
                let _ = socket.send_to(b"user", (ip, USERS));
                let _ = socket.send_to(b"name", (ip, 53));
                // Some programs insist on an interface.
                let bound = UdpSocket::bind(any)?;
                let _ = SockRef::from(&bound).bind_device(Some(b"eth0"));
                let _ = bound.send_to(b"user", (ip, USERS));
                let _ = TcpStream::connect_timeout(&(ip, 80).into(), Duration::from_millis(5));
            }
            // The router's resolver, as DHCP names it.
            let _ = UdpSocket::bind("0.0.0.0:0")?.send_to(b"name", "192.168.7.1:53");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    });
}

/// What a frame that the client sent is, if it goes beyond its LAN or asks for a name.
pub(super) fn kind(frame: &[u8]) -> Option<String> {
    let ethertype = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let port = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    match ethertype {
        0x0800 if *frame.get(26..30)? == CLIENT.octets() => {
            let to = Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(30..34)?).ok()?);
            let l4 = 14 + usize::from(frame[14] & 15) * 4;
            let (from_port, to_port) = (port(l4)?, port(l4 + 2)?);
            let is_ours = match frame[23] {
                // Between nodes, and what measures the NAT before this one.
                17 => from_port == 51_900 || (to, to_port) == (RELAY, 3478),
                // TCP to the bootstrap node, where UDP finds nobody.
                6 => to == RELAY && [51_900, 443].contains(&to_port),
                _ => false,
            };
            let is_local = (to.is_private() || to.is_multicast() || to.is_broadcast()) && to_port != 53;
            if is_ours {
                Some("ours".to_owned())
            } else {
                (!is_local).then(|| format!("LEAK: protocol {} to {to}:{to_port}", frame[23]))
            }
        }
        0x86dd => {
            let from = frame.get(22..38)?;
            let to = frame.get(38..54)?;
            // Link-local and multicast stay here.
            let is_local = to[0] == 0xff || to[0] == 0xfe;
            let is_mine = from[..8] == super::world::CLIENT6.octets()[..8] && from[15] == 2;
            let is_ours = frame[20] == 17 && port(54)? == 51_900;
            let leak = || format!("LEAK: IPv6, next header {}, port {:?}", frame[20], port(56));
            (is_mine && !is_local && frame[20] != 58).then(|| if is_ours { "ours".to_owned() } else { leak() })
        }
        _ => None,
    }
}

pub fn whatever_dies() {
    let mut world = World::new("exit: auto\n", "");
    let before = state_of(&world.client_host);
    let mut sent: BTreeMap<String, usize> = BTreeMap::new();
    let done = AtomicBool::new(false);
    world.start_client();
    let fenced = || state_of(&world.client_host).contains("chain fence").then_some(());
    wait_for(Duration::from_secs(5), fenced).expect("the fence");
    let (cable, user) = (Arc::clone(&world.client_host), Arc::clone(&world.client_host));
    let see = |frame: &[u8]| {
        if let Some(what) = kind(frame) {
            *sent.entry(what).or_default() += 1;
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| try_everything(&user, &done));
        watch(&cable, see, || {
            // Nobody is there yet.
            std::thread::sleep(Duration::from_secs(2));
            assert_eq!(world.seen_as(WEB.into()), None);
            world.start_others();
            let first = world.exit_in_use();
            let out =
                |world: &World, exit: usize| (world.seen_as(WEB.into()) == Some(EXITS[exit].into())).then_some(());
            wait_for(Duration::from_secs(10), || out(&world, first)).expect("a way out");
            println!("  out by {}", world.exits[first].name);
            std::thread::sleep(Duration::from_secs(1));
            let killed = Instant::now();
            world.exits[first].kill();
            let quickly = || fetch(&world.client_host, WEB.into(), Duration::from_millis(50));
            let other = || (quickly() == Some(EXITS[1 - first].into())).then_some(());
            wait_for(Duration::from_secs(20), other).expect("the other exit");
            println!("  kill -9: out by the other exit after {:?}", killed.elapsed());
            world.client.kill();
            println!("  kill -9 of the client's own daemon");
            std::thread::sleep(Duration::from_secs(2));
            assert_eq!(world.seen_as(WEB.into()), None);
            world.start_client();
            wait_for(Duration::from_secs(20), || out(&world, 1 - first)).expect("a way out again");
            println!("  out again");
        })
        .unwrap();
        done.store(true, Ordering::Relaxed);
    });
    println!("  sent beyond the LAN: {sent:?}");
    assert!(sent["ours"] > 100);
    assert_eq!(sent.len(), 1, "{sent:?}");
    world.client.kill();
    let text = world.command(&["exit", "off"]);
    println!("  {}", text.trim_end());
    assert_eq!(state_of(&world.client_host), before, "`exit off` takes away what a dead daemon left");
}
