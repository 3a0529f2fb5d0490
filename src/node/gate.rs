//! Admission at work: the judge of handshakes and of gossiped announcements.

use std::sync::Arc;

use crate::{
    crypto::sha256,
    identity::{Policy, Record, RecordSource, Refusal, Verified, Verify},
    routing::Judge,
    session::Gatekeeper,
    types::{NodeId, UnixTime},
    wire::proto::HandshakePayload,
};

/// A one-time invitation that this node gave out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// SHA-256 of the token's secret.
    pub hash: [u8; 32],
    pub expires: UnixTime,
    /// The name that the certificate will carry; empty: the node's own.
    pub name: String,
    /// The groups that the certificate will put the node in.
    pub groups: Vec<String>,
    /// Who has used it.
    pub used_by: Option<NodeId>,
}

pub(super) struct Gate<'a> {
    pub verifier: &'a dyn Verify,
    pub policy: &'a Policy,
    pub invitations: &'a [Invitation],
    pub now: UnixTime,
}

impl Gate<'_> {
    pub fn invitation(&self, secret: &[u8], node: NodeId) -> Option<usize> {
        let hash = sha256(&[secret]);
        self.invitations.iter().position(|i| {
            !secret.is_empty() && i.hash == hash && i.expires > self.now && i.used_by.is_none_or(|used| used == node)
        })
    }
}

impl Gatekeeper for Gate<'_> {
    fn admit(&mut self, payload: &HandshakePayload, noise_static: &[u8; 32]) -> Result<Arc<Verified>, Refusal> {
        let peer = self.verifier.verify(&payload.announcement, RecordSource::Bytes(&payload.record))?;
        if peer.record.noise_static != *noise_static {
            return Err(Refusal::StaticKeyMismatch);
        }
        match self.policy.admit(&peer, self.now) {
            Err(Refusal::NoCertificate) if self.invitation(&payload.admission, peer.id).is_some() => Ok(peer),
            Err(refusal) => Err(refusal),
            Ok(()) => Ok(peer),
        }
    }
}

impl Judge for Gate<'_> {
    fn judge(
        &mut self,
        announcement: &[u8],
        record: &[u8],
        known: Option<&Arc<Record>>,
    ) -> Result<Arc<Verified>, Refusal> {
        let source = match known {
            Some(known) if record.is_empty() || known.bytes == record => RecordSource::Known(known),
            _ => RecordSource::Bytes(record),
        };
        let peer = self.verifier.verify(announcement, source)?;
        self.policy.admit(&peer, self.now)?;
        Ok(peer)
    }
}
