//! Handshakes of a member gone bad: it has the network's key and identities that sign, and says what it likes in whatever
//! order, cut as it likes. Two honest nodes with a link stand through it.
#![no_main]

use std::{net::SocketAddr, time::Duration};

use aegisray::{
    crypto::{
        AeadKey, Cipher, KEM_CIPHERTEXT_LEN, KEM_PUBLIC_LEN, KemSecret, NoiseResolver, Rng, TAG_LEN, encapsulate,
    },
    wire::{
        packet::{self, COOKIE, Datagram, HandshakeKind, handshake_header},
        proto::HandshakePayload,
    },
};
use aegisray_fuzz::{
    cast::{self, ANNA, BERT, CAST, MALLORY},
    input::Input,
    mesh::Mesh,
    speech::Speech,
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use snow::{Builder, HandshakeState};

const KINDS: [HandshakeKind; 5] =
    [HandshakeKind::Xx1, HandshakeKind::Xx2, HandshakeKind::Xx3, HandshakeKind::Ik1, HandshakeKind::Ik2];

/// At most so many of them are under way.
const MAX_HANDSHAKES: usize = 16;

/// A handshake of the hostile member, as initiator or responder.
struct Handshake {
    noise: HandshakeState,
    own_index: u32,
    /// What answers an encapsulation key that was read.
    ciphertext: Vec<u8>,
}

/// A message that was sent to it: its kind, the sender's and the receiver's index, and its fragments.
type Pieces<'a> = (HandshakeKind, [u32; 2], Vec<&'a [u8]>);

struct Mallory {
    with_authority: bool,
    handshakes: Vec<Handshake>,
    /// Index of an honest node, as it last named it.
    their_index: u32,
    /// It has written something that only the owner of its static key could write now.
    has_proved: bool,
}

fn noise(input: &mut Input<'_>, with_authority: bool, ik: bool, who: usize, remote: Option<usize>) -> HandshakeState {
    let network = cast::network(with_authority);
    let pattern = if ik { "Noise_IKpsk0_25519_ChaChaPoly_SHA256" } else { "Noise_XXpsk0_25519_ChaChaPoly_SHA256" };
    let resolver = NoiseResolver::new(Rng::from_seed([input.byte(); 32]));
    let params = pattern.parse().expect("a pattern");
    let builder = Builder::with_resolver(params, Box::new(resolver))
        .local_private_key(cast::cast()[who].noise_private())
        .and_then(|b| b.prologue(network.id()))
        .and_then(|b| b.psk(0, network.psk()))
        .expect("keys of the right length");
    let Some(remote) = remote else { return builder.build_responder().expect("all keys are there") };
    let key = cast::cast()[remote].noise_public();
    let builder = if ik { builder.remote_public_key(&key).expect("32 bytes") } else { builder };
    builder.build_initiator().expect("all keys are there")
}

fn write(noise: &mut HandshakeState, payload: &HandshakePayload) -> Option<Vec<u8>> {
    let payload = payload.encode_to_vec();
    let mut out = vec![0; payload.len() + 256];
    let len = noise.write_message(&payload, &mut out).ok()?;
    out.truncate(len);
    Some(out)
}

impl Mallory {
    /// A payload as it should be, or nearly.
    fn payload(&self, input: &mut Input<'_>, kem: Vec<u8>) -> HandshakePayload {
        let kem = match input.below(8) {
            0 => input.bytes(1300),
            1 => vec![input.byte(); KEM_PUBLIC_LEN],
            2 => vec![input.byte(); KEM_CIPHERTEXT_LEN],
            _ => kem,
        };
        let mut speech = Speech { input, with_authority: self.with_authority, heard: &[] };
        let (announcement, record) = speech.announcement();
        let ciphers = if input.once_in(4) { input.number() } else { input.pick(&[7, 1, 2, 4]) };
        let admission = if input.once_in(4) { input.bytes(64) } else { Vec::new() };
        let (version, oldest) = input.pick(&[(1, 1), (1, 1), (0, 0), (2, 1), (2, 2), (u32::MAX, 0)]);
        HandshakePayload { kem, record, announcement, ciphers, admission, version, oldest }
    }

    /// Cuts a message into datagrams with a sound mac1 and sends them to an honest node: all of them in order, or not.
    fn send(&self, input: &mut Input<'_>, mesh: &mut Mesh, kind: HandshakeKind, own_index: u32, message: &[u8]) {
        let gate = cast::network(self.with_authority).gate();
        let size = input.pick(&[1156, 1156, 600, 200]);
        let chunks: Vec<&[u8]> = message.chunks(size).take(8).collect();
        let count = if input.once_in(16) { input.byte() } else { chunks.len() as u8 };
        let receiver = if input.once_in(8) { input.number() } else { self.their_index };
        let from = cast::addr(if input.once_in(8) { input.below(CAST) } else { MALLORY });
        let mut order: Vec<usize> = (0..chunks.len()).collect();
        match input.below(8) {
            0 => order.reverse(),
            1 => order.extend(0..chunks.len()),
            2 => drop(order.pop()),
            _ => {}
        }
        for i in order {
            let header = handshake_header(kind, i as u8, count, own_index, receiver);
            let mac1 = gate.tag(&[&header, chunks[i]]);
            let datagram = [&header[..], &mac1, &[0; 16], chunks[i]].concat();
            mesh.inject(from, cast::addr(ANNA), input.mangle(datagram));
        }
    }

    fn begin(&mut self, input: &mut Input<'_>, mesh: &mut Mesh) {
        thread_local! {
            static KEM: Vec<u8> = KemSecret::generate().expect("the system has randomness").public().to_vec();
        }
        let (ik, who) = (input.once_in(2), MALLORY + input.below(CAST - MALLORY));
        let remote = input.pick(&[ANNA, ANNA, ANNA, BERT]);
        let mut noise = noise(input, self.with_authority, ik, who, Some(remote));
        let payload = self.payload(input, KEM.with(Clone::clone));
        let Some(message) = write(&mut noise, &payload) else { return };
        let kind = if ik { HandshakeKind::Ik1 } else { HandshakeKind::Xx1 };
        let kind = if input.once_in(8) { input.pick(&KINDS) } else { kind };
        let own_index = self.handshakes.len() as u32 + 1;
        self.send(input, mesh, kind, own_index, &message);
        if self.handshakes.len() < MAX_HANDSHAKES {
            self.handshakes.push(Handshake { noise, own_index, ciphertext: Vec::new() });
        }
    }

    /// Reads what the honest nodes sent to it, and answers what is not an answer to something that it can't continue.
    fn answer(&mut self, input: &mut Input<'_>, mesh: &mut Mesh) {
        let stray: Vec<(SocketAddr, SocketAddr, Vec<u8>)> = std::mem::take(&mut mesh.stray);
        let mut messages: Vec<Pieces<'_>> = Vec::new();
        for (_, _, bytes) in &stray {
            let Ok(Datagram::Handshake(f)) = packet::parse(bytes) else { continue };
            let known = messages.iter_mut().find(|(kind, [sender, _], _)| (*kind, *sender) == (f.kind, f.sender));
            match known {
                Some((_, _, pieces)) if pieces.len() == usize::from(f.fragment) => pieces.push(f.body),
                None if f.fragment == 0 => messages.push((f.kind, [f.sender, f.receiver], vec![f.body])),
                _ => {}
            }
        }
        for (kind, [sender, receiver], pieces) in messages {
            let message = pieces.concat();
            self.their_index = sender;
            let mut out = vec![0; message.len()];
            match kind {
                HandshakeKind::Xx1 | HandshakeKind::Ik1 => {
                    let ik = kind == HandshakeKind::Ik1;
                    let mut noise = noise(input, self.with_authority, ik, MALLORY, None);
                    let Ok(len) = noise.read_message(&message, &mut out) else { continue };
                    let theirs = HandshakePayload::decode(&out[..len]).unwrap_or_default();
                    let ciphertext = encapsulate(&theirs.kem).map(|(c, _)| c).unwrap_or_default();
                    let own_index = self.handshakes.len() as u32 + 1;
                    let mut state = Handshake { noise, own_index, ciphertext };
                    self.second(input, mesh, &mut state, ik);
                    if self.handshakes.len() < MAX_HANDSHAKES {
                        self.handshakes.push(state);
                    }
                }
                HandshakeKind::Xx2 => {
                    let Some(at) = self.handshakes.iter().position(|h| h.own_index == receiver) else { continue };
                    let mut state = self.handshakes.swap_remove(at);
                    if state.noise.is_handshake_finished() || state.noise.read_message(&message, &mut out).is_err() {
                        continue;
                    }
                    let payload = self.payload(input, Vec::new());
                    let Some(third) = write(&mut state.noise, &payload) else { continue };
                    self.has_proved = true;
                    self.send(input, mesh, HandshakeKind::Xx3, state.own_index, &third);
                }
                HandshakeKind::Ik2 | HandshakeKind::Xx3 => {}
            }
        }
    }

    fn second(&mut self, input: &mut Input<'_>, mesh: &mut Mesh, state: &mut Handshake, ik: bool) {
        let payload = self.payload(input, state.ciphertext.clone());
        let Some(message) = write(&mut state.noise, &payload) else { return };
        self.has_proved = true;
        let kind = if ik { HandshakeKind::Ik2 } else { HandshakeKind::Xx2 };
        self.send(input, mesh, kind, state.own_index, &message);
    }

    /// A fragment with a sound mac1 and nothing sound in it.
    fn junk(&self, input: &mut Input<'_>, mesh: &mut Mesh) {
        let header = handshake_header(
            input.pick(&KINDS),
            input.below(9) as u8,
            input.below(9) as u8,
            input.number(),
            if input.once_in(2) { self.their_index } else { input.number() },
        );
        let body = input.bytes(1156);
        let mac1 = cast::network(self.with_authority).gate().tag(&[&header, &body]);
        let mac2: [u8; 16] = [input.byte(); 16];
        let datagram = [&header[..], &mac1, &mac2, &body].concat();
        mesh.inject(cast::addr(MALLORY), cast::addr(ANNA), datagram);
    }

    /// A cookie for a first message of an honest node, or for none.
    fn cookie(&self, input: &mut Input<'_>, mesh: &mut Mesh) {
        let stray = mesh.stray.iter().find_map(|(_, _, bytes)| match packet::parse(bytes) {
            Ok(Datagram::Handshake(f)) => Some((f.sender, f.mac1)),
            _ => None,
        });
        let (receiver, mac1) = stray.unwrap_or((self.their_index, [0; 16]));
        let seal = AeadKey::new(Cipher::ChaCha20Poly1305, cast::network(self.with_authority).beacon_key());
        let (nonce, mut cookie) = (input.wide(), [input.byte(); 16]);
        let tag: [u8; TAG_LEN] = seal.seal(nonce, &mac1, &mut cookie);
        let head = [&[COOKIE, 0, 0, 0][..], &receiver.to_be_bytes(), &[0; 4], &nonce.to_be_bytes()].concat();
        let datagram = [&head[..], &cookie, &tag].concat();
        mesh.inject(cast::addr(MALLORY), cast::addr(ANNA), input.mangle(datagram));
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let with_authority = input.once_in(2);
    let mut mesh = Mesh::new(2, with_authority, false);
    let mut mallory = Mallory { with_authority, handshakes: Vec::new(), their_index: 0, has_proved: false };
    if input.once_in(2) {
        // The honest node begins handshakes with it, too.
        let now = mesh.now;
        mesh.nodes[ANNA].set_bootstrap(now, &[cast::addr(MALLORY)]);
        mesh.carry();
    }
    while !input.is_over() && !mesh.is_over() {
        match input.below(16) {
            0..5 => mallory.begin(&mut input, &mut mesh),
            5..10 => mallory.answer(&mut input, &mut mesh),
            10 => mallory.junk(&mut input, &mut mesh),
            11 => mallory.cookie(&mut input, &mut mesh),
            12 | 13 => {
                let (_, to, bytes) = mesh.heard[input.below(mesh.heard.len())].clone();
                let from = cast::addr(input.below(CAST));
                let bytes = input.mangle(bytes);
                mesh.inject(from, to, bytes);
            }
            _ => {
                let time = input.pick(&[1, 60, 300, 1000, 12_000]);
                mesh.pass(Duration::from_millis(time));
            }
        }
    }
    mesh.pass(Duration::from_secs(1));
    mesh.check();
    if !mallory.has_proved {
        assert_eq!(mesh.peers(ANNA), 1, "a claim has made a peer");
    }
});
