//! A new device of a person: it gets the identity from one that has it, over a link in the mesh, once the person has carried a code of
//! six digits from the new one to the other.
//!
//! The new device commits to a key before it sees the others' random bytes, and reveals it to all when it takes no more of those; the code is
//! a hash of all three. Who is in between has other bytes on each side, and one guess in a million (Vaudenay, "Secure Communications over
//! Insecure Channels Based on Short Authenticated Strings", 2005). Few may guess at a time, and three wrong codes end all that was begun.
//! Nor does the new device take what somebody else gives it: the person says at last which code was accepted.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use super::{
    engine::{Engine, Refusal},
    hub::Hub,
    links::LinkId,
    request::{Answer, Code},
};
use crate::{
    chat::{
        Id,
        wire::{
            Linking,
            frame::What,
            linking::{Grant, Membership, Reveal, Step},
        },
    },
    crypto::{open_sealed, seal_to, sha256, x25519_public},
};

const LINK: &[u8] = b"aegis/link/1";
/// How long a code is good.
const LIFE_MS: u64 = 600_000;
const MAX_WRONG: u32 = 3;
/// How long others may take to send their random bytes.
const COLLECT_MS: u64 = 3_000;
/// Devices that may ask while a code is good: each is a guess.
const MAX_ASKING: usize = 8;

/// Both sides of it.
#[derive(Default)]
pub struct Linkings {
    new: Option<New>,
    /// Devices that ask this one, by link.
    asking: BTreeMap<LinkId, Asking>,
    wrong: u32,
    /// When devices have asked.
    asked_ms: Vec<u64>,
}

/// This device has no identity yet.
struct New {
    private: [u8; 32],
    nonce: [u8; 32],
    password: String,
    reveal_ms: u64,
    revealed: bool,
    until_ms: u64,
    /// Who was told to what this device commits.
    told: BTreeSet<LinkId>,
    /// The random bytes of those that could give it one.
    others: BTreeMap<LinkId, [u8; 32]>,
    /// What they give, until the person has said that it was their code.
    given: BTreeMap<LinkId, Grant>,
}

/// Another device has none.
struct Asking {
    commitment: [u8; 32],
    random: [u8; 32],
    revealed: Option<([u8; 32], [u8; 32])>,
    until_ms: u64,
}

fn commitment(key: &[u8; 32], nonce: &[u8; 32]) -> [u8; 32] {
    sha256(&[LINK, key, nonce])
}

fn transcript(random: &[u8; 32], key: &[u8; 32], nonce: &[u8; 32]) -> [u8; 32] {
    sha256(&[LINK, b"/transcript", random, key, nonce])
}

/// Six digits.
fn code(transcript: &[u8; 32]) -> String {
    let hash = sha256(&[LINK, b"/code", transcript]);
    let n = u64::from_be_bytes(std::array::from_fn(|i| hash[i]));
    format!("{:06}", n % 1_000_000)
}

impl Hub {
    /// Asks all neighbours for an identity; with a password to seal it.
    pub(super) fn link_new(&mut self, now_ms: u64, password: String) -> Result<Answer, Refusal> {
        self.engine.keys.check_new(&password)?;
        let rng = &mut self.engine.rng;
        let new = New {
            private: rng.bytes(),
            nonce: rng.bytes(),
            password,
            reveal_ms: now_ms + COLLECT_MS,
            revealed: false,
            until_ms: now_ms + LIFE_MS,
            told: BTreeSet::new(),
            others: BTreeMap::new(),
            given: BTreeMap::new(),
        };
        self.linkings.new = Some(new);
        self.go_on_linking(now_ms);
        Ok(Answer::Done)
    }

    /// What to type in at the other device, by the node that it would be.
    pub(super) fn link_codes(&self) -> Answer {
        let codes = self.linkings.new.iter().filter(|new| new.revealed).flat_map(|new| {
            new.others.keys().filter_map(move |link| {
                let node = self.links.all.get(link)?.name.clone();
                Some(Code { node, code: new.code(*link)?, given: new.given.contains_key(link) })
            })
        });
        Answer::Codes { codes: codes.collect() }
    }

    /// Takes the identity that was given for this code, which the person has typed in there.
    pub(super) fn link_take(&mut self, now_ms: u64, typed: &str) -> Result<Answer, Refusal> {
        let new = self.linkings.new.as_mut().ok_or_else(|| Refusal::no("this device asks for no identity"))?;
        let links: Vec<LinkId> = new.given.keys().copied().collect();
        let link = links.into_iter().find(|link| new.code(*link).is_some_and(|code| code == typed.trim()));
        let grant = link.and_then(|link| new.given.remove(&link));
        let grant = grant.ok_or_else(|| Refusal::no("nothing was given for this code"))?;
        let password = new.password.clone();
        let root: [u8; 32] = grant.root.try_into().map_err(|_| Refusal::no("what was given is no identity"))?;
        self.engine.keys.take(&root, &password, &mut self.engine.rng)?;
        self.linkings.new = None;
        for Membership { platform, nick } in grant.platforms {
            let Ok(id) = Id::of(&platform) else { continue };
            self.joining.insert(id, nick);
            self.engine.expected.insert(id);
        }
        self.greet_again(now_ms);
        Ok(Answer::Done)
    }

    /// Gives this identity to the device that shows this code.
    pub(super) fn link_allow(&mut self, now_ms: u64, typed: &str, password: &str) -> Result<Answer, Refusal> {
        let root = self.engine.keys.root(password)?;
        self.linkings.asking.retain(|_, a| a.until_ms > now_ms);
        let found = self.linkings.asking.iter().find_map(|(link, a)| {
            let (key, nonce) = a.revealed?;
            let transcript = transcript(&a.random, &key, &nonce);
            (code(&transcript) == typed.trim()).then_some((*link, key, transcript))
        });
        let Some((link, key, transcript)) = found else {
            self.linkings.wrong += 1;
            if self.linkings.wrong >= MAX_WRONG {
                self.linkings.asking.clear();
                self.linkings.wrong = 0;
                return Err(Refusal::no("this is not the code either: begin again at the new device"));
            }
            return Err(Refusal::no("no device shows this code: is it the one beside this node's name?"));
        };
        let grant = Grant { root: root.to_vec(), platforms: self.engine.memberships() };
        let sealed = seal_to(&key, &transcript, &grant.encode_to_vec())?;
        self.linkings.asking.remove(&link);
        self.linkings.wrong = 0;
        self.step(link, Step::Sealed(sealed));
        let node = self.links.all.get(&link).map(|l| l.name.clone()).unwrap_or_default();
        Ok(Answer::Linked { node })
    }

    /// Commits to the key at all who are reached, and reveals it once they have had their time and somebody has answered.
    pub(super) fn go_on_linking(&mut self, now_ms: u64) {
        // It has a password in it.
        self.linkings.new.take_if(|new| new.until_ms <= now_ms);
        let Some(new) = self.linkings.new.as_mut().filter(|new| !new.revealed) else { return };
        let reached = self.links.all.iter().filter(|(id, l)| l.greeted && !l.is_relay && !new.told.contains(*id));
        let reached: Vec<LinkId> = reached.map(|(id, _)| *id).collect();
        let commitment = commitment(&x25519_public(&new.private), &new.nonce).to_vec();
        new.told.extend(&reached);
        let is_due = now_ms >= new.reveal_ms && !new.others.is_empty();
        new.revealed = is_due;
        for link in reached {
            self.step(link, Step::Commitment(commitment.clone()));
        }
        let Some(new) = self.linkings.new.as_ref().filter(|_| is_due) else { return };
        let reveal = Reveal { key: x25519_public(&new.private).to_vec(), nonce: new.nonce.to_vec() };
        let others: Vec<LinkId> = new.others.keys().copied().collect();
        for link in others {
            self.step(link, Step::Reveal(reveal.clone()));
        }
    }

    fn step(&mut self, link: LinkId, step: Step) {
        self.links.send(link, What::Linking(Linking { step: Some(step) }));
    }

    /// The other side of a link goes on.
    pub(super) fn take_linking(&mut self, now_ms: u64, from: LinkId, linking: Linking) {
        let Some(step) = linking.step else { return };
        match step {
            Step::Commitment(commitment) => {
                let Ok(commitment) = commitment.try_into() else { return };
                self.linkings.asking.retain(|_, a| a.until_ms > now_ms);
                self.linkings.asked_ms.retain(|at| at + LIFE_MS > now_ms);
                let too_many = self.linkings.asked_ms.len() >= MAX_ASKING;
                if self.engine.is_relay || !self.engine.keys.is_unlocked() || too_many {
                    return;
                }
                self.linkings.asked_ms.push(now_ms);
                let random = self.engine.rng.bytes();
                let asking = Asking { commitment, random, revealed: None, until_ms: now_ms + LIFE_MS };
                self.linkings.asking.insert(from, asking);
                self.step(from, Step::Random(random.to_vec()));
            }
            Step::Random(random) => {
                // Afterwards the key is known, and a code could be chosen.
                let Some(new) = self.linkings.new.as_mut().filter(|new| !new.revealed) else { return };
                if let Ok(random) = random.try_into() {
                    new.others.entry(from).or_insert(random);
                }
            }
            Step::Reveal(reveal) => {
                let Some(asking) = self.linkings.asking.get_mut(&from) else { return };
                let (Ok(key), Ok(nonce)) = (reveal.key.try_into(), reveal.nonce.try_into()) else { return };
                if asking.revealed.is_none() && commitment(&key, &nonce) == asking.commitment {
                    asking.revealed = Some((key, nonce));
                }
            }
            Step::Sealed(sealed) => {
                let Some(new) = self.linkings.new.as_mut() else { return };
                let opened = new.transcript(from).and_then(|t| open_sealed(&new.private, &t, &sealed).ok());
                if let Some(grant) = opened.and_then(|plain| Grant::decode(&*plain).ok()) {
                    new.given.entry(from).or_insert(grant);
                }
            }
        }
    }
}

impl New {
    fn transcript(&self, link: LinkId) -> Option<[u8; 32]> {
        Some(transcript(self.others.get(&link)?, &x25519_public(&self.private), &self.nonce))
    }

    fn code(&self, link: LinkId) -> Option<String> {
        self.transcript(link).map(|t| code(&t))
    }
}

impl Engine {
    /// Public platforms that this identity takes part in; the private ones come by invitation of this device.
    fn memberships(&self) -> Vec<Membership> {
        let public = self.platforms.values().filter(|p| p.place.joined && !p.private);
        public.map(|p| Membership { platform: p.place.id.0.to_vec(), nick: p.nick(self.me()) }).collect()
    }
}
