//! A whole node, fed arbitrary datagrams, packets and passing time by somebody who is not a member, and by a member
//! whose frames arrive through a real session.
#![no_main]

use std::{net::SocketAddr, time::Duration};

use aegisray::{
    crypto::SigningKey,
    identity::{Identity, Network, RecordContent},
    node::{Event, Node, NodeConfig},
    types::Instant,
    wire::frame,
};
use libfuzzer_sys::fuzz_target;

fn node(seed: u8, endpoint: SocketAddr) -> Node {
    let network = Network::new("n", Some("secret"), None, "100.64.0.0/16".parse().expect("a prefix"));
    let content = RecordContent { name: format!("n{seed}"), endpoints: vec![endpoint], ..Default::default() };
    let config = NodeConfig::new(network.clone(), content, 1_000);
    let identity = Identity::new(SigningKey::ed25519_from_seed(&[seed; 32])).expect("a seed makes an identity");
    Node::new(config, identity, Box::new(network), [seed; 32], Instant(0)).expect("a sound configuration")
}

fn addr(i: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, i], 51_900))
}

/// Carries datagrams between the two until they are quiet.
fn carry(now: Instant, a: &mut Node, b: &mut Node) {
    for _ in 0..50 {
        let mut quiet = true;
        while let Some(mut t) = a.poll_transmit() {
            quiet = false;
            if t.to == addr(2) {
                b.handle_datagram(now, addr(1), 1, &mut t.bytes);
            }
        }
        while let Some(mut t) = b.poll_transmit() {
            quiet = false;
            if t.to == addr(1) {
                a.handle_datagram(now, addr(2), 1, &mut t.bytes);
            }
        }
        while a.poll_event().is_some() || b.poll_event().is_some() {}
        if quiet {
            return;
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (mut a, mut b) = (node(1, addr(1)), node(2, addr(2)));
    let mut now = Instant(0);
    b.set_bootstrap(now, &[addr(1)]);
    for _ in 0..3 {
        carry(now, &mut a, &mut b);
        now = now + Duration::from_millis(300);
        a.handle_timeout(now);
        b.handle_timeout(now);
    }
    let mut rest = data;
    while let Some((head, tail)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_be_bytes([head[1], head[2]])) % 1500;
        let (body, after) = tail.split_at(len.min(tail.len()));
        rest = after;
        match head[0] % 4 {
            0 => a.handle_datagram(now, addr(9), 1, &mut body.to_vec()),
            1 => a.handle_tun(now, if body.is_empty() { &[0] } else { body }),
            2 => {
                now = now + Duration::from_millis(u64::from(head[1]) * 10);
                a.handle_timeout(now);
                b.handle_timeout(now);
            }
            _ => {
                // What a member gone bad might say.
                let plaintext = [&[frame::FRAME], body].concat();
                b.send_raw(now, a.id(), plaintext);
            }
        }
        carry(now, &mut a, &mut b);
    }
    while let Some(event) = a.poll_event() {
        if let Event::Deliver(packet) = event {
            assert!(packet.len() < 70_000);
        }
    }
    assert!(a.poll_timeout(now) > now);
});
