//! Invite tokens: all that a new node needs, as one word to copy.

use data_encoding::HEXLOWER;
use prost::Message as _;
use zeroize::Zeroizing;

use super::token;
use crate::{
    crypto::{HmacKey, hkdf_sha256},
    types::{NodeId, UnixTime, span, utc},
    wire::{self, proto},
};

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
    #[error("no token: what `aegisray invite` printed is expected, which begins with `aegis1-`")]
    Nothing,
    #[error("not an invite token: one begins with `aegis1-` (`aegisray invite` prints it)")]
    NoToken,
    #[error("the token is of another version of aegisray: upgrade the older machine")]
    Version,
    #[error(
        "`{}` is in no token, which is made of a to z and 2 to 7: it was changed on its way; copy it again", .0.escape_debug()
    )]
    Letter(char),
    #[error(
        "a part of the token is missing, or it was changed on its way: {0} letters came after `aegis1-`; copy all of it, if it is of \
         several lines all of them"
    )]
    Damaged(usize),
    #[error("the token says what this version of aegisray does not understand: upgrade it, or ask for a new token")]
    Content,
    #[error(
        "the invite token was good until {}, and this machine's clock says {}, {} later: if the clock is right, ask for a new token \
         (`aegisray invite`); if not, set it and try again", utc(*.expires), utc(*.now), span(.now.saturating_sub(*.expires))
    )]
    Expired { expires: UnixTime, now: UnixTime },
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
        token::encode(&raw.encode_to_vec())
    }

    /// Reads the token in a text.
    pub fn from_token(text: &str, now: UnixTime) -> Result<Self, InviteError> {
        let raw: proto::Invite = wire::decode(&token::decode(text)?, "invite").map_err(|_| InviteError::Content)?;
        if raw.version != 1 || raw.network.is_empty() {
            return Err(InviteError::Content);
        }
        if raw.expires <= now {
            return Err(InviteError::Expired { expires: raw.expires, now });
        }
        let some = |v: Vec<u8>| (!v.is_empty()).then_some(v);
        Ok(Self {
            network: raw.network,
            secret: (!raw.secret.is_empty()).then_some(raw.secret),
            authority: some(raw.authority),
            bootstrap: raw.bootstrap,
            admission: match some(raw.admission) {
                Some(a) => Some(a.try_into().map_err(|_| InviteError::Content)?),
                None => None,
            },
            inviter: match some(raw.inviter) {
                Some(id) => Some(NodeId::from_slice(&id).ok_or(InviteError::Content)?),
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
        let late = Invite::from_token(&token, 1000 + 90_000).unwrap_err();
        assert_eq!(late, InviteError::Expired { expires: 1000, now: 91_000 });
        let clock =
            "good until 1970-01-01 00:16:40 UTC, and this machine's clock says 1970-01-02 01:16:40 UTC, 1 d 1 h later";
        assert!(late.to_string().contains(clock), "{late}");
        assert_eq!(Invite::from_token(&token, 1000), Err(InviteError::Expired { expires: 1000, now: 1000 }));
        assert!(matches!(Invite::from_token(&token[..20], 0), Err(InviteError::Damaged(_))));
        assert_eq!(Invite::from_token(&super::token::encode(b"x"), 0), Err(InviteError::Content));
        assert_eq!(Invite::from_token(&super::token::encode(b""), 0), Err(InviteError::Content));
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
