//! Signature checks remembered across the simulated nodes. Whether bytes verify is a pure function of the bytes.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use super::meter;
use crate::{
    crypto::sha256,
    identity::{Network, Record, RecordSource, Refusal, Verified, Verify},
};

type Known = HashMap<[u8; 32], Result<Arc<Verified>, Refusal>>;
/// Results remembered; hostile nodes sign without end.
const MAX_KNOWN: usize = 50_000;

#[derive(Clone)]
pub(super) struct SharedVerifier {
    network: Network,
    known: Rc<RefCell<Known>>,
    /// Every node keeps a copy of its own of what was verified, as it does where nodes are not in one process.
    copies: bool,
}

impl SharedVerifier {
    pub fn new(network: Network, copies: bool) -> Self {
        Self { network, known: Rc::default(), copies }
    }

    fn result(&self, announcement: &[u8], record: RecordSource<'_>) -> Result<Arc<Verified>, Refusal> {
        let record_hash = match record {
            RecordSource::Bytes(bytes) => sha256(&[bytes]),
            RecordSource::Known(known) => known.hash,
        };
        let key = sha256(&[announcement, &record_hash]);
        if let Some(known) = self.known.borrow().get(&key) {
            return known.clone();
        }
        let result = self.network.verify(announcement, record);
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(key, result.clone());
        result
    }
}

impl Verify for SharedVerifier {
    fn verify(&self, announcement: &[u8], record: RecordSource<'_>) -> Result<Arc<Verified>, Refusal> {
        let verified = meter::outside(|| self.result(announcement, record))?;
        if !self.copies {
            return Ok(verified);
        }
        let record = match record {
            RecordSource::Known(known) => Arc::clone(known),
            RecordSource::Bytes(_) => Arc::new(Record::clone(&verified.record)),
        };
        let copy = Verified { bytes: verified.bytes.clone(), record, ..*verified };
        meter::outside(|| drop(verified));
        Ok(Arc::new(copy))
    }
}
