//! The Noise handshakes: `XXpsk0` on first contact, `IKpsk0` when the peer's static key is known; both carry an
//! ML-KEM-768 exchange in their payloads (Noise revision 34; FIPS 203).

use prost::Message as _;
use snow::{Builder, HandshakeState, params::NoiseParams};
use zeroize::Zeroizing;

use super::{Via, budget::Source, fragment::MAX_HANDSHAKE, transport::Secrets, transport::Transport};
use crate::{
    crypto::{Cipher, KemSecret, NoiseResolver, Rng, encapsulate},
    identity::Admission,
    types::{Duration, Instant, NodeId},
    wire::{decode, packet::HandshakeKind, proto::HandshakePayload, version::Versions},
};

const XX: &str = "Noise_XXpsk0_25519_ChaChaPoly_SHA256";
const IK: &str = "Noise_IKpsk0_25519_ChaChaPoly_SHA256";
const OFFER_AES: u32 = 1;
const OFFER_CHACHA: u32 = 2;
const OFFER_AEGIS: u32 = 4;

/// A handshake message that doesn't make sense, or isn't for us. Deliberately says no more.
#[derive(Debug)]
pub(super) struct Broken;

impl<E: std::error::Error> From<E> for Broken {
    fn from(_: E) -> Self {
        Self
    }
}

/// Which ciphers this node offers, as a bit mask.
pub(super) fn offer(ciphers: &[Cipher]) -> u32 {
    ciphers.iter().fold(0, |mask, c| {
        mask | match c {
            Cipher::Aegis256X4 => OFFER_AEGIS,
            Cipher::Aes256Gcm => OFFER_AES,
            Cipher::ChaCha20Poly1305 => OFFER_CHACHA,
        }
    })
}

fn choose(ours: u32, theirs: u32) -> Result<Cipher, Broken> {
    match ours & theirs {
        both if both & OFFER_AEGIS != 0 => Ok(Cipher::Aegis256X4),
        both if both & OFFER_AES != 0 => Ok(Cipher::Aes256Gcm),
        both if both & OFFER_CHACHA != 0 => Ok(Cipher::ChaCha20Poly1305),
        _ => Err(Broken),
    }
}

/// The keys that a handshake runs with.
pub(super) struct Keys<'a> {
    pub private: &'a [u8; 32],
    pub psk: &'a [u8; 32],
    pub prologue: &'a [u8],
}

fn noise(
    keys: &Keys<'_>,
    rng: Rng,
    ik: bool,
    remote: Option<&[u8; 32]>,
    start: bool,
) -> Result<HandshakeState, Broken> {
    let params: NoiseParams = if ik { IK } else { XX }.parse()?;
    let mut builder = Builder::with_resolver(params, Box::new(NoiseResolver::new(rng)))
        .local_private_key(keys.private)?
        .prologue(keys.prologue)?
        .psk(0, keys.psk)?;
    if let Some(remote) = remote {
        builder = builder.remote_public_key(remote)?;
    }
    Ok(if start { builder.build_initiator()? } else { builder.build_responder()? })
}

fn write(noise: &mut HandshakeState, payload: &HandshakePayload) -> Result<Vec<u8>, Broken> {
    let payload = payload.encode_to_vec();
    let mut out = vec![0; payload.len() + 256];
    let len = noise.write_message(&payload, &mut out)?;
    out.truncate(len);
    if out.len() > MAX_HANDSHAKE { Err(Broken) } else { Ok(out) }
}

fn read(noise: &mut HandshakeState, message: &[u8]) -> Result<HandshakePayload, Broken> {
    let mut out = vec![0; message.len()];
    let len = noise.read_message(message, &mut out)?;
    Ok(decode(&out[..len], "handshake payload")?)
}

fn remote_static(noise: &HandshakeState) -> Result<[u8; 32], Broken> {
    noise.get_remote_static().and_then(|s| s.try_into().ok()).ok_or(Broken)
}

fn finish(
    noise: &mut HandshakeState,
    peer: NodeId,
    indexes: (u32, u32),
    (cipher, kem): (Cipher, &[u8; 32]),
) -> Transport {
    let (first, second) = noise.dangerously_get_raw_split();
    let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
    let secrets = Secrets { handshake_hash: noise.get_handshake_hash(), noise: (&first, &second), kem };
    Transport::derive(peer, indexes, cipher, &secrets, noise.is_initiator())
}

/// A handshake that this node started.
pub(super) struct Initiator {
    noise: HandshakeState,
    kem: KemSecret,
    ciphers: u32,
    /// Where the peer answers; until it does, where it was asked.
    pub via: Via,
    /// Who relayed its answer, if somebody did.
    pub by: Option<NodeId>,
    pub asked: Via,
    pub since: Instant,
    pub expected: Option<NodeId>,
    /// The peer's static key, if it was known.
    known: Option<[u8; 32]>,
    pub local_index: u32,
    pub remote_index: u32,
    /// What is being (re)transmitted: the first message, or the third.
    pub kind: HandshakeKind,
    pub message: Vec<u8>,
    pub tries: u32,
    /// It is sent so often.
    pub max_tries: u32,
    pub next_try: Instant,
    pub cookie: Option<[u8; 16]>,
    pub last_mac1: Vec<[u8; 16]>,
    /// The peer's second message was read; only its confirmation is missing.
    pub complete: bool,
}

impl Initiator {
    pub fn start(
        (keys, rng): (&Keys<'_>, Rng),
        (now, via, max_tries): (Instant, Via, u32),
        (expected, known): (Option<NodeId>, Option<[u8; 32]>),
        local_index: u32,
        own: &HandshakePayload,
    ) -> Result<Self, Broken> {
        let ik = known.is_some();
        let mut noise = noise(keys, rng, ik, known.as_ref(), true)?;
        let kem = KemSecret::generate()?;
        let mut payload = HandshakePayload {
            kem: kem.public().to_vec(),
            ciphers: own.ciphers,
            version: own.version,
            oldest: own.oldest,
            ..Default::default()
        };
        if ik {
            payload = HandshakePayload { kem: payload.kem, ..own.clone() };
        }
        let message = write(&mut noise, &payload)?;
        Ok(Self {
            noise,
            kem,
            ciphers: own.ciphers,
            via,
            by: None,
            asked: via,
            since: now,
            expected,
            known,
            local_index,
            remote_index: 0,
            kind: if ik { HandshakeKind::Ik1 } else { HandshakeKind::Xx1 },
            message,
            tries: 0,
            max_tries,
            next_try: Instant::default(),
            cookie: None,
            last_mac1: Vec::new(),
            complete: false,
        })
    }

    /// The same handshake from its beginning, with fresh keys.
    pub fn renew(
        &self,
        with: (&Keys<'_>, Rng),
        now: Instant,
        local_index: u32,
        own: &HandshakePayload,
    ) -> Result<Self, Broken> {
        let expected = (self.expected, self.known);
        let fresh = Self::start(with, (now, self.via, self.max_tries), expected, local_index, own)?;
        Ok(Self { tries: self.tries, cookie: self.cookie, ..fresh })
    }

    /// Reads the second message. The caller decides on the payload before anything is answered.
    pub fn read_second(&mut self, message: &[u8]) -> Result<(HandshakePayload, [u8; 32]), Broken> {
        let payload = read(&mut self.noise, message)?;
        Ok((payload, remote_static(&self.noise)?))
    }

    /// Ends the handshake with an admitted peer. In `XX` the third message is now ready to send; the inviter finds in it
    /// the proof that `me` has its invite.
    pub fn finish(
        &mut self,
        (me, peer): (NodeId, NodeId),
        payload: &HandshakePayload,
        own: &HandshakePayload,
        admission: Option<&Admission>,
    ) -> Result<Transport, Broken> {
        let cipher = choose(self.ciphers, payload.ciphers)?;
        let kem = Zeroizing::new(self.kem.decapsulate(&payload.kem)?);
        if self.kind == HandshakeKind::Xx1 {
            let hash = self.noise.get_handshake_hash();
            let proof = admission.filter(|a| a.inviter == peer).map(|a| a.key.proof(&me, &peer, hash).to_vec());
            #[cfg(test)]
            let proof = tried_proof(me, proof, admission);
            let third = HandshakePayload { kem: Vec::new(), admission: proof.unwrap_or_default(), ..own.clone() };
            self.message = write(&mut self.noise, &third)?;
            self.kind = HandshakeKind::Xx3;
        } else {
            self.message.clear();
        }
        self.complete = true;
        Ok(finish(&mut self.noise, peer, (self.local_index, self.remote_index), (cipher, &kem)))
    }
}

/// A handshake that a peer started.
pub(super) struct Responder {
    /// Until both ends have keys.
    noise: Option<Box<HandshakeState>>,
    kem: Zeroizing<[u8; 32]>,
    cipher: Cipher,
    pub local_index: u32,
    pub remote_index: u32,
    pub kind: HandshakeKind,
    /// The second message, for when the first comes again.
    pub message: Vec<u8>,
    pub begun: Instant,
    pub last_sent: Instant,
    /// The mac1 of the first message's first fragment: what is to be answered again has the same.
    pub first: [u8; 16],
    /// How much has come of the initiator, and gone to it.
    pub bytes: (usize, usize),
    /// How often it was answered.
    pub answers: u32,
    pub complete: bool,
    /// Who it is, once that is known.
    pub peer: Option<NodeId>,
    /// Who is to blame for it.
    pub source: Option<Source>,
    /// The neighbour that relayed it last.
    pub by: Option<NodeId>,
}

/// A first message that was read: who wrote it, if it says so, and what to answer it with.
pub(super) struct FirstRead {
    noise: HandshakeState,
    pub payload: HandshakePayload,
    pub remote_static: Option<[u8; 32]>,
}

/// Reads a first message.
pub(super) fn read_first(keys: &Keys<'_>, rng: Rng, kind: HandshakeKind, message: &[u8]) -> Result<FirstRead, Broken> {
    let ik = kind == HandshakeKind::Ik1;
    let mut noise = noise(keys, rng, ik, None, false)?;
    let payload = read(&mut noise, message)?;
    let remote_static = if ik { Some(remote_static(&noise)?) } else { None };
    Ok(FirstRead { noise, payload, remote_static })
}

impl FirstRead {
    /// Writes a second message that says nothing but which versions this node speaks.
    pub fn refuse(mut self, ours: Versions) -> Result<(HandshakeKind, Vec<u8>), Broken> {
        let Versions { version, oldest } = ours;
        let message = write(&mut self.noise, &HandshakePayload { version, oldest, ..Default::default() })?;
        Ok((self.answer_kind(), message))
    }

    fn answer_kind(&self) -> HandshakeKind {
        if self.remote_static.is_some() { HandshakeKind::Ik2 } else { HandshakeKind::Xx2 }
    }

    /// Writes the second message.
    pub fn respond(
        mut self,
        now: Instant,
        (local_index, remote_index): (u32, u32),
        own: &HandshakePayload,
    ) -> Result<Responder, Broken> {
        let cipher = choose(own.ciphers, self.payload.ciphers)?;
        let (ciphertext, kem) = encapsulate(&self.payload.kem)?;
        let kem = Zeroizing::new(kem);
        let payload = HandshakePayload { kem: ciphertext, ciphers: offer(&[cipher]), ..own.clone() };
        let message = write(&mut self.noise, &payload)?;
        let kind = self.answer_kind();
        Ok(Responder {
            noise: Some(Box::new(self.noise)),
            kem,
            cipher,
            local_index,
            remote_index,
            kind,
            message,
            begun: now,
            last_sent: now,
            first: [0; 16],
            bytes: (0, 0),
            answers: 0,
            complete: false,
            peer: None,
            source: None,
            by: None,
        })
    }
}

impl Responder {
    /// Reads the third message; also returns the peer's static key, and the handshake hash under which it was written.
    pub fn read_third(&mut self, message: &[u8]) -> Result<(HandshakePayload, [u8; 32], Vec<u8>), Broken> {
        let noise = self.noise.as_mut().ok_or(Broken)?;
        let hash = noise.get_handshake_hash().to_vec();
        let payload = read(noise, message)?;
        Ok((payload, remote_static(noise)?, hash))
    }

    /// Ends the handshake; what is left serves to repeat the answer.
    pub fn finish(&mut self, peer: NodeId) -> Result<Transport, Broken> {
        let mut noise = self.noise.take().ok_or(Broken)?;
        (self.complete, self.peer) = (true, Some(peer));
        Ok(finish(&mut noise, peer, (self.local_index, self.remote_index), (self.cipher, &self.kem)))
    }
}

/// How long to wait before try number `tries` is repeated: 250 ms growing by half, to 2 s.
pub(super) fn retry_after(tries: u32, rng: &mut Rng) -> Duration {
    let base = 250.0 * 1.5f64.powi(tries.min(6) as i32);
    rng.jitter(Duration::from_millis(base.min(2000.0) as u64), 10)
}

/// What the exhaustive check has this node say in place of its proof.
#[cfg(test)]
fn tried_proof(me: NodeId, proof: Option<Vec<u8>>, admission: Option<&Admission>) -> Option<Vec<u8>> {
    use crate::types::mutants::{self, Mutant};
    let nobody = NodeId([0; 32]);
    let bearer = admission.filter(|_| mutants::has(Mutant::BearerProof));
    let bearer = bearer.map(|a| a.key.proof(&nobody, &nobody, b"").to_vec());
    mutants::stolen(me).or(bearer).or(proof)
}
