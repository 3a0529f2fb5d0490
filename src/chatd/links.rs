//! Links to other nodes: what they tell each other, and what is asked of whom. The side that dialed asks how their sets of messages
//! differ; then each gets what it lacks, and from there on what is new as it comes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use prost::Message as _;

use super::{
    outbox::{Load, Outgoing},
    sync::{Comparison, Scope, scopes},
};
use crate::chat::{Hlc, Id, Kind, Message, wire};

pub type LinkId = u64;
/// Platforms that this node keeps; whether their acts alone.
pub type Ours = HashMap<Id, bool>;

/// Messages that are asked of a link at once.
pub const WINDOW: usize = 512;
/// The same for a relay, of each of whose many links it may turn out that nothing comes.
const RELAY_WINDOW: usize = 64;
/// Ids to be asked for, or to be told of, that are remembered by link.
const MAX_WANTED: usize = 2_000_000;
const RELAY_MAX_WANTED: usize = 20_000;
/// How long somebody may take to send what was asked for.
const ANSWER_MS: u64 = 15_000;
/// Messages that a link may ask for before it has got them.
const MAX_OWED: usize = 4 * WINDOW;
/// Messages that are read from the disk together.
const PAGE: usize = 64;
/// Messages of a bundle, and their bytes.
const BUNDLE: usize = 256;
const BUNDLE_BYTES: usize = 512 << 10;
/// Ids in a frame.
pub const MAX_IDS: usize = 16_384;
/// Links that get new messages at once; others are told that they are there.
const EAGER: usize = 6;
/// Entries of others' lists that are kept.
const MAX_CARRIED: usize = 256;

/// What is to be done for a link.
#[derive(Debug)]
pub enum Output {
    Send(LinkId, Outgoing),
    Close(LinkId, String),
}

/// A platform that another node keeps.
#[derive(Clone, Debug)]
pub struct Offered {
    pub name: String,
    pub members: u32,
    /// It keeps the acts alone.
    pub acts_only: bool,
}

/// The other end of a connection.
#[derive(Default)]
pub struct Link {
    /// Where it goes, as people read it.
    pub name: String,
    /// This side dialed, and asks.
    pub dialed: bool,
    pub is_relay: bool,
    /// The hybrid time from which on it keeps content.
    keeps: u64,
    pub greeted: bool,
    pub carried: BTreeMap<Id, Offered>,
    /// Platforms whose sets have been or are being compared; whether the acts' alone.
    compared: HashMap<Id, bool>,
    scopes: VecDeque<Scope>,
    /// The comparison that runs: as the side that asks, or that answers.
    pub comparison: Option<Comparison>,
    /// Ids to be asked for.
    wanted: VecDeque<Id>,
    /// Asked for and not here yet.
    asked: HashSet<Id>,
    /// What waits to be sent to it.
    pub load: Load,
    /// Messages that it asked for and that it is to be told of, as soon as it reads what it was sent before.
    owed: VecDeque<Id>,
    telling: VecDeque<Id>,
    /// When something last came of it, or was asked for.
    moved_ms: u64,
    /// Messages of it that were new here.
    pub received: u64,
}

impl Link {
    #[must_use]
    pub fn new(name: String, dialed: bool, load: Load) -> Self {
        Self { name, dialed, load, ..Self::default() }
    }

    /// Messages still to come from it, as far as known.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.wanted.len() + self.asked.len()
    }

    /// Takes in what the other end keeps. Comparisons begin with what both do.
    pub fn hello(&mut self, hello: &wire::Hello, ours: &Ours, now_ms: u64) {
        self.greeted = true;
        // Who comes in says so for nothing.
        self.is_relay = hello.relay && self.dialed;
        self.keeps = Hlc::from_ms(now_ms.saturating_sub(hello.keep_ms)).0;
        if hello.keep_ms == 0 {
            self.keeps = 0;
        }
        let offered = hello.carried.iter().take(MAX_CARRIED).filter_map(|c| {
            let name: String = c.name.chars().filter(|c| !c.is_control()).take(64).collect();
            Some((
                Id(c.platform.as_slice().try_into().ok()?),
                Offered { name, members: c.members, acts_only: c.acts_only },
            ))
        });
        self.carried = offered.collect();
        self.compare_shared(ours, now_ms);
    }

    pub fn compare_shared(&mut self, ours: &Ours, now_ms: u64) {
        if !self.dialed || !self.greeted {
            return;
        }
        let mut shared = HashMap::new();
        for (id, acts_only) in ours {
            if self.carries(id, true) {
                shared.insert(*id, *acts_only || !self.carries(id, false));
            }
        }
        for (id, acts_only) in &shared {
            if self.compared.get(id) != Some(acts_only) {
                let kept = scopes(*id, now_ms).into_iter().filter(|s| s.acts || (!acts_only && s.to.0 > self.keeps));
                self.scopes
                    .extend(kept.map(|s| Scope { from: Hlc(if s.acts { 0 } else { s.from.0.max(self.keeps) }), ..s }));
            }
        }
        self.compared = shared;
    }

    /// Whether messages of this platform are for the other end. A relay takes whatever comes.
    #[must_use]
    pub fn carries(&self, platform: &Id, act: bool) -> bool {
        self.is_relay || self.carried.get(platform).is_some_and(|c| act || !c.acts_only)
    }

    /// The scope to compare next, if none is being compared.
    pub fn next_scope(&mut self) -> Option<Scope> {
        if self.comparison.is_some() { None } else { self.scopes.pop_front() }
    }

    /// These are to be asked for. What doesn't fit is found by the next comparison.
    pub fn want(&mut self, ids: impl IntoIterator<Item = Id>, as_relay: bool) {
        let most = if as_relay { RELAY_MAX_WANTED } else { MAX_WANTED };
        for id in ids {
            if self.wanted.len() < most && !self.asked.contains(&id) {
                self.wanted.push_back(id);
            }
        }
    }

    /// Whether this was asked for, and has not come yet.
    #[must_use]
    pub fn asked(&self, id: &Id) -> bool {
        self.asked.contains(id)
    }

    /// A message came, or will not.
    pub fn came(&mut self, now_ms: u64, id: &Id) {
        if self.asked.remove(id) {
            self.moved_ms = now_ms;
        }
    }

    /// Whether it does not send what it was asked for.
    #[must_use]
    pub fn is_stuck(&self, now_ms: u64) -> bool {
        !self.asked.is_empty() && now_ms.saturating_sub(self.moved_ms) > ANSWER_MS
    }

    /// Whether there may be something to compare, to ask for or to send.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let compares = self.comparison.is_none() && !self.scopes.is_empty();
        compares || !self.wanted.is_empty() || !self.owed.is_empty() || !self.telling.is_empty()
    }

    /// It asks for these. Returns whether it may ask for so much.
    #[must_use]
    pub fn owe(&mut self, ids: Vec<Id>) -> bool {
        self.owed.extend(ids);
        self.owed.len() <= MAX_OWED
    }

    /// It is to be told of these. Returns whether it is not too far behind.
    #[must_use]
    pub fn tell(&mut self, ids: &[Id], as_relay: bool) -> bool {
        self.telling.extend(ids);
        self.telling.len() <= if as_relay { RELAY_MAX_WANTED } else { MAX_WANTED }
    }

    /// What it is to be told of now.
    pub fn take_told(&mut self) -> Vec<Id> {
        let n = if self.load.has_room() { self.telling.len().min(MAX_IDS) } else { 0 };
        self.telling.drain(..n).collect()
    }

    /// What it is to be sent now.
    pub fn take_owed(&mut self) -> Vec<Id> {
        let n = if self.load.has_room() { self.owed.len().min(PAGE) } else { 0 };
        self.owed.drain(..n).collect()
    }

    /// What may be asked for now.
    pub fn ask(&mut self, now_ms: u64, as_relay: bool) -> Vec<Id> {
        let window = if as_relay { RELAY_WINDOW } else { WINDOW };
        // Answers come in bundles: not one question per message.
        if self.asked.len() > window / 2 || self.wanted.is_empty() {
            return Vec::new();
        }
        self.moved_ms = now_ms;
        let mut out = Vec::new();
        while self.asked.len() < window
            && let Some(id) = self.wanted.pop_front()
        {
            if self.asked.insert(id) {
                out.push(id);
            }
        }
        out
    }
}

/// All links, and what is to be sent over them.
#[derive(Default)]
pub struct Links {
    pub all: BTreeMap<LinkId, Link>,
    pub outputs: Vec<Output>,
    /// This node is a relay.
    pub as_relay: bool,
}

impl Links {
    pub fn send(&mut self, to: LinkId, what: wire::frame::What) {
        if let Some(link) = self.all.get(&to) {
            let frame = link.load.hold(wire::Frame { what: Some(what) }.encode_to_vec());
            self.outputs.push(Output::Send(to, frame));
        }
    }

    /// What is to be done; nothing is, after that.
    pub fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Whether a link reads what it is sent.
    #[must_use]
    pub fn has_room(&self, link: LinkId) -> bool {
        self.all.get(&link).is_some_and(|l| l.load.has_room())
    }

    /// Tells a link which messages are here, when it has read what it was sent before.
    pub fn announce(&mut self, to: LinkId, ids: &[Id]) {
        let as_relay = self.as_relay;
        if self.all.get_mut(&to).is_some_and(|link| !link.tell(ids, as_relay)) {
            self.close(to, "it does not read what it is told");
        }
    }

    /// Closes links that have the most to be asked for, until no more than this is remembered.
    pub fn want_less(&mut self, most: usize) {
        let mut wanted: usize = self.all.values().map(Link::pending).sum();
        while wanted > most
            && let Some((id, link)) = self.all.iter_mut().max_by_key(|(_, link)| link.pending())
        {
            wanted -= link.pending();
            (link.wanted, link.asked) = Default::default();
            let id = *id;
            self.close(id, "it offers too much at once");
        }
    }

    /// Says why a message is not taken, or not given.
    pub fn refuse(&mut self, to: LinkId, id: Id, reason: &str) {
        let reason = reason.to_owned();
        self.send(to, wire::frame::What::Refused(wire::Refused { id: id.0.to_vec(), reason }));
    }

    pub fn close(&mut self, link: LinkId, why: impl Into<String>) {
        self.outputs.push(Output::Close(link, why.into()));
    }

    /// Sends messages, in bundles.
    pub fn send_messages(&mut self, to: LinkId, messages: impl IntoIterator<Item = Vec<u8>>) {
        let (mut bundle, mut bytes) = (Vec::new(), 0);
        for message in messages {
            bytes += message.len();
            bundle.push(message);
            if bundle.len() >= BUNDLE || bytes >= BUNDLE_BYTES {
                let messages = std::mem::take(&mut bundle);
                self.send(to, wire::frame::What::Bundle(wire::Bundle { messages }));
                bytes = 0;
            }
        }
        if !bundle.is_empty() {
            self.send(to, wire::frame::What::Bundle(wire::Bundle { messages: bundle }));
        }
    }

    /// Who gets a new message at once, and who is only told of it: relays, which ask at their own pace, who has much to read, and whoever
    /// is one too many. `from`: who has it already.
    pub fn audience(&self, message: &Message, from: &[LinkId]) -> (Vec<LinkId>, Vec<LinkId>) {
        let act = message.head.kind.is_authority();
        let wants =
            |(id, link): &(&LinkId, &Link)| link.greeted && link.carries(&message.platform, act) && !from.contains(id);
        // Who leaves keeps nothing that a relay could ask for later.
        let asks = |link: &Link| (link.is_relay || !link.load.has_room()) && message.head.kind != Kind::Leave;
        let (relays, nodes): (Vec<_>, Vec<_>) = self.all.iter().filter(wants).partition(|(_, link)| asks(link));
        let mut nodes: Vec<LinkId> = nodes.into_iter().map(|(id, _)| *id).collect();
        let mut later = nodes.split_off(EAGER.min(nodes.len()));
        later.extend(relays.into_iter().map(|(id, _)| *id));
        (nodes, later)
    }

    /// Platforms that others offer.
    #[must_use]
    pub fn offered(&self) -> HashMap<Id, Offered> {
        let mut out: HashMap<Id, Offered> = HashMap::new();
        for (id, offered) in self.all.values().flat_map(|l| &l.carried) {
            let best = out.entry(*id).or_insert_with(|| offered.clone());
            if best.members < offered.members {
                best.clone_from(offered);
            }
        }
        out
    }
}

/// Ids as they travel; those of another length are none.
#[must_use]
pub fn ids(list: &wire::Ids) -> Vec<Id> {
    list.ids.iter().take(MAX_IDS).filter_map(|b| b.as_slice().try_into().ok().map(Id)).collect()
}

#[must_use]
pub fn to_wire(ids: &[Id]) -> wire::Ids {
    wire::Ids { ids: ids.iter().map(|id| id.0.to_vec()).collect() }
}
