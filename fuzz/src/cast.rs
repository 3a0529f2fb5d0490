//! Who takes part: two honest nodes, a hostile member with further keys at will, an authority and one of another network.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use aegisray::{
    crypto::{SigningKey, sha256},
    identity::{Authority, Certificate, Identity, Network, RecordContent, RecordSource, Refusal, Verified, Verify},
    node::{Node, NodeConfig},
    types::{Instant, NodeId, UnixTime},
};

pub const EPOCH: UnixTime = 1_790_000_000;
/// Honest nodes, by their places in the cast.
pub const ANNA: usize = 0;
pub const BERT: usize = 1;
/// The hostile member; those behind it are further keys of its.
pub const MALLORY: usize = 2;
pub const CAST: usize = 7;
/// In the form that `init` makes: not stretched at every start.
const SECRET: &str = "ZnV6eiBmdXp6IGZ1enogZnV6eiBmdXp6IGZ1enogZnU";
const AUTHORITY: u8 = 100;
const STRANGER: u8 = 101;

pub fn identity(seed: u8) -> Identity {
    Identity::new(SigningKey::ed25519_from_seed(&[seed; 32])).expect("a seed makes an identity")
}

/// The identities of the cast.
pub fn cast() -> &'static [Identity] {
    static CAST_: OnceLock<Vec<Identity>> = OnceLock::new();
    CAST_.get_or_init(|| (0..CAST as u8).map(|i| identity(i + 1)).collect())
}

pub fn id(who: usize) -> NodeId {
    cast()[who].id()
}

/// Where a member of the cast is in the underlay.
pub fn addr(who: usize) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1 + who as u8], 51_900))
}

/// The network's own authority, and one that is none of ours.
pub fn authorities() -> &'static [Authority; 2] {
    static BOTH: OnceLock<[Authority; 2]> = OnceLock::new();
    BOTH.get_or_init(|| [AUTHORITY, STRANGER].map(|seed| Authority::new(identity(seed))))
}

/// The network: with an authority, or with a secret alone.
pub fn network(with_authority: bool) -> &'static Network {
    static BOTH: OnceLock<[Network; 2]> = OnceLock::new();
    let make = |authority| Network::new("n", Some(SECRET), authority, "100.64.0.0/16".parse().expect("a prefix"));
    &BOTH.get_or_init(|| [make(None), make(Some(authorities()[0].spki().to_vec()))])[usize::from(with_authority)]
}

/// A sound certificate for a node.
pub fn certificate(node: NodeId) -> Certificate {
    Certificate {
        node,
        name: String::new(),
        addresses: Vec::new(),
        prefixes: Vec::new(),
        groups: Vec::new(),
        not_before: EPOCH - 1000,
        not_after: EPOCH + 1_000_000,
        serial: [7; 16],
    }
}

/// Signs certificates, each once.
pub fn issue(authority: usize, certificate: &Certificate) -> Vec<u8> {
    thread_local! {
        static ISSUED: RefCell<HashMap<String, Vec<u8>>> = RefCell::default();
    }
    ISSUED.with_borrow_mut(|issued| {
        if issued.len() > 4096 {
            issued.clear();
        }
        let sign = || authorities()[authority].issue(certificate);
        issued.entry(format!("{authority}{certificate:?}")).or_insert_with(sign).clone()
    })
}

/// What was verified before is not verified again: a pure function of the bytes, and most of a run's cost.
struct Remembering(&'static Network);

type Known = HashMap<[u8; 32], Result<Arc<Verified>, Refusal>>;

impl Verify for Remembering {
    fn verify(&self, announcement: &[u8], record: RecordSource<'_>) -> Result<Arc<Verified>, Refusal> {
        thread_local! {
            static KNOWN: RefCell<Known> = RefCell::default();
        }
        let record_hash = match record {
            RecordSource::Bytes(bytes) => sha256(&[bytes]),
            RecordSource::Known(known) => known.hash,
        };
        let key = sha256(&[self.0.id(), announcement, &record_hash]);
        KNOWN.with_borrow_mut(|known| {
            if known.len() > 4096 {
                known.clear();
            }
            known.entry(key).or_insert_with(|| self.0.verify(announcement, record)).clone()
        })
    }
}

/// A node of the cast as it starts.
pub fn node(who: usize, with_authority: bool) -> Node {
    let network = network(with_authority);
    let content = RecordContent {
        name: ["anna", "bert", "mallory"].get(who).map(|n| (*n).to_owned()).unwrap_or_default(),
        endpoints: vec![addr(who)],
        certificate: if with_authority { issue(0, &certificate(id(who))) } else { Vec::new() },
        ..Default::default()
    };
    let mut config = NodeConfig::new(network.clone(), content, EPOCH);
    // Renewals happen within what a run can see.
    config.rekey_after = Duration::from_secs(20);
    let identity = cast()[who].duplicate().expect("an identity is copied");
    Node::new(config, identity, Box::new(Remembering(network)), [who as u8 + 1; 32], Instant(0))
        .expect("a sound configuration")
}

/// The mesh addresses of the honest nodes.
pub fn honest_addresses(with_authority: bool) -> Vec<IpAddr> {
    let of = |who| {
        let (network, id) = (network(with_authority), id(who));
        [IpAddr::from(network.ipv4(&id, 0)), network.ipv6(&id).into()]
    };
    [ANNA, BERT].into_iter().flat_map(of).collect()
}
