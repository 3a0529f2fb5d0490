//! What is over in a minute: signals from one person to another, sealed and signed, handed on and kept by nobody.

use super::{
    envelope::{DeviceKey, Id, Invalid, verify},
    wire,
};
use crate::crypto::sha256;

const SIGNED: &[u8] = b"aegis/signal/1";
/// How long a signal is handed on, and how far its author's clock may be off, in milliseconds.
pub const LIFE_MS: u64 = 60_000;
const MAX_PAYLOAD: usize = 32 << 10;

/// A signal that is well-formed.
#[derive(Clone, Debug)]
pub struct Signal {
    /// By which it is recognized when it comes again: signatures are no part of it.
    pub id: Id,
    pub platform: Id,
    pub device: Id,
    pub time_ms: u64,
    pub payload: Vec<u8>,
    signature: [u8; 64],
}

fn signed(platform: &Id, time_ms: u64, payload: &[u8]) -> Vec<u8> {
    [SIGNED, &platform.0, &time_ms.to_be_bytes(), &sha256(&[payload])].concat()
}

impl DeviceKey {
    /// Signs a signal.
    #[must_use]
    pub fn signal(&self, platform: Id, time_ms: u64, payload: Vec<u8>) -> wire::Signal {
        let signature = self.sign_bytes(&signed(&platform, time_ms, &payload)).to_vec();
        let (platform, device) = (platform.0.to_vec(), self.device.0.to_vec());
        wire::Signal { platform, device, time_ms, payload, signature }
    }
}

impl Signal {
    /// Reads a signal: shape and limits, but not the signature ([`Self::verify`]).
    pub fn decode(raw: wire::Signal) -> Result<Self, Invalid> {
        if raw.payload.len() > MAX_PAYLOAD {
            return Err(Invalid("a signal of at most 32 KiB"));
        }
        let (platform, device) = (Id::of(&raw.platform)?, Id::of(&raw.device)?);
        let signature = raw.signature.try_into().map_err(|_| Invalid("a signature of 64 bytes"))?;
        let id = Id(sha256(&[&device.0, &signed(&platform, raw.time_ms, &raw.payload)]));
        Ok(Self { id, platform, device, time_ms: raw.time_ms, payload: raw.payload, signature })
    }

    /// Whether it is of this minute.
    #[must_use]
    pub fn is_alive(&self, now_ms: u64) -> bool {
        self.time_ms.abs_diff(now_ms) <= LIFE_MS
    }

    /// Checks the signature.
    pub fn verify(&self) -> Result<(), Invalid> {
        verify(self.device, &signed(&self.platform, self.time_ms, &self.payload), &self.signature)
    }

    /// As it travels.
    #[must_use]
    pub fn to_wire(&self) -> wire::Signal {
        wire::Signal {
            platform: self.platform.0.to_vec(),
            device: self.device.0.to_vec(),
            time_ms: self.time_ms,
            payload: self.payload.clone(),
            signature: self.signature.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_says_it_and_not_later() {
        let key = DeviceKey::new(&[1; 32], &[2; 32]);
        let raw = key.signal(Id([3; 32]), 100_000, b"ring".to_vec());
        let signal = Signal::decode(raw.clone()).unwrap();
        signal.verify().unwrap();
        assert_eq!(signal.to_wire(), raw);
        assert!(signal.is_alive(160_000) && signal.is_alive(40_000) && !signal.is_alive(160_001));
        let mut other = raw.clone();
        other.time_ms += 1;
        assert!(Signal::decode(other).unwrap().verify().is_err());
        let other = wire::Signal { device: vec![4; 32], ..raw.clone() };
        assert!(Signal::decode(other).unwrap().verify().is_err());
        let other = wire::Signal { platform: vec![4; 32], ..raw.clone() };
        assert!(Signal::decode(other).unwrap().verify().is_err());
        assert!(Signal::decode(wire::Signal { payload: vec![0; MAX_PAYLOAD + 1], ..raw }).is_err());
    }
}
