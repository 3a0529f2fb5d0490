//! Invite tokens: all that a new node needs, as one word to copy.

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use prost::Message as _;
use zeroize::Zeroizing;

use crate::{
    crypto::{HmacKey, hkdf_sha256, sha256},
    types::{NodeId, UnixTime},
    wire::{self, proto},
};

/// A token is this head, then base32 of the message and the first 4 bytes of its SHA-256 (a half-copied one is seen).
const HEAD: &str = "aegis1-";

/// What `invite` hands to `join`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    pub network: String,
    pub secret: Option<String>,
    /// The authority's SPKI.
    pub authority: Option<Vec<u8>>,
    /// `HOST:PORT` of nodes to contact.
    pub bootstrap: Vec<String>,
    /// A secret that gets one node a certificate from the node that made the invite.
    pub admission: Option<[u8; 32]>,
    /// The node that made it, and gives the certificate.
    pub inviter: Option<NodeId>,
    pub expires: UnixTime,
    pub cidr: String,
}

/// What the one-time secret of an invite is turned into. The secret itself never travels: who joins proves to the inviter
/// that it has it, and the proof is good for this joiner, this inviter and this handshake alone.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for InviteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InviteKey")
    }
}

impl InviteKey {
    /// From the secret in the token.
    #[must_use]
    pub fn derive(secret: &[u8; 32]) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        hkdf_sha256(b"aegisray invite v1", secret, &[b"admission"], &mut *key);
        Self(key)
    }

    /// As [`Self::bytes`] gave it; `None` for another length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|key| Self(Zeroizing::new(key)))
    }

    /// To be kept by the inviter, as secret as the token.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The proof for one handshake: HMAC-SHA-256, cut to 16 bytes.
    #[must_use]
    pub fn proof(&self, joiner: &NodeId, inviter: &NodeId, handshake_hash: &[u8]) -> [u8; 16] {
        HmacKey::new(&self.0).tag(&[b"aegisray admission v1", &joiner.0, &inviter.0, handshake_hash])
    }

    /// Whether `proof` is that proof, in constant time.
    #[must_use]
    pub fn verify(&self, proof: &[u8], joiner: &NodeId, inviter: &NodeId, handshake_hash: &[u8]) -> bool {
        let parts = [&b"aegisray admission v1"[..], &joiner.0, &inviter.0, handshake_hash];
        HmacKey::new(&self.0).verify(&parts, proof)
    }
}

/// What a node that joins has of an invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    pub inviter: NodeId,
    pub key: InviteKey,
}

impl Admission {
    /// As a file holds it: the inviter's NodeId, and the key in hexadecimal digits.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{} {}\n", self.inviter, HEXLOWER.encode(self.key.bytes()))
    }

    /// Reads what [`Self::to_text`] has written.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let (inviter, key) = text.trim().split_once(' ')?;
        let key = Zeroizing::new(HEXLOWER.decode(key.as_bytes()).ok()?);
        Some(Self { inviter: inviter.parse().ok()?, key: InviteKey::from_slice(&key)? })
    }
}

/// Why a token can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InviteError {
    #[error("not an invite token: it starts with `aegis1-` and is copied whole")]
    Shape,
    #[error("the invite token expired {0} s ago: ask for a new one (`aegisray invite`)")]
    Expired(u64),
}

impl Invite {
    #[must_use]
    pub fn to_token(&self) -> String {
        let raw = proto::Invite {
            version: 1,
            network: self.network.clone(),
            secret: self.secret.clone().unwrap_or_default(),
            authority: self.authority.clone().unwrap_or_default(),
            bootstrap: self.bootstrap.clone(),
            admission: self.admission.map(|a| a.to_vec()).unwrap_or_default(),
            inviter: self.inviter.map(|id| id.0.to_vec()).unwrap_or_default(),
            expires: self.expires,
            cidr: self.cidr.clone(),
        };
        let body = raw.encode_to_vec();
        let sum = &sha256(&[&body])[..4];
        HEAD.to_owned() + &BASE32_NOPAD.encode(&[&body, sum].concat()).to_lowercase()
    }

    pub fn from_token(token: &str, now: UnixTime) -> Result<Self, InviteError> {
        let body = token.trim().strip_prefix(HEAD).ok_or(InviteError::Shape)?;
        let bytes = BASE32_NOPAD.decode(body.to_uppercase().as_bytes()).map_err(|_| InviteError::Shape)?;
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(InviteError::Shape)?;
        if sha256(&[body])[..4] != sum[..] {
            return Err(InviteError::Shape);
        }
        let raw: proto::Invite = wire::decode(body, "invite").map_err(|_| InviteError::Shape)?;
        if raw.version != 1 || raw.network.is_empty() {
            return Err(InviteError::Shape);
        }
        if raw.expires <= now {
            return Err(InviteError::Expired(now - raw.expires));
        }
        let some = |v: Vec<u8>| (!v.is_empty()).then_some(v);
        Ok(Self {
            network: raw.network,
            secret: (!raw.secret.is_empty()).then_some(raw.secret),
            authority: some(raw.authority),
            bootstrap: raw.bootstrap,
            admission: match some(raw.admission) {
                Some(a) => Some(a.try_into().map_err(|_| InviteError::Shape)?),
                None => None,
            },
            inviter: match some(raw.inviter) {
                Some(id) => Some(NodeId::from_slice(&id).ok_or(InviteError::Shape)?),
                None => None,
            },
            expires: raw.expires,
            cidr: raw.cidr,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_expire_and_refuse_damage() {
        let invite = Invite {
            network: "home".into(),
            secret: Some("s".into()),
            authority: None,
            bootstrap: vec!["192.0.2.1:51900".into()],
            admission: Some([4; 32]),
            inviter: Some(NodeId([5; 32])),
            expires: 1000,
            cidr: "100.64.0.0/16".into(),
        };
        let token = invite.to_token();
        assert_eq!(Invite::from_token(&token, 999), Ok(invite));
        assert_eq!(Invite::from_token(&token, 1010), Err(InviteError::Expired(10)));
        assert_eq!(Invite::from_token(&token[..20], 0), Err(InviteError::Shape));
        assert_eq!(Invite::from_token(&token[..token.len() - 1], 0), Err(InviteError::Shape));
        assert_eq!(Invite::from_token("hello", 0), Err(InviteError::Shape));
    }
    #[test]
    fn a_proof_is_for_one_joiner_one_inviter_and_one_handshake() {
        let key = InviteKey::derive(&[7; 32]);
        let (joiner, inviter) = (NodeId([1; 32]), NodeId([2; 32]));
        let proof = key.proof(&joiner, &inviter, b"hash");
        assert!(key.verify(&proof, &joiner, &inviter, b"hash"));
        assert!(!key.verify(&proof, &NodeId([3; 32]), &inviter, b"hash"));
        assert!(!key.verify(&proof, &joiner, &NodeId([3; 32]), b"hash"));
        assert!(!key.verify(&proof, &joiner, &inviter, b"hasH"));
        assert!(!InviteKey::derive(&[8; 32]).verify(&proof, &joiner, &inviter, b"hash"));
        let admission = Admission { inviter, key };
        assert_eq!(Admission::from_text(&admission.to_text()), Some(admission));
        assert_eq!(Admission::from_text("x y"), None);
    }
}
