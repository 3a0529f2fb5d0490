//! Signature checks remembered across the simulated nodes. Whether bytes verify is a pure function of the bytes.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use crate::{
    crypto::sha256,
    identity::{Network, RecordSource, Refusal, Verified, Verify},
};

type Known = HashMap<[u8; 32], Result<Arc<Verified>, Refusal>>;

#[derive(Clone)]
pub(super) struct SharedVerifier {
    network: Network,
    known: Rc<RefCell<Known>>,
}

impl SharedVerifier {
    pub fn new(network: Network) -> Self {
        Self { network, known: Rc::default() }
    }
}

impl Verify for SharedVerifier {
    fn verify(&self, announcement: &[u8], record: RecordSource<'_>) -> Result<Arc<Verified>, Refusal> {
        let record_hash = match record {
            RecordSource::Bytes(bytes) => sha256(&[bytes]),
            RecordSource::Known(known) => known.hash,
        };
        let key = sha256(&[announcement, &record_hash]);
        if let Some(known) = self.known.borrow().get(&key) {
            return known.clone();
        }
        let result = self.network.verify(announcement, record);
        self.known.borrow_mut().insert(key, result.clone());
        result
    }
}
