//! The form of the recordings: JSON, bytes in hexadecimal.

use std::net::{IpAddr, SocketAddr};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hex(pub Vec<u8>);

impl From<Hex> for String {
    fn from(hex: Hex) -> Self {
        HEXLOWER.encode(&hex.0)
    }
}

impl TryFrom<String> for Hex {
    type Error = data_encoding::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        HEXLOWER.decode(text.as_bytes()).map(Self)
    }
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vectors {
    pub version: u32,
    /// The seeds of all Ed25519 keys (RFC 8032): 32 times the byte.
    pub seeds: Seeds,
    /// UNIX time of the recording, in seconds.
    pub time: u64,
    /// Encapsulation key and ciphertext of ML-KEM-768, which are made at random.
    pub kem: [Hex; 2],
    pub networks: Vec<Network>,
    pub announcements: Vec<Announcement>,
    pub certificates: Vec<Certificate>,
    pub revocations: Vec<Revocations>,
    pub invites: Vec<Invite>,
    pub beacons: Vec<Beacon>,
    pub handshakes: Vec<Handshake>,
    pub frames: Vec<Message>,
    pub control: Vec<Message>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeds {
    pub authority: u8,
    pub initiator: u8,
    pub responder: u8,
    /// Of the generators of Noise's ephemeral keys, for each end: `Rng::from_seed` with 32 times the byte.
    pub ephemeral: [u8; 2],
}

/// What is derived from a network's name, secret and authority.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub name: String,
    pub secret: String,
    pub authority: Option<Hex>,
    pub cidr: String,
    pub id: Hex,
    pub psk: Hex,
    pub beacon_key: Hex,
    /// mac1 over the empty message.
    pub gate_tag: Hex,
    /// Of the initiator: IPv4 by attempt 0 and 1, IPv6.
    pub addresses: [IpAddr; 3],
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    pub what: String,
    /// Which of the networks.
    pub network: usize,
    pub announcement: Hex,
    pub record: Hex,
    pub node_id: String,
    pub seqno: u32,
    pub name: String,
    pub addresses: [IpAddr; 2],
    pub prefixes: Vec<String>,
    pub endpoints: Vec<SocketAddr>,
    pub versions: [u32; 2],
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    pub what: String,
    pub bytes: Hex,
    pub node_id: String,
    pub name: String,
    pub groups: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub prefixes: Vec<String>,
    pub time: [u64; 2],
    pub serial: Hex,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    pub what: String,
    pub bytes: Hex,
    pub version: u64,
    pub serials: Vec<Hex>,
    pub nodes: Vec<String>,
    /// When the certificates of the serials and of the nodes have expired, where that is known.
    pub ends: [Vec<u64>; 2],
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    pub token: String,
    pub secret: Option<String>,
    pub authority: Option<Hex>,
    pub bootstrap: Vec<String>,
    pub admission: Option<Hex>,
    /// What is derived from the admission secret, to prove it with.
    pub key: Option<Hex>,
    pub inviter: Option<String>,
    pub expires: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    pub datagram: Hex,
    pub node_id: String,
    pub endpoint: SocketAddr,
}

/// A handshake, message by message. The first is the initiator's, then they take turns.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    pub what: String,
    pub pattern: String,
    pub network: usize,
    /// Receiver indices of the initiator and the responder.
    pub indices: [u32; 2],
    pub messages: Vec<HandshakeMessage>,
    /// After the last one.
    pub hash: Hex,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeMessage {
    /// The second byte of its datagrams.
    pub kind: u8,
    /// A `HandshakePayload`.
    pub payload: Hex,
    /// As Noise has written it.
    pub message: Hex,
    pub datagrams: Vec<Hex>,
}

/// A protobuf message that travels in a session.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub what: String,
    pub bytes: Hex,
}
