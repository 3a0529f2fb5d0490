//! Admission at work: the judge of handshakes and of gossiped announcements.

use std::sync::Arc;

use crate::{
    crypto::sha256,
    identity::{InviteKey, Policy, Record, RecordSource, Refusal, Verified, Verify},
    routing::Judge,
    session::{Admitted, Gatekeeper, InvitationId},
    types::{NodeId, UnixTime},
    wire::proto::HandshakePayload,
};

/// A one-time invitation that this node gave out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Derived from the token's secret; who joins proves to have it.
    pub key: InviteKey,
    pub expires: UnixTime,
    /// The name that the certificate will carry; empty: none.
    pub name: String,
    /// The groups that the certificate will put the node in.
    pub groups: Vec<String>,
    /// Who has used it, and the certificate that it got.
    pub used_by: Option<(NodeId, Vec<u8>)>,
}

impl Invitation {
    /// What tells it from others.
    #[must_use]
    pub fn id(&self) -> InvitationId {
        let [a, b, c, d, e, f, g, h, ..] = sha256(&[b"aegisray invitation id", self.key.bytes()]);
        InvitationId(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

pub(super) struct Gate<'a> {
    pub verifier: &'a dyn Verify,
    pub policy: &'a Policy,
    pub invitations: &'a [Invitation],
    pub me: NodeId,
    pub now: UnixTime,
}

impl Gate<'_> {
    /// The invitation that `proof` is made with, if it can still be used by `node`.
    fn invitation(&self, proof: &[u8], node: &NodeId, hash: &[u8]) -> Option<InvitationId> {
        let fits = |i: &&Invitation| {
            i.expires > self.now
                && i.used_by.as_ref().is_none_or(|(used, _)| used == node)
                && self.is_proof(i, proof, node, hash)
        };
        self.invitations.iter().find(fits).map(Invitation::id)
    }

    fn is_proof(&self, invitation: &Invitation, proof: &[u8], node: &NodeId, hash: &[u8]) -> bool {
        #[cfg(test)]
        if crate::types::mutants::has(crate::types::mutants::Mutant::BearerProof) {
            let nobody = NodeId([0; 32]);
            return invitation.key.verify(proof, &nobody, &nobody, b"");
        }
        invitation.key.verify(proof, node, &self.me, hash)
    }
}

impl Gatekeeper for Gate<'_> {
    fn admit(
        &mut self,
        payload: &HandshakePayload,
        noise_static: &[u8; 32],
        handshake_hash: &[u8],
    ) -> Result<Admitted, Refusal> {
        #[cfg(test)]
        crate::types::mutants::hear(self.me, &payload.admission);
        let peer = self.verifier.verify(&payload.announcement, RecordSource::Bytes(&payload.record))?;
        if peer.record.noise_static != *noise_static {
            return Err(Refusal::StaticKeyMismatch);
        }
        match self.policy.admit(&peer, self.now) {
            Ok(()) => Ok(Admitted { peer, invitation: None }),
            Err(refusal @ (Refusal::NoCertificate | Refusal::ExpiredCertificate)) if !handshake_hash.is_empty() => {
                let invitation = self.invitation(&payload.admission, &peer.id, handshake_hash);
                if invitation.is_some() { Ok(Admitted { peer, invitation }) } else { Err(refusal) }
            }
            Err(refusal) => Err(refusal),
        }
    }
}

impl Judge for Gate<'_> {
    fn may_be_member(&self, id: &NodeId) -> bool {
        self.policy.allow.as_ref().is_none_or(|allow| allow.contains(id)) && !self.policy.revocations.nodes.contains(id)
    }

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
