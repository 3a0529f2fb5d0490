//! Nodes for benches, each at its own address.

use std::net::SocketAddr;

use aegisray::{
    crypto::SigningKey,
    identity::{Identity, Network, RecordContent},
    node::{Node, NodeConfig},
    types::Instant,
};

/// Where node `i` is.
pub fn addr(i: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, i], 51_900))
}

pub fn node(seed: u8) -> Node {
    let network = Network::new("bench", Some("secret"), None, "100.64.0.0/16".parse().expect("a prefix"));
    let content = RecordContent { name: format!("n{seed}"), endpoints: vec![addr(seed)], ..Default::default() };
    let config = NodeConfig::new(network.clone(), content, 1_000);
    let identity = Identity::new(SigningKey::ed25519_from_seed(&[seed; 32])).expect("a seed makes an identity");
    Node::new(config, identity, Box::new(network), [seed; 32], Instant(0)).expect("a sound configuration")
}
