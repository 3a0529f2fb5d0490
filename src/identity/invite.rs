//! Invite tokens: all that a new node needs, as one word to copy.

use data_encoding::BASE32_NOPAD;
use prost::Message as _;

use crate::{
    crypto::sha256,
    types::UnixTime,
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
    pub expires: UnixTime,
    pub cidr: String,
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
}
