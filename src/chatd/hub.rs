//! One node of the chat: its engine and its links. Everything that comes in passes here, one thing after the other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    mem,
    net::IpAddr,
};

use prost::Message as _;

use super::{
    comparing::Answering,
    engine::{Engine, Event, Fate, Taken},
    gate::Gate,
    linking::Linkings,
    links::{Link, LinkId, Links, Ours, Output, WINDOW, ids, to_wire},
    net::parse_url,
    outbox::Load,
    pieces::Fetching,
    signals::Seen,
    store::Result,
    sync::Comparison,
};
use crate::chat::{Id, Message, wire, wire::frame::What};

const PROTOCOL: u32 = 1;
/// Relays of others that are remembered.
const MAX_KNOWN: usize = 64;
/// How often it is looked whether a new key to seal to is due.
const REFRESH_MS: u64 = 3_600_000;
/// The setting that keeps the relays, a line each.
pub const RELAYS: &str = "relays";
/// Messages that are taken in together at most: of more, each would wait longer than a disk needs.
pub const BATCH: usize = 256;
/// The same for a relay: those who bring little are not to wait long for those who bring much.
const RELAY_BATCH: usize = 64;

/// Something that happened outside.
pub enum Input {
    Connected { link: LinkId, name: String, source: String, dialed: bool, load: Load },
    Frame { link: LinkId, bytes: Vec<u8> },
    Disconnected(LinkId),
}

pub struct Hub {
    pub engine: Engine,
    pub links: Links,
    /// Limits for who brings messages; `None`: there are none.
    pub gate: Option<Gate>,
    /// Platforms to take part in once their acts are here: with the name to use.
    pub joining: HashMap<Id, String>,
    /// Where the page is, with its token.
    pub page: Option<String>,
    /// Relays to keep a connection to.
    pub relays: BTreeSet<String>,
    /// Relays that others know.
    pub known_relays: BTreeSet<String>,
    events: Vec<(u64, Event)>,
    last_event: u64,
    pub(super) fetching: Fetching,
    pub(super) linkings: Linkings,
    /// Signals of the last minutes.
    pub(super) seen: Seen,
    /// This node's addresses in the mesh.
    pub addresses: Vec<IpAddr>,
    /// When keys to seal to are looked at again.
    refresh_ms: u64,
    pub(super) answering: Answering,
    /// Messages that are admitted and not taken in yet, with what their sources have left.
    backlog: Vec<(f64, LinkId, Vec<u8>)>,
}

/// Ids that are remembered to be asked for, of all links of a relay.
const MAX_WANTED: usize = 1 << 20;
/// Admitted messages that may wait; of more than that, those of who brings most are dropped.
const MAX_BACKLOG: usize = 128 * RELAY_BATCH;
/// Events that are kept for who asks later.
const MAX_EVENTS: usize = 4096;

impl Hub {
    #[must_use]
    pub fn new(engine: Engine, gate: Option<Gate>) -> Self {
        Self {
            engine,
            links: Links { as_relay: gate.is_some(), ..Links::default() },
            gate,
            joining: HashMap::new(),
            page: None,
            relays: BTreeSet::new(),
            known_relays: BTreeSet::new(),
            events: Vec::new(),
            last_event: 0,
            fetching: Fetching::new(),
            linkings: Linkings::default(),
            seen: Seen::default(),
            addresses: Vec::new(),
            refresh_ms: 0,
            answering: Answering::default(),
            backlog: Vec::new(),
        }
    }

    /// Takes in what happened, at `now_ms` since 1970. Returns what is to be done.
    pub fn handle(&mut self, now_ms: u64, inputs: Vec<Input>) -> Result<Vec<Output>> {
        for input in inputs {
            match input {
                Input::Connected { link, name, source, dialed, load } => {
                    self.links.all.insert(link, Link::new(name, dialed, load));
                    if let Some(gate) = &mut self.gate {
                        gate.opened(link, source);
                    }
                    let hello = self.hello();
                    self.links.send(link, What::Hello(hello));
                    self.tell_relays(link);
                }
                Input::Frame { link, bytes } => self.frame(now_ms, link, &bytes)?,
                Input::Disconnected(link) => {
                    self.links.all.remove(&link);
                    self.answering.forget_link(link);
                    self.fetching.forget_link(link);
                    if let Some(gate) = &mut self.gate {
                        gate.closed(link);
                    }
                }
            }
        }
        self.flush(now_ms)?;
        self.answer_next(now_ms)?;
        self.after(now_ms)?;
        self.advance(now_ms)?;
        Ok(self.links.take())
    }

    /// Whether there is more to take in than was taken in at once.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.backlog.is_empty() || self.answering.is_behind()
    }

    /// What is due by time alone; to be called every second or so.
    pub fn tick(&mut self, now_ms: u64) -> Result<Vec<Output>> {
        let fresh = self.engine.tick(now_ms)?;
        let fresh: Vec<_> = fresh.into_iter().map(|m| (m, Vec::new())).collect();
        self.spread(&fresh);
        let stuck: Vec<LinkId> = self.links.all.iter().filter(|(_, l)| l.is_stuck(now_ms)).map(|(id, _)| *id).collect();
        for link in stuck {
            self.links.close(link, "it does not send what it was asked for");
        }
        self.drop_sets(now_ms);
        self.go_on_linking(now_ms);
        if now_ms >= self.refresh_ms {
            self.refresh_ms = now_ms + REFRESH_MS;
            if let Err(error) = self.be_reachable(now_ms) {
                tracing::warn!(%error, "cannot publish a key to seal to");
            }
        }
        self.after(now_ms)?;
        self.advance(now_ms)?;
        Ok(self.links.take())
    }

    fn ours(&self) -> Ours {
        let banned = |id: &Id| self.engine.keys.is_banned_from(id);
        let kept = self
            .engine
            .platforms
            .values()
            .map(|p| p.place)
            .filter(|p| p.joined || self.engine.is_relay || banned(&p.id));
        let kept = kept.map(|p| (p.id, !p.joined && !self.engine.is_relay));
        kept.chain(self.joining.keys().map(|id| (*id, false))).collect()
    }

    fn hello(&mut self) -> wire::Hello {
        let carried = self.ours().into_iter().map(|(id, acts_only)| {
            let platform = self.engine.platforms.get(&id);
            // What a private one is called is nobody's business.
            let platform = platform.filter(|p| !p.private);
            let name = platform.map(super::platform::Platform::name).unwrap_or_default();
            let members = platform.map_or(0, |p| p.authority.members().len());
            wire::Carried {
                platform: id.0.to_vec(),
                name,
                members: u32::try_from(members).unwrap_or(u32::MAX),
                acts_only,
            }
        });
        let carried = carried.collect();
        wire::Hello {
            version: PROTOCOL,
            relay: self.engine.is_relay,
            carried,
            keep_ms: self.engine.keep_ms.unwrap_or(0),
        }
    }

    /// Tells a link which relays this node uses.
    pub fn tell_relays(&mut self, link: LinkId) {
        if !self.relays.is_empty() {
            let urls = self.relays.iter().take(MAX_KNOWN).cloned().collect();
            self.links.send(link, What::Peers(wire::Peers { urls }));
        }
    }

    /// Tells all links what this node keeps now, and compares what is new to both.
    pub fn greet_again(&mut self, now_ms: u64) {
        let (hello, ours) = (self.hello(), self.ours());
        for id in self.links.all.keys().copied().collect::<Vec<_>>() {
            self.links.send(id, What::Hello(hello.clone()));
            if let Some(link) = self.links.all.get_mut(&id) {
                link.compare_shared(&ours, now_ms);
            }
        }
    }

    fn frame(&mut self, now_ms: u64, from: LinkId, bytes: &[u8]) -> Result<()> {
        let Ok(wire::Frame { what: Some(what) }) = wire::Frame::decode(bytes) else {
            self.links.close(from, "what came is no frame of this protocol");
            return Ok(());
        };
        if let What::Bundle(bundle) = what {
            bundle.messages.into_iter().for_each(|m| self.admit(now_ms, from, m));
            return Ok(());
        }
        // What came before counts first, but where everybody may come in nobody is waited for.
        while self.gate.is_none() && !self.backlog.is_empty() {
            self.flush(now_ms)?;
        }
        let as_relay = self.gate.is_some();
        let ours = if matches!(what, What::Hello(_)) { self.ours() } else { Ours::new() };
        let Some(link) = self.links.all.get_mut(&from) else { return Ok(()) };
        match what {
            What::Hello(hello) if hello.version != PROTOCOL => {
                self.links.close(from, format!("it speaks version {} of the protocol", hello.version));
            }
            What::Hello(hello) => {
                let before = if link.greeted { Some(mem::take(&mut link.carried)) } else { None };
                link.hello(&hello, &ours, now_ms);
                // Bytes that are missing here may be there.
                for platform in ours.keys().filter_map(|id| self.engine.platforms.get(id)) {
                    if link.carries(&platform.place.id, false) {
                        link.want(self.engine.store.absent(platform.place.n, WINDOW)?, as_relay);
                    }
                }
                // What was written here may be there by another way; then a comparison finds it equal, and nobody confirms it.
                let is_new =
                    |platform: &Id| before.as_ref().is_none_or(|b| !link.is_relay && !b.contains_key(platform));
                let carries = |platform: &Id, act| is_new(platform) && link.carries(platform, act);
                let unconfirmed = self.engine.unconfirmed(&link.name, carries);
                self.links.announce(from, &unconfirmed);
            }
            What::Have(list) => {
                let (mut here, mut missing) = (Vec::new(), Vec::new());
                for id in ids(&list) {
                    if self.engine.store.lacks(&id)? { missing.push(id) } else { here.push(id) }
                }
                link.want(missing, as_relay);
                if as_relay {
                    self.links.want_less(MAX_WANTED);
                }
                if !here.is_empty() {
                    self.links.send(from, What::Stored(to_wire(&here)));
                }
            }
            What::Want(list) => {
                if !link.owe(ids(&list)) {
                    self.links.close(from, "too much is asked for at once");
                }
            }
            What::Stored(list) => {
                let name = link.name.clone();
                self.engine.confirmed(&ids(&list), &name)?;
            }
            What::Refused(refused) => {
                let id: Option<[u8; 32]> = refused.id.as_slice().try_into().ok();
                if let Some(id) = id {
                    link.came(now_ms, &Id(id));
                }
                let reason: String = refused.reason.chars().filter(|c| !c.is_control()).take(200).collect();
                tracing::debug!(link = link.name, reason, "a message is not taken");
            }
            What::Sync(sync) if link.dialed => self.compare(from, &sync),
            What::Sync(sync) => self.question(from, sync),
            What::Peers(peers) => {
                let room = MAX_KNOWN.saturating_sub(self.known_relays.len());
                let good = |u: &String| u.len() < 256 && parse_url(u).is_some();
                self.known_relays.extend(peers.urls.into_iter().filter(good).take(room));
            }
            What::WantPieces(list) => self.give_pieces(from, &list)?,
            What::Piece(piece) => self.take_piece(now_ms, from, piece)?,
            What::Linking(linking) => self.take_linking(now_ms, from, linking),
            What::Signal(signal) => self.take_signal(now_ms, from, signal)?,
            What::Bundle(_) => {}
        }
        Ok(())
    }

    /// Lets a message in, if its source may bring it.
    fn admit(&mut self, now_ms: u64, link: LinkId, bytes: Vec<u8>) {
        let left = match &mut self.gate {
            Some(gate) => {
                let other = self.links.all.get(&link);
                let asked = Message::peek(&bytes).is_some_and(|id| other.is_some_and(|l| l.asked(&id)));
                gate.admit(now_ms, link, bytes.len(), asked)
            }
            None => Some(0.0),
        };
        self.backlog.extend(left.map(|left| (left, link, bytes)));
        if self.gate.is_some() && self.backlog.len() > 2 * MAX_BACKLOG {
            self.sort();
        }
    }

    /// Whoever has brought little gets in before whoever brings much, however many those are.
    fn sort(&mut self) {
        self.backlog.sort_by(|a, b| b.0.total_cmp(&a.0));
        if self.gate.is_some() {
            self.backlog.truncate(MAX_BACKLOG);
        }
    }

    /// Takes in messages that were let in: as many as become durable together.
    fn flush(&mut self, now_ms: u64) -> Result<()> {
        if self.backlog.is_empty() {
            return Ok(());
        }
        self.sort();
        let now = self.backlog.len().min(if self.gate.is_some() { RELAY_BATCH } else { BATCH });
        let (from, batch): (Vec<LinkId>, Vec<Vec<u8>>) =
            self.backlog.drain(..now).map(|(_, link, bytes)| (link, bytes)).unzip();
        let as_relay = self.gate.is_some();
        let Taken { fates, fresh } = self.engine.ingest(now_ms, batch)?;
        let mut stored: BTreeMap<LinkId, Vec<Id>> = BTreeMap::new();
        let mut sources: HashMap<Id, Vec<LinkId>> = HashMap::new();
        for (link, (id, fate)) in from.into_iter().zip(fates) {
            sources.entry(id).or_default().push(link);
            let Some(other) = self.links.all.get_mut(&link) else { continue };
            other.came(now_ms, &id);
            match fate {
                Fate::Stored { new } => {
                    other.received += u64::from(new);
                    stored.entry(link).or_default().push(id);
                }
                Fate::Waits(missing) => {
                    other.want([missing], as_relay);
                    self.links.refuse(link, id, "it names an act that is not here yet");
                }
                Fate::Early => self.links.refuse(link, id, "its clock is ahead"),
                Fate::Refused(expected) => self.links.refuse(link, id, &format!("expected {expected}")),
            }
        }
        for (link, ids) in stored {
            self.links.send(link, What::Stored(to_wire(&ids)));
        }
        let fresh: Vec<_> =
            fresh.into_iter().map(|m| (m.clone(), sources.get(&m.id).cloned().unwrap_or_default())).collect();
        self.spread(&fresh);
        Ok(())
    }

    /// Hands new messages on: `from` who has each already.
    pub fn spread(&mut self, fresh: &[(std::sync::Arc<Message>, Vec<LinkId>)]) {
        let mut eager: BTreeMap<LinkId, Vec<Vec<u8>>> = BTreeMap::new();
        let mut told: BTreeMap<LinkId, Vec<Id>> = BTreeMap::new();
        for (message, from) in fresh {
            let (now, later) = self.links.audience(message, from);
            let bytes = message.encode();
            now.into_iter().for_each(|link| eager.entry(link).or_default().push(bytes.clone()));
            later.into_iter().for_each(|link| told.entry(link).or_default().push(message.id));
        }
        for (link, messages) in eager {
            self.links.send_messages(link, messages);
        }
        for (link, ids) in told {
            self.links.announce(link, &ids);
        }
    }

    /// What follows from what was taken in and written.
    pub fn after(&mut self, now_ms: u64) -> Result<()> {
        self.accept_direct(now_ms);
        self.join_what_came(now_ms);
        let mut new = VecDeque::from(self.engine.take_events());
        while let Some(event) = new.pop_front() {
            match &event {
                Event::Banned(id) => {
                    self.keep_ban(id, true);
                    self.greet_again(now_ms);
                }
                Event::Unbanned(id) => self.keep_ban(id, false),
                Event::Platform(_) if self.engine.keys.is_unlocked() => {
                    if let Err(error) = self.engine.share_with_own(now_ms) {
                        tracing::warn!(%error, "this identity's other devices get no secrets");
                    }
                    new.extend(self.engine.take_events());
                }
                _ => {}
            }
            self.last_event += 1;
            self.events.push((self.last_event, event));
        }
        let over = self.events.len().saturating_sub(MAX_EVENTS);
        self.events.drain(..over);
        let written: Vec<_> = self.engine.take_written().into_iter().map(|m| (m, Vec::new())).collect();
        self.spread(&written);
        Ok(())
    }

    fn keep_ban(&mut self, id: &Id, banned: bool) {
        if let Err(error) = self.engine.keys.set_banned_from(id, banned) {
            tracing::error!(%error, "cannot remember a ban (BannedFrom)");
        }
    }

    #[must_use]
    pub fn last_event(&self) -> u64 {
        self.last_event
    }

    /// Events after a number, and the number of the last one.
    #[must_use]
    pub fn events_after(&self, n: u64) -> (u64, Vec<Event>) {
        let new = self.events.iter().filter(|(at, _)| *at > n).map(|(_, e)| e.clone());
        (self.last_event, new.collect())
    }

    /// Sends what a link asked for and is to be told of, as far as it reads it.
    fn serve(&mut self, to: LinkId) -> Result<()> {
        loop {
            let Some(link) = self.links.all.get_mut(&to) else { return Ok(()) };
            let (told, owed) = (link.take_told(), link.take_owed());
            if told.is_empty() && owed.is_empty() {
                return Ok(());
            }
            if !told.is_empty() {
                self.links.send(to, What::Have(to_wire(&told)));
            }
            let mut out = Vec::new();
            for id in owed {
                match self.engine.offer(&id)? {
                    Some(bytes) => out.push(bytes),
                    None => self.links.refuse(to, id, "it is not here"),
                }
            }
            self.links.send_messages(to, out);
        }
    }

    /// Compares what is to be compared, sends what was asked for, and asks for what may be asked for by now.
    fn advance(&mut self, now_ms: u64) -> Result<()> {
        self.fetching.stale |= std::mem::take(&mut self.engine.has_new_files);
        self.ask_for_pieces(now_ms)?;
        let busy: Vec<LinkId> = self.links.all.iter().filter(|(_, link)| link.has_work()).map(|(id, _)| *id).collect();
        for id in busy {
            while let Some(scope) = self.links.all.get_mut(&id).and_then(Link::next_scope) {
                let items = self.engine.items(&scope)?;
                let Some(link) = self.links.all.get_mut(&id) else { break };
                let begun = Comparison::new(scope, &items).and_then(|mut c| c.initiate().map(|step| (c, step)));
                match begun {
                    Ok((comparison, step)) => {
                        link.comparison = Some(comparison);
                        let (platform, from, to) = (scope.platform.0.to_vec(), scope.from.0, scope.to.0);
                        let first = wire::Sync { platform, acts: scope.acts, from, to, first: true, step };
                        self.links.send(id, What::Sync(first));
                    }
                    Err(error) => self.links.close(id, error.to_string()),
                }
            }
            self.serve(id)?;
            let Some(link) = self.links.all.get_mut(&id) else { continue };
            let ask = link.ask(now_ms, self.gate.is_some());
            if !ask.is_empty() {
                self.links.send(id, What::Want(to_wire(&ask)));
            }
        }
        Ok(())
    }
}
